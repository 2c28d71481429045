# SPDX-License-Identifier: Apache-2.0
"""Error-minimizing noise as a method: searched with a surrogate that learns beside it, or for further samples with the
surrogate of a finished search.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from monai_salm.learning.consumers import NO_AUGMENTATION, ConsumerAugmentation
from monai_salm.learning.networks import CLEAN, NetworkEnsemble, members_of, seeded_network, seen_as
from monai_salm.learning.ranks import ALONE, Ranks
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import LEAST_SIDE
from monai_salm.learning.surrogate import SurrogateCard
from monai_salm.learning.targets import classes_in
from monai_salm.learning.tasks import LearningTask, task_from_json
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, TrainedSurrogate, batch_size, task_needed
from monai_salm.methods.minmin import MinMinOptimizer
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.search_state import SearchState
from monai_salm.methods.search_time import search_seconds
from monai_salm.methods.textures import class_directions
from monai_salm.progress import in_words

logger = logging.getLogger(__name__)

VOLUME_ROUNDS = 12
"""Rounds at most for volumes, unless the user gives another number: a round of 160 small ones takes about a minute on a
CPU.
"""


@dataclass(frozen=True)
class ErrorMinimizing(NoiseMethod):
    """Noise that a surrogate, trained in turn with it, finds easier to learn than the images; SALM where it is sparse.

    Args:
        settings: of the search; seed, share and rounds are the user's.
        augmentation: what the noise has to survive.
        beside: networks that stand beside the user's surrogate, so that the noise fits no single kind.
        view: how the user's surrogate sees images, as behind ``/`` in a network's name.
        beside_colors: further ones where samples are in color: noise in colors alone is gone for who sees none.
    """

    settings: MinMinSettings = field(default_factory=MinMinSettings)
    augmentation: ConsumerAugmentation = NO_AUGMENTATION
    beside: tuple[str, ...] = ()
    beside_colors: tuple[str, ...] = ()
    view: str = ""

    takes_color = True
    takes_surrogate = True
    takes_ranks = True

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task = task_needed(task, samples)
        network, names = seen_as(run.build_surrogate(), self.view), self.beside_of(samples)
        if names:
            shape, channels = samples.padded_shape, samples.channels
            others = [seeded_network(name, shape, task.outputs, run.seed, channels=channels) for name in names]
            network = NetworkEnsemble([*members_of(network), *others])
        optimizer = MinMinOptimizer(
            network, task, self._search(samples, task, run), augmentation=self.augmentation,
            device=run.device, show_progress=run.show_progress, ranks=run.ranks,
        )  # fmt: skip
        yield from searched(optimizer, samples, run)
        if run.surrogate is not None:
            run.surrogate = replace(run.surrogate, beside=names, view=self.view)

    def trial(self) -> NoiseMethod:
        """Give the method with one life of its surrogates alone: until they have learned the noise."""
        return replace(self, settings=replace(self.settings, one_life=True))

    def suits(self, samples: WorkingSet) -> bool:
        """Say whether the samples are large enough for noise in blocks, and have few enough classes for features of the
        next one: with more than two they and the noise that carries the label are in each other's way (round 28).
        """
        large = self.settings.block == 1 or max(samples.padded_shape) >= LEAST_SIDE[samples.spatial_dims]
        classes = {found for sample in samples.samples for found in classes_in(sample.target)}
        misled = any(name.endswith(f"/{CLEAN}") for name in self.beside)
        return large and (not misled or len(classes) <= 2)

    def beside_of(self, samples: WorkingSet) -> tuple[str, ...]:
        """Name the networks beside the user's surrogate, for some samples."""
        return self.beside + (self.beside_colors if samples.channels > 1 else ())

    def _search(self, samples: WorkingSet, task: LearningTask, run: MethodRun) -> MinMinSettings:
        """Give the settings with what the user chose, and with what the samples are."""
        search = replace(self.settings, seed=run.seed, perturbed_fraction=run.perturbed_fraction)
        if samples.spatial_dims == 3:  # a volume is as much work and memory as many slices
            rounds = min(VOLUME_ROUNDS, search.max_rounds)
            search = replace(search, batch_size=batch_size(samples, run), max_rounds=rounds)
        if run.rounds is not None:
            search = replace(search, max_rounds=run.rounds)
        if search.texture_period and search.class_directions == "auto":  # further samples of the run need them, too
            directions = class_directions(samples, task.outputs, period=search.texture_period)
            search = replace(search, class_directions=directions)
        return search

    def check(self, *, perturbed_fraction: float, rounds: int | None) -> None:
        """Find out whether a user's choices are possible, or raise UsageError."""
        most = self.settings.max_rounds if rounds is None else rounds
        replace(self.settings, perturbed_fraction=perturbed_fraction, max_rounds=most)


@dataclass(frozen=True)
class FrozenSurrogate(NoiseMethod):
    """Noise for further samples of a finished search: noise steps only, each sample on its own.

    Args:
        network, card: of :func:`~monai_salm.learning.surrogate.load_surrogate`.
    """

    network: nn.Module
    card: SurrogateCard

    takes_color = True
    takes_surrogate = True
    takes_ranks = True

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:  # noqa: ARG002
        """Give the noise; the task is the card's."""
        optimizer = frozen_optimizer(
            self.network, self.card, rounds=run.rounds, device=run.device, show_progress=run.show_progress,
            ranks=run.ranks,
        )  # fmt: skip
        yield from searched(optimizer, samples, run)


def searched(optimizer: MinMinOptimizer, samples: WorkingSet, run: MethodRun) -> Noise:
    """Run a search, going on where a stopped one was, and report what it did and left behind."""
    settings, network = optimizer.settings, optimizer.network
    state = _remembered(optimizer, samples, run) or optimizer.start(samples)
    seconds = search_seconds(optimizer, samples, state) if run.ranks.first else 0.0
    if seconds:
        rounds = settings.max_rounds - state.round
        logger.info(
            "searching the noise of %d images takes %s at most (%d rounds)", len(samples), in_words(seconds), rounds
        )

    def after_round(now: SearchState) -> None:
        if run.after_round is not None:
            run.after_round(now.history[-1])
        if run.memory is not None and run.ranks.first:
            tensors, progress = now.to_memory()
            memory = {} if optimizer.descent is None else optimizer.descent.to_memory()
            weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
            tensors |= {f"network.{name}": value for name, value in weights.items()}
            run.memory.save(tensors | {f"descent.{name}": value for name, value in memory.items()}, progress)

    yield from optimizer.run(samples, state, after_round, whole_state=run.memory is not None)
    run.passes, run.errors = state.passes, [log.error for log in state.history]
    looks = settings.texture_period > 0 and not optimizer.freeze_surrogate  # the first round, at clean samples
    run.surrogate = TrainedSurrogate(
        network=network, search=settings.to_json(), augmentation=optimizer.augmentation, rounds=state.round,
        wanted_error=settings.stop_error, errors=tuple(run.errors[1:] if looks else run.errors),
        frozen=optimizer.freeze_surrogate,
    )  # fmt: skip


def _remembered(optimizer: MinMinOptimizer, samples: WorkingSet, run: MethodRun) -> SearchState | None:
    """Give the state of a stopped run, and put its surrogate's weights back; None if there was none."""
    found = run.memory.load() if run.memory is not None else None
    if found is None:
        return None
    tensors, progress = found
    weights = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    optimizer.network.load_state_dict(weights)
    optimizer.remembered = {
        name.removeprefix("descent."): value for name, value in tensors.items() if name.startswith("descent.")
    }
    return SearchState.from_memory(tensors, progress, samples)


def frozen_optimizer(
    network: nn.Module,
    card: SurrogateCard,
    *,
    rounds: int | None = None,
    device: torch.device | str = "cpu",
    show_progress: bool = False,
    ranks: Ranks = ALONE,
) -> MinMinOptimizer:
    """Give the optimizer of further samples: all is as its card says, so that a sample's noise is the same whoever asks
    for it.

    Args:
        network, card: of :func:`load_surrogate`.
        rounds: None takes as many as the surrogate's own run took. There is no stop rule, which would depend on the
            other samples.
        device: where to compute.
        show_progress: a progress bar on standard error.
        ranks: processes that search together.
    """
    settings = replace(
        MinMinSettings(**card.search), max_rounds=card.rounds if rounds is None else rounds, stop_error=0.0
    )
    return MinMinOptimizer(
        network, task_from_json(card.task), settings,
        augmentation=ConsumerAugmentation(**card.augmentation), device=device, freeze_surrogate=True,
        show_progress=show_progress, ranks=ranks,
    )  # fmt: skip
