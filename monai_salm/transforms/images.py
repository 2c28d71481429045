# SPDX-License-Identifier: Apache-2.0
"""Images as pipelines hand them in, in the axes of files; and which step of a pipeline came too early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta
from monai.utils import TraceKeys, convert_to_dst_type, convert_to_tensor
from numpy.typing import NDArray

from monai_salm.errors import UsageError

FIRST = "apply SALMProtect right after loading, as float32 or float64"
_ANY_STEP = "before any change of intensity, spacing or orientation (as_closest_canonical is one)"

OWN = ("SALMProtect", "SALMProtectd")
"""Transforms of this package that leave a trace, which is no change of place."""

_DTYPES = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.float32,
    torch.float64,
)


@dataclass(frozen=True)
class PipelineImage:
    """An image of a pipeline.

    Args:
        tracked: as MONAI tracks it, channel first.
        values: the same values as files have them: the axes of space, and behind them that of several channels.
    """

    tracked: torch.Tensor
    values: NDArray[Any]

    @classmethod
    def of(cls, image: Any) -> PipelineImage:
        """Take an image as it came.

        Args:
            image: array or tensor (C, H, W[, D]).

        Raises:
            UsageError: it is no image that has been loaded and not changed since.
        """
        try:
            tracked = convert_to_tensor(image, track_meta=get_track_meta())
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"an array or a tensor is needed, this is {type(image).__name__} ({str(error).partition(chr(10))[0]})"
            ) from error
        if not isinstance(tracked, torch.Tensor):
            raise UsageError(f"an array or a tensor is needed, this is {type(image).__name__}; load it with LoadImage")
        shape = tuple(tracked.shape)
        if not 3 <= len(shape) <= 5:
            raise UsageError(
                f"the image has shape {shape}; (C, H, W) or (C, H, W, D) is needed: the channels first "
                "(EnsureChannelFirst), one image at a time"
            )
        if not tracked.numel():
            raise UsageError(f"the image of shape {shape} is empty; give one with at least one value")
        if tracked.requires_grad:
            raise UsageError(
                "the image requires a gradient, which cannot flow through files' values; give image.detach()"
            )
        if tracked.dtype not in _DTYPES:
            raise UsageError(
                f"the image is {str(tracked.dtype).removeprefix('torch.')}, which holds no file's values; load it as "
                "float32 or as integers"
            )
        if isinstance(tracked, MetaTensor) and tracked.pending_operations:
            pending = [str(step.get(TraceKeys.CLASS_NAME, "")) for step in tracked.pending_operations]
            raise UsageError(
                f"the image has {len(pending)} pending operations (lazy: {', '.join(pending)}); {FIRST}, before them"
            )
        plain = convert_to_tensor(tracked, track_meta=False).cpu().numpy()
        return cls(tracked, plain[0] if len(plain) == 1 else np.moveaxis(plain, 0, -1))

    def back(self, values: NDArray[np.float64]) -> Any:
        """Give values in the form that the image came in: its shape, type, dtype and metadata.

        Raises:
            UsageError: they are not whole, and the image is.
        """
        held = values.astype(self.values.dtype)
        if held.dtype.kind in "iu" and not np.array_equal(held, values):
            raise UsageError(f"the protected values are not whole, and the image is {held.dtype}; load it as float32")
        channels_first = held[None] if self.tracked.shape[0] == 1 else np.moveaxis(held, -1, 0)
        return convert_to_dst_type(np.ascontiguousarray(channels_first), dst=self.tracked, dtype=self.tracked.dtype)[0]

    def too_late(self, wanted: NDArray[np.float64] | None = None) -> str:
        """Say which step is in the wrong place where an image does not hold the values that it should.

        Args:
            wanted: real values of the file that it was loaded from; None where there is none to compare with.
        """
        steps = traced_steps(self.tracked)
        if set(steps) & set(OWN):
            return "SALMProtect was applied to it before; protect an image once"
        if steps:
            return f"{FIRST}, before {', '.join(steps)}"
        found = "" if wanted is None else _difference(self.values, wanted)
        return f"{FIRST}, {_ANY_STEP}{found}"


def traced_steps(image: Any) -> list[str]:
    """Give the names of the steps that MONAI has traced since an image was loaded, each once."""
    applied = image.applied_operations if isinstance(image, MetaTensor) else []
    names = (str(step.get(TraceKeys.CLASS_NAME, "")) for step in applied)
    return list(dict.fromkeys(name for name in names if name))


def _difference(values: NDArray[Any], wanted: NDArray[np.float64]) -> str:
    """Say what kind of step makes one array of the other."""
    if sorted(values.shape) != sorted(wanted.shape):
        return f"; the file has shape {wanted.shape}, so a step that resizes, crops or pads came before"
    ends = [(float(np.nanmin(part)), float(np.nanmax(part))) for part in (values, wanted)]
    if not np.allclose(ends[0], ends[1]):
        low, high = ends[1]
        return (
            f"; its values lie in [{ends[0][0]:g}, {ends[0][1]:g}], those of the file in [{low:g}, {high:g}], so a "
            "step that changes intensities (such as ScaleIntensity) came before"
        )
    if np.isclose(float(np.nansum(values)), float(np.nansum(wanted)), rtol=1e-6):
        return "; it has the file's values at other places, so a step that flips, turns or reorients came before"
    return ""
