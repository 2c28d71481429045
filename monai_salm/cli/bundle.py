# SPDX-License-Identifier: Apache-2.0
"""``monai-salm bundle``: the MONAI bundle that comes with the package, as a folder of the user's own."""

from __future__ import annotations

import os
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from monai_salm.cli.options import FILE
from monai_salm.cli.printing import print_line
from monai_salm.disk import check_space
from monai_salm.errors import UsageError, how_to_install

_PACKAGE = Path(__file__).parents[1]


def _bundles() -> dict[str, Path]:
    """Give the folder of each bundle by its name: in the package where it was installed, beside it in a clone."""
    for place in (_PACKAGE / "bundles", _PACKAGE.parent / "bundles"):
        if place.is_dir():
            return {folder.name: folder for folder in sorted(place.iterdir()) if (folder / "configs").is_dir()}
    return {}


def _chosen(name: str | None) -> Path:
    bundles = _bundles()
    if not bundles:
        raise UsageError("this installation has no bundle; install the package again, from its wheel")
    if name is None and len(bundles) > 1:
        raise UsageError(f"there are {len(bundles)} bundles; give --name with one of {', '.join(bundles)}")
    found = bundles.get(name) if name is not None else next(iter(bundles.values()))
    if found is None:
        raise UsageError(f"bundle {name!r} is unknown; give one of {', '.join(bundles)}")
    return found


def _copy(source: Path, target: Path) -> None:
    """Copy a folder's files, with the rights that new files have. They are copied aside first: a new folder is whole
    when it gets its name, and a folder that is there and empty, perhaps a mounted one, gets whole files.

    Raises:
        DiskError: the disk cannot hold them.
        UsageError: there is a file, or a folder with something in it.
    """
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already; give another folder, or remove it")
    files = [file for file in source.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    check_space({target: sum(file.stat().st_size for file in files)})
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target if target.is_dir() else target.parent, prefix=".salm-") as aside:
        whole = Path(aside, "bundle")
        for file in files:
            copy = whole / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        if target.is_dir():
            for part in whole.iterdir():
                part.replace(target / part.name)
        else:
            whole.replace(target)


@click.command()
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.option("--name", help="Which bundle, if there are several.")
def bundle(folder: Path, name: str | None) -> int:
    """Put a MONAI bundle that comes with this package into FOLDER, which must be new or empty: its configurations,
    metadata and README, to run with `python -m monai.bundle`.
    """
    source = _chosen(name)
    _copy(source, folder)
    print_line(f"wrote the bundle {source.name} to {folder}; its {Path('docs', 'README.md')} says what it does")
    if find_spec("fire") is None:
        print_line(f"first: {how_to_install('fire')}, with which MONAI reads the arguments of a bundle")
    config = folder / "configs" / "train.json"
    if config.is_file():
        print_line(
            f"next: python -m monai.bundle run --config_file {shlex.quote(str(config))} "
            "--dataset_dir EXPORT --labels labels.csv --output_dir OUT"
        )
    return 0
