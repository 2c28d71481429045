# SPDX-License-Identifier: Apache-2.0
"""What a search left, in ``search.json``: what it did, and the checksum of each noise that it made; and whether all of
that is still there.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_salm.disk import atomic_target
from monai_salm.errors import SalmError
from monai_salm.noise import NoiseStore
from monai_salm.pipeline.inventory import file_digest
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.record import MANIFEST
from monai_salm.seals import sealed_json_parts, unsealed_json

logger = logging.getLogger(__name__)

SEARCH_FILE, NOISE_FOLDER, SURROGATE_FILE = "search.json", "noise", "surrogate.safetensors"
CHECKPOINT_FILE = "search.safetensors"
"""Names in the work folder."""


def run_mark(plan: ProtectionPlan, secret: bytes) -> str:
    """Give what tells a run from one with another plan or another secret, and leads back to neither."""
    return hmac.new(secret, f"monai_salm run/{plan.digest()}".encode(), hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True)
class SearchRecord:
    """What a finished search left.

    Args:
        run: mark of the run that it belongs to.
        summary: what it did, as plain types.
        noise: checksum of the noise of each sample that has one, by its id.
        surrogate: digest of the surrogate's file; empty where the method has none.
    """

    run: str
    summary: Mapping[str, Any]
    noise: Mapping[str, str]
    surrogate: str = ""

    def write(self, work_dir: Path) -> None:
        """Keep it, for nobody but its owner."""
        kept = {"run": self.run, "noise": dict(self.noise), "surrogate_sha256": self.surrogate}
        with (
            atomic_target(work_dir / SEARCH_FILE, private=True) as temporary,
            temporary.open("w", encoding="ascii", newline="\n") as file,
        ):
            file.writelines(sealed_json_parts({**self.summary, **kept}))
            file.write("\n")

    @classmethod
    def read(cls, work_dir: Path, run: str) -> SearchRecord | None:
        """Read what the search of a run left; None if it did not finish, or if that is damaged or of another run, which
        is told.
        """
        path = work_dir / SEARCH_FILE
        if not path.is_file():
            return None
        try:
            found = cls._of(unsealed_json(path.read_text(encoding="utf-8")))
            if found.run != run:
                raise ValueError("it is of another run")
            return found
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s: damaged (%s); the noise is made again", path, error)
            return None

    @classmethod
    def of_any_run(cls, work_dir: Path) -> SearchRecord | None:
        """Read what a finished search left, whichever run's it is; None if there is none.

        Raises:
            SalmError: it is damaged.
        """
        path = work_dir / SEARCH_FILE
        if not path.is_file():
            return None
        try:
            return cls._of(unsealed_json(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise SalmError(f"{path}: damaged ({error}); the run's --resume makes it again") from error

    @classmethod
    def _of(cls, plain: dict[str, Any]) -> SearchRecord:
        run, noise, surrogate = plain.pop("run"), dict(plain.pop("noise")), str(plain.pop("surrogate_sha256"))
        return cls(run, plain, noise, surrogate)

    def lost(self, work_dir: Path) -> set[str]:
        """Give the ids of the samples whose noise is damaged, gone, or not the one that was made."""
        store = NoiseStore(work_dir / NOISE_FOLDER)
        problems = {name: store.problem(name, checksum) for name, checksum in self.noise.items()}
        found = {name: problem for name, problem in problems.items() if problem}
        if found:
            first = next(iter(found.values())).partition(";")[0]
            logger.warning(
                "%s; the noise of %d of %d samples is made again", first, len(found), max(len(self.noise), 1)
            )
        return set(found)

    def check_surrogate(self, work_dir: Path) -> None:
        """Say so if the surrogate is not the one that was written: the run does without it, further ones cannot."""
        path = work_dir / SURROGATE_FILE
        if self.surrogate and (not path.is_file() or file_digest(path) != self.surrogate):
            logger.warning(
                "%s: damaged or gone, so that no further images can be protected with it; delete %s beside it and run "
                "again with --resume to make it again",
                path,
                SEARCH_FILE,
            )


@dataclass(frozen=True)
class EarlierSearch:
    """What a run that goes on finds of its search.

    Args:
        record: what the search left; None if it did not finish.
        lost: ids of the samples whose noise has to be made again.
    """

    record: SearchRecord | None = None
    lost: frozenset[str] = frozenset()

    @classmethod
    def find(cls, plan: ProtectionPlan, secret: bytes, work_dir: Path) -> EarlierSearch:
        """Look for what the search of a run left in its work folder; what is damaged is told."""
        record = SearchRecord.read(work_dir, run_mark(plan, secret))
        if record is None:
            return cls()
        record.check_surrogate(work_dir)
        return cls(record, frozenset(record.lost(work_dir)))

    @property
    def is_whole(self) -> bool:
        """Say whether there is nothing to search any more."""
        return self.record is not None and not self.lost

    def kept(self) -> dict[str, str]:
        """Give the checksum of the noise that is still there, by the ids of its samples."""
        noise = {} if self.record is None else self.record.noise
        return {name: seal for name, seal in noise.items() if name not in self.lost}

    def made(self, noise: Mapping[str, str]) -> bool:
        """Say whether this is the noise that was made then, so that what was written with it stays."""
        return self.record is not None and dict(noise) == dict(self.record.noise)


def keep_search(record: SearchRecord, store: NoiseStore, earlier: EarlierSearch, work_dir: Path) -> None:
    """Keep what a search made; what is written with other noise does not count any more.

    Args:
        record: of the search.
        store: its noise.
        earlier: what was left of the search before it.
        work_dir: private folder of the run.
    """
    if not earlier.made(record.noise):
        (work_dir / MANIFEST).unlink(missing_ok=True)
    store.sync()  # before anything says that the search is done
    record.write(work_dir)
