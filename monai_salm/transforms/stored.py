# SPDX-License-Identifier: Apache-2.0
"""Applying stored noise to images in memory, after proving that they are the ones that it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.bounds import broken_bound, limits_of, measure_changes
from monai_salm.budget import FileBudget
from monai_salm.canvas import Canvas
from monai_salm.errors import RefusedError, UsageError, VerificationError
from monai_salm.noise import NoiseStore, SparseNoise, fingerprint
from monai_salm.transforms.loaded import RIGHT_AFTER_LOADING, rounding

ROUNDING = 0.25
"""Whole stored values come back from 32-bit real ones within this at most; what is farther off was changed, not
rounded.
"""

_TURNS = ((0, 1), (1, 0), (0, 1, 2), (2, 1, 0), (1, 0, 2))
"""Orders of axes in which readers give what this package has in the first of them."""


def within_bounds(
    stored: NDArray[Any], canvas: Canvas, noise: SparseNoise, place: tuple[int, int] | None
) -> NDArray[Any]:
    """Protect the stored values of one file and hold the result against its budget, by the functions that ``protect``
    does both by; arguments as :meth:`~monai_salm.canvas.Canvas.protect`.

    Raises:
        VerificationError: a bound is broken.
    """
    changed, anatomy = canvas.protect(stored, noise, place)
    problem = broken_bound(measure_changes(stored, changed, canvas, anatomy), limits_of(canvas.budgets))
    if problem:
        raise VerificationError(f"the protected values break a bound: {problem}")
    return changed


@dataclass(frozen=True)
class _StoredFile:
    """One file of a sample, as the store's record describes it."""

    place: int
    fingerprint: str
    dtype: np.dtype[Any]
    canvas: Canvas

    @property
    def budget(self) -> FileBudget:
        """The budget of its first frame, whose rescaling a reader applies to all."""
        return self.canvas.budgets[0]

    def stored_values(self, values_real: NDArray[np.float64]) -> NDArray[Any] | None:
        """Undo the rescaling: real values as loaded (often float32) back to what the file holds; None if no such file
        holds them.
        """
        stored = (values_real - self.budget.intercept) / self.budget.slope
        if self.dtype.kind == "f":
            with np.errstate(over="ignore"):
                return stored.astype(self.dtype)
        whole, limits = np.rint(stored), np.iinfo(self.dtype)
        allowed = min(ROUNDING, rounding(values_real, self.budget.intercept) / abs(self.budget.slope))
        fits = (
            np.isfinite(stored).all()
            and (np.abs(stored - whole) <= allowed).all()
            and whole.min() >= limits.min
            and whole.max() <= limits.max
        )
        return whole.astype(self.dtype) if fits else None

    def fingerprint_of(self, values_real: NDArray[np.float64]) -> str:
        """Give the fingerprint that these values would have in a file like this one; empty if none holds them."""
        stored = self.stored_values(values_real)
        return "" if stored is None else fingerprint(stored)


class StoredNoise:
    """The noise of a store, applied to real values in memory.

    Args:
        store: of a finished run.
    """

    def __init__(self, store: NoiseStore) -> None:
        self.store = store
        # Two states of one folder are two transforms to a caching data set that hashes them.
        self.state = sorted((path.name, path.stat().st_mtime_ns) for path in store.folder.glob("*.safetensors"))
        if not self.state:
            raise UsageError(f"{store.folder}: no noise in this folder; give the folder 'noise' of a run's work folder")
        self._index: dict[str, str] | None = None
        self._scales: list[_StoredFile] = []

    def __getstate__(self) -> dict[str, Any]:
        # The index is made again in each process; without it, equal transforms pickle to equal bytes.
        return self.__dict__ | {"_index": None, "_scales": []}

    def apply(self, values_real: NDArray[np.float64], sample_id: str | None) -> NDArray[np.float64]:
        """Add the noise of a sample.

        Args:
            values_real: native grid; a volume that was stored as slices in any order of slices, and in the axis order
                of this package or of MONAI.
            sample_id: None finds the sample by the values.

        Raises:
            UsageError: the values are not those of the sample.
        """
        turns = [axes for axes in _TURNS if len(axes) == values_real.ndim]
        for name in [sample_id] if sample_id is not None else self._candidates(values_real):
            files = self._files(name)
            for axes in turns:
                turned = values_real.transpose(axes)
                matches = _match(turned, files)
                if matches is None:
                    continue
                result = _protected(turned, files, matches, self.store.read(name))
                if np.array_equal(result, turned, equal_nan=True):
                    raise RefusedError(
                        f"the noise of sample {name!r} changes nothing of this image, which would stay "
                        "unprotected; leave it out"
                    )
                return result.transpose(np.argsort(axes))
        for axes in turns if sample_id is None and values_real.ndim == 3 else ():
            planes = self._by_planes(values_real.transpose(axes))
            if planes is not None:
                return planes.transpose(np.argsort(axes))
        which = f"sample {sample_id!r}" if sample_id is not None else f"any of the {len(self.state)} samples"
        raise UsageError(
            f"the image of shape {values_real.shape} does not hold the values of {which} in {self.store.folder}; "
            f"{RIGHT_AFTER_LOADING}"
        )

    def _candidates(self, values_real: NDArray[np.float64]) -> list[str]:
        """Find the samples that hold these values, or their first slice, among their files."""
        if self._index is None:
            files = [(name, file) for name in self.store for file in self._files(name)]
            self._index = {file.fingerprint: name for name, file in files}
            self._scales = list(
                {(file.budget.slope, file.budget.intercept, file.dtype): file for _, file in files}.values()
            )
        parts = [values_real.transpose(axes) for axes in _TURNS if len(axes) == values_real.ndim]
        if values_real.ndim == 3:
            parts += [part[0] for part in parts]
        prints = [scale.fingerprint_of(part) for scale in self._scales for part in parts]
        return list(dict.fromkeys(self._index[known] for known in prints if known in self._index))

    def _by_planes(self, planes: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Protect each plane by the noise of its own sample: a series that was loaded whole, of a run over its
        instances; None if one has no noise.
        """
        found = []
        for plane in planes:
            match = next(
                (name for name in self._candidates(plane) if (files := self._files(name)) and _match(plane, files)),
                None,
            )
            if match is None:
                return None
            files = self._files(match)
            found.append(_protected(plane, files, files, self.store.read(match)))
        return np.stack(found)

    def _files(self, sample_id: str) -> list[_StoredFile]:
        record = self.store.record(sample_id)
        return [
            _StoredFile(number, entry["fingerprint"], np.dtype(entry["dtype"]), Canvas.from_json(entry["canvas"]))
            for number, entry in enumerate(record["files"])
        ]


def _match(values: NDArray[np.float64], files: list[_StoredFile]) -> list[_StoredFile] | None:
    """Find the file of the whole image, or of each of its slices; None if one is missing."""
    if len(files) == 1:
        return files if files[0].fingerprint_of(values) == files[0].fingerprint else None
    if values.ndim != 3 or len(values) != len(files):
        return None
    found = []
    by_print = {file.fingerprint: file for file in files}
    scales = {(file.budget.slope, file.budget.intercept): file for file in files}
    for plane in values:
        match = next((by_print[p] for scale in scales.values() if (p := scale.fingerprint_of(plane)) in by_print), None)
        if match is None:
            return None
        found.append(match)
    return found


def _protected(
    values: NDArray[np.float64], files: list[_StoredFile], matches: list[_StoredFile], noise: SparseNoise
) -> NDArray[np.float64]:
    """Add noise file by file; values that do not change stay as they were loaded."""
    if len(files) == 1:
        return _add(values, matches[0], noise, None)
    return np.stack(
        [_add(plane, file, noise, (file.place, len(files))) for plane, file in zip(values, matches, strict=True)]
    )


def _add(
    values: NDArray[np.float64], file: _StoredFile, noise: SparseNoise, place: tuple[int, int] | None
) -> NDArray[np.float64]:
    stored = file.stored_values(values)
    if stored is None:
        raise UsageError("the image does not hold values that its file can hold")
    budget = file.budget
    changed = within_bounds(stored, file.canvas, noise, place)
    return np.where(changed == stored, values, changed.astype(np.float64) * budget.slope + budget.intercept)
