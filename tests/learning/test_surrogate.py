# SPDX-License-Identifier: Apache-2.0
"""A surrogate on disk: what comes back is what was kept, and other files are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from monai_salm.errors import UsageError
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import build_network
from monai_salm.learning.surrogate import (
    SURROGATE_FORMAT,
    SurrogateCard,
    frozen_set,
    load_surrogate,
    series_key,
    surrogate_bytes,
)
from monai_salm.learning.tasks import ClassificationTask, SegmentationTask
from monai_salm.methods.error_minimizing import frozen_optimizer
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.seals import sealed_safetensors
from tests.builders import working_sample

CARDS: dict[str, dict[str, Any]] = {
    "classification": {
        "network": "small-resnet",
        "spatial_dims": 2,
        "task": ClassificationTask(3).to_json(),
        "classes": ["a", "b", "c"],
        "padded_shape": [16, 16],
    },
    "segmentation": {
        "network": "small-unet",
        "spatial_dims": 3,
        "task": SegmentationTask(2).to_json(),
        "classes": ["0", "1"],
        "padded_shape": [16, 16, 16],
    },
}


def _card(kind: str = "classification") -> SurrogateCard:
    return SurrogateCard(
        search=MinMinSettings().to_json(), augmentation=ConsumerAugmentation().to_json(), working_size=16,
        epsilon=(8 / 255, "fraction"),
        window=None, modality="MR", method="salm", rounds=3,
        series={"a": {"modality": "MR", "window": [0.0, 1.0], "background": None}}, **CARDS[kind],
    )  # fmt: skip


@pytest.mark.parametrize("kind", CARDS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    card = _card(kind)
    network = build_network(card.network, spatial_dims=card.spatial_dims, outputs=card.task["outputs"])
    content = surrogate_bytes(network, card)
    assert all(surrogate_bytes(network, card) == content for _ in range(8)), "equal surrogates are equal bytes"
    (tmp_path / "s.safetensors").write_bytes(content)
    state = torch.get_rng_state()
    again, kept = load_surrogate(tmp_path / "s.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert SurrogateCard(**{**vars(kept), "epsilon": tuple(kept.epsilon)}) == card
    image = torch.rand(2, 1, *card.padded_shape)
    with torch.no_grad():
        assert torch.equal(network.eval()(image), again.eval()(image))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a surrogate .*; give the surrogate.safetensors of a run's work folder"),
        (b"junk", "cannot be read as a surrogate"),
        (save({"x": torch.zeros(1)}), "format None is not"),
        (
            save({"x": torch.zeros(1)}, {"format": "monai_salm.surrogate/3"}),
            "surrogate/3' is not 'monai_salm.surrogate/5'; protect its files again with this",
        ),
        (save({"x": torch.zeros(1)}, {"format": SURROGATE_FORMAT}), r"the surrogate is damaged \(its checksum is not"),
        (
            sealed_safetensors(save({"x": torch.zeros(1)}, {"format": SURROGATE_FORMAT})),
            r"the surrogate is damaged \('surrogate'\)",
        ),
        (
            sealed_safetensors(save({"x": torch.zeros(1)}, {"format": SURROGATE_FORMAT, "surrogate": "{}"})),
            "the surrogate is damaged .*; take another copy of it, or make it again",
        ),
    ],
    ids=["missing", "junk", "other tensors", "other version", "no checksum", "no card", "empty card"],
)
def test_other_file_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "s.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_surrogate(tmp_path / "s.safetensors")


def test_weights_that_are_not_the_networks_are_refused(tmp_path: Path) -> None:
    other = build_network("small-cnn", spatial_dims=2, outputs=3)
    (tmp_path / "s.safetensors").write_bytes(surrogate_bytes(other, _card()))
    with pytest.raises(UsageError, match="the surrogate is damaged") as caught:
        load_surrogate(tmp_path / "s.safetensors")
    assert "\n" not in str(caught.value)


def test_frozen_samples_have_rounds_and_shape_of_the_card() -> None:
    card = _card()
    network = build_network(card.network, spatial_dims=2, outputs=3)
    settings = frozen_optimizer(network, card).settings
    assert (settings.max_rounds, settings.stop_error) == (3, 0.0)
    assert frozen_optimizer(network, card, rounds=5).settings.max_rounds == 5
    samples = [working_sample("a", np.full((10, 12), 0.5), 1)]
    assert frozen_set(samples, card).batch([0], torch.device("cpu")).images.shape == (1, 1, 16, 16)
    assert frozen_set(samples, replace(card, network="ViT", padded_shape=[32, 32])).batch(
        [0], torch.device("cpu")
    ).images.shape == (1, 1, 32, 32)


def test_series_have_names_that_tell_nothing() -> None:
    assert series_key("1.2.3") != series_key("1.2.4")
    assert "1.2.3" not in series_key("1.2.3")
