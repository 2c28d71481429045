# SPDX-License-Identifier: Apache-2.0
"""Write ``benchmarks/RESULTS.md`` from the rows in ``benchmarks/results``: ``python benchmarks/make_results.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

NOTABLE_DICE = 0.1
"""A smaller loss of a victim's Dice is called what it is: no protection."""

HEAD = """# Results

Made by `python benchmarks/make_results.py` from the rows in `benchmarks/results`, which the scripts beside it write. Victims train on the files that
`monai-salm` wrote and are scored on clean test files that no step saw before; *peak* is the best epoch on those test files, which flatters the stranger.
All settings are the defaults of `monai-salm protect`. Early trials on a part of PneumoniaMNIST were scored on its test set, too; no setting was chosen by
those scores. The surrogates are `small-resnet` and `small-unet`: a victim of the same name is the easiest case, and most architectures and all
countermeasures are not measured yet. Spread is the standard deviation over seeds 0, 1, ...
"""


def rows(name: str) -> list[dict[str, Any]]:
    """Read the rows of a script."""
    path = HERE / "results" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(lines: list[list[Any]]) -> str:
    """Format a Markdown table."""
    head, *body = [[str(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body]) + "\n"


def cell(row: dict[str, Any], name: str) -> str:
    """Format a mean with its spread."""
    if row.get(name) is None:
        return "-"
    spread = row.get(f"{name}_sd")
    return f"{row[name]:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def made_by(found: list[dict[str, Any]], script: str, seeds: object) -> str:
    """Say what made the rows."""
    commits = ", ".join(sorted({row["commit"] for row in found}))
    return f"Script `benchmarks/{script}`, commit {commits}, {seeds} seeds, {found[0]['machine']}.\n"


def fates(counts: dict[str, int]) -> str:
    """Format counts."""
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number)


def pneumonia() -> str:
    """Tables of PneumoniaMNIST."""
    found = rows("pneumonia")
    if not found:
        return ""
    methods = [row for row in found if row["what"] == "protect"]
    head = ["method", "fates", "verify", "rounds", "passes per image", "seconds", "mean PSNR dB", "lowest PSNR dB", "changed share of the anatomy"]
    body = [
        [
            row["method"], fates(row["counts"]), fates(row["verified"]), row["rounds"] or "-", row["passes_per_sample"] or "-", row["seconds"],
            row["mean_psnr"], row["lowest_psnr"], f"{row['mean_changed_fraction']:.1%}",
        ]
        for row in methods
    ]  # fmt: skip
    text = "\n## PneumoniaMNIST as DICOM CR, epsilon 8/255\n\n" + table([head, *body])
    for summary in (row for row in found if row["what"] == "summary"):
        body = [[row["victim"], row["trained_on"], cell(row, "balanced_accuracy"), cell(row, "auc"), cell(row, "peak")] for row in summary["summary"]]
        text += f"\nVictims with flips and shifts, {fates(summary['counts'])} images; a guess scores 0.500:\n\n"
        text += table([["victim", "trained on", "balanced accuracy", "AUC", "peak balanced accuracy"], *body])
        text += "\n" + made_by(found, "pneumonia.py", summary["summary"][0]["seeds"])
    return text


def hippocampus() -> str:
    """Tables of the hippocampus."""
    text = ""
    for path in sorted((HERE / "results").glob("hippocampus_*.jsonl")):
        found = rows(path.stem)
        kinds = {row["what"]: row for row in found}
        if "verify" not in kinds:
            continue
        run, check = kinds["protect"], kinds["verify"]
        text += f"\n## Hippocampus, 3D segmentation from NIfTI, {run['method']}, epsilon {run['epsilon']}\n\n"
        body = [
            ["fates", fates(run["counts"])], ["seconds", run["seconds"]], ["peak memory, GiB", run["peak_gib"]], ["rounds", run["rounds"]],
            ["passes per volume", run["passes_per_sample"]], ["lowest PSNR, dB", run["lowest_psnr"]], ["verify", fates(check["counts"])],
            ["headers byte-identical", check["header_bytes_identical"]], ["voxels changed outside the anatomy", check["changed_outside_anatomy"]],
            ["mean changed share of the anatomy", f"{check['mean_changed_fraction']:.1%}"],
        ]  # fmt: skip
        text += table([["", ""], *body])
        if "summary" in kinds:
            summary = kinds["summary"]
            body = [[row["victim"], row["trained_on"], *(cell(row, n) for n in ("dice", "dice_1", "dice_2", "peak"))] for row in summary["summary"]]
            text += f"\nVictims with flips and shifts, {fates(summary['counts'])} volumes:\n\n"
            text += table([["victim", "trained on", "mean Dice", "anterior", "posterior", "peak"], *body])
            dice = {row["trained_on"]: row["dice"] for row in summary["summary"]}
            if dice["clean"] - dice["protected"] < NOTABLE_DICE:
                text += f"\n**Not protected:** the victim loses {dice['clean'] - dice['protected']:.3f} Dice, less than {NOTABLE_DICE}.\n"
            text += "\n" + made_by(found, "hippocampus.py", summary["summary"][0]["seeds"])
    return text


def ct_contrast() -> str:
    """Tables of the real CT files."""
    found = rows("ct_contrast")
    if not found:
        return ""
    runs = [row for row in found if row["what"] == "protect"]
    kinds = {row["what"]: row for row in found}
    referee = kinds["dciodvfy"].get("with_new_errors")
    pixels = kinds["dcmicmp"]
    body = [
        ["fates of the 100 files", fates(runs[0]["counts"])],
        ["seconds, first and second run", f"{runs[0]['seconds']}, {runs[1]['seconds']}"],
        ["rounds, passes per image", f"{runs[0]['rounds']}, {runs[0]['passes_per_sample']}"],
        ["peak memory, GiB", runs[0]["peak_gib"]],
        ["lowest PSNR, dB", runs[0]["lowest_psnr"]],
        ["second run byte-identical", kinds["repeat"]["byte_identical"]],
        ["verify", fates(kinds["verify"]["counts"])],
        ["files with new dciodvfy errors", "not run" if referee is None else len(referee)],
        ["dcmicmp at the limit, exit code: files", pixels.get("exit_codes_at_steps", "not run")],
        ["dcmicmp one below the limit, exit code: files", pixels.get("exit_codes_one_below", "not run")],
    ]
    text = "\n## Real CT slices, DICOM 512 x 512, epsilon 8/255 of the soft-tissue window (12 HU)\n\n" + table([["", ""], *body])
    if "summary" in kinds:
        summary = kinds["summary"]
        body = [[row["victim"], row["trained_on"], *(cell(row, n) for n in ("balanced_accuracy", "auc", "peak"))] for row in summary["summary"]]
        text += f"\nVictims (contrast agent or not), split by patient, {fates(summary['counts'])} images:\n\n"
        text += table([["victim", "trained on", "balanced accuracy", "AUC", "peak balanced accuracy"], *body])
        text += "\n" + made_by(found, "ct_contrast.py", summary["summary"][0]["seeds"])
    return text


def referees() -> str:
    """Table of what independent tools say of protected files."""
    found = rows("referees")
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
        "Every protected file of pydicom's test files and of the fidelity cases, against its source. *Fine* is a file that the tool has nothing\n"
        "against; a regression is something that it has against the protected file and not against the source.\n\n"
    )
    text += table([["tool", "files judged", "fine before", "fine after", "regressions"], *body])
    return text + f"\nScript `benchmarks/referees.py`, commit {found[0]['commit']}, {found[0]['machine']}.\n"


def fuzz() -> str:
    """Table of the runs over damaged files."""
    found = rows("fuzz")
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
        "Real files, damaged at random, through `protect` and `verify`. A failure is a traceback, a crash, more than 5 s or 1 GiB, a partial file\n"
        "in the output, or a protected file that `verify` rejects; *unusable* are inputs that the whole run was refused for.\n\n"
    )
    text += table([["seed", "inputs", *names, "failures", "seconds", "slowest input, s", "most memory, MiB"], *body])
    return text + f"\nScript `tests/fidelity/fuzz.py`, commit {', '.join(sorted({row['commit'] for row in found}))}, {found[0]['machine']}.\n"


if __name__ == "__main__":
    (HERE / "RESULTS.md").write_text(HEAD + ct_contrast() + hippocampus() + pneumonia() + referees() + fuzz(), encoding="utf-8")
