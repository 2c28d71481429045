# SPDX-License-Identifier: Apache-2.0
"""What the headers of many files have in common, kept once: an input may have a million files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TypeVar

_Value = TypeVar("_Value")
_MOST_SHARED = 1 << 12
_shared: dict[str, object] = {}


def shared(value: _Value) -> _Value:
    """Give a value that is the same as one given before, in every digit, and is kept already.

    Args:
        value: one that nobody changes, with a short ``repr`` that says all of it.
    """
    if len(_shared) >= _MOST_SHARED:
        _shared.clear()
    return _shared.setdefault(repr(value), value)  # type: ignore[return-value]  # equal in type too, as repr tells


class TextMapping(Mapping[str, str]):
    """A mapping of texts that nobody changes, in a fourth of the memory of a dict; short texts are kept once.

    Args:
        texts: what it holds.
        own: keys of texts that no other file has.
    """

    __slots__ = ("_alone", "_common", "_keys", "_own")

    def __init__(self, texts: Mapping[str, str], own: frozenset[str] = frozenset()) -> None:
        self._keys, self._own = shared(tuple(texts)), shared(own)
        self._common = shared(tuple(None if key in own else sys.intern(text) for key, text in texts.items()))
        self._alone = tuple(text for key, text in texts.items() if key in own)

    def __getitem__(self, key: str) -> str:
        try:
            place = self._keys.index(key)
        except ValueError:
            raise KeyError(key) from None
        text = self._common[place]
        return self._alone[self._common[:place].count(None)] if text is None else text

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[type[TextMapping], tuple[dict[str, str], frozenset[str]]]:
        return TextMapping, (dict(self), self._own)
