# SPDX-License-Identifier: Apache-2.0
"""Applying stored noise to images in memory, after proving that they are the ones that it was made for; and taking it
off again, with the same proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from monai_salm.bounds import broken_bound, limits_of, measure_changes
from monai_salm.budget import FileBudget
from monai_salm.canvas import Canvas
from monai_salm.errors import RefusedError, UsageError, VerificationError
from monai_salm.noise import NoiseStore, SparseNoise, fingerprint
from monai_salm.transforms.reader_metadata import rounding

ROUNDING = 0.25
"""Whole stored values come back from 32-bit real ones within this at most; what is farther off was changed, not
rounded.
"""

_TURNS = ((0, 1), (1, 0), (0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 1, 2, 3), (1, 0, 2, 3), (2, 1, 0, 3), (1, 2, 0, 3))
"""Orders of axes in which readers give what this package has in the first of them; channels come last in both."""


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

    def real_where_changed(
        self, values: NDArray[np.float64], stored: NDArray[Any], changed: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Give real values with those that differ in one of two arrays of stored ones taken from the second."""
        real = changed.astype(np.float64) * self.budget.slope + self.budget.intercept
        return np.where(changed == stored, values, real)

    def fingerprint_of(self, values_real: NDArray[np.float64]) -> str:
        """Give the fingerprint that these values would have in a file like this one; empty if none holds them."""
        stored = self.stored_values(values_real)
        return "" if stored is None else fingerprint(stored)


_Change: TypeAlias = Callable[
    [NDArray[np.float64], _StoredFile, SparseNoise, "tuple[int, int] | None"], NDArray[np.float64]
]
"""Changes the values of one file by the noise of its sample; the last is (number of the slice, number of slices)."""


@dataclass(frozen=True)
class Applied:
    """An image with its noise.

    Args:
        values_real: as the image came, with noise.
        axes: transposed by these, it has the axes of its files.
        parts: sample id and number of the file in the sample: of the whole image, or of each of its planes.
    """

    values_real: NDArray[np.float64]
    axes: tuple[int, ...]
    parts: list[tuple[str, int]]


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

    def apply(self, values_real: NDArray[np.float64], sample_id: str | None) -> Applied | None:
        """Add the noise of a sample.

        Args:
            values_real: native grid, channels last; a volume that was stored as slices in any order of slices, and in
                the axis order of this package or of MONAI.
            sample_id: None finds the sample by the values.

        Returns:
            None where the values are not those of the sample, or of any.

        Raises:
            RefusedError: the noise changes nothing of the image.
        """
        turns = [axes for axes in _TURNS if len(axes) == values_real.ndim]
        for name in [sample_id] if sample_id is not None else self._candidates(values_real):
            files = self._files(name)
            for axes in turns:
                turned = values_real.transpose(axes)
                matches = _match(turned, files)
                if matches is None:
                    continue
                parts = [(name, file.place) for file in matches]
                result = self._on(turned, parts, _add)
                if np.array_equal(result, turned, equal_nan=True):
                    raise RefusedError(
                        f"the noise of sample {name!r} changes nothing of this image, which would stay "
                        "unprotected; leave it out"
                    )
                return Applied(result.transpose(np.argsort(axes)), axes, parts)
        for axes in turns if sample_id is None and values_real.ndim == 3 else ():
            turned = values_real.transpose(axes)
            found = self._by_planes(turned)
            if found is not None:
                return Applied(self._on(turned, found, _add).transpose(np.argsort(axes)), axes, found)
        return None

    def remove(
        self,
        values_real: NDArray[np.float64],
        axes: tuple[int, ...],
        parts: Sequence[tuple[str, int]],
        originals: Mapping[str, NDArray[Any]],
    ) -> NDArray[np.float64]:
        """Take off what :meth:`apply` added.

        Args:
            values_real: as that gave them.
            axes, parts: of its :class:`Applied`.
            originals: stored values of the files that the image may be of, by their fingerprints.

        Raises:
            RefusedError: the values are not those of an original with its noise.
        """
        return self._on(values_real.transpose(axes), parts, _taken_off(originals)).transpose(np.argsort(axes))

    def missing(self, shape: tuple[int, ...], sample_id: str | None) -> str:
        """Say what an image of some shape that :meth:`apply` gave nothing for does not hold."""
        which = f"sample {sample_id!r}" if sample_id is not None else f"any of the {len(self.state)} samples"
        return f"the image of shape {shape} does not hold the values of {which} in {self.store.folder}"

    def _on(
        self,
        values: NDArray[np.float64],
        parts: Sequence[tuple[str, int]],
        change: _Change,
    ) -> NDArray[np.float64]:
        """Change values file by file: each is the whole image, or one of its planes."""
        changed, whole = [], len(parts) == 1
        files, noise = dict[str, list[_StoredFile]](), dict[str, SparseNoise]()
        for part, (name, place) in zip([values] if whole else values, parts, strict=True):
            if name not in files:
                files, noise = {name: self._files(name)}, {name: self.store.read(name)}
            count = len(files[name])
            changed.append(change(part, files[name][place], noise[name], (place, count) if count > 1 else None))
        return changed[0] if whole else np.stack(changed)

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

    def _by_planes(self, planes: NDArray[np.float64]) -> list[tuple[str, int]] | None:
        """Find the sample of each plane, of a series that was loaded whole, of a run over its instances; None if one
        has none.
        """
        found = []
        for plane in planes:
            places = (
                (name, match[0].place)
                for name in self._candidates(plane)
                if (match := _match(plane, self._files(name)))
            )
            place = next(places, None)
            if place is None:
                return None
            found.append(place)
        return found

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


def _add(
    values: NDArray[np.float64], file: _StoredFile, noise: SparseNoise, place: tuple[int, int] | None
) -> NDArray[np.float64]:
    """Add noise to the values of one file; those that do not change stay as they were loaded."""
    stored = file.stored_values(values)
    if stored is None:
        raise UsageError("the image does not hold values that its file can hold")
    return file.real_where_changed(values, stored, within_bounds(stored, file.canvas, noise, place))


def _taken_off(originals: Mapping[str, NDArray[Any]]) -> _Change:
    """Give what takes noise off the values of one file: it puts those of the original back, and proves that with the
    noise they are the values that are there. Where noise ended at the edge of a range, they do not say themselves what
    they were.
    """

    def change(
        values: NDArray[np.float64], file: _StoredFile, noise: SparseNoise, place: tuple[int, int] | None
    ) -> NDArray[np.float64]:
        changed, original = file.stored_values(values), originals.get(file.fingerprint)
        if changed is None or original is None:
            raise RefusedError("the file that it was loaded from is not there any more, or changed; load it again")
        again, _anatomy = file.canvas.protect(original, noise, place)
        if not np.array_equal(again, changed, equal_nan=True):
            raise RefusedError("it does not hold the noise of this run; load the original from its file")
        return file.real_where_changed(values, changed, original)

    return change
