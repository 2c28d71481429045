# SPDX-License-Identifier: Apache-2.0
"""What a dry run says of each file beside its fate."""

from __future__ import annotations

from typing import Any

from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.references import records_left_out


def add_what_is_left(preview: dict[str, Any], inventory: Inventory) -> None:
    """Say of files that are written what they will lack, and what in them will not be protected."""
    written = {inventory.output_path(file["path"]) for file in preview["files"] if file["fate"] != "refuse"}
    incomplete = 0
    for file in preview["files"]:
        header, document = inventory.headers.get(file["path"]), inventory.documents.get(file["path"])
        found = header or document
        if file["fate"] == "refuse" or found is None:
            continue
        left_out = header.left_out if header is not None else records_left_out(inventory, file["path"], written)[0]
        told = {name: text for name, text in (("left_out", left_out), ("still_shows", found.unprotected)) if text}
        file |= told
        incomplete += bool(told)
    preview["counts"]["incomplete"] = incomplete


def with_unprotected_copies(preview: dict[str, Any]) -> dict[str, Any]:
    """Say of refused files that they will be copied as they are."""
    refused = [file for file in preview["files"] if file["fate"] == "refuse"]
    for file in refused:
        file |= {"fate": "copy", "unprotected": True, "reason": f"copied unprotected: {file['reason']}"}
    counts = preview["counts"]
    return preview | {
        "counts": counts | {"copy": counts["copy"] + len(refused), "refuse": 0, "unprotected": len(refused)}
    }
