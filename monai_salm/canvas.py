# SPDX-License-Identifier: Apache-2.0
"""What may become of one file: what it shows, and how far each of its frames may move from that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.budget import FileBudget
from monai_salm.noise import SparseNoise, add_noise
from monai_salm.views import FileView
from monai_salm.working_grid import axis_cells


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas(FileView):
    """What a file's stored values may become: its view, with a budget for each of the frames' views. JSON-able by
    :meth:`to_json`.
    """

    views: tuple[FileBudget, ...]

    @property
    def budgets(self) -> tuple[FileBudget, ...]:
        """The views of the frames, which say how far these may move."""
        return self.views

    @property
    def levels(self) -> int:
        """Most levels of any frame."""
        return max(budget.levels for budget in self.budgets)

    @property
    def step_model(self) -> float:
        """What one step of the most makes in model values, on average over the frames."""
        return float(np.mean([budget.levels * budget.step_model for budget in self.budgets])) / self.levels

    @property
    def epsilon_stored(self) -> float:
        """Largest change of any frame, stored units."""
        return max(budget.epsilon_stored for budget in self.budgets)

    @property
    def epsilon_real(self) -> float:
        """Largest change of any frame, real units."""
        return max(budget.epsilon_real for budget in self.budgets)

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back unchanged."""
        return {
            "budgets": [budget.to_json() for budget in self.budgets],
            "spacing": list(self.spacing),
            "trailing": self.trailing,
            **({"color": True} if self.color else {}),
            "stacked": self.stacked,
            "regions": [list(region) for region in self.regions],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Canvas:
        """Read what :meth:`to_json` gave, also after a trip through JSON text."""
        return cls(
            views=tuple(FileBudget.from_json(budget) for budget in record["budgets"]),
            spacing=tuple(record["spacing"]),
            trailing=record["trailing"],
            color=record.get("color", False),  # earlier plans know no color
            stacked=record["stacked"],
            regions=tuple((top, bottom, left, right) for top, bottom, left, right in record["regions"]),
        )

    def pictures(self, values: NDArray[Any]) -> Iterator[tuple[NDArray[Any], FileBudget]]:
        """Give the frames of an array of the file's values, or of its grid, each with its budget."""
        return self._with(values, self.budgets)

    def carriers(self, stored: NDArray[Any], anatomy: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the values that can carry noise to a network within their budgets, in the shape of ``stored``."""
        return self._carriers(stored, anatomy, [budget.range_stored for budget in self.budgets])

    def protect(
        self, stored: NDArray[Any], noise: SparseNoise, place: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Add a sample's noise to the values of one of its files, within the budget of each frame.

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
        """Add noise, within the budget of each frame.

        Args:
            stored: values of the file.
            steps: on the file's part of the working grid, perhaps with a last axis of colors.
            levels: the largest step in the unit of ``steps``.
            carriers: of :meth:`carriers`.

        Returns:
            Array of the shape and dtype of ``stored``.
        """
        if not self.stacked:
            return add_noise(stored, steps, levels, self.budgets[0], carriers)
        cells = axis_cells(len(stored), len(steps))
        changed = np.empty(stored.shape, dtype=np.result_type(stored.dtype, stored.dtype))
        frames = zip(cells, self.pictures(stored), carriers, changed, strict=True)
        for cell, (picture, budget), marks, frame in frames:
            frame[...] = add_noise(picture, steps[cell], levels, budget, marks)
        return changed
