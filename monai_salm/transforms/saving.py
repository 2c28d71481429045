# SPDX-License-Identifier: Apache-2.0
"""Writing images of a pipeline into copies of the files that they were loaded from."""

from __future__ import annotations

import secrets
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_tensor
from numpy.typing import NDArray

from monai_salm.disk import make_folder, sync
from monai_salm.errors import RefusedError, UsageError, unreadable
from monai_salm.io import Derivation, ImageHeader, SourceImage, compare_sources, read_source, write_like
from monai_salm.transforms.images import OWN, traced_steps
from monai_salm.transforms.loading import SOURCE, Provenance
from monai_salm.transforms.values import Outside, stored_values


class SaveFaithful(Transform):
    """Write an image that :class:`LoadFaithful` loaded, with other values, into a copy of its file or of its slices:
    all else stays, byte for byte, but for what DICOM asks a derived image to say.

    A DICOM file gets new SOP and Series Instance UIDs, the same for all slices of a series and every file that this
    transform writes, and says that it is derived (PS3.3 C.7.6.1.1.2 and C.12.1); its transfer syntax stays where it is
    lossless. Values are rounded to the nearest that the file can hold. Each file is written aside, read back, compared
    with what was meant and with its source, and only then gets its name; of a series all do, or none.

    Args:
        output_dir: folder to write into.
        data_root_dir: folder that output paths mirror; without one a file keeps its name, and the slices of a series
            that of their folder, too.
        outside: what becomes of values that the file cannot hold: ``refuse`` or ``clip``.
        description: for DerivationDescription, one sentence.
        uids: ``new``, or ``keep`` for files that replace their sources.
        image_type: ``derived``, or ``keep``.
        provenance: how much a DICOM file says of the change: ``full``, ``minimal`` or ``none``.
        overwrite: replace files that are there.

    Raises:
        UsageError: an option is none of these.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.transforms import LoadFaithful, SaveFaithful
        >>> image = LoadFaithful()("EXPORT/case0/image.dcm")
        >>> saved = SaveFaithful("SAVED")(image + (image > 300))
        >>> [path.name for path in Path("SAVED").iterdir()]
        ['image.dcm']
    """

    backend = [TransformBackends.NUMPY]

    def __init__(
        self,
        output_dir: str | Path,
        data_root_dir: str | Path = "",
        *,
        outside: Outside = "refuse",
        description: str = "Changed by a MONAI pipeline",
        uids: Literal["new", "keep"] = "new",
        image_type: Literal["derived", "keep"] = "derived",
        provenance: Literal["full", "minimal", "none"] = "full",
        overwrite: bool = False,
    ) -> None:
        known: dict[str, tuple[str, ...]] = {
            "outside": ("refuse", "clip"), "uids": ("new", "keep"), "image_type": ("derived", "keep"),
            "provenance": ("full", "minimal", "none"),
        }  # fmt: skip
        given = {"outside": outside, "uids": uids, "image_type": image_type, "provenance": provenance}
        for name, value in given.items():
            if value not in known[name]:
                raise UsageError(f"{name} {value!r} is unknown; known are {', '.join(known[name])}")
        self.output_dir, self.data_root_dir = Path(output_dir), Path(data_root_dir) if data_root_dir else None
        self.outside, self.overwrite = outside, overwrite
        self.derivation = Derivation(
            software="monai_salm", version=version("monai_salm"), description=description,
            # Drawn once, so that worker processes give the slices of a series one Series Instance UID.
            uid_secret=secrets.token_bytes(32) if uids == "new" else None, image_type=image_type,
            provenance=provenance,
        )  # fmt: skip

    def __call__(self, img: Any) -> MetaTensor:
        """Write an image.

        Args:
            img: (C, spatial shape of its files), real units; on the grid that it was loaded on.

        Returns:
            The image; its metadata say where it lies by ``saved_to``, a file or the folder of a series.

        Raises:
            UsageError: it was not loaded by ``LoadFaithful``, or is not on the grid of its files; or a file is there.
            RefusedError: its files cannot hold the values, or changed since they were loaded.
        """
        provenance = _provenance_of(img)
        _check_grid(img, provenance)
        sources = [_unchanged(path, digest) for path, digest in zip(provenance.files, provenance.sha256, strict=True)]
        targets = [self._target(source.header, len(sources)) for source in sources]
        if len(set(targets)) < len(targets):
            raise UsageError(f"{len(targets)} slices would get {len(set(targets))} names; give data_root_dir")
        for target, source in zip(targets, sources, strict=True):
            if target.exists() and (not self.overwrite or target.samefile(source.header.path)):
                raise UsageError(f"{target}: a file is there; give another output_dir, or overwrite=True")
        parts = _parts(img, provenance, sources)
        stored = [self._stored(source, part) for source, part in zip(sources, parts, strict=True)]
        self._write(sources, stored, targets)
        img.meta["saved_to"] = str(targets[0] if len(targets) == 1 else targets[0].parent)
        return img  # type: ignore[no-any-return]

    def _stored(self, source: SourceImage, real: NDArray[np.float64]) -> NDArray[Any]:
        try:
            return stored_values(source, real, outside=self.outside)
        except RefusedError as refusal:
            raise RefusedError(f"{source.header.path}: {refusal}") from refusal

    def _target(self, header: ImageHeader, count: int) -> Path:
        """Give where the copy of a file goes, one of so many of its image; a JPEG becomes a PNG."""
        path = header.path.with_suffix(header.output_suffix) if header.output_suffix else header.path
        name = path.name
        if self.data_root_dir is None:
            return self.output_dir / (name if count == 1 else f"{path.parent.name}/{name}")
        try:
            return self.output_dir / path.resolve().relative_to(self.data_root_dir.resolve())
        except ValueError as error:
            raise UsageError(f"{path}: it is not in data_root_dir {self.data_root_dir}; give a folder above") from error

    def _write(self, sources: list[SourceImage], stored: list[NDArray[Any]], targets: list[Path]) -> None:
        """Write all files aside, prove them, and give them their names."""
        make_folder(self.output_dir)
        with tempfile.TemporaryDirectory(prefix=".faithful-", dir=self.output_dir) as folder:
            aside = []
            for number, (source, values, target) in enumerate(zip(sources, stored, targets, strict=True)):
                place = Path(folder, str(number), target.name)  # with its name, which formats of two files go by
                place.parent.mkdir()
                try:
                    write_like(source, values, place, self.derivation)
                    _prove(source, values, place)
                except RefusedError as refusal:
                    raise RefusedError(f"{source.header.path}: {refusal}") from refusal
                aside.append(place)
            sync(aside)
            for place, target in zip(aside, targets, strict=True):
                make_folder(target.parent)
                place.replace(target)


def _provenance_of(img: Any) -> Provenance:
    text = img.meta.get(SOURCE) if isinstance(img, MetaTensor) else None
    if not isinstance(text, str):
        raise UsageError(
            "the image does not say which files it was loaded from; load it with LoadFaithful, keep its metadata "
            "(a prediction has them of its image: Invertd, or MetaTensor(prediction, meta=image.meta))"
        )
    return Provenance.of_text(text)


def _check_grid(img: MetaTensor, provenance: Provenance) -> None:
    """Hold the place of an image against that which it was loaded at.

    Raises:
        UsageError: it is another one.
    """
    wanted = torch.tensor(provenance.affine, dtype=torch.float64)
    moved = ", ".join(step for step in traced_steps(img) if step not in OWN)
    if img.pending_operations or img.affine.shape != wanted.shape or not torch.allclose(img.affine.double(), wanted):
        raise UsageError(
            f"the image is not on the grid of its files any more ({moved or 'its affine is another one'}); bring it "
            "back first, with Invertd"
        )


def _unchanged(path: str, digest: str) -> SourceImage:
    """Read a file again, which is still what it was."""
    try:
        source = read_source(Path(path))
    except (RefusedError, OSError) as error:
        reason = unreadable(error) if isinstance(error, OSError) else str(error)
        raise RefusedError(f"{path}: {reason}; it was there when the image was loaded") from error
    if source.sha256 != digest:
        raise RefusedError(f"{path}: it changed since the image was loaded; load it again")
    return source


def _parts(img: MetaTensor, provenance: Provenance, sources: list[SourceImage]) -> list[NDArray[np.float64]]:
    """Give the values of each file, in the shape of its stored ones.

    Raises:
        UsageError: the image has another shape.
    """
    header = sources[0].header
    grid = ((len(sources),) if len(sources) > 1 else ()) + header.shape
    shape = tuple(grid[axis] for axis in provenance.axes)
    channels = int(np.prod(header.trailing, dtype=int))
    if tuple(img.shape) != (channels, *shape):
        raise UsageError(
            f"the image has shape {tuple(img.shape)}, its files hold {(channels, *shape)}; bring it back onto their "
            "grid (Invertd), with their channels (AsDiscrete(argmax=True) makes one of many)"
        )
    values = convert_to_tensor(img, track_meta=False).detach().cpu().double().numpy()
    back = np.moveaxis(values, 0, -1).transpose(*np.argsort(provenance.axes), len(grid))
    whole = back.reshape(*grid, *header.trailing)
    return list(whole) if len(sources) > 1 else [whole]


def _prove(source: SourceImage, stored: NDArray[Any], written: Path) -> None:
    """Read a written file by itself, and compare it with what was meant.

    Raises:
        RefusedError: it is not that, or its header differs where it may not.
    """
    try:
        found = read_source(written)
    except RefusedError as refusal:
        raise RefusedError(
            f"what was written cannot be read by itself ({refusal}); of a header and voxels in two files make one first"
        ) from refusal
    if not np.array_equal(found.stored, stored, equal_nan=stored.dtype.kind == "f"):
        raise RefusedError("the written values, read back, are not those that were meant")
    other = [change.name for change in compare_sources(source, found) if not change.allowed]
    if other:
        raise RefusedError(f"its header would change where it may not: {', '.join(other[:5])}")
