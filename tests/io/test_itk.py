# SPDX-License-Identifier: Apache-2.0
"""NRRD and MetaImage: only voxel bytes change; SimpleITK writes the sources and reads what our own bytes wrote."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.errors import RefusedError
from monai_salm.io import itk, second_reader
from monai_salm.io.base import Derivation, Document, ImageHeader
from monai_salm.io.second_reader import read_with_simpleitk
from tests.io.builders import dicom_dataset, values_in, write_dicom

sitk: Any = pytest.importorskip("SimpleITK")

DERIVATION = Derivation(software="monai_salm", version="1.2", description="x", uid_secret=b"secret")
VALUES = values_in(-500, 500, (4, 5, 3), "i2")
NRRD = (
    "type: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 5 3\nspace directions: (0.5,0,0) "
    "(0,0.6,0.8) (0,0,2)\n"
    "kinds: domain domain domain\nendian: little\nencoding: raw\n"
)
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 4 5 "
    "3\nElementSpacing = 0.5 1 2\nElementType = MET_SHORT\n"
)
DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def nrrd_bytes(header: str = NRRD, voxels: bytes = VALUES.tobytes(order="F")) -> bytes:
    return b"NRRD0004\n# written by hand\n" + header.encode() + b"key:=value\n\n" + voxels


def meta_bytes(header: str = META, voxels: bytes = VALUES.tobytes(order="F"), data: str = "LOCAL") -> bytes:
    return header.encode() + f"ElementDataFile = {data}\n".encode() + voxels


def packed_meta_bytes(stream: bytes, tail: int = 0) -> bytes:
    return meta_bytes(f"{META}CompressedData = True\nCompressedDataSize = {len(stream) - tail}\n", stream)


def write_with_simpleitk(path: Path, values: Any, *, packed: bool = False, vector: bool = False) -> Any:
    """Write values with axes (x, y, z) with geometry and a key."""
    axes = values.ndim - vector
    image = sitk.GetImageFromArray(values.transpose(*reversed(range(axes)), *range(axes, values.ndim)), isVector=vector)
    image.SetSpacing((0.5, 0.75, 2.0, 1.5)[:axes])
    image.SetOrigin((1.0, -2.5, 3.0, 0.0)[:axes])
    if axes == 3:
        image.SetDirection((0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    image.SetMetaData("Site", "ward 7")
    sitk.WriteImage(image, str(path), useCompression=packed)
    return image


def facts(path: Path) -> Any:
    image = sitk.ReadImage(str(path))
    keys = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    return (
        image.GetSpacing(),
        image.GetOrigin(),
        image.GetDirection(),
        image.GetSize(),
        image.GetPixelIDTypeAsString(),
        keys,
    )


def step(values: Any) -> Any:
    """Move every value by one, towards the middle."""
    return np.where(values > 0, values - values.dtype.type(1), values + values.dtype.type(1)).astype(values.dtype)


def detached(folder: Path, suffix: str, **how: Any) -> Path:
    """Write a header with a data file and give the data file."""
    write_with_simpleitk(folder / f"a{suffix}", VALUES, **how)
    (data,) = set(folder.iterdir()) - {folder / f"a{suffix}"}
    return data


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "packed"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_files_of_simpleitk(dtype: str, suffix: str, packed: bool, tmp_path: Path) -> None:
    info: Any = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    values = values_in(max(info.min, -(2**40)), min(info.max, 2**40), (4, 5, 3), dtype)
    path, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_with_simpleitk(path, values, packed=packed)
    before = path.read_bytes()
    assert itk.sniff(path)
    source = itk.read_source(path)
    assert itk.identify(path, "picture") == source.header
    assert source.header == ImageHeader(
        path=path, format="itk", shape=(4, 5, 3), dtype=np.dtype(dtype), spacing=(0.5, 0.75, 2.0), spacing_known=True
    )
    assert not source.stored.flags.writeable
    np.testing.assert_array_equal(source.stored, values)
    assert source.range_stored == (float(info.min), float(info.max))
    itk.write_like(source, source.stored, target, DERIVATION)
    assert target.read_bytes() == before
    itk.write_like(source, step(values), target, DERIVATION)
    np.testing.assert_array_equal(itk.read_back(source, target).stored, step(values))
    seen = read_with_simpleitk(target)
    assert seen is not None
    np.testing.assert_array_equal(seen, step(values).astype(np.float64))
    assert facts(target) == facts(path)
    changes = itk.compare_headers(path, target)
    assert {change.name for change in changes} <= ({"CompressedDataSize"} if packed and suffix == ".mha" else set())
    assert all(change.allowed for change in changes)
    itk.write_like(source, step(values), tmp_path / f"c{suffix}", DERIVATION)
    assert (tmp_path / f"c{suffix}").read_bytes() == target.read_bytes()
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_2d(suffix: str, tmp_path: Path) -> None:
    write_with_simpleitk(tmp_path / f"a{suffix}", VALUES[..., 0])
    source = itk.read_source(tmp_path / f"a{suffix}")
    assert (source.header.shape, source.header.spacing) == ((4, 5), (0.5, 0.75))
    np.testing.assert_array_equal(source.stored, VALUES[..., 0])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize(("vector", "last"), [(True, 3), (True, 7), (False, 6)], ids=["color", "channels", "time"])
def test_axes_that_share_noise(vector: bool, last: int, suffix: str, tmp_path: Path) -> None:
    path, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    values = values_in(0, 255, (4, 5, 3, last), "u1")
    write_with_simpleitk(path, values, vector=vector)
    source = itk.read_source(path)
    assert (source.header.shape, source.header.trailing, len(source.header.spacing)) == ((4, 5, 3), (last,), 3)
    np.testing.assert_array_equal(source.stored, values)
    stored = source.stored.copy()
    stored[1, 2, 0] ^= 1
    itk.write_like(source, stored, target, DERIVATION)
    np.testing.assert_array_equal(read_with_simpleitk(target), stored)
    changed = [i for i, (old, new) in enumerate(zip(path.read_bytes(), target.read_bytes(), strict=True)) if old != new]
    start = len(path.read_bytes()) - values.size
    voxel = 1 + 4 * 2
    assert changed == [start + (last * voxel + channel if vector else voxel + 60 * channel) for channel in range(last)]
    assert itk.compare_headers(path, target) == []


def test_axes_of_a_list_in_the_middle(tmp_path: Path) -> None:
    header = (
        "type: uchar\ndimension: 4\nsizes: 4 2 5 3\nkinds: space list domain ???\nspace directions: (2,0,0) none "
        "(0,3,0) (0,0,4)\nencoding: raw\n"
    )
    values = values_in(0, 255, (4, 2, 5, 3), "u1")
    (tmp_path / "a.nrrd").write_bytes(nrrd_bytes(header, values.tobytes(order="F")))
    source = itk.read_source(tmp_path / "a.nrrd")
    assert (source.header.shape, source.header.trailing, source.header.spacing) == ((4, 5, 3), (2,), (2.0, 3.0, 4.0))
    np.testing.assert_array_equal(source.stored, values.transpose(0, 2, 3, 1))
    itk.write_like(source, source.stored ^ np.uint8(1), tmp_path / "b.nrrd", DERIVATION)
    assert (tmp_path / "b.nrrd").read_bytes() == nrrd_bytes(header, (values ^ np.uint8(1)).tobytes(order="F"))


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".nrrd", nrrd_bytes(NRRD.replace("little", "big"), VALUES.astype(">i2").tobytes(order="F"))),
        (".nrrd", nrrd_bytes(NRRD + "byte skip: -1\n", b"between" + VALUES.tobytes(order="F"))),
        (".nrrd", nrrd_bytes().partition(b"\n\n")[0].replace(b"\n", b"\r\n") + b"\r\n\r\n" + VALUES.tobytes(order="F")),
        (".nrrd", nrrd_bytes(voxels=VALUES.tobytes(order="F") + b"tail")),
        (".nrrd", nrrd_bytes(NRRD.replace("raw", "gz"), gzip.compress(VALUES.tobytes(order="F"), mtime=99) + b"tail")),
        (".mha", meta_bytes(META.replace("MSB = False", "MSB = True"), VALUES.astype(">i2").tobytes(order="F"))),
        (".mha", meta_bytes(META + "HeaderSize = -1\n", b"between" + VALUES.tobytes(order="F"))),
        (
            ".mha",
            meta_bytes().partition(b"LOCAL\n")[0].replace(b"\n", b"\r\n") + b"LOCAL\r\n" + VALUES.tobytes(order="F"),
        ),
        (
            ".mha",
            meta_bytes(
                META.replace(" = ", ": ").replace("ObjectType: Image\n", ""), VALUES.tobytes(order="F") + b"tail"
            ),
        ),
        (".mha", packed_meta_bytes(zlib.compress(VALUES.tobytes(order="F"), 1) + b"tail", 4)),
        (".mha", packed_meta_bytes(gzip.compress(VALUES.tobytes(order="F"), 1, mtime=99))),
    ],
    ids=[
        "big",
        "skip",
        "crlf",
        "tail",
        "gzip tail",
        "mha big",
        "mha skip",
        "mha crlf",
        "mha tail",
        "mha zlib",
        "mha gzip",
    ],
)
def test_odd_files(suffix: str, content: bytes, tmp_path: Path) -> None:
    path, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    path.write_bytes(content)
    source = itk.read_source(path)
    np.testing.assert_array_equal(source.stored, VALUES)
    np.testing.assert_array_equal(read_with_simpleitk(path), VALUES)
    itk.write_like(source, source.stored, target, DERIVATION)
    assert target.read_bytes() == content
    itk.write_like(source, step(VALUES), target, DERIVATION)
    np.testing.assert_array_equal(itk.read_source(target).stored, step(VALUES))
    np.testing.assert_array_equal(read_with_simpleitk(target), step(VALUES))
    assert [change for change in itk.compare_headers(path, target) if not change.allowed] == []


def test_size_of_a_stream_is_renewed(tmp_path: Path) -> None:
    values = np.zeros((20, 20, 20), "i2")
    stream = zlib.compress(values.tobytes())
    header = META.replace("4 5 3", "20 20 20").replace(
        "DimSize", f"CompressedData = True\nCompressedDataSize =  {len(stream)} \nDimSize"
    )
    (tmp_path / "a.mha").write_bytes(meta_bytes(header, stream + b"tail"))
    source = replace(itk.read_back(itk_picture(tmp_path / "a.mha"), tmp_path / "a.mha"))
    stored = values_in(-500, 500, values.shape, "i2")
    itk.write_like(source, stored, tmp_path / "b.mha", DERIVATION)
    written = (tmp_path / "b.mha").read_bytes()
    head, _, rest = written.partition(b"LOCAL\n")
    size = len(rest) - 4
    assert head == header.replace(f"=  {len(stream)} \n", f"=  {size} \n").encode() + b"ElementDataFile = "
    assert zlib.decompress(rest[:size]) == stored.tobytes(order="F")
    assert rest[size:] == b"tail"
    (change,) = itk.compare_headers(tmp_path / "a.mha", tmp_path / "b.mha")
    assert (change.name, change.allowed) == ("CompressedDataSize", True)
    np.testing.assert_array_equal(read_with_simpleitk(tmp_path / "b.mha"), stored)


def itk_picture(path: Path) -> Any:
    """Give just enough of a source for a file that would pass for a label map."""
    return type("Source", (), {"header": type("Header", (), {"path": path})})


@pytest.mark.parametrize(("suffix", "packed"), [(".nhdr", False), (".nhdr", True), (".mhd", False)])
def test_detached_voxels(suffix: str, packed: bool, tmp_path: Path) -> None:
    data, out = detached(tmp_path, suffix, packed=packed), tmp_path / "out"
    header, before = tmp_path / f"a{suffix}", data.read_bytes()
    out.mkdir()
    assert itk.sniff(header)
    assert itk.sniff(data)
    document = itk.identify(header)
    assert isinstance(document, Document)
    assert document.kind.startswith("header of a detached ")
    with pytest.raises(RefusedError, match=f"not an image .*; read {data.name}"):
        itk.read_source(header)
    source = itk.read_source(data)
    assert (source.header.path, source.header.shape, source.header.spacing) == (data, (4, 5, 3), (0.5, 0.75, 2.0))
    np.testing.assert_array_equal(source.stored, VALUES)
    itk.write_like(source, source.stored, out / "unfinished", DERIVATION)
    assert (out / "unfinished").read_bytes() == before
    itk.write_like(source, step(VALUES), out / "unfinished", DERIVATION)
    assert not itk.sniff(out / "unfinished")
    again = itk.read_back(source, out / "unfinished")
    assert again.header == replace(source.header, path=out / "unfinished")
    np.testing.assert_array_equal(again.stored, step(VALUES))
    assert itk.compare_headers(data, out / "unfinished") == []
    (out / "unfinished").rename(out / data.name)
    itk.write_document(header, out / header.name, DERIVATION)
    assert (out / header.name).read_bytes() == header.read_bytes()
    np.testing.assert_array_equal(read_with_simpleitk(out / header.name), step(VALUES))
    assert facts(out / header.name) == facts(header)
    assert itk.compare_headers(data, out / data.name) == itk.compare_headers(header, out / header.name) == []
    assert data.read_bytes() == before


MORE = [
    (".nrrd", nrrd_bytes(voxels=VALUES.tobytes(order="F") * 2), 120),
    (".nrrd", nrrd_bytes(NRRD.replace("raw", "gz"), gzip.compress(VALUES.tobytes(order="F")) + VALUES.tobytes()), 120),
    (".nrrd", nrrd_bytes(NRRD + "byte skip: -1\n", VALUES.tobytes(order="F") * 2), 120),
    (".mha", meta_bytes(voxels=VALUES.tobytes(order="F") + VALUES.tobytes()[:40]), 40),
    (".mha", meta_bytes(META + "HeaderSize = -1\n", VALUES.tobytes(order="F") * 3), 240),
    (".mha", packed_meta_bytes(zlib.compress(VALUES.tobytes(order="F")) + VALUES.tobytes(), 120), 120),
]


@pytest.mark.parametrize(
    ("suffix", "content", "size"), MORE, ids=["raw", "gzip", "skip", "plane", "mha skip", "mha zlib"]
)
def test_more_voxels_than_the_header_says_are_refused(suffix: str, content: bytes, size: int, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for read in (itk.identify, itk.read_source):
        with pytest.raises(
            RefusedError,
            match=rf"holds {size} bytes before or behind the voxels, as many as [0-9.]+ times the image .* repair "
            r"the header",
        ):
            read(path)


@pytest.mark.parametrize("header_size", [0, 120])
def test_more_detached_voxels_than_the_header_says_are_refused(header_size: int, tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(VALUES.tobytes(order="F") * 2)
    (tmp_path / "a.mhd").write_bytes(meta_bytes(f"{META}HeaderSize = {header_size}\n", b"", "a.raw"))
    with pytest.raises(RefusedError, match="holds 120 bytes before or behind the voxels, as many as 1 times"):
        itk.read_source(tmp_path / "a.raw")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_bytes_behind_a_detached_header_are_refused(suffix: str, tmp_path: Path) -> None:
    data = detached(tmp_path, suffix)
    header = tmp_path / f"{data.name.partition('.')[0]}{suffix}"
    text = header.read_bytes()
    header.write_bytes(text + b"\n\n" + bytes(9))
    assert itk.identify(header).unprotected == ""
    header.write_bytes(text + b"\n\n" + VALUES.tobytes())
    for path in (header, data):
        with pytest.raises(
            RefusedError,
            match=r"the voxels are in another file, yet 1[0-9]+ bytes follow it; repair the header, or cut them off",
        ):
            itk.identify(path)


def test_pictures_beside_voxels_are_told(tmp_path: Path) -> None:
    jpeg = b"\xff\xd8\xff\xe0 JFIF"
    for content in (nrrd_bytes(voxels=VALUES.tobytes(order="F") + jpeg), nrrd_bytes(NRRD + "icon:=data:image/png,\n")):
        (tmp_path / "a.nrrd").write_bytes(content)
        assert (
            itk.read_source(tmp_path / "a.nrrd").header.unprotected
            == "bytes beside its voxels hold another image, which is not protected"
        )
    (tmp_path / "a.nrrd").write_bytes(nrrd_bytes(voxels=VALUES.tobytes(order="F") + bytes(999)))
    assert itk.read_source(tmp_path / "a.nrrd").header.unprotected == ""


def test_detached_voxels_under_another_name(tmp_path: Path) -> None:
    content = b"front" + VALUES.tobytes(order="F") + b"tail"
    (tmp_path / "voxels.bin").write_bytes(content)
    (tmp_path / "scan.mhd").write_bytes(meta_bytes(META + "HeaderSize = 5\n", b"", "./voxels.bin"))
    (tmp_path / "other.mhd").write_bytes(meta_bytes(META, b"", "other.raw"))
    (tmp_path / "notes.nhdr").write_text("no header at all")
    source = itk.read_source(tmp_path / "voxels.bin")
    np.testing.assert_array_equal(source.stored, VALUES)
    itk.write_like(source, step(VALUES), tmp_path / "out.bin", DERIVATION)
    assert (tmp_path / "out.bin").read_bytes() == b"front" + step(VALUES).tobytes(order="F") + b"tail"
    assert not itk.sniff(tmp_path / "notes.nhdr")
    (tmp_path / "again.mhd").write_bytes(meta_bytes(META, b"", "voxels.bin"))
    assert itk.sniff(tmp_path / "voxels.bin")
    with pytest.raises(RefusedError, match=r"one header .* found again.mhd, scan.mhd: keep the right one"):
        itk.identify(tmp_path / "voxels.bin")


def test_files_beside_images_are_no_voxels(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_bytes(meta_bytes(META, b"", "a.raw"))
    (tmp_path / "c.mhd").write_bytes(meta_bytes(META, b"", "notes.json"))
    for name in ("a.txt", "a.bin", "b.raw", "notes.json"):
        (tmp_path / name).write_bytes(b"x")
        assert not itk.sniff(tmp_path / name)
    with pytest.raises(RefusedError, match="found none"):
        itk.identify(tmp_path / "b.raw")


@pytest.mark.parametrize("name", ["../a.raw", "/etc/passwd", "sub/a.raw", "..\\a.raw", "C:a.raw", "..", ".", "./"])
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_data_file_elsewhere(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    (tmp_path.parent / "a.raw").write_bytes(VALUES.tobytes(order="F"))
    path.write_bytes(nrrd_bytes(f"{NRRD}data file: {name}\n", b"") if suffix == ".nhdr" else meta_bytes(data=name))
    with pytest.raises(RefusedError, match="only a plain file name in the header's own folder"):
        itk.identify(path)


def test_own_header_is_no_data_file(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_bytes(meta_bytes(data="a.mhd"))
    with pytest.raises(RefusedError, match=r"names the data file 'a.mhd'"):
        itk.identify(tmp_path / "a.mhd")
    (tmp_path / "a.mhd").write_bytes(meta_bytes(data="a.raw"))
    with pytest.raises(RefusedError, match="not beside it"):
        itk.identify(tmp_path / "a.mhd")


NRRD_REFUSED = [
    ("encoding: raw", "encoding: txt", "encoding is 'txt'; raw and gzip"),
    ("encoding: raw", "encoding: bzip2", "encoding is 'bzip2'"),
    ("encoding: raw", "encoding: hex", "encoding is 'hex'"),
    ("encoding: raw\n", "", "encoding is ''"),
    ("type: short", "type: block", "type is 'block'"),
    ("endian: little", "endian: middle", "endian is 'middle'"),
    ("endian: little\n", "", "endian is ''"),
    ("sizes: 4 5 3", "sizes: 4 5 3\nsizes: 4 5 3", "'sizes' twice"),
    ("sizes: 4 5 3", "sizes: 4 5", "dimension is '3', sizes has 2 numbers"),
    ("sizes: 4 5 3", "sizes: 4 -5 3", "sizes is '4 -5 3'"),
    ("sizes: 4 5 3", "sizes: 4 0 3", "sizes is '4 0 3'"),
    ("sizes: 4 5 3", "sizes: 4 5 1_0", "sizes is"),
    ("sizes: 4 5 3", "sizes: 4 5 " + "9" * 5000, "sizes is"),
    ("sizes: 4 5 3", "sizes: 4000000 50000 30000", "at most 16 GiB"),
    ("sizes: 4 5 3", "sizes: 40 5 3", "truncated: the header needs 1200 bytes of voxels, 120 bytes"),
    ("dimension: 3", "dimension: 4", "dimension is '4'"),
    ("dimension: 3\n", "", "dimension is ''"),
    ("encoding: raw", "encoding: raw\nline skip: 1", "line skip is '1'"),
    ("encoding: raw", "encoding: raw\nbyteskip: 7", "byte skip '7'"),
    ("encoding: raw", "encoding: gzip\nbyte skip: -1", "byte skip '-1'"),
    ("encoding: raw", "encoding: raw\ndata file: LIST", "several files"),
    ("encoding: raw", "encoding: raw\ndata file: a%03d.raw 1 3 1", "several files"),
    ("domain domain domain", "domain domain", "kinds has 2 words for 3 axes"),
    ("domain domain domain", "complex domain domain", "kind of axis 0 is 'complex'"),
    ("domain domain domain", "RGBA-color domain domain", "kind of axis 0 is 'rgba-color'"),
    ("domain domain domain", "list list domain", "1 spatial axes"),
    ("(0,0,2)", "none", "axis 2 is a domain without a direction"),
    ("(0,0,2)", "(0,0,x)", "space directions is '0,0,x', which is no list of numbers"),
    ("(0,0,2)", "(0,0,2", "a vector or none for each of 3 axes"),
    ("kinds:", "no colon", "neither a field nor a key"),
    ("space directions: (0.5,0,0) (0,0.6,0.8) (0,0,2)", "spacings: 1 2", "spacings has 2 numbers"),
]
META_REFUSED = [
    ("MET_SHORT", "MET_LONG", "ElementType is 'MET_LONG'"),
    ("MET_SHORT", "MET_SHORT_ARRAY", "ElementType is"),
    ("BinaryData = True", "BinaryData = False", "voxels are text"),
    ("BinaryData = True", "BinaryData = perhaps", "BinaryData is 'perhaps'"),
    ("NDims = 3", "NDims = 3\nElementByteOrderMSB = True", "contradict each other"),
    ("NDims = 3", "NDims = 2", "NDims is '2', DimSize has 3 numbers"),
    ("NDims = 3", "NDims = -3", "NDims is '-3'"),
    ("NDims = 3\n", "", "NDims is ''"),
    ("DimSize = 4 5 3", "DimSize = 4 5 3\nDimSize = 4 5 3", "'DimSize' twice"),
    ("DimSize = 4 5 3", "DimSize = 4 -5 3", "DimSize is '4 -5 3'"),
    ("DimSize = 4 5 3", "DimSize = 4 5 999999999999", "at most 16 GiB"),
    ("DimSize = 4 5 3", "DimSize = 40 5 3", "truncated: the header needs 1200 bytes of voxels, 120 bytes"),
    ("NDims = 3", "NDims = 3\nHeaderSize = 12", "HeaderSize is '12'"),
    ("NDims = 3", "NDims = 3\nHeaderSize = -1\nCompressedData = True\nCompressedDataSize = 9", "HeaderSize is '-1'"),
    ("NDims = 3", "NDims = 3\nCompressedData = True\nCompressedDataSize = 1 2", "CompressedDataSize is '1 2'"),
    ("NDims = 3", "NDims = 3\nCompressedData = True\nCompressedDataSize = 999", "truncated"),
    ("NDims = 3", "NDims = 3\nCompressedData = True\nCompressedDataSize = 100", "the zlib stream is damaged"),
    ("NDims = 3", "NDims = 3\nCompressedData = True", "CompressedDataSize is ''"),
    ("NDims = 3", "NDims = 3\nElementNumberOfChannels = 0", "ElementNumberOfChannels is '0'"),
    ("NDims = 3", "NDims = 3\nElementToIntensityFunctionSlope = 2", "readers differ"),
    ("ObjectType = Image", "ObjectType = Tube", "ObjectType is 'Tube'"),
    ("ElementSpacing = 0.5 1 2", "ElementSpacing = 1 2", "ElementSpacing has 2 numbers for 3 axes"),
    ("ElementSpacing = 0.5 1 2", "ElementSpacing = a b c", "no list of numbers"),
    ("NDims = 3", "no sign here", "not 'name = value'"),
]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((nrrd_bytes(NRRD.replace(old, new)), reason) for old, new, reason in NRRD_REFUSED),
        *((meta_bytes(META.replace(old, new)), reason) for old, new, reason in META_REFUSED),
        (nrrd_bytes(NRRD + "byte skip: -1\n", VALUES.tobytes()[9:]), "the voxels overlap the header"),
        (meta_bytes(META + "HeaderSize = -1\n", VALUES.tobytes()[1:]), "the voxels overlap the header"),
        (meta_bytes(data="LIST"), "several files"),
        (meta_bytes(data="a%03d.raw 1 3 1"), "several files"),
        (
            nrrd_bytes(NRRD.replace("raw", "gzip"), gzip.compress(VALUES.tobytes()[:-2])),
            "holds 118 bytes, the header needs 120",
        ),
        (nrrd_bytes(NRRD.replace("raw", "gzip"), gzip.compress(VALUES.tobytes() + b"x")), "more than the 120 bytes"),
        (nrrd_bytes(NRRD.replace("raw", "gzip"), gzip.compress(VALUES.tobytes())[:-4]), "truncated"),
        (nrrd_bytes(NRRD.replace("raw", "gzip"), gzip.compress(VALUES.tobytes())[:-4] + b"1234"), "damaged"),
        (
            nrrd_bytes(NRRD.replace("raw", "gzip").replace("4 5 3", "4000 500 300"), gzip.compress(VALUES.tobytes())),
            "truncated",
        ),
        (
            nrrd_bytes("type: float\ndimension: 4\nsizes: 1 2 2 2\nencoding: raw\nendian: big\n", bytes(32)),
            "add the field kinds",
        ),
    ],
)
def test_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    assert itk.sniff(tmp_path / "a")
    for read in (itk.identify, itk.read_source):
        with pytest.raises(RefusedError, match=reason) as caught:
            read(tmp_path / "a")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_displacements_are_refused(suffix: str, tmp_path: Path) -> None:
    write_with_simpleitk(tmp_path / f"a{suffix}", values_in(-9, 9, (4, 5, 3, 3), "f4"), vector=True)
    with pytest.raises(RefusedError, match="displacement field"):
        itk.identify(tmp_path / f"a{suffix}")


def test_compressed_data_file_is_refused(tmp_path: Path) -> None:
    data = detached(tmp_path, ".mhd", packed=True)
    for path in (data, tmp_path / "a.mhd"):
        with pytest.raises(RefusedError, match=r"convert to one \.mha"):
            itk.identify(path)


def test_label_maps(tmp_path: Path) -> None:
    labels = np.zeros((8, 8, 8), "u1")
    labels[2:6, 2:6, 2:6] = 3
    for name in ("a.nrrd", "a.mha"):
        write_with_simpleitk(tmp_path / name, labels)
    (tmp_path / "b.seg.nrrd").write_bytes(nrrd_bytes(NRRD + "Segment0_ID:=Segment_1\nSegment0_Name:=liver\n"))
    for name in ("a.nrrd", "a.mha", "b.seg.nrrd"):
        found = itk.identify(tmp_path / name)
        assert isinstance(found, Document)
        assert found.kind == "label map"
        itk.write_document(tmp_path / name, tmp_path / "copy", DERIVATION)
        assert (tmp_path / "copy").read_bytes() == (tmp_path / name).read_bytes()


def test_what_headers_say(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def header(content: bytes) -> ImageHeader:
        path.write_bytes(content)
        return itk.read_source(path).header

    for modality, code in (("MET_MOD_CT", "CT"), ("MET_MOD_MR", "MR"), ("MET_MOD_OTHER", ""), ("XX", "")):
        assert header(meta_bytes(f"{META}Modality = {modality}\n")).modality == code
    assert header(meta_bytes(META + "ElementMax = 7\n")).notes == (
        "its header gives the lowest and highest value, which are those before noise",
    )
    assert header(nrrd_bytes(NRRD + "max: 7\n")).notes == (
        "its header gives the lowest and highest value, which are those before noise",
    )
    assert header(nrrd_bytes(NRRD + "modality:=DWMRI\n")).modality == "MR"
    assert header(nrrd_bytes()).spacing == (0.5, 1.0, 2.0)
    assert header(nrrd_bytes(NRRD + 'space units: "cm" "cm" "cm"\n')).spacing == (5.0, 10.0, 20.0)
    bare = NRRD.replace("space directions: (0.5,0,0) (0,0.6,0.8) (0,0,2)\n", "").replace(
        "kinds: domain domain domain\n", ""
    )
    assert header(nrrd_bytes(bare)).spacing == (1.0, 1.0, 1.0)
    assert header(nrrd_bytes(bare + 'spacings: 2 3 nan\nunits: "mm" "um" ""\n')).spacing == (2.0, 0.003, 1.0)
    assert header(nrrd_bytes()).spacing_known
    assert not header(nrrd_bytes(bare)).spacing_known
    assert not header(nrrd_bytes(bare + 'spacings: 2 3 nan\nunits: "mm" "um" ""\n')).spacing_known
    assert header(meta_bytes(META)).spacing_known
    without = header(meta_bytes(META.replace("ElementSpacing = 0.5 1 2\n", "")))
    assert (without.spacing, without.spacing_known) == ((1.0, 1.0, 1.0), False)


@pytest.mark.slow
@pytest.mark.parametrize("make", [nrrd_bytes, meta_bytes], ids=["nrrd", "mha"])
def test_truncated_files_are_refused(make: Callable[..., bytes], tmp_path: Path) -> None:
    stream = gzip.compress(VALUES.tobytes())
    packed = nrrd_bytes(NRRD.replace("raw", "gzip"), stream) if make is nrrd_bytes else packed_meta_bytes(stream)
    for content in (make(), packed):
        for size in range(len(content)):
            (tmp_path / "a").write_bytes(content[:size])
            for call in (itk.identify, itk.read_source):
                with pytest.raises(RefusedError, match=r"."):
                    call(tmp_path / "a")


def test_bad_values_and_targets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(nrrd_bytes())
    source = itk.read_source(path)
    with pytest.raises(RefusedError, match="the new values are"):
        itk.write_like(source, source.stored[:-1], tmp_path / "b", DERIVATION)
    with pytest.raises(RefusedError, match="own file"):
        itk.write_like(source, source.stored, path, DERIVATION)
    path.write_bytes(nrrd_bytes(voxels=step(VALUES).tobytes(order="F")))
    with pytest.raises(RefusedError, match="changed since it was read"):
        itk.write_like(source, source.stored, tmp_path / "b", DERIVATION)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (nrrd_bytes(), nrrd_bytes(NRRD.replace("0.5", "0.6")), "space directions"),
        (nrrd_bytes(), nrrd_bytes(NRRD + "more:=1\n"), "more"),
        (nrrd_bytes(), nrrd_bytes().replace(b"by hand", b"by paw"), "# written by paw"),
        (nrrd_bytes(), nrrd_bytes().replace(b"value\n", b"value\r\n"), "(comments, order or line ends of the header)"),
        (nrrd_bytes(), nrrd_bytes(voxels=VALUES.tobytes() + b"x"), "(bytes after the voxels)"),
        (
            nrrd_bytes(NRRD + "byte skip: -1\n"),
            nrrd_bytes(NRRD + "byte skip: -1\n", b"x" + VALUES.tobytes()),
            "(bytes before the voxels)",
        ),
        (
            nrrd_bytes(NRRD.replace("raw", "gzip"), gzip.compress(VALUES.tobytes(), mtime=1)),
            nrrd_bytes(NRRD.replace("raw", "gzip"), gzip.compress(VALUES.tobytes(), mtime=2)),
            "(gzip header)",
        ),
        (meta_bytes(), meta_bytes(META.replace("0.5", "0.6")), "ElementSpacing"),
        (
            meta_bytes(META + "CompressedDataSize = 5\n"),
            meta_bytes(META + "CompressedDataSize = 6\n"),
            "CompressedDataSize",
        ),
    ],
)
def test_tampering_is_seen(before: bytes, after: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(before)
    (tmp_path / "b").write_bytes(after)
    changes = itk.compare_headers(tmp_path / "a", tmp_path / "b")
    assert name in {change.name for change in changes}
    assert not any(change.allowed for change in changes)


def test_second_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    values = values_in(0, 4000, (6, 8), "u2")
    write_dicom(
        tmp_path / "a.dcm", dicom_dataset(shape=(6, 8), bits_allocated=16, bits_stored=12, signed=False), values
    )
    by_rows, by_columns = (
        read_with_simpleitk(tmp_path / "a.dcm", rows_first=True),
        read_with_simpleitk(tmp_path / "a.dcm"),
    )
    assert by_rows is not None
    assert by_columns is not None
    assert by_rows.shape == (6, 8)
    np.testing.assert_array_equal(by_rows, by_columns[..., 0].T)
    np.testing.assert_array_equal(by_rows, 2.0 * values - 1024)
    (tmp_path / "b.nrrd").write_bytes(nrrd_bytes()[:-1])
    assert read_with_simpleitk(tmp_path / "b.nrrd") is None
    assert read_with_simpleitk(tmp_path / "absent.nrrd") is None
    assert capfd.readouterr() == ("", "")
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4), np.complex64)), str(tmp_path / "c.nrrd"))
    assert read_with_simpleitk(tmp_path / "c.nrrd") is None
    monkeypatch.setattr(second_reader, "find_spec", lambda name: None)
    second_reader._simpleitk.close()  # it is looked for when its process is started
    assert read_with_simpleitk(tmp_path / "a.dcm") is None
