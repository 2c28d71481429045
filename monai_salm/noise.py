# SPDX-License-Identifier: Apache-2.0
"""The noise of a sample, sparse and in integer steps; a folder of them; and the one function that adds noise to stored
values.

On-disk format, version 2. A store is a folder; each sample is one `safetensors` file named by the first 32 hexadecimal
digits of the SHA-256 of its sample id. Tensors: ``mask`` (uint8, one bit per working cell, C order, most significant
bit first) and ``values`` (int8, or int16 where a budget has more than 127 steps: the nonzero steps in C order).
Metadata: ``format``, ``sample_id``, ``shape`` (working grid, and 3 behind it for colors), ``levels`` (the largest
step), ``record`` (JSON, what the writer knows of the sample's files), and ``checksum`` of all of it
(:mod:`monai_salm.seals`). Files are written aside and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from monai_salm.budget import MOST_STEPS, FileBudget
from monai_salm.disk import sync, write_atomically
from monai_salm.errors import SalmError, UsageError
from monai_salm.seals import CHECKSUM, claimed_format, sealed_safetensors, unsealed_metadata
from monai_salm.slabs import slabs
from monai_salm.working_grid import axis_cells, to_native

_NARROW = 1 << 30
"""Sums of values below it are 32-bit numbers."""

STORE_FORMAT = "monai_salm.noise/2"


@dataclass(frozen=True)
class SparseNoise:
    """Noise of one sample on its working grid.

    Args:
        shape: working grid, perhaps with a last axis of colors.
        mask: packed bits, ``ceil(cells / 8)`` bytes: where the noise is not zero.
        values: the nonzero steps in C order, int8 or int16.
        levels: largest step; a file with fewer levels scales the noise down to them.

    Example:
        >>> import numpy as np
        >>> from monai_salm import SparseNoise
        >>> noise = SparseNoise.from_dense(np.array([[0, 3], [-2, 0]]), levels=3)
        >>> noise.shape, noise.values.tolist(), noise.dense().dtype
        ((2, 2), [3, -2], dtype('int16'))
    """

    shape: tuple[int, ...]
    mask: NDArray[np.uint8]
    values: NDArray[np.int8] | NDArray[np.int16]
    levels: int

    @classmethod
    def from_dense(cls, steps: NDArray[Any], levels: int) -> SparseNoise:
        """Pack an array of integer steps of any integer type, each at most ``levels`` in magnitude.

        Raises:
            ValueError: a step is beyond ``levels``, or these are beyond ``MOST_STEPS``.
        """
        largest = int(np.abs(steps.astype(np.int64)).max(initial=0))
        if largest > levels:
            raise ValueError(f"noise of {largest} steps is beyond its budget of {levels} steps")
        if levels > MOST_STEPS:
            raise ValueError(f"a budget of {levels} steps is beyond the {MOST_STEPS} that stored noise can hold")
        nonzero = steps != 0
        kind = np.int8 if levels <= 127 else np.int16
        return cls(tuple(steps.shape), np.packbits(nonzero.ravel()), steps[nonzero].astype(kind), levels)

    def problem(self) -> str:
        """Say what is wrong with noise that was read; empty if nothing is."""
        cells = int(np.prod(self.shape, dtype=np.int64))
        if not 1 <= self.levels <= MOST_STEPS:
            return f"{self.levels} levels"
        if self.mask.dtype != np.uint8 or self.mask.shape != (-(-cells // 8),):
            return f"a mask of {self.mask.dtype} {self.mask.shape} for a grid of {self.shape}"
        marked = int(np.unpackbits(self.mask, count=cells).sum())
        if self.values.dtype not in (np.int8, np.int16) or self.values.shape != (marked,):
            return f"values of {self.values.dtype} {self.values.shape} for {marked} cells"
        largest = int(np.abs(self.values.astype(np.int64)).max(initial=0))
        return f"a step of {largest}, more than its {self.levels} levels" if largest > self.levels else ""

    def dense(self) -> NDArray[np.int16]:
        """Unpack to an array of ``shape``."""
        return _filled(self._nonzero(), self.values).reshape(self.shape)

    def of_slice(self, number: int, count: int) -> NDArray[np.int16]:
        """Unpack the plane that one of ``count`` slices lies in, to an array of ``shape[1:]``."""
        plane = int(np.prod(self.shape[1:]))
        start = int(axis_cells(count, self.shape[0])[number]) * plane
        nonzero = self._nonzero()
        before, marks = np.count_nonzero(nonzero[:start]), nonzero[start : start + plane]
        return _filled(marks, self.values[before : before + np.count_nonzero(marks)]).reshape(self.shape[1:])

    def _nonzero(self) -> NDArray[np.bool_]:
        return np.unpackbits(self.mask, count=int(np.prod(self.shape))).view(bool)


def _filled(marks: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.int16]:
    """Give an array that has the values where the marks are, else 0."""
    result = np.zeros(len(marks), dtype=np.int16)
    result[np.flatnonzero(marks)] = values  # indices of booleans are faster than booleans
    return result


class NoiseStore:
    """A folder of noise, one file per sample, addressed by sample id; safe to read from many processes.

    Args:
        folder: created on the first write.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from monai_salm import NoiseStore, SparseNoise
        >>> store = NoiseStore(Path("NOISE"))
        >>> checksum = store.write("patient-1", SparseNoise.from_dense(np.array([[0, 3], [-2, 0]]), levels=3))
        >>> store.read("patient-1").dense().tolist()
        [[0, 3], [-2, 0]]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"NoiseStore({str(self.folder)!r})"

    def _path(self, sample_id: str) -> Path:
        return self.folder / f"{hashlib.sha256(sample_id.encode()).hexdigest()[:32]}.safetensors"

    def write(self, sample_id: str, noise: SparseNoise, record: Mapping[str, Any] | None = None) -> str:
        """Store the noise of a sample, replacing what was there, and give its checksum.

        Args:
            sample_id: identity of the sample; any text.
            noise: its noise.
            record: plain types kept beside it and returned by :meth:`record`.
        """
        metadata = {
            "format": STORE_FORMAT,
            "sample_id": sample_id,
            "shape": json.dumps(noise.shape),
            "levels": str(noise.levels),
            "record": json.dumps(dict(record or {}), sort_keys=True),
        }
        content = sealed_safetensors(save({"mask": noise.mask, "values": noise.values}, metadata))
        # Private, since who knows the noise can take it off again
        write_atomically(self._path(sample_id), content, private=True, synced=False)
        return unsealed_metadata(content)[CHECKSUM]

    def take(self, other: NoiseStore, sample_id: str) -> None:
        """Take a copy of the noise of a sample from another store; errors as of :meth:`read`."""
        write_atomically(self._path(sample_id), _Sound.of(other._path(sample_id)).content, private=True)

    def sync(self) -> None:
        """Wait until all noise is on the disk; :meth:`write` does not wait for it."""
        sync(self.folder.glob("*.safetensors"))

    def _open(self, sample_id: str) -> _Sound:
        try:
            return _Sound.of(self._path(sample_id))
        except FileNotFoundError:
            found = f"{self.folder}, which holds {len(self)} samples"
            raise UsageError(
                f"no noise for sample {sample_id!r} in {found}; protect it first, or check its id"
            ) from None

    def read(self, sample_id: str) -> SparseNoise:
        """Load the noise of a sample.

        Raises:
            UsageError: the store has no such sample.
            SalmError: the file is damaged or of another version.
        """
        file = self._open(sample_id)
        metadata = file.metadata
        try:
            shape = tuple(int(length) for length in json.loads(metadata["shape"]))
            tensors = load(file.content)
            noise = SparseNoise(shape, tensors["mask"], tensors["values"], int(metadata["levels"]))
        except (KeyError, ValueError, TypeError, SafetensorError) as error:
            raise _damaged(self._path(sample_id), str(error)) from error
        problem = noise.problem()
        if problem or metadata.get("sample_id") != sample_id:
            raise _damaged(self._path(sample_id), problem or f"it is of sample {metadata.get('sample_id')!r}")
        return noise

    def stamp(self, sample_id: str) -> tuple[int, int, int]:
        """Give what changes with the noise of a sample, so that what was read of it can be kept; zeros for none."""
        try:
            found = self._path(sample_id).stat()
        except OSError:
            return 0, 0, 0
        return found.st_ino, found.st_size, found.st_mtime_ns

    def record(self, sample_id: str) -> dict[str, Any]:
        """Load what the writer kept beside the noise; errors as :meth:`read`."""
        metadata = self._open(sample_id).metadata
        try:
            record: dict[str, Any] = dict(json.loads(metadata["record"]))
        except (KeyError, ValueError, TypeError) as error:
            raise _damaged(self._path(sample_id), f"record {error}") from error
        return record

    def problem(self, sample_id: str, checksum: str) -> str:
        """Say what is wrong with the noise of a sample that was written with this checksum; empty if nothing is."""
        try:
            file = self._open(sample_id)
        except SalmError as error:
            return str(error)
        if file.metadata[CHECKSUM] == checksum:
            return ""
        return f"{self._path(sample_id)}: not the noise that was written"

    def __contains__(self, sample_id: object) -> bool:
        return isinstance(sample_id, str) and self._path(sample_id).is_file()

    def __iter__(self) -> Iterator[str]:
        """Give the sample ids in the order of their file names."""
        for path in sorted(self.folder.glob("*.safetensors")):
            metadata = _Sound.of(path).metadata
            if "sample_id" not in metadata:
                raise _damaged(path, "no sample_id")
            yield metadata["sample_id"]

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("*.safetensors"))


@dataclass(frozen=True)
class _Sound:
    """A file of a store whose format and checksum are right."""

    content: bytes
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> _Sound:
        content = path.read_bytes()
        found = claimed_format(content)
        if found is not None and found != STORE_FORMAT:
            raise SalmError(
                f"{path}: noise format {found!r} is not {STORE_FORMAT!r}; use the version of monai_salm that wrote it"
            )
        try:
            metadata = unsealed_metadata(content)
        except ValueError as error:
            raise _damaged(path, str(error)) from error
        if found is None:
            raise _damaged(path, "it is of no known format")
        return cls(content, metadata)


def _damaged(path: Path, reason: str) -> SalmError:
    return SalmError(
        f"{path}: damaged noise file ({reason.partition(chr(10))[0]}); run again with --resume, which makes it anew"
    )


_HASHED_AT_ONCE = 1 << 15
"""Values, of which a copy is made, that stays in the cache of the processor."""


def fingerprint(stored: NDArray[Any]) -> str:
    """Give the identity of an array of stored values: 32 hexadecimal digits from its shape and values, whatever its
    dtype.
    """
    digest = hashlib.sha256(repr(tuple(stored.shape)).encode())
    values = np.ascontiguousarray(stored).reshape(-1)
    for start in range(0, values.size, _HASHED_AT_ONCE):
        digest.update(values[start : start + _HASHED_AT_ONCE].astype("<f8").data)
    return digest.hexdigest()[:32]


def add_noise(
    stored: NDArray[Any], noise: NDArray[Any], levels: int, budget: FileBudget, carriers: NDArray[np.bool_]
) -> NDArray[Any]:
    """Add noise to the stored values of one image, within its budget; the only place where values change.

    Whatever the search proposed: a value never moves by more than ``budget.levels`` steps, never outside ``carriers``,
    never out of ``budget.range_stored``, and never onto or off the padding or the empty background.

    Args:
        stored: values of one image, native grid, perhaps with trailing axes (colors, points in time).
        noise: steps on the image's part of the working grid, positive where the real value is to rise; trailing axes
            that it lacks share it.
        levels: the largest step in the unit of ``noise``.
        budget: of this image.
        carriers: bool, the shape of ``stored``; see :meth:`~monai_salm.views.PictureView.carriers`.

    Returns:
        Array of the shape and dtype of ``stored``.

    Example:
        >>> import numpy as np
        >>> from monai_salm import Epsilon, IntensityWindow, PerturbationBudget, add_noise
        >>> stored = np.array([[0, 100], [150, 255]], dtype=np.uint8)  # 0 and 255 are the extremes, so they stay
        >>> budget = PerturbationBudget(Epsilon(8 / 255), IntensityWindow(0, 255)).bind(stored)
        >>> add_noise(stored, np.full((2, 2), 20), 20, budget, np.ones((2, 2), dtype=bool)).tolist()
        [[0, 108], [158, 255]]
    """
    steps = noise.astype(np.int64)
    if levels != budget.levels:
        steps = np.sign(steps) * (np.abs(steps) * budget.levels // levels)
    steps = np.clip(steps, -budget.levels, budget.levels) * (1 if budget.slope > 0 else -1)
    steps = steps.astype(np.int16) if budget.levels <= MOST_STEPS else steps
    result = np.empty_like(stored, subok=False)
    for slab in slabs(stored, noise.ndim):
        native = _of_part(steps, stored.shape, slab)
        native = native.reshape(native.shape + (1,) * (stored.ndim - noise.ndim))
        result[slab] = _added(stored[slab], native, budget, carriers[slab])
    return result


def _of_part(steps: NDArray[Any], shape: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[Any]:
    """Give the steps of a part of the native grid."""
    for axis, one in enumerate(part):
        length = steps.shape[axis]
        if len(range(shape[axis])[one]) < shape[axis]:
            steps = np.take(steps, axis_cells(shape[axis], length)[one], axis=axis)
    sizes = [len(range(length)[one]) for length, one in zip(shape, part, strict=False)]
    return to_native(steps, (*sizes, *shape[len(part) : steps.ndim]))


def _added(stored: NDArray[Any], native: NDArray[Any], budget: FileBudget, carriers: NDArray[np.bool_]) -> NDArray[Any]:
    """Add steps to a part of the stored values; the steps and the marks of what carries them have its shape, or shape
    1 along axes that share them.
    """
    low, high = budget.range_stored
    moved = carriers & budget.within(stored)
    moved &= native != 0
    narrow = _stays_in_type(stored.dtype, budget)
    if narrow:
        steps = native.astype(stored.dtype)
        if budget.quantum_stored != 1:
            steps *= stored.dtype.type(int(budget.quantum_stored))
        changed: NDArray[Any] = np.add(stored, steps)  # what does not move may wrap around
        np.clip(changed, stored.dtype.type(int(low)), stored.dtype.type(int(high)), out=changed)
    elif np.issubdtype(stored.dtype, np.integer):
        wide: Any = np.int64
        if stored.dtype.itemsize <= 2 and max(abs(low), abs(high), budget.epsilon_stored) < _NARROW:
            wide = np.int32
        added = native.astype(wide) * wide(budget.quantum_stored)
        changed = np.clip(stored.astype(wide) + added, wide(int(low)), wide(int(high)))
    else:
        native = np.where(moved, native, 0)
        with np.errstate(invalid="ignore"):
            changed = np.clip(
                (stored.astype(np.float64) + native.astype(np.float64) * budget.quantum_stored).astype(stored.dtype),
                low,
                high,
            ).astype(stored.dtype)
            # The sum is rounded to the file's type; where that went beyond the budget, the next value toward the source
            # is within it.
            beyond = np.abs(changed.astype(np.float64) - stored.astype(np.float64)) > budget.epsilon_stored
        changed = np.where(beyond, np.nextafter(changed, stored), changed)
    if budget.has_empty:
        empty = budget.empty(stored)
        empty |= budget.empty(changed)
        moved &= np.logical_not(empty, out=empty)
    if narrow:  # a choice one by one takes the processor three times as long
        changed -= stored
        changed *= moved
        changed += stored
        return changed
    return np.where(moved, changed, stored).astype(stored.dtype)


def _stays_in_type(dtype: np.dtype[Any], budget: FileBudget) -> bool:
    """Say whether no value of a type of integers that lies in the range leaves the type before it is clipped."""
    if dtype.kind not in "iu":
        return False
    ends, (low, high), most = np.iinfo(dtype), budget.range_stored, budget.epsilon_stored
    return bool(ends.min <= low - most and high + most <= ends.max and most <= ends.max and low <= high)
