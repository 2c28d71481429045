# SPDX-License-Identifier: Apache-2.0
"""What all tests share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from monai_salm.cli import cli
from tests.wheels import built, installed, source, wheel

__all__ = ["built", "installed", "source", "wheel"]

# The same examples in every run, so that a failure here is a failure there; a slow machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small networks train fastest on one thread, and their sums come out the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_processes_unasked() -> None:
    """Commands work in the process of the test, which takes a second less each; tests that are about processes give
    ``--workers``, or start the command as a program.
    """
    for command in cli.commands.values():
        for option in command.params:
            if option.name == "workers":
                option.default = 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
