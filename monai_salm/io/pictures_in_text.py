# SPDX-License-Identifier: Apache-2.0
"""Images that hide in text: encoded in base64 or hexadecimal, as tables of pixels, or as source code.

The rules, of which each is enough:

* an encoded run of 40 letters or more begins, decoded, as a file does that holds images or can;
* a run of 4096 letters of base64 without a blank, of at least 12 different ones, or 64 lines of one length with at
  least 48 of its 64 letters: whatever it is, it is no text;
* a matrix of at least 24 x 24 numbers that change little both along and across its rows;
* at least 8 rows of one length, of at least 64 numbers that change little along the row: images, one a line;
* one row, or column, of at least 1024 numbers that changes little;
  of these two rules, numbers that are not whole, or of a single row not 0 to 255, or of a column, must make a square
  that changes less across than half a side away, unless the row has no end within a piece of the file;
* the first words of a format of images that is text, or 1024 bytes in source code.

Numbers *change little* where the mean difference of neighbors (or, of whole numbers, for colors: third neighbors) is at
most 0.6 of that of any two, of values and of their ranks alike, and they have more than 16 values. A row is a line, or
what is between brackets or semicolons, as in JSON, C and MATLAB. Columns of a table of features or labels have nothing
in common with their neighbors.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from itertools import groupby
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.signatures import Use, signatures

OVERLAP = 1 << 13
"""Bytes of a piece that the next one is to begin with, so that nothing is cut in two unseen."""

_MARKS = re.compile(
    rb"(?P<base64>data:image|;base64,|InlineBinary)|(?P<XPM>/\*\s*XPM\s*\*/\s*static|^! "
    rb"XPM2)|(?P<XBM>^#define\s+\w+_width\s+\d+\s+#define\s+\w+_height\s)"
    rb"|(?P<uuencoded>^begin(-base64)? [0-7]{3,4} "
    rb")|(?P<VTK><VTKFile[^>]{1,200}ImageData)|(?P<code>(0x[0-9a-f]{1,4}[,\s]+){1024}|(\\x[0-9a-f]{2}){1024}"
    rb"|\\x89PNG\\r\\n\\x1a\\n\\x00|\\xff\\xd8\\xff\\x[ed][0-9a-f]\\x00|0x89,\s*0x50,\s*0x4e|0xff,\s*0xd8,\s*0xff)"
    rb"|(?P<dump>\(7fe0,0010\)[^\n]{1,16}([0-9a-f]{2,4}\\){256})",
    re.IGNORECASE | re.MULTILINE,
)
"""InlineBinary is how DICOM in JSON and XML holds pixels (PS3.18 F.2.7, PS3.19 A.1.5)."""
_NAMES = {
    "base64": "data:image or base64", "XPM": "XPM", "XBM": "XBM", "uuencoded": "uuencoded", "VTK": "an image of VTK",
    "code": "bytes in source code",
    "dump": "pixels of DICOM as text",
}  # fmt: skip
_RUN = re.compile(rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{40}")
_LONG = re.compile(rb"[A-Za-z0-9+/]{4096}")
_LINES = re.compile(rb"(?:^[ \t\"']{0,64}[A-Za-z0-9+/]{60,256}[ \t\"',]{0,8}\r?\n){64}", re.MULTILINE)
_LETTERS, _LETTERS_OF_LINES = 12, 48
_HEAD = 640
_DIGITS, _ENCODED = re.compile(rb"(?:0x)?([0-9A-Fa-f]*)"), re.compile(rb"[A-Za-z0-9+/]*")
_SIGNATURES = signatures(Use.TEXT)

_NUMBER = rb"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(rb"(?<![\w.+-])(?:" + _NUMBER + rb"(?:[ \t]*[,;][ \t]*|[ \t]+)){23,}" + _NUMBER + rb"(?![\w.])")
_BYTES = re.compile(rb"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{2} ?){24,}(?![0-9A-Za-z])")
_COLUMN = re.compile(rb"^(?:" + _NUMBER + rb"[ \t]*\r?\n){1024,}", re.MULTILINE)
_BRACKETS = re.compile(rb"[\[{(]\s*[-+]?\d")
_SIDE, _ROWS, _COLUMNS, _ALONE, _FILLS = 24, 8, 64, 1024, 150_000
_VALUES, _ROUGHEST = 16, 0.6


def picture_in(text: bytes) -> str:
    """Say what of an image a piece of text holds; empty for nothing.

    Args:
        text: a whole file, or a piece of it that begins with the last ``OVERLAP`` bytes of the piece before it.
    """
    mark = _MARKS.search(text)
    if mark is not None:
        return _NAMES[next(name for name, found in mark.groupdict().items() if found)]
    plain = text.replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\\/", b"/")
    if any(_begins_picture(plain[found.start() : found.start() + _HEAD]) for found in _RUN.finditer(plain)):
        return "encoded as base64 or hexadecimal"
    if any(len(set(found[0])) >= _LETTERS for found in _LONG.finditer(plain)) or any(
        _is_base64(found[0]) for found in _LINES.finditer(plain)
    ):
        return "binary data in base64"
    return "a table of pixels" if any(map(_are_pixels, _tables(text))) else ""


def _begins_picture(run: bytes) -> bool:
    """Say whether an encoded run, with line breaks or without, begins a file that holds images or can."""
    letters = b"".join(run.split()).translate(bytes.maketrans(b"-_", b"+/"))
    digits, encoded = _DIGITS.findall(letters)[0], _ENCODED.findall(letters)[0]
    return _is_known(bytes.fromhex(digits[: len(digits) // 2 * 2].decode())) or _is_known(
        b64decode(encoded[: len(encoded) // 4 * 4])
    )


def _is_known(head: bytes) -> bool:
    return any(head.startswith(signature.first, signature.place) for signature in _SIGNATURES)


def _is_base64(block: bytes) -> bool:
    """Say whether lines are of one length, and of so many letters as only base64 has."""
    lines = [line.strip(b" \t\"',") for line in block.split()]
    return len(set(map(len, lines[:-1]))) == 1 and len(set(b"".join(lines))) >= _LETTERS_OF_LINES


def _tables(text: bytes) -> Iterator[NDArray[np.float64]]:
    """Give the rows of numbers in a text, those of one length that follow each other as one array."""
    lines = text.translate(None, b"\"'")
    ways = [lines]
    if _BRACKETS.search(lines):
        ways.append(b" ".join(lines.split()).translate(bytes.maketrans(b"[]{}();", b"\n" * 7)))
    if b"," in lines and (b";" in lines or b"\t" in lines):
        ways.append(lines.replace(b",", b"."))
    rows = [(np.array(re.split(rb"[,;\s]+", found[0]), float) for found in _NUMBERS.finditer(way)) for way in ways]
    rows.append(
        np.frombuffer(bytes.fromhex(found[0].decode()), np.uint8).astype(float) for found in _BYTES.finditer(lines)
    )
    for way in rows:
        for _, group in groupby(way, len):
            yield np.stack(list(group))
    for found in _COLUMN.finditer(lines):
        yield np.array(found[0].split(), float)[:, None]


def _are_pixels(table: NDArray[np.float64]) -> bool:
    listed = table.shape[1] == 1
    table = table.T if listed else table
    rows, columns = table.shape
    if table.size < _ROWS * _COLUMNS:
        return False
    low, high = table.min(), table.max()
    if not np.isfinite(table).all() or len(np.unique(table)) <= _VALUES:
        return False
    whole = bool((table == np.round(table)).all())
    if not _is_smooth(table, 1) and not (whole and _is_smooth(table, 3)):
        return False
    if rows >= _SIDE and _is_smooth(table.T, 1):
        return True
    sides = [
        isqrt((columns - other) // samples) * samples
        for other in range(3)
        for samples in (1, 3)
        if _is_square((columns - other) / samples)
    ]
    if columns < (_COLUMNS if rows >= _ROWS else _ALONE):
        return False
    if whole and (rows >= _ROWS or columns >= _FILLS or (not listed and low >= 0 and high < 256)):
        return True
    return any(_is_smooth(table, side) and _step(table, side) < _step(table, side // 2) for side in sides)


def _is_square(number: float) -> bool:
    return number == isqrt(int(number)) ** 2


def _is_smooth(table: NDArray[np.float64], step: int) -> bool:
    """Say whether numbers differ less from those so many places further along the row than from any
    other of the table.
    """
    ranks = (
        np.unique(table, return_inverse=True)[1].reshape(table.shape).astype(float)
    )  # in which no column of large values hides the others
    order = np.random.default_rng(0).permutation(table.size)
    return all(_step(values, step) <= _ROUGHEST * _step(values.ravel()[order][None], 1) for values in (table, ranks))


def _step(table: NDArray[np.float64], step: int) -> float:
    """Give the mean difference of numbers so many places apart along the row."""
    return float(np.abs(table[:, step:] - table[:, :-step]).mean())
