# SPDX-License-Identifier: Apache-2.0
"""Proof by training: what a stranger's network learns from the protected files."""

from __future__ import annotations

from monai_salm.evaluate.comparison import EvaluateOptions, EvaluateReport, VictimResult, evaluate
from monai_salm.evaluate.victims import VictimRecipe, score_network, train_victim

__all__ = ["EvaluateOptions", "EvaluateReport", "VictimRecipe", "VictimResult", "evaluate", "score_network", "train_victim"]
