# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was done: original, protected, difference amplified, and mask, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from monai_salm.budget import IntensityWindow
from monai_salm.io import read_source

SCALE = 4
"""Screen pixels per image pixel."""

CAPTION = 14
"""Height of the line above each picture."""


def write_panel(target: Path, pairs: list[tuple[Path, Path]], window: IntensityWindow, epsilon_real: float) -> None:
    """Write one PNG with a row for each pair of an original and a protected slice.

    Args:
        target: PNG file.
        pairs: files of 2D images.
        window: shown as black to white.
        epsilon_real: shown as full red (brighter) or full blue (darker).
    """
    rows = [_row(before, after, window, epsilon_real) for before, after in pairs]
    Image.fromarray(np.concatenate(rows)).save(target)


def _row(before: Path, after: Path, window: IntensityWindow, epsilon_real: float) -> NDArray[np.uint8]:
    original, protected = read_source(before).real, read_source(after).real
    if before.suffix == ".gz":  # NIfTI axes run to the right and to the front; screens run to the right and down
        original, protected = original.T[::-1], protected.T[::-1]
    difference = (protected - original) / epsilon_real
    red_blue = np.stack([1 + np.minimum(difference, 0), 1 - np.abs(difference), 1 - np.maximum(difference, 0)], axis=-1)
    mask = np.repeat((difference != 0)[..., None], 3, axis=-1).astype(float)
    gray = [np.repeat(window.to_model(values)[..., None], 3, axis=-1) for values in (original, protected)]
    pictures = [("original", gray[0]), ("protected", gray[1]), ("difference", np.clip(red_blue, 0, 1)), (f"mask {mask.mean():.0%}", mask)]
    return np.concatenate([_captioned(picture, text) for text, picture in pictures], axis=1)


def _captioned(picture: NDArray[np.floating], text: str) -> NDArray[np.uint8]:
    pixels = (np.repeat(np.repeat(picture, SCALE, axis=0), SCALE, axis=1) * 255).astype(np.uint8)
    canvas = Image.new("RGB", (pixels.shape[1] + 4, pixels.shape[0] + CAPTION + 2), "white")
    canvas.paste(Image.fromarray(pixels), (2, CAPTION))
    ImageDraw.Draw(canvas).text((4, 1), text, fill="black")
    return np.asarray(canvas)
