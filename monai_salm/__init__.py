# SPDX-License-Identifier: Apache-2.0
"""monai_salm: bounded, error-minimizing noise in DICOM and NIfTI files, for medical images that are to be looked at,
but not trained on.

``scan``, ``protect``, ``verify`` and ``evaluate`` do what the commands of these names do. The names below are loaded
when they are first used (PEP 562), because torch and MONAI take seconds to load and the command line's help should not.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_salm.budget import Epsilon, FileBudget, PerturbationBudget
    from monai_salm.errors import RefusedError, SalmError, UsageError, VerificationError
    from monai_salm.evaluate import EvaluateOptions, evaluate
    from monai_salm.learning.consumers import ConsumerAugmentation
    from monai_salm.learning.networks import build_network
    from monai_salm.learning.samples import WorkingSet
    from monai_salm.learning.tasks import ClassificationTask, SegmentationTask
    from monai_salm.methods.minmin import MinMinOptimizer
    from monai_salm.methods.minmin_settings import MinMinSettings
    from monai_salm.noise import NoiseStore, SparseNoise, add_noise
    from monai_salm.pipeline import ProtectOptions, protect, scan, verify
    from monai_salm.windows import IntensityWindow
    from monai_salm.working_samples import WorkingSample

__version__ = version("monai_salm")

_ROOMS = {
    "budget": ("Epsilon", "FileBudget", "PerturbationBudget"),
    "windows": ("IntensityWindow",),
    "learning.consumers": ("ConsumerAugmentation",),
    "evaluate.options": ("EvaluateOptions",),
    "errors": ("RefusedError", "SalmError", "UsageError", "VerificationError"),
    "learning.networks": ("build_network",),
    "noise": ("NoiseStore", "SparseNoise", "add_noise"),
    "methods.minmin": ("MinMinOptimizer",),
    "methods.minmin_settings": ("MinMinSettings",),
    "learning.samples": ("WorkingSet",),
    "working_samples": ("WorkingSample",),
    "learning.tasks": ("ClassificationTask", "SegmentationTask"),
    "pipeline": ("ProtectOptions", "protect", "scan", "verify"),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "ClassificationTask",
    "ConsumerAugmentation",
    "Epsilon",
    "EvaluateOptions",
    "FileBudget",
    "IntensityWindow",
    "MinMinOptimizer",
    "MinMinSettings",
    "NoiseStore",
    "PerturbationBudget",
    "ProtectOptions",
    "RefusedError",
    "SalmError",
    "SegmentationTask",
    "SparseNoise",
    "UsageError",
    "VerificationError",
    "WorkingSample",
    "WorkingSet",
    "__version__",
    "add_noise",
    "build_network",
    "evaluate",
    "protect",
    "scan",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        return import_module(f"{__name__}.evaluate")  # a package that can be called
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
