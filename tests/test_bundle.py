# SPDX-License-Identifier: Apache-2.0
"""The MONAI bundle: it is a protection run in MONAI's words, and gives the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_salm.bundle import NoiseTrainer, check_overrides
from monai_salm.errors import UsageError
from monai_salm.pipeline import protect
from tests.exports import lesion_table, nifti_export, small, tree

BUNDLE = Path(__file__).parent.parent / "bundles" / "salm_protect"
CONFIGS = BUNDLE / "configs"
# MONAI 1.6 warns of every bundle that its configuration is code.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    lesion_table(tmp_path / "labels.csv", (f"v{number}.nii.gz" for number in range(4)))
    return nifti_export(tmp_path / "in", 4)


def _run(config: str, **overrides: Any) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("fire")
    options = [part for name, value in overrides.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(BUNDLE), "--config_file", str(CONFIGS / config), *options]
    # Sums come out the same on the same number of threads.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=BUNDLE, env=environment)


def test_train_gives_the_bytes_of_protect_and_inference_gives_them_back(export: Path, tmp_path: Path) -> None:
    chosen = {"labels": tmp_path / "labels.csv", "surrogate": "small-cnn", "rounds": 2, "seed": 3, "working_size": 16, "device": "cpu"}
    overrides = {"dataset_dir": export, "output_dir": tmp_path / "out", **chosen}
    done = _run("train.json", **overrides)
    assert done.returncode == 0, done.stderr[-2000:]
    protect(export, tmp_path / "direct", small(**chosen))
    wanted = tree(tmp_path / "direct")
    assert tree(tmp_path / "out") == wanted
    assert len(wanted) == 4
    (tmp_path / "out" / "v1.nii.gz").unlink()
    done = _run("inference.json", **overrides)
    assert done.returncode == 0, done.stderr[-2000:]
    assert tree(tmp_path / "out") == wanted


def test_misspelt_override_fails_and_names_the_nearest(export: Path, tmp_path: Path) -> None:
    done = _run("train.json", dataset_dir=export, output_dir=tmp_path / "out", epsilom="4/255", method="random")
    assert done.returncode != 0
    assert "override --epsilom is unknown to this bundle; did you mean 'epsilon'?" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def workflow(export: Path, tmp_path: Path) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"), meta_file=str(CONFIGS / "metadata.json"), logging_file=str(CONFIGS / "logging.conf"), workflow_type="train",
        bundle_root=str(BUNDLE), dataset_dir=str(export), output_dir=str(tmp_path / "out"), method="random", working_size=16, device="cpu",
    )  # fmt: skip


def test_workflow_has_all_training_properties(workflow: ConfigWorkflow, export: Path) -> None:
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.bundle_root == str(BUNDLE)
    assert workflow.dataset_dir == str(export)
    assert sorted(item["image"] for item in workflow.train_dataset) == [f"v{number}.nii.gz" for number in range(4)]
    workflow.run()
    assert len(tree(Path(workflow.parser.get_parsed_content("output_dir")))) == 4


def test_metadata_is_complete() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    mandatory = {
        "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task", "description", "authors", "copyright",
        "network_data_format",
    }  # fmt: skip
    assert mandatory <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    tensors = {**metadata["network_data_format"]["inputs"], **metadata["network_data_format"]["outputs"]}
    assert set(tensors) == {"image", "pred"}
    needed = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"}
    assert all(needed <= set(tensor) for tensor in tensors.values())
    assert (BUNDLE / "LICENSE").is_file()


def test_configs_know_the_same_options() -> None:
    train, inference = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "inference"))
    assert set(train) - {"train"} == set(inference) - {"inference"}
    assert set(train["train"]["trainer"]) == set(inference["inference"]["writer"])


def test_unknown_option_of_the_trainer(export: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="option 'epsilom' is unknown; did you mean 'epsilon'"):
        NoiseTrainer(str(export), str(tmp_path / "out"), epsilom="4/255")


def test_trainer_that_protects_nothing_fails(export: Path, tmp_path: Path) -> None:
    trainer = NoiseTrainer(str(export), str(tmp_path / "out"), show_progress=False, method="random", epsilon="0.1 units", device="cpu")
    trainer.run()
    with pytest.raises(UsageError, match=r"none of 4 files was protected \(v0.nii.gz: epsilon"):
        trainer.write()


def test_check_outside_a_bundle() -> None:
    with pytest.raises(UsageError, match="was not called by a bundle"):
        check_overrides()
