# SPDX-License-Identifier: Apache-2.0
"""An error is one line, whatever a file puts into it."""

from __future__ import annotations

import pickle  # worker processes send errors so

import pytest

from monai_salm.errors import RefusedError, SalmError, UsageError, VerificationError


@pytest.mark.parametrize("kind", [SalmError, UsageError, RefusedError, VerificationError])
def test_message_is_one_line(kind: type[SalmError]) -> None:
    error = kind("transfer syntax 1.2\n\x00\x1b[31m is not known")
    assert str(error) == "transfer syntax 1.2   [31m is not known"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301
