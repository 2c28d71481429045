# SPDX-License-Identifier: Apache-2.0
"""What every image format must offer: a header, the stored values with the rule to real values, and a faithful write.

Contract of a format module (``dicom``, ``nifti``), held by ``tests/io/test_contract.py``:

* ``sniff(path)`` says from the content, never from the suffix, whether the file is of this format;
* ``read_header(path)`` reads what scanning and planning need, without the pixels;
* ``read_source(path)`` reads the values exactly as they are stored, in the file's own axis order;
* ``write_like(source, stored, target, derivation)`` writes a file that differs from the source only in those values
  and, where the format has identities, in the attributes that a derived image must change;
* ``compare_headers(original, other)`` lists every difference outside the pixel values and says which are allowed.

What a module cannot do faithfully it refuses with :class:`~monai_salm.errors.RefusedError`. This package knows
nothing of noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError

StoredArray = NDArray[Any]
"""Values as the file holds them: integers, or the floats of a float NIfTI file."""


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What is known of a picture without reading its pixels.

    Args:
        path: the file.
        format: the module that reads it.
        shape: stored axis order: ``(rows, columns)`` for a DICOM instance, ``(i, j, k)`` for NIfTI.
        dtype: type of the stored values, in native byte order.
        modality: DICOM Modality code (PS3.3 C.7.3.1.1.1), empty where the file does not say.
        identifiers: those of ``SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID, FrameOfReferenceUID, PatientID,
            AccessionNumber`` that the file has.
        slice_position: millimeters along the slice normal, to order the slices of a series; None where unknown.
        instance_number: DICOM InstanceNumber (PS3.3 C.7.6.1), the second choice to order by; None where unknown.
        spacing: millimeters between samples along each axis of ``shape``; 1.0 where unknown.
        window_real: (low, high) of the file's first VOI window in real units; None without one.
        derivation: what the file says of how it was made (DerivationDescription, PS3.3 C.7.6.1.1.3); empty where it
            says nothing.
    """

    path: Path
    format: Literal["dicom", "nifti"]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    modality: str = ""
    identifiers: Mapping[str, str] = field(default_factory=dict)
    slice_position: float | None = None
    instance_number: int | None = None
    spacing: tuple[float, ...] = ()
    window_real: tuple[float, float] | None = None
    derivation: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """One picture as its file holds it; ``real = slope * stored + intercept``.

    Args:
        header: see :class:`ImageHeader`.
        stored: read-only array of ``header.shape`` and ``header.dtype``.
        slope: real units per stored unit; never 0.
        intercept: real value of stored 0.
        range_stored: lowest and highest value that the file can hold (BitsStored and signedness, or the dtype).
        padding_stored: inclusive range of values that mean "no image here" and may neither be entered nor left
            (PixelPaddingValue and PixelPaddingRangeLimit, PS3.3 C.7.5.1.1.2); None without one.
    """

    header: ImageHeader
    stored: StoredArray
    slope: float = 1.0
    intercept: float = 0.0
    range_stored: tuple[float, float]
    padding_stored: tuple[float, float] | None = None

    @property
    def real(self) -> NDArray[np.float64]:
        """Values in real units (HU, SUV, ...), float64, same shape as ``stored``."""
        return self.stored.astype(np.float64) * self.slope + self.intercept

    @property
    def padding(self) -> NDArray[np.bool_]:
        """True where a value lies in the padding range."""
        if self.padding_stored is None:
            return np.zeros(self.stored.shape, dtype=bool)
        low, high = self.padding_stored
        return (self.stored >= low) & (self.stored <= high)


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """What a written file says of how it was made; formats without such attributes ignore it.

    Args:
        software: name of the software that changed the file.
        version: its version.
        description: one sentence for a reader, with the bound that was kept.
        uid_secret: key of the deterministic map from old to new UIDs; None keeps the old UIDs.
        changed_uids: old SOP and Series Instance UIDs of all images that the same run changes, so that references
            to them are rewritten too; the file's own are always in the map.
    """

    software: str
    version: str
    description: str
    uid_secret: bytes | None = field(default=None, repr=False)
    changed_uids: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, kw_only=True)
class HeaderChange:
    """One difference between two files outside the pixel values.

    Args:
        name: attribute keyword with its path, or the name of a header field.
        original: value in the original, shortened for print; empty if absent there.
        other: value in the other file, likewise.
        allowed: True if a derived image must or may differ here, and differs in the allowed way.
    """

    name: str
    original: str
    other: str
    allowed: bool


class FormatModule(Protocol):
    """What a module that reads and writes one format offers; see the contract at the top of this file."""

    def sniff(self, path: Path) -> bool:
        """Say from the content whether a file is of this format."""

    def read_header(self, path: Path) -> ImageHeader:
        """Read what planning needs."""

    def read_source(self, path: Path) -> SourceImage:
        """Read the stored values."""

    def write_like(self, source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
        """Write other values into a copy of the source's file."""

    def compare_headers(self, original: Path, other: Path) -> list[HeaderChange]:
        """List every difference outside the values."""


def check_stored(source: SourceImage, stored: StoredArray, target: Path) -> None:
    """Hold new values against what a source's file can hold, before a module writes them.

    Args:
        source: the picture.
        stored: its new values.
        target: where they are to be written.

    Raises:
        RefusedError: other shape or type, values out of range, a padding value or a value that is not finite entered,
            left or moved, or the source's own file as target.
    """
    if stored.shape != source.stored.shape or stored.dtype != source.stored.dtype:
        raise RefusedError(f"the new values are {stored.dtype} {stored.shape}, the file holds {source.stored.dtype} {source.stored.shape}")
    finite = np.isfinite(source.stored)
    if not np.array_equal(finite, np.isfinite(stored)) or stored[~finite].tobytes() != source.stored[~finite].tobytes():
        raise RefusedError("values that are not finite (NaN, infinity) may neither appear, vanish nor change")
    low, high = source.range_stored
    extremes = (stored[finite].min(), stored[finite].max()) if finite.any() else (low, low)
    if extremes[0] < low or extremes[1] > high:
        raise RefusedError(f"the new values are {extremes[0]} to {extremes[1]}, the file holds {low:g} to {high:g}")
    before = source.padding
    after = replace(source, stored=stored).padding
    moved = (before != after) | (before & (stored != source.stored))
    if moved.any():
        raise RefusedError(f"{np.count_nonzero(moved)} values enter, leave or move within the padding range {source.padding_stored}")
    if target.exists() and target.samefile(source.header.path):
        raise RefusedError("the target is the source's own file; write to another folder")


@contextmanager
def atomic_target(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that is renamed to it on success and deleted on any error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp", delete=False) as handle:
        temporary = Path(handle.name)
    try:
        temporary.chmod(0o644)
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
