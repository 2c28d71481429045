# SPDX-License-Identifier: Apache-2.0
"""Drawings of blood cells: eight classes in color, for what no data set at hand has. What is measured on them stands
for many classes and colors, not for microscopes.

    python benchmarks/drawn_cells.py OUT.png    # some of each class, to look at
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 28
PER_CLASS = {"train": 300, "val": 40, "test": 100}
_SEEDS = {"train": 1, "val": 2, "test": 3}
_SCALE = 3  # each pixel is the mean of 3 x 3


@dataclass(frozen=True)
class _Kind:
    """A kind of cell: radius and color, lobes of its nucleus and their radius, granules and their color."""

    radius: float
    color: tuple[float, float, float]
    lobes: int
    lobe: float
    granules: int = 0
    granule: tuple[float, float, float] = (0.0, 0.0, 0.0)


_KINDS = (
    _Kind(8.0, (0.62, 0.66, 0.86), 1, 6.2),  # as a lymphocyte
    _Kind(10.0, (0.66, 0.66, 0.80), 2, 4.8),  # monocyte
    _Kind(9.5, (0.86, 0.74, 0.78), 3, 3.0),  # neutrophil
    _Kind(9.5, (0.88, 0.66, 0.62), 2, 3.4, 40, (0.86, 0.42, 0.30)),  # eosinophil
    _Kind(9.0, (0.74, 0.62, 0.80), 2, 3.6, 40, (0.30, 0.16, 0.46)),  # basophil
    _Kind(7.5, (0.74, 0.68, 0.76), 1, 4.2),  # erythroblast
    _Kind(11.0, (0.76, 0.70, 0.82), 1, 6.6, 25, (0.60, 0.36, 0.62)),  # immature granulocyte
    _Kind(4.0, (0.70, 0.56, 0.76), 0, 0.0, 12, (0.46, 0.28, 0.58)),  # platelet
)


def drawn_cells(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw the images of a split, ``(count, 28, 28, 3)``, and give their classes."""
    generator = np.random.default_rng(_SEEDS[split])
    labels = generator.permutation(np.repeat(np.arange(len(_KINDS)), PER_CLASS[split]))
    return np.stack([_draw(_KINDS[label], generator) for label in labels]), labels


def _draw(kind: _Kind, generator: np.random.Generator) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[: SIDE * _SCALE, : SIDE * _SCALE] / _SCALE

    def near(row: float, column: float, radius: float) -> NDArray[np.float64]:
        """Give 1 inside of a disk, 0 outside, with an edge of half a pixel."""
        return np.clip((radius - np.hypot(rows - row, columns - column)) * 2 + 0.5, 0, 1)[..., None]

    def stained(color: tuple[float, float, float], spread: float) -> NDArray[np.float64]:
        return np.clip(np.array(color) + generator.normal(0, spread, 3), 0, 1)

    image = np.ones((*rows.shape, 3)) * stained((0.93, 0.86, 0.87), 0.02)
    for _ in range(generator.integers(2, 6)):  # red cells around it
        angle, distance = generator.uniform(0, 2 * np.pi), generator.uniform(13, 19)
        place = 14 + distance * np.sin(angle), 14 + distance * np.cos(angle)
        disk = near(*place, generator.uniform(5, 7))
        image = image * (1 - disk) + disk * stained((0.87, 0.68, 0.68), 0.04)
    size = generator.uniform(0.82, 1.18)
    row, column = generator.normal(14, 1.2, 2)
    radius = kind.radius * size
    body = near(row, column, radius)
    image = image * (1 - body) + body * stained(kind.color, 0.05)
    turn, violet = generator.uniform(0, 2 * np.pi), stained((0.42, 0.26, 0.58), 0.05)
    lobe = kind.lobe * size * generator.uniform(0.88, 1.12)
    for number in range(kind.lobes):
        angle = turn + 2 * np.pi * number / max(kind.lobes, 1) + generator.normal(0, 0.25)
        away = (radius - lobe) * (0.75 if kind.lobes > 1 else generator.uniform(0, 0.6))
        disk = near(row + away * np.sin(angle), column + away * np.cos(angle), lobe) * body
        image = image * (1 - disk) + disk * violet
    for _ in range(int(kind.granules * generator.uniform(0.5, 1.2))):
        angle, away = generator.uniform(0, 2 * np.pi), radius * np.sqrt(generator.uniform(0, 0.85))
        disk = near(row + away * np.sin(angle), column + away * np.cos(angle), generator.uniform(0.4, 0.8)) * body
        image = image * (1 - 0.7 * disk) + 0.7 * disk * stained(kind.granule, 0.05)
    small = image.reshape(SIDE, _SCALE, SIDE, _SCALE, 3).mean((1, 3)) * generator.uniform(0.92, 1.06)
    noisy = small + generator.normal(0, 0.006, small.shape)
    return (noisy.clip(0, 1) * 255).round().astype(np.uint8)


def main() -> None:
    """Write a sheet of some images of each class."""
    from PIL import Image

    images, labels = drawn_cells("train")
    sheet = [np.concatenate(list(images[labels == label][:12]), axis=1) for label in range(len(_KINDS))]
    picture = Image.fromarray(np.concatenate(sheet))
    picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.NEAREST).save(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
