# SPDX-License-Identifier: Apache-2.0
"""The worked example of docs/add-a-method.md does what the page says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from monai_salm.learning.networks import seeded_network
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.methods.base import MethodRun
from tests.builders import disk_set

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-method.md").read_text(encoding="utf-8")


def test_the_example_makes_noise_within_the_budget() -> None:
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "class OneStep" in block
    )
    module = ModuleType("one_step")
    sys.modules["one_step"] = module
    try:
        exec(compile(code, "docs/add-a-method.md", "exec"), vars(module))  # noqa: S102 (our own page)
        samples, task = disk_set(8), ClassificationTask(2)
        run = MethodRun(
            seed=0, device=torch.device("cpu"), build_surrogate=lambda: seeded_network("small-cnn", (16, 16), 2, 0)
        )
        noise = dict(module.OneStep(epochs=1).noise(samples, task, run))
    finally:
        del sys.modules["one_step"]
    assert sorted(noise) == samples.ids
    for sample in samples.samples:
        steps = noise[sample.sample_id]
        assert set(np.abs(steps).ravel()) <= {0, sample.levels}
        assert steps.any()
        assert not steps[sample.carrier_voxels == 0].any()
    assert run.passes > 1
