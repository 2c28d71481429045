# SPDX-License-Identifier: Apache-2.0
"""What a search says before it starts and when it is done: how long it takes, and whether its surrogate learned the
noise.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_salm.learning.consumers import NO_AUGMENTATION
from monai_salm.learning.estimates import LearningEstimate, NetworkEstimate
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.methods.base import TrainedSurrogate
from monai_salm.methods.minmin import MinMinOptimizer
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.search_time import search_seconds
from monai_salm.pipeline import protect
from monai_salm.pipeline.outlook import guess_error, what_was_learned
from monai_salm.pipeline.search import SearchSummary
from monai_salm.working_samples import WorkingSample
from tests.exports import mr_export, mr_labels, small


def _samples(count: int) -> WorkingSet:
    images = [np.random.default_rng(number).uniform(0.2, 0.8, (24, 24)).astype(np.float32) for number in range(count)]
    return WorkingSet([
        WorkingSample(
            sample_id=f"{number:03d}", image_model=image, carrier_voxels=np.ones(image.shape, np.int64), levels=4,
            step_model=0.01,
            carrier_share=np.ones(image.shape, np.float32), anatomy_voxels=image.size, target=int(number % 4 == 0),
        )
        for number, image in enumerate(images)
    ])  # fmt: skip


def _optimizer(**changes: object) -> MinMinOptimizer:
    settings = MinMinSettings(**({"max_rounds": 3, "stop_error": 0.0} | changes))  # type: ignore[arg-type]
    return MinMinOptimizer(seeded_network("small-cnn", (24, 24), 2, 0), ClassificationTask(2), settings)


@pytest.mark.slow
def test_estimate_is_measured_and_changes_nothing() -> None:
    samples, optimizer = _samples(64), _optimizer(noise_steps=20)
    state = optimizer.start(samples)
    before = {name: value.clone() for name, value in optimizer.network.state_dict().items()}
    chance = torch.get_rng_state()
    seconds = search_seconds(optimizer, samples, state)
    assert all(torch.equal(value, before[name]) for name, value in optimizer.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(parameter.grad is None for parameter in optimizer.network.parameters())
    began = time.monotonic()
    list(optimizer.run(samples, state))
    assert seconds / 10 < time.monotonic() - began < seconds * 10, "other work on the machine may come between"
    assert search_seconds(optimizer, samples, state) == 0, "no round is left"


def test_estimate_grows_with_what_is_to_be_done() -> None:
    samples = _samples(16)
    few, many = (_optimizer(max_rounds=rounds, noise_steps=20) for rounds in (1, 200))
    assert search_seconds(many, samples, many.start(samples)) > 10 * search_seconds(few, samples, few.start(samples))


@pytest.mark.slow
def test_search_says_how_long_before_it_starts_and_what_was_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mr_export(tmp_path / "in", 8)
    with caplog.at_level(logging.INFO):
        result = protect(tmp_path / "in", tmp_path / "out", small(labels=mr_labels(tmp_path / "labels.csv")))
    said = [record.getMessage() for record in caplog.records]
    first = next(number for number, line in enumerate(said) if line.startswith("round 1:"))
    assert any(
        line.startswith("searching the noise of 8 images takes ") and line.endswith(" at most (2 rounds)")
        for line in said[:first]
    )
    assert "surrogate" in result.search.surrogate
    assert result.to_json()["surrogate"] == result.search.surrogate
    again = protect(tmp_path / "in", tmp_path / "out", small(labels=tmp_path / "labels.csv", resume=True))
    assert again.search == result.search


def _surrogate(errors: tuple[float, ...], wanted: float, *, frozen: bool = False) -> TrainedSurrogate:
    return TrainedSurrogate(
        network=torch.nn.Identity(), search={}, augmentation=NO_AUGMENTATION, rounds=len(errors), wanted_error=wanted,
        errors=errors, frozen=frozen,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ((0.5, 0.008), "the surrogate learned the noise, as it should: its error is 0.008"),
        ((0.5, 0.05), "the surrogate learned the noise of most images: its error is 0.050"),
        ((0.01, 0.3), "protection is doubtful: the surrogate did not learn the noise, its error is 0.300"),
        ((), "is not known after one round"),
    ],
)
def test_what_was_learned_is_said(errors: tuple[float, ...], words: str) -> None:
    assert words in what_was_learned(_surrogate(errors, 0.01), 0.5)
    assert "make the surrogate anew" in what_was_learned(_surrogate((0.5,), 0.01, frozen=True), 0.5)
    assert "doubtful" in what_was_learned(_surrogate((0.1,), 0.0), 0.12), "as good as a guess where one class is common"


def test_surrogate_is_asked_where_no_other_network_was() -> None:
    unknown = LearningEstimate(why_not="too few images")
    network = NetworkEstimate("small-cnn", "", 28, 0.9, 0.5, 0.5, 0.5, "protected")
    known = LearningEstimate((network,), 45, 15, "image", 0.5)
    for estimate, asked in ((None, True), (unknown, True), (known, False)):
        lines = SearchSummary(surrogate="doubtful", choice="chosen", estimate=estimate).lines()
        assert (lines[0], "doubtful" in lines) == ("chosen", asked)
        assert ("estimate: protected" in lines) == (estimate is known)


def test_guess_is_the_commonest_class() -> None:
    samples = _samples(8)
    assert guess_error(samples, ClassificationTask(2)) == 0.25
