# SPDX-License-Identifier: Apache-2.0
"""What an archive and its users talk about."""

from __future__ import annotations

from dataclasses import dataclass

from monai_salm.errors import SalmError

WAITS = (0.5, 4.0, 12.0)
"""Seconds before each further try where a connection fails."""


class LostError(SalmError):
    """An archive cannot be reached, or went away."""


@dataclass(frozen=True)
class Instance:
    """A file of an archive, by its UIDs."""

    study: str
    series: str
    sop: str
