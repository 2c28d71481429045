# SPDX-License-Identifier: Apache-2.0
"""What protection is worth, in the words of a MONAI bundle: victims are trained and judged as ``evaluate`` does it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monai_salm.bundle.choices import given_options
from monai_salm.bundle.commands import told_in_one_line
from monai_salm.dicomweb import SCHEME
from monai_salm.errors import UsageError
from monai_salm.evaluate import EvaluateOptions, evaluate

logger = logging.getLogger(__name__)

_PATHS = ("labels", "test_labels", "pretrain", "report", "state")


class VictimEvaluation:
    """Train victims on clean and on protected files, after countermeasures, and score them on clean test images.

    Args:
        dataset_dir: the originals.
        output_dir: the protected files of these, under the same paths.
        test_dir: clean images that no victim trains on.
        show_progress: progress bars on standard error.
        **options: those of :class:`~monai_salm.evaluate.EvaluateOptions`; empty text counts as not given.

    Raises:
        UsageError: an option is unknown or of the wrong kind, or a folder is not given.
    """

    def __init__(
        self, dataset_dir: str, output_dir: str, test_dir: str, show_progress: bool = True, **options: Any
    ) -> None:
        with told_in_one_line():
            for name, folder in {"dataset_dir": dataset_dir, "output_dir": output_dir, "test_dir": test_dir}.items():
                if not folder:
                    raise UsageError(f"{name} is empty; give --{name} FOLDER")
                if folder.startswith(SCHEME):
                    raise UsageError(f"{name} is an archive; export its studies, and give --{name} FOLDER")
            self.places = Path(dataset_dir), Path(output_dir), Path(test_dir)
            self.options = EvaluateOptions(**given_options(options, EvaluateOptions, _PATHS))
        self.show_progress = show_progress

    def run(self) -> dict[str, Any]:
        """Train and judge; logs the table, and gives what ``monai-salm evaluate --json`` prints."""
        with told_in_one_line():
            report = evaluate(*self.places, self.options, show_progress=self.show_progress)
        for line in report.table().splitlines():
            logger.info(line)
        return report.to_json()
