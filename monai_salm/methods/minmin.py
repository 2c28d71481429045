# SPDX-License-Identifier: Apache-2.0
"""The min-min optimizer: error-minimizing noise, bounded in stored steps and sparse inside the anatomy.

SALM, Sparsity-Aware Local Masking (arXiv 2403.10573), as we read its abstract: noise that minimizes the training error
of a surrogate (Huang et al. 2021, arXiv 2101.04898), restricted to the voxels whose loss gradient is largest. For
samples x with label y, surrogate f and consumer draws t::

    min_theta min_delta  sum E_t L(f_theta(t(q(x + delta))), y)
    |delta| <= epsilon,   delta = 0 outside S,   |S| <= perturbed_fraction * |anatomy|

q rounds to the steps that the file can hold, so what is optimized is what is written. Each round trains the surrogate
for a while on the samples as they are protected now, then takes some signed gradient steps per sample, from where the
last round left its noise.

Where a class texture starts the noise (:mod:`monai_salm.methods.textures`), the first round only looks: its surrogate
learns from the clean samples, and its gradient says where in each image the disease is seen (a frozen surrogate's:
where a texture is looked for). There the texture is put, and from the second round on the steps fit it to the image.
The mask says where, the class says what, the optimizer makes it fit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.learning.checks import check_network, check_targets, known_device
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import logits_of
from monai_salm.learning.samples import WorkingBatch, WorkingSet, own_generator
from monai_salm.learning.surrogate import SurrogateCard
from monai_salm.learning.tasks import LearningTask, task_from_json
from monai_salm.methods.sparsity import box_blur, local_contrast, sparsity_mask
from monai_salm.methods.textures import class_directions, class_textures
from monai_salm.progress import Progress

logger = logging.getLogger(__name__)

MASK_RULES = ("gradient", "random", "dense")

LEAST_CONTRAST = 0.02
"""Local contrast, in model values, that is added to that of an image: below it a texture is seen as
well as anywhere.
"""


@dataclass(frozen=True, kw_only=True)
class MinMinSettings:
    """What the search may spend and how it searches.

    Args:
        perturbed_fraction: largest share of the anatomy's voxels that may change, in (0, 1].
        max_rounds: rounds at most.
        surrogate_epochs: passes of the surrogate over all samples in each round; less than 1 takes that share of them.
        surrogate_batches: batches of the surrogate in each round at least, so that few samples train it as well.
        noise_steps: signed gradient steps per sample and round.
        step_size: size of one such step as a share of the budget.
        stop_error: stop once the surrogate's mean error in the noise steps stayed below it for ``patience`` rounds; 0
            never stops.
        patience: see ``stop_error``.
        renew_every: rounds after which the surrogate is drawn anew, so that the noise fits no single network; 0 never.
        mask_rule: ``gradient`` (SALM), ``random`` (control) or ``dense`` (all carriers, EM).
        full_strength: True makes steps beyond a third of the budget the whole budget, in the search as in the files.
        mask_memory: share of the old score that a round keeps.
        mask_blur: width, in cells, of the box that the score is averaged over before the mask takes its highest values:
            a texture needs room; odd.
        texture_period: period, in cells, of the class textures that the search starts from; 0 starts from no noise. The
            mask then goes where the gradient is large for the contrast that the image has there.
        texture_batches: batches at least of the surrogate that the first steps follow: one that has not found the
            textures yet leads away from them.
        class_directions: number of the direction of each class's texture, None for the class without a fine one;
            ``auto`` chooses them, see :func:`~monai_salm.methods.textures.class_directions`.
        batch_size: samples per step.
        learning_rate: of the surrogate's Adam.
        seed: of everything random.
    """

    perturbed_fraction: float = 0.4
    max_rounds: int = 30
    surrogate_epochs: float = 1.0
    surrogate_batches: int = 24
    noise_steps: int = 5
    step_size: float = 0.2
    stop_error: float = 0.01
    patience: int = 5
    renew_every: int = 0
    mask_rule: str = "gradient"
    full_strength: bool = False
    mask_memory: float = 0.7
    mask_blur: int = 1
    texture_period: float = 0.0
    texture_batches: int = 150
    class_directions: tuple[int | None, ...] | Literal["auto"] = "auto"
    batch_size: int = 32
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.class_directions != "auto":  # JSON has a list
            object.__setattr__(self, "class_directions", tuple(self.class_directions))
        if not 0 < self.perturbed_fraction <= 1:
            raise UsageError(
                f"perturbed fraction {self.perturbed_fraction:g} is not in (0, 1]; 0.4 lets 40 % of the anatomy's "
                "voxels change"
            )
        if self.mask_rule not in MASK_RULES:
            raise UsageError(f"mask rule {self.mask_rule!r} is unknown; give one of {', '.join(MASK_RULES)}")
        if self.mask_blur < 1 or self.mask_blur % 2 == 0:
            raise UsageError(f"mask blur {self.mask_blur} is not odd; a box around a cell is 1, 3, 5, ... cells wide")
        if self.texture_period and self.texture_period < 2:
            raise UsageError(
                f"texture period {self.texture_period:g} is below 2 cells, which no grid shows; give 2 or more, "
                "or 0 for none"
            )
        for name in ("max_rounds", "noise_steps", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """Give plain types; ``MinMinSettings(**record)`` reads them back."""
        return asdict(self)


@dataclass
class RoundLog:
    """What one round did: mean error of the surrogate in the noise steps, share of the anatomy changed, passes per
    sample so far, seconds.
    """

    round: int
    error: float
    changed_fraction: float
    passes: float
    seconds: float


@dataclass
class SearchState:
    """Everything that a round starts from, so that a stopped run goes on exactly where it was.

    Args:
        steps: per sample, proposed noise in steps, float32, working grid; dense: the mask is applied when it is used.
        score: per sample, running mean of the absolute loss gradient.
        round: rounds done.
        passes: forward and backward passes of the surrogate per sample so far.
        quiet: rounds in a row below the stop error.
        history: one entry a round.
    """

    steps: list[Tensor]
    score: list[Tensor]
    round: int = 0
    passes: float = 0.0
    quiet: int = 0
    history: list[RoundLog] = field(default_factory=list)


class MinMinOptimizer:
    """Search error-minimizing noise for a set of samples.

    Args:
        network: surrogate that gives logits; it is trained in place. Any module, on any device.
        task: loss and error.
        settings: see :class:`MinMinSettings`.
        augmentation: what the noise has to survive.
        device: where to compute.
        freeze_surrogate: True takes noise steps only, with the network as it is (further samples of a finished run).
            Each sample is then on its own, in its batches as in its draws: its noise does not depend on which others
            are protected with it.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: torch does not know the device, or does not see it.
    """

    def __init__(
        self,
        network: nn.Module,
        task: LearningTask,
        settings: MinMinSettings | None = None,
        *,
        augmentation: ConsumerAugmentation | None = None,
        device: torch.device | str = "cpu",
        freeze_surrogate: bool = False,
        show_progress: bool = False,
    ) -> None:
        self.network = network
        self.task = task
        self.settings = settings or MinMinSettings()
        self.augmentation = augmentation or ConsumerAugmentation()
        self.device = known_device(device)
        self.freeze_surrogate = freeze_surrogate
        self.show_progress = show_progress

    def start(self, samples: WorkingSet) -> SearchState:
        """Give the state before the first round: no noise, or the class textures in full strength."""
        settings = self.settings
        scores = [torch.zeros(sample.image_model.shape) for sample in samples.samples]
        if not settings.texture_period:
            return SearchState([torch.zeros_like(score) for score in scores], scores)
        directions = settings.class_directions
        if directions == "auto":
            directions = class_directions(samples, self.task.outputs, period=settings.texture_period)
        textures = class_textures(
            samples, self.task, period=settings.texture_period, seed=settings.seed, directions=directions
        )
        return SearchState(
            [texture * sample.levels for texture, sample in zip(textures, samples.samples, strict=True)], scores
        )

    def run(
        self,
        samples: WorkingSet,
        state: SearchState | None = None,
        after_round: Callable[[SearchState], None] | None = None,
    ) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Run rounds until the stop rule or ``max_rounds``, then give each sample's id and integer steps on its working
        grid.

        Args:
            samples: with targets.
            state: of a stopped run, to go on from; it is changed in place.
            after_round: called after each round, to save the state.

        Raises:
            UsageError: the network or the targets do not fit the task, or the search left the finite numbers.
        """
        settings = self.settings
        self.network.to(self.device)
        check_targets(samples, self.task)
        check_network(
            self.network,
            type(self.network).__name__,
            self.task,
            samples.padded_shape,
            self.device,
            trained=not self.freeze_surrogate,
        )
        state = state or self.start(samples)
        with Progress(
            "optimizing", settings.max_rounds, "rounds", done=state.round, show_progress=self.show_progress
        ) as bar:
            while state.round < settings.max_rounds and not self._done(state):
                log = self._round(samples, state)
                bar.update(note=f"surrogate's error {log.error:.3f}, {log.changed_fraction:.1%} of the anatomy changed")
                logger.info("round %d: error %.4f, changed %.4f, passes per sample %.1f, %.1f s", *asdict(log).values())
                if after_round is not None:
                    after_round(state)
        return self._result(samples, state)

    def _done(self, state: SearchState) -> bool:
        return self.settings.stop_error > 0 and state.quiet >= self.settings.patience

    def _result(self, samples: WorkingSet, state: SearchState) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        for indices in self._batches(samples, None):
            batch = samples.batch(indices, torch.device("cpu"))
            steps, score = self._gather(samples, state, batch)
            final = self._quantize(steps, batch) * self._mask(score, batch)
            for row, index in enumerate(indices):
                yield samples.ids[index], samples.crop(final[row], index).astype(np.int16)

    # One round -------------------------------------------------------------------------------------------------------

    def _round(self, samples: WorkingSet, state: SearchState) -> RoundLog:
        began = time.monotonic()
        # A generator of its own for each round: a resumed run draws what an uninterrupted one would have drawn.
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + state.round)
        if not self.freeze_surrogate:
            self._train_surrogate(samples, state, generator)
        error, changed = self._move_noise(samples, state, generator)
        state.round += 1
        looked = (
            state.round == 1 and self.settings.texture_period > 0
        )  # at clean samples, whose error says nothing of the noise
        state.quiet = state.quiet + 1 if error < self.settings.stop_error and not looked else 0
        log = RoundLog(state.round, error, changed, state.passes, time.monotonic() - began)
        state.history.append(log)
        return log

    def _train_surrogate(self, samples: WorkingSet, state: SearchState, generator: torch.Generator) -> None:
        settings = self.settings
        looked = state.round == 1 and settings.texture_period > 0
        if looked or (settings.renew_every and state.round and state.round % settings.renew_every == 0):
            renew(self.network, settings.seed + state.round)
        self.network.train().requires_grad_(True)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        least = max(settings.surrogate_batches, settings.texture_batches) if looked else settings.surrogate_batches
        wanted = max(least, round(settings.surrogate_epochs * len(samples) / settings.batch_size))
        done = seen = 0
        total = torch.zeros((), device=self.device)
        while done < wanted:
            for indices in self._batches(samples, generator):
                if done == wanted:
                    break
                batch = samples.batch(indices, self.device)
                steps, score = self._gather(samples, state, batch)
                images = self._apply(
                    batch, steps, self._mask(score, batch) if state.round else torch.zeros_like(score, dtype=torch.bool)
                )
                images, target = self._augment(images, batch, generator)
                optimizer.zero_grad(set_to_none=True)
                loss = self._losses(images, target)[0].mean()
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
                nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
                optimizer.step()
                done += 1
                seen += len(indices)
        if not bool(total.isfinite()):  # asked once a round, since every question waits for the device
            raise UsageError(
                f"the surrogate's loss is not finite in round {state.round + 1}; give finite images, a smaller "
                "learning_rate, or another network"
            )
        state.passes += seen / len(samples)

    def _move_noise(self, samples: WorkingSet, state: SearchState, generator: torch.Generator) -> tuple[float, float]:
        """Take the noise steps of one round; give the mean error before them and the share of the anatomy changed after
        them.
        """
        settings = self.settings
        self.network.eval().requires_grad_(False)
        looks = state.round == 0 and settings.texture_period > 0
        errors, changed, anatomy = 0.0, 0, 0
        for indices in self._batches(samples, None):
            batch = samples.batch(indices, self.device)
            if self.freeze_surrogate:
                generator = own_generator(batch.images, settings.seed, state.round)
            steps, score = self._gather(samples, state, batch)
            mask = self._mask(score, batch) if state.round else (batch.voxels > 0) & (not looks)
            # Only the steps change from here on, and they stay within the budget: the rest of the product is made once.
            gain, levels = mask * batch.share * _column(batch.step_model, steps), _column(batch.levels, steps)
            gathered = torch.zeros_like(score)
            for step in range(settings.noise_steps):
                gradient, logits, target = self._input_gradient(
                    (batch.images + self._quantize(steps, batch) * gain).clamp(0, 1), batch, generator
                )
                if step == 0:
                    errors += float(self.task.error(logits, target).sum())
                gathered += gradient.abs()
                if not looks:
                    steps = (steps - settings.step_size * levels * gradient.sign()).clamp(-levels, levels)
            if not bool(gathered.isfinite().all()):
                raise UsageError(
                    f"a loss gradient is not finite near sample {samples.ids[indices[0]]!r}; give finite images, "
                    "or another network"
                )
            # Each sample's gradients shrink as it is learned; a share of their mean keeps all rounds comparable.
            gathered /= gathered.flatten(1).mean(dim=1).clamp(min=1e-30).reshape(-1, *[1] * (gathered.ndim - 1))
            score = (
                gathered if state.round == 0 else settings.mask_memory * score + (1 - settings.mask_memory) * gathered
            )
            self._scatter(samples, state, batch, steps, score)
            final = (self._quantize(steps, batch) != 0) & self._mask(score, batch)
            changed += int((final * batch.voxels).sum())
            anatomy += int(batch.limits.sum())
        state.passes += settings.noise_steps
        return errors / len(samples), changed / max(anatomy, 1)

    def _input_gradient(
        self, images: Tensor, batch: WorkingBatch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the loss by protected images (straight through the rounding), and the logits and target that it
        came from.
        """
        with torch.enable_grad():
            images = images.requires_grad_(True)
            augmented, target = self._augment(images, batch, generator)
            losses, logits = self._losses(augmented, target)
            (gradient,) = torch.autograd.grad(losses.sum(), images)
        return gradient.float(), logits.detach().float(), target  # type: ignore[return-value]

    def _augment(self, images: Tensor, batch: WorkingBatch, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        if self.task.spatial_target:
            return self.augmentation(images, generator, batch.target)
        return self.augmentation(images, generator)[0], batch.target

    def _losses(self, images: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = logits_of(self.network, images)
        return self.task.loss(logits.float(), target), logits  # type: ignore[arg-type]

    # Noise of a batch ------------------------------------------------------------------------------------------------

    def _apply(self, batch: WorkingBatch, steps: Tensor, mask: Tensor) -> Tensor:
        """Give the images as a consumer will find them in the files: rounded, masked, clipped to the window."""
        noise = self._quantize(steps, batch) * mask
        return (batch.images + noise * batch.share * _column(batch.step_model, noise)).clamp(0, 1)

    def _quantize(self, steps: Tensor, batch: WorkingBatch) -> Tensor:
        levels = _column(batch.levels, steps)
        if self.settings.full_strength:
            steps = torch.where(steps.abs() * 3 >= levels, levels * steps.sign(), steps)
        return steps.round().clamp(-levels, levels) * (batch.voxels > 0)

    def _mask(self, score: Tensor, batch: WorkingBatch) -> Tensor:
        """Where the noise may be, ``(batch, 1, *spatial)`` bool."""
        settings = self.settings
        voxels = batch.voxels
        if settings.mask_rule == "dense":
            return voxels > 0
        if settings.mask_rule == "random":
            frozen = [own_generator(batch.images, settings.seed)] if self.freeze_surrogate else []
            generators = frozen or [
                torch.Generator().manual_seed(settings.seed * 7_919 + index) for index in batch.indices
            ]
            rows = [torch.rand(voxels[0].numel(), generator=generator) for generator in generators]
            score = torch.stack(rows).reshape(voxels.shape).to(voxels.device) + 1e-6
        if settings.mask_blur > 1:
            score = box_blur(score, settings.mask_blur)
        if settings.texture_period and settings.mask_rule == "gradient":
            score = score / (local_contrast(batch.images, max(settings.mask_blur, 3)) + LEAST_CONTRAST)
        limits = (batch.limits.double() * settings.perturbed_fraction).floor().long()
        return sparsity_mask(score.flatten(1), voxels.flatten(1), limits).reshape(voxels.shape)

    def _gather(self, samples: WorkingSet, state: SearchState, batch: WorkingBatch) -> tuple[Tensor, Tensor]:
        device = batch.images.device
        steps = samples.pad([state.steps[i].numpy() for i in batch.indices]).to(device)
        return steps, samples.pad([state.score[i].numpy() for i in batch.indices]).to(device)

    def _scatter(
        self, samples: WorkingSet, state: SearchState, batch: WorkingBatch, steps: Tensor, score: Tensor
    ) -> None:
        for row, index in enumerate(batch.indices):
            state.steps[index] = torch.from_numpy(samples.crop(steps[row], index).copy())
            state.score[index] = torch.from_numpy(samples.crop(score[row], index).copy())

    def _batches(self, samples: WorkingSet, generator: torch.Generator | None) -> Iterator[list[int]]:
        count = len(samples)
        # Without a need for chance, samples of like shape go together, so that little is padded.
        order = (
            torch.randperm(count, generator=generator).tolist()
            if generator is not None
            else sorted(range(count), key=lambda i: samples.samples[i].image_model.shape)
        )
        size = 1 if self.freeze_surrogate else self.settings.batch_size
        return (order[i : i + size] for i in range(0, count, size))


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Shape ``(batch,)`` values to multiply maps of a batch."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def renew(network: nn.Module, seed: int) -> None:
    """Draw the weights of a network anew, the same for the same seed, without touching the global random state."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def frozen_optimizer(
    network: nn.Module,
    card: SurrogateCard,
    *,
    rounds: int | None = None,
    device: torch.device | str = "cpu",
    show_progress: bool = False,
) -> MinMinOptimizer:
    """Give the optimizer of further samples: all is as its card says, so that a sample's noise is the same whoever asks
    for it.

    Args:
        network, card: of :func:`load_surrogate`.
        rounds: None takes as many as the surrogate's own run took. There is no stop rule, which would depend on the
            other samples.
        device: where to compute.
        show_progress: a progress bar on standard error.
    """
    settings = replace(
        MinMinSettings(**card.search), max_rounds=card.rounds if rounds is None else rounds, stop_error=0.0
    )
    return MinMinOptimizer(
        network, task_from_json(card.task), settings,
        augmentation=ConsumerAugmentation(**card.augmentation), device=device, freeze_surrogate=True,
        show_progress=show_progress,
    )  # fmt: skip
