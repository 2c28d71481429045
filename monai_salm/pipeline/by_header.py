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

    Args:
        inventory: the files, as :func:`~monai_salm.pipeline.scan` found them.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import scan
        >>> from monai_salm.pipeline import first_look
        >>> [(entry["path"], entry["fate"]) for entry in first_look(scan(Path("EXPORT")))][3:]
        [('case3/image.dcm', 'protect'), ('notes.txt', 'copy')]
    """
    written = frozenset(inventory.headers)
    for entry in inventory.entries():
        why = why_header_stays(inventory, entry["path"], written) if entry["fate"] == "copy" else ""
        yield entry | {"fate": "refuse", "reason": why} if why else entry
