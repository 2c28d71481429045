# SPDX-License-Identifier: Apache-2.0
"""What the modules of all raster formats share: a decoded image, limits of size, and Pillow behind them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from monai_salm.errors import RefusedError, how_to_install
from monai_salm.io.base import StoredArray

_IMAGE: Any = None
try:
    from PIL import Image
except ImportError:
    pass
else:
    _IMAGE = Image

_MAX_RATIO = 1032
"""No deflate stream expands more than this (zlib's technical notes): what a header claims beyond it is a lie."""
_MAX_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Raster:
    """One image of a file.

    Args:
        raw: all bytes of the file.
        stored: values, (rows, columns) of gray or (rows, columns, 3) of color, without alpha.
        key: gray value that stands for a transparent pixel; None without one.
        suffix: of the file to write, where it has to be another.
        notes, left_out, unprotected: as in :class:`~monai_salm.io.base.ImageHeader`.
    """

    raw: bytes
    stored: StoredArray
    key: int | None = None
    suffix: str = ""
    notes: tuple[str, ...] = ()
    left_out: str = ""
    unprotected: str = ""


def check_claim(rows: int, columns: int, bytes_per_pixel: int, size: int) -> None:
    """Hold what a header claims against the size of the file, before any memory is taken.

    Raises:
        RefusedError: no pixels, more than any file of that size can hold, or more than is supported.
    """
    claim = rows * columns * bytes_per_pixel
    if not 0 < claim <= min(size * _MAX_RATIO, _MAX_BYTES):
        raise RefusedError(
            f"the header claims {rows} rows and {columns} columns of {bytes_per_pixel} bytes, the file has {size} "
            "bytes; at least one pixel and at most "
            f"{_MAX_BYTES >> 20} MiB are supported, and {_MAX_RATIO} times the file"
        )


def decode(content: bytes, name: str, modes: dict[str, str], shape: tuple[int, ...]) -> StoredArray:
    """Decode bytes with Pillow, whose warnings are errors here.

    Args:
        content: of a whole file.
        name: of its format, for Pillow.
        modes: Pillow's modes that are supported -> dtype.
        shape: that the header claims.

    Raises:
        RefusedError: Pillow is not installed, cannot read the bytes, or gives another mode or shape.
    """
    if _IMAGE is None:
        raise RefusedError(f"PNG, JPEG and TIFF need Pillow, which is not installed; {how_to_install('pillow')}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with _IMAGE.open(BytesIO(content), formats=(name,)) as image:
                # The size is known from the header, and again to Pillow, before it takes memory for pixels.
                if math.prod(image.size) != math.prod(shape[:2]):
                    raise RefusedError(
                        f"the header claims {shape[:2]} rows and columns, Pillow finds {image.size[::-1]}; repair "
                        "the file first"
                    )
                if image.mode not in modes:
                    raise RefusedError(
                        f"pixels of mode {image.mode} are not supported, {', '.join(modes)} are; convert the file first"
                    )
                pixels = np.array(image).astype(modes[image.mode])
        except RefusedError:
            raise
        except Exception as error:
            raise RefusedError(
                f"damaged or truncated: {str(error)[:120] or type(error).__name__}; get a complete copy of the file"
            ) from error
    if pixels.shape != shape:
        raise RefusedError(f"the header claims pixels of {shape}, Pillow decodes {pixels.shape}; repair the file first")
    return pixels


def frozen(stored: StoredArray) -> StoredArray:
    """Give values as a read-only array in native byte order."""
    native = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("="))
    native.setflags(write=False)
    return native
