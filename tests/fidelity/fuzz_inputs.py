# SPDX-License-Identifier: Apache-2.0
"""Whole inputs that the fuzzer damages: real files of every kind that is read, small enough to be read thousands of
times.
"""

from __future__ import annotations

import gc
import gzip
import io
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.exports import ROOT_UID, block, body, mr_slice
from tests.fidelity.fuzz_field import field_seeds
from tests.fidelity.fuzz_seed import Seed
from tests.fidelity.fuzz_tables import table_seeds
from tests.io.builders import dicom_dataset, gzip_bytes, nifti_bytes, values_in, write_dicom

LARGEST_SEED = 200_000


def corpus(cases: Path | None = None) -> list[Seed]:
    """Give the inputs that are to be damaged: small real files and made ones of every format, and those of a folder of
    cases.
    """
    import nibabel
    import pydicom

    folders = [Path(pydicom.__file__).parent / "data" / "test_files", Path(nibabel.__file__).parent / "tests" / "data"]
    suffixes = {".dcm", ".nii", ".gz", ".hdr", ".img", ""}
    found = [path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in suffixes]
    if cases is not None:
        found += [path for room in ("single", "synthetic", "nifti") for path in sorted((cases / room).glob("*"))]
        found += sorted((cases / "exports").glob("*.zip"))
    small = [path for path in found if path.is_file() and 0 < path.stat().st_size <= LARGEST_SEED]
    return [*_made(), *(_alone(path.name, path.read_bytes()) for path in small)]


def _alone(name: str, content: bytes) -> Seed:
    wrap = "gz" if content[:2] == b"\x1f\x8b" else "zip" if content[:4] == b"PK\3\4" else ""
    if b"1.2.840.10008.1.2.1.99" in content[:1000] and content[128:132] == b"DICM":
        wrap = "deflated"
    seed = Seed(name, {name: content}, name, wrap)
    try:
        inside(seed, content, random.Random(0), [], lambda data: data)
    except (OSError, EOFError, ValueError, zlib.error, struct.error):
        return Seed(name, {name: content}, name)  # damaged already
    return seed


def _made() -> list[Seed]:
    volume, _ = block(1)
    seeds = [
        _alone("made.nii", nifti_bytes(volume, slope=0.5, intercept=-10.0)),
        _alone("big.nii", nifti_bytes(volume, order=">", extension=bytes(12) + b"\x20\0\0\0" + bytes(28))),
        _alone("two.nii", nifti_bytes(volume.astype(np.float32), version=2)),
        _alone(
            "series.nii.gz", gzip_bytes(nifti_bytes(np.stack([volume, volume + 1], -1)), name="series.nii", mtime=1)
        ),
        _alone("double.nii.gz", gzip_bytes(nifti_bytes(volume[:9].astype(np.float64)))),
        _pair(volume),
        *_series_and_sets(),
        *_rasters(),
        *_itk(volume),
    ]
    zipped = [_zipped(seed) for seed in (seeds[0], seeds[3], seeds[6])]
    file_set = next(seed for seed in seeds if seed.name == "DICOMDIR")
    return [*seeds, *zipped, *field_seeds(file_set), *table_seeds()]


def _pair(volume: np.ndarray[Any, Any]) -> Seed:
    content = nifti_bytes(volume, magic=b"ni1\0", vox_offset=0)
    return Seed("pair", {"pair.hdr": content[:352], "pair.img": content[352:]})


def _series_and_sets() -> list[Seed]:
    with TemporaryDirectory() as spare:
        place = Path(spare)
        study = {"StudyTime": "101010", "StudyID": "1", "SeriesNumber": 1}
        mr_slice(place / "a.dcm", 1, **study)
        mr_slice(place / "b.dcm", 2, **study)
        write_dicom(place / "overlay.dcm", dicom_dataset(shape=(24, 24)), body(3) + 1000, overlay_bit=14)
        frames = dicom_dataset(
            shape=(24, 24), extra={"NumberOfFrames": 3, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.3"}
        )
        write_dicom(place / "frames.dcm", frames, np.stack([body(number) for number in range(3)]))
        color = dicom_dataset(
            bits_allocated=8,
            bits_stored=8,
            photometric="RGB",
            shape=(16, 16),
            extra={"SamplesPerPixel": 3, "PlanarConfiguration": 0},
        )
        write_dicom(place / "color.dcm", color, values_in(0, 255, (16, 16, 3), np.uint8))
        content = {path.name: path.read_bytes() for path in sorted(place.iterdir())}
        file_set = _file_set(place)
    single = [_alone(name, content[name]) for name in ("overlay.dcm", "frames.dcm", "color.dcm")]
    return [Seed("two slices", {name: content[name] for name in ("a.dcm", "b.dcm")}), *single, file_set]


def _file_set(folder: Path) -> Seed:
    """Give a DICOMDIR with two images, as pydicom makes it."""
    from pydicom.fileset import FileSet
    from pydicom.uid import UID

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # also of the temporary folder that pydicom leaves to the garbage collection
        made = FileSet()
        made.UID = UID(f"{ROOT_UID}.99")  # the same in every worker
        for name in ("a.dcm", "b.dcm"):
            made.add(folder / name)
        made.write(folder / "set")
        del made
        gc.collect()
    files = {
        path.relative_to(folder / "set").as_posix(): path.read_bytes()
        for path in sorted((folder / "set").rglob("*"))
        if path.is_file()
    }
    return Seed("DICOMDIR", files, "DICOMDIR")


def _rasters() -> list[Seed]:
    try:
        from PIL import Image
    except ImportError:
        return []
    seeds, gray = [], values_in(0, 255, (24, 24), np.uint8)
    color = np.stack([gray, gray[::-1], gray.T], -1)
    deep = gray.astype(np.uint16) * 257
    pictures = {
        "gray.png": gray,
        "color.png": color,
        "deep.png": deep,
        "gray.jpg": gray,
        "color.jpg": color,
        "gray.tif": gray,
        "deep.tif": deep,
    }
    for name, values in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, format={"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[name[-3:]])
        seeds.append(_alone(name, buffer.getvalue()))
    return seeds


def _itk(volume: np.ndarray[Any, Any]) -> list[Seed]:
    try:
        import SimpleITK
    except ImportError:
        return []
    image, seeds = SimpleITK.GetImageFromArray(volume), []
    with TemporaryDirectory() as spare:
        for name, packed in (
            ("plain.nrrd", False),
            ("packed.nrrd", True),
            ("plain.mha", False),
            ("packed.mha", True),
            ("apart.mhd", False),
            ("apart.nhdr", False),
        ):
            folder = Path(spare) / name.replace(".", "_")
            folder.mkdir()
            SimpleITK.WriteImage(image, str(folder / name), useCompression=packed)
            seeds.append(Seed(name, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}))
    return seeds


def _zipped(seed: Seed) -> Seed:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in seed.files.items():
            opened.writestr(zipfile.ZipInfo(f"export/{name}"), content)
    return Seed(f"zip of {seed.name}", {"in.zip": buffer.getvalue()}, "in.zip", "zip")


def inside(
    seed: Seed, content: bytes, dice: random.Random, steps: list[str], change: Callable[[bytes], bytes]
) -> bytes:
    """Damage what is packed more often than the packing, which checksums guard."""
    if seed.wrap and dice.random() < 0.3:
        return change(content)
    if seed.wrap:
        steps.append(f"in {seed.wrap}")
    if seed.wrap == "gz":
        return gzip.compress(change(gzip.decompress(content)), 1, mtime=0)
    if seed.wrap == "zip":
        return _in_zip(content, dice, change)
    if seed.wrap == "deflated":
        start = 144 + struct.unpack_from("<L", content, 140)[0]
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        return (
            content[:start]
            + packer.compress(change(zlib.decompressobj(-15).decompress(content[start:])))
            + packer.flush()
        )
    changed = change(content)
    return _with_checksums(changed) if content[:8] == b"\x89PNG\r\n\x1a\n" else changed


def _in_zip(content: bytes, dice: random.Random, change: Callable[[bytes], bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as opened, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        chosen = dice.randrange(len(opened.infolist()))
        for number, info in enumerate(opened.infolist()):
            member = opened.read(info)
            made.writestr(info, change(member) if number == chosen else member)
    return buffer.getvalue()


def _with_checksums(content: bytes) -> bytes:
    """Give a PNG its checksums anew, so that what is damaged is read at all."""
    result, place = bytearray(content), 8
    while place + 12 <= len(result):
        (length,) = struct.unpack_from(">L", result, place)
        if place + 12 + length > len(result):
            break
        struct.pack_into(">L", result, place + 8 + length, zlib.crc32(result[place + 4 : place + 8 + length]))
        place += 12 + length
    return bytes(result)
