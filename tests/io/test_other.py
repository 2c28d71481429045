# SPDX-License-Identifier: Apache-2.0
"""What may go out as it is though no module reads it, and what may not because it can hold pictures."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from base64 import a85encode, encodebytes
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.errors import RefusedError
from monai_salm.io import other, pdf
from monai_salm.io.base import Document

UNKNOWN = "unknown binary format, which may hold images; --copy-unprotected copies it as it is"


def _made(write: Any) -> bytes:
    stream = BytesIO()
    write(stream)
    return stream.getvalue()


def _tar(stream: Any) -> None:
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))


def _zip(stream: Any) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a"), "b")  # of 1980: the time of day would make other names of tests


def _pillow(form: str) -> bytes:
    image = pytest.importorskip("PIL.Image").new("RGB", (16, 16), (1, 2, 3))
    return _made(lambda stream: image.save(stream, form))


@pytest.mark.parametrize(
    "content",
    [
        b"a report\r\n\twith lines\x0c\n",
        "größer, 日本語 \U0001f600\n".encode(),
        "\ufeffwith a mark".encode(),
        "größer".encode("latin-1"),
        b'{"Modality": "MR"}',
        b"BMI,age\n22,40\n",
        b"P2 was moved\n",
        ("ä" * (1 << 20)).encode() + b"x",
        b"x" + ("ä" * (1 << 20)).encode(),
    ],
)
def test_text_goes_out(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    assert other.identify(tmp_path / "a") == Document(path=tmp_path / "a", format="other", kind="text")


@pytest.mark.parametrize("front", [b"", b"\xef\xbb\xbf", b"x" * 900])
def test_pdf_goes_out_with_a_note(front: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(front + b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n\0")
    document = other.identify(tmp_path / "a")
    assert (document.kind, document.notes) == (
        "PDF",
        ("no image was found in the PDF, whose lines and text are not looked at",),
    )


def _stream(data: bytes, keys: bytes = b"") -> bytes:
    return (
        b"%PDF-1.7\n4 0 obj\n<< /Length "
        + str(len(data)).encode()
        + b" "
        + keys
        + b" >>\nstream\n"
        + data
        + b"\nendstream\nendobj\n%%EOF\n"
    )


def _flate(data: bytes, keys: bytes = b"") -> bytes:
    return _stream(zlib.compress(data), b"/Filter /FlateDecode " + keys)


INLINE = b"q 9 0 0 9 0 0 cm\nBI /W 9 /H 9 /CS /G /BPC 8\nID " + bytes(range(81)) + b"\nEI Q\n"
FONT = np.random.default_rng(0).bytes(3 << 20)


@pytest.mark.parametrize(
    "content",
    [
        _stream(INLINE),
        _flate(INLINE),
        _flate(INLINE.replace(b"/W 9 /H 9", b"% W\n/H 9 /W 9")),
        _stream(a85encode(zlib.compress(INLINE)) + b"~>", b"/Filter [/ASCII85Decode /FlateDecode]"),
        _stream(INLINE.hex().encode() + b">", b"/Filter/AHx"),
        _stream(_pillow("JPEG")),
        _stream(b"x" * 99 + _pillow("JPEG")),
        _flate(_pillow("PNG")),
        _flate(b"x" * 99 + _pillow("JPEG")),
        _flate(b"<xmp>" + encodebytes(_pillow("JPEG")) + b"</xmp>"),
        _stream(bytes(99), b"/Subtype /Im#61ge"),
        _stream(bytes(99), b"/Subtype % a comment\n /Image"),
        _stream(bytes(99), b"/Filter [/Fl /D#43TDecode]"),
        b"%PDF-1.7\n1 0 obj << /Type /Filespec /F (a) /EF << /F 4 0 R >> >> endobj\n",
        _flate(b"1 0 << /Type /Filespec /F (a) /EF << /F 4 0 R >> >>", b"/Type /ObjStm"),
    ],
)
def test_pictures_in_pdf_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    document = other.identify(tmp_path / "a")
    assert (document.notes, document.unprotected) == ((), pdf.PICTURES_IN_PDF)


@pytest.mark.parametrize(
    "content",
    [
        _stream(b"\x80\x0b", b"/Filter /LZWDecode"),
        _stream(b"no zlib", b"/Filter /FlateDecode"),
        _stream(b"", b"/Filter 5 0 R"),
        _flate(b"BT ET") + b"trailer << /Encrypt 9 0 R >>",
        _flate(b"BT ET", b"/DecodeParms << /Predictor 12 >>"),
        _flate(bytes((1 << 26) + 1)),
    ],
    ids=["LZW", "damaged", "elsewhere", "encrypted", "predictor", "large"],
)
def test_pdf_that_cannot_be_searched_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    document = other.identify(tmp_path / "a")
    assert (document.notes, document.unprotected) == ((), pdf.NOT_SEARCHED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        _flate(b"BT /F1 12 Tf (BI is an ID of EI, /Image too) Tj ET\n"),
        _flate(FONT, b"/Length1 9"),
        _stream(FONT),
        _flate(b"\1\0\0", b"/Type /XRef /DecodeParms << /Predictor 12 /Columns 4 >>"),
        _flate(b"1 0 << /ProcSet [/PDF /Text /ImageB /ImageC] /EFG << >> >>", b"/Type /ObjStm /Filter []"),
    ],
    ids=["text", "font", "plain font", "links", "objects"],
)
def test_pdf_of_text_has_no_picture(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    document = other.identify(tmp_path / "a")
    assert (document.notes, document.unprotected) == ((pdf.LOOKED_FOR,), "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (_made(_zip), "a zip file inside the input is not opened; unpack it first"),
        (_made(lambda stream: np.savez(stream, a=np.arange(3))), "a zip file"),
        (_made(_zip)[:-10], r"the zip file is damaged or cut \(.*\); get a complete copy, and unpack it"),
        (_made(_zip)[:60], "the zip file is damaged or cut"),
        (
            _made(_zip).replace(b"PK\1\2", b"PK\1\3"),
            r"the zip file is damaged or cut \(Bad magic number for central directory\)",
        ),
        (b"PK\7\x08" + _made(_zip)[:60], "the zip file is damaged or cut"),
        (_made(lambda stream: np.save(stream, np.arange(3))), "a NumPy array, which may hold unprotected images"),
        (_made(_tar), "a tar archive"),
        (gzip.compress(b"x", mtime=0), "a gzip file"),
        (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file"),
        (b"CDF\1\0", "a NetCDF file"),
        (b"MATLAB 5.0 MAT-file, Platform: PCWIN", "a MATLAB file"),
        (b"RIFF\1\2\3\4AVI LIST", "an AVI video"),
        (b"\0\0\0\x20ftypisom", "an MP4 video"),
        (b"\x1aE\xdf\xa3", "a Matroska"),
        (b"7z\xbc\xaf\x27\x1c\0", "a 7z archive"),
        (b"Rar!\x1a\7\1\0", "a RAR archive"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\x5c\1\0\0" + bytes(344), "the header of an Analyze 7.5 image"),
        (b"\0\0\1\x5c" + bytes(344), "the header of an Analyze 7.5 image"),
        (b"P5\n# by hand\n2 2\n255\n\1\2\3\4", "a portable pixmap"),
        (b"P2\n2 2 255\n1 2 3 4", "a portable pixmap"),
        (b"# vtk DataFile Version 3.0\n", "a VTK file"),
        (b"GIF89a%PDF-", "a GIF"),
        (b"<img src='data:image/png;base64,iVBO'>", "the text has an image in it"),
        (b" " * ((1 << 20) - 5) + b"DATA:Image/png", "the text has an image in it"),
        (b'{"7FE00010": {"vr": "OW", "InlineBinary": "AAAA"}}', "the text has an image in it"),
        (b"text and then\0", UNKNOWN),
        (b"x" * (3 << 20) + b"\1", UNKNOWN),
        (b"gr\xf6\xdfer \x85", UNKNOWN),
        (b"cut \xc3", None),
        (b"\x80cut \xc3", UNKNOWN),
        ("“cut ".encode() + b"\xc3", UNKNOWN),
        ("ä".encode() + b"\x80", UNKNOWN),
        (bytes(range(256)), UNKNOWN),
        ("wide".encode("utf-16"), UNKNOWN),
    ],
)
def test_what_may_hold_pictures_is_refused(content: bytes, reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    if reason is None:
        assert other.identify(tmp_path / "a").kind == "text"
        return
    with pytest.raises(RefusedError, match=reason) as caught:
        other.identify(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "name"),
    [("BMP", "BMP"), ("GIF", "GIF"), ("WEBP", "WebP"), ("JPEG2000", "JPEG 2000"), ("PPM", "pixmap"), ("ICO", "icon")],
)
def test_other_pictures_are_named(form: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(_pillow(form))
    with pytest.raises(RefusedError, match=name):
        other.identify(tmp_path / "a")


def test_voxels_of_a_pair_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(b"looks like text")
    assert other.identify(tmp_path / "a.img").kind == "text"
    (tmp_path / "a.hdr").write_bytes(b"\x5c\1\0\0" + bytes(344))
    with pytest.raises(RefusedError, match="voxels of an image whose header is beside it"):
        other.identify(tmp_path / "a.img")


@pytest.mark.parametrize(
    "name",
    [
        ".gitkeep",
        "__init__.py",
        "a.TXT",
        "job.done",
        "DONE",
        "_SUCCESS",
        "README",
        ".nojekyll",
        "sub-1.bval",
        "table.csv",
    ],
)
def test_empty_file_that_never_was_a_picture_goes_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert other.identify(tmp_path / name) == Document(path=tmp_path / name, format="other", kind="empty file")


@pytest.mark.parametrize(
    "name",
    [
        "a.dcm",
        "a.nii",
        "a.nii.gz",
        "a.png",
        "IM0001",
        "1.2.840.78",
        ".dcm",
        ".hidden.nii",
        "a.zip",
        "a.img",
        "a.pdf",
        "a.npy",
        "a.unknown",
    ],
)
def test_empty_file_that_may_have_been_a_picture_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(
        RefusedError, match="the file is empty, and may have been an image; get a complete copy, or remove it"
    ):
        other.identify(tmp_path / name)


def test_list_of_members_of_any_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(_made(_zip))
    monkeypatch.setattr(other, "_MOST_DIRECTORY", 10)
    with pytest.raises(
        RefusedError, match=r"damaged or cut \(its list of members has \d+ bytes, at most 10 are read\)"
    ):
        other.identify(tmp_path / "a")


def test_litter() -> None:
    for name in (
        ".DS_Store",
        "Thumbs.db",
        "thumbs.db",
        "desktop.ini",
        "._scan.dcm",
        "__MACOSX",
        "__MACOSX/a/._b",
        "a/Thumbs.db",
        "a\\Thumbs.db",
    ):
        assert other.is_litter(name)
    for name in ("DS_Store", "scan.dcm", "thumbs.dbx", "_.a", "a.DS_Store", "a/b", ".hidden", "a._b"):
        assert not other.is_litter(name)
