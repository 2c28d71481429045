# SPDX-License-Identifier: Apache-2.0
"""Zip files in and out: what is unpacked, what is refused and why, and that packing gives the same archive back."""

from __future__ import annotations

import errno
import io
import random
import shutil
import stat
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_salm.errors import DiskError, UsageError
from monai_salm.pipeline.archive import is_archive, members, pack, unpack
from monai_salm.pipeline.archive.members import members_of, open_archive
from tests.exports import tree

DATE = (2021, 3, 4, 5, 6, 8)
FILES = {"DICOMDIR": b"directory", "DICOM/CT/IM001": b"one" * 500, "DICOM/CT/IM002": b"two" * 500, "notes/a b.txt": b""}


def _entry(name: str, **attributes: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = ((stat.S_IFDIR | 0o755) << 16 | 0x10) if info.is_dir() else (stat.S_IFREG | 0o644) << 16
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def _zip(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes], comment: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        opened.comment = comment
        for entry, content in members:
            opened.writestr(_entry(entry) if isinstance(entry, str) else entry, content)
    return path


def _export(path: Path) -> Path:
    return _zip(path, *FILES.items(), comment=b"from the archive")


def _directory(data: bytearray, name: bytes) -> int:
    """Find the central entry of a member."""
    position = -1
    while (position := data.index(b"PK\x01\x02", position + 1)) >= 0:
        if data[position + 46 :][: len(name)] == name:
            return position
    raise LookupError(name)


def _patched(path: Path, name: str, layout: str, offset: int, value: int) -> Path:
    """Change one field of a member's central entry."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, _directory(data, name.encode()) + offset, value)
    path.write_bytes(data)
    return path


def test_unpack(tmp_path: Path) -> None:
    result = unpack(_export(tmp_path / "in.zip"), tmp_path / "new" / "folder")
    assert result.folder == tmp_path / "new" / "folder"
    assert not result.refused
    assert tree(result.folder) == FILES
    assert time.localtime((result.folder / "DICOMDIR").stat().st_mtime)[:6] == DATE
    assert (result.folder / "DICOMDIR").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_methods(tmp_path: Path, method: int) -> None:
    content = random.Random(0).randbytes(200_000) + bytes(3_000_000)
    source = _zip(
        tmp_path / "in.zip", (_entry("a", compress_type=method), content), (_entry("empty", compress_type=method), b"")
    )
    assert not unpack(source, tmp_path / "out").refused
    assert tree(tmp_path / "out") == {"a": content, "empty": b""}
    pack(tmp_path / "out", source, tmp_path / "again.zip")
    assert zipfile.ZipFile(tmp_path / "again.zip").getinfo("a").compress_type == method
    assert (tmp_path / "again.zip").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "leads out of its folder"),
        ("a/../../evil", "leads out of its folder"),
        ("a/.. /evil", "leads out of its folder"),
        ("..", "leads out of its folder"),
        ("/evil", "an absolute name"),
        ("//host/evil", "an absolute name"),
        ("C:evil", "an absolute name"),
        ("C:/evil", "an absolute name"),
        ("a/c:/evil", "an absolute name"),
        ("C:\\evil", "a backslash"),
        ("..\\evil", "a backslash"),
        ("\\\\host\\evil", "a backslash"),
        ("../", "leads out of its folder"),
        ("/evil/", "an absolute name"),
        (".", "it has no name"),
        ("x" * 300, "File name too long"),
        ("/".join(["x" * 200] * 40), "File name too long"),
    ],
)
def test_name_that_is_not_below_the_folder(tmp_path: Path, name: str, reason: str) -> None:
    source = _zip(tmp_path / "in.zip", ("good", b"1"), (name, b"" if name.endswith("/") else b"2"))
    result = unpack(source, tmp_path / "deep" / "out")
    assert list(result.refused) == [name]
    assert reason in result.refused[name]
    assert tree(tmp_path) == {"in.zip": source.read_bytes(), "deep/out/good": b"1"}
    pack(result.folder, source, tmp_path / "again.zip")
    assert zipfile.ZipFile(tmp_path / "again.zip").namelist() == ["good"]


def test_name_with_control_characters_is_shown_printable(tmp_path: Path) -> None:
    source = _zip(tmp_path / "in.zip", ("good", b"1"), ("zero", b"2"), ("/line\n\x1b[2J", b"3"))
    source.write_bytes(source.read_bytes().replace(b"zero", b"z\0ro"))
    refused = unpack(source, tmp_path / "out").refused
    assert list(refused) == ["z\\x00ro", "/line\\n\\x1b[2J"]
    assert "NUL character" in refused["z\\x00ro"]


def test_empty_name(tmp_path: Path) -> None:
    source = _zip(tmp_path / "in.zip", ("good", b"1"))
    data = bytearray(source.read_bytes())
    local = struct.pack("<4s5HLLLHH", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 0, 0)
    central = struct.pack("<4s6H3L5HLL", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    start = data.index(b"PK\1\2")
    struct.pack_into("<L", data, start + 42, len(local))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(central) + 50, len(local) + start, 0)
    source.write_bytes(local + data[:start] + central + data[start : start + 50] + end)
    assert unpack(source, tmp_path / "out").refused == {
        "(no name)": "it has no name; pack it again under a plain relative name"
    }
    assert tree(tmp_path / "out") == {"good": b"1"}


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"external_attr": (stat.S_IFLNK | 0o777) << 16}, "a link or another special member"),
        ({"external_attr": (stat.S_IFIFO | 0o644) << 16}, "a link or another special member"),
        ({"external_attr": (stat.S_IFDIR | 0o755) << 16}, "a link or another special member"),
        ({"external_attr": 0x10}, "a link or another special member"),
    ],
    ids=["link", "pipe", "folder without a slash", "DOS folder without a slash"],
)
def test_special_member(tmp_path: Path, attributes: dict[str, Any], reason: str) -> None:
    source = _zip(
        tmp_path / "in.zip",
        (_entry("sub/strange", **attributes), b"/etc/passwd"),
        ("sub/strange/evil", b"2"),
        ("good", b"1"),
    )
    result = unpack(source, tmp_path / "out")
    assert reason in result.refused["sub/strange"]
    assert tree(tmp_path / "out") == {"good": b"1", "sub/strange/evil": b"2"}
    # A file that takes the name of the refused member is a file of its own in the new archive.
    shutil.rmtree(tmp_path / "out" / "sub" / "strange")
    (tmp_path / "out" / "sub" / "strange").write_bytes(b"picture")
    pack(tmp_path / "out", source, tmp_path / "again.zip")
    assert stat.S_ISREG(zipfile.ZipFile(tmp_path / "again.zip").getinfo("sub/strange").external_attr >> 16)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "reason"),
    [
        (8, "<H", 0x1, "encrypted"),
        (8, "<H", 0x41, "encrypted"),
        (8, "<H", 0x2000, "encrypted"),
        (8, "<H", 0x20, "only stored and deflated members are read"),
        (10, "<H", 93, "compressed by method 93"),
        (10, "<H", 99, "compressed by method 99"),
        (10, "<H", 0, "Bad CRC-32"),
        (10, "<H", 9, "compressed by method 9, only"),
        (10, "<H", 12, "compressed by method 12, only"),
        (10, "<H", 14, "compressed by method 14, only"),
        (16, "<L", 0, "Bad CRC-32"),
        (20, "<L", 5, "damaged: "),
        (24, "<L", 0, "damaged: "),
        (24, "<L", 899, "damaged: "),
        (24, "<L", 901, "it holds less than the 901 bytes declared"),
        (24, "<L", 2**30 + 1, "as a bomb would"),
    ],
)
def test_member_whose_entry_lies(tmp_path: Path, offset: int, layout: str, value: int, reason: str) -> None:
    content = random.Random(1).randbytes(300) + bytes(600)
    source = _patched(
        _zip(tmp_path / "in.zip", ("good", b"1"), ("bad", content), ("last", b"3")), "bad", layout, offset, value
    )
    refused = unpack(source, tmp_path / "out").refused
    assert reason in refused["bad"]
    assert "\n" not in refused["bad"]
    assert tree(tmp_path / "out") == {"good": b"1", "last": b"3"}


@pytest.mark.parametrize("declared", [0, 500])
def test_content_beyond_the_declared_size_shows_even_if_the_checksum_fits(tmp_path: Path, declared: int) -> None:
    source = _patched(_zip(tmp_path / "in.zip", ("bad", bytes(900))), "bad", "<L", 24, declared)
    _patched(source, "bad", "<L", 16, zlib.crc32(bytes(declared)))
    assert "damaged: " in unpack(source, tmp_path / "out").refused["bad"]
    assert not tree(tmp_path / "out")


def test_damaged_content(tmp_path: Path) -> None:
    source = _zip(tmp_path / "in.zip", (_entry("bad", compress_type=zipfile.ZIP_STORED), b"content"), ("good", b"1"))
    source.write_bytes(source.read_bytes().replace(b"content", b"c0ntent"))
    assert unpack(source, tmp_path / "out").refused == {
        "bad": "damaged: Bad CRC-32 for file 'bad'; copy or pack it again"
    }
    assert tree(tmp_path / "out") == {"good": b"1"}


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["a", "a"], {"a": "2 members have this name"}),
        (["d/a", "./d//a"], {"d/a": "2 members", "./d//a": "2 members"}),
        (["d/A", "D/a", "d/a"], {"d/A": "3 members", "D/a": "3 members", "d/a": "3 members"}),
        (["M\u00fcller", "Mu\u0308ller"], {"M\u00fcller": "2 members", "Mu\u0308ller": "2 members"}),
        (["a", "a/b"], {"a": "another member has this name as its folder"}),
        (["a/b/c", "A"], {"A": "another member has this name as its folder"}),
        (["a", "a/"], {"a": "another member has this name as its folder"}),
        (["a/", "a/"], {}),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_names_that_collide(tmp_path: Path, names: list[str], refused: dict[str, str]) -> None:
    source = _zip(
        tmp_path / "in.zip", ("good", b"1"), *((name, b"" if name.endswith("/") else name.encode()) for name in names)
    )
    result = unpack(source, tmp_path / "out")
    assert set(result.refused) == set(refused)
    assert all(reason in result.refused[name] for name, reason in refused.items())
    kept = [name for name in names if name not in refused and not name.endswith("/")]
    assert tree(tmp_path / "out") == {"good": b"1"} | {name: name.encode() for name in kept}


def test_names_collide_with_folders_alone_are_packed_once(tmp_path: Path) -> None:
    source = tmp_path / "in.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):
        _zip(source, ("a/", b""), ("a/", b""), ("a/b", b"1"))
    unpack(source, tmp_path / "out")
    pack(tmp_path / "out", source, tmp_path / "again.zip")
    assert zipfile.ZipFile(tmp_path / "again.zip").namelist() == ["a/", "a/b"]


@pytest.mark.slow
def test_bomb_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("good", b"1")
        with opened.open("bomb", "w") as sink:
            for _ in range(1127):
                sink.write(bytes(2**20))
    assert (tmp_path / "in.zip").stat().st_size < 2 * 2**20
    read, real = [], zipfile.ZipFile.open

    def noted(opened: zipfile.ZipFile, info: zipfile.ZipInfo, *args: Any, **kwargs: Any) -> Any:
        read.append(info.filename)
        return real(opened, info, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "open", noted)
    refused = unpack(tmp_path / "in.zip", tmp_path / "out").refused
    assert read == ["good"]
    assert "bytes that unpack to 1181745152" in refused["bomb"]
    assert tree(tmp_path / "out") == {"good": b"1"}


@pytest.mark.slow
@pytest.mark.parametrize("declared", [1000, 100 * 2**20])
def test_memory_is_flat(tmp_path: Path, declared: int) -> None:
    source = _patched(_zip(tmp_path / "in.zip", ("large", bytes(100 * 2**20))), "large", "<L", 24, declared)
    tracemalloc.start()
    try:
        refused = unpack(source, tmp_path / "out").refused
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert list(refused) == ([] if declared == 100 * 2**20 else ["large"])
    assert peak < 8 * 2**20


def test_members_that_overlap(tmp_path: Path) -> None:
    source = _zip(tmp_path / "in.zip", ("a", b"1"), ("b", b"2"), ("c", b"3"))
    for name in "bc":
        _patched(source, name, "<L", 42, 0)
    with pytest.raises(UsageError, match=r"in\.zip: b shares bytes 0 to \d+ with its neighbor .* copy or pack"):
        unpack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_quoted_local_headers_overlap(tmp_path: Path) -> None:
    """As in a bomb without recursion: each member's stored bytes are the headers and bytes of those behind it."""
    kernel = zlib.compress(bytes(10_000), 9)[2:-4]
    names, data, offsets = [b"a", b"b", b"c"], b"", []
    for name in reversed(names):
        header = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, len(kernel) + len(data), 10_000, 1, 0) + name
        data = header + (data or kernel)
        offsets.insert(0, len(data))
    central = b"".join(
        struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 33, 0, offset - 31, 10_000, 1, 0, 0, 0, 0, 0, len(data) - offset
        )
        + name
        for name, offset in zip(names, offsets, strict=True)
    )
    (tmp_path / "in.zip").write_bytes(
        data + central + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(central), len(data), 0)
    )
    with pytest.raises(UsageError, match="shares bytes"):
        unpack(tmp_path / "in.zip", tmp_path / "out")


def _cut(data: bytes) -> bytes:
    return data[:-30]


def _bad_magic(data: bytes) -> bytes:
    return data.replace(b"PK\1\2", b"PK\1\3", 1)


def _bad_utf8(data: bytes) -> bytes:
    at = data.index(b"PK\1\2")
    return data[: at + 8] + b"\x00\x08" + data[at + 10 : at + 46] + b"\xff" + data[at + 47 :]


def _newer(data: bytes) -> bytes:
    at = data.index(b"PK\1\2")
    return data[: at + 6] + b"\xff" + data[at + 7 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "the zip file is damaged or cut .*; get a complete copy, or pack it again"),
        (lambda data: b"no zip at all", "the zip file is damaged or cut"),
        (_cut, "the zip file is damaged or cut"),
        (lambda data: data[100:], "shares bytes -"),
        (_bad_magic, r"the zip file is damaged or cut \(Bad magic number for central directory\)"),
        (_bad_utf8, "the zip file is damaged or cut .*utf-8"),
        (_newer, r"the zip file is damaged or cut \(zip file version 25\.5\)"),
        (lambda data: data[data.index(b"PK\5\6") :], "the zip file is damaged or cut"),
        (lambda data: b"PK\5\6" + bytes(18), "the zip file is empty; give"),
    ],
    ids=["nothing", "text", "cut", "beheaded", "magic", "UTF-8", "version", "no members", "empty"],
)
def test_archive_that_cannot_be_used(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    source = _export(tmp_path / "in.zip")
    source.write_bytes(change(source.read_bytes()))
    with pytest.raises(UsageError, match=message) as caught:
        unpack(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _export(tmp_path / "in.zip")
    with monkeypatch.context() as patch:
        patch.setattr(members, "MOST_MEMBERS", 3)
        with pytest.raises(UsageError, match="4 members, at most 3 are unpacked; pack parts"):
            unpack(source, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(members, "LARGEST_DIRECTORY", 100)
        with pytest.raises(UsageError, match=r"list of members has \d+ bytes, at most 100 are read"):
            unpack(source, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 8, 2))  # type: ignore[attr-defined]
        with pytest.raises(
            DiskError, match=r"out: No space left on device: about 3,009 bytes are needed, 2 are free; free some"
        ):
            unpack(source, tmp_path / "out")


def test_disk_that_fills_up_ends_the_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(
        DiskError,
        match=r"DICOMDIR: No space left on device: about 9 bytes are needed, [\d,]+ are free; free some space",
    ):
        unpack(_export(tmp_path / "in.zip"), tmp_path / "out")
    assert not tree(tmp_path / "out")


def test_folder_must_be_empty(tmp_path: Path) -> None:
    source = _export(tmp_path / "in.zip")
    for folder in (source, tmp_path):
        with pytest.raises(UsageError, match="not an empty folder; give one"):
            unpack(source, folder)
    with pytest.raises(UsageError, match=r"none\.zip: no such file; give a zip file"):
        unpack(tmp_path / "none.zip", tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert not unpack(source, tmp_path / "out").refused


def test_is_archive(tmp_path: Path) -> None:
    source = _export(tmp_path / "in.zip")
    (tmp_path / "image.dcm").write_bytes(bytes(128) + b"DICM" + source.read_bytes())
    (tmp_path / "start.zip").write_bytes(source.read_bytes()[:50])
    _zip(tmp_path / "empty.zip")
    assert is_archive(source)
    assert is_archive(tmp_path / "empty.zip")
    assert is_archive(tmp_path / "start.zip")  # and is said to be cut
    assert not any(is_archive(tmp_path / name) for name in ("image.dcm", "none", "."))


def test_packing_what_was_unpacked_gives_the_same_bytes(tmp_path: Path) -> None:
    unix = struct.pack("<HHBL", 0x5455, 5, 1, 1_600_000_000)
    source = _zip(
        tmp_path / "in.zip",
        (_entry("top/", compress_type=zipfile.ZIP_STORED), b""),
        (_entry("top/z", comment=b"the last", extra=unix), b"z" * 100),
        (
            _entry("top/a", compress_type=zipfile.ZIP_STORED, create_system=0, external_attr=0x20, internal_attr=1),
            b"a" * 100,
        ),
        (_entry("top/Müller", external_attr=(stat.S_IFREG | 0o755) << 16), b"m"),
        comment=b"exported by a PACS",
    )
    unpack(source, tmp_path / "out")
    pack(tmp_path / "out", source, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == source.read_bytes()


def test_name_keeps_its_bytes(tmp_path: Path) -> None:
    """Some systems write UTF-8 without the flag that says so."""
    source = _zip(tmp_path / "in.zip", ("M__ller", b"1"))
    source.write_bytes(source.read_bytes().replace(b"M__ller", "Müller".encode()))
    unpack(source, tmp_path / "out")
    assert tree(tmp_path / "out") == {"Müller": b"1"}
    pack(tmp_path / "out", source, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == source.read_bytes()


def test_no_attributes_stay_none(tmp_path: Path) -> None:
    source = _patched(_zip(tmp_path / "in.zip", ("a", b"1")), "a", "<L", 38, 0)
    unpack(source, tmp_path / "out")
    pack(tmp_path / "out", source, tmp_path / "again.zip")
    assert zipfile.ZipFile(tmp_path / "again.zip").getinfo("a").external_attr == 0


def test_extra_fields_that_speak_of_the_old_content_are_left_out(tmp_path: Path) -> None:
    owner, strange = struct.pack("<HHBBLBL", 0x7875, 11, 1, 4, 1000, 4, 1000), struct.pack("<HH4s", 0xABCD, 4, b"hash")
    source = _zip(tmp_path / "in.zip", (_entry("a", extra=strange + owner), b"1"))
    unpack(source, tmp_path / "out")
    pack(tmp_path / "out", source, tmp_path / "again.zip")
    assert zipfile.ZipFile(tmp_path / "again.zip").getinfo("a").extra == owner


def test_pack_leaves_out_what_is_absent_and_adds_what_is_new(tmp_path: Path) -> None:
    source = _zip(
        tmp_path / "in.zip", ("top/", b""), ("top/b.jpg", b"1"), ("top/a", b"2"), ("gone", b"3"), comment=b"c"
    )
    out = unpack(source, tmp_path / "out").folder
    (out / "gone").unlink()
    (out / "top" / "b.jpg").rename(out / "top" / "b.png")
    (out / "top" / "a").write_bytes(b"protected")
    (out / "new").write_bytes(b"4")
    (out / "link").symlink_to(source)
    (out / "linked").symlink_to(tmp_path)
    pack(out, source, tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as opened:
        assert opened.testzip() is None
        assert opened.comment == b"c"
        assert [(info.filename, info.date_time) for info in opened.infolist()] == [
            ("top/", DATE),
            ("top/a", DATE),
            ("new", (1980, 1, 1, 0, 0, 0)),
            ("top/b.png", (1980, 1, 1, 0, 0, 0)),
        ]
        assert opened.read("top/a") == b"protected"
    pack(out, source, tmp_path / "third.zip")
    assert (tmp_path / "third.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()
    assert tree(unpack(tmp_path / "again.zip", tmp_path / "back").folder) == {
        "top/a": b"protected",
        "new": b"4",
        "top/b.png": b"1",
    }


def test_file_in_place_of_a_folder_entry(tmp_path: Path) -> None:
    source = _zip(tmp_path / "in.zip", ("a/", b""), ("b", b"1"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_bytes(b"2")
    pack(tmp_path / "out", source, tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == {"a/": b"", "a": b"2"}


def test_pack_needs_the_archive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.zip: no such file"):
        pack(tmp_path, tmp_path / "none.zip", tmp_path / "again.zip")
    assert not (tmp_path / "again.zip").exists()


def test_zip64(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as opened:
        for name, content in FILES.items():
            with opened.open(_entry(name), "w", force_zip64=True) as sink:
                sink.write(content)
    data = bytearray((tmp_path / "in.zip").read_bytes())
    # The sizes of one member move into the field for large ones, as they do in an archive of more than 4 GiB.
    at = _directory(data, b"DICOM/CT/IM002")
    sizes = struct.unpack_from("<LL", data, at + 20)
    struct.pack_into("<LL", data, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", data, at + 30, 20)
    data[at + 60 : at + 60] = struct.pack("<HHQQ", 1, 16, *reversed(sizes))
    end = data.index(b"PK\5\6")
    struct.pack_into("<L", data, end + 12, struct.unpack_from("<L", data, end + 12)[0] + 20)
    (tmp_path / "in.zip").write_bytes(data)
    assert not unpack(tmp_path / "in.zip", tmp_path / "out").refused
    assert tree(tmp_path / "out") == FILES
    pack(tmp_path / "out", tmp_path / "in.zip", tmp_path / "again.zip")
    assert tree(unpack(tmp_path / "again.zip", tmp_path / "back").folder) == FILES


@pytest.mark.slow
def test_many_members(tmp_path: Path) -> None:
    """More than the 65535 that the plain end record can count."""
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as opened:
        for number in range(66_000):
            opened.writestr(zipfile.ZipInfo(f"{number}/"), b"")
        opened.writestr("a", b"1")
    found = members_of(zipfile.ZipFile(tmp_path / "in.zip"))
    assert len(found) == 66_001
    with open_archive(tmp_path / "in.zip") as opened:
        assert len(opened.infolist()) == 66_001


def _outcome(source: Path, folder: Path) -> set[str] | None:
    """Unpack; give the refused names, or None if the archive cannot be used, and see that every message is one
    printable line.
    """
    try:
        refused = unpack(source, folder).refused
    except UsageError as error:
        refused, messages = None, [str(error)]
    else:
        messages = [*refused, *refused.values()]
    assert all(message.isprintable() for message in messages)
    return None if refused is None else set(refused)


@pytest.mark.slow
def test_mutated_archives(tmp_path: Path) -> None:
    """Whatever the bytes: a one-line error or one-line reasons, and nothing outside the folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for number in range(4):
            method, extra = (
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2],
                struct.pack("<HHBL", 0x5455, 5, 1, 1_600_000_000),
            )
            opened.writestr(_entry(f"d/{number}.dcm", compress_type=method, extra=extra), b"pixels" * 20)
        opened.writestr("d/Müller/", b"")
        opened.comment = b"comment"
    original, generator = buffer.getvalue(), random.Random(0)
    tail = original.index(b"PK\1\2")
    source, used, unused = tmp_path / "in.zip", 0, 0
    for _ in range(2000):
        data = bytearray(original)
        for _ in range(generator.randint(1, 6)):
            where = generator.randrange(tail if generator.random() < 0.5 else 0, len(data))
            data[where] = generator.choice(
                (0, 0xFF, data[where] ^ 1 << generator.randrange(8), generator.randrange(256), ord("/"), ord("."))
            )
        if generator.random() < 0.1:
            del data[generator.randrange(len(data)) :][: generator.randint(1, 40)]
        source.write_bytes(data)
        folder = tmp_path / "out"
        refused = _outcome(source, folder)
        if refused is None:
            unused += 1
        else:
            used += 1
            assert not refused & set(tree(folder))
            pack(folder, source, tmp_path / "again.zip")
            with zipfile.ZipFile(tmp_path / "again.zip") as packed:
                assert packed.testzip() is None
                assert sorted(packed.read(info) for info in packed.infolist() if not info.is_dir()) == sorted(
                    tree(folder).values()
                )
        assert {path.name for path in tmp_path.iterdir()} <= {"in.zip", "again.zip", "out"}
        shutil.rmtree(folder, ignore_errors=True)
    assert used > 500
    assert unused > 200
