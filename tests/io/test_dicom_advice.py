# SPDX-License-Identifier: Apache-2.0
"""Advice in the messages of the DICOM reader: who follows it gets another outcome, with the tool that it names, or by
hand where it names none.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

import monai_salm
from monai_salm.errors import RefusedError
from monai_salm.io import Document, ImageHeader, identify
from tests.exports import file_set, mr_slice
from tests.io.builders import dicom_dataset, values_in, write_dicom
from tests.io.test_dicom_meta import DEFLATED, EXPLICIT, IMPLICIT, MODALITY, element, parts, put, uid

Make = Callable[[Path], None]


def _rebuilt(
    path: Path,
    meta: Callable[[bytes], bytes] = bytes,
    dataset: Callable[[bytes], bytes] = bytes,
    syntax: str = EXPLICIT,
) -> None:
    preamble, old_meta, old_dataset = parts(path, syntax)
    new_meta = meta(old_meta)
    put(path, new_meta, dataset(old_dataset), len(new_meta), preamble)


def _value_representation(letters: bytes) -> Make:
    return lambda path: _rebuilt(
        path, dataset=lambda content: content.replace(MODALITY, MODALITY.replace(b"CS", letters))
    )


def _unsorted(path: Path) -> None:
    patient = element(0x10, 0x20, "LO", b"P1")
    _rebuilt(path, dataset=lambda content: content.replace(patient, b"").replace(MODALITY, patient + MODALITY))


def _palette(path: Path) -> None:
    dataset = dicom_dataset(
        bits_allocated=8,
        bits_stored=8,
        photometric="PALETTE COLOR",
        shape=(32, 32),
        extra={"RescaleSlope": None, "RescaleIntercept": None},
    )
    for number in range(3):
        dataset.add_new(0x00281101 + number, "US", [256, 0, 16])
        dataset.add_new(0x00281201 + number, "OW", (np.arange(256, dtype="<u2") * 256).tobytes())
    write_dicom(path, dataset, values_in(0, 255, (32, 32), "u1"))


def _progressive(path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    encoded = io.BytesIO()
    image.fromarray(values_in(0, 255, (32, 32), "u1")).save(encoded, "JPEG", progressive=True)
    write_dicom(path, dicom_dataset(bits_allocated=8, bits_stored=8, shape=(32, 32)), values_in(0, 255, (32, 32), "u1"))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.55"
    dataset.PixelData = encapsulate([encoded.getvalue()])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(path)


def _lossy_with_second_meta(path: Path) -> None:
    baseline = "1.2.840.10008.1.2.4.50"
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("imagecodecs")
    encoded = io.BytesIO()
    image.fromarray(values_in(0, 255, (32, 32), "u1")).save(encoded, "JPEG")
    write_dicom(path, dicom_dataset(bits_allocated=8, bits_stored=8, shape=(32, 32)), values_in(0, 255, (32, 32), "u1"))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = baseline
    dataset.PixelData = encapsulate([encoded.getvalue()])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(path)
    content = path.read_bytes()
    end = 144 + struct.unpack("<I", content[140:144])[0]
    path.write_bytes(content[:end] + uid(0x10, baseline) + content[end:])


# What is wrong -> how such a file is made, what is said of it, and the command that is advised.
BY_TOOL: dict[str, tuple[Make, str, str]] = {
    "no transfer syntax": (
        lambda path: _rebuilt(path, lambda meta: meta.replace(uid(0x10, EXPLICIT), b"")),
        "no TransferSyntaxUID",
        "dcmconv",
    ),
    "empty transfer syntax": (
        lambda path: _rebuilt(path, lambda meta: meta.replace(uid(0x10, EXPLICIT), uid(0x10, ""))),
        "no TransferSyntaxUID",
        "dcmconv",
    ),
    "order": (_unsorted, r"not in the order of their tags, as \(0008,0060\) shows", "dcmconv"),
    "two values": (
        lambda path: _rebuilt(
            path, dataset=lambda content: content.replace(MODALITY, MODALITY + element(8, 0x60, "CS", b"MR"))
        ),
        r"Modality \(0008,0060\) is there more than once with different values",
        "dcmconv",
    ),
    "class": (
        lambda path: _rebuilt(path, lambda meta: meta.replace(b"4.1.1.2\0", b"4.1.1.4\0")),
        "readers go by the one or the other",
        "dcmconv",
    ),
    "second transfer syntax": (
        lambda path: _rebuilt(path, dataset=lambda content: uid(0x10, "1.2.840.10008.1.2.4.70") + content),
        "TransferSyntaxUID is there more than once",
        "dcmodify -nb -e '(0002,0010)'",
    ),
    "second meta group of a lossy file": (
        _lossy_with_second_meta,
        "is there a second time and would contradict it",
        "dcmodify -nb -ie -e '(0002,0010)'",
    ),
    "character set": (
        lambda path: _rebuilt(path, dataset=lambda content: element(8, 5, "CS", b"ISO\0x\1") + content),
        r"SpecificCharacterSet \(0008,0005\) is in hexadecimal 49 53 4f 00 78 01, which names no character set",
        "dcmodify -nb -m '(0008,0005)=ISO_IR 100'",
    ),
    "no file meta information": (
        lambda path: bool(path.write_bytes(parts(path)[2])),
        "without preamble and file meta information",
        "dcmconv",
    ),  # type: ignore[dict-item]
    "palette": (_palette, "PALETTE COLOR: a pixel is the number of a color", "gdcmconv --apply-lut"),
    "retired codec": (_progressive, "a codec that no longer is in use, or not yet", "gdcmconv --raw"),
}


@pytest.mark.parametrize("case", BY_TOOL)
def test_advised_tool_helps(case: str, tmp_path: Path) -> None:
    make, message, command = BY_TOOL[case]
    source, target = tmp_path / "in.dcm", tmp_path / "out.dcm"
    make(source)
    with pytest.raises(RefusedError, match=message) as refusal:
        identify(source)
    assert command in str(refusal.value)
    assert "\n" not in str(refusal.value)
    tool, *options = shlex.split(command)
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    if tool == "dcmodify":
        shutil.copy(source, target)
        subprocess.run([tool, *options, target], check=True, capture_output=True)
    else:
        subprocess.run([tool, *options, source, target], check=True, capture_output=True)
    assert isinstance(identify(target), ImageHeader)


def _damaged_set(folder: Path) -> Path:
    place = file_set(folder / "set", [mr_slice(folder / "loose" / "a.dcm", 1, StudyDate="20200101")])
    content = bytearray(place.read_bytes())
    at = content.index(struct.pack("<HH2sH", 4, 0x1400, b"UL", 4))
    content[at + 8 : at + 12] = struct.pack("<I", 7)
    place.write_bytes(content)
    return place


def test_new_directory_helps(tmp_path: Path) -> None:
    place = _damaged_set(tmp_path)
    with pytest.raises(RefusedError, match="make a new DICOMDIR, for example with dcmmkdir"):
        identify(place)
    if shutil.which("dcmmkdir") is None:
        pytest.skip("needs dcmmkdir")
    place.unlink()
    subprocess.run(
        ["dcmmkdir", "+r", "--input-directory", ".", *(path.name for path in place.parent.iterdir())],
        cwd=place.parent,
        check=True,
        capture_output=True,
    )
    found = identify(place)
    assert isinstance(found, Document)
    assert len(found.files) == 1


def test_every_tool_that_is_named_is_tried() -> None:
    """A message that advises another command has to be added to the cases."""
    said = "".join(path.read_text(encoding="utf-8") for path in Path(monai_salm.__file__).parent.rglob("*.py"))
    named = re.findall(r"(?:for example with|as) (g?dcm[a-z0-9]+(?: -[^;\"']*(?:'[^']*')?)?)", said)
    tried = {command for _, _, command in BY_TOOL.values()} | {"dcmmkdir", MODALITY_COMMAND}
    assert {command.strip() for command in named} == tried


MODALITY_COMMAND = "dcmodify -nb -m '(0008,0060)=CT'"
"""Tried with the modality rule, in the tests of the pipeline."""


def _with_syntax(path: Path, old: str, new: str) -> None:
    _rebuilt(path, lambda meta: meta.replace(uid(0x10, old), uid(0x10, new)), syntax=old)


def _float_pixels(path: Path) -> None:
    write_dicom(path, dicom_dataset(), values_in(0, 4095, (6, 8), "u2"))
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.add_new(0x7FE00008, "OF", values_in(0, 4095, (6, 8), "f4").tobytes())
    dataset.save_as(path)


def _integer_pixels(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    values = np.frombuffer(dataset[0x7FE00008].value, "<f4")
    del dataset[0x7FE00008]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.add_new(0x7FE00010, "OW", values.round().astype("<u2").tobytes())
    dataset.save_as(path)


def _with_class(path: Path, sop_class: str) -> None:
    dataset = dicom_dataset(extra={"SOPClassUID": sop_class})
    write_dicom(path, dataset, values_in(0, 4095, (6, 8), "u2"))


def _cut_short(path: Path) -> None:
    write_dicom(path, dicom_dataset(), values_in(0, 4095, (6, 8), "u2"))
    path.write_bytes(path.read_bytes()[:-50])


def _plain(path: Path) -> None:
    write_dicom(path, dicom_dataset(), values_in(0, 4095, (6, 8), "u2"))


# What is wrong -> how such a file is made, what is advised, and how that is done.
BY_HAND: dict[str, tuple[Make, str, Make]] = {
    "bytes for a VR": (
        _value_representation(b"\1\2"),
        r"of Modality \(0008,0060\) is in hexadecimal 01 02, which is none.*correct it to CS",
        _plain,
    ),
    "lower-case VR": (
        _value_representation(b"cs"),
        "is cs, which is none.*correct it to CS",
        _value_representation(b"CS"),
    ),
    "blank VR": (
        _value_representation(b"  "),
        "is in hexadecimal 20 20, which is none.*correct it to CS",
        _value_representation(b"CS"),
    ),
    "unknown VR": (
        _value_representation(b"ZZ"),
        "is ZZ, which is none.*correct it to CS",
        _value_representation(b"CS"),
    ),
    "explicit in implicit": (
        lambda path: _with_syntax(path, EXPLICIT, IMPLICIT),
        "correct the one or the other",
        lambda path: _with_syntax(path, EXPLICIT, EXPLICIT),
    ),
    "implicit in explicit": (
        lambda path: _with_syntax(path, IMPLICIT, EXPLICIT),
        "correct the one or the other",
        lambda path: _with_syntax(path, IMPLICIT, IMPLICIT),
    ),
    "explicit in big endian": (
        lambda path: _with_syntax(path, EXPLICIT, "1.2.840.10008.1.2.2"),
        "correct the one or the other",
        lambda path: _with_syntax(path, EXPLICIT, EXPLICIT),
    ),
    "unknown transfer syntax": (
        lambda path: _with_syntax(path, EXPLICIT, "1.2.3.4"),
        "write it as Explicit VR Little Endian",
        _plain,
    ),
    "floats": (_float_pixels, "convert to integers with a RescaleSlope", _integer_pixels),
    "class without pixels": (
        lambda path: _with_class(path, "1.2.840.10008.5.1.4.1.1.481.5"),
        "repair its SOPClassUID first",
        lambda path: _with_class(path, "1.2.840.10008.5.1.4.1.1.2"),
    ),
    "cut short": (_cut_short, "get a complete copy of the file", _plain),
    "goes on in another encoding": (
        lambda path: _rebuilt(
            path, dataset=lambda content: element(2, 0x16, "AE", b"STATION ") + content, syntax=IMPLICIT
        ),
        "get another copy of the file",
        _plain,
    ),
    "goes on in a deflated one": (
        lambda path: _rebuilt(
            path, dataset=lambda content: element(2, 0x16, "AE", b"STATION ") + content, syntax=DEFLATED
        ),
        "get another copy of the file",
        _plain,
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_advice_helps(case: str, tmp_path: Path) -> None:
    make, advice, follow = BY_HAND[case]
    path = tmp_path / "a.dcm"
    make(path)
    with pytest.raises(RefusedError, match=advice):
        identify(path)
    follow(path)
    assert isinstance(identify(path), ImageHeader)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID in (ExplicitVRLittleEndian, IMPLICIT)


@pytest.mark.parametrize("number", [100, 102, 107])
def test_video_has_no_tool(number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    _progressive(path)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{number}"
    dataset.save_as(path)
    with pytest.raises(RefusedError, match="video is not protected; leave it out, or share frames of it as images"):
        identify(path)
