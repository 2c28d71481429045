# SPDX-License-Identifier: Apache-2.0
"""Protect a folder of images and check the result, from Python: what the commands protect and verify do.

Usage: python 01_protect_a_folder.py EXPORT LABELS.csv OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from monai_salm.budget import Epsilon
from monai_salm.pipeline import ProtectOptions, protect, verify


def main(source: Path, labels: Path, output: Path, rounds: int | None = None) -> None:
    """Protect, print what became of the files, and verify."""
    result = protect(source, output, ProtectOptions(labels=labels, rounds=rounds), show_progress=True)
    for path, fate in sorted(result.fates.items()):
        print(path, fate.status, fate.reason or f"at most {fate.max_change_stored:g} stored units, {fate.psnr:.1f} dB")
    report = verify(source, output, check_epsilon=Epsilon.parse("8/255"))
    print(f"{len(report.files)} files checked, {len(report.mismatches)} mismatches")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
