# SPDX-License-Identifier: Apache-2.0
"""No path that stands in a file, and no link that was put into an output, leads a run out of its folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_salm.disk import within
from monai_salm.errors import RefusedError, SalmError
from monai_salm.pipeline import ProtectionRun, protect
from monai_salm.pipeline.fates import load_fates
from monai_salm.pipeline.frozen_plan import FrozenPlan
from monai_salm.seals import sealed_json
from tests.exports import drawn, mr_export, nifti_export, plan_lines, small, tree, write_plan

LEADING_OUT = ["../victim.txt", "a/../../victim.txt", "/etc/victim.txt", "", "a\0b", 7, None]


@pytest.mark.parametrize("path", LEADING_OUT, ids=repr)
def test_path_that_leads_out_is_refused(tmp_path: Path, path: Any) -> None:
    with pytest.raises(RefusedError):
        within(tmp_path, path)


@pytest.mark.parametrize("path", ["a", "a/b.dcm", "..a/b..", "a\\b", "./a"])
def test_other_paths_are_held(tmp_path: Path, path: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    for root in (tmp_path / "root", tmp_path / "link"):
        assert within(root, path) == root / path


def test_links_are_followed_to_where_they_lead(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "inside").symlink_to(root / "real")
    (root / "outside").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    (root / "file").symlink_to(tmp_path / "victim")
    assert within(root, "inside/a") == root / "inside" / "a"
    assert within(root, "file", itself=True) == root / "file"
    for path in ("outside/a", "file", "outside"):
        with pytest.raises(RefusedError, match=rf"a link on the way to {path} leads out"):
            within(root, path)
    with pytest.raises(RefusedError):
        within(root, "outside/a", itself=True)


def _run(folder: Path) -> tuple[Path, Path]:
    """A finished run beside a file that is none of its business; gives that file and the manifest."""
    mr_export(folder / "in", 2)
    (folder / "in" / "raw.bin").write_bytes(b"\0")
    protect(folder / "in", folder / "out", drawn(copy_unprotected=True))
    victim = folder / "victim.txt"
    victim.write_text("mine")
    return victim, folder / "out.work" / "manifest.jsonl"


@pytest.mark.parametrize("status", ["protected", "copied"])
@pytest.mark.parametrize("last", [True, False], ids=["last line", "first line"])
def test_line_of_a_manifest_deletes_nothing_outside(tmp_path: Path, status: str, last: bool) -> None:
    victim, manifest = _run(tmp_path)
    lines = manifest.read_text().splitlines()
    number = len(lines) if last else 0
    lines.insert(number, sealed_json({"path": "../victim.txt", "status": status}))
    manifest.write_text("\n".join(lines) + "\n")
    with pytest.raises(SalmError, match=rf"line {number + 1} is damaged \(the path ../victim.txt leads out"):
        load_fates(manifest)
    before = tree(tmp_path / "out")
    result = protect(tmp_path / "in", tmp_path / "out", drawn(resume=True, copy_unprotected=True))
    assert victim.read_text() == "mine"
    assert "../victim.txt" not in result.fates
    assert tree(tmp_path / "out") == before


def test_link_in_an_output_deletes_and_writes_nothing_outside(tmp_path: Path) -> None:
    _, manifest = _run(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "out" / "case0").rename(elsewhere)
    (tmp_path / "out" / "case0").symlink_to(elsewhere)
    (elsewhere / "image.dcm").write_text("mine")
    (elsewhere / "raw.bin").write_text("mine")
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines, sealed_json({"path": "case0/raw.bin", "status": "copied"})]) + "\n")
    result = protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert "a link on the way to case0/image.dcm leads out" in result.fates["case0/image.dcm"].reason
    assert result.fates["case0/image.dcm"].status == "refused"
    assert result.fates["case1/image.dcm"].status == "protected"
    assert tree(elsewhere) == {"image.dcm": b"mine", "raw.bin": b"mine"}


@pytest.mark.parametrize("itself", [True, False], ids=["the file", "its folder"])
def test_copies_and_documents_follow_no_link_out(tmp_path: Path, itself: bool) -> None:
    mr_export(tmp_path / "in", 1)
    (tmp_path / "in" / "notes").mkdir()
    (tmp_path / "in" / "notes" / "a.txt").write_text("plain text")
    (tmp_path / "in" / "notes" / "raw.bin").write_bytes(b"\0")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.txt", "raw.bin"):
        (elsewhere / name).write_text("mine")
    out = tmp_path / "out" / "notes"
    for path in out.iterdir():
        path.unlink()
    if itself:
        for name in ("a.txt", "raw.bin"):
            (out / name).symlink_to(elsewhere / name)
    else:
        out.rmdir()
        out.symlink_to(elsewhere)
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True, copy_unprotected=True))
    assert tree(elsewhere) == {"a.txt": b"mine", "raw.bin": b"mine"}


def _changed(plan: Path, old: str, new: str) -> None:
    """Change a plan as somebody would who knows how its digest is made."""
    lines = [json.loads(json.dumps(line).replace(json.dumps(old), json.dumps(new))) for line in plan_lines(plan)]
    write_plan(plan, lines)


@pytest.mark.parametrize("old", ["case0/image.dcm", "notes.txt"], ids=["image", "document"])
def test_plan_that_leads_out_is_refused(tmp_path: Path, old: str) -> None:
    mr_export(tmp_path / "in", 2)
    (tmp_path / "in" / "notes.txt").write_text("plain text")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    _changed(tmp_path / "out.work" / "plan.jsonl", old, "../victim.txt")
    with pytest.raises(SalmError, match=r"plan is damaged \(the path ../victim.txt leads out of its folder\)"):
        protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))


def test_plan_that_writes_what_is_not_in_the_input_is_refused(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    plan = tmp_path / "out.work" / "plan.jsonl"
    write_plan(plan, [line for line in plan_lines(plan) if line.get("path") != "case0/image.dcm"])
    with pytest.raises(SalmError, match=r"it is to write case0/image.dcm, which is not in its input"):
        protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))


def test_plan_with_another_label_map_is_refused(tmp_path: Path) -> None:
    nifti_export(tmp_path / "in", 2, labels=tmp_path / "maps")
    options = small(labels=tmp_path / "maps", task="segmentation", surrogate="small-unet")
    ProtectionRun(tmp_path / "in", tmp_path / "out", options).prepare()
    plan = tmp_path / "out.work" / "plan.jsonl"
    lines = plan_lines(plan)
    assert FrozenPlan.read(plan).labels
    for line in lines:
        line |= {"label": str(tmp_path / "maps" / "other.nii.gz")} if "label" in line else {}
    write_plan(plan, lines)
    with pytest.raises(SalmError, match="is not the one that it was given"):
        FrozenPlan.read(plan)
