# SPDX-License-Identifier: Apache-2.0
"""Which file a record of a DICOMDIR means: on a copy of a disc the names have another letter case than in the records,
a suffix, or a version.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from monai_salm.io import Document, remaining_references

_ADDED = re.compile(r"(\.(dcm|dicom|dic|ima))?\.?(;\d+)?$")
"""What is added to the names of a disc: a suffix, and the dot and the version of ISO 9660. In records it has no place
(PS3.10 8.2).
"""


def meant_files(names: Iterable[str], folder: str, paths: Iterable[str]) -> dict[str, list[str]]:
    """Give for each record's name the path of the file that it means; none where that is absent, several where it
    cannot be told.

    A file of exactly that name is the one, and then meant by no other record.

    Args:
        names: as :class:`~monai_salm.io.Document` has them.
        folder: of the DICOMDIR, relative to what ``paths`` are relative to.
        paths: of all files that there are.
    """
    places = {name: _place(folder, name) for name in names}
    present = {path for path in paths if path.startswith(_place(folder, "") + "/" if _place(folder, "") else "")}
    taken = present & set(places.values())
    alike: dict[str, list[str]] = defaultdict(list)
    for path in sorted(present - taken):
        alike[_loose(path)].append(path)
    return {name: [place] if place in taken else list(alike.get(_loose(place), ())) for name, place in places.items()}


def ambiguity(meant: Mapping[str, list[str]], folder: str) -> str:
    """Say which record may mean several files, or which file several records; nothing where each means one."""
    for name, found in sorted(meant.items()):
        if len(found) > 1:
            return (
                f"its record {name} may be of {found[0]} or of {found[1]}; remove or rename the one that it is not of"
            )
    counts = Counter(found[0] for name, found in meant.items() if found and found[0] != _place(folder, name))
    path, count = next(iter(counts.most_common(1)), ("", 0))
    if count > 1:
        names = sorted(name for name, found in meant.items() if found == [path])
        return f"its records {names[0]} and {names[1]} may both be of {path}; rename it to the one that it is of"
    return ""


def files_beside(directory: Path, names: Iterable[str]) -> Iterator[str]:
    """Give the paths of the files in the folders that records name, relative to the DICOMDIR's folder; others are not
    entered.
    """
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(_place("", name).casefold()).parents}
    for folder, inner, found in os.walk(directory.parent):
        here = Path(folder).relative_to(directory.parent)
        inner[:] = [name for name in inner if (here / name).as_posix().casefold() in folders]
        yield from ((here / name).as_posix() for name in found)


def as_handed_out(
    path: str, original: Document, protected: object, originals: Iterable[str], present: Iterable[str]
) -> Document:
    """Give a DICOMDIR without the records that were rightly removed, and what only they refer to; any other document as
    it is.

    Args:
        path: of the DICOMDIR.
        original: what it was.
        protected: what it is now; None where it was not handed out.
        originals: paths of all original files.
        present: paths of all files that are handed out.
    """
    removed = (
        _absent(path, original, originals, present) - protected.files
        if isinstance(protected, Document) and original.files
        else frozenset()
    )
    return remaining_references(original, removed) if removed else original


def directory_problems(
    path: str, original: object, protected: object, originals: Iterable[str], present: Iterable[str]
) -> list[str]:
    """Say which files a protected DICOMDIR lists that are not there, and which that are there it lists no longer;
    arguments as above.
    """
    if not isinstance(original, Document) or not isinstance(protected, Document):
        return []
    if not original.files | protected.files:
        return []
    problems = []
    lost = sorted(_absent(path, protected, originals, present))
    if lost:
        problems.append(f"it lists {len(lost)} files that are not there, the first of them {lost[0]}")
    unlisted = sorted(original.files - protected.files - _absent(path, original, originals, present))
    if unlisted:
        problems.append(f"it no longer lists {len(unlisted)} files that are there, the first of them {unlisted[0]}")
    return problems


def _absent(path: str, directory: Document, originals: Iterable[str], present: Iterable[str]) -> frozenset[str]:
    """Give the names of a DICOMDIR whose files are not handed out."""
    there = set(present)
    meant = meant_files(directory.files, PurePosixPath(path).parent.as_posix(), there.union(originals))
    return frozenset(name for name, found in meant.items() if there.isdisjoint(found))


def _place(folder: str, name: str) -> str:
    """Give the path that a record's name says, without the empty components of careless writers."""
    return "/".join(part for part in (*folder.split("/"), *re.split(r"[/\\]", name)) if part not in ("", "."))


def _loose(path: str) -> str:
    """Reduce a path to what a record's and its file's have in common."""
    return _ADDED.sub("", path.casefold())
