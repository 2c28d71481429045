# SPDX-License-Identifier: Apache-2.0
"""What all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from monai_salm.cli import cli
from monai_salm.io.dicom.codecs import libraries
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


@pytest.fixture
def log_as_before() -> Iterator[None]:
    """Take away the log handler that a command installs for its process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level


HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203", "htj2k")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU where there is none, and those of HTJ2K where an old imagecodecs is."""
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if any(name in item.name.lower() for name in HTJ2K) and old_imagecodecs():
            item.add_marker(pytest.mark.skip(reason="imagecodecs is older than 2026.1.14, and encodes no HTJ2K"))


def old_imagecodecs() -> bool:
    """Say whether imagecodecs is there, but so old that it encodes no HTJ2K, as it has to be on Python 3.10."""
    return libraries.imagecodecs is not None and not hasattr(libraries.imagecodecs, "htj2k_encode")
