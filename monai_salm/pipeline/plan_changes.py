# SPDX-License-Identifier: Apache-2.0
"""What differs between the plan that a run was begun with and the one that it would go on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_salm.pipeline.label_table import some

Plan = Mapping[str, Any]
"""What ``ProtectionPlan.to_json`` gives, perhaps of another version."""


def plan_changes(before: Plan, now: Plan) -> list[str]:
    """Name the options, labels and files that changed, in words; both plans as plain types."""
    old, new = _part(before, "settings"), _part(now, "settings")
    other = [name for name in sorted({*old, *new} - {"contents"}) if old.get(name) != new.get(name)]
    changes = [f"{name} was {_text(old.get(name))}, is {_text(new.get(name))} now" for name in other]
    files_before, files_now = _files(before), _files(now)
    refused_before, refused_now = _part(before, "refused"), _part(now, "refused")
    known_before, known_now = ({*files, *refused, *_part(plan, "copies")} for files, refused, plan in (
        (files_before, refused_before, before), (files_now, refused_now, now),
    ))  # fmt: skip
    for what, paths in (
        ("changed", [path for path in files_before if files_now.get(path, files_before[path]) != files_before[path]]),
        ("new", known_now - known_before),
        ("gone", known_before - known_now),
        ("refused now, but not before", [path for path in refused_now if path in files_before]),
        ("no longer refused", [path for path in refused_before if path in files_now]),
    ):
        if paths:
            changes.append(f"{len(paths)} files {what}: {some(sorted(paths))}")
    labels_before, labels_now = _labels(before), _labels(now)
    moved = [path for path in labels_before if path in labels_now and labels_before[path] != labels_now[path]]
    if moved:
        first = moved[0]
        changes.append(
            f"{len(moved)} labels changed: of {first} it was {_text(labels_before[first])}, is "
            f"{_text(labels_now[first])} now"
        )
    elif before.get("classes") != now.get("classes"):
        changes.append(f"the classes were {before.get('classes')}, are {now.get('classes')} now")
    contents_before, contents_now = _part(old, "contents"), _part(new, "contents")
    changes += [
        f"the {name} changed"
        for name in contents_before
        if contents_now.get(name, contents_before[name]) != contents_before[name]
    ][:1]
    return changes


def _part(plan: Plan, name: str) -> dict[str, Any]:
    found = plan.get(name)
    return dict(found) if isinstance(found, Mapping) else {}


def _files(plan: Plan) -> dict[str, str]:
    known = {file["path"]: file["sha256"] for sample in plan.get("samples") or () for file in sample["files"]}
    return known | _part(plan, "documents")


def _labels(plan: Plan) -> dict[str, Any]:
    classes = list(plan.get("classes") or ())
    named: dict[str, Any] = {}
    for sample in plan.get("samples") or ():
        target = sample["target"]
        label = classes[target] if isinstance(target, int) and target < len(classes) else target
        if isinstance(target, list):
            label = ", ".join(f"{name} {value:g}" for name, value in zip(classes, target, strict=False))
        named.update({file["path"]: label for file in sample["files"]})
    return named


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else "not given" if value in (None, "") else str(value)
