# SPDX-License-Identifier: Apache-2.0
"""What the MONAI bundle of this project is made of: a trainer that is a protection run, an evaluation, the surrogate as
a network, and a check of the overrides.
"""

from __future__ import annotations

from monai_salm.bundle.evaluation import VictimEvaluation
from monai_salm.bundle.handlers import has_packages
from monai_salm.bundle.networks import surrogate_network
from monai_salm.bundle.overrides import check_overrides
from monai_salm.bundle.trainer import NoiseTrainer

__all__ = ["NoiseTrainer", "VictimEvaluation", "check_overrides", "has_packages", "surrogate_network"]
