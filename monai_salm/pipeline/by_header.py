# SPDX-License-Identifier: Apache-2.0
"""What would become of each file of an input by its header alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.references import why_header_stays


def first_look(inventory: Inventory) -> Iterator[dict[str, Any]]:
    """Give what ``monai-salm scan --json`` prints of each file, in the order of their paths; no image is read, so that
    what its values forbid is not known.
    """
    written = frozenset(inventory.headers)
    for entry in inventory.entries():
        why = why_header_stays(inventory, entry["path"], written) if entry["fate"] == "copy" else ""
        yield entry | {"fate": "refuse", "reason": why} if why else entry
