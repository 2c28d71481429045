# SPDX-License-Identifier: Apache-2.0
"""What the user says of pictures and label maps counts first; what cannot be told is refused; files of a folder are
judged together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_salm.errors import UsageError
from monai_salm.io import Document, Judgement
from monai_salm.pipeline import KindChoices, protect, scan, verify
from monai_salm.pipeline.choices import JudgedFile, judged_together, matches
from tests.exports import block, drawn, mr_slice, nifti_file, small, tree
from tests.io.kind_samples import cells

NESTED = np.zeros((24, 24, 12), np.uint8)
NESTED[4:20, 4:20], NESTED[8:16, 8:16] = 1, 2


def labels(number: int) -> np.ndarray:
    return cells(np.random.default_rng(number), (24, 24, 12), 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("path", "pattern", "same"),
    [
        ("a/b/c.nii", "a/b/c.nii", True),
        ("a/b/c.nii", "*.nii", True),
        ("a/b/c.nii", "c.*", True),
        ("a/b/c.nii", "a/*", True),
        ("a/b/c.nii", "a/", True),
        ("a/b/c.nii", "a/b", True),
        ("a/b/c.nii", "b", False),
        ("a/b/c.nii", "*.nii.gz", False),
        ("a/b/c.nii", "B/c.nii", False),
        ("c_seg.nii", "./c_seg.nii", True),
        ("labels/c.nii", "label*", True),
    ],
)
def test_patterns(path: str, pattern: str, same: bool) -> None:
    assert matches(path, pattern) is same


def test_what_cannot_be_told_is_refused_until_somebody_says(tmp_path: Path) -> None:
    nifti_file(tmp_path / "in" / "nested.nii", NESTED)
    nifti_file(tmp_path / "in" / "picture.nii", block(0)[0])
    reason = scan(tmp_path / "in").refused["nested.nii"]
    assert "--pictures PATTERN" in reason
    said = KindChoices(label_maps=("nested.*",))
    assert scan(tmp_path / "in", choices=said).documents["nested.nii"].notes == ("known by: the user says so",)
    protect(tmp_path / "in", tmp_path / "out", drawn(label_maps=("nested.*",)))
    assert tree(tmp_path / "out")["nested.nii"] == tree(tmp_path / "in")["nested.nii"]
    assert verify(tmp_path / "in", tmp_path / "out", choices=said).mismatches == []
    assert "nested.nii" in scan(tmp_path / "in", choices=KindChoices(pictures=("nested.*",))).pictures


def test_a_pattern_that_matches_nothing_is_misspelt(tmp_path: Path) -> None:
    nifti_file(tmp_path / "in" / "nested.nii", NESTED)
    with pytest.raises(
        UsageError,
        match=r"--label-maps 'lables/\*' matches none of the 1 files; paths are relative to the input, such as "
        r"'nested.nii'",
    ):
        scan(tmp_path / "in", choices=KindChoices(label_maps=("lables/*",)))


def test_a_file_cannot_be_both(tmp_path: Path) -> None:
    nifti_file(tmp_path / "in" / "nested.nii", NESTED)
    with pytest.raises(UsageError, match=r"nested.nii: both --label-maps '\*' and --pictures 'n\*' match it"):
        scan(tmp_path / "in", choices=KindChoices(label_maps=("*",), pictures=("n*",)))


def test_a_changed_label_map_is_a_mismatch(tmp_path: Path) -> None:
    nifti_file(tmp_path / "in" / "labels.nii", labels(0))
    nifti_file(tmp_path / "in" / "picture.nii", block(0)[0])
    protect(tmp_path / "in", tmp_path / "out", drawn())
    content = bytearray((tmp_path / "out" / "labels.nii").read_bytes())
    content[-1] += 1
    (tmp_path / "out" / "labels.nii").write_bytes(content)
    (wrong,) = verify(tmp_path / "in", tmp_path / "out").mismatches
    assert wrong.path == "labels.nii"


@pytest.mark.slow
def test_folder_of_labels_says_which_are_pictures_and_which_are_not(tmp_path: Path) -> None:
    """Of the input's own label folder nothing changes, and the pictures that it is of are some, whatever they look
    like.
    """
    for number in range(4):
        nifti_file(tmp_path / "in" / "imagesTr" / f"c{number}_0000.nii.gz", block(number)[0])
        nifti_file(tmp_path / "in" / "labelsTr" / f"c{number}.nii.gz", block(number)[1])
    nifti_file(tmp_path / "in" / "labelsTr" / "unclear.nii.gz", NESTED)
    done = protect(
        tmp_path / "in",
        tmp_path / "out",
        small(
            task="segmentation", labels=tmp_path / "in" / "labelsTr", surrogate="small-unet", rounds=1, sample="auto"
        ),
    )
    assert {path.partition("/")[0]: fate.status for path, fate in sorted(done.fates.items())} == {
        "imagesTr": "protected",
        "labelsTr": "copied",
    }
    outer = KindChoices.with_labels(tmp_path / "in" / "labelsTr")
    assert outer.of(tmp_path / "other", "c1_0000.nii.gz") == "picture"
    assert outer.of(tmp_path / "other", "deep/c1_0000.nii.gz") is None


def _judged(path: str, *values: float, foreground: int = 9, known: bool = True) -> JudgedFile:
    judgement = Judgement("label map" if known else "cannot tell", "", foreground, frozenset(values))
    return JudgedFile(path, judgement, Document.of_labels(Path(path), "nifti") if known else None)


def test_files_of_a_folder_are_judged_together() -> None:
    known = [_judged(f"m/{number}", 0, 1, 2) for number in range(5)]
    assert judged_together([*known, _judged("m/e", 0, foreground=0, known=False)]) == {"m/e": "label map"}
    assert judged_together([*known, _judged("m/n", 0, 1, 2, known=False)]) == {"m/n": "label map"}
    assert judged_together([*known, _judged("m/n", 0, 7, known=False), _judged("other/n", 0, 1, known=False)]) == {}
    doubtful = [_judged(f"m/n{number}", 0, 1, 2, known=False) for number in range(5)]
    assert set(judged_together([*known, *doubtful]).values()) == {"cannot tell"}


def test_empty_label_map_among_others_is_copied(tmp_path: Path) -> None:
    for number in range(3):
        nifti_file(tmp_path / "in" / "masks" / f"{number}.nii", labels(number))
    nifti_file(tmp_path / "in" / "masks" / "empty.nii", np.zeros((24, 24, 12), np.uint8))
    nifti_file(tmp_path / "in" / "alone" / "empty.nii", np.zeros((24, 24, 12), np.uint8))
    found = scan(tmp_path / "in")
    assert set(found.documents) == {"masks/0.nii", "masks/1.nii", "masks/2.nii", "masks/empty.nii"}
    assert "there is nothing in it to protect" in found.refused["alone/empty.nii"]


@pytest.mark.parametrize(
    ("modality", "scale", "status"),
    [("CT", 1, "refused"), ("MR", 10, "refused"), ("MR", 100, "refused"), ("OT", 1, "refused"), ("SEG", 1, "copied")],
)
def test_labels_in_image_objects(tmp_path: Path, modality: str, scale: int, status: str) -> None:
    values = cells(np.random.default_rng(1), (48, 48), 6).astype(np.int16) * scale
    path = mr_slice(tmp_path / "in" / "a.dcm", 1, values, Modality=modality, RescaleSlope=1, RescaleIntercept=0)
    fate = protect(tmp_path / "in", tmp_path / "out", drawn()).fates["a.dcm"]
    assert fate.status == status, fate.reason
    done = protect(tmp_path / "in", tmp_path / "said", drawn(label_maps=("a.dcm",)))
    assert done.fates["a.dcm"].status == "copied"
    assert verify(tmp_path / "in", tmp_path / "said", choices=KindChoices(label_maps=("a.dcm",))).mismatches == []
    assert path.read_bytes() == (tmp_path / "said" / "a.dcm").read_bytes()


def test_picture_that_says_it_is_a_segmentation_is_refused(tmp_path: Path) -> None:
    mr_slice(tmp_path / "in" / "a.dcm", 1, Modality="SEG")
    fate = protect(tmp_path / "in", tmp_path / "out", drawn()).fates["a.dcm"]
    assert fate.status == "refused"
    assert fate.reason.startswith("its Modality is SEG says label map, but ")
    assert protect(tmp_path / "in", tmp_path / "said", drawn(pictures=("a.dcm",))).fates["a.dcm"].status == "protected"
