# SPDX-License-Identifier: Apache-2.0
"""What many files of an input have in common, kept once: what comes from another process or from a file is made anew
for each of them, and an input may have a million.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

from monai_salm.io import Document, ImageHeader
from monai_salm.io.sharing import TextMapping, shared
from monai_salm.views import FileView, PictureView

_View = TypeVar("_View", bound=FileView)
_Picture = TypeVar("_Picture", bound=PictureView)
_Whole = TypeVar("_Whole")
_Found = TypeVar("_Found", ImageHeader, Document)

_OF_ONE_FILE = ("path", "identifiers", "references", "files", "slice_position", "instance_number", "judgement")
"""Fields of headers and documents that differ from file to file, or whose text is long."""


def found_kept_once(found: _Found, place: Path) -> _Found:
    """Give a header or a document of the file at a place; what other files have too is theirs."""
    identifiers = found.identifiers
    if not isinstance(identifiers, TextMapping):
        identifiers = TextMapping(identifiers, own=frozenset({"SOPInstanceUID"}))
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    common = {name: shared(value) for name, value in values.items() if name not in _OF_ONE_FILE or not value}
    return replace(found, **(common | {"path": place, "identifiers": identifiers}))


def view_kept_once(view: _View) -> _View:
    """Give a view, or a canvas; windows, backgrounds, budgets and the like that other files have too are theirs."""
    pictures = tuple(map(_picture_kept_once, view.views))
    pictures = _of_equal_parts(pictures, pictures)
    view = replace(view, views=pictures, spacing=shared(view.spacing), regions=shared(view.regions))
    return _of_equal_parts(view, [getattr(view, field.name) for field in fields(view)])


def _picture_kept_once(picture: _Picture) -> _Picture:
    parts = {field.name: shared(getattr(picture, field.name)) for field in fields(picture)}
    return _of_equal_parts(replace(picture, **parts), parts.values())


_MOST_WHOLE = 1 << 12
_whole: dict[tuple[object, ...], object] = {}
"""Type and parts of something, by their identities -> what has these parts, so that they live as long as it does."""


def _of_equal_parts(whole: _Whole, parts: Iterable[object]) -> _Whole:
    """Give what was made before of the very same parts, if it is known still; else what is made of them now."""
    if len(_whole) >= _MOST_WHOLE:
        _whole.clear()
    return _whole.setdefault((type(whole), *map(id, parts)), whole)  # type: ignore[return-value]  # of the same type
