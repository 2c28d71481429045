# SPDX-License-Identifier: Apache-2.0
"""What an earlier look at an input found, kept as plain types, so that files that did not change since need not be read
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_salm.io import Document, ImageHeader
from monai_salm.pipeline.inventory import FileRecord, Inventory, Stamp, has_digest
from monai_salm.pipeline.kept_once import found_kept_once

_NOT_KEPT = ("path", "judgement")
"""Fields of headers and documents: where they lie is known, and judgements served their turn."""

_ANYWHERE = Path()
"""Place of files until :meth:`KnownFile.placed` says where they lie."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """One file as it was.

    Args:
        record: what it was found to be.
        stamp: of it; None where it was no regular file.
        sha256: digest of its bytes; empty where nobody needed it.
    """

    record: FileRecord
    stamp: Stamp | None
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give plain types, without the path."""
        record = self.record
        plain = {
            "header": _plain(record.header), "document": _plain(record.document), "reason": record.reason,
            "copy_of": record.copy_of, "by_others": record.by_others, "sha256": self.sha256,
            "stamp": [self.stamp.size, self.stamp.mtime_ns] if self.stamp is not None else None,
        }  # fmt: skip
        return {name: value for name, value in plain.items() if value}

    @classmethod
    def from_json(cls, path: str, plain: Mapping[str, Any]) -> KnownFile:
        """Read what :meth:`to_json` gave; where the file lies is told by :meth:`placed`."""
        header, document = plain.get("header"), plain.get("document")
        stamp = Stamp(*plain["stamp"]) if "stamp" in plain else None
        record = FileRecord(
            path,
            header=found_kept_once(ImageHeader(path=_ANYWHERE, **_restored(header)), _ANYWHERE) if header else None,
            document=found_kept_once(Document(path=_ANYWHERE, **_restored(document)), _ANYWHERE) if document else None,
            reason=plain.get("reason", ""),
            copy_of=plain.get("copy_of", ""),
            by_others=plain.get("by_others", False),
            stamp=stamp,
        )
        return cls(record, stamp, plain.get("sha256", ""))

    def placed(self, root: Path) -> FileRecord:
        """Give the record of the file below a folder."""
        place, record = root / self.record.path, self.record
        return replace(
            record,
            header=replace(record.header, path=place) if record.header is not None else None,
            document=replace(record.document, path=place) if record.document is not None else None,
        )


@dataclass(frozen=True)
class KnownFiles:
    """All files of an input as they were.

    Args:
        files: by path.
        archive: stamp of the zip that they were unpacked from; None where there was none.
    """

    files: dict[str, KnownFile] = field(default_factory=dict)
    archive: Stamp | None = None

    @classmethod
    def of(cls, inventory: Inventory, digests: Mapping[str, str], archive: Path | None) -> KnownFiles:
        """Keep what a scan found.

        Args:
            inventory: what it gave.
            digests: of files, as far as they are known, by path.
            archive: the zip that was unpacked; None where there was none.
        """
        files = {
            record.path: KnownFile(record, record.stamp, digests.get(record.path, "")) for record in inventory.files
        }
        return cls(files, None if archive is None else Stamp.of(archive))

    def beside(self, others: KnownFiles) -> KnownFiles:
        """Give these files and those of another look; of a path that both know, these."""
        return KnownFiles({**others.files, **self.files}, self.archive)

    def is_of_archive(self, source: Path) -> bool:
        """Say whether the files were unpacked from a zip that is still the same."""
        return self.archive is not None and Stamp.of(source) == self.archive

    def unchanged(self, root: Path, path: str, stamp: Stamp | None, *, whole: bool = False) -> FileRecord | None:
        """Give the record of a file that is still as it was: by its size and time, or by its bytes where only the time
        differs.

        Args:
            root: folder that the path is relative to.
            path: of the file.
            stamp: of the file now.
            whole: whether it was unpacked just now from the same zip as then, so that its time says nothing.

        Returns:
            None if it changed, or if that cannot be known.
        """
        known = self.files.get(path)
        if known is None or known.stamp is None or stamp is None or stamp.size != known.stamp.size:
            return None
        same = whole or stamp == known.stamp or (known.sha256 != "" and has_digest(root / path, known.sha256))
        if not same:
            return None
        placed = known.placed(root)
        self.files[path] = replace(known, record=placed)  # the record is kept once
        return placed


NOTHING_KNOWN = KnownFiles()


def _plain(found: ImageHeader | Document | None) -> dict[str, Any]:
    """Give the fields that say something, as plain types."""
    if found is None:
        return {}
    plain: dict[str, Any] = {}
    for known in fields(found):
        value = getattr(found, known.name)
        if isinstance(value, np.dtype):
            value = value.str
        if known.name in _NOT_KEPT or value in ("", (), None, frozenset()):
            continue
        if isinstance(value, frozenset):
            value = sorted(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        plain[known.name] = value
    return plain


def _restored(plain: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _tuples(value) for name, value in plain.items()}
    for name, kind in (("references", frozenset), ("files", frozenset), ("dtype", np.dtype)):
        if name in found:
            found[name] = kind(found[name])
    return found


def _tuples(value: Any) -> Any:
    """Give lists of JSON as tuples, at any depth."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
