# SPDX-License-Identifier: Apache-2.0
"""Writing a derived image: the source's bytes with new pixels and the attributes that PS3.3 asks for, nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation, SourceImage, StoredArray
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.derivation import derivation_edits
from monai_salm.io.dicom.files import DicomFile
from monai_salm.io.dicom.meta import file_parts
from monai_salm.io.dicom.new_pixels import PixelReplacement, replaced_pixels
from monai_salm.io.dicom.remapping import Bytes, constant, rewritten
from monai_salm.io.dicom.stored_values import picture_behind
from monai_salm.io.dicom.uids import UidMap
from monai_salm.io.new_values import check_stored


def write_like(source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
    """Write a derived image: ``stored`` in place of the values, all else as it was or as PS3.3 C.7.6.1.1.2 asks.

    Where neither the values nor the identity change and nothing is to be said, no image is derived: the source's bytes
    are written.

    Args:
        source: what ``read_source`` gave; its file is read again where it may have changed.
        stored: new values, of the source's shape and dtype.
        target: path to write.
        derivation: what the file is to say of the change.

    Raises:
        RefusedError: the values do not fit the file, or the file is no longer what it was.
    """
    check_stored(source, stored, target)
    picture = picture_behind(source, unchanged=True)
    if picture.source.stored is not source.stored and not np.array_equal(picture.source.stored, source.stored):
        raise RefusedError("the file changed since it was read; read it again")
    silent = derivation.uid_secret is None and derivation.image_type == "keep" and derivation.provenance == "none"
    if silent and np.array_equal(stored, source.stored):
        target.write_bytes(source.header.path.read_bytes())
        return
    with target.open("wb") as handle:
        handle.writelines(_derived(picture.file, replaced_pixels(picture, stored), derivation))


def _derived(file: DicomFile, pixels: PixelReplacement, derivation: Derivation) -> list[Bytes]:
    """Give the parts of the whole file."""
    own = {file.text(tags.SOP_INSTANCE_UID), file.text(tags.SERIES_INSTANCE_UID)} - {""}
    uid_map = UidMap(derivation.uid_secret, frozenset(own), derivation.changed_uids)
    edits = derivation_edits(file, derivation) | {tag: constant(encoded) for tag, encoded in pixels.elements.items()}
    return file_parts(
        file,
        rewritten(file.elements, file.encoding, uid_map, edits),
        pixels.transfer_syntax,
        uid_map,
        signed=derivation.provenance != "none",
    )
