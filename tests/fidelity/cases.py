# SPDX-License-Identifier: Apache-2.0
"""Every way in which a file can differ, through ``protect --method random`` and ``verify``: what is expected of it, and
what became of it.

The cases are those of the development data (``shared/data/fidelity_cases`` beside the repository, where it is) and
pydicom's own test files.
"""

from __future__ import annotations

import csv
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pydicom

from monai_salm.errors import UsageError
from monai_salm.pipeline import ProtectOptions, VerifyReport, protect, verify
from monai_salm.pipeline.fates import FileFate
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.pipeline.protect_result import ProtectResult
from monai_salm.pipeline.verdicts import FileVerdict
from monai_salm.windows import parse_window
from tests.exports import KEY

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "fidelity_cases"
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"

PROTECTED, COPIED, REFUSED, IGNORED = "protected", "copied", "refused", "ignored"

_EXPECTED: tuple[tuple[str, frozenset[str]], ...] = (
    ("passthrough-or-refuse", frozenset({COPIED, REFUSED})),
    ("passthrough or refuse", frozenset({COPIED, REFUSED})),
    ("passthrough-or-explicit-optin", frozenset({COPIED, REFUSED})),
    ("change or passthrough", frozenset({PROTECTED, COPIED})),
    ("change or clear error", frozenset({PROTECTED, REFUSED})),
    ("change-or-report", frozenset({PROTECTED, REFUSED})),
    ("change if decodable", frozenset({PROTECTED, REFUSED})),
    ("refuse-or-handle", frozenset({PROTECTED, REFUSED})),
    ("change", frozenset({PROTECTED})),
    ("tail kept", frozenset({PROTECTED})),
    ("gzip member", frozenset({PROTECTED})),
    ("NaN stays", frozenset({PROTECTED})),
    ("zeros stay", frozenset({PROTECTED})),
    ("one UID", frozenset({PROTECTED})),
    ("same result", frozenset({PROTECTED})),
    ("passthrough", frozenset({COPIED})),
    ("pixels kept", frozenset({COPIED})),
    ("references remapped", frozenset({COPIED})),
    ("DICOMDIR", frozenset({COPIED})),
    ("byte identical", frozenset({COPIED})),
    ("report-error", frozenset({REFUSED})),
    ("refuse", frozenset({REFUSED})),
    ("error row or ignored", frozenset({REFUSED, IGNORED})),
    ("error row", frozenset({REFUSED})),
    ("warn or error", frozenset({REFUSED})),
    ("recurse or report", frozenset({REFUSED})),
    ("copied or ignored", frozenset({COPIED, REFUSED, IGNORED})),
    ("copy-or-ignore", frozenset({COPIED, REFUSED, IGNORED})),
    ("ignored", frozenset({IGNORED})),
    ("no loop", frozenset({PROTECTED, COPIED, REFUSED})),
)
"""What the words of ``cases.csv`` begin with -> the fates that they mean."""

DISAGREEMENTS: dict[str, tuple[str, str]] = {
    "single/nibabel__csa_slice_norm.dcm": (
        REFUSED,
        "an MR Image Storage object without Pixel Data: PS3.3 C.7.6.3 requires it, and nothing tells such a file "
        "from one that was cut before its pixels",
    ),
    "single/nibabel__decimal_rescale.dcm": (
        REFUSED,
        "SOP Class and Instance UID are absent from the dataset, where PS3.3 C.12.1 requires them (type 1): there "
        "is no identity to derive a new one from",
    ),
    "single/highdicom__sm_image_grayscale.dcm": (
        REFUSED,
        "its values are 0 to 24, so that 8/255 of their window is less than one stored step: noise of a whole "
        "step would break the bound",
    ),
    "single/pydicom__GDCMJ2K_TextGBR.dcm": (
        REFUSED,
        "the image is text on one color: burned-in text is left alone, and nothing else is there",
    ),
    "single/pydicom__no_meta.dcm": (
        REFUSED,
        "its first bytes are those of no element (2008,0500), so it is no dataset that a reader would take for "
        "DICOM, and its bytes may hold an image",
    ),
    "single/pydicom__rtplan_truncated.dcm": (
        REFUSED,
        "it ends inside BeamSequence: a plan that lacks beams must not go on as if it were whole",
    ),
    "single/pydicom__UN_sequence.dcm": (
        REFUSED,
        "its file meta information names an image class, and its dataset is one sequence: nothing tells it from "
        "an image that was cut",
    ),
    "exports/E1_dicomdir_cr_ct_mr/README.txt": (COPIED, "a text, no image"),
    "exports/E1_dicomdir_cr_ct_mr/77654033/CT2/17166": (
        REFUSED,
        "every value is above the soft tissue window (991 to 1489 HU); --window bone protects it",
    ),
    "exports/E1_dicomdir_cr_ct_mr/77654033/CT2/17196": (
        REFUSED,
        "every value is above the soft tissue window (498 to 1399 HU); --window bone protects it",
    ),
    "nifti/real_standard.nii.gz": (COPIED, "it holds the two values 0 and 255: a mask, which noise must not change"),
}
"""Where we do not do what ``cases.csv`` expects, what we do instead, and why."""


@dataclass(frozen=True)
class Case:
    """One file of the cases.

    Args:
        name: for the report.
        what: how it differs from other files.
        expected: fates that are right.
        fate: what became of it.
        reason: of its line in the manifest.
        verdict: of ``verify``; None for a file that is not handed out.
        source, target: the files.
    """

    name: str
    what: str
    expected: frozenset[str]
    fate: str
    reason: str
    verdict: FileVerdict | None
    line: FileFate | None
    source: Path
    target: Path


@dataclass(frozen=True)
class Run:
    """One run of ``protect`` and ``verify`` over one input: a file, a folder or a zip."""

    source: Path
    output: Path
    result: ProtectResult
    report: VerifyReport | None
    ignored: tuple[str, ...]


def run(source: Path, folder: Path, **options: object) -> Run:
    """Protect and verify one input, into an empty folder."""
    output = folder / (f"out{source.suffix}" if source.suffix == ".zip" else "out")
    known = {"method": "random", "modality": "MR" if _is_volume(source) else "", "key_file": KEY, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = protect(source, output, ProtectOptions(**known))  # type: ignore[arg-type]
        report = None
        if output.is_file() or any(output.rglob("*")):
            window = parse_window(str(known.get("window", "auto")))
            report = verify(source, output, options=BudgetOptions(modality=str(known["modality"]), window=window))
    return Run(source, output, result, report, result.ignored)


def _is_volume(source: Path) -> bool:
    """Say whether a file is NIfTI, which does not tell its modality."""
    return any(source.name.endswith(suffix) for suffix in (".nii", ".nii.gz", ".img", ".hdr"))


def expected_fates(name: str, expect: str) -> frozenset[str]:
    """Read what ``cases.csv`` expects of a row."""
    if name in DISAGREEMENTS:
        return frozenset({DISAGREEMENTS[name][0]})
    return next(fates for start, fates in _EXPECTED if expect.startswith(start))


def cases_of(done: Run, names: dict[str, tuple[str, str, str]]) -> Iterable[Case]:
    """Give the cases of a run.

    Args:
        done: the run.
        names: path in the input -> name of the case, how it differs, what is expected.
    """
    root = done.source if done.source.is_dir() else done.source.parent
    verdicts = {file.path: file for file in done.report.files} if done.report is not None else {}
    for path, (name, what, expect) in names.items():
        line = done.result.fates.get(path)
        fate = line.status if line is not None else (IGNORED if path in done.ignored else "absent")
        yield Case(
            name, what, expected_fates(name, expect), fate, line.reason if line is not None else "", verdicts.get(path),
            line, root / path, done.output / path
        )  # fmt: skip


def shared_rows() -> list[dict[str, str]]:
    """Give the rows of ``cases.csv``; none where the development data are not there."""
    table = FOLDER / "cases.csv"
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run_shared(folder: Path) -> tuple[list[Case], list[Run]]:
    """Run every row of ``cases.csv``, in inputs as small as its files allow: many of them share one SOP
    Instance UID.
    """
    inputs: dict[Path, dict[str, tuple[str, str, str]]] = {}
    archives: list[tuple[str, str]] = []
    for row in shared_rows():
        path = row["path"]
        parts = path.split("/")
        entry = (path, row["case"], row["expect"])
        if parts[0] == "exports" and len(parts) > 2:
            inputs.setdefault(FOLDER / parts[0] / parts[1], {})["/".join(parts[2:])] = entry
        elif path.endswith(".zip"):
            archives.append((path, row["case"]))
        else:
            inputs.setdefault(FOLDER / path, {})[parts[-1]] = entry
    cases: list[Case] = []
    runs: list[Run] = []
    for number, (source, names) in enumerate(inputs.items()):
        runs.append(run(source, folder / f"{number}"))
        cases += cases_of(runs[-1], names)
    runs += [run(FOLDER / path, folder / Path(path).stem) for path, _ in archives]
    return cases, runs


def run_shipped(folder: Path) -> tuple[list[Case], list[Run]]:
    """Run every DICOM file that pydicom ships, each alone; what is right of them, the same rules say that sort the rows
    of ``cases.csv``.
    """
    cases: list[Case] = []
    runs: list[Run] = []
    for number, path in enumerate(
        sorted(path for path in SHIPPED.rglob("*") if path.is_file() and path.suffix != ".py")
    ):
        name = path.relative_to(SHIPPED).as_posix()
        alone = folder / f"{number}"
        alone.mkdir(parents=True)
        source = alone / path.name
        shutil.copyfile(path, source)  # a DICOMDIR brings its file-set along, which its own run protects
        try:
            runs.append(run(source, alone))
        except UsageError as error:
            cases.append(Case(name, "", frozenset(), "usage", str(error), None, None, source, alone / "out"))
            continue
        cases += cases_of(runs[-1], {path.name: (name, "", "no loop")})
    return cases, runs
