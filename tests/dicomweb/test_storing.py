# SPDX-License-Identifier: Apache-2.0
"""What is stored is stored once, found again, and else named with the reason; nothing in the archive is replaced."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from monai_salm.dicomweb import ArchivePlace
from monai_salm.dicomweb.answers import answer_of
from monai_salm.dicomweb.storing import StoreResult, store, uids_stored
from monai_salm.errors import SalmError, UsageError
from tests.dicomweb.conftest import STUDY
from tests.dicomweb.stub import Handler, Stub, failed, key_of
from tests.exports import ROOT_UID, mr_series

SERIES = f"{ROOT_UID}.21.2"


class Sender:
    """Three slices of another study than the archive has, and a place for the journal."""

    def __init__(self, folder: Path, stub: Stub) -> None:
        self.folder, self.stub, self.journal = folder / "out", stub, folder / "private" / "stored.jsonl"
        self.paths = sorted(path.name for path in mr_series(self.folder, 1, slices=3))

    def __call__(self, *paths: str, place: str = "") -> StoreResult:
        paths = paths or tuple(self.paths)
        files = {path: hashlib.sha256((self.folder / path).read_bytes()).hexdigest() for path in paths}
        where = ArchivePlace(self.stub.url, (place,) if place else ())
        return store(where, self.folder, files, self.journal, advice="go on")

    def key(self, path: str) -> tuple[str, str, str]:
        return key_of(self.folder / path)


@pytest.fixture
def send(tmp_path: Path, stub: Stub) -> Sender:
    return Sender(tmp_path, stub)


def test_files_are_stored_as_they_are_and_once(stub: Stub, send: Sender) -> None:
    before = len(stub.files)
    done = send()
    assert (done.stored, done.sent, done.problems) == (3, 3, {})
    assert done.found == ArchivePlace(stub.url, (f"{ROOT_UID}.31.2",), (SERIES,))
    assert len(stub.files) == before + 3
    assert all(stub.files[send.key(path)] == (send.folder / path).read_bytes() for path in send.paths)
    assert stat.S_IMODE(send.journal.stat().st_mode) == 0o600
    assert uids_stored(send.journal) == {send.key(path)[2] for path in send.paths}
    again = send()
    assert (again.stored, again.sent, again.problems) == (3, 0, {})
    assert stub.count("POST") == 3
    assert stub.retrieved() == []


@pytest.mark.parametrize("torn", [b"", b'{"sha', b"\xff\n"])
def test_without_its_journal_nothing_is_sent_twice_either(stub: Stub, send: Sender, torn: bytes) -> None:
    send()
    send.journal.write_bytes(torn)
    again = send()
    assert (again.stored, again.sent, again.problems) == (3, 0, {})
    assert (stub.count("POST"), len(stub.retrieved())) == (3, 3)
    send()
    assert len(stub.retrieved()) == 3  # the journal says it again


def test_what_was_taken_out_of_the_archive_is_stored_again(stub: Stub, send: Sender) -> None:
    send()
    del stub.files[send.key(send.paths[1])]
    assert (send().sent, stub.count("POST")) == (1, 4)


def test_refusals_are_named_and_the_others_stored(stub: Stub, send: Sender) -> None:
    def some(handler: Handler) -> bool:
        number = stub.count("POST")
        if number == 1:
            handler.answer(409, failed(send.key(send.paths[0])[2], 0x0122))
        elif number == 2:
            handler.answer(500, b"patient Doe")
        return number < 3

    stub.faults["POST /dw/studies"] = some
    done = send()
    assert (done.stored, done.sent) == (1, 1)
    assert done.problems == {
        send.paths[0]: "the archive refuses it: it takes no objects of this class (0122)",
        send.paths[1]: "the archive answers 500 Internal Server Error",
    }
    stub.faults.clear()
    assert (send().problems, stub.count("POST")) == ({}, 5)


def test_an_answer_that_is_lost_is_not_asked_for_again(stub: Stub, send: Sender, waits: list[float]) -> None:
    def silent(handler: Handler) -> bool:
        if stub.count("POST") != 2:
            return False
        stub.files[send.key(send.paths[1])] = (send.folder / send.paths[1]).read_bytes()
        return handler.hang_up()

    stub.faults["POST /dw/studies"] = silent
    assert (send().stored, stub.count("POST"), waits[0]) == (3, 3, 0.5)


def test_an_archive_that_goes_away(stub: Stub, send: Sender, waits: list[float]) -> None:
    stub.faults["POST /dw/studies"] = lambda handler: stub.count("POST") > 1 and handler.hang_up()
    with pytest.raises(SalmError, match=r"/dw/studies: .*; 1 of 3 files are stored; go on$"):
        send()
    assert len(waits) == 3
    stub.faults.clear()
    stub.asked.clear()
    done = send()
    assert (done.stored, done.sent, stub.count("POST")) == (3, 2, 2)


@pytest.mark.parametrize(("status", "said"), [(401, "does not know who asks"), (405, "nothing there"), (403, "right")])
def test_an_archive_that_takes_nothing(stub: Stub, send: Sender, status: int, said: str) -> None:
    stub.faults["POST /dw/studies"] = lambda handler: handler.answer(status) is None
    with pytest.raises(UsageError, match=said):
        send()
    assert stub.count("POST") == 1


def test_nothing_in_the_archive_is_replaced(stub: Stub, send: Sender) -> None:
    key = send.key(send.paths[0])
    stub.files[key] = b"another"
    done = send()
    assert list(done.problems) == [send.paths[0]]
    assert f"has an instance {key[2]} already, with other bytes" in done.problems[send.paths[0]]
    assert (done.stored, stub.files[key], stub.count("POST")) == (2, b"another", 2)


def test_what_is_taken_but_not_listed_is_no_success(stub: Stub, send: Sender, waits: list[float]) -> None:
    def lose(handler: Handler) -> bool:
        handler.answer(200)
        return True

    stub.faults["POST /dw/studies"] = lose
    done = send()
    assert done.stored == 0
    assert done.found is None
    assert all("does not list it in series" in reason for reason in done.problems.values())
    assert waits == [0.0, 1.0, 3.0, 9.0]


def test_an_archive_that_lists_late(stub: Stub, send: Sender, waits: list[float]) -> None:
    stub.faults["offset=0"] = lambda handler: len(waits) < 3 and handler.entries([]) is None
    assert (send().stored, len(waits)) == (3, 3)


def test_what_cannot_be_stored_is_named(stub: Stub, send: Sender) -> None:
    (send.folder / "table.csv").write_text("a,b\n", encoding="utf-8")
    done = send("table.csv", *send.paths)
    assert (done.stored, list(done.problems)) == (3, ["table.csv"])
    assert "no DICOM object" in done.problems["table.csv"]
    other = send(place=STUDY)
    assert other.stored == 0
    assert all(STUDY in reason for reason in other.problems.values())


def test_a_file_that_was_changed_is_not_stored(stub: Stub, send: Sender) -> None:
    done = store(ArchivePlace(stub.url), send.folder, {send.paths[0]: "0" * 64}, send.journal)
    assert "changed since it was written" in done.problems[send.paths[0]]
    assert stub.count("POST") == 0


@pytest.mark.parametrize(
    ("status", "content", "refused", "note"),
    [
        (200, b"", "", ""),
        (200, b"[]", "", ""),
        (200, b"<xml/>", "", ""),
        (202, failed("1.2", 0xA701), "no room (A701)", ""),
        (200, failed("1.2", 0xC001), "cannot read the file (C001)", ""),
        (200, b'{"00081198": {"Value": [{}]}}', "does not say why", ""),
        (200, b'{"00081198": {"vr": "SQ"}, "00081199": {"Value": [{"00081155": {"Value": ["1.2"]}}]}}', "", ""),
        (200, b'{"00081199": {"Value": [{"00081155": {"Value": ["1.3"]}}]}}', "for another instance", ""),
        (
            202,
            b'{"00081199": {"Value": [{"00081155": {"Value": ["1.2"]}, "00081196": {"Value": [45056]}}]}}',
            "",
            "B000: it changed some attributes",
        ),
        (400, b"nonsense", "answers 400 Bad", ""),
    ],
)
def test_answers(status: int, content: bytes, refused: str, note: str) -> None:
    answer = answer_of(status, "Bad", content, "1.2")
    assert refused in answer.refused
    assert bool(refused) == bool(answer.refused)
    assert note in answer.note
    assert bool(note) == bool(answer.note)
