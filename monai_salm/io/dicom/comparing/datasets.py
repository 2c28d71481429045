# SPDX-License-Identifier: Apache-2.0
"""Every difference of two datasets, at any depth."""

from __future__ import annotations

from collections.abc import Iterator

from monai_salm.io.base import HeaderChange
from monai_salm.io.dicom.comparing.allowances import is_allowed, is_own_item, may_append
from monai_salm.io.dicom.comparing.pair import Pair, change_of, is_same, paired, shown_element
from monai_salm.io.dicom.elements import PIXEL_DATA, Element, Item


def compare_datasets(pair: Pair, original: list[Element], other: list[Element], path: str) -> Iterator[HeaderChange]:
    """Compare two datasets, at any depth; ``path`` is empty or ends with a dot."""
    for before, after in paired(original, other):
        element = after or before
        if (
            element is None
            or is_same(before, after)
            or (element.tag == PIXEL_DATA and not path and _same_pixels(pair, before, after))
        ):
            continue
        name = path + element.name
        if before is not None and after is not None and before.vr == after.vr:
            items = (before.items(), after.items())
            if items[0] is not None and items[1] is not None and (items[0] or items[1]):
                yield from _compare_items(pair, element, items[0], items[1], path)
                continue
        if before is None and after is not None and may_append(pair, after.tag, path):
            yield from _compare_items(pair, after, [], after.items() or [], path)
            continue
        yield change_of(
            name, shown_element(before), shown_element(after), allowed=is_allowed(pair, before, after, path)
        )


def _compare_items(
    pair: Pair, element: Element, before: list[Item], after: list[Item], path: str
) -> Iterator[HeaderChange]:
    name = path + element.name
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        yield from compare_datasets(pair, old.elements(), new.elements(), f"{name}[{index}].")
    for index in range(len(after), len(before)):
        yield change_of(f"{name}[{index}]", f"{len(before[index].content)} bytes", "", allowed=False)
    for index in range(len(before), len(after)):
        allowed = index == len(before) and is_own_item(pair, after[index], element.tag, path)
        yield change_of(f"{name}[{index}]", "", f"{len(after[index].content)} bytes", allowed=allowed)


def _same_pixels(pair: Pair, before: Element | None, after: Element | None) -> bool:
    """Say whether the pixel data of images differ in the values only, which are not compared here; compressed values
    have any length.
    """
    if pair.pictures is None or before is None or after is None:
        return False
    return bool(pair.pictures[0].frames) or (before.vr, before.size) == (after.vr, after.size)
