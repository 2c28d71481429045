# SPDX-License-Identifier: Apache-2.0
"""A surrogate on disk: what comes back is what was kept, and other files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from monai_salm.consumers import ConsumerAugmentation
from monai_salm.errors import UsageError
from monai_salm.networks import build_network
from monai_salm.optimize import MinMinSettings
from monai_salm.surrogate import SurrogateCard, load_surrogate, surrogate_bytes
from monai_salm.tasks import ClassificationTask, SegmentationTask

CARDS: dict[str, dict[str, Any]] = {
    "classification": {
        "network": "small-resnet",
        "spatial_dims": 2,
        "task": ClassificationTask(3).to_json(),
        "classes": ["a", "b", "c"],
        "padded_shape": [16, 16],
    },
    "segmentation": {"network": "small-unet", "spatial_dims": 3, "task": SegmentationTask(2).to_json(), "classes": ["0", "1"], "padded_shape": [16, 16, 16]},
}


def _card(kind: str = "classification") -> SurrogateCard:
    return SurrogateCard(
        search=MinMinSettings().to_json(), augmentation=ConsumerAugmentation().to_json(), working_size=16, epsilon=(8 / 255, "fraction"),
        window=None, modality="MR", **CARDS[kind],
    )  # fmt: skip


@pytest.mark.parametrize("kind", CARDS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    card = _card(kind)
    network = build_network(card.network, spatial_dims=card.spatial_dims, outputs=card.task["outputs"])
    (tmp_path / "s.safetensors").write_bytes(surrogate_bytes(network, card))
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
        (save({"x": torch.zeros(1)}, {"format": "monai_salm.surrogate/9"}), "format 'monai_salm.surrogate/9' is not"),
    ],
    ids=["missing", "junk", "other tensors", "other version"],
)
def test_other_file_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "s.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_surrogate(tmp_path / "s.safetensors")
