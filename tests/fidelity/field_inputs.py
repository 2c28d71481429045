# SPDX-License-Identifier: Apache-2.0
"""Inputs as they come from the field: exports, label maps and pictures that look like one another, and what a run says
of them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.pipeline.fates import FileFate, load_fates
from tests.exports import KEY, mr_slice, nifti_file
from tests.io.builders import CT

RANDOM = ("--method", "random", "--working-size", "24", "--key-file", str(KEY), "--quiet")
"""A run without labels or a search, which prints nothing but its result."""
LATIN_1 = b"caf\xe9"
"""A name that is no UTF-8, as old archives have them."""
BOTH_OPTIONS = ("--label-maps", "--pictures")


@dataclass(frozen=True)
class Told:
    """What a command said: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.out + self.err

    def words(self, folder: Path) -> str:
        """All of it without the path of the test's folder, which has words of its own."""
        return self.text.replace(str(folder), "")

    @property
    def json(self) -> Any:
        """The one object that ``--json`` prints."""
        return json.loads(self.out)


Command = Callable[..., Told]


def fates_of(output: Path) -> dict[str, FileFate]:
    """Read the manifest of a run."""
    return load_fates(output.with_name(f"{output.name}.work") / "manifest.jsonl")


# DICOM ---------------------------------------------------------------------------------------------------------------
def ct_values(number: int, size: int = 24) -> NDArray[np.int16]:
    """Give a slice of soft tissue in air, as stored with an intercept of -1024."""
    generator = np.random.default_rng(number)
    rows, columns = np.ogrid[:size, :size]
    inside = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (size / 2.6) ** 2
    return np.where(inside, 1000 + generator.integers(0, 200, (size, size)), 0).astype(np.int16)


def ct_slice(path: Path, number: int, values: NDArray[Any] | None = None, **extra: Any) -> Path:
    """Write a CT instance of its own series."""
    own = {"Modality": "CT", "SOPClassUID": CT, "RescaleIntercept": -1024}
    return mr_slice(path, number, ct_values(number) if values is None else values, **(own | extra))


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    """Give a short element in explicit VR, little endian."""
    value += bytes(len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value


def meta_end(content: bytes) -> int:
    """Give the place behind the file meta information, as its length says."""
    return 144 + int(struct.unpack_from("<L", content, 140)[0])


def meta_elements(content: bytes) -> list[int]:
    """Give the element numbers of the file meta information, in order."""
    found, place, end = [], 132, meta_end(content)
    while place < end:
        _, number, vr = struct.unpack_from("<HH2s", content, place)
        found.append(number)
        long = vr in (b"OB", b"UN")
        place += (
            12 + struct.unpack_from("<L", content, place + 8)[0]
            if long
            else 8 + struct.unpack_from("<H", content, place + 6)[0]
        )
    return found


# Pictures that were taken for label maps, and label maps that were taken for pictures
# ----------------------------------
def picture_on(background: int, dtype: str = "u2", shape: tuple[int, int, int] = (48, 48, 12)) -> NDArray[Any]:
    """Give noisy anatomy, some hundreds of values, on a constant background that is most of the volume."""
    generator = np.random.default_rng(background)
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    values = 150 + 150 * np.cos(3 * grid[0]) * np.cos(2 * grid[1]) + generator.normal(0, 20, shape)
    inside = sum(axis**2 for axis in grid[:2]) < 0.16
    return np.where(inside, np.clip(values, 2, 4000), background).round().astype(dtype)


def enlarged(times: tuple[int, int, int] = (6, 6, 3)) -> NDArray[np.uint16]:
    """Give noisy anatomy enlarged by nearest neighbors, so that most neighbors are equal."""
    small = picture_on(0, shape=(12, 12, 6)) + np.random.default_rng(5).integers(20, 200, (12, 12, 6))
    for axis, count in enumerate(times):
        small = np.repeat(small, count, axis)
    return small.astype(np.uint16)


def stacked_labels(labels: range, *, rings: range = range(0), size: int = 40, slices: int = 512) -> NDArray[np.uint8]:
    """Give structures stacked along the last axis, as vertebrae are, and rings around them, as ribs are."""
    rows, columns = np.ogrid[:size, :size]
    radius = np.hypot(rows - size / 2, columns - size / 2)
    found = np.zeros((size, size, slices), np.uint8)
    for structures, inside in ((labels, radius < size / 5), (rings, (radius > size / 3) & (radius < size / 2.4))):
        for number, label in enumerate(structures):
            first, last = (slices * (number + step) // len(structures) for step in (0, 1))
            found[inside, first:last] = label
    return found


def landmarks(count: int, shape: tuple[int, int, int], side: int = 1) -> NDArray[np.uint8]:
    """Give labels of few voxels, one number each."""
    found = np.zeros(shape, np.uint8)
    for number in range(count):
        row, column = 5 + (7 * number) % (shape[0] - 12), 5 + (11 * number) % (shape[1] - 12)
        found[row : row + side, column : column + side, min(shape[2] - 1, number * shape[2] // count + 1)] = number + 1
    return found


def regions(count: int = 4, shape: tuple[int, int, int] = (48, 48, 20)) -> NDArray[np.uint8]:
    """Give a few nested regions that fill most of the volume."""
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid)) / np.sqrt(3)
    return np.clip(count - np.floor(radius * (count + 1)), 0, count).astype(np.uint8)


def scaled_labels(path: Path, labels: NDArray[Any] | None = None) -> Path:
    """Write labels 0 to 4 as nibabel does where the header asks for int16 and the array is of floats: stretched over
    all of int16.
    """
    real = (regions() if labels is None else labels).astype(np.float64)
    slope = float(np.float32(4 / 65535))
    stored = np.rint(real / slope - 32768).clip(-32768, 32767).astype(np.int16)
    return nifti_file(path, stored, slope=slope, intercept=float(np.float32(32768 * slope)))


def itk_file(path: Path, values: NDArray[Any], *, packed: bool = True) -> Path:
    """Write NRRD or MetaImage by SimpleITK."""
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T)), str(path), useCompression=packed)
    return path


def volume_file(path: Path, values: NDArray[Any]) -> Path:
    """Write a volume in the format that its name says."""
    return nifti_file(path, values) if ".nii" in path.name else itk_file(path, values)
