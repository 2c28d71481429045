# SPDX-License-Identifier: Apache-2.0
"""Another key for the residuals of a release."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monai_salm.disk import sync
from monai_salm.errors import RefusedError, UsageError
from monai_salm.pipeline.run_lock import RunLocks
from monai_salm.pipeline.way_back import WayBack
from monai_salm.progress import track


@dataclass(frozen=True)
class RekeyResult:
    """What became of residuals.

    Args:
        changed: how many have the new key now.
        had_it: how many had it before, from a run that was stopped.
        refused: names of those that neither key opens.
    """

    changed: int
    had_it: int
    refused: tuple[str, ...]


def rekey(residuals: Path, key_file: Path, new_key_file: Path, *, show_progress: bool = False) -> RekeyResult:
    """Encrypt residuals with another key, in their place; a stopped run is gone on with by calling it again.

    Each one is written under its new name, and read again, before the old one is removed. Old and new UIDs stay as they
    are, for they are in files that were handed out.

    Args:
        residuals: their folder.
        key_file: that they have now.
        new_key_file: that they get.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: there are none, or the old key opens none, or one of the keys cannot be used.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import ProtectOptions, protect
        >>> from monai_salm.pipeline import rekey
        >>> old, new = Path("old.txt"), Path("new.txt")
        >>> _ = old.write_text("a first long secret"), new.write_text("another long secret")  # or monai-salm keygen
        >>> done = protect(Path("EXPORT"), Path("KEYED"), ProtectOptions(method="random", key_file=old))
        >>> rekey(Path("KEYED.work/residuals"), old, new).changed
        5
    """
    if not residuals.is_dir():
        raise UsageError(f"{residuals}: no such folder; give the folder of the residuals of a release")
    old, new = (WayBack(residuals.absolute(), key.absolute()).store for key in (key_file, new_key_file))
    changed, had_it, refused = 0, 0, []
    with RunLocks() as locks:
        locks.take(residuals)
        old.sweep()
        places = list(old.places())
        for place in track(places, "encrypting", "residuals", total=len(places), show_progress=show_progress):
            try:
                residual = old.read(place)
            except RefusedError:
                try:
                    new.read(place)
                    had_it += 1
                except RefusedError:
                    refused.append(place.relative_to(residuals.absolute()).as_posix())
                continue
            written = new.write(residual)
            if new.read(written) != residual:
                raise RefusedError(f"{written}: not what was written; the old one is still there")
            sync([written])
            if written != place:
                place.unlink()
            changed += 1
    if not changed and not had_it:
        raise UsageError(
            f"{residuals}: " + (f"{key_file} opens none of the {len(refused)} residuals; give the key that they have"
            if refused else "there is no residual in it; give the folder of the residuals of a release")
        )  # fmt: skip
    return RekeyResult(changed, had_it, tuple(refused))
