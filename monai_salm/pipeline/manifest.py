# SPDX-License-Identifier: Apache-2.0
"""Keeping the private record of a run: one JSON line a file, appended as each file is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_salm.disk import told_when_full, write_atomically
from monai_salm.pipeline.fates import FileFate, fate_line


class Manifest:
    """The manifest of a run.

    Args:
        path: of ``manifest.jsonl``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, fate: FileFate) -> None:
        """Add a line."""
        line = _line(fate)
        with told_when_full(self.path, len(line)), self.path.open("ab") as file:
            file.write(line)

    def rewrite(self, fates: Mapping[str, FileFate]) -> None:
        """Replace the file by one line for each path, in order of the paths."""
        write_atomically(self.path, b"".join(_line(fates[path]) for path in sorted(fates)), private=True)


def _line(fate: FileFate) -> bytes:
    return f"{fate_line(fate)}\n".encode("ascii")
