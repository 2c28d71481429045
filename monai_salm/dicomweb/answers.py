# SPDX-License-Identifier: Apache-2.0
"""What an archive says of a file that it was to store (PS3.18 10.5.3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_FAILED, _STORED = "00081198", "00081199"
_SOP, _FAILURE, _WARNING = "00081155", "00081197", "00081196"
_REASONS = {
    0x0110: "an error while it was processed",
    0x0111: "it has an instance of this UID already",
    0x0117: "the UID is none",
    0x0122: "it takes no objects of this class",
    0x0124: "not authorized",
    0xC122: "it takes no objects of this transfer syntax",
}
"""Of PS3.18 I.2.2; those of PS3.4 GG.4.2 go by their first digits."""
_FAMILIES = {0xA700: "it has no room", 0xA900: "the file does not fit its class", 0xC000: "it cannot read the file"}
_CHANGED = {
    0xB000: "it changed some attributes",
    0xB006: "it left out some attributes",
    0xB007: "does not fit its class",
}


@dataclass(frozen=True)
class Answer:
    """What became of a file.

    Args:
        refused: why it was not stored; empty if it was.
        note: what the archive did to it, or doubts.
    """

    refused: str = ""
    note: str = ""


def answer_of(status: int, reason: str, content: bytes, sop: str) -> Answer:
    """Read the answer to one file.

    Args:
        status, reason: of HTTP.
        content: JSON; what is none says nothing.
        sop: SOP Instance UID of the file.
    """
    said = _said(content)
    for item in _items(said, _FAILED):
        if _value(item, _SOP) in (sop, None):
            return Answer(refused=f"the archive refuses it: {_failure(_value(item, _FAILURE))}")
    if status not in (200, 202):
        return Answer(refused=f"the archive answers {status} {reason}".strip())
    stored = {_value(item, _SOP): _value(item, _WARNING) for item in _items(said, _STORED)}
    if stored and sop not in stored:
        return Answer(refused="the archive answers for another instance")
    warning = stored.get(sop)
    if not isinstance(warning, int):
        return Answer()
    return Answer(note=f"the archive stored it with the warning {warning:04X}: {_CHANGED.get(warning, 'see its log')}")


def _failure(code: Any) -> str:
    if not isinstance(code, int):
        return "it does not say why; see its log"
    family = next((text for first, text in _FAMILIES.items() if code & 0xFF00 == first), "see its log")
    return f"{_REASONS.get(code, family)} ({code:04X})"


def _said(content: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(content)
    except ValueError:
        return {}
    if isinstance(said, list):
        said = said[0] if said else {}
    return said if isinstance(said, dict) else {}


def _items(dataset: Mapping[str, Any], tag: str) -> Iterator[Mapping[str, Any]]:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    for item in values if isinstance(values, list) else ():
        if isinstance(item, dict):
            yield item


def _value(item: Mapping[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
