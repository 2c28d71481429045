# SPDX-License-Identifier: Apache-2.0
"""Damaged files, thousands of them: each one is protected and verified, or refused with one line, in time and in bounded memory.

``python -m tests.fidelity.fuzz --inputs 20000 --seed 0 --jobs 2``; an input is known by seed and index, and ``--only INDEX`` runs it again in this process.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import gzip
import io
import json
import logging
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.exports import ROOT_UID, block, body, mr_slice
from tests.io.builders import dicom_dataset, gzip_bytes, nifti_bytes, values_in, write_dicom

SECONDS = 5.0
"""For one input; more is a hang."""
MEMORY = 2**30
"""Bytes that a worker may grow by."""
LARGEST_SEED = 200_000
SAVED = 3
"""Failing inputs that are kept of one kind and place."""
START_SECONDS = 120.0
"""For a worker's imports, on a busy machine."""

FINE = ("protected", "copied", "refused", "unusable")
"""What may become of an input: ``copied`` is a document, ``unusable`` one that the whole run was refused for."""


@dataclass(frozen=True)
class Seed:
    """An input that is whole.

    Args:
        name: what it is, for the report.
        files: content by name.
        source: name of the file that the run is given; empty for their folder.
        wrap: how the bytes are packed: ``gz``, ``deflated`` (DICOM), ``zip``, or not at all.
    """

    name: str
    files: dict[str, bytes]
    source: str = ""
    wrap: str = ""


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
        signature = f"{outcome.kind}: {outcome.detail}"[:200]
        self.failures[signature] += 1
        self.examples.setdefault(signature, []).append(index)
        return signature if self.failures[signature] <= SAVED else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs, "seconds": round(self.seconds, 1), "inputs_per_second": round(self.inputs / max(self.seconds, 1e-9), 1),
            "outcomes": dict(sorted(self.kinds.items())), "slowest_seconds": round(self.slowest[0], 2), "slowest": self.slowest[1],
            "largest_growth_mib": self.heaviest[0] >> 20, "heaviest": self.heaviest[1],
            "failures": {name: {"count": count, "first": self.examples[name][:SAVED]} for name, count in self.failures.most_common()},
        }  # fmt: skip


# Whole inputs --------------------------------------------------------------------------------------------------------
def corpus(cases: Path | None = None) -> list[Seed]:
    """Give the inputs that are to be damaged: small real files and made ones of every format, and those of a folder of cases."""
    import nibabel
    import pydicom

    folders = [Path(pydicom.__file__).parent / "data" / "test_files", Path(nibabel.__file__).parent / "tests" / "data"]
    suffixes = {".dcm", ".nii", ".gz", ".hdr", ".img", ""}
    found = [path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in suffixes]
    if cases is not None:
        found += [path for room in ("single", "synthetic", "nifti") for path in sorted((cases / room).glob("*"))]
        found += sorted((cases / "exports").glob("*.zip"))
    small = [path for path in found if path.is_file() and 0 < path.stat().st_size <= LARGEST_SEED]
    return [*_made(), *(_alone(path.name, path.read_bytes()) for path in small)]


def _alone(name: str, content: bytes) -> Seed:
    wrap = "gz" if content[:2] == b"\x1f\x8b" else "zip" if content[:4] == b"PK\3\4" else ""
    if b"1.2.840.10008.1.2.1.99" in content[:1000] and content[128:132] == b"DICM":
        wrap = "deflated"
    seed = Seed(name, {name: content}, name, wrap)
    try:
        _inside(seed, content, random.Random(0), [], lambda data: data)
    except (OSError, EOFError, ValueError, zlib.error, struct.error):
        return Seed(name, {name: content}, name)  # damaged already
    return seed


def _made() -> list[Seed]:
    volume, _ = block(1)
    seeds = [
        _alone("made.nii", nifti_bytes(volume, slope=0.5, intercept=-10.0)),
        _alone("big.nii", nifti_bytes(volume, order=">", extension=bytes(12) + b"\x20\0\0\0" + bytes(28))),
        _alone("two.nii", nifti_bytes(volume.astype(np.float32), version=2)),
        _alone("series.nii.gz", gzip_bytes(nifti_bytes(np.stack([volume, volume + 1], -1)), name="series.nii", mtime=1)),
        _alone("double.nii.gz", gzip_bytes(nifti_bytes(volume[:9].astype(np.float64)))),
        _pair(volume),
        *_series_and_sets(),
        *_rasters(),
        *_itk(volume),
    ]
    return [*seeds, *(_zipped(seed) for seed in (seeds[0], seeds[3], seeds[6]))]


def _pair(volume: np.ndarray[Any, Any]) -> Seed:
    content = nifti_bytes(volume, magic=b"ni1\0", vox_offset=0)
    return Seed("pair", {"pair.hdr": content[:352], "pair.img": content[352:]})


def _series_and_sets() -> list[Seed]:
    with TemporaryDirectory() as spare:
        place = Path(spare)
        study = {"StudyTime": "101010", "StudyID": "1", "SeriesNumber": 1}
        mr_slice(place / "a.dcm", 1, **study)
        mr_slice(place / "b.dcm", 2, **study)
        write_dicom(place / "overlay.dcm", dicom_dataset(shape=(24, 24)), body(3) + 1000, overlay_bit=14)
        frames = dicom_dataset(shape=(24, 24), extra={"NumberOfFrames": 3, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.3"})
        write_dicom(place / "frames.dcm", frames, np.stack([body(number) for number in range(3)]))
        color = dicom_dataset(bits_allocated=8, bits_stored=8, photometric="RGB", shape=(16, 16), extra={"SamplesPerPixel": 3, "PlanarConfiguration": 0})
        write_dicom(place / "color.dcm", color, values_in(0, 255, (16, 16, 3), np.uint8))
        content = {path.name: path.read_bytes() for path in sorted(place.iterdir())}
        file_set = _file_set(place)
    single = [_alone(name, content[name]) for name in ("overlay.dcm", "frames.dcm", "color.dcm")]
    return [Seed("two slices", {name: content[name] for name in ("a.dcm", "b.dcm")}), *single, file_set]


def _file_set(folder: Path) -> Seed:
    """Give a DICOMDIR with two images, as pydicom makes it."""
    from pydicom.fileset import FileSet
    from pydicom.uid import UID

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # also of the temporary folder that pydicom leaves to the garbage collection
        made = FileSet()
        made.UID = UID(f"{ROOT_UID}.99")  # the same in every worker
        for name in ("a.dcm", "b.dcm"):
            made.add(folder / name)
        made.write(folder / "set")
        del made
        gc.collect()
    files = {path.relative_to(folder / "set").as_posix(): path.read_bytes() for path in sorted((folder / "set").rglob("*")) if path.is_file()}
    return Seed("DICOMDIR", files, "DICOMDIR")


def _rasters() -> list[Seed]:
    try:
        from PIL import Image
    except ImportError:
        return []
    seeds, gray = [], values_in(0, 255, (24, 24), np.uint8)
    color = np.stack([gray, gray[::-1], gray.T], -1)
    deep = gray.astype(np.uint16) * 257
    pictures = {"gray.png": gray, "color.png": color, "deep.png": deep, "gray.jpg": gray, "color.jpg": color, "gray.tif": gray, "deep.tif": deep}
    for name, values in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, format={"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[name[-3:]])
        seeds.append(_alone(name, buffer.getvalue()))
    return seeds


def _itk(volume: np.ndarray[Any, Any]) -> list[Seed]:
    try:
        import SimpleITK
    except ImportError:
        return []
    image, seeds = SimpleITK.GetImageFromArray(volume), []
    with TemporaryDirectory() as spare:
        for name, packed in (
            ("plain.nrrd", False),
            ("packed.nrrd", True),
            ("plain.mha", False),
            ("packed.mha", True),
            ("apart.mhd", False),
            ("apart.nhdr", False),
        ):
            folder = Path(spare) / name.replace(".", "_")
            folder.mkdir()
            SimpleITK.WriteImage(image, str(folder / name), useCompression=packed)
            seeds.append(Seed(name, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}))
    return seeds


def _zipped(seed: Seed) -> Seed:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in seed.files.items():
            opened.writestr(zipfile.ZipInfo(f"export/{name}"), content)
    return Seed(f"zip of {seed.name}", {"in.zip": buffer.getvalue()}, "in.zip", "zip")


# Damage --------------------------------------------------------------------------------------------------------------
_EXTREMES = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    15,
    16,
    17,
    31,
    32,
    33,
    64,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFE,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
_DECIMALS = (b"0", b"-1", b"1", b"2", b"65535", b"65536", b"2147483647", b"99999999999", b"1e9", b"1e308", b"nan", b"inf", b"-0", b"0.5", b"", b"x", b"1\\2")
_DICOM_TAGS = (
    *((0x0028, element) for element in (2, 4, 6, 8, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120, 0x121, 0x1052, 0x1053)),
    *((0x0002, 0), (0x0002, 0x10), (0x0008, 0x08), (0x0008, 0x16), (0x0008, 0x18), (0x0020, 0x0E), (0x7FE0, 1), (0x7FE0, 0x10)),
    *((0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD), (0x5200, 0x9229), (0x5200, 0x9230), (0x0004, 0x1400), (0x0004, 0x1420), (0x0004, 0x1500)),
)
"""What the size of a picture, its identity and the links of a DICOMDIR hang on."""
_NIFTI_FIELDS = (
    *((0, 4), (68, 2), (70, 2), (72, 2), (108, 4), (112, 4), (116, 4), (252, 2), (254, 2), (344, 4), (348, 4), (352, 4)),
    *((40 + 2 * axis, 2) for axis in range(8)),
    *((76 + 4 * axis, 4) for axis in range(8)),
    *((12, 2), (14, 2), (168, 8), (176, 8), (184, 8)),
    *((16 + 8 * axis, 8) for axis in range(8)),
)
"""Offsets and sizes in nifti1.h, then in nifti2.h."""


def damage(seeds: list[Seed], seed: int, index: int) -> tuple[dict[str, bytes], str, dict[str, Any]]:
    """Make an input: its files, the name that the run is given, and how it was made."""
    dice = random.Random(f"{seed}:{index}")
    chosen = dice.choice(seeds)
    # A file in a set is damaged as often as the list of the set.
    name = dice.choice(sorted(chosen.files))
    other = dice.choice(seeds)
    steps: list[str] = []
    content = _inside(chosen, chosen.files[name], dice, steps, lambda data: _damaged(data, other, dice, steps))
    return chosen.files | {name: content}, chosen.source, {"seed": seed, "index": index, "of": chosen.name, "file": name, "steps": steps}


def _damaged(data: bytes, other: Seed, dice: random.Random, steps: list[str]) -> bytes:
    result = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        change = dice.choice(_CHANGES)
        if change is _splice:
            result = bytearray(_splice(result, next(iter(other.files.values())), dice))
        else:
            change(result, dice)
        steps.append(change.__name__.strip("_"))
    return bytes(result)


def _inside(seed: Seed, content: bytes, dice: random.Random, steps: list[str], change: Callable[[bytes], bytes]) -> bytes:
    """Damage what is packed more often than the packing, which checksums guard."""
    if seed.wrap and dice.random() < 0.3:
        return change(content)
    if seed.wrap:
        steps.append(f"in {seed.wrap}")
    if seed.wrap == "gz":
        return gzip.compress(change(gzip.decompress(content)), 1, mtime=0)
    if seed.wrap == "zip":
        return _in_zip(content, dice, change)
    if seed.wrap == "deflated":
        start = 144 + struct.unpack_from("<L", content, 140)[0]
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        return content[:start] + packer.compress(change(zlib.decompressobj(-15).decompress(content[start:]))) + packer.flush()
    changed = change(content)
    return _with_checksums(changed) if content[:8] == b"\x89PNG\r\n\x1a\n" else changed


def _in_zip(content: bytes, dice: random.Random, change: Callable[[bytes], bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as opened, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        chosen = dice.randrange(len(opened.infolist()))
        for number, info in enumerate(opened.infolist()):
            member = opened.read(info)
            made.writestr(info, change(member) if number == chosen else member)
    return buffer.getvalue()


def _with_checksums(content: bytes) -> bytes:
    """Give a PNG its checksums anew, so that what is damaged is read at all."""
    result, place = bytearray(content), 8
    while place + 12 <= len(result):
        (length,) = struct.unpack_from(">L", result, place)
        if place + 12 + length > len(result):
            break
        struct.pack_into(">L", result, place + 8 + length, zlib.crc32(result[place + 4 : place + 8 + length]))
        place += 12 + length
    return bytes(result)


def _place(data: bytearray, dice: random.Random) -> int:
    """Choose a byte, one of the header more often than not."""
    return dice.randrange(max(1, min(len(data), 2048) if dice.random() < 0.7 else len(data)))


def _flip(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 2, 8, 40))):
        if data:
            data[_place(data, dice)] ^= 1 << dice.randrange(8)


def _overwrite(data: bytearray, dice: random.Random) -> None:
    length = dice.choice((1, 1, 2, 4, 8, 100))
    start = _place(data, dice)
    kind = dice.randrange(3)
    content = bytes(length) if kind == 0 else b"\xff" * length if kind == 1 else dice.randbytes(length)
    data[start : start + length] = content[: max(0, len(data) - start)]


def _truncate(data: bytearray, dice: random.Random) -> None:
    del data[dice.choice((_place(data, dice), max(0, len(data) - dice.randrange(1, 40)))) :]


def _grow(data: bytearray, dice: random.Random) -> None:
    length = dice.choice((1, 2, 3, 4, 100, 10_000))
    data += dice.choice((bytes(length), dice.randbytes(length)))


def _delete(data: bytearray, dice: random.Random) -> None:
    start = _place(data, dice)
    del data[start : start + dice.choice((1, 2, 4, 8, 50, 1000))]


def _double(data: bytearray, dice: random.Random) -> None:
    start = _place(data, dice)
    chunk = data[start : start + dice.choice((1, 2, 4, 8, 50, 1000))]
    data[start:start] = chunk * dice.choice((1, 1, 2, 10))


def _move(data: bytearray, dice: random.Random) -> None:
    start, target = _place(data, dice), _place(data, dice)
    chunk = data[start : start + dice.choice((4, 8, 30, 300))]
    data[target : target + len(chunk)] = chunk


def _number(data: bytearray, dice: random.Random) -> None:
    size = dice.choice((2, 4))
    start = _place(data, dice) & ~1
    _put(data, start, size, dice)


def _tag(data: bytearray, dice: random.Random) -> None:
    """Damage the VR, the length or the value of a DICOM element that the size of the picture hangs on."""
    order = dice.choice("<<<>")
    tag = struct.pack(f"{order}HH", *dice.choice(_DICOM_TAGS))
    places = [found.start() for found in re.finditer(re.escape(tag), bytes(data))]
    if places:
        start = dice.choice(places)
        offset, size = dice.choice(((8, 2), (8, 2), (8, 2), (8, 4), (6, 2), (4, 4), (4, 2), (8, 1), (12, 4)))
        _put(data, start + offset, size, dice, order)


def _field(data: bytearray, dice: random.Random) -> None:
    """Damage a field of a NIfTI header."""
    start, size = dice.choice(_NIFTI_FIELDS)
    if size > 2 and dice.random() < 0.5:
        value = dice.choice((math.nan, math.inf, -math.inf, 0.0, -1.0, 1e30, 1e-30, 3e38, 352.5, 1e9, float(len(data))))
        content = struct.pack(dice.choice("<>") + ("f" if size == 4 else "d"), value)
        if start + size <= len(data):
            data[start : start + size] = content
    else:
        _put(data, start, size, dice)


def _text(data: bytearray, dice: random.Random) -> None:
    """Replace a number that is written in digits."""
    found = list(re.finditer(rb"\d+(\.\d+)?", bytes(data[:4096])))
    if found:
        match = dice.choice(found)
        value = dice.choice(_DECIMALS)
        if dice.random() < 0.5:
            value = value[: match.end() - match.start()].rjust(match.end() - match.start())
        data[match.start() : match.end()] = value


def _put(data: bytearray, start: int, size: int, dice: random.Random, order: str = "") -> None:
    value = dice.choice((*_EXTREMES, len(data), len(data) - start)) & ((1 << 8 * size) - 1)
    if start >= 0 and start + size <= len(data):
        data[start : start + size] = value.to_bytes(size, "little" if (order or dice.choice("<>")) == "<" else "big")


def _splice(data: bytearray, other: bytes, dice: random.Random) -> bytes:
    return bytes(data[: _place(data, dice)]) + other[dice.randrange(max(1, len(other))) :]


_CHANGES: tuple[Callable[..., Any], ...] = (
    *(_flip, _flip, _overwrite, _overwrite, _truncate, _grow, _delete, _double, _move),
    *(_number, _number, _tag, _tag, _tag, _field, _text, _splice),
)
"""Some more often than others."""


# The whole path for one input ----------------------------------------------------------------------------------------
def check(source: Path, scratch: Path) -> Outcome:
    """Protect and verify one file, zip or folder; whatever its bytes, the outcome has to be fine."""
    from monai_salm.errors import SalmError
    from monai_salm.pipeline import ProtectOptions, protect, verify

    out = scratch / "out"
    try:
        result = protect(source, out, ProtectOptions(method="random", working_size=24, device="cpu"))
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
    if any(fate.status == "protected" for fate in fates):
        before = source if source.is_dir() or result.output.is_file() else source.parent
        try:
            report = verify(before, result.output)
        except Exception as error:  # noqa: BLE001
            return _unexpected("verify raises", error)
        if report.mismatches:
            return Outcome("verify finds a mismatch", re.sub(r"\d+", "N", "; ".join(report.mismatches[0].problems))[:200])
        return Outcome("protected")
    return Outcome("copied" if handed_out else "refused", "; ".join(fate.reason for fate in fates)[:300])


def _unexpected(kind: str, error: Exception) -> Outcome:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "monai_salm" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].name}"
    return Outcome(kind, f"{type(error).__name__} in {place}", "".join(traceback.format_exception(error)))


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()) if folder.is_dir() else []


def _wrong_output(output: Path, expected: list[str]) -> str:
    """Say what lies in the output and should not, or the other way round; of suffixes, which a lossy picture changes, only the number is compared."""
    if output.is_file():
        with zipfile.ZipFile(output) as opened:
            found = sorted(info.filename for info in opened.infolist() if not info.is_dir())
    else:
        found = _names(output)
    same = Counter(PurePosixPath(name).with_suffix("") for name in found) == Counter(PurePosixPath(name).with_suffix("") for name in expected)
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
        with TemporaryDirectory() as spare:
            check(_lay_out(seeds[0].files, seeds[0].source, Path(spare)), Path(spare))  # what is imported late is no growth
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for output in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # libraries in C complain there of every damaged file
        channel.send("ready")
        while (task := channel.recv()) is not None:
            with TemporaryDirectory() as spare:
                scratch = Path(spare)
                if isinstance(task, int):
                    files, name, _ = damage(seeds, seed, task)
                    source = _lay_out(files, name, scratch)
                else:
                    source = Path(task)
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is that of this input
                baseline = _status("VmRSS")
                resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MEMORY, resource.RLIM_INFINITY))
                began = time.monotonic()
                outcome = check(source, scratch)
                channel.send((outcome, time.monotonic() - began, _status("VmHWM") - baseline))


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
        """Give the outcome of the input at hand; None while it is at work in time. A worker that hangs or died is replaced."""
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
            return Outcome("crash", f"exit code {code} in {place[1]}:{place[3]}" if place else f"exit code {code}", trace, seconds=seconds)
        if seconds <= SECONDS + 1:
            return None
        self.process.kill()
        self._restart()
        return Outcome("hang", f"more than {SECONDS:g} s", seconds=seconds)

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
    inputs: int, *, seed: int = 0, jobs: int = 2, cases: Path | None = None, failures: Path | None = None, progress: bool = False, first: int = 0
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
                    print(f"{summary.inputs} inputs, {rate:.1f} a second, {sum(summary.failures.values())} failures; {dict(summary.kinds)}", flush=True)
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
    record = recipe | {"source": source, "kind": outcome.kind, "detail": outcome.detail, "trace": outcome.trace.splitlines(), "seconds": outcome.seconds}
    (place / "recipe.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="index of the first input")
    parser.add_argument("--cases", type=Path, help="folder of cases to damage, too")
    parser.add_argument("--failures", type=Path, help="folder for the inputs that fail")
    parser.add_argument("--results", type=Path, help="folder for a row of figures")
    parser.add_argument("--only", type=int, help="run this input alone, in this process")
    given = parser.parse_args()
    if given.only is not None:
        files, name, recipe = damage(corpus(given.cases), given.seed, given.only)
        with TemporaryDirectory() as spare:
            outcome = check(_lay_out(files, name, Path(spare)), Path(spare))
        print(json.dumps(recipe, indent=1), outcome.kind, outcome.detail, outcome.trace, sep="\n")
        return
    summary = run(given.inputs, seed=given.seed, jobs=given.jobs, cases=given.cases, failures=given.failures, progress=True, first=given.first)
    print(json.dumps(summary.to_json(), indent=1))
    if given.results is not None:
        from benchmarks.common import Rows

        Rows(given.results / "fuzz.jsonl", keep=True).add(seed=given.seed, jobs=given.jobs, cases=given.cases is not None, **summary.to_json())
    sys.exit(1 if summary.failures else 0)


if __name__ == "__main__":
    main()
