# SPDX-License-Identifier: Apache-2.0
"""NIfTI: only voxel bytes change; nibabel reads what our own bytes wrote."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from monai_salm.errors import RefusedError
from monai_salm.io import nifti
from monai_salm.io.base import Derivation
from tests.io.builders import gzip_bytes, nifti_bytes, values_in

DERIVATION = Derivation(software="monai_salm", version="1.2", description="x", uid_secret=b"secret")
VALUES = values_in(-500, 500, (4, 5, 3), "i2")


def test_only_voxels_change(tmp_path: Path) -> None:
    content = nifti_bytes(VALUES, slope=0.5, intercept=-3, extension=b"\x10\0\0\0\4\0\0\0 comment", tail=b"tail")
    path, target = tmp_path / "a.nii", tmp_path / "b.nii"
    path.write_bytes(content)
    source = nifti.read_source(path)
    stored = source.stored.copy()
    stored[1, 2, 0] += 1
    nifti.write_like(source, stored, target, DERIVATION)
    written = target.read_bytes()
    changed = [i for i, (old, new) in enumerate(zip(content, written, strict=True)) if old != new]
    assert changed == [368 + 2 * (1 + 4 * 2)]
    image = nibabel.load(target)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj.get_unscaled()), stored)
    np.testing.assert_allclose(image.get_fdata(), nifti.read_source(target).real)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_no_scaling(slope: float, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(VALUES, slope=slope, intercept=7))
    source = nifti.read_source(tmp_path / "a.nii")
    assert (source.slope, source.intercept) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("dim", "shape"),
    [((4, 5, 3, 1), (4, 5, 3)), ((4, 15, 1), (4, 15, 1)), ((4, 15), (4, 15)), ((4, 5, 3, 1, 1), (4, 5, 3))],
)
def test_trailing_axes(dim: tuple[int, ...], shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(VALUES, dim=dim))
    source = nifti.read_source(tmp_path / "a.nii")
    assert source.stored.shape == shape
    assert source.header.spacing == (0.5, 0.75, 2.0)[: len(shape)]
    nifti.write_like(source, source.stored + np.int16(1), tmp_path / "b.nii", DERIVATION)
    assert nifti.compare_headers(tmp_path / "a.nii", tmp_path / "b.nii") == []


def test_gzip_name_and_time_are_kept(tmp_path: Path) -> None:
    content = nifti_bytes(VALUES)
    (tmp_path / "a.nii.gz").write_bytes(gzip_bytes(content, name="scan.nii", mtime=12345))
    source = nifti.read_source(tmp_path / "a.nii.gz")
    nifti.write_like(source, -source.stored, tmp_path / "b.nii.gz", DERIVATION)
    written = (tmp_path / "b.nii.gz").read_bytes()
    assert written[3:10] == (tmp_path / "a.nii.gz").read_bytes()[3:10]
    assert written[10:19] == b"scan.nii\0"
    assert gzip.decompress(written) == nifti_bytes(-VALUES)


def test_several_gzip_members(tmp_path: Path) -> None:
    content = nifti_bytes(VALUES)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(nifti.read_source(tmp_path / "a.nii.gz").stored, VALUES)


def test_nan_stays(tmp_path: Path) -> None:
    values = values_in(0, 9, (4, 5, 3), "f4")
    values[0, 0, 0], values[1, 0, 0] = np.nan, np.inf
    (tmp_path / "a.nii").write_bytes(nifti_bytes(values))
    source = nifti.read_source(tmp_path / "a.nii")
    nifti.write_like(source, source.stored + np.float32(1), tmp_path / "b.nii", DERIVATION)
    np.testing.assert_array_equal(nifti.read_source(tmp_path / "b.nii").stored, values + np.float32(1))
    for value in (0.0, np.inf):
        stored = source.stored.copy()
        stored[0, 0, 0] = value
        with pytest.raises(RefusedError, match="not finite"):
            nifti.write_like(source, stored, tmp_path / "c.nii", DERIVATION)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"intent_code": 1002}, "not a picture .*labels"),
        ({"datatype": 32, "bitpix": 64}, r"datatype is 32 \(complex64\)"),
        ({"datatype": 128, "bitpix": 24}, r"datatype is 128 \(RGB\)"),
        ({"datatype": 0}, "datatype is 0"),
        ({"bitpix": 8}, "bitpix is 8"),
        ({"dim": (4, 5, 3, 2)}, r"4 axes \(4, 5, 3, 2\)"),
        ({"dim": (60,)}, "1 axes"),
        ({"dim": (4, 0, 3)}, "lengths at least 1"),
        ({"dim": (4, -5, 3)}, "lengths at least 1"),
        ({"ndim": 9}, "number of axes"),
        ({"dim": (32767, 32767, 32767)}, "truncated: the header needs"),
        ({"vox_offset": 0}, "vox_offset is 0"),
        ({"vox_offset": 352.5}, "vox_offset is 352.5"),
        ({"slope": 1.0, "intercept": float("nan")}, "scl_slope is 1 and scl_inter nan"),
        ({"magic": b"ni1\0"}, "two files"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_refused(how: dict[str, Any], reason: str, packed: bool, tmp_path: Path) -> None:
    content = nifti_bytes(VALUES, **how)
    (tmp_path / "a").write_bytes(gzip_bytes(content) if packed else content)
    assert nifti.sniff(tmp_path / "a")
    for read in (nifti.identify, nifti.read_source):
        with pytest.raises(RefusedError, match=reason) as caught:
            read(tmp_path / "a")
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip_bytes(nifti_bytes(VALUES, tail=bytes((1 << 24) + 1))))
    with pytest.raises(RefusedError, match="more than 16 MiB follow"):
        nifti.read_source(tmp_path / "a")


@pytest.mark.parametrize("damage", [slice(-9, None), slice(60, 64), slice(-8, -4)], ids=["cut", "stream", "checksum"])
def test_damaged_gzip_is_refused(damage: slice, tmp_path: Path) -> None:
    content = bytearray(gzip_bytes(nifti_bytes(VALUES)))
    content[damage] = b"" if damage.stop is None else b"\xff\xff\xff\xff"
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RefusedError, match="damaged or truncated"):
        nifti.read_source(tmp_path / "a")


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"slope": 2.0}, "scl_slope"),
        ({"intent_code": 3}, "intent_code"),
        ({"tail": b"x"}, "(bytes after the voxels)"),
        ({"extension": b"\x10\0\0\0\4\0\0\0 comment"}, "(extensions)"),
        ({"version": 2}, "sizeof_hdr"),
        ({"order": ">"}, "(byte order)"),
    ],
)
def test_tampering_is_seen(how: dict[str, Any], name: str, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(VALUES))
    (tmp_path / "b.nii").write_bytes(nifti_bytes(VALUES, **how))
    changes = nifti.compare_headers(tmp_path / "a.nii", tmp_path / "b.nii")
    assert name in {change.name for change in changes}
    assert not any(change.allowed for change in changes)


def test_other_gzip_header_is_seen(tmp_path: Path) -> None:
    content = nifti_bytes(VALUES)
    for name, written in (("a", content), ("b", gzip_bytes(content)), ("c", gzip_bytes(content, name="n", mtime=1))):
        (tmp_path / name).write_bytes(written)
    assert [change.name for change in nifti.compare_headers(tmp_path / "a", tmp_path / "b")] == ["(compression)"]
    names = [change.name for change in nifti.compare_headers(tmp_path / "b", tmp_path / "c")]
    assert names == ["(gzip mtime)", "(gzip name)"]
