# SPDX-License-Identifier: Apache-2.0
"""Image processing that needs to know nothing: compression, smoothing, coarser values, and what medical pipelines do to
intensities.

Each function takes and gives model values, 2D or 3D; the registry clips what it gives to [0, 1], and applies it to each
color by itself where it says nothing of colors. Packages of the extra
``evaluate`` are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from monai_salm.errors import UsageError
from monai_salm.evaluate.countermeasures.base import Countermeasure, ImageChange, Leak, by_channel, in_range

_Filter = Callable[[NDArray[np.float32]], NDArray[np.floating]]

_N4_LONGEST = 16
"""N4 fits its field to an image shrunk to this many cells an axis, since the field is smooth and the fit is slow."""
_N4_ITERATIONS = [20]
_CLAHE_TILE = 8
"""Cells along a tile at least: the histogram of fewer says nothing."""


def same_for_all(name: str, change: _Filter, needs: str = "", *, of_colors: _Filter | None = None) -> Countermeasure:
    """Make a countermeasure of a filter that has nothing to learn; one change for all, so that each image is changed
    once.

    Args:
        name: of it.
        change: of gray images.
        needs: module that must be installed.
        of_colors: change of color images; None changes each color by itself.
    """

    def changed(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return in_range(change(image))

    def changed_colors(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return in_range(of_colors(image) if of_colors is not None else by_channel(change, image))

    return Countermeasure(name=name, fit=lambda leak: changed_colors if leak.in_color else changed, needs=needs)


def fit_window_shift(leak: Leak) -> ImageChange:
    """Choose another intensity window, the same for all images: its width within 20 %, its center within 10 % of the
    old width.
    """
    width, center = np.random.default_rng(leak.seed).uniform([0.8, 0.4], [1.2, 0.6])
    return lambda image: in_range((image - center) / width + 0.5)


def fit_grayscale(leak: Leak) -> ImageChange:
    """Take the mean of the colors for each of them (Liu et al., Image Shortcut Squeezing, arXiv 2301.13838).

    Raises:
        UsageError: the images have no colors.
    """
    if not leak.in_color:
        raise UsageError("grayscale needs color images, and these are gray; leave this countermeasure out")
    return lambda image: np.broadcast_to(image.mean(axis=-1, keepdims=True, dtype=np.float32), image.shape).copy()


def jpeg(image: NDArray[np.float32], quality: int, *, colors: bool = False) -> NDArray[np.floating]:
    """Compress as an 8-bit JPEG and decode again; a volume slice by slice. Colors are an axis behind the others."""
    from PIL import Image

    def one(pixels: NDArray[np.float32]) -> NDArray[np.floating]:
        buffer = BytesIO()
        Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(buffer, "jpeg", quality=quality)
        return np.asarray(Image.open(buffer), dtype=np.float32) / 255

    return one(image) if image.ndim == (3 if colors else 2) else np.stack([one(pixels) for pixels in image])


def take_median(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Take the median over a cube of ``size`` cells a side."""
    result: NDArray[np.float32] = ndimage.median_filter(image, size=size)
    return result


def gaussian(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur; ``sigma`` in cells."""
    result: NDArray[np.float32] = ndimage.gaussian_filter(image, sigma)
    return result


def down_up(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Halve each axis by averaging, and double it by linear interpolation."""
    cells = torch.from_numpy(image)[None, None]
    small = functional.interpolate(cells, size=[-(-n // 2) for n in image.shape], mode="area")
    large = functional.interpolate(
        small, size=image.shape, mode="bilinear" if image.ndim == 2 else "trilinear", align_corners=False
    )
    result: NDArray[np.float32] = large[0, 0].numpy()
    return result


def fewer_bits(image: NDArray[np.float32], bits: int) -> NDArray[np.floating]:
    """Round to ``2**bits`` values."""
    result: NDArray[np.floating] = np.rint(image * (2**bits - 1)) / (2**bits - 1)
    return result


def clip_percentiles(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch the range from the 0.5 to the 99.5 percentile of an image to [0, 1], as nnU-Net clips CT (Isensee et al.,
    2021).
    """
    low, high = np.percentile(image, (0.5, 99.5)).astype(np.float32)
    return (image - low) / (high - low) if high > low else image


def clahe(image: NDArray[np.float32]) -> NDArray[np.floating]:
    """Equalize the histogram of each tile, with limited contrast (Zuiderveld, Graphics Gems IV, 1994); a volume slice
    by slice.
    """
    from skimage import exposure

    equalize: Any = exposure.equalize_adapthist

    def one(pixels: NDArray[np.float32]) -> NDArray[np.floating]:
        if pixels.min() == pixels.max():
            return pixels
        result: NDArray[np.float32] = equalize(pixels, kernel_size=[max(_CLAHE_TILE, n // 8) for n in pixels.shape])
        return result

    return _by_slice(one, image)


def remove_bias_field(image: NDArray[np.float32]) -> NDArray[np.floating]:
    """Divide by a smooth field, the non-uniformity of a coil, that N4 (Tustison et al., IEEE TMI 29, 2010) finds where
    the image is above 0.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    whole = sitk.GetImageFromArray(image)
    steps = [-(-n // _N4_LONGEST) for n in whole.GetSize()]
    small = sitk.Shrink(whole, steps)
    values = sitk.GetArrayViewFromImage(small)
    inside = values > 0
    if np.unique(values[inside]).size < 2 or min(image.shape) < 2:
        return image  # there is nothing to fit a field to
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(_N4_ITERATIONS)
    n4.SetNumberOfWorkUnits(1)  # sums of several threads come in any order
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(small)
    n4.Execute(small, mask)
    result: NDArray[np.floating] = image / np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)))
    return result


def low_pass(image: NDArray[np.float32]) -> NDArray[np.floating]:
    """Remove what is finer than 4 cells a period: a Butterworth filter of order 2 that halves the amplitude's square at
    half of the Nyquist frequency.
    """
    axes = [np.fft.fftfreq(n) for n in image.shape[:-1]] + [np.fft.rfftfreq(image.shape[-1])]
    squared = sum(f**2 for f in np.meshgrid(*axes, indexing="ij", sparse=True)) / 0.25**2
    return np.fft.irfftn(np.fft.rfftn(image) / np.sqrt(1 + squared**2), image.shape, axes=range(image.ndim))


def _by_slice(change: _Filter, image: NDArray[np.float32]) -> NDArray[np.floating]:
    return change(image) if image.ndim == 2 else np.stack([change(pixels) for pixels in image])


GRAYSCALE = Countermeasure(name="grayscale", fit=fit_grayscale)

FILTERS = [
    *(
        same_for_all(
            f"jpeg-{quality}",
            partial(jpeg, quality=quality),
            "PIL",
            of_colors=partial(jpeg, quality=quality, colors=True),
        )
        for quality in (90, 75, 50, 30, 10)
    ),
    *(same_for_all(f"median-{size}", partial(take_median, size=size)) for size in (3, 5)),
    *(same_for_all(f"gaussian-{sigma:g}", partial(gaussian, sigma=sigma)) for sigma in (0.5, 1.0, 2.0)),
    same_for_all("down-up", down_up),
    *(same_for_all(f"{bits}-bit", partial(fewer_bits, bits=bits)) for bits in (6, 5, 4)),
    Countermeasure(name="window-shift", fit=fit_window_shift),
    same_for_all("percentile-clip", clip_percentiles),
    same_for_all("clahe", clahe, "skimage"),
    same_for_all("n4", remove_bias_field, "SimpleITK"),
    same_for_all("low-pass", low_pass),
]
