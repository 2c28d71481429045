# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of an image lie in space, as the text header says."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.base import SourceImage
from monai_salm.io.itk.files import Content, find_layout
from monai_salm.io.itk.layout import Layout, real_numbers

_SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
"""Spaces of NRRD, and the signs that lead from them to right, anterior and superior."""


def affine(source: SourceImage) -> NDArray[np.float64] | None:
    """Give the 4 x 4 matrix from the axes of the image to the patient's right, anterior and superior; None where the
    header does not say it of a volume.

    MetaImage means the left, the back and the head, as ITK does.
    """
    kept = source.kept(Content)
    layout = find_layout(source.header.path) if kept is None else kept.layout
    if layout.spatial != 3:
        return None
    fields = {name.lower().replace(" ", ""): line for name, line in layout.fields}
    found = _of_nrrd(layout, fields) if layout.kind == "NRRD" else _of_metaimage(layout, fields)
    if found is None:
        return None
    directions, origin, signs = found
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = directions.T * np.array(signs)[:, None], np.multiply(origin, signs)
    return result if np.isfinite(result).all() and abs(np.linalg.det(result)) > 0 else None


_Place = tuple[NDArray[np.float64], tuple[float, ...], tuple[int, int, int]]
"""A row for each axis, the first voxel, and the signs of the space."""


def _of_nrrd(layout: Layout, fields: dict[str, str]) -> _Place | None:
    signs = _SPACES.get(_value(fields, "space").lower())
    vectors = re.findall(r"none|\([^()]*\)", _value(fields, "spacedirections"), re.IGNORECASE)
    origin = real_numbers("space origin", re.sub("[()]", "", _value(fields, "spaceorigin")))
    if signs is None or len(vectors) != len(layout.sizes) or len(origin) != 3:
        return None
    rows = [real_numbers("space directions", vectors[axis][1:-1]) for axis in layout.order[:3]]
    if any(len(row) != 3 for row in rows):
        return None
    directions = np.array(rows)
    # The spacing of the layout is in millimeters, whatever the header's unit.
    scale = layout.spacing[0] / float(np.linalg.norm(directions[0])) if np.linalg.norm(directions[0]) else 1.0
    return directions * scale, tuple(scale * value for value in origin), signs


def _of_metaimage(layout: Layout, fields: dict[str, str]) -> _Place | None:
    matrix = _numbers(fields, "transformmatrix", "rotation", "orientation") or tuple(np.eye(3).ravel())
    origin = _numbers(fields, "offset", "position", "origin") or (0.0, 0.0, 0.0)
    axes = round(len(matrix) ** 0.5)  # of time, too, where there is one
    if axes**2 != len(matrix) or axes < 3 or len(origin) < 3:
        return None
    directions = np.array(matrix).reshape(axes, axes)[:3, :3] * np.array(layout.spacing)[:, None]
    return directions, origin[:3], _SPACES["lps"]


def _value(fields: dict[str, str], name: str) -> str:
    return re.split("[:=]", fields.get(name, ":"), maxsplit=1)[1].strip()


def _numbers(fields: dict[str, str], *names: str) -> tuple[float, ...]:
    """Give the numbers of the first of some fields that is there; none without any."""
    name = next((name for name in names if name in fields), None)
    return () if name is None else real_numbers(name, _value(fields, name))
