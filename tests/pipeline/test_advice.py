# SPDX-License-Identifier: Apache-2.0
"""Advice about modality, window, anatomy and identity: who follows it gets another outcome."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from monai_salm.errors import RefusedError
from monai_salm.hounsfield import check_units, looks_like_ct
from monai_salm.io import MODALITIES, ImageHeader, identify
from monai_salm.pipeline import ProtectResult, protect, scan, verify
from monai_salm.pipeline.file_views import BudgetOptions
from tests.exports import drawn, mr_slice, nifti_file, tree
from tests.io.test_dicom_advice import MODALITY_COMMAND

RANDOM = np.random.default_rng(5)


def hounsfield(size: int = 48) -> NDArray[np.int16]:
    """A body of soft tissue with a lung in air, stored as HU plus 1024."""
    y, x = np.mgrid[:size, :size] - size / 2
    values = np.full((size, size), -1000) + RANDOM.integers(-10, 10, (size, size))
    values[np.hypot(y, x) < 0.4 * size] = 40
    values[np.hypot(y, x - 0.15 * size) < 0.1 * size] = -850
    inside = values == 40
    values[inside] += RANDOM.integers(-30, 30, inside.sum())
    return (values + 1024).astype(np.int16)


def phase(low: int, high: int, size: int = 48) -> NDArray[np.int16]:
    """A phase image: any value is as likely as any other, and masked around the head."""
    y, x = np.mgrid[:size, :size] - size / 2
    return np.where(np.hypot(y, x) < 0.45 * size, RANDOM.integers(low, high, (size, size)), 0).astype(np.int16)


def ct(path: Path, modality: str, values: NDArray[np.int16] | None = None, intercept: int = -1024) -> Path:
    return mr_slice(
        path,
        1,
        hounsfield() if values is None else values,
        Modality=modality,
        RescaleSlope=1,
        RescaleIntercept=intercept,
    )


def _run(source: Path, out: Path, **options: object) -> ProtectResult:
    chosen = drawn(**options)
    result = protect(source, out, chosen)
    if result.to_json()["counts"]["protected"]:
        assert not verify(
            source, out, options=BudgetOptions(window=chosen.parsed_window(), modality=chosen.modality)
        ).mismatches
    return result


@pytest.mark.parametrize("modality", ["ct", "Ct", "ct ", "CT"])
def test_letter_case_of_the_modality_does_not_count(modality: str, tmp_path: Path) -> None:
    """It decides as CT would, and stays in the file as it is."""
    ct(tmp_path / "in" / "a.dcm", "XX")
    path = tmp_path / "in" / "a.dcm"
    value = modality.encode()[:2].ljust(2)
    path.write_bytes(path.read_bytes().replace(b"\x08\0\x60\0CS\2\0XX", b"\x08\0\x60\0CS\2\0" + value))
    result = _run(tmp_path / "in", tmp_path / "out")
    assert result.fates["a.dcm"].status == "protected"
    assert (result.fates["a.dcm"].modality, result.fates["a.dcm"].epsilon_stored) == ("CT", 12)
    assert b"\x08\0\x60\0CS\2\0" + value in (tmp_path / "out" / "a.dcm").read_bytes()


@pytest.mark.parametrize("modality", ["", "OT", "XX", "SOMETHING", "MR", "PT", "NM", "US", "XA"])
def test_hounsfield_units_under_another_name_are_refused(modality: str, tmp_path: Path) -> None:
    ct(tmp_path / "in" / "a.dcm", modality)
    reason = _run(tmp_path / "in", tmp_path / "out").fates["a.dcm"].reason
    assert "looks like CT" in reason
    assert "--window LOW,HIGH" in reason
    assert _run(tmp_path / "in", tmp_path / "window", window="-160,240").fates["a.dcm"].status == "protected"
    if "--modality CT" in reason:
        helped = _run(tmp_path / "in", tmp_path / "modality", modality="CT")
        assert (helped.fates["a.dcm"].status, helped.fates["a.dcm"].epsilon_stored) == ("protected", 12)
    else:
        assert MODALITY_COMMAND in reason
        if shutil.which("dcmodify"):
            subprocess.run([*shlex.split(MODALITY_COMMAND), tmp_path / "in" / "a.dcm"], check=True, capture_output=True)
            assert _run(tmp_path / "in", tmp_path / "mended").fates["a.dcm"].epsilon_stored == 12


@pytest.mark.parametrize(("low", "high"), [(-4096, 4095), (-1000, 1000), (-3142, 3142), (-2048, 2047)])
def test_phases_are_no_hounsfield_units(low: int, high: int, tmp_path: Path) -> None:
    ct(tmp_path / "in" / "a.dcm", "MR", phase(low, high), 0)
    assert _run(tmp_path / "in", tmp_path / "out").fates["a.dcm"].status == "protected"
    assert not looks_like_ct(RANDOM.integers(low, high, 10000).astype(float))


@pytest.mark.parametrize("fill", [-1000, -1024, -2000, -3024])
def test_what_looks_like_ct(fill: int) -> None:
    values = hounsfield().astype(float) - 1024
    values[:10] = fill
    assert looks_like_ct(values)
    check_units("CT", values)
    with pytest.raises(RefusedError, match=r"its modality is MR.*dcmodify"):
        check_units("MR", values)
    with pytest.raises(RefusedError, match="the file does not say so; give --modality CT, or --window LOW,HIGH"):
        check_units("", values)
    values[values < -500] = fill = -30000
    assert not looks_like_ct(values), "so low is no scanner's fill"
    assert not looks_like_ct(np.array([np.nan]))
    assert not looks_like_ct(np.array([]))


def test_code_that_is_none_is_noted(tmp_path: Path) -> None:
    header = identify(mr_slice(tmp_path / "in" / "a.dcm", 1, Modality="XX"))
    assert isinstance(header, ImageHeader)
    assert "Modality is XX, which is no code of the standard, so that nothing is known of its values" in header.notes
    assert "XX" not in MODALITIES
    fate = _run(tmp_path / "in", tmp_path / "out").fates["a.dcm"]
    assert (fate.status, fate.modality) == ("protected", "")
    assert _run(tmp_path / "in", tmp_path / "mr", modality="MR").fates["a.dcm"].modality == "MR"


def test_no_anatomy_is_told_from_anatomy_outside_the_window(tmp_path: Path) -> None:
    air = ct(tmp_path / "air" / "a.dcm", "CT", RANDOM.integers(0, 254, (48, 48)).astype(np.int16))
    for window in ("auto", "-1024,-770"):
        reason = _run(air.parent, tmp_path / f"air of {window}", window=window).fates["a.dcm"].reason
        assert reason.startswith("no anatomy was found: no region of it is denser than -500 HU")
        assert "no --window changes that" in reason
        assert "--modality" not in reason, "the file says CT, so the option would not help"
    assert _run(air.parent, tmp_path / "copied", copy_unprotected=True).fates["a.dcm"].status == "copied"
    bone = ct(tmp_path / "bone" / "a.dcm", "CT", RANDOM.integers(1900, 2400, (48, 48)).astype(np.int16))
    reason = _run(bone.parent, tmp_path / "out").fates["a.dcm"].reason
    found = re.fullmatch(
        r"none of its 2\d+ anatomy voxels, which are 8\d\d to 13\d\d, lies inside .* such as --window=(.+,.+)", reason
    )
    assert found is not None, reason
    assert _run(bone.parent, tmp_path / "given", window=found[1]).fates["a.dcm"].status == "protected"


def test_air_without_a_modality_of_its_own(tmp_path: Path) -> None:
    """Here the option helps."""
    values = RANDOM.integers(-1024, -770, (24, 24, 8)).astype(np.int16)
    nifti_file(tmp_path / "in" / "a.nii", values)
    reason = _run(tmp_path / "in", tmp_path / "out", modality="CT").fates["a.nii"].reason
    assert "give another --modality if it is no CT" in reason
    assert _run(tmp_path / "in", tmp_path / "mr", modality="MR").fates["a.nii"].status == "protected"


def test_saturated_anatomy_has_no_window(tmp_path: Path) -> None:
    values = np.where(hounsfield() > 500, 3000, 0).astype(np.int16)
    ct(tmp_path / "in" / "a.dcm", "CT", values)
    reason = _run(tmp_path / "in", tmp_path / "out", pictures=("a.dcm",)).fates["a.dcm"].reason
    assert "are all saturated or padding" in reason
    assert _run(tmp_path / "in", tmp_path / "copied", copy_unprotected=True).fates["a.dcm"].status == "copied"


def test_empty_picture_is_copied_if_asked(tmp_path: Path) -> None:
    mr_slice(tmp_path / "in" / "a.dcm", 1, np.full((24, 24), 7))
    assert "no anatomy was found" in _run(tmp_path / "in", tmp_path / "out").fates["a.dcm"].reason
    assert _run(tmp_path / "in", tmp_path / "copied", copy_unprotected=True).fates["a.dcm"].status == "copied"


@pytest.mark.parametrize("how", ["RLE", "implicit", "header"])
def test_one_picture_in_two_encodings(how: str, tmp_path: Path) -> None:
    first = ct(tmp_path / "in" / "a.dcm", "CT")
    dataset = pydicom.dcmread(first)
    if how == "RLE":
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif how == "implicit":
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    else:
        dataset.PatientID = "other"
    dataset.save_as(tmp_path / "in" / "b.dcm", implicit_vr=how == "implicit")
    reason = scan(tmp_path / "in").refused["b.dcm"]
    assert reason.endswith("and it is the same image in another encoding, or with another header; keep one of the two")
    first.unlink()
    assert not scan(tmp_path / "in").refused
    assert _run(tmp_path / "in", tmp_path / "out").fates["b.dcm"].status == "protected"


def test_two_pictures_with_one_uid(tmp_path: Path) -> None:
    """A lossy copy, or one with another scale, is another picture; with a UID of its own it is protected."""
    ct(tmp_path / "a.dcm", "CT")
    for name, intercept, values in (("b.dcm", -1024, hounsfield()), ("c.dcm", -1000, None)):
        ct(tmp_path / name, "CT", values, intercept)
        assert scan(tmp_path).refused[name].endswith("but it is another image; give it a UID of its own")
        dataset = pydicom.dcmread(tmp_path / name)
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.{len(tree(tmp_path))}"
        dataset.save_as(tmp_path / name)
        assert not scan(tmp_path).refused


def test_picture_with_a_taken_uid_that_cannot_be_decoded(tmp_path: Path) -> None:
    first = ct(tmp_path / "a.dcm", "CT")
    dataset = pydicom.dcmread(first)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "b.dcm")
    content = (tmp_path / "b.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[:-600] + bytes(580) + content[-20:])
    assert re.search(
        r"whether it is the same image is not known \(.+\); keep one of the two", scan(tmp_path).refused["b.dcm"]
    )
    (tmp_path / "b.dcm").unlink()
    assert not scan(tmp_path).refused
