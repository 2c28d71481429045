# SPDX-License-Identifier: Apache-2.0
"""Labels of a pipeline in the form that a surrogate was trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.utils import convert_to_tensor

from monai_salm.errors import UsageError
from monai_salm.learning.surrogate import SurrogateCard
from monai_salm.transforms.loaded import Origin
from monai_salm.working_grid import labels_to_working


def target_of(label: Any, card: SurrogateCard, native: tuple[int, ...], origin: Origin, shape: tuple[int, ...]) -> Any:
    """Bring a label of a pipeline into the form of a working sample.

    Args:
        label: class (number or name), findings, or label map (1, H, W[, D]) in the image's axes.
        card: of the surrogate.
        native: shape of the image.
        origin: of the image.
        shape: working grid.

    Raises:
        UsageError: the surrogate does not know the label.
    """
    classes, task = card.classes, card.task
    if label is None:
        raise UsageError("noise is optimized for a label, and there is none; give label_key, or apply stored noise")
    if isinstance(label, str) and task["task"] == "classification" and not task["multi_label"]:
        return _class_named(label, classes)
    try:
        plain = (
            convert_to_tensor(np.asarray(label) if isinstance(label, (list, tuple)) else label, track_meta=False)
            .detach()
            .cpu()
            .numpy()
        )
        numeric = plain.dtype.kind in "iufb" and bool(np.isfinite(plain).all())
    except (TypeError, ValueError, RuntimeError, AttributeError):
        numeric = False
    if not numeric:
        raise UsageError(
            f"label {str(label)[:60]!r} is of type {type(label).__name__}; a finite number, an array of numbers, "
            "or the name of a class is needed"
        )
    if task["task"] == "segmentation":
        numbers = {int(name): number for number, name in enumerate(classes)}
        values = np.unique(plain)
        if plain.shape != (1, *native) or not set(values.tolist()) <= set(numbers):
            wanted = f"{(1, *native)} and values of {sorted(numbers)} are needed"
            raise UsageError(f"the label map has shape {plain.shape} and values {values[:10].tolist()}; {wanted}")
        known = np.vectorize(numbers.__getitem__, otypes=[np.uint8])(origin.turned(plain[0].astype(int)))
        return labels_to_working(known, shape)
    if task["multi_label"]:
        if plain.size != task["outputs"] or not np.isin(plain, (0, 1)).all():
            raise UsageError(
                f"label {plain.tolist()} is not one 0 or 1 for each of the surrogate's {task['outputs']} "
                f"findings: {', '.join(classes)}"
            )
        return plain.reshape(-1).astype(np.float32)
    if plain.size != 1:
        raise UsageError(f"the label has shape {plain.shape}; one class is needed, a number or one of {classes}")
    return _class_numbered(float(plain.reshape(-1)[0]), classes)


def _class_named(label: str, classes: list[str]) -> int:
    if label in classes:
        return classes.index(label)
    named = _numbers(classes)
    if named is not None and (number := _numbers([label])) and number[0] in named:
        return named.index(number[0])
    raise UsageError(f"label {label!r} is not one of the surrogate's classes {classes}")


def _class_numbered(label: float, classes: list[str]) -> int:
    """Find the class of a number: the class of that name where classes are named by numbers, as in the table of labels;
    else that place.
    """
    named = _numbers(classes) or [float(place) for place in range(len(classes))]
    if label not in named:
        known = f"the classes {classes}" if _numbers(classes) else f"no class from 0 to {len(classes) - 1}"
        raise UsageError(f"label {label:g} is {'none of ' if _numbers(classes) else ''}{known}")
    return named.index(label)


def _numbers(names: list[str]) -> list[float] | None:
    try:
        return [float(name) for name in names]
    except ValueError:
        return None
