# SPDX-License-Identifier: Apache-2.0
"""Telling the original from the protected folder, so that swapped and wrong arguments are found out before anything is
compared.
"""

from __future__ import annotations

from pathlib import Path

from monai_salm.bounds import stated_bounds
from monai_salm.errors import UsageError
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.record import is_work_dir, was_made_from


def check_places(original: Path, protected: Path) -> None:
    """Find out whether one of the arguments is no folder of images, or both are the same.

    Raises:
        UsageError: it is so.
    """
    if original.resolve() == protected.resolve():
        raise UsageError(f"{original} and {protected} are the same; give the original and the protected folder")
    for folder in (original, protected):
        if is_work_dir(folder) or (folder.name == "noise" and is_work_dir(folder.parent)):
            raise UsageError(
                f"{folder} is the private work folder of a run, which holds no images; give the original folder "
                "and the one that was handed out"
            )


def check_sides(original: Path, protected: Path, before: Inventory, after: Inventory, paired: bool) -> None:
    """Find out whether the arguments are swapped, or have nothing to do with each other.

    Args:
        original, protected: as they were given.
        before, after: what is in them.
        paired: any file of the one was found in the other.

    Raises:
        UsageError: it is so.
    """
    if _are_swapped(original, before, after):
        raise UsageError(
            f"the arguments look swapped: {original} was made from {protected}; give {protected} first, and "
            f"{original} after it"
        )
    if after.files and not paired:
        raise UsageError(
            f"{protected} has none of the {len(before.files)} paths of {original} (such as "
            f"{before.files[0].path}), but others (such as "
            f"{after.files[0].path}); give the original folder and what protect wrote for it, both from the same "
            "level on"
        )


def _are_swapped(original: Path, before: Inventory, after: Inventory) -> bool:
    """Look for what a run leaves in the files: the source that they name, and the bound; NIfTI files have neither, but
    their run's manifest knows them.
    """
    forward, backward = _names_a_source(after, before), _names_a_source(before, after)
    if forward or backward:
        return backward and not forward
    return (_states_a_bound(before) and not _states_a_bound(after)) or was_made_from(before, after, original)


def _names_a_source(made: Inventory, other: Inventory) -> bool:
    """Tell whether an image refers to one that is in the other folder alone."""
    here, there = (
        {uid for header in inventory.headers.values() if (uid := header.identifiers.get("SOPInstanceUID"))}
        for inventory in (made, other)
    )
    return any(header.references & (there - here) for header in made.headers.values())


def _states_a_bound(inventory: Inventory) -> bool:
    return any(stated_bounds(header.derivation) for header in inventory.headers.values())
