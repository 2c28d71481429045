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
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_salm.chance import torch_seed
from monai_salm.errors import UsageError
from monai_salm.learning.chance import SampleChance
from monai_salm.learning.checks import check_network, check_targets, known_device
from monai_salm.learning.consumers import ConsumerAugmentation, draws_needed
from monai_salm.learning.networks import CleanNetwork, members_of
from monai_salm.learning.ranks import ALONE, Ranks
from monai_salm.learning.resident import ResidentSet, SampleMaps
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.training import Descent, drawn_batches, supervised, train
from monai_salm.methods.base import Noise
from monai_salm.methods.gradients import NoiseGradient
from monai_salm.methods.limits import NoiseLimits
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.partners import Partners
from monai_salm.methods.search_state import RoundLog, SearchState, SearchWork
from monai_salm.methods.sparsity import relative
from monai_salm.methods.textures import class_directions, class_textures
from monai_salm.progress import Progress

logger = logging.getLogger(__name__)


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
        ranks: processes that search together: each takes the noise steps of its own samples, with the surrogate that
            the first one trains.

    Attributes:
        descent: of the surrogate's weights, which goes on over the rounds until the surrogate is drawn anew.
        remembered: what the descent of a stopped run remembered, see
            :meth:`~monai_salm.learning.training.Descent.to_memory`.

    Raises:
        UsageError: torch does not know the device, or does not see it.

    Example:
        >>> from monai_salm import ClassificationTask, MinMinOptimizer, MinMinSettings, build_network
        >>> network, settings = build_network("small-cnn", spatial_dims=2, outputs=2), MinMinSettings(max_rounds=1)
        >>> sorted(dict(MinMinOptimizer(network, ClassificationTask(outputs=2), settings).run(samples)))
        ['a', 'b', 'c', 'd']
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
        ranks: Ranks = ALONE,
    ) -> None:
        self.network = network
        self.task = task
        self.settings = settings or MinMinSettings()
        self.limits = NoiseLimits(self.settings)
        self.augmentation = augmentation or ConsumerAugmentation()
        self.device = known_device(device)
        self.gradient = NoiseGradient(
            network, task, self.augmentation, clean_weight=self.settings.clean_weight, bfloat16=self._bfloat16
        )
        self.freeze_surrogate = freeze_surrogate
        self.show_progress, self.ranks = show_progress, ranks
        self.descent: Descent | None = None
        self.remembered: dict[str, Tensor] = {}

    def start(self, samples: WorkingSet) -> SearchState:
        """Give the state before the first round: no noise, or the class textures in full strength."""
        settings = self.settings
        channels, scores = samples.channels, [torch.zeros(1, *sample.shape) for sample in samples.samples]
        if not settings.texture_period:
            return SearchState([torch.zeros(channels, *sample.shape) for sample in samples.samples], scores)
        directions = settings.class_directions
        if directions == "auto":
            directions = class_directions(samples, self.task.outputs, period=settings.texture_period)
        textures = class_textures(
            samples, self.task, period=settings.texture_period, seed=settings.seed, directions=directions
        )
        return SearchState(
            [
                (texture * sample.levels).expand(channels, *sample.shape).clone()
                for texture, sample in zip(textures, samples.samples, strict=True)
            ],
            scores,
        )

    def run(
        self,
        samples: WorkingSet,
        state: SearchState | None = None,
        after_round: Callable[[SearchState], None] | None = None,
        *,
        whole_state: bool = True,
    ) -> Noise:
        """Run rounds until the stop rule or ``max_rounds``, then give each sample's id and integer steps on its working
        grid.

        Args:
            samples: with targets.
            state: of a stopped run, to go on from; it is changed in place.
            after_round: called after each round, to save the state.
            whole_state: bring the first of several processes all of the state for it; the same in all of them.

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
            samples,
            self.device,
            trained=not self.freeze_surrogate,
        )
        self.ranks.share_weights(self.network)
        work = self.begin(samples, state)
        state = work.state
        with Progress(
            "optimizing", settings.max_rounds, "rounds", done=state.round, show_progress=self.show_progress
        ) as bar:
            while state.round < settings.max_rounds and not self._done(state):
                log = self.round(work)
                bar.update(note=f"surrogate's error {log.error:.3f}, {log.changed_fraction:.1%} of the anatomy changed")
                logger.info("round %d: error %.4f, changed %.4f, passes per sample %.1f, %.1f s", *asdict(log).values())
                if whole_state:
                    for maps in (work.steps, work.scores):
                        self.ranks.bring(maps, work.dealt())
                if after_round is not None:
                    after_round(state)
        return self._result(work)

    def _done(self, state: SearchState) -> bool:
        stops = self.settings.stop_error > 0 and state.quiet >= self.settings.patience
        return stops or self.settings.is_over([log.error for log in state.history])

    def begin(self, samples: WorkingSet, state: SearchState | None = None) -> SearchWork:
        """Take all that a search works with to where it computes, and choose the masks of the first round."""
        state = state or self.start(samples)
        resident = ResidentSet(samples, self.device)
        chance = SampleChance(samples, self.settings.seed, self.device, by_image=self.freeze_surrogate)
        steps, scores = state.settle(resident)
        ranks = scores
        if self.settings.mask_rule == "random":
            drawn = chance.maps([(1, *sample.shape) for sample in samples.samples], "mask")
            ranks = resident.hold([values + 1e-6 for values in drawn])  # cells of rank 0 are never chosen
        size = 1 if self.freeze_surrogate else self.settings.batch_size
        masks = resident.new_maps(torch.bool)
        work = SearchWork(resident, chance, state, steps, scores, ranks, masks, size, self.ranks)
        if state.round:  # else nothing was looked at yet
            for batch in work.own_batches():
                work.masks.scatter(batch.place, self.limits.mask(ranks.gather(batch.place), batch))
        return work

    def _result(self, work: SearchWork) -> Noise:
        samples = work.resident.samples

        def of_batch(batch: WorkingBatch) -> list[tuple[str, NDArray[np.int16]]]:
            steps, mask = work.steps.gather(batch.place), work.masks.gather(batch.place)
            final = self.limits.final(steps, mask, batch, samples).cpu()
            return [
                (samples.ids[i], samples.crop(row, i).astype(np.int16))
                for row, i in zip(final, batch.indices, strict=True)
            ]

        for noise in self.ranks.in_turns(map(of_batch, work.own_batches()), len(work.dealt())):
            yield from noise

    # One round -------------------------------------------------------------------------------------------------------

    def round(self, work: SearchWork) -> RoundLog:
        """Run one round, which changes what it works with; :meth:`run` does so until it is time to stop."""
        began, state = time.monotonic(), work.state
        if not self.freeze_surrogate:
            self.train_surrogate(work)
        error, changed = self.move_noise(work)
        state.round += 1
        looked = state.round == 1 and self.settings.texture_period > 0  # at clean samples: no error of the noise
        state.quiet = state.quiet + 1 if error < self.settings.stop_error and not looked else 0
        log = RoundLog(state.round, error, changed, state.passes, time.monotonic() - began)
        state.history.append(log)
        return log

    def train_surrogate(self, work: SearchWork) -> None:
        """Train the surrogate for one round on the samples as they are protected now, and in the first one, on clean
        ones, those of its members that know these alone; in the first process, whose surrogate all have then.
        """
        members = [member for member in members_of(self.network) if not isinstance(member, CleanNetwork)]
        noise = self._noise(work) if members and work.state.round else None
        if self.ranks.first:
            if work.state.round == 0:
                self._train_on_clean(work)
            if members:
                self._train_on_protected(members, work, noise)
        self.ranks.share_weights(self.network)

    def _train_on_protected(self, members: Sequence[nn.Module], work: SearchWork, noise: SampleMaps | None) -> None:
        """Train the other members, with the noise of the samples; None where there is none yet."""
        settings, state, count = self.settings, work.state, len(work.resident.samples)
        looked = state.round == 1 and settings.texture_period > 0
        new = looked or settings.is_new([log.error for log in state.history])
        if new and state.round:
            renew(nn.ModuleList(members), settings.seed + state.round)
        for member in members:
            member.train().requires_grad_(True)
        if new or self.descent is None:
            self.descent = Descent(nn.ModuleList(members), None, settings.learning_rate, forgiving=False)
            if not new:
                self.descent.recall(self.remembered)
        least = max(settings.surrogate_batches, settings.texture_batches if looked else 0)
        if new:
            least = max(least, settings.renewed_batches)
        wanted = max(least, round(settings.surrogate_epochs * count / settings.batch_size))
        batches = drawn_batches(work.resident, work.chance, settings.batch_size, round_number=state.round, most=wanted)
        partners = self._partners(work, math.ceil(wanted * settings.batch_size / count), "partners")
        seen = 0

        def protected() -> Iterator[WorkingBatch]:
            nonlocal seen
            for batch in batches:
                images = partners.contents(batch, seen // count)
                if noise is not None:
                    images = (images + noise.gather(batch.place)).clamp(0, 1)
                seen += len(batch.indices)
                yield replace(batch, images=images)

        self._learn(members, protected(), self.descent, state)
        state.passes += seen / count

    def _train_on_clean(self, work: SearchWork) -> None:
        """Train the members that know clean samples alone."""
        settings, samples = self.settings, work.resident
        members = [member for member in members_of(self.network) if isinstance(member, CleanNetwork)]
        if not members:
            return
        for member in members:
            member.train().requires_grad_(True)
        most = settings.clean_batches
        batches = drawn_batches(samples, work.chance, settings.batch_size, round_number=0, most=most)
        descent = Descent(nn.ModuleList(members), None, settings.learning_rate, forgiving=False)
        self._learn(members, batches, descent, work.state)
        work.state.passes += most * settings.batch_size / len(samples.samples)

    def _learn(
        self, members: Sequence[nn.Module], batches: Iterable[WorkingBatch], descent: Descent, state: SearchState
    ) -> None:
        """Train members of the surrogate side by side on some batches."""
        objectives = [supervised(member, self.task, self.augmentation, bfloat16=self._bfloat16) for member in members]
        total = train(batches, lambda batch: torch.stack([loss(batch) for loss in objectives]).sum(), descent)
        if total is not None and not bool(total.isfinite()):  # asked once a round: every question waits for the device
            raise UsageError(
                f"the surrogate's loss is not finite in round {state.round + 1}; give finite images, a smaller "
                "learning_rate, or another network"
            )

    def _looks(self, state: SearchState) -> bool:
        """Say whether this is the round that looks at clean samples for where the textures go."""
        return state.round == 0 and self.settings.texture_period > 0

    @property
    def _bfloat16(self) -> bool:
        return self.device.type == "cuda"

    def move_noise(self, work: SearchWork) -> tuple[float, float]:
        """Take the noise steps of one round, and choose the masks of the next one.

        Returns:
            The mean error before the steps and the share of the anatomy changed after them.
        """
        settings, state, samples = self.settings, work.state, work.resident.samples
        self.network.eval().requires_grad_(False)
        looks = self._looks(state)
        draws = work.chance.draws(state.round, settings.noise_steps, draws_needed(samples.spatial_dims), "noise")
        partners = self._partners(work, settings.noise_steps, "noise partners")
        errors, changed, finite = [], [], []
        for batch in work.own_batches():
            place = batch.place
            steps, score = work.steps.gather(place), work.scores.gather(place)
            mask = work.masks.gather(place) if state.round else (batch.voxels > 0) & (not looks)
            # Only the steps change from here on, and they stay within the budget: the rest is multiplied once.
            gain, levels = mask * (batch.voxels > 0) * batch.share * batch.step_model, batch.levels
            gathered = torch.zeros_like(score)
            for step in range(settings.noise_steps):
                noise, contents = self.limits.tried(steps, batch) * gain, (partners.contents(batch, step), batch.images)
                images, own = ((content + noise).clamp(0, 1) for content in contents)
                gradient, error = self.gradient.at(images, own, replace(batch, draws=draws.at(place, step)))
                if step == 0:
                    errors.append(error.sum())
                gathered += gradient.abs().mean(1, keepdim=True)
                if not looks:
                    gradient = self.limits.direction(gradient, batch, samples)
                    steps = (steps - settings.step_size * levels * gradient.sign()).clamp(-levels, levels)
            finite.append(gathered.isfinite().all())
            # Each sample's gradients shrink as it is learned; a share of their mean keeps all rounds comparable.
            gathered = relative(gathered)
            if state.round:
                gathered = settings.mask_memory * score + (1 - settings.mask_memory) * gathered
            work.steps.scatter(place, steps)
            work.scores.scatter(place, gathered)
            mask = self.limits.mask(work.ranks.gather(place), batch)
            work.masks.scatter(place, mask)
            moved = (self.limits.masked(steps, mask, batch) != 0).any(1, keepdim=True)
            changed.append((moved * batch.voxels).sum())
        # Asked once a round: every question waits for the device.
        fine = [True] * len(finite)
        if finite and not bool(torch.stack(finite).all()):
            fine = torch.stack(finite).tolist()
        columns = [fine, *(torch.stack(found).tolist() if found else [] for found in (errors, changed))]
        dealt = work.dealt()
        told = self.ranks.in_order(list(zip(*columns, strict=True)), len(dealt))
        unlike = [indices for (is_finite, _, _), indices in zip(told, dealt, strict=True) if not is_finite]
        if unlike and self.ranks.first:  # with which the others end
            where = samples.ids[unlike[0][0]]
            raise UsageError(
                f"a loss gradient is not finite near sample {where!r}; give finite images, or another network"
            )
        state.passes += settings.noise_steps
        anatomy = sum(sample.anatomy_voxels for sample in samples.samples)
        return sum(error for _, error, _ in told) / len(samples), sum(moved for _, _, moved in told) / max(anatomy, 1)

    # Noise of a batch ------------------------------------------------------------------------------------------------

    def _partners(self, work: SearchWork, turns: int, purpose: str) -> Partners:
        """Draw whose images lie under the noise. Each sample keeps its own in the round that only looks, and with a
        frozen surrogate, where each is on its own.
        """
        own = not self.settings.exchange or self.freeze_surrogate or self._looks(work.state)
        draws = None if own else work.chance.draws(work.state.round, turns, 2, purpose)
        return Partners(work.resident, self.settings.exchange, draws)

    def _noise(self, work: SearchWork) -> SampleMaps:
        """Give the noise as it is in the files, in model values: rounded, masked; whole in the first process."""
        maps = work.resident.new_maps(channels=work.resident.samples.channels)
        for batch in work.own_batches():
            steps, mask = work.steps.gather(batch.place), work.masks.gather(batch.place)
            noise = self.limits.final(steps, mask, batch, work.resident.samples)
            maps.scatter(batch.place, noise * batch.share * batch.step_model)
        self.ranks.bring(maps, work.dealt())
        return maps


def renew(network: nn.Module, seed: int) -> None:
    """Draw the weights of a network anew, the same for the same seed, without touching the global random state."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(torch_seed(seed))
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
