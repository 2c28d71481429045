# SPDX-License-Identifier: Apache-2.0
"""Which image a name in a table of labels, or the name of a label map, means: exactly, or it is said
what comes near.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from monai_salm.errors import UsageError
from monai_salm.pipeline.case_names import case_of, stem_of
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.label_table import PERSONAL, fold, one_spelling, some

_OF_LABEL_MAPS = re.compile(r"-?(seg|mask|labels?|gt|segmentation|labelmap)$")
"""What people add to the names of label maps; it is told, not guessed."""

_DRIVE = re.compile(r"^(?:[A-Za-z]:|//[^/]+/[^/]+)?/")
"""The beginning of a path that starts at a root, of whatever system, with forward slashes."""


@dataclass
class Matches:
    """What names mean.

    Args:
        found: name -> the images that it means.
        near: name -> (the images that it comes near to, in what they differ).
    """

    found: dict[str, list[str]] = field(default_factory=dict)
    near: dict[str, tuple[list[str], str]] = field(default_factory=dict)


def match_paths(names: Iterable[str], table: Path, inventory: Inventory) -> Matches:
    """Find the images that paths mean: relative to the table or to the input, with slashes of either kind, or below
    the folder where the input once was.

    Raises:
        UsageError: paths that begin at a root can mean several images.
    """
    at: dict[str, list[str]] = defaultdict(list)
    for path in inventory.headers:
        at[unicodedata.normalize("NFC", str(inventory.absolute(path).resolve()))].append(path)
    result = Matches()
    for name in names:
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            places = (
                unicodedata.normalize("NFC", str((base / spelling).resolve()))
                for base in (table.parent, inventory.root)
            )
            paths = next((at[place] for place in places if place in at), None)
            if paths:
                result.found[name] = paths
                break
    left = [name for name in names if name not in result.found]
    result.found |= _below_a_root(left, table, inventory)
    taken = {path for paths in result.found.values() for path in paths}
    free = [path for path in inventory.headers if path not in taken]
    ways: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("differs in case or blanks", lambda path: "/".join(fold(part) for part in _slashes(path).split("/"))),
        ("has another suffix", lambda path: stem_of(_slashes(path).casefold())),
        ("lies in another folder", lambda path: PurePosixPath(_slashes(path)).name.casefold()),
        (
            "lies in another folder and has another suffix",
            lambda path: PurePosixPath(stem_of(_slashes(path).casefold())).name,
        ),
    )
    result.near = _near([name for name in left if name not in result.found], {path: [path] for path in free}, ways)
    return result


def match_identifiers(names: Iterable[str], key: str, inventory: Inventory) -> Matches:
    """Find the images that have DICOM identifiers; numbers that a spreadsheet wrote in its own way only come near."""
    by_value: dict[str, list[str]] = defaultdict(list)
    for path, header in inventory.headers.items():
        if value := header.identifiers.get(key, "").strip(" \0"):
            by_value[value].append(path)
    result = Matches({name: by_value[name] for name in names if name in by_value})
    free = {value: paths for value, paths in by_value.items() if value not in result.found}
    ways: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("differs in case or blanks", fold),
        ("is written as text, with its zeros", lambda value: one_spelling(value)),
        ("has more digits, which a spreadsheet has rounded", _rounded),
    )
    result.near = _near(
        [name for name in names if name not in result.found], free, ways,
        (lambda value: f"that of {free[value][0]}") if key in PERSONAL else repr,
    )  # fmt: skip
    return result


def _near(
    names: list[str],
    free: Mapping[str, list[str]],
    ways: Iterable[tuple[str, Callable[[str], str]]],
    named: Callable[[str], str] = repr,
) -> dict[str, tuple[list[str], str]]:
    """Find for each name the one of the free ones that is alike in some way, the strictest way first; an empty likeness
    is none.
    """
    near: dict[str, tuple[list[str], str]] = {}
    for difference, likeness in ways:
        groups: dict[str, list[str]] = defaultdict(list)
        for value in free:
            groups[likeness(value)].append(value)
        for name in names:
            alike = groups.get(likeness(name), []) if likeness(name) else []
            if name not in near and len(alike) == 1:
                near[name] = (free[alike[0]], f"{named(alike[0])} {difference}")
    return near


def _rounded(value: str) -> str:
    """Give a long number as a narrow column of a spreadsheet shows it (1.23457E+15), and nothing for other text."""
    try:
        return f"{float(value):.5E}" if re.fullmatch(r"\d{12,}|\d(\.\d+)?[eE]\+\d+", value) else ""
    except OverflowError:
        return ""


def _slashes(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _below_a_root(names: list[str], table: Path, inventory: Inventory) -> dict[str, list[str]]:
    """Match paths of another machine by what is left without the folder that they share; nothing where
    they share none.
    """
    known = {unicodedata.normalize("NFC", path): path for path in inventory.headers}
    options: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        place = _slashes(name)
        root = _DRIVE.match(place)
        if root is None:
            continue
        for cut in (match.end() for match in re.finditer("/", place) if match.end() >= root.end()):
            if place[cut:] in known:
                options[place[:cut]][name] = known[place[cut:]]
    matched = {name for found in options.values() for name in found}
    whole = [place for place, found in options.items() if len(found) == len(matched)]
    if matched and len(whole) != 1:
        raise UsageError(
            f"{table}: its paths begin with {some(sorted(options))}, and which of these is the input is not said; "
            "write paths relative to the input"
        )
    return {name: [path] for place in whole for name, path in options[place].items()}


def match_label_maps(available: Iterable[str], inventory: Inventory) -> tuple[dict[str, str], dict[str, str]]:
    """Find the label map of each image by its name.

    A label map has the path of its image, or the path without suffix and channel (``case_0000.mha`` and
    ``case.nii.gz``); or, where no two images and no two label maps agree in that, the same of their names. Only the
    channels of one case share one.

    Args:
        available: paths of the label maps, relative to their folder.
        inventory: the images.

    Returns:
        Path of an image -> path of its label map; and path of an image -> why it has none, where something comes
        near.
    """
    files = sorted(available)
    pictures = list(inventory.pictures)
    channels = {path for path in pictures if case_of(path)[1]}
    # A case has a channel 0; the numbers of frames are no channels.
    cases = {case_of(path)[0] for path in channels if stem_of(path).endswith("_0000")}

    def spellings(path: str) -> list[str]:
        case = case_of(path)[0]
        return [stem_of(path)] + ([case] if path in channels and case in cases else [])

    known = set(files)
    by_stem, by_name = _groups(files, stem_of), _groups(files, lambda path: _last(stem_of(path)))
    owners = _groups(pictures, lambda path: _last(spellings(path)[-1]))
    chosen = {path: path for path in pictures if path in known}
    why: dict[str, str] = {}
    for path in pictures:
        if path in chosen:
            continue
        own = spellings(path)
        found = next((by_stem[stem] for stem in own if stem in by_stem), [])
        if not found:
            found = next((by_name[_last(stem)] for stem in own if _last(stem) in by_name), [])
            stranger = next((other for other in owners[_last(own[-1])] if spellings(other)[-1] != own[-1]), "")
            if found and stranger:
                why[path] = (
                    f"its label map could be {found[0]}, but {stranger} has the same name; put label maps into "
                    "folders as the images are"
                )
                continue
        if len(found) > 1:
            why[path] = f"{len(found)} label maps have its name, {some(found)}; keep one"
        elif found:
            chosen[path] = found[0]
    for file, paths in _groups(chosen, chosen.__getitem__).items():
        channels_of_one = len({spellings(path)[-1] for path in paths}) == 1 and all(
            len(spellings(path)) > 1 for path in paths
        )
        for path in paths if len(paths) > 1 and not channels_of_one else ():
            if path != file:
                other = next(other for other in paths if other != path)
                why[path] = (
                    f"its label map could be {file}, which is that of {other}, too; one label map belongs to one image"
                )
                del chosen[path]
    free = _groups(
        known.difference(chosen.values()), lambda path: re.sub(_OF_LABEL_MAPS, "", fold(_last(stem_of(path))))
    )
    for path in pictures:
        close = free.get(fold(_last(spellings(path)[-1])), [])
        if path not in chosen and path not in why and len(close) == 1:
            why[path] = f"its label map may be {close[0]}, which has another name; name label maps like their images"
    return chosen, why


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _groups(paths: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        groups[key(path)].append(path)
    return dict(groups)
