# SPDX-License-Identifier: Apache-2.0
"""The verbs of the command line, from the package."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import monai_salm
from monai_salm.evaluate.comparison import evaluate
from monai_salm.pipeline.protection import protect
from monai_salm.pipeline.scanning import scan
from monai_salm.pipeline.verification import verify
from tests.exports import mr_export

VERBS = [scan, protect, verify, evaluate]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_verbs_are_of_the_package(verb: Callable[..., Any]) -> None:
    found = getattr(monai_salm, verb.__name__)
    assert callable(found)
    assert verb.__name__ in dir(monai_salm)
    if isinstance(found, ModuleType):  # a package of this name is there too
        assert found.__call__ is verb
        found = found.evaluate
    assert found is verb


def test_every_name_of_the_package_is_there() -> None:
    for package in (monai_salm, importlib.import_module("monai_salm.pipeline")):
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018


NEED_NO_TORCH = [
    "monai_salm",
    "monai_salm.bounds",
    "monai_salm.burned_in",
    "monai_salm.canvas",
    "monai_salm.io",
    "monai_salm.methods.names",
    "monai_salm.noise",
    "monai_salm.pipeline",
    "monai_salm.pipeline.documents",
    "monai_salm.pipeline.foresight",
    "monai_salm.pipeline.frozen_plan",
    "monai_salm.pipeline.labeling",
    "monai_salm.pipeline.labels",
    "monai_salm.pipeline.options",
    "monai_salm.pipeline.output",
    "monai_salm.pipeline.plan",
    "monai_salm.pipeline.plan_changes",
    "monai_salm.pipeline.scanning",
    "monai_salm.pipeline.verification",
    "monai_salm.pipeline.write",
]
"""What scan, plan, the writers and verify are made of."""


@pytest.mark.parametrize("module", NEED_NO_TORCH)
def test_scanning_planning_writing_and_proving_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'monai'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_command_that_scans_loads_no_torch(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 1)
    code = """
import sys
from monai_salm.cli import cli
cli.main(["scan", "in", "--quiet"], standalone_mode=False)
print(sorted({"torch", "monai"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.endswith("1 files can be protected, 0 are copied, 0 are refused, 0 ignored\n[]\n")


def test_a_scan_and_a_verification_load_no_torch(tmp_path: Path) -> None:
    """Nor do they while they work."""
    mr_export(tmp_path / "in", 1)
    code = """
import sys
from pathlib import Path
from monai_salm import scan, verify
from monai_salm.pipeline import ProtectOptions, forecast
assert forecast(scan(Path("in")), ProtectOptions(method="random"))["counts"]["protect"] == 1
assert len(verify(Path("in"), Path("out")).files) == 1
print(sorted({"torch", "monai"} & set(sys.modules)))
"""
    (tmp_path / "out" / "case0").mkdir(parents=True)
    (tmp_path / "out" / "case0" / "image.dcm").write_bytes((tmp_path / "in" / "case0" / "image.dcm").read_bytes())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"
