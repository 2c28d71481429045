# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile inputs: a fate and one line for each, in time and in bounded memory; see
:mod:`tests.fidelity.fuzz`.
"""

from __future__ import annotations

import gzip
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.exports import body, mr_slice
from tests.fidelity import fuzz
from tests.io.builders import dicom_dataset, nifti_bytes, write_dicom

DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_LS = "1.2.840.10008.1.2.4.80"
BOMB = 3 * 2**30
"""Bytes that a bomb unpacks to."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured with Linux' /proc"
)


@pytest.mark.slow
def test_damaged_files(tmp_path: Path) -> None:
    summary = fuzz.run(400, seed=2, jobs=2, failures=tmp_path)
    assert summary.to_json()["failures"] == {}
    assert summary.inputs == 400
    assert summary.kinds["protected"] >= 20
    assert summary.kinds["refused"] >= 100


@pytest.mark.slow
def test_damage_is_known_by_seed_and_index() -> None:
    seeds = fuzz.corpus()
    assert seeds == fuzz.corpus()
    inputs = [fuzz.damage(seeds, 0, index) for index in range(50)]
    assert inputs == [fuzz.damage(seeds, 0, index) for index in range(50)]
    assert [files for files, _, _ in inputs] != [fuzz.damage(seeds, 1, index)[0] for index in range(50)]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz.Worker]:
    started = fuzz.Worker(tmp_path_factory.mktemp("worker"))
    yield started
    started.stop()


@pytest.mark.slow
def test_worker_that_dies_or_hangs_is_a_failure_and_is_replaced(
    worker: fuzz.Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = mr_slice(tmp_path / "a.dcm", 1)
    worker.give(str(source))
    worker.process.kill()
    worker.process.join()
    outcome = None
    while outcome is None:
        outcome = worker.result()
    assert outcome.kind in ("crash", "protected")
    worker.await_ready()
    monkeypatch.setattr(fuzz, "PATIENCE", -10.0)
    worker.give(str(source))
    assert worker.result().kind in ("hang", "slow")  # type: ignore[union-attr]
    monkeypatch.undo()
    assert worker.check(source).kind == "protected"


def _slice(path: Path, **attributes: object) -> Path:
    """Write a slice whose header says otherwise."""
    mr_slice(path, 1)
    dataset = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def _native(**attributes: object) -> Callable[[Path], Path]:
    return lambda folder: _slice(folder / "slice.dcm", **attributes)


def _encapsulated(**attributes: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        mr_slice(folder / "slice.dcm", 1)
        dataset = pydicom.dcmread(folder / "slice.dcm")
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7" + bytes(60)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEG_LS
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / "slice.dcm")
        return folder / "slice.dcm"

    return make


def _zeros(head: bytes) -> bytes:
    """Deflate a few bytes and then gigabytes of zeros, of which the packer sees 64 MiB alone."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(64 * 2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (BOMB >> 26) + packer.flush()


def _deflated(folder: Path) -> Path:
    """A dataset whose last element goes on for gigabytes."""
    path = write_dicom(folder / "bomb.dcm", dicom_dataset(shape=(24, 24)), body(1), transfer_syntax=DEFLATED)
    content = path.read_bytes()
    start = 144 + struct.unpack_from("<L", content, 140)[0]
    path.write_bytes(content[:start] + _zeros(zlib.decompress(content[start:], -15)))
    return path


def _deflated_pixels(folder: Path) -> Path:
    """The same, where the header says that all of it is the picture."""
    path = _deflated(folder)
    dataset = dicom_dataset(shape=(32768, 49152))
    write_dicom(folder / "part.dcm", dataset, np.zeros(2, np.int16), transfer_syntax=DEFLATED)
    content = (folder / "part.dcm").read_bytes()
    (folder / "part.dcm").unlink()
    start = 144 + struct.unpack_from("<L", content, 140)[0]
    inner = bytearray(zlib.decompress(content[start:], -15))
    at = inner.index(b"\xe0\x7f\x10\x00OW")
    struct.pack_into("<L", inner, at + 8, 32768 * 49152 * 2)
    path.write_bytes(content[:start] + _zeros(bytes(inner[: at + 12])))
    return path


def _gzip(folder: Path) -> Path:
    """A small volume, and gigabytes behind it."""
    head = nifti_bytes(np.stack([body(number) for number in range(8)]))
    (folder / "bomb.nii.gz").write_bytes(
        gzip.compress(b"")[:10] + _zeros(head) + struct.pack("<LL", 0, (BOMB + len(head)) & 0xFFFFFFFF)
    )
    return folder / "bomb.nii.gz"


def _gzip_volume(folder: Path) -> Path:
    """A volume that is gigabytes large, as its header says."""
    head = nifti_bytes(np.zeros((1, 1, 1), np.int16), dim=(1024, 1024, 1536))[:352]
    (folder / "bomb.nii.gz").write_bytes(gzip.compress(b"")[:10] + _zeros(head) + struct.pack("<LL", 0, 0))
    return folder / "bomb.nii.gz"


def _many_members(folder: Path) -> Path:
    """As many gzip members as go into a small file."""
    head = gzip.compress(nifti_bytes(np.stack([body(number) for number in range(8)])))
    (folder / "bomb.nii.gz").write_bytes(head + gzip.compress(bytes(64 * 2**20)) * (BOMB >> 26))
    return folder / "bomb.nii.gz"


def _nested(folder: Path, *, undefined: bool) -> Path:
    """Sequences in sequences, deeper than any recursion goes."""
    mr_slice(folder / "slice.dcm", 1)
    content, depth = (folder / "slice.dcm").read_bytes(), 20_000
    tag = b"\x08\x00\x15\x11SQ\0\0"
    if undefined:
        inner = (tag + b"\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth
    else:
        sizes = (20 * (depth - level) for level in range(depth))
        inner = b"".join(
            tag + struct.pack("<L", size - 12) + b"\xfe\xff\x00\xe0" + struct.pack("<L", size - 20) for size in sizes
        )
    at = content.index(b"\x08\x00\x60\x00CS")
    # In the order of the tags, behind (0008,1090) or so: in front of the first group that comes later.
    at = content.index(b"\x09\x00\x10\x00LO", at)
    (folder / "slice.dcm").write_bytes(content[:at] + inner + content[at:])
    return folder / "slice.dcm"


def _wide(folder: Path) -> Path:
    """Thousands of items."""
    path = mr_slice(folder / "slice.dcm", 1)
    dataset = pydicom.dcmread(path)
    dataset.ReferencedImageSequence = Sequence([Dataset() for _ in range(4000)])
    dataset.save_as(path)
    return path


def _nifti(**fields: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "volume.nii").write_bytes(nifti_bytes(np.stack([body(number) for number in range(8)]), **fields))  # type: ignore[arg-type]
        return folder / "volume.nii"

    return make


def _nrrd(folder: Path) -> Path:
    sizes = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 60000 60000 60000\nencoding: raw\nendian: little\n\n"
    (folder / "volume.nrrd").write_bytes(sizes + bytes(1000))
    return folder / "volume.nrrd"


def _png(folder: Path) -> Path:
    header = b"IHDR" + struct.pack(">LL5B", 2**31 - 1, 2**31 - 1, 16, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(1000))
    chunks = b"".join(
        struct.pack(">L", len(chunk) - 4) + chunk + struct.pack(">L", zlib.crc32(chunk))
        for chunk in (header, pixels, b"IEND")
    )
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return folder / "picture.png"


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "rows": _native(Rows=65535),
    "columns": _native(Columns=65535),
    "rows and columns": _native(Rows=65535, Columns=65535),
    "no rows": _native(Rows=0),
    "frames": _native(NumberOfFrames=2**31 - 1),
    "negative frames": _native(NumberOfFrames=-1),
    "samples": _native(SamplesPerPixel=65535),
    "bits": _native(BitsAllocated=65528, BitsStored=65528),
    "encapsulated rows": _encapsulated(Rows=65535, Columns=65535),
    "encapsulated frames": _encapsulated(NumberOfFrames=2**31 - 1),
    "encapsulated nonsense": _encapsulated(),
    "deflate bomb": _deflated,
    "deflated picture": _deflated_pixels,
    "gzip bomb": _gzip,
    "gzip volume": _gzip_volume,
    "gzip members": _many_members,
    "nested sequences": lambda folder: _nested(folder, undefined=False),
    "nested sequences without end": lambda folder: _nested(folder, undefined=True),
    "NIfTI axes": _nifti(dim=(32767, 32767, 32767)),
    "NIfTI-2 axes": _nifti(version=2, dim=(2**40, 2**40, 2**40)),
    "NIfTI offset": _nifti(vox_offset=2**31),
    "NRRD axes": _nrrd,
    "PNG axes": _png,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(name: str, worker: fuzz.Worker, tmp_path: Path) -> None:
    outcome = worker.check(HOSTILE[name](tmp_path))
    assert (outcome.kind, outcome.trace) == ("refused", ""), outcome.detail
    assert outcome.detail
    assert outcome.detail.isprintable()
    assert outcome.growth < fuzz.MEMORY


def test_many_items(worker: fuzz.Worker, tmp_path: Path) -> None:
    """They are no harm, and each costs a fraction of a millisecond."""
    assert worker.check(_wide(tmp_path)).kind == "protected"


def test_links_are_not_followed_out_of_the_folder(worker: fuzz.Worker, tmp_path: Path) -> None:
    mr_slice(tmp_path / "outside" / "secret.dcm", 2)
    mr_slice(tmp_path / "in" / "a.dcm", 1)
    (tmp_path / "in" / "file.dcm").symlink_to(tmp_path / "outside" / "secret.dcm")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "itself").symlink_to("itself")
    (tmp_path / "in" / "nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "in" / "device").symlink_to("/dev/zero")
    outcome = worker.check(tmp_path / "in")
    assert outcome.kind == "protected", outcome.detail


def test_names_that_lead_out_of_an_archive(worker: fuzz.Worker, tmp_path: Path) -> None:
    content = mr_slice(tmp_path / "a.dcm", 1).read_bytes()
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as opened:
        for name in ("good/a.dcm", "../slip.dcm", "/slip.dcm", "good/../../slip.dcm", "C:\\slip.dcm", "..\\slip.dcm"):
            opened.writestr(name, content)
        link = zipfile.ZipInfo("good/link")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
    before = set(tmp_path.rglob("*"))
    outcome = worker.check(tmp_path / "in.zip")
    assert outcome.kind == "protected", outcome.detail
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/slip.dcm").exists()


@pytest.mark.slow
def test_dicomdir_that_lists_files_outside(worker: fuzz.Worker, tmp_path: Path) -> None:
    made = next(seed for seed in fuzz.corpus() if seed.name == "DICOMDIR")
    mr_slice(tmp_path / "outside.dcm", 3)
    for name, content in made.files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    listed = re.search(rb"PT0+\\ST0+\\SE0+\\IM0+", made.files["DICOMDIR"])
    assert listed is not None
    elsewhere = b"..\\outside.dcm".ljust(len(listed[0]))
    (tmp_path / "in" / "DICOMDIR").write_bytes(made.files["DICOMDIR"].replace(listed[0], elsewhere, 1))
    outcome = worker.check(tmp_path / "in" / "DICOMDIR")
    assert outcome.fine, outcome.detail
