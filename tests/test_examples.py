# SPDX-License-Identifier: Apache-2.0
"""The examples run as they are, on data that they make and on files made here, and end in one line where something is
wrong.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from monai_salm.pipeline import ProtectOptions, protect
from tests.exports import lesion_table, mr_export, mr_labels, mr_series, mr_slice

FOLDER = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(FOLDER.glob("0*.py"))

pytestmark = pytest.mark.filterwarnings("ignore:Module .*DictReader:UserWarning")


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts find what lies beside them."""
    monkeypatch.syspath_prepend(str(FOLDER))


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def _run(name: str, *words: object) -> None:
    module = _load(name)
    module.start(module.main, module.parser(), [str(word) for word in words])


TELLS = {
    "01_protect_and_read_back": ["8 files:", "0 mismatches", "MONAI reads (32, 32, 8)", "the same values: True"],
    "02_training_pipeline": ["'protected': 24", "of the values move", "trained on originals with SALMProtectd:"],
    "03_new_arrivals": ["'protected': 16", "'protected': 6", "16 of the 16 files"],
    "04_own_network_and_task": ["of 8 steps", "of the noisy images"],
    "05_compare_methods": ["textures: 32 protected", "random: 32 protected", "small-cnn  clean"],
    "06_bundle": ["'protected': 16", "written: 16 files"],
}
"""What each prints."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TELLS))
def test_runs_without_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _run(name)
    told = capsys.readouterr().out
    assert [text for text in TELLS[name] if text not in told] == []


def test_every_example_is_tested() -> None:
    assert sorted(TELLS) == [script.stem for script in SCRIPTS]


@pytest.mark.parametrize("name", sorted(TELLS))
def test_wrong_arguments_end_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _run(name, "--nonsense")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ": unrecognized arguments: --nonsense; " in error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("01_protect_and_read_back", ["NOTHING"]),
        ("02_training_pipeline", ["NOTHING", "NO.csv", "NOISE"]),
        ("03_new_arrivals", ["NOTHING", "NO.csv", "OUT"]),
        ("05_compare_methods", ["--export", "NOTHING", "--labels", "NO.csv"]),
        ("06_bundle", ["--config", "NOTHING"]),
    ],
)
def test_what_is_not_there_ends_in_one_line(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        _run(name, *words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert any(word in error for word in words)


@pytest.fixture
def export(tmp_path: Path) -> tuple[Path, Path]:
    """Eight slices of two classes, and their table."""
    return mr_export(tmp_path / "export"), mr_labels(tmp_path / "labels.csv")


def test_reads_a_series_of_the_user_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mr_series(tmp_path / "series", 1)
    _run("01_protect_and_read_back", tmp_path / "series", tmp_path / "out")
    assert "0 mismatches" in capsys.readouterr().out
    assert len(list((tmp_path / "out").iterdir())) == 6


@pytest.mark.slow
def test_trains_on_files_and_noise_of_the_user(
    export: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protect(export[0], tmp_path / "out", ProtectOptions(method="random"))
    _run("02_training_pipeline", *export, tmp_path / "out.work" / "noise", "--epochs", 1)
    assert "originals with SALMProtectd: loss" in capsys.readouterr().out


def test_adds_files_to_a_release_of_the_user(
    export: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protect(export[0], tmp_path / "out", ProtectOptions(method="random", labels=None))
    mr_slice(tmp_path / "new" / "late.dcm", 20)
    _run("03_new_arrivals", tmp_path / "new", lesion_table(tmp_path / "new.csv", ["late.dcm"]), tmp_path / "out")
    assert "8 of the 8 files" in capsys.readouterr().out


def test_searches_with_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    _run("04_own_network_and_task", "--rounds", 1, "--fraction", 0.1)
    assert all(float(line.split()[1].rstrip("%")) <= 10 for line in capsys.readouterr().out.splitlines()[:3])


@pytest.mark.slow
def test_starts_as_a_program_from_anywhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "06_bundle.py", "--out"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("06_bundle.py: argument --out: expected one argument")
