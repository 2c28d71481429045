# SPDX-License-Identifier: Apache-2.0
"""What the values of files may become, and whether they kept to it: one answer for the pipeline, for ``verify`` and for
the transforms.

The files of one volume share a window and a background, which are found from the values of all of them; each file then
has a canvas of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.anatomy import Background, border_values, find_window
from monai_salm.budget import Epsilon, FileBudget, IntensityWindow, PerturbationBudget
from monai_salm.canvas import Canvas
from monai_salm.io import MODALITIES, ImageHeader, Judgement, SourceImage, judge

SERIES_MODALITIES = ("CT", "MR", "PT", "NM")
"""Modalities whose series is one volume; a series of others is a collection of separate views."""

SAMPLED_VALUES = 2_000_000
"""Values of a series that its window and background are estimated from."""

LABELS_APART = 8
"""Labels are numbered about one after the other; the gray values of a test pattern lie farther apart on average."""


_ALLOWANCE = 1 + 1e-9
"""For the float product of stored steps and slope; the check in stored steps is exact."""


def volume_of(header: ImageHeader) -> str:
    """Give the Series Instance UID of a slice of a volume; empty for a picture that stands for itself."""
    return header.identifiers.get("SeriesInstanceUID", "") if header.modality in SERIES_MODALITIES else ""


def slice_order(header: ImageHeader, path: str) -> tuple[bool, float, int, str, str]:
    """Order by position, then by number, then by identity: never by path, which may change."""
    uid = header.identifiers.get("SOPInstanceUID", "")
    return (header.slice_position is None, header.slice_position or 0.0, header.instance_number or 0, uid, path)


def picture_modality(header: ImageHeader, given: str) -> str:
    """Give the modality of a picture; a code that is none says nothing. Color and raster pictures without one were
    meant for a screen ("OT").

    Args:
        header: of the picture.
        given: by the user, for pictures that do not say theirs; empty if unknown.
    """
    stated = header.modality if header.modality in MODALITIES else ""
    return stated or given or ("OT" if header.format == "raster" or header.trailing == (3,) else "")


def judgements(source: SourceImage) -> list[Judgement]:
    """Judge the values of a DICOM image, which is a picture by its class but may hold labels all the same, or of an
    image that no file is known of.

    Files of other formats were judged before. Colors are never labels in DICOM, and constant frames say nothing.
    """
    header = source.header
    if header.format not in ("dicom", "other") or header.trailing == (3,):
        return []
    return [
        judge(part.stored, slope=part.slope, intercept=part.intercept, trailing=len(header.trailing))
        for part in source.pictures()
    ]


def labels_among(judged: Sequence[Judgement], modality: str) -> Judgement | None:
    """Give the first judgement that says labels if most values of a volume are some; None if it is a picture.

    Args:
        judged: what :func:`judgements` gave for its files.
        modality: of the volume.
    """
    labels = [judgement for judgement in judged if _may_be_labels(judgement, modality)]
    most = 2 * sum(judgement.foreground for judgement in labels) > sum(judgement.foreground for judgement in judged)
    return labels[0] if most else None


def _may_be_labels(judgement: Judgement, modality: str) -> bool:
    """Say whether values of an image object may be those of a label map: flat, and numbered; or few, where there are no
    test patterns.
    """
    if not judgement.flat:
        return False
    numbered = bool(judgement.values) and max(judgement.values) <= LABELS_APART * (len(judgement.values) + 1)
    return numbered or (modality in SERIES_MODALITIES and (judgement.kind == "label map" or bool(judgement.values)))


@dataclass(frozen=True, kw_only=True)
class VolumeBudget:
    """What the files of one volume have in common.

    Args:
        modality: DICOM Modality code, or empty.
        epsilon: largest change.
        window: the intensity window that it refers to, real units.
        background: what surrounds the anatomy, its exact value in real units; None where the pictures show none.
    """

    modality: str
    epsilon: Epsilon
    window: IntensityWindow
    background: Background | None

    def canvas(self, source: SourceImage) -> Canvas:
        """Bind the budget to the values of one file, picture by picture where these are rescaled differently.

        Raises:
            RefusedError: the file, or one of its pictures, cannot carry the noise.
        """
        header, background = source.header, self.background
        budget = PerturbationBudget(self.epsilon, self.window)
        bound = []
        for part in source.pictures() if source.frame_rescale else [source]:
            exact = None
            if background is not None and background.exact_stored is not None:
                exact = round((background.exact_stored - part.intercept) / part.slope, 9)
            bound.append(
                budget.bind(
                    part.stored,
                    modality=self.modality,
                    slope=part.slope,
                    intercept=part.intercept,
                    padding_stored=part.padding_stored,
                    background_real=background.center_real if background else None,
                    background_spread_real=background.spread_real if background else 0.0,
                    background_stored=exact,
                    may_be_constant=bool(source.frame_rescale),
                )
            )
        return Canvas(
            budgets=tuple(bound),
            spacing=header.spacing,
            trailing=len(header.trailing),
            stacked=header.stacked,
            regions=header.regions,
        )

    @classmethod
    def of_canvas(cls, canvas: Canvas, epsilon: Epsilon) -> VolumeBudget:
        """Give back what a file's canvas was bound from."""
        first = canvas.budgets[0]
        background = None
        if first.background_real is not None:
            exact = None if first.background_stored is None else first.background_stored * first.slope + first.intercept
            background = Background(first.background_real, first.background_spread_real, exact)
        return cls(modality=first.modality, epsilon=epsilon, window=first.window, background=background)

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back, without the epsilon."""
        background = self.background
        return {
            "modality": self.modality,
            "window": [self.window.low, self.window.high],
            "background": None
            if background is None
            else [background.center_real, background.spread_real, background.exact_stored],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], epsilon: Epsilon) -> VolumeBudget:
        """Read what :meth:`to_json` gave."""
        background = None if record["background"] is None else Background(*record["background"])
        return cls(
            modality=record["modality"],
            epsilon=epsilon,
            window=IntensityWindow(*record["window"]),
            background=background,
        )


class VolumeValues:
    """Samples of the values of a volume's files, from which its window and its background are found.

    Args:
        files: how many files it has.
    """

    def __init__(self, files: int) -> None:
        self._share = max(1000, SAMPLED_VALUES // files)
        self._values: list[NDArray[np.float64]] = []
        self._borders: list[NDArray[np.float64]] = []
        self._voi: tuple[float, float] | None = None
        self._full_scale: tuple[float, float] | None = None

    def add(self, source: SourceImage) -> None:
        """Take samples of one file, in the order of the files."""
        pictures = source.pictures()
        some = max(100, self._share // len(pictures))
        for picture in pictures:
            self._values.append(_sampled(picture, picture.stored, some))
            self._borders.append(_sampled(picture, border_values(picture.stored), some))
        self._voi = self._voi or source.header.window_real
        if tuple(source.range_stored) == (0.0, 255.0):
            ends = [end * source.slope + source.intercept for end in source.range_stored]
            self._full_scale = (min(ends), max(ends))

    def budget(self, modality: str, epsilon: Epsilon, window: IntensityWindow | None = None) -> VolumeBudget:
        """Find the window, unless one is given, and the background.

        Raises:
            RefusedError: the values leave no window.
        """
        found, background = find_window(
            modality,
            np.concatenate(self._values),
            np.concatenate(self._borders),
            voi_real=self._voi,
            full_scale_real=self._full_scale,
            window=window,
        )
        return VolumeBudget(modality=modality, epsilon=epsilon, window=found, background=background)


def _sampled(picture: SourceImage, stored: NDArray[Any], wanted: int) -> NDArray[np.float64]:
    """Give about ``wanted`` real values of a picture, without padding."""
    if picture.padding_stored is not None:
        stored = stored[(stored < picture.padding_stored[0]) | (stored > picture.padding_stored[1])]
    return _every(stored, wanted).astype(np.float64) * picture.slope + picture.intercept


def _every(values: NDArray[Any], wanted: int) -> NDArray[Any]:
    """Take about ``wanted`` of the values, evenly."""
    return values.ravel()[:: max(1, values.size // wanted)]


@dataclass(frozen=True)
class Change:
    """What two versions of one picture's stored values differ by.

    Args:
        max_stored: largest change, stored units.
        max_real: the same, real units.
        changed: places of the anatomy that changed.
        anatomy: places of the anatomy.
        outside: values that changed outside the anatomy.
        mean_square: mean squared change of all values, in model values.
        values: how many values the picture has.
    """

    max_stored: float
    max_real: float
    changed: int
    anatomy: int
    outside: int
    mean_square: float
    values: int

    @property
    def changed_fraction(self) -> float:
        """Share of the anatomy's places that changed."""
        return self.changed / max(1, self.anatomy)

    @property
    def psnr(self) -> float:
        """In model values, dB; infinite if nothing changed."""
        return -10 * math.log10(self.mean_square) if self.mean_square > 0 else math.inf


def measure_changes(
    before: NDArray[Any], after: NDArray[Any], canvas: Canvas, anatomy: NDArray[np.bool_]
) -> list[Change]:
    """Measure the change of each picture of a file; NaN that stays NaN is no change.

    Args:
        before, after: stored values of the same shape.
        canvas: gives slopes and windows.
        anatomy: bool, on the grid.
    """
    pairs = zip(canvas.pictures(before), canvas.pictures(after), canvas.pictures(anatomy), strict=True)
    return [_measure_change(old, new, budget, inside) for (old, budget), (new, _), (inside, _) in pairs]


def whole_change(changes: Sequence[Change]) -> Change:
    """Give the change of a file from those of its pictures."""
    values = sum(change.values for change in changes)
    return Change(
        max_stored=max(change.max_stored for change in changes),
        max_real=max(change.max_real for change in changes),
        changed=sum(change.changed for change in changes),
        anatomy=sum(change.anatomy for change in changes),
        outside=sum(change.outside for change in changes),
        mean_square=sum(change.mean_square * change.values for change in changes) / max(1, values),
        values=values,
    )


def _measure_change(
    before: NDArray[Any], after: NDArray[Any], budget: FileBudget, anatomy: NDArray[np.bool_]
) -> Change:
    same = before == after
    if before.dtype.kind == "f":
        same |= np.isnan(before) & np.isnan(after)
    with np.errstate(invalid="ignore"):  # an infinity that stays is no change
        difference = np.where(same, 0.0, after.astype(np.float64) - before.astype(np.float64))
    places = (~same).any(axis=tuple(range(anatomy.ndim, same.ndim)))
    largest = float(np.abs(difference).max(initial=0.0))
    return Change(
        max_stored=largest,
        max_real=largest * abs(budget.slope),
        changed=int((places & anatomy).sum()),
        anatomy=int(anatomy.sum()),
        outside=int((places & ~anatomy).sum()),
        mean_square=float(np.mean((difference * budget.slope / budget.window.width) ** 2)),
        values=before.size,
    )


def broken_bound(changes: Sequence[Change], canvas: Canvas) -> str:
    """Say which bound the pictures of a file break first, with the figure and the limit; empty if none."""
    for number, change in enumerate(changes):
        problem = _broken_bound(change, canvas.budgets[number if len(canvas.budgets) > 1 else 0])
        if problem:
            return problem if len(changes) == 1 else f"picture {number + 1}: {problem}"
    return ""


def _broken_bound(change: Change, budget: FileBudget) -> str:
    if change.max_stored > budget.epsilon_stored:
        return f"the largest change is {change.max_stored:g} stored units, the limit {budget.epsilon_stored:g}"
    if change.max_real > budget.epsilon_real * _ALLOWANCE:
        return f"the largest change is {change.max_real:g} real units, the limit {budget.epsilon_real:g}"
    if change.outside:
        return f"{change.outside} voxels changed outside the anatomy, the limit is none"
    lowest = -20 * math.log10(budget.epsilon_real / budget.window.width)
    if change.psnr < lowest - 1e-6:
        return f"PSNR is {change.psnr:.2f} dB, the limit {lowest:.2f} dB"
    return ""
