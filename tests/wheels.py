# SPDX-License-Identifier: Apache-2.0
"""The files of a release, built once, and an environment that has the wheel and no clone: fixtures for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTEST_ADDOPTS"}}
    done = subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def build(source: Path, target: Path, *kinds: str) -> Path:
    run(sys.executable, "-m", "hatchling", "build", *(f"-t{kind}" for kind in kinds), "-d", target, cwd=source)
    return target


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both files."""
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    return build(ROOT, tmp_path_factory.mktemp("dist"), "sdist", "wheel")


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="session")
def source(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        file.extractall(tmp_path_factory.mktemp("sdist"), filter="data")
    return next(tmp_path_factory.getbasetemp().glob("sdist*/monai_salm-*"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and from this one all other packages: a line with a folder
    makes it part of the path, but not what the files in it would add, an editable installation among them.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=os.name == "posix")
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    others = [place for place in sys.path if Path(place).name in {"site-packages", "dist-packages"}]
    Path(paths["purelib"], "others.pth").write_text("\n".join(others), encoding="utf-8")
    python = Path(paths["scripts"], "python")
    install = ["install", "--quiet", "--no-deps", "--ignore-installed", "--no-index", wheel]
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    return python.parent
