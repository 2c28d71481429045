# SPDX-License-Identifier: Apache-2.0
"""What a plan decides, volume by volume, for people to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import ProtectionPlan, SamplePlan
from monai_salm.volumes import VolumeView, volume_of


def decided_of_volumes(inventory: Inventory, plan: ProtectionPlan) -> Iterator[dict[str, Any]]:
    """Give what was decided of each series of slices, and of the other files of each modality, as plain types."""
    groups: dict[tuple[str, str], list[SamplePlan]] = defaultdict(list)
    for sample in plan.samples:
        header = inventory.pictures[sample.files[0].path]
        groups[(volume_of(header), sample.files[0].view.modality)].append(sample)
    refused: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, reason in plan.refused.items():
        picture = inventory.pictures.get(path)
        if picture is not None and volume_of(picture):
            refused[(volume_of(picture), picture.modality)].append(reason)
    for series, modality in sorted(groups.keys() | refused.keys()):
        yield _volume(series, modality, groups[(series, modality)], refused[(series, modality)])


def _volume(series: str, modality: str, samples: list[SamplePlan], refused: list[str]) -> dict[str, Any]:
    canvases = [file.canvas for sample in samples for file in sample.files]
    said: dict[str, Any] = {"series": series, "modality": modality, "files": len(canvases), "samples": len(samples)}
    if canvases and series:
        view = VolumeView.of_file(canvases[0]).to_json()
        said |= {"window": view["window"], "background": view["background"]}
    if canvases:
        said["epsilon_real"] = max(canvas.epsilon_real for canvas in canvases)
        said["epsilon_stored"] = max(canvas.epsilon_stored for canvas in canvases)
    counts = {reason: refused.count(reason) for reason in dict.fromkeys(refused)}
    return said | ({"refused": counts} if counts else {})
