# SPDX-License-Identifier: Apache-2.0
"""Volumes: which files are one, and the window and the background that these share, found from the values of all; one
answer for the pipeline, for ``verify`` and for the transforms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.background import Background, border_values, find_window
from monai_salm.budget import Epsilon, FileBudget
from monai_salm.canvas import Canvas
from monai_salm.io import MODALITIES, ImageHeader, Judgement, SourceImage, judge
from monai_salm.views import FileView, PictureView
from monai_salm.windows import IntensityWindow

SERIES_MODALITIES = ("CT", "MR", "PT", "NM")
"""Modalities whose series is one volume; a series of others is a collection of separate views."""

SAMPLED_VALUES = 2_000_000
"""Values of a series that its window and background are estimated from."""

WIDEST = Epsilon(1.0)
"""No budget is wider than the window: what cannot carry noise within it can carry none."""

LABELS_APART = 8
"""Labels are numbered about one after the other; the gray values of a test pattern lie farther apart on average."""


def volume_of(header: ImageHeader) -> str:
    """Give the Series Instance UID of a slice of a volume; empty for an image that stands for itself."""
    return header.identifiers.get("SeriesInstanceUID", "") if header.modality in SERIES_MODALITIES else ""


def slice_order(header: ImageHeader, path: str) -> tuple[bool, float, int, str, str]:
    """Order by position, then by number, then by identity: never by path, which may change."""
    uid = header.identifiers.get("SOPInstanceUID", "")
    return (header.slice_position is None, header.slice_position or 0.0, header.instance_number or 0, uid, path)


def picture_modality(header: ImageHeader, given: str) -> str:
    """Give the modality of an image; a code that is none says nothing. Color and raster images without one were
    meant for a screen ("OT").

    Args:
        header: of the image.
        given: by the user, for images that do not say theirs; empty if unknown.
    """
    stated = header.modality if header.modality in MODALITIES else ""
    return stated or given or ("OT" if header.format == "raster" or header.trailing == (3,) else "")


def judgements(source: SourceImage) -> list[Judgement]:
    """Judge the values of a DICOM object, which is an image by its class but may hold labels all the same, or of an
    image that no file is known of.

    Files of other formats were judged before. Colors are never labels in DICOM, and constant frames say nothing.
    """
    header = source.header
    if header.format not in ("dicom", "other") or header.trailing == (3,):
        return []
    return [
        judge(
            part.stored, slope=part.slope, intercept=part.intercept, trailing=len(header.trailing), flat_only=True
        )  # which is all that labels_among looks at
        for part in source.pictures()
    ]


def labels_among(judged: Sequence[Judgement], modality: str) -> Judgement | None:
    """Give the first judgement that says labels if most values of a volume are some; None if it is an image.

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


@dataclass(frozen=True)
class VolumeView:
    """What the files of one volume have in common.

    Args:
        modality: DICOM Modality code, or empty.
        window: the intensity window, real units.
        background: what surrounds the anatomy, its exact value in real units; None where the images show none.
    """

    modality: str
    window: IntensityWindow
    background: Background | None

    def view(self, source: SourceImage) -> FileView:
        """Give what one file shows, frame by frame where these are rescaled differently.

        Raises:
            RefusedError: the file, or one of its frames, could carry no noise however large the epsilon.
        """
        self.canvas(source, WIDEST)  # refuses what it cannot be bound to
        return FileView(views=tuple(view for _, view in self._parts(source)), **_layout(source.header))

    def canvas(self, source: SourceImage, epsilon: Epsilon) -> Canvas:
        """Give what one file may become within a budget.

        Raises:
            RefusedError: the file, or one of its frames, cannot carry the noise.
        """
        budgets = [
            FileBudget.of_view(view, epsilon.real(self.window), part.stored, may_be_constant=bool(source.frame_rescale))
            for part, view in self._parts(source)
        ]
        return Canvas(views=tuple(budgets), **_layout(source.header))

    def _parts(self, source: SourceImage) -> Iterator[tuple[SourceImage, PictureView]]:
        """Give the parts of a file that are rescaled differently, each with its view."""
        for part in source.pictures() if source.frame_rescale else [source]:
            background = self.background
            if background is not None and background.exact_stored is not None:
                exact = round((background.exact_stored - part.intercept) / part.slope, 9)
                background = replace(background, exact_stored=exact)
            yield (
                part,
                PictureView(
                    modality=self.modality,
                    window=self.window,
                    slope=part.slope,
                    intercept=part.intercept,
                    padding_stored=part.padding_stored,
                    background=background,
                ),
            )

    @classmethod
    def of_file(cls, view: FileView) -> VolumeView:
        """Give back what the view of a file was made from."""
        first = view.views[0]
        background = first.background
        if background is not None and background.exact_stored is not None:
            background = replace(background, exact_stored=background.exact_stored * first.slope + first.intercept)
        return cls(first.modality, first.window, background)

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back."""
        background = self.background
        return {
            "modality": self.modality,
            "window": [self.window.low, self.window.high],
            "background": None
            if background is None
            else [background.center_real, background.spread_real, background.exact_stored],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> VolumeView:
        """Read what :meth:`to_json` gave."""
        background = None if record["background"] is None else Background(*record["background"])
        return cls(record["modality"], IntensityWindow(*record["window"]), background)


def _layout(header: ImageHeader) -> dict[str, Any]:
    return {
        "spacing": header.spacing,
        "trailing": len(header.trailing),
        "color": header.color and len(header.trailing) == 1,
        "stacked": header.stacked,
        "regions": header.regions,
    }


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

    def view(self, modality: str, window: IntensityWindow | None = None) -> VolumeView:
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
        return VolumeView(modality, found, background)


def _sampled(picture: SourceImage, stored: NDArray[Any], wanted: int) -> NDArray[np.float64]:
    """Give about ``wanted`` real values of an image, without padding."""
    if picture.padding_stored is not None:
        stored = stored[(stored < picture.padding_stored[0]) | (stored > picture.padding_stored[1])]
    return _every(stored, wanted).astype(np.float64) * picture.slope + picture.intercept


def _every(values: NDArray[Any], wanted: int) -> NDArray[Any]:
    """Take about ``wanted`` of the values, evenly."""
    return values.ravel()[:: max(1, values.size // wanted)]
