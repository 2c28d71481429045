# SPDX-License-Identifier: Apache-2.0
"""What independent tools say of files before and after they are protected: pydicom's test files, and one file for each
way in which a file can differ.

Tools that are not installed are named and skipped: dicom3tools, dcmtk, gdcm, dcm2niix, SimpleITK, MONAI's readers.
"""

from __future__ import annotations

import sys

from common import REPOSITORY, Rows, fresh, parser

sys.path.insert(0, str(REPOSITORY))

from tests.fidelity import referees


def main() -> None:
    """Run the benchmark."""
    given = parser(__doc__ or "").parse_args()
    work, data = fresh(given.work / "referees"), given.data / "fidelity_cases"
    sources = {
        "shipped": referees.shipped_files(),
        "cases": referees.case_files(data),
        "exports": referees.exports(data),
    }
    runs = {
        f"{room} {name}": pairs
        for room, files in sources.items()
        for name, pairs in referees.protected_runs(files, work / room).items()
    }
    results = Rows(given.results / "referees.jsonl")
    rows = []
    for referee in referees.REFEREES:
        rows.append(referees.summarize(referee, runs))
        results.add(what="referee", **rows[-1])
    print(referees.table(rows))


if __name__ == "__main__":
    main()
