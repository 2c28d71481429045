# SPDX-License-Identifier: Apache-2.0
"""Batches of samples of different shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_salm.canvas import Canvas
from monai_salm.errors import UsageError
from monai_salm.learning.samples import WorkingSet
from monai_salm.working_samples import WorkingMaps, WorkingSample
from tests.builders import file_budget, working_sample

CPU = torch.device("cpu")


def _sample(sample_id: str, shape: tuple[int, ...], target: Any = None, **changes: Any) -> WorkingSample:
    return working_sample(sample_id, np.full(shape, 0.5), target, **changes)


def test_order_is_that_of_the_ids() -> None:
    samples = [_sample(name, (4, 4), target) for name, target in (("c", 2), ("a", 0), ("b", 1))]
    for found in (samples, samples[::-1]):
        working = WorkingSet(found)
        assert working.ids == ["a", "b", "c"]
        assert working.targets().tolist() == [0, 1, 2]
        assert len(working) == 3


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no sample is left to protect"),
        ([_sample("a", (4, 4)), _sample("b", (4, 4, 4))], "2D and 3D samples are mixed"),
        ([_sample("a", (4, 4)), _sample("a", (5, 4))], "two samples have one id"),
        ([_sample("a", (4, 4), 1), _sample("b", (4, 4))], "1 of 2 samples have no label, the first of them 'b'"),
    ],
    ids=["none", "dimensions", "duplicate", "half-labeled"],
)
def test_samples_that_do_not_belong_together(samples: list[WorkingSample], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WorkingSet(samples)


def test_batches_are_padded_behind() -> None:
    working = WorkingSet(
        [_sample("a", (5, 9), 0), _sample("b", (8, 4), 1, levels=3, step_model=0.25, anatomy_voxels=7)]
    )
    assert (working.spatial_dims, working.padded_shape) == (2, (8, 16))
    batch = working.batch([1, 0], CPU)
    assert batch.indices == [1, 0]
    assert batch.images.shape == batch.voxels.shape == batch.share.shape == (2, 1, 8, 16)
    for maps, value in ((batch.images, 0.5), (batch.voxels, 1), (batch.share, 1)):
        assert (maps[0, 0, :8, :4] == value).all()
        assert maps[0].sum() == 32 * value
        assert maps[1].sum() == 45 * value
    assert batch.levels.flatten().tolist() == [3, 8]
    assert batch.step_model.flatten().tolist() == pytest.approx([0.25, 1 / 255])
    assert batch.limits.tolist() == [7, 45]
    assert batch.target is not None
    assert batch.target.tolist() == [1, 0]


def test_crop_undoes_pad() -> None:
    values = np.arange(45.0).reshape(5, 9)
    working = WorkingSet([_sample("a", (5, 9)), _sample("b", (8, 4))])
    padded = working.pad([values, np.zeros((8, 4))])
    assert np.array_equal(working.crop(padded[0], 0), values)


def test_a_batch_is_padded_as_little_as_its_samples_allow() -> None:
    working = WorkingSet([_sample("a", (5, 9)), _sample("b", (17, 4))])
    assert working.padded_shape == (24, 16)
    assert working.batch([0], CPU).images.shape == (1, 1, 8, 16)
    assert working.batch([0, 1], CPU).images.shape == (2, 1, 24, 16)
    assert WorkingSet(working.samples, (32, 32)).batch([0], CPU).images.shape == (1, 1, 32, 32)


def test_padded_shape_can_be_given() -> None:
    samples = [_sample("a", (5, 9))]
    assert WorkingSet(samples, (16, 16)).batch([0], CPU).images.shape == (1, 1, 16, 16)
    with pytest.raises(UsageError, match=r"the largest sample is \(5, 9\), more than the padded shape \(8, 8\)"):
        WorkingSet(samples, (8, 8))


@pytest.mark.parametrize(
    ("targets", "dtype", "expected"),
    [
        ([1, 0], torch.int64, [1, 0]),
        ([np.float32([0, 1]), np.float32([1, 1])], torch.float32, [[0, 1], [1, 1]]),
        ([None, None], None, None),
    ],
    ids=["classes", "findings", "none"],
)
def test_targets_of_a_batch(targets: list[Any], dtype: torch.dtype | None, expected: Any) -> None:
    working = WorkingSet([_sample(name, (4, 4), target) for name, target in zip("ab", targets, strict=True)])
    target = working.batch([0, 1], CPU).target
    assert (None if target is None else target.tolist()) == expected
    if target is not None:
        assert target.dtype == working.targets().dtype == dtype
        assert torch.equal(target, working.targets())


def test_label_maps_are_padded_with_background() -> None:
    labels = np.full((4, 4, 4), 2, dtype=np.uint8)
    target = WorkingSet([_sample("a", (4, 4, 4), labels)]).batch([0], CPU).target
    assert target is not None
    assert (target.shape, target.dtype, int(target.sum())) == ((1, 8, 8, 8), torch.int64, 128)


def test_maps_of_a_file() -> None:
    stored = np.full((4, 8), 1064, dtype=np.int16)  # 40 HU, the middle of the window
    stored[:, :2] = 2064  # outside the window: anatomy, but no network sees it
    stored[:, 2] = 1464
    maps = WorkingMaps.of_file(stored, Canvas(views=(file_budget(modality="MR"),), spacing=(1.0, 1.0)), (2, 4))
    assert maps.image_model.tolist() == [[1, 0.75, 0.5, 0.5]] * 2
    assert maps.carrier_voxels.tolist() == [[0, 2, 4, 4]] * 2
    assert maps.carrier_share.tolist() == [[0, 0.5, 1, 1]] * 2
    assert maps.anatomy_voxels == 32


def test_maps_of_a_color_picture_count_places_and_share_values() -> None:
    stored = np.full((4, 8, 3), 1064, dtype=np.int16)
    stored[:, :4, 0] = 2064  # one of three colors is outside the window there
    stored[:, 4:6] = 2064
    maps = WorkingMaps.of_file(
        stored, Canvas(views=(file_budget(modality="MR"),), spacing=(1.0, 1.0), trailing=1), (2, 4)
    )
    assert maps.image_model == pytest.approx(np.array([[2 / 3, 2 / 3, 1, 0.5]] * 2))
    assert maps.carrier_voxels.tolist() == [[4, 4, 0, 4]] * 2
    assert maps.carrier_share == pytest.approx(np.array([[2 / 3, 2 / 3, 0, 1]] * 2))
    assert maps.anatomy_voxels == 32
