# SPDX-License-Identifier: Apache-2.0
"""Tables of files, tools, damaged files and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measured import RESULTS, Row, fates, latest, made_by, read_rows, table


def ct_contrast(folder: Path = RESULTS) -> str:
    """What became of the real CT files at the defaults."""
    found = [row for row in read_rows("ct_contrast", folder) if "data_set" not in row]
    runs = [row for row in found if row["what"] in ("files", "protect")][
        -2:
    ]  # rows of the first version are called protect
    if len(runs) < 2:
        return ""
    kinds = {row["what"]: row for row in found}
    iod, pixels, repeat, check = (kinds.get(name, {}) for name in ("dciodvfy", "dcmicmp", "repeat", "verify"))
    body = [
        ["fates of the files", fates(runs[0]["counts"])],
        ["seconds, first and second run", f"{runs[0]['seconds']}, {runs[1]['seconds']}"],
        ["rounds, passes per image", f"{runs[0]['rounds']}, {runs[0]['passes_per_sample']}"],
        ["peak memory, GiB", runs[0]["peak_gib"]],
        ["lowest PSNR, dB", runs[0]["lowest_psnr"]],
        ["second run byte-identical", repeat.get("byte_identical", "not run")],
        ["verify", fates(check.get("counts", {}))],
        ["files with new dciodvfy errors", len(iod["with_new_errors"]) if "with_new_errors" in iod else "not run"],
        ["dcmicmp at the limit, exit code: files", pixels.get("exit_codes_at_steps", "not run")],
        ["dcmicmp one below the limit, exit code: files", pixels.get("exit_codes_one_below", "not run")],
    ]
    title = "\n## Real CT files, DICOM 512 x 512, epsilon 8/255 of the soft-tissue window (12 HU)\n\n"
    return title + table([["", ""], *body]) + "\n" + made_by([*runs, *kinds.values()], "benchmarks/ct_contrast.py")


def hippocampus(folder: Path = RESULTS) -> str:
    """What is the same in the written volumes."""
    rows = [row for path in sorted(folder.glob("hippocampus*.jsonl")) for row in read_rows(path.stem, folder)]
    found = latest([row for row in rows if row["what"] == "headers"], "data_set", "method")
    if not found:
        return ""
    body = [[row["data_set"], row["method"], row["files"], row["byte_identical"]] for row in found]
    return (
        "\n## Headers of the NIfTI files\n\n"
        + table([["data set", "method", "files", "headers byte-identical"], *body])
        + "\n"
        + made_by(found, "benchmarks/hippocampus.py")
    )


def cost(folder: Path = RESULTS) -> str:
    """What starts, steps, masks and the noise store cost."""
    rows = read_rows("cost", folder)
    kinds = {
        name: latest([row for row in rows if row["what"] == name], *fields)
        for name, fields in {
            "start": ("command",),
            "step": ("network", "shape", "batch"),
            "mask": ("shape", "batch"),
            "store": ("shape", "levels"),
        }.items()
    }
    if not rows:
        return ""
    text = "\n# Cost\n\nOne thread, CPU time unless a column says otherwise; what is compared ran in turns.\n"
    starts = [
        [row["command"], row["seconds"], row["ratio"], row["ratio_of_fastest"], row["turns"]] for row in kinds["start"]
    ]
    head = ["command", "seconds", "ratio (median)", "ratio of the fastest", "turns"]
    title = '\nWhole commands beside `python -c "import pydicom, nibabel, click, numpy"`:\n\n'
    text += title + table([head, *starts]) if starts else ""
    steps: list[list[Any]] = [
        [
            row["network"], _size(row), row["batch"], row["step_ms"], row["bare_ms"], row["ratio"],
            " - ".join(map(str, row["ratio_quartiles"])),
            row["ratio_of_fastest"], row["turns"],
        ]
        for row in kinds["step"]
    ]  # fmt: skip
    head = [
        "network",
        "shape",
        "batch",
        "noise step, ms",
        "bare pass, ms",
        "ratio (median)",
        "quartiles",
        "ratio of the fastest",
        "turns",
    ]
    text += "\nA noise step beside a bare forward and backward pass:\n\n" + table([head, *steps]) if steps else ""
    surrogates = [
        [
            row["network"], _size(row), row["batch"], row["surrogate_step_ms"], row["surrogate_bare_ms"],
            row["surrogate_ratio"], " to ".join(map(str, row["surrogate_ratio_quartiles"])),
            row["surrogate_ratio_of_fastest"], row["turns"],
        ]
        for row in kinds["step"]
        if "surrogate_ratio" in row
    ]  # fmt: skip
    head = [*head[:3], "surrogate step, ms", *head[4:]]
    title = "\nA step of the surrogate, with Adam, beside a bare forward and backward pass to the weights:\n\n"
    text += title + table([head, *surrogates]) if surrogates else ""
    masks = [[_size(row), row["batch"], row["mask_ms"]] for row in kinds["mask"]]
    text += "\nThe mask of a batch:\n\n" + table([["shape", "batch", "ms"], *masks]) if masks else ""
    stores = [
        [_size(row), row["levels"], f"1/{row['smaller_than_float32']}", row["mb_per_s"], row["mb_per_s_wall"]]
        for row in kinds["store"]
    ]  # fmt: skip
    head = ["shape", "levels", "share of dense float32", "MB/s of dense, CPU time", "MB/s of dense, wall time"]
    text += "\nThe noise store at 10 % of the cells, with its records:\n\n" + table([head, *stores]) if stores else ""
    return text + "\n" + made_by([row for found in kinds.values() for row in found], "benchmarks/cost.py")


def _size(row: Row) -> str:
    return " x ".join(map(str, row["shape"]))


def referees(folder: Path = RESULTS) -> str:
    """What independent tools say of protected files."""
    found = latest(read_rows("referees", folder), "tool")
    if not found:
        return ""
    body = [
        [row["tool"], "skipped: " + row["skipped"], "", "", ""]
        if "skipped" in row
        else [row["tool"], row["judged"], row["fine_before"], row["fine_after"], "; ".join(row["regressions"]) or 0]
        for row in found
    ]
    text = (
        "\n## Independent tools, before and after\n\n"
        "Every protected file of pydicom's test files and of the fidelity cases, against its source. *Fine* is a "
        "file that the tool has nothing\n"
        "against; a regression is something that it has against the protected file and not against the source.\n\n"
    )
    text += table([["tool", "files judged", "fine before", "fine after", "regressions"], *body])
    return text + "\n" + made_by(found, "benchmarks/referees.py")


def fuzz(folder: Path = RESULTS) -> str:
    """What became of damaged files."""
    found = read_rows("fuzz", folder)
    if not found:
        return ""
    names = ("protected", "copied", "refused", "unusable")
    body = [
        [
            *(row["seed"], row["inputs"]),
            *(row["outcomes"].get(name, 0) for name in names),
            sum(kind["count"] for kind in row["failures"].values()),
            *(row["seconds"], row["slowest_seconds"], row["largest_growth_mib"]),
        ]
        for row in found
    ]
    text = (
        "\n## Damaged files\n\n"
        "Real files, damaged at random, through `protect` and `verify`. A failure is a traceback, a crash, more "
        "than 5 s or 1 GiB, a partial file\n"
        "in the output, or a protected file that `verify` rejects; *unusable* are inputs that the whole run was "
        "refused for.\n\n"
    )
    text += table([["seed", "inputs", *names, "failures", "seconds", "slowest input, s", "most memory, MiB"], *body])
    return text + "\n" + made_by(found, "tests/fidelity/fuzz.py")
