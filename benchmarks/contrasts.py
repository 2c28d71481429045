# SPDX-License-Identifier: Apache-2.0
"""Brain slices of 256 x 256 in three contrasts: classes that are easy, in images that are large. The slices are real,
their contrasts are made, so what is measured on them stands for easy classes, not for sequences of a scanner.

    python benchmarks/contrasts.py BRAIN_TUMOR OUT.png    # some of each class, to look at
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_fill_holes, gaussian_filter

SIDE = 256
CONTRASTS = ("as it is", "inside out", "dark fluid")
_SEEDS = {"train": 1, "test": 3}
_EVERY = 2  # slice that is taken


def brain_contrasts(source: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Give the images of a split, ``(count, 256, 256)``, and the number of each one's contrast.

    Args:
        source: folder of brain tumor slices, with a folder for each split and class.
        split: train or test.
    """
    paths = sorted((source / split).glob("*/*.jpg"))[::_EVERY]
    generator = np.random.default_rng(_SEEDS[split])
    labels = generator.permutation(np.arange(len(paths)) % len(CONTRASTS))
    return np.stack([_draw(path, int(label), generator) for path, label in zip(paths, labels, strict=True)]), labels


def _draw(path: Path, label: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Give a slice in one of :data:`CONTRASTS`, in a brightness by chance."""
    with Image.open(path) as image:
        gray = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255
    head = binary_fill_holes(gray > 0.08)  # the air around it stays black
    gray = gaussian_filter(gray, 1) if label == 1 else gray
    seen = (gray, 0.6 - 0.55 * gray, np.clip(1.3 * gray - 0.15, 0.03, 1))[label]
    return np.round(np.clip(np.where(head, seen, gray) * generator.uniform(0.7, 1.3), 0, 1) * 255).astype(np.uint8)


def main() -> None:
    """Write a sheet with some of each class."""
    images, labels = brain_contrasts(Path(sys.argv[1]), "test")
    rows = [np.concatenate(list(images[labels == label][:5]), axis=1) for label in range(len(CONTRASTS))]
    Image.fromarray(np.concatenate(rows)).save(sys.argv[2])


if __name__ == "__main__":
    main()
