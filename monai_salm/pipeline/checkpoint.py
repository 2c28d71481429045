# SPDX-License-Identifier: Apache-2.0
"""Where a search keeps what it needs to go on, in a file of the private work folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from monai_salm.disk import write_atomically
from monai_salm.errors import UsageError
from monai_salm.seals import sealed_safetensors, unsealed_metadata

logger = logging.getLogger(__name__)


def computing_on(device: torch.device) -> str:
    """Say what float sums depend on: the library, the device, and the threads that share a sum on a CPU."""
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"torch {torch.__version__} on {device.type}{threads}"


@dataclass(frozen=True)
class Checkpoint:
    """A search's memory of one run; see :class:`~monai_salm.methods.base.SearchMemory`.

    Args:
        path: of the file, which need not be there.
        run: mark of the run that the search belongs to.
        resume: False forgets what an earlier run left.
        computing: what sums depend on beside the numbers, see :func:`computing_on`; a search that began in one way and
            went on in another would give the noise of neither.
    """

    path: Path
    run: str
    resume: bool = True
    computing: str = ""

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep tensors and plain values, atomically, in place of what was kept before."""
        metadata = {"run": self.run, "computing": self.computing, "progress": json.dumps(dict(progress))}
        write_atomically(self.path, sealed_safetensors(save(dict(tensors), metadata)), private=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Give what was saved last; None if nothing was, or if that is damaged: the search begins anew, and says so.

        Raises:
            UsageError: it belongs to another run, or was computed in another way.
        """
        if not self.resume or not self.path.is_file():
            return None
        content = self.path.read_bytes()
        try:
            metadata, tensors = unsealed_metadata(content), load(content)
        except (ValueError, SafetensorError) as error:
            logger.warning("%s: damaged (%s); the noise is searched anew", self.path, error)
            return None
        if metadata.get("run") != self.run:
            raise UsageError(
                f"{self.path}: belongs to a run with other files, labels or options; give those again, or "
                "start anew with another OUTPUT"
            )
        if metadata.get("computing") != self.computing:
            raise UsageError(
                f"{self.path}: the search was begun with {metadata.get('computing')}, and would go on with "
                f"{self.computing}; go on there (OMP_NUM_THREADS, --device), or delete this file to search anew"
            )
        return tensors, json.loads(metadata["progress"])

    def clear(self) -> None:
        """Forget what was kept: the search is done."""
        self.path.unlink(missing_ok=True)
