# SPDX-License-Identifier: Apache-2.0
"""Encryption of one residual, with what the ``cryptography`` package offers and nothing of our own."""

from __future__ import annotations

import hmac
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from monai_salm.errors import RefusedError

MAGIC = b"SALMRES1"
MARK_DIGITS = 32
"""Hexadecimal digits of a mark."""

_NONCE_BYTES, _TAG_BYTES, _LENGTH_BYTES = 12, 16, 8
_LEAST_SIZE = 512
_STEPS = 4
"""Sizes between one power of two and the next: what padding adds is a quarter at most."""


class ResidualKey:
    """The key of the residuals of a release.

    Args:
        material: what the key file holds, at least 16 bytes of a secret.
    """

    def __init__(self, material: bytes) -> None:
        self._key = HKDF(SHA256(), 32, salt=None, info=b"monai_salm residuals/1").derive(material)

    def mark(self, kind: str, text: str) -> str:
        """Give what stands for a text in names of files: hexadecimal digits that tell nobody without the key what it
        is.

        Args:
            kind: of the text, so that equal texts of two kinds have two marks.
            text: any.
        """
        content = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.new(self._derived(b"marks"), content, sha256).hexdigest()[:MARK_DIGITS]

    def seal(self, name: str, content: bytes) -> bytes:
        """Encrypt the content of the file of a name."""
        cipher, nonce = self._cipher(name)
        plain = len(content).to_bytes(_LENGTH_BYTES, "little") + content
        plain += bytes(padded_size(len(plain)) - len(plain))
        return MAGIC + nonce + cipher.encrypt(nonce, plain, MAGIC)

    def open(self, name: str, sealed: bytes) -> bytes:
        """Decrypt what :meth:`seal` gave for the same name.

        Raises:
            RefusedError: it is of another key or name, or not whole, or was changed.
        """
        cipher, nonce = self._cipher(name)
        start = len(MAGIC) + _NONCE_BYTES
        try:
            if sealed[:start] != MAGIC + nonce:
                raise InvalidTag
            plain = cipher.decrypt(nonce, sealed[start:], MAGIC)
        except InvalidTag as error:
            raise RefusedError(
                "the residual is damaged, another file's, or of another key; give the --key-file and the residuals of "
                "the run that protected this file"
            ) from error
        length = int.from_bytes(plain[:_LENGTH_BYTES], "little")
        return plain[_LENGTH_BYTES : _LENGTH_BYTES + length]

    def _derived(self, purpose: bytes) -> bytes:
        return HKDFExpand(SHA256(), 32, info=purpose).derive(self._key)

    def _cipher(self, name: str) -> tuple[AESGCMSIV, bytes]:
        """Give the cipher of a name, and its nonce. Each name has a key of its own, so one nonce is enough; should a
        name be sealed twice with two contents, this cipher shows no more than that they differ.
        """
        derived = HKDFExpand(SHA256(), 32 + _NONCE_BYTES, info=b"residual\0" + name.encode("ascii")).derive(self._key)
        return AESGCMSIV(derived[:32]), derived[32:]


def padded_size(size: int) -> int:
    """Give the size that a content is padded to: one of four between a power of two and the next.

    Examples:
        >>> padded_size(100), padded_size(1025), padded_size(1281)
        (512, 1280, 1536)
    """
    if size <= _LEAST_SIZE:
        return _LEAST_SIZE
    step = max(1, (1 << (size - 1).bit_length() - 1) // _STEPS)
    return -(-size // step) * step
