# SPDX-License-Identifier: Apache-2.0
"""What the fuzzer starts from, and that it sees what went wrong in silence."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_salm.pipeline.fates import FileFate
from tests.fidelity import fuzz
from tests.fidelity.fuzz_field import LABEL_MAP, PICTURE, silently_wrong
from tests.fidelity.fuzz_seed import Seed
from tests.fidelity.fuzz_tables import TABLE_CHANGES
from tests.io.builders import gzip_bytes, nifti_bytes

pytest.importorskip("PIL.Image")
pytest.importorskip("SimpleITK")


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return fuzz.corpus()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured with Linux' /proc")
def test_whole_inputs(seeds: list[Seed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 60.0)  # some are large, and the machine may be busy
    summary = fuzz.run(len(seeds), jobs=2, first=-len(seeds), failures=tmp_path)
    assert summary.to_json()["failures"] == {}
    assert summary.kinds["protected"] >= 80
    assert summary.kinds["copied"] >= 15


def test_what_there_is(seeds: list[Seed]) -> None:
    assert len({seed.name for seed in seeds}) == len(seeds)
    kinds = Counter(kind for seed in seeds for kind in set(seed.holds.values()))
    assert kinds[LABEL_MAP] >= 15
    assert kinds[PICTURE] >= 7
    assert sum(bool(seed.table) for seed in seeds) >= 12
    assert sum("DICOMDIR" in seed.files for seed in seeds) >= 7
    assert any(not name.isascii() and "\udce9" in name for seed in seeds for name in seed.files)
    assert all(silently_wrong(seed, seed.files, {}) == "" for seed in seeds)


def _fates(seed: Seed, status: str) -> dict[str, FileFate]:
    return {path: FileFate(path=path, status=status) for path in seed.holds}


def test_label_map_that_is_changed_is_seen(seeds: list[Seed]) -> None:
    for seed in (seed for seed in seeds if LABEL_MAP in seed.holds.values()):
        assert silently_wrong(seed, seed.files, _fates(seed, "protected")) == "a label map was protected", seed.name
        assert (
            silently_wrong(seed, seed.files, _fates(seed, "copied"))
            == silently_wrong(seed, seed.files, _fates(seed, "refused"))
            == ""
        )


def test_picture_that_is_copied_is_seen(seeds: list[Seed]) -> None:
    for seed in (seed for seed in seeds if PICTURE in seed.holds.values()):
        assert silently_wrong(seed, seed.files, _fates(seed, "copied")) == "a picture was copied", seed.name
        assert (
            silently_wrong(seed, seed.files, _fates(seed, "protected"))
            == silently_wrong(seed, seed.files, _fates(seed, "refused"))
            == ""
        )


def test_what_damage_made_of_it_counts(seeds: list[Seed]) -> None:
    """A label map with a bit more noise still is one; with another type, shape or scale it is not known what it is."""
    seed = next(seed for seed in seeds if seed.name == "label map labels16.nii.gz")
    (name,) = seed.files
    content = np.zeros((16, 16, 10), np.int16)
    content[4:12, 4:12, 2:8] = 7
    whole = Seed(seed.name, {name: gzip_bytes(nifti_bytes(content))}, name, "gz", holds=seed.holds)
    spotted = content.copy()
    spotted[5, 5, 5] = 900
    noisy = np.where(content > 0, np.random.default_rng(1).integers(0, 900, content.shape), 0).astype(np.int16)
    for values, verdict in (
        (spotted, "a label map was protected"),
        (noisy, ""),
        (content[:9], ""),
        (content.astype(np.float32) / 3, ""),
    ):
        assert silently_wrong(whole, {name: gzip_bytes(nifti_bytes(values))}, _fates(whole, "protected")) == verdict
    assert silently_wrong(whole, {name: b"nothing"}, _fates(whole, "protected")) == ""


@pytest.mark.parametrize("change", list(dict.fromkeys(TABLE_CHANGES)), ids=lambda change: change.__name__)
def test_damage_to_tables(seeds: list[Seed], change: Callable[[bytearray, random.Random], None]) -> None:
    tables = [seed.files[seed.table] for seed in seeds if seed.table]
    changed = 0
    for table in [*tables, b"", b"\n", b"\xff"]:
        for number in range(20):
            data, again = bytearray(table), bytearray(table)
            change(data, random.Random(number))
            change(again, random.Random(number))
            assert data == again
            changed += data != table
    assert changed > 4 * len(tables)
