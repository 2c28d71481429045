# SPDX-License-Identifier: Apache-2.0
"""Damage to inputs: bits, bytes, numbers and pieces, chosen by seed and index."""

from __future__ import annotations

import math
import random
import re
import struct
from collections.abc import Callable
from typing import Any

from tests.fidelity.fuzz_inputs import inside
from tests.fidelity.fuzz_seed import Seed
from tests.fidelity.fuzz_tables import TABLE_CHANGES

_EXTREMES = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    15,
    16,
    17,
    31,
    32,
    33,
    64,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFE,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
_DECIMALS = (
    b"0",
    b"-1",
    b"1",
    b"2",
    b"65535",
    b"65536",
    b"2147483647",
    b"99999999999",
    b"1e9",
    b"1e308",
    b"nan",
    b"inf",
    b"-0",
    b"0.5",
    b"",
    b"x",
    b"1\\2",
)
_DICOM_TAGS = (
    *(
        (0x0028, element)
        for element in (2, 4, 6, 8, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120, 0x121, 0x1052, 0x1053)
    ),
    *(
        (0x0002, 0),
        (0x0002, 0x10),
        (0x0008, 0x08),
        (0x0008, 0x16),
        (0x0008, 0x18),
        (0x0020, 0x0E),
        (0x7FE0, 1),
        (0x7FE0, 0x10),
    ),
    *(
        (0xFFFE, 0xE000),
        (0xFFFE, 0xE00D),
        (0xFFFE, 0xE0DD),
        (0x5200, 0x9229),
        (0x5200, 0x9230),
        (0x0004, 0x1400),
        (0x0004, 0x1420),
        (0x0004, 0x1500),
    ),
)
"""What the size of a picture, its identity and the links of a DICOMDIR hang on."""
_NIFTI_FIELDS = (
    *(
        (0, 4),
        (68, 2),
        (70, 2),
        (72, 2),
        (108, 4),
        (112, 4),
        (116, 4),
        (252, 2),
        (254, 2),
        (344, 4),
        (348, 4),
        (352, 4),
    ),
    *((40 + 2 * axis, 2) for axis in range(8)),
    *((76 + 4 * axis, 4) for axis in range(8)),
    *((12, 2), (14, 2), (168, 8), (176, 8), (184, 8)),
    *((16 + 8 * axis, 8) for axis in range(8)),
)
"""Offsets and sizes in nifti1.h, then in nifti2.h."""


def damage(seeds: list[Seed], seed: int, index: int) -> tuple[dict[str, bytes], str, dict[str, Any]]:
    """Make an input: its files, the name that the run is given, and how it was made; a negative index counts whole
    inputs.
    """
    if index < 0:
        whole = seeds[-1 - index]
        return whole.files, whole.source, {"seed": seed, "index": index, "of": whole.name, "file": "", "steps": []}
    dice = random.Random(f"{seed}:{index}")
    chosen = dice.choice(seeds)
    # A file in a set is damaged as often as the list of the set, a table more often than its pictures.
    name = chosen.table if chosen.table and dice.random() < 0.8 else dice.choice(sorted(chosen.files))
    other = dice.choice(seeds)
    steps: list[str] = []
    changes = (*TABLE_CHANGES, *TABLE_CHANGES, *_CHANGES) if name == chosen.table else _CHANGES
    content = inside(chosen, chosen.files[name], dice, steps, lambda data: _damaged(data, other, dice, steps, changes))
    return (
        chosen.files | {name: content},
        chosen.source,
        {"seed": seed, "index": index, "of": chosen.name, "file": name, "steps": steps},
    )


def _damaged(
    data: bytes, other: Seed, dice: random.Random, steps: list[str], changes: tuple[Callable[..., Any], ...]
) -> bytes:
    result = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        change = dice.choice(changes)
        if change is _splice:
            result = bytearray(_splice(result, next(iter(other.files.values())), dice))
        else:
            change(result, dice)
        steps.append(change.__name__.strip("_"))
    return bytes(result)


def _place(data: bytearray, dice: random.Random) -> int:
    """Choose a byte, one of the header more often than not."""
    return dice.randrange(max(1, min(len(data), 2048) if dice.random() < 0.7 else len(data)))


def _flip(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 2, 8, 40))):
        if data:
            data[_place(data, dice)] ^= 1 << dice.randrange(8)


def _overwrite(data: bytearray, dice: random.Random) -> None:
    length = dice.choice((1, 1, 2, 4, 8, 100))
    start = _place(data, dice)
    kind = dice.randrange(3)
    content = bytes(length) if kind == 0 else b"\xff" * length if kind == 1 else dice.randbytes(length)
    data[start : start + length] = content[: max(0, len(data) - start)]


def _truncate(data: bytearray, dice: random.Random) -> None:
    del data[dice.choice((_place(data, dice), max(0, len(data) - dice.randrange(1, 40)))) :]


def _grow(data: bytearray, dice: random.Random) -> None:
    length = dice.choice((1, 2, 3, 4, 100, 10_000))
    data += dice.choice((bytes(length), dice.randbytes(length)))


def _delete(data: bytearray, dice: random.Random) -> None:
    start = _place(data, dice)
    del data[start : start + dice.choice((1, 2, 4, 8, 50, 1000))]


def _double(data: bytearray, dice: random.Random) -> None:
    start = _place(data, dice)
    chunk = data[start : start + dice.choice((1, 2, 4, 8, 50, 1000))]
    data[start:start] = chunk * dice.choice((1, 1, 2, 10))


def _move(data: bytearray, dice: random.Random) -> None:
    start, target = _place(data, dice), _place(data, dice)
    chunk = data[start : start + dice.choice((4, 8, 30, 300))]
    data[target : target + len(chunk)] = chunk


def _number(data: bytearray, dice: random.Random) -> None:
    size = dice.choice((2, 4))
    start = _place(data, dice) & ~1
    _put(data, start, size, dice)


def _tag(data: bytearray, dice: random.Random) -> None:
    """Damage the VR, the length or the value of a DICOM element that the size of the picture hangs on."""
    order = dice.choice("<<<>")
    tag = struct.pack(f"{order}HH", *dice.choice(_DICOM_TAGS))
    places = [found.start() for found in re.finditer(re.escape(tag), bytes(data))]
    if places:
        start = dice.choice(places)
        offset, size = dice.choice(((8, 2), (8, 2), (8, 2), (8, 4), (6, 2), (4, 4), (4, 2), (8, 1), (12, 4)))
        _put(data, start + offset, size, dice, order)


def _field(data: bytearray, dice: random.Random) -> None:
    """Damage a field of a NIfTI header."""
    start, size = dice.choice(_NIFTI_FIELDS)
    if size > 2 and dice.random() < 0.5:
        value = dice.choice((math.nan, math.inf, -math.inf, 0.0, -1.0, 1e30, 1e-30, 3e38, 352.5, 1e9, float(len(data))))
        content = struct.pack(dice.choice("<>") + ("f" if size == 4 else "d"), value)
        if start + size <= len(data):
            data[start : start + size] = content
    else:
        _put(data, start, size, dice)


def _text(data: bytearray, dice: random.Random) -> None:
    """Replace a number that is written in digits."""
    found = list(re.finditer(rb"\d+(\.\d+)?", bytes(data[:4096])))
    if found:
        match = dice.choice(found)
        value = dice.choice(_DECIMALS)
        if dice.random() < 0.5:
            value = value[: match.end() - match.start()].rjust(match.end() - match.start())
        data[match.start() : match.end()] = value


def _put(data: bytearray, start: int, size: int, dice: random.Random, order: str = "") -> None:
    value = dice.choice((*_EXTREMES, len(data), len(data) - start)) & ((1 << 8 * size) - 1)
    if start >= 0 and start + size <= len(data):
        data[start : start + size] = value.to_bytes(size, "little" if (order or dice.choice("<>")) == "<" else "big")


def _splice(data: bytearray, other: bytes, dice: random.Random) -> bytes:
    return bytes(data[: _place(data, dice)]) + other[dice.randrange(max(1, len(other))) :]


_CHANGES: tuple[Callable[..., Any], ...] = (
    *(_flip, _flip, _overwrite, _overwrite, _truncate, _grow, _delete, _double, _move),
    *(_number, _number, _tag, _tag, _tag, _field, _text, _splice),
)
"""Some more often than others."""
