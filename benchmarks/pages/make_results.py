# SPDX-License-Identifier: Apache-2.0
"""Write ``benchmarks/RESULTS.md`` from the rows beside it: ``python benchmarks/pages/make_results.py``."""

from __future__ import annotations

from pathlib import Path

import files
from data_sets import earlier, section, trade_off
from estimates import estimates
from growing import archive, cluster, growing
from measured import BENCHMARKS, DATA_SETS, RESULTS, Measured, all_measured
from not_run import not_run
from sharing import sharing
from speed import faults, speed
from targets import targets
from way_back import way_back

HEAD = """# Results

Made by `python benchmarks/pages/make_results.py` from rows in `benchmarks/results`, which [scripts](README.md) write;
of a cell that was run again the latest run counts. Victims train on the files that `monai-salm` wrote and are scored
on clean test files that no step saw before; *peak* is the best epoch on those test files, which flatters the
stranger. Settings are the defaults of `monai-salm protect` where nothing else is said, chosen on training and
validation images. Twice, scores of an earlier setting on test images were seen before: they said that it was bad, and
the choice was made again, on other images ([lab book](LABBOOK.md), rounds 10 and 12). `salm@1` is salm with `--rounds
1`: the class textures where the gradient is, and no search after it. The surrogates are `small-resnet` and
`small-unet`: a victim of the same name is the easiest case. Spread is the standard deviation over seeds 0, 1, ...

*Kept* is the share of what a victim learns from clean images beyond a guess, after the same countermeasure, that it
does not learn from protected ones. It is not given where clean images teach less than 0.10 balanced accuracy beyond a
guess, or 0.2 Dice. *Reliance* is the score on at most 200 protected training images (50 volumes) minus that on the
clean test images, after the last epoch: 0 where a victim does not use the noise; for victims of clean images it is what
memory alone makes. Rows of earlier commits lack it.

A target counts as met only if every part of it was measured.
"""


def page(folder: Path = RESULTS) -> str:
    """Give the whole page."""
    sets = all_measured(folder)
    present = [found for found in sets if not found.version]
    own = [found for found in present if found.own_setting]
    missing = [
        Measured(data, data.epsilon, 0.4) for data in DATA_SETS.values() if not any(found.data is data for found in own)
    ]
    parts = [targets(own, folder), "\n# Protection\n" if present else "", *map(section, own), trade_off(present)]
    parts += [
        estimates(own),
        "\n# Files\n",
        files.ct_contrast(folder),
        files.hippocampus(folder),
        files.referees(folder),
        files.fuzz(folder),
    ]
    parts += [
        speed(folder),
        faults(folder),
        way_back(folder),
        growing(folder),
        cluster(folder),
        archive(folder),
        sharing(folder),
        files.cost(folder),
        not_run([*own, *missing]),
        earlier([found for found in sets if found.version]),
    ]
    return HEAD + "".join(parts)


if __name__ == "__main__":
    (BENCHMARKS / "RESULTS.md").write_text(page(), encoding="utf-8")
