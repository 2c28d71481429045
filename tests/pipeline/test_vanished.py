# SPDX-License-Identifier: Apache-2.0
"""An input that is gone, at whatever moment, costs that one file."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from monai_salm.cli.entry import main
from monai_salm.pipeline import ProtectionRun
from tests.exports import mr_export, nifti_export, small, tree


@pytest.mark.parametrize("gone", ["case0/image.dcm", "notes.txt"])
@pytest.mark.parametrize(
    "stage",
    [
        ("planning", "decide"),
        ("protection", "preflight"),
        ("protection", "make_noise"),
        ("protection", "write_files"),
    ],
    ids=lambda stage: stage[1],
)
def test_input_that_vanishes_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: tuple[str, str],
    gone: str,
) -> None:  # fmt: skip
    mr_export(tmp_path / "in", 3)
    for name in ("notes.txt", "more.txt"):
        (tmp_path / "in" / name).write_text(name)
    module = import_module(f"monai_salm.pipeline.{stage[0]}")
    real = getattr(module, stage[1])

    def vanish_first(*arguments: Any, **named: Any) -> Any:
        (tmp_path / "in" / gone).unlink()
        return real(*arguments, **named)

    monkeypatch.setattr(module, stage[1], vanish_first)
    command = ["protect", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "random", "--json", "--quiet"]
    with pytest.raises(SystemExit) as left:
        main(command)
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert left.value.code == 3
    assert [problem["path"] for problem in problems] == [gone]
    assert "cannot be read" in problems[0]["reason"] or "not the file any more" in problems[0]["reason"]
    assert set(tree(tmp_path / "out")) == {
        "case0/image.dcm", "case1/image.dcm", "case2/image.dcm", "notes.txt", "more.txt",
    } - {gone}  # fmt: skip


@pytest.mark.parametrize("stage", [("planning", "decide"), ("protection", "preflight")], ids=lambda it: it[1])
def test_label_map_that_vanishes_costs_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: tuple[str, str]
) -> None:
    nifti_export(tmp_path / "in", 4, labels=tmp_path / "maps")
    module = import_module(f"monai_salm.pipeline.{stage[0]}")
    real = getattr(module, stage[1])

    def vanish_first(*arguments: Any, **named: Any) -> Any:
        (tmp_path / "maps" / "v1.nii.gz").unlink()
        return real(*arguments, **named)

    monkeypatch.setattr(module, stage[1], vanish_first)
    options = small(labels=tmp_path / "maps", task="segmentation", surrogate="small-unet")
    _, plan = ProtectionRun(tmp_path / "in", tmp_path / "out", options).prepare()
    assert plan.refused == {"v1.nii.gz": "v1.nii.gz cannot be read: No such file or directory"}
    assert len(plan.samples) == 3
