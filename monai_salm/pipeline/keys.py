# SPDX-License-Identifier: Apache-2.0
"""The secret of a run: what maps old UIDs to new ones, and what the noise is drawn with."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from monai_salm.disk import write_atomically
from monai_salm.errors import SalmError, UsageError
from monai_salm.pipeline.options import ProtectOptions

LEAST_KEY_BYTES = 16
"""A shorter key could be guessed, and with it which old UID became which new one, and the noise."""

UID_KEY = "uid.key"
"""Its name in the work folder."""

_SECRET_BYTES = 32


def run_secret(options: ProtectOptions, work_dir: Path) -> bytes:
    """Give the secret of a run: the one that is kept in its work folder; where there is none yet, the key file's, or a
    random one, which is kept there now, readable by its owner alone.

    Raises:
        UsageError: the key file cannot be used.
        SalmError: what is kept there is damaged.
    """
    path = work_dir / UID_KEY
    kept = _kept(path)
    if kept is None and path.is_file():
        raise _lost(path)
    return renew_secret(options, work_dir) if kept is None else kept


def begun_secret(options: ProtectOptions, work_dir: Path) -> bytes:
    """Give the secret that a run was begun with, once :func:`check_secret` found it: the key file's, or the one that is
    kept. Changes nothing.
    """
    secret = _kept(work_dir / UID_KEY) if options.key_file is None else _key_secret(options.key_file)
    if secret is None:
        raise _lost(work_dir / UID_KEY)
    return secret


def kept_secret(work_dir: Path, mark: str) -> bytes:
    """Give the secret that is kept in a work folder; changes nothing.

    Raises:
        SalmError: it is not the one of this mark.
    """
    kept = _kept(work_dir / UID_KEY)
    if kept is None or secret_mark(kept) != mark:
        raise _lost(work_dir / UID_KEY)
    return kept


def keep_secret(secret: bytes, work_dir: Path) -> None:
    """Keep a secret in a work folder, in place of what is there, readable by its owner alone."""
    write_atomically(work_dir / UID_KEY, secret.hex().encode("ascii"), private=True)


def renew_secret(options: ProtectOptions, work_dir: Path) -> bytes:
    """Keep the key file's secret, or a random one, in a work folder in place of what is there, and give it.

    Raises:
        UsageError: the key file cannot be used.
    """
    secret = secrets.token_bytes(_SECRET_BYTES) if options.key_file is None else _key_secret(options.key_file)
    keep_secret(secret, work_dir)
    return secret


def secret_mark(secret: bytes) -> str:
    """Give what tells a secret from another one and leads nobody back to it."""
    return hashlib.sha256(b"monai_salm mark of a secret\0" + secret).hexdigest()[:32]


def check_key(options: ProtectOptions) -> None:
    """Find out now, not after hours of search, that a key cannot be read.

    Raises:
        UsageError: it cannot, or is too short.
    """
    if options.key_file is not None:
        _key_secret(options.key_file)


def check_secret(mark: str, options: ProtectOptions, work_dir: Path) -> None:
    """Find out whether the secret that a run was begun with is that of the key file, or still there.

    Args:
        mark: of the secret, as the run's plan has it.
        options: of the run.
        work_dir: its private folder.

    Raises:
        UsageError: the key file has another one.
        SalmError: it is lost: with another one the run would not go on, but begin a second one among its files.
    """
    if options.key_file is not None:
        if secret_mark(_key_secret(options.key_file)) != mark:
            raise UsageError(
                f"{options.key_file}: not the key that the run in {work_dir} was begun with; give that one again, or "
                "start anew with another OUTPUT"
            )
        return
    kept_secret(work_dir, mark)


def _kept(path: Path) -> bytes | None:
    """Read the secret of a work folder; None where there is none, or no whole one."""
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    return secret if len(secret) == _SECRET_BYTES else None


def _lost(path: Path) -> SalmError:
    return SalmError(
        f"{path}: damaged, or not the secret that the run was begun with; put the file back, give the --key-file "
        "that the run was begun with, or start anew with another OUTPUT"
    )


def _secret(material: bytes) -> bytes:
    return hashlib.sha256(b"monai_salm uid secret/1\0" + material).digest()


def key_material(key_file: Path) -> bytes:
    """Give what a key file holds.

    Raises:
        UsageError: it cannot be read, or is too short.
    """
    try:
        material = key_file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{key_file}: the key cannot be read ({error.strerror}); make one with 'monai-salm keygen FILE'"
        ) from error
    if len(material.strip()) < LEAST_KEY_BYTES:
        raise UsageError(
            f"{key_file}: the key has {len(material.strip())} bytes, at least {LEAST_KEY_BYTES} are needed; make "
            "one with 'monai-salm keygen FILE'"
        )
    return material


def _key_secret(key_file: Path) -> bytes:
    return _secret(key_material(key_file))
