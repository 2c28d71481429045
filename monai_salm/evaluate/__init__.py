# SPDX-License-Identifier: Apache-2.0
"""Proof by training: what a stranger's network learns from the protected files, and what it takes to get around the
noise.
"""

from __future__ import annotations

import sys
from types import ModuleType

from monai_salm.evaluate.comparison import evaluate
from monai_salm.evaluate.countermeasures import (
    COUNTERMEASURES,
    NO_COUNTERMEASURE,
    Countermeasure,
    Leak,
    find_countermeasure,
)
from monai_salm.evaluate.options import EvaluateOptions
from monai_salm.evaluate.pretraining import pretrain
from monai_salm.evaluate.report import ExamplePair, write_report
from monai_salm.evaluate.results import EvaluateReport, VictimResult
from monai_salm.evaluate.victims import build_victim
from monai_salm.learning.victims import VictimRecipe, VictimScores, VictimTraining, score_network, train_victim

__all__ = [
    "COUNTERMEASURES", "NO_COUNTERMEASURE", "Countermeasure", "EvaluateOptions", "EvaluateReport", "ExamplePair",
    "Leak", "VictimRecipe", "VictimResult", "VictimScores", "VictimTraining", "build_victim", "evaluate",
    "find_countermeasure", "pretrain", "score_network", "train_victim", "write_report",
]  # fmt: skip


class _Verb(ModuleType):
    """Lets ``monai_salm.evaluate`` be called, as the other verbs are, though it is a package."""

    __call__ = staticmethod(evaluate)


sys.modules[__name__].__class__ = _Verb
