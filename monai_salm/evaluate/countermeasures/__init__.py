# SPDX-License-Identifier: Apache-2.0
"""Countermeasures: what a stranger does to get rid of the noise."""

from __future__ import annotations

from importlib.util import find_spec

from monai_salm.errors import UsageError, how_to_install
from monai_salm.evaluate.countermeasures.base import Countermeasure, ImageChange, Leak
from monai_salm.evaluate.countermeasures.filters import FILTERS, GRAYSCALE
from monai_salm.evaluate.countermeasures.purify import PURIFICATIONS
from monai_salm.evaluate.countermeasures.training import TRAININGS

__all__ = [
    "COUNTERMEASURES",
    "NO_COUNTERMEASURE",
    "Countermeasure",
    "ImageChange",
    "Leak",
    "find_countermeasure",
]

NO_COUNTERMEASURE = Countermeasure(name="none")
"""A stranger who trains on the images as they are."""

COUNTERMEASURES: dict[str, Countermeasure] = {
    found.name: found for found in (NO_COUNTERMEASURE, GRAYSCALE, *FILTERS, *TRAININGS, *PURIFICATIONS)
}
"""All countermeasures by name."""


def find_countermeasure(name: str) -> Countermeasure:
    """Give a countermeasure by name.

    Args:
        name: one of :data:`COUNTERMEASURES`, such as ``jpeg-50``.

    Raises:
        UsageError: there is none of that name, or a package that it needs is not installed.

    Example:
        >>> from monai_salm.evaluate import find_countermeasure
        >>> find_countermeasure("denoiser-100").leaked_pairs
        100
    """
    found = COUNTERMEASURES.get(name)
    if found is None:
        raise UsageError(f"countermeasure {name!r} is unknown; choose among {', '.join(COUNTERMEASURES)}")
    if found.needs and find_spec(found.needs) is None:
        package = {"PIL": "pillow", "skimage": "scikit-image"}.get(found.needs, found.needs)
        raise UsageError(
            f"countermeasure {name!r} needs the package {package}, which is not installed; {how_to_install(package)}"
        )
    return found
