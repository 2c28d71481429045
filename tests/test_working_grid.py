# SPDX-License-Identifier: Apache-2.0
"""The working grid and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from monai_salm.working_grid import axis_cells, cell_counts, labels_to_working, to_native, to_working, working_shape


@pytest.mark.parametrize(
    ("native", "size", "expected"),
    [
        ((512, 512, 300), 128, (128, 128, 75)),
        ((64, 32), 128, (64, 32)),
        ((1000, 2), 100, (100, 1)),
        ((100, 100), 100, (100, 100)),
    ],
    ids=["volume", "small-enough", "thin", "equal"],
)
def test_working_shape(native: tuple[int, ...], size: int, expected: tuple[int, ...]) -> None:
    assert working_shape(native, size) == expected


def test_every_cell_stands_for_neighbors() -> None:
    assert axis_cells(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert axis_cells(3, 3).tolist() == [0, 1, 2]


def test_working_values_are_means() -> None:
    values = np.arange(12).reshape(2, 6)
    assert to_working(values, (1, 3)).tolist() == [[3.5, 5.5, 7.5]]
    assert to_working(values, (1, 3)).dtype == np.float32
    # Cells of different sizes: 7 native indices on 3 cells
    assert to_working(np.arange(7.0), (3,)).tolist() == [1, 3.5, 5.5]


def test_share_of_a_boolean_map() -> None:
    selected = np.array([[True, False, True, True]])
    assert to_working(selected, (1, 2)).tolist() == [[0.5, 1]]
    assert cell_counts(selected, (1, 2)).tolist() == [[1, 2]]


def test_the_same_grid_changes_nothing() -> None:
    values = np.array([[1, 2], [3, 4]], dtype=np.int16)
    assert to_working(values, (2, 2)).tolist() == values.tolist()
    assert to_native(values, (2, 2)) is values
    assert cell_counts(values > 2, (2, 2)).tolist() == [[0, 0], [1, 1]]


def test_noise_covers_its_cell() -> None:
    noise = np.array([[1, -2, 3]], dtype=np.int16)
    native = to_native(noise, (2, 7))
    assert native.tolist() == [[1, 1, 1, -2, -2, 3, 3]] * 2
    assert native.dtype == np.int16


def test_labels_are_taken_at_the_centers() -> None:
    labels = np.array([[0, 1, 0, 2, 2, 2, 5, 7]])
    assert labels_to_working(labels, (1, 2)).tolist() == [[1, 2]]
    assert labels_to_working(labels, (1, 8)).tolist() == labels.tolist()
    assert labels_to_working(labels, (1, 2)).dtype == np.uint8
