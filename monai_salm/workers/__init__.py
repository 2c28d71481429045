# SPDX-License-Identifier: Apache-2.0
"""Jobs over files in processes of their own, so that a foreign library that crashes, hangs or takes all memory costs
the job and not the run.

Nothing in the standard library does: its pool of processes is of no use any more once one of them ended, knows no time
limit for a job, and runs the main module of the caller's script again.
"""

from __future__ import annotations

from monai_salm.workers.cluster import ClusterWorkers
from monai_salm.workers.executor import Workers

__all__ = ["IN_THIS_PROCESS", "Workers", "workers_of"]

IN_THIS_PROCESS = Workers(0)
"""Does jobs where they are given."""


def workers_of(count: int, scheduler: str = "") -> Workers:
    """Give the workers of a Dask cluster where its scheduler is named, else so many processes of this machine.

    Args:
        count: of processes; counts for nothing beside a scheduler.
        scheduler: address of it.
    """
    return ClusterWorkers(scheduler) if scheduler else Workers(count)
