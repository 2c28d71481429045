# SPDX-License-Identifier: Apache-2.0
"""Perturbation budgets: how far a value may move, in which units, and how many levels of stored steps that makes.

Value spaces are named by suffix: ``_stored`` (integers in the file), ``_real`` (after rescale slope and intercept: HU,
SUV, ...) and ``_model`` (after the intensity window, in [0, 1]).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.background import Background
from monai_salm.errors import RefusedError, UsageError
from monai_salm.slabs import slabs
from monai_salm.views import PictureView, values_within
from monai_salm.windows import WINDOW_PRESETS, IntensityWindow

FLOAT_STEPS = 64
"""A float file is changed on a grid of powers of two with at least this many steps in the budget."""

MOST_STEPS = 32767
"""No budget has more steps than this, the most that stored noise can hold (16 bits)."""

_EXACT = 2**53
"""Integers beyond it are not all floats, in which limits are kept."""

_SLACK = 1e-9
"""Relative allowance for the float division of a budget by a slope, so that 8/255 of 255 gray levels are 8 steps and
not 7.
"""


@dataclass(frozen=True)
class Epsilon:
    """Largest allowed change of a value, as a fraction of the intensity window's width or in real units.

    Args:
        value: above 0; a fraction of the window at most 1.
        units: ``fraction`` of the window's width, or ``real`` (HU, gray values).

    Raises:
        UsageError: the value is not positive, or a fraction is above 1.

    Example:
        >>> from monai_salm import Epsilon, IntensityWindow
        >>> round(Epsilon.parse("8/255").real(IntensityWindow(-160, 240)), 2)  # HU
        12.55
        >>> Epsilon.parse("12 HU")
        Epsilon(value=12.0, units='real')
    """

    value: float
    units: str = "fraction"

    def __post_init__(self) -> None:
        if self.units not in ("fraction", "real"):
            raise UsageError(f"epsilon units {self.units!r} are unknown; give 'fraction' or 'real'")
        if not (math.isfinite(self.value) and self.value > 0) or (self.units == "fraction" and self.value > 1):
            raise UsageError(
                f"epsilon {self.value:g} ({self.units}) must be positive, and at most 1 if it is a fraction of "
                "the window"
            )

    @classmethod
    def parse(cls, text: str | float | Epsilon) -> Epsilon:
        """Read ``8/255`` or ``0.03`` (fraction of the window) or ``"12 HU"`` (real units; the unit's name is only for
        people).
        """
        if isinstance(text, Epsilon):
            return text
        match = re.fullmatch(r"\s*([0-9.eE+-]+(?:\s*/\s*[0-9.]+)?)\s*([A-Za-z][A-Za-z/]*)?\s*", str(text))
        try:
            if match is None:
                raise ValueError(text)
            number = match[1].replace(" ", "")
            value = float(Fraction(number)) if "/" in number else float(number)
        except (ValueError, ZeroDivisionError) as error:
            raise UsageError(
                f"epsilon {text!r} is not understood; give a fraction of the window such as 8/255, or real units "
                "such as '12 HU'"
            ) from error
        return cls(value, "real" if match[2] else "fraction")

    def real(self, window: IntensityWindow) -> float:
        """Largest change in real units."""
        return self.value if self.units == "real" else self.value * window.width


@dataclass(frozen=True, kw_only=True, slots=True)
class FileBudget(PictureView):
    """A perturbation budget bound to one file, or one frame of it: what it shows, and what its stored values may
    become; never do they enter or leave padding and empty background. JSON-able by :meth:`to_json`.

    Args:
        modality, window, slope, intercept, padding_stored, background: see :class:`~monai_salm.views.PictureView`.
        epsilon_real: largest change, real units.
        range_stored: lowest and highest value that changed voxels may take.
        quantum_stored: size of one step, a power of two: 1 for integers with at most ``MOST_STEPS`` steps.
        levels: how many steps a value may move at most, at least 1.
    """

    epsilon_real: float
    range_stored: tuple[float, float]
    quantum_stored: float
    levels: int

    @property
    def step_model(self) -> float:
        """What one step makes in model values."""
        return self.quantum_stored * abs(self.slope) / self.window.width

    @property
    def epsilon_stored(self) -> float:
        """Largest change in stored units."""
        return self.levels * self.quantum_stored

    def within(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the values that lie in the range that changed ones may take."""
        return values_within(stored, *self.range_stored)

    @classmethod
    def of_view(
        cls, view: PictureView, epsilon_real: float, stored: NDArray[Any], *, may_be_constant: bool = False
    ) -> FileBudget:
        """Bind a largest change to the stored values of one image; see :meth:`PerturbationBudget.bind`."""
        slope, intercept, padding_stored = view.slope, view.intercept, view.padding_stored
        if stored.dtype.kind not in "iuf":
            raise UsageError(f"stored values of {stored.dtype} carry no noise; give integers or floats")
        if not all(map(math.isfinite, (slope, intercept))) or slope == 0:
            raise UsageError(
                f"slope {slope:g} and intercept {intercept:g} are no rescaling; the slope must be finite and not "
                "0, the intercept finite"
            )
        if padding_stored is not None and not padding_stored[0] <= padding_stored[1]:
            raise UsageError(
                f"the padding range {padding_stored[0]:g} to {padding_stored[1]:g} is empty; give (lowest, highest)"
            )
        if stored.size == 0:
            raise RefusedError("it holds no value, so there is nothing to protect")
        if stored.dtype.kind in "iu" and max(abs(int(stored.min())), abs(int(stored.max()))) > _EXACT:
            raise RefusedError(
                f"values reach {max(abs(int(stored.min())), abs(int(stored.max())))}, beyond 2**53, where bounds "
                "cannot be kept exactly"
            )
        quantum, levels = step_and_levels(epsilon_real, slope, stored)
        extremes = view.extremes(stored)
        if extremes is None and not may_be_constant:
            raise RefusedError("every value is padding, so there is nothing to protect")
        low, high = extremes or (float(stored.min()), float(stored.max()))
        if high - low < 4 * quantum and not may_be_constant:
            raise RefusedError(
                f"the image is nearly constant (stored values {low:g} to {high:g}), so it cannot hide any noise"
            )
        return cls(
            **{field.name: getattr(view, field.name) for field in fields(PictureView)},
            epsilon_real=epsilon_real,
            range_stored=(low + quantum, high - quantum),
            quantum_stored=quantum,
            levels=levels,
        )

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back unchanged; on disk the levels are called steps."""
        return {
            "modality": self.modality,
            "window_low": self.window.low,
            "window_high": self.window.high,
            "epsilon_real": self.epsilon_real,
            "slope": self.slope,
            "intercept": self.intercept,
            "range_stored": self.range_stored,
            "padding_stored": self.padding_stored,
            "background_stored": None if self.background is None else self.background.exact_stored,
            "quantum_stored": self.quantum_stored,
            "steps": self.levels,
            "background_real": None if self.background is None else self.background.center_real,
            "background_spread_real": 0.0 if self.background is None else self.background.spread_real,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> FileBudget:
        """Read what :meth:`to_json` gave, also after a trip through JSON text."""
        center, padding = record["background_real"], record["padding_stored"]
        return cls(
            modality=record["modality"],
            window=IntensityWindow(record["window_low"], record["window_high"]),
            epsilon_real=record["epsilon_real"],
            slope=record["slope"],
            intercept=record["intercept"],
            range_stored=tuple(record["range_stored"]),
            padding_stored=None if padding is None else tuple(padding),
            quantum_stored=record["quantum_stored"],
            levels=record["steps"],
            background=None
            if center is None
            else Background(center, record["background_spread_real"], record["background_stored"]),
        )


@dataclass(frozen=True)
class PerturbationBudget:
    """How far the values of an image may move: an epsilon and the intensity window that it refers to.

    Args:
        epsilon: ``Epsilon``, or text such as ``"8/255"`` or ``"12 HU"``.
        window: the intensity window, real units.

    Example:
        >>> import numpy as np
        >>> from monai_salm import PerturbationBudget
        >>> budget = PerturbationBudget.for_modality("CT")
        >>> round(budget.epsilon_real, 2), round(budget.lowest_psnr, 1)  # HU, dB
        (12.55, 30.1)
        >>> slice_stored = np.arange(0, 3000, 10, dtype=np.int16).reshape(15, 20)
        >>> budget.bind(slice_stored, modality="CT", intercept=-1024).levels  # a FileBudget
        12
    """

    epsilon: Epsilon
    window: IntensityWindow

    @classmethod
    def for_modality(cls, modality: str, epsilon: str | float | Epsilon = "8/255") -> PerturbationBudget:
        """Give the budget of a modality with a standard window: CT.

        Raises:
            UsageError: the window of this modality is taken from its images.
        """
        if modality != "CT":
            raise UsageError(
                f"modality {modality!r} has no standard intensity window; take one from its images with "
                "default_window, or give an IntensityWindow"
            )
        return cls(Epsilon.parse(epsilon), IntensityWindow(*WINDOW_PRESETS["soft-tissue"]))

    @property
    def epsilon_real(self) -> float:
        """Largest change in real units."""
        return self.epsilon.real(self.window)

    @property
    def epsilon_model(self) -> float:
        """Largest change in model values."""
        return self.epsilon_real / self.window.width

    @property
    def lowest_psnr(self) -> float:
        """PSNR in model values that no image within the budget can fall below, dB."""
        return -20.0 * math.log10(self.epsilon_model)

    def bind(
        self,
        stored: NDArray[Any],
        *,
        modality: str = "",
        slope: float = 1.0,
        intercept: float = 0.0,
        padding_stored: tuple[float, float] | None = None,
        background: Background | None = None,
        may_be_constant: bool = False,
    ) -> FileBudget:
        """Bind the budget to the stored values of one file.

        Changed voxels keep strictly between the file's own extremes: what lies there is saturated, or background, and
        stays alone in it.

        Args:
            stored: all values of the file.
            modality: DICOM Modality code, or empty.
            slope: real units per stored unit.
            intercept: real value of stored 0.
            padding_stored: inclusive padding range.
            background: what surrounds the anatomy, its exact value in stored units; None where the image shows none.
            may_be_constant: accept a frame that holds (almost) one value, or padding alone: one of many frames, which
                then stays as it is.

        Raises:
            RefusedError: the file cannot carry the noise.
            UsageError: what is given is no file's: no numbers, or no rescaling.
        """
        view = PictureView(
            modality=modality,
            window=self.window,
            slope=slope,
            intercept=intercept,
            padding_stored=padding_stored,
            background=background,
        )
        return FileBudget.of_view(view, self.epsilon_real, stored, may_be_constant=may_be_constant)


def step_and_levels(epsilon_real: float, slope: float, stored: NDArray[Any]) -> tuple[float, int]:
    """Give the size of one step in stored units and how many of them stay within ``epsilon_real``.

    Integers, and floats that hold integers, move in whole units, or in a power of two of them where a budget has more
    than ``MOST_STEPS``; other floats move on a grid of a power of two that is coarse enough for their largest magnitude
    (at least 4 units in the last place), so that what is added is what is found on reading.

    Args:
        epsilon_real: largest change, real units.
        slope: real units per stored unit.
        stored: values of the file, any shape.

    Raises:
        RefusedError: not even one step fits the budget; the message names the epsilon that would do.
    """
    largest = epsilon_real / abs(slope)
    quantum, headroom = 2.0 ** max(0, math.ceil(math.log2(largest / MOST_STEPS))), 0.0
    if not np.issubdtype(stored.dtype, np.integer):
        farthest, whole = _farthest(stored)
        if farthest is None:
            raise RefusedError("every value is NaN or infinite, so there is nothing to protect")
        unit = float(np.spacing(farthest))
        # Floats so large that they skip whole numbers are all whole, but no whole step can be added to them.
        if unit > 1 or not whole:
            quantum, headroom = max(2.0 ** math.floor(math.log2(largest / FLOAT_STEPS)), 4 * unit), unit
    levels = math.floor((largest - headroom) / quantum * (1 + _SLACK))
    if levels < 1:
        needed = (quantum + headroom) * abs(slope)
        raise RefusedError(
            f"epsilon {epsilon_real:.4g} in real units is less than one stored step of {needed:.4g}, so the file "
            "cannot carry the noise; "
            f"give --epsilon '{needed * 1.001:.4g} real' or more, or a wider --window"
        )
    return quantum, levels


def _farthest(stored: NDArray[Any]) -> tuple[Any, bool]:
    """Give the largest magnitude of the finite values, None without any, and whether all of these are whole."""
    farthest, whole = None, True
    for slab in slabs(stored):
        part = stored[slab]
        finite = part[np.isfinite(part)]
        if finite.size:
            most = np.abs(finite).max()
            farthest = most if farthest is None else max(farthest, most)
            whole = whole and np.array_equal(finite, np.rint(finite))
    return farthest, whole
