# SPDX-License-Identifier: Apache-2.0
"""PNG, JPEG and TIFF: Pillow writes the sources and reads what our own bytes wrote; only pixels change."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.errors import RefusedError
from monai_salm.io import raster
from monai_salm.io.base import Derivation, Document
from monai_salm.io.raster import decoding, png
from monai_salm.io.second_reader import read_with_simpleitk
from tests.io.builders import values_in

Image: Any = pytest.importorskip("PIL.Image")
PngInfo: Any = pytest.importorskip("PIL.PngImagePlugin").PngInfo
ImageCms: Any = pytest.importorskip("PIL.ImageCms")

DERIVATION = Derivation(software="monai_salm", version="1.2", description="x", uid_secret=b"secret")
GRAY = values_in(0, 255, (10, 7), "u1")
GRAY16 = values_in(0, 65535, (10, 7), "u2")
COLOR = np.random.default_rng(3).integers(0, 256, (10, 7, 3), "u1")
PROFILE: bytes = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def save(path: Path, values: Any, **how: Any) -> Path:
    Image.fromarray(values).save(path, **how)
    return path


def pillow(path: Path) -> Any:
    with Image.open(path) as image:
        return np.array(image)


def facts(path: Path) -> Any:
    with Image.open(path) as image:
        image.load()
        return (
            image.mode,
            image.size,
            image.format,
            {key: value for key, value in image.info.items() if key != "compression"},
        )


def step(values: Any) -> Any:
    return np.where(values > 100, values - 1, values + 1).astype(values.dtype)


def info() -> Any:
    """Make metadata for a PNG."""
    chunks = PngInfo()
    chunks.add_text("Comment", "hello")
    chunks.add_itxt("Title", "größer", lang="de")
    chunks.add(b"prVt", b"private", after_idat=True)
    return chunks


def exif(**tags: Any) -> Any:
    block = Image.Exif()
    block[0x0112] = 6
    block[0x010F] = tags.get("maker", "Maker")
    return block


ALPHA = np.dstack([COLOR, GRAY])
SOURCES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "png gray": ("a.png", GRAY, {}),
    "png gray 16": ("a.png", GRAY16, {}),
    "png color": ("a.png", COLOR, {}),
    "png alpha": ("a.png", ALPHA, {}),
    "png gray alpha": ("a.png", ALPHA[..., 2:], {}),
    "png metadata": ("a.png", COLOR, {"pnginfo": info(), "dpi": (300, 300), "icc_profile": PROFILE, "exif": exif()}),
    "png one row": ("a.png", GRAY[:1], {}),
    "tiff gray": ("a.tif", GRAY, {}),
    "tiff gray 16": ("a.tif", GRAY16, {"dpi": (72, 72), "description": "ward 7"}),
    "tiff gray 16 big": ("a.tif", GRAY16.astype(">u2"), {}),
    "tiff color": ("a.tif", COLOR, {"icc_profile": PROFILE}),
    "tiff lzw": ("a.tif", COLOR, {"compression": "tiff_lzw", "icc_profile": PROFILE}),
    "tiff lzw 16": ("a.tif", GRAY16, {"compression": "tiff_lzw", "tiffinfo": {317: 2}}),
    "tiff deflate": ("a.tif", GRAY, {"compression": "tiff_adobe_deflate", "tiffinfo": {278: 3}}),
    "tiff old deflate": ("a.tif", GRAY16, {"compression": "tiff_deflate"}),
    "tiff packbits": ("a.tif", np.repeat(GRAY, 9, axis=1), {"compression": "packbits", "tiffinfo": {278: 3}}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_pictures(name: str, tmp_path: Path) -> None:
    file, values, how = SOURCES[name]
    path = save(tmp_path / file, values, **how)
    before, target = path.read_bytes(), tmp_path / f"b{path.suffix}"
    stored = (
        values[..., :3] if values.ndim == 3 and values.shape[2] > 2 else values[..., 0] if values.ndim == 3 else values
    )
    assert raster.sniff(path)
    source = raster.read_source(path)
    assert raster.identify(path, "picture") == source.header
    assert (source.header.format, source.header.shape, source.header.trailing) == (
        "raster",
        stored.shape[:2],
        stored.shape[2:],
    )
    assert (source.header.spacing, source.header.output_suffix, source.header.notes) == ((1.0, 1.0), "", ())
    assert not source.header.spacing_known
    assert source.stored.dtype == source.header.dtype == np.dtype(stored.dtype.newbyteorder("="))
    assert not source.stored.flags.writeable
    assert source.range_stored == (0.0, np.iinfo(stored.dtype).max)
    np.testing.assert_array_equal(source.stored, stored)
    raster.write_like(source, source.stored, target, DERIVATION)
    assert target.read_bytes() == before
    raster.write_like(source, step(source.stored), target, DERIVATION)
    np.testing.assert_array_equal(raster.read_back(source, target).stored, step(source.stored))
    seen = pillow(target)
    colors = seen[..., :3] if seen.ndim == 3 and seen.shape[2] > 2 else seen[..., 0] if seen.ndim == 3 else seen
    np.testing.assert_array_equal(colors, step(source.stored))
    if seen.ndim == 3 and seen.shape[2] in (2, 4):
        np.testing.assert_array_equal(seen[..., -1], values[..., -1])
    if name != "png gray alpha":  # which SimpleITK does not read
        np.testing.assert_array_equal(read_with_simpleitk(target, rows_first=True), seen)
    assert facts(target) == facts(path)
    changes = raster.compare_headers(path, target)
    packed = how.get("compression")
    assert {change.name for change in changes} <= ({"(tag 259)", "(tag 273)", "(tag 279)"} if packed else set())
    assert all(change.allowed for change in changes)
    raster.write_like(source, step(source.stored), tmp_path / "again", DERIVATION)
    assert (tmp_path / "again").read_bytes() == target.read_bytes()
    assert path.read_bytes() == before


def test_chunks_of_a_png_stay(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.png",
        np.random.default_rng(1).integers(0, 256, (300, 400, 3), "u1"),
        pnginfo=info(),
        dpi=(300, 300),
    )
    path.write_bytes(path.read_bytes() + b"tail")
    source = raster.read_source(path)
    raster.write_like(source, step(source.stored), tmp_path / "b.png", DERIVATION)
    before, after = (png.read(file.read_bytes()) for file in (path, tmp_path / "b.png"))
    assert len([chunk for chunk in before.chunks if chunk.kind == b"IDAT"]) > 1
    kinds = [chunk.kind for chunk in after.chunks]
    assert kinds == [
        b"IHDR",
        *(kind for kind in kinds if kind not in (b"IHDR", b"IDAT", b"prVt", b"IEND")),
        b"IDAT",
        b"prVt",
        b"IEND",
    ]
    rest = [[(chunk.kind, chunk.data) for chunk in file.chunks if chunk.kind != b"IDAT"] for file in (before, after)]
    assert rest[0] == rest[1]
    assert before.tail == after.tail == b"tail"


def test_only_strips_of_a_tiff_change(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", GRAY16, description="ward 7")
    source = raster.read_source(path)
    stored = source.stored.copy()
    stored[4, 2] ^= 1
    raster.write_like(source, stored, tmp_path / "b.tif", DERIVATION)
    before, after = path.read_bytes(), (tmp_path / "b.tif").read_bytes()
    start = before.index(GRAY16.tobytes())
    assert [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [
        start + 2 * (4 * 7 + 2)
    ]


def test_old_strips_are_wiped(tmp_path: Path) -> None:
    values = np.repeat(np.random.default_rng(5).integers(0, 256, (30, 8), "u1"), 9, axis=1)
    path = save(tmp_path / "a.tif", values, compression="packbits", tiffinfo={278: 5})
    source = raster.read_source(path)
    noisy = values ^ np.random.default_rng(2).integers(0, 2, values.shape, "u1")
    raster.write_like(source, noisy, tmp_path / "b.tif", DERIVATION)
    before, after = path.read_bytes(), (tmp_path / "b.tif").read_bytes()
    with Image.open(path) as image:
        strips = list(zip(image.tag_v2[273], image.tag_v2[279], strict=True))
    with Image.open(tmp_path / "b.tif") as image:
        moved = list(image.tag_v2[273])
        np.testing.assert_array_equal(np.array(image), noisy)
    assert len(strips) == 6
    assert any(new != old for new, (old, _) in zip(moved, strips, strict=True))
    for start, size in strips:
        assert before[start : start + size] not in after
    assert [change for change in raster.compare_headers(path, tmp_path / "b.tif") if not change.allowed] == []


@pytest.mark.parametrize(
    ("place", "code", "reason"),
    [(0, 190, "a run of 67 bytes"), (-2, 255, "a strip holds"), (-2, 9, "damaged"), (0, 5, r".")],
)
def test_runs_of_packbits_end_with_their_rows(place: int, code: int, reason: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.repeat(GRAY[:, :1], 60, axis=1), compression="packbits")
    with Image.open(path) as image:
        start, size = image.tag_v2[273][0], image.tag_v2[279][0]
    content = bytearray(path.read_bytes())
    content[start + place if place >= 0 else start + size + place] = code
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=reason):
        raster.identify(path)


def test_white_is_zero(tmp_path: Path) -> None:
    for compression in (None, "tiff_lzw"):
        path = save(tmp_path / "a.tif", GRAY, compression=compression)
        content = bytearray(path.read_bytes())
        place = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
        assert content[place] == 1
        content[place] = 0
        path.write_bytes(content)
        source = raster.read_source(path)
        np.testing.assert_array_equal(source.stored, GRAY)
        raster.write_like(source, step(GRAY), tmp_path / "b.tif", DERIVATION)
        np.testing.assert_array_equal(raster.read_source(tmp_path / "b.tif").stored, step(GRAY))
        np.testing.assert_array_equal(pillow(tmp_path / "b.tif"), 255 - step(GRAY))


def test_strip_fields_that_are_too_small_are_refused(tmp_path: Path) -> None:
    values = np.repeat(np.arange(256, dtype="u1")[:, None], 1024, axis=1)
    path = save(tmp_path / "a.tif", values, compression="packbits", tiffinfo={278: 256})
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HHI", 279, 4, 1))
    content[place : place + 4] = struct.pack("<HH", 279, 3)
    path.write_bytes(content)
    source = raster.read_source(path)
    with pytest.raises(RefusedError, match="tag 279 has values of 2 bytes"):
        raster.write_like(
            source, np.random.default_rng(1).integers(0, 256, values.shape, "u1"), tmp_path / "b.tif", DERIVATION
        )
    assert not (tmp_path / "b.tif").exists()


@pytest.mark.parametrize("values", [GRAY, COLOR], ids=["gray", "color"])
@pytest.mark.parametrize(
    "how",
    [{}, {"progressive": True}, {"icc_profile": PROFILE * 30, "exif": exif(), "dpi": (300, 200), "comment": "hello"}],
)
def test_jpeg_becomes_png(values: Any, how: dict[str, Any], tmp_path: Path) -> None:
    path, target = save(tmp_path / "a.jpg", values, quality=90, **how), tmp_path / "a.png"
    before = path.read_bytes()
    source = raster.read_source(path)
    assert (source.header.output_suffix, source.header.shape, source.header.trailing) == (
        ".png",
        (10, 7),
        values.shape[2:],
    )
    lost = ("not carried over to the PNG: COM",) if how.get("comment") else ()
    assert source.header.notes == ("a JPEG is lossy, so the image is written as PNG", *lost)
    np.testing.assert_array_equal(source.stored, pillow(path))
    for stored in (source.stored, step(source.stored)):
        raster.write_like(source, stored, target, DERIVATION)
        np.testing.assert_array_equal(pillow(target), stored)
        again = raster.read_back(source, target)
        np.testing.assert_array_equal(again.stored, stored)
        assert again.header.output_suffix == ""
        changes = {change.name: change.allowed for change in raster.compare_headers(path, target)}
        assert changes == {"(format)": True} | ({"(segment COM)": True} if lost else {})
    with Image.open(path) as jpeg, Image.open(target) as written:
        assert written.info.get("icc_profile") == jpeg.info.get("icc_profile")
        assert dict(written.getexif()) == dict(jpeg.getexif())
        assert written.info.get("dpi", (0, 0)) == pytest.approx(jpeg.info.get("dpi", (0, 0)), abs=0.1)
    assert path.read_bytes() == before


def test_lost_metadata_of_a_jpeg_are_seen(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", COLOR, icc_profile=PROFILE, exif=exif(), dpi=(300, 200))
    source = raster.read_source(path)
    for name, changed in (("(EXIF)", b"eXIf"), ("(ICC profile)", b"iCCP"), ("(density)", b"pHYs")):
        raster.write_like(source, source.stored, tmp_path / "a.png", DERIVATION)
        file = png.read((tmp_path / "a.png").read_bytes())
        parts = [file.raster.raw[chunk.start : chunk.end] for chunk in file.chunks if chunk.kind != changed]
        (tmp_path / "a.png").write_bytes(b"".join([png.SIGNATURE, *parts]))
        assert [change.name for change in raster.compare_headers(path, tmp_path / "a.png") if not change.allowed] == [
            name
        ]
    save(tmp_path / "b.jpg", COLOR, icc_profile=PROFILE, exif=exif(maker="Other"), dpi=(300, 200))
    assert [change.name for change in raster.compare_headers(path, tmp_path / "b.jpg")] == ["(segment E1)"]
    save(tmp_path / "b.tif", COLOR)
    assert [change.allowed for change in raster.compare_headers(path, tmp_path / "b.tif")] == [False]


def test_parts_of_a_profile_are_put_in_order(tmp_path: Path) -> None:
    profile = bytes(values_in(0, 255, (100_000,), "u1"))
    content = save(tmp_path / "a.jpg", COLOR, icc_profile=profile).read_bytes()
    places = [place for place in range(len(content)) if content.startswith(b"ICC_PROFILE\0", place)]
    parts = [content[place - 4 : place - 2 + int.from_bytes(content[place - 2 : place], "big")] for place in places]
    assert len(parts) == 2
    (tmp_path / "a.jpg").write_bytes(content.replace(b"".join(parts), b"".join(reversed(parts))))
    source = raster.read_source(tmp_path / "a.jpg")
    raster.write_like(source, source.stored, tmp_path / "a.png", DERIVATION)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["icc_profile"] == profile


def exif_with_preview() -> tuple[bytes, bytes]:
    """Give an EXIF block whose second directory points to a preview, and the preview."""
    small = BytesIO()
    Image.fromarray(GRAY).save(small, "JPEG")
    preview = small.getvalue()
    first = struct.pack("<HHHIII", 1, 0x0112, 3, 1, 1, 26)  # orientation, and the link to the second directory
    second = struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(preview), 0)
    return b"Exif\0\0II*\0\x08\0\0\0" + first + second + preview, preview


def test_previews_are_removed(tmp_path: Path) -> None:
    block, preview = exif_with_preview()
    for name in ("a.jpg", "a.png"):
        save(tmp_path / name, COLOR, exif=block)
        assert preview in (tmp_path / name).read_bytes()
        source = raster.read_source(tmp_path / name)
        assert any("preview" in note and "removed" in note for note in source.header.notes)
        assert source.header.unprotected == ""
        raster.write_like(source, step(source.stored), tmp_path / "b.png", DERIVATION)
        assert preview[:40] not in (tmp_path / "b.png").read_bytes()
        with Image.open(tmp_path / "b.png") as image:
            assert image.getexif()[0x0112] == 1
        assert all(change.allowed for change in raster.compare_headers(tmp_path / name, tmp_path / "b.png"))


def test_other_pictures_in_a_file_are_told(tmp_path: Path) -> None:
    small = BytesIO()
    Image.fromarray(GRAY).save(small, "JPEG")
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + small.getvalue()  # not where EXIF has its preview
    for name in ("a.jpg", "a.png"):
        save(tmp_path / name, COLOR, exif=block)
        assert "which is not protected" in raster.read_source(tmp_path / name).header.unprotected
    save(tmp_path / "a.tif", COLOR, tiffinfo={700: small.getvalue()})
    assert "may hold another image, which is not protected" in raster.read_source(tmp_path / "a.tif").header.unprotected


def _texts(small: bytes) -> dict[str, Any]:
    """Give metadata of a PNG, each with a picture in it."""
    found = {name: PngInfo() for name in ("base64", "packed", "international", "raw profile")}
    found["base64"].add_text("XML:com.adobe.xmp", f"<xmpGImg:image>{b64encode(small).decode()}</xmpGImg:image>")
    found["packed"].add_text("Thumb", b64encode(small).decode(), zip=True)
    found["international"].add_itxt("Thumb", b64encode(small).decode(), zip=True)
    digits = (b"Exif\0\0II*\0" + small).hex()
    lines = "\n".join(digits[place : place + 72] for place in range(0, len(digits), 72))
    found["raw profile"].add_text("Raw profile type exif", f"\nexif\n  {len(digits) // 2:6d}\n{lines}\n", zip=True)
    return found


def _encoded(form: str, values: Any = GRAY) -> bytes:
    small = BytesIO()
    Image.fromarray(values).save(small, form)
    return small.getvalue()


@pytest.mark.parametrize("name", ["base64", "packed", "international", "raw profile"])
def test_pictures_in_texts_of_a_png_are_told(name: str, tmp_path: Path) -> None:
    save(tmp_path / "a.png", COLOR, pnginfo=_texts(_encoded("JPEG"))[name])
    assert (
        raster.read_source(tmp_path / "a.png").header.unprotected
        == "its metadata hold another image, which is not protected"
    )
    assert raster.read_source(tmp_path / "a.png").header.left_out == ""


NOISE = np.random.default_rng(5).bytes(5000)
CROPPED = _encoded("PNG", np.random.default_rng(6).integers(0, 256, (40, 40), "u1"))[-900:]


@pytest.mark.parametrize(
    "tail",
    [_encoded("PNG"), _encoded("JPEG"), CROPPED, NOISE],
    ids=["picture", "JPEG", "rest of an older picture", "long"],
)
def test_what_follows_a_png_is_left_out(tail: bytes, tmp_path: Path) -> None:
    plain = save(tmp_path / "a.png", COLOR).read_bytes()
    (tmp_path / "a.png").write_bytes(plain + tail)
    source = raster.read_source(tmp_path / "a.png")
    assert source.header.left_out == f"{len(tail)} bytes behind the end of the PNG, which may be another image"
    for values in (source.stored, step(source.stored)):
        raster.write_like(source, values, tmp_path / "b.png", DERIVATION)
        assert png.read((tmp_path / "b.png").read_bytes()).tail == b""
        assert [change.allowed for change in raster.compare_headers(tmp_path / "a.png", tmp_path / "b.png")] == [True]
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes() + tail[:-1])
    assert [change.allowed for change in raster.compare_headers(tmp_path / "a.png", tmp_path / "b.png")] == [False]


def test_zeros_behind_a_png_stay(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.png", COLOR).read_bytes()
    (tmp_path / "a.png").write_bytes(plain + bytes(9000))
    source = raster.read_source(tmp_path / "a.png")
    assert source.header.left_out == ""
    raster.write_like(source, step(source.stored), tmp_path / "b.png", DERIVATION)
    assert png.read((tmp_path / "b.png").read_bytes()).tail == bytes(9000)


@pytest.mark.parametrize("data", [_encoded("JPEG"), zlib.compress(NOISE)], ids=["preview", "copy"])
def test_pictures_in_private_chunks_of_a_png_are_left_out(data: bytes, tmp_path: Path) -> None:
    more = PngInfo()
    more.add(b"mkBT", data)
    more.add(b"prVt", bytes(28))
    source = raster.read_source(save(tmp_path / "a.png", COLOR, pnginfo=more))
    assert source.header.left_out == f"{len(data)} bytes of the private chunk 'mkBT', which may be another image"
    for values in (source.stored, step(source.stored)):
        raster.write_like(source, values, tmp_path / "b.png", DERIVATION)
        assert [chunk.kind for chunk in png.read((tmp_path / "b.png").read_bytes()).chunks] == [
            b"IHDR",
            b"prVt",
            b"IDAT",
            b"IEND",
        ]
        assert [
            (change.name, change.allowed) for change in raster.compare_headers(tmp_path / "a.png", tmp_path / "b.png")
        ] == [("mkBT", True)]
    assert raster.compare_headers(tmp_path / "a.png", tmp_path / "a.png") == []


def test_plain_previews_are_removed(tmp_path: Path) -> None:
    first = struct.pack("<HHHIII", 1, 0x0112, 3, 1, 1, 26)
    second = struct.pack("<HHHIIHHIII", 2, 0x0111, 4, 1, 56, 0x0117, 4, 1, GRAY.nbytes, 0)
    save(tmp_path / "a.jpg", COLOR, exif=b"Exif\0\0II*\0\x08\0\0\0" + first + second + GRAY.tobytes())
    source = raster.read_source(tmp_path / "a.jpg")
    assert any("preview" in note and "removed" in note for note in source.header.notes)
    raster.write_like(source, step(source.stored), tmp_path / "b.png", DERIVATION)
    assert GRAY.tobytes() not in (tmp_path / "b.png").read_bytes()


def test_other_pictures_in_a_jpeg_are_told(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.jpg", COLOR).read_bytes()

    def with_segment(data: bytes) -> bytes:
        return plain[:2] + b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data + plain[2:]

    film = b"\0\0\0\x18ftypmp42" + bytes(2000)
    depth = b"http://ns.adobe.com/xap/1.0/\0<GDepth:Data>" + b64encode(_encoded("JPEG")) + b"</GDepth:Data>"
    for content, said in (
        (plain + film, "2012 bytes behind its end, such as another image (MPO) or a film (motion photo)"),
        (plain + NOISE, "5000 bytes behind its end, such as another image (MPO) or a film (motion photo)"),
        (with_segment(depth), "images in its application segments, such as previews or a depth map"),
        (
            with_segment(b"JFXX\0\x10" + _encoded("JPEG")),
            "images in its application segments, such as previews or a depth map",
        ),
        (plain + b"\r\n", ""),
        (plain + bytes(5000), ""),
    ):
        (tmp_path / "a.jpg").write_bytes(content)
        assert raster.read_source(tmp_path / "a.jpg").header.left_out == said
    (tmp_path / "a.jpg").write_bytes(plain + b"\r\n")
    assert "not carried over to the PNG: 2 bytes behind its end" in raster.read_source(tmp_path / "a.jpg").header.notes


@pytest.mark.parametrize("tag", [33628, 33629, 34361, 34412, 43314])
def test_stacks_of_microscopes_are_refused(tag: int, tmp_path: Path) -> None:
    save(tmp_path / "a.tif", GRAY16, tiffinfo={tag: 4})
    with pytest.raises(
        RefusedError,
        match=r"a stack of MetaMorph \(STK\) or another microscope, .* convert the file to a TIFF of one plain image",
    ):
        raster.read_source(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_planes_that_no_field_accounts_for_are_refused(compression: str | None, tmp_path: Path) -> None:
    values = np.random.default_rng(5).integers(0, 256, (40, 50), "u1")
    plain = save(tmp_path / "a.tif", values, **({"compression": compression} if compression else {})).read_bytes()
    for tail in (bytes(9000), values.tobytes()[:1000]):
        (tmp_path / "a.tif").write_bytes(plain + tail)
        assert raster.read_source(tmp_path / "a.tif").header.unprotected == ""
    (tmp_path / "a.tif").write_bytes(plain + values.tobytes() * 2)
    with pytest.raises(
        RefusedError,
        match=r"holds 40\d\d bytes that no strip and no field accounts for, as many as 2.* times the image",
    ):
        raster.read_source(tmp_path / "a.tif")


def test_layers_and_previews_of_a_tiff_are_told(tmp_path: Path) -> None:
    layers = b"Adobe Photoshop Document Data Block\0MIB8ryaL" + NOISE
    for tag, data, told in (
        (37724, layers, True), (34377, b"8BIM\4\x0c" + _encoded("JPEG"), True), (65000, NOISE, True),
        (34675, PROFILE, False), (33723, b"\x1c\2\5" * 900, False), (65000, b"a long text " * 200, False),
    ):  # fmt: skip
        save(tmp_path / "a.tif", GRAY, tiffinfo={tag: data})
        assert (
            raster.read_source(tmp_path / "a.tif").header.unprotected.endswith(
                "may hold another image, which is not protected"
            )
            == told
        )


def test_second_picture_of_a_jpeg_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", COLOR)
    assert raster.read_source(path).header.left_out == ""
    path.write_bytes(path.read_bytes() * 2)
    assert "bytes behind its end, such as another image (MPO)" in raster.read_source(path).header.left_out


def test_pictures_beside_a_mask_are_told(tmp_path: Path) -> None:
    mask = np.kron(np.array([[0, 1], [2, 0]], "u1"), np.ones((20, 20), "u1"))
    for name, told in (
        ("a.png", "bytes behind the end of the PNG, which may be another image"),
        ("a.jpg", "bytes behind its end, such as another image"),
    ):
        path = save(tmp_path / name, mask * 100, **({"quality": 100} if name == "a.jpg" else {}))
        for kind, more in (("", b""), (told, _encoded("JPEG"))):
            path.write_bytes(path.read_bytes() + more)
            found = raster.identify(path, "label map" if name == "a.jpg" else None)
            assert isinstance(found, Document)
            assert kind in found.unprotected
            assert bool(kind) == bool(found.unprotected)


def test_transparent_gray_is_padding(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GRAY, transparency=int(GRAY[3, 3]))
    source = raster.read_source(path)
    assert source.padding_stored == (GRAY[3, 3], GRAY[3, 3])
    with pytest.raises(RefusedError, match="enter, leave or move within the padding range"):
        raster.write_like(source, step(GRAY), tmp_path / "b.png", DERIVATION)
    save(path, COLOR, transparency=(1, 2, 3))
    with pytest.raises(RefusedError, match="one color transparent"):
        raster.read_source(path)


def test_masks(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), "u1")
    mask[5:15, 5:15] = 255
    for name in ("a.png", "a.tif"):
        save(tmp_path / name, mask)
        assert _kind(tmp_path / name) == "label map"
        np.testing.assert_array_equal(raster.read_label_map(tmp_path / name), mask)
        raster.write_document(tmp_path / name, tmp_path / "copy", DERIVATION)
        assert (tmp_path / "copy").read_bytes() == (tmp_path / name).read_bytes()
    save(tmp_path / "b.png", np.dstack([mask] * 3))
    assert _kind(tmp_path / "b.png") == "label map"
    np.testing.assert_array_equal(raster.read_label_map(tmp_path / "b.png"), mask)
    save(tmp_path / "c.png", np.dstack([mask, mask // 3, mask]))
    with pytest.raises(RefusedError, match="is in color"):
        raster.read_label_map(tmp_path / "c.png")


def _kind(path: Path) -> str:
    found = raster.identify(path)
    return found.kind if isinstance(found, Document) else "picture"


def chunks(*parts: tuple[bytes, bytes], end: bytes = b"") -> bytes:
    return b"".join([png.SIGNATURE, *(png.make_chunk(*part) for part in parts), png.make_chunk(b"IEND", b"")]) + end


def head(columns: int = 7, rows: int = 10, depth: int = 8, color: int = 0, *rest: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBB", columns, rows, depth, color) + bytes(rest or (0, 0, 0))


IDAT = (b"IDAT", zlib.compress(bytes(80)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (chunks(head(depth=1), IDAT), "gray of 1 bits"),
        (chunks(head(color=3), IDAT), "palette of 8 bits"),
        (chunks(head(depth=16, color=2), IDAT), "RGB of 16 bits"),
        (chunks(head(depth=16, color=4), IDAT), "gray with alpha of 16 bits"),
        (chunks(head(color=9), IDAT), "color type 9"),
        (chunks(head(7, 10, 8, 0, 0, 0, 1), IDAT), "interlaced"),
        (chunks(head(7, 10, 8, 0, 1, 0, 0), IDAT), "method are 1 and 0"),
        (chunks(head(0), IDAT), "claims 10 rows and 0 columns"),
        (chunks(head(2**32 - 1, 2**32 - 1), IDAT), "claims 4294967295 rows"),
        (chunks(head(30000, 30000), (b"IDAT", bytes(1000000))), "claims 30000 rows"),
        (chunks(head(70, 100), IDAT), "the pixels are 80 bytes, the header needs 7100"),
        (chunks(head(6), IDAT), "the pixels are 80 bytes, the header needs 70"),
        (chunks(head(), (b"IDAT", b"no zlib stream")), "damaged"),
        (chunks(head(), (b"IDAT", IDAT[1][:-4])), "damaged or truncated"),
        (chunks(head(), (b"IDAT", IDAT[1] + b"x")), "damaged or truncated"),
        (chunks(head(), (b"IDAT", zlib.compress(b"\7" + bytes(79)))), "damaged or truncated"),
        (chunks(head()), "IDAT chunks in one run"),
        (chunks(head(), IDAT, (b"tEXt", b"a\0b"), IDAT), "IDAT chunks in one run"),
        (chunks(head(), head(), IDAT), "one IHDR"),
        (chunks((b"IHDR", bytes(12)), IDAT), "IHDR.* of 12 bytes"),
        (chunks(IDAT), "first chunk is b'IDAT'"),
        (chunks(head(), (b"acTL", bytes(8)), IDAT), "acTL, so it is an animation"),
        (chunks(head(), (b"CgBI", bytes(4)), IDAT), "critical chunk b'CgBI'"),
        (chunks(head(), IDAT).replace(b"IDAT", b"IDAt"), "checksum of chunk b'IDAt'"),
        (
            chunks(head(), IDAT).replace(struct.pack(">I", len(IDAT[1])) + b"IDAT", b"\xff\xff\xff\xffIDAT"),
            "truncated: a chunk of 4294967295 bytes",
        ),
        (b"\xff\xd8\xff\xd9", "has 0 frames"),
        (b"\xff\xd8\xff\xe0\0\x02\xff\xc0\0\x0b\x08\0\x0a\0\x07\x01\x01\x11\0\xff\xd9", "damaged or truncated"),
        (b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0\xff\xd9", "claims 65535 rows"),
        (b"\xff\xd8\xff\xc0\0\x0b\x0c\0\x0a\0\x07\x01\x01\x11\0\xff\xd9", "1 components of 12 bits"),
        (b"\xff\xd8\xff\xe0\0\x00", "a segment of 0 bytes"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (b"II*\0\x08\0\0\0", "the directory at byte 8 has 0 fields"),
        (b"MM\0*\xff\xff\xff\xff", "the directory at byte 4294967295"),
    ],
)
def test_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    assert raster.sniff(tmp_path / "a")
    for read in (raster.identify, raster.read_source):
        with pytest.raises(RefusedError, match=reason) as caught:
            read(tmp_path / "a")
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_other_modes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    image = Image.fromarray(COLOR)
    for mode, form, reason in (
        ("CMYK", "JPEG", "4 components"),
        ("CMYK", "TIFF", "4 samples"),
        ("P", "PNG", "palette"),
        ("P", "TIFF", "PhotometricInterpretation 3"),
        ("1", "PNG", "gray of 1 bits"),
        ("1", "TIFF", "of \\[1\\] bits"),
        ("RGBA", "TIFF", "4 samples"),
        ("LA", "TIFF", "2 samples"),
        ("F", "TIFF", "of \\[32\\] bits"),
        ("I", "TIFF", "of \\[32\\] bits"),
        ("YCbCr", "TIFF", "PhotometricInterpretation 6"),
    ):
        image.convert(mode).save(path, form)
        with pytest.raises(RefusedError, match=reason):
            raster.identify(path)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"compression": "jpeg"}, "Compression is 7"),
        ({"compression": "packbits", "tiffinfo": {317: 2}}, "Predictor is 2"),
        ({"save_all": True, "append_images": [Image.fromarray(COLOR)]}, "several pages"),
        (
            {"description": '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'},
            "OME-TIFF",
        ),
        ({"description": "ImageJ=1.54f\nimages=3\nslices=3"}, "a stack of ImageJ"),
    ],
)
def test_other_tiffs_are_refused(how: dict[str, Any], reason: str, tmp_path: Path) -> None:
    save(tmp_path / "a.tif", COLOR, **how)
    with pytest.raises(RefusedError, match=reason):
        raster.identify(tmp_path / "a.tif")


def test_big_tiff_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", COLOR)
    path.write_bytes(b"II\x2b\0" + path.read_bytes()[4:])  # old versions of Pillow write none
    with pytest.raises(RefusedError, match="BigTIFF"):
        raster.identify(path)


@pytest.mark.parametrize(
    ("tag", "kind", "value", "reason"),
    [
        (256, 4, 2**31, "columns of 1 bytes"),
        (257, 4, 2**31, "claims 2147483648 rows"),
        (258, 3, 32, "of \\[32\\] bits"),
        (259, 3, 7, "Compression is 7"),
        (266, 3, 2, "FillOrder"),
        (273, 4, 2**31, "the strip at byte 2147483648"),
        (273, 4, 4, "parts of the file overlap at byte 4"),
        (279, 4, 69, "has 69 bytes, 70 are needed"),
        (279, 4, 0, "has 0 bytes"),
        (278, 4, 3, "10 rows by 3 need 4 strips"),
        (278, 4, 0, "10 rows by 0 need 0 strips"),
        (284, 3, 2, "planes of their own"),
        (322, 3, 16, "in tiles"),
        (330, 4, 8, "SubIFDs"),
        (338, 3, 0, "extra samples"),
        (339, 3, 2, "signed or floats"),
    ],
)
def test_hostile_directories_are_refused(tag: int, kind: int, value: int, reason: str, tmp_path: Path) -> None:
    content = bytearray(
        save(tmp_path / "a.tif", GRAY, tiffinfo={266: 1, 284: 1, 305: "software", 306: "a"}).read_bytes()
    )
    found = content.find(struct.pack("<H", tag), 8)
    fields = {struct.unpack_from("<H", content, place)[0]: place for place in range(10, 10 + 12 * content[8], 12)}
    place = fields.get(tag, fields[306])
    assert found >= 0 or tag not in fields
    struct.pack_into("<HHII", content, place, tag, kind, 1, value)
    (tmp_path / "a.tif").write_bytes(content)
    for read in (raster.identify, raster.read_source):
        with pytest.raises(RefusedError, match=reason):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["png metadata", "png gray", "tiff gray 16", "tiff lzw", "jpeg"])
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
    file, values, how = SOURCES.get(name, ("a.jpg", COLOR, {"exif": exif()}))
    content = save(tmp_path / file, values, **how).read_bytes()
    end = content.index(b"IEND") if name.startswith("png") else len(content)
    for size in range(0, end, 1 if end < 500 else 7):
        (tmp_path / "cut").write_bytes(content[:size])
        with pytest.raises(RefusedError, match=r"."):
            raster.read_source(tmp_path / "cut")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda raw: raw.replace(b"hello", b"hallo"), "tEXt"),
        (lambda raw: raw + b"x", "(bytes after the picture)"),
    ],
)
def test_tampering_is_seen(change: Any, name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", ALPHA, pnginfo=info())
    raw = change(path.read_bytes())
    place = raw.index(b"tEXt")
    length = int.from_bytes(raw[place - 4 : place], "big")
    crc = struct.pack(">I", zlib.crc32(raw[place : place + 4 + length]))
    (tmp_path / "b.png").write_bytes(raw[: place + 4 + length] + crc + raw[place + 8 + length :])
    assert [(change.name, change.allowed) for change in raster.compare_headers(path, tmp_path / "b.png")] == [
        (name, False)
    ]


def test_other_alpha_and_formats_are_seen(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", ALPHA)
    save(tmp_path / "b.png", np.dstack([COLOR, GRAY ^ 1]))
    save(tmp_path / "c.png", COLOR)
    save(tmp_path / "d.tif", COLOR)
    assert [change.name for change in raster.compare_headers(path, tmp_path / "b.png")] == ["(alpha)"]
    assert [change.name for change in raster.compare_headers(path, tmp_path / "c.png")] == ["IHDR", "(alpha)"]
    assert [change.name for change in raster.compare_headers(path, tmp_path / "d.tif")] == ["(format)"]
    assert not any(
        change.allowed
        for name in ("b.png", "c.png", "d.tif")
        for change in raster.compare_headers(path, tmp_path / name)
    )


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tampering_with_a_tiff_is_seen(compression: str | None, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", GRAY, compression=compression, description="ward 7 of the house")
    for change, names in (
        (lambda raw: raw.replace(b"ward 7", b"ward 8"), {"(tag 270)", "(bytes outside the strips)"}),
        (lambda raw: raw + b"x", {"(bytes outside the strips)"}),
    ):
        (tmp_path / "b.tif").write_bytes(change(path.read_bytes()))
        changes = raster.compare_headers(path, tmp_path / "b.tif")
        assert {change.name for change in changes} == names
        assert not any(change.allowed for change in changes)


def test_bad_values_and_targets_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GRAY)
    source = raster.read_source(path)
    with pytest.raises(RefusedError, match="the new values are"):
        raster.write_like(source, source.stored[:-1], tmp_path / "b", DERIVATION)
    with pytest.raises(RefusedError, match="own file"):
        raster.write_like(source, source.stored, path, DERIVATION)
    save(path, step(GRAY))
    with pytest.raises(RefusedError, match="changed since it was read"):
        raster.write_like(source, source.stored, tmp_path / "b", DERIVATION)
    assert not (tmp_path / "b").exists()


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", GRAY)
    monkeypatch.setattr(decoding, "_IMAGE", None)
    assert raster.sniff(path)
    with pytest.raises(RefusedError, match=r"pip install 'pillow>=\d"):
        raster.read_source(path)
