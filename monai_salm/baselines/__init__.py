# SPDX-License-Identifier: Apache-2.0
"""The noise of others, each from its published formula, to compare with: one maker per method, all with one result.

A baseline's noise is in integer steps on each sample's working grid, within the budget and zero where nothing can carry
noise; inside that it is dense or follows its authors' own rule. Min-min methods (EM, AUE) need no maker: they are
settings of :class:`~monai_salm.optimize.MinMinOptimizer`.

The room lies below the pipeline, not in the evaluation, because ``protect`` makes a baseline's files as it makes all
others, and what is judged must come out of the same writer as what it is judged against.
"""

from __future__ import annotations

from monai_salm.baselines.base import Baseline, BaselineMaker, BaselineRun
from monai_salm.baselines.generators import umed_noise, voxshield_noise
from monai_salm.baselines.pil import pil_noise
from monai_salm.baselines.separable import lsp_noise
from monai_salm.baselines.targeted import tap_noise

__all__ = [
    "Baseline",
    "BaselineMaker",
    "BaselineRun",
    "lsp_noise",
    "pil_noise",
    "tap_noise",
    "umed_noise",
    "voxshield_noise",
]
