# SPDX-License-Identifier: Apache-2.0
"""A plan is made once, and obeyed: a run that goes on reads no file again that did not change."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.errors import SalmError, UsageError
from monai_salm.pipeline import ProtectionRun, ProtectOptions, prepare, protect
from monai_salm.pipeline.checkpoint import Checkpoint
from monai_salm.pipeline.frozen_plan import FrozenPlan
from monai_salm.pipeline.known_files import KnownFiles
from monai_salm.pipeline.scanning import scan
from monai_salm.seals import sealed_lines
from tests.exports import (
    block,
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
    plan_in,
    plan_lines,
    small,
    tree,
    write_plan,
    zip_file,
)

ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"


def _mixed(folder: Path) -> Path:
    """Write pictures and documents of every kind, a copy, and files that are refused."""
    mr_export(folder / "slices", 3)
    mr_series(folder / "series", 5, slices=4)
    nifti_export(folder / "volumes", 2)
    nifti_file(folder / "volumes" / "w0.nii", block(0)[0])  # the values of v0.nii.gz
    nifti_file(folder / "volumes" / "labels.nii.gz", block(1)[1])
    (folder / "copy.dcm").write_bytes((folder / "slices" / "case0" / "image.dcm").read_bytes())
    dicom_object(folder / "report.dcm", ENHANCED_SR, 1, ["1.2.826.0.1.3680043.8.498.10.1"])
    file_set(folder / "disc", [mr_slice(folder / "tmp.dcm", 7)])
    (folder / "notes.txt").write_text("x")
    (folder / "raw.bin").write_bytes(b"\0")
    nifti_file(folder / "flat.nii", np.zeros((16, 16, 12), np.int16))
    return folder


def _without_judgements(known: KnownFiles) -> KnownFiles:
    """Give what a plan keeps of files: judgements served their turn."""
    files = {}
    for path, file in known.files.items():
        record = replace(file.record, judgement=None)
        if record.document is not None:
            record = replace(record, document=replace(record.document, judgement=None))
        files[path] = replace(file, record=record)
    return KnownFiles(files, known.archive)


def _touch(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000_000))


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let whatever looks into an image, but for the writer, stop the run."""

    def forbidden(path: Path, *_: Any) -> None:
        raise AssertionError(f"{path} was read")

    def forbid() -> None:
        for room, names in (
            ("scanning", ("identify", "read_source", "identified")),
            ("deciding", ("file_digest",)),
            ("looking", ("read_source",)),
            ("known_files", ("has_digest",)),
            ("frozen_plan", ("file_digest",)),
        ):
            for name in names:
                monkeypatch.setattr(import_module(f"monai_salm.pipeline.{room}"), name, forbidden)

    return forbid


def test_a_plan_on_disk_is_the_plan(tmp_path: Path) -> None:
    _mixed(tmp_path / "in")
    inventory, decision, labels = prepare(tmp_path / "in", drawn())
    plan = decision.plan
    frozen = FrozenPlan.of(plan, inventory, labels)
    frozen.write(tmp_path / "plan.jsonl")
    again = FrozenPlan.read(tmp_path / "plan.jsonl")
    assert again.plan == plan
    assert again.plan.digest() == plan.digest() == plan_lines(tmp_path / "plan.jsonl")[0]["digest"]
    assert KnownFiles(
        {path: replace(known, record=known.placed(tmp_path / "in")) for path, known in again.known.files.items()}
    ) == _without_judgements(frozen.known)
    assert (tmp_path / "plan.jsonl").stat().st_mode & 0o077 == 0
    kinds = {path: bool(known.sha256) for path, known in again.known.files.items()}
    assert not kinds.pop("raw.bin"), "refused by its content, so looked at again where its time differs"
    assert all(kinds.values())


def test_findings_survive_as_they_are(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    table = label_table(
        tmp_path / "l.csv", {"case0/image.dcm": [0, 1], "case1/image.dcm": [1, 1]}, columns=("edema", "mass")
    )
    inventory, decision, labels = prepare(tmp_path / "in", small(labels=table))
    plan = decision.plan
    FrozenPlan.of(plan, inventory, labels).write(tmp_path / "plan.jsonl")
    again = FrozenPlan.read(tmp_path / "plan.jsonl")
    assert again.plan == plan
    assert again.labels == {"case0/image.dcm": (0.0, 1.0), "case1/image.dcm": (1.0, 1.0)}


def test_nothing_changes_a_plan(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    plan = prepare(tmp_path / "in", drawn())[1].plan
    with pytest.raises(FrozenInstanceError):
        plan.samples = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        plan.samples[0].target = 1  # type: ignore[misc]
    for field in (plan.refused, plan.documents, plan.copies, plan.settings):
        with pytest.raises(TypeError):
            field["x"] = "y"  # type: ignore[index]
    fewer = plan.without({"case0/image.dcm": "why"}, ["a"])
    assert [[file.path for file in sample.files] for sample in fewer.samples] == [["case1/image.dcm"]]
    assert (fewer.refused, fewer.classes) == ({"case0/image.dcm": "why"}, ("a",))
    assert (len(plan.samples), plan.refused, plan.classes) == (2, {}, ())


def test_going_on_reads_nothing_to_plan(tmp_path: Path, no_reading: Callable[[], None]) -> None:
    _mixed(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "out", drawn(workers=1))
    whole, manifest = tree(tmp_path / "out"), (tmp_path / "out.work" / "manifest.jsonl").read_bytes()
    plan = (tmp_path / "out.work" / "plan.jsonl").read_bytes()
    (tmp_path / "out" / "volumes" / "v0.nii.gz").unlink()
    no_reading()
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert tree(tmp_path / "out") == whole
    assert (tmp_path / "out.work" / "manifest.jsonl").read_bytes() == manifest
    assert (tmp_path / "out.work" / "plan.jsonl").read_bytes() == plan, "written once"


def test_going_on_with_a_zip_reads_nothing_to_plan(tmp_path: Path, no_reading: Callable[[], None]) -> None:
    """What is unpacked anew has other times, but the zip is the same."""
    source = zip_file(tmp_path / "in.zip", _mixed(tmp_path / "in"))
    protect(source, tmp_path / "out.zip", drawn())
    whole = (tmp_path / "out.zip").read_bytes()
    (tmp_path / "out.zip").unlink()
    no_reading()
    protect(source, tmp_path / "out.zip", drawn(resume=True))
    assert (tmp_path / "out.zip").read_bytes() == whole


def test_touched_files_are_known_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _mixed(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    whole = tree(tmp_path / "out")
    for path in (tmp_path / "in").rglob("*"):
        if path.is_file():
            _touch(path)
    seen: list[Path] = []
    real: Callable[..., Any] = import_module("monai_salm.pipeline.identification").identify  # type: ignore[attr-defined]
    monkeypatch.setattr(
        import_module("monai_salm.pipeline.identification"),
        "identify",
        lambda path, said: seen.append(path) or real(path, said),
    )
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert tree(tmp_path / "out") == whole
    assert [path.name for path in seen] == ["raw.bin"]


def _same_size(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    _touch(path)


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (
            lambda folder: _same_size(folder / "slices" / "case1" / "image.dcm"),
            "1 files changed: 'slices/case1/image.dcm'",
        ),
        (lambda folder: _same_size(folder / "volumes" / "w0.nii"), "1 files changed: 'volumes/w0.nii'"),
        (lambda folder: _same_size(folder / "flat.nii"), "1 files no longer refused: 'flat.nii'"),
        (lambda folder: _same_size(folder / "notes.txt"), "1 files changed: 'notes.txt'"),
        (lambda folder: (folder / "raw.bin").write_text("words"), "1 files no longer refused: 'raw.bin'"),
        (lambda folder: (folder / "more.txt").write_text("x"), "1 files new: 'more.txt'"),
        (lambda folder: (folder / "copy.dcm").unlink(), "1 files gone: 'copy.dcm'"),
        (
            lambda folder: (_same_size(folder / "notes.txt"), (folder / "more.txt").write_text("x")),
            "1 files changed: 'notes.txt'; 1 files new: 'more.txt'",
        ),
    ],
    ids=["picture", "refused picture", "open", "document", "refused", "new", "gone copy", "two"],
)
def test_other_files_are_named(tmp_path: Path, act: Callable[[Path], Any], named: str) -> None:
    _mixed(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    before = tree(tmp_path / "out.work")
    act(tmp_path / "in")
    with pytest.raises(UsageError, match=rf"plan\.jsonl: .* begun with: {named}; give those again"):
        protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    with pytest.raises(UsageError, match=rf"begun with: {named}; give those again"):
        ProtectionRun(tmp_path / "in", tmp_path / "out", drawn(resume=True)).preview()
    assert tree(tmp_path / "out.work") == before


def test_other_labels_and_options_are_named_together(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 5)
    labels = mr_labels(tmp_path / "l.csv", 4)
    protect(tmp_path / "in", tmp_path / "out", small(labels=labels))
    mr_labels(labels, 5)
    with pytest.raises(UsageError, match=r"begun with: 1 files no longer refused: 'case4/image.dcm'; give"):
        protect(tmp_path / "in", tmp_path / "out", small(labels=labels, resume=True))
    label_table(labels, {f"case{number}/image.dcm": "ab"[number // 2] for number in range(4)})
    with pytest.raises(
        UsageError,
        match=r"seed was 0, is 3 now; 4 labels changed: of case0/image.dcm it was healthy, is a now; give",
    ):
        protect(tmp_path / "in", tmp_path / "out", small(labels=labels, resume=True, seed=3))
    mr_labels(labels, 4)
    _touch(tmp_path / "in" / "case4" / "image.dcm")
    protect(tmp_path / "in", tmp_path / "out", small(labels=labels, resume=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"format": "monai_salm.plan/2"},
            UsageError,
            r"plan\.jsonl: the plan has the format 'monai_salm\.plan/2', .* or start anew with another OUTPUT",
        ),
        ({"classes": ["no"]}, SalmError, r"plan\.jsonl: the plan is damaged \(it was changed\)"),
        ({"archive": [1]}, SalmError, r"plan\.jsonl: the plan is damaged"),
        ({"settings": 1}, SalmError, r"plan\.jsonl: the plan is damaged"),
        ({"key": "of another run"}, SalmError, r"not the key that the run .* was begun with"),
    ],
    ids=["old", "changed", "cut", "nonsense", "other key"],
)
def test_plan_that_cannot_be_obeyed(
    tmp_path: Path, change: dict[str, Any], error: type[SalmError], message: str
) -> None:
    mr_export(tmp_path / "in", 2)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    plan = tmp_path / "out.work" / "plan.jsonl"
    head, *lines = plan_lines(plan)
    plan.write_text("\n".join(sealed_lines([head | change, *lines])))
    with pytest.raises(error, match=message):
        protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))


def _segmentation(folder: Path) -> ProtectOptions:
    """Give a run one label map of which does not fit, and alone has a value."""
    nifti_export(folder / "in", 4, labels=folder / "maps")
    nifti_file(folder / "maps" / "v1.nii.gz", np.full((4, 4, 4), 7, np.uint8))
    return small(labels=folder / "maps", task="segmentation", method="salm:minmin", surrogate="small-unet", rounds=2)


def test_plan_is_complete_with_what_loading_found(tmp_path: Path) -> None:
    protect(tmp_path / "in", tmp_path / "out", _segmentation(tmp_path))
    plan = plan_in(plan_lines(tmp_path / "out.work" / "plan.jsonl"))
    assert "its label map v1.nii.gz has shape (4, 4, 4)" in plan.refused["v1.nii.gz"]
    assert plan.classes == ("0", "1", "7")
    assert len(plan.samples) == 3


def test_search_goes_on_with_the_classes_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = _segmentation(tmp_path)
    protect(tmp_path / "in", tmp_path / "whole", options)
    real = Checkpoint.save

    def stop(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            protect(tmp_path / "in", tmp_path / "out", options)
    assert (tmp_path / "out.work" / "search.safetensors").is_file()
    protect(tmp_path / "in", tmp_path / "out", replace(options, resume=True))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_can_no_longer_be_loaded_is_named(tmp_path: Path) -> None:
    options = _segmentation(tmp_path)
    protect(tmp_path / "in", tmp_path / "out", options)
    (tmp_path / "out.work" / "search.json").unlink()
    plan = tmp_path / "out.work" / "plan.jsonl"
    lines = plan_lines(plan)
    place, stamp = tmp_path / "maps" / "v0.nii.gz", (tmp_path / "maps" / "v0.nii.gz").stat()
    place.write_bytes(b"junk")
    os.utime(place, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(UsageError, match=r"begun with: the label map of v0.nii.gz changed; give"):
        protect(tmp_path / "in", tmp_path / "out", replace(options, resume=True))
    lines[0]["settings"]["contents"] = {}
    write_plan(plan, lines)
    with pytest.raises(UsageError, match=r"begun with: 1 files refused now, but not before: 'v0.nii.gz'; give"):
        protect(tmp_path / "in", tmp_path / "out", replace(options, resume=True))


def test_a_scan_knows_what_is_unchanged(tmp_path: Path) -> None:
    _mixed(tmp_path / "in")
    first = scan(tmp_path / "in")
    known = KnownFiles.of(first, {}, None)
    (tmp_path / "in" / "new.txt").write_text("x")
    (tmp_path / "in" / "link.txt").symlink_to(tmp_path / "in" / "notes.txt")
    _touch(tmp_path / "in" / "notes.txt")
    again = scan(tmp_path / "in", known=known)
    assert {record.path for record in again.files} - again.unchanged == {"new.txt", "link.txt", "notes.txt"}
    before = {record.path: record for record in first.files}
    assert all(record == before[record.path] for record in again.files if record.path in again.unchanged)
