# SPDX-License-Identifier: Apache-2.0
"""What the fuzzer damages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Seed:
    """An input that is whole.

    Args:
        name: what it is, for the report.
        files: content by name.
        source: name of the file or folder that the run is given; empty for the folder of all files.
        wrap: how the bytes are packed: ``gz``, ``deflated`` (DICOM), ``zip``, or not at all.
        table: name of the file that is given as labels; empty for a run that needs none.
        holds: path in the input -> ``picture`` or ``label map``, of files of which it is known.
    """

    name: str
    files: dict[str, bytes]
    source: str = ""
    wrap: str = ""
    table: str = ""
    holds: Mapping[str, str] = field(default_factory=dict)
