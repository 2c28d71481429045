# SPDX-License-Identifier: Apache-2.0
"""The MONAI bundle: it is a protection run in MONAI's words, and gives the same bytes."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_salm.bundle import NoiseTrainer, check_overrides
from monai_salm.errors import UsageError
from monai_salm.pipeline import ProtectOptions, protect
from tests.exports import KEY, lesion_table, nifti_export, small, tree

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
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--bundle_root",
        str(BUNDLE),
        "--config_file",
        str(CONFIGS / config),
        *options,
    ]
    # Sums come out the same on the same number of threads.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=BUNDLE, env=environment)


@pytest.mark.slow
def test_train_gives_the_bytes_of_protect_and_inference_gives_them_back(export: Path, tmp_path: Path) -> None:
    chosen = {
        "labels": tmp_path / "labels.csv",
        "surrogate": "small-cnn",
        "rounds": 2,
        "seed": 3,
        "working_size": 16,
        "device": "cpu",
        "key_file": KEY,
    }
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


@pytest.mark.slow
def test_misspelt_override_fails_and_names_the_nearest(export: Path, tmp_path: Path) -> None:
    done = _run("train.json", dataset_dir=export, output_dir=tmp_path / "out", epsilom="4/255", method="random")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == "error: override --epsilom is unknown to this bundle; did you mean 'epsilon'?"
    assert not (tmp_path / "out").exists()


@pytest.fixture
def workflow(export: Path, tmp_path: Path) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"), meta_file=str(CONFIGS / "metadata.json"),
        logging_file=str(CONFIGS / "logging.conf"), workflow_type="train",
        bundle_root=str(BUNDLE), dataset_dir=str(export), output_dir=str(tmp_path / "out"), method="random",
        working_size=16, device="cpu",
    )  # fmt: skip


def test_workflow_has_all_training_properties(workflow: ConfigWorkflow, export: Path) -> None:
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.bundle_root == str(BUNDLE)
    assert workflow.dataset_dir == str(export)
    names = sorted(Path(item["image"]).name for item in workflow.train_dataset_data)
    assert names == [f"v{number}.nii.gz" for number in range(4)]
    loaded = workflow.train_dataset[0]["image"]
    assert (loaded.shape, float(loaded.min()), float(loaded.max())) == ((1, 16, 16, 12), 0, 1)
    workflow.run()
    assert len(tree(Path(workflow.parser.get_parsed_content("output_dir")))) == 4


def test_metadata_is_complete() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    mandatory = {
        "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
        "description", "authors", "copyright",
        "network_data_format",
    }  # fmt: skip
    assert mandatory <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    tensors = {**metadata["network_data_format"]["inputs"], **metadata["network_data_format"]["outputs"]}
    assert set(tensors) == {"image", "pred"}
    # The schema that "schema" names: versions have three numbers, and every change log entry is text.
    assert all(
        re.fullmatch(r"\d+\.\d+\.\d+", version) and isinstance(text, str)
        for version, text in metadata["changelog"].items()
    )
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", metadata[f"{name}_version"]) for name in ("monai", "pytorch", "numpy"))
    needed = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"}
    assert all(needed <= set(tensor) for tensor in tensors.values())
    assert (BUNDLE / "LICENSE").is_file()


def test_configs_know_the_same_options() -> None:
    train, inference = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "inference"))
    own = {"train", "tensorboard_dir", "ckpt_path"}
    assert set(train) - own == set(inference) - {"preprocessing", "dataset", "inferer", "evaluator"}
    handlers = {"train_handlers", "key_train_metric", "postprocessing"}
    assert set(train["train"]["trainer"]) - handlers == set(inference["evaluator"])
    assert {key for key in set(train) & set(inference) if train[key] != inference[key]} == {"imports", "resume", "run"}


@pytest.mark.parametrize("name", [field.name for field in fields(ProtectOptions)])
def test_every_option_of_protect_can_be_set(name: str) -> None:
    for config in ("train", "inference"):
        content = json.loads((CONFIGS / f"{config}.json").read_text())
        assert name in content, f"{config}.json has no key for the option {name} of ProtectOptions"
        component = content["train"]["trainer"] if config == "train" else content["evaluator"]
        key = "max_epochs" if name == "rounds" else name
        assert component[key] == f"@{key}"
        assert content["max_epochs"] == "@rounds"
    if name not in ("resume", "rounds", "device"):
        with_default = NoiseTrainer("in", "out", **{name: content[name] if name != "work_dir" else ""})
        assert with_default.protection.options == ProtectOptions(), "the bundle's default is another"


def test_options_come_as_jsons_types_and_the_command_lines() -> None:
    options = NoiseTrainer(
        "in", "out", epsilon=0.03, window=(0, 1000), key_file="k", label_column=1, uids="keep", source_reference=False
    ).protection.options
    assert (options.epsilon, options.window, options.label_column) == ("0.03", "0,1000", "1")
    assert (options.key_file, options.uids, options.source_reference) == (Path("k"), "keep", False)
    for wrong in ({"resume": "no"}, {"allow_refusals": "no"}, {"source_reference": 0}):
        with pytest.raises(UsageError, match="is neither true nor false"):
            NoiseTrainer("in", "out", **wrong)
    with pytest.raises(UsageError, match="dataset_dir is empty; give --dataset_dir FOLDER"):
        NoiseTrainer("", "out")


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoiled(export: Path) -> Path:
    """An export one file of which is cut short, so that it is refused."""
    path = export / "v3.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])
    return export


@pytest.mark.slow
def test_run_with_refusals_fails_with_the_reason(spoiled: Path, tmp_path: Path) -> None:
    options = {"dataset_dir": spoiled, "method": "random", "working_size": 16, "device": "cpu"}
    done = _run("train.json", output_dir=tmp_path / "out", **options)
    assert done.returncode != 0
    assert "refused v3.nii.gz: " in done.stderr
    assert "3 protected, 0 copied, 1 refused, 0 failed" in done.stderr
    assert len(tree(tmp_path / "out")) == 3, "what could be written is there"
    again = _run("inference.json", output_dir=tmp_path / "out", **options)
    assert again.returncode != 0
    assert "refused v3.nii.gz: " in again.stderr


def test_trainer_tells_what_became_of_the_files(
    spoiled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options: dict[str, Any] = {"method": "random", "working_size": 16, "device": "cpu", "show_progress": False}
    with pytest.raises(
        UsageError,
        match=r"3 protected, .* 1 of 4 files are not as they should be \(v3.nii.gz: .*\); see them, or set "
        r"allow_refusals",
    ):
        NoiseTrainer(str(spoiled), str(tmp_path / "out"), **options).write()
    assert "refused v3.nii.gz: " in caplog.text
    assert (
        NoiseTrainer(str(spoiled), str(tmp_path / "allowed"), allow_refusals=True, **options).write()["counts"][
            "refused"
        ]
        == 1
    )
    with pytest.raises(UsageError, match="1 of 4 files are not as they should be"):
        NoiseTrainer(str(spoiled), str(tmp_path / "copied"), copy_unprotected=True, **options).write()


def test_trainer_may_write_twice(export: Path, tmp_path: Path) -> None:
    trainer = NoiseTrainer(
        str(export), str(tmp_path / "out"), method="random", working_size=16, device="cpu", show_progress=False
    )
    first = trainer.write()
    content = tree(tmp_path / "out")
    assert trainer.write() == first
    assert tree(tmp_path / "out") == content
    (tmp_path / "out" / "v1.nii.gz").unlink()
    assert trainer.write() == first
    assert tree(tmp_path / "out") == content


# Inference ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inference_without_a_run_is_an_error_that_says_what_to_do(export: Path, tmp_path: Path) -> None:
    options = {
        "dataset_dir": export,
        "output_dir": tmp_path / "out",
        "method": "random",
        "working_size": 16,
        "device": "cpu",
    }
    done = _run("inference.json", **options)
    assert done.returncode != 0
    assert "has no run, so there is no noise to apply; run train.json with the same options first" in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.work").exists()


@pytest.mark.slow
def test_inference_never_searches(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "labels": str(tmp_path / "labels.csv"),
        "surrogate": "small-cnn",
        "working_size": 16,
        "device": "cpu",
        "show_progress": False,
    }
    trained = NoiseTrainer(str(export), str(tmp_path / "out"), 1, **options)
    trained.run()
    written = trained.write()
    applied = NoiseTrainer(str(export), str(tmp_path / "out"), 1, **options, resume=True)
    monkeypatch.setattr("monai_salm.methods.minmin.MinMinOptimizer.run", None)
    assert applied.apply() == written
    with pytest.raises(UsageError, match="set resume"):
        NoiseTrainer(str(export), str(tmp_path / "out"), 1, **options).apply()
    with pytest.raises(UsageError, match="options are not those that the run was begun with"):
        NoiseTrainer(str(export), str(tmp_path / "out"), 2, **options, resume=True).apply()
    (tmp_path / "out.work" / "search.json").unlink()
    with pytest.raises(UsageError, match="has a run that has not finished its search, so there is no noise to apply"):
        applied.apply()


def test_inference_does_not_pass_over_noise_that_is_gone(
    export: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"method": "random", "working_size": 16, "device": "cpu", "show_progress": False}
    NoiseTrainer(str(export), str(tmp_path / "out"), **options).write()
    written = tree(tmp_path / "out")
    next((tmp_path / "out.work" / "noise").iterdir()).unlink()
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    NoiseTrainer(str(export), str(tmp_path / "out"), **options, resume=True).apply()
    assert "the noise of 1 of 4 samples is made again" in caplog.text
    assert tree(tmp_path / "out") == written


@pytest.mark.parametrize("allow", [False, True])
def test_workflow_in_python_fails_with_refusals(spoiled: Path, tmp_path: Path, allow: bool) -> None:
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"), meta_file=str(CONFIGS / "metadata.json"),
        logging_file=str(CONFIGS / "logging.conf"), workflow_type="train",
        bundle_root=str(BUNDLE), dataset_dir=str(spoiled), output_dir=str(tmp_path / "out"), method="random",
        working_size=16, device="cpu",
        allow_refusals=allow,
    )  # fmt: skip
    flow.initialize()
    if allow:
        flow.run()
    else:
        with pytest.raises(RuntimeError) as caught:
            flow.run()
        assert "1 of 4 files are not as they should be" in str(caught.value.__cause__)


def test_unknown_option_of_the_trainer(export: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="option 'epsilom' is unknown; did you mean 'epsilon'"):
        NoiseTrainer(str(export), str(tmp_path / "out"), epsilom="4/255")


def test_trainer_that_protects_nothing_fails(export: Path, tmp_path: Path) -> None:
    trainer = NoiseTrainer(
        str(export), str(tmp_path / "out"), show_progress=False, method="random", epsilon="0.1 units", device="cpu"
    )
    trainer.run()
    with pytest.raises(UsageError, match=r"none of 4 files was protected \(v0.nii.gz: epsilon"):
        trainer.write()


def test_check_outside_a_bundle() -> None:
    with pytest.raises(UsageError, match="was not called by a bundle"):
        check_overrides()
