# SPDX-License-Identifier: Apache-2.0
"""A protection run in the words of a MONAI bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_salm.bundle.choices import given_options
from monai_salm.bundle.commands import told_in_one_line
from monai_salm.bundle.handlers import RoundEvents
from monai_salm.bundle.networks import save_checkpoint
from monai_salm.dicomweb import place_of
from monai_salm.errors import UsageError
from monai_salm.pipeline import ProtectionRun, ProtectOptions, ProtectResult
from monai_salm.pipeline.frozen_plan import PLAN_FILE
from monai_salm.pipeline.launching import together
from monai_salm.pipeline.options import SURROGATE_SUFFIX
from monai_salm.pipeline.outlook import DOUBTFUL
from monai_salm.pipeline.search_record import SEARCH_FILE, SURROGATE_FILE

if TYPE_CHECKING:
    from monai_salm.learning.ranks import Ranks

logger = logging.getLogger(__name__)

_PATHS = ("labels", "work_dir", "key_file", "residuals")


class NoiseTrainer:
    """A protection run in the words of a MONAI training bundle: it has ``max_epochs`` rounds, and ``run`` searches the
    noise.

    Args:
        dataset_dir: folder of images, or dicomweb:URL/studies/UID.
        output_dir: folder of protected images to make, or dicomweb:URL with ``work_dir``.
        max_epochs: rounds at most; None takes the method's.
        show_progress: progress bars on standard error.
        allow_refusals: end well although some files were refused, failed, left incomplete or copied unprotected.
        train_handlers: MONAI's event handlers, which see a round as an epoch; they need pytorch-ignite.
        key_train_metric: name of a figure for them, and what gives it from all figures of a round.
        postprocessing: what is done to a round's output before they see it.
        **options: those of :class:`~monai_salm.pipeline.ProtectOptions`, all of them; empty text counts as not given.

    Raises:
        UsageError: an option is unknown or of the wrong kind, or there is no ``dataset_dir``.

    Example:
        >>> from monai_salm.bundle import NoiseTrainer
        >>> trainer = NoiseTrainer("EXPORT", "BUNDLED", method="random", show_progress=False)
        >>> trainer.run()
        >>> trainer.write()["counts"]["protected"]
        4
    """

    def __init__(
        self,
        dataset_dir: str,
        output_dir: str,
        max_epochs: int | None = None,
        show_progress: bool = True,
        allow_refusals: bool = False,
        train_handlers: Sequence[Any] = (),
        key_train_metric: Mapping[str, Callable[[Mapping[str, float]], float]] | None = None,
        postprocessing: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        with told_in_one_line():
            if not dataset_dir:
                raise UsageError("dataset_dir is empty; give --dataset_dir FOLDER, the images to protect")
            if not isinstance(allow_refusals, bool):
                raise UsageError(f"allow_refusals {allow_refusals!r} is neither true nor false; give one of them")
            self.max_epochs = max_epochs
            self.allow_refusals = allow_refusals
            self.events = RoundEvents(train_handlers, max_epochs, key_train_metric, postprocessing)
            self.protection = ProtectionRun(
                place_of(dataset_dir),
                place_of(output_dir),
                ProtectOptions(**given_options(options, ProtectOptions, _PATHS), rounds=max_epochs),
                show_progress=show_progress,
            )

    @property
    def datalist(self) -> list[dict[str, Any]]:
        """The samples that will be protected, as a MONAI data set takes them. ``image`` is the path of a file, or those
        of the slices of a series; ``id`` the sample id; ``label`` a class, findings, or the path of a label map.
        """
        with told_in_one_line():
            inventory, plan = self.protection.prepare()
        items = []
        for sample in plan.samples:
            paths = [str(inventory.absolute(file.path)) for file in sample.files]
            target: Any = list(sample.target) if isinstance(sample.target, tuple) else sample.target
            item = {"image": paths[0] if len(paths) == 1 else paths, "id": sample.sample_id}
            items.append(item if target is None else item | {"label": target})
        return items

    def run(self, ranks: Ranks | None = None) -> None:
        """Search the noise.

        Args:
            ranks: processes that share the search, see :func:`~monai_salm.pipeline.launching.together`.
        """
        with told_in_one_line():
            self.events.fire("STARTED")
            summary = self.protection.search(self._tell, ranks)
            if not self.events.rounds:  # of a method that tells of its rounds at the end
                for error in summary.errors:
                    self.events.round({"surrogate_error": float(error)})
            self.events.fire("COMPLETED")

    def run_together(self, ckpt_path: str = "") -> dict[str, Any] | None:
        """Search the noise in all processes that ``torchrun`` started, and do the rest in the first: what :meth:`run`,
        :meth:`save_checkpoint` and :meth:`write` do. Gives None in the others.
        """

        def lead(ranks: Ranks | None) -> dict[str, Any]:
            self.run(ranks)
            self.save_checkpoint(ckpt_path)
            return self.write()

        with told_in_one_line():
            return together(lead)

    def _tell(self, log: Any) -> None:
        self.events.round({"surrogate_error": log.error, "changed_fraction": log.changed_fraction})

    def save_checkpoint(self, path: str) -> None:
        """Write the surrogate's weights for MONAI's ``ckpt_export``; nothing where no path is given. They are as
        private as the work folder.
        """
        if path:
            with told_in_one_line():
                save_checkpoint(self.protection.work_dir / SURROGATE_FILE, Path(path))

    def write(self) -> dict[str, Any]:
        """Write the protected files, log what became of them, and give the summary that ``monai-salm protect --json``
        prints.

        Raises:
            UsageError: no file could be protected; or some could not, and refusals are not allowed. What could be
                written is in the output.
        """
        with told_in_one_line():
            return self._write()

    def _write(self) -> dict[str, Any]:
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
        """Write the files again from the noise that a finished run has stored, without a search; or, where there is no
        run and the surrogate of another one is given, with noise for that one, frozen. Returns and raises as
        :meth:`write`.

        Raises:
            UsageError: the work folder has no finished run.
        """
        with told_in_one_line():
            work_dir = self.protection.work_dir
            begun = (work_dir / PLAN_FILE).is_file()
            if not (work_dir / SEARCH_FILE).is_file() and (
                begun or not self.protection.options.surrogate.endswith(SURROGATE_SUFFIX)
            ):
                state = "a run that has not finished its search" if begun else "no run"
                raise UsageError(
                    f"the work folder {work_dir} has {state}, so there is no noise to apply; run train.json with the "
                    "same options first, or give --surrogate FILE, the surrogate.safetensors of a finished run"
                )
            if not self.protection.options.resume:
                raise UsageError("stored noise is applied to a run that is there; set resume")
            return self._write()
