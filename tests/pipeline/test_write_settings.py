# SPDX-License-Identifier: Apache-2.0
"""The settings of all jobs lie in a file, so that any executor writes the same files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from monai_salm.io import Derivation
from monai_salm.pipeline import ProtectionRun, protect
from monai_salm.pipeline.output import write_files
from monai_salm.pipeline.write_settings import WriteSettings, kept_settings, read_settings
from tests.exports import drawn, mr_export, mr_series, tree


def _settings(**changes: Any) -> WriteSettings:
    fields: dict[str, Any] = {
        "software": "s", "version": "1", "description": "", "uid_secret": bytes(range(32)),
        "changed_uids": frozenset({"1.2", "3.4"}), "provenance": "minimal", "source_reference": False,
        "absent_files": frozenset({"A"}), "transfer_syntaxes": {"1.2": "1.2.840.10008.1.2.1"},
    }  # fmt: skip
    return WriteSettings(
        Path("/in/\udcff"), Path("/out"), Path("/out.work/noise"), Derivation(**(fields | changes)), private=True
    )


@pytest.mark.parametrize("changes", [{}, {"uid_secret": None, "changed_uids": frozenset()}], ids=["new", "kept"])
def test_settings_survive_text(changes: dict[str, Any]) -> None:
    settings = _settings(**changes)
    assert WriteSettings.from_text(settings.to_text()) == settings


def test_settings_are_private_and_go_when_all_is_written(tmp_path: Path) -> None:
    (tmp_path / "write-of-a-killed-run.json").write_text("{}")
    first, second = _settings(), _settings(version="2")
    with kept_settings(first, tmp_path) as path:
        assert list(tmp_path.iterdir()) == [path]
        assert path.stat().st_mode & 0o077 == 0
        assert read_settings(path) == first
    with kept_settings(second, tmp_path) as other:
        assert other != path
        assert read_settings(other) == second, "no process takes old settings for new ones"
    assert list(tmp_path.iterdir()) == []


def _threads() -> Executor:
    return ThreadPoolExecutor(3)


def _started_processes() -> Executor:
    """Give processes that were there before anybody knew of the run."""
    processes = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    list(processes.map(abs, range(4)))
    return processes


@pytest.mark.parametrize("make", [_threads, _started_processes], ids=["threads", "started processes"])
def test_any_executor_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Executor]) -> None:
    monkeypatch.chdir(tmp_path)
    mr_export(tmp_path / "in", 5)
    mr_series(tmp_path / "in" / "series", 9, slices=3)
    protect(tmp_path / "in", tmp_path / "whole", drawn())
    with make() as executor:
        run = ProtectionRun(Path("in"), Path("out"), drawn())
        run.search()
        inventory, plan = run.prepare()
        fates = write_files(inventory, plan, run.options, run.output, run.work_dir, executor)
    assert {fate.status for fate in fates.values()} == {"protected"}
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    for name in ("manifest.jsonl", "plan.jsonl"):
        assert (tmp_path / "out.work" / name).is_file()
    assert not list((tmp_path / "out.work").glob("write-*"))
