# SPDX-License-Identifier: Apache-2.0
"""What values say of themselves: picture, label map, or neither for sure."""

from __future__ import annotations

from monai_salm.io.evidence.judgement import Judgement, Kind
from monai_salm.io.evidence.measured import WHOLE, MeasuredGrid
from monai_salm.io.evidence.weighing import weigh, weigh_flatness

__all__ = ["WHOLE", "Judgement", "Kind", "MeasuredGrid", "weigh", "weigh_flatness"]
