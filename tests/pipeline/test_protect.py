# SPDX-License-Identifier: Apache-2.0
"""The main job from end to end: what lands in the output, in the work folder and in the manifest."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.errors import UsageError
from monai_salm.io import read_source
from monai_salm.pipeline import ProtectOptions, ProtectResult, protect, verify
from monai_salm.pipeline.fates import FileFate
from monai_salm.pipeline.inventory import file_digest
from monai_salm.seals import CHECKSUM
from tests.exports import (
    ROOT_UID,
    block,
    drawn,
    label_table,
    lesion_table,
    mr_export,
    mr_labels,
    mr_series,
    mr_slice,
    nifti_export,
    nifti_file,
    plan_in,
    plan_lines,
    small,
    tree,
)

MANIFEST_FIELDS = (
    "path", "status", "reason", "sample_id", "modality", "epsilon_real", "epsilon_stored", "max_change_stored",
    "changed_fraction", "psnr", "sha256_in",
    "sha256_out",
)  # fmt: skip
FEW_FILES_FIELDS = ("left_out", "unprotected", "residual")


def _instances(folder: Path) -> ProtectOptions:
    mr_export(folder / "in")
    return small(labels=mr_labels(folder / "l.csv"))


def _series(folder: Path) -> ProtectOptions:
    for number in range(4):
        mr_series(folder / "in" / str(number), number, slices=4)
    classes = {f"{ROOT_UID}.21.{number + 1}": number % 2 for number in range(4)}
    return small(labels=label_table(folder / "l.csv", classes, "SeriesInstanceUID"))


def _volumes(dtype: Any, **fields: Any) -> Callable[[Path], ProtectOptions]:
    def make(folder: Path) -> ProtectOptions:
        nifti_export(folder / "in", dtype=dtype, **fields)
        return small(labels=lesion_table(folder / "l.csv", (f"v{number}.nii.gz" for number in range(6))))

    return make


def _label_maps(folder: Path) -> ProtectOptions:
    nifti_export(folder / "in", labels=folder / "maps")
    return small(labels=folder / "maps", task="segmentation", surrogate="small-unet")


EXPORTS: dict[str, tuple[Callable[[Path], ProtectOptions], int, int]] = {
    "DICOM instances": (_instances, 8, 8),
    "DICOM series": (_series, 16, 4),
    "NIfTI integers": (_volumes(np.int16), 6, 6),
    "NIfTI floats": (_volumes(np.float32), 6, 6),
    "NIfTI rescaled": (_volumes(np.uint16, slope=0.5, intercept=10.0), 6, 6),
    "NIfTI label maps": (_label_maps, 6, 6),
}


@pytest.mark.parametrize("method", [pytest.param("salm", marks=pytest.mark.slow), "random"])
@pytest.mark.parametrize("export", EXPORTS)
def test_protect_and_verify(tmp_path: Path, export: str, method: str) -> None:
    make, files, samples = EXPORTS[export]
    options = make(tmp_path)
    if method == "random":
        options = drawn(sample="series" if export == "DICOM series" else "auto")
    result = protect(tmp_path / "in", tmp_path / "out", options)
    assert result.to_json()["counts"] == {"protected": files, "copied": 0, "refused": 0, "failed": 0}
    assert sorted(tree(tmp_path / "out")) == sorted(tree(tmp_path / "in"))
    work = tmp_path / "out.work"
    plan = plan_in(plan_lines(work / "plan.jsonl"))
    assert len(plan.samples) == samples == len(list((work / "noise").iterdir()))
    budgets = {file.path: file.canvas.budgets[0] for sample in plan.samples for file in sample.files}
    report = {file.path: file for file in verify(tmp_path / "in", tmp_path / "out").files}
    lines = [json.loads(line) for line in (work / "manifest.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == sorted(report)
    for line in lines:
        assert sorted(line) == sorted((*MANIFEST_FIELDS, CHECKSUM))
        source, target = tmp_path / "in" / line["path"], tmp_path / "out" / line["path"]
        before, after = read_source(source), read_source(target)
        change = np.abs(after.stored.astype(float) - before.stored.astype(float))
        budget, verdict = budgets[line["path"]], report[line["path"]]
        assert verdict.verdict == "protected"
        assert (line["status"], line["reason"]) == ("protected", "")
        assert (line["sha256_in"], line["sha256_out"]) == (file_digest(source), file_digest(target))
        assert line["max_change_stored"] == change.max() == verdict.max_change_stored
        assert 0 < change.max() <= line["epsilon_stored"] == budget.epsilon_stored
        assert change.max() * abs(before.slope) <= line["epsilon_real"] * (1 + 1e-9)
        assert line["epsilon_real"] == pytest.approx(8 / 255 * budget.window.width)
        mean_square = np.mean((change * before.slope / budget.window.width) ** 2)
        assert line["psnr"] == pytest.approx(-10 * np.log10(mean_square)) == verdict.psnr
        assert line["changed_fraction"] == pytest.approx(verdict.changed_fraction)
        assert line["changed_fraction"] == pytest.approx((change > 0).sum() / (before.stored > 0).sum(), abs=0.08)
        assert not change[before.stored == 0].any()
        assert line["modality"] == before.header.modality
        assert line["sample_id"] in {sample.sample_id for sample in plan.samples}
    summary = result.to_json()
    assert summary["lowest_psnr"] == min(line["psnr"] for line in lines)
    assert summary["largest_changed_fraction"] == max(line["changed_fraction"] for line in lines)


def test_manifest_fields_are_those_of_the_contract() -> None:
    assert tuple(sorted(field.name for field in fields(FileFate))) == tuple(sorted(MANIFEST_FIELDS + FEW_FILES_FIELDS))


@pytest.mark.slow
def test_sparse_noise_keeps_to_its_share_of_each_sample(tmp_path: Path) -> None:
    result = protect(tmp_path / "in", tmp_path / "out", _instances(tmp_path))
    shares = [fate.changed_fraction for fate in result.fates.values()]
    assert all(share is not None and 0.3 < share <= 0.4 for share in shares)


def _mixed(folder: Path) -> Path:
    mr_export(folder / "in", 2)
    (folder / "in" / "raw.bin").write_bytes(b"\0not for the public")
    good = (folder / "in" / "case0" / "image.dcm").read_bytes()
    (folder / "in" / "cut.dcm").write_bytes(good[:-40])
    mr_slice(folder / "in" / "unlabeled.dcm", 7)
    return folder / "in"


@pytest.mark.slow
def test_bad_files_do_not_stop_the_rest_and_stay_out(tmp_path: Path) -> None:
    result = protect(_mixed(tmp_path), tmp_path / "out", small(labels=mr_labels(tmp_path / "l.csv", 2)))
    assert sorted(tree(tmp_path / "out")) == ["case0/image.dcm", "case1/image.dcm"]
    problems = {problem["path"]: problem["reason"] for problem in result.to_json()["problems"]}
    assert sorted(problems) == ["cut.dcm", "raw.bin", "unlabeled.dcm"]
    assert "unknown binary format" in problems["raw.bin"]
    assert "no label" in problems["unlabeled.dcm"]
    assert all(result.fates[path].status == "refused" for path in problems)


@pytest.mark.slow
def test_copy_unprotected(tmp_path: Path) -> None:
    source = _mixed(tmp_path)
    result = protect(source, tmp_path / "out", small(labels=mr_labels(tmp_path / "l.csv", 2), copy_unprotected=True))
    before, after = tree(source), tree(tmp_path / "out")
    assert sorted(after) == sorted(before)
    assert {path for path in after if after[path] == before[path]} == {"cut.dcm", "raw.bin", "unlabeled.dcm"}
    assert result.to_json()["counts"] == {"protected": 2, "copied": 3, "refused": 0, "failed": 0}
    assert result.fates["raw.bin"].sha256_out == file_digest(source / "raw.bin")


def test_file_that_cannot_be_copied_does_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        import_module("monai_salm.pipeline.output"), "copy_file", copy
    )  # the package has a function of this name
    result = protect(_mixed(tmp_path), tmp_path / "out", drawn(copy_unprotected=True))
    assert result.to_json()["counts"] == {"protected": 3, "copied": 0, "refused": 2, "failed": 0}
    assert result.fates["raw.bin"].reason.endswith("it could not be copied either: Permission denied")


def test_file_that_fails_to_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", 3)

    def write(source: Any, stored: Any, target: Path, derivation: Any) -> None:
        target.write_bytes(b"half a file")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("monai_salm.pipeline.write.write_like", write)
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert result.to_json()["counts"] == {"protected": 0, "copied": 0, "refused": 0, "failed": 3}
    assert "Input/output error" in result.fates["case0/image.dcm"].reason
    assert not tree(tmp_path / "out")


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_salm.pipeline import write

    mr_export(tmp_path / "in", 2)
    real = write.write_like
    monkeypatch.setattr(
        write, "write_like", lambda source, stored, target, derivation: real(source, source.stored, target, derivation)
    )
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert {fate.status for fate in result.fates.values()} == {"failed"}
    assert all("read back, are not those that were meant" in fate.reason for fate in result.fates.values())
    assert not tree(tmp_path / "out")


@pytest.mark.slow
def test_damaged_label_map_refuses_its_image_alone(tmp_path: Path) -> None:
    options = _label_maps(tmp_path)
    (tmp_path / "maps" / "v1.nii.gz").write_bytes(b"junk")
    nifti_file(tmp_path / "maps" / "v2.nii.gz", block(2, (8, 8, 8))[1])
    result = protect(tmp_path / "in", tmp_path / "out", options)
    assert result.to_json()["counts"] == {"protected": 4, "copied": 0, "refused": 2, "failed": 0}
    assert "is not NIfTI" in result.fates["v1.nii.gz"].reason
    assert "has shape (8, 8, 8), the image (16, 16, 12)" in result.fates["v2.nii.gz"].reason


def test_images_given_as_label_maps_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        for folder in ("in", "maps"):
            nifti_file(
                tmp_path / folder / f"{number}.nii",
                number + np.arange(16 * 16 * 12, dtype=np.int16).reshape(16, 16, 12),
            )
    with pytest.raises(UsageError, match="more than 256 classes; are they label maps"):
        protect(tmp_path / "in", tmp_path / "out", small(labels=tmp_path / "maps", task="segmentation"))


@pytest.mark.slow
def test_work_folder_is_private_and_complete(tmp_path: Path) -> None:
    protect(tmp_path / "in", tmp_path / "out", replace(_instances(tmp_path), restore=True))
    work = tmp_path / "out.work"
    assert sorted(path.name for path in work.iterdir()) == [
        "manifest.jsonl",
        "noise",
        "plan.jsonl",
        "residuals",
        "search.json",
        "surrogate.safetensors",
        "uid.key",
    ]
    assert stat.S_IMODE((work / "uid.key").stat().st_mode) == 0o600
    assert len(bytes.fromhex((work / "uid.key").read_text())) == 32


def _run(folder: Path, name: str, source: str = "in", **changes: Any) -> ProtectResult:
    return protect(folder / source, folder / name, small(labels=folder / "l.csv", **changes))


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    _instances(tmp_path)
    _run(tmp_path, "one")
    _run(tmp_path, "deep/er/two", work_dir=tmp_path / "elsewhere", workers=2)
    _run(tmp_path, "three", seed=1)
    one, two, three = (tree(tmp_path / name) for name in ("one", "deep/er/two", "three"))
    assert one == two
    assert all(one[path] != three[path] for path in one)
