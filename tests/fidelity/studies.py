# SPDX-License-Identifier: Apache-2.0
"""A study as a PACS has them: two series, and objects that refer to their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from tests.exports import ROOT_UID, mr_series
from tests.io.builders import CT

MR, KEY_OBJECTS, RT_STRUCTURES = (
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.88.59",
    "1.2.840.10008.5.1.4.1.1.481.3",
)
STUDY = f"{ROOT_UID}.40"


def made_study(folder: Path) -> Path:
    """Write two series of one study, and objects that refer to their slices: key objects and structures."""
    study = {"StudyInstanceUID": STUDY, "PatientID": "P1", "PatientName": "Doe^Jane"}
    for number, (modality, storage, intercept) in enumerate((("CT", CT, -300), ("MR", MR, 0))):
        mr_series(
            folder / modality,
            number,
            slices=4,
            Modality=modality,
            SOPClassUID=storage,
            RescaleIntercept=intercept,
            **study,
        )
    slices = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    _referring(
        folder / "KO001", 1, KEY_OBJECTS, "KO", study, CurrentRequestedProcedureEvidenceSequence=_evidence(slices)
    )
    contour = _item(ContourImageSequence=Sequence([_reference(slices[0])]))
    frame = _item(FrameOfReferenceUID=slices[0].FrameOfReferenceUID, RTReferencedStudySequence=_evidence(slices[:4]))
    regions = Sequence([_item(ReferencedROINumber=1, ContourSequence=Sequence([contour]))])
    _referring(
        folder / "RS001",
        2,
        RT_STRUCTURES,
        "RTSTRUCT",
        study,
        ReferencedFrameOfReferenceSequence=Sequence([frame]),
        ROIContourSequence=regions,
    )
    return folder


def _referring(path: Path, number: int, storage: str, modality: str, study: dict[str, str], **attributes: Any) -> None:
    own = {
        "SOPInstanceUID": f"{ROOT_UID}.41.{number}",
        "SeriesInstanceUID": f"{ROOT_UID}.42.{number}",
        "SOPClassUID": storage,
        "Modality": modality,
    }
    dataset = _item(**own, **study, **attributes)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def _evidence(slices: list[Dataset]) -> Sequence:
    series: dict[str, list[Dataset]] = {}
    for instance in slices:
        series.setdefault(instance.SeriesInstanceUID, []).append(_reference(instance))
    items = [
        _item(SeriesInstanceUID=uid, ReferencedSOPSequence=Sequence(references)) for uid, references in series.items()
    ]
    return Sequence([_item(StudyInstanceUID=slices[0].StudyInstanceUID, ReferencedSeriesSequence=Sequence(items))])


def _reference(instance: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=instance.SOPClassUID, ReferencedSOPInstanceUID=instance.SOPInstanceUID)


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def references(dataset: Dataset) -> set[str]:
    """Give the UIDs of the instances that a dataset refers to at any depth, but for the image that it
    was derived from.
    """
    found = set()
    for element in dataset:
        if element.VR == "SQ" and element.keyword != "SourceImageSequence":
            found |= {uid for item in element.value for uid in references(item)}
        elif element.keyword in ("ReferencedSOPInstanceUID", "ReferencedSOPInstanceUIDInFile"):
            found.add(str(element.value))
    return found
