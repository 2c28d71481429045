# SPDX-License-Identifier: Apache-2.0
"""DICOMDIR: the directory of a file-set, whose records point to each other by their place in the file (PS3.3 F)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation
from monai_salm.io.dicom.elements import Element, Encoding, Item, encode
from monai_salm.io.dicom.files import PREFIX, DicomFile, ascii_values, find
from monai_salm.io.dicom.meta import file_head, is_renamed
from monai_salm.io.dicom.remapping import ICONS, Bytes, Edit, constant, rewritten
from monai_salm.io.dicom.uids import UidMap

FIRST_RECORD, LAST_RECORD = 0x00041200, 0x00041202
DIRECTORY_RECORDS = 0x00041220
NEXT_RECORD, LOWER_RECORD, REPEATED_RECORD = 0x00041400, 0x00041420, 0x00041504
OFFSETS = frozenset({FIRST_RECORD, LAST_RECORD, NEXT_RECORD, LOWER_RECORD, REPEATED_RECORD})
"""Elements that hold the place of a record in the file; the last is retired (MRDRDirectoryRecordOffset)."""

_GROUP_LENGTH = 0x00040000
_RECORD_TYPE = 0x00041430
_FILE_ID = 0x00041500
_SOP_UID_IN_FILE = 0x00041511
_TRANSFER_SYNTAX_IN_FILE = 0x00041512
_LINK_BYTES = 4
_PARENTS = frozenset({"PATIENT", "STUDY", "SERIES"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """One directory record.

    Args:
        item: its bytes.
        elements: its content.
        file: path of the file that it is of, with forward slashes; empty for a patient, a study or a series.
        following: number of the next record of the same level; None at the end.
        lower: number of the first record of the level below; None where there is none.
        repeated: number of the record that a retired record of several refers to.
    """

    item: Item
    elements: list[Element]
    file: str
    following: int | None
    lower: int | None
    repeated: int | None

    @property
    def kind(self) -> str:
        """DirectoryRecordType (0004,1430)."""
        return next(iter(ascii_values(find(self.elements, _RECORD_TYPE))), "")


@dataclass(frozen=True, kw_only=True)
class Directory:
    """The records of a DICOMDIR in the order of the file, linked by their numbers; the first and the last of the first
    level.
    """

    records: list[Record]
    first: int | None
    last: int | None

    def chain(self, start: int | None) -> Iterator[int]:
        """Give the numbers of the records of a level, from ``start``.

        Raises:
            RefusedError: the records go round in a circle.
        """
        seen: set[int] = set()
        while start is not None:
            if start in seen:
                raise RefusedError(
                    f"the directory records go round in a circle at record {start}; make a new DICOMDIR, for "
                    "example with dcmmkdir"
                )
            seen.add(start)
            yield start
            start = self.records[start].following

    def walk(self) -> Iterator[tuple[int, int]]:
        """Give depth and number of every record that can be reached, parents before children.

        Raises:
            RefusedError: a record is reached twice.
        """
        seen: set[int] = set()
        waiting = [(0, number) for number in reversed(list(self.chain(self.first)))]
        while waiting:
            depth, number = waiting.pop()
            if number in seen:
                raise RefusedError(
                    f"directory record {number} is reached twice; make a new DICOMDIR, for example with dcmmkdir"
                )
            seen.add(number)
            yield depth, number
            waiting += [(depth + 1, child) for child in reversed(list(self.chain(self.records[number].lower)))]


def is_directory(file: DicomFile) -> bool:
    """Say whether a file is a DICOMDIR, by its records."""
    return file.find(DIRECTORY_RECORDS) is not None


def directory_of(file: DicomFile) -> Directory:
    """Read the records and their links.

    Raises:
        RefusedError: a link points to no record.
    """
    if file.transfer_syntax == DeflatedExplicitVRLittleEndian:
        raise RefusedError(
            "a deflated DICOMDIR, in which records have no place in the file; make a new one, for example with dcmmkdir"
        )
    if sum(element.tag == DIRECTORY_RECORDS for element in file.elements) > 1:
        raise RefusedError(
            "DirectoryRecordSequence is there more than once; make a new DICOMDIR, for example with dcmmkdir"
        )
    start = len(file.preamble) + (len(PREFIX) if file.prefix else 0) + sum(len(element.raw) for element in file.meta)
    for element in file.elements:
        if element.tag == DIRECTORY_RECORDS:
            break
        start += len(element.raw)
    sequence = _records_element(file)
    items = sequence.items() or []
    start += _head_length(sequence)
    numbers: dict[int, int] = {}
    for number, item in enumerate(items):
        numbers[start] = number
        start += len(item.raw)
    ends = [_link(file.elements, tag, numbers) for tag in (FIRST_RECORD, LAST_RECORD)]
    return Directory(records=[_record(item, numbers) for item in items], first=ends[0], last=ends[1])


def listed_files(file: DicomFile) -> frozenset[str]:
    """Give the paths of the files that a DICOMDIR lists, relative to its folder, with forward slashes.

    Raises:
        RefusedError: its links are damaged.

    DICOM: ReferencedFileID (0004,1500) holds the components of a path (PS3.10 8.2).
    """
    directory = directory_of(file)
    list(directory.walk())
    return frozenset(record.file for record in directory.records if record.file)


def rewritten_directory(file: DicomFile, uid_map: UidMap, derivation: Derivation) -> bytes | None:
    """Give a DICOMDIR with new UIDs, without the records of absent files and with every link right; None where nothing
    changes.

    Raises:
        RefusedError: its links are damaged.

    DICOM: PS3.3 F.3.2.2. A patient, study or series that had records below it and loses all of them goes too. Records
    stay in their order. Icons are removed. ReferencedTransferSyntaxUIDInFile follows a file that is written in another
    transfer syntax.
    """
    directory = directory_of(file)
    removed = removed_records(directory, derivation.absent_files)
    sequence = _records_element(file)
    contents: dict[int, list[Bytes]] = {}
    changed = bool(removed) or is_renamed(file, uid_map)
    for number, record in enumerate(directory.records):
        if number in removed:
            continue
        edits = _syntax_edit(record, derivation.transfer_syntaxes)
        contents[number] = rewritten(record.elements, record.item.encoding, uid_map, edits, ICONS)
        changed = changed or any(
            new is not old.raw for new, old in zip(contents[number], record.elements, strict=False)
        )
    others = [element for element in file.elements if element.tag != DIRECTORY_RECORDS]
    changed = changed or any(
        new is not old.raw
        for new, old in zip(rewritten(others, file.encoding, uid_map, {}, ICONS), others, strict=False)
    )
    if not changed:
        return None
    return _linked(file, sequence, directory, contents, uid_map, signed=derivation.provenance != "none")


def remaining_elements(file: DicomFile, absent: frozenset[str]) -> list[Element]:
    """Give the elements of a DICOMDIR around its records, and those in the records that stay without absent files."""
    directory = directory_of(file)
    removed = removed_records(directory, absent)
    records = [record for number, record in enumerate(directory.records) if number not in removed]
    return [element for element in file.elements if element.tag != DIRECTORY_RECORDS] + [
        element for record in records for element in record.elements
    ]


def removed_records(directory: Directory, absent: frozenset[str]) -> set[int]:
    """Number the records to take out: those of absent files, all below them, and parents that are left without any."""
    removed: set[int] = set()
    parents: list[tuple[int, list[int]]] = []
    for _, number in directory.walk():
        record = directory.records[number]
        children = list(directory.chain(record.lower))
        if number in removed or record.file in absent:
            removed |= {number, *children}
        elif children and record.kind in _PARENTS:
            parents.append((number, children))
    for number, children in reversed(parents):
        if removed.issuperset(children):
            removed.add(number)
    # Records that no link reaches, or that an inactive one hides, are of absent files all the same.
    return removed | {number for number, record in enumerate(directory.records) if record.file in absent}


def _linked(
    file: DicomFile,
    sequence: Element,
    directory: Directory,
    contents: Mapping[int, list[Bytes]],
    uid_map: UidMap,
    *,
    signed: bool,
) -> bytes:
    """Put the records in their places, and the places into the links."""
    head = file_head(file, file.transfer_syntax, uid_map, signed=signed)
    start = _joined(file, uid_map, {}, sequence, before=True)
    place = len(head) + len(start) + _head_length(sequence)
    places: dict[int, int] = {}
    for number, content in contents.items():
        places[number] = place
        place += len(directory.records[number].item.with_content(b"".join(content)))

    def first_kept(number: int | None) -> int | None:
        return next((kept for kept in directory.chain(number) if kept in contents), None)

    items = []
    for number, content in contents.items():
        record = directory.records[number]
        links = {
            NEXT_RECORD: first_kept(record.following),
            LOWER_RECORD: first_kept(record.lower),
            REPEATED_RECORD: record.repeated,
        }
        items.append(record.item.with_content(_with_links(content, record, links, places)))
    roots = [number for number in directory.chain(directory.first) if number in contents]
    edits = {
        tag: constant(encode(tag, "UL", _place(places, number, file.encoding), file.encoding))
        for tag, number in ((FIRST_RECORD, roots[0] if roots else None), (LAST_RECORD, roots[-1] if roots else None))
        if directory.first is not None and file.find(tag) is not None
    }
    start, end = (_joined(file, uid_map, edits if before else {}, sequence, before=before) for before in (True, False))
    return b"".join([head, start, sequence.with_items(items), end])


def _joined(file: DicomFile, uid_map: UidMap, edits: Mapping[int, Edit], sequence: Element, *, before: bool) -> bytes:
    """Write the elements before the records, or behind them; the retired length of their group is left out, for it is
    wrong now.
    """
    at = file.elements.index(sequence)
    elements = file.elements[:at] if before else file.elements[at + 1 :]
    return b"".join(
        rewritten([element for element in elements if element.tag != _GROUP_LENGTH], file.encoding, uid_map, edits)
    )


def _with_links(
    content: list[Bytes], record: Record, links: Mapping[int, int | None], places: Mapping[int, int]
) -> bytes:
    """Set the links in the elements of a record, which has as many bytes with them as without."""
    linked = []
    for part in content:
        for tag, number in links.items():
            old = find(record.elements, tag)
            if old is not None and part is old.raw:
                linked.append(encode(tag, old.vr, _place(places, number, record.item.encoding), record.item.encoding))
                break
        else:
            linked.append(bytes(part))
    return b"".join(linked)


def _place(places: Mapping[int, int], number: int | None, encoding: Encoding) -> bytes:
    return struct.pack(encoding.order + "I", 0 if number is None else places.get(number, 0))


def _syntax_edit(record: Record, transfer_syntaxes: Mapping[str, str]) -> dict[int, Edit]:
    uid = next(iter(ascii_values(find(record.elements, _SOP_UID_IN_FILE))), "")
    old = find(record.elements, _TRANSFER_SYNTAX_IN_FILE)
    new = transfer_syntaxes.get(uid)
    if new is None or ascii_values(old) == [new]:
        return {}
    return {
        _TRANSFER_SYNTAX_IN_FILE: lambda _element, encoding: encode(
            _TRANSFER_SYNTAX_IN_FILE, "UI", new.encode("ascii"), encoding
        )
    }


def _records_element(file: DicomFile) -> Element:
    element = file.find(DIRECTORY_RECORDS)
    if element is None or element.items() is None:
        raise RefusedError(
            "DirectoryRecordSequence is absent or no sequence; make a new DICOMDIR, for example with dcmmkdir"
        )
    return element


def _head_length(sequence: Element) -> int:
    """Length of a sequence's tag, VR and length."""
    delimiter = 8 if sequence.undefined else 0
    return len(sequence.raw) - sequence.size - delimiter


def _record(item: Item, numbers: Mapping[int, int]) -> Record:
    elements = item.elements()
    return Record(
        item=item,
        elements=elements,
        file="/".join(ascii_values(find(elements, _FILE_ID))),
        following=_link(elements, NEXT_RECORD, numbers),
        lower=_link(elements, LOWER_RECORD, numbers),
        repeated=_link(elements, REPEATED_RECORD, numbers),
    )


def _link(elements: list[Element], tag: int, numbers: Mapping[int, int]) -> int | None:
    """Give the number of the record that a link points to; None for 0, which points to none."""
    element = find(elements, tag)
    if element is None:
        return None
    if element.size != _LINK_BYTES:
        raise RefusedError(
            f"{element.name} has {element.size} bytes instead of {_LINK_BYTES}; make a new DICOMDIR, for example "
            "with dcmmkdir"
        )
    place = int.from_bytes(element.value, "little" if element.encoding.little else "big")
    if place == 0:
        return None
    if place not in numbers:
        raise RefusedError(
            f"{element.name} is {place}, where no directory record starts; make a new DICOMDIR, for example with "
            "dcmmkdir"
        )
    return numbers[place]
