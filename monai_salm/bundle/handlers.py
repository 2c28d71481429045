# SPDX-License-Identifier: Apache-2.0
"""MONAI's event handlers on a search of noise: statistics, TensorBoard, MLflow. They need pytorch-ignite; a search does
not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from monai.utils import optional_import

from monai_salm.errors import UsageError


def has_packages(*names: str) -> bool:
    """Say whether packages are installed, for ``_disabled_`` of handlers that need them.

    Args:
        names: of modules, as they are imported.

    Example:
        >>> from monai_salm.bundle import has_packages
        >>> has_packages("numpy"), has_packages("numpy", "no_such_package")
        (True, False)
    """
    return all(find_spec(name) is not None for name in names)


class RoundEvents:
    """Fire the events of an epoch for each round of a search, so that handlers see it as they see a training.

    A handler finds the round in ``engine.state.epoch``, its figures in ``engine.state.metrics``, and in
    ``engine.state.output`` what ``postprocessing`` makes of them, with the surrogate's error as ``loss``.

    Args:
        handlers: with a method ``attach``, as MONAI's have it; without any, nothing is loaded.
        max_epochs: rounds at most; None where the method decides.
        key_metric: name of the figure that says how good a round was, and what gives it from all figures of one;
            the smallest is the best.
        postprocessing: applied to the output of each round; None for nothing.

    Raises:
        UsageError: there are handlers, and pytorch-ignite is not installed.
    """

    def __init__(
        self,
        handlers: Sequence[Any],
        max_epochs: int | None = None,
        key_metric: Mapping[str, Callable[[Mapping[str, float]], float]] | None = None,
        postprocessing: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.key_metric, self.postprocessing = dict(key_metric or {}), postprocessing
        self.rounds = 0
        self._engine: Any = None
        self._events: Any = None
        if not handlers:
            return
        made, there = optional_import("ignite.engine", name="Engine")
        if not there:
            raise UsageError(
                "handlers need pytorch-ignite, which is not installed; install it, or give --train::handlers '[]'"
            )
        self._events = optional_import("ignite.engine", name="Events")[0]
        self._engine = made(lambda _engine, _batch: None)
        state = self._engine.state
        state.max_epochs, state.epoch_length, state.epoch, state.iteration = max_epochs or 0, 1, 0, 0
        state.metrics, state.output, state.batch = {}, {}, {}
        state.key_metric_name = next(iter(self.key_metric), None)
        state.best_metric, state.best_metric_epoch = float("inf"), -1
        for handler in handlers:
            handler.attach(self._engine)

    def fire(self, name: str) -> None:
        """Fire one event by its name."""
        if self._engine is not None:
            self._engine.fire_event(getattr(self._events, name))

    def round(self, figures: Mapping[str, float]) -> None:
        """Tell of a round: ``surrogate_error`` and whatever else is known of it."""
        self.rounds += 1
        if self._engine is None:
            return
        state = self._engine.state
        state.epoch = state.iteration = self.rounds
        output: dict[str, Any] = {"loss": figures["surrogate_error"], **figures}
        state.output = output if self.postprocessing is None else self.postprocessing(output)
        state.metrics = {**{name: value(figures) for name, value in self.key_metric.items()}, **figures}
        key = state.metrics.get(state.key_metric_name, float("inf"))
        if key < state.best_metric:
            state.best_metric, state.best_metric_epoch = key, self.rounds
        for name in ("EPOCH_STARTED", "ITERATION_STARTED", "ITERATION_COMPLETED", "EPOCH_COMPLETED"):
            self.fire(name)
