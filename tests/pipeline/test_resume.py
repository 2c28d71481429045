# SPDX-License-Identifier: Apache-2.0
"""Stopped runs go on to the same bytes; folders, keys and frozen surrogates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pydicom
import pytest

from monai_salm.disk import atomic_target
from monai_salm.errors import UsageError
from monai_salm.learning.surrogate import load_surrogate, surrogate_bytes
from monai_salm.pipeline import ProtectionRun, ProtectOptions, protect
from tests.exports import (
    block,
    body,
    drawn,
    label_table,
    lesion_table,
    mr_export,
    mr_labels,
    mr_slice,
    nifti_export,
    nifti_file,
    small,
    tree,
)

COUNT = 4


class StopError(Exception):
    """The power is gone."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    mr_export(folder / "in", COUNT)
    (folder / "in" / "raw.bin").write_bytes(b"\0")
    protect(folder / "in", folder / "out", _options(folder))
    return folder


def _options(folder: Path, **changes: Any) -> ProtectOptions:
    return small(labels=mr_labels(folder / "l.csv", COUNT), rounds=3, **changes)


def _stop_after(monkeypatch: pytest.MonkeyPatch, module: str, name: str, calls: int, *, inside: bool = False) -> None:
    """Let a function stop the run once it was called some times, after its work or in the middle of it."""
    room = import_module(module)
    real: Callable[..., Any] = getattr(room, name)
    seen = []

    def stopping(*arguments: Any, **named: Any) -> Any:
        seen.append(1)
        if inside and len(seen) == calls:
            raise StopError("no power")
        result = real(*arguments, **named)
        if len(seen) == calls:
            raise StopError("no power")
        return result

    monkeypatch.setattr(room, name, stopping)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [
        ("monai_salm.pipeline.checkpoint", "write_atomically", 1),
        ("monai_salm.pipeline.checkpoint", "write_atomically", 3),
        ("monai_salm.pipeline.search", "noise_record", 2),
        ("monai_salm.pipeline.search", "surrogate_bytes", 1),
        ("monai_salm.pipeline.output", "write_file", 1),
        ("monai_salm.pipeline.output", "write_file", 3),
        ("monai_salm.pipeline.output", "run_secret", 1),
    ],
    ids=["round 1", "last round", "noise", "surrogate", "file 1", "file 3", "before files"],
)
def test_stopped_run_goes_on_to_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, calls: int
) -> None:
    with monkeypatch.context() as patch:
        _stop_after(patch, module, name, calls)
        with pytest.raises(StopError, match="no power"):
            protect(finished / "in", tmp_path / "out", _options(finished))
    result = protect(finished / "in", tmp_path / "out", _options(finished, resume=True))
    assert tree(tmp_path / "out") == tree(finished / "out")
    assert (tmp_path / "out.work" / "manifest.jsonl").read_bytes() == (
        finished / "out.work" / "manifest.jsonl"
    ).read_bytes()
    assert result.to_json()["counts"] == {"protected": COUNT, "copied": 0, "refused": 1, "failed": 0}
    assert not (tmp_path / "out.work" / "search.safetensors").exists()


@pytest.mark.slow
def test_finished_search_is_not_repeated(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _stop_after(patch, "monai_salm.pipeline.output", "write_file", 2)
        with pytest.raises(StopError, match="no power"):
            protect(finished / "in", tmp_path / "out", _options(finished))
    _stop_after(monkeypatch, "monai_salm.pipeline.search", "method_of", 1, inside=True)
    protect(finished / "in", tmp_path / "out", _options(finished, resume=True))
    assert tree(tmp_path / "out") == tree(finished / "out")


@pytest.mark.slow
def test_lost_and_damaged_outputs_are_written_again(finished: Path, tmp_path: Path) -> None:
    protect(finished / "in", tmp_path / "out", _options(finished))
    (tmp_path / "out" / "case0" / "image.dcm").unlink()
    (tmp_path / "out" / "case1" / "image.dcm").write_bytes(b"junk")
    protect(finished / "in", tmp_path / "out", _options(finished, resume=True))
    assert tree(tmp_path / "out") == tree(finished / "out")


def test_what_a_killed_run_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", COUNT)
    protect(tmp_path / "in", tmp_path / "whole", drawn())
    with monkeypatch.context() as patch:
        _stop_after(patch, "monai_salm.pipeline.output", "write_file", 2)
        with pytest.raises(StopError, match="no power"):
            protect(tmp_path / "in", tmp_path / "out", drawn())
    manifest = tmp_path / "out.work" / "manifest.jsonl"
    first, second = manifest.read_text().splitlines()[0], '{"path": "case1/im'
    manifest.write_text(first + "\n" + second)
    (tmp_path / "out" / "case2").mkdir(exist_ok=True)
    with atomic_target(tmp_path / "out" / "case2" / "image.dcm") as left:
        pass
    (tmp_path / "out" / "case2" / "image.dcm").unlink()
    left.write_bytes(b"half")
    with monkeypatch.context() as patch:
        _stop_after(patch, "monai_salm.pipeline.output", "write_file", 3)
        with pytest.raises(StopError, match="no power"):
            protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert manifest.read_bytes() == (tmp_path / "whole.work" / "manifest.jsonl").read_bytes()


def test_unprotected_copies_of_an_earlier_run_are_taken_back(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    (tmp_path / "in" / "raw.bin").write_bytes(b"\0")
    protect(tmp_path / "in", tmp_path / "out", drawn(copy_unprotected=True))
    assert (tmp_path / "out" / "raw.bin").exists()
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert not (tmp_path / "out" / "raw.bin").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed was 0, is 1 now"),
        ({"epsilon": "4/255"}, "epsilon was 8/255, is 4/255 now"),
        ({"rounds": 9}, "rounds was 3, is 9 now"),
        ({"method": "em"}, "method was salm, is em now"),
        ({"window": "0,500", "modality": "MR"}, "modality was not given, is MR now; window was auto, is 0,500 now"),
        ({"surrogate": "small-resnet"}, "surrogate was small-cnn, is small-resnet now"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_going_on_with_other_options_names_them(finished: Path, change: dict[str, Any], named: str) -> None:
    options = ProtectOptions(**(vars(_options(finished, resume=True)) | change))
    with pytest.raises(
        UsageError, match=rf"are not those that the run was begun with: {named}; give those again, or start"
    ):
        protect(finished / "in", finished / "out", options)
    with pytest.raises(UsageError, match=named):
        ProtectionRun(finished / "in", finished / "out", options).preview()


def test_going_on_with_other_labels_names_them(finished: Path, tmp_path: Path) -> None:
    table = label_table(
        tmp_path / "m.csv", {f"case{n}/image.dcm": ("healthy", "ill")[n in (0, 1)] for n in range(COUNT)}
    )
    with pytest.raises(
        UsageError, match=r"begun with: 2 labels changed: of case0/image.dcm it was healthy, is ill now; give"
    ):
        protect(finished / "in", finished / "out", small(labels=table, rounds=3, resume=True))
    table = label_table(tmp_path / "m.csv", {f"case{n}/image.dcm": ("well", "ill")[n % 2] for n in range(COUNT)})
    with pytest.raises(
        UsageError, match=r"begun with: 2 labels changed: of case0/image.dcm it was healthy, is well now; give"
    ):
        protect(finished / "in", finished / "out", small(labels=table, rounds=3, resume=True))
    table = label_table(tmp_path / "m.csv", {f"case{n}/image.dcm": ("healthy", "ill")[n % 2] for n in range(3)})
    with pytest.raises(UsageError, match=r"begun with: 1 files refused now, but not before: 'case3/image.dcm'; give"):
        protect(finished / "in", finished / "out", small(labels=table, rounds=3, resume=True))


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda folder: mr_slice(folder / "case1" / "image.dcm", 1, body(7)), "1 files changed: 'case1/image.dcm'"),
        (lambda folder: (folder / "case1" / "image.dcm").unlink(), "1 files gone: 'case1/image.dcm'"),
        (lambda folder: mr_export(folder, COUNT + 5), "5 files new: .* and 2 more"),
        (lambda folder: (folder / "notes.txt").write_text("y"), "1 files changed: 'notes.txt'"),
        (
            lambda folder: (folder / "case1" / "image.dcm").write_bytes(b"\0junk"),
            "1 files refused now, but not before: 'case1/image.dcm'",
        ),
    ],
    ids=["changed", "gone", "new", "document", "damaged"],
)
def test_going_on_with_other_files_names_them(tmp_path: Path, act: Callable[[Path], Any], named: str) -> None:
    mr_export(tmp_path / "in", COUNT)
    (tmp_path / "in" / "notes.txt").write_text("x")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    act(tmp_path / "in")
    with pytest.raises(UsageError, match=rf"begun with: {named}; give those again"):
        protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))


@pytest.mark.slow
def test_going_on_with_other_label_maps_or_another_surrogate_is_refused(finished: Path, tmp_path: Path) -> None:
    """What lies beside the input counts as much as the input."""
    nifti_export(tmp_path / "in", 3, labels=tmp_path / "maps")
    options = {"labels": tmp_path / "maps", "task": "segmentation", "surrogate": "small-unet"}
    protect(tmp_path / "in", tmp_path / "out", small(**options))
    nifti_file(tmp_path / "maps" / "v1.nii.gz", block(6)[1])
    with pytest.raises(UsageError, match=r"begun with: the label map of v1.nii.gz changed; give"):
        protect(tmp_path / "in", tmp_path / "out", small(**options, resume=True))
    surrogate = tmp_path / "surrogate.safetensors"
    surrogate.write_bytes((finished / "out.work" / "surrogate.safetensors").read_bytes())
    mr_export(tmp_path / "more", COUNT)
    again = {"labels": mr_labels(tmp_path / "l.csv", COUNT), "surrogate": str(surrogate)}
    protect(tmp_path / "more", tmp_path / "done", small(**again))
    network, card = load_surrogate(surrogate)
    surrogate.write_bytes(surrogate_bytes(network, replace(card, rounds=card.rounds + 1)))
    with pytest.raises(UsageError, match=r"begun with: the surrogate changed; give"):
        protect(tmp_path / "more", tmp_path / "done", small(**again, resume=True))


@pytest.mark.slow
def test_finished_search_goes_on_with_what_it_refused(tmp_path: Path) -> None:
    """Samples are not read again where the noise is there, yet what they were refused for is known."""
    nifti_export(tmp_path / "in", 4, labels=tmp_path / "maps")
    (tmp_path / "maps" / "v1.nii.gz").write_bytes(b"junk")
    options = {"labels": tmp_path / "maps", "task": "segmentation", "surrogate": "small-unet"}
    first = protect(tmp_path / "in", tmp_path / "out", small(**options))
    (tmp_path / "out" / "v0.nii.gz").unlink()
    again = protect(tmp_path / "in", tmp_path / "out", small(**options, resume=True))
    assert {path: (fate.status, fate.reason) for path, fate in again.fates.items()} == {
        path: (fate.status, fate.reason) for path, fate in first.fates.items()
    }
    assert again.fates["v1.nii.gz"].status == "refused"


def test_going_on_where_nothing_was_begun(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "original.dcm").write_bytes(b"x")
    with pytest.raises(UsageError, match="has no run to go on with; give that run's --work-dir"):
        protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))


@pytest.mark.parametrize(
    ("output", "work", "message"),
    [
        ("in", "w", "the output .* lies in the input"),
        ("in/out", "w", "the output .* lies in the input"),
        ("out", "in/w", "the work folder .* lies in the input"),
        ("full", "w", "the output .* is not empty; give --resume"),
        ("out", "full", "the work folder .* is not empty; give --resume"),
        ("file", "w", "the output .* is a file already; give another name"),
        ("out", "out/w", "the work folder .* lies in the output .*, which is handed out"),
        ("out", "out", "the work folder .* lies in the output .*, which is handed out"),
    ],
    ids=[
        "output is input",
        "output in input",
        "work in input",
        "full output",
        "full work",
        "file",
        "work in output",
        "work is output",
    ],
)
def test_folders_that_do_not_do(tmp_path: Path, output: str, work: str, message: str) -> None:
    mr_export(tmp_path / "in", 2)
    before = tree(tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=message):
        protect(tmp_path / "in", tmp_path / output, drawn(work_dir=tmp_path / work))
    assert tree(tmp_path / "in") == before


def test_input_in_the_output_is_refused(tmp_path: Path) -> None:
    mr_export(tmp_path / "all" / "in", 2)
    with pytest.raises(UsageError, match=r"is not empty|lies in the output"):
        protect(tmp_path / "all" / "in", tmp_path / "all", drawn(resume=True))


def test_single_file_may_be_written_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nifti_export(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    protect(Path("v0.nii.gz"), Path("out"), drawn())
    assert list(tree(tmp_path / "out")) == ["v0.nii.gz"]
    with pytest.raises(UsageError, match="lies in the input"):
        protect(Path("v0.nii.gz"), Path(), drawn())


def test_output_may_be_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    protect(tmp_path / "in", Path(), drawn())
    assert list(tree(tmp_path / "out")) == ["case0/image.dcm"]
    assert (tmp_path / "out.work" / "plan.jsonl").is_file()


def _uids(folder: Path) -> list[str]:
    return [
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in sorted(folder.rglob("*.dcm"))
    ]


def test_key_decides_the_new_uids(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    for name in "ab":
        (tmp_path / name).write_text(name * 64)
    runs = {"none": None, "a": tmp_path / "a", "b": tmp_path / "b", "a again": tmp_path / "a"}
    for name, key in runs.items():
        protect(
            tmp_path / "in",
            tmp_path / name / "out" if name not in "ab" else tmp_path / f"{name}-out",
            drawn(key_file=key, seed=len(name)),
        )
    none, a, b, again = (_uids(tmp_path / name) for name in ("none/out", "a-out", "b-out", "a again/out"))
    assert a == again
    protect(tmp_path / "in", tmp_path / "seed", drawn(seed=77))
    assert not set(none) & set(_uids(tmp_path / "seed"))
    assert len({*none, *a, *b, *_uids(tmp_path / "in")}) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "the key cannot be read"), (b"", "the key has 0 bytes"), (b"short\n", "the key has 5 bytes")],
)
def test_key_that_cannot_be_used_is_found_before_the_search(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    mr_export(tmp_path / "in", 2)
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=f"{message}.*make one with 'monai-salm keygen FILE'"):
        protect(tmp_path / "in", tmp_path / "out", drawn(key_file=tmp_path / "key"))
    assert not (tmp_path / "out.work").exists()


def test_going_on_with_another_key_is_refused(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    (tmp_path / "key").write_text("k" * 64)
    with pytest.raises(UsageError, match=r"not the key that the run .* was begun with"):
        protect(tmp_path / "in", tmp_path / "out", drawn(resume=True, key_file=tmp_path / "key"))


@pytest.mark.slow
def test_frozen_surrogate_protects_further_samples(finished: Path, tmp_path: Path) -> None:
    surrogate = finished / "out.work" / "surrogate.safetensors"
    before = surrogate.read_bytes()
    options = {"surrogate": str(surrogate), "labels": mr_labels(tmp_path / "l.csv", 6), "rounds": 2}
    for name in ("one", "two"):
        mr_export(tmp_path / "in", 6)
        result = protect(tmp_path / "in", tmp_path / name, small(**options))
    assert result.to_json()["counts"]["protected"] == 6
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert surrogate.read_bytes() == before


def test_frozen_surrogate_of_another_task_is_refused(finished: Path, tmp_path: Path) -> None:
    surrogate = str(finished / "out.work" / "surrogate.safetensors")
    nifti_export(tmp_path / "in", 2)
    with pytest.raises(UsageError, match=r"it was trained on 2D samples of the classes .*, these are 3D"):
        protect(
            tmp_path / "in",
            tmp_path / "out",
            small(surrogate=surrogate, labels=lesion_table(tmp_path / "l.csv", ["v0.nii.gz", "v1.nii.gz"])),
        )


@pytest.mark.parametrize(("surrogate", "task"), [("small-resnet", "segmentation"), ("small-unet", "classification")])
def test_network_of_the_wrong_kind_is_refused(tmp_path: Path, surrogate: str, task: str) -> None:
    nifti_export(tmp_path / "in", 2, labels=tmp_path / "maps")
    labels = (
        tmp_path / "maps" if task == "segmentation" else lesion_table(tmp_path / "l.csv", ["v0.nii.gz", "v1.nii.gz"])
    )
    with pytest.raises(UsageError, match=f"network '{surrogate}' gives .*; give a network for {task}"):
        protect(tmp_path / "in", tmp_path / "out", small(surrogate=surrogate, task=task, labels=labels))
