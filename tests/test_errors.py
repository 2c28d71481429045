# SPDX-License-Identifier: Apache-2.0
"""An error is one line, whatever a file puts into it."""

from __future__ import annotations

import pickle  # worker processes send errors so
import re
from pathlib import Path

import pytest

import monai_salm
from monai_salm.errors import RefusedError, SalmError, UsageError, VerificationError, how_to_install


@pytest.mark.parametrize("kind", [SalmError, UsageError, RefusedError, VerificationError])
def test_message_is_one_line(kind: type[SalmError]) -> None:
    error = kind("transfer syntax 1.2\n\x00\x1b[31m is not known")
    assert str(error) == "transfer syntax 1.2   [31m is not known"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


def test_what_is_to_be_installed_is_named_as_it_is_required() -> None:
    assert re.fullmatch(r"pip install 'pillow>=[\d.]+'", how_to_install("Pillow"))
    assert re.fullmatch(r"pip install 'scikit-image>=[\d.]+'", how_to_install("scikit_image"))
    assert how_to_install("no-such-package") == "pip install no-such-package"


def test_no_message_sends_anybody_to_a_name_that_is_not_ours() -> None:
    """Whoever owns our name on a registry is not known to be us: extras go by the names of what they bring."""
    files = {path: path.read_text(encoding="utf-8") for path in Path(monai_salm.__file__).parent.rglob("*.py")}
    packages = {package for text in files.values() for package in re.findall(r"how_to_install\([\"']([\w-]+)", text)}
    assert packages >= {"distributed", "einops", "highdicom", "nilearn", "pillow"}
    assert all(">=" in how_to_install(package) for package in packages), "one of them is no requirement of ours"
    assert not [path for path, text in files.items() if re.search(r"install\W{1,4}(monai[_-]salm)|monai_salm\[", text)]
