# SPDX-License-Identifier: Apache-2.0
"""Samples held where they are computed with: the same batches, whether they are a stack, one by one, or in a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monai_salm.learning import resident as room
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingSet
from tests.builders import cube_set, disk_set

CPU = torch.device("cpu")


def _mixed() -> WorkingSet:
    def cut(sample: Any) -> Any:
        maps = ("image_model", "carrier_voxels", "carrier_share")
        return replace(sample, **{name: getattr(sample, name)[:13, :11] for name in maps})

    return WorkingSet([cut(sample) if n % 3 else sample for n, sample in enumerate(disk_set(9).samples)])


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("samples", [disk_set(7), disk_set(6, multi_label=True), cube_set(5), _mixed()])
def test_batches_are_those_of_the_set(samples: WorkingSet, stacked: bool) -> None:
    resident = ResidentSet(samples, CPU, stacked=stacked)
    order = [4, 0, 3, 2, 1]
    for found, indices in zip(resident.batches(order, 2), ([4, 0], [3, 2], [1]), strict=True):
        wanted = samples.batch(indices, CPU)
        assert found.indices == indices
        for name in ("images", "voxels", "share", "levels", "step_model", "limits", "target"):
            assert torch.equal(getattr(found, name), getattr(wanted, name)), name
            assert getattr(found, name).dtype == getattr(wanted, name).dtype
    whole = ResidentSet(samples, CPU, stacked=stacked, keep_single=False)
    assert [batch.indices for batch in whole.batches(order, 2)] == [[4, 0], [3, 2]]
    assert [batch.indices for batch in whole.batches(order[:1], 2)] == [[4]]
    assert [batch.indices for batch in whole.batches(order, 3)] == [[4, 0, 3], [2, 1]]
    assert [batch.indices for batch in whole.batches(order, 1)] == [[i] for i in order], "none is left over"


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("samples", [disk_set(7), _mixed()], ids=["alike", "mixed"])
def test_what_is_scattered_is_gathered_without_the_padding(samples: WorkingSet, stacked: bool) -> None:
    resident = ResidentSet(samples, CPU, stacked=stacked)
    maps = resident.new_maps()
    batch = resident.batch([3, 1])
    maps.scatter(batch.place, torch.ones_like(batch.images) * torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1))
    for index, part in enumerate(maps):
        assert part.shape == (1, *samples.samples[index].shape)
        assert (part == {3: 2.0, 1: 3.0}.get(index, 0.0)).all()
    gathered = maps.gather(batch.place)
    assert gathered.shape == batch.images.shape
    assert gathered[0].sum() == 2 * samples.samples[3].image_model.size


def test_maps_lie_in_a_file_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def recorded(file: Any, kind: Any, mode: str, *, shape: int) -> np.memmap[Any, Any]:
        made.append(shape)
        return np.memmap(file, kind, mode, shape=shape)

    monkeypatch.setattr(room, "free_memory", lambda: 0.0)
    monkeypatch.setattr(room, "memmap", recorded)
    samples = _mixed()
    resident = ResidentSet(samples, CPU)
    maps = resident.new_maps()
    assert made == [sum(sample.image_model.size for sample in samples.samples)]
    batch = resident.batch([0, 2, 5])
    maps.scatter(batch.place, batch.images)
    assert torch.equal(maps.gather(batch.place), batch.images)
    assert not maps[1].any()


def test_free_memory_is_said() -> None:
    assert room.free_memory() > 2**20
