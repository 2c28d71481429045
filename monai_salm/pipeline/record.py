# SPDX-License-Identifier: Apache-2.0
"""What a run left in the private work folder beside its output: read by who checks the output, and believed only where
it fits the files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_salm.errors import SalmError
from monai_salm.pipeline.fates import FileFate, load_fates
from monai_salm.pipeline.inventory import Inventory, file_digest
from monai_salm.seals import unsealed_json
from monai_salm.volumes import VolumeView

MANIFEST = "manifest.jsonl"
_OF_A_WORK_FOLDER = ("plan.jsonl", MANIFEST)


def default_work_dir(output: Path) -> Path:
    """Give the work folder of an output where none is named."""
    place = output if output.name not in ("", "..") else output.resolve()
    return place.with_name(place.name + ".work")


def is_work_dir(folder: Path) -> bool:
    """Tell whether a folder is the private one of a run."""
    return folder.is_dir() and all((folder / name).is_file() for name in _OF_A_WORK_FOLDER)


def grown_views(output: Path) -> tuple[Path, dict[str, VolumeView]]:
    """Give the views of the series of a release that slices were added to, and the plan beside it that says them: they
    were found before these came, and no file says what they are.

    Returns:
        No views where there is no plan, or where that is none of this version.
    """
    plan = default_work_dir(output) / "plan.jsonl"
    try:
        with plan.open(encoding="utf-8") as file:
            views: dict[str, Any] = unsealed_json(file.readline()).get("grown", {})
        return plan, {series: VolumeView.from_json(view) for series, view in views.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return plan, {}


@dataclass(frozen=True)
class RunRecord:
    """The manifest of the run that wrote an output, if there is one and it fits.

    Args:
        path: of the manifest; None where there is none.
        fates: by path; empty where there is none, or where it does not fit.
        fault: why it is not used; empty if it is.
    """

    path: Path | None = None
    fates: dict[str, FileFate] = field(default_factory=dict)
    fault: str = ""

    def settings(self) -> dict[str, Any]:
        """Give the settings that the run's plan has; empty where no manifest fits.

        Raises:
            SalmError: the plan is damaged.
        """
        if self.path is None or not self.fates:
            return {}
        plan = self.path.with_name("plan.jsonl")
        try:
            with plan.open(encoding="utf-8") as file:
                return dict(unsealed_json(file.readline())["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SalmError(f"{plan}: the plan is damaged ({error}); what the run was told is not known") from error


def find_record(protected: Path, before: Inventory, after: Inventory) -> RunRecord:
    """Read the manifest beside an output, and hold it against the files of both sides.

    It fits if every line is of a file of the original folder, with the bytes that this file has, and if at least one
    protected file has the bytes that the manifest gives it.

    Args:
        protected: folder, zip or file that a run wrote.
        before, after: of the original and of the protected files.
    """
    places = (
        [protected, protected.parent] if protected.is_file() else [protected]
    )  # a zip that went into a folder has its work folder beside that
    path = next((path for place in places if (path := default_work_dir(place) / MANIFEST).is_file()), None)
    if path is None:
        return RunRecord()
    try:
        fates = load_fates(path)
        fault = _misfit(fates, before, after)
    except SalmError as error:
        return RunRecord(path, fault=str(error).removeprefix(f"{path}: ").partition(";")[0])
    except (OSError, ValueError) as error:
        return RunRecord(path, fault=f"it cannot be read ({getattr(error, 'strerror', None) or error})")
    return RunRecord(path, {} if fault else fates, fault)


def _misfit(fates: dict[str, FileFate], before: Inventory, after: Inventory) -> str:
    """Say why a manifest is not that of the run that made one folder from the other; empty if it is."""
    originals, results = ({record.path for record in inventory.files} for inventory in (before, after))
    strange = sorted(str(path) for path in fates if path not in originals)
    if strange:
        return f"it is of another run: {strange[0]} is not in the original folder"
    known = agreeing = 0
    for path, fate in fates.items():
        place = before.absolute(path)
        if fate.sha256_in and (not place.is_file() or file_digest(place) != fate.sha256_in):
            return f"it is of another run: {path} had other bytes there"
        target = before.output_path(path)
        if fate.status == "protected" and target in results and (place := after.absolute(target)).is_file():
            known += 1
            agreeing += not agreeing and file_digest(place) == fate.sha256_out
    return "it is of another run, which wrote other files" if known and not agreeing else ""


def was_made_from(made: Inventory, other: Inventory, output: Path) -> bool:
    """Tell whether the manifest beside an output says that it was made from another folder: its bytes are those
    written, and the other's those read.

    Args:
        made, other: both inventories.
        output: folder, zip or file of the first.
    """
    record = find_record(output, other, made)
    pairs = (
        (other.absolute(path), made.absolute(other.output_path(path)), fate)
        for path, fate in record.fates.items()
        if fate.status == "protected"
    )
    return any(
        place.is_file() and target.is_file() and file_digest(place) == fate.sha256_in
        and file_digest(target) == fate.sha256_out
        for place, target, fate in pairs
    )  # fmt: skip
