# SPDX-License-Identifier: Apache-2.0
"""What is drawn for a sample is its own: other samples, orders and batches change nothing of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from monai_salm.chance import sample_generator
from monai_salm.learning.chance import SampleChance, own_randomness
from monai_salm.learning.samples import WorkingSet
from tests.builders import disk_set

CPU = torch.device("cpu")


def test_generator_depends_on_all_that_it_is_told_and_on_nothing_else() -> None:
    told = [(0, "a", 0, ""), (1, "a", 0, ""), (-1, "a", 0, ""), (0, "b", 0, ""), (0, "a", 1, ""), (0, "a", 0, "x")]
    drawn = [sample_generator(*arguments).random(4).tolist() for arguments in told]
    assert drawn == [sample_generator(*arguments).random(4).tolist() for arguments in told]
    assert len({tuple(numbers) for numbers in drawn}) == len(told)


def test_draws_of_a_sample_stay_without_the_others() -> None:
    everything = disk_set(9)
    some = WorkingSet([everything.samples[i] for i in (7, 2, 5)])
    places = [everything.ids.index(name) for name in some.ids]
    all_draws, draws = (SampleChance(samples, 3, CPU).draws(2, 4, 6, "augmentation") for samples in (everything, some))
    assert torch.equal(all_draws.values[places], draws.values)
    batch = everything.batch([5, 2, 7], CPU)
    assert torch.equal(all_draws.at(batch.place, 1), all_draws.values[[5, 2, 7], 1])
    fresh = SampleChance(everything, 3, CPU).fresh(batch.place, 1, "start", (1, 2, 3))
    again = SampleChance(some, 3, CPU).fresh(some.batch([1, 0, 2], CPU).place, 1, "start", (1, 2, 3))
    assert torch.equal(fresh, again)


def test_orders_of_some_samples_are_those_of_all_without_the_others() -> None:
    everything = disk_set(9)
    some = WorkingSet(everything.samples[3:7])
    whole, part = (SampleChance(samples, 0, CPU).orders(1, 5) for samples in (everything, some))
    kept = [[index - 3 for index in order if 3 <= index < 7] for order in whole]
    assert kept == part
    assert len({tuple(order) for order in whole}) == 5
    assert all(sorted(order) == list(range(9)) for order in whole)


def test_samples_can_be_known_by_their_images() -> None:
    samples = disk_set(3)
    renamed = WorkingSet([replace(sample, sample_id=f"other {sample.sample_id}") for sample in samples.samples])
    by_image = [SampleChance(found, 0, CPU, by_image=True).draws(0, 2, 3, "") for found in (samples, renamed)]
    by_id = [SampleChance(found, 0, CPU).draws(0, 2, 3, "") for found in (samples, renamed)]
    assert torch.equal(by_image[0].values, by_image[1].values)
    assert not torch.equal(by_id[0].values, by_id[1].values)


def test_numbers_are_uniform() -> None:
    values = SampleChance(disk_set(2), 0, CPU).maps([(100, 100)] * 2, "mask")[0].numpy()
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert counts.sum() == 10_000
    assert abs(counts - 1000).max() < 150


def test_own_randomness_leaves_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    with own_randomness(5, CPU):
        first = torch.rand(3)
    with own_randomness(5, CPU):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.random.get_rng_state(), before)
