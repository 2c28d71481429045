# SPDX-License-Identifier: Apache-2.0
"""Checksums of what a run keeps for itself: a file of which a bit was lost is told, and never believed.

They find damage, not malice: whoever can write such a file can give it another checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

CHECKSUM = "checksum"
"""Name of the entry that holds it: the last one of a JSON object, or one of a safetensors file's metadata."""

END = "end"
"""What the last of several lines is called."""

_LENGTH = 32
_METADATA = "__metadata__"


def checksum(content: bytes) -> str:
    """Give the first 128 bits of the SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:_LENGTH]


def sealed_json(record: Mapping[str, Any]) -> str:
    """Give a record as one line of JSON whose last entry is the checksum of all before it.

    Args:
        record: plain types, at least one.
    """
    text = json.dumps(record, sort_keys=True)  # ASCII, also names that are no UTF-8
    return f'{text[:-1]}, "{CHECKSUM}": "{checksum(text.encode("ascii"))}"}}'


def sealed_json_parts(record: Mapping[str, Any]) -> Iterator[str]:
    """Give the parts of :func:`sealed_json`, one after the other, of a record whose text is too long to be held."""
    digest, last = hashlib.sha256(), ""
    for part in json.JSONEncoder(sort_keys=True).iterencode(record):
        digest.update(part.encode("ascii"))
        yield last
        last = part
    yield f'{last[:-1]}, "{CHECKSUM}": "{digest.hexdigest()[:_LENGTH]}"}}'


def unsealed_json(text: str) -> dict[str, Any]:
    """Give the record of a line of :func:`sealed_json`, without its checksum.

    Raises:
        ValueError: it is not whole, or was changed.
    """
    body, mark, found = text.strip().rpartition(f', "{CHECKSUM}": "')
    whole = f"{body}}}"
    if not mark or found != f'{checksum(whole.encode("utf-8", errors="surrogatepass"))}"}}':
        raise ValueError("its checksum is not that of its content")
    record: dict[str, Any] = dict(json.loads(whole))
    return record


def sealed_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Give records as lines of :func:`sealed_json`, and one more that says how many there are, and the checksum of
    their checksums: what was cut off, added or moved is told, and each line can be believed alone.
    """
    count, digest = 0, hashlib.sha256()
    for record in records:
        line = sealed_json(record)
        digest.update(_mark_of(line))
        count += 1
        yield line
    yield sealed_json({"line": END, "lines": count, "whole": digest.hexdigest()[:_LENGTH]})


def unsealed_lines(lines: Iterable[str], *, first: str = "") -> Iterator[dict[str, Any]]:
    """Give the records of the lines of :func:`sealed_lines`, without the last.

    Args:
        lines: of them.
        first: the first line, if it was taken before; its record is not given again.

    Raises:
        ValueError: a line, or all of them, are not whole, or were changed; at the latest at the end.
    """
    count, digest = (1, hashlib.sha256(_mark_of(first))) if first else (0, hashlib.sha256())
    end: dict[str, Any] = {}
    for line in lines:
        if end:
            raise ValueError("it goes on behind its end")
        record = unsealed_json(line)
        if record.get("line") == END:
            end = record
            continue
        digest.update(_mark_of(line))
        count += 1
        yield record
    if end != {"line": END, "lines": count, "whole": digest.hexdigest()[:_LENGTH]}:
        raise ValueError("it is not whole" if not end else "its checksum is not that of its content")


def _mark_of(line: str) -> bytes:
    """Give the part of a sealed line that has its checksum."""
    return line.rstrip()[-_LENGTH - 2 :].encode("utf-8", errors="surrogatepass")


def sealed_safetensors(content: bytes) -> bytes:
    """Give a safetensors file with the checksum of its names, its metadata and its values among the latter; in one
    order, so that equal content is equal bytes.
    """
    header, values = _parts(content)
    metadata = {name: text for name, text in header.get(_METADATA, {}).items() if name != CHECKSUM}
    seal = _seal(header | {_METADATA: metadata}, values)
    text = _text(header | {_METADATA: metadata | {CHECKSUM: seal}})
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + values


def unsealed_metadata(content: bytes) -> dict[str, str]:
    """Give the metadata of a file of :func:`sealed_safetensors`, its checksum among them.

    Raises:
        ValueError: it is not whole, or was changed.
    """
    try:
        header, values = _parts(content)
        metadata = dict(header.get(_METADATA, {}))
        found = metadata.pop(CHECKSUM, "")
        whole = found == _seal(header | {_METADATA: metadata}, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError("it is not whole") from error
    if not whole:
        raise ValueError("its checksum is not that of its content")
    return metadata | {CHECKSUM: found}


def claimed_format(content: bytes) -> str | None:
    """Give what a safetensors file says of its format, whole or not; None if it says nothing that can be read."""
    try:
        found = _parts(content)[0][_METADATA]["format"]
    except (ValueError, TypeError, KeyError):
        return None
    return str(found)


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a safetensors file apart into its header and its values."""
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = dict(json.loads(content[8 : 8 + size]))
    return header, content[8 + size :]


def _text(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _seal(header: Mapping[str, Any], values: bytes) -> str:
    digest = hashlib.sha256(_text(header))
    digest.update(values)
    return digest.hexdigest()[:_LENGTH]
