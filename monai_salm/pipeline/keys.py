# SPDX-License-Identifier: Apache-2.0
"""The secret of a run, which maps old UIDs to new ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from monai_salm.disk import write_atomically
from monai_salm.errors import UsageError
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan

LEAST_KEY_BYTES = 16
"""A shorter key could be guessed, and with it which old UID became which new one."""


def uid_secret(plan: ProtectionPlan, options: ProtectOptions, work_dir: Path) -> bytes:
    """Give the secret that new UIDs are made with, and keep it in the work folder, readable by its owner alone.

    Without a key file it is made from the seed and the digests of the input's files: the same run gives the same UIDs,
    and nobody without the originals can tell which old UID became which new one.
    """
    path = work_dir / "uid.key"
    if options.resume and path.is_file():
        return bytes.fromhex(path.read_text(encoding="ascii"))
    if options.key_file is not None:
        secret = _key_secret(options.key_file)
    else:
        digests = sorted([*(file.sha256 for sample in plan.samples for file in sample.files), *plan.documents.values()])
        secret = _secret("/".join([str(options.seed), *digests]).encode())
    write_atomically(path, secret.hex().encode("ascii"), private=True)
    return secret


def _secret(material: bytes) -> bytes:
    return hashlib.sha256(b"monai_salm uid secret/1\0" + material).digest()


def _key_secret(key_file: Path) -> bytes:
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
    return _secret(material)


def check_key(options: ProtectOptions, work_dir: Path) -> None:
    """Find out now, not after hours of search, that a key cannot be read or is not the one that the run
    was begun with.
    """
    if options.key_file is None:
        return
    secret, kept = _key_secret(options.key_file), work_dir / "uid.key"
    if options.resume and kept.is_file() and kept.read_text(encoding="ascii") != secret.hex():
        raise UsageError(
            f"{options.key_file}: not the key that the run in {work_dir} was begun with; give that one again, or "
            "start anew with another OUTPUT"
        )
