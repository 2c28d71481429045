# SPDX-License-Identifier: Apache-2.0
"""The way back: whether all originals come back byte for byte, what residuals take beside compressed images, what
writing and using them costs beside the write stage, and whether any that was tampered with is accepted.
"""

from __future__ import annotations

import gzip
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import KEY, REPOSITORY, Rows, fresh, parser, remove_run
from speed import KINDS, make_export

from monai_salm.errors import RefusedError
from monai_salm.io import read_source
from monai_salm.pipeline.fates import load_fates
from monai_salm.pipeline.way_back import WayBack

SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fidelity_cases": ("fidelity_cases", ()),
    "ct_contrast": ("ct_contrast/dicom", ("--labels", "ct_contrast/index.csv", "--label-column", "contrast")),
    "mr_studies": ("mr_studies", ()),
    "hippocampus": ("hippocampus/imagesTr", ("--labels", "hippocampus/labelsTr", "--task", "segmentation")),
}
"""Data set -> folder, and what a search needs of it; nothing where there are no labels."""

SEARCHES = {"ct_contrast": "salm:texture", "hippocampus": "salm:lattice"}
"""What is searched for, in two rounds: more rounds give other noise, but not more of it."""

WRITE_STAGE = """
import sys, time
from pathlib import Path
from monai_salm.pipeline import ProtectionRun, ProtectOptions
options = ProtectOptions(method="random", key_file=Path(sys.argv[3]), restore=sys.argv[4] == "yes")
run = ProtectionRun(Path(sys.argv[1]), Path(sys.argv[2]), options)
run.prepare()
run.search()
began = time.process_time()
run.write()
print(time.process_time() - began)
"""
RESTORE = """
import sys, time
from pathlib import Path
from monai_salm.pipeline import restore
import monai_salm.pipeline.restoring
began = time.process_time()
restore(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
print(time.process_time() - began)
"""


def come_back(given_data: Path, work: Path, rows: Rows) -> None:
    """Protect and restore each data set, with drawn noise and with that of a search."""
    for name, (folder, labels) in SETS.items():
        source = given_data / folder
        methods: list[tuple[str, Sequence[object]]] = [("random", ())]
        if name in SEARCHES:
            places = [str(given_data / part) if "/" in part else part for part in labels]
            methods.append((SEARCHES[name], (*places, "--rounds", 2, "--working-size", 64, "--no-estimate")))
        for method, options in methods:
            output, back = work / f"{name}_{method.replace(':', '-')}", work / "back"
            remove_run(output)
            shutil.rmtree(back, ignore_errors=True)
            command("protect", source, output, "--method", method, *options, "--key-file", KEY)
            command("restore", output, back, "--key-file", KEY)
            fates = load_fates(output.with_name(f"{output.name}.work") / "manifest.jsonl")
            handed_out = [fate.path for fate in fates.values() if fate.status in ("protected", "copied")]
            protected = [fate.path for fate in fates.values() if fate.status == "protected"]
            same = [path for path in handed_out if (back / path).read_bytes() == (source / path).read_bytes()]
            residuals = output.with_name(f"{output.name}.work") / "residuals"
            sizes = {fate.path: (residuals / fate.residual).stat().st_size for fate in fates.values() if fate.residual}
            rows.add(
                what="back", data_set=name, method=method, handed_out=len(handed_out), same=len(same),
                protected=len(protected), residual_bytes=sum(sizes[path] for path in protected),
                gzip_bytes=sum(gzip_size(source / path) for path in protected),
                jpeg_ls_bytes=sum(jpeg_ls_size(source / path) for path in protected),
                file_bytes=sum((source / path).stat().st_size for path in protected),
            )  # fmt: skip


def gzip_size(place: Path) -> int:
    """Give how large a file is once it is compressed."""
    content = place.read_bytes()
    return len(content) if content[:2] == b"\x1f\x8b" else len(gzip.compress(content, 6))


def jpeg_ls_size(place: Path) -> int:
    """Give how large a DICOM image is as JPEG-LS without loss; of others that cannot be, as :func:`gzip_size`."""
    import imagecodecs

    source = read_source(place)
    values = source.stored
    if source.header.format != "dicom" or values.ndim != 2:
        return gzip_size(place)
    low = int(values.min())
    words = (values.astype(np.int64) - low).astype(np.uint16)
    return len(imagecodecs.jpegls_encode(words)) + place.stat().st_size - values.nbytes


def command(*arguments: object) -> None:
    """Run a command; files that are refused are no failure."""
    done = subprocess.run(
        [sys.executable, "-m", "monai_salm", *map(str, arguments), "--quiet"], stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 3):
        raise SystemExit(f"{arguments[0]} ended with exit code {done.returncode}")


def costs(work: Path, rows: Rows, turns: int) -> None:
    """Hold writing with residuals, and restoring, against writing without, in turns."""
    for kind, (_, count) in KINDS.items():
        source = make_export(work / f"in_{kind}", kind, count)
        found: dict[str, list[float]] = {"plain": [], "kept": [], "restored": []}
        for _ in range(turns):
            for name, keeps in (("plain", "no"), ("kept", "yes")):
                output = work / name
                remove_run(output)
                found[name].append(program(WRITE_STAGE, source, output, KEY, keeps))
            shutil.rmtree(work / "back", ignore_errors=True)
            found["restored"].append(program(RESTORE, work / "kept", work / "back", KEY))
        ratios = {
            name: sorted(one / plain for one, plain in zip(found[name], found["plain"], strict=True))
            for name in ("kept", "restored")
        }
        rows.add(
            what="cost", kind=kind, files=count, ms_a_file=round(1e3 * min(found["plain"]) / count, 2),
            keeping=round(statistics.median(ratios["kept"]), 3),
            restoring=round(statistics.median(ratios["restored"]), 3),
            spread={name: [round(value, 3) for value in values] for name, values in ratios.items()},
        )  # fmt: skip


def program(code: str, *arguments: object) -> float:
    """Run a program that prints the seconds of the processor that something took."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def tampered(work: Path, rows: Rows, count: int) -> None:
    """Offer residuals that were tampered with: bits turned, cut, exchanged, of another key, of another release."""
    source = make_export(work / "in_tampered", "small", 50)
    outputs = {"first": (work / "first", 0, KEY), "second": (work / "second", 1, KEY)}
    other = work / "other.key"
    other.write_text("the key of somebody else, which is long enough\n")
    outputs["foreign"] = work / "foreign", 0, other
    for output, seed, key in outputs.values():
        remove_run(output)
        command("protect", source, output, "--method", "random", "--key-file", key, "--seed", seed)
    stores = {
        name: WayBack(output.with_name(f"{output.name}.work") / "residuals", KEY).store
        for name, (output, _, _) in outputs.items()
    }
    contents = {name: [place.read_bytes() for place in store.places()] for name, store in stores.items()}
    places = list(stores["first"].places())
    draw, accepted, offered = random.Random(0), 0, {}
    for number in range(count):
        kind = ("bits", "cut", "exchanged", "foreign key")[number % 4]
        which = draw.randrange(len(places))
        content = bytearray(contents["first"][which])
        if kind == "bits":
            for _ in range(draw.choice((1, 1, 8))):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            content = content[: draw.randrange(len(content))]
        elif kind == "exchanged":
            content = bytearray(contents["first"][(which + draw.randrange(1, len(places))) % len(places)])
        else:
            content = bytearray(contents["foreign"][which])
        if bytes(content) == contents["first"][which]:
            continue
        offered[kind] = offered.get(kind, 0) + 1
        try:
            stores["first"].key.open(places[which].stem, bytes(content))
        except RefusedError:
            continue
        accepted += 1
    # Of another release with the same key each one opens, but does not lead to an original
    back = fresh(work / "wrong")
    done = subprocess.run(
        [
            sys.executable, "-m", "monai_salm", "restore", str(outputs["first"][0]), str(back), "--key-file", str(KEY),
            "--residuals", str(stores["second"].folder), "--quiet",
        ],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    written = sum(place.is_file() for place in back.rglob("*"))
    rows.add(
        what="tampered", offered=offered, accepted=accepted, of_another_release=len(places),
        written_of_another_release=written, code=done.returncode,
    )  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--turns", type=int, default=5)
    arguments.add_argument("--tampered", type=int, default=5000)
    arguments.add_argument("--only", default="back,cost,tampered")
    given = arguments.parse_args()
    rows = Rows(given.results / "restoring.jsonl", keep=True)
    given.work.mkdir(parents=True, exist_ok=True)
    if "back" in given.only:
        come_back(given.data, given.work, rows)
    if "tampered" in given.only:
        tampered(given.work, rows, given.tampered)
    if "cost" in given.only:
        costs(given.work, rows, given.turns)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest process: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
