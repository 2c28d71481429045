# SPDX-License-Identifier: Apache-2.0
"""One protected image as PNG inside the page: original against protected, the difference, the anatomy and
the changed voxels.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.evaluate.report.markup import TIMES, Markup, element, join, number, percent

COARSE = 256
"""Images up to this many pixels wide are shown with hard pixels; larger ones are smoothed when the browser makes them
fit.
"""

DARKER, BRIGHTER = np.array([64, 156, 255.0]), np.array([255, 150, 30.0])  # told apart by all kinds of color vision
TINT = {"anatomy": (64, 156, 255, 110), "changed": (255, 60, 140, 255)}

_SLACK = 1e-6
"""Model values are 32-bit floats."""


@dataclass(frozen=True)
class ExamplePair:
    """One slice to show, before and after.

    Args:
        name: of the file, for people.
        modality: DICOM Modality code; examples are grouped by it.
        original_model, protected_model: 2D, model values in [0, 1].
        anatomy: where noise may lie; of the same shape.
        epsilon_model: the bound, in model values; None where it is not known.
    """

    name: str
    modality: str
    original_model: NDArray[np.float32]
    protected_model: NDArray[np.float32]
    anatomy: NDArray[np.bool_]
    epsilon_model: float | None

    def numbers(self) -> dict[str, Any]:
        """Give what the images show as numbers, in model values."""
        difference = self.protected_model.astype(np.float64) - self.original_model
        changed = difference != 0
        error = float(np.mean(difference**2))
        return {
            "name": self.name,
            "modality": self.modality,
            "shape": list(self.original_model.shape),
            "epsilon_model": self.epsilon_model,
            "largest_change_model": round(float(np.abs(difference).max()), 6),
            "within_bound": None
            if self.epsilon_model is None
            else bool(np.abs(difference).max() <= self.epsilon_model + _SLACK),
            "changed_fraction_of_anatomy": round(float(changed[self.anatomy].mean()), 6) if self.anatomy.any() else 0.0,
            "changed_outside_anatomy": int(changed[~self.anatomy].sum()),
            "psnr": round(-10 * math.log10(error), 3) if error else None,
        }


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode gray (H, W), RGB (H, W, 3) or RGBA (H, W, 4) pixels losslessly (PNG specification, ISO/IEC 15948)."""
    height, width = pixels.shape[:2]
    color_type = {1: 0, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    lines = pixels.reshape(height, -1)
    upward = lines - np.vstack(
        [np.zeros_like(lines[:1]), lines[:-1]]
    )  # filter 2: the difference from the line above, modulo 256
    body = zlib.compress(np.hstack([np.full((height, 1), 2, np.uint8), upward]).tobytes(), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def show_example(pair: ExamplePair) -> Markup:
    """Give the slider, the three other images and the numbers of one example."""
    numbers = pair.numbers()
    original = _image(_gray(pair.original_model), f"{pair.name}: original")
    handle = element(
        "input", type="range", min=0, max=100, value=50, aria_label=
        f"{pair.name}: how much of the image's width "
        "shows the original, in percent"
    )  # fmt: skip
    slider = element(
        "div", original, _image(_gray(pair.protected_model), f"{pair.name}: protected"), handle, class_="stack slider"
    )
    full = _full_color(pair)
    factor, most = number(1 / full, 0), "largest change" if pair.epsilon_model is None else "bound"
    changed = pair.original_model != pair.protected_model
    panels = [
        _figure(
            slider, "Original (left) and protected (right). Drag the line, or use the arrow, Home and End keys.", "wide"
        ),
        _figure(
            element("div", _image(_signed(pair), f"{pair.name}: difference, amplified {factor} times"), class_="stack"),
            f"Difference {TIMES} {factor}: orange is brighter, blue darker, black unchanged; full color is the {most}.",
        ),
        _figure(
            _overlay(original, changed, "changed", f"{pair.name}: changed voxels marked"), "Changed voxels, in pink."
        ),
        _figure(
            _overlay(original, pair.anatomy, "anatomy", f"{pair.name}: anatomy marked"),
            "Anatomy, in blue: noise may lie only here.",
        ),
        _facts(numbers),
    ]
    coarse = " coarse" if pair.original_model.shape[1] <= COARSE else ""
    return element("article", element("h4", pair.name), element("div", join(panels), class_=f"example{coarse}"))


def _facts(numbers: dict[str, Any]) -> Markup:
    bound = "bound not known" if numbers["epsilon_model"] is None else f"bound {percent(numbers['epsilon_model'], 2)}"
    facts = [
        ("largest change", f"{percent(numbers['largest_change_model'], 2)} of the window; {bound}"),
        ("changed", f"{percent(numbers['changed_fraction_of_anatomy'], 1)} of the anatomy's voxels"),
        ("PSNR", "identical" if numbers["psnr"] is None else f"{number(numbers['psnr'], 1)} dB"),
        ("size", f" {TIMES} ".join(map(str, numbers["shape"]))),
    ]
    warnings = []
    if numbers["within_bound"] is False:
        warnings.append("The bound is broken.")
    if numbers["changed_outside_anatomy"]:
        warnings.append(f"{numbers['changed_outside_anatomy']} voxels outside the anatomy were changed.")
    lines = join(element(name, text) for fact in facts for name, text in zip(("dt", "dd"), fact, strict=True))
    return element(
        "div", element("dl", lines), *(element("p", text, class_="broken") for text in warnings), class_="facts"
    )


def _gray(values_model: NDArray[Any]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(np.clip(values_model, 0, 1) * 255).astype(np.uint8)
    return pixels


def _full_color(pair: ExamplePair) -> float:
    """Give the difference, in model values, that is shown in full color: the bound, or the largest change where no
    bound is known.
    """
    return pair.epsilon_model or float(np.abs(pair.protected_model - pair.original_model).max()) or 1.0


def _signed(pair: ExamplePair) -> NDArray[np.uint8]:
    """Color the difference: black where there is none, full color at the bound."""
    share = np.clip((pair.protected_model - pair.original_model) / _full_color(pair), -1, 1)[..., None]
    pixels: NDArray[np.uint8] = np.rint(np.maximum(share, 0) * BRIGHTER + np.maximum(-share, 0) * DARKER).astype(
        np.uint8
    )
    return pixels


def _overlay(original: Markup, marked: NDArray[np.bool_], kind: str, text: str) -> Markup:
    layer = np.zeros((*marked.shape, 4), np.uint8)
    layer[marked] = TINT[kind]
    return element("div", original, _image(layer, text), class_="stack")


def _figure(picture: Markup, caption: str, kind: str | None = None) -> Markup:
    return element("figure", picture, element("figcaption", caption), class_=kind)


def _image(pixels: NDArray[np.uint8], text: str) -> Markup:
    data = base64.b64encode(png(pixels)).decode("ascii")
    return element("img", src=f"data:image/png;base64,{data}", alt=text, width=pixels.shape[1], height=pixels.shape[0])
