# SPDX-License-Identifier: Apache-2.0
"""Search noise for arrays in memory with a network of your own; no files are involved.

Usage: python 03_noise_for_arrays.py
"""

from __future__ import annotations

import secrets

import numpy as np
import torch
from torch import nn

from monai_salm import ClassificationTask, MinMinOptimizer, MinMinSettings, WorkingSample, WorkingSet


def main(rounds: int = 3) -> dict[str, np.ndarray]:
    """Make 32 random images of two classes and give the noise of each, in steps of 1/255."""
    generator = np.random.default_rng(0)
    samples = []
    for number in range(32):
        image = generator.uniform(0.2, 0.8, size=(32, 32)).astype(np.float32)
        image[8:24, 8:24] += 0.1 * (number % 2)
        everywhere = np.ones_like(image)
        samples.append(
            WorkingSample(
                sample_id=f"image-{number:02d}",
                image_model=image,
                carrier_voxels=everywhere.astype(np.int64),
                carrier_share=everywhere,
                anatomy_voxels=image.size,
                levels=8,
                step_model=1 / 255,
                target=number % 2,
            )
        )
    working = WorkingSet(samples)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    task = ClassificationTask.balanced(working.targets())
    # Who can guess the seed can draw again what is drawn with it.
    settings = MinMinSettings(perturbed_fraction=0.1, max_rounds=rounds, seed=secrets.randbits(128))
    return dict(MinMinOptimizer(network, task, settings).run(working))


if __name__ == "__main__":
    for name, steps in main().items():
        print(name, f"{np.mean(steps != 0):.1%} changed, at most {np.abs(steps).max()} steps")
