# SPDX-License-Identifier: Apache-2.0
"""Every case ends in a fate that is right, and every protected file keeps the seven invariants: (a) the bound, by two
readers; (b) noise inside the anatomy and nowhere else; (c) a header that differs where a derived image may; (d) no new
errors of validators, see ``test_referees``; (e) no old UID but that of the source; (f) the same bytes with any number
of workers, and after a stop; (g) a report and an exit code that say the truth.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from monai_salm import cli
from monai_salm.io import read_header
from monai_salm.pipeline import ProtectOptions, protect
from monai_salm.pipeline.inventory import file_digest
from tests.exports import KEY, tree
from tests.fidelity import cases
from tests.fidelity.cases import COPIED, PROTECTED, REFUSED, Case, Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "ImageType", "SOPInstanceUID", "SeriesInstanceUID", "DerivationDescription", "DerivationCodeSequence",
    "SourceImageSequence",
    "ContributingEquipmentSequence", "InstanceCreationDate", "InstanceCreationTime", "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "ContentQualification", "DigitalSignaturesSequence",
    "MACParametersSequence",
    "IconImageSequence", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "ReferencedSeriesSequence",
    "SourceImageEvidenceSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
}  # fmt: skip
"""What may differ at the top level of a derived DICOM image."""
ALLOWED_RECODED = {
    "PhotometricInterpretation", "PlanarConfiguration", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod"
}  # fmt: skip
"""What may differ besides where the source is lossy, and so is written native."""

needs_cases = pytest.mark.skipif(not cases.shared_rows(), reason="the development data are not beside the repository")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], list[Run]]:
    return cases.run_shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], list[Run]]:
    return cases.run_shipped(tmp_path_factory.mktemp("shipped"))


@needs_cases
def test_every_case_ends_in_a_fate_that_is_right(shared: tuple[list[Case], list[Run]]) -> None:
    found, _ = shared
    archives = [row for row in cases.shared_rows() if row["path"].endswith(".zip") and row["path"].count("/") == 1]
    assert len(found) + len(archives) == len(cases.shared_rows())
    wrong = {
        case.name: (case.fate, sorted(case.expected), case.reason) for case in found if case.fate not in case.expected
    }
    assert wrong == {}
    assert cases.DISAGREEMENTS.keys() <= {case.name for case in found}


def test_shipped_files_end_in_a_fate(shipped: tuple[list[Case], list[Run]]) -> None:
    found, _ = shipped
    if not found:
        pytest.skip("pydicom was installed without its test files")
    assert {case.fate for case in found} == {PROTECTED, COPIED, REFUSED}
    assert sum(case.fate == PROTECTED for case in found) >= 70


@pytest.fixture(params=["shared", "shipped"])
def done(request: pytest.FixtureRequest) -> tuple[list[Case], list[Run]]:
    if request.param == "shared" and not cases.shared_rows():
        pytest.skip("the development data are not beside the repository")
    found: tuple[list[Case], list[Run]] = request.getfixturevalue(request.param)
    return found


def _protected(done: tuple[list[Case], list[Run]]) -> Iterator[Case]:
    for case in done[0]:
        if case.fate == PROTECTED:
            yield case


def test_verify_finds_nothing_wrong(done: tuple[list[Case], list[Run]]) -> None:
    wrong = {file.path: file.problems for run in done[1] if run.report is not None for file in run.report.mismatches}
    assert wrong == {}
    for case in done[0]:
        expected = {PROTECTED: PROTECTED, COPIED: COPIED}.get(case.fate, "absent")
        assert case.verdict is None or case.verdict.verdict == expected, case.name


def test_bound_by_two_readers(done: tuple[list[Case], list[Run]]) -> None:
    seconds = 0
    for case in _protected(done):
        assert case.line is not None
        assert case.verdict is not None
        assert 0 < case.line.max_change_stored <= case.line.epsilon_stored, case.name
        assert case.verdict.max_change_stored == case.line.max_change_stored
        assert case.verdict.max_change_real <= case.line.epsilon_real * (1 + 1e-9), case.name
        seconds += bool(case.verdict.second_reader)
    assert seconds >= 0.7 * sum(1 for _ in _protected(done))


def test_pydicom_sees_the_same_bound(done: tuple[list[Case], list[Run]]) -> None:
    """The raw values that pydicom decodes differ by no more than the budget, wherever it can decode both."""
    compared = 0
    for case in _protected(done):
        if read_header(case.source).format != "dicom":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                before, after = (pydicom.dcmread(path) for path in (case.source, case.target))
                if (
                    before.file_meta.TransferSyntaxUID != after.file_meta.TransferSyntaxUID
                    or before.PhotometricInterpretation.startswith("YBR")
                ):
                    continue  # decoded once, or converted on reading: the referees look at these
                values = [dataset.pixel_array.astype(np.int64) for dataset in (before, after)]
            except (RuntimeError, AttributeError, ValueError, NotImplementedError):
                continue
        assert case.line is not None
        assert np.abs(values[1] - values[0]).max() <= case.line.epsilon_stored, case.name
        compared += 1
    assert compared >= 20


def test_noise_is_inside_the_anatomy_alone(done: tuple[list[Case], list[Run]]) -> None:
    for case in _protected(done):
        assert case.verdict is not None
        assert case.verdict.changed_outside == 0, case.name
        assert 0 < case.verdict.changed_fraction <= 1, case.name


def _datasets(case: Case) -> tuple[pydicom.FileDataset, pydicom.FileDataset] | None:
    if read_header(case.source).format != "dicom":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = (pydicom.dcmread(path, stop_before_pixels=False) for path in (case.source, case.target))
    return before, after


def test_header_differs_where_it_may(done: tuple[list[Case], list[Run]]) -> None:
    for case in _protected(done):
        pair = _datasets(case)
        if pair is None:
            continue
        before, after = pair
        allowed = set(ALLOWED)
        if before.file_meta.TransferSyntaxUID != after.file_meta.TransferSyntaxUID:
            allowed |= ALLOWED_RECODED
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for tag in {element.tag for element in before.elements()} | {element.tag for element in after.elements()}:
                name = pydicom.datadict.keyword_for_tag(tag) or str(tag)
                if name in allowed or tag.element == 0:
                    continue
                assert before.get_item(tag) is not None, f"{case.name}: {name} appears"
                assert after.get_item(tag) is not None, f"{case.name}: {name} is gone"
                assert _value(before, tag) == _value(after, tag), f"{case.name}: {name} differs"


def _value(dataset: pydicom.Dataset, tag: Any) -> Any:
    """Give the bytes of an element, or its items without icons, which go at any depth."""
    item = dataset.get_item(tag)
    if isinstance(item, pydicom.dataelem.RawDataElement) and item.VR != "SQ" and item.value is not None:
        return bytes(item.value)
    return str(dataset[tag])


def _uids(dataset: pydicom.Dataset) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for element in dataset.iterall():
            if element.VR == "UI" and element.value:
                values = [element.value] if isinstance(element.value, (str, UID)) else element.value
                yield from ((element.keyword, str(value)) for value in values)


def test_no_old_uid_is_left_but_that_of_the_source(done: tuple[list[Case], list[Run]]) -> None:
    for case in _protected(done):
        pair = _datasets(case)
        if pair is None:
            continue
        before, after = pair
        old = {str(before.SOPInstanceUID), str(before.get("SeriesInstanceUID", ""))} - {
            "",
            str(before.get("StudyInstanceUID", "")),
        }
        for name in ("SourceImageSequence", "SourceImageEvidenceSequence", "ReferencedSeriesSequence"):
            if name in after:
                del after[name]
        for shared in after.get("SharedFunctionalGroupsSequence", []):
            shared.pop("DerivationImageSequence", None)
        left = [
            (keyword, uid)
            for keyword, uid in _uids(after)
            if uid in old and keyword not in ("FrameOfReferenceUID", "StorageMediaFileSetUID")
        ]
        assert left == [], case.name
        assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID != before.SOPInstanceUID


@needs_cases
def test_references_of_an_export_follow(shared: tuple[list[Case], list[Run]]) -> None:
    run = next(run for run in shared[1] if run.source.name.startswith("E2"))
    folders = (run.source / "DICOM", run.output / "DICOM")
    before, after = (
        {path.relative_to(folder): pydicom.dcmread(path) for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    )
    assert before.keys() == after.keys()
    new = {str(before[path].SOPInstanceUID): str(after[path].SOPInstanceUID) for path in before}
    assert all(old != name for old, name in new.items())
    for path in before:
        expected = {new.get(uid, uid) for keyword, uid in _uids(before[path]) if keyword == "ReferencedSOPInstanceUID"}
        sources = {str(item.ReferencedSOPInstanceUID) for item in after[path].get("SourceImageSequence", [])}
        found = {uid for keyword, uid in _uids(after[path]) if keyword == "ReferencedSOPInstanceUID"}
        assert expected <= found <= expected | sources, path
        assert before[path].StudyInstanceUID == after[path].StudyInstanceUID
    seg = Path("SEG") / "SEG001"
    assert before[seg].PixelData == after[seg].PixelData


@needs_cases
@pytest.mark.parametrize("name", ["E1_dicomdir_cr_ct_mr", "E2_ct_seg_rtstruct_pr_ko_sr", "E6_pet_per_slice_slope"])
def test_workers_and_resume_give_the_same_bytes(
    name: str, shared: tuple[list[Case], list[Run]], tmp_path: Path
) -> None:
    run = next(run for run in shared[1] if run.source.name == name)
    protect(run.source, tmp_path / "many", ProtectOptions(method="random", workers=2, key_file=KEY))
    assert tree(tmp_path / "many") == tree(run.output)
    some = sorted(path for path in (tmp_path / "many").rglob("*") if path.is_file())[::3]
    for path in some:
        path.unlink()
    again = protect(run.source, tmp_path / "many", ProtectOptions(method="random", resume=True, key_file=KEY))
    assert tree(tmp_path / "many") == tree(run.output)
    assert again.to_json()["counts"] == run.result.to_json()["counts"]


def test_report_says_what_is_there(done: tuple[list[Case], list[Run]]) -> None:
    """OUTPUT holds what the manifest says was protected or copied, with those bytes, and nothing else."""
    for run in done[1]:
        if run.output.suffix == ".zip":
            continue
        fates = run.result.fates
        written = {path: fate for path, fate in fates.items() if fate.status in (PROTECTED, COPIED)}
        there = {path.relative_to(run.output).as_posix(): path for path in run.output.rglob("*") if path.is_file()}
        assert there.keys() == written.keys(), run.source
        for path, fate in written.items():
            assert file_digest(there[path]) == fate.sha256_out, path
        counts = run.result.to_json()["counts"]
        assert sum(counts.values()) == len(fates)
        assert all(fate.reason and "\n" not in fate.reason for fate in fates.values() if fate.status == REFUSED)
        assert counts["failed"] == 0


def test_no_unprotected_picture_is_handed_out(done: tuple[list[Case], list[Run]]) -> None:
    for case in done[0]:
        if case.fate != COPIED or not case.target.is_file():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(case.target, force=True)
        if "PixelData" in dataset:
            assert dataset.SOPClassUID.name in (
                "Segmentation Storage",
                "RT Dose Storage",
                "1.2.840.10008.5.1.4.1.1.66.7",
                "Label Map Segmentation Storage",
            )


@needs_cases
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("E2_ct_seg_rtstruct_pr_ko_sr", 0),
        ("E5_dirty_tree", 3),
        ("E2.zip", 0),
        ("E5_zipslip.zip", 3),
        ("E5_dirty_tree/empty", 1),
    ],
)
def test_exit_code_says_the_truth(name: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=rf"^{code}$"):
        cli.main(
            [
                "protect",
                str(cases.FOLDER / "exports" / name),
                str(tmp_path / "out"),
                "--method",
                "random",
                "--json",
                "--quiet",
            ]
        )
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["refused"] > 0) == (code != 0)


@needs_cases
def test_names_of_a_zip_are_kept(shared: tuple[list[Case], list[Run]]) -> None:
    from zipfile import ZipFile

    for run in shared[1]:
        if run.output.suffix != ".zip":
            continue
        with ZipFile(run.source) as before, ZipFile(run.output) as after:
            refused = {path for path, fate in run.result.fates.items() if fate.status == REFUSED}
            assert [name for name in before.namelist() if name not in refused] == after.namelist()
            assert after.testzip() is None


@needs_cases
def test_page_of_fates_is_up_to_date(
    shared: tuple[list[Case], list[Run]], shipped: tuple[list[Case], list[Run]]
) -> None:
    spec = importlib.util.spec_from_file_location("make_fidelity", ROOT / "docs" / "make_fidelity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert module.page(page, shared[0], shipped[0]) == page, "run python docs/make_fidelity.py"
