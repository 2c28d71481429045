# SPDX-License-Identifier: Apache-2.0
"""The main job on data that comes with an installed package: no download, no hospital."""

from __future__ import annotations

from monai_salm.demo.story import DemoSize, run_demo

__all__ = ["DemoSize", "run_demo"]
