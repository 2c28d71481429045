# SPDX-License-Identifier: Apache-2.0
"""The version is one number, in three files."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

import monai_salm

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("CHANGELOG.md", r"^## \[(.+?)\]"),
        ("CITATION.cff", r"^version: (.+)$"),
    ],
)
def test_files_agree(file: str, pattern: str) -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert declared is not None
    assert found is not None
    assert found[1] == declared[1]


def test_the_package_says_so_too() -> None:
    assert monai_salm.__version__ == version("monai_salm")
