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
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.disk import link_to

_PROCESS = Path(__file__).with_name("simpleitk")
_PLAIN = re.compile(r"[\w./ ,()+=@-]+", re.ASCII)
"""Names that every library opens. Others are bytes that are no UTF-8, on which SimpleITK ends the process, or mean
something to ITK (a backslash).
"""


def read_with_simpleitk(path: Path, *, rows_first: bool = False) -> NDArray[np.float64] | None:
    """Read real values with SimpleITK: of DICOM, NIfTI, NRRD, MetaImage, PNG and TIFF files.

    Values are rescaled as the file says. Integers beyond 2**53 are rounded. DICOM files of MONOCHROME1 come inverted,
    for GDCM does that. Which reader of ITK is taken depends on the suffix, DICOM aside.

    Args:
        path: the file.
        rows_first: give the axes as DICOM and raster images have them.

    Returns:
        Values of (x, y, z, ..., components), the axes of NIfTI, NRRD and MetaImage; with ``rows_first`` of (frames,
        rows, columns, components), the first left out where there is one frame. One component has no axis. None where
        SimpleITK is not installed or cannot read the file, or the values are complex.
    """
    with _openable(path) as name:
        found = _simpleitk.read(name)
    if found is None or found[1].dtype.kind not in "iuf":
        return None
    axes, values = found
    real = values.astype(np.float64, copy=False)
    if rows_first:
        return real[0] if axes == 3 and real.shape[0] == 1 else real
    return real.transpose(*reversed(range(axes)), *range(axes, real.ndim))


def dcmtk_finds_within(original: Path, other: Path, limit_stored: int) -> bool | None:
    """Let dcmtk's ``dcmicmp`` say whether no stored value of two DICOM files differs by more than a limit.

    Returns:
        None where dcmtk is not installed or cannot decode a file: it reads native ones.
    """
    program = shutil.which("dcmicmp")
    if program is None:
        return None
    # Without the modality transformation, which would round through RescaleSlope.
    with _openable(original) as first, _openable(other) as second:
        arguments = [program, "-q", "-M", "+ce", str(limit_stored), first, second]
        done = subprocess.run(arguments, capture_output=True, check=False)  # noqa: S603 (a fixed program, and paths that begin with a slash)
    return {0: True, _DCMICMP_BEYOND: False}.get(done.returncode)


_DCMICMP_BEYOND = 90
"""Exit status of ``dcmicmp`` where a check that was asked for fails."""


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
    """The process of SimpleITK, started when it is first asked and again where a file ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def read(self, name: str) -> tuple[int, NDArray[Any]] | None:
        """Give the number of axes and the values of an image; None where it cannot be read."""
        if find_spec("SimpleITK") is None:
            return None
        with self._lock:
            try:
                return self._ask(name)
            except (OSError, EOFError):  # it could not be started, or the file ended it
                self.close()
                return None

    def _ask(self, name: str) -> tuple[int, NDArray[Any]] | None:
        questions, answers = self._pipes()
        questions.write(json.dumps(name).encode("ascii") + b"\n")
        questions.flush()
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        facts = json.loads(line)
        if facts is None:
            return None
        kind = np.dtype(facts["dtype"])
        size = math.prod(facts["shape"]) * kind.itemsize
        data = answers.read(size)
        if len(data) < size:
            raise EOFError
        return facts["axes"], np.frombuffer(data, kind).reshape(facts["shape"])

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None or self._owner != os.getpid():  # a forked process has the pipes of another
            self._owner = os.getpid()
            command = [sys.executable, str(_PROCESS)]
            self._process = subprocess.Popen(  # noqa: S603 (our own file)
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        if self._process.stdin is None or self._process.stdout is None:
            raise EOFError
        return self._process.stdin, self._process.stdout

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()


_simpleitk = _SimpleItk()
atexit.register(_simpleitk.close)
