# SPDX-License-Identifier: Apache-2.0
"""The evaluation as one page for people, which loads nothing, and the same content as data."""

from __future__ import annotations

from monai_salm.evaluate.report.page import write_report
from monai_salm.evaluate.report.pictures import ExamplePair

__all__ = ["ExamplePair", "write_report"]
