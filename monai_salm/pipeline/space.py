# SPDX-License-Identifier: Apache-2.0
"""How much a run has to write, so that a disk that cannot hold it is told before the first byte and not after hours of
search.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

from monai_salm.pipeline.archive import unpacked_size
from monai_salm.pipeline.fates import fates_told
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.way_back import way_back_of
from monai_salm.working_grid import working_shape

_CELLS_PER_BYTE = 4
"""Of stored noise: one bit a cell says where it is, and less than half of the cells hold a value of one byte or two."""
_FILES_PER_RESIDUAL = 4
"""Residuals that take as much room as a file, of what is not compressed."""


def space_to_unpack(source: Path, work_dir: Path, target: Path) -> dict[Path, int]:
    """Give about how many bytes a zip takes: unpacked, protected, and packed again."""
    unpacked = 2 * unpacked_size(source)
    there = sum(_size(path) for folder in ("input", "output") for path in (work_dir / folder).rglob("*"))
    return {work_dir: max(0, unpacked - there), target.parent: source.stat().st_size}


def space_to_write(
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, output: Path, work_dir: Path
) -> dict[Path, int]:
    """Give about how many bytes a run has still to write: noise in its work folder, and files of the size of their
    sources in its output.

    Noise makes files that are compressed a bit larger, so this is rather too little than too much.
    """
    told = fates_told(work_dir / "manifest.jsonl")  # of this run, also while it goes on
    done = {fate.path for _, fate in told if not isinstance(fate, str)}
    paths = [file.path for sample in plan.samples for file in sample.files] + [*plan.documents, *plan.copies]
    paths += plan.refused if options.copy_unprotected else ()
    waiting = [path for path in paths if path not in done or not _size(output / inventory.output_path(path))]
    needs = Counter({output: sum(_written_size(inventory, path) for path in waiting)})
    way = way_back_of(options, work_dir)
    if way is not None:
        needs[way.folder] += needs[output] // _FILES_PER_RESIDUAL
    if not (work_dir / "search.json").is_file():
        files = ([file.path for file in sample.files] for sample in plan.samples)
        cells = sum(_cells(inventory, paths, options.working_size) for paths in files)
        needs[work_dir] += cells // (_CELLS_PER_BYTE if options.needs_labels() else 1)  # what is drawn is in all cells
    return dict(needs)


def _cells(inventory: Inventory, paths: list[str], working_size: int) -> int:
    shape = inventory.headers[paths[0]].shape
    return math.prod(working_shape((len(paths), *shape) if len(paths) > 1 else shape, working_size))


def _written_size(inventory: Inventory, path: str) -> int:
    """Give about how large a file will be; half of its values where it is written in another encoding than its
    source's.
    """
    header, size = inventory.headers.get(path), _size(inventory.absolute(path))
    if header is None or not (header.output_suffix or header.output_transfer_syntax):
        return size
    return max(size, math.prod(header.shape + header.trailing) * header.dtype.itemsize // 2)


def _size(path: Path) -> int:
    return path.stat().st_size if os.path.isfile(path) else 0  # noqa: PTH113 (False for a path that is too long)
