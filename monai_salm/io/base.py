# SPDX-License-Identifier: Apache-2.0
"""What every image format must offer: a header, the stored values with the rule to real values, and a faithful write.

Contract of a format module (``dicom``, ``nifti``, ``itk``, ``raster``), held by ``tests/io/test_contract.py``:

* ``sniff(path)`` says from the content, never from the suffix, whether the file is of this format; ``head``, its first
  bytes, keeps it from reading them again;
* ``identify(path, said)`` reads what scanning and planning need: the header of an image, or what is known of a
  document; what the user says of picture or label map (``said``) counts before what the file declares, and that before
  its values (:mod:`monai_salm.io.kinds`);
* ``read_source(path)`` reads an image's values exactly as they are stored: first the axes that noise lies on, then
  those that share it;
* ``write_like(source, stored, target, derivation)`` writes a file that differs from the source only in those values
  and, where the format has identities, in the attributes that a derived image must change;
* ``read_back(source, written)`` reads what ``write_like`` wrote, also where the file is only half of a pair whose other
  half lies beside the source;
* ``write_document(path, target, derivation)`` writes a document, in which only references to changed images may
  differ;
* ``compare_headers(original, other)`` lists every difference outside the pixel values and says which are allowed;
  ``compare_sources(original, other)`` does so of two images that were read, without reading their files again;
* ``kept_bytes(source)`` gives the bytes of an image's file that were read, where they are still there;
* ``affine(source)`` gives where an image lies in the patient, where the file says it.

What ``read_source`` and ``read_back`` give has an ``origin``: the SHA-256 of the bytes that were decoded
(:attr:`SourceImage.sha256`), and what the writer needs, so that each file is read once. Where the file may have changed
since, ``write_like`` reads it again, and refuses one with other values.

What a module cannot do faithfully it refuses with :class:`~monai_salm.errors.RefusedError`. This package knows
nothing of noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.kinds import KNOWN_BY, LABEL_MAP, Judgement, Kind
from monai_salm.io.origins import Buffer, FileState, Origin

Format = Literal["dicom", "nifti", "itk", "raster", "other"]
"""Names of the modules that read a format; ``other`` is a document that none reads."""

StoredArray = NDArray[Any]
"""Values as the file holds them: integers, or the floats of a float NIfTI file."""

_Content = TypeVar("_Content")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHeader:
    """What is known of an image without reading its pixels.

    Args:
        path: the file.
        format: the module that reads it.
        shape: of the grid that noise lies on: ``(rows, columns)``, or ``(frames or tiles, rows, columns)`` of a stack,
            for DICOM; ``(i, j, k)`` for NIfTI.
        trailing: axes of the stored values behind those of ``shape``, which share one place: the samples of a color,
            the points of a time series.
        color: whether the last axis of ``trailing`` is red, green and blue.
        stacked: whether the first axis of ``shape`` counts images of their own, each with its own anatomy and its own
            rescaling.
        regions: parts of a frame that hold the image where the rest is text and graphics: (first row, row behind the
            last, first column, column behind the last); empty where the file does not say. Of
            SequenceOfUltrasoundRegions (PS3.3 C.8.5.5).
        dtype: type of the stored values, in native byte order.
        modality: DICOM Modality code (PS3.3 C.7.3.1.1.1), empty where the file does not say.
        identifiers: those of ``SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID, FrameOfReferenceUID, PatientID,
            AccessionNumber`` that the file has.
        slice_position: millimeters along the slice normal, to order the slices of a series; None where unknown.
        instance_number: DICOM InstanceNumber (PS3.3 C.7.6.1), the second choice to order by; None where unknown.
        spacing: millimeters between samples along each axis of ``shape``; 1.0 where unknown.
        spacing_known: whether the file gives all that ``spacing`` says of its planes; False where some of it is the
            1.0 of what is unknown.
        window_real: (low, high) of the file's first VOI window in real units; None without one.
        derivation: what the file says of how it was made (DerivationDescription, PS3.3 C.7.6.1.1.3); empty where it
            says nothing.
        output_suffix: suffix of the written file where it has to be another than the source's (a JPEG is written as
            ``.png``); empty otherwise.
        output_transfer_syntax: DICOM: how the written file is encoded where that has to be another than the source's;
            empty otherwise.
        references: UIDs of instances and series that it refers to, at any depth; its own are not among them.
        notes: what whoever shares the file must know of it and of how it is written: unprotected copies of the pixels
            in private elements, a lossy source that is written native, removed signatures; one sentence each.
        left_out: what of the file a written one will lack although a user may miss it, such as a second image; empty
            for nothing.
        unprotected: what in a written file may still show the image without noise, such as a copy in a private
            element; empty for nothing.
    """

    path: Path
    format: Format
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    trailing: tuple[int, ...] = ()
    color: bool = False
    stacked: bool = False
    regions: tuple[tuple[int, int, int, int], ...] = ()
    modality: str = ""
    identifiers: Mapping[str, str] = field(default_factory=dict)
    slice_position: float | None = None
    instance_number: int | None = None
    spacing: tuple[float, ...] = ()
    spacing_known: bool = False
    window_real: tuple[float, float] | None = None
    derivation: str = ""
    output_suffix: str = ""
    output_transfer_syntax: str = ""
    references: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    left_out: str = ""
    unprotected: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A file that is no image and may be handed out as it is, but for references to images that changed.

    Args:
        path: the file.
        format: the module that reads it; ``other`` for text and other files that no module reads.
        kind: what it is, in words ("RT Dose Storage", "label map", "text").
        identifiers: as in :class:`ImageHeader`.
        references: UIDs of instances and series that it refers to, at any depth; its own are not among them.
        files: paths that a DICOMDIR lists, relative to its folder, with forward slashes.
        notes: as in :class:`ImageHeader`.
        judgement: of a label map: what it was known by.
        unprotected: as in :class:`ImageHeader`.
    """

    path: Path
    format: Format
    kind: str
    identifiers: Mapping[str, str] = field(default_factory=dict)
    references: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    judgement: Judgement | None = None
    unprotected: str = ""

    @classmethod
    def of_labels(
        cls, path: Path, format_name: Format, judgement: Judgement | None = None, unprotected: str = ""
    ) -> Document:
        """Describe a label map; without a judgement it is one because the user says so."""
        found = judgement or Judgement("label map", "the user says so")
        return cls(
            path=path,
            format=format_name,
            kind=LABEL_MAP,
            notes=(f"{KNOWN_BY}{found.evidence}",),
            judgement=found,
            unprotected=unprotected,
        )


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """One image as its file holds it; ``real = slope * stored + intercept``.

    Args:
        header: see :class:`ImageHeader`.
        stored: read-only array of ``header.shape + header.trailing`` and ``header.dtype``. Color that is stored as
            luminance and chroma (YBR) is given as its luminance alone, without a trailing axis; RGB has a trailing axis
            of 3.
        slope: real units per stored unit; never 0.
        intercept: real value of stored 0.
        frame_rescale: (slope, intercept) of each image of a stack, where they are not all the same; empty otherwise.
        range_stored: lowest and highest value that the file can hold (BitsStored and signedness, or the dtype).
        padding_stored: inclusive range of values that mean "no image here" and may neither be entered nor left
            (PixelPaddingValue and PixelPaddingRangeLimit, PS3.3 C.7.5.1.1.2); None without one.
        origin: the file as it was read, for the writer; None for an image that is of no file.
    """

    header: ImageHeader
    stored: StoredArray
    slope: float = 1.0
    intercept: float = 0.0
    range_stored: tuple[float, float]
    padding_stored: tuple[float, float] | None = None
    frame_rescale: tuple[tuple[float, float], ...] = ()
    origin: Origin | None = field(default=None, repr=False, compare=False)

    @property
    def sha256(self) -> str:
        """SHA-256, hexadecimal, of the very bytes that the image was decoded from; empty for one that is of no
        file.
        """
        return "" if self.origin is None else self.origin.sha256

    def with_origin(self, content: object, digest: Callable[[], str], *states: FileState) -> SourceImage:
        """Give the image with the file that it was read from; see :class:`~monai_salm.io.origins.Origin`."""
        origin = Origin(content=content, header=self.header, stored=self.stored, digest=digest, states=states)
        return replace(self, origin=origin)

    def kept(self, kind: type[_Content], *, unchanged: bool = False) -> _Content | None:
        """Give what its module kept of the file; None where it kept nothing, or of another image than this.

        Args:
            kind: type of what is kept.
            unchanged: nothing is given either where the file may have changed since it was read.
        """
        origin = self.origin
        if origin is None or not isinstance(origin.content, kind) or origin.stored is not self.stored:
            return None
        return origin.content if origin.header == self.header and (not unchanged or origin.is_same()) else None

    def pictures(self) -> list[SourceImage]:
        """Give the images of a stack, each with its own rescaling, as views; of any other file the image itself."""
        if not self.header.stacked:
            return [self]
        header = replace(self.header, shape=self.header.shape[1:], spacing=self.header.spacing[1:], stacked=False)
        scales = self.frame_rescale or ((self.slope, self.intercept),) * len(self.stored)
        return [
            replace(self, header=header, stored=frame, slope=slope, intercept=intercept, frame_rescale=())
            for frame, (slope, intercept) in zip(self.stored, scales, strict=True)
        ]

    @property
    def real(self) -> NDArray[np.float64]:
        """Values in real units (HU, SUV, ...), float64, same shape as ``stored``."""
        if self.frame_rescale:
            return np.stack([picture.real for picture in self.pictures()])
        with np.errstate(invalid="ignore", over="ignore"):  # signaling NaN of a file is no error of ours
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
        changed_uids: old SOP and Series Instance UIDs of all objects that get new ones in the same run, so that
            references to them are rewritten too; an image's own are always in the map.
        image_type: ``derived`` sets value 1 of ImageType (PS3.3 C.7.6.1.1.2), ``keep`` leaves it.
        provenance: ``full`` writes DerivationDescription, DerivationCodeSequence and ContributingEquipmentSequence;
            ``minimal`` the description alone; ``none`` nothing that says that the image was changed, ImageType aside.
        source_reference: add a SourceImageSequence item that names the original; only with full provenance.
        absent_files: of a DICOMDIR: paths, as in :class:`Document`, whose records are to be taken out.
        transfer_syntaxes: of a DICOMDIR: old SOP Instance UID -> new transfer syntax UID of each image that is
            written in another one.
    """

    software: str
    version: str
    description: str
    uid_secret: bytes | None = field(default=None, repr=False)
    changed_uids: frozenset[str] = field(default=frozenset(), repr=False)
    image_type: Literal["derived", "keep"] = "derived"
    provenance: Literal["full", "minimal", "none"] = "full"
    source_reference: bool = True
    absent_files: frozenset[str] = frozenset()
    transfer_syntaxes: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Casing:
    """What of an image's file is not its values, so that with these it is the file again, byte for byte.

    Args:
        before, after: bytes around the values.
        coding: how the values lie between them, for the module of the format; plain types.
    """

    before: bytes = field(repr=False)
    after: bytes = field(repr=False)
    coding: Mapping[str, Any] = field(default_factory=dict)


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

    def sniff(self, path: Path, head: bytes | None = None) -> bool:
        """Say from the content whether a file is of this format; its first bytes may be known."""

    def identify(self, path: Path, said: Kind | None = None) -> ImageHeader | Document:
        """Read what scanning and planning need."""

    def read_source(self, path: Path) -> SourceImage:
        """Read the stored values."""

    def write_like(self, source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
        """Write other values into a copy of the source's file."""

    def read_back(self, source: SourceImage, written: Path) -> SourceImage:
        """Read what was written for a source."""

    def write_document(self, path: Path, target: Path, derivation: Derivation) -> None:
        """Write a document with its references renewed."""

    def compare_headers(self, original: Path, other: Path) -> list[HeaderChange]:
        """List every difference outside the values."""

    def compare_sources(self, original: SourceImage, other: SourceImage) -> list[HeaderChange]:
        """List the same of two images as they were read."""

    def kept_bytes(self, source: SourceImage) -> Buffer | None:
        """Give the bytes of an image's file that were read; None where they were not kept, or more than one file was
        read.
        """

    def affine(self, source: SourceImage) -> NDArray[np.float64] | None:
        """Give the matrix from the image's axes to the patient's; None where the file does not say it."""


class CasedFormat(Protocol):
    """What a module offers besides whose files come back byte for byte from their values and the rest."""

    def casing(self, source: SourceImage) -> Casing | None:
        """Give what of an image's file is not its values; None where it does not come back from that and them."""

    def cased(self, casing: Casing, template: SourceImage, stored: StoredArray) -> Iterator[Buffer]:
        """Give the bytes of the file again."""
