# SPDX-License-Identifier: Apache-2.0
"""A release that grows: the same files come out whether they came in one day or in many, and nothing is done twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from monai_salm.budget import Epsilon
from monai_salm.cli import main
from monai_salm.errors import UsageError
from monai_salm.pipeline import adding, protect, restore, verify
from monai_salm.pipeline.fates import load_fates
from monai_salm.pipeline.frozen_plan import FrozenPlan
from monai_salm.pipeline.manifest import Manifest
from tests.exports import (
    KEY,
    ROOT_UID,
    block,
    body,
    dicom_object,
    drawn,
    file_set,
    label_table,
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

SR, KO, RTSTRUCT = (f"1.2.840.10008.5.1.4.1.1.{name}" for name in ("88.33", "88.59", "481.3"))


def _parts(source: Path, parts: Iterable[Sequence[str]]) -> list[Path]:
    """Copy the files of an input into folders, one for each day; what no day names comes on the last one."""
    days, left, folders = [list(part) for part in parts], set(tree(source)), []
    days[-1] += sorted(left - {path for part in days for path in part})
    for number, paths in enumerate(days):
        folder = source.parent / f"day{number}"
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, folder / path)
        folders.append(folder)
    return folders


def _grown(folders: Sequence[Path], output: Path, **options: Any) -> Path:
    make = options.pop("make", drawn)
    protect(folders[0], output, make(**options))
    for folder in folders[1:]:
        protect(folder, output, make(**options, add=True))
    return output


def _work_of(output: Path) -> dict[str, bytes]:
    """Give what a work folder holds, but for the plan, which also says when the inputs were looked at."""
    return {path: content for path, content in tree(output.with_name(f"{output.name}.work")).items()
            if path not in ("plan.jsonl", "search.json")}  # fmt: skip


def _ended(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def _fates(output: Path) -> dict[str, Any]:
    return load_fates(output.with_name(f"{output.name}.work") / "manifest.jsonl")


def test_grown_release_is_that_of_one_day(tmp_path: Path) -> None:
    source = mr_export(tmp_path / "in", 6)
    (source / "notes.txt").write_text("hello")
    shutil.copyfile(source / "case1" / "image.dcm", source / "copy.dcm")
    folders = _parts(source, [["case3/image.dcm", "case0/image.dcm"], ["case1/image.dcm"], [], ["copy.dcm"], []])
    folders[2].mkdir()
    (folders[2] / "readme.txt").write_text("of this day")
    shutil.copyfile(folders[2] / "readme.txt", source / "readme.txt")
    protect(source, tmp_path / "once", drawn())
    _grown(folders, tmp_path / "grown")
    assert tree(tmp_path / "grown") == tree(tmp_path / "once")
    assert _fates(tmp_path / "grown") == _fates(tmp_path / "once")
    assert _work_of(tmp_path / "grown") == _work_of(tmp_path / "once")
    assert not verify(source, tmp_path / "grown").mismatches


def test_grown_release_goes_on_like_one_of_one_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = mr_export(tmp_path / "in", 4)
    out = _grown(_parts(source, [["case2/image.dcm"], ["case0/image.dcm"], []]), tmp_path / "out")
    before = tree(tmp_path / "out") | _work_of(tmp_path / "out")
    protect(source, out, drawn(resume=True))
    assert tree(tmp_path / "out") | _work_of(tmp_path / "out") == before
    (out / "case0" / "image.dcm").write_bytes(b"damaged")
    protect(source, out, drawn(resume=True))
    assert tree(tmp_path / "out") | _work_of(tmp_path / "out") == before


@pytest.mark.slow
def test_noise_of_a_frozen_surrogate(tmp_path: Path) -> None:
    """Images of several shapes, and days on which one class alone comes."""
    source = mr_export(tmp_path / "in", 6)
    for number, size in ((6, 30), (7, 18)):
        mr_slice(source / f"case{number}" / "image.dcm", number, body(number, size))
    labels = mr_labels(tmp_path / "labels.csv")
    mr_export(tmp_path / "first")
    protect(tmp_path / "first", tmp_path / "s", small(labels=labels, method="salm:texture"))
    surrogate = str(tmp_path / "s.work" / "surrogate.safetensors")
    options = {"labels": labels, "method": "salm:texture", "surrogate": surrogate, "estimate": False}
    protect(source, tmp_path / "once", small(**options))
    paths = [f"case{number}/image.dcm" for number in range(8)]
    folders = _parts(source, [[paths[6], paths[1]], [paths[0], paths[2], paths[4]], [paths[7]], []])
    protect(folders[0], tmp_path / "grown", small(**options))
    for folder in folders[1:]:
        protect(folder, tmp_path / "grown", small(labels=labels, surrogate="", rounds=None, add=True))
    assert tree(tmp_path / "grown") == tree(tmp_path / "once")
    assert _fates(tmp_path / "grown") == _fates(tmp_path / "once")
    work, once = (_work_of(tmp_path / name) for name in ("grown", "once"))
    assert {path: content for path, content in work.items() if path.startswith("noise")} == {
        path: content for path, content in once.items() if path.startswith("noise")
    }


def test_images_are_added_to_a_search(tmp_path: Path) -> None:
    labels = mr_labels(tmp_path / "labels.csv")
    folders = _parts(mr_export(tmp_path / "in"), [[f"case{number}/image.dcm" for number in range(6)], []])
    out = _grown(folders, tmp_path / "out", make=small, labels=labels, method="salm:texture", estimate=False)
    first = tree(tmp_path / "out")
    assert {fate.status for fate in _fates(out).values()} == {"protected"}
    assert len(first) == 8
    assert not verify(tmp_path / "in", out).mismatches
    plan = FrozenPlan.read(tmp_path / "out.work" / "plan.jsonl")
    assert plan.plan.classes == ("healthy", "ill")
    assert [plan.plan.classes[plan.labels[f"case{number}/image.dcm"]] for number in (6, 7)] == ["healthy", "ill"]
    assert {sample.target for sample in plan.plan.samples} == {0, 1}
    protect(tmp_path / "in", out, small(labels=labels, method="salm:texture", estimate=False,
                                        resume=True))  # fmt: skip
    assert tree(tmp_path / "out") == first


@pytest.mark.slow
def test_volumes_with_label_maps(tmp_path: Path) -> None:
    source = nifti_export(tmp_path / "in", 4, labels=tmp_path / "labels")
    options = {"labels": tmp_path / "labels", "task": "segmentation", "modality": "MR", "estimate": False}
    protect(source, tmp_path / "once", drawn(method="salm:lattice", **options))
    folders = _parts(source, [["v2.nii.gz"], ["v0.nii.gz", "v3.nii.gz"], []])
    _grown(folders, tmp_path / "grown", method="salm:lattice", **options)
    assert tree(tmp_path / "grown") == tree(tmp_path / "once")
    assert _fates(tmp_path / "grown") == _fates(tmp_path / "once")


def test_references_follow_what_comes_later(tmp_path: Path) -> None:
    """Reports and images that came first refer to images that come later; so does a report to a report."""
    source = tmp_path / "in"
    uids = [f"{ROOT_UID}.10.{number + 1}" for number in range(4)]
    from tests.io.builders import reference

    mr_slice(source / "a.dcm", 0, ReferencedImageSequence=reference(uids[2]))
    for number, name in ((1, "b"), (2, "c")):
        mr_slice(source / f"{name}.dcm", number)
    mr_slice(source / "d.dcm", 3, ReferencedImageSequence=reference(uids[0]))
    dicom_object(source / "sr.dcm", SR, 1, [f"{ROOT_UID}.40.3"])
    dicom_object(source / "ko.dcm", KO, 2, [uids[3]])
    dicom_object(source / "rt.dcm", RTSTRUCT, 3, [uids[0], uids[1]], StructureSetDate="20200101",
                 StructureSetTime="120000")  # fmt: skip
    protect(source, tmp_path / "once", drawn())
    folders = _parts(source, [["a.dcm", "sr.dcm", "rt.dcm"], ["c.dcm", "ko.dcm"], ["b.dcm"], []])
    out = _grown(folders, tmp_path / "grown", restore=True)
    assert tree(tmp_path / "grown") == tree(tmp_path / "once")
    for path, fate in _fates(tmp_path / "once").items():
        grown = _fates(tmp_path / "grown")[path]
        assert (grown.status, grown.reason, grown.sha256_out) == (fate.status, fate.reason, fate.sha256_out)
    assert not verify(source, out).mismatches
    restore(out, tmp_path / "back", KEY)
    assert tree(tmp_path / "back") == tree(source)


def test_directory_gets_its_records_back(tmp_path: Path) -> None:
    loose = [mr_slice(tmp_path / "loose" / f"{number}.dcm", number) for number in range(3)]
    source = file_set(tmp_path / "in", loose).parent
    images = sorted(set(tree(source)) - {"DICOMDIR"})
    protect(source, tmp_path / "once", drawn())
    folders = _parts(source, [["DICOMDIR", images[1]], [images[0]], []])
    out = _grown(folders, tmp_path / "grown", restore=True)
    assert tree(tmp_path / "grown") == tree(tmp_path / "once")
    fates, once = _fates(out)["DICOMDIR"], _fates(tmp_path / "once")["DICOMDIR"]
    assert (fates.left_out, fates.reason, fates.sha256_out) == ("", once.reason, once.sha256_out)
    restore(out, tmp_path / "back", KEY)
    assert tree(tmp_path / "back") == tree(source)
    late = _grown(_parts(source, [images[1:], images[:1], []]), tmp_path / "late")
    assert tree(late) == tree(tmp_path / "once")


def test_slices_are_added_to_a_series(tmp_path: Path) -> None:
    """They have the window of the first ones, which does not change any more, and verify knows it."""
    source, names = tmp_path / "in", [f"{number}.dcm" for number in range(6)]
    for number, name in enumerate(names):
        values = body(number)
        if number == 2:
            values[10:12, 10:13] = 2000  # so few that they are beyond the percentile of all slices
        mr_slice(source / name, number, values, SeriesInstanceUID="1.2.3", StudyInstanceUID="1.2.4", PatientID="S")
    out = _grown(_parts(source, [names[2:3], names[:2], []]), tmp_path / "out")
    fates = _fates(out)
    assert {fate.status for fate in fates.values()} == {"protected"}
    assert len({fate.epsilon_real for fate in fates.values()}) == 1
    report = verify(source, out, check_epsilon=Epsilon(8 / 255))
    assert not report.mismatches
    assert "1 series grew" in report.to_json()["manifest"]
    once = protect(source, tmp_path / "once", drawn())
    assert once.fates[names[0]].epsilon_real < fates[names[0]].epsilon_real / 2


def test_series_that_is_one_sample_gets_no_slices(tmp_path: Path) -> None:
    source = tmp_path / "in"
    names = [path.name for path in mr_series(source, 3, 6)]
    folders = _parts(source, [names[1:], []])
    mr_series(folders[1] / "other", 4, 6)
    out = _grown(folders, tmp_path / "out", sample="series")
    fates = _fates(out)
    assert fates[names[0]].status == "refused"
    assert "its series is in the release already as one sample" in fates[names[0]].reason
    assert fates["other/slice1.dcm"].status == "protected"
    assert fates["other/slice1.dcm"].sample_id == f"{ROOT_UID}.21.5"  # a series, as the release's are


def test_what_is_there_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = mr_export(tmp_path / "in", 3)
    out = _grown([source], tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    mr_slice(source / "new.dcm", 5)
    arguments = ["protect", str(source), str(out), "--add", "--quiet"]
    assert _ended(arguments) == 0
    printed = capsys.readouterr().out
    assert "1 protected, 0 copied, 0 refused, 0 failed" in printed
    assert "3 files of" in printed
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert _ended([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["counts"]["protected"], result["of_release"]) == (0, 4)


def test_same_files_of_another_time(tmp_path: Path) -> None:
    """Also those that nobody needed the bytes of."""
    source = mr_export(tmp_path / "in", 2)
    (source / "raw.bin").write_bytes(b"\0")
    out = _grown([source], tmp_path / "out", copy_unprotected=True)
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    done = protect(source, out, drawn(add=True, copy_unprotected=True))
    assert (done.fates, done.of_release) == ({}, 3)


def test_renewed_without_the_key(tmp_path: Path) -> None:
    source = mr_export(tmp_path / "in", 1)
    dicom_object(source / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.1"])
    out = _grown(_parts(source, [["sr.dcm"], []])[:1], tmp_path / "out", restore=True)
    protect(tmp_path / "day1", out, drawn(add=True))
    fate = _fates(out)["sr.dcm"]
    assert (fate.residual, fate.reason) == (
        "",
        "no image (Comprehensive SR Storage); references to changed objects were "
        "renewed; its original does not come back: that was done without the key",
    )


def test_names_and_uids_that_are_taken(tmp_path: Path) -> None:
    source = mr_export(tmp_path / "in", 3)
    out = _grown([source], tmp_path / "out")
    new = tmp_path / "new"
    mr_slice(new / "case0" / "image.dcm", 8)  # another image of a name that is there
    mr_slice(new / "again.dcm", 1, block(1)[0][:, :, 5])  # another image with a UID that is there
    shutil.copytree(source / "case2", new / "moved")
    done = protect(new, out, drawn(add=True))
    assert "the release has another file of this name" in done.fates["case0/image.dcm"].reason
    assert "give new files a folder of their own" in done.fates["case0/image.dcm"].reason
    assert "is that of case1/image.dcm in the release" in done.fates["again.dcm"].reason
    assert {path: fate.status for path, fate in done.fates.items()} == {
        "case0/image.dcm": "refused", "again.dcm": "refused", "moved/image.dcm": "protected",
    }  # fmt: skip
    assert tree(out)["moved/image.dcm"] == tree(out)["case2/image.dcm"]
    kept = _fates(out)
    assert kept["case0/image.dcm"].status == "protected", "what the release says of its own file stays"


def test_all_that_comes_is_refused(tmp_path: Path) -> None:
    labels = mr_labels(tmp_path / "labels.csv", 6)
    out = _grown([mr_export(tmp_path / "in", 4)], tmp_path / "out", make=small, method="salm:texture", labels=labels,
                 estimate=False)  # fmt: skip
    new = tmp_path / "new"
    mr_slice(new / "case4" / "image.dcm", 4, body(4) // 100)
    (new / "notes.txt").write_text("notes")
    done = protect(new, out, small(labels=labels, add=True))
    assert {path: fate.status for path, fate in done.fates.items()} == {
        "case4/image.dcm": "refused", "notes.txt": "copied",
    }  # fmt: skip


def test_file_that_was_refused_comes_again(tmp_path: Path) -> None:
    source = mr_export(tmp_path / "in", 4)
    labels = label_table(tmp_path / "few.csv", {"case0/image.dcm": "healthy", "case1/image.dcm": "ill"})
    options = {"make": small, "method": "salm:texture", "estimate": False}
    out = _grown([source], tmp_path / "out", labels=labels, **options)
    assert _fates(out)["case3/image.dcm"].status == "refused"
    done = protect(source, out, small(labels=mr_labels(tmp_path / "all.csv", 4), add=True))
    assert {path: fate.status for path, fate in done.fates.items()} == {
        "case2/image.dcm": "protected", "case3/image.dcm": "protected",
    }  # fmt: skip
    assert {fate.status for fate in _fates(out).values()} == {"protected"}
    assert not FrozenPlan.read(tmp_path / "out.work" / "plan.jsonl").plan.refused


def test_column_of_the_labels_is_the_same(tmp_path: Path) -> None:
    table = {f"case{number}/image.dcm": [number % 2, number] for number in range(6)}
    labels = label_table(tmp_path / "l.csv", table, columns=("ill", "age"))
    folders = _parts(mr_export(tmp_path / "in", 6), [[f"case{number}/image.dcm" for number in range(4)], []])
    out = _grown(folders[:1], tmp_path / "out", make=small, method="salm:texture", labels=labels, label_column="ill",
                 estimate=False)  # fmt: skip
    protect(folders[1], out, small(labels=labels, add=True))
    assert {fate.status for fate in _fates(out).values()} == {"protected"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilon": "4/255"}, "--epsilon 4/255 (the release has 8/255)"),
        ({"method": "salm"}, ""),
        ({"uids": "keep"}, "--uids keep (the release has new)"),
        ({"seed": 3}, "--seed 3 (the release has 0)"),
        ({"rounds": 4}, "--rounds 4"),
        ({"key_file": "other"}, "not the key that the run"),
    ],
)
def test_another_choice_is_said(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    out = _grown([mr_export(tmp_path / "in", 2)], tmp_path / "out")
    mr_slice(tmp_path / "new" / "new.dcm", 5)
    if "key_file" in changes:
        (tmp_path / "key").write_text("another key, which is long enough")
        changes = {"key_file": tmp_path / "key"}
    options = drawn(**({"add": True} | changes))
    if not said:  # the default says nothing
        protect(tmp_path / "new", out, options)
        assert (out / "new.dcm").is_file()
        return
    before = tree(tmp_path / "out.work")
    with pytest.raises(UsageError) as error:
        protect(tmp_path / "new", out, options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert tree(tmp_path / "out.work") == before
    assert not (out / "new.dcm").exists()


def test_nothing_to_add_to(tmp_path: Path) -> None:
    source = mr_export(tmp_path / "in", 2)
    with pytest.raises(UsageError, match="there is no release to add to"):
        protect(source, tmp_path / "out", drawn(add=True))
    assert not (tmp_path / "out.work").exists()
    protect(zip_file(tmp_path / "in.zip", source), tmp_path / "zipped", drawn())
    mr_slice(tmp_path / "new" / "new.dcm", 5)
    with pytest.raises(UsageError, match="its files are in a zip"):
        protect(tmp_path / "new", tmp_path / "zipped", drawn(add=True))
    _grown([source], tmp_path / "out")
    with pytest.raises(UsageError, match="unpack it first"):
        protect(zip_file(tmp_path / "new.zip", tmp_path / "new"), tmp_path / "out", drawn(add=True))


def test_run_that_is_not_finished_gets_nothing(tmp_path: Path) -> None:
    out = _grown([mr_export(tmp_path / "in", 2)], tmp_path / "out")
    manifest = tmp_path / "out.work" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().splitlines(keepends=True)[0])
    mr_slice(tmp_path / "new" / "new.dcm", 5)
    with pytest.raises(UsageError, match="the run is not finished; end it with --resume"):
        protect(tmp_path / "new", out, drawn(add=True))


def test_method_whose_samples_hang_together(tmp_path: Path) -> None:
    labels = mr_labels(tmp_path / "labels.csv", 4)
    out = _grown([mr_export(tmp_path / "in", 4)], tmp_path / "out", make=small, method="lsp", surrogate="", rounds=None,
                 labels=labels, estimate=False)  # fmt: skip
    mr_slice(tmp_path / "new" / "new.dcm", 5)
    with pytest.raises(UsageError, match="the noise of method 'lsp' follows from all samples at once"):
        protect(tmp_path / "new", out, small(labels=labels, add=True, surrogate="", rounds=None))


def test_new_files_get_a_way_back_or_say_so(tmp_path: Path) -> None:
    key = shutil.copyfile(KEY, tmp_path / "key")
    source = mr_export(tmp_path / "in", 2)
    out = _grown([source], tmp_path / "out", restore=True, key_file=key)
    mr_slice(tmp_path / "new" / "new.dcm", 5)
    key.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="the key of the release is not there; give it as --key-file"):
        protect(tmp_path / "new", out, drawn(add=True, key_file=None, restore=True))
    protect(tmp_path / "new", out, drawn(add=True, key_file=tmp_path / "elsewhere", restore=True))
    restore(out, tmp_path / "back", KEY)
    assert tree(tmp_path / "back") == tree(source) | tree(tmp_path / "new")


def test_preview_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _grown([mr_export(tmp_path / "in", 2)], tmp_path / "out")
    mr_slice(tmp_path / "in" / "new.dcm", 5)
    before = tree(tmp_path)
    assert _ended(["protect", str(tmp_path / "in"), str(out), "--add", "--dry-run", "--quiet"]) == 0
    assert "would protect 1 files in 1 samples" in capsys.readouterr().out
    assert tree(tmp_path) == before


class _StoppedError(Exception):
    pass


def _stop(*_: Any, **__: Any) -> None:
    raise _StoppedError


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (adding, "make_derivation", "before"),
        (adding, "renew_references", "before"),
        (adding, "renew_references", "after"),
        (adding, "keep_again", "after"),
        (adding, "write_documents", "before"),
        (adding.NoiseStore, "take", "after"),
        (Manifest, "rewrite", "after"),
        (adding.SearchRecord, "write", "after"),
        (FrozenPlan, "write", "before"),
        (FrozenPlan, "write", "after"),
        (adding.shutil, "rmtree", "before"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_stopped_while_it_is_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: str
) -> None:
    source = tmp_path / "in"
    loose = [mr_slice(tmp_path / "loose" / f"{number}.dcm", number) for number in range(3)]
    file_set(source, loose)
    dicom_object(source / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.{number + 1}" for number in range(3)])
    images = [path for path in tree(source) if path not in ("DICOMDIR", "sr.dcm")]
    protect(source, tmp_path / "once", drawn())
    folders = _parts(source, [["DICOMDIR", "sr.dcm"], images[:1], []])
    out = _grown(folders[:1], tmp_path / "out", restore=True)
    real: Callable[..., Any] = getattr(owner, name)
    calls = []

    def stopped(*given: Any, **named: Any) -> Any:
        place = given[0].path if name == "rewrite" else given[-1]
        if name not in ("rewrite", "write") or "adding" not in str(place):  # what is the release's, not the addition's
            calls.append(1)
            if when == "after":
                real(*given, **named)
            raise _StoppedError
        return real(*given, **named)

    monkeypatch.setattr(owner, name, stopped)
    with pytest.raises(_StoppedError):
        protect(folders[1], out, drawn(add=True, restore=True))
    assert calls
    monkeypatch.undo()
    protect(folders[1], out, drawn(add=True, resume=True, restore=True))
    protect(folders[2], out, drawn(add=True, restore=True))
    assert tree(out) == tree(tmp_path / "once")
    assert {path: fate.sha256_out for path, fate in _fates(out).items()} == {
        path: fate.sha256_out for path, fate in _fates(tmp_path / "once").items()
    }
    assert not (tmp_path / "out.work" / "adding").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    restore(out, tmp_path / "back", KEY)
    assert tree(tmp_path / "back") == tree(source)
    nifti_file(tmp_path / "more" / "v.nii", block(3)[0])
    protect(tmp_path / "more", out, drawn(add=True))
    assert (out / "v.nii").is_file()
