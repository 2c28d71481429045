# SPDX-License-Identifier: Apache-2.0
"""Keeping the private record of a run: one JSON line a file, appended as each file is done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from monai_salm.disk import atomic_target, sync, told_when_full
from monai_salm.pipeline.fates import FileFate, fate_line


class Manifest:
    """The manifest of a run.

    Args:
        path: of ``manifest.jsonl``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, fates: Sequence[FileFate], written: Collection[Path]) -> None:
        """Add lines, once what they say is written is on the disk.

        To wait for the disk takes milliseconds, and hardly more for many files than for one, so lines are added many at
        a time. What a crash takes with it are lines of files that are there, which are written again.

        Args:
            fates: what to say.
            written: the files that they are of.
        """
        lines = b"".join(map(_line, fates))
        with told_when_full(self.path, len(lines)):
            sync(written)
            with self.path.open("ab") as file:
                file.write(lines)

    def rewrite(self, fates: Mapping[str, FileFate], written: Iterable[Path] = ()) -> None:
        """Replace the file by one line for each path, in order of the paths; ``written`` as of :meth:`append`."""
        sync(written)
        with atomic_target(self.path, private=True) as temporary, temporary.open("wb") as file:
            file.writelines(_line(fates[path]) for path in sorted(fates))


def _line(fate: FileFate) -> bytes:
    return f"{fate_line(fate)}\n".encode("ascii")
