# SPDX-License-Identifier: Apache-2.0
"""No public name of ours is one of MONAI's.

A bundle names its components without their module. MONAI looks them up in every loaded module whose name starts with
``monai``, so in ours too (``monai.bundle.ComponentLocator``): a name in both makes the bundles of everybody who imports
us warn.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
import warnings
from importlib import import_module

import monai_salm

MONAI_PACKAGES = (
    "monai.transforms",
    "monai.data",
    "monai.networks.nets",
    "monai.networks.layers",
    "monai.networks.blocks",
    "monai.losses",
    "monai.metrics",
    "monai.inferers",
    "monai.optimizers",
    "monai.bundle",
    "monai.engines",
    "monai.handlers",
    "monai.apps",
    "monai.utils",
)


def _defined(modules: list[str]) -> dict[str, str]:
    """Give the classes and functions that the modules define themselves, and where; as MONAI does it."""
    found = {}
    for name in modules:
        for member, value in inspect.getmembers(sys.modules[name]):
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == name:
                found[member] = name
    return found


def test_no_public_name_is_monais() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optional packages that are not installed, and old ones that are
        for name in MONAI_PACKAGES:
            import_module(name)
    for found in pkgutil.walk_packages(monai_salm.__path__, "monai_salm."):
        if not found.name.endswith("__main__"):
            import_module(found.name)
    loaded = list(sys.modules)
    ours = _defined([name for name in loaded if name.split(".")[0] == "monai_salm"])
    theirs = _defined([name for name in loaded if name.startswith("monai.")])
    assert len(theirs) > 1000
    assert len(ours) > 50
    clashes = {
        f"{ours[name]}.{name} is also {theirs[name]}.{name}"
        for name in ours
        if not name.startswith("_") and name in theirs
    }
    assert not clashes
