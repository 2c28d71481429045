# SPDX-License-Identifier: Apache-2.0
"""Tables of labels as spreadsheets and scripts write them: what their cells say, and what is told of those that cannot
be understood.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monai_salm.errors import UsageError

PATH_COLUMNS = ("path", "file")
IDENTIFIER_COLUMNS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "AccessionNumber")

PERSONAL = ("PatientID", "AccessionNumber")
"""Identifiers of a person, which no message names: the line of the table tells as much to whoever has that."""

NO_LABEL = frozenset({"", "nan", "na", "n/a", "<na>", "nat", "null", "none", "?", "--", ".", "n.a."})
"""What stands in a cell that says nothing, in small letters; so do the errors of a spreadsheet, which begin with #."""

CROWDED = 4
"""So many classes may be as rare as they want; of more, nearly every row must not be one of its own."""

MANY_CLASSES = 20
"""More classes than this are told of, for they may be measurements."""

SHOWN = 3
"""Names that a message gives of many."""

_DELIMITERS = ",;\t|"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_OPPOSITES = ({"0", "1"}, {"true", "false"}, {"yes", "no"}, {"y", "n"}, {"positive", "negative"}, {"pos", "neg"})
_BINARY_FILES = {
    b"PK\x03\x04": "an Excel workbook or a zip",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF",
}


@dataclass(frozen=True)
class Row:
    """One row of a table: its line in the file, and its cells by column, without blanks around them."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table of labels.

    Args:
        path: the file.
        key: column that names the files, one of :data:`PATH_COLUMNS` or :data:`IDENTIFIER_COLUMNS`.
        columns: the others.
        rows: those that hold anything.
        comma: the character between the fields.
    """

    path: Path
    key: str
    columns: list[str]
    rows: list[Row]
    comma: str

    def column(self, wanted: str) -> str | None:
        """Find a column by its name, in whatever case; None if there is none."""
        return (
            wanted
            if wanted in self.columns
            else next((name for name in self.columns if _heading(name) == _heading(wanted)), None)
        )

    def place(self, name: str) -> str:
        """Name a row by what its first column says; by its line where that is of a person."""
        return f"line {self._lines[name]}" if self.key in PERSONAL else name

    def named(self, name: str) -> str:
        """Give what the first column of a row says, for a sentence; of a person where it stands."""
        return f"the {self.key} in line {self._lines[name]}" if self.key in PERSONAL else repr(name)

    def shown(self, row: Row, column: str) -> str:
        """Give what a cell says, for a sentence, but what is of a patient."""
        return "a value that is not shown" if _heading(column).startswith("patient") else repr(row.cells[column])

    @cached_property
    def _lines(self) -> dict[str, int]:
        return {row.cells[self.key]: row.line for row in reversed(self.rows)}

    def value(self, row: Row, column: str) -> str:
        """Give what a cell says: numbers in one spelling, nothing for a cell without a label."""
        text = row.cells[column]
        return "" if is_missing(text) else one_spelling(text, decimal_comma=self.comma != ",")


def is_missing(text: str) -> bool:
    """True for a cell that holds no label: blank, ``nan``, ``NA``, ``#N/A`` and the like."""
    return text.casefold() in NO_LABEL or bool(
        re.fullmatch(r"#(N/A|REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!)", text.upper())
    )


def one_spelling(text: str, *, decimal_comma: bool = False) -> str:
    """Write a number in one way, so that 0, 0.0, 01 and 1e0 are what they say; other text stays as it is."""
    number = text.replace(",", ".") if decimal_comma and _DECIMAL_COMMA.fullmatch(text) else text
    if not _NUMBER.fullmatch(number):
        return text
    value = float(number)
    if not math.isfinite(value) or abs(value) >= 2**53:  # which a float does not hold exactly
        return text
    return str(int(value)) if value.is_integer() else repr(value)


def fold(name: str) -> str:
    """Give a name without case, and with one sign for blanks between its words: names that agree in it are taken for
    slips of each other.
    """
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", "-", unicodedata.normalize("NFKC", name).strip(" \0")).casefold()


def _heading(name: str) -> str:
    """Give the name of a column without case and blanks: ``Patient ID`` is PatientID."""
    return fold(name).replace("-", "").replace(" ", "")


def ordered(names: Iterable[str]) -> list[str]:
    """Order class names as numbers where they all are numbers, else as text."""
    names = set(names)
    return sorted(names, key=float) if all(_NUMBER.fullmatch(name) for name in names) else sorted(names)


def some(names: Iterable[str]) -> str:
    """List the first few of some names, and how many more there are."""
    known = list(names)
    return ", ".join(repr(name) for name in known[:SHOWN]) + (
        f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    )


def read_table(path: Path) -> Table:
    """Read a table whose first column names files or DICOM identifiers.

    The text may be UTF-8 or UTF-16, with fields between commas, semicolons, tabs or bars; lines of comments (``#``),
    Excel's ``sep=`` and the nameless row numbers of pandas are left out.

    Raises:
        UsageError: it cannot be read, or is no such table.
    """
    lines = _text(path).splitlines(keepends=True)
    start, comma = 0, ""
    for line in (line.strip().strip('"') for line in lines):
        if not comma and line[:4].casefold() == "sep=" and len(line) <= 5:
            comma = line[4:] or "\t"  # which strip has taken
        elif line and not (line.startswith("#") and not _key_place(line.lstrip("# "), comma or _DELIMITERS)):
            break
        start += 1
    head = lines[start].lstrip("# ") if start < len(lines) else ""
    found = _key_place(head, comma or _DELIMITERS)
    comma = comma or (found[0] if found else next((sign for sign in _DELIMITERS if sign in head), ","))
    reader = csv.reader(
        io.StringIO("".join([head, *lines[start + 1 :]]), newline=""),
        delimiter=comma,
        skipinitialspace=comma != "\t",
        strict=True,
    )
    try:
        records = [(start + reader.line_num, [cell.strip(" \t\r\n\0\u00a0") for cell in record]) for record in reader]
    except csv.Error as error:
        raise UsageError(
            f"{path}: line {start + reader.line_num} of the label table cannot be read ({error}); see to its quotes"
        ) from error
    records = [(line, cells) for line, cells in records if any(cells)]
    broken = next((line for line, cells in records if any("\0" in cell for cell in cells)), None)
    if broken is not None:
        raise UsageError(
            f"{path}: line {broken} has a zero byte inside a field, so the label table is damaged; save it again "
            "as 'CSV UTF-8'"
        )
    if len(records) < 2:
        raise UsageError(f"{path}: the label table has no rows below its header")
    header, place = records[0][1], found[1] if found else 0
    key = _key_column(path, header, place)
    for number, name in enumerate(header):
        if not name and number > place and any(len(cells) > number and cells[number] for _, cells in records[1:]):
            raise UsageError(f"{path}: column {number + 1} has values but no name; name it, or remove it")
    _refuse_twins(path, [name for name in header[place:] if name])
    columns = {number: name for number, name in enumerate(header) if name and number > place}
    rows = []
    for line_number, cells in records[1:]:
        if any(cells[len(header) :]):
            raise UsageError(
                f"{path}: line {line_number} has more fields than the {len(header)} columns; quote values that "
                f"hold {_NAMES.get(comma, repr(comma))}"
            )
        cells += [""] * (len(header) - len(cells))
        rows.append(Row(line_number, {key: cells[place]} | {name: cells[number] for number, name in columns.items()}))
    return Table(path, key, list(columns.values()), rows, comma)


_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: the label table cannot be read ({error.strerror or error}); give a CSV file in UTF-8"
        ) from error
    for start, what in _BINARY_FILES.items():
        if content.startswith(start):
            raise UsageError(f"{path}: the label table is {what}; save it as 'CSV UTF-8'")
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}: the label table cannot be read (line {line} is not {'UTF-16' if wide else 'UTF-8'}); give a "
            "CSV file in UTF-8, "
            "which Excel saves as 'CSV UTF-8'"
        ) from error
    if text.count("\0") * 4 > len(text):
        raise UsageError(
            f"{path}: the label table looks like UTF-16 without a byte order mark; give a CSV file in UTF-8"
        )
    return text


def _key_place(head: str, delimiters: str) -> tuple[str, int] | None:
    """Find the delimiter of a header, and the place of its key: the first column, or the second behind row numbers."""
    for delimiter in delimiters:
        names = [name.strip().strip('"').strip() for name in head.split(delimiter)]
        if _known_key(names[0]) and (len(names) > 1 or delimiter == delimiters[-1]):
            return delimiter if len(names) > 1 else ",", 0
        if len(names) > 1 and _heading(names[0]) in ("", "index", "unnamed:0") and _known_key(names[1]):
            return delimiter, 1
    return None


def _known_key(name: str) -> str | None:
    return next((key for key in PATH_COLUMNS + IDENTIFIER_COLUMNS if _heading(key) == _heading(name)), None)


def _key_column(path: Path, header: list[str], place: int) -> str:
    key = _known_key(header[place])
    if key is not None:
        return key
    other = next((name for name in header if _known_key(name)), None)
    if other is not None:
        raise UsageError(f"{path}: the first column is {header[0]!r}; put the column {other!r} first")
    raise UsageError(
        f"{path}: the first column is {header[0]!r}; name it one of "
        f"{', '.join(PATH_COLUMNS + IDENTIFIER_COLUMNS)}, with commas between the columns"
    )


def _refuse_twins(path: Path, names: list[str]) -> None:
    """Refuse columns of one name, also in the form that pandas gives to the second one (``label.1``)."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(_heading(name), name)
        if first is not name:
            raise UsageError(
                f"{path}: there are two columns {first!r} and {name!r}, and which one counts is not said; remove "
                "or rename one"
            )
    for name in names:
        base = re.sub(r"\.\d+$", "", name)
        if base != name and _heading(base) in seen and (_known_key(base) or _heading(base) == "label"):
            raise UsageError(
                f"{path}: the columns {seen[_heading(base)]!r} and {name!r} were two of one name; remove or rename one"
            )


def check_classes(counts: Mapping[str, int], where: str) -> None:
    """Refuse classes that are one class in two spellings.

    Args:
        counts: class -> how many have it.
        where: what gives them, for the message.

    Raises:
        UsageError: two differ in case or blanks alone, as numbers not at all, or are of two ways to say yes and no.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(counts):
        groups[fold(one_spelling(name))].append(name)
    for names in groups.values():
        if len(names) > 1:
            found = " and ".join(f"{name!r} ({counts[name]})" for name in names)
            raise UsageError(f"{where}: the classes {found} differ in their spelling alone; write them alike")
    said = {name.casefold() for name in counts}
    ways = [pair for pair in _OPPOSITES if said & pair]
    if len(ways) > 1 and said <= set().union(*_OPPOSITES):
        found = ", ".join(f"{name!r} ({count})" for name, count in sorted(counts.items()))
        raise UsageError(f"{where}: the classes {found} say yes and no in {len(ways)} ways; write them alike")


def check_spread(counts: Mapping[str, int], where: str, advice: str) -> str:
    """Find out whether something with these classes can be a class at all.

    Args:
        counts: class -> how many have it.
        where: what gives them, for the message.
        advice: what to do, for the message.

    Returns:
        What is to be told of it; empty if nothing.

    Raises:
        UsageError: nearly every one would be a class of its own.
    """
    total, number = sum(counts.values()), len(counts)
    if number > CROWDED and number * 10 > total * 9:
        raise UsageError(
            f"{where} has {number} different values in {total}, such as {some(ordered(counts))}, which are no "
            f"classes; {advice}"
        )
    if number > MANY_CLASSES or (number > CROWDED and number * 5 > total):
        return (
            f"{where} has {number} different values in {total}, which is much for classes; {advice}, if they are none"
        )
    return ""


def candidates(table: Table, without: Iterable[str] = ()) -> str:
    """Name the columns that may hold classes, for a message."""
    found = []
    for name in table.columns:
        values = Counter(value for row in table.rows if (value := table.value(row, name)))
        if (
            name not in without
            and len(values) >= 2
            and (len(values) <= CROWDED or len(values) * 5 <= sum(values.values()))
        ):
            found.append(f"{name!r} ({len(values)} values)")
    return (
        f"name the column of the class with --label-column, of which {', '.join(found)} may be one"
        if found
        else "no column of the table looks like a class"
    )
