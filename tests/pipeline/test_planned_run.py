# SPDX-License-Identifier: Apache-2.0
"""A plan that was written down is carried out as it was decided, with the options that it was decided with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_salm.cli.entry import main
from monai_salm.errors import SalmError, UsageError
from monai_salm.pipeline import ProtectOptions, plan_run, protect
from monai_salm.pipeline.planned_run import planned_options
from monai_salm.seals import unsealed_lines
from tests.exports import KEY, drawn, label_table, mr_export, mr_labels, mr_series, small, tree, zip_file


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--quiet"])
    return int(ended.value.code or 0)


def _export(folder: Path) -> Path:
    mr_export(folder / "in", 4)
    mr_series(folder / "in" / "series", 9, slices=3)
    (folder / "in" / "notes.txt").write_text("notes")
    (folder / "in" / "raw.bin").write_bytes(bytes(range(256)))
    return folder / "in"


@pytest.mark.parametrize("labeled", [False, True])
def test_plan_is_carried_out_with_its_options(tmp_path: Path, labeled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = _export(tmp_path)
    options = drawn(epsilon="12/255")
    if labeled:
        options = small(labels=mr_labels(Path("l.csv"), 4), rounds=1, estimate=False, epsilon="12/255")
    whole = protect(source, tmp_path / "whole", options)
    plan_run(source.relative_to(tmp_path), Path("work"), options)
    assert not (tmp_path / "work" / "output").exists()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    place, told = planned_options(tmp_path / "work")
    assert place == source
    assert told.epsilon == "12/255"
    result = protect(place, tmp_path / "out", told)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert result.to_json()["counts"] == whole.to_json()["counts"]


def test_lines_of_a_plan_say_what_was_decided(tmp_path: Path) -> None:
    source = _export(tmp_path)
    options = small(labels=mr_labels(tmp_path / "l.csv", 4))
    planned = plan_run(source, tmp_path / "work", options)
    lines = list(unsealed_lines(planned.path.read_text().splitlines()))
    kinds = [line["line"] for line in lines]
    assert kinds == sorted(kinds, key=["run", "effort", "volume", "sample", "file"].index)
    head, effort, *_ = lines
    assert head["options"]["labels"] == str(tmp_path / "l.csv")
    assert effort["output_bytes"] > 4 * 24 * 24 * 2
    assert effort["memory_bytes"] > 100 << 20
    volumes = [line for line in lines if line["line"] == "volume"]
    assert sum(volume["files"] for volume in volumes) == 4
    assert sum(sum(volume.get("refused", {}).values()) for volume in volumes) == 3
    assert all("window" in volume and volume["epsilon_real"] > 0 for volume in volumes if volume["files"])
    files = {line["path"]: line for line in lines if line["line"] == "file"}
    assert "it has no label" in files["series/slice1.dcm"]["plan"]["refused"]
    assert files["notes.txt"]["plan"]["documents"] == files["notes.txt"]["found"]["sha256"]
    assert files["case1/image.dcm"]["label"] == 1
    assert sum(line["line"] == "sample" for line in lines) == 4


def _other_label(folder: Path) -> None:
    label_table(folder / "l.csv", {f"case{n}/image.dcm": 1 - n % 2 for n in range(4)})


def _other_slice(folder: Path) -> None:
    shutil.copyfile(folder / "in" / "case1" / "image.dcm", folder / "in" / "case0" / "image.dcm")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_other_label, "4 labels changed"),
        (_other_slice, "case0/image.dcm"),
        (lambda folder: (folder / "in" / "case2" / "image.dcm").unlink(), "1 files gone: 'case2/image.dcm'"),
    ],
    ids=["label", "slice", "gone"],
)
def test_input_that_changed_since_is_named(tmp_path: Path, change: Callable[[Path], Any], told: str) -> None:
    mr_export(tmp_path / "in", 4)
    table = label_table(tmp_path / "l.csv", {f"case{n}/image.dcm": n % 2 for n in range(4)})
    plan_run(tmp_path / "in", tmp_path / "work", small(labels=table))
    change(tmp_path)
    with pytest.raises(UsageError, match=told):
        protect(tmp_path / "in", tmp_path / "out", planned_options(tmp_path / "work")[1])
    assert not (tmp_path / "out").exists()


def test_files_that_were_only_touched_are_as_planned(tmp_path: Path) -> None:
    source = _export(tmp_path)
    plan_run(source, tmp_path / "work", drawn())
    for place in source.rglob("*"):
        os.utime(place, (1, 1))
    protect(source, tmp_path / "out", planned_options(tmp_path / "work")[1])


def test_zip_is_not_left_unpacked(tmp_path: Path) -> None:
    source = zip_file(tmp_path / "in.zip", _export(tmp_path))
    plan_run(source, tmp_path / "work", drawn())
    assert {place.name for place in (tmp_path / "work").iterdir()} == {"plan.jsonl", "uid.key"}
    protect(source, tmp_path / "out.zip", planned_options(tmp_path / "work")[1])
    protect(source, tmp_path / "whole.zip", drawn())
    assert (tmp_path / "out.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, work = _export(tmp_path), tmp_path / "work"
    assert _run("plan", source, work, "--method", "random", "--key-file", KEY) == 3, "a file is refused"
    said = capsys.readouterr().out
    assert "protects 7 files in 7 samples, copies 1 and refuses 1" in said
    assert f"to carry it out: monai-salm protect OUTPUT --plan {work}" in said
    assert _run("protect", tmp_path / "dry", "--plan", work, "--dry-run") == 3
    assert not (tmp_path / "dry").exists()
    assert _run("protect", tmp_path / "out", "--plan", work / "plan.jsonl") == 3
    assert _run("protect", source, tmp_path / "whole", "--method", "random", "--key-file", KEY) == 3
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    capsys.readouterr()
    assert _run("plan", source, tmp_path / "again", "--method", "random", "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"protect": 7, "copy": 1, "refuse": 1, "samples": 7}
    assert sum(volume["files"] for volume in told["volumes"]) == 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["protect", "out", "--plan", "work", "--seed", "3"], "a plan has its own options; leave out --seed"),
        (["protect", "in", "out", "--plan", "work"], "OUTPUT alone is needed"),
        (["protect", "out"], "INPUT and OUTPUT are needed"),
        (["protect", "out", "--plan", "nothing"], "the plan cannot be read"),
        (["plan", "in", "work", "--method", "random"], "the work folder work is not empty"),
        (["plan", "in", "in/work", "--method", "random"], "lies in the input"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    mr_export(tmp_path / "in", 2)
    plan_run(Path("in"), Path("work"), drawn())
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--quiet"])
    assert ended.value.code in (1, 2)
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_options_of_another_version_are_refused() -> None:
    record = ProtectOptions(method="random").to_json()
    assert ProtectOptions.from_json(json.loads(json.dumps(record))) == ProtectOptions(method="random")
    with pytest.raises(SalmError, match=r"another version \(sharpness\); plan again"):
        ProtectOptions.from_json(record | {"sharpness": 3})
