# SPDX-License-Identifier: Apache-2.0
"""How many small DICOM files `scan` looks at in a second, what it keeps of each in memory, and what it reads of them;
the files are made in a temporary folder from one template.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import Rows, parser
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

FILES_OF_A_SERIES = 200
DIGITS = 12
"""Of the numbers in UIDs, so that each file's replaces the template's without moving anything."""

PEAK = """
import json, re, sys, time
from pathlib import Path
def peak():  # what getrusage says is at least what the process had that started this one
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
"""
SCAN = f"""{PEAK}
from monai_salm.pipeline.scanning import scan
before, began, worked = peak(), time.perf_counter(), time.process_time()
found = scan(Path(sys.argv[1]))
seconds, cpu = time.perf_counter() - began, time.process_time() - worked
images = len(found.pictures)
print(json.dumps({{"images": images, "seconds": seconds, "cpu": cpu, "at_start": before, "MiB": peak()}}))
"""
COMMAND = f"""{PEAK}
from monai_salm.cli import cli
cli(["scan", sys.argv[1], "--quiet"], standalone_mode=False)
heavy = {{"torch", "monai", "scipy.signal", "SimpleITK"}} & set(sys.modules)
print(json.dumps({{"MiB": peak(), "heavy": sorted(heavy)}}))
"""


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", data=False)
    arguments.add_argument("--files", type=int, default=20_000, help="how many files")
    arguments.add_argument("--side", type=int, default=64, help="rows and columns of each")
    given = arguments.parse_args()
    rows = Rows(given.results / "scanning.jsonl", keep=True)
    given.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=given.work) as folder:
        one, tree = Path(folder, "one"), Path(folder, "tree")
        make_tree(one, 1, given.side)
        made = make_tree(tree, given.files, given.side)
        rows.add(what="start", **of_command(one))
        rows.add(what="scan", files=given.files, side=given.side, bytes=made, **of_scan(tree))
        rows.add(what="command", files=given.files, side=given.side, **of_command(tree))


def make_tree(folder: Path, files: int, side: int) -> int:
    """Write files with UIDs of their own, a folder for each series; gives the bytes that were written."""
    content, size = template(side), 0
    for number in range(files):
        place = folder / f"{number // FILES_OF_A_SERIES:06d}"
        if number % FILES_OF_A_SERIES == 0:
            place.mkdir(parents=True)
        new = content
        for kind, own in enumerate((number, number // FILES_OF_A_SERIES)):
            new = new.replace(uid(kind, 0).encode(), uid(kind, own).encode())
        (place / f"{number:08d}.dcm").write_bytes(new)
        size += len(new)
    return size


def uid(kind: int, number: int) -> str:
    """Give a UID of a length that the number has no part in."""
    return f"1.2.826.0.1.3680043.8.498.{kind}.{10 ** (DIGITS - 1) + number}"


def template(side: int) -> bytes:
    """Give a CT image as scanners write them, the first of its series."""
    series = uid(1, 0)
    image, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = uid(0, 0)
    image.file_meta = meta
    image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = series, f"{series}.1", f"{series}.2"
    image.PatientID, image.PatientName, image.PatientSex, image.AccessionNumber = "P1", "A^B", "O", "1"
    image.Modality, image.Manufacturer, image.ImageType = "CT", "X", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
    image.KVP, image.SliceThickness, image.SeriesNumber, image.InstanceNumber = 120, 1, 1, 1
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    image.Rows = image.Columns = side
    image.PixelSpacing, image.SamplesPerPixel, image.PhotometricInterpretation = [0.8, 0.8], 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.WindowCenter, image.WindowWidth = 1, 0, 40, 400
    image.PixelData = np.random.default_rng(0).integers(-1000, 1000, (side, side), np.int16).tobytes()
    image["PixelData"].VR = "OW"
    with TemporaryDirectory() as folder:
        image.save_as(Path(folder, "a"), enforce_file_format=True)
        return Path(folder, "a").read_bytes()


def of_scan(tree: Path) -> dict[str, object]:
    """Measure the scan alone, in a process of its own."""
    found, _, _ = _measured(SCAN, tree)
    grown = (found["MiB"] - found["at_start"]) * 1024 / max(1, found["images"])
    return {
        "images": found["images"], "files_per_second": round(found["images"] / found["seconds"]),
        "files_per_cpu_second": round(found["images"] / found["cpu"]),
        "MiB": round(found["MiB"]), "KiB_per_file": round(grown, 2),
    }  # fmt: skip


def of_command(tree: Path) -> dict[str, object]:
    """Measure the command, from its start to its end."""
    found, seconds, cpu_seconds = _measured(COMMAND, tree)
    return {
        "seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "MiB": round(found["MiB"]),
        "heavy": found["heavy"],
    }  # fmt: skip


def _measured(code: str, tree: Path) -> tuple[dict[str, Any], float, float]:
    """Run a program that prints JSON last; gives that, the seconds it took and those of the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, tree], stdout=subprocess.PIPE, env=environment, check=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]), seconds, used


if __name__ == "__main__":
    main()
