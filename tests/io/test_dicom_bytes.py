# SPDX-License-Identifier: Apache-2.0
"""No byte of a DICOM file is lost: the parsed elements are the file, and where nothing is to be said only values
change.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io import dicom
from monai_salm.io.base import SourceImage
from monai_salm.io.dicom.cutting import read_file
from monai_salm.io.dicom.elements import Element
from monai_salm.io.dicom.transfer_syntaxes import NATIVE
from tests.io.derived import DERIVATION
from tests.io.test_contract import CASES

SILENT = replace(DERIVATION, uid_secret=None, image_type="keep", provenance="none")
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"

CREATION = {"InstanceCreationDate", "InstanceCreationTime"}
EXTREMES = {"SmallestImagePixelValue", "LargestImagePixelValue"}
NOT_RESTORED = {
    "CT_small.dcm": {"Preamble"} | CREATION,
    "examples_rgb_color.dcm": {"Preamble"} | CREATION,
    "examples_overlay.dcm": {"IconImageSequence"},
    **dict.fromkeys(
        ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm"], {"Preamble"} | CREATION | EXTREMES
    ),
    **dict.fromkeys(["MR_small_bigendian.dcm", "MR_small_expb.dcm"], {"Preamble"} | CREATION | EXTREMES),
    **dict.fromkeys(["CR1/6154", "CR2/6247", "CR3/6278"], CREATION | EXTREMES),
    **dict.fromkeys(["CT2/17106", "CT2/17136", "CT2/17166", "CT2/17196", "CT2N/6293", "CT2N/6924"], CREATION),
    **dict.fromkeys(["CT5N/2062", "CT5N/2392", "CT5N/2693", "CT5N/3023", "CT5N/3353"], CREATION),
    **dict.fromkeys(["MR1/15820", "MR1/4919", "MR1/5641", "MR2/15970", "MR2/4950", "MR2/4981"], CREATION),
    **dict.fromkeys(["MR2/5011", "MR2/6273", "MR2/6605", "MR2/6935", "MR700/4467", "MR700/4528"], CREATION),
    **dict.fromkeys(["MR700/4558", "MR700/4588", "MR700/4618", "MR700/4648", "MR700/4678"], CREATION),
}
"""pydicom's native files that differ from themselves after a change and its undoing, and in what: all that becomes
wrong when pixels change, as the preamble of a TIFF and the time of creation, and extremes that were wrong before."""


def check_every_byte(path: Path) -> None:
    """Join what was parsed: to the file, or to what was deflated in it, and at every depth to the value around it."""
    file = read_file(path)
    head = (
        bytes(file.preamble) + (b"DICM" if file.prefix else b"") + b"".join(bytes(element.raw) for element in file.meta)
    )
    dataset, content = b"".join(bytes(element.raw) for element in file.elements), path.read_bytes()
    if file.transfer_syntax == DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        assert content.startswith(head)
        assert dataset == inflater.decompress(content[len(head) :])
        assert file.after == inflater.unused_data
    else:
        assert head + dataset + file.after == content
    for element in [*file.meta, *file.elements]:
        check_element(element)


def check_element(element: Element) -> None:
    assert bytes(element.raw).endswith(
        bytes(element.value) + (b"" if not element.undefined else bytes(element.raw[-8:]))
    )
    items = element.items()
    if items is None:
        return
    rest = bytes(element.value).removeprefix(b"".join(bytes(item.raw) for item in items))
    assert rest in (b"", b"\xfe\xff\xdd\xe0\0\0\0\0", b"\xff\xfe\xe0\xdd\0\0\0\0")
    for item in items:
        assert b"".join(bytes(inner.raw) for inner in item.elements()) == item.content
        for inner in item.elements():
            check_element(inner)


def shipped() -> Iterator[tuple[str, Path, SourceImage]]:
    """Yield the pictures that pydicom ships, by the names of the file and, of a file set, its folder."""
    for path in sorted(path for path in SHIPPED.rglob("*") if path.is_file() and dicom.sniff(path)):
        try:
            source = dicom.read_source(path)
        except RefusedError:
            continue
        yield (path.name if path.parent == SHIPPED else f"{path.parent.name}/{path.name}"), path, source


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("dicom")])
def test_parsed_case_is_the_file(name: str, tmp_path: Path) -> None:
    if CASES[name].package:
        pytest.importorskip(CASES[name].package, reason="the extra `codecs` is not installed")
    CASES[name].write(tmp_path / "source")
    check_every_byte(tmp_path / "source")
    source = dicom.read_source(tmp_path / "source")
    dicom.write_like(source, source.stored, tmp_path / "out", DERIVATION)
    check_every_byte(tmp_path / "out")


@pytest.mark.slow
def test_parsed_shipped_file_is_the_file() -> None:
    read = 0
    for path in sorted(path for path in SHIPPED.rglob("*") if path.is_file() and dicom.sniff(path)):
        try:
            check_every_byte(path)
        except RefusedError:
            continue
        read += 1
    assert read > 100 or not SHIPPED.exists()


@pytest.mark.slow
def test_shipped_file_is_kept_where_nothing_changes(tmp_path: Path) -> None:
    for name, path, source in shipped():
        dicom.write_like(source, source.stored, tmp_path / "out", SILENT)
        assert (tmp_path / "out").read_bytes() == path.read_bytes(), name


@pytest.mark.slow
def test_only_what_becomes_wrong_differs_in_shipped_files(tmp_path: Path) -> None:
    found: dict[str, set[str]] = {}
    for name, path, source in shipped():
        if source.header.output_transfer_syntax or read_file(path).transfer_syntax not in set(NATIVE) - {
            DeflatedExplicitVRLittleEndian
        }:
            continue  # packed, by another encoder than the source was
        stored = source.stored.copy()
        stored.flat[np.flatnonzero((stored < source.range_stored[1]) & ~source.padding)[::7]] += 1
        there, back = tmp_path / "there", tmp_path / "back"
        dicom.write_like(source, stored, there, SILENT)
        dicom.write_like(dicom.read_source(there), source.stored, back, SILENT)
        if back.read_bytes() != path.read_bytes():
            found[name] = {change.name for change in dicom.compare_headers(path, back)}
            assert found[name], name
    if not found:
        pytest.skip("pydicom was installed without its test files")
    assert found == NOT_RESTORED
