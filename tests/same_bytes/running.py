# SPDX-License-Identifier: Apache-2.0
"""Running the cases by the package of a checkout, and what is told of each."""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.same_bytes import chance_before
from tests.same_bytes.cases import CHECKPOINT, TRANSFORM_SCRIPT, Case, Step, all_cases, chosen_cases
from tests.same_bytes.images import Array, sha256_of
from tests.same_bytes.inputs import tree_digest

# Random numbers of an older checkout ---------------------------------------------------------------------------------

CHANCES = ("own", "before")
"""How a run draws its random numbers: by the checkout's own rule, or as before there was one rule for chance."""


def draw_as(chance: str) -> None:
    """Make the package draw its random numbers in a way of :data:`CHANCES`.

    Called in the process of each step, before anything of the package is imported. ``own`` changes nothing.
    """
    if chance not in CHANCES:
        raise ValueError(f"chance {chance!r} is unknown; give one of {', '.join(CHANCES)}")
    if chance == "before":
        chance_before.install()


# Processes -----------------------------------------------------------------------------------------------------------

LIBRARIES = (
    "torch", "torch._dynamo", "monai.networks.nets", "monai.transforms", "monai.losses", "monai.bundle",
    "scipy.ndimage", "scipy.signal", "pydicom", "nibabel", "PIL.Image", "imagecodecs", "jpeg_ls", "highdicom",
    "safetensors.torch", "safetensors.numpy", "click", "tqdm", "fire",
)  # fmt: skip
"""What a step would import first; none of it is of the package."""


@dataclass(frozen=True)
class Place:
    """Where the steps of a case run.

    Args:
        inputs, checkout: the two folders.
        folder: of the case, empty at first.
    """

    inputs: Path
    checkout: Path
    folder: Path

    def arguments(self, step: Step) -> list[str]:
        """Give the arguments of a step with the folders in them."""
        names = {"inputs": self.inputs, "case": self.folder, "checkout": self.checkout}
        return [part.format(**names) for part in step.arguments]

    def environment(self) -> dict[str, str]:
        """Give the environment of a step, in which the checkout's package comes first."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return kept | {"PYTHONPATH": str(self.checkout), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder / "tmp")}


def _in_fork(step: Step, place: Place, chance: str, log: Path) -> None:
    """Be the process of a step, as after ``python -m`` but for third-party libraries that are imported already."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(place.environment())
    tempfile.tempdir = None
    os.chdir(place.folder / "tmp")
    others = [path for path in sys.path if not (Path(path or place.inputs) / "monai_salm").is_dir()]
    sys.path[:] = [str(place.checkout), *others]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    draw_as(chance)
    if step.module.endswith(".py"):
        sys.argv = [str(place.folder / step.module), *place.arguments(step)]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.argv = [step.module, *place.arguments(step)]
        runpy.run_module(step.module, run_name="__main__", alter_sys=True)


class Forked:
    """A step in a process that is forked from this one."""

    def __init__(self, step: Step, place: Place, chance: str, log: Path) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=_in_fork, args=(step, place, chance, log))
        self._process.start()

    def poll(self) -> int | None:
        """Give the exit code, None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Stop it at once."""
        self._process.kill()
        self._process.join()


def _in_interpreter(step: Step, place: Place, log: Path) -> subprocess.Popen[bytes]:
    """Start a step in an interpreter of its own."""
    start = [str(place.folder / step.module)] if step.module.endswith(".py") else ["-m", step.module]
    command = [sys.executable, *start, *place.arguments(step)]
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=place.environment(), cwd=place.folder / "tmp"
        )


def _steps_done(case: Case, place: Place, chance: str, *, cold: bool) -> Iterator[dict[str, Any] | None]:
    """Run the steps of a case one after the other; gives None while one runs, and at last what is to be told."""
    codes: list[int] = []
    said: list[str] = []
    problems: list[str] = []
    (place.folder / "tmp").mkdir(parents=True)
    (place.folder / "transform.py").write_text(TRANSFORM_SCRIPT, encoding="utf-8")
    for number, step in enumerate(case.steps):
        log = place.folder / f"step{number}.log"
        process = _in_interpreter(step, place, log) if cold else Forked(step, place, chance, log)
        stopped = False
        while process.poll() is None:
            if step.stop and any(place.folder.glob(CHECKPOINT)):
                process.kill()
                stopped = True
            yield None
        if step.stop:
            problems += [] if stopped else ["it ended before it could be stopped"]
            continue
        codes.append(int(process.poll() or 0))
        if codes[-1]:
            said.append(f"step {number + 1}: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    yield {"exit_codes": codes, "problems": problems, "said": said}


# Rows ----------------------------------------------------------------------------------------------------------------


def pack(values: Array) -> dict[str, Any]:
    """Give an array in JSON."""
    content = np.ascontiguousarray(values)
    text = base64.b64encode(zlib.compress(content.tobytes(), 9)).decode("ascii")
    return {"dtype": content.dtype.str, "shape": list(content.shape), "values": text}


def unpack(packed: Mapping[str, Any]) -> Array:
    """Give the array of :func:`pack`."""
    content = zlib.decompress(base64.b64decode(packed["values"]))
    return np.frombuffer(content, packed["dtype"]).reshape(packed["shape"])


def _read_noise(content: bytes) -> dict[str, Any]:
    """Give the sample and the dense steps of a noise file; nothing where its format is unknown."""
    from safetensors.numpy import load

    with contextlib.suppress(KeyError, ValueError, IndexError):
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        tensors, shape = load(content), json.loads(metadata["shape"])
        steps = np.zeros(int(np.prod(shape)), np.int16)
        steps[np.unpackbits(tensors["mask"], count=steps.size).astype(bool)] = tensors["values"]
        return {"sample": metadata["sample_id"], "array": pack(steps.reshape(shape))}
    return {}


def _tensor_digests(path: Path) -> dict[str, str]:
    from safetensors.numpy import load_file

    return {
        name: sha256_of(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
        for name, value in load_file(path).items()
    }


def _fates(manifest: Path) -> dict[str, dict[str, str]]:
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return {line["path"]: {"status": line["status"], "reason": line.get("reason", "")} for line in lines}


def record_outputs(folder: Path) -> dict[str, Any]:
    """Record what the steps of a case have written: files that are handed out, noise, surrogates and manifests."""
    row: dict[str, Any] = {"files": {}, "arrays": {}, "tensors": {}, "fates": {}, "reasons": {}}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        place = name.split("/")
        if place[0] == "tmp" or len(place) == 1:
            continue
        if not place[0].endswith(".work"):
            content = path.read_bytes()
            row["files"][name] = sha256_of(content)
            if path.suffix == ".npy":
                row["arrays"][name] = {"array": pack(np.load(path))}
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as packed:
                    row["files"] |= {
                        f"{name}: {member}": sha256_of(packed.read(member)) for member in packed.namelist()
                    }
        elif place[1] == "noise":
            content = path.read_bytes()
            row["files"][name] = sha256_of(content)
            row["arrays"][name] = _read_noise(content)
        elif place[1] == "surrogate.safetensors":
            row["tensors"][name] = _tensor_digests(path)
        elif place[1] == "manifest.jsonl":
            fates = _fates(path)
            row["fates"] |= {f"{place[0]}: {file}": fate["status"] for file, fate in fates.items()}
            row["reasons"] |= {f"{place[0]}: {file}": fate["reason"] for file, fate in fates.items() if fate["reason"]}
    return row


def _case_rows(case: Case, place: Place, chance: str, *, cold: bool) -> Iterator[dict[str, Any] | None]:
    """Run a case; gives None while it runs, and its row at the end."""
    begun = time.monotonic()
    told: dict[str, Any] | None = None
    for told in _steps_done(case, place, chance, cold=cold):
        if told is None:
            yield None
    row = {
        "case": case.name,
        "seconds": round(time.monotonic() - begun, 1),
        **(told or {}),
        **record_outputs(place.folder),
    }
    shutil.rmtree(place.folder)
    yield row


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = (
        "numpy",
        "scipy",
        "torch",
        "monai",
        "pydicom",
        "nibabel",
        "pillow",
        "imagecodecs",
        "SimpleITK",
        "highdicom",
        "safetensors",
    )
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


def _check_package(checkout: Path) -> None:
    """Find out whether a step would import the package of the checkout."""
    with tempfile.TemporaryDirectory() as empty:
        place = Place(Path(empty), checkout, Path(empty))
        command = [sys.executable, "-c", "import monai_salm; print(monai_salm.__file__)"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=place.environment(), cwd=empty)
    found = Path(done.stdout.strip()).resolve()
    if found != checkout / "monai_salm" / "__init__.py":
        raise SystemExit(f"{checkout}: steps would import {found}, not the package of this checkout")


def run(
    inputs: Path,
    checkout: Path,
    out: Path,
    *,
    pattern: str = "*",
    jobs: int = 1,
    cold: bool = False,
    chance: str = "own",
) -> int:
    """Run the cases by the package of a checkout; writes a header, and a JSON line for each case once it is done."""
    inputs, checkout = inputs.resolve(), checkout.resolve()
    waiting = chosen_cases(pattern)
    if not waiting:
        raise SystemExit(f"no case matches {pattern!r}; some are {', '.join(case.name for case in all_cases()[:4])}")
    _check_package(checkout)
    header = {
        "inputs": tree_digest(inputs),
        "package": tree_digest(checkout / "monai_salm", "*.py"),
        "chance": chance,
        "versions": _versions(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in () if cold else LIBRARIES:
            importlib.import_module(name)
    if "monai_salm" in sys.modules:
        raise SystemExit("the package is imported already, so that no checkout's own could be")
    begun, total, done = time.monotonic(), len(waiting), 0
    with tempfile.TemporaryDirectory() as scratch, out.open("w", encoding="utf-8") as file:
        file.write(json.dumps(header) + "\n")
        active: list[Iterator[dict[str, Any] | None]] = []
        while waiting or active:
            while waiting and len(active) < jobs:
                case = waiting.pop(0)
                place = Place(inputs, checkout, Path(scratch).resolve() / case.name.replace("/", "-"))
                active.append(_case_rows(case, place, chance, cold=cold))
            for rows in list(active):
                row = next(rows)
                if row is None:
                    continue
                active.remove(rows)
                done += 1
                file.write(json.dumps(row) + "\n")
                file.flush()
                words = f"{row['seconds']:5.1f} s, exit {row['exit_codes']}, {len(row['files'])} files"
                print(
                    f"{done}/{total} {row['case']}: {words}{''.join(f'; {text}' for text in row['problems'])}",
                    flush=True,
                )
            time.sleep(0.005)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{total} cases in {time.monotonic() - begun:.0f} s, {cpu:.0f} s of them on a core: {out}")
    return 0
