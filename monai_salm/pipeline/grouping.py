# SPDX-License-Identifier: Apache-2.0
"""Which images belong together, so that none of a patient is on both sides of a division."""

from __future__ import annotations

from collections import defaultdict

from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import SampleGroups
from monai_salm.learning.targets import classes_in
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import ProtectionPlan

GROUPS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
"""Identifiers that keep images together, the first that makes enough groups."""

LEAST_GROUPS = 8
"""Of each class: with fewer, a quarter of them says nothing."""


def sample_groups(inventory: Inventory, plan: ProtectionPlan, working: WorkingSet) -> SampleGroups:
    """Give the images of one patient, study or series, the first that makes eight groups of each class."""
    pictures = {sample.sample_id: inventory.pictures[sample.files[0].path] for sample in plan.samples}
    for name in GROUPS:
        groups = [pictures[sample_id].identifiers.get(name, "") for sample_id in working.ids]
        of_class: dict[int, set[str]] = defaultdict(set)
        for sample, group in zip(working.samples, groups, strict=True):
            for found in classes_in(sample.target):
                of_class[found].add(group)
        if all(groups) and of_class and min(map(len, of_class.values())) > LEAST_GROUPS - 1:
            return SampleGroups(groups, name)
    return SampleGroups(working.ids, "image")
