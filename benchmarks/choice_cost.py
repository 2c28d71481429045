# SPDX-License-Identifier: Apache-2.0
"""What the choice among the parts of SALM and the estimate of a run cost, beside the chosen part alone.

Times are CPU time of ``monai-salm protect`` with its workers, since other work may run on the machine.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path

from classification import DATA_SETS, split_labels
from common import Rows, parser, remove_run, salm


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data-set", choices=DATA_SETS, default="breast")
    given = arguments.parse_args()
    data, work = DATA_SETS[given.data_set], given.work / given.data_set
    rows = Rows(given.results / "choice_cost.jsonl", keep=True)
    table = split_labels(given.data_set, given.data / data.folder, work / "train", "train")
    options = ["--labels", table, "--working-size", data.working_size, "--epsilon", "8/255"]
    options += [part for pattern in data.pictures for part in ("--pictures", pattern)]
    whole, words = _protect(work, "salm", *options)
    chosen = re.match(r"noise of (salm:[a-z]+), chosen", words)
    if chosen is None:
        raise SystemExit(f"nothing was chosen: {words}")
    alone, _ = _protect(work, chosen[1], *options, "--no-estimate")
    rows.add(
        what="choice_cost", data_set=given.data_set, chosen=chosen[1], cpu_seconds=round(whole, 1),
        alone_cpu_seconds=round(alone, 1), ratio=round(whole / alone, 2),
    )  # fmt: skip


def _protect(work: Path, method: str, *options: object) -> tuple[float, str]:
    """Protect the images of a data set, and give the CPU time that it took and what was said of the choice."""
    output = work / f"cost_{method}"
    remove_run(output)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result, _, _ = salm("protect", work / "train", output, "--method", method, *options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, result["choice"]


if __name__ == "__main__":
    main()
