# SPDX-License-Identifier: Apache-2.0
"""The same jobs on the workers of a Dask cluster, which hands them out, and again where a worker is lost."""

from __future__ import annotations

import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from monai_salm.errors import SalmError, UsageError, how_to_install
from monai_salm.workers.executor import AHEAD, PATIENCE, Job, Result, Workers, chunks

CONNECTING = 10.0
"""Seconds in which a scheduler has to answer, and to have a worker."""


class ClusterWorkers(Workers):
    """The workers of a Dask cluster as they are: none is started or ended here.

    Nothing is asked of the network before the first jobs. Dask does the jobs of a lost worker on another one. Where it
    gave up a chunk of jobs because too many workers were lost over it (``distributed.scheduler.allowed-failures``),
    each job of that is done alone, and one that still ends its workers is lost.

    Args:
        address: of the scheduler, such as ``tcp://10.0.0.1:8786``.

    ``count`` is the number of threads of all workers at the start, 0 before. ``ended`` is never 0 after that: Dask does
    not tell whether a worker ended in the middle, so who writes has to look for what one left.
    """

    def __init__(self, address: str) -> None:
        super().__init__(0)
        self.address = address
        self._client: Any = None
        self._begun: dict[str, Any] = {}  # futures by their keys

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        *,
        lost: Callable[[Job, str], Result],
        chunk: int = 1,
    ) -> Iterator[Result]:
        """Give what a function makes of each job, in their order; arguments as of the processes of one machine.

        Paths in jobs have to be absolute: a worker has a current folder of its own.

        Raises:
            UsageError: no scheduler answers, it has no worker, or one has another version of this package.
            SalmError: the scheduler gave up the jobs, or does not answer any more.
        """
        self._connect()
        waiting: deque[tuple[list[Job], Any]] = deque()
        try:
            for some in chunks(jobs, chunk):
                waiting.append((some, self._begin_jobs(function, some)))
                if len(waiting) >= AHEAD * self.count:
                    yield from self._results(function, *waiting.popleft(), lost)
            while waiting:
                yield from self._results(function, *waiting.popleft(), lost)
        except GeneratorExit:  # who asked wants no more of these
            self._drop(future for _, future in waiting)
            raise
        except BaseException:
            self.close()
            raise

    def fair_chunk(self, jobs: int) -> int:
        """Give how many jobs a worker should take at once, so that all have some until the end."""
        self._connect()
        return super().fair_chunk(jobs)

    def close(self) -> None:
        """Take back the jobs that are not done, wait some seconds for those that workers are in the middle of, and
        leave the cluster.
        """
        client, self._client = self._client, None
        if client is None:
            return
        begun, self._begun = self._begun, {}
        with suppress(OSError, RuntimeError, CancelledError):  # the scheduler is gone, and so is what it had to do
            if begun:
                client.cancel(list(begun.values()))
                until = time.monotonic() + PATIENCE
                while time.monotonic() < until and _some_run(client, begun):
                    time.sleep(0.1)
        client.close()

    def _connect(self) -> None:
        if self._client is not None:
            return
        distributed = _distributed()
        try:
            client = distributed.Client(self.address, timeout=CONNECTING, set_as_default=False)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            why = "" if isinstance(error, OSError) else f" ({error})"
            raise UsageError(
                f"{self.address}: no Dask scheduler answers there{why}; give the address that 'dask scheduler' says, "
                "such as tcp://10.0.0.1:8786"
            ) from error
        try:
            self._check(client)
            self.count = sum(client.nthreads().values())
        except BaseException:
            client.close()
            raise
        self._client, self.ended = client, 1

    def _check(self, client: Any) -> None:
        """Find out whether there are workers, and all of this version.

        Raises:
            UsageError: they are not.
        """
        try:
            client.wait_for_workers(1, timeout=CONNECTING)
        except TimeoutError as error:
            raise UsageError(
                f"{self.address}: this Dask scheduler has no worker; start some with 'dask worker {self.address}'"
            ) from error
        # A function of the standard library, which a worker without this package has, too.
        for worker, theirs in sorted(client.run(version, "monai_salm", on_error="return").items()):
            _check_version(worker, theirs, _own_version())

    def _begin_jobs(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Any:
        """Send a chunk of jobs.

        ``Client.submit`` and not the executor of ``Client.get_executor``: the futures of that have no keys, by which is
        known what runs still when a run is stopped. Jobs and results are pickled here, for Dask would look into them
        for work of its own, and give back arrays that cannot be written to.
        """
        key = f"monai_salm-{uuid4().hex}"  # an earlier answer has another one, so Dask never gives that
        question = pickle.dumps((function, jobs))
        self._begun[key] = future = self._client.submit(answers, question, _own_version(), key=key, pure=False)
        return future

    def _results(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        future: Any,
        lost: Callable[[Job, str], Result],
    ) -> Iterator[Result]:
        """Give the results of a chunk; where Dask gave it up, those of its jobs one by one."""
        killed: type[Exception] = _distributed().KilledWorker
        try:
            yield from self._answer(future)
            return
        except killed:
            pass
        # Dask blames all that a lost worker had, also what waited there: so each has to be alone.
        for other in list(self._begun.values()):
            with suppress(CancelledError):  # told where its results are asked for
                other.exception()  # waits for the end
        for job in jobs:
            try:
                results = self._answer(self._begin_jobs(function, [job]))
            except killed as error:
                results = [lost(job, _why(error))]
            yield from results

    def _answer(self, future: Any) -> list[Any]:
        try:
            answer: list[Any] = pickle.loads(future.result())  # noqa: S301 (of a worker that the user named)
        except CancelledError as error:
            raise SalmError(
                f"{self.address}: the Dask scheduler gave up the work, or does not answer any more; run again with "
                "--resume"
            ) from error
        finally:
            self._begun.pop(future.key, None)
        return answer

    def _drop(self, futures: Iterable[Any]) -> None:
        """Take back jobs whose results nobody wants."""
        unwanted = [future for future in futures if self._begun.pop(future.key, None) is not None]
        if unwanted and self._client is not None:
            self._client.cancel(unwanted)


def answers(question: bytes, asked_by: str) -> bytes:
    """Do the jobs of a chunk on a worker; also one that came when the others had been asked for their version."""
    _check_version(socket.gethostname(), _own_version(), asked_by)
    function, jobs = pickle.loads(question)  # noqa: S301 (whoever reaches a Dask worker may run code there)
    return pickle.dumps([function(job) for job in jobs])


def _running(dask_worker: Any) -> set[str]:
    """Give the keys of what a worker is in the middle of; Dask knows the argument by its name."""
    return set(dask_worker.active_threads.values())


def _some_run(client: Any, keys: Iterable[str]) -> bool:
    running: set[str] = set().union(*client.run(_running, on_error="ignore").values())
    return not running.isdisjoint(keys)


def _why(killed: Any) -> str:
    """Say what became of the workers that a job was given to."""
    return (
        f"{killed.allowed_failures + 1} Dask workers that worked on it ended, the last at "
        f"{killed.last_worker.address}: a library crashed on it, they were killed, or memory ran out"
    )


def _own_version() -> str:
    return version("monai_salm")


def _check_version(worker: str, theirs: object, ours: str) -> None:
    """Refuse a worker that might do something else with a file.

    Raises:
        UsageError: it has another version.
    """
    if theirs != ours:
        found = f"monai_salm {theirs}" if isinstance(theirs, str) else f"no monai_salm that answers ({theirs})"
        raise UsageError(f"the Dask worker at {worker} has {found}, this is {ours}; install the same version on all")


def _distributed() -> Any:
    """Give the package of the extra ``cluster``; it is loaded when it is asked for.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module("distributed")
    except ImportError as error:
        raise UsageError(f"--scheduler needs distributed; install it: {how_to_install('distributed')}") from error
