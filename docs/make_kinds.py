# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/kinds.md``: what the rule of picture or label map says of real files and of made ones: ``python
docs/make_kinds.py``.

It needs the development data beside the repository for the real ones. Nothing was fitted to the seeds that are used
here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the samples are those of the tests

from monai_salm.io import SourceImage, judge, read_source  # noqa: E402
from tests.io.kind_samples import PICTURE, Array, samples  # noqa: E402

PAGE = Path(__file__).parent / "kinds.md"
START = "<!-- made by docs/make_kinds.py -->"
DATA = ROOT.parent / "shared" / "data"
SEED, TIMES = 20261127, 25


@dataclass
class Row:
    """Decisions on one kind of arrays."""

    name: str
    truth: str
    clinical: bool = False
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def count(self) -> int:
        """Arrays that were judged."""
        return sum(self.kinds.values())

    @property
    def wrong(self) -> int:
        """Pictures that would go out unprotected, and what is none and would be changed."""
        return self.kinds["label map" if self.truth == PICTURE else "picture"]

    def line(self) -> str:
        """Give the row of the table."""
        cells = [
            self.name,
            self.truth,
            str(self.count),
            *(str(self.kinds[kind]) for kind in ("picture", "label map", "cannot tell")),
            str(self.wrong),
        ]
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| kind | truth | arrays | picture | label map | cannot tell | wrong |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def made_rows(times: int = TIMES) -> list[Row]:
    """Judge made arrays of every kind."""
    rows: dict[tuple[str, str], Row] = {}
    for sample in samples(SEED, times):
        row = rows.setdefault((sample.truth, sample.name), Row(sample.name, sample.truth, sample.clinical))
        found = judge(
            sample.values,
            slope=sample.slope,
            intercept=sample.intercept,
            trailing=int(sample.color),
            color=sample.color,
        )
        row.kinds[found.kind] += 1
    return list(rows.values())


def real_rows() -> list[Row]:
    """Judge every real picture and label map, volumes whole and slice by slice."""
    rows = []
    for name, truth, arrays in _real():
        row = Row(name, truth, truth == PICTURE)
        for values, color in arrays:
            row.kinds[judge(values, trailing=int(color), color=color).kind] += 1
        rows.append(row)
    return rows


def _real() -> Iterator[tuple[str, str, Iterable[tuple[Array, bool]]]]:
    for name, file in (
        ("PneumoniaMNIST", "pneumonia/pneumoniamnist.npz"),
        ("BreastMNIST", "breast/breastmnist.npz"),
        ("RetinaMNIST", "retina/retinamnist.npz"),
    ):
        with np.load(DATA / file) as packed:
            images = np.concatenate([packed[f"{part}_images"] for part in ("train", "val", "test")])
        yield name, PICTURE, ((image, image.ndim == 3) for image in images)
    yield "brain tumor slices (JPEG)", PICTURE, _files(DATA / "brain_tumor", "*.jpg")
    yield "CT slices (DICOM)", PICTURE, _files(DATA / "ct_contrast", "*.dcm")
    yield "MR slices (DICOM)", PICTURE, _files(DATA / "mr_studies", "*.dcm")
    yield "hippocampus volumes (NIfTI)", PICTURE, _files(DATA / "hippocampus" / "imagesTr", "*.nii.gz")
    yield "hippocampus, each fourth slice", PICTURE, _slices(DATA / "hippocampus" / "imagesTr")
    yield "hippocampus label maps (NIfTI)", "label map", _files(DATA / "hippocampus" / "labelsTr", "*.nii.gz")
    yield "hippocampus label maps, each fourth slice", "label map", _slices(DATA / "hippocampus" / "labelsTr")


def _files(folder: Path, pattern: str) -> Iterator[tuple[Array, bool]]:
    for path in sorted(folder.rglob(pattern)):
        source: SourceImage = read_source(path)
        yield source.stored, source.header.trailing == (3,)


def _slices(folder: Path) -> Iterator[tuple[Array, bool]]:
    for values, _ in _files(folder, "*.nii.gz"):
        for number in range(0, values.shape[2], 4):
            if np.ptp(values[..., number]) > 0:
                yield values[..., number], False


def page(text: str, real: list[Row], made: list[Row]) -> str:
    """Give the text of the page with new tables behind its mark."""
    clinical = [row for row in [*real, *made] if row.clinical]
    shares = [
        sum(row.kinds["cannot tell"] for row in rows) / max(1, sum(row.count for row in rows))
        for rows in (clinical, [r for r in real if r.clinical])
    ]
    wrong = sum(row.wrong for row in [*real, *made])
    summary = (
        f"{sum(row.count for row in real)} real arrays and {sum(row.count for row in made)} made ones: **{wrong} "
        "wrong decisions**. Of the pictures of "
        f"clinical bit depth {shares[0]:.2%} cannot be told, of the real ones {shares[1]:.2%}."
    )
    tables = [
        summary,
        "## Real files",
        "\n".join([HEAD, *(row.line() for row in real)]),
        "## Made arrays, half of them volumes",
    ]
    return (
        "\n\n".join([text[: text.index(START)] + START, *tables, "\n".join([HEAD, *(row.line() for row in made)])])
        + "\n"
    )


def main() -> None:
    """Judge all and write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), real_rows(), made_rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
