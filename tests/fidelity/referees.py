# SPDX-License-Identifier: Apache-2.0
"""Independent referees: what other software says of a file before and after it was protected.

A referee gives what it finds wrong in a source and in its protected file; what it finds in the latter alone is a
regression. A reader, moreover, finds wrong in the protected file whatever differs from the source and should not:
geometry, attributes, and values by more than the budget.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from monai_salm.errors import SalmError
from monai_salm.io import read_header
from monai_salm.pipeline import protect
from tests.exports import drawn

THREADS = 2
CASES = ("single", "synthetic", "nifti")
"""Folders of cases that hold one picture a file."""
EXPORTS = ("E1", "E2", "E6")
UNREADABLE = "cannot be read"
SEES_NONE = "sees no change"
_SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"

_PRESENT = "PS3.3 {} says that it may be present otherwise"
EXPLAINED = {
    r"which may not be present otherwise.* Module=<(MRPulseSequence|EnhancedMRImage)": _PRESENT.format("C.8.13.4"),
    r"BulkMotionCompensationTechnique.*which may not be present otherwise": _PRESENT.format("C.7.6.18.3"),
}
"""Errors of dciodvfy that are none, as regular expressions, and the standard's words on them."""
MISREAD = {
    (
        "dcm2niix",
        "J2K_pixelrep_mismatch.dcm",
    ): "it takes the sign of the codestream for that of the values; the protected file is native and read rightly",
    (
        "dcm2niix",
        "SC_jpeg_no_color_transform.dcm",
    ): "it takes RGB in a JPEG without markers for YBR; the protected file is native and read rightly",
    ("dcm2niix", "SC_rgb_rle_2frame.dcm"): "of several frames of color in RLE it reads the first alone",
    ("dcm2niix", "SC_rgb_rle_32bit.dcm"): "it takes color of 32 bits for gray",
    ("dcm2niix", "SC_rgb_rle_32bit_2frame.dcm"): "likewise",
    (
        "SimpleITK",
        "SC_rgb_rle_32bit.dcm",
    ): "it mixes up the bytes of 32-bit color in RLE; the protected file is native and read rightly",
    ("SimpleITK", "SC_rgb_rle_32bit_2frame.dcm"): "likewise",
}
"""Sources that a tool reads wrongly, so that it sees a difference."""

_DERIVED = {
    *("0008|0008", "0008|0012", "0008|0013", "0008|0018", "0008|2111", "0018|9004", "0020|000e"),
    *("0028|0106", "0028|0107", "0028|0108", "0028|0109"),
}
"""Attributes in which a derived image may differ; beside those of group 2, which describes the file, and retired group
lengths.
"""
_RECODED = {"0028|0004", "0028|0006", "0028|2110", "0028|2112", "0028|2114"}
"""Those in which it may if its pixels are encoded in another way."""
_SIDECAR = {"SeriesInstanceUID", "ImageType", "ImageTypeText", "RawImage", "SeriesNumber"}
"""What dcm2niix makes of attributes in which a derived image may differ: of Image Type, and a number of the series' UID
where the file has none.
"""
_LOSSY = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
)


@dataclass(frozen=True)
class Pair:
    """A picture and its protected file.

    Args:
        name: for the report.
        source, protected: the files.
        epsilon: largest change, real units.
        recoded: whether the source's encoding is lossy, or its color is luminance and chroma: readers then differ by a
            level among themselves.
        framed: whether each frame may have a rescaling of its own, which readers apply or not as they please.
    """

    name: str
    source: Path
    protected: Path
    epsilon: float
    recoded: bool = False
    framed: bool = False

    @property
    def is_dicom(self) -> bool:
        return read_header(self.source).format == "dicom"


@dataclass(frozen=True)
class Judgement:
    """What a referee finds wrong in the two files of a pair, or in what it makes of them."""

    name: str
    before: frozenset[str]
    after: frozenset[str]

    @property
    def regressions(self) -> list[str]:
        return sorted(self.after - self.before)


@dataclass(frozen=True)
class Referee:
    """One piece of software.

    Args:
        name: for the report.
        missing: gives why it cannot judge here; empty if it can.
        judge: gives its judgements on the pairs of one run.
    """

    name: str
    missing: Callable[[], str]
    judge: Callable[[list[Pair]], list[Judgement]]


# Protected files -----------------------------------------------------------------------------------------------------
def shipped_files() -> list[Path]:
    """Give the single test files that pydicom ships."""
    return sorted(path for path in _SHIPPED.glob("*") if path.is_file() and path.suffix in (".dcm", ""))


def case_files(data: Path) -> list[Path]:
    """Give the files of the cases that hold one picture, those of pydicom left out, which are judged anyway."""
    if not (data / "cases.csv").is_file():
        return []
    with (data / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = [row["path"] for row in csv.DictReader(file)]
    shipped = {path.name for path in shipped_files()}
    names = [
        name
        for name in rows
        if name.startswith(tuple(f"{room}/" for room in CASES)) and name.rpartition("pydicom__")[2] not in shipped
    ]
    return [data / name for name in names if (data / name).is_file()]


def exports(data: Path) -> list[Path]:
    """Give the whole exports that are there, or else the one that pydicom ships."""
    folder, shipped = data / "exports", _SHIPPED / "dicomdirtests" / "DICOMDIR"
    if folder.is_dir():
        return sorted(path for path in folder.iterdir() if path.is_dir() and path.name.startswith(EXPORTS))
    return [shipped] if shipped.is_file() else []


def protected_runs(sources: Iterable[Path], work: Path) -> dict[str, list[Pair]]:
    """Protect each source in a run of its own, since several cases share one SOP Instance UID; gives the pairs of each
    run that protected anything.
    """
    runs = {}
    for number, source in enumerate(sources):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom warns of what is wrong with the source
                result = protect(source, work / str(number), drawn())
        except SalmError:
            continue  # nothing in it can be protected
        root = source if source.is_dir() else source.parent
        pairs = [
            _pair(
                f"{source.name}/{path}" if source.is_dir() else f"{root.name}/{path}",
                root / path,
                _written(result.output / path),
                fate.epsilon_real or 0.0,
            )
            for path, fate in sorted(result.fates.items())
            if fate.status == "protected"
        ]
        if pairs:
            runs[f"{number} {source.name}"] = pairs
    return runs


def _written(path: Path) -> Path:
    """Give the place of a protected file; a lossy picture gets another suffix."""
    return path if path.is_file() else path.with_suffix(".png")


def _pair(name: str, source: Path, protected: Path, epsilon: float) -> Pair:
    if read_header(source).format != "dicom":
        return Pair(name, source, protected, epsilon)
    dataset = pydicom.dcmread(source, stop_before_pixels=True, force=True)
    syntax, photometric = dataset.file_meta.get("TransferSyntaxUID", ""), dataset.get("PhotometricInterpretation", "")
    framed = "PerFrameFunctionalGroupsSequence" in dataset
    return Pair(name, source, protected, epsilon, syntax in _LOSSY or photometric.startswith("YBR"), framed)


# Programs that judge one file ----------------------------------------------------------------------------------------
def _program(name: str, findings: Callable[[Path], Iterable[str]]) -> Referee:
    """Make a referee of a program that judges one DICOM file."""

    def judge(pairs: list[Pair]) -> list[Judgement]:
        pairs = [pair for pair in pairs if pair.is_dicom]
        with ThreadPoolExecutor(THREADS) as threads:
            found = threads.map(
                lambda pair: [frozenset(findings(path)) for path in (pair.source, pair.protected)], pairs
            )
            return [Judgement(pair.name, *both) for pair, both in zip(pairs, found, strict=True)]

    return Referee(name, lambda: "" if shutil.which(name) else f"{name} is not installed", judge)


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, errors="replace", check=False, timeout=60
    )


def _dciodvfy(path: Path) -> Iterable[str]:
    lines = [line for line in _run("dciodvfy", "-new", path).stderr.splitlines() if line.startswith("Error")]
    if any("dataset read failed" in line for line in lines):
        return [UNREADABLE]  # deflated ones are; what it says then differs with every byte
    return (line for line in lines if not any(re.search(pattern, line) for pattern in EXPLAINED))


def _dcmftest(path: Path) -> Iterable[str]:
    return [] if _run("dcmftest", path).returncode == 0 else ["no DICOM file"]


def _dcmdump(path: Path) -> Iterable[str]:
    lines = _run("dcmdump", "-q", path).stderr.replace(str(path), "FILE").splitlines()
    return (line for line in lines if line.startswith(("E:", "W:")))


def _gdcminfo(path: Path) -> Iterable[str]:
    code = _run("gdcminfo", path).returncode
    return [f"exit code {code}"] if code else []


# Libraries that read one file ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reading:
    """What a reader makes of a file: values, and facts that have to stay as they are."""

    values: NDArray[Any]
    facts: Mapping[str, Any]


def _reader(name: str, module: str, fits: Callable[[Pair], bool], read: Callable[[Path], Reading]) -> Referee:
    """Make a referee of a library."""

    def judge(pairs: list[Pair]) -> list[Judgement]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [
                _compare_readings(pair, read)
                for pair in pairs
                if fits(pair) and (name, pair.source.name) not in MISREAD
            ]

    return Referee(name, lambda: "" if importlib.util.find_spec(module) else f"{module} is not installed", judge)


def _compare_readings(pair: Pair, read: Callable[[Path], Reading]) -> Judgement:
    before, after = _attempt(read, pair.source), _attempt(read, pair.protected)
    if before is None or after is None:
        return Judgement(
            pair.name, *(frozenset() if reading else frozenset([UNREADABLE]) for reading in (before, after))
        )
    allowed = _RECODED if pair.recoded else set()
    found = [
        f"{key} is {after.facts.get(key)}, was {fact}"
        for key, fact in sorted((before.facts | dict.fromkeys(after.facts.keys() - before.facts.keys())).items())
        if key not in allowed and not _same(fact, after.facts.get(key))
    ]
    if before.values.shape != after.values.shape or (before.values.dtype != after.values.dtype and not pair.recoded):
        found.append(
            f"reads {after.values.dtype} {after.values.shape}, was {before.values.dtype} {before.values.shape}"
        )
    elif not pair.framed:
        found += _too_large(before.values, after.values, pair.epsilon + pair.recoded)
    return Judgement(pair.name, frozenset(), frozenset(found))


def _attempt(read: Callable[[Path], Reading], path: Path) -> Reading | None:
    try:
        return read(path)
    except Exception:  # noqa: BLE001 (whatever a reader raises, it cannot read the file)
        return None


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.shape == second.shape and np.allclose(first, second, rtol=1e-6, atol=1e-6, equal_nan=True)
    return bool(first == second)


def _too_large(before: NDArray[Any], after: NDArray[Any], epsilon: float) -> list[str]:
    """Say by how much values differ, if by more than the budget and the precision of 32-bit floats."""
    first, second = (
        array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) for array in (before, after)
    )
    with np.errstate(invalid="ignore"):
        difference = np.abs(second - first)
    largest = float(np.nanmax(difference, initial=0.0))
    rounding = 1e-6 * float(np.nanmax(np.abs(first), initial=0.0))
    if largest > epsilon * (1 + 1e-6) + rounding:
        return [f"differs by {largest:g}, the limit is {epsilon:g}"]
    return [SEES_NONE] if largest == 0 else []


def _simpleitk(path: Path) -> Reading:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.LoadPrivateTagsOn()
    image = reader.Execute()
    metadata = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    facts = {
        key: value
        for key, value in metadata.items()
        if key not in _DERIVED and not key.startswith("0002|") and not key.endswith("|0000")
    }
    geometry = {name: np.array(getattr(image, f"Get{name}")()) for name in ("Size", "Spacing", "Origin", "Direction")}
    return Reading(SimpleITK.GetArrayFromImage(image), facts | geometry)


@cache
def _monai_loader(reader: str) -> Any:
    from monai import data
    from monai.transforms import LoadImage

    return LoadImage(reader=getattr(data, reader)(), image_only=True)


def _monai(reader: str) -> Callable[[Path], Reading]:
    def read(path: Path) -> Reading:
        image = _monai_loader(reader)(str(path))
        return Reading(
            image.array, {"affine": np.asarray(image.affine), "spatial_shape": np.asarray(image.meta["spatial_shape"])}
        )

    return read


def _is_dicom(pair: Pair) -> bool:
    return pair.is_dicom


def _is_nifti(pair: Pair) -> bool:
    return read_header(pair.source).format == "nifti"


def _any(pair: Pair) -> bool:
    return True


# dcm2niix, which makes volumes of series -----------------------------------------------------------------------------
def _dcm2niix(pairs: list[Pair]) -> list[Judgement]:
    """Convert all sources of a run, and all its protected files, and compare what comes out series by series."""
    pairs = [pair for pair in pairs if pair.is_dicom and ("dcm2niix", pair.source.name) not in MISREAD]
    if not pairs:
        return []
    series: dict[str, str] = {}
    epsilons: dict[str, float] = {}
    unmeasured = set()  # its own decoders of lossy files differ from others by up to sixteen levels
    for pair in pairs:
        old, new = (
            pydicom.dcmread(path, stop_before_pixels=True, force=True).get("SeriesInstanceUID", "")
            for path in (pair.source, pair.protected)
        )
        series[new] = old
        epsilons[old] = max(epsilons.get(old, 0.0), pair.epsilon)
        if pair.framed or pair.recoded:
            unmeasured.add(old)
    before, after = _volumes([pair.source for pair in pairs]), _volumes([pair.protected for pair in pairs])
    after = {
        re.sub(r"^[0-9.]*[0-9]", lambda uid: series.get(uid[0], uid[0]), name): reading
        for name, reading in after.items()
    }
    judged: list[Judgement] = []
    prefix = f"{pairs[0].name}: " if len(pairs) == 1 else ""
    for name in sorted(before.keys() | after.keys()):
        if name not in after or name not in before:
            judged.append(
                Judgement(
                    prefix + name,
                    frozenset(() if name in before else ["nothing is made"]),
                    frozenset(() if name in after else ["nothing is made"]),
                )
            )
            continue
        uid = re.match(r"[0-9.]*[0-9]", name)
        key = uid[0] if uid else ""
        pair = Pair(
            prefix + name,
            pairs[0].source,
            pairs[0].protected,
            epsilons.get(key, max(epsilons.values())),
            framed=key in unmeasured,
        )
        judged.append(_compare_readings(pair, {pair.source: before[name], pair.protected: after[name]}.__getitem__))
    return judged or [Judgement(pairs[0].name, frozenset(["nothing is made"]), frozenset(["nothing is made"]))]


def _volumes(files: list[Path]) -> dict[str, Reading]:
    """Give what dcm2niix makes of DICOM files, by name, which begins with the series' UID."""
    import nibabel

    with TemporaryDirectory() as spare:
        folder, made = Path(spare) / "in", Path(spare) / "out"
        folder.mkdir()
        made.mkdir()
        for number, file in enumerate(files):
            shutil.copyfile(file, folder / f"{number:04}.dcm")
        _run("dcm2niix", "-i", "n", "-z", "n", "-b", "y", "-ba", "n", "-f", "%j", "-o", made, folder)
        volumes = {}
        for path in sorted(made.glob("*.nii")):
            if "_ROI" in path.stem:
                continue  # an overlay, which stays as it was
            image = nibabel.load(path)
            values = np.asanyarray(image.dataobj)
            if values.dtype.fields:
                values = np.stack([values[name] for name in values.dtype.names], axis=-1)
            sidecar = path.with_suffix(".json")
            facts = (
                {key: value for key, value in json.loads(sidecar.read_bytes()).items() if key not in _SIDECAR}
                if sidecar.is_file()
                else {}
            )
            volumes[path.stem] = Reading(values, facts | {"affine": image.affine, "dtype": str(image.get_data_dtype())})
        return volumes


REFEREES = (
    _program("dciodvfy", _dciodvfy),
    _program("dcmftest", _dcmftest),
    _program("dcmdump", _dcmdump),
    _program("gdcminfo", _gdcminfo),
    Referee("dcm2niix", lambda: "" if shutil.which("dcm2niix") else "dcm2niix is not installed", _dcm2niix),
    _reader("SimpleITK", "SimpleITK", _any, _simpleitk),
    _reader("MONAI PydicomReader", "monai", _is_dicom, _monai("PydicomReader")),
    _reader("MONAI NibabelReader", "monai", _is_nifti, _monai("NibabelReader")),
    _reader("MONAI ITKReader", "itk", _any, _monai("ITKReader")),
)


# Report --------------------------------------------------------------------------------------------------------------
def summarize(referee: Referee, runs: Mapping[str, list[Pair]]) -> dict[str, Any]:
    """Give the row of a referee: how many files it judged, how many it found fine before and after, and its
    regressions.
    """
    reason = referee.missing()
    if reason:
        return {"tool": referee.name, "skipped": reason}
    judgements = [judgement for pairs in runs.values() for judgement in referee.judge(pairs)]
    return {
        "tool": referee.name,
        "judged": len(judgements),
        "fine_before": sum(not judgement.before for judgement in judgements),
        "fine_after": sum(not judgement.after for judgement in judgements),
        "regressions": {judgement.name: judgement.regressions for judgement in judgements if judgement.regressions},
    }


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Give the rows as text."""
    lines = [f"{'tool':<20} {'judged':>7} {'fine before':>12} {'fine after':>11} {'regressions':>12}"]
    for row in rows:
        if "skipped" in row:
            lines.append(f"{row['tool']:<20} skipped: {row['skipped']}")
        else:
            lines.append(
                f"{row['tool']:<20} {row['judged']:>7} {row['fine_before']:>12} {row['fine_after']:>11} "
                f"{len(row['regressions']):>12}"
            )
    return "\n".join(lines)
