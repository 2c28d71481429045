# SPDX-License-Identifier: Apache-2.0
"""A scan, a dry run and the run agree on every file; what cannot be done is found out before anything is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.errors import UsageError
from monai_salm.pipeline import ProtectionRun, ProtectOptions, forecast, protect, scan
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.pipeline.options import MOST_WORKERS
from tests.exports import (
    ROOT_UID,
    block,
    body,
    dicom_object,
    drawn,
    label_table,
    lesion_table,
    mr_export,
    mr_labels,
    mr_series,
    mr_slice,
    nifti_export,
    nifti_file,
    small,
    tree,
    zip_file,
)

FATES = {"protected": "protect", "copied": "copy", "refused": "refuse", "failed": "refuse"}
SR = "1.2.840.10008.5.1.4.1.1.88.33"


def _every_kind(folder: Path) -> Path:
    """Write an input of files that are protected, copied and refused for many reasons, most of which only their values
    tell.
    """
    sitk: Any = pytest.importorskip("SimpleITK")
    image: Any = pytest.importorskip("PIL.Image")
    nibabel: Any = pytest.importorskip("nibabel")
    mr_export(folder, 3)
    (folder / "copy.dcm").write_bytes((folder / "case0" / "image.dcm").read_bytes())
    (folder / "cut.dcm").write_bytes((folder / "case1" / "image.dcm").read_bytes()[:-40])
    (folder / "raw.bin").write_bytes(b"\0x")
    (folder / "notes.txt").write_text("x")
    dicom_object(folder / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.1"])
    # Every value above the window, below it, all alike, and a volume of which some slices are such
    mr_slice(folder / "metal.dcm", 20, body(1) + 1500, Modality="CT")
    mr_slice(folder / "air.dcm", 21, body(1) - 1900, Modality="CT")
    mr_slice(folder / "flat.dcm", 22, np.full((24, 24), 7, np.int16))
    for place in range(4):
        own = {
            "SeriesInstanceUID": f"{ROOT_UID}.60.1",
            "SOPInstanceUID": f"{ROOT_UID}.61.{place}",
            "ImagePositionPatient": [0, 0, 2.0 * place],
        }
        values = body(place) - 100 if place < 2 else body(place) * 0 + 2000 + np.arange(24, dtype=np.int16)
        mr_slice(folder / "series" / f"{place}.dcm", 30 + place, values.astype(np.int16), Modality="CT", **own)
    nifti_file(folder / "v.nii", block(0)[0])
    nifti_file(folder / "twin.nii.gz", block(0)[0])
    nifti_file(folder / "labels.nii", block(1)[1])
    nifti_file(folder / "hounsfield.nii", block(2)[0] * 2 - 1024)
    nifti_file(folder / "lost.nii", np.full((8, 8, 8), np.nan, np.float32))
    nibabel.Nifti1Pair(block(3)[0], np.eye(4)).to_filename(folder / "pair.img")
    sitk.WriteImage(sitk.GetImageFromArray(block(4)[0]), str(folder / "good.mhd"))
    flat = np.full((8, 8, 8), 7, np.float32)
    flat[0, 0, :2] = 7.5, 3.25
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(folder / "bad.mhd"))
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(folder / "bad.nrrd"))
    image.fromarray((body(5) // 3).astype(np.uint8)).save(folder / "a.png")
    image.fromarray((body(6) // 3).astype(np.uint8)).save(folder / "b.jpg")
    image.fromarray((body(7) // 3).astype(np.uint8)).save(folder / "c.jpg")
    image.fromarray((body(8) // 3).astype(np.uint8)).save(folder / "c.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("sample", ["auto", "series"])
def test_scan_dry_run_and_run_agree_on_every_file(tmp_path: Path, sample: str) -> None:
    source, options = _every_kind(tmp_path / "in"), drawn(sample=sample)
    scanned = {file["path"]: file["fate"] for file in forecast(scan(source), options)["files"]}
    before = tree(tmp_path)
    preview = ProtectionRun(source, tmp_path / "out", options).preview()
    dry = {file["path"]: file["fate"] for file in preview["files"]}
    assert tree(tmp_path) == before
    result = protect(source, tmp_path / "out", options)
    done = {path: FATES[fate.status] for path, fate in result.fates.items()}
    assert dry == done
    assert scanned == done
    assert preview["counts"] | {"samples": 0} == {"incomplete": 0} | {
        fate: list(done.values()).count(fate) for fate in ("protect", "copy", "refuse")
    } | {"samples": 0}
    refused = {
        "cut.dcm",
        "raw.bin",
        "metal.dcm",
        "air.dcm",
        "flat.dcm",
        "hounsfield.nii",
        "lost.nii",
        "bad.mhd",
        "bad.raw",
        "bad.nrrd",
        "c.jpg",
    }
    assert refused <= {path for path, fate in done.items() if fate == "refuse"}
    assert {"series/2.dcm", "series/3.dcm"} <= {path for path, fate in done.items() if fate == "refuse"}


@pytest.mark.slow
def test_scan_of_a_zip_agrees_with_its_run(tmp_path: Path) -> None:
    packed = zip_file(tmp_path / "in.zip", _every_kind(tmp_path / "in"))
    scanned = {
        file["path"]: file["fate"] for file in forecast(scan(packed, unpack_into=tmp_path / "spare"), drawn())["files"]
    }
    preview = ProtectionRun(packed, tmp_path / "out.zip", drawn()).preview()
    done = {path: FATES[fate.status] for path, fate in protect(packed, tmp_path / "out.zip", drawn()).fates.items()}
    assert scanned == {file["path"]: file["fate"] for file in preview["files"]} == done


def test_scan_with_the_options_that_save_files(tmp_path: Path) -> None:
    source = _every_kind(tmp_path / "in")
    scanned = {
        file["path"]: file["fate"]
        for file in forecast(scan(source), drawn(modality="ct", window="-2000,3000"))["files"]
    }
    assert scanned["hounsfield.nii"] == scanned["metal.dcm"] == scanned["air.dcm"] == "protect"


def _labelled(folder: Path) -> dict[str, Any]:
    mr_export(folder / "in", 4)
    mr_slice(folder / "in" / "metal.dcm", 9, body(1) + 1500, Modality="CT")
    nifti_file(folder / "in" / "volume.nii", block(1)[0])
    rows = {f"case{n}/image.dcm": n % 2 for n in range(4)} | {"metal.dcm": 1, "volume.nii": 0}
    return {"labels": label_table(folder / "l.csv", rows)}


def _with_label_maps(folder: Path) -> dict[str, Any]:
    nifti_export(folder / "in", 4, labels=folder / "maps")
    (folder / "maps" / "v1.nii.gz").write_bytes(b"junk")
    nifti_file(folder / "maps" / "v2.nii.gz", block(2, (8, 8, 8))[1])
    return {"labels": folder / "maps", "task": "segmentation", "surrogate": "small-unet"}


def _series(folder: Path) -> dict[str, Any]:
    for number in range(4):
        mr_series(folder / "in" / str(number), number, slices=4)
    mr_slice(folder / "in" / "loose.dcm", 9)
    return {
        "labels": label_table(
            folder / "l.csv", {f"S{number}": number % 2 for number in range(4)} | {"P9": 1}, "PatientID"
        )
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [_labelled, _with_label_maps, _series], ids=["single volume", "label maps", "single slice"]
)
def test_dry_run_with_labels_foresees_what_the_search_refuses(
    tmp_path: Path, make: Callable[[Path], dict[str, Any]]
) -> None:
    options = small(**make(tmp_path), rounds=1)
    dry = {file["path"]: file for file in ProtectionRun(tmp_path / "in", tmp_path / "out", options).preview()["files"]}
    fates = protect(tmp_path / "in", tmp_path / "out", options).fates
    assert {path: file["fate"] for path, file in dry.items()} == {
        path: FATES[fate.status] for path, fate in fates.items()
    }
    refused = {path: fate.reason for path, fate in fates.items() if fate.status == "refused"}
    assert {path: file["reason"] for path, file in dry.items() if file["fate"] == "refuse"} == refused
    assert refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": [1, 1, 1, 1]}, "all 4 samples have one label; a label that never varies cannot be learned"),
        ({"table": [1, 1, 1, "NA"]}, "all 3 samples have one label"),
        ({"surrogate": "small-resnett"}, "network 'small-resnett' is unknown; give one of"),
        ({"surrogate": "{in}/none.safetensors"}, "cannot be read as a surrogate"),
        ({"surrogate": "{in}/case0/image.safetensors"}, "cannot be read as a surrogate"),
        ({"surrogate": "small-unet"}, "give a network for classification"),
        ({"surrogate": "x.safetensors", "method": "tap"}, "method 'tap' trains a surrogate of its own"),
        ({"surrogate": "x.safetensors", "gentle": True}, "--gentle chooses the noise, which x.safetensors has done"),
        ({"device": "cuda"}, "device cuda was asked for, but torch sees none"),
        ({"method": "umed"}, "method 'umed' is not for classification"),
        ({"surrogate": "DenseNet121", "working_size": 8}, "network 'DenseNet121' cannot work on images of"),
        ({"labels": "{in}/none.csv"}, "the label table cannot be read .no such file or folder"),
        ({"labels": "{in}/none.csv", "method": "random"}, "the label table cannot be read .no such file or folder"),
        ({"window": "5000,6000"}, "no sample is left to protect"),
    ],
    ids=lambda value: " ".join(f"{name}" for name in value) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_what_cannot_be_done_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str, packed: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    mr_export(tmp_path / "in", 4)
    (tmp_path / "in" / "case0" / "image.safetensors").write_bytes(b"no surrogate")
    table = label_table(
        tmp_path / "l.csv", {f"case{n}/image.dcm": label for n, label in enumerate(options.get("table", [0, 1, 0, 1]))}
    )
    given: dict[str, Any] = {"labels": table} if options.get("method") != "random" else {}
    given |= {
        name: value.replace("{in}", str(tmp_path / "in")) if isinstance(value, str) else value
        for name, value in options.items()
        if name != "table"
    }
    given["labels"] = Path(given["labels"])
    source = zip_file(tmp_path / "in.zip", tmp_path / "in") if packed else tmp_path / "in"
    before = tree(tmp_path)
    for act in (lambda run: run.preview(), lambda run: run.write()):
        with pytest.raises(UsageError, match=message):
            act(ProtectionRun(source, tmp_path / "out", small(**given)))
        assert tree(tmp_path) == before
        assert not (tmp_path / "out.work").exists()


def test_label_maps_of_one_value_are_found_before_anything_is_written(tmp_path: Path) -> None:
    nifti_export(tmp_path / "in", 2, labels=tmp_path / "maps")
    for path in (tmp_path / "maps").iterdir():
        nifti_file(path, np.zeros((16, 16, 12), np.uint8))
    run = ProtectionRun(
        tmp_path / "in", tmp_path / "out", small(labels=tmp_path / "maps", task="segmentation", surrogate="small-unet")
    )
    with pytest.raises(UsageError, match=r"the label maps hold 1 value\(s\)"):
        run.preview()
    with pytest.raises(UsageError, match=r"the label maps hold 1 value\(s\)"):
        run.write()
    assert not (tmp_path / "out.work").exists()


def test_method_that_is_not_for_pictures_is_found_before_anything_is_written(tmp_path: Path) -> None:
    sitk: Any = pytest.importorskip("SimpleITK")
    for number in range(3):
        nifti_file(tmp_path / "maps" / f"{number}.nii", (body(number) > 600).astype(np.uint8))
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(body(number).T), str(tmp_path / "in" / f"{number}.nrrd"))
    options = small(labels=tmp_path / "maps", task="segmentation", method="voxshield", surrogate="small-unet")
    for act in (lambda run: run.preview(), lambda run: run.write()):
        with pytest.raises(UsageError, match="method 'voxshield' is not for segmentation of 2D samples"):
            act(ProtectionRun(tmp_path / "in", tmp_path / "out", options))
        assert not (tmp_path / "out.work").exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"labels": "other"}, {"surrogate": "surrogate"}], ids=["classes", "dimensions"])
def test_surrogate_of_other_samples_is_found_before_anything_is_written(tmp_path: Path, change: dict[str, str]) -> None:
    mr_export(tmp_path / "in", 4)
    protect(tmp_path / "in", tmp_path / "out", small(labels=mr_labels(tmp_path / "l.csv", 4), rounds=1))
    surrogate = str(tmp_path / "out.work" / "surrogate.safetensors")
    if "labels" in change:
        options = small(
            surrogate=surrogate,
            labels=label_table(tmp_path / "m.csv", {f"case{n}/image.dcm": "abc"[n % 3] for n in range(4)}),
        )
    else:
        nifti_export(tmp_path / "volumes", 2)
        options = small(surrogate=surrogate, labels=lesion_table(tmp_path / "m.csv", ["v0.nii.gz", "v1.nii.gz"]))
    source = tmp_path / ("in" if "labels" in change else "volumes")
    for act in (lambda run: run.preview(), lambda run: run.write()):
        with pytest.raises(UsageError, match="it was trained on 2D samples of the classes"):
            act(ProtectionRun(source, tmp_path / "again", options))
        assert not (tmp_path / "again.work").exists()


def test_dry_run_finds_folders_that_do_not_do(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match="is not empty"):
        ProtectionRun(tmp_path / "in", tmp_path / "full", drawn()).preview()
    with pytest.raises(UsageError, match="lies in the input"):
        ProtectionRun(tmp_path / "in", tmp_path / "in" / "out", drawn()).preview()
    with pytest.raises(UsageError, match="the key cannot be read"):
        ProtectionRun(tmp_path / "in", tmp_path / "out", drawn(key_file=tmp_path / "none")).preview()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed -1 must be at least 0"),
        ({"seed": 2**63}, "seed 9223372036854775808 must be at most 4294967295"),
        ({"seed": 1.5}, "seed 1.5 is no whole number"),
        ({"rounds": 0}, "rounds 0 must be at least 1"),
        ({"rounds": -3, "method": "random"}, "rounds -3 must be at least 1"),
        ({"rounds": True}, "rounds True is no whole number"),
        ({"workers": -1}, "workers -1 must be at least 0"),
        ({"workers": MOST_WORKERS + 1}, "must be at most"),
        ({"perturbed_fraction": 0.0}, r"perturbed fraction 0 is not in \(0, 1\]"),
        ({"perturbed_fraction": 1.5, "method": "random"}, r"perturbed fraction 1.5 is not in \(0, 1\]"),
        ({"perturbed_fraction": float("nan")}, r"perturbed fraction nan is not in \(0, 1\]"),
        ({"device": "gpu", "method": "random"}, "device 'gpu' is unknown; give auto, cpu, cuda"),
        ({"modality": "XX"}, "modality 'XX' is unknown; give a code of DICOM, such as CT, MR"),
        ({"modality": "MRI"}, "modality 'MRI' is unknown; give MR"),
        ({"modality": "pet"}, "modality 'pet' is unknown; give PT"),
        ({"epsilon": "0"}, "epsilon 0 .fraction. must be positive"),
        ({"window": "5,1"}, "is empty or not finite"),
        ({"method": "magic"}, "method 'magic' is unknown"),
        ({"method": "tap", "task": "segmentation"}, "method 'tap' is not for segmentation"),
        ({"gentle": True, "method": "em"}, "--gentle chooses among the parts that --method salm has"),
        ({"gentle": True, "task": "segmentation"}, "--gentle chooses among the parts that --method salm has"),
        ({"labels": Path("l.csv"), "labels_from_folders": True}, "contradict each other"),
        (
            {"label_column": "grade", "labels_from_folders": True},
            "--label-column 'grade' is of a table, which --labels-from-folders does not read",
        ),
        (
            {"label_column": "grade", "task": "segmentation"},
            "--label-column 'grade' is of a table, which --task segmentation does not read",
        ),
        (
            {"labels_from_folders": True, "task": "segmentation"},
            "--labels-from-folders gives classes, --task segmentation needs label maps",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_option_that_is_not_possible_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ProtectOptions(**options)


@pytest.mark.slow
def test_dry_run_says_what_is_copied_unprotected(tmp_path: Path) -> None:
    source, options = _every_kind(tmp_path / "in"), drawn(copy_unprotected=True)
    preview = ProtectionRun(source, tmp_path / "out", options).preview()
    fates = protect(source, tmp_path / "out", options).fates
    assert {file["path"]: file["fate"] for file in preview["files"]} == {
        path: FATES[fate.status] for path, fate in fates.items()
    }
    assert (
        preview["counts"]["unprotected"]
        == sum("copied unprotected: " in file["reason"] for file in preview["files"])
        > 5
    )


@pytest.mark.slow
def test_largest_seed_can_be_used(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 4)
    result = protect(
        tmp_path / "in", tmp_path / "out", small(labels=mr_labels(tmp_path / "l.csv", 4), rounds=1, seed=2**32 - 1)
    )
    assert result.to_json()["counts"]["protected"] == 4


def test_modality_of_verify_and_scan_is_checked_too() -> None:
    assert BudgetOptions(modality=" ct").modality == "CT"
    with pytest.raises(UsageError, match="modality 'XY' is unknown"):
        BudgetOptions(modality="XY")


def test_options_that_random_noise_does_not_use_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mr_export(tmp_path / "in", 2)
    options = drawn(
        labels=mr_labels(tmp_path / "l.csv", 2),
        label_column="label",
        task="classification",
        rounds=3,
        surrogate="small-cnn",
    )
    with caplog.at_level(logging.WARNING):
        protect(tmp_path / "in", tmp_path / "out", options)
    (line,) = [record.getMessage() for record in caplog.records]
    assert (
        line == "method 'random' makes its noise without labels, network or rounds: --labels, --label-column, "
        "--surrogate, --rounds not used"
    )


def test_classes_and_what_has_no_counterpart_are_told_before_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    mr_export(tmp_path / "in", 6)
    rows = {f"case{n}/image.dcm": n % 2 for n in range(4)} | {"case4/image.dcm": "NA", "elsewhere.dcm": 1}
    options = small(labels=label_table(tmp_path / "l.csv", rows), rounds=1)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        import_module("monai_salm.pipeline.protection"), "make_noise", stop
    )  # the package has a function of this name
    run = ProtectionRun(tmp_path / "in", tmp_path / "out", options)
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        run.search()
    assert [record.getMessage() for record in caplog.records] == [
        "labels: classes of column 'label': 0 2, 1 2 of 4 images",
        "labels: 1 row without an image: elsewhere.dcm",
        "labels: 1 row without a label: case4/image.dcm (no value in column 'label', line 6 ('NA'))",
        "labels: 2 images without a label: case4/image.dcm, case5/image.dcm",
    ]
    preview = ProtectionRun(tmp_path / "in", tmp_path / "more", options).preview()
    assert preview["labels"] == run.labels
    assert json.loads(json.dumps(preview["labels"])) == {
        "key": "path", "column": "label", "multi_label": False, "classes": {"0": 2, "1": 2}, "labeled_pictures": 4,
        "rows": 6,
        "unmatched_rows": {"count": 1, "first": ["elsewhere.dcm"]},
        "unlabeled_rows": {"count": 1, "first": ["case4/image.dcm (no value in column 'label', line 6 ('NA'))"]},
        "unlabeled_pictures": {"count": 2, "first": ["case4/image.dcm", "case5/image.dcm"]}, "notes": [],
    }  # fmt: skip


def test_classes_of_label_maps_are_told(tmp_path: Path) -> None:
    nifti_export(tmp_path / "in", 3, labels=tmp_path / "maps")
    nifti_file(tmp_path / "maps" / "v2.nii.gz", block(2)[1] * 5)
    preview = ProtectionRun(
        tmp_path / "in", tmp_path / "out", small(labels=tmp_path / "maps", task="segmentation", surrogate="small-unet")
    ).preview()
    assert preview["labels"]["classes"] == {"0": 3, "1": 2, "5": 1}
