# SPDX-License-Identifier: Apache-2.0
"""What the MONAI bundles of this project are made of: a trainer that is a protection run, and a check
of the overrides.
"""

from __future__ import annotations

import difflib
import inspect
import json
import logging
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_salm.errors import PrintableFormatter, UsageError
from monai_salm.pipeline import ProtectionRun, ProtectOptions, ProtectResult
from monai_salm.pipeline.outlook import DOUBTFUL

logger = logging.getLogger(__name__)

_PATHS = ("labels", "work_dir", "key_file", "residuals")


class NoiseTrainer:
    """A protection run in the words of a MONAI training bundle: it has ``max_epochs`` rounds, and ``run`` searches the
    noise.

    Args:
        dataset_dir: folder of images.
        output_dir: folder of protected images to make.
        max_epochs: rounds at most; None takes the method's.
        show_progress: progress bars on standard error.
        allow_refusals: end well although some files were refused, failed, left incomplete or copied unprotected.
        **options: those of :class:`~monai_salm.pipeline.ProtectOptions`, all of them; empty text counts as not given.

    Raises:
        UsageError: an option is unknown or of the wrong kind, or there is no ``dataset_dir``.
    """

    def __init__(
        self,
        dataset_dir: str,
        output_dir: str,
        max_epochs: int | None = None,
        show_progress: bool = True,
        allow_refusals: bool = False,
        **options: Any,
    ) -> None:
        if not dataset_dir:
            raise UsageError("dataset_dir is empty; give --dataset_dir FOLDER, the images to protect")
        if not isinstance(allow_refusals, bool):
            raise UsageError(f"allow_refusals {allow_refusals!r} is neither true nor false; give one of them")
        self.max_epochs = max_epochs
        self.allow_refusals = allow_refusals
        self.protection = ProtectionRun(
            Path(dataset_dir), Path(output_dir), _options(options, max_epochs), show_progress=show_progress
        )

    @property
    def dataset(self) -> list[dict[str, Any]]:
        """Every file that will be protected: its path, sample id and label."""
        _, plan = self.protection.prepare()
        return [
            {"image": file.path, "id": sample.sample_id, "label": sample.target}
            for sample in plan.samples
            for file in sample.files
        ]

    def run(self) -> None:
        """Search the noise."""
        self.protection.search()

    def write(self) -> dict[str, Any]:
        """Write the protected files, log what became of them, and give the summary that ``monai-salm protect --json``
        prints.

        Raises:
            UsageError: no file could be protected; or some could not, and refusals are not allowed. What could be
                written is in the output.
        """
        result: ProtectResult = self.protection.write()
        summary = result.to_json()
        problems, counts = (
            summary["problems"],
            ", ".join(f"{count} {fate}" for fate, count in summary["counts"].items()),
        )
        for problem in problems:
            logger.warning("%s %s: %s", problem["status"], problem["path"], problem["reason"])
        logger.info("%s: %s", result.output, counts)
        if summary["surrogate"]:
            logger.log(
                logging.WARNING if DOUBTFUL in summary["surrogate"] else logging.INFO, "%s", summary["surrogate"]
            )
        logger.info("private, not to be handed out: %s", result.work_dir)
        first = "; ".join(f"{problem['path']}: {problem['reason']}" for problem in problems[:3])
        if not summary["counts"]["protected"]:
            raise UsageError(f"none of {len(result.fates)} files was protected ({first})")
        if problems and not self.allow_refusals:
            raise UsageError(
                f"{counts}; {len(problems)} of {len(result.fates)} files are not as they should be ({first}); see "
                "them, or set allow_refusals"
            )
        return summary

    def apply(self) -> dict[str, Any]:
        """Write the files again from the noise that a finished run has stored, without a search; returns and raises as
        :meth:`write`.

        Raises:
            UsageError: the work folder has no finished run.
        """
        work_dir = self.protection.work_dir
        if not (work_dir / "search.json").is_file():
            state = "a run that has not finished its search" if (work_dir / "plan.jsonl").is_file() else "no run"
            raise UsageError(
                f"the work folder {work_dir} has {state}, so there is no noise to apply; run train.json with the "
                "same options first"
            )
        if not self.protection.options.resume:
            raise UsageError("stored noise is applied to a run that is there; set resume")
        return self.write()


def _options(given: dict[str, Any], rounds: int | None) -> ProtectOptions:
    """Read options in the types that the command line of MONAI and JSON have for them."""
    known = {field.name: field for field in fields(ProtectOptions)}
    given = {name: value for name, value in given.items() if value not in ("", None, [], ())}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(f"option {unknown[0]!r} is unknown; {_suggestion(unknown[0], list(known))}")
    for name, value in given.items():
        default = known[name].default
        if isinstance(default, bool) and not isinstance(value, bool):
            raise UsageError(f"option {name} {value!r} is neither true nor false; give one of them")
        if name in _PATHS:
            given[name] = Path(value)
        elif name == "window" and isinstance(
            value, (tuple, list)
        ):  # the command line of MONAI reads 0,1000 as two numbers
            given[name] = ",".join(str(end) for end in value)
        elif isinstance(default, tuple) or default is MISSING:
            given[name] = (value,) if isinstance(value, str) else tuple(value)
        elif isinstance(default, str) and not isinstance(
            value, str
        ):  # and 0.03 as a number, and a label column 1 as another
            given[name] = str(value)
    if "label_column" in given:
        given["label_column"] = str(given["label_column"])
    return ProtectOptions(**given, rounds=rounds)


def check_overrides() -> None:
    """Refuse an override that no config of the running bundle knows: MONAI accepts a misspelt one silently. From here
    on the bundle's log has no control characters, whatever a file is called: MONAI takes no formatter of others.

    Call it from ``initialize``. It finds the workflow that evaluates it among its callers, and compares the keys of its
    configuration with those of the bundle's config files.

    Raises:
        UsageError: a key is unknown; the message names the nearest known one.
    """
    frame = inspect.currentframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), ConfigWorkflow):
        frame = frame.f_back
    if frame is None:
        raise UsageError("check_overrides was not called by a bundle; put it into 'initialize' of a config")
    workflow: ConfigWorkflow = frame.f_locals["self"]
    for handler in logging.getLogger().handlers:
        if not isinstance(handler.formatter, PrintableFormatter):
            handler.setFormatter(PrintableFormatter(handler.formatter))
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
