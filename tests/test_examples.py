# SPDX-License-Identifier: Apache-2.0
"""The examples run as they are, on files made here."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from monai_salm.demo.files import write_dicom
from monai_salm.io import read_source
from monai_salm.pipeline import ProtectOptions, protect

FOLDER = Path(__file__).parent.parent / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def export(tmp_path: Path) -> tuple[Path, Path]:
    """Eight small films of two classes, and their table."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(8):
        pixels = generator.integers(60, 200, size=(24, 24))
        pixels[8:16, 8:16] += 30 * (number % 2)
        write_dicom(
            tmp_path / "export" / f"{number}.dcm", pixels, modality="CR", bits_stored=8, patient=f"p{number}", number=1
        )
        rows.append((f"{number}.dcm", number % 2))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return tmp_path / "export", tmp_path / "labels.csv"


@pytest.mark.slow
def test_protect_a_folder(export: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _load("01_protect_a_folder").main(*export, tmp_path / "out", rounds=1)
    assert capsys.readouterr().out.endswith("8 files checked, 0 mismatches\n")


@pytest.mark.filterwarnings("ignore:PydicomReader. ImageOrientationPatient:UserWarning")  # a film has none
def test_compose_pipeline(export: tuple[Path, Path], tmp_path: Path) -> None:
    protect(export[0], tmp_path / "out", ProtectOptions(method="random"))
    means = _load("02_compose_pipeline").main(export[0], tmp_path / "out.work" / "noise")
    written = [float(read_source(path).real.mean()) for path in sorted((tmp_path / "out").iterdir())]
    assert means == pytest.approx(written, rel=1e-6)
    assert means != pytest.approx(
        [float(read_source(path).real.mean()) for path in sorted(export[0].iterdir())], rel=1e-6
    )


def test_noise_for_arrays() -> None:
    noise = _load("03_noise_for_arrays").main(rounds=1)
    assert len(noise) == 32
    assert all(0 < np.mean(steps != 0) <= 0.1 and np.abs(steps).max() <= 8 for steps in noise.values())


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.stem}"' in text for path in FOLDER.glob("*.py"))
