# SPDX-License-Identifier: Apache-2.0
"""Residuals: what leads from a protected file back to its original, encrypted, so that nobody without the key is helped
by it.

A store is a private folder with a file for each protected file. The first 64 hexadecimal digits of its name are two
marks, of what the protected file is found by (its SOP Instance UID, or its digest) and of its path; both are
HMAC-SHA-256 under the key, cut to 16 bytes, so that a name tells neither. The file holds ``SALMRES1``, a nonce of 12
bytes, and the content under AES-256-GCM-SIV (RFC 8452), with a key of its own that HKDF-SHA-256 (RFC 5869) derives from
the key file's and the name. The content is padded to one of few sizes. The same content, name and key give the same
bytes.
"""

from __future__ import annotations

from monai_salm.residuals.changes import packed_changes, with_changes_undone
from monai_salm.residuals.content import Residual, Way
from monai_salm.residuals.sealing import ResidualKey
from monai_salm.residuals.store import ResidualStore

__all__ = ["Residual", "ResidualKey", "ResidualStore", "Way", "packed_changes", "with_changes_undone"]
