# SPDX-License-Identifier: Apache-2.0
"""What the writing of all samples has in common, in a private file that every job names, so that any executor can run
the jobs: with each job it would be sent again, and it holds the UIDs of the whole export.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from monai_salm.disk import write_atomically
from monai_salm.errors import SalmError
from monai_salm.io import Derivation
from monai_salm.pipeline.way_back import WayBack

_PREFIX = "write-"


@dataclass(frozen=True)
class WriteSettings:
    """What the writing of all samples has in common.

    Args:
        root, output: folders of the input and of the output.
        store: folder of the noise.
        derivation: what the files are to say, but for the description.
        private: whether the output is for the owner alone, as the files are that are packed into a zip afterwards.
        way_back: where residuals are written; None for none.
    """

    root: Path
    output: Path
    store: Path
    derivation: Derivation
    private: bool = False
    way_back: WayBack | None = None

    def to_text(self) -> str:
        """Give JSON text that :meth:`from_text` reads back; places are absolute, for who reads it may be elsewhere."""
        derivation = asdict(self.derivation)
        for name in ("changed_uids", "absent_files"):
            derivation[name] = sorted(derivation[name])
        secret = self.derivation.uid_secret
        derivation["uid_secret"] = None if secret is None else secret.hex()
        places = {name: str(getattr(self, name).absolute()) for name in ("root", "output", "store")}
        way = None if self.way_back is None else [str(self.way_back.folder), str(self.way_back.key_file)]
        return json.dumps(places | {"derivation": derivation, "private": self.private, "way_back": way}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> WriteSettings:
        """Read what :meth:`to_text` gave."""
        plain = json.loads(text)
        derivation = plain["derivation"]
        for name in ("changed_uids", "absent_files"):
            derivation[name] = frozenset(derivation[name])
        secret = derivation["uid_secret"]
        derivation["uid_secret"] = None if secret is None else bytes.fromhex(secret)
        root, output, store = (Path(plain[name]) for name in ("root", "output", "store"))
        way = None if plain["way_back"] is None else WayBack(*map(Path, plain["way_back"]))
        return cls(root, output, store, Derivation(**derivation), plain["private"], way)


@contextmanager
def kept_settings(settings: WriteSettings, work_dir: Path) -> Iterator[Path]:
    """Keep settings in a file of the private work folder while samples are written; gives its path.

    The name follows from the content, so that whoever has read a file of this name knows what is in it.
    """
    for left in work_dir.glob(f"{_PREFIX}*.json"):  # by a run that was killed
        left.unlink()
    content = settings.to_text().encode()
    path = (work_dir / _name_of(content)).absolute()
    write_atomically(path, content, private=True)
    del content  # it names every image of the export, and is not needed while these are written
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@lru_cache(maxsize=4)
def read_settings(path: Path) -> WriteSettings:
    """Read the settings that a job names, once in each process.

    Raises:
        SalmError: the file is not the one that was written.
    """
    content = path.read_bytes()
    if path.name != _name_of(content):
        raise SalmError(f"{path}: damaged while files are written; run again with --resume")
    return WriteSettings.from_text(content.decode("ascii"))


def _name_of(content: bytes) -> str:
    return f"{_PREFIX}{hashlib.sha256(content).hexdigest()[:16]}.json"
