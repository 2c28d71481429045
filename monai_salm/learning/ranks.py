# SPDX-License-Identifier: Apache-2.0
"""Processes that search together: each does what it is dealt, and gets what the others made of theirs.

A launcher such as ``torchrun`` starts them, one for each device (:mod:`monai_salm.learning.launch`). The first one
leads: it alone reads and writes files, trains surrogates and talks to people. What is dealt are whole batches of noise
steps and whole trainings, so that each is computed as a process that is alone would compute it, and the results are the
same bit for bit, however many there are. To average gradients of parts of a batch would not do: sums in another order
round otherwise, that turns signs of the noise, and after some rounds a large part of it is another
(``benchmarks/ranks.py``).

They exchange over the CPU (gloo), whatever device they compute on: what they tell each other once a round is little
beside what they compute. No other module knows of ``torch.distributed``.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from monai_salm.errors import SalmError, UsageError
from monai_salm.learning.checks import pick_device
from monai_salm.learning.launch import launched, local_count, local_rank
from monai_salm.learning.resident import SampleMaps

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=7)
"""How long a process waits for one that is alive: the first may plan or write for days. One that ends is noticed at
once.
"""


class LostProcessError(SalmError):
    """Another process of the search ended, without which this one cannot go on."""


@dataclass
class Traffic:
    """What one process exchanged with the others.

    Args:
        operations: of the group.
        sent: bytes of its own that others got, counted once however many these are.
        received: bytes of others.
        seconds: that the operations took, with the waiting for whoever came later.
    """

    operations: int = 0
    sent: int = 0
    received: int = 0
    seconds: float = 0.0


class Ranks:
    """Processes that compute together, as one of them sees them; one that is alone does everything itself, and
    exchanges nothing.

    Work is dealt by number: what stands at place ``n`` is done by process ``n`` modulo their count. All processes make
    the same calls in the same order.

    Args:
        number: of this process, from 0.
        count: of all.
        group: of ``torch.distributed``, for tensors on the CPU; None where the process is alone.
    """

    def __init__(
        self,
        number: int = 0,
        count: int = 1,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        self.number, self.count = number, count
        self.traffic = Traffic()
        self._group = group

    @property
    def first(self) -> bool:
        """Whether this process leads."""
        return self.number == 0

    @property
    def own(self) -> slice:
        """Places of what this process does, of all that is dealt."""
        return slice(self.number, None, self.count)

    def shared(self, make: Callable[[], T]) -> T:
        """Make something in the first process, and give it to all.

        Raises:
            LostProcessError: another process ended; so does every method that exchanges something.
        """
        if self.count == 1:
            return make()
        if self.first:
            made = make()
            self._broadcast(_packed(made))
            return made
        found: T = _unpacked(self._broadcast(None))
        return found

    def shared_one_by_one(self, make: Callable[[], Iterable[T]]) -> Iterator[T]:
        """Make things in the first process and give them to all, so that no more than one is packed at a time."""
        items = iter(make()) if self.first else iter(())
        while found := self.shared(lambda: list(next(zip(items, strict=False), ()))):
            yield found[0]

    def in_order(self, own: Sequence[T], total: int) -> list[T]:
        """Give all processes what each of them made of what it was dealt, in the order that it was dealt in.

        Args:
            own: of this process.
            total: made by all.
        """
        if self.count == 1:
            return list(own)
        parts = [_unpacked(part) for part in self._gather_all(_packed(list(own)))]
        return [parts[place % self.count][place // self.count] for place in range(total)]

    def in_turns(self, own: Iterable[T], total: int) -> Iterator[T]:
        """Give the same as :meth:`in_order` one by one, so that no process packs more than one of them at a time."""
        if self.count == 1:
            yield from own
            return
        made = iter(own)
        for start in range(0, total, self.count):
            dealt = min(self.count, total - start)
            yield from self.in_order([next(made)] if self.number < dealt else [], dealt)

    def bring(self, maps: SampleMaps, dealt: Sequence[Sequence[int]]) -> None:
        """Bring the first process the maps of samples that others were dealt, in place of what it has of these.

        Args:
            maps: of all samples; each process has those of its own ones.
            dealt: numbers of the samples at each place.
        """
        if self.count == 1:
            return
        for place, indices in enumerate(dealt):
            sender = place % self.count
            if sender and self.first:
                sizes = [maps[i].numel() for i in indices]
                found = self._receive(torch.empty(sum(sizes), dtype=maps[indices[0]].dtype), sender)
                for i, part in zip(indices, torch.split(found, sizes), strict=True):
                    maps[i].copy_(part.reshape(maps[i].shape))
            elif sender and sender == self.number:
                self._send(torch.cat([maps[i].flatten() for i in indices]).cpu())

    def share_weights(self, network: nn.Module) -> None:
        """Give all processes the weights that a network has in the first."""
        if self.count == 1:
            return
        found = self.shared(lambda: {name: value.cpu() for name, value in network.state_dict().items()})
        if not self.first:
            network.load_state_dict(found)

    # What goes between them -------------------------------------------------------------------------------------------

    def _broadcast(self, content: bytes | None) -> Tensor:
        """Give all processes the bytes that the first one has."""
        size = torch.tensor([0 if content is None else len(content)])
        with self._exchange(size.nbytes, to_others=self.first):
            distributed.broadcast(size, 0, self._group)
        packed = torch.empty(int(size), dtype=torch.uint8) if content is None else _bytes(content)
        with self._exchange(packed.nbytes, to_others=self.first):
            distributed.broadcast(packed, 0, self._group)
        return packed

    def _gather_all(self, content: bytes) -> list[Tensor]:
        """Give all processes the bytes that each of them has."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        with self._exchange(8, to_others=True, from_others=8):
            distributed.all_gather(sizes, torch.tensor([len(content)]), self._group)
        longest = max(map(int, sizes))
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.count)]
        with self._exchange(longest, to_others=True, from_others=longest):
            distributed.all_gather(parts, _bytes(content.ljust(longest, b"\0")), self._group)
        return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]

    def _send(self, values: Tensor) -> None:
        """Send values to the first process."""
        with self._exchange(values.nbytes, to_others=True):
            distributed.send(values, 0, self._group)

    def _receive(self, values: Tensor, sender: int) -> Tensor:
        """Fill a tensor with what another process sends, and give it."""
        with self._exchange(values.nbytes, to_others=False):
            distributed.recv(values, sender, self._group)
        return values

    @contextmanager
    def _exchange(self, size: int, *, to_others: bool, from_others: int | None = None) -> Iterator[None]:
        """Count an operation; one that fails says that somebody ended."""
        began = time.perf_counter()
        try:
            yield
        except RuntimeError as error:  # what gloo says of a connection
            raise LostProcessError(
                f"another of the {self.count} processes of this search ended, see what was said of it; the same "
                "command with --resume goes on, with any number of processes"
            ) from error
        received = (0 if to_others else size) if from_others is None else from_others * (self.count - 1)
        self.traffic.operations += 1
        self.traffic.sent += size if to_others else 0
        self.traffic.received += received
        self.traffic.seconds += time.perf_counter() - began


ALONE = Ranks()
"""A process that nobody helps."""


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that a launcher started, until the block ends; without a launcher a process is alone. A group
    of ``torch.distributed`` that is there already is used, and left as it is.

    Raises:
        UsageError: the environment is not that of a launcher.
        LostProcessError: the others are not there.

    Example:
        >>> from monai_salm.learning.ranks import joined_ranks
        >>> with joined_ranks() as ranks:
        ...     print(ranks.number, ranks.count)
        0 1
    """
    count = launched()
    if count == 1:
        yield ALONE
        return
    ours = not distributed.is_initialized()
    try:
        if ours:
            distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        group = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    except RuntimeError as error:
        raise LostProcessError(f"the {count} processes of this search did not find each other") from error
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), group)
    finally:
        if ours:
            distributed.destroy_process_group()


def own_device(name: str) -> torch.device:
    """Give the device of a name, of which each of the processes that a launcher started on this machine has one.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: the device is unknown or not there, or there are more processes than GPUs.
    """
    device, processes = pick_device(name), local_count()
    if device.type != "cuda" or processes == 1:
        return device
    there = torch.cuda.device_count()
    if processes > there:
        raise UsageError(
            f"{processes} processes on one machine need a GPU each, and it has {there}; start {there} with "
            "--nproc_per_node, or give --device cpu"
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device


def _packed(value: Any) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _unpacked(content: Tensor) -> Any:
    return pickle.loads(content.numpy().data)  # noqa: S301  # of a process that the same launcher started


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
