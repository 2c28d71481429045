# SPDX-License-Identifier: Apache-2.0
"""One contract that every format keeps for every kind of values it can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_salm import io
from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation
from tests.io.builders import dicom_dataset, gzip_bytes, nifti_bytes, values_in, write_dicom

DERIVATION = Derivation(software="monai_salm", version="1.2", description="at most 3 HU", uid_secret=b"secret")


@dataclass(frozen=True)
class Case:
    """A file to write and the values in it."""

    values: NDArray[Any]
    write: Callable[[Path], Any]


def _dicom(bits: int, stored: int, signed: bool, *, shape: tuple[int, int] = (6, 8), **how: Any) -> Case:
    photometric = how.pop("photometric", "MONOCHROME2")
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    values = values_in(low, high, shape, f"{'i' if signed else 'u'}{bits // 8}")

    def write(path: Path) -> None:
        dataset = dicom_dataset(
            bits_allocated=bits,
            bits_stored=stored,
            signed=signed,
            shape=shape,
            photometric=photometric,
        )
        write_dicom(path, dataset, values, **how)

    return Case(values, write)


def _nifti(dtype: str, *, shape: tuple[int, ...] = (4, 5, 3), packed: bool = False, **how: Any) -> Case:
    info: Any = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    values = np.random.default_rng(1).integers(max(info.min, -(2**40)), min(info.max, 2**40), shape).astype(dtype)
    values.ravel()[:2] = info.min, info.max
    content = nifti_bytes(values, **how)
    return Case(values, lambda path: path.write_bytes(gzip_bytes(content, name="a", mtime=99) if packed else content))


CASES = {
    "dicom u8": _dicom(8, 8, False),
    "dicom u8 odd": _dicom(8, 8, False, shape=(3, 5)),
    "dicom u8 odd big endian": _dicom(8, 8, False, shape=(3, 5), transfer_syntax=ExplicitVRBigEndian),
    "dicom s8": _dicom(8, 8, True),
    "dicom u10": _dicom(16, 10, False),
    "dicom u16": _dicom(16, 16, False, photometric="MONOCHROME1"),
    "dicom s16": _dicom(16, 16, True),
    "dicom s12 sign-extended": _dicom(16, 12, True),
    "dicom s12 zero-extended": _dicom(16, 12, True, sign_extended=False),
    "dicom s12 overlay": _dicom(16, 12, True, sign_extended=False, overlay_bit=13),
    "dicom u12 overlay": _dicom(16, 12, False, overlay_bit=12),
    "dicom u32": _dicom(32, 32, False),
    "dicom implicit": _dicom(16, 12, True, transfer_syntax=ImplicitVRLittleEndian),
    "dicom big endian": _dicom(16, 12, True, transfer_syntax=ExplicitVRBigEndian),
    "dicom deflated": _dicom(16, 12, False, transfer_syntax=DeflatedExplicitVRLittleEndian),
    "dicom trailing bytes": _dicom(16, 12, False, trailing=b"more"),
    "nifti u1": _nifti("u1"),
    "nifti i1": _nifti("i1"),
    "nifti u2": _nifti("u2"),
    "nifti i2": _nifti("i2", order=">", slope=0.25, intercept=-1024),
    "nifti u4": _nifti("u4", version=2),
    "nifti i4": _nifti("i4"),
    "nifti u8": _nifti("u8", version=2, order=">"),
    "nifti i8": _nifti("i8"),
    "nifti f4": _nifti("f4", packed=True),
    "nifti f8": _nifti("f8", order=">", packed=True),
    "nifti 2D": _nifti("i2", shape=(4, 5)),
    "nifti extension and tail": _nifti("i2", extension=b"\x10\0\0\0\4\0\0\0 comment", tail=b"tail"),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def path(case: Case, tmp_path: Path) -> Path:
    case.write(tmp_path / "source")
    return tmp_path / "source"


def _changed(values: NDArray[Any]) -> NDArray[Any]:
    """Move every second value by one step away from the end of the range."""
    changed = values.copy()
    flat = changed.reshape(-1)
    middle = flat.astype(np.float64).mean()
    up = flat[::2] < middle
    if flat.dtype.kind == "f":
        flat[::2] = np.nextafter(flat[::2], np.where(up, middle, -middle).astype(flat.dtype))
    else:
        one = flat.dtype.type(1)
        flat[::2] = np.where(up, flat[::2] + one, flat[::2] - one)
    return changed


def test_values_are_read_as_stored(case: Case, path: Path) -> None:
    source = io.read_source(path)
    assert source.stored.dtype == case.values.dtype
    assert source.stored.dtype.isnative
    assert not source.stored.flags.writeable
    np.testing.assert_array_equal(source.stored, case.values)
    assert source.range_stored == (float(case.values.min()), float(case.values.max()))


def test_header_needs_no_pixels(path: Path) -> None:
    header = io.read_header(path)
    assert header == io.read_source(path).header
    assert len(header.spacing) == len(header.shape)


def test_untouched_values_change_nothing_else(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    io.write_like(source, source.stored, tmp_path / "out", replace(DERIVATION, uid_secret=None))
    np.testing.assert_array_equal(io.read_source(tmp_path / "out").stored, source.stored)
    changes = io.compare_headers(path, tmp_path / "out")
    assert [change for change in changes if not change.allowed] == []
    if source.header.format == "nifti":
        assert changes == []
        assert (tmp_path / "out").read_bytes() == path.read_bytes()
    else:
        assert {change.name for change in changes} == {
            "ImplementationClassUID",
            "ImplementationVersionName",
            "ImageType",
            "DerivationDescription",
            "DerivationCodeSequence[0]",
            "ContributingEquipmentSequence[0]",
        } | {"FileMetaInformationGroupLength"} & {change.name for change in changes}


def test_changed_values_are_read_back_exactly(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    source = io.read_source(path)
    stored = _changed(source.stored)
    assert (stored != source.stored).any()
    io.write_like(source, stored, tmp_path / "out", DERIVATION)
    again = io.read_source(tmp_path / "out")
    np.testing.assert_array_equal(again.stored, stored)
    assert (again.slope, again.intercept, again.range_stored) == (source.slope, source.intercept, source.range_stored)
    assert [change for change in io.compare_headers(path, tmp_path / "out") if not change.allowed] == []
    assert path.read_bytes() == before


def test_same_call_gives_same_bytes(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    for name in ("one", "two"):
        io.write_like(source, _changed(source.stored), tmp_path / name, DERIVATION)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_changing_back_restores_the_voxels(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    io.write_like(source, _changed(source.stored), tmp_path / "there", DERIVATION)
    io.write_like(io.read_source(tmp_path / "there"), source.stored, tmp_path / "back", DERIVATION)
    np.testing.assert_array_equal(io.read_source(tmp_path / "back").stored, source.stored)


def test_other_shape_and_type_are_refused(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    with pytest.raises(RefusedError, match="the new values are"):
        io.write_like(source, source.stored[:-1], tmp_path / "out", DERIVATION)
    with pytest.raises(RefusedError, match="the new values are"):
        io.write_like(source, np.zeros(source.stored.shape, np.complex64), tmp_path / "out", DERIVATION)
    assert not (tmp_path / "out").exists()


def test_own_file_is_no_target(path: Path) -> None:
    source = io.read_source(path)
    with pytest.raises(RefusedError, match="own file"):
        io.write_like(source, source.stored, path, DERIVATION)


def test_changed_source_is_refused(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    io.write_like(source, _changed(source.stored), tmp_path / "out", DERIVATION)
    path.write_bytes((tmp_path / "out").read_bytes())
    with pytest.raises(RefusedError, match="changed since it was read"):
        io.write_like(source, source.stored, tmp_path / "out", DERIVATION)


def test_truncated_files_are_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    for size in {0, 1, 100, 200, 400, 700, *range(133, len(content) - 12, 97)}:
        cut = tmp_path / "cut"
        cut.write_bytes(content[: min(size, len(content) - 12)])
        with pytest.raises(RefusedError, match=r"."):
            io.read_source(cut)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_values_out_of_bits_stored_are_refused(syntax: str, tmp_path: Path) -> None:
    case = _dicom(16, 12, False, transfer_syntax=syntax)
    case.write(tmp_path / "source")
    source = io.read_source(tmp_path / "source")
    stored = source.stored.copy()
    stored[stored == 0] = 1
    stored[5, 7] = 4096
    with pytest.raises(RefusedError, match="are 1 to 4096, the file holds 0 to 4095"):
        io.write_like(source, stored, tmp_path / "out", DERIVATION)


def test_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("not an image")
    with pytest.raises(RefusedError, match="not an image"):
        io.read_header(tmp_path / "a.dcm")
