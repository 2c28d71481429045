# SPDX-License-Identifier: Apache-2.0
"""Run a protection as a MONAI bundle, from Python: a configuration names the trainer, overrides are keyword arguments.

python 06_bundle.py                                                # slices, and a small configuration that it makes
python 06_bundle.py --config BUNDLE/configs/train.json --export EXPORT --labels labels.csv --out OUT
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from made_up_data import Arguments, make_slices, start
from monai.bundle import ConfigWorkflow

from monai_salm import UsageError

OWN_CONFIG = {
    "dataset_dir": "",
    "output_dir": "",
    "labels": "",
    "method": "salm:texture",
    "surrogate": "small-cnn",
    "max_epochs": 1,
    "trainer": {
        "_target_": "monai_salm.bundle.NoiseTrainer",
        "dataset_dir": "@dataset_dir",
        "output_dir": "@output_dir",
        "labels": "@labels",
        "method": "@method",
        "surrogate": "@surrogate",
        "max_epochs": "@max_epochs",
        "show_progress": False,
    },
    "initialize": [],
    "run": ["$@trainer.run()", "$print(@trainer.write()['counts'])"],
    "finalize": [],
}
"""What a bundle's train.json holds, at its shortest."""


def main(arguments: argparse.Namespace, folder: Path) -> None:
    """Run the configuration with overrides."""
    config, export, labels = arguments.config, arguments.export, arguments.labels
    if config is None:
        config = folder / "train.json"
        config.write_text(json.dumps(OWN_CONFIG), encoding="utf-8")
        config.with_name("metadata.json").write_text("{}", encoding="utf-8")  # MONAI asks for one
    elif not config.is_file():
        raise UsageError(f"{config}: no such file; give the train.json of a bundle")
    if export is None:
        export, labels = make_slices(folder / "export", folder / "labels.csv", count=16)
    out = arguments.out or folder / "out"
    workflow = ConfigWorkflow(
        config_file=str(config), meta_file=None, logging_file=False, workflow_type="train",
        dataset_dir=str(export), labels=str(labels), output_dir=str(out),
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    print("written:", len([path for path in out.rglob("*") if path.is_file()]), "files")


def parser() -> Arguments:
    """Say which arguments there are."""
    found = Arguments(description="Run a protection as a MONAI bundle.")
    found.add_argument("--config", type=Path, help="train.json of a bundle")
    found.add_argument("--export", type=Path, help="folder of images")
    found.add_argument("--labels", type=Path, help="their table")
    found.add_argument("--out", type=Path, help="folder to make")
    return found


if __name__ == "__main__":
    start(main, parser())
