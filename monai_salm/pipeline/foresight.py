# SPDX-License-Identifier: Apache-2.0
"""What of a plan cannot be done after all, found out by looking at every image: where nothing can carry noise, and
which files would be alone. No network is needed for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.anatomy import CT_BODY_HU
from monai_salm.errors import RefusedError, unreadable
from monai_salm.io import SourceImage, read_source
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan, SamplePlan, build_plan
from monai_salm.pipeline.references import why_header_stays
from monai_salm.progress import track
from monai_salm.windows import IntensityWindow


@dataclass(frozen=True)
class Carriers:
    """In which files of a plan nothing can carry noise.

    Args:
        unusable: path -> reason, of samples that cannot carry any.
        bare: path -> reason, of slices of volumes other slices of which can.
    """

    unusable: Mapping[str, str] = field(default_factory=dict)
    bare: Mapping[str, str] = field(default_factory=dict)


def look_for_carriers(
    inventory: Inventory, plan: ProtectionPlan, *, volumes_only: bool = False, show_progress: bool = False
) -> Carriers:
    """Read the samples of a plan, and find out where noise can lie.

    Args:
        inventory, plan: of the input.
        volumes_only: leave out samples of one file.
        show_progress: a progress bar on standard error.
    """
    unusable: dict[str, str] = {}
    bare: dict[str, str] = {}
    samples = [sample for sample in plan.samples if len(sample.files) > 1 or not volumes_only]
    for sample in track(samples, "loading", "samples", total=len(samples), show_progress=show_progress):
        try:
            found = {
                file.path: (int(np.count_nonzero(inside)), bool(file.view.carriers(source.stored, inside).any()))
                for file, (source, inside) in zip(sample.files, _anatomies(inventory, sample), strict=True)
            }
            if not any(carries for _, carries in found.values()):
                raise RefusedError(why_nothing_carries(inventory, sample, sum(voxels for voxels, _ in found.values())))
        except RefusedError as refusal:
            unusable |= dict.fromkeys((file.path for file in sample.files), str(refusal))
            continue
        except OSError as error:
            unusable |= dict.fromkeys((file.path for file in sample.files), unreadable(error))
            continue
        bare |= {
            path: f"none of its {voxels} anatomy voxels can carry noise, though other slices of its series can"
            for path, (voxels, carries) in found.items()
            if not carries
        }
    return Carriers(unusable, bare)


def as_written(inventory: Inventory, plan: ProtectionPlan, bare: Mapping[str, str]) -> ProtectionPlan:
    """Give a plan with what would be refused only while it is written.

    Args:
        inventory, plan: of the input.
        bare: slices that can carry no noise, with the reason.
    """
    plan = replace(plan, refused={**plan.refused, **bare})
    written = frozenset(plan.protected())
    alone = {path: why for path in plan.documents if (why := why_header_stays(inventory, path, written))}
    documents = {path: digest for path, digest in plan.documents.items() if path not in alone}
    return replace(plan, refused={**plan.refused, **alone}, documents=documents)


def forecast(inventory: Inventory, options: ProtectOptions, *, show_progress: bool = False) -> dict[str, Any]:
    """Give what ``monai-salm scan --json`` prints: what would become of each file without any label; reads every
    image.

    Args:
        inventory: the files.
        options: how budgets are found; the method is one that needs no labels.
        show_progress: progress bars on standard error.
    """
    plan = build_plan(inventory, options.budget_options(), sample=options.sample, show_progress=show_progress)
    carriers = look_for_carriers(inventory, plan, show_progress=show_progress)
    plan = as_written(inventory, plan.without(carriers.unusable), carriers.bare)
    refused, result = plan.all_refused(), inventory.to_json()
    for file in result["files"]:
        if file["path"] in refused:
            file |= {"fate": "refuse", "reason": refused[file["path"]]}
    for fate in ("protect", "copy", "refuse"):
        result["counts"][fate] = sum(file["fate"] == fate for file in result["files"])
    return result


def why_nothing_carries(inventory: Inventory, sample: SamplePlan, anatomy_voxels: int) -> str:
    """Say why no voxel of a sample can carry noise, with what helps: another window where that would
    see the anatomy.
    """
    leave = "leave it out, or give --copy-unprotected, which copies it as it is"
    view = sample.files[0].view
    if not anatomy_voxels:
        said = inventory.pictures[sample.files[0].path].modality
        lack = (
            f"no region of it is denser than {CT_BODY_HU:g} HU, as a body is"
            if view.modality == "CT"
            else "nothing in it differs from its background"
        )
        other = "" if said or view.modality != "CT" else "give another --modality if it is no CT, "
        return f"no anatomy was found: {lack}, and no --window changes that; {other}{leave}"
    inside = [(source, inside) for source, inside in _anatomies(inventory, sample) if inside.any()]
    values = [source.real[mask] for source, mask in inside]
    low, high = (
        float(extreme([extreme(part[np.isfinite(part)], initial=start) for part in values]))
        for extreme, start in ((np.min, np.inf), (np.max, -np.inf))
    )
    window = view.views[0].window
    wider = view.through(IntensityWindow(low, high)) if low < high else view
    if low < high and any(wider.carriers(source.stored, mask).any() for source, mask in inside):
        return (
            f"none of its {anatomy_voxels} anatomy voxels, which are {low:.6g} to {high:.6g}, lies inside the "
            "intensity window "
            f"{window.low:g} to {window.high:g}, so nothing can carry noise; give a --window that holds them, "
            f"such as --window={low:.6g},{high:.6g}"
        )
    return (
        f"its {anatomy_voxels} anatomy voxels are all saturated or padding, at {low:.6g} to {high:.6g}, so nothing "
        f"can carry noise; {leave}"
    )


def _anatomies(inventory: Inventory, sample: SamplePlan) -> Iterator[tuple[SourceImage, NDArray[np.bool_]]]:
    for file in sample.files:
        source = read_source(inventory.absolute(file.path))
        yield source, file.view.anatomy(source.stored)
