# SPDX-License-Identifier: Apache-2.0
"""A finished run, as far as further files have to fit it: its choices, its secret, what it handed out, and the window
of each series that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from monai_salm.errors import UsageError
from monai_salm.io import Document, ImageHeader
from monai_salm.methods.names import METHOD_KINDS
from monai_salm.pipeline.deciding import Beside
from monai_salm.pipeline.fates import IN_OUTPUT, FileFate, load_fates
from monai_salm.pipeline.frozen_plan import PLAN_FILE, FrozenPlan
from monai_salm.pipeline.inventory import FileRecord, Inventory, file_digest, has_digest, written_path
from monai_salm.pipeline.keys import kept_secret
from monai_salm.pipeline.known_files import KnownFiles
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.record import MANIFEST
from monai_salm.pipeline.references import renewed_uids
from monai_salm.pipeline.search_record import SURROGATE_FILE, SearchRecord
from monai_salm.pipeline.way_back import RESIDUALS
from monai_salm.volumes import VolumeView, volume_of

_OF_NEW_FILES = {
    "labels", "label_column", "labels_from_folders", "label_maps", "pictures", "copy_unprotected", "device", "workers",
    "scheduler", "key_file", "restore", "residuals", "work_dir", "resume", "add", "estimate",
}  # fmt: skip
"""Options that are said anew for further files; all others are the release's."""


@dataclass(frozen=True)
class Release:
    """What a finished run left, to add further files to.

    Args:
        work_dir: its private folder.
        frozen: its plan, with the files that it was made for.
        fates: of these, by path.
        search: what its search left.
        options: of it.
        secret: that its UIDs are made and its noise is drawn with.
    """

    work_dir: Path
    frozen: FrozenPlan
    fates: Mapping[str, FileFate]
    search: SearchRecord
    options: ProtectOptions
    secret: bytes

    @classmethod
    def read(cls, work_dir: Path) -> Release:
        """Read what a run left in its work folder.

        Raises:
            UsageError: there is no run there, or it is not finished.
            SalmError: what it left is damaged.
        """
        path = work_dir / PLAN_FILE
        if not path.is_file():
            raise UsageError(
                f"{work_dir}: there is no release to add to; protect the first files without --add, or give the "
                "--work-dir of the run that wrote OUTPUT"
            )
        frozen = FrozenPlan.read(path)
        if frozen.known.archive is not None:
            raise UsageError(
                f"{work_dir}: its files are in a zip, which nothing can be added to; protect the unpacked folder, and "
                "add to that release"
            )
        plan, fates, search = frozen.plan, load_fates(work_dir / MANIFEST), SearchRecord.of_any_run(work_dir)
        decided = {file.path for sample in plan.samples for file in sample.files}
        decided |= {*plan.refused, *plan.documents, *plan.copies}
        if search is None or not decided <= fates.keys():
            raise UsageError(f"{work_dir}: the run is not finished; end it with --resume before anything is added")
        options = ProtectOptions.from_json(frozen.begun_with["options"], work_dir=work_dir)
        known = {path: fate for path, fate in fates.items() if path in frozen.known.files}  # others are added just now
        return cls(work_dir, frozen, known, search, options, kept_secret(work_dir, frozen.key))

    @property
    def additions(self) -> int:
        """How many times files were added."""
        return int(self.frozen.begun_with.get("additions", 0))

    # What it handed out ----------------------------------------------------------------------------------------------

    @cached_property
    def handed_out(self) -> dict[str, FileRecord]:
        """Records of the files that are in its output, by path."""
        files = self.frozen.known.files
        return {path: files[path].record for path, fate in self.fates.items() if fate.status in IN_OUTPUT}

    @property
    def known(self) -> KnownFiles:
        """Those files as they were when they were read."""
        return KnownFiles({path: self.frozen.known.files[path] for path in self.handed_out})

    @cached_property
    def targets(self) -> dict[str, str]:
        """Path in the output -> path of the original."""
        return {self.target_of(path): path for path in self.handed_out}

    def target_of(self, path: str) -> str:
        """Give the path in the output of a file that is there."""
        return written_path(path, self.handed_out[path].header) if self.fates[path].status == "protected" else path

    @cached_property
    def _protected(self) -> dict[str, ImageHeader]:
        found = ((path, record.header) for path, record in self.handed_out.items())
        return {path: header for path, header in found if header and self.fates[path].status == "protected"}

    @property
    def protected(self) -> list[ImageHeader]:
        """Headers of the images that are protected."""
        return list(self._protected.values())

    @cached_property
    def documents(self) -> list[Document]:
        """What else was handed out."""
        return [record.document for record in self.handed_out.values() if record.document is not None]

    @cached_property
    def changed_uids(self) -> frozenset[str]:
        """UIDs that got new ones."""
        return renewed_uids(self.protected, self.documents)

    def beside(self) -> Beside:
        """Give what the decisions about further files have to fit."""
        views: dict[str, VolumeView] = {}
        samples: dict[str, str] = {}
        for sample in self.frozen.plan.samples:
            for file in sample.files:
                if file.path not in self.handed_out:
                    continue
                samples.setdefault(sample.sample_id, file.path)
                header = self.handed_out[file.path].header
                series = volume_of(header) if header is not None else ""
                if series and series not in views:
                    views[series] = VolumeView.of_file(file.view)
        return Beside(views, samples)

    # What further files are told -------------------------------------------------------------------------------------

    @property
    def surrogate(self) -> Path | None:
        """The surrogate that further samples are protected with; None where each is on its own without one."""
        place = self.work_dir / SURROGATE_FILE
        return place if self.search.surrogate else None

    @property
    def method(self) -> str:
        """The method whose noise the release has.

        Raises:
            UsageError: the noise of a sample follows from all others, and no surrogate was left that knows these.
        """
        name, task = self.options.method, self.options.task
        if self.surrogate is not None:
            return name
        alone = [
            other
            for other, kind in METHOD_KINDS.items()
            if kind.alone and task in kind.tasks and (other == name or (name == "salm" and other.startswith("salm:")))
        ]
        if not alone:
            raise UsageError(
                f"{self.work_dir}: the noise of method {name!r} follows from all samples at once, and its run left no "
                "surrogate, so nothing can be added to it; protect the new files in a release of their own"
            )
        return alone[0]

    def options_of(self, call: ProtectOptions, work_dir: Path, surrogate: Path) -> ProtectOptions:
        """Give the options that further files are protected with: those of the release, but for where things lie.

        Args:
            call: what the user says now.
            work_dir: private folder of the addition.
            surrogate: copy of :attr:`surrogate`, where there is one.

        Raises:
            UsageError: the user says something else than the release's run was told.
        """
        self._check_said(call)
        key_file, restore = call.key_file, call.restore and self.options.restore and self.options.key_file is not None
        if key_file is None and self.options.key_file is not None and self.options.key_file.is_file():
            key_file = self.options.key_file
        if restore and key_file is None:
            raise UsageError(
                f"{self.options.key_file}: the key of the release is not there; give it as --key-file, or "
                "--no-restore, by which the new files get no way back"
            )
        residuals = call.residuals or self.options.residuals or self.work_dir / RESIDUALS
        labels = call if call.labels is not None or call.labels_from_folders else self.options
        column = None if labels.labels_from_folders else call.label_column or self.options.label_column
        return replace(
            self.options,
            method=self.method, surrogate="" if self.surrogate is None else str(surrogate), rounds=None, gentle=False,
            sample=self.frozen.begun_with.get("sample", self.options.sample), estimate=False,
            labels=labels.labels, label_column=column,
            labels_from_folders=labels.labels_from_folders, label_maps=call.label_maps, pictures=call.pictures,
            copy_unprotected=call.copy_unprotected, device=call.device, workers=call.workers, scheduler=call.scheduler,
            key_file=key_file, restore=restore, residuals=residuals if restore else None, work_dir=work_dir,
            resume=call.resume, add=True,
        )  # fmt: skip

    def _check_said(self, call: ProtectOptions) -> None:
        defaults = {field.name: field.default for field in fields(call)}
        had = {name: getattr(self.options, name) for name in defaults if name not in _OF_NEW_FILES}
        if call.sample == self.frozen.begun_with.get("sample"):
            had["sample"] = call.sample
        other = [
            f"--{name.replace('_', '-')} {value} (the release has {'none' if old in ('', None) else old})"
            for name, old in had.items()
            if (value := getattr(call, name)) not in (defaults[name], old)
        ]
        if other:
            raise UsageError(
                f"{self.work_dir}: what is added is protected as the release is, so leave out {', '.join(other)}; or "
                "protect these files in a release of their own"
            )

    # Arrivals --------------------------------------------------------------------------------------------------------

    def arrivals(self, inventory: Inventory) -> Inventory:
        """Give an inventory without the files that the release has, and without copies of them; another file with the
        name or the UID of one of them is refused.
        """
        known, copies, files = set(), [], []
        for record in inventory.files:
            if record.path in self.handed_out and (
                record.path in inventory.unchanged
                or has_digest(inventory.absolute(record.path), self.fates[record.path].sha256_in)
            ):
                known.add(record.path)
                continue
            twin, record = self._beside_released(inventory, record)
            if twin:
                copies.append(replace(record, copy_of=twin))
            else:
                files.append(record)
        return replace(
            inventory, files=files, of_release=frozenset(known), copies_of_release=tuple(copies),
            unchanged=inventory.unchanged - known,
        )  # fmt: skip

    def _beside_released(self, inventory: Inventory, record: FileRecord) -> tuple[str, FileRecord]:
        """Give the path of the image of the release that has the same bytes as a new file, if there is one, and the
        file's record as what it is beside the release.
        """
        path, target = record.path, written_path(record.path, record.header)
        taken = path if path in self.handed_out else self.targets.get(target, "")
        if taken:
            return "", _refused(
                record,
                f"the release has another file of this name, {taken}, with other bytes; give new files a folder of "
                "their own below INPUT, such as one for each month",
            )
        if record.header is None:
            return "", record
        uid = record.header.identifiers.get("SOPInstanceUID", "")
        same = self._by_uid.get(uid, []) if uid else self._by_size.get(record.stamp.size if record.stamp else -1, [])
        if not same:
            return "", record
        digest = file_digest(inventory.absolute(path))
        for other in same:
            if self.fates[other].sha256_in == digest:
                return other, record
        if not uid:
            return "", record
        return "", _refused(
            record,
            f"its SOPInstanceUID {uid} is that of {same[0]} in the release, whose bytes are others; leave it out, or "
            "give it a UID of its own",
        )

    @cached_property
    def _by_uid(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path, header in self._protected.items():
            if uid := header.identifiers.get("SOPInstanceUID"):
                found.setdefault(uid, []).append(path)
        return found

    @cached_property
    def _by_size(self) -> dict[int, list[str]]:
        """Paths of the images that have no UID, by the size of the original."""
        found: dict[int, list[str]] = {}
        for path, header in self._protected.items():
            stamp = self.handed_out[path].stamp
            if stamp is not None and "SOPInstanceUID" not in header.identifiers:
                found.setdefault(stamp.size, []).append(path)
        return found


def _refused(record: FileRecord, reason: str) -> FileRecord:
    return FileRecord(record.path, reason=reason, by_others=True, stamp=record.stamp)
