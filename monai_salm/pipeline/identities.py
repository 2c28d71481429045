# SPDX-License-Identifier: Apache-2.0
"""Which object of an original folder became which one of a protected folder, and whether references followed; from the
files alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from monai_salm.errors import RefusedError
from monai_salm.io import Document, ImageHeader, compare_headers
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.references import OWN_UIDS, own_uids

Found = ImageHeader | Document
_SOP = "SOPInstanceUID"


def paired_paths(before: Inventory, after: Inventory) -> dict[str, str]:
    """Give the path of the protected file of each original that has one.

    It is the same path; or, where files were moved (an archive makes a tree of its own), that of the one image that
    names it as its source, or of the one file that has its SOP Instance UID; or, for a document, of the first that
    refers to what became of what it refers to, and is else the same.
    """
    present = {record.path for record in after.files}
    pairs = {record.path: target for record in before.files if (target := before.output_path(record.path)) in present}
    if len(pairs) < len(before.files) and len(set(pairs.values())) < len(present):
        pairs |= _moved_images(before, after, pairs)
        pairs |= _moved_documents(before, after, pairs)
    return pairs


def _moved_images(before: Inventory, after: Inventory, pairs: Mapping[str, str]) -> dict[str, str]:
    """Pair images with those that name them as their source, and files that have the same SOP Instance UID."""
    taken = set(pairs.values())
    by_uid, by_source = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    results: dict[str, Found] = {**after.headers, **after.documents}
    originals: dict[str, Found] = {**before.headers, **before.documents}
    for path, found in results.items():
        if path not in taken:
            by_uid[found.identifiers.get(_SOP, "")].append(path)
    for path, header in after.headers.items():
        if path not in taken:
            for uid in header.references:
                by_source[uid].append(path)
    moved = {}
    for path, found in originals.items():
        own = found.identifiers.get(_SOP, "")
        if path in pairs or not own:
            continue
        for candidates in (by_source[own] if path in before.headers else [], by_uid[own]):
            if len(candidates) == 1:
                moved[path] = candidates[0]
                break
    return moved


def _moved_documents(before: Inventory, after: Inventory, pairs: Mapping[str, str]) -> dict[str, str]:
    """Pair DICOM documents, which do not say what they were made from, by what they refer to, and by all else that is
    in them.
    """
    new: dict[str, str] = {}
    for path, target in pairs.items():
        old, now = before.headers.get(path), after.headers.get(target)
        if old is not None and now is not None:
            new |= {old.identifiers[key]: now.identifiers[key] for key in OWN_UIDS if key in old.identifiers}
    left = set(after.documents) - set(pairs.values())
    moved: dict[str, str] = {}
    for path, document in sorted(before.documents.items()):
        if path in pairs or document.format != "dicom":
            continue
        wanted = {new[uid] for uid in document.references & new.keys()}
        for target in sorted(left):
            found = after.documents[target]
            alike = found.kind == document.kind and found.references & set(new.values()) == wanted
            if alike and _are_the_same(before.absolute(path), after.absolute(target)):
                moved[path] = target
                left.discard(target)
                break
    return moved


def _are_the_same(original: Path, other: Path) -> bool:
    """Say whether two documents differ in nothing but what a run may change."""
    try:
        return all(change.allowed for change in compare_headers(original, other))
    except (RefusedError, OSError):
        return False


class Identities:
    """The map from old to new UIDs that the pairs of two folders show.

    Args:
        originals: path -> object, of every file that could be read in the original folder.
        pairs: (path, original, protected) of every file that is in both.
    """

    def __init__(self, originals: dict[str, Found], pairs: Iterable[tuple[str, Found, Found]]) -> None:
        self.known = {uid for found in originals.values() for uid in own_uids(found)}
        self.new: dict[str, str] = {}
        self.conflicts: dict[str, str] = {}
        old_of: dict[str, str] = {}
        renamed: list[tuple[str, Found, Found]] = []
        kept: list[tuple[str, Found, Found]] = []
        for pair in pairs:
            (kept if own_uids(pair[1]) == own_uids(pair[2]) else renamed).append(pair)
        for path, original, protected in renamed + kept:
            for key in OWN_UIDS:
                old, new = original.identifiers.get(key), protected.identifiers.get(key)
                if old is None or new is None or (old == new and old in self.new and isinstance(original, ImageHeader)):
                    continue  # a copy that was not protected may stay behind in the series that the others have left
                if self.new.setdefault(old, new) != new:
                    self.conflicts[path] = f"{key} {old} became {new} here and {self.new[old]} elsewhere"
                if old_of.setdefault(new, old) != old:
                    self.conflicts[path] = f"{key} {new} stands for {old} here and for {old_of[new]} elsewhere"

    def problems(self, path: str, original: Found, protected: Found) -> list[str]:
        """Say which references of a protected file do not follow the objects that they name."""
        problems = [self.conflicts[path]] if path in self.conflicts else []
        problems += [
            f"the reference to {uid} is gone; the object is {self.new[uid]} now"
            for uid in sorted(original.references & self.new.keys())
            if self.new[uid] not in protected.references | own_uids(protected)
        ]
        # An image names the one that it was made from, which is meant to be the original.
        own_source = own_uids(original) if isinstance(original, ImageHeader) else frozenset()
        expected = {self.new.get(uid, uid) for uid in original.references} | own_uids(protected)
        others = protected.references - own_source - expected
        problems += [
            f"it still refers to {uid}, which is {self.new[uid]} now"
            for uid in sorted(others)
            if self.new.get(uid, uid) != uid
        ]
        strange = sorted(uid for uid in others if self.new.get(uid, uid) == uid)
        if len(strange) > len(self.dangling(original)):  # what was not handed out has a new UID that nobody else shows
            gone = ", ".join(sorted(original.references - self.known - protected.references)) or "nothing else"
            problems += [f"it refers to {uid}, where the original refers to {gone}" for uid in strange]
        return problems

    def dangling(self, original: Found) -> list[str]:
        """List what a file refers to that is in the original folder, but was not handed out."""
        return sorted((original.references & self.known) - self.new.keys())
