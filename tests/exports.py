# SPDX-License-Identifier: Apache-2.0
"""Small exports, as a hospital would hand them in: bodies on a dark background, one class of which has
a bright lesion.
"""

from __future__ import annotations

import csv
import gc
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from monai_salm.pipeline import ProtectionPlan, ProtectOptions
from monai_salm.seals import sealed_lines, unsealed_lines
from tests.io.builders import dicom_dataset, gzip_bytes, nifti_bytes, reference, write_dicom

ROOT_UID = "1.2.826.0.1.3680043.8.498"

KEY = Path(__file__).with_name("key.txt")
"""Key of the runs of tests: without one, no two runs give the same bytes."""


def body(number: int, size: int = 24) -> NDArray[np.int16]:
    """Give a slice of values from 0 to about 700; odd numbers have a lesion."""
    generator = np.random.default_rng(number)
    rows, columns = np.ogrid[:size, :size]
    inside = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (size / 2.6) ** 2
    lesion = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (size / 7) ** 2
    image = inside * (250 + generator.integers(0, 120, (size, size))) + 300 * lesion * (number % 2)
    return image.astype(np.int16)


def block(number: int, shape: tuple[int, int, int] = (16, 16, 12)) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Give a volume with a lesion, and its label map; odd numbers have a larger lesion."""
    generator = np.random.default_rng(number)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    lesion = radius < 0.35 + 0.2 * (number % 2)
    image = (radius < 0.85) * (250 + generator.integers(0, 120, shape)) + 300 * lesion
    return image.astype(np.int16), lesion.astype(np.uint8)


def mr_slice(path: Path, number: int, values: NDArray[Any] | None = None, **extra: Any) -> Path:
    """Write an MR instance with identifiers of its own, one study and series for each."""
    attributes: dict[str, Any] = {
        "Modality": "MR",
        "SOPInstanceUID": f"{ROOT_UID}.10.{number + 1}",
        "SeriesInstanceUID": f"{ROOT_UID}.20.{number + 1}",
        "StudyInstanceUID": f"{ROOT_UID}.30.{number + 1}",
        "PatientID": f"P{number}",
        "AccessionNumber": f"A{number}",
        "ImagePositionPatient": [0, 0, float(number)],
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "WindowCenter": None,
        "WindowWidth": None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    values = body(number) if values is None else values
    return write_dicom(path, dicom_dataset(shape=values.shape, extra=attributes | extra), values)


def mr_export(folder: Path, count: int = 8) -> Path:
    """Write instances ``case0/image.dcm`` and so on; every second one has a lesion."""
    for number in range(count):
        mr_slice(folder / f"case{number}" / "image.dcm", number)
    return folder


def mr_series(folder: Path, number: int, slices: int = 6, **extra: Any) -> list[Path]:
    """Write one volume as slices, named against their order along the normal."""
    series = {
        "SeriesInstanceUID": f"{ROOT_UID}.21.{number + 1}",
        "StudyInstanceUID": f"{ROOT_UID}.31.{number + 1}",
        "PatientID": f"S{number}",
    }
    # Without the ends of the body, which are empty slices.
    volume = np.moveaxis(block(number, (16, 16, slices + 6))[0], -1, 0)[3:-3]
    paths = []
    for place, values in enumerate(volume):
        own = {
            "SOPInstanceUID": f"{ROOT_UID}.11.{number + 1}.{place + 1}",
            "ImagePositionPatient": [0, 0, 2.0 * place],
            "InstanceNumber": place + 1,
        }
        paths.append(mr_slice(folder / f"slice{slices - place}.dcm", number, values, **(series | own | extra)))
    return paths


def nifti_file(path: Path, values: NDArray[Any], **fields: Any) -> Path:
    """Write a NIfTI file, compressed if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = nifti_bytes(values, **fields)
    path.write_bytes(gzip_bytes(content) if path.suffix == ".gz" else content)
    return path


def nifti_export(
    folder: Path,
    count: int = 6,
    *,
    dtype: Any = np.int16,
    suffix: str = ".nii.gz",
    labels: Path | None = None,
    **fields: Any,
) -> Path:
    """Write volumes ``v0.nii.gz`` and so on, and their label maps into the folder ``labels``."""
    for number in range(count):
        image, label_map = block(number)
        nifti_file(folder / f"v{number}{suffix}", image.astype(dtype), **fields)
        if labels is not None:
            nifti_file(labels / f"v{number}{suffix}", label_map)
    return folder


def label_table(path: Path, labels: Mapping[str, Any], key: str = "path", columns: Iterable[str] = ("label",)) -> Path:
    """Write a CSV table; a label is one value, or one a column."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([key, *columns])
        for name, label in labels.items():
            writer.writerow([name, *(label if isinstance(label, (list, tuple)) else [label])])
    return path


def lesion_table(path: Path, names: Iterable[str]) -> Path:
    """Label names in turn as healthy and ill."""
    return label_table(path, {name: ("healthy", "ill")[number % 2] for number, name in enumerate(names)})


def mr_labels(path: Path, count: int = 8) -> Path:
    """Write the labels of :func:`mr_export`."""
    return lesion_table(path, (f"case{number}/image.dcm" for number in range(count)))


def tree(folder: Path) -> dict[str, bytes]:
    """Give the content of every file of a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def small(**changes: Any) -> ProtectOptions:
    """Give the options of a search that takes a second; without a way back, which takes longer."""
    fields: dict[str, Any] = {"rounds": 2, "surrogate": "small-cnn", "working_size": 24, "device": "cpu"}
    return ProtectOptions(**(fields | {"key_file": KEY, "restore": False} | changes))


def drawn(**changes: Any) -> ProtectOptions:
    """Give the options of random noise, which needs neither labels nor a search; without a way back."""
    fields: dict[str, Any] = {"method": "random", "working_size": 24, "device": "cpu"}
    return ProtectOptions(**(fields | {"key_file": KEY, "restore": False} | changes))


def dicom_object(path: Path, sop_class: str, number: int, references: Iterable[str] = (), **extra: Any) -> Path:
    """Write a DICOM object without pixels that refers to others by their SOP Instance UIDs."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = f"{ROOT_UID}.40.{number + 1}"
    dataset.SeriesInstanceUID = f"{ROOT_UID}.50.{number + 1}"
    dataset.StudyInstanceUID = f"{ROOT_UID}.30.1"
    dataset.Modality = "OT"
    dataset.PatientName = dataset.PatientID = "P0"
    dataset.ReferencedInstanceSequence = Sequence([item for uid in references for item in reference(uid)])
    for keyword, value in extra.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def file_set(folder: Path, sources: Iterable[Path]) -> Path:
    """Write copies of DICOM files under names of a disc, with a DICOMDIR, by pydicom."""
    files = FileSet()
    for source in sources:
        dataset = pydicom.dcmread(source)
        dataset.StudyTime, dataset.StudyID, dataset.SeriesNumber = "120000", "1", 1
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        files.add(dataset)
    files.write(folder)
    del files
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # a file-set warns when it goes, for it leaves a temporary folder
    return folder / "DICOMDIR"


def zip_file(path: Path, folder: Path) -> Path:
    """Pack a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in tree(folder).items():
            packed.writestr(name, content)
    return path


def plan_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a frozen plan, but the last."""
    return list(unsealed_lines(path.read_text(encoding="utf-8").splitlines()))


def plan_in(lines: list[dict[str, Any]]) -> ProtectionPlan:
    """Give the plan that some lines hold."""
    fates = {
        name: {line["path"]: line["plan"][name] for line in lines if name in line.get("plan", ())}
        for name in ("refused", "documents", "copies")
    }
    return ProtectionPlan.from_json(lines[0] | fates | {"samples": [it for it in lines if it["line"] == "sample"]})


def write_plan(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a frozen plan as somebody would who knows how its digest and its checksums are made."""
    digest = {"digest": plan_in(lines).digest()}
    path.write_text("".join(f"{line}\n" for line in sealed_lines([lines[0] | digest, *lines[1:]])))
