# SPDX-License-Identifier: Apache-2.0
"""What MONAI's tools and its model zoo ask of a bundle, as far as it needs no network: files, metadata, properties, the
network's data format, and its export.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

from monai_salm.bundle import NoiseTrainer, surrogate_network
from monai_salm.errors import UsageError
from monai_salm.pipeline import protect
from tests.exports import KEY, drawn, lesion_table, mr_export, mr_labels, nifti_export, small, tree

BUNDLES = sorted(path for path in (Path(__file__).parent.parent / "bundles").iterdir() if path.is_dir())
BUNDLE = BUNDLES[0]
CONFIGS = BUNDLE / "configs"
EVERY_BUNDLE = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
# MONAI 1.6 warns of every bundle that its configuration is code.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return mr_export(tmp_path / "in", 4)


def _workflow(config: Any, kind: str, **overrides: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=config if isinstance(config, list) else str(CONFIGS / config),
        meta_file=str(CONFIGS / "metadata.json"), logging_file=False, workflow_type=kind, bundle_root=str(BUNDLE),
        **overrides,
    )  # fmt: skip


@EVERY_BUNDLE
def test_files_are_those_of_a_bundle(bundle: Path) -> None:
    wanted = {"LICENSE", "docs/README.md", "configs/metadata.json", "configs/train.json", "configs/inference.json",
              "configs/evaluate.json", "configs/multi_gpu_train.json", "configs/logging.conf"}  # fmt: skip
    assert wanted <= {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert all(path.stat().st_size < 25_000_000 for path in bundle.rglob("*") if path.is_file()), "the zoo's limit"
    text = "".join(path.read_text() for path in bundle.rglob("*.json"))
    assert not re.search(r"/home/|/root/|/Users/", text)


@EVERY_BUNDLE
def test_metadata_pass_monais_check(bundle: Path) -> None:
    pytest.importorskip("jsonschema")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    schema = Path(__file__).with_name("bundle_schema.json")
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema))


def test_metadata_of_another_kind_do_not_pass(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    (tmp_path / "metadata.json").write_text(json.dumps(metadata | {"version": "1.0"}))
    with pytest.raises(ValueError, match="Failed validating against schema"):
        verify_metadata(
            meta_file=str(tmp_path / "metadata.json"), filepath=str(Path(__file__).with_name("bundle_schema.json"))
        )


def test_versions_are_those_that_the_tests_run_with() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    constraints = (Path(__file__).parent.parent / "constraints.txt").read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==([^;\s]+)", constraints, re.MULTILINE))
    needed = metadata["required_packages_version"] | {"torch": metadata["pytorch_version"]}
    needed |= {name: metadata[f"{name}_version"] for name in ("monai", "numpy")}
    for name, version in needed.items():
        assert name == "monai_salm" or pinned[name.replace("_", "-")] == version, f"{name} can be installed as said"


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_no_property_is_missing(kind: str, export: Path, tmp_path: Path) -> None:
    labels = mr_labels(tmp_path / "labels.csv", 4)
    flow = _workflow(
        f"{kind}.json", kind, dataset_dir=str(export), output_dir=str(tmp_path / "out"), labels=str(labels),
        working_size=16, device="cpu", surrogate="small-cnn",
    )  # fmt: skip
    flow.initialize()
    assert flow.check_properties() == []
    assert flow.network_def(torch.rand(2, 1, 32, 32)).shape == (2, 2)
    dataset = flow.train_dataset if kind == "train" else flow.dataset
    assert {tuple(item["image"].shape) for item in dataset} == {(1, 24, 24)}
    assert {item["label"] for item in dataset} == {0, 1}
    inferer = flow.train_inferer if kind == "train" else flow.inferer
    assert inferer(torch.stack([item["image"] for item in dataset]), flow.network_def).shape == (4, 2)


@EVERY_BUNDLE
def test_network_has_the_data_format_that_is_said(bundle: Path) -> None:
    configs = bundle / "configs"
    for config in ("train", "inference"):
        verify_net_in_out(
            "network_def", meta_file=str(configs / "metadata.json"), config_file=str(configs / f"{config}.json"),
            device="cpu",
        )  # fmt: skip


@pytest.mark.slow
def test_surrogate_of_a_run_is_exported(export: Path, tmp_path: Path) -> None:
    labels = mr_labels(tmp_path / "labels.csv", 4)
    options = small(labels=labels).__dict__ | {"rounds": None}
    trainer = NoiseTrainer(str(export), str(tmp_path / "out"), 1, show_progress=False, **options)
    trainer.run()
    trainer.save_checkpoint(str(tmp_path / "model.pt"))
    trainer.save_checkpoint("")
    surrogate = str(tmp_path / "out.work" / "surrogate.safetensors")
    ckpt_export(
        "network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"), config_file=str(CONFIGS / "inference.json"), surrogate=surrogate,
    )  # fmt: skip
    images = torch.rand(2, 1, 24, 24)
    with torch.no_grad():
        exported = torch.jit.load(str(tmp_path / "model.ts")).eval()(images)
        assert torch.allclose(exported, surrogate_network(surrogate).eval()(images), atol=1e-5)


@pytest.mark.slow
def test_inference_with_the_surrogate_of_another_run(export: Path, tmp_path: Path) -> None:
    """Further images are protected without a training, as ``protect --surrogate`` does it."""
    chosen = {"labels": mr_labels(tmp_path / "labels.csv", 4), "working_size": 16, "device": "cpu", "estimate": False}
    protect(export, tmp_path / "first", small(**chosen, surrogate="small-cnn", rounds=1))
    surrogate = str(tmp_path / "first.work" / "surrogate.safetensors")
    key = {"key_file": str(Path(__file__).with_name("key.txt")), "restore": False}
    protect(export, tmp_path / "direct", small(**chosen, surrogate=surrogate, rounds=1))
    texts = {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}
    flow = _workflow(
        "inference.json", "inference", dataset_dir=str(export), output_dir=str(tmp_path / "out"), surrogate=surrogate,
        rounds=1, **texts, **key,
    )  # fmt: skip
    flow.initialize()
    flow.run()
    assert tree(tmp_path / "out") == tree(tmp_path / "direct")


@EVERY_BUNDLE
def test_commands_of_the_readme_use_what_is_there(bundle: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (bundle / "docs" / "README.md").read_text(), flags=re.S)
    lines = [shlex.split(line) for line in "".join(blocks).splitlines() if line]
    assert len(lines) >= 9
    for words in lines:
        files = re.findall(r"configs/\w+\.json", " ".join(words))
        assert all((bundle / file).is_file() for file in files), words
        keys = {key for file in files for key in json.loads((bundle / file).read_text())}
        given = {word[2:] for word in words if word.startswith("--")}
        tools = {"config_file", "meta_file", "ckpt_file", "filepath", "standalone", "nproc_per_node=2"}
        assert given <= keys | tools, words


# Overlays and overrides -----------------------------------------------------------------------------------------------


def test_overlay_may_have_keys_of_its_own(export: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"gray_levels": 6, "epsilon": "$str(@gray_levels) + ' real'", "method": "random"}))
    flow = _workflow(
        [str(CONFIGS / "train.json"), str(overlay)], "train", dataset_dir=str(export), device="cpu",
        output_dir=str(tmp_path / "out"), working_size=16,
    )  # fmt: skip
    flow.initialize()
    flow.run()
    assert len(tree(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("key", "nearest"), [("max_epoch", "max_epochs"), ("epsilom", "epsilon"), ("dataset_dirs", "dataset_dir")]
)
def test_misspelt_override_names_the_nearest(key: str, nearest: str, export: Path, tmp_path: Path) -> None:
    flow = _workflow("train.json", "train", dataset_dir=str(export), output_dir=str(tmp_path / "out"), **{key: 3})
    with pytest.raises(RuntimeError) as caught:
        flow.initialize()
    assert isinstance(caught.value.__cause__, UsageError), "in Python an error, no end of the program"
    assert f"override --{key} is unknown to this bundle; did you mean '{nearest}'?" in str(caught.value.__cause__)


def test_device_is_one_of_torch(export: Path, tmp_path: Path) -> None:
    for config, kind in (("train.json", "train"), ("inference.json", "inference")):
        flow = _workflow(config, kind, dataset_dir=str(export), output_dir=str(tmp_path / "o"))
        flow.initialize()
        assert isinstance(flow.device, torch.device)


def test_max_epochs_are_rounds(export: Path, tmp_path: Path) -> None:
    for key in ("max_epochs", "rounds"):
        flow = _workflow("train.json", "train", dataset_dir=str(export), output_dir=str(tmp_path / "o"), **{key: 3})
        flow.initialize()
        assert flow.max_epochs == 3
        assert flow.trainer.protection.options.rounds == 3


# Evaluation -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_trains_victims(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    nifti_export(tmp_path / "in", 8)
    (tmp_path / "test").mkdir()
    for n in (6, 7):
        (tmp_path / "in" / f"v{n}.nii.gz").rename(tmp_path / "test" / f"v{n}.nii.gz")
    tables = [
        lesion_table(tmp_path / f"{first}.csv", [f"v{n}.nii.gz" for n in range(first, last)])
        for first, last in ((0, 6), (6, 8))
    ]
    protect(tmp_path / "in", tmp_path / "out", drawn())
    flow = _workflow(
        "evaluate.json", "inference", dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"),
        test_dir=str(tmp_path / "test"), labels=str(tables[0]), test_labels=str(tables[1]), victims="small-cnn",
        epochs=1, least_steps=2, working_size=16, utility=False, verification=False, device="cpu",
        report=str(tmp_path / "report.html"),
    )  # fmt: skip
    flow.initialize()
    (result,) = flow.run()
    assert {row["trained_on"] for row in result["results"]} == {"clean", "protected"}
    assert (tmp_path / "report.html").is_file()
    assert "small-cnn" in caplog.text


@pytest.mark.parametrize("given", [{"test_dir": ""}, {"dataset_dir": ""}, {"victim": "x"}])
def test_evaluation_says_what_is_missing(given: dict[str, str], tmp_path: Path) -> None:
    flow = _workflow(
        "evaluate.json", "inference",
        **({"dataset_dir": "a", "output_dir": "b", "test_dir": "c"} | given)
    )  # fmt: skip
    with pytest.raises(RuntimeError) as caught:
        _ = flow.initialize(), flow.run()
    assert re.search("is empty; give --|did you mean 'victims'", str(caught.value.__cause__ or caught.value))


def test_unknown_options_of_the_evaluation() -> None:
    from monai_salm.bundle import VictimEvaluation

    with pytest.raises(UsageError, match="option 'victim' is unknown; did you mean 'victims'"):
        VictimEvaluation("a", "b", "c", victim="x")


@pytest.mark.slow
def test_several_processes_give_the_bytes_of_one(export: Path, tmp_path: Path) -> None:
    pytest.importorskip("fire")
    chosen = {"labels": mr_labels(tmp_path / "labels.csv", 4), "method": "salm:texture", "surrogate": "small-cnn"}
    chosen |= {"rounds": 2, "working_size": 16, "device": "cpu", "estimate": False}
    given = chosen | {"key_file": KEY, "dataset_dir": export, "output_dir": tmp_path / "out"}
    configs = [str(CONFIGS / f"{name}.json") for name in ("train", "multi_gpu_train")]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle",
            "run", "--bundle_root", str(BUNDLE), "--config_file", str(configs),
            *(part for name, value in given.items() for part in (f"--{name}", str(value))),
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    protect(export, tmp_path / "direct", small(**chosen))
    assert tree(tmp_path / "out") == tree(tmp_path / "direct")
