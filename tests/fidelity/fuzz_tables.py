# SPDX-License-Identifier: Apache-2.0
"""Label tables for the fuzzer: as people have them, and what happens to tables on their way through spreadsheets and
scripts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.exports import body, mr_slice, nifti_file
from tests.fidelity.fuzz_seed import Seed

TABLE = "labels.csv"
_NAMES = ("a.dcm", "b.dcm", "more/c.dcm", "more/d d.dcm")
_UIDS = tuple(f"1.2.826.0.1.3680043.8.498.10.{number + 1}" for number in range(4))
_PATIENTS = tuple(f"P{number}" for number in range(4))


def table_seeds() -> list[Seed]:
    """Give folders of four pictures, each with a table beside it that has another shape."""
    with TemporaryDirectory() as spare:
        folder = Path(spare)
        for number, name in enumerate(_NAMES):
            mr_slice(folder / "in" / name, number, body(number, 16))
        nifti_file(folder / "in" / "v.nii.gz", body(5, 16)[..., None].repeat(4, -1))
        pictures = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    base = Seed("", pictures, "in", table=TABLE, holds=dict.fromkeys(_NAMES, "picture"))
    return [
        replace(base, name=f"table of {name}", files=pictures | {TABLE: content}) for name, content in _tables().items()
    ]


def _tables() -> dict[str, bytes]:
    plain = _lines("path,label", *(f"{name},{number % 2}" for number, name in enumerate(_NAMES)))
    words = _lines("file,label", *(f"in/{name},{('healthy', 'ill')[number % 2]}" for number, name in enumerate(_NAMES)))
    return {
        "commas": plain.encode(),
        "semicolons": plain.replace(",", ";").encode(),
        "tabs": plain.replace(",", "\t").encode(),
        "a sep line": b"sep=;\r\n" + plain.replace(",", ";").replace("\n", "\r\n").encode(),
        "words": words.encode("utf-8-sig"),
        "quotes": "".join('"' + line.replace(",", '","') + '"\n' for line in plain.splitlines()).encode(),
        "backslashes": plain.replace("/", "\\").encode(),
        "numbers": _lines(
            "path,label", *(f"{name},{label}" for name, label in zip(_NAMES, ("0", "1", "0.0", "01"), strict=True))
        ).encode(),
        "gaps": _lines(
            "path,label",
            *(f"{name},{label}" for name, label in zip(_NAMES, ("0", "nan", "1", ""), strict=True)),
            "gone.dcm,1",
        ).encode(),
        "UIDs": _lines("SOPInstanceUID,label", *(f"{uid},{number % 2}" for number, uid in enumerate(_UIDS))).encode(),
        "patients": _lines(
            "PatientID,age,label", *(f"{name},{40 + number},{number % 2}" for number, name in enumerate(_PATIENTS))
        ).encode(),
        "findings": _lines(
            "path,Edema,Effusion", *(f"{name},{number % 2},{number // 2}" for number, name in enumerate(_NAMES))
        ).encode(),
    }


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


# Damage --------------------------------------------------------------------------------------------------------------
_DELIMITERS = (b",", b";", b"\t", b"|", b" ", b", ", b",,")
_ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "latin-1", "cp1252", "cp437", "utf-7")
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf\xef\xbb\xbf")
_ENDS = (b"\r\n", b"\r", b"\n\n", b"\n\r", b"\x0b", b"\x85", b"\xe2\x80\xa8", b"")
_VALUES = (
    *(
        b"",
        b" ",
        b"nan",
        b"NaN",
        b"NA",
        b"None",
        b"null",
        b"#N/A",
        b"0",
        b"0.0",
        b"00",
        b"01",
        b"1e0",
        b"+1",
        b"-1",
        b"inf",
        b"1e999",
        b"0x1",
        b"1,5",
    ),
    *(
        b"=1+1",
        b"'1",
        b"\xe9",
        b"caf\xc3\xa9",
        b"\xd9\xa1",
        b"../a.dcm",
        b"/etc/passwd",
        b"C:\\in\\a.dcm",
        b"in\\a.dcm",
        b"a.DCM",
        b"./a.dcm",
        b"path",
        b"label",
    ),
)


def _delimiter(data: bytearray, dice: random.Random) -> None:
    old, new = dice.sample(_DELIMITERS, 2)
    data[:] = data.replace(old, new, dice.choice((-1, -1, 1, 3)))


def _encoding(data: bytearray, dice: random.Random) -> None:
    data[:] = bytes(data).decode("utf-8", "replace").encode(dice.choice(_ENCODINGS), "replace")


def _mark(data: bytearray, dice: random.Random) -> None:
    place = dice.choice((0, 0, 0, dice.randrange(len(data) + 1)))
    data[place:place] = dice.choice(_MARKS)


def _header(data: bytearray, dice: random.Random) -> None:
    """Write the header again: as a line, or its last column twice."""
    lines = bytes(data).split(b"\n")
    if dice.random() < 0.5:
        lines.insert(dice.randrange(len(lines) + 1), lines[0])
    else:
        lines = [line + dice.choice((b",", b";")) + line[line.rfind(b",") + 1 :] for line in lines]
    data[:] = b"\n".join(lines)


def _nul(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 5))):
        place = dice.randrange(len(data) + 1)
        data[place:place] = b"\0"


def _long(data: bytearray, dice: random.Random) -> None:
    """Make a field longer than the csv module reads, or just long."""
    place = dice.randrange(len(data) + 1)
    data[place:place] = dice.choice((b"x", b"0", b"\xc3\xa9", b"a,")) * dice.choice((300, 5000, 70_000, 200_000))


def _end(data: bytearray, dice: random.Random) -> None:
    data[:] = data.replace(b"\n", dice.choice(_ENDS), dice.choice((-1, -1, 1)))


def _quote(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 2, 3))):
        place = dice.randrange(len(data) + 1)
        data[place:place] = dice.choice((b'"', b'""', b"'", b'"\n'))


def _row(data: bytearray, dice: random.Random) -> None:
    """Double, drop, swap or cut a row, or give it more fields."""
    lines = bytes(data).split(b"\n")
    first, second = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.randrange(5)
    if kind == 0:
        lines.insert(first, lines[second])
    elif kind == 1:
        del lines[first]
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 3:
        lines[first] = lines[first].rpartition(b",")[0]
    else:
        lines[first] += b"," + dice.choice(_VALUES)
    data[:] = b"\n".join(lines)


def _value(data: bytearray, dice: random.Random) -> None:
    lines = [line.split(b",") for line in bytes(data).split(b"\n")]
    row = dice.choice(lines)
    row[dice.randrange(len(row))] = dice.choice(_VALUES)
    data[:] = b"\n".join(b",".join(fields) for fields in lines)


TABLE_CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_delimiter, _encoding, _mark, _header, _nul, _long, _end, _quote),
    *(_row, _row, _value, _value, _value, _value),
)
"""Some more often than others."""
