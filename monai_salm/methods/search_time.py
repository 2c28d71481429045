# SPDX-License-Identifier: Apache-2.0
"""How long a search will take, before it begins."""

from __future__ import annotations

import math
import time
from copy import deepcopy
from dataclasses import replace

import torch

from monai_salm.learning.consumers import draws_needed
from monai_salm.learning.networks import CleanNetwork, members_of
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.training import augmented, logits_in
from monai_salm.methods.balance import balanced, planes_of
from monai_salm.methods.minmin import MinMinOptimizer
from monai_salm.methods.search_state import SearchState


def search_seconds(optimizer: MinMinOptimizer, samples: WorkingSet, state: SearchState) -> float:
    """Estimate from one measured step how long the rounds that are left take at most; nothing of the search changes.

    Args:
        optimizer, samples, state: as they will be run.
    """
    settings, size = optimizer.settings, min(optimizer.settings.batch_size, len(samples))
    rounds = settings.max_rounds - state.round
    batches = math.ceil(len(samples) / settings.batch_size / optimizer.ranks.count)  # that each process is dealt
    members = members_of(optimizer.network)
    clean = sum(isinstance(member, CleanNetwork) for member in members) / len(members)
    training = 0
    if not optimizer.freeze_surrogate and clean < 1:
        an_epoch = settings.surrogate_epochs * len(samples) / settings.batch_size
        training = max(settings.surrogate_batches, round(an_epoch))
    steps = rounds * (training + settings.noise_steps * batches)
    if training:
        every = settings.renew_every or settings.max_rounds
        new = sum(number % every == 0 for number in range(state.round, settings.max_rounds))
        steps += new * max(0, settings.renewed_batches - training)
    if training and settings.texture_period and state.round < 2 <= settings.max_rounds:
        steps += max(0, settings.texture_batches - training)
    if clean and not optimizer.freeze_surrogate and state.round == 0:
        steps += round(settings.clean_batches * clean)
    if steps <= 0 or samples.target_kind is None:
        return 0.0
    network = deepcopy(optimizer.network).to(optimizer.device).train().requires_grad_(True)
    batch, generator = samples.batch(range(size), optimizer.device), torch.Generator().manual_seed(0)
    batch.images.requires_grad_(True)
    measured = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for _ in range(2):  # the first one also warms up
            began = time.perf_counter()
            draws = torch.rand(size, draws_needed(samples.spatial_dims), generator=generator).to(optimizer.device)
            images, target = augmented(replace(batch, draws=draws), optimizer.task, optimizer.augmentation)
            logits = [logits_in(member, images, bfloat16=False) for member in members_of(network)]
            loss = torch.stack([optimizer.task.loss(found, target).mean() for found in logits]).sum()
            wanted = [*network.parameters(), batch.images]
            float(torch.autograd.grad(loss, wanted, allow_unused=True)[-1].sum())  # a GPU is waited for
            measured.append(time.perf_counter() - began)
    return min(measured) * steps + _balance_seconds(optimizer, samples, batch) * batches * (rounds + 1)


def _balance_seconds(optimizer: MinMinOptimizer, samples: WorkingSet, batch: WorkingBatch) -> float:
    """Measure how long a batch of noise takes to be balanced; 0 where it is not."""
    if not optimizer.settings.balance:
        return 0.0
    places = torch.arange(batch.voxels[0].numel(), device=batch.voxels.device).reshape(batch.voxels[:1].shape)
    noise = batch.levels * ((places % 3 - 1) * (batch.voxels > 0))
    began = time.perf_counter()
    float(balanced(noise, batch, planes_of(samples, batch), optimizer.settings.balance).sum())  # a GPU is waited for
    return time.perf_counter() - began
