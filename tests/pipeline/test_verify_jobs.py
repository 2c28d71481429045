# SPDX-License-Identifier: Apache-2.0
"""Verifying volume by volume, in any process: the same verdicts, each file read few times, and a bad file costs its own
verdict.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_salm.io import dcmtk_finds_within, read_with_simpleitk, second_reader
from monai_salm.pipeline import protect, scan, verify
from monai_salm.pipeline.file_checks import VerifyJob, volume_not_verified
from monai_salm.pipeline.file_views import BudgetOptions, VolumeFiles, volumes_in
from monai_salm.pipeline.verification import _narrowed
from monai_salm.views import FileView, PictureView
from monai_salm.windows import IntensityWindow
from tests.exports import block, body, drawn, file_set, mr_series, mr_slice, nifti_export, nifti_file

CHECKS, VIEWS = (import_module(f"monai_salm.pipeline.{name}") for name in ("file_checks", "file_views"))
COUNTER = Path("/proc/self/io")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A protected series of four slices, in ``in`` and ``out``."""
    folder = tmp_path_factory.mktemp("series")
    mr_series(folder / "in", 1, 4)
    protect(folder / "in", folder / "out", drawn())
    return folder


def _no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody else read the files."""
    room = import_module("monai_salm.pipeline.second_opinions")
    monkeypatch.setattr(room, "read_with_simpleitk", lambda *_, **__: None)
    monkeypatch.setattr(room, "dcmtk_finds_within", lambda *_: None)


def test_processes_say_the_same(tmp_path: Path) -> None:
    mr_series(tmp_path / "in", 1, 4)
    nifti_export(tmp_path / "in", 2)
    (tmp_path / "in" / "notes.txt").write_text("x")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    here = verify(tmp_path / "in", tmp_path / "out").to_json()
    assert here["counts"] == {"protected": 6, "copied": 1, "absent": 0, "mismatch": 0}
    assert verify(tmp_path / "in", tmp_path / "out", workers=2).to_json() == here


@pytest.mark.parametrize("held", [0, 1 << 29])
def test_originals_are_read_once_while_they_fit(series: Path, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = verify(series / "in", series / "out").files
    read: list[Path] = []
    real = VIEWS.read_source

    def counted(path: Path) -> Any:
        read.append(path)
        return real(path)

    monkeypatch.setattr(VIEWS, "read_source", counted)
    monkeypatch.setattr(CHECKS, "read_source", counted)
    monkeypatch.setattr(VIEWS, "HELD_BYTES", held)
    assert verify(series / "in", series / "out").files == before
    originals = [path for path in read if "in" in path.parts]
    assert len(originals) == len(set(originals)) * (1 if held else 2)
    assert len(read) == len(originals) + len(set(originals))


def _large(folder: Path, kind: str) -> None:
    values = np.random.default_rng(1).integers(300, 2000, (800, 800)).astype(np.uint16)
    values[:100] = values[-100:] = values[:, :100] = values[:, -100:] = 0
    if kind == "dicom":
        for number in range(2):
            mr_slice(folder / f"{number}.dcm", number, values, SeriesInstanceUID="1.2.3", StudyInstanceUID="1.2.4")
    elif kind == "nifti":
        nifti_file(folder / "a.nii", values.astype(np.int16).reshape(80, 80, 100))
    else:
        folder.mkdir()
        Image.fromarray((values // 8).astype(np.uint8)).save(folder / "a.png")


@pytest.mark.skipif(not COUNTER.is_file(), reason="needs the counters of Linux")
@pytest.mark.parametrize("kind", ["dicom", "nifti", "png"])
def test_bytes_that_are_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to know the files is not counted here."""
    _large(tmp_path / "in", kind)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    _no_others(monkeypatch)
    folders = tmp_path / "in", tmp_path / "out"

    def count(act: Callable[[], object]) -> int:
        before = int(COUNTER.read_text().split()[1])
        act()
        return int(COUNTER.read_text().split()[1]) - before

    assert verify(*folders).mismatches == []  # modules are loaded now
    known = count(lambda: [scan(folder) for folder in folders])
    read = count(lambda: verify(*folders)) - known
    assert read <= 1.1 * sum(path.stat().st_size for folder in folders for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["dicom", "nifti", "nifti.gz", "png"])
def test_others_are_given_what_was_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "nifti.gz":
        nifti_file(tmp_path / "in" / "a.nii.gz", block(1)[0])
    else:
        _large(tmp_path / "in", kind)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    room = import_module("monai_salm.pipeline.second_opinions")
    asked: dict[Path, Any] = {}

    def simpleitk(path: Path, *, rows_first: bool, content: Any) -> Any:
        asked[path] = content
        return read_with_simpleitk(path, rows_first=rows_first, content=content)

    def dcmtk(*question: Any) -> None:
        assert [bytes(content) for content in question[3]] == [path.read_bytes() for path in question[:2]]

    monkeypatch.setattr(room, "read_with_simpleitk", simpleitk)
    monkeypatch.setattr(room, "dcmtk_finds_within", dcmtk)
    assert verify(tmp_path / "in", tmp_path / "out").mismatches == []
    assert asked
    assert all(bytes(content) == path.read_bytes() for path, content in asked.items())


def test_files_are_looked_at_in_the_processes(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_others(monkeypatch)
    workers = _Losing(set())
    monkeypatch.setattr(import_module("monai_salm.pipeline.verification"), "workers_of", lambda *_: workers)
    verify(series / "in", series / "out")
    assert workers.looked_at == len([*(series / "in").iterdir(), *(series / "out").iterdir()])


@pytest.mark.parametrize("shape", [(20, 24, 30), (30, 20, 24), (24, 30, 20)])
@pytest.mark.parametrize("stacked", [False, True])
def test_similarity_of_large_volumes_is_that_of_small_ones(
    shape: tuple[int, ...], stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(1)
    before = generator.integers(0, 200, shape).astype(np.int16)
    after = before + generator.integers(-9, 9, shape).astype(np.int16)
    frames = shape[0] if stacked else 1
    views = [PictureView(modality="MR", window=IntensityWindow(0, 250), slope=1 + n / 9) for n in range(frames)]
    view = FileView(views=tuple(views), stacked=stacked)
    whole = CHECKS._similarity(before, after, view)
    monkeypatch.setattr(CHECKS, "SLAB_VALUES", 3 * 24 * 30)
    assert CHECKS._similarity(before, after, view) == whole < 1


# What costs a file ---------------------------------------------------------------------------------------------------


class _Vanishing:
    """Removes a file when it is opened for the n-th time."""

    def __init__(self) -> None:
        self.path, self.left, self.opened = Path(), 0, 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self.left and str(arguments[0]) == str(self.path):
            self.opened += 1
            self.left -= 1
            if not self.left:
                self.path.unlink()


VANISHING = _Vanishing()


@pytest.fixture
def vanishing() -> Iterator[_Vanishing]:
    """Hooks cannot be taken away again, so there is one for all tests, which mostly does nothing."""
    if not getattr(sys, "_vanishing", False):
        sys.addaudithook(VANISHING)
        sys._vanishing = True  # type: ignore[attr-defined]
    yield VANISHING
    VANISHING.left = 0


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A protected file-set with a copy of an image, a NIfTI file and a text."""
    folder = tmp_path_factory.mktemp("disc")
    for number in range(2):
        mr_slice(folder / "loose" / f"{number}.dcm", number)
    file_set(folder / "in", sorted((folder / "loose").iterdir()))
    mr_slice(folder / "in" / "a.dcm", 5)
    shutil.copy(folder / "in" / "a.dcm", folder / "in" / "b.dcm")
    nifti_export(folder / "in", 1, suffix=".nii")
    (folder / "in" / "notes.txt").write_text("x")
    (folder / "in" / "raw.bin").write_bytes(b"\0x")
    protect(folder / "in", folder / "out", drawn(copy_unprotected=True))
    shutil.rmtree(folder / "out.work")
    return folder


@pytest.mark.parametrize("side", ["in", "out"])
@pytest.mark.parametrize("name", ["DICOMDIR", "a.dcm", "b.dcm", "v0.nii", "notes.txt", "raw.bin"])
def test_file_that_vanishes_costs_itself(
    disc: Path, tmp_path: Path, vanishing: _Vanishing, monkeypatch: pytest.MonkeyPatch, side: str, name: str
) -> None:
    _no_others(monkeypatch)
    for folder in ("in", "out"):
        shutil.copytree(disc / folder, tmp_path / folder)
    victim = tmp_path / side / name
    number = 0
    while victim.exists():
        number += 1
        vanishing.path, vanishing.left, vanishing.opened = victim, number, 0
        report = verify(tmp_path / "in", tmp_path / "out")
        verdicts = {file.path: file for file in report.files}
        if vanishing.left:  # it was not opened so often
            break
        assert verdicts[name].verdict == "mismatch", number
        assert verdicts[name].problems
        others = {path for path, file in verdicts.items() if file.verdict == "mismatch"} - {name}
        # A copy shares its fate, and a directory lists what is not there.
        assert others <= {"b.dcm" if name == "a.dcm" else "", "a.dcm" if name == "b.dcm" else "", "DICOMDIR"}
        shutil.copy(disc / side / name, victim)
    assert number > 1


class _Losing:
    """Workers whose processes end on some originals (``in/...``) or protected files (``out/...``)."""

    def __init__(self, bad: set[str]) -> None:
        self.bad, self.asked, self.looked_at = bad, 0, 0

    def __enter__(self) -> _Losing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fair_chunk(self, jobs: int) -> int:
        return jobs

    def map(self, function: Any, jobs: Iterable[Any], *, lost: Any, chunk: int = 1) -> Iterator[Any]:
        for job in jobs:
            if not isinstance(job, VerifyJob):  # what a file is, is looked at before
                self.looked_at += 1
                yield function(job)
                continue
            self.asked += 1
            known = {f"in/{path}" for path in job.files.paths} | {f"out/{path}" for path in job.targets.values()}
            yield lost(job, "it ended") if known & self.bad else function(job)


@pytest.mark.parametrize("bad", [["slice1.dcm"], ["slice2.dcm", "slice4.dcm"]])
def test_protected_file_that_ends_a_process_costs_itself(
    series: Path, bad: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_others(monkeypatch)
    alone = {file.path: file for file in verify(series / "in", series / "out").files}
    workers = _Losing({f"out/{path}" for path in bad})
    monkeypatch.setattr(import_module("monai_salm.pipeline.verification"), "workers_of", lambda *_: workers)
    found = {file.path: file for file in verify(series / "in", series / "out").files}
    assert found.keys() == alone.keys()
    for path, verdict in found.items():
        if path in bad:
            assert (verdict.verdict, verdict.problems) == ("mismatch", ["it cannot be checked: it ended"])
        else:
            assert verdict == alone[path]


def test_original_that_ends_a_process_costs_its_volume(series: Path) -> None:
    before = scan(series / "in")
    paths = max(volumes_in(before), key=len)
    job = VerifyJob(
        VolumeFiles.of(before, paths, BudgetOptions()), series / "out", {path: path for path in paths}, None
    )
    workers: Any = _Losing({f"in/{paths[0]}"})
    found = _narrowed(workers, volume_not_verified(job, "it ended"))
    assert {tuple(verdict.problems) for verdict in found.verdicts.values()} == {("it cannot be checked: it ended",)}
    assert workers.asked == 1


def _sleeper(path: Path) -> Path:
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="needs sh")
def test_reader_that_hangs_costs_its_opinion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("SimpleITK")
    path = mr_slice(tmp_path / "a.dcm", 1)
    sleeper = _sleeper(tmp_path / "dcmicmp")
    start = time.monotonic()
    second_reader._simpleitk.close()
    with monkeypatch.context() as patch:
        patch.setattr(second_reader, "_PATIENCE_S", 0.2)
        patch.setattr(sys, "executable", str(sleeper))
        patch.setattr(shutil, "which", lambda _: str(sleeper))
        assert read_with_simpleitk(path) is None
        assert dcmtk_finds_within(path, path, 1) is None
    assert time.monotonic() - start < 20
    assert read_with_simpleitk(path) is not None


@pytest.mark.skipif(shutil.which("dcmicmp") is None, reason="needs dcmicmp of dcmtk")
@pytest.mark.parametrize("signed", [0, 1])
def test_dcmtk_knows_enough_of_files_that_name_no_types(signed: int, tmp_path: Path) -> None:
    """In Implicit VR Little Endian the types are those of a dictionary, of which we give it the part that matters."""
    from pydicom.uid import ImplicitVRLittleEndian

    places = [tmp_path / "a.dcm", tmp_path / "b.dcm"]
    for place, change in zip(places, (0, 5), strict=True):
        values = (body(1) - 100 * signed).astype(np.int16 if signed else np.uint16)
        values[12, 12] += change
        mr_slice(place, 1, values, PixelRepresentation=signed)
        _rewrite(place, ImplicitVRLittleEndian)
    assert [dcmtk_finds_within(places[0], places[1], limit) for limit in (4, 5)] == [False, True]


def _rewrite(path: Path, syntax: str) -> None:
    import pydicom

    file = pydicom.dcmread(path)
    values = file.pixel_array
    file.file_meta.TransferSyntaxUID = syntax
    file.PixelData = values.tobytes()
    file.save_as(path, implicit_vr=True, little_endian=True)
