# SPDX-License-Identifier: Apache-2.0
"""What a launcher such as ``torchrun`` tells a process of those that it started with it, in the environment; read
without torch, which a process that is alone may never need.
"""

from __future__ import annotations

import os

from monai_salm.errors import UsageError

_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launched() -> int:
    """Count the processes that were started to work together; 1 without a launcher.

    Raises:
        UsageError: the environment tells of several, but not how they find each other.
    """
    told = {name: os.environ[name] for name in _TOLD if os.environ.get(name)}
    if "RANK" not in told or told.get("WORLD_SIZE", "1") == "1":
        return 1
    missing = [name for name in _TOLD if name not in told]
    wrong = [name for name in _TOLD[:3] if not told.get(name, "0").isdigit()]
    if missing or wrong:
        raise UsageError(
            f"the environment has RANK {told['RANK']} of WORLD_SIZE {told['WORLD_SIZE']}, but "
            f"{', '.join(missing or wrong)} {'is missing' if missing else 'is no number'}; start it with torchrun "
            "--nproc_per_node=COUNT -m monai_salm, or unset RANK"
        )
    return int(told["WORLD_SIZE"])


def local_rank() -> int:
    """Give the number of this process among those of its machine."""
    return int(os.environ["LOCAL_RANK"]) if launched() > 1 else 0


def local_count() -> int:
    """Count the processes that were started on this machine to work together."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", local_rank() + 1)) if launched() > 1 else 1
