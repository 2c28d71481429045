# SPDX-License-Identifier: Apache-2.0
"""Damaged files, thousands of them: each one is protected and verified, or refused with one line, in time and in
bounded memory.

A label map that is changed, or a picture that goes out as it was, is a failure, too: silently wrong. ``python -m
tests.fidelity.fuzz --inputs 20000 --seed 0 --jobs 2``; an input is known by seed and index, and ``--only INDEX`` runs
it again in this process.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import multiprocessing
import os
import re
import resource
import shutil
import sys
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from tests.exports import KEY
from tests.fidelity.fuzz_damage import damage
from tests.fidelity.fuzz_field import silently_wrong
from tests.fidelity.fuzz_inputs import corpus
from tests.fidelity.fuzz_seed import Seed

SECONDS = 5.0
"""Of a processor for one input; more is slow. Seconds on the wall would measure what else the machine does."""
PATIENCE = 60.0
"""Seconds on the wall after which an input hangs."""
MEMORY = 2**30
"""Bytes that a worker may grow by."""
SAVED = 3
"""Failing inputs that are kept of one kind and place."""
START_SECONDS = 120.0
"""For a worker's imports, on a busy machine."""

FINE = ("protected", "copied", "refused", "unusable")
"""What may become of an input: ``copied`` is a document, ``unusable`` one that the whole run was refused for."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Args:
        kind: one of :data:`FINE`, or what went wrong.
        detail: the message, or where it went wrong.
        trace: the traceback; empty without one.
        growth: bytes that the worker grew by at its peak.
        seconds: what it took.
    """

    kind: str
    detail: str = ""
    trace: str = ""
    growth: int = 0
    seconds: float = 0.0

    @property
    def fine(self) -> bool:
        return self.kind in FINE


@dataclass
class Summary:
    """What became of all inputs; the slowest and the heaviest with their index."""

    inputs: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)
    heaviest: tuple[int, int] = (0, -1)

    def add(self, index: int, outcome: Outcome) -> str:
        """Count an outcome; gives its signature if it is a failure of which few were seen."""
        self.inputs += 1
        self.kinds[outcome.kind] += 1
        self.slowest = max(self.slowest, (outcome.seconds, index))
        self.heaviest = max(self.heaviest, (outcome.growth, index))
        if outcome.fine:
            return ""
        signature = ascii(f"{outcome.kind}: {outcome.detail}")[1:-1][:200]  # names need not be text
        self.failures[signature] += 1
        self.examples.setdefault(signature, []).append(index)
        return signature if self.failures[signature] <= SAVED else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs, "seconds": round(self.seconds, 1),
            "inputs_per_second": round(self.inputs / max(self.seconds, 1e-9), 1),
            "outcomes": dict(sorted(self.kinds.items())), "slowest_seconds": round(self.slowest[0], 2),
            "slowest": self.slowest[1],
            "largest_growth_mib": self.heaviest[0] >> 20, "heaviest": self.heaviest[1],
            "failures": {name: {"count": count, "first": self.examples[name][:SAVED]} for name,
            count in self.failures.most_common()},
        }  # fmt: skip


# The whole path for one input ----------------------------------------------------------------------------------------
def check(source: Path, scratch: Path, seed: Seed | None = None, files: dict[str, bytes] | None = None) -> Outcome:
    """Protect and verify one file, zip or folder; whatever its bytes, the outcome has to be fine.

    Args:
        source: the input.
        scratch: folder for the output; a seed's table lies in its folder ``in``.
        seed: what the input was before it was damaged; says what its files are.
        files: its files now.
    """
    from monai_salm.errors import SalmError
    from monai_salm.pipeline import ProtectOptions, protect, verify

    out = scratch / "out"
    labels = scratch / "in" / seed.table if seed is not None and seed.table else None
    try:
        result = protect(
            source,
            out,
            ProtectOptions(
                method="lsp" if labels else "random", labels=labels, working_size=24, device="cpu", key_file=KEY
            ),
        )
    except SalmError as error:
        if "\n" in str(error) or not str(error):
            return Outcome("message of several lines", repr(str(error))[:300])
        left = _names(out)
        return Outcome("left behind", f"{left} after: {error}"[:300]) if left else Outcome("unusable", str(error)[:300])
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        return _unexpected("exception", error)
    fates = list(result.fates.values())
    for fate in fates:
        if fate.status == "failed":
            return Outcome("failed", re.sub(r"\d+", "N", fate.reason)[:200])
        if "\n" in fate.reason:
            return Outcome("message of several lines", repr(fate.reason)[:300])
    handed_out = sorted(fate.path for fate in fates if fate.status in ("protected", "copied"))
    problem = _wrong_output(result.output, handed_out)
    if problem:
        return Outcome("wrong output", problem)
    wrong = silently_wrong(seed, files, result.fates) if seed is not None and files is not None else ""
    if wrong:
        return Outcome("silently wrong", wrong)
    if any(fate.status == "protected" for fate in fates):
        file_set = source.name.startswith(
            "DICOMDIR"
        )  # which stands for the files of its records, not for all that lie beside it
        before = source if source.is_dir() or result.output.is_file() or file_set else source.parent
        try:
            report = verify(before, result.output)
        except Exception as error:  # noqa: BLE001
            return _unexpected("verify raises", error)
        if report.mismatches:
            return Outcome(
                "verify finds a mismatch", re.sub(r"\d+", "N", "; ".join(report.mismatches[0].problems))[:200]
            )
        return Outcome("protected")
    return Outcome("copied" if handed_out else "refused", "; ".join(fate.reason for fate in fates)[:300])


def _unexpected(kind: str, error: Exception) -> Outcome:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "monai_salm" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].name}"
    return Outcome(kind, f"{type(error).__name__} in {place}", "".join(traceback.format_exception(error)))


def _names(folder: Path) -> list[str]:
    return (
        sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
        if folder.is_dir()
        else []
    )


def _wrong_output(output: Path, expected: list[str]) -> str:
    """Say what lies in the output and should not, or the other way round; of suffixes, which a lossy picture changes,
    only the number is compared.
    """
    if output.is_file():
        with zipfile.ZipFile(output) as opened:
            found = sorted(info.filename for info in opened.infolist() if not info.is_dir())
    else:
        found = _names(output)
    same = Counter(PurePosixPath(name).with_suffix("") for name in found) == Counter(
        PurePosixPath(name).with_suffix("") for name in expected
    )
    return "" if same else f"there are {found}, not {expected}"[:300]


# Workers -------------------------------------------------------------------------------------------------------------
def _work(channel: Connection, seed: int, cases: Path | None, log: Path) -> None:
    """Take tasks until there is none: the index of an input, or the path of one."""
    with log.open("w") as file:
        faulthandler.enable(file)
        warnings.simplefilter("ignore")
        logging.disable()
        import torch

        import monai_salm.pipeline

        torch.set_num_threads(1)
        assert monai_salm.pipeline
        seeds = corpus(cases)
        by_name = {seed.name: seed for seed in seeds}
        with TemporaryDirectory() as spare:
            # What is imported late is no growth.
            check(_lay_out(seeds[0].files, seeds[0].source, Path(spare)), Path(spare))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for output in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # libraries in C complain there of every damaged file
        channel.send("ready")
        while (task := channel.recv()) is not None:
            with TemporaryDirectory() as spare:
                scratch = Path(spare)
                if isinstance(task, int):
                    files, name, recipe = damage(seeds, seed, task)
                    source, known = _lay_out(files, name, scratch), (by_name[recipe["of"]], files)
                else:
                    source, known = Path(task), ()
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is that of this input
                baseline = _status("VmRSS")
                resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MEMORY, resource.RLIM_INFINITY))
                began = time.process_time()
                outcome = check(source, scratch, *known)
                channel.send((outcome, time.process_time() - began, _status("VmHWM") - baseline))


def _lay_out(files: dict[str, bytes], source: str, scratch: Path) -> Path:
    folder = scratch / "in"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / source if source else folder


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    return int(found[1]) * 1024 if found else 0


class Worker:
    """A process that takes one input at a time, and is killed when one takes too long.

    Args:
        seed: of the damage.
        cases: more whole inputs.
        scratch: folder for its log.
    """

    def __init__(self, scratch: Path, seed: int = 0, cases: Path | None = None) -> None:
        self.arguments, self.log = (seed, cases), scratch / f"worker{id(self)}.log"
        self.task: int | str | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.channel, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *self.arguments, self.log), daemon=True)
        self.process.start()
        theirs.close()
        self.ready, self.began = False, time.monotonic()

    def await_ready(self) -> None:
        """Wait for its imports.

        Raises:
            RuntimeError: it cannot start.
        """
        try:
            started = self.ready or (self.channel.poll(START_SECONDS) and self.channel.recv() == "ready")
        except EOFError:
            started = False
        if not started:
            raise RuntimeError("a worker does not start; run one input with --only to see why")
        self.ready = True

    def give(self, task: int | str) -> None:
        """Start on an input."""
        self.await_ready()
        self.task, self.began = task, time.monotonic()
        self.channel.send(task)

    def result(self) -> Outcome | None:
        """Give the outcome of the input at hand; None while it is at work in time. A worker that hangs or died is
        replaced.
        """
        seconds = time.monotonic() - self.began
        try:
            if self.channel.poll():
                outcome, taken, growth = self.channel.recv()
                late = outcome.fine and taken > SECONDS
                return Outcome("slow" if late else outcome.kind, outcome.detail, outcome.trace, max(0, growth), taken)
        except (EOFError, ConnectionResetError):
            self.process.join(5)
            code, trace = self.process.exitcode, self.log.read_text(encoding="utf-8", errors="replace")
            self._restart()
            place = re.search(r'File ".*?([^/"]+)", line (\d+) in (\S+)', trace)
            return Outcome(
                "crash",
                f"exit code {code} in {place[1]}:{place[3]}" if place else f"exit code {code}",
                trace,
                seconds=seconds,
            )
        if seconds <= PATIENCE:
            return None
        self.process.kill()
        self._restart()
        return Outcome("hang", f"more than {PATIENCE:g} s", seconds=seconds)

    def check(self, source: Path) -> Outcome:
        """Give the outcome of an input that lies on disk."""
        self.give(str(source))
        while (outcome := self.result()) is None:
            wait([self.channel], timeout=0.2)
        return outcome

    def _restart(self) -> None:
        self.process.join(5)
        self.channel.close()
        self._start()

    def stop(self) -> None:
        """End the process."""
        with suppress(OSError):
            self.channel.send(None)
        self.process.join(5)
        self.process.kill()


def run(
    inputs: int,
    *,
    seed: int = 0,
    jobs: int = 2,
    cases: Path | None = None,
    failures: Path | None = None,
    progress: bool = False,
    first: int = 0,
) -> Summary:
    """Damage, protect and verify; failing inputs are saved in the folder ``failures``."""
    summary, began = Summary(), time.monotonic()
    seeds = corpus(cases) if failures is not None else []
    with TemporaryDirectory() as spare:
        workers = [Worker(Path(spare), seed, cases) for _ in range(min(jobs, inputs))]
        try:
            for worker in workers:
                worker.await_ready()
            began = time.monotonic()
            for index, outcome in _outcomes(workers, iter(range(first, first + inputs))):
                signature = summary.add(index, outcome)
                if signature and failures is not None:
                    _save(failures, seeds, seed, index, outcome)
                if signature and progress:
                    print(f"input {index}: {signature}", flush=True)
                if progress and summary.inputs % 1000 == 0:
                    rate = summary.inputs / (time.monotonic() - began)
                    print(
                        f"{summary.inputs} inputs, {rate:.1f} a second, {sum(summary.failures.values())} "
                        f"failures; {dict(summary.kinds)}",
                        flush=True,
                    )
        finally:
            summary.seconds = time.monotonic() - began
            for worker in workers:
                worker.stop()
    return summary


def _outcomes(workers: list[Worker], tasks: Iterator[int]) -> Iterator[tuple[int, Outcome]]:
    """Keep every worker at work, and give outcomes as they come."""
    busy: list[Worker] = []
    for worker in workers:
        if (task := next(tasks, None)) is not None:
            worker.give(task)
            busy.append(worker)
    while busy:
        wait([worker.channel for worker in busy], timeout=0.2)
        for worker in list(busy):
            outcome = worker.result()
            if outcome is None:
                continue
            assert isinstance(worker.task, int)
            yield worker.task, outcome
            if (task := next(tasks, None)) is None:
                busy.remove(worker)
            else:
                worker.give(task)


def _save(folder: Path, seeds: list[Seed], seed: int, index: int, outcome: Outcome) -> None:
    files, source, recipe = damage(seeds, seed, index)
    place = folder / f"{outcome.kind.replace(' ', '_')}_{index}"
    shutil.rmtree(place, ignore_errors=True)
    for name, content in files.items():
        path = place / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    record = recipe | {
        "source": source,
        "kind": outcome.kind,
        "detail": outcome.detail,
        "trace": outcome.trace.splitlines(),
        "seconds": outcome.seconds,
    }
    (place / "recipe.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--first", type=int, default=0, help="index of the first input; -1, -2 and so on are whole inputs"
    )
    parser.add_argument("--cases", type=Path, help="folder of cases to damage, too")
    parser.add_argument("--failures", type=Path, help="folder for the inputs that fail")
    parser.add_argument("--results", type=Path, help="folder for a row of figures")
    parser.add_argument("--only", type=int, help="run this input alone, in this process")
    given = parser.parse_args()
    if given.only is not None:
        seeds = corpus(given.cases)
        files, name, recipe = damage(seeds, given.seed, given.only)
        with TemporaryDirectory() as spare:
            outcome = check(
                _lay_out(files, name, Path(spare)),
                Path(spare),
                {seed.name: seed for seed in seeds}[recipe["of"]],
                files,
            )
        print(json.dumps(recipe, indent=1), outcome.kind, outcome.detail, outcome.trace, sep="\n")
        return
    summary = run(
        given.inputs,
        seed=given.seed,
        jobs=given.jobs,
        cases=given.cases,
        failures=given.failures,
        progress=True,
        first=given.first,
    )
    print(json.dumps(summary.to_json(), indent=1))
    if given.results is not None:
        from benchmarks.common import Rows

        Rows(given.results / "fuzz.jsonl", keep=True).add(
            seed=given.seed, jobs=given.jobs, cases=given.cases is not None, **summary.to_json()
        )
    sys.exit(1 if summary.failures else 0)


if __name__ == "__main__":
    main()
