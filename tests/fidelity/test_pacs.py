# SPDX-License-Identifier: Apache-2.0
"""Protected files beside their originals in one archive: all are stored, come back as they were, and what the archive
saves can be protected again.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from monai_salm.pipeline import protect, verify
from tests.exports import drawn
from tests.fidelity.orthanc import Orthanc, find_orthanc, running_orthanc
from tests.fidelity.studies import made_study, references

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fidelity_cases" / "exports"
EXPORTS = {"E1": SHARED / "E1_dicomdir_cr_ct_mr", "E2": SHARED / "E2_ct_seg_rtstruct_pr_ko_sr"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")]


@pytest.fixture
def pacs() -> Iterator[Orthanc]:
    with running_orthanc() as server:
        yield server


def _objects(folder: Path) -> dict[str, bytes]:
    """Give the DICOM files of a folder but for its DICOMDIR, which no archive stores."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "DICOMDIR"
    }
    return {name: content for name, content in found.items() if content[128:132] == b"DICM"}


def _unresolved(folder: Path) -> tuple[set[str], int]:
    """Give the references within a folder that lead nowhere, and how many there are at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets = [pydicom.dcmread(path, force=True) for path in sorted(folder.rglob("*")) if path.is_file()]
    referred = {uid for dataset in datasets for uid in references(dataset)}
    return referred - {str(dataset.get("SOPInstanceUID")) for dataset in datasets}, len(referred)


def _protect(source: Path, output: Path) -> dict[str, str]:
    """Protect and verify; gives the status of every file, of which only slices without tissue may be refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # real files are not as clean as pydicom wants them
        result = protect(source, output, drawn())
        report = verify(source, result.output)
    assert [(file.path, file.problems) for file in report.mismatches] == []
    statuses = {path: fate.status for path, fate in result.fates.items()}
    assert [
        fate
        for fate in result.fates.values()
        if fate.status not in ("protected", "copied") and "carry noise" not in fate.reason
    ] == []
    return statuses


@pytest.mark.parametrize("export", ["made", *EXPORTS])
def test_originals_and_protected_files_in_one_archive(export: str, pacs: Orthanc, tmp_path: Path) -> None:
    source = EXPORTS.get(export) or made_study(tmp_path / "in")
    if not source.is_dir():
        pytest.skip("the folder of exports is not there")
    statuses = _protect(source, tmp_path / "out")
    before, after = _objects(source), _objects(tmp_path / "out")
    pictures = sum(statuses[name] == "protected" for name in before)
    assert after.keys() == {name for name in before if statuses[name] != "refused"}
    assert pictures >= 3
    originals, protected = (_upload(pacs, files) for files in (before, after))
    assert len(originals | protected) == len(before) + len(after)
    # What the archive saves of the originals and the protected files, which share their study, and then of the latter
    # alone.
    saved = [(study, kind, pacs.saved(study, kind)) for study in pacs.studies() for kind in ("archive", "media")]
    _protect_again(saved, tmp_path / "both", 2 * pictures)
    for instance in originals:
        pacs.delete(instance)
    saved = [(study, kind, pacs.saved(study, kind)) for study in pacs.studies() for kind in ("archive", "media")]
    _protect_again(saved, tmp_path / "again", pictures)


def _upload(pacs: Orthanc, files: dict[str, bytes]) -> set[str]:
    """Store files as new ones, and see that they come back as they went in."""
    instances = set()
    for name, content in files.items():
        answer = pacs.upload(content)
        assert (name, answer["Status"]) == (name, "Success")
        assert pacs.file(answer["ID"]) == content
        instances.add(answer["ID"])
    return instances


def _protect_again(saved: list[tuple[str, str, bytes]], folder: Path, pictures: int) -> None:
    """Protect the zips of an archive: every picture in both kinds of them, and references that led
    somewhere still do.
    """
    folder.mkdir()
    counts = {"archive": 0, "media": 0}
    for study, kind, content in saved:
        source, output = folder / f"{study}_{kind}.zip", folder / f"{study}_{kind}_out.zip"
        source.write_bytes(content)
        statuses = _protect(source, output)
        counts[kind] += sum(status == "protected" for status in statuses.values())
        names = []
        for path in (source, output):
            with zipfile.ZipFile(path) as opened:
                names.append(opened.namelist())
                opened.extractall(path.with_suffix(""))
        assert names[1] == [name for name in names[0] if statuses.get(name) != "refused"]
        assert ("DICOMDIR" in {Path(name).name for name in names[1]}) == (kind == "media")
        lost, referred = _unresolved(output.with_suffix(""))
        outside, referred_before = _unresolved(source.with_suffix(""))
        refused = (
            sum(status == "refused" for status in statuses.values()) if kind == "media" else 0
        )  # the DICOMDIR does not list them anymore
        assert (lost, referred) == (outside, referred_before - refused)
    assert counts == {"archive": pictures, "media": pictures}
