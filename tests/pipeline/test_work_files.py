# SPDX-License-Identifier: Apache-2.0
"""Nothing that a run keeps for itself is believed unchecked: whatever happens to a file of the work folder, a run that
goes on gives the right bytes, or says in one line what is wrong.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_salm.cli import main
from monai_salm.errors import SalmError, UsageError
from monai_salm.io import Derivation
from monai_salm.learning.surrogate import load_surrogate
from monai_salm.pipeline import ProtectOptions, protect, verify
from monai_salm.pipeline.checkpoint import Checkpoint, computing_on
from monai_salm.pipeline.fates import load_fates
from monai_salm.pipeline.write_settings import WriteSettings, kept_settings, read_settings
from tests.exports import KEY, drawn, mr_export, mr_labels, small, tree, zip_file

FILES = ("plan.jsonl", "manifest.jsonl", "search.json", "uid.key", "surrogate.safetensors", "noise/0", "noise/1")
"""Of a finished run; of the noise, two of its samples."""

TOLD = {"plan.jsonl": "plan.jsonl: the plan is damaged", "uid.key": "uid.key: damaged, or not the secret"}
"""What cannot be made again, and what is said of it; all others are mended."""


def _place(work: Path, name: str) -> Path:
    folder, _, number = name.partition("/")
    return sorted((work / folder).iterdir())[int(number)] if number else work / name


def _flipped(content: bytes, where: float) -> bytes:
    place = int(where * (len(content) - 1))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-2],
    "longer": lambda content: content + b"\0",
    "flipped at the start": lambda content: _flipped(content, 0.02),
    "flipped in the middle": lambda content: _flipped(content, 0.5),
    "flipped at the end": lambda content: _flipped(content, 0.98),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a finished run, and one of the same files that was told another share."""
    folder = tmp_path_factory.mktemp("runs")
    mr_export(folder / "in", 4)
    (folder / "in" / "raw.bin").write_bytes(b"\0")
    labels = mr_labels(folder / "l.csv", 4)
    for name, fraction in (("out", 0.4), ("other", 0.3)):
        options = small(labels=labels, rounds=1, estimate=False, perturbed_fraction=fraction, key_file=None)
        protect(folder / "in", folder / name, options)
    return folder


def _copy(runs: Path, folder: Path) -> ProtectOptions:
    """Copy the finished run, take a file from its output, and give the options to go on with."""
    for name in ("out", "out.work"):
        shutil.copytree(runs / name, folder / name)
    (folder / "out" / "case1" / "image.dcm").unlink()
    return small(labels=runs / "l.csv", rounds=1, estimate=False, key_file=None, resume=True)


def _goes_on(runs: Path, folder: Path, options: ProtectOptions, name: str) -> None:
    """Hold a run that goes on against what is promised of a damaged file."""
    before = tree(folder / "out")
    if name in TOLD:
        with pytest.raises(SalmError, match=TOLD[name]) as caught:
            protect(runs / "in", folder / "out", options)
        assert "\n" not in str(caught.value)
        assert tree(folder / "out") == before
        return
    protect(runs / "in", folder / "out", options)
    assert tree(folder / "out") == tree(runs / "out")
    for kept in sorted(set(FILES) - {"surrogate.safetensors"}):
        assert _place(folder / "out.work", kept).read_bytes() == _place(runs / "out.work", kept).read_bytes(), kept


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damaged(runs: Path, tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    options = _copy(runs, tmp_path)
    place = _place(tmp_path / "out.work", name)
    whole = place.read_bytes()
    place.write_bytes(DAMAGES[damage](whole))
    if name == "uid.key" and damage == "longer":
        place.write_bytes(whole + b"00")
    _goes_on(runs, tmp_path, options, name)
    # Of a manifest without its end, a run that goes on sees no more than that it was killed there
    killed = name == "manifest.jsonl" and damage in ("emptied", "cut", "cut by a byte", "longer")
    assert name in TOLD or killed or place.name in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("other", [*FILES, "the same of another run"])
@pytest.mark.parametrize("name", FILES)
def test_exchanged(runs: Path, tmp_path: Path, name: str, other: str, caplog: pytest.LogCaptureFixture) -> None:
    if name == other:
        return
    options = _copy(runs, tmp_path)
    taken = _place(runs / "other.work", name) if other not in FILES else _place(runs / "out.work", other)
    _place(tmp_path / "out.work", name).write_bytes(taken.read_bytes())
    if name == "plan.jsonl" and other not in FILES:
        with pytest.raises(SalmError, match=r"uid\.key: damaged, or not the secret"):
            protect(runs / "in", tmp_path / "out", options)
        return
    _goes_on(runs, tmp_path, options, name)
    if name == "search.json" and other not in FILES:
        assert "search.json: damaged (it is of another run); the noise is made again" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_gone(runs: Path, tmp_path: Path, name: str) -> None:
    options = _copy(runs, tmp_path)
    _place(tmp_path / "out.work", name).unlink()
    if name == "plan.jsonl":
        with pytest.raises(UsageError, match="has no run to go on with"):
            protect(runs / "in", tmp_path / "out", options)
    else:
        place = {"noise/0": "noise/0", "noise/1": "noise/1"}.get(name, name)
        _goes_on(runs, tmp_path, options, place)


@pytest.mark.parametrize("name", FILES)
def test_command_says_it_in_lines_without_a_traceback(
    runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _copy(runs, tmp_path)
    place = _place(tmp_path / "out.work", name)
    place.write_bytes(place.read_bytes()[:50])
    options = ["--labels", str(runs / "l.csv"), "--rounds", "1", "--no-estimate", "--working-size", "24"]
    with pytest.raises(SystemExit) as stopped:
        main(
            ["protect", str(runs / "in"), str(tmp_path / "out"), *options, "--surrogate", "small-cnn", "--device",
             "cpu", "--resume", "--quiet"]
        )  # fmt: skip
    error = capsys.readouterr().err
    assert stopped.value.code == (1 if name in TOLD else 3)
    assert "unexpected" not in error
    assert error.count("\n") == (1 if name in TOLD else 0)


# What is made again ------------------------------------------------------------------------------------------------


def test_only_lost_noise_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", 4)
    protect(tmp_path / "in", tmp_path / "out", drawn(key_file=None))
    work, before = tree(tmp_path / "out.work"), tree(tmp_path / "out")
    first = _place(tmp_path / "out.work", "noise/2")
    first.write_bytes(_flipped(first.read_bytes(), 0.9))
    room, seen = import_module("monai_salm.pipeline.drawing"), []
    real = room.random_signs
    monkeypatch.setattr(room, "random_signs", lambda *some: (seen.append(some), real(*some))[1])
    monkeypatch.setattr(import_module("monai_salm.pipeline.output"), "write_file", None)  # all is written
    protect(tmp_path / "in", tmp_path / "out", drawn(key_file=None, resume=True))
    assert len(seen) == 1
    assert (tree(tmp_path / "out.work"), tree(tmp_path / "out")) == (work, before)


def test_two_exchanged_noise_files_are_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mr_export(tmp_path / "in", 3)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    before = tree(tmp_path / "out.work")
    first, second = (_place(tmp_path / "out.work", f"noise/{number}") for number in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert "noise of 2 of 3 samples is made again" in caplog.text
    assert tree(tmp_path / "out.work") == before


def test_files_are_written_again_where_the_noise_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with another number of threads: no two files of a run may have noise of two searches."""
    mr_export(tmp_path / "in", 3)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    before = tree(tmp_path / "out")
    (tmp_path / "out.work" / "search.json").unlink()
    room = import_module("monai_salm.pipeline.drawing")
    real = room.random_signs
    monkeypatch.setattr(room, "random_signs", lambda *some: -real(*some))
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert all(content != before[path] for path, content in tree(tmp_path / "out").items())


def test_lost_manifest_leaves_no_unprotected_copy(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    (tmp_path / "in" / "raw.bin").write_bytes(b"\0")
    protect(tmp_path / "in", tmp_path / "out", drawn(copy_unprotected=True))
    assert (tmp_path / "out" / "raw.bin").exists()
    (tmp_path / "out.work" / "manifest.jsonl").write_bytes(b"")
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert not (tmp_path / "out" / "raw.bin").exists()


def test_damaged_surrogate_is_not_taken(runs: Path, tmp_path: Path) -> None:
    whole = (runs / "out.work" / "surrogate.safetensors").read_bytes()
    place = tmp_path / "s.safetensors"
    for damage in DAMAGES.values():
        place.write_bytes(damage(whole))
        with pytest.raises(UsageError, match=r"s\.safetensors: "):
            load_surrogate(place)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_begins_the_search_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoint(tmp_path / "search.safetensors", "run")
    kept.save({"a": torch.arange(9.0), "b": torch.zeros(2)}, {"round": 3})
    found = kept.load()
    assert found is not None
    assert (found[0]["a"].tolist(), found[1]) == (list(range(9)), {"round": 3})
    kept.path.write_bytes(DAMAGES[damage](kept.path.read_bytes()))
    assert kept.load() is None
    assert "search.safetensors: damaged" in caplog.text


def test_checkpoint_of_another_run_is_told(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "s", "one").save({}, {})
    with pytest.raises(UsageError, match="belongs to a run with other files, labels or options"):
        Checkpoint(tmp_path / "s", "two").load()


def test_search_does_not_go_on_where_sums_are_others(tmp_path: Path) -> None:
    """Two threads add floats in another order than one, and the noise would be that of neither."""
    before = torch.get_num_threads()
    begun = computing_on(torch.device("cpu"))
    Checkpoint(tmp_path / "s", "one", computing=begun).save({}, {"round": 3})
    assert Checkpoint(tmp_path / "s", "one", computing=begun).load() == ({}, {"round": 3})
    try:
        torch.set_num_threads(before + 1)
        other = computing_on(torch.device("cpu"))
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UsageError, match=rf"begun with torch .*{before} threads, and would .* {before + 1} threads"):
        Checkpoint(tmp_path / "s", "one", computing=other).load()


def test_damaged_settings_of_the_writers_are_told(tmp_path: Path) -> None:
    derivation = Derivation(software="s", version="1", description="", uid_secret=b"s" * 32)
    with kept_settings(WriteSettings(tmp_path, tmp_path, tmp_path, derivation), tmp_path) as path:
        path.write_bytes(_flipped(path.read_bytes(), 0.5))
        with pytest.raises(SalmError, match="damaged while files are written"):
            read_settings(path)


# Of a run that was stopped -------------------------------------------------------------------------------------------


def _stopped(monkeypatch: pytest.MonkeyPatch, module: str, name: str, calls: int) -> None:
    """Let the power go after a function was called some times."""
    room, seen = import_module(f"monai_salm.pipeline.{module}"), []
    real = getattr(room, name)

    def stopping(*some: Any, **named: Any) -> Any:
        result = real(*some, **named)
        seen.append(result)
        if len(seen) == calls:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(room, name, stopping)


@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped in the middle"])
@pytest.mark.parametrize("place", ["input/case0/image.dcm", "input/case2/image.dcm", "output/case0/image.dcm"])
def test_files_of_a_zip(tmp_path: Path, place: str, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", 3)
    zip_file(tmp_path / "in.zip", tmp_path / "in")
    protect(tmp_path / "in.zip", tmp_path / "whole.zip", drawn())
    with monkeypatch.context() as patch:
        _stopped(patch, "output", "write_file", 2)
        with pytest.raises(KeyboardInterrupt):
            protect(tmp_path / "in.zip", tmp_path / "out.zip", drawn())
    damaged = tmp_path / "out.zip.work" / place
    damaged.write_bytes(DAMAGES[damage](damaged.read_bytes()))
    protect(tmp_path / "in.zip", tmp_path / "out.zip", drawn(resume=True))
    assert (tmp_path / "out.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped in the middle", "exchanged"])
def test_state_of_a_search(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mr_export(tmp_path / "in", 4)
    options = small(labels=mr_labels(tmp_path / "l.csv", 4), estimate=False)
    protect(tmp_path / "in", tmp_path / "whole", options)
    for name, seed in (("out", 0), ("other", 1)):
        with monkeypatch.context() as patch:
            _stopped(patch, "checkpoint", "write_atomically", 1)
            with pytest.raises(KeyboardInterrupt):
                protect(tmp_path / "in", tmp_path / name, replace(options, seed=seed))
    state = tmp_path / "out.work" / "search.safetensors"
    if damage == "exchanged":
        shutil.copy(tmp_path / "other.work" / "search.safetensors", state)
        with pytest.raises(UsageError, match=r"search\.safetensors: belongs to a run with other"):
            protect(tmp_path / "in", tmp_path / "out", replace(options, resume=True))
        return
    state.write_bytes(DAMAGES[damage](state.read_bytes()))
    protect(tmp_path / "in", tmp_path / "out", replace(options, resume=True))
    assert "search.safetensors: damaged" in caplog.text
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


# Who checks --------------------------------------------------------------------------------------------------------


def test_verify_believes_no_damaged_manifest(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 3)
    (tmp_path / "in" / "raw.bin").write_bytes(b"\0")
    protect(tmp_path / "in", tmp_path / "out", drawn(key_file=KEY))
    manifest = tmp_path / "out.work" / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join([lines[0], _flipped(lines[1], 0.5), *lines[2:]]))
    with pytest.raises(SalmError, match=r"line 2 is damaged \(its checksum is not that of its content\)"):
        load_fates(manifest)
    (tmp_path / "out" / "case0" / "image.dcm").unlink()
    report = verify(tmp_path / "in", tmp_path / "out")
    assert "line 2 is damaged" in report.record
    assert [file.path for file in report.mismatches] == ["case0/image.dcm"]
