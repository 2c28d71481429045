# SPDX-License-Identifier: Apache-2.0
"""Every difference of two DICOMDIRs: records of absent files may be missing, and links follow."""

from __future__ import annotations

from collections.abc import Iterator

from monai_salm.io.base import HeaderChange
from monai_salm.io.dicom.comparing.datasets import compare_datasets
from monai_salm.io.dicom.comparing.pair import Pair, change_of
from monai_salm.io.dicom.dicomdir import (
    DIRECTORY_RECORDS,
    OFFSETS,
    Directory,
    Record,
    directory_of,
    removed_records,
)
from monai_salm.io.dicom.elements import Element


def compare_directories(pair: Pair) -> Iterator[HeaderChange]:
    """Compare two DICOMDIRs: records of absent files may be missing, and the links must be those of the original
    without them.
    """
    first, second = directory_of(pair.original), directory_of(pair.other)
    around = [
        [element for element in file.elements if element.tag not in OFFSETS | {DIRECTORY_RECORDS}]
        for file in (pair.original, pair.other)
    ]
    yield from compare_datasets(pair, around[0], around[1], "")
    removed = removed_records(
        first, frozenset(record.file for record in first.records) - {record.file for record in second.records} - {""}
    )
    kept = [number for number in range(len(first.records)) if number not in removed]
    for number in sorted(removed):
        record = first.records[number]
        yield change_of(f"DirectoryRecordSequence[{number}]", f"{record.kind} {record.file}".strip(), "", allowed=True)
    if len(kept) != len(second.records):
        yield change_of(
            "DirectoryRecordSequence", f"{len(kept)} records remain", f"{len(second.records)} records", allowed=False
        )
        return
    for number, after in zip(kept, second.records, strict=True):
        yield from compare_datasets(
            pair, _without_links(first.records[number]), _without_links(after), f"DirectoryRecordSequence[{number}]."
        )
    old, new = [(depth, number) for depth, number in first.walk() if number not in removed], list(second.walk())
    if old != [(depth, kept[number]) for depth, number in new] or not _ends_right(second):
        yield change_of(
            "DirectoryRecordSequence (links)",
            f"{len(old)} records are reached",
            f"{len(new)} records are reached, or in another order",
            allowed=False,
        )


def _without_links(record: Record) -> list[Element]:
    return [element for element in record.elements if element.tag not in OFFSETS]


def _ends_right(directory: Directory) -> bool:
    """Say whether the link to the last record of the first level is right."""
    return directory.last == next(iter(list(directory.chain(directory.first))[-1:]), None)
