# SPDX-License-Identifier: Apache-2.0
"""Files are written aside and named at the end, with the rights that they should have, and a disk that takes no more is
told in one line.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_salm import disk
from monai_salm.disk import (
    atomic_target,
    check_space,
    make_private,
    remove_leftovers,
    told_when_full,
    write_atomically,
    write_new,
)
from monai_salm.errors import DiskError

posix = pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")


@pytest.fixture(params=[0o022, 0o077, 0o007, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_rights_are_those_of_the_umask(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "new" / "file", b"1")
    assert (_mode(tmp_path / "new"), _mode(tmp_path / "new" / "file")) == (0o777 & ~umask, 0o666 & ~umask)


@posix
def test_private_files_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "new" / "newer" / "file", b"1", private=True)
    assert [
        _mode(path) for path in (tmp_path / "new", tmp_path / "new" / "newer", tmp_path / "new" / "newer" / "file")
    ] == [0o700, 0o700, 0o600]
    write_new(tmp_path / "key", b"2")
    assert _mode(tmp_path / "key") == 0o600


@posix
def test_make_private_tightens_what_is_there(tmp_path: Path) -> None:
    work = tmp_path / "out.work"
    write_atomically(work / "noise" / "a", b"1")
    (tmp_path / "elsewhere").write_text("not ours")
    (tmp_path / "elsewhere").chmod(0o644)
    (work / "link").symlink_to(tmp_path / "elsewhere")
    for path in (work, work / "noise"):
        path.chmod(0o755)
    assert make_private(work)
    assert [_mode(path) for path in (work, work / "noise", work / "noise" / "a")] == [0o700, 0o700, 0o600]
    assert _mode(tmp_path / "elsewhere") == 0o644


@posix
def test_disk_without_rights_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rights(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / "out.work").mkdir(mode=0o755)
    monkeypatch.setattr(Path, "chmod", no_rights)
    assert not make_private(tmp_path / "out.work")


def test_leftovers_are_those_of_our_files_alone(tmp_path: Path) -> None:
    with atomic_target(tmp_path / "a.dcm") as first, atomic_target(tmp_path / "b.dcm") as second:
        pass
    users = [".a.dcm.tmp", ".salm-notes.tmp", ".salm-0123456789ab-01234567.tmp.bak", "x.salm-0123456789ab-01234567.tmp"]
    for name in (first.name, second.name, *users):
        (tmp_path / name).write_bytes(b"half")
    remove_leftovers(tmp_path, ["a.dcm"])
    assert {path.name for path in tmp_path.iterdir()} == {"a.dcm", "b.dcm", second.name, *users}
    remove_leftovers(tmp_path, ["b.dcm", second.name])
    assert (tmp_path / second.name).exists(), "somebody's file has this very name"
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.dcm", "b.dcm", *users}
    remove_leftovers(tmp_path / "none")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_line_and_leaves_nothing(number: int, tmp_path: Path) -> None:
    line = rf"a: {os.strerror(number)}: about 1,000 bytes are needed, [\d,]+ are free; free some space"
    with pytest.raises(DiskError, match=line) as caught, atomic_target(tmp_path / "a", needed=1000) as temporary:
        raise OSError(number, os.strerror(number), temporary.write_bytes(b"half"))
    assert caught.value.full == tmp_path / "a"
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(DiskError, match=r"b: .*: more than ([\d,]+) bytes are needed, \1 are free"),
        told_when_full(tmp_path / "b"),
    ):
        raise OSError(number, os.strerror(number))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unreadable"), atomic_target(tmp_path / "a"):
        raise OSError(errno.EIO, "unreadable")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"Not a directory|File exists"), atomic_target(tmp_path / "file" / "b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_closed_disk_ends_the_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", closed)
    with (
        pytest.raises(
            DiskError, match=rf"a: cannot be written \({os.strerror(number)}\); give another folder"
        ) as caught,
        atomic_target(tmp_path / "a"),
    ):
        pass
    assert caught.value.full is None


def test_space_is_added_up_by_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: disk.shutil._ntuple_diskusage(1000, 0, 1000))
    check_space({tmp_path / "none" / "a": 600, tmp_path / "b": 400})
    with pytest.raises(DiskError, match=r"a: No space left on device: about 1,001 bytes are needed, 1,000 are free"):
        check_space({tmp_path / "none" / "a": 601, tmp_path / "b": 400})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(
        DiskError, match=r"b: cannot be written, for the disk or the folder .* is read-only; give another folder"
    ):
        check_space({tmp_path / "b": 0})


def test_new_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_new(tmp_path / "key", b"1")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "key", b"2")
    assert (tmp_path / "key").read_bytes() == b"1"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match="other: No space left"):
        write_new(tmp_path / "other", b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
