# SPDX-License-Identifier: Apache-2.0
"""What differs between that which a run was begun with and that which it would go on with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from monai_salm.pipeline.frozen_plan import FrozenPlan
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.label_table import some
from monai_salm.pipeline.labels import LabelAssignment, Target


def plan_changes(
    begun: FrozenPlan, inventory: Inventory, labels: LabelAssignment | None, settings: Mapping[str, Any]
) -> list[str]:
    """Name the options, files and labels that changed, in words.

    Args:
        begun: the plan, with the files and labels that it was made for.
        inventory: of the input now.
        labels: of the input now; None for a method without labels.
        settings: of the run now, with the digests of what it reads beside its input.
    """
    old, new = dict(begun.plan.settings), dict(settings)
    other = [name for name in sorted({*old, *new} - {"contents"}) if old.get(name) != new.get(name)]
    changes = [f"{name} was {_text(old.get(name))}, is {_text(new.get(name))} now" for name in other]
    changes += _changed_files(begun, inventory, labels)
    changes += _changed_labels(begun, labels)
    contents_before, contents_now = old.get("contents") or {}, new.get("contents") or {}
    changes += [
        f"the {name} changed"
        for name in contents_before
        if contents_now.get(name, contents_before[name]) != contents_before[name]
    ][:1]
    return changes


def refused_now(paths: Collection[str]) -> str:
    """Name files that were not refused before."""
    return _named("refused now, but not before", paths)


def _named(what: str, paths: Collection[str]) -> str:
    return f"{len(paths)} files {what}: {some(sorted(paths))}"


def _changed_files(begun: FrozenPlan, inventory: Inventory, labels: LabelAssignment | None) -> list[str]:
    before, now = begun.known.files, {record.path: record for record in inventory.files}
    touched = [path for path in now if path in before and path not in inventory.unchanged]
    lost = [path for path in touched if now[path].reason and not before[path].record.reason]
    freed = [path for path in touched if before[path].record.reason and not now[path].reason]
    told = {*lost, *freed}
    # What nobody needed the bytes of is as it was if the same is found in it; see input_digests.
    changed = [
        path
        for path in touched
        if path not in told and (before[path].sha256 or before[path].record.reason != now[path].reason)
    ]
    targets = labels.targets if labels is not None else {}
    refused = begun.plan.refused
    lost += [path for path in begun.labels if path in now and path not in {*targets, *refused, *lost}]
    freed += [path for path in targets if path in before and path not in begun.labels and path in inventory.pictures]
    return [
        _named(what, paths)
        for what, paths in (
            ("changed", changed),
            ("new", now.keys() - before.keys()),
            ("gone", before.keys() - now.keys()),
            ("refused now, but not before", lost),
            ("no longer refused", freed),
        )
        if paths
    ]


def _changed_labels(begun: FrozenPlan, labels: LabelAssignment | None) -> list[str]:
    if labels is None:
        return []
    label_maps = not labels.classes
    classes = [] if label_maps else list(begun.plan.classes)
    before = {path: _label(target, classes) for path, target in begun.labels.items()}
    now = {path: _label(target, labels.classes) for path, target in labels.targets.items()}
    moved = [path for path in before if path in now and before[path] != now[path]]
    if moved:
        first = moved[0]
        return [f"{len(moved)} labels changed: of {first} it was {_text(before[first])}, is {_text(now[first])} now"]
    if classes != labels.classes:
        return [f"the classes were {classes}, are {labels.classes} now"]
    return []


def _label(target: Target, classes: Sequence[str]) -> str:
    """Give a label in words that do not depend on how classes are numbered."""
    if isinstance(target, int):
        return classes[target] if target < len(classes) else str(target)
    if isinstance(target, tuple):
        return ", ".join(f"{name} {value:g}" for name, value in zip(classes, target, strict=False))
    return target


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else "not given" if value in (None, "") else str(value)
