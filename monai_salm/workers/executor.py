# SPDX-License-Identifier: Apache-2.0
"""The side that has the jobs."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, TypeVar

from monai_salm.progress import how_logs_are_told

Job = TypeVar("Job")
Result = TypeVar("Result")

_PROGRAM = Path(__file__).with_name("__main__.py")

TIME_LIMIT = 1800.0
"""Seconds after which a job hangs: the slowest that is not, a series of thousands of compressed slices on a network
disk, takes a part of it.
"""

TRIES = 2
"""How often a job is begun whose process ends: somebody else may have ended that, or another job have taken the memory.
"""

PATIENCE = 5.0
"""Seconds that a process has to end by itself with the job that it does, when a run is stopped."""

AHEAD = 4
"""Chunks of jobs for each process that are begun before the results of earlier ones were taken."""


class Workers:
    """Some processes that do jobs, started as they are needed and ended with the block or with this process.

    They do not import the caller's main module, so a script needs no guard for them. They tell logs as this process
    does, and Ctrl-C reaches them by way of this process alone.

    Args:
        count: how many processes; 0 does the jobs here, where a crash is one of the run.
        time_limit: seconds that one job may take.

    ``ended`` counts the processes that ended without an answer; what they were writing aside is left behind.

    Example:
        >>> with Workers(2) as workers:
        ...     list(workers.map(len, ["one", "three"], lost=lambda job, why: why))
        [3, 5]
    """

    def __init__(self, count: int, *, time_limit: float = TIME_LIMIT) -> None:
        self.count = count
        self.ended = 0
        self._time_limit = time_limit
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._processes: list[_Process] = []
        self._threads: ThreadPoolExecutor | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Workers:
        """Begin; processes are started by the first jobs."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, each with the job that it does."""
        self.close()

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        *,
        lost: Callable[[Job, str], Result],
        chunk: int = 1,
    ) -> Iterator[Result]:
        """Give what a function makes of each job, in their order.

        Args:
            function: of a module that can be imported; what it raises is raised here, and ends the rest.
            jobs: taken as they are needed; these and the results are pickled.
            lost: gives the result of a job that no process came to the end of, and why.
            chunk: jobs that a process takes at once; more where each takes no time.
        """
        if self.count == 0:
            yield from map(function, jobs)
            return
        waiting: deque[Future[list[Result]]] = deque()
        threads = self._begin()
        try:
            for some in chunks(jobs, chunk):
                waiting.append(threads.submit(self._do, function, some, lost))
                if len(waiting) >= AHEAD * self.count:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BaseException:
            self.close()
            raise
        finally:
            for future in waiting:
                future.cancel()

    def fair_chunk(self, jobs: int) -> int:
        """Give how many jobs a process should take at once, so that all have some until the end."""
        return max(1, min(16, jobs // (8 * max(1, self.count))))

    def close(self) -> None:
        """End the processes; those that do not end by themselves are killed."""
        self._closed.set()
        for process in self._processes:
            process.say_enough()
        until = time.monotonic() + PATIENCE
        for process in self._processes:
            process.end(max(0.0, until - time.monotonic()))
        self._processes.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None

    def _begin(self) -> ThreadPoolExecutor:
        """Start a thread for each process, which waits for its answers; what is done is done there."""
        if self._threads is None:
            self._closed.clear()
            self._idle = SimpleQueue()
            for _ in range(self.count):
                process = _Process()
                self._processes.append(process)
                self._idle.put(process)
            self._threads = ThreadPoolExecutor(self.count)
            threading.Thread(target=self._end_hanging, args=(self._closed,), daemon=True).start()
        return self._threads

    def _do(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], lost: Callable[[Job, str], Result]
    ) -> list[Result]:
        """Let a process that has nothing to do do some jobs; one whose process ends is begun once more."""
        process = self._idle.get()
        try:
            results: list[Result] = []
            tries = 0
            while len(results) < len(jobs) and not self._closed.is_set():
                done = len(results)
                try:
                    for result in process.answers(function, jobs[done:]):
                        results.append(result)
                        tries = 0
                except _EndedError as end:
                    if self._closed.is_set():
                        break
                    self.ended += 1
                    tries = tries + 1 if len(results) == done else 1
                    if tries >= TRIES or process.hung:
                        results.append(lost(jobs[len(results)], str(end)))
                        tries = 0
            return results
        finally:
            self._idle.put(process)

    def _end_hanging(self, closed: threading.Event) -> None:
        """Kill each process that does one job for too long."""
        while not closed.wait(min(1.0, self._time_limit / 4)):
            for process in list(self._processes):
                process.kill_if_hanging(self._time_limit)


class _EndedError(Exception):
    """A process ended without an answer."""


class _Process:
    """One process, started when it is first asked and again where it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._since: float | None = None
        self.hung = False

    def answers(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        """Give the result of each job as it comes.

        Raises:
            _EndedError: the process ended before.
        """
        self.hung = False
        try:
            answers = self._asked(function, jobs)
            for _ in jobs:
                raised, result = self._answer(answers)
                if raised:
                    raise result
                yield result
        finally:
            self._since = None

    def _asked(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> IO[bytes]:
        """Send jobs, and give where the answers come."""
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise _EndedError(self._why())
        self._since = time.monotonic()
        question = pickle.dumps(_surroundings()) + pickle.dumps((function, jobs))
        try:
            process.stdin.write(question)
            process.stdin.flush()
        except (OSError, ValueError) as error:  # it ended, or was told to
            raise _EndedError(self._why()) from error
        return process.stdout

    def _answer(self, answers: IO[bytes]) -> tuple[bool, Any]:
        try:
            answer: tuple[bool, Any] = pickle.load(answers)  # noqa: S301 (of a process of our own)
        except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise _EndedError(self._why()) from error
        self._since = time.monotonic()
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.end(0)
            command = [sys.executable, str(_PROGRAM), str(os.getpid())]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 (our own file)
        return self._process

    def _why(self) -> str:
        process = self._process
        self.end(1.0)
        if self.hung:
            return "it took longer than any file should, so the process that worked on it was ended"
        code = process.returncode if process is not None else None
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit status {code}"
        return f"the process that worked on it ended {how}: a library crashed on it, it was killed, or memory ran out"

    def kill_if_hanging(self, limit: float) -> None:
        since, process = self._since, self._process
        if since is not None and process is not None and time.monotonic() - since > limit:
            self.hung = True
            process.kill()

    def say_enough(self) -> None:
        """Let it end with the job that it does."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def end(self, patience: float) -> None:
        """Wait for the end of the process, and kill it where that does not come."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _surroundings() -> dict[str, Any]:
    """Give what a process must share with this one for names and logs to mean the same."""
    return {"path": sys.path, "folder": str(Path.cwd()), "logs": how_logs_are_told()}


def chunks(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """Give jobs in lists of so many, taken as they are asked for."""
    rest = iter(jobs)
    while some := list(islice(rest, size)):
        yield some
