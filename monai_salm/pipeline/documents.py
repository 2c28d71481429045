# SPDX-License-Identifier: Apache-2.0
"""Writing what is no image: byte for byte, but for references, which follow what they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from monai_salm.disk import within
from monai_salm.errors import RefusedError
from monai_salm.io import Derivation, atomic_target, write_document
from monai_salm.pipeline.as_planned import ChangedError, as_planned
from monai_salm.pipeline.fates import FileFate
from monai_salm.pipeline.inventory import Inventory, file_digest
from monai_salm.pipeline.references import records_left_out, why_header_stays

RENEWED = "references to changed objects were renewed"
"""What the fate of a document says that is not as it was."""


def write_documents(
    inventory: Inventory,
    paths: Mapping[str, str],
    output: Path,
    derivation: Derivation,
    written: frozenset[str],
    *,
    private: bool = False,
) -> Iterable[FileFate]:
    """Write what is no image, DICOMDIRs last: byte for byte, but for references.

    Args:
        inventory: of the input.
        paths: path of a document -> digest of its bytes.
        output: folder to write to.
        derivation: with the UIDs that get new ones.
        written: paths of all other files in the output, to tell a DICOMDIR what is absent.
        private: as in :func:`~monai_salm.disk.atomic_target`.
    """
    present = set(written)
    for path in sorted(paths, key=lambda path: (bool(inventory.documents[path].files), path)):
        document = inventory.documents[path]
        alone = why_header_stays(inventory, path, written)
        if alone:
            yield FileFate(path=path, status="refused", reason=alone, sha256_in=paths[path])
            continue
        left_out, absent = records_left_out(inventory, path, present)
        try:
            target = within(output, path, itself=True)
            with (
                atomic_target(target, private=private, synced=False) as temporary,
                as_planned(document.path, paths[path]),
            ):
                write_document(document, temporary, replace(derivation, absent_files=absent))
                digest = file_digest(temporary)
        except ChangedError as error:
            yield FileFate(path=path, status="failed", reason=str(error), sha256_in=paths[path])
            continue
        except RefusedError as refusal:
            yield FileFate(path=path, status="refused", reason=str(refusal), sha256_in=paths[path])
            continue
        except OSError as error:
            yield FileFate(
                path=path, status="failed", reason=f"cannot be copied: {error.strerror or error}", sha256_in=paths[path]
            )
            continue
        present.add(path)
        notes = (f"no image ({document.kind})", *document.notes)
        if digest != paths[path]:
            notes += (RENEWED,)
        yield FileFate(
            path=path,
            status="copied",
            reason="; ".join(notes),
            left_out=left_out,
            unprotected=document.unprotected,
            sha256_in=paths[path],
            sha256_out=digest,
        )
