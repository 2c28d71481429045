# SPDX-License-Identifier: Apache-2.0
"""Label maps and pictures that look like one another: a label map is never changed, a picture never handed out as it
was, and what is neither is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_salm.pipeline.fates import FileFate
from tests.exports import mr_slice, nifti_file, tree
from tests.fidelity.field_inputs import (
    BOTH_OPTIONS,
    RANDOM,
    Command,
    ct_slice,
    enlarged,
    fates_of,
    itk_file,
    landmarks,
    picture_on,
    regions,
    scaled_labels,
    stacked_labels,
    volume_file,
)

Image: Any = pytest.importorskip("PIL.Image")
pytest.importorskip("SimpleITK")

VERTEBRAE = stacked_labels(range(1, 21))
SPINE_AND_RIBS = stacked_labels(range(26, 51), rings=range(92, 116))


def _png(path: Path, values: NDArray[Any]) -> Path:
    Image.fromarray(values).save(path)
    return path


def _cubes(count: int) -> NDArray[np.int16]:
    """Give as many labels, each of 4 x 4 x 4 voxels, in no order."""
    numbers = np.random.default_rng(1).permutation(count).astype(np.int16).reshape(-1, 10, 10)
    return np.kron(numbers, np.ones((4, 4, 4), np.int16))


def _run(command: Command, tmp_path: Path, *options: str) -> tuple[int, FileFate, bytes | None]:
    """Protect a folder of one file, and verify it; gives the exit code, the fate and what was written."""
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM, *options)
    (fate,) = fates_of(tmp_path / "out").values()
    written = tree(tmp_path / "out")
    if written:
        checked = command("verify", tmp_path / "in", tmp_path / "out", "--quiet", *options)
        assert checked.code == 0, checked.text
    assert "give --epsilon" not in told.text  # which would ruin a label map
    return told.code, fate, next(iter(written.values()), None)


# Label maps ----------------------------------------------------------------------------------------------------------
Maker = Callable[[Path], Path]
SURE: dict[str, Maker] = {
    "vertebrae, u1": lambda folder: volume_file(folder / "a.nii.gz", VERTEBRAE),
    "vertebrae, f4": lambda folder: volume_file(folder / "a.nii.gz", VERTEBRAE.astype(np.float32)),
    "vertebrae, seg.nrrd": lambda folder: itk_file(folder / "a.seg.nrrd", VERTEBRAE),
    "vertebrae, nrrd": lambda folder: itk_file(folder / "a.nrrd", VERTEBRAE),
    "vertebrae, mha": lambda folder: itk_file(folder / "a.mha", VERTEBRAE),
    "vertebrae, first axis": lambda folder: volume_file(folder / "a.nii.gz", VERTEBRAE.T.copy()),
    "spine and ribs": lambda folder: volume_file(folder / "a.nii.gz", SPINE_AND_RIBS),
    "spine and ribs, mha": lambda folder: itk_file(folder / "a.mha", SPINE_AND_RIBS),
    "mask of 0 and 255": lambda folder: volume_file(
        folder / "a.nii.gz", np.where(regions() > 1, 255, 0).astype(np.uint8)
    ),
    "mask in PNG": lambda folder: _png(
        folder / "a.png", np.where(regions(4, (48, 48, 3))[..., 1] > 1, 255, 0).astype(np.uint8)
    ),
}
"""Label maps that go out as they are."""
MAYBE: dict[str, Maker] = {
    "landmarks": lambda folder: volume_file(folder / "a.nii.gz", landmarks(20, (48, 48, 20))),
    "landmarks of 2x2": lambda folder: volume_file(folder / "a.nii.gz", landmarks(40, (48, 48, 60), side=2)),
    "landmarks in NRRD": lambda folder: itk_file(folder / "a.nrrd", landmarks(40, (48, 48, 60), side=2)),
    "scaled int16": lambda folder: scaled_labels(folder / "a.nii.gz"),
    "scaled int16, plain": lambda folder: scaled_labels(folder / "a.nii"),
    "nearly whole numbers": lambda folder: volume_file(
        folder / "a.nii.gz", (regions() * np.float32(1.0000001) + np.float32(1e-7)).astype(np.float32)
    ),
    "negative background": lambda folder: volume_file(folder / "a.nii.gz", regions().astype(np.int16) - 1),
    "five levels of probability": lambda folder: volume_file(
        folder / "a.nii.gz", np.clip(regions() / 4 + 0.01, 0, 1).astype(np.float32)
    ),
    "labels as CT": lambda folder: ct_slice(folder / "a.dcm", 1, regions()[..., 10].astype(np.int16)),
    "labels as MR": lambda folder: mr_slice(folder / "a.dcm", 1, (regions()[..., 10] * 10).astype(np.int16)),
    "nested regions": lambda folder: volume_file(folder / "a.nii.gz", regions()),
    "two thousand labels": lambda folder: volume_file(folder / "a.nii.gz", _cubes(2000)),
}
"""Label maps that go out as they are, or are refused."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", SURE)
def test_label_map_is_copied(command: Command, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    content = SURE[kind](tmp_path / "in").read_bytes()
    code, fate, written = _run(command, tmp_path)
    assert (code, fate.status, written == content) == (0, "copied", True), fate.reason


@pytest.mark.parametrize("kind", MAYBE)
def test_label_map_is_copied_or_refused(command: Command, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    content = MAYBE[kind](tmp_path / "in").read_bytes()
    code, fate, written = _run(command, tmp_path)
    assert (code, fate.status, written in (None, content)) in ((0, "copied", True), (1, "refused", True)), fate.reason
    if fate.status == "refused" and "anatomy" not in fate.reason:  # which the window of CT does not find in labels
        assert all(option in fate.reason for option in BOTH_OPTIONS), fate.reason


@pytest.mark.parametrize("kind", [*SURE, *MAYBE])
def test_what_the_user_calls_a_label_map_is_copied(command: Command, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    content = (SURE | MAYBE)[kind](tmp_path / "in").read_bytes()
    code, fate, written = _run(command, tmp_path, "--label-maps", "a.*")
    assert (code, fate.status, written == content) == (0, "copied", True), fate.reason


INTENTS = {
    "t statistics": 3, "z scores": 5, "p values": 22, "estimates": 1001, "labels": 1002, "atlas": 1003,
    "matrices": 1004, "tensors": 1005,
    "displacements": 1006, "vectors": 1007, "FNIRT": 2006, "FNIRT coefficients": 2007, "DCT coefficients": 2008,
    "quadratic coefficients": 2009,
    "TOPUP": 2016, "TOPUP quadratic": 2017, "TOPUP field": 2018,
}  # fmt: skip


@pytest.mark.parametrize("intent", INTENTS)
@pytest.mark.parametrize("version", [1, 2])
def test_nifti_that_declares_to_be_no_picture(command: Command, tmp_path: Path, intent: str, version: int) -> None:
    values = np.random.default_rng(1).normal(0, 2, (12, 12, 12, 1, 3)).astype(np.float32)
    if INTENTS[intent] < 1004:
        values = values[..., 0, 0]
    if intent in ("labels", "atlas"):
        values = np.rint(np.abs(values))
    content = nifti_file(
        tmp_path / "in" / "warp.nii.gz", values, intent_code=INTENTS[intent], version=version
    ).read_bytes()
    code, fate, written = _run(command, tmp_path, "--modality", "MR")
    assert (code, fate.status, written in (None, content)) in ((0, "copied", True), (1, "refused", True)), fate.reason
    assert re.search(f"intent|picture|{INTENTS[intent]}", fate.reason)


# Pictures ------------------------------------------------------------------------------------------------------------
PICTURES: dict[str, Maker] = {
    "on 4095": lambda folder: volume_file(folder / "a.nii.gz", picture_on(4095)),
    "on 1": lambda folder: volume_file(folder / "a.nii.gz", picture_on(1)),
    "on 1, float": lambda folder: volume_file(folder / "a.nii.gz", picture_on(1, "f4")),
    "on 1, NRRD": lambda folder: itk_file(folder / "a.nrrd", picture_on(1)),
    "on 4095, MetaImage": lambda folder: itk_file(folder / "a.mha", picture_on(4095)),
    "on 0": lambda folder: volume_file(folder / "a.nii.gz", picture_on(0)),
    "enlarged": lambda folder: volume_file(folder / "a.nii.gz", enlarged()),
    "enlarged, NRRD": lambda folder: itk_file(folder / "a.nrrd", enlarged()),
    "enlarged, PNG": lambda folder: _png(folder / "a.png", (enlarged()[:, :, 3] // 2).clip(0, 255).astype(np.uint8)),
    "8 bits on 1": lambda folder: volume_file(
        folder / "a.nii.gz", (picture_on(1) // 4 + 1).clip(1, 255).astype(np.uint8)
    ),
    "MR on a constant": lambda folder: mr_slice(folder / "a.dcm", 1, picture_on(4095)[..., 6].astype(np.int16)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_picture_is_never_handed_out_as_it_was(command: Command, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    PICTURES[kind](tmp_path / "in")
    code, fate, written = _run(command, tmp_path)
    assert (code, fate.status) in ((0, "protected"), (1, "refused")), fate.reason
    assert (written is None) == (fate.status == "refused")
    if fate.status == "refused":
        assert all(option in fate.reason for option in BOTH_OPTIONS), fate.reason


@pytest.mark.parametrize("kind", PICTURES)
def test_what_the_user_calls_a_picture_is_protected(command: Command, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    PICTURES[kind](tmp_path / "in")
    code, fate, _ = _run(command, tmp_path, "--pictures", "a.*")
    assert (code, fate.status) == (0, "protected"), fate.reason


@pytest.mark.slow
def test_scan_and_dry_run_judge_alike(command: Command, tmp_path: Path) -> None:
    makers = {
        "label_map": SURE["vertebrae, u1"],
        "landmarks": MAYBE["landmarks"],
        "picture": PICTURES["on 1"],
        "plain": PICTURES["on 0"],
    }
    for name, make in makers.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        make(tmp_path / "in" / name)
    options = ("--label-maps", "landmarks/*", "--pictures", "picture/*")
    expected = {
        "label_map/a.nii.gz": "copy",
        "landmarks/a.nii.gz": "copy",
        "picture/a.nii.gz": "protect",
        "plain/a.nii.gz": "protect",
    }
    seen = command("scan", tmp_path / "in", *options, "--json", "--quiet")
    assert {file["path"]: file["fate"] for file in seen.json["files"]} == expected
    planned = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM, *options, "--dry-run", "--json")
    assert {file["path"]: file["fate"] for file in planned.json["files"]} == expected
    assert command("protect", tmp_path / "in", tmp_path / "out", *RANDOM, *options).code == 0
    done = {path: fate.status for path, fate in fates_of(tmp_path / "out").items()}
    assert done == {path: {"copy": "copied", "protect": "protected"}[fate] for path, fate in expected.items()}


def test_a_file_cannot_be_called_both(command: Command, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    PICTURES["on 1"](tmp_path / "in")
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM, "--label-maps", "*", "--pictures", "a.*")
    assert told.code in (1, 2)
    assert not (tmp_path / "out").exists() or not tree(tmp_path / "out")
    assert all(option in told.text for option in BOTH_OPTIONS)
