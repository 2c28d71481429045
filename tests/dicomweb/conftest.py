# SPDX-License-Identifier: Apache-2.0
"""What tests of archives share: one that is there, nobody who asks it in the environment, and no waiting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_salm.dicomweb import ArchivePlace
from tests.dicomweb.stub import Stub, running
from tests.exports import mr_series

STUDY = "1.2.826.0.1.3680043.8.498.31.1"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were not waited."""
    pytest.importorskip("dicomweb_client", reason="an extra is not installed")
    waited: list[float] = []
    for module in ("client", "storing"):
        monkeypatch.setattr(f"monai_salm.dicomweb.{module}.sleep", waited.append)
    return waited


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Iterator[Stub]:
    """An archive with a study of four slices."""
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MONAI_SALM_DICOMWEB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as server:
        server.put(*mr_series(tmp_path / "export", 0, slices=4))
        yield server


@pytest.fixture
def place(stub: Stub) -> ArchivePlace:
    return ArchivePlace(stub.url, (STUDY,))
