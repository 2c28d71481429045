# SPDX-License-Identifier: Apache-2.0
"""Label maps that lie inside a DICOM export as SEG objects (PS3.3 A.51), read with highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError, how_to_install

FOREGROUND = 0.5
"""Fraction of a fractional segmentation, probability or occupancy, from which a pixel belongs to the segment."""

_NEXT = "give the label maps in a folder of their own"


@dataclass(frozen=True)
class Segmentation:
    """Labels of the instances that a SEG object segments.

    Args:
        planes: SOP Instance UID of a source image -> its labels, 0 for background: (rows, columns) on the source's own
            grid, or (frames, rows, columns) of a multi-frame source up to the last frame that the object refers to,
            where that is not the first. Images of a segmented series without any segment have a plane of zeros.
        segments: label value, the segment number -> the segment's label.
    """

    planes: Mapping[str, NDArray[np.uint16]]
    segments: Mapping[int, str]


def read_segmentation(path: Path) -> Segmentation:
    """Read the labels of a SEG object for each image that it segments; its pixels must lie on those of the images.

    Args:
        path: a binary, fractional or labelmap segmentation.

    Raises:
        RefusedError: highdicom is not installed or cannot read the file, segments overlap, or the file does not say of
            which image a frame is the mask.
    """
    try:
        from highdicom.seg import segread  # slow to load, and seldom needed
    except ImportError as error:
        raise RefusedError(
            f"SEG objects are read with highdicom, which is not installed; {how_to_install('highdicom')}"
        ) from error
    content = path.read_bytes()
    if content[128:132] != b"DICM":
        raise RefusedError(f"{path.name} is no DICOM file with a preamble, which a SEG object must be; {_NEXT}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the object breaks of the standard without harm to its labels
            return _read(segread(BytesIO(content)))
    except RefusedError:
        raise
    except (
        Exception
    ) as error:  # pydicom, and the database that highdicom keeps of the frames, have errors of no common class
        raise RefusedError(
            f"highdicom cannot read it as a SEG object ({' '.join(str(error).split())[:200]}); {_NEXT}"
        ) from error


def _read(seg: Any) -> Segmentation:
    series_of = {str(instance): str(series) for _, series, instance in seg.get_source_image_uids()}
    frames: dict[str, set[int | None]] = {}
    for number, group in enumerate(seg.get("PerFrameFunctionalGroupsSequence") or [{}], start=1):
        for uid, frame in _sources(group, number, series_of):
            frames.setdefault(uid, set()).add(frame)
    segments = {
        int(number): str(seg.get_segment_description(number).segment_label)
        for number in seg.segment_numbers
        if number != 0
    }
    if all(
        numbers <= {None, 1} for numbers in frames.values()
    ):  # some writers give the only frame of an image its number
        segmented = {series_of[uid] for uid in frames}
        wanted = [uid for uid, series in series_of.items() if series in segmented]
        return Segmentation(
            {uid: _plane(seg, partial(seg.get_pixels_by_source_instance, [uid]), segments, uid) for uid in wanted},
            segments,
        )
    if len(frames) > 1:
        raise RefusedError(f"its frames are the masks of frames of {len(frames)} images, 1 is read; {_NEXT}")
    ((uid, known),) = frames.items()
    every = range(1, max(number or 0 for number in known) + 1)
    stack = [
        _plane(seg, partial(seg.get_pixels_by_source_frame, uid, [number]), segments, f"{uid}, frame {number}")
        for number in every
    ]
    return Segmentation({uid: np.stack(stack)}, segments)


def _sources(group: Any, number: int, series_of: Mapping[str, str]) -> list[tuple[str, int | None]]:
    """Give each image, with the frame of it, that a frame is the mask of: at most one of a series."""
    items = [
        item
        for derivation in group.get("DerivationImageSequence") or []
        for item in derivation.get("SourceImageSequence") or []
    ]
    if not items:
        raise RefusedError(
            f"its frame {number} names no image that it is the mask of (no SourceImageSequence in its "
            f"DerivationImageSequence); {_NEXT}"
        )
    preserved = [item for item in items if item.get("SpatialLocationsPreserved") == "YES"]
    if not preserved:
        why = f"SpatialLocationsPreserved is {items[0].get('SpatialLocationsPreserved') or 'absent'}, not YES"
        raise RefusedError(
            f"its frame {number} does not say that its pixels lie on those of its image ({why}); {_NEXT}"
        )
    found = list(
        dict.fromkeys((str(item.ReferencedSOPInstanceUID), item.get("ReferencedFrameNumber")) for item in preserved)
    )
    unlisted = [uid for uid, _ in found if uid not in series_of]
    if unlisted:
        raise RefusedError(
            f"its frame {number} is the mask of {unlisted[0]!r}, which its ReferencedSeriesSequence does not "
            f"list; {_NEXT}"
        )
    if len({series_of[uid] for uid, _ in found}) < len(found):
        raise RefusedError(
            f"its frame {number} is the mask of {len(found)} images, where each series may have 1; {_NEXT}"
        )
    return found


def _plane(
    seg: Any, pixels: Callable[..., NDArray[Any]], segments: Mapping[int, str], place: str
) -> NDArray[np.uint16]:
    """Combine the segments of one image."""
    if seg.segmentation_type.value == "LABELMAP":
        labels: NDArray[np.uint16] = pixels(combine_segments=True, dtype=np.uint16)[0]
        labels[labels == seg.get("PixelPaddingValue", 0)] = 0
        return labels
    masks = pixels()[0] >= FOREGROUND
    several = masks[masks.sum(axis=-1) > 1]
    if len(several):
        names = " and ".join(repr(name) for name, there in zip(segments.values(), several[0], strict=True) if there)
        raise RefusedError(
            f"its segments {names} overlap in {len(several)} pixels of {place}; a label map holds 1 label a "
            f"pixel: {_NEXT}"
        )
    return np.asarray(masks @ np.array(list(segments), dtype=np.uint16))
