# SPDX-License-Identifier: Apache-2.0
"""What the MONAI bundles of this project are made of: a trainer that is a protection run, and a check of the overrides."""

from __future__ import annotations

import difflib
import inspect
import json
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_salm.errors import UsageError
from monai_salm.pipeline import ProtectionRun, ProtectOptions, ProtectResult


class NoiseTrainer:
    """A protection run in the words of a MONAI training bundle: it has ``max_epochs`` rounds, and ``run`` searches the noise.

    Args:
        dataset_dir: folder of images.
        output_dir: folder of protected images to make.
        max_epochs: rounds at most; None takes the method's.
        show_progress: progress bars on standard error.
        **options: those of :class:`~monai_salm.pipeline.ProtectOptions`; empty text counts as not given.
    """

    def __init__(self, dataset_dir: str, output_dir: str, max_epochs: int | None = None, show_progress: bool = True, **options: Any) -> None:
        paths = {name: Path(options[name]) for name in ("labels", "work_dir", "key_file") if options.get(name)}
        given = {name: value for name, value in options.items() if value not in ("", None)} | paths
        unknown = sorted(set(given) - set(ProtectOptions.__dataclass_fields__))
        if unknown:
            raise UsageError(f"option {unknown[0]!r} is unknown; {_suggestion(unknown[0], list(ProtectOptions.__dataclass_fields__))}")
        if isinstance(given.get("window"), (tuple, list)):  # the command line of MONAI reads 0,1000 as two numbers
            given["window"] = ",".join(str(end) for end in given["window"])
        self.max_epochs = max_epochs
        self.protection = ProtectionRun(Path(dataset_dir), Path(output_dir), ProtectOptions(**given, rounds=max_epochs), show_progress=show_progress)

    @property
    def dataset(self) -> list[dict[str, Any]]:
        """Every file that will be protected: its path, sample id and label."""
        _, plan = self.protection.prepare()
        return [{"image": file.path, "id": sample.sample_id, "label": sample.target} for sample in plan.samples for file in sample.files]

    def run(self) -> None:
        """Search the noise."""
        self.protection.search()

    def write(self) -> dict[str, Any]:
        """Write the protected files and give the summary that ``monai-salm protect --json`` prints.

        Raises:
            UsageError: no file could be protected.
        """
        result: ProtectResult = self.protection.write()
        summary = result.to_json()
        if not summary["counts"]["protected"]:
            reasons = "; ".join(f"{problem['path']}: {problem['reason']}" for problem in summary["problems"][:3])
            raise UsageError(f"none of {len(result.fates)} files was protected ({reasons})")
        return summary


def check_overrides() -> None:
    """Refuse an override that no config of the running bundle knows: MONAI accepts a misspelt one silently.

    Call it from ``initialize``. It finds the workflow that evaluates it among its callers, and compares the keys of its configuration with those of the
    bundle's config files.

    Raises:
        UsageError: a key is unknown; the message names the nearest known one.
    """
    frame = inspect.currentframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), ConfigWorkflow):
        frame = frame.f_back
    if frame is None:
        raise UsageError("check_overrides was not called by a bundle; put it into 'initialize' of a config")
    workflow: ConfigWorkflow = frame.f_locals["self"]
    known: set[str] = set()
    for file in sorted(workflow.config_root_path.glob("*.json")):
        known |= set(json.loads(file.read_text(encoding="utf-8")))
    configuration: dict[str, Any] = workflow.parser.get()
    for key in configuration:
        if key not in known and not key.startswith("_"):
            raise UsageError(f"override --{key} is unknown to this bundle; {_suggestion(key, sorted(known))}")


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
