# SPDX-License-Identifier: Apache-2.0
"""Hippocampus, 3D segmentation from NIfTI files: bounds, headers, anatomy, and what victims learn from the files of
each method.

160 volumes are protected; victims are scored on 50 others (``--part test``: the last 50; ``val``: the 50 before them,
for choosing settings). With ``--slices`` each volume gives three 2D images around the section where most is
labeled.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from common import Rows, add_grid, fresh, measure_victims, parser, protect_by_methods

SLICES = (-3, 0, 3)
"""Which sections are taken, from the one with the most labeled voxels."""


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    add_grid(arguments, epsilon="4/255", victims="small-unet", epochs=20)
    arguments.add_argument("--part", choices=["val", "test"], default="test")
    arguments.add_argument("--slices", action="store_true", help="2D images, three of each volume")
    given = arguments.parse_args()
    name = "hippocampus_slices" if given.slices else "hippocampus"
    given.work = given.work / name
    rows = Rows(given.results / f"{name}{'_' + given.name if given.name else ''}.jsonl", keep=True)
    source = given.data / "hippocampus"
    volumes = sorted(path.name for path in (source / "imagesTr").glob("hippocampus_*.nii.gz"))
    chosen = {"train": volumes[:160], "val": volumes[-100:-50], "test": volumes[-50:]}
    for split in ("train", given.part):
        folders = {kind: fresh(given.work / split / kind) for kind in ("images", "labels")}
        for file in chosen[split]:
            if given.slices:
                _write_slices(source, file, folders)
            else:
                for kind, folder in folders.items():
                    shutil.copyfile(source / f"{kind}Tr" / file, folder / file)
    train, test = given.work / "train", given.work / given.part
    folders = protect_by_methods(
        given, rows, name, train / "images", "--labels", train / "labels", "--task", "segmentation"
    )
    files = sorted(path.name for path in (train / "images").iterdir())
    for method, folder in folders.items():
        same = sum(_same_header(train / "images" / file, folder / file) for file in files)
        rows.add(what="headers", data_set=name, method=method, files=len(files), byte_identical=same)
    measure_victims(
        given, rows, name, given.part, train / "images", folders, test / "images",
        labels=train / "labels", test_labels=test / "labels", task="segmentation",
    )  # fmt: skip


def _write_slices(source: Path, name: str, folders: dict[str, Path]) -> None:
    """Write some sections of a volume and of its label map as 2D NIfTI files."""
    volumes = {kind: nib.load(source / f"{kind}Tr" / name) for kind in folders}
    labeled = np.count_nonzero(np.asarray(volumes["labels"].dataobj), axis=(0, 1))
    middle = int(np.argmax(labeled))
    for offset in SLICES:
        for kind, volume in volumes.items():
            section = np.asarray(volume.dataobj)[..., middle + offset]
            image = nib.Nifti1Image(section, np.eye(4), dtype=section.dtype)
            image.header.set_zooms(volume.header.get_zooms()[:2])
            nib.save(image, folders[kind] / name.replace(".nii", f"_{offset % 10}.nii"))


def _same_header(first: Path, second: Path) -> bool:
    """Say whether all bytes before the voxels are the same in two NIfTI-1 files."""
    heads = [gzip.decompress(path.read_bytes())[:352] for path in (first, second)]
    return heads[0] == heads[1]


if __name__ == "__main__":
    main()
