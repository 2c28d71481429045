# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error: bars on a terminal; elsewhere, where the frames of a bar would fill a log, a few plain
lines.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from shutil import get_terminal_size
from types import TracebackType
from typing import Literal, NoReturn, TypeVar

from tqdm import tqdm

from monai_salm.errors import PrintableFormatter

Item = TypeVar("Item")

SHARE, SOONEST, LATEST = 0.1, 5.0, 60.0
"""A log gets a line for each such share of a stage, no sooner than so many seconds after the last one, and one after so
many seconds in any case.
"""


class Progress:
    """How far a stage is: one bar on a terminal, else some lines and one at its end.

    Args:
        stage: what is done, such as ``writing``.
        total: how many there are to do.
        unit: of what, in the plural.
        show_progress: False shows nothing at all.
        done: of them already.
        inner: part of another stage, whose bar stays; without a line at its end.
        total_bytes: of all that there are to do; 0 where they take about the same time, so that their number says how
            far it is.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str,
        *,
        show_progress: bool,
        done: int = 0,
        inner: bool = False,
        total_bytes: int = 0,
    ) -> None:
        self._stage, self._total, self._unit, self._inner = stage, total, unit, inner
        self._total_bytes, self._done_bytes = total_bytes, 0
        self._first = self._done = self._told = done
        self._bar: tqdm[NoReturn] | None = None
        self._lines = show_progress and not on_terminal()
        if show_progress and not self._lines:
            width, height = (
                get_terminal_size()
            )  # tqdm shows nothing on a terminal that says its size is 0, as those of containers may
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=stage,
                unit=f" {unit}",
                leave=not inner,
                file=sys.stderr,
                ncols=width,
                nrows=height,
            )
        self._began = self._line_at = time.monotonic()

    def __enter__(self) -> Progress:
        """Begin; the bar is there already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar, or write the last line if all went well."""
        if self._bar is not None:
            self._bar.close()
        elif self._lines and not self._inner and kind is None and self._done > self._first:
            say(f"{self._stage}: {self._done} {self._unit} in {in_words(time.monotonic() - self._began)}")

    def update(self, steps: int = 1, note: str = "", *, done_bytes: int = 0, seconds_left: float | None = None) -> None:
        """Count steps that were done.

        Args:
            steps: how many.
            note: what else there is to know.
            done_bytes: of these steps, where bytes are counted.
            seconds_left: where that is known better than from the steps so far.
        """
        self._done += steps
        self._done_bytes += done_bytes
        if self._total_bytes:
            seconds_left, note = self._by_bytes(), "; ".join(filter(None, (self._bytes(), note)))
        if self._bar is not None:
            left = "" if seconds_left is None else f"{in_words(seconds_left)} left in all"
            if note or left:
                self._bar.set_postfix_str(
                    "; ".join(filter(None, (left, note))), refresh=not steps
                )  # a narrow screen cuts the end off
            self._bar.update(steps)
        elif self._lines:
            self._line(note, seconds_left)

    def _by_bytes(self) -> float | None:
        """Give the seconds that are left where each byte takes as long; None while nothing is known."""
        if not self._done_bytes:
            return None
        return (time.monotonic() - self._began) * max(0.0, self._total_bytes / self._done_bytes - 1)

    def _bytes(self) -> str:
        return f"{in_bytes(self._done_bytes)} of {in_bytes(self._total_bytes)}"

    def _line(self, note: str, seconds_left: float | None) -> None:
        """Write a line if it is time for one."""
        now = time.monotonic()
        waited, moved = now - self._line_at, self._done - self._told
        if self._done >= self._total or (
            waited < LATEST and (self._inner or waited < SOONEST or moved < SHARE * self._total)
        ):
            return
        self._line_at, self._told = now, self._done
        if seconds_left is None and self._done > self._first:
            seconds_left = (now - self._began) / (self._done - self._first) * (self._total - self._done)
        left = "" if seconds_left is None else f"{in_words(seconds_left)} left"
        far = self._done_bytes / self._total_bytes if self._total_bytes else self._done / max(self._total, 1)
        share = f"{self._done} of {self._total} {self._unit} ({far:.0%})"
        say(f"{self._stage}: " + "; ".join(filter(None, (share, note, left))))


def track(items: Iterable[Item], stage: str, unit: str, *, total: int, show_progress: bool) -> Iterator[Item]:
    """Give items one by one, and show how far they are; arguments as for :class:`Progress`."""
    with Progress(stage, total, unit, show_progress=show_progress) as progress:
        for item in items:
            yield item
            progress.update()


def say(line: str) -> None:
    """Write a line to standard error without tearing a bar apart."""
    tqdm.write(line, file=sys.stderr)


def on_terminal() -> bool:
    """Tell whether somebody watches standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def in_words(seconds: float) -> str:
    """Give a duration as one says it, such as ``about 12 minutes``."""
    if seconds < 10:
        return "a few seconds" if seconds >= 1 else "a moment"
    if seconds < 90:
        return f"about {round(seconds, -1):.0f} seconds"
    for size, name, most in ((60, "minutes", 90), (3600, "hours", 48)):
        if seconds < size * most:
            return f"about {seconds / size:.0f} {name}"
    return f"about {seconds / 86400:.0f} days"


def in_bytes(number: int) -> str:
    """Give a number of bytes as one says it, such as ``1.5 GiB``."""
    if number >= 1 << 30:
        return f"{number / 2**30:.1f} GiB"
    return f"{number / 2**20:.0f} MiB" if number >= 10 << 20 else f"{number / 2**20:.1f} MiB"


# Logs -----------------------------------------------------------------------------------------------------------------

Telling = Literal["printable", "nothing", "unknown"]


class BesideProgress(logging.Handler):
    """Write log lines to standard error without tearing a progress bar apart, in characters that any terminal shows."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(PrintableFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        say(self.format(record))


def log_as(telling: Telling) -> None:
    """Let a process tell its logs, and the warnings of other packages, which quote what a file says.

    Args:
        telling: ``printable`` in lines on standard error, ``nothing`` not at all; ``unknown`` leaves all as it is.
    """
    if telling == "printable":
        logging.basicConfig(level=logging.INFO, handlers=[BesideProgress()])
        logging.captureWarnings(True)
    elif telling == "nothing":
        logging.getLogger().addHandler(logging.NullHandler())  # without any, Python prints warnings


def how_logs_are_told() -> Telling:
    """Say how this process tells its logs, for the processes that it starts."""
    handlers = logging.getLogger().handlers
    if any(isinstance(handler, BesideProgress) for handler in handlers):
        return "printable"
    return "nothing" if any(isinstance(handler, logging.NullHandler) for handler in handlers) else "unknown"
