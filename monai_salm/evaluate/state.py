# SPDX-License-Identifier: Apache-2.0
"""What an evaluation has finished, one line of JSON each, so that the next one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_salm.disk import told_when_full
from monai_salm.errors import UsageError


class EvaluationState:
    """Records by key, in a file that each is added to as soon as it is known.

    Args:
        path: the file; None keeps nothing.

    Raises:
        UsageError: the file holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._records: dict[str, dict[str, Any]] = {}
        if path is None or not path.exists():
            return
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                record = _read(line)
                if record is not None:
                    self._records[record["key"]] = record
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: no record of an evaluation ({error}); give the file that --state wrote, or a new name"
            ) from error

    @staticmethod
    def key(facts: Mapping[str, Any]) -> str:
        """Give the key of what a result depends on; plain types."""
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> dict[str, Any] | None:
        """Give what was finished, None if it was not."""
        return self._records.get(key)

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep what is finished."""
        if self.path is not None:
            line = _BEGIN + json.dumps(key) + ", " + json.dumps(record, allow_nan=False)[1:]
            with told_when_full(self.path, len(line)), self.path.open("a+b") as file:
                file.seek(max(0, file.seek(0, 2) - 1))
                ended = file.read() in (b"", b"\n")
                file.write((line if ended else f"\n{line}").encode() + b"\n")


_BEGIN = '{"key": '


def _read(line: str) -> Any:
    """Read a record; None for the beginning of one that was never written to its end, for somebody stopped it there."""
    try:
        return json.loads(line)
    except ValueError:
        if line[: len(_BEGIN)] == _BEGIN[: len(line)]:
            return None
        raise
