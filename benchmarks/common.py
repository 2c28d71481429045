# SPDX-License-Identifier: Apache-2.0
"""What the benchmark scripts share: running commands and measuring them, and rows that are on disk as soon as they are known."""

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
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


def parser(description: str, data: str) -> argparse.ArgumentParser:
    """Give a parser with the options that all scripts have."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / data, help="the data set's folder")
    result.add_argument("--work", type=Path, required=True, help="scratch folder for the files that are made")
    result.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder for the rows")
    return result


class Rows:
    """A JSON-lines file that each row is added to as soon as it is known, with the commit and the machine that made it."""

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not keep:
            path.write_text("", encoding="utf-8")
        self.context = {"commit": commit(), "machine": machine()}

    def add(self, **row: Any) -> None:
        """Write a row and print it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | self.context) + "\n")
        print(json.dumps(row), flush=True)


def commit() -> str:
    """Give the short hash of the commit, with + if the tree differs from it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    dirty = subprocess.run(["git", "status", "--porcelain", "--", "monai_salm"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    return head + ("+" if dirty else "")


def machine() -> str:
    """Say what ran it."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8")) if Path("/proc/cpuinfo").exists() else None
    return f"{os.cpu_count()} cores {model[1] if model else platform.machine()}, Python {platform.python_version()}"


def salm(*arguments: object, accept: tuple[int, ...] = (0,)) -> tuple[dict[str, Any], float, float]:
    """Run a ``monai-salm`` command with ``--json``.

    Returns:
        Its result, the seconds it took, and the largest resident memory of it and its workers in GiB.
    """
    command = [sys.executable, "-m", "monai_salm", *map(str, arguments), "--json"]
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
    return names[0] == names[1] and all((first / name).read_bytes() == (second / name).read_bytes() for name in names[0])
