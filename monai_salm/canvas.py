# SPDX-License-Identifier: Apache-2.0
"""Where in one file noise may lie and how far it may go: the budgets of its pictures, its anatomy, and the way its
values share noise.

A file is one picture (2D or 3D), or a stack of pictures (frames, tiles), each with an anatomy and perhaps a rescaling
of its own. Behind the axes of the picture its values may have others that share one noise: the samples of a color, the
points of a time series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.anatomy import file_anatomy, noise_carriers
from monai_salm.budget import FileBudget
from monai_salm.burned_in import graphics_mask, static_pixels
from monai_salm.noise import SparseNoise, add_noise
from monai_salm.windows import IntensityWindow
from monai_salm.working_grid import axis_cells

Region = tuple[int, int, int, int]
"""First row, row behind the last, first column, column behind the last."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What a file's stored values may become. JSON-able by :meth:`to_json`.

    Args:
        budgets: one for all, or one for each picture of a stack where they are rescaled differently.
        spacing: millimeters between samples along each axis of the grid that noise lies on.
        trailing: how many axes of the stored values lie behind those of the grid.
        stacked: whether the first axis of the grid counts pictures of their own.
        regions: parts of a picture outside which there is text and graphics; empty where that is not known.
    """

    budgets: tuple[FileBudget, ...]
    spacing: tuple[float, ...] = ()
    trailing: int = 0
    stacked: bool = False
    regions: tuple[Region, ...] = ()

    @property
    def levels(self) -> int:
        """Most levels of any picture."""
        return max(budget.levels for budget in self.budgets)

    @property
    def step_model(self) -> float:
        """What one step of the most makes in model values, on average over the pictures."""
        return float(np.mean([budget.levels * budget.step_model for budget in self.budgets])) / self.levels

    @property
    def epsilon_stored(self) -> float:
        """Largest change of any picture, stored units."""
        return max(budget.epsilon_stored for budget in self.budgets)

    @property
    def epsilon_real(self) -> float:
        """Largest change of any picture, real units."""
        return max(budget.epsilon_real for budget in self.budgets)

    @property
    def modality(self) -> str:
        """DICOM Modality code, or empty."""
        return self.budgets[0].modality

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back unchanged."""
        return {
            "budgets": [budget.to_json() for budget in self.budgets],
            "spacing": list(self.spacing),
            "trailing": self.trailing,
            "stacked": self.stacked,
            "regions": [list(region) for region in self.regions],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Canvas:
        """Read what :meth:`to_json` gave, also after a trip through JSON text."""
        return cls(
            budgets=tuple(FileBudget.from_json(budget) for budget in record["budgets"]),
            spacing=tuple(record["spacing"]),
            trailing=record["trailing"],
            stacked=record["stacked"],
            regions=tuple((top, bottom, left, right) for top, bottom, left, right in record["regions"]),
        )

    def through(self, window: IntensityWindow) -> Canvas:
        """Give the same file as a network with another window sees it."""
        return replace(self, budgets=tuple(replace(budget, window=window) for budget in self.budgets))

    def pictures(self, values: NDArray[Any]) -> Iterator[tuple[NDArray[Any], FileBudget]]:
        """Give the pictures of an array of the file's values, or of its grid, each with its budget."""
        if not self.stacked:
            yield values, self.budgets[0]
            return
        for number, picture in enumerate(values):
            yield picture, self.budgets[number if len(self.budgets) > 1 else 0]

    def anatomy(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the anatomy of all pictures, on the grid; burned-in text and graphics are none."""
        spacing = self.spacing[1:] if self.stacked else self.spacing
        masks = []
        for picture, budget in self.pictures(stored):
            inside = file_anatomy(picture, budget, spacing, trailing=self.trailing)
            inside &= ~graphics_mask(picture, budget, trailing=self.trailing)
            if self.regions:
                inside &= _in_regions(self.regions, inside.shape)
            masks.append(inside)
        anatomy = np.stack(masks) if self.stacked else masks[0]
        if self.stacked:
            anatomy &= ~static_pixels(stored, self.modality, trailing=self.trailing)
        return anatomy

    def carriers(self, stored: NDArray[Any], anatomy: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the values that can carry noise to a network, in the shape of ``stored``."""
        marks = [
            noise_carriers(picture, budget, inside)
            for (picture, budget), (inside, _) in zip(self.pictures(stored), self.pictures(anatomy), strict=True)
        ]
        return np.stack(marks) if self.stacked else marks[0]

    def model(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Give model values on the grid, in [0, 1]: the mean of what lies behind it (the gray of a color)."""
        models = [
            budget.window.to_model(picture.astype(np.float64) * budget.slope + budget.intercept)
            for picture, budget in self.pictures(stored)
        ]
        values = np.stack(models) if self.stacked else models[0]
        behind = tuple(range(values.ndim - self.trailing, values.ndim))
        return values.mean(axis=behind, dtype=np.float32) if behind else values

    def protect(
        self, stored: NDArray[Any], noise: SparseNoise, place: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Add a sample's noise to the values of one of its files, within the budget of each picture.

        Args:
            stored: values of the file.
            noise: of the sample.
            place: (number of the slice, number of slices) in a series; None if the file is the whole sample.

        Returns:
            Array of the shape and dtype of ``stored``, and the file's anatomy.
        """
        steps = noise.dense() if place is None else noise.of_slice(*place)
        anatomy = self.anatomy(stored)
        return self.add(stored, steps, noise.levels, self.carriers(stored, anatomy)), anatomy

    def add(self, stored: NDArray[Any], steps: NDArray[Any], levels: int, carriers: NDArray[np.bool_]) -> NDArray[Any]:
        """Add noise, within the budget of each picture.

        Args:
            stored: values of the file.
            steps: on the file's part of the working grid.
            levels: the largest step in the unit of ``steps``.
            carriers: of :meth:`carriers`.

        Returns:
            Array of the shape and dtype of ``stored``.
        """
        if not self.stacked:
            return add_noise(stored, steps, levels, self.budgets[0], carriers)
        cells = axis_cells(len(stored), len(steps))
        changed = [
            add_noise(picture, steps[cell], levels, budget, marks)
            for cell, (picture, budget), marks in zip(cells, self.pictures(stored), carriers, strict=True)
        ]
        return np.stack(changed)


def _in_regions(regions: tuple[Region, ...], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    inside = np.zeros(shape, dtype=bool)
    for top, bottom, left, right in regions:
        inside[top:bottom, left:right] = True
    return inside
