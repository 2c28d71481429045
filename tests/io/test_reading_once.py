# SPDX-License-Identifier: Apache-2.0
"""No more of a file is read, and no more memory taken, than a step needs: headers without pixels, each file once."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from monai_salm import io
from monai_salm.errors import RefusedError
from monai_salm.io import origins
from monai_salm.io.dicom.cutting import read_file
from monai_salm.io.dicom.elements import PIXEL_DATA
from monai_salm.io.dicom.headers import read_header
from tests.io.builders import dicom_dataset, gzip_bytes, nifti_bytes, write_compressed, write_dicom
from tests.io.test_contract import DERIVATION

COUNTERS = Path("/proc/self/io")
SIDE = 1024
ALLOWED = 64 << 10
needs_counters = pytest.mark.skipif(not COUNTERS.exists(), reason="the system does not count what a process reads")


def bytes_read(call: Callable[[], object]) -> int:
    """Count the bytes that a call asks the system for."""

    def counted() -> int:
        return int(COUNTERS.read_text().partition("rchar: ")[2].split()[0])

    first = counted()
    second = counted()
    call()
    return counted() - second - (second - first)


def _large(path: Path, *, syntax: str = ExplicitVRLittleEndian, private: int = 0, behind: int = 0) -> Path:
    values = np.random.default_rng(0).integers(0, 1 << 16, (SIDE, SIDE)).astype("u2")
    dataset = dicom_dataset(bits_stored=16, shape=(SIDE, SIDE))
    if private:
        dataset.add_new(0x00090010, "LO", "ours")
        dataset.add_new(0x00091001, "OB", b"ab" * (private // 2))
    if behind:
        dataset.add_new(0xFFFCFFFC, "OB", bytes(behind))
    write_dicom(path, dataset, values, transfer_syntax=syntax)
    return path


HEADERS: dict[str, tuple[dict[str, Any], int]] = {
    "explicit": ({}, 0),
    "implicit": ({"syntax": ImplicitVRLittleEndian}, 0),
    "big endian": ({"syntax": ExplicitVRBigEndian}, 0),
    "large header": ({"private": 200_000}, 200_000),
    "padding behind": ({"behind": 50_000}, 50_000),
}


@needs_counters
@pytest.mark.parametrize(("how", "header"), HEADERS.values(), ids=HEADERS)
def test_identify_leaves_pixels_in_the_file(how: dict[str, Any], header: int, tmp_path: Path) -> None:
    path = _large(tmp_path / "a", **how)
    assert path.stat().st_size > 2 * SIDE * SIDE
    expected = io.read_source(path).header
    assert io.identify(path) == expected
    assert header <= bytes_read(lambda: io.identify(path)) <= header + ALLOWED
    found, whole = read_header(path), read_file(path)
    assert [(one.tag, one.vr, one.size) for one in found.elements] == [
        (one.tag, one.vr, one.size) for one in whole.elements
    ]
    pixels = found.find(PIXEL_DATA)
    assert pixels is not None
    assert (pixels.unread, len(pixels.value)) == (2 * SIDE * SIDE, 0)
    assert [bytes(one.raw) for one in found.elements if one.tag != PIXEL_DATA] == [
        bytes(one.raw) for one in whole.elements if one.tag != PIXEL_DATA
    ]


@needs_counters
def test_bytes_that_tell_the_format_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_dicom(path, dicom_dataset(bits_stored=16, shape=(64, 64)), np.arange(64 * 64, dtype="u2").reshape(64, 64))
    assert path.stat().st_size > origins.FIRST_BYTES
    assert bytes_read(lambda: io.identify(path)) == origins.FIRST_BYTES
    assert bytes_read(lambda: io.read_source(path)) == path.stat().st_size


def test_pydicom_is_asked_of_bytes_that_were_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    _mammogram(path)
    source = io.read_source(path)
    asked: list[object] = []
    monkeypatch.setattr(
        import_module("monai_salm.io.dicom.cutting"), "check_with_pydicom", lambda *of: asked.append(of)
    )
    again = io.read_source(path, seen=source.sha256)
    assert (again.header, again.sha256) == (source.header, source.sha256)
    assert np.array_equal(again.stored, source.stored)
    assert not asked
    assert io.read_source(path, seen="0" * 64).sha256 == source.sha256
    assert len(asked) == 1


@needs_counters
def test_identify_reads_of_fragments_their_lengths(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (40, 128, 128)).astype("u2")
    path = tmp_path / "a"
    write_compressed(path, dicom_dataset(bits_stored=16, shape=(128, 128), frames=40), values, RLELossless)
    assert path.stat().st_size > values.nbytes
    assert io.identify(path) == io.read_source(path).header
    assert bytes_read(lambda: io.identify(path)) <= ALLOWED


@needs_counters
def test_nifti_that_is_said_to_be_a_picture_is_known_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a"
    _nifti_file(path)
    assert io.identify(path, "picture") == io.read_source(path).header
    assert bytes_read(lambda: io.identify(path, "picture")) <= ALLOWED
    assert bytes_read(lambda: io.identify(path)) >= path.stat().st_size  # it may be a label map
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RefusedError, match=r"^truncated: the header needs"):
        io.identify(path, "picture")


@needs_counters
@pytest.mark.parametrize("note", [10, 10_000])
def test_text_headers_are_read_to_their_end(note: int, tmp_path: Path) -> None:
    """A file is looked at some times before it is read, but not at its voxels."""
    values = np.random.default_rng(0).integers(-2000, 2000, (128, 128, 64)).astype("i2")
    texts = {
        "nrrd": b"NRRD0004\n# %s\ntype: short\ndimension: 3\nsizes: 128 128 64\nencoding: raw\nendian: little\n\n",
        "mha": b"ObjectType = Image\nComment = %s\nNDims = 3\nDimSize = 128 128 64\nElementType = MET_SHORT\n"
        b"ElementByteOrderMSB = False\nElementDataFile = LOCAL\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text % (b"x" * note) + values.tobytes(order="F"))
        found: list[io.SourceImage] = []
        assert bytes_read(lambda: found.append(io.read_source(tmp_path / name))) <= values.nbytes + 3 * ALLOWED  # noqa: B023
        assert np.array_equal(found[0].stored, values)


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("compressed", [False, True])
def test_pixels_that_are_cut_are_refused_by_the_header(part: float, compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if compressed:
        values = np.random.default_rng(0).integers(0, 1 << 16, (128, 128)).astype("u2")
        write_compressed(path, dicom_dataset(bits_stored=16, shape=(128, 128)), values, RLELossless)
    else:
        _large(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(RefusedError, match=r"^truncated: .*get a complete copy of the file") as seen:
        io.identify(path)
    with pytest.raises(RefusedError) as read:
        io.read_source(path)
    assert str(seen.value) == str(read.value)


def _dicom_file(path: Path) -> None:
    _large(path)


def _mammogram(path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 12, (SIDE, SIDE)).astype("u2")
    write_dicom(path, dicom_dataset(bits_stored=12, shape=(SIDE, SIDE)), values)


def _nifti_file(path: Path) -> None:
    path.write_bytes(nifti_bytes(np.random.default_rng(0).integers(-2000, 2000, (128, 128, 64)).astype("i2")))


def _packed_nifti_file(path: Path) -> None:
    path.write_bytes(
        gzip_bytes(nifti_bytes(np.random.default_rng(0).integers(-2000, 2000, (128, 128, 64)).astype("i2")))
    )


LARGE = {"16 bits": _dicom_file, "12 of 16 bits": _mammogram, "nifti": _nifti_file, "nifti gz": _packed_nifti_file}


@pytest.fixture(params=LARGE.values(), ids=LARGE)
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    request.param(tmp_path / "large")
    return tmp_path / "large"


def _peak(call: Callable[[], Any]) -> tuple[Any, int]:
    tracemalloc.start()
    try:
        found = call()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_each_step_takes_the_memory_of_its_array(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "_SETTLED_NS", -(1 << 62))
    monkeypatch.setattr("monai_salm.io.new_values._SLAB", 1 << 16)
    monkeypatch.setattr("monai_salm.io.nifti.layout._SLAB", 1 << 16)
    header, seen = _peak(lambda: io.read_header(large))
    source, read = _peak(lambda: io.read_source(large))
    stored = source.stored + (source.stored % 2 == 0).astype(source.stored.dtype)
    _, wrote = _peak(lambda: io.write_like(source, stored, tmp_path / "out", DERIVATION))
    found, back = _peak(lambda: io.read_back(source, tmp_path / "out"))
    assert np.array_equal(found.stored, stored)
    packed = large.read_bytes()[:2] == b"\x1f\x8b"
    size, spare = source.stored.nbytes, 100_000 + (1 << 21) * packed  # a piece that is unpacked, and a grown buffer
    assert read <= 1.2 * size + spare
    assert wrote <= 1.2 * size + spare
    assert back <= 1.2 * size + spare
    assert seen <= (1.2 * size if header.format == "nifti" else 0) + spare + ALLOWED


@needs_counters
def test_a_file_that_was_read_is_not_read_again(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = io.read_source(large)
    stored = source.stored + (source.stored % 2 == 0).astype(source.stored.dtype)
    fresh = bytes_read(lambda: io.write_like(source, stored, tmp_path / "out", DERIVATION))
    assert fresh >= large.stat().st_size  # it was made just now, so that its time does not tell
    monkeypatch.setattr(origins, "_SETTLED_NS", -(1 << 62))
    source = io.read_source(large)
    assert bytes_read(lambda: io.write_like(source, stored, tmp_path / "out", DERIVATION)) <= ALLOWED
    written = (tmp_path / "out").stat().st_size
    found = []
    assert bytes_read(lambda: found.append(io.read_back(source, tmp_path / "out"))) <= written + ALLOWED
    assert bytes_read(lambda: io.compare_sources(source, found[0])) <= ALLOWED
    assert io.compare_sources(source, found[0]) == io.compare_headers(large, tmp_path / "out")
    large.write_bytes((tmp_path / "out").read_bytes())
    with pytest.raises(RefusedError, match="changed since it was read"):
        io.write_like(source, stored, tmp_path / "more", DERIVATION)


def test_copies_of_an_image_keep_its_digest_alone(large: Path, tmp_path: Path) -> None:
    source = io.read_source(large)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own)
    assert copy.sha256 == source.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    assert len(pickle.dumps(source)) <= source.stored.nbytes + ALLOWED
    io.write_like(copy, source.stored, tmp_path / "a", DERIVATION)
    io.write_like(source, source.stored, tmp_path / "b", DERIVATION)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_room_is_made_for_a_length_that_a_file_cannot_have(tmp_path: Path) -> None:
    """An element in front of the pixels says that it has four gigabytes."""
    path = _large(tmp_path / "a", private=64)
    whole = path.read_bytes()
    place = whole.index(b"\x09\x00\x01\x10OB") + 8
    path.write_bytes(whole[:place] + (0xFFFFFFF0).to_bytes(4, "little") + whole[place + 4 :])
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError):
            io.identify(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(whole)
