# SPDX-License-Identifier: Apache-2.0
"""NIfTI: only voxel bytes change; nibabel reads what our own bytes wrote."""

from __future__ import annotations

import gzip
import resource
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from monai_salm.errors import RefusedError
from monai_salm.io import Kind, UndecidedError, nifti, read_label_map
from monai_salm.io.base import Derivation, Document, ImageHeader, StoredArray
from monai_salm.io.nifti.volumes import read_volume
from tests.io.builders import gzip_bytes, nifti_bytes, values_in

DERIVATION = Derivation(software="monai_salm", version="1.2", description="x", uid_secret=b"secret")
VALUES = values_in(-500, 500, (4, 5, 3), "i2")
COLOR = np.random.default_rng(1).integers(0, 256, (4, 5, 3, 2, 3), "u1")
LABELS = np.array([0, 2, 1])[np.repeat(np.arange(3), 40)].reshape(6, 5, 4).astype("u1")


def _pair(
    folder: Path, values: StoredArray = VALUES, *, name: str = "a", gap: bytes = b"", tail: bytes = b"", **how: Any
) -> tuple[Path, Path]:
    """Write header and voxels into two files."""
    content = nifti_bytes(values, **{"magic": b"ni1\0", "vox_offset": len(gap), **how})
    header, image = folder / f"{name}.hdr", folder / f"{name}.img"
    header.write_bytes(content[: -values.nbytes])
    image.write_bytes(gap + content[-values.nbytes :] + tail)
    return header, image


def _rewritten(path: Path, target: Path, changed: StoredArray) -> bytes:
    source = nifti.read_source(path)
    nifti.write_like(source, source.stored, target, DERIVATION)
    assert target.read_bytes() == path.read_bytes()
    nifti.write_like(source, changed, target, DERIVATION)
    again = nifti.read_back(source, target)
    np.testing.assert_array_equal(again.stored, changed)
    assert (again.header.shape, again.header.trailing, again.slope) == (
        source.header.shape,
        source.header.trailing,
        source.slope,
    )
    return target.read_bytes()


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
    ("dim", "shape", "trailing"),
    [
        ((4, 5, 3, 1), (4, 5, 3), ()),
        ((4, 15, 1), (4, 15, 1), ()),
        ((4, 15), (4, 15), ()),
        ((4, 5, 3, 1, 1), (4, 5, 3), ()),
        ((2, 5, 3, 2), (2, 5, 3), (2,)),
        ((2, 5, 1, 3, 2), (2, 5, 1), (3, 2)),
        ((2, 5, 3, 1, 2), (2, 5, 3), (2,)),
        ((2, 5, 1, 1, 2, 1, 3), (2, 5, 1), (2, 3)),
    ],
)
def test_trailing_axes(dim: tuple[int, ...], shape: tuple[int, ...], trailing: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(VALUES, dim=dim))
    source = nifti.read_source(path)
    assert (source.header.shape, source.header.trailing) == (shape, trailing)
    assert source.header == nifti.identify(path, "picture")
    assert source.header.spacing == (0.5, 0.75, 2.0)[: len(shape)]
    np.testing.assert_array_equal(source.stored, VALUES.reshape(shape + trailing, order="F"))
    _rewritten(path, tmp_path / "b.nii", source.stored + np.int16(1))
    assert nifti.compare_headers(path, tmp_path / "b.nii") == []
    np.testing.assert_array_equal(
        nibabel.load(tmp_path / "b.nii").dataobj.get_unscaled().reshape(dim),
        (source.stored + 1).reshape(dim, order="A"),
    )


@pytest.mark.parametrize(
    ("pixdim", "units", "spacing", "known"),
    [
        ((0.5, 0.75, 2.0), 2, (0.5, 0.75, 2.0), True),
        ((1.0, 1.0, 1.0), 2, (1.0, 1.0, 1.0), True),
        ((500.0, 500.0, 500.0), 3, (0.5, 0.5, 0.5), True),
        ((0.5, 0.75, 2.0), 0, (0.5, 0.75, 2.0), True),  # millimeters to every reader
        ((1.0, 1.0, 1.0), 0, (1.0, 1.0, 1.0), False),  # a header that was not filled in
        ((0.5, 0.0, 2.0), 2, (0.5, 1.0, 2.0), False),
        ((0.5, np.nan, 2.0), 2, (0.5, 1.0, 2.0), False),
    ],
)
def test_spacing(
    pixdim: tuple[float, ...], units: int, spacing: tuple[float, ...], known: bool, tmp_path: Path
) -> None:
    content = bytearray(nifti_bytes(VALUES))
    content[80:92] = np.array(pixdim, "<f4").tobytes()
    content[123] = units
    (tmp_path / "a.nii").write_bytes(bytes(content))
    header = nifti.read_source(tmp_path / "a.nii").header
    assert header.spacing == pytest.approx(spacing)
    assert header.spacing_known is known


@pytest.mark.parametrize(
    ("values", "dim", "trailing"),
    [
        (COLOR[..., 0, :], (4, 5, 3), (3,)),
        (COLOR, (4, 5, 3, 2), (2, 3)),
        (COLOR[:, :, 0, 0], (4, 5), (3,)),
        (COLOR, (4, 5, 3, 1, 2), (2, 3)),
    ],
)
def test_color_comes_last(values: StoredArray, dim: tuple[int, ...], trailing: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(np.moveaxis(values, -1, 0), dim=dim, datatype=128, bitpix=24, slope=2.0, tail=b"tail"))
    source = nifti.read_source(path)
    assert (source.header.shape, source.header.trailing, source.slope) == (dim[:3], trailing, 1.0)
    np.testing.assert_array_equal(source.stored, values)
    written = _rewritten(path, tmp_path / "b.nii", 255 - source.stored)
    assert written[352:] == bytes(255 - byte for byte in path.read_bytes()[352:-4]) + b"tail"
    voxels = np.asanyarray(nibabel.load(tmp_path / "b.nii").dataobj.get_unscaled())
    np.testing.assert_array_equal(
        np.stack([voxels[name] for name in "RGB"], axis=-1).reshape(values.shape), 255 - values
    )


def _kind(path: Path, said: Kind | None = None) -> str:
    found = nifti.identify(path, said)
    return found.kind if isinstance(found, Document) else "picture"


def test_white_background_is_no_label(tmp_path: Path) -> None:
    colors = np.full((3, 20, 20, 9), 255, "u1")
    colors[:, 5:15, 5:15] = np.random.default_rng(1).integers(0, 256, (3, 10, 10, 9))
    (tmp_path / "a.nii").write_bytes(nifti_bytes(colors, dim=(20, 20, 9), datatype=128, bitpix=24))
    assert isinstance(nifti.identify(tmp_path / "a.nii"), ImageHeader)
    (tmp_path / "b.nii").write_bytes(
        nifti_bytes(np.full((3, 9, 9, 9), 255, "u1"), dim=(9, 9, 9), datatype=128, bitpix=24)
    )
    with pytest.raises(UndecidedError, match="there is nothing in it to protect"):
        nifti.identify(tmp_path / "b.nii")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("gap", "tail"), [(b"", b""), (b"between", b"tail")])
def test_pair(version: int, order: str, gap: bytes, tail: bytes, tmp_path: Path) -> None:
    extension = struct.pack(f"{order}2i", 16, 4) + b"comment!"
    how: dict[str, Any] = {"version": version, "order": order, "magic": b"ni%d\0" % version, "extension": extension}
    header, image = _pair(tmp_path, slope=0.5, gap=gap, tail=tail, **how)
    assert nifti.sniff(header)
    assert nifti.sniff(image)
    source = nifti.read_source(image)
    assert source.header == nifti.identify(image, "picture")
    assert (source.header.path, source.slope, source.header.shape) == (image, 0.5, VALUES.shape)
    np.testing.assert_array_equal(source.stored, VALUES)
    written = _rewritten(image, tmp_path / ".a.img.tmp", -VALUES)
    assert written == gap + (-VALUES).astype(order + "i2").tobytes(order="F") + tail
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.img").write_bytes(written)
    shutil.copyfile(header, other / "a.hdr")
    assert nifti.compare_headers(image, other / "a.img") == []
    assert nifti.compare_headers(header, other / "a.hdr") == []
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(other / "a.img").dataobj.get_unscaled()), -VALUES)


def test_header_of_a_pair_is_a_document(tmp_path: Path) -> None:
    header, _ = _pair(tmp_path, extension=b"\x20\0\0\0\4\0\0\0" + b"comment!" * 3)
    assert nifti.identify(header) == Document(path=header, format="nifti", kind="header of a NIfTI pair")
    with pytest.raises(RefusedError, match=r"not an image \(header of a NIfTI pair\)"):
        nifti.read_source(header)
    nifti.write_document(header, tmp_path / "b.hdr", DERIVATION)
    assert (tmp_path / "b.hdr").read_bytes() == header.read_bytes()
    (tmp_path / "b.hdr").write_bytes(header.read_bytes() + b"x")
    assert [change.name for change in nifti.compare_headers(header, tmp_path / "b.hdr")] == ["(bytes)"]


@pytest.mark.parametrize("extension", [b"", b"\x10\0\0\0\4\0\0\0comment!"])
def test_voxels_behind_a_header_of_a_pair_are_refused(extension: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(VALUES, magic=b"ni1\0", extension=extension))
    with pytest.raises(RefusedError, match="120 bytes follow the header"):
        nifti.identify(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("header", "image"),
    [
        ("a.HDR", "a.IMG"),
        ("a.Hdr", "a.img"),
        ("a.hdr", "a.IMG"),
        ("a.hdr.gz", "a.img.gz"),
        ("a.hdr", "a.img.gz"),
        ("a.hdr.gz", "a.img"),
        ("a.HDR.GZ", "a.IMG.GZ"),
    ],
)
def test_names_of_a_pair(header: str, image: str, tmp_path: Path) -> None:
    for old, name in zip(_pair(tmp_path), (header, image), strict=True):
        content = old.read_bytes()
        old.unlink()
        (tmp_path / name).write_bytes(gzip_bytes(content) if name.lower().endswith("gz") else content)
    assert nifti.sniff(tmp_path / image)
    assert isinstance(nifti.identify(tmp_path / header), Document)
    written = _rewritten(tmp_path / image, tmp_path / "out", -VALUES)
    assert (gzip.decompress(written) if image.lower().endswith("gz") else written) == (-VALUES).tobytes(order="F")


def test_own_header_is_preferred(tmp_path: Path) -> None:
    for name, values in (("a", VALUES), ("A", -VALUES)):
        header, image = _pair(tmp_path, values, name=name, slope=2.0 if name == "A" else 1.0)
        if name == "A":
            header.rename(tmp_path / "a.HDR")
            image.rename(tmp_path / "a.IMG")
    assert (nifti.read_source(tmp_path / "a.img").slope, nifti.read_source(tmp_path / "a.IMG").slope) == (1.0, 2.0)


@pytest.mark.parametrize("beside", [None, "a.nii", "b.hdr"])
def test_voxels_without_header_are_not_nifti(beside: str | None, tmp_path: Path) -> None:
    header, image = _pair(tmp_path)
    source = nifti.read_source(image)
    shutil.copyfile(image, tmp_path / "other.img")
    header.unlink()
    if beside:
        (tmp_path / beside).write_bytes(nifti_bytes(VALUES))
    assert not nifti.sniff(image)
    for read in (nifti.identify, nifti.read_source, nifti.read_label_map):
        with pytest.raises(RefusedError, match="not NIfTI"):
            read(image)
    with pytest.raises(RefusedError, match="not NIfTI"):
        nifti.write_like(source, VALUES, tmp_path / "out", DERIVATION)
    with pytest.raises(RefusedError, match="not NIfTI"):
        nifti.read_back(source, tmp_path / "other.img")


def test_single_file_is_no_header_for_another(tmp_path: Path) -> None:
    header, image = _pair(tmp_path)
    header.write_bytes(nifti_bytes(VALUES))
    assert not nifti.sniff(image)


def test_changed_header_of_a_pair_is_refused(tmp_path: Path) -> None:
    _, image = _pair(tmp_path)
    source = nifti.read_source(image)
    _pair(tmp_path, dim=(5, 4, 3))
    with pytest.raises(RefusedError, match="changed since it was read"):
        nifti.write_like(source, VALUES, tmp_path / "out", DERIVATION)


def test_tampering_with_a_pair_is_seen(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    _, image = _pair(tmp_path, gap=b"gap!")
    _, changed = _pair(other, gap=b"gap?", tail=b"x", slope=3.0)
    names = {change.name for change in nifti.compare_headers(image, changed)}
    assert names == {"scl_slope", "(bytes before the voxels)", "(bytes after the voxels)"}


@pytest.mark.parametrize(
    "values",
    [LABELS, LABELS.astype("f4"), LABELS.astype(">i8"), np.stack([LABELS, LABELS], axis=-1), LABELS[:, :, 0]],
    ids=["u1", "f4", "i8", "4D", "2D"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_label_map_is_a_document(values: StoredArray, packed: bool, tmp_path: Path) -> None:
    path, content = tmp_path / "a.nii", nifti_bytes(values, order=">" if values.dtype.str[0] == ">" else "<")
    path.write_bytes(gzip_bytes(content) if packed else content)
    assert _kind(path) == "label map"
    np.testing.assert_array_equal(nifti.read_label_map(path), values)
    nifti.write_document(path, tmp_path / "b.nii", DERIVATION)
    assert (tmp_path / "b.nii").read_bytes() == path.read_bytes()
    assert nifti.compare_headers(path, tmp_path / "b.nii") == []


@pytest.mark.parametrize("intent", [1002, 1003])
@pytest.mark.parametrize("version", [1, 2])
def test_label_intent_makes_a_document(intent: int, version: int, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(abs(VALUES), intent_code=intent, version=version))
    assert _kind(tmp_path / "a.nii") == "label map"
    np.testing.assert_array_equal(nifti.read_label_map(tmp_path / "a.nii"), abs(VALUES))


def test_label_map_of_a_pair_is_a_document(tmp_path: Path) -> None:
    _, image = _pair(tmp_path, LABELS)
    assert _kind(image) == "label map"
    np.testing.assert_array_equal(nifti.read_label_map(image), LABELS)


def test_label_intent_of_values_that_are_no_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(VALUES.astype(np.float32) + np.float32(0.5), intent_code=1002))
    with pytest.raises(
        UndecidedError, match="intent code is 1002 says label map, but not all values are whole numbers"
    ):
        nifti.identify(tmp_path / "a.nii")


TEXTURE = np.random.default_rng(4).integers(0, 900, (9, 9, 9)).astype("i2")


def test_label_intent_of_a_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(TEXTURE, intent_code=1002))
    with pytest.raises(UndecidedError, match=r"says label map, but 4[0-9]{2} values besides the background"):
        nifti.identify(tmp_path / "a.nii")
    assert isinstance(nifti.identify(tmp_path / "a.nii", "picture"), ImageHeader)
    assert _kind(tmp_path / "a.nii", "label map") == "label map"


@pytest.mark.parametrize("intent", [0, 3, 1011, 2001])
def test_intents_that_leave_it_to_the_values(intent: int, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(TEXTURE, intent_code=intent))
    assert isinstance(nifti.identify(tmp_path / "a.nii"), ImageHeader)


@pytest.mark.parametrize("intent", [2, 3, 5, 22, 24, 1004, 1005, 1006, 1010, 2006, 2009, 2016, 2018])
def test_what_was_computed_is_no_picture(intent: int, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(TEXTURE.astype("f4") / 7, intent_code=intent))
    assert _kind(tmp_path / "a.nii").endswith(f"intent code {intent}")
    assert isinstance(nifti.identify(tmp_path / "a.nii", "picture"), ImageHeader)


@pytest.mark.parametrize("intent", [1001, 1007])
def test_vectors_may_be_colors_and_estimates_pictures(intent: int, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(TEXTURE.astype("f4"), intent_code=intent))
    with pytest.raises(UndecidedError, match=f"intent code is {intent}"):
        nifti.identify(tmp_path / "a.nii")


@pytest.mark.parametrize(
    "values",
    [-LABELS.astype("i2"), LABELS * np.float32(0.5), np.full((2, 2), np.nan, "f4"), np.full((2, 2), 70000, "i4")],
)
def test_what_is_no_label_is_refused(values: StoredArray, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(values))
    with pytest.raises(RefusedError, match=r"a\.nii has values that are no labels"):
        read_label_map(tmp_path / "a.nii")


def test_color_is_no_label_map(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(COLOR, dim=(4, 5, 3, 2), datatype=128, bitpix=24, intent_code=1002))
    with pytest.raises(RefusedError, match="in color"):
        nifti.read_label_map(tmp_path / "a.nii")


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
    for parts in ((content[:400], content[400:]), (content[:100], b"", content[100:])):
        (tmp_path / "a.nii.gz").write_bytes(b"".join(map(gzip.compress, parts)) + bytes(5))
        np.testing.assert_array_equal(nifti.read_source(tmp_path / "a.nii.gz").stored, VALUES)
        written = _rewritten(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", -VALUES)
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        assert inflater.decompress(written) == nifti_bytes(-VALUES)
        assert inflater.unused_data == b""


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        (b"XY\3\0abc", b"XY\3\0abc"),
        (b"XY\3\0abcBC\2\0\xff\xff", b"XY\3\0abc"),
        (b"BC\2\0\xff\xff", b""),
        (b"BC\xff\0odd", b"BC\xff\0odd"),
        (b"x", b"x"),
    ],
)
def test_gzip_comment_and_extra_fields_are_kept(extra: bytes, kept: bytes, tmp_path: Path) -> None:
    packed = gzip.compress(nifti_bytes(VALUES))
    lengths = [len(field).to_bytes(2, "little") for field in (extra, kept)]
    head = b"\x1f\x8b\x08\x1f\1\2\3\4\2\3" + lengths[0] + extra + b"scan.nii\0of me\0"
    (tmp_path / "a").write_bytes(head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + packed[10:])
    written = _rewritten(tmp_path / "a", tmp_path / "b", -VALUES)
    flags = b"\x1d" if kept else b"\x19"
    assert written.startswith(
        b"\x1f\x8b\x08" + flags + b"\1\2\3\4\2\3" + (lengths[1] + kept if kept else b"") + b"scan.nii\0of me\0"
    )
    assert gzip.decompress(written) == nifti_bytes(-VALUES)
    assert nifti.compare_headers(tmp_path / "a", tmp_path / "b") == []


@pytest.mark.parametrize("garbage", [b"x", b"\0\0garbage", b"\x1f\x8b\x08"])
def test_garbage_behind_gzip_is_refused(garbage: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip_bytes(nifti_bytes(VALUES)) + garbage)
    assert nifti.sniff(tmp_path / "a")
    with pytest.raises(RefusedError, match="gzip stream is damaged, truncated or followed by something else"):
        nifti.identify(tmp_path / "a")


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
        ({"datatype": 32, "bitpix": 64}, r"datatype is 32 \(complex64\)"),
        ({"datatype": 1536, "bitpix": 128}, r"datatype is 1536 \(float128\)"),
        ({"datatype": 2304, "bitpix": 32}, r"datatype is 2304 \(RGBA\)"),
        ({"datatype": 0}, "datatype is 0"),
        ({"datatype": 1}, "datatype is 1"),
        ({"bitpix": 8}, "bitpix is 8"),
        ({"datatype": 128}, "bitpix is 16, datatype 128 has 24"),
        ({"intent_code": 1008}, "intent_code is 1008: points"),
        ({"intent_code": 3001}, "intent_code is 3001: a CIFTI matrix"),
        ({"dim": (60,)}, "number of axes must be 2 to 7"),
        ({"dim": (4, 0, 3)}, "lengths at least 1"),
        ({"dim": (4, -5, 3)}, "lengths at least 1"),
        ({"dim": (4, 5, 3, 0)}, "lengths at least 1"),
        ({"ndim": 9}, "number of axes"),
        ({"ndim": -3}, "number of axes"),
        ({"dim": (32767, 32767, 32767)}, "claims 70362301923678 bytes, at most 16 GiB"),
        ({"dim": (32767,) * 7}, "at most 16 GiB"),
        ({"version": 2, "dim": (2**62,) * 7}, "at most 16 GiB"),
        (
            {"dim": (1000, 1000, 1000)},
            r"2000000352 bytes(, there are only \d+ bytes| in \d+ compressed ones, more than 200 times as many)",
        ),
        (
            {"dim": (300, 300, 300)},
            r"truncated: .* 54000352 bytes, (at most \d+ can be compressed in|there are only) \d+ bytes",
        ),
        ({"vox_offset": 0}, "vox_offset is 0"),
        ({"vox_offset": 351}, "vox_offset is 351"),
        ({"vox_offset": -352}, "vox_offset is -352"),
        ({"vox_offset": 352.5}, "vox_offset is 352.5"),
        ({"vox_offset": float("nan")}, "vox_offset is nan"),
        ({"vox_offset": float("inf")}, "vox_offset is inf"),
        ({"vox_offset": 1e30}, r"vox_offset is 1e\+30"),
        ({"slope": 1.0, "intercept": float("nan")}, "scl_slope is 1 and scl_inter nan"),
        ({"slope": float("inf")}, "scl_slope is inf"),
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


@pytest.mark.parametrize("pack", [gzip_bytes, bytes])
def test_bomb_is_refused(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pack(nifti_bytes(VALUES, tail=bytes((1 << 24) + 1))))
    with pytest.raises(RefusedError, match="more than 16 MiB follow"):
        nifti.read_source(tmp_path / "a")
    (tmp_path / "b").write_bytes(pack(nifti_bytes(VALUES, tail=bytes(1 << 24))))
    assert read_volume(tmp_path / "b").layout.shape == VALUES.shape  # a search for pictures in zeros would take long


SECOND = VALUES.tobytes(order="F")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("how", "size", "times"),
    [
        ({"tail": SECOND * 3}, 360, "3"),
        ({"tail": SECOND[:40]}, 40, "0.333"),
        ({"vox_offset": 480, "between": bytes(4) + SECOND + bytes(8)}, 128, "1.07"),
        ({"vox_offset": 496, "between": b"\1\0\0\0" + b"\x10\0\0\0\6\0\0\0comment!" + SECOND + bytes(8)}, 128, "1.07"),
    ],
    ids=["volumes behind", "plane behind", "volume before", "volume behind an extension"],
)
def test_more_voxels_than_dim_says_are_refused(
    how: dict[str, Any], size: int, times: str, packed: bool, tmp_path: Path
) -> None:
    tail, between = how.get("tail", b""), how.get("between", b"")
    content = nifti_bytes(VALUES, tail=tail, **({"vox_offset": how["vox_offset"]} if between else {}))
    if between:
        content = content[:348] + between + SECOND
    (tmp_path / "a").write_bytes(gzip_bytes(content) if packed else content)
    for read in (nifti.identify, nifti.read_source):
        with pytest.raises(
            RefusedError,
            match=rf"holds {size} bytes before or behind the voxels, as many as {times} times the image .* repair "
            r"the header",
        ):
            read(tmp_path / "a")


def test_more_voxels_than_the_header_of_a_pair_says_are_refused(tmp_path: Path) -> None:
    for where in ({"tail": SECOND}, {"gap": SECOND}):
        _, image = _pair(tmp_path, **where)
        with pytest.raises(RefusedError, match="holds 120 bytes before or behind the voxels, as many as 1 times"):
            nifti.read_source(image)


def test_zeros_and_short_tails_are_no_volume(tmp_path: Path) -> None:
    for tail in (bytes(1000), SECOND[:39]):
        (tmp_path / "a").write_bytes(nifti_bytes(VALUES, tail=tail))
        assert nifti.read_source(tmp_path / "a").header.unprotected == ""


def test_pictures_in_extensions_are_told(tmp_path: Path) -> None:
    def extension(code: int, data: bytes) -> bytes:
        data += bytes(-len(data) % 16 + 8)
        return struct.pack("<2i", 8 + len(data), code) + data

    jpeg = b"\xff\xd8\xff\xe0 JFIF"
    for code, data in (
        (2, bytes(128) + b"DICM"),
        (6, jpeg),
        (32, b"<a>data:image/png</a>"),
        (40, np.arange(-500, 500, dtype="<i2").tobytes()),
    ):
        (tmp_path / "a").write_bytes(nifti_bytes(VALUES, extension=extension(code, data)))
        assert nifti.read_source(tmp_path / "a").header.unprotected.startswith("bytes beside its voxels")
    header, _ = _pair(tmp_path, extension=extension(6, jpeg))
    found = nifti.identify(header)
    assert found.unprotected == "an extension of the header holds another image, which is not protected"
    for data in (b"a comment", b"<AFNI_attributes> a long text " * 30):
        (tmp_path / "a").write_bytes(nifti_bytes(VALUES, extension=extension(6, data)))
        assert nifti.read_source(tmp_path / "a").header.unprotected == ""


@pytest.mark.parametrize("packed", [False, True])
def test_false_claims_take_no_memory(packed: bool, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).bytes(1 << 22)
    content = nifti_bytes(VALUES, dim=(1000, 1000, 2000), tail=noise)
    (tmp_path / "a").write_bytes(gzip_bytes(content) if packed else content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedError, match=r"the header (needs|claims) 4000000352 bytes"):
        nifti.read_source(tmp_path / "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.slow
def test_large_file_is_compressed_in_pieces(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(-99, 99, (90, 90, 90), "i4")
    (tmp_path / "a").write_bytes(gzip_bytes(nifti_bytes(values, tail=b"tail")))
    assert gzip.decompress(_rewritten(tmp_path / "a", tmp_path / "b", -values)) == nifti_bytes(-values, tail=b"tail")


@pytest.mark.parametrize("size", [0, 1, 3, 100, 347, 348, 352, 400])
@pytest.mark.parametrize("packed", [False, True])
def test_cut_files_are_refused(size: int, packed: bool, tmp_path: Path) -> None:
    content = nifti_bytes(VALUES)[:size]
    (tmp_path / "a").write_bytes(gzip_bytes(content) if packed else content)
    assert nifti.sniff(tmp_path / "a") == (size >= 348)
    with pytest.raises(RefusedError, match="truncated" if size >= 348 else "not NIfTI"):
        nifti.identify(tmp_path / "a")


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_signaling_nan_keeps_its_bits(kind: str, order: str, tmp_path: Path) -> None:
    values = values_in(0, 900, (4, 5), kind)
    content = bytearray(nifti_bytes(values, order=order))
    bits = {"f4": b"\x7f\xa0\0\1", "f8": b"\x7f\xf4\0\0\0\0\0\1"}[kind]
    content[352 : 352 + len(bits)] = bits if order == ">" else bits[::-1]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RefusedError, match="no labels"):
        read_label_map(tmp_path / "a")
    source = nifti.read_source(tmp_path / "a")
    stored = source.stored.copy()
    stored[1:] += 1
    nifti.write_like(source, stored, tmp_path / "b", DERIVATION)
    written = (tmp_path / "b").read_bytes()
    assert written[: 352 + len(bits)] == bytes(content[: 352 + len(bits)])
    assert written != bytes(content)


@pytest.mark.parametrize("offset", [353, 356, 361])
def test_gap_before_the_voxels_is_kept(offset: int, tmp_path: Path) -> None:
    content = nifti_bytes(VALUES, vox_offset=offset)
    content = content[:352] + b"gapgapgap"[: offset - 352] + content[352:]
    (tmp_path / "a").write_bytes(content)
    source = nifti.read_source(tmp_path / "a")
    assert source.stored.flags.aligned
    assert _rewritten(tmp_path / "a", tmp_path / "b", -VALUES) == content[:offset] + (-VALUES).tobytes(order="F")


@pytest.mark.parametrize("damage", [slice(-9, None), slice(60, 64), slice(-8, -4)], ids=["cut", "stream", "checksum"])
def test_damaged_gzip_is_refused(damage: slice, tmp_path: Path) -> None:
    content = bytearray(gzip_bytes(nifti_bytes(VALUES)))
    content[damage] = b"" if damage.stop is None else b"\xff\xff\xff\xff"
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RefusedError, match="damaged, truncated"):
        nifti.read_source(tmp_path / "a")


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"slope": 2.0}, "scl_slope"),
        ({"intent_code": 3}, "intent_code"),
        ({"tail": b"x"}, "(bytes after the voxels)"),
        ({"extension": b"\x10\0\0\0\4\0\0\0 comment"}, "(bytes before the voxels)"),
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
    assert {"(gzip mtime)", "(gzip name)"} <= set(names) <= {"(gzip mtime)", "(gzip name)", "(gzip system)"}
