# SPDX-License-Identifier: Apache-2.0
"""What differs between two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.same_bytes.running import unpack

# Comparison ----------------------------------------------------------------------------------------------------------


def load_rows(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Give the header and the rows of a run, by the names of their cases."""
    header, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return header, {row["case"]: row for row in rows}


def _changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {**first, **second} if first.get(name) != second.get(name))


def _array_words(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Say by how much two arrays differ."""
    if "array" not in first or "array" not in second:
        return "bytes"
    one, other = unpack(first["array"]).astype(float), unpack(second["array"]).astype(float)
    sample = f" of sample {first['sample']}" if "sample" in first else ""
    if one.shape != other.shape:
        return f"shapes {one.shape} and {other.shape}{sample}"
    apart = np.abs(one - other)
    if not apart.any():
        return f"equal values, other bytes{sample}"
    return f"by at most {apart.max():g}, {np.count_nonzero(apart)} of {apart.size} values{sample}"


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Say what differs between two rows of a case."""
    found = []
    if first["exit_codes"] != second["exit_codes"]:
        found.append(f"exit codes {first['exit_codes']} and {second['exit_codes']}")
    found += [f"run {side}: {text}" for side, row in (("A", first), ("B", second)) for text in row["problems"]]
    for name in _changed(first["fates"], second["fates"]):
        fates = [
            f"{row['fates'].get(name, 'absent')} {row['reasons'].get(name, '')[:200]}".strip()
            for row in (first, second)
        ]
        found.append(f"fate of {name}: {' | '.join(fates)}")
    for name in _changed(first["files"], second["files"]):
        if name not in first["files"] or name not in second["files"]:
            found.append(f"{name}: only in {'A' if name in first['files'] else 'B'}")
        else:
            found.append(f"{name}: {_array_words(first['arrays'].get(name, {}), second['arrays'].get(name, {}))}")
    for name in _changed(first["tensors"], second["tensors"]):
        one, other = (row["tensors"].get(name, {}) for row in (first, second))
        found.append(f"{name}: {len(_changed(one, other))} of {len({**one, **other})} tensors")
    return found


def compare(first: Path, second: Path) -> int:
    """Print of each case whether two runs gave the same; the exit code says whether all did."""
    (header, rows), (other_header, other_rows) = load_rows(first), load_rows(second)
    if header["inputs"] != other_header["inputs"]:
        print("the two runs had different inputs")
        return 2
    for name in _changed(header["versions"], other_header["versions"]):
        print(f"note: {name} {header['versions'].get(name)} and {other_header['versions'].get(name)}")
    differing = failing = 0
    for name in {**rows, **other_rows}:
        found = [f"only in {side}" for side, others in (("A", other_rows), ("B", rows)) if name not in others]
        found = found or differences(rows[name], other_rows[name])
        differing += bool(found)
        if found:
            print(f"{name}: {len(found)} difference{'s' * (len(found) > 1)}")
            print("".join(f"    {text}\n" for text in found), end="")
            continue
        row = rows[name]
        failing += any(row["exit_codes"])
        codes = f"exit codes {row['exit_codes']}, " if any(row["exit_codes"]) else ""
        tensors = sum(map(len, row["tensors"].values()))
        print(f"{name}: same ({codes}{len(row['files'])} files, {len(row['arrays'])} of them noise, {tensors} tensors)")
    print(f"{differing} of {len({**rows, **other_rows})} cases differ; {failing} are the same, but ended with an error")
    return int(differing > 0)
