# SPDX-License-Identifier: Apache-2.0
"""Labels of SEG objects, made with highdicom from masks that are known."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from monai_salm.errors import RefusedError
from monai_salm.io.segmentations import read_segmentation
from tests.io.builders import SOP_UID, dicom_dataset, reference, write_dicom

SHAPE = (6, 8)
SLICES = 4
UIDS = [f"{SOP_UID}.{number}" for number in range(1, SLICES + 1)]


@pytest.fixture
def slices(tmp_path: Path) -> list[Dataset]:
    """CT slices, one of which no test segments."""
    found = []
    for number, uid in enumerate(UIDS):
        extra = {
            "SOPInstanceUID": uid,
            "ImagePositionPatient": [-10, -20, 2.0 * number],
            "InstanceNumber": number + 1,
            "SliceThickness": 2.0,
        }
        names = {
            "PatientBirthDate": "",
            "PatientSex": "",
            "StudyID": "",
            "StudyTime": "",
            "ReferringPhysicianName": "",
            "PositionReferenceIndicator": "",
        }
        path = write_dicom(
            tmp_path / f"{number}.dcm", dicom_dataset(shape=SHAPE, extra=extra | names), np.zeros(SHAPE, np.int64)
        )
        found.append(pydicom.dcmread(path))
    return found


@pytest.fixture
def masks() -> NDArray[np.uint8]:
    """A liver with a tumor beside it, (slices, rows, columns, segments); the third slice is empty."""
    liver_tumor = np.zeros((SLICES, *SHAPE, 2), np.uint8)
    liver_tumor[:2, 1:4, 2:7, 0] = 1
    liver_tumor[1, 4, 3, 1] = 1
    liver_tumor[3, 5, 7, 1] = 1
    return liver_tumor


def labels_of(masks: NDArray[np.uint8], numbers: tuple[int, int] = (1, 2)) -> NDArray[np.uint16]:
    return np.where(masks[..., 1] > 0, numbers[1], np.where(masks[..., 0] > 0, numbers[0], 0)).astype(np.uint16)


def write_seg(
    path: Path,
    slices: list[Dataset],
    pixels: NDArray[Any],
    kind: str = "BINARY",
    *,
    numbers: tuple[int, int] = (1, 2),
    edit: Callable[[Dataset], object] | None = None,
    **options: Any,
) -> Path:
    """Write a SEG object of two segments; ``edit`` changes it before."""
    seg = pytest.importorskip("highdicom").seg
    tissue, organ = (
        pydicom.sr.coding.Code(*code) for code in (("85756007", "SCT", "Tissue"), ("10200004", "SCT", "Liver"))
    )
    described = [
        seg.SegmentDescription(n, label, tissue, organ, "MANUAL")
        for n, label in zip(numbers, ("liver", "tumor"), strict=True)
    ]
    made = seg.Segmentation(
        slices, pixels, kind, described, f"{SOP_UID}.8", 100, f"{SOP_UID}.9", 1, "maker", "model", "1", "0", **options
    )  # fmt: skip
    if edit is not None:
        edit(made)
    made.save_as(path)
    return path


def frame_sources(made: Dataset) -> list[Dataset]:
    """Give for each frame the item that names the image that it is the mask of, where highdicom lets several frames
    share one.
    """
    for frame in made.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence = deepcopy(frame.DerivationImageSequence)
    return [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in made.PerFrameFunctionalGroupsSequence]


@pytest.mark.slow
def test_binary_segments_of_a_series_with_an_empty_slice(
    tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]
) -> None:
    found = read_segmentation(write_seg(tmp_path / "seg.dcm", slices, masks))
    assert found.segments == {1: "liver", 2: "tumor"}
    assert list(found.planes) == UIDS
    np.testing.assert_array_equal(np.stack([found.planes[uid] for uid in UIDS]), labels_of(masks))
    assert not found.planes[UIDS[2]].any()
    assert {plane.dtype for plane in found.planes.values()} == {np.dtype(np.uint16)}


def test_order_of_the_sources_changes_nothing(tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]) -> None:
    found = read_segmentation(write_seg(tmp_path / "seg.dcm", slices[::-1], masks[::-1]))
    np.testing.assert_array_equal(np.stack([found.planes[uid] for uid in UIDS]), labels_of(masks))


def test_fractional_segments_start_at_a_half(tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]) -> None:
    fractions = np.where(masks > 0, 0.5, 0.49).astype(np.float32)
    found = read_segmentation(
        write_seg(tmp_path / "seg.dcm", slices, fractions, "FRACTIONAL", max_fractional_value=100)
    )
    np.testing.assert_array_equal(np.stack([found.planes[uid] for uid in UIDS]), labels_of(masks))


@pytest.mark.parametrize("numbers", [(1, 2), (7, 300)], ids=["8 bits", "16 bits"])
def test_label_map(tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8], numbers: tuple[int, int]) -> None:
    labels = labels_of(masks, numbers)
    found = read_segmentation(write_seg(tmp_path / "seg.dcm", slices, labels, "LABELMAP", numbers=numbers))
    assert found.segments == {numbers[0]: "liver", numbers[1]: "tumor"}
    np.testing.assert_array_equal(np.stack([found.planes[uid] for uid in UIDS]), labels)


def test_background_other_than_zero_becomes_zero(
    tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]
) -> None:
    def fill(made: Dataset) -> None:
        made.PixelPaddingValue = 9
        made.PixelData = made.PixelData.replace(b"\0", b"\x09")

    found = read_segmentation(write_seg(tmp_path / "seg.dcm", slices, labels_of(masks), "LABELMAP", edit=fill))
    np.testing.assert_array_equal(np.stack([found.planes[uid] for uid in UIDS]), labels_of(masks))


def test_series_that_is_listed_but_not_segmented_has_no_planes(
    tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]
) -> None:
    def list_another(made: Dataset) -> None:
        other = Dataset()
        other.SeriesInstanceUID = f"{SOP_UID}.70"
        other.ReferencedInstanceSequence = reference(f"{SOP_UID}.71")
        made.ReferencedSeriesSequence.append(other)

    assert list(read_segmentation(write_seg(tmp_path / "seg.dcm", slices, masks, edit=list_another)).planes) == UIDS


def test_frames_of_one_multi_frame_image(tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]) -> None:
    def join(made: Dataset) -> None:
        for item in frame_sources(made):
            item.ReferencedFrameNumber = UIDS.index(item.ReferencedSOPInstanceUID) + 1
            item.ReferencedSOPInstanceUID = UIDS[0]

    found = read_segmentation(write_seg(tmp_path / "seg.dcm", slices, masks, edit=join))
    assert list(found.planes) == [UIDS[0]]
    np.testing.assert_array_equal(found.planes[UIDS[0]], labels_of(masks))


def test_number_of_the_only_frame_of_an_image_changes_nothing(
    tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]
) -> None:
    def number(made: Dataset) -> None:
        for item in frame_sources(made):
            item.ReferencedFrameNumber = 1

    found = read_segmentation(write_seg(tmp_path / "seg.dcm", slices, masks, edit=number))
    np.testing.assert_array_equal(np.stack([found.planes[uid] for uid in UIDS]), labels_of(masks))


def test_overlapping_segments_are_refused(tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]) -> None:
    masks[0, 1, 2:4, 1] = 1
    path = write_seg(tmp_path / "seg.dcm", slices, masks)
    with pytest.raises(
        RefusedError,
        match=f"^its segments 'liver' and 'tumor' overlap in 2 pixels of {UIDS[0]}; a label map holds 1 label a pixel",
    ):
        read_segmentation(path)


def _unnamed(made: Dataset) -> None:
    del made.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence


def _moved(made: Dataset) -> None:
    frame_sources(made)[1].SpatialLocationsPreserved = "NO"


def _unsure(made: Dataset) -> None:
    del frame_sources(made)[1].SpatialLocationsPreserved


def _of_all(made: Dataset) -> None:
    items = frame_sources(made)
    for frame in made.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence[0].SourceImageSequence = Sequence(items)


def _of_frames(made: Dataset) -> None:
    frame_sources(made)[1].ReferencedFrameNumber = [1, 2]


def _of_two_stacks(made: Dataset) -> None:
    for item in frame_sources(made):
        item.ReferencedFrameNumber = 2


def _unlisted(made: Dataset) -> None:
    frame_sources(made)[1].ReferencedSOPInstanceUID = f"{SOP_UID}.77"


def _twice(made: Dataset) -> None:
    first, second, *_ = frame_sources(made)
    second.ReferencedSOPInstanceUID = first.ReferencedSOPInstanceUID


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_unnamed, r"its frame 2 names no image that it is the mask of \(no SourceImageSequence"),
        (
            _moved,
            r"its frame 2 does not say that its pixels lie on those of its image \(SpatialLocationsPreserved is "
            r"NO, not YES\)",
        ),
        (_unsure, r"its frame 2 does not say .* \(SpatialLocationsPreserved is absent, not YES\)"),
        (_of_all, r"its frame 1 is the mask of 3 images, where each series may have 1"),
        (_of_frames, "highdicom cannot read it as a SEG object"),
        (_of_two_stacks, r"its frames are the masks of frames of 3 images, 1 is read"),
        (_unlisted, r"its frame 2 is the mask of '.*\.77', which its ReferencedSeriesSequence does not list"),
        (_twice, r"highdicom cannot read it as a SEG object \(.*uniquely identify frames"),
    ],
    ids=[
        "no image",
        "resampled",
        "not said",
        "all images",
        "several frames",
        "several stacks",
        "not listed",
        "two masks",
    ],
)
def test_frames_that_are_no_mask_of_one_image_are_refused(
    tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8], edit: Callable[[Dataset], None], message: str
) -> None:
    path = write_seg(tmp_path / "seg.dcm", slices, masks, edit=edit)
    with pytest.raises(RefusedError, match=f"^{message}.*; give the label maps in a folder of their own"):
        read_segmentation(path)


def test_truncated_pixels_are_refused(tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]) -> None:
    path = write_seg(tmp_path / "seg.dcm", slices, masks)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RefusedError, match="highdicom cannot read it as a SEG object"):
        read_segmentation(path)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]) -> None:
    content = write_seg(tmp_path / "seg.dcm", slices, masks).read_bytes()
    (tmp_path / "half.dcm").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(RefusedError, match="highdicom cannot read it as a SEG object"):
        read_segmentation(tmp_path / "half.dcm")
    with pytest.raises(RefusedError, match=r"text\.dcm is no DICOM file with a preamble"):
        read_segmentation(tmp_path / "text.dcm")
    with pytest.raises(RefusedError, match="Dataset is not a Segmentation"):
        read_segmentation(Path(slices[0].filename))


def test_breach_of_the_standard_that_harms_no_label_is_quiet(
    tmp_path: Path, slices: list[Dataset], masks: NDArray[np.uint8]
) -> None:
    def lengthen(made: Dataset) -> None:
        made.SegmentSequence[0].SegmentLabel = "liver" * 20

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_seg(tmp_path / "seg.dcm", slices, masks, edit=lengthen)
    with pytest.warns(UserWarning, match="exceeds the maximum length"):
        str(pydicom.dcmread(path).SegmentSequence[0])
    assert read_segmentation(path).segments[1] == "liver" * 20


def test_missing_highdicom_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom.seg", None)
    with pytest.raises(RefusedError, match=r"highdicom, which is not installed; pip install 'highdicom>=\d"):
        read_segmentation(tmp_path / "seg.dcm")
