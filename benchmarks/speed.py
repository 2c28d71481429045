# SPDX-License-Identifier: Apache-2.0
"""How fast exports are protected and verified, against loops that do no more than read, decode and write; what is read
of each input, how time and memory grow, and what large files take. All files are made here, from seeds.

With ``--before FOLDER``, a checkout of an earlier version, each figure is measured there too, in the same run.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from common import REPOSITORY, Rows, fresh, parser, remove_run
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SERIES = 100
"""Files of a series."""

KINDS = {"CT": (512, 200), "MR": (256, 400), "small": (64, 1500)}
"""Rows and columns of a slice, and how many there are."""

PLAIN_LOOP = """
import sys, time
from pathlib import Path
import pydicom
source, output = map(Path, sys.argv[1:])
output.mkdir()
began = time.process_time()
for place in sorted(source.rglob("*.dcm")):
    image = pydicom.dcmread(place)
    values = image.pixel_array
    image.PixelData = (values + 1).astype(values.dtype).tobytes()
    image.save_as(output / place.name)
print(time.process_time() - began)
"""

CAREFUL_LOOP = """
import hashlib, sys, time
from pathlib import Path
import numpy as np
import pydicom
source, output = map(Path, sys.argv[1:])
output.mkdir()
began = time.process_time()
for place in sorted(source.rglob("*.dcm")):
    image = pydicom.dcmread(place)
    values = image.pixel_array
    changed = (values + 1).astype(values.dtype)
    image.PixelData = changed.tobytes()
    image.save_as(output / place.name)
    assert np.array_equal(pydicom.dcmread(output / place.name).pixel_array, changed)
    for file in (place, output / place.name):
        hashlib.sha256(file.read_bytes()).hexdigest()
print(time.process_time() - began)
"""

WRITE_STAGE = """
import sys, time
from pathlib import Path
from monai_salm.pipeline import ProtectOptions
try:
    from monai_salm.pipeline import ProtectionRun
except ImportError:
    from monai_salm.workflow import ProtectionRun
run = ProtectionRun(Path(sys.argv[1]), Path(sys.argv[2]), ProtectOptions(method="random"))
run.prepare()
run.search()
began = time.process_time()
run.write()
print(time.process_time() - began)
"""


@dataclass(frozen=True)
class Version:
    """A version of the package: its name in rows, and the folder that it lies in."""

    name: str
    folder: Path

    def run(self, *arguments: object, accept: tuple[int, ...] = (0,)) -> Cost:
        """Run a command of it; gives what that took."""
        return measured([sys.executable, "-m", "monai_salm", *map(str, arguments)], self.folder, accept)

    def protect(self, source: Path, output: Path, *arguments: object) -> Cost:
        """Draw noise for an export."""
        return self.run("protect", source, output, "--method", "random", "--quiet", *arguments)


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds, and those of the processor; and the largest memory of it and of all its processes
    together, in MiB.
    """

    seconds: float
    cpu_seconds: float
    mib: float
    said: str = ""


def measured(command: list[str], package: Path, accept: tuple[int, ...] = (0,)) -> Cost:
    """Run a command with a version of the package, one thread to a process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a package that is installed is compiled
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=package)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(_resident, _family(process.pid))))
        # To look takes a third of a core where that is done twenty times a second, which the processes lack.
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(2.0, 0.05 + (time.perf_counter() - began) / 20))
    said = process.stdout.read() if process.stdout is not None else ""
    seconds = time.perf_counter() - began
    if process.returncode not in accept:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}: {said[:500]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, used, peak, said)


def _family(process: int) -> Iterator[int]:
    """Give a process and all that it and its threads started."""
    yield process
    tasks = Path(f"/proc/{process}/task")
    try:
        threads = list(tasks.iterdir())
    except OSError:  # it has just ended
        return
    for thread in threads:
        try:
            children = (thread / "children").read_text()
        except OSError:
            continue
        for child in children.split():
            yield from _family(int(child))


def _resident(process: int) -> float:
    """Give the memory that a process has for itself; what it shares counts in part (PSS)."""
    try:
        found = re.search(r"Pss:\s*(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


# Files ---------------------------------------------------------------------------------------------------------------


def make_export(folder: Path, kind: str, count: int) -> Path:
    """Write slices of bodies with noise in them; no two are the same."""
    side, _ = KINDS[kind]
    generator, rows = np.random.default_rng(0), np.linspace(-1, 1, side)
    inside = rows[:, None] ** 2 + rows**2 < 0.6
    image = slice_header(kind, side)
    for number in range(count):
        series, place = divmod(number, SERIES)
        if place == 0:
            (folder / f"{series:04d}").mkdir(parents=True)
            image.SeriesInstanceUID, image.StudyInstanceUID = uid(1, series), uid(2, series)
            image.FrameOfReferenceUID, image.PatientID = uid(3, series), f"P{series}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = uid(0, number)
        image.ImagePositionPatient, image.InstanceNumber = [0, 0, place], place + 1
        body = generator.integers(20, 80, (side, side)) if kind != "MR" else generator.integers(200, 500, (side, side))
        values = np.where(inside, body, -1000 if kind != "MR" else 0)
        image.PixelData = values.astype(np.int16).tobytes()
        image["PixelData"].VR = "OW"
        image.save_as(folder / f"{series:04d}" / f"{place:04d}.dcm", enforce_file_format=True)
    return folder


def uid(kind: int, number: int) -> str:
    """Give a UID of its own."""
    return f"1.2.826.0.1.3680043.8.498.{kind + 1}.{number + 1}"


def slice_header(kind: str, side: int) -> Dataset:
    """Give the header of a slice, with the elements that scanners write."""
    image, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    sop_class = "1.2.840.10008.5.1.4.1.1.4" if kind == "MR" else "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPClassUID = image.SOPClassUID = sop_class
    image.file_meta = meta
    image.PatientName, image.PatientSex, image.PatientBirthDate, image.AccessionNumber = "A^B", "O", "", "1"
    image.Modality, image.Manufacturer = "MR" if kind == "MR" else "CT", "X"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
    image.StudyID, image.SeriesNumber, image.SliceThickness, image.ReferringPhysicianName = "1", 1, 1, ""
    image.ImageOrientationPatient, image.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.8, 0.8]
    image.Rows = image.Columns = side
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    if kind != "MR":
        image.RescaleSlope, image.RescaleIntercept, image.WindowCenter, image.WindowWidth = 1, 0, 40, 400
    return image


def make_nifti(path: Path) -> None:
    """Write a volume of 512 x 512 x 300, int16."""
    rows = np.linspace(-1, 1, 512, dtype=np.float32)
    inside = rows[:, None] ** 2 + rows**2 < 0.6
    generator = np.random.default_rng(0)
    values = np.full((512, 512, 300), -1000, np.int16)
    for place in range(300):
        values[..., place][inside] = generator.integers(20, 80, int(inside.sum()))
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def make_cine(path: Path) -> None:
    """Write an ultrasound loop of 2000 frames of 240 x 320."""
    image = slice_header("small", 240)
    image.Modality, image.Columns, image.NumberOfFrames = "US", 320, 2000
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    generator = np.random.default_rng(0)
    values = np.zeros((2000, 240, 320), np.uint8)
    values[:, 30:210, 40:280] = generator.integers(40, 160, (2000, 180, 240))
    _save(image, values, path, "OB")


def make_mammogram(path: Path) -> None:
    """Write a mammogram of 4000 x 3000 pixels of 12 bits."""
    image = slice_header("small", 4000)
    image.Modality, image.Columns = "MG", 3000
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 0
    values = np.zeros((4000, 3000), np.uint16)
    values[500:3500, :2200] = np.random.default_rng(0).integers(500, 3000, (3000, 2200))
    _save(image, values, path, "OW")


def _save(image: Dataset, values: np.ndarray, path: Path, vr: str) -> None:
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = uid(0, 0)
    image.SeriesInstanceUID, image.StudyInstanceUID, image.PatientID = uid(1, 0), uid(2, 0), "P0"
    for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
        if name in image:
            del image[name]
    image.PixelData = values.tobytes()
    image["PixelData"].VR = vr
    image.save_as(path, enforce_file_format=True)


# Measures ------------------------------------------------------------------------------------------------------------


def loops(work: Path, versions: list[Version], rows: Rows) -> None:
    """Hold writing and whole runs, of one process, against loops; by the time of the processor, which others that share
    the machine hardly change. A whole run has its start in it, a loop has not.
    """
    for kind, (_, count) in KINDS.items():
        source, output = make_export(fresh(work / kind), kind, count), work / "out"
        plain, careful = (min(_loop(code, source, output) for _ in range(2)) for code in (PLAIN_LOOP, CAREFUL_LOOP))
        for version in versions:
            remove_run(output)
            one = ["--workers", 0 if version.name == "now" else 1]
            whole = version.protect(source, output, *one)
            remove_run(output)
            stage = measured([sys.executable, "-c", WRITE_STAGE, str(source), str(output)], version.folder)
            writing = float(stage.said)
            rows.add(
                what="loops", kind=kind, files=count, version=version.name, plain_loop=round(plain, 2),
                careful_loop=round(careful, 2), write_stage=round(writing, 2), whole=round(whole.cpu_seconds, 2),
                write_ratio=round(careful / writing, 3), whole_ratio=round(plain / whole.cpu_seconds, 3),
                wall_of_whole=round(whole.seconds, 2),
            )  # fmt: skip


def _loop(code: str, source: Path, output: Path) -> float:
    """Give the seconds of the processor that a loop takes, without the start of its process."""
    remove_run(output)
    return float(measured([sys.executable, "-c", code, str(source), str(output)], REPOSITORY).said)


def bytes_read(work: Path, versions: list[Version], rows: Rows) -> None:
    """Count the bytes that are read of each input, by the system's own account (strace)."""
    if shutil.which("strace") is None:
        print("no strace, so what is read is not counted")
        return
    for kind in KINDS:
        source = make_export(fresh(work / "read"), kind, 20)
        size = sum(place.stat().st_size for place in source.rglob("*.dcm"))
        for version in versions:
            remove_run(work / "out")
            counts = {
                "scan": _traced(version, work, source, "scan", source),
                "protect": _traced(version, work, source, "protect", source, work / "out", "--method", "random"),
                "verify": _traced(version, work, source, "verify", source, work / "out"),
            }
            rows.add(
                what="bytes", kind=kind, version=version.name, file_bytes=size // 20,
                **{name: round(count / size, 3) for name, count in counts.items()},
            )  # fmt: skip


_CALL = re.compile(r"^(openat|read|pread64|close|readv)\((.*)\) += (-?\d+)")


def _traced(version: Version, work: Path, source: Path, *arguments: object) -> int:
    """Give the bytes that a command and its processes read of the files of a folder."""
    trace = work / "trace"
    command = [
        "strace",
        "-ff",  # a file for each thread: in one, calls that wait are split into two lines
        "-qq",
        "-s",
        "4096",
        "-e",
        "trace=openat,read,pread64,readv,mmap,close",
        "-o",
        str(trace),
    ]
    measured([*command, sys.executable, "-m", "monai_salm", *map(str, arguments), "--quiet"], version.folder)
    total = 0
    for part in work.glob("trace.*"):
        opened: dict[int, bool] = defaultdict(bool)
        for call in filter(None, map(_CALL.match, part.read_text(errors="replace").splitlines())):
            name, said, result = call[1], call[2], int(call[3])
            if name == "openat":
                opened[result] = str(source) in said
            elif name == "close":
                opened[int(said)] = False
            elif name in ("read", "pread64", "readv") and result > 0:
                total += result * opened[int(said.split(",")[0])]
        part.unlink()
    return total


def processes(work: Path, versions: list[Version], rows: Rows, count: int) -> None:
    """Protect and verify with one process and with two."""
    source = make_export(fresh(work / "many"), "small", count)
    for version in versions:
        took: dict[str, list[float]] = {"protect": [], "verify": []}
        for number in (1, 2):
            remove_run(work / "out")
            took["protect"].append(version.protect(source, work / "out", "--workers", number).seconds)
            if version.name == "now":
                verify = version.run("verify", source, work / "out", "--quiet", "--workers", number)
                took["verify"].append(verify.seconds)
        rows.add(
            what="processes", files=count, version=version.name,
            **{name: [round(seconds, 1) for seconds in both] for name, both in took.items() if both},
            **{f"{name}_ratio": round(both[0] / both[1], 2) for name, both in took.items() if both},
        )  # fmt: skip


def growth(work: Path, versions: list[Version], rows: Rows, count: int) -> None:
    """Protect, verify and resume ten times as many files."""
    for version in versions:
        found: dict[str, list[Cost]] = defaultdict(list)
        for number in (count // 10, count):
            source, output = make_export(fresh(work / "grown"), "small", number), work / "out"
            remove_run(output)
            found["protect"].append(version.protect(source, output, "--workers", 1))
            found["resume"].append(version.protect(source, output, "--workers", 1, "--resume"))
            found["verify"].append(version.run("verify", source, output, "--quiet"))
        for name, (few, many) in found.items():
            rows.add(
                what="growth", command=name, version=version.name, files=[count // 10, count],
                seconds=[round(few.seconds, 1), round(many.seconds, 1)], MiB=[round(few.mib), round(many.mib)],
                time_ratio=round(many.seconds / few.seconds, 2),
                KiB_per_file=round((many.mib - few.mib) * 1024 / (count - count // 10), 2),
            )  # fmt: skip
        fresh_run, again = found["protect"][1].seconds, found["resume"][1].seconds
        rows.add(what="resume", version=version.name, files=count, share=round(again / fresh_run, 3))


def memory(work: Path, versions: list[Version], rows: Rows) -> None:
    """Protect and verify what is large."""
    made = {"nifti": make_nifti, "cine": make_cine, "mammogram": make_mammogram}
    for name, make in made.items():
        folder = fresh(work / name)
        make(folder / ("image.nii" if name == "nifti" else "image.dcm"))
    make_export(fresh(work / "series"), "CT", 300)
    for name in (*made, "series"):
        for version in versions:
            remove_run(work / "out")
            modality = ["--modality", "CT"] if name == "nifti" else []
            costs = {
                "protect": version.protect(work / name, work / "out", "--workers", 1, *modality),
                "verify": version.run("verify", work / name, work / "out", "--quiet", *modality),
            }
            rows.add(
                what="memory", input=name, version=version.name,
                MiB={command: round(cost.mib) for command, cost in costs.items()},
                seconds={command: round(cost.seconds, 1) for command, cost in costs.items()},
            )  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", data=False)
    arguments.add_argument("--before", type=Path, help="checkout of an earlier version, measured beside this one")
    arguments.add_argument("--only", default="loops,bytes,memory,processes,growth")
    arguments.add_argument("--many", type=int, default=5000, help="files for one process and for two")
    arguments.add_argument("--grown", type=int, default=20_000, help="files, and a tenth of them, for the growth")
    given = arguments.parse_args()
    rows = Rows(given.results / "speed.jsonl", keep=True)
    versions = [Version("now", REPOSITORY)] + ([Version("before", given.before)] if given.before else [])
    given.work.mkdir(parents=True, exist_ok=True)
    measures: dict[str, Callable[[], None]] = {
        "loops": lambda: loops(given.work, versions, rows),
        "bytes": lambda: bytes_read(given.work, versions, rows),
        "memory": lambda: memory(given.work, versions, rows),
        "processes": lambda: processes(given.work, versions, rows, given.many),
        "growth": lambda: growth(given.work, versions, rows, given.grown),
    }
    for name in given.only.split(","):
        measures[name]()


if __name__ == "__main__":
    print(json.dumps({"started": time.strftime("%H:%M:%S")}), flush=True)
    main()
