# SPDX-License-Identifier: Apache-2.0
"""Picture or label map: decided by evidence, in one place for every format, and left open where the evidence does not
decide.

A label map that gets noise is somebody's ruined ground truth; an image that is taken for a label map goes out
unprotected. So there are three answers, and what is neither clearly the one nor clearly the other is refused until the
user says which (``--label-maps``, ``--pictures``). What the user says comes first, then what the file declares, then
the values: all of them, with the most frequent one, the background, left out. ``docs/kinds.md`` has a table of what the
rule says of real and of made files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io.evidence import WHOLE, Judgement, Kind, MeasuredGrid, weigh, weigh_flatness

__all__ = ["LABEL_MAP", "Judgement", "Kind", "UndecidedError", "judge", "whole_labels"]

NEXT_STEP = "say which with --pictures PATTERN (it is protected) or --label-maps PATTERN (it is copied as it is)"
LABEL_MAP = "label map"
"""Kind of a document that holds labels."""
KNOWN_BY = "known by: "
"""Begins the note of a label map with the evidence."""
NOT_LOOKED_AT = "it could not be read, so that images beside its labels may be in it"
MOST_READ = 65535
"""Highest label of a map that classes are taken from."""


def whole_labels(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Give labels as int64, those that went through floats rounded.

    Args:
        values: real values of any type.
        name: of the file, for the message.

    Raises:
        RefusedError: values that are no labels.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are refused
        whole = np.rint(values)
        fits = bool((np.abs(values - whole) <= WHOLE).all()) and values.min() >= -WHOLE and values.max() <= MOST_READ
    if not fits:
        raise RefusedError(
            f"label map {name} has values that are no labels: whole numbers from 0 to {MOST_READ} are supported"
        )
    labels: NDArray[np.int64] = whole.astype(np.int64)
    return labels


class UndecidedError(RefusedError):
    """It cannot be told whether a file is a picture or a label map.

    Args:
        judgement: what was found.
    """

    def __init__(self, judgement: Judgement) -> None:
        empty = "so there is nothing in it to protect; --label-maps PATTERN copies it as it is"
        unclear = f"so it cannot be told whether it is a picture or a label map; {NEXT_STEP}"
        super().__init__(f"{judgement.evidence}, {unclear if judgement.foreground else empty}")
        self.judgement = judgement


def judge(
    stored: NDArray[Any],
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    trailing: int = 0,
    color: bool = False,
    declared: Kind | None = None,
    by: str = "",
    flat_only: bool = False,
) -> Judgement:
    """Say whether values are a picture, a label map, or cannot be told apart.

    Args:
        stored: values of a 2D or 3D grid, any real type, with further axes behind it.
        slope, intercept: to real values, in which labels are whole numbers.
        trailing: how many axes are behind the grid; what lies along them is judged one by one and must agree.
        color: whether the last of those is a color, which is judged as one value.
        declared: what the file says that it is, which its values must not contradict.
        by: how the file says so.
        flat_only: whether only values that are flat matter to who asks, and of others how many there are.

    Example:
        >>> import numpy as np
        >>> from monai_salm.io import judge
        >>> labels = np.zeros((64, 64), dtype=np.uint8)
        >>> labels[16:40, 16:40] = 1
        >>> judge(labels).kind, judge(np.random.default_rng(0).integers(0, 4096, (64, 64))).kind
        ('label map', 'picture')
    """
    flat_only = flat_only and not trailing  # whether channels agree is known by a closer look alone
    found = _agreed(
        [
            judge_one(channel, slope, intercept, color=color, flat_only=flat_only)
            for channel in _channels(stored, trailing, color=color)
        ]
    )
    found = replace(found, shape=stored.shape)
    if declared is None:
        return found
    if declared == found.kind:
        return replace(found, declared=True)
    if declared == "label map" and not _are_whole(stored, slope, intercept):
        return Judgement(
            "cannot tell", f"{by} says label map, but not all values are whole numbers", found.foreground or 1
        )
    if declared == "label map" and found.kind == "picture":
        return Judgement("cannot tell", f"{by} says label map, but {found.evidence}", found.foreground)
    return Judgement(declared, by, found.foreground, found.values, declared=True)


def _are_whole(stored: NDArray[Any], slope: float, intercept: float) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are no whole numbers
        real = stored.astype(np.float64) * slope + intercept
        return bool(
            (np.abs(real - np.rint(real)) <= max(WHOLE, abs(slope) / 2 if abs(slope) < 100 * WHOLE else 0.0)).all()
        )


def _channels(stored: NDArray[Any], trailing: int, *, color: bool) -> Iterator[NDArray[Any]]:
    """Give the grids that lie along the trailing axes; colors as one number each, and gray ones as gray."""
    if color:
        channels = [stored[..., number] for number in range(stored.shape[-1])]
        if all(np.array_equal(channels[0], other) for other in channels[1:]):
            stored = channels[0]
        else:
            stored = channels[0].astype(np.int64)
            for number, channel in enumerate(channels[1:3], 1):
                for wide, values in zip(stored, channel, strict=True):  # row by row, so that there is one copy
                    wide |= values.astype(np.int64) << (16 * number)
        trailing -= 1
    for place in np.ndindex(stored.shape[stored.ndim - trailing :]):
        yield stored[(..., *place)]


def _agreed(found: list[Judgement]) -> Judgement:
    """Give what all channels are; channels of one value go with the others."""
    told = [one for one in found if one.foreground] or found[:1]
    foreground, values = sum(one.foreground for one in told), frozenset[float]().union(*(one.values for one in told))
    kinds = sorted({one.kind for one in told})
    if len(kinds) > 1:
        return Judgement("cannot tell", f"of its {len(told)} channels some are {' and some '.join(kinds)}", foreground)
    return Judgement(kinds[0], told[0].evidence, foreground, values, any(one.flat for one in told))


def judge_one(
    values: NDArray[Any], slope: float = 1.0, intercept: float = 0.0, *, color: bool = False, flat_only: bool = False
) -> Judgement:
    """Judge the values of one 2D or 3D grid; see :func:`judge`."""
    if values.dtype.kind not in "iufb":
        return Judgement("cannot tell", f"values of type {values.dtype}")
    found = weigh_flatness(values) if flat_only else None
    return found or weigh(MeasuredGrid(values, slope, intercept, ordered=not color or values.dtype.itemsize < 8))
