# SPDX-License-Identifier: Apache-2.0
"""The command line in this process, as the tests of what users meet call it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from monai_salm import cli
from tests.fidelity.field_inputs import Command, Told


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a command; what libraries in C print counts, and so does a warning, which a user would see."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def call(*arguments: Any) -> Told:
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", category=ResourceWarning)
            try:
                cli.main([str(argument) for argument in arguments])
            except SystemExit as stop:
                return Told(int(str(stop.code)), *capfd.readouterr())
        raise AssertionError("a command ends with an exit code")

    yield call
    root.handlers, root.level = handlers, level
