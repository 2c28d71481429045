# SPDX-License-Identifier: Apache-2.0
"""Balanced noise: no region of 10 mm moves by more than its share of the budget, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.methods.balance import balanced, without_means
from monai_salm.methods.minmin import MinMinOptimizer
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.pipeline.region_means import mean_shifts
from monai_salm.views import FileView
from monai_salm.working_grid import CellPlanes, to_native
from tests.builders import disk_set, file_budget, working_sample

LEVELS = 8
SIDE = 32


def _batch(count: int = 2, shape: tuple[int, ...] = (SIDE, SIDE), **changes: Any) -> WorkingBatch:
    samples = [working_sample(f"{number}", np.full(shape, 0.5), **changes) for number in range(count)]
    return WorkingSet(samples).batch(range(count), torch.device("cpu"))


def _drawn(*shape: int, share: float = 0.4) -> Tensor:
    source = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, shape, generator=source) * 2 - 1
    return (signs * LEVELS * (torch.rand(shape, generator=source) < share)).float()


def _waves(count: int) -> Tensor:
    return ((torch.arange(SIDE) // 2 % 2 * 2 - 1) * float(LEVELS)).expand(count, 1, SIDE, SIDE).clone()


def _largest_shift(steps: Tensor, millimeters: float, cells: int = 4) -> float:
    """Measure it as ``verify`` does, in a file of so many pixels a cell."""
    native = to_native(steps.numpy().astype(np.int16), tuple(cells * n for n in steps.shape))
    view = FileView(views=(file_budget(slope=1.0),), spacing=(millimeters / cells,) * 2)
    found = mean_shifts(
        np.full(native.shape, 1000, np.int16), 1000 + native, view, np.ones(native.shape, bool),
        largest_real=float(np.abs(native).max()), spacing_known=True,
    )  # fmt: skip
    largest = found[1].largest_real
    assert found[1].diameter == 10
    assert largest is not None
    return largest


@pytest.mark.parametrize("millimeters", [1.0, 2.0, 2.9, 4.0, 12.0])
@pytest.mark.parametrize("noise", ["drawn", "waves", "constant"])
def test_no_region_moves_further_than_its_share(noise: str, millimeters: float) -> None:
    steps = {"drawn": _drawn(2, 1, SIDE, SIDE), "waves": _waves(2), "constant": torch.full((2, 1, SIDE, SIDE), 8.0)}
    before = steps[noise]
    after = balanced(before, _batch(), [CellPlanes(None, (millimeters, millimeters))] * 2, 0.25)
    assert _largest_shift(after[0, 0], millimeters) <= 0.25 * LEVELS, "regions begin at any pixel of a cell"
    assert torch.equal(after, after.round())
    assert (after * before >= 0).all()
    assert (after.abs() <= before.abs()).all(), "so the budget and the mask hold as before"
    if noise == "constant":
        assert after.abs().max() == 1, "the whole steps below a quarter of 8 that is no further than a margin"


def test_noise_within_its_share_stays_as_it_is() -> None:
    rows, columns = np.indices((SIDE, SIDE))
    board = torch.from_numpy((rows + columns) % 2 * 2.0 - 1)[None, None].float() * LEVELS
    assert torch.equal(balanced(board, _batch(1), [CellPlanes(None, (2.0, 2.0))], 0.25), board)


def test_what_lies_beside_keeps_its_noise_and_fine_noise_its_size() -> None:
    steps = _drawn(1, 1, SIDE, SIDE, share=0.2)
    steps[..., :8, :8] = LEVELS
    after = balanced(steps, _batch(1), [CellPlanes(None, (2.0, 2.0))], 0.25)
    assert after[..., :8, :8].abs().mean() < 2
    far = after[..., 16:, 16:]
    assert (far**2).sum() > 0.85 * (steps[..., 16:, 16:] ** 2).sum()


def test_each_sample_has_its_own_spacing_and_one_without_stays() -> None:
    steps = _waves(3)
    after = balanced(steps, _batch(3), [CellPlanes(None, (4.0, 4.0)), None, CellPlanes(None, (1.0, 1.0))], 0.25)
    assert torch.equal(after[1], steps[1])
    assert torch.equal(after[2], steps[2]), "10 mm are ten cells, so that waves of four balance themselves"
    assert (after[0] ** 2).sum() < 0.2 * (steps[0] ** 2).sum()


@pytest.mark.parametrize("across", [0, 1, 2])
def test_planes_of_a_volume_are_balanced_each(across: int) -> None:
    """Noise that changes its sign from plane to plane is out of balance in each."""
    shape = [16, 16, 16]
    signs = (torch.arange(16) % 2 * 2.0 - 1) * LEVELS
    steps = torch.zeros(1, 1, *shape) + signs.reshape([-1 if axis == across else 1 for axis in range(3)])
    after = balanced(steps, _batch(1, (16, 16, 16)), [CellPlanes(across, (2.0, 2.0))], 0.25)
    assert after.abs().max() <= 0.25 * LEVELS
    other = balanced(steps, _batch(1, (16, 16, 16)), [CellPlanes((across + 1) % 3, (1.0, 1.0))], 0.25)
    assert (other**2).sum() > 0.8 * (steps**2).sum()


def test_steps_leave_out_what_the_balance_would_take_back() -> None:
    """What is alike over a region, not what differs from cell to cell; where spacing is unknown nothing."""
    rows, columns = np.indices((SIDE, SIDE))
    board = torch.from_numpy((rows + columns) % 2 * 2.0 - 1).float()
    gradient = torch.stack([board + 5, board + 5])[:, None]
    left = without_means(gradient, [CellPlanes(None, (2.0, 2.0)), None])
    inside = (slice(4, -4), slice(4, -4))
    assert left[0, 0][inside] == pytest.approx(board[inside].numpy(), abs=0.1)
    assert torch.equal(left[1], gradient[1])
    volume = torch.zeros(1, 1, 16, 16, 16)
    volume[0, 0, 7] = 3.0
    assert without_means(volume, [CellPlanes(0, (2.0, 2.0))])[0, 0, 7, 4:-4, 4:-4].abs().max() < 1e-5
    assert without_means(volume, [CellPlanes(1, (2.0, 2.0))])[0, 0, 7, 4:-4, 4:-4].abs().min() > 1


def test_cells_that_carry_little_may_have_more() -> None:
    steps = torch.full((1, 1, SIDE, SIDE), 8.0)
    share = np.full((SIDE, SIDE), 0.2, np.float32)
    after = balanced(steps, _batch(1, carrier_share=share), [CellPlanes(None, (2.0, 2.0))], 0.25)
    assert torch.equal(after, steps)


@pytest.mark.parametrize("balance", [0.0, 0.25])
def test_a_search_gives_balanced_noise(balance: float) -> None:
    planes = CellPlanes(None, (2.0, 2.0))
    samples = WorkingSet([replace(sample, planes=planes) for sample in disk_set(16).samples])
    settings = MinMinSettings(
        max_rounds=2, noise_steps=2, surrogate_batches=4, texture_period=4, texture_batches=4, full_strength=True,
        mask_blur=5, batch_size=8, balance=balance,
    )  # fmt: skip
    task = ClassificationTask.balanced(samples.targets())
    network = seeded_network("small-cnn", samples.padded_shape, task.outputs, 0)
    optimizer = MinMinOptimizer(network, task, settings, augmentation=ConsumerAugmentation())
    shifts = [_largest_shift(torch.from_numpy(steps).float(), 2.0) for _, steps in optimizer.run(samples)]
    assert (max(shifts) <= 2) == (balance > 0)
    assert max(shifts) > 1
