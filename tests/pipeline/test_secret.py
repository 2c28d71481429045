# SPDX-License-Identifier: Apache-2.0
"""The secret of a run: random, kept in its work folder, and what noise and UIDs are made with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from monai_salm.chance import sample_generator
from monai_salm.errors import SalmError
from monai_salm.methods.base import MethodRun
from monai_salm.pipeline import ProtectionRun, protect
from tests.exports import KEY, drawn, mr_export, mr_labels, small, tree

COUNT = 6


def _restored(folder: Path) -> float:
    """Give the share of changed voxels whose sign follows from the output, the code and the seed that nobody chose."""
    right = []
    for number in range(COUNT):
        before, after = (pydicom.dcmread(folder / name / f"case{number}" / "image.dcm") for name in ("in", "out"))
        change = after.pixel_array.astype(int) - before.pixel_array
        name = str(after.SourceImageSequence[0].ReferencedSOPInstanceUID)
        signs = sample_generator(0, name).integers(0, 2, size=change.shape) * 2 - 1
        right.append(np.sign(change[change != 0]) == signs[change != 0])
    return float(np.concatenate(right).mean())


def test_random_noise_is_not_restored_from_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", COUNT)
    protect(tmp_path / "in", tmp_path / "out", drawn(key_file=None))
    assert abs(_restored(tmp_path) - 0.5) < 0.05
    monkeypatch.setattr(import_module("monai_salm.pipeline.drawing"), "secret_seed", lambda _, seed: seed)
    (tmp_path / "out").rename(tmp_path / "safe")
    protect(tmp_path / "in", tmp_path / "out", drawn(key_file=None, work_dir=tmp_path / "work"))
    assert _restored(tmp_path) == 1, "the attack works where there is no secret"


@pytest.mark.slow
def test_methods_and_networks_get_the_seed_of_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, runs, networks = import_module("monai_salm.pipeline.together"), [], []
    build = room.seeded_network

    def kept(**fields: Any) -> MethodRun:
        runs.append(MethodRun(**fields))
        return runs[-1]

    def built(*some: Any, **named: Any) -> Any:
        networks.append(some[3])
        return build(*some, **named)

    monkeypatch.setattr(room, "MethodRun", kept)
    monkeypatch.setattr(room, "seeded_network", built)
    mr_export(tmp_path / "in", 4)
    labels = mr_labels(tmp_path / "l.csv", 4)
    for number, key in enumerate((None, None, KEY, KEY)):
        protect(tmp_path / "in", tmp_path / str(number), small(labels=labels, rounds=1, estimate=False, key_file=key))
    seeds = [run.seed for run in runs]
    assert seeds[2] == seeds[3]
    assert len({*seeds, 0}) == 4
    assert [seed for seed in networks if seed] == seeds, "the surrogate's weights; others only try its shape"


def test_runs_without_a_key_differ_in_noise_and_uids(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    for name in ("a", "b"):
        protect(tmp_path / "in", tmp_path / name, drawn(key_file=None))
    assert tree(tmp_path / "a.work" / "noise").keys() == tree(tmp_path / "b.work" / "noise").keys()
    for path, content in tree(tmp_path / "a.work" / "noise").items():
        assert content != tree(tmp_path / "b.work" / "noise")[path]
    first, second = (
        {str(pydicom.dcmread(path).SOPInstanceUID) for path in (tmp_path / name).rglob("*.dcm")} for name in ("a", "b")
    )
    assert not first & second


LOST = r"uid.key: damaged, or not the secret .*; put the file back, give the --key-file .*, or start anew"


@pytest.mark.parametrize("key", [None, KEY], ids=["random", "of a file"])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "no hex", "of another run", "gone"])
def test_lost_secret_is_told_or_mended(tmp_path: Path, damage: str, key: Path | None) -> None:
    mr_export(tmp_path / "in", 2)
    protect(tmp_path / "in", tmp_path / "out", drawn(key_file=key))
    kept = tmp_path / "out.work" / "uid.key"
    whole = kept.read_bytes()
    wanted = tree(tmp_path / "out")
    if damage == "gone":
        kept.unlink()
    else:
        flipped = bytes([whole[0] ^ 1]) + whole[1:]
        content = {"empty": b"", "cut": whole[:40], "flipped": flipped, "no hex": b"x" * 64}
        kept.write_bytes(content.get(damage, b"0" * 64))
    (tmp_path / "out" / "case0" / "image.dcm").unlink()
    damaged = kept.read_bytes() if kept.exists() else None
    for start in (protect, lambda *some: ProtectionRun(*some).preview()):
        with pytest.raises(SalmError, match=LOST):
            start(tmp_path / "in", tmp_path / "out", drawn(key_file=None, resume=True))
    assert (kept.read_bytes() if kept.exists() else None) == damaged
    assert not (tmp_path / "out" / "case0" / "image.dcm").exists()
    if key is None:
        kept.write_bytes(whole)
    protect(tmp_path / "in", tmp_path / "out", drawn(key_file=key, resume=True))
    assert tree(tmp_path / "out") == wanted
    assert kept.read_bytes() == whole
