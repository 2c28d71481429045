# SPDX-License-Identifier: Apache-2.0
"""Search noise for arrays in memory with a network and a task of your own; no files are involved.

python 04_own_network_and_task.py
python 04_own_network_and_task.py --rounds 6 --fraction 0.1
"""

from __future__ import annotations

import argparse
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from made_up_data import Arguments, start
from torch import Tensor, nn

from monai_salm import ClassificationTask, MinMinOptimizer, MinMinSettings, WorkingSample, WorkingSet


@dataclass(frozen=True)
class FocalTask(ClassificationTask):
    """Classes with a focal loss (Lin et al. 2017), which looks at what the network is not sure of; all that a search
    asks of a task is ``loss`` and ``error``, one value a sample.
    """

    focus: float = 2.0

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give (batch,) losses of (batch, outputs) logits and (batch,) classes."""
        plain = nn.functional.cross_entropy(logits, target, reduction="none")
        return (1 - torch.exp(-plain)) ** self.focus * plain


def own_network() -> nn.Module:
    """Give any module that makes (batch, 2) logits of (batch, 1, rows, columns) images."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip


def own_images(count: int = 32, size: int = 32) -> WorkingSet:
    """Give random images in [0, 1]; every second one has a square that is a bit brighter."""
    generator, everywhere, samples = np.random.default_rng(0), np.ones((size, size), np.float32), []
    for number in range(count):
        image = generator.uniform(0.2, 0.8, (size, size)).astype(np.float32)
        image[8:24, 8:24] += 0.1 * (number % 2)
        samples.append(
            WorkingSample(
                sample_id=f"image-{number:02d}", image_model=image, target=number % 2,
                carrier_voxels=everywhere.astype(np.int64),  # all cells may change, each stands for one voxel
                carrier_share=everywhere, anatomy_voxels=image.size,
                levels=8, step_model=1 / 255,  # by at most 8 steps of 1/255
            )
        )  # fmt: skip
    return WorkingSet(samples)


def main(arguments: argparse.Namespace, folder: Path) -> None:
    """Search, and say what was found."""
    torch.manual_seed(0)
    network, images = own_network(), own_images()
    settings = MinMinSettings(
        perturbed_fraction=arguments.fraction,
        max_rounds=arguments.rounds,
        seed=secrets.randbits(128),  # who can guess the seed can draw again what is drawn with it
    )
    noise = dict(MinMinOptimizer(network, FocalTask(outputs=2), settings).run(images))
    for name, steps in list(noise.items())[:3]:
        print(f"{name}: {np.mean(steps != 0):.1%} of the cells changed, by at most {np.abs(steps).max()} of 8 steps")
    with torch.no_grad():
        for what, some in (("clean", {}), ("noisy", noise)):
            seen = [sample.protected(some[sample.sample_id]) if some else sample for sample in images.samples]
            batch = torch.stack([torch.from_numpy(sample.image_model)[None] for sample in seen])
            right = (network(batch).argmax(1) == images.targets()).float().mean()
            print(f"the network that the noise was searched with is right on {right:.0%} of the {what} images")


def parser() -> Arguments:
    """Say which arguments there are."""
    found = Arguments(description="Search noise with a network and a task of your own.")
    found.add_argument("--rounds", type=int, default=4, help="rounds of the search")
    found.add_argument("--fraction", type=float, default=0.4, help="share of the cells that may change")
    return found


if __name__ == "__main__":
    start(main, parser())
