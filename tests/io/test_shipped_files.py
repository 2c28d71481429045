# SPDX-License-Identifier: Apache-2.0
"""Every test file that pydicom and nibabel ship is read and rewritten exactly, or refused with one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from monai_salm import io
from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation
from tests.io.derived import values_by_pydicom

DERIVATION = Derivation(software="monai_salm", version="1.2", description="at most one unit", uid_secret=b"secret")


def _files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".py")


PYDICOM = _files(Path(pydicom.__file__).parent / "data" / "test_files")
NIBABEL = _files(
    Path(nibabel.__file__).parent / "tests" / "data", Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
)


def _rewritten(path: Path, target: Path) -> bool:
    """Add one to some values and read them back; say whether the file is a picture at all."""
    try:
        source = io.read_source(path)
    except RefusedError as refusal:
        reason = str(refusal)
        source = None
    if source is None:
        assert "\n" not in reason
        assert str(path) not in reason
        return False
    assert io.read_header(path) == source.header
    stored = source.stored.copy()
    chosen = np.flatnonzero((stored < source.range_stored[1]) & ~source.padding & (stored != -2001))[::7]
    stored.flat[chosen] += 1
    io.write_like(source, stored, target, DERIVATION)
    np.testing.assert_array_equal(io.read_source(target).stored, stored)
    assert [change for change in io.compare_headers(path, target) if not change.allowed] == []
    if source.header.format == "dicom":
        np.testing.assert_array_equal(values_by_pydicom(target), stored)
    else:
        np.testing.assert_array_equal(nibabel.load(target).dataobj.get_unscaled().reshape(stored.shape), stored)
    return True


@pytest.mark.slow
@pytest.mark.parametrize(("files", "at_least"), [(PYDICOM, 75), (NIBABEL, 5)], ids=["pydicom", "nibabel"])
def test_sweep(files: list[Path], at_least: int, tmp_path: Path) -> None:
    if not files:
        pytest.skip("the package was installed without its test files")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = sum(_rewritten(path, tmp_path / path.name) for path in files)
    assert count >= at_least


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "image_dfl.dcm"])
def test_simpleitk_reads_the_same(name: str, tmp_path: Path) -> None:
    simpleitk = pytest.importorskip("SimpleITK")
    path = next((path for path in PYDICOM if path.name == name), None)
    if path is None:
        pytest.skip(f"{name} is not there")
    assert _rewritten(path, tmp_path / "out.dcm")
    for file in (path, tmp_path / "out.dcm"):
        pixels = simpleitk.GetArrayFromImage(simpleitk.ReadImage(str(file)))
        np.testing.assert_allclose(pixels[0], io.read_source(file).real)
