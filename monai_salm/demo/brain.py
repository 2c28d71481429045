# SPDX-License-Identifier: Apache-2.0
"""An export of real anatomy, cut from the MNI152 T1 brain that nilearn ships with its maps of grey and white matter.

The brain is mirror-symmetric, so training and test patches come from axial slabs with gaps between them, never from
left and right.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_salm.demo.files import write_dicom, write_nifti
from monai_salm.errors import UsageError, how_to_install

PATCH = 64
"""Side of a patch in voxels of 1 mm."""

FULL_SCALE = 1000
"""Stored value of the brightest voxel of the template."""

TRAIN_SLABS = ((40, 68), (84, 112))
"""Axial slices, from the feet, that training patches are cut from."""

TEST_SLABS = ((73, 79), (117, 135))
"""Axial slices of the test patches; at least 5 mm from every training slice."""

CLASSES = ("grey", "white")
"""A patch is of the class whose tissue it has more of."""


@dataclass(frozen=True)
class DemoExport:
    """The folders and tables of the demo's data."""

    images: Path
    labels: Path
    test: Path
    test_labels: Path


def load_brain() -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float64]]:
    """Load the template as int16, grey minus white matter, and the affine.

    Raises:
        UsageError: nilearn is not installed.
    """
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError as error:
        raise UsageError(f"the demo needs nilearn, which ships a brain; {how_to_install('nilearn')}") from error
    template = load_mni152_template(resolution=1)
    brain = np.asarray(template.dataobj, dtype=np.float32)
    grey, white = (
        np.asarray(load(resolution=1).dataobj, dtype=np.float32)
        for load in (load_mni152_gm_template, load_mni152_wm_template)
    )
    return np.rint(brain / brain.max() * FULL_SCALE).astype(np.int16), grey - white, np.asarray(template.affine)


def make_export(folder: Path, *, train: int, test: int, seed: int) -> DemoExport:
    """Write labeled patches: half as DICOM, half as NIfTI.

    Args:
        folder: to write to.
        train, test: number of patches; even.
        seed: of their places.
    """
    brain, balance, affine = load_brain()
    generator = np.random.default_rng(seed)
    export = DemoExport(folder / "export", folder / "labels.csv", folder / "test", folder / "test_labels.csv")
    for images, table, slabs, number in (
        (export.images, export.labels, TRAIN_SLABS, train),
        (export.test, export.test_labels, TEST_SLABS, test),
    ):
        places = _places(balance, slabs, number, generator)
        rows = [(_write_patch(images, index, brain, affine, place), name) for index, (place, name) in enumerate(places)]
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label"), *rows])
    return export


def _places(
    balance: NDArray[np.float32], slabs: tuple[tuple[int, int], ...], number: int, generator: np.random.Generator
) -> list[tuple[tuple[int, int, int], str]]:
    """Choose patches, as many of each class, in random order; not those of one tissue only, which any network tells
    apart at once.
    """
    slices = np.concatenate([np.arange(*slab) for slab in slabs])
    candidates = []
    for _ in range(12 * number):
        k = int(generator.choice(slices))
        i, j = (int(generator.integers(8, n - PATCH - 8)) for n in balance.shape[:2])
        patch = balance[i : i + PATCH, j : j + PATCH, k]
        if np.mean(np.abs(patch) > 0.1) > 0.5:  # half of it at least is brain
            candidates.append((float(patch.mean()), (i, j, k)))
    candidates.sort()
    middle, tail, half = len(candidates) // 2, len(candidates) // 5, number // 2
    sides = ((CLASSES[1], range(tail, middle)), (CLASSES[0], range(middle, len(candidates) - tail)))
    chosen = [
        (candidates[index][1], name)
        for name, side in sides
        for index in generator.choice(list(side), half, replace=False)
    ]
    return [chosen[index] for index in generator.permutation(len(chosen))]


def _write_patch(
    folder: Path, index: int, brain: NDArray[np.int16], affine: NDArray[np.float64], place: tuple[int, int, int]
) -> str:
    """Write one patch and give its path in the folder."""
    i, j, k = place
    patch = brain[i : i + PATCH, j : j + PATCH, k]
    if index % 2:
        path = f"nifti/patch_{index:04d}.nii.gz"
        moved = affine.copy()
        moved[:3, 3] = (affine @ [i, j, k, 1])[:3]
        write_nifti(folder / path, patch, moved)
    else:
        path = f"dicom/patch_{index:04d}.dcm"
        upright = np.ascontiguousarray(patch.T[::-1]).astype(np.uint16)
        write_dicom(
            folder / path,
            upright,
            modality="MR",
            bits_stored=12,
            patient=f"MNI152-{folder.name}",
            number=index + 1,
            position=float(k),
        )
    return path
