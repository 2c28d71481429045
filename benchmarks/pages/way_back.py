# SPDX-License-Identifier: Apache-2.0
"""The part of the page about originals that come back."""

from __future__ import annotations

from pathlib import Path

from measured import RESULTS, latest, made_by, read_rows, table

HEAD = """
# The way back

Files were protected with a key and restored with `monai-salm restore`, and held against the originals byte for byte.
Residuals are set against the protected originals as gzip makes them (level 6; as they are where they are compressed),
and DICOM against JPEG-LS without loss.

"""
COST_HEAD = """
Time of the processor, one process, medians of turns beside each other: what writing residuals adds to the write stage
without them, and what restoring takes beside it (targets: 25 % more at most; no more than the write stage and 25 %).

"""


def way_back(folder: Path = RESULTS) -> str:
    """What came back, what it takes, and what was refused."""
    rows = latest(read_rows("restoring", folder), "what", "data_set", "method", "kind")
    if not rows:
        return ""
    back = [row for row in rows if row["what"] == "back"]
    lines = [
        [
            row["data_set"], f"`{row['method']}`", row["handed_out"], row["protected"],
            f"{row['same']} of {row['handed_out']}",
            f"{row['residual_bytes'] / row['gzip_bytes']:.0%}", f"{row['residual_bytes'] / row['jpeg_ls_bytes']:.0%}",
        ]
        for row in back
    ]  # fmt: skip
    head = ["data set", "method", "handed out", "protected", "came back", "residuals / gzip", "residuals / JPEG-LS"]
    text = HEAD + table([head, *lines])
    costs = [
        [row["kind"], row["files"], row["ms_a_file"], f"{row['keeping'] - 1:+.0%}", f"{row['restoring']:.0%}"]
        for row in rows
        if row["what"] == "cost"
    ]
    if costs:
        text += COST_HEAD + table([["files", "number", "write stage, ms a file", "residuals", "restoring"], *costs])
    for row in [row for row in rows if row["what"] == "tampered"][-1:]:
        offered = ", ".join(f"{count:,} {kind}" for kind, count in row["offered"].items())
        text += (
            f"\nOf {sum(row['offered'].values()):,} residuals that were tampered with ({offered}) {row['accepted']} "
            f"were accepted. Of {row['of_another_release']} of another release with the same key, "
            f"{row['written_of_another_release']} led to a file.\n"
        )
    return text + "\n" + made_by(rows, "benchmarks/restoring.py")
