# SPDX-License-Identifier: Apache-2.0
"""Whole inputs for the fuzzer that a run can silently get wrong: label maps, pictures like them, file-sets and zips of
odd names; and who judges it.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from monai_salm.pipeline.fates import FileFate
from tests.exports import block, body, mr_slice, nifti_file
from tests.fidelity.field_inputs import (
    LATIN_1,
    enlarged,
    itk_file,
    landmarks,
    picture_on,
    regions,
    scaled_labels,
    stacked_labels,
)
from tests.fidelity.fuzz_seed import Seed

PICTURE, LABEL_MAP = "picture", "label map"

_REGIONS = regions(4, (16, 16, 10))
_STACK = stacked_labels(range(1, 25), size=14, slices=96)
_PICTURE = picture_on(4095, shape=(20, 20, 8))

Maker = Callable[[Path], Any]
_LABEL_MAPS: dict[str, Maker] = {
    "labels.nii": lambda path: nifti_file(path, _REGIONS),
    "labels16.nii.gz": lambda path: nifti_file(path, _REGIONS.astype(np.int16) * 7),
    "floats.nii.gz": lambda path: nifti_file(path, _REGIONS.astype(np.float32)),
    "scaled.nii.gz": lambda path: scaled_labels(path, _REGIONS),
    "stack.nii.gz": lambda path: nifti_file(path, _STACK),
    "landmarks.nii.gz": lambda path: nifti_file(path, landmarks(12, (24, 24, 12), side=2)),
    "mask.nii.gz": lambda path: nifti_file(path, np.where(_REGIONS > 1, 255, 0).astype(np.uint8)),
    "labels.seg.nrrd": lambda path: itk_file(path, _REGIONS),
    "stack.nrrd": lambda path: itk_file(path, _STACK, packed=False),
    "labels.mha": lambda path: itk_file(path, _REGIONS),
    "labels.mhd": lambda path: itk_file(path, _REGIONS, packed=False),
    "mask.png": lambda path: _raster(path, np.where(_REGIONS[..., 5] > 1, 255, 0).astype(np.uint8)),
    "labels.png": lambda path: _raster(path, _REGIONS[..., 5]),
    "mask.tif": lambda path: _raster(path, np.where(_REGIONS[..., 5] > 1, 255, 0).astype(np.uint8)),
    "labels.dcm": lambda path: mr_slice(path, 1, _REGIONS[..., 5].astype(np.int16) * 100),
}
_PICTURES: dict[str, Maker] = {
    "on a constant.nii.gz": lambda path: nifti_file(path, _PICTURE),
    "on a constant.nrrd": lambda path: itk_file(path, _PICTURE),
    "on a constant.mha": lambda path: itk_file(path, _PICTURE, packed=False),
    "enlarged.nii.gz": lambda path: nifti_file(path, enlarged((2, 2, 2))),
    "enlarged.nii": lambda path: nifti_file(path, enlarged((3, 3, 1))),
    "deep.tif": lambda path: _raster(path, _PICTURE[..., 4]),
    "slice.dcm": lambda path: mr_slice(path, 1, _PICTURE[..., 4].astype(np.int16)),
}


def field_seeds(file_set: Seed) -> list[Seed]:
    """Give the inputs; ``file_set`` is one whose files bear the names of its records."""
    seeds = [
        _made(name, maker, kind) for makers, kind in ((_LABEL_MAPS, LABEL_MAP), (_PICTURES, PICTURE)) for name,
        maker in makers.items()
    ]  # fmt: skip
    return [*seeds, *_file_sets(file_set), *_odd_names(), *_odd_zips()]


def _made(name: str, maker: Maker, kind: str) -> Seed:
    with TemporaryDirectory() as spare:
        folder = Path(spare)
        maker(folder / name)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    source = name if len(files) == 1 else ""
    return Seed(
        f"{kind} {name}",
        files,
        source,
        "gz" if name.endswith(".gz") else "",
        holds={name: kind, f"{Path(name).stem}.raw": kind},
    )


def _raster(path: Path, values: NDArray[Any]) -> None:
    from PIL import Image

    Image.fromarray(values).save(path)


def _file_sets(file_set: Seed) -> list[Seed]:
    names: dict[str, Callable[[str], str]] = {
        "suffix": lambda name: f"{name}.dcm",
        "small letters": str.lower,
        "small suffix": lambda name: f"{name.lower()}.dcm",
    }
    seeds = []
    for what, rename in names.items():
        files = {name if name == "DICOMDIR" else rename(name): content for name, content in file_set.files.items()}
        seeds += [Seed(f"DICOMDIR, {what}", files, "DICOMDIR"), Seed(f"folder with DICOMDIR, {what}", files)]
    return seeds


def _contents() -> dict[str, bytes]:
    """Give a small file of each of a few kinds, by suffix."""
    with TemporaryDirectory() as spare:
        folder = Path(spare)
        mr_slice(folder / "a.dcm", 1, body(1, 16))
        nifti_file(folder / "a.nii.gz", block(1, (10, 10, 6))[0])
        itk_file(folder / "a.nrrd", block(2, (10, 10, 6))[0])
        _raster(folder / "a.png", (body(1, 16) // 3).clip(0, 255).astype(np.uint8))
        return {path.name[1:]: path.read_bytes() for path in sorted(folder.iterdir())} | {".txt": b"notes"}


def _odd_names() -> list[Seed]:
    odd, contents = os.fsdecode(LATIN_1), _contents()
    return [
        Seed("names that are no UTF-8", {f"{odd}{suffix}": content for suffix, content in contents.items()}),
        Seed("folder that is no UTF-8", {f"{odd}/a{suffix}": content for suffix, content in contents.items()}),
        Seed("long names", {"n" * (255 - len(suffix)) + suffix: content for suffix, content in contents.items()}),
        Seed("blanks and letters", {f" ä,;\n'\" {suffix}": content for suffix, content in contents.items()}),
    ]


def _odd_zips() -> list[Seed]:
    contents = _contents()
    odd = [
        "plain/a.dcm",
        "ä/ö.nii.gz",
        "a b/c.nrrd",
        "../up.png",
        "C:\\x.txt",
        "twice.txt",
        "TWICE.txt",
        "dot..png",
        "__MACOSX/._a.dcm",
        "z" * 251 + ".txt",
    ]
    members = [(name, next(content for suffix, content in contents.items() if name.endswith(suffix))) for name in odd]
    raw = _zip([(f"caf#{suffix}", content) for suffix, content in contents.items()]).replace(b"caf#", LATIN_1)
    maps = {f"lab/{name}": _made(name, _LABEL_MAPS[name], LABEL_MAP).files[name] for name in _ZIPPED}
    return [
        Seed("zip of odd names", {"in.zip": _zip([("folder/", b""), *members])}, "in.zip", "zip"),
        Seed("zip of names that are no UTF-8", {"in.zip": raw}, "in.zip"),
        Seed(
            "zip of label maps",
            {"in.zip": _zip(list(maps.items()))},
            "in.zip",
            "zip",
            holds=dict.fromkeys(maps, LABEL_MAP),
        ),
    ]


_ZIPPED = ("labels.nii", "stack.nii.gz", "labels.seg.nrrd")


def _zip(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in members:
            opened.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


# Judging -------------------------------------------------------------------------------------------------------------
STILL_A_LABEL_MAP, STILL_A_PICTURE = 0.995, 0.5
"""Shares of the voxels, those of the most frequent value aside, that are as they were in the whole file: so many, and
it is still what it was.
"""


def silently_wrong(seed: Seed, files: dict[str, bytes], fates: Mapping[str, FileFate]) -> str:
    """Say which label map was changed, or which picture went out as it was; who is asked what a damaged file holds is
    another reader than ours.

    Args:
        seed: the whole input.
        files: the damaged one.
        fates: what became of its files.
    """
    for path, kind in seed.holds.items():
        status = fates[path].status if path in fates else ""
        if (kind, status) not in ((LABEL_MAP, "protected"), (PICTURE, "copied")):
            continue
        before, after = (_values(replace(seed, files=content), path) for content in (seed.files, files))
        if before is None or after is None or before.shape != after.shape:
            continue
        numbers, counts = np.unique(before, return_counts=True)
        some = before != numbers[counts.argmax()]
        same = float((before == after)[some].mean())
        if same >= (STILL_A_LABEL_MAP if kind == LABEL_MAP else STILL_A_PICTURE):
            return f"a {kind} was {status}"
    return ""


def _values(seed: Seed, path: str) -> NDArray[Any] | None:
    """Read a file of an input by the software that its format comes from; None where that cannot."""
    with TemporaryDirectory() as spare, suppress(Exception):
        folder = Path(spare)
        if seed.source.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(seed.files[seed.source])) as opened:
                opened.extractall(folder)
        for name, content in seed.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        root = folder / seed.source if seed.table else folder
        place = root / path if not path.endswith(".raw") else (root / path).with_suffix(".mhd")
        return _READERS[place.suffix](place)
    return None


def _read_nifti(path: Path) -> NDArray[Any]:
    import nibabel

    return nibabel.load(path).get_fdata()


def _read_itk(path: Path) -> NDArray[Any]:
    import SimpleITK

    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def _read_raster(path: Path) -> NDArray[Any]:
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image)


_READERS: dict[str, Callable[[Path], NDArray[Any]]] = {
    ".nii": _read_nifti, ".gz": _read_nifti, ".nrrd": _read_itk, ".mha": _read_itk, ".mhd": _read_itk,
    ".png": _read_raster, ".tif": _read_raster,
    ".dcm": lambda path: pydicom.dcmread(path).pixel_array,
}  # fmt: skip
