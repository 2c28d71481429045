# SPDX-License-Identifier: Apache-2.0
"""Labels of a pipeline in the form that a surrogate was trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.utils import convert_to_tensor
from numpy.typing import NDArray

from monai_salm.errors import UsageError
from monai_salm.learning.surrogate import SurrogateCard
from monai_salm.transforms.loaded import Origin


def target_of(label: Any, card: SurrogateCard, origin: Origin) -> Any:
    """Bring a label of a pipeline into the form that a surrogate was trained with.

    Args:
        label: class (number, name, or one-hot), findings, or label map (1, H, W[, D]), or one-hot
            (classes, H, W[, D]), in the image's axes.
        card: of the surrogate.
        origin: of the image.

    Returns:
        Number of the class; findings as 0 and 1; or the number of the class at each place of the native grid, uint8.

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
        return _numbered_map(plain, classes, origin)
    if task["multi_label"]:
        if plain.size != task["outputs"] or not np.isin(plain, (0, 1)).all():
            raise UsageError(
                f"label {plain.tolist()} is not one 0 or 1 for each of the surrogate's {task['outputs']} "
                f"findings: {', '.join(classes)}"
            )
        return plain.reshape(-1).astype(np.float32)
    if len(classes) > 1 and plain.shape == (len(classes),) and sorted(plain.tolist()) == [0] * (len(classes) - 1) + [1]:
        return int(plain.argmax())  # one-hot
    if plain.size != 1:
        raise UsageError(f"the label has shape {plain.shape}; one class is needed, a number or one of {classes}")
    return _class_numbered(float(plain.reshape(-1)[0]), classes)


def _numbered_map(plain: NDArray[Any], classes: list[str], origin: Origin) -> NDArray[np.uint8]:
    """Give the number of the class at each place of the native grid, of a label map with one channel, or one-hot."""
    numbers, values = {int(name): number for number, name in enumerate(classes)}, np.unique(plain)
    if plain.shape[1:] == origin.pipeline_shape:
        if len(plain) == len(classes) > 1 and set(values.tolist()) <= {0, 1}:
            marked = plain.astype(bool).sum(axis=0)
            if (marked != 1).any():
                raise UsageError(
                    f"the label map has {len(plain)} channels, of which {int(marked.min())} to {int(marked.max())} "
                    "are 1 at one place; one-hot labels have one (AsDiscrete(to_onehot=...)), regions that overlap "
                    "are not taken"
                )
            found: NDArray[np.uint8] = origin.turned(plain.argmax(axis=0).astype(np.uint8))
            return found
        if len(plain) == 1 and set(values.tolist()) <= set(numbers):
            known = np.vectorize(numbers.__getitem__, otypes=[np.uint8])
            return np.asarray(known(origin.turned(plain[0].astype(int))))
    wanted = (
        f"{(1, *origin.pipeline_shape)} and values of {sorted(numbers)}, or one-hot "
        f"{(len(classes), *origin.pipeline_shape)}, are needed"
    )
    raise UsageError(f"the label map has shape {plain.shape} and values {values[:10].tolist()}; {wanted}")


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
