# SPDX-License-Identifier: Apache-2.0
"""Releases that grow: whether one that grew in ten steps (``protect --add``) is, file by file, the one that was made at
once with the same surrogate; and whether victims learn as little from images that were added as from the first ones.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from classification import DATA_SETS, split_labels
from common import KEY, Rows, fresh, parser, remove_run
from restoring import command

from monai_salm.evaluate import EvaluateOptions, evaluate
from monai_salm.pipeline import scan
from monai_salm.pipeline.fates import load_fates

SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fidelity_cases": ("fidelity_cases", ("--method", "random")),
    "ct_contrast": (
        "ct_contrast/dicom",
        ("--method", "salm:texture", "--labels", "ct_contrast/index.csv", "--label-column", "contrast"),
    ),
    "mr_studies": ("mr_studies", ("--method", "random")),
    "hippocampus": (
        "hippocampus/imagesTr",
        ("--method", "salm:lattice", "--labels", "hippocampus/labelsTr", "--task", "segmentation"),
    ),
}
"""Data set -> folder, and how it is protected."""

STEPS = 10


def days(source: Path, folder: Path, *, whole_series: bool) -> list[Path]:
    """Copy the files of an input into a folder for each step, by chance.

    Args:
        source: the input.
        folder: of the folders.
        whole_series: whether the files of a series come on one day.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    inventory = scan(source)
    for path in sorted(record.path for record in inventory.files):
        header = inventory.headers.get(path)
        series = header.identifiers.get("SeriesInstanceUID", "") if header is not None else ""
        # Header and values of one image have one name.
        groups[series if series and whole_series else path.partition(".")[0]].append(path)
    chance = random.Random(0)
    dealt: list[list[str]] = [[] for _ in range(STEPS)]
    for paths in groups.values():
        dealt[chance.randrange(STEPS)] += paths
    places = []
    for number, paths in enumerate(dealt):
        for path in paths:
            target = folder / str(number) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, target)
        places += [folder / str(number)] if paths else []
    return places


def _place(data: Path, source: Path, part: str, work: Path) -> Path:
    """Give where labels lie; of a table a copy whose paths are below the images' folder, wherever that is copied to."""
    place = data / part
    if place.suffix != ".csv":
        return place
    table, inner = work / "labels.csv", source.relative_to(place.parent).as_posix()
    table.write_text(place.read_text(encoding="utf-8").replace(f"\n{inner}/", "\n"), encoding="utf-8")
    return table


def grow(given_data: Path, work: Path, rows: Rows, wanted: Sequence[str]) -> None:
    """Hold a release that grew against one that was made at once, with the same surrogate where the method has one."""
    for name, (folder, options) in SETS.items():
        if name not in wanted:
            continue
        source = given_data / folder
        how: list[object] = [_place(given_data, source, part, work) if "/" in part else part for part in options]
        how += ["--key-file", KEY, "--no-restore", "--no-estimate", "--working-size", 64]
        if "salm:texture" in how:
            remove_run(work / "searched")
            command("protect", source, work / "searched", *how, "--rounds", 2)
            how += ["--surrogate", work / "searched.work" / "surrogate.safetensors"]
        remove_run(work / "once")
        began = time.monotonic()
        command("protect", source, work / "once", *how)
        seconds = time.monotonic() - began
        for whole_series in (True, False):
            remove_run(work / "grown")
            first, *later = days(source, fresh(work / "days"), whole_series=whole_series)
            command("protect", first, work / "grown", *how)
            labels = how[how.index("--labels") :][:2] if "--labels" in how else []
            for place in later:
                command("protect", place, work / "grown", "--add", "--no-restore", *labels)
            made, grown = (load_fates(work / f"{release}.work" / "manifest.jsonl") for release in ("once", "grown"))
            handed_out = [path for path, fate in made.items() if fate.status in ("protected", "copied")]
            other = [path for path in made if made[path].sha256_out != grown[path].sha256_out]
            # Of two files that say to be one image, the one that came first is handed out.
            rivals = [
                path
                for path in other
                if any(
                    said in fates[path].reason
                    for fates in (made, grown)
                    for said in ("its SOPInstanceUID", "holds the same values")
                )
            ]
            rows.add(
                what="grown", data_set=name, options=[part for part in options if not part.startswith("--")],
                steps=1 + len(later), whole_series=whole_series, files=len(made), handed_out=len(handed_out),
                same=sum(made[path].sha256_out == grown[path].sha256_out for path in handed_out),
                seconds_at_once=round(seconds, 1), rivals=len(rivals),
                other=[path for path in other if path not in rivals][:5],
            )  # fmt: skip


def halves(given_data: Path, work: Path, rows: Rows, data_set: str, seeds: int, epochs: int) -> None:
    """Protect half of the training images with the defaults of ``protect``, add the other half, and train victims on
    either half, clean and as it was handed out.
    """
    data, work = DATA_SETS[data_set], work / data_set
    source = given_data / data.folder
    labels = {split: split_labels(data_set, source, work / split, split) for split in ("train", "test")}
    kinds = [part for pattern in data.pictures for part in ("--pictures", pattern)]
    paths = sorted(path.name for path in (work / "train").iterdir())
    random.Random(0).shuffle(paths)
    parts = {"first": paths[: len(paths) // 2], "second": paths[len(paths) // 2 :]}
    for part, names in parts.items():
        fresh(work / part)
        for name in names:
            shutil.copy2(work / "train" / name, work / part / name)
    remove_run(work / "out")
    shared = ["--key-file", KEY, "--no-restore", "--labels", labels["train"], *kinds]
    command("protect", work / "first", work / "out", *shared, "--working-size", data.working_size)
    command("protect", work / "second", work / "out", *shared, "--add")
    for part, names in parts.items():
        handed_out = fresh(work / f"{part}_out")
        for name in names:
            written = [place for place in (work / "out").glob(f"{name.partition('.')[0]}.*") if place.is_file()]
            for place in written:
                shutil.copy2(place, handed_out / place.name)
        options = EvaluateOptions(
            labels=labels["train"], test_labels=labels["test"], working_size=data.working_size, pictures=data.pictures,
            victims="small-resnet,small-cnn", countermeasures="none", protected_shares="100", seeds=seeds,
            epochs=epochs or data.epochs, utility=False, verification=False, state=work / f"state_{part}.jsonl",
        )  # fmt: skip
        report = evaluate(work / part, {"salm": handed_out}, work / "test", options, show_progress=True)
        rows.add(
            what="half", data_set=data_set, half=part, files=len(names), chance=report.chance, seeds=seeds,
            summary=report.summary(), verdicts=report.verdicts(),
        )  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--only", default="grown,halves")
    arguments.add_argument("--sets", default=",".join(SETS))
    arguments.add_argument("--victims-of", default="breast,pneumonia")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=0)
    given = arguments.parse_args()
    rows = Rows(given.results / "growing.jsonl", keep=True)
    work = given.work
    work.mkdir(parents=True, exist_ok=True)
    if "grown" in given.only:
        grow(given.data, work, rows, given.sets.split(","))
    if "halves" in given.only:
        for name in given.victims_of.split(","):
            halves(given.data, work, rows, name, given.seeds, given.epochs)


if __name__ == "__main__":
    main()
