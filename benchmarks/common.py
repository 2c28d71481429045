# SPDX-License-Identifier: Apache-2.0
"""What the benchmark scripts share: running commands and measuring them, and rows that are on disk as soon as they are
known.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_salm.evaluate import EvaluateOptions, evaluate

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
KEY = REPOSITORY / "benchmarks" / "key.txt"


def parser(description: str, *, data: bool = True) -> argparse.ArgumentParser:
    """Give a parser with the options that all scripts have; not all need data."""
    result = argparse.ArgumentParser(description=description)
    if data:
        result.add_argument(
            "--data", type=Path, required=True, help="folder of the data sets, see benchmarks/README.md"
        )
    result.add_argument("--work", type=Path, required=True, help="scratch folder for the files that are made")
    result.add_argument("--results", type=Path, default=RESULTS, help="folder for the rows")
    return result


def add_grid(arguments: argparse.ArgumentParser, *, epsilon: str, victims: str, epochs: int) -> None:
    """Add the options of a script that protects training files by methods and trains victims on them, with their
    defaults.
    """
    arguments.add_argument("--methods", default="salm", help="separated by commas; salm@1 is salm with --rounds 1")
    arguments.add_argument("--epsilon", default=epsilon)
    arguments.add_argument("--perturbed-fraction", type=float, default=0.4)
    arguments.add_argument("--victims", default=victims)
    arguments.add_argument("--countermeasures", default="none")
    arguments.add_argument("--shares", default="100")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=epochs)
    arguments.add_argument("--least-steps", type=int, help="of a victim; none takes those of monai-salm evaluate")
    arguments.add_argument("--augmentation", default="flips", help="none, flips, nnunet, or several of these")
    arguments.add_argument(
        "--utility", action="store_true", help="score protected images with a network that was trained on clean ones"
    )
    arguments.add_argument("--report", action="store_true", help="write a page with the figures into the work folder")
    arguments.add_argument(
        "--name", default="", help="ending of the rows' file, so that runs beside each other do not share one"
    )


class Rows:
    """A JSON-lines file that each row is added to as soon as it is known, with the commit and the
    machine that made it.
    """

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not keep:
            path.write_text("", encoding="utf-8")
        self.context = {"commit": commit(), "machine": machine()}

    def add(self, **row: Any) -> dict[str, Any]:
        """Write a row and print it.

        Returns:
            The row with its commit and machine; a row that has its own keeps them.
        """
        row |= {name: value for name, value in self.context.items() if name not in row}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return row


def commit() -> str:
    """Give the short hash of the commit, with + if the tree differs from it."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--", "monai_salm"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    return head + ("+" if dirty else "")


def machine() -> str:
    """Say what ran it."""
    model = (
        re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if Path("/proc/cpuinfo").exists()
        else None
    )
    return f"{os.cpu_count()} cores {model[1] if model else platform.machine()}, Python {platform.python_version()}"


def salm(*arguments: object, accept: tuple[int, ...] = (0,)) -> tuple[dict[str, Any], float, float]:
    """Run a ``monai-salm`` command with ``--json``; ``protect`` with the key of the benchmarks, so that they can be run
    again.

    Returns:
        Its result, the seconds it took, and the largest resident memory of it and its workers in GiB.
    """
    key = ["--key-file", str(KEY), "--no-restore"] if arguments[0] == "protect" else []
    command = [sys.executable, "-m", "monai_salm", *map(str, arguments), *key, "--json"]
    print("$ monai-salm", *map(str, arguments), flush=True)
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode not in accept:
        raise SystemExit(f"monai-salm {arguments[0]} ended with exit code {process.returncode}: {output[:500]}")
    return json.loads(output), time.monotonic() - began, peak[0]


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    """Keep the largest resident memory of a process."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return
        found = re.search(r"VmHWM:\s*(\d+)", status)
        if found:
            peak[0] = max(peak[0], int(found[1]) / 2**20)
        time.sleep(0.2)


def protect_by_methods(
    given: argparse.Namespace, rows: Rows, data_set: str, clean: Path, *options: object, images: tuple[str, ...] = ()
) -> dict[str, Path]:
    """Protect the training files by each method of :func:`add_grid`, and check the results; what an earlier run
    finished is used again.

    Args:
        given: the options.
        rows: get one row a method.
        data_set: its name.
        clean: the training files.
        options: of ``monai-salm protect``.
        images: patterns of files that are images, whatever they look like.

    Returns:
        The protected folder of each method.
    """
    bounds = ["--epsilon", given.epsilon]
    folders = {
        method: given.work / f"protected_{method}_{given.epsilon.replace('/', '-')}_{given.perturbed_fraction}"
        for method in given.methods.split(",")
    }
    for method, folder in folders.items():
        record = folder.with_name(f"{folder.name}.json")
        if record.exists():
            rows.add(**json.loads(record.read_text(encoding="utf-8")))
            continue
        remove_run(folder)
        name, _, rounds = method.partition("@")
        chosen = [
            "--method",
            name,
            *(["--rounds", rounds] if rounds else []),
            *bounds,
            "--perturbed-fraction",
            given.perturbed_fraction,
        ]
        kinds = [part for pattern in images for part in ("--pictures", pattern)]
        result, seconds, memory = salm("protect", clean, folder, *chosen, *options, *kinds)
        verdict, _, _ = salm("verify", clean, folder, *bounds, *kinds)
        shares = [file["changed_fraction"] for file in verdict["files"] if file["changed_fraction"] is not None]
        psnr = [file["psnr"] for file in verdict["files"] if file["psnr"] is not None]
        row = rows.add(
            what="protect", data_set=data_set, method=method, epsilon=given.epsilon,
            perturbed_fraction=given.perturbed_fraction, counts=result["counts"],
            verified=verdict["counts"], seconds=round(seconds), peak_gib=round(memory, 2), rounds=result["rounds"],
            passes_per_sample=round(result["passes_per_sample"], 1), lowest_psnr=round(min(psnr), 2),
            mean_psnr=round(sum(psnr) / len(psnr), 2),
            mean_changed_fraction=round(sum(shares) / len(shares), 3), largest_changed_fraction=round(max(shares), 3),
            changed_outside_anatomy=sum(file["changed_outside"] or 0 for file in verdict["files"]),
            choice=result["choice"], estimate=result["estimate"],
        )  # fmt: skip
        record.write_text(json.dumps(row), encoding="utf-8")
    return folders


def measure_victims(
    given: argparse.Namespace,
    rows: Rows,
    data_set: str,
    part: str,
    clean: Path,
    folders: Mapping[str, Path],
    test: Path,
    **options: Any,
) -> None:
    """Train the victims of :func:`add_grid` on clean and on protected files, and score them on clean test files.

    Args:
        given: the options.
        rows: get one row a victim, and one with their means and verdicts.
        data_set: its name.
        part: of the data set that scores come from.
        clean: training files.
        folders: protected training files of each method.
        test: clean test files.
        options: of :class:`~monai_salm.evaluate.EvaluateOptions`, beside those of the script.
    """
    began = time.monotonic()
    setting = {
        "data_set": data_set,
        "part": part,
        "epsilon": given.epsilon,
        "perturbed_fraction": given.perturbed_fraction,
    }
    chosen = EvaluateOptions(
        victims=given.victims, countermeasures=given.countermeasures, protected_shares=given.shares, seeds=given.seeds,
        epochs=given.epochs, least_steps=given.least_steps, augmentation=given.augmentation,
        utility=given.utility, verification=given.report, state=given.work / f"state_{part}{given.name}.jsonl",
        report=given.work / f"report_{given.name}.html" if given.report else None, **options,
    )  # fmt: skip
    report = evaluate(clean, folders, test, chosen, show_progress=True)
    for result in report.results:
        rows.add(
            what="victim", **setting, epochs=given.epochs, least_steps=given.least_steps, **result.to_json()
        )  # fmt: skip
    rows.add(
        what="summary", **setting, seconds=round(time.monotonic() - began), counts=report.counts, chance=report.chance,
        majority_share=report.majority_share, summary=report.summary(), verdicts=report.verdicts(),
        utility=report.utility, notes=report.notes,
    )  # fmt: skip
    print(report.table())


def fresh(folder: Path) -> Path:
    """Give an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def remove_run(output: Path) -> None:
    """Remove a protected folder and its private work folder."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.rmtree(output.with_name(output.name + ".work"), ignore_errors=True)


def same_tree(first: Path, second: Path) -> bool:
    """Say whether two folders hold the same files with the same bytes."""
    names = [sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()) for root in (first, second)]
    return names[0] == names[1] and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names[0]
    )
