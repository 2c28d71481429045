# SPDX-License-Identifier: Apache-2.0
"""What a file says of its frames: rescaling and spacing in functional groups, tiles of a mosaic, regions of an
ultrasound image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import Element, Item
from monai_salm.io.dicom.files import DicomFile, ascii_values, find, floats
from monai_salm.io.dicom.wording import shown

Rescale = tuple[float, float]
"""Slope and intercept: real = slope * stored + intercept."""

_CSA_COUNT = re.compile(rb"NumberOfImagesInMosaic\0.{61}.{16}\s*(\d+)", re.DOTALL)
"""Name (64 bytes), five numbers and the four of the first item come before its text in a Siemens CSA header."""


def frame_rescales(file: DicomFile, frames: int) -> list[Rescale]:
    """Give the rescaling of each frame: its own, the shared one, or that of the dataset (PS3.3 C.7.6.16.2.9, C.11.1.1).

    Raises:
        RefusedError: a slope or intercept is no usable number, or there are functional groups for another number of
            frames.
    """
    general = _rescale(file.elements) or (1.0, 0.0)
    shared, groups = functional_groups(file)
    common = _transformation(shared) or general
    if not groups:
        return [common] * frames
    if len(groups) != frames:
        raise RefusedError(
            f"PerFrameFunctionalGroupsSequence has {len(groups)} items for {frames} frames; repair the file first"
        )
    return [_transformation(group) or common for group in groups]


def functional_groups(file: DicomFile) -> tuple[list[Element], list[list[Element]]]:
    """Give the shared functional groups and those of each frame; both empty where the image has none."""
    shared = next(iter(_items(file.find(tags.SHARED_FUNCTIONAL_GROUPS))), None)
    return (
        shared.elements() if shared else [],
        [item.elements() for item in _items(file.find(tags.PER_FRAME_FUNCTIONAL_GROUPS))],
    )


def spacing(file: DicomFile) -> tuple[tuple[float, float, float], bool]:
    """Give millimeters between frames, rows and columns, 1.0 where unknown; and whether the latter two are known.

    Of PixelSpacing, else ImagerPixelSpacing (PS3.3 10.7.1.3), in the dataset or in PixelMeasuresSequence.
    """
    shared, groups = functional_groups(file)
    measures = [
        inner
        for group in (shared, *groups[:1])
        for item in _items(find(group, tags.PIXEL_MEASURES))
        for inner in item.elements()
    ]
    between = plane = None
    for elements in (file.elements, measures):
        for tag in (tags.PIXEL_SPACING, tags.IMAGER_PIXEL_SPACING):
            plane = plane or _positive(find(elements, tag), 2)
        for tag in (tags.SPACING_BETWEEN_SLICES, tags.SLICE_THICKNESS):
            between = between or _positive(find(elements, tag), 1)
    steps = (*(between or (1.0,)), *(plane or (1.0, 1.0)))
    return steps, plane is not None  # type: ignore[return-value]  # lengths are checked above


def mosaic_tiles(file: DicomFile, rows: int, columns: int) -> tuple[int, int]:
    """Give the grid of a Siemens mosaic, which holds the slices of a volume side by side in one frame; (1, 1) for any
    other image.
    """
    if "MOSAIC" not in file.texts(tags.IMAGE_TYPE):
        return (1, 1)
    count = _images_in_mosaic(file)
    side = math.ceil(math.sqrt(count))
    fits = side > 1 and rows % side == 0 and columns % side == 0
    return (side, side) if fits else (1, 1)


def _images_in_mosaic(file: DicomFile) -> int:
    for element in file.elements:
        if (
            element.tag >> 16 == 0x0019
            and element.tag & 0xFF == 0x0A
            and _creator(file, element.tag) == "SIEMENS MR HEADER"
            and element.size == 2
        ):
            return int.from_bytes(element.value, "little" if element.encoding.little else "big")
        if (
            element.tag >> 16 == 0x0029
            and element.tag & 0xFF == 0x10
            and _creator(file, element.tag) == "SIEMENS CSA HEADER"
        ):
            found = _CSA_COUNT.search(bytes(element.value))
            if found is not None:
                return int(found[1])
    return 1


def _creator(file: DicomFile, tag: int) -> str:
    """Name who a private element belongs to (PS3.5 7.8.1)."""
    return file.text(tag & 0xFFFF0000 | (tag >> 8 & 0xFF))


def ultrasound_regions(file: DicomFile, rows: int, columns: int) -> tuple[tuple[int, int, int, int], ...]:
    """Give the parts of a frame that hold ultrasound, from SequenceOfUltrasoundRegions (PS3.3 C.8.5.5); around them is
    text.
    """
    regions = []
    for item in _items(file.find(tags.ULTRASOUND_REGIONS)):
        elements = item.elements()
        places = [_number(find(elements, tag)) for tag in tags.REGION_LOCATION]
        if None in places:
            continue
        left, top, right, bottom = (place or 0 for place in places)
        region = (min(top, rows), min(bottom + 1, rows), min(left, columns), min(right + 1, columns))
        if region[0] < region[1] and region[2] < region[3]:
            regions.append(region)
    return tuple(regions)


def _items(element: Element | None) -> Iterator[Item]:
    yield from (element.items() or []) if element is not None else []


def _transformation(group: list[Element]) -> Rescale | None:
    """Give the rescaling of a functional group (PixelValueTransformationSequence)."""
    for item in _items(find(group, tags.PIXEL_VALUE_TRANSFORMATION)):
        return _rescale(item.elements())
    return None


def _rescale(elements: list[Element]) -> Rescale | None:
    """Give RescaleSlope and RescaleIntercept (PS3.3 C.11.1.1); None if both are absent, 1 and 0 where one is."""
    texts = [ascii_values(find(elements, tag)) for tag in (tags.RESCALE_SLOPE, tags.RESCALE_INTERCEPT)]
    if not any(texts):
        return None
    slope, intercept = (
        floats(values)[0] if len(values) == 1 else default if not values else float("nan")
        for values, default in zip(texts, (1.0, 0.0), strict=True)
    )
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        found = [shown("\\".join(values)) or "absent" for values in texts]
        raise RefusedError(
            f"RescaleSlope is {found[0]}, RescaleIntercept {found[1]}; the slope must be one finite number other "
            "than 0, the intercept a finite one"
        )
    return slope, intercept


def _positive(element: Element | None, count: int) -> tuple[float, ...] | None:
    numbers = floats(ascii_values(element))
    return tuple(numbers) if len(numbers) == count and np.isfinite(numbers).all() and min(numbers) > 0 else None


def _number(element: Element | None) -> int | None:
    """Give the value of a US or UL."""
    if element is None or element.size not in (2, 4):
        return None
    return int.from_bytes(element.value, "little" if element.encoding.little else "big")
