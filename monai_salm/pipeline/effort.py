# SPDX-License-Identifier: Apache-2.0
"""What carrying out a plan will take: disk, memory and time, about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.space import space_to_write
from monai_salm.progress import in_bytes, in_words

_WRITING_PER_PLANNING = 1.5
"""A file is written, read back and proven in about this many times the time that it takes to plan it."""

_PROCESS_BYTES, _TORCH_BYTES = 100 << 20, 400 << 20
"""Memory of a process that reads and writes, and of the networks' library."""

_COPIES = 8
"""Times the values of a file that are in memory while it is written, at most."""

_CELL_BYTES = 24
"""Of each cell of a sample that is searched: the image, two maps, the noise and its gradient."""


@dataclass(frozen=True)
class Effort:
    """What carrying out a plan will take, about.

    Args:
        output_bytes, work_bytes: that will be written to the output and the work folder.
        memory_bytes: of all processes together.
        writing_seconds: to write the files; the search of noise tells its own time when it begins.
    """

    output_bytes: int = 0
    work_bytes: int = 0
    memory_bytes: int = 0
    writing_seconds: float = 0.0

    def lines(self) -> list[str]:
        """Say it to people."""
        output, work, memory = map(in_bytes, (self.output_bytes, self.work_bytes, self.memory_bytes))
        return [
            f"it takes about {output} in OUTPUT, {work} in the work folder and {memory} of memory",
            f"writing takes {in_words(self.writing_seconds)}; a search says how long it takes when it begins",
        ]


def effort_of(
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, output: Path, work_dir: Path, seconds: float
) -> Effort:
    """Estimate what a run will take that was planned in so many seconds."""
    needs = space_to_write(inventory, plan, options, output, work_dir)
    values = [inventory.pictures[file.path] for sample in plan.samples for file in sample.files]
    largest = max((math.prod((*it.shape, *it.trailing)) * it.dtype.itemsize for it in values), default=0)
    memory = (1 + max(1, options.workers)) * _PROCESS_BYTES + max(1, options.workers) * _COPIES * largest
    if options.needs_labels():
        memory += _TORCH_BYTES + len(plan.samples) * options.working_size**2 * _CELL_BYTES
    return Effort(needs.get(output, 0), needs.get(work_dir, 0), memory, seconds * _WRITING_PER_PLANNING)
