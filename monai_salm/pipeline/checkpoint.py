# SPDX-License-Identifier: Apache-2.0
"""Where a search keeps what it needs to go on, in a file of the private work folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from monai_salm.disk import openable, write_atomically
from monai_salm.errors import SalmError, UsageError


@dataclass(frozen=True)
class Checkpoint:
    """A search's memory of one plan; see :class:`~monai_salm.methods.base.SearchMemory`.

    Args:
        path: of the file, which need not be there.
        plan_digest: of the plan that the search belongs to.
        resume: False forgets what an earlier run left.
    """

    path: Path
    plan_digest: str
    resume: bool = True

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep tensors and plain values, atomically, in place of what was kept before."""
        metadata = {"plan": self.plan_digest, "progress": json.dumps(dict(progress))}
        write_atomically(self.path, save(dict(tensors), metadata), private=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Give what was saved last; None if nothing was.

        Raises:
            UsageError: it belongs to another plan.
            SalmError: the file is damaged.
        """
        if not self.resume or not self.path.is_file():
            return None
        try:
            with openable(self.path) as place, safe_open(place, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("plan") != self.plan_digest:
                    raise UsageError(
                        f"{self.path}: belongs to a run with other files, labels or options; give those again, or "
                        "start anew with another OUTPUT"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise SalmError(
                f"{self.path}: damaged ({error}); delete it, and run again with --resume to search the noise anew"
            ) from error
        return tensors, json.loads(metadata["progress"])

    def clear(self) -> None:
        """Forget what was kept: the search is done."""
        self.path.unlink(missing_ok=True)
