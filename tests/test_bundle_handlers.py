# SPDX-License-Identifier: Apache-2.0
"""MONAI's event handlers on a search. They need pytorch-ignite, which every import of MONAI loads once it is there; so
these tests alone have it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_salm.bundle import NoiseTrainer
from monai_salm.errors import UsageError
from tests.exports import mr_export, mr_labels

CONFIGS = Path(__file__).parent.parent / "bundles" / "salm_protect" / "configs"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return mr_export(tmp_path / "in", 4)


def _workflow(export: Path, output: Path) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"), meta_file=str(CONFIGS / "metadata.json"), logging_file=False,
        workflow_type="train", bundle_root=str(CONFIGS.parent), dataset_dir=str(export), output_dir=str(output),
        method="random", device="cpu",
    )  # fmt: skip


class _Writer:
    """Takes what a handler of TensorBoard writes."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, float(value), step))

    def flush(self) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("method", ["salm:texture", "tap"], ids=["tells while it goes on", "tells at the end"])
def test_handlers_see_the_rounds_as_epochs(
    method: str, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ignite")
    from monai.handlers import StatsHandler, TensorBoardStatsHandler

    writer = _Writer()
    handlers = [
        StatsHandler(name=f"rounds of {method}", iteration_log=False),
        TensorBoardStatsHandler(summary_writer=writer, iteration_log=False),
    ]
    trainer = NoiseTrainer(
        str(export), str(tmp_path / "out"), 2, show_progress=False, labels=str(mr_labels(tmp_path / "l.csv", 4)),
        method=method, working_size=16, device="cpu", estimate=False, train_handlers=handlers,
        key_train_metric={"key": lambda figures: 2 * figures["surrogate_error"]},
        postprocessing=lambda output: output | {"loss": torch.tensor(output["loss"])},
    )  # fmt: skip
    trainer.run()
    told = [scalar for scalar in writer.scalars if scalar[0] == "surrogate_error"]
    assert [step for *_, step in told] == list(range(1, len(told) + 1))
    assert len(told) >= 2
    keys = [value for name, value, _ in writer.scalars if name == "key"]
    assert keys == pytest.approx([2 * value for _, value, _ in told])
    printed = capsys.readouterr().out
    assert f"Epoch[{len(told)}] Metrics -- " in printed
    best = min(range(len(keys)), key=keys.__getitem__)
    assert f"Key metric: key best value: {keys[best]} at epoch: {best + 1}" in printed


def test_bundle_needs_no_ignite(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_salm.bundle.handlers.find_spec", lambda _: None)
    flow = _workflow(export, tmp_path / "out")
    flow.initialize()
    assert flow.train_handlers == []
    flow.run()
    monkeypatch.setattr("monai_salm.bundle.handlers.optional_import", lambda *_, **__: (None, False))
    with pytest.raises(UsageError, match="handlers need pytorch-ignite, which is not installed; install it, or give"):
        NoiseTrainer(str(export), str(tmp_path / "o"), train_handlers=[object()])


def test_bundle_has_the_handlers_that_are_installed(export: Path, tmp_path: Path) -> None:
    pytest.importorskip("ignite")
    flow = _workflow(export, tmp_path / "out")
    flow.initialize()
    assert [type(handler).__name__ for handler in flow.train_handlers] == ["StatsHandler"]
    assert flow.check_properties() == []
    flow.run()
