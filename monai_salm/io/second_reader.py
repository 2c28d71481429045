# SPDX-License-Identifier: Apache-2.0
"""SimpleITK and dcmtk as second readers, so that a written file is not judged by its own writer alone; nothing else
here depends on them.

Both are programs of their own: what they write to standard error, and a file that ends them, is no matter of the
process that asks.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.disk import link_to
from monai_salm.io.origins import Buffer, first_bytes

_PROCESS = Path(__file__).with_name("simpleitk")
_DICTIONARY = Path(__file__).with_name("image_attributes.dic")
"""What dcmtk has to know of the attributes that say how pixels are stored. Its own dictionary of all attributes takes
it four times as long to read as a slice of 512 x 512.
"""

_DICOM_PREFIX, _DICOM_READER = (128, b"DICM"), "GDCMImageIO"
"""How DICOM files are known (PS3.10 7.1), and which reader ITK takes for them after it tried others on each."""

_FILES_IN_MEMORY = "/proc/{}/fd/{}"
"""Names that Linux gives to the open files of a process; one made by ``memfd_create`` is nowhere else."""

_PATIENCE_S, _BYTES_PER_S = 60.0, 1e6
"""A reader hangs that takes longer than this, and as long as a file of that size takes it on a slow disk."""

_PLAIN = re.compile(r"[\w./ ,()+=@-]+", re.ASCII)
"""Names that every library opens. Others are bytes that are no UTF-8, on which SimpleITK ends the process, or mean
something to ITK (a backslash).
"""


def read_with_simpleitk(path: Path, *, rows_first: bool = False, content: Buffer | None = None) -> NDArray[Any] | None:
    """Read real values with SimpleITK: of DICOM, NIfTI, NRRD, MetaImage, PNG and TIFF files.

    Values are rescaled as the file says, in the type that SimpleITK gives them, which is an integer where no rescaling
    needs another. DICOM files of MONOCHROME1 come inverted, for GDCM does that. Which reader of ITK is taken depends on
    the suffix, DICOM aside.

    Args:
        path: the file.
        rows_first: give the axes as DICOM and raster images have them.
        content: the bytes of the file where they are known, so that they need not be read again; of a file that needs
            none beside it.

    Returns:
        Values of (x, y, z, ..., components), the axes of NIfTI, NRRD and MetaImage; with ``rows_first`` of (frames,
        rows, columns, components), the first left out where there is one frame. One component has no axis. None where
        SimpleITK is not installed, cannot read the file or takes longer than any should, or the values are complex.
    """
    first = _DICOM_READER if _is_dicom(path, content) else ""
    with _in_memory(content) as number, _named(number, "" if first else path.name) as held, _openable(path) as name:
        found = _simpleitk.read([*held, name], first, _patience(path))
    if found is None or found[1].dtype.kind not in "iuf":
        return None
    axes, real = found
    if rows_first:
        return real[0] if axes == 3 and real.shape[0] == 1 else real
    return real.transpose(*reversed(range(axes)), *range(axes, real.ndim))


def dcmtk_finds_within(
    original: Path, other: Path, limit_stored: int, contents: tuple[Buffer | None, Buffer | None] = (None, None)
) -> bool | None:
    """Let dcmtk's ``dcmicmp`` say whether no stored value of two DICOM files differs by more than a limit.

    Args:
        original, other: the files.
        limit_stored: the limit.
        contents: their bytes where they are known, so that they need not be read again.

    Returns:
        None where dcmtk is not installed, cannot decode a file, for it reads native ones, or takes longer than any
        file should.
    """
    program = shutil.which("dcmicmp")
    if program is None:
        return None
    # Without the modality transformation, which would round through RescaleSlope.
    with contextlib.ExitStack() as stack:
        numbers = [stack.enter_context(_in_memory(content)) for content in contents]
        names = [
            stack.enter_context(_openable(path)) if number is None else _FILES_IN_MEMORY.format("self", number)
            for path, number in zip((original, other), numbers, strict=True)
        ]
        arguments = [program, "-q", "-M", "+ce", str(limit_stored), *names]
        process = subprocess.Popen(  # noqa: S603 (a fixed program, and paths that begin with a slash)
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"DCMDICTPATH": str(_DICTIONARY)},
            pass_fds=[number for number in numbers if number is not None],
        )  # fmt: skip
        with _watch.over(process, _patience(original)), process:
            return {0: True, _DCMICMP_BEYOND: False}.get(process.wait())


_DCMICMP_BEYOND = 90
"""Exit status of ``dcmicmp`` where a check that was asked for fails."""


class _Watch:
    """Ends processes that take too long, all of them from one thread: to start one for each takes as long as to read a
    small file.
    """

    _EVERY_S = 0.1

    def __init__(self) -> None:
        self._until: dict[subprocess.Popen[bytes], float] = {}
        self._owner = 0

    @contextlib.contextmanager
    def over(self, process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
        """Kill a process unless the block ends within so many seconds."""
        self._until[process] = time.monotonic() + seconds
        if self._owner != os.getpid():  # a forked process has no threads
            self._owner = os.getpid()
            threading.Thread(target=self._end_hanging, daemon=True).start()
        try:
            yield
        finally:
            del self._until[process]

    def _end_hanging(self) -> None:
        while True:
            time.sleep(self._EVERY_S)
            now = time.monotonic()
            for process, until in self._until.copy().items():
                if now > until:
                    process.kill()


_watch = _Watch()


def _patience(path: Path) -> float:
    """Give the seconds after which whoever reads a file hangs."""
    try:
        return _PATIENCE_S + path.stat().st_size / _BYTES_PER_S
    except OSError:
        return _PATIENCE_S


def _is_dicom(path: Path, content: Buffer | None) -> bool:
    place, prefix = _DICOM_PREFIX
    if content is None:
        try:
            content = first_bytes(path, place + len(prefix))
        except OSError:
            return False
    return content[place : place + len(prefix)] == prefix


@contextlib.contextmanager
def _in_memory(content: Buffer | None) -> Iterator[int | None]:
    """Put bytes into a file that is nowhere but in memory, and give its number; None where there are no bytes, or no
    such files.
    """
    if content is None or sys.platform != "linux" or not Path(_FILES_IN_MEMORY.format("self", "")).is_dir():
        yield None
        return
    try:
        number = os.memfd_create("image")
    except OSError:
        yield None
        return
    with open(number, "wb", buffering=0) as file:  # noqa: PTH123 (no path)
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:  # too little memory
            pass
        yield None if rest else number


@contextlib.contextmanager
def _named(number: int | None, like: str) -> Iterator[list[str]]:
    """Give the name, if there is one, of a file in memory.

    Args:
        number: of the file, which is open here.
        like: name whose suffixes it needs, for ITK chooses readers by them; empty where it needs none.
    """
    if number is None:
        yield []
        return
    name = _FILES_IN_MEMORY.format(os.getpid(), number)
    if not like:
        yield [name]
        return
    with TemporaryDirectory() as folder:
        link = Path(folder, f"file{like[len(like.partition('.')[0]) :]}")
        try:
            link.symlink_to(name)
        except OSError:
            yield []
            return
        yield [str(link)]


@contextlib.contextmanager
def _openable(path: Path) -> Iterator[str]:
    """Give an absolute name for a file that a library can open: its own, or that of a link to it, a copy where there
    are no links.
    """
    path = path.absolute()
    if _PLAIN.fullmatch(str(path)) and not (
        path.suffix == ".gz" and path.with_suffix("").exists()
    ):  # ITK would read the other instead
        yield str(path)
        return
    with link_to(path, *_headers_of(path)) as link:
        yield str(link)


def _headers_of(path: Path) -> list[Path]:
    """Name what may be the header of an ``.img`` file beside it."""
    stem = path.name.lower().removesuffix(".gz").removesuffix(".img")
    if path.name.lower().removesuffix(".gz") == stem:
        return []
    return [place for place in path.parent.iterdir() if place.name.lower().removesuffix(".gz") == f"{stem}.hdr"]


class _SimpleItk:
    """The process of SimpleITK, started when it is first asked and again where a file ended it, or it hung."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def read(self, names: list[str], first: str, patience_s: float) -> tuple[int, NDArray[Any]] | None:
        """Give the number of axes and the values of an image; None where it cannot be read, or not in so many
        seconds.

        Args:
            names: of one file; the first one counts that the process can open.
            first: the reader of ITK to try first; empty where it is left to ITK.
            patience_s: the seconds.
        """
        with self._lock:
            try:
                process = self._started()
                with _watch.over(process, patience_s):
                    return _answer(process, (names, first))
            except (OSError, EOFError):  # it could not be started, or the file ended it
                self.close()
                return None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():  # a forked process has the pipes of another
            if find_spec("SimpleITK") is None:
                raise EOFError
            self._owner = os.getpid()
            command = [sys.executable, str(_PROCESS)]
            self._process = subprocess.Popen(  # noqa: S603 (our own file)
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()


def _answer(process: subprocess.Popen[bytes], question: object) -> tuple[int, NDArray[Any]] | None:
    """Ask for an image.

    Raises:
        EOFError: the process ended.
    """
    questions, answers = process.stdin, process.stdout
    if questions is None or answers is None:
        raise EOFError
    questions.write(json.dumps(question).encode("ascii") + b"\n")
    questions.flush()
    line = answers.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    facts = json.loads(line)
    if facts is None:
        return None
    values = np.empty(facts["shape"], np.dtype(facts["dtype"]))
    if answers.readinto(values.reshape(-1).view(np.uint8)) < values.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return facts["axes"], values


_simpleitk = _SimpleItk()
atexit.register(_simpleitk.close)
