# SPDX-License-Identifier: Apache-2.0
"""What values are, and why: the answer of every look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["picture", "label map", "cannot tell"]


@dataclass(frozen=True)
class Judgement:
    """What an array of values is, and why.

    Args:
        kind: the answer.
        evidence: what it rests on, in words.
        foreground: how many values it rests on, those that are not the most frequent one.
        values: the distinct values where they are few, else nothing.
        flat: whether neighbors are mostly equal, as no picture of clinical depth is.
        shape: of the array.
        declared: whether the file says so itself.
    """

    kind: Kind
    evidence: str
    foreground: int = 0
    values: frozenset[float] = frozenset()
    flat: bool = False
    shape: tuple[int, ...] = ()
    declared: bool = False
