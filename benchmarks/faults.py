# SPDX-License-Identifier: Apache-2.0
"""What becomes of runs that are killed in the middle, or whose processes are, and of inputs that are hostile: whether
the same command with `--resume` ends with the very bytes of an undisturbed run, and leaves nothing else behind. The
same of disks that fill in the middle; these are mounted in memory, which takes the rights of root.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from common import KEY, REPOSITORY, Rows, fresh, parser, remove_run
from speed import make_export

STAGES = ("plan", "search", "write", "zip")
COUNT = 100
LABELED = ("--method", "salm:texture", "--rounds", "2", "--working-size", "24", "--no-estimate", "--device", "cpu")


class Trial:
    """A command that can be disturbed, and what its undisturbed run wrote.

    Args:
        work: folder for all of it.
        source: the input.
        zipped: whether the input is packed.
        options: of ``protect``.
    """

    def __init__(self, work: Path, source: Path, zipped: bool, options: tuple[object, ...]) -> None:
        self.work, self.options = work, tuple(map(str, options))
        work.mkdir(parents=True)
        self.source = Path(shutil.make_archive(str(source), "zip", source)) if zipped else source
        self.output = work / ("out.zip" if zipped else "out")
        self.private = self.output.with_name(f"{self.output.name}.work")
        self.marks: list[float] = []
        process = self.begin()
        began = time.monotonic()
        self._wait_for(process, lambda: (self.private / "plan.jsonl").exists(), began)
        self._wait_for(process, lambda: (self.private / "search.json").exists(), began)
        self._wait_for(process, lambda: process.poll() is not None, began)
        self.whole = self.digest()

    def _wait_for(self, process: subprocess.Popen[bytes], happened: Callable[[], bool], began: float) -> None:
        while not happened() and process.poll() is None:
            time.sleep(0.005)
        self.marks.append(time.monotonic() - began)

    def begin(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the command in a session of its own."""
        command = [sys.executable, "-m", "monai_salm", "protect", str(self.source), str(self.output), "--workers", "2"]
        command += ["--key-file", str(KEY), "--quiet", *self.options, *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env=environment
        )

    def moment(self, stage: str) -> float:
        """Draw a moment of a stage, in seconds after the start."""
        planned, searched, ended = self.marks
        low, high = {"plan": (0.3, planned), "search": (planned, searched), "write": (searched, ended)}.get(
            stage, (0.3, ended)
        )
        return random.uniform(low, max(low, high))

    def digest(self) -> str:
        """Give a digest of all that the output holds."""
        found = hashlib.sha256()
        for place in [self.output] if self.output.is_file() else sorted(self.output.rglob("*")):
            if place.is_file():
                found.update(place.name.encode() + place.read_bytes())
        return found.hexdigest()

    def clear(self) -> None:
        """Remove what a run left."""
        remove_run(self.output)
        self.output.unlink(missing_ok=True)

    def leftovers(self) -> list[str]:
        """Name temporary files and what was unpacked."""
        places = [*self.work.glob(".salm-*.tmp"), *self.private.rglob("*.tmp"), *self.output.rglob(".salm-*")]
        places += [self.private / name for name in ("input", "output") if (self.private / name).exists()]
        return [str(place.relative_to(self.work)) for place in places]


def killed(trial: Trial, stage: str, how: signal.Signals) -> dict[str, object]:
    """Kill a run in a stage, and go on."""
    trial.clear()
    after = trial.moment(stage)
    process = trial.begin()
    time.sleep(after)
    process.send_signal(how)
    process.wait()
    time.sleep(2)
    living = _living(process.pid)
    # What was killed before it had a plan has nothing to go on with, and says so
    more = ("--resume",) if (trial.private / "plan.jsonl").exists() else ()
    if not more:
        trial.clear()
    again = trial.begin(*more)
    _, said = again.communicate()
    return {
        "stage": stage, "signal": how.name, "after": round(after, 2), "code": again.returncode, "living": living,
        "same": again.returncode == 0 and trial.digest() == trial.whole, "left": trial.leftovers(),
        "said": said.decode(errors="replace").strip()[-300:],
    }  # fmt: skip


def worker_killed(trial: Trial, stage: str) -> dict[str, object]:
    """Kill a process that works for a run; the run does its job again."""
    trial.clear()
    after = trial.moment(stage)
    process = trial.begin()
    time.sleep(after)
    workers = [pid for pid in _session(process.pid) if pid != process.pid]
    if workers:
        os.kill(random.choice(workers), signal.SIGKILL)
    _, said = process.communicate()
    return {
        "stage": stage, "signal": "a worker's SIGKILL", "after": round(after, 2), "code": process.returncode,
        "workers": len(workers), "living": _living(process.pid),
        "same": process.returncode == 0 and trial.digest() == trial.whole, "left": trial.leftovers(),
        "said": said.decode(errors="replace").strip()[-300:],
    }  # fmt: skip


def _session(leader: int) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(place.name))
    return found


def _living(leader: int) -> int:
    return len(_session(leader))


# Disks that fill ------------------------------------------------------------------------------------------------------


def disk_filled(trial: Trial, stage: str, disk: Path) -> dict[str, object]:
    """Fill the disk of output and private folder at a moment of a stage, and go on once there is room again."""
    trial.clear()
    after, filler = trial.moment(stage), disk / "somebody's"
    process = trial.begin()
    time.sleep(after)
    left = random.choice((0, 4096, 20_000))  # room for a file or two
    _fill(filler, left)
    _, said = process.communicate()
    filler.unlink()
    lines = said.decode(errors="replace").strip().splitlines()
    told = len(lines) == 1 and str(disk) in lines[0] and "No space left" in lines[0]
    left_behind = trial.leftovers()
    more = ("--resume",) if (trial.private / "plan.jsonl").exists() else ()
    if not more:
        trial.clear()
    again = trial.begin(*more) if process.returncode else process
    _, said_again = again.communicate() if again is not process else (b"", b"")
    return {
        "stage": stage, "after": round(after, 2), "code": process.returncode, "code_again": again.returncode,
        "told": told or process.returncode == 0, "same": again.returncode == 0 and trial.digest() == trial.whole,
        "left": left_behind + trial.leftovers(), "living": _living(process.pid), "said": lines[-3:],
        "said_again": said_again.decode(errors="replace").strip()[-300:],
    }  # fmt: skip


def _fill(filler: Path, left: int) -> None:
    """Write a file until so few bytes are free; others may write beside it."""
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while (free := shutil.disk_usage(filler.parent).free) > left:
            stream.write(bytes(min(1 << 20, free - left)))


def disks(work: Path, rows: Rows, source: Path, stages: list[str], labeled: tuple[object, ...], times: int) -> None:
    """Fill the disk of a run in each of some stages."""
    disk = work / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)], check=True)
    try:
        for stage in stages:
            options = labeled if stage == "search" else ("--method", "random")
            trial = Trial(disk / stage, source, stage == "zip", options)
            outcomes: Counter[str] = Counter()
            for _ in range(times):
                found = disk_filled(trial, stage, disk)
                good = found["told"] and found["same"] and not found["left"] and not found["living"]
                outcomes["right" if good else "wrong"] += 1
                outcomes["met"] += found["code"] != 0
                if not good:
                    print(found, flush=True)
            rows.add(what="disks", stage=stage, times=times, files=COUNT, **outcomes)
            shutil.rmtree(trial.work)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# A tree of hostile names ----------------------------------------------------------------------------------------------


def hostile(work: Path, rows: Rows, count: int) -> None:
    """Protect a tree of names, modes and links that mean harm, and look whether anything else was touched."""
    folder = fresh(work / "hostile")
    source, outside = folder / "in", folder / "outside"
    template = next(make_export(folder / "template", "small", 1).rglob("*.dcm")).read_bytes()
    outside.mkdir()
    (outside / "victim.txt").write_text("mine")
    random.seed(0)
    source.mkdir()
    for number in range(count):
        _hostile_file(source, outside, template, number)
    before = _listing(outside)
    command = [sys.executable, "-m", "monai_salm", "protect", str(source), str(folder / "out"), "--method", "random"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    began = time.monotonic()
    done = subprocess.run([*command, "--quiet"], capture_output=True, env=environment, cwd=folder, check=False)
    took = time.monotonic() - began
    strange = sorted({place.name for place in folder.iterdir()} - {"in", "out", "out.work", "outside", "template"})
    shown = [byte for byte in done.stdout + done.stderr if byte < 32 and byte not in b"\n\r\t"]
    untouched = before == _listing(outside)
    rows.add(
        what="hostile", files=count, code=done.returncode, seconds=round(took, 1), untouched=untouched,
        beside=strange, control_characters=len(shown), traceback=b"Traceback" in done.stderr,
        written=sum(place.is_file() for place in (folder / "out").rglob("*")),
    )  # fmt: skip


def _hostile_file(source: Path, outside: Path, template: bytes, number: int) -> None:
    names = [
        f"{number}\x1b[2J.dcm", f"..{number}", f"-rf {number}", f"{number}\n.dcm", f"%s{number}%n",
        f"$(touch {number})",
        f"{number};rm -rf .dcm", "x" * 200 + str(number), f".salm-{number:012x}-{number:08x}.tmp",
        f"{number}\u202e.dcm", os.fsdecode(b"\xff%d" % number), f"{number}.dcm ", f"DICOMDIR{number}", f"~{number}",
        f"{number}\\..\\x.dcm",
    ]  # fmt: skip
    folder = source / f"{number // 500}"
    folder.mkdir(exist_ok=True)
    place = folder / random.choice(names)
    kind = random.random()
    if kind < 0.1:
        place.symlink_to(random.choice([outside / "victim.txt", Path("../../outside"), place, Path("/etc/passwd")]))
    elif kind < 0.13:
        os.mkfifo(place)
    elif kind < 0.2:
        place.write_bytes(template[: random.randrange(len(template))])
    elif kind < 0.25:
        place.write_bytes(np.random.default_rng(number).bytes(300))
    else:
        uid = f"1.2.826.0.1.3680043.8.498.1.{number + 1}".encode()
        uid += b"\0" * (len(uid) % 2)
        place.write_bytes(_with_uid(template, uid))
    if kind > 0.95 and not place.is_symlink():
        place.chmod(random.choice([0o000, 0o444, 0o777]))


def _with_uid(template: bytes, uid: bytes) -> bytes:
    """Give a file with another SOP Instance UID; its length changes, and with it that of the file meta information."""
    old = b"1.2.826.0.1.3680043.8.498.1.1"
    old += b"\0" * (len(old) % 2)
    changed = template
    for tag in (b"\x02\x00\x03\x00UI", b"\x08\x00\x18\x00UI"):
        changed = changed.replace(
            tag + len(old).to_bytes(2, "little") + old, tag + len(uid).to_bytes(2, "little") + uid
        )
    start = changed.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    length = int.from_bytes(changed[start : start + 4], "little") + len(uid) - len(old)
    return changed[:start] + length.to_bytes(4, "little") + changed[start + 4 :]


def _listing(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(place): (place.read_bytes() if place.is_file() else b"", place.lstat().st_mtime_ns)
        for place in [folder, *folder.rglob("*")]
    }


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", data=False)
    arguments.add_argument("--times", type=int, default=50, help="kills in each stage")
    arguments.add_argument("--disks", type=int, default=0, help="disks that fill, in each stage")
    arguments.add_argument("--stages", default=",".join(STAGES))
    arguments.add_argument("--hostile", type=int, default=20_000, help="files of the hostile tree; 0 for none")
    given = arguments.parse_args()
    rows = Rows(given.results / "faults.jsonl", keep=True)
    random.seed(1)
    work = fresh(given.work)
    source = make_export(work / "in", "small", COUNT)
    table = work / "labels.csv"
    paths = sorted(place.relative_to(source).as_posix() for place in source.rglob("*.dcm"))
    table.write_text("path,label\n" + "".join(f"{path},{number % 2}\n" for number, path in enumerate(paths)))
    labeled, drawn = ("--labels", table, *LABELED), ("--method", "random")
    stages = list(filter(None, given.stages.split(",")))
    for stage in stages:
        if not given.times:
            break
        trial = Trial(work / stage, source, stage == "zip", labeled if stage == "search" else drawn)
        print(stage, "ends after", [round(mark, 2) for mark in trial.marks], flush=True)
        outcomes: Counter[str] = Counter()
        for number in range(given.times):
            how = signal.SIGTERM if number % 5 == 4 else signal.SIGKILL
            found = worker_killed(trial, stage) if number % 5 == 2 else killed(trial, stage, how)
            good = found["same"] and not found["left"] and not found["living"]
            outcomes["right" if good else "wrong"] += 1
            if not good:
                print(found, flush=True)
        rows.add(what="kills", stage=stage, times=given.times, files=COUNT, **outcomes)
        shutil.rmtree(trial.work)
    if given.disks:
        disks(work, rows, source, stages, labeled, given.disks)
    if given.hostile:
        hostile(work, rows, given.hostile)


if __name__ == "__main__":
    main()
