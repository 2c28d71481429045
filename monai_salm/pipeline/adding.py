# SPDX-License-Identifier: Apache-2.0
"""Adding files to a finished run: they are protected in a private folder of their own, as the run's were, and taken
into the run at the end, so that its work folder is that of one run over all files.

Nothing that is done is done again, but for files that refer to what came now: their references follow it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_salm.disk import atomic_target, within
from monai_salm.errors import RefusedError, VerificationError, unreadable
from monai_salm.io import Derivation, renew_references
from monai_salm.noise import NoiseStore
from monai_salm.pipeline.directories import keep_directory, kept_directory
from monai_salm.pipeline.documents import RENEWED, write_documents
from monai_salm.pipeline.fates import IN_OUTPUT, FileFate, load_fates
from monai_salm.pipeline.frozen_plan import PLAN_FILE, FrozenPlan, plan_head
from monai_salm.pipeline.inventory import FileRecord, Inventory, file_digest
from monai_salm.pipeline.keys import check_secret
from monai_salm.pipeline.known_files import KnownFile, KnownFiles
from monai_salm.pipeline.label_table import ordered
from monai_salm.pipeline.labels import Target
from monai_salm.pipeline.manifest import Manifest
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.output import make_derivation, new_syntaxes, written_again
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.record import MANIFEST
from monai_salm.pipeline.references import own_uids, renewed_uids
from monai_salm.pipeline.release import Release
from monai_salm.pipeline.search_record import NOISE_FOLDER, SURROGATE_FILE, SearchRecord, run_mark
from monai_salm.pipeline.volume_decisions import decided_of_volumes
from monai_salm.pipeline.way_back import WayBack, keep_again, keep_file, way_back_of
from monai_salm.volumes import VolumeView, volume_of

ADDING = "adding"
"""Name of the folder of an addition in the work folder, until it is taken in."""

_FROZEN = "release.safetensors"
"""The release's surrogate, as it was when the addition began: taking it in changes the one of the release."""


def begin(release: Release, call: ProtectOptions, work_dir: Path) -> ProtectOptions:
    """Give the options that files are added with, and put what they need into the folder of the addition.

    Args:
        release: that they are added to.
        call: what the user says now.
        work_dir: of the addition, made and empty, or that of a stopped one.

    Raises:
        UsageError: the user says something else than the release's run was told, or nothing can be added to it.
    """
    if (work_dir / PLAN_FILE).is_file() and plan_head(work_dir / PLAN_FILE)["additions"] <= release.additions:
        shutil.rmtree(work_dir)  # it was taken in, and then stopped
        work_dir.mkdir(mode=0o700)
    frozen = work_dir / _FROZEN
    options = release.options_of(call, work_dir, frozen)
    if options.key_file is not None:
        check_secret(release.frozen.key, options, release.work_dir)
    if release.surrogate is not None and not frozen.is_file():
        _copy(release.surrogate, frozen)
    return options


def take_in(
    release: Release, options: ProtectOptions, inventory: Inventory, output: Path, work_dir: Path
) -> dict[str, FileFate]:
    """Make added files part of their release; gives their fates.

    What was stopped in the middle is done again from the start, with the same result: the release's plan, which is
    written last, says whether it came to the end.

    Args:
        release: as it was before.
        options: of the addition.
        inventory: of its input.
        output: folder of the release.
        work_dir: of the addition; removed at the end.
    """
    part = FrozenPlan.read(work_dir / PLAN_FILE)
    told = load_fates(work_dir / MANIFEST)
    # What was refused because the release has another file of its name says nothing of that one.
    part = part.without(release.handed_out)
    search = SearchRecord.of_any_run(work_dir) or SearchRecord("", {}, {})
    addition = _Addition(
        release, part, inventory, output, way_back_of(options, release.work_dir),
        {path: fate for path, fate in told.items() if path in part.known.files},
    )  # fmt: skip
    fates, written = addition.written_later(make_derivation(inventory, part.plan, options, work_dir, release))
    plan = united(release.frozen.plan, part.plan, {record.path: record.copy_of for record in addition.copies})
    for sample_id in search.noise:
        NoiseStore(release.work_dir / NOISE_FOLDER).take(NoiseStore(work_dir / NOISE_FOLDER), sample_id)
    Manifest(release.work_dir / MANIFEST).rewrite(fates, written)
    SearchRecord(
        run_mark(plan, release.secret), release.search.summary, {**release.search.noise, **search.noise},
        search.surrogate or release.search.surrogate,
    ).write(release.work_dir)  # fmt: skip
    if search.surrogate:
        _copy(work_dir / SURROGATE_FILE, release.work_dir / SURROGATE_FILE)
    addition.frozen(plan).write(release.work_dir / PLAN_FILE)
    shutil.rmtree(work_dir)
    return told | {path: fates[path] for path in addition.fates}


@dataclass
class _Addition:
    """Added files that are written, and what has to be done because of them.

    Args:
        release, inventory, output: as of :func:`take_in`.
        part: plan of the addition.
        way: back to the originals; None where there is none.
        fates: of the added files; those of copies are put in here.
    """

    release: Release
    part: FrozenPlan
    inventory: Inventory
    output: Path
    way: WayBack | None
    fates: dict[str, FileFate]

    def __post_init__(self) -> None:
        self.copies = self.inventory.copies_of_release
        records = {path: self._released(path, known) for path, known in self.release.frozen.known.files.items()}
        added = (record for record in self.inventory.files if record.path in self.part.known.files)
        records |= {record.path: record for record in (*added, *self.copies)}
        self.whole = Inventory(self.inventory.root, [records[path] for path in sorted(records)])

    def _released(self, path: str, known: KnownFile) -> FileRecord:
        """Give the record of a file of the release, with the place of its original where that is kept."""
        record = known.record
        if record.document is None or not record.document.files:
            return record
        kept = kept_directory(self.release.work_dir, path, known.sha256)
        return record if kept is None else replace(record, document=replace(record.document, path=kept))

    def written_later(self, derivation: Derivation) -> tuple[dict[str, FileFate], list[Path]]:
        """Write what follows from the added files: references to them, copies, DICOMDIRs; gives the fates of all files
        of the release, and what has to be on the disk before they are told.

        Args:
            derivation: of the addition.
        """
        before = dict(self.release.fates)
        fates = before | self.fates
        protected = [header for path, header in self.whole.headers.items() if _status(fates, path) == "protected"]
        documents = [found for path, found in self.whole.documents.items() if _status(fates, path) == "copied"]
        changed = renewed_uids(protected, documents)
        new = changed - self.release.changed_uids if derivation.uid_secret is not None else frozenset()
        again = self._directories(fates, new)
        for path in self._referring(new) - again.keys():
            fates[path] = self._renewed(fates[path], replace(derivation, changed_uids=new))
        for record in self.copies:
            fate = written_again(self.whole, fates[record.copy_of], record.path, self.output)
            self.fates[record.path] = fates[record.path] = self._with_way_back(fate, self.whole.absolute(record.path))
        whole = replace(derivation, changed_uids=changed, transfer_syntaxes=new_syntaxes(protected))
        targets = {self._target(fate) for fate in fates.values() if fate.status in IN_OUTPUT} - again.keys()
        for fate in write_documents(self.whole, again, self.output, whole, frozenset(targets)):
            document = self.whole.documents[fate.path]
            if fate.left_out:
                keep_directory(self.release.work_dir, document, fate.path)
            fates[fate.path] = self._with_way_back(fate, document.path)
        self.fates |= {path: fates[path] for path in self.fates}
        return fates, list(self._places(fate for path, fate in fates.items() if before.get(path) != fate))

    def _directories(self, fates: Mapping[str, FileFate], new: frozenset[str]) -> dict[str, str]:
        """Give the DICOMDIRs that are written, or written again, with the digests of their originals."""
        found = {}
        for path, document in self.whole.documents.items():
            if not document.files or _status(fates, path) != "copied":
                continue
            place = self.inventory.documents.get(path)
            kept = document.path.is_absolute()
            if place is not None or (kept and (fates[path].left_out or not new.isdisjoint(document.references))):
                found[path] = fates[path].sha256_in
        return found

    def _referring(self, new: frozenset[str]) -> set[str]:
        """Give the paths of files of the release that refer to what got a new UID now, or got one themselves."""
        found = set()
        for path, record in self.release.handed_out.items():
            header, document = record.header, record.document
            if header is not None and self.release.fates[path].status == "protected":
                named = header.references
            elif document is not None:
                named = document.references | own_uids(document)
            else:
                continue
            if not new.isdisjoint(named):
                found.add(path)
        return found - self.fates.keys()

    def _renewed(self, fate: FileFate, derivation: Derivation) -> FileFate:
        """Renew references in a file of the release; one in which that cannot be done is taken out of it, for it names
        unprotected images.
        """
        place = within(self.output, self._target(fate), itself=True)
        try:
            with atomic_target(place) as temporary:
                renew_references(place, temporary, derivation)
                residual = fate.residual
                if self.way is not None and residual:
                    residual = keep_again(self.way, fate, place, temporary, self._target(fate))
                digest = file_digest(temporary)
        except (RefusedError, VerificationError, OSError) as error:
            place.unlink(missing_ok=True)
            why = unreadable(error) if isinstance(error, OSError) else str(error)
            return replace(fate, status="failed", reason=f"its references could not be renewed: {why}", sha256_out="")
        reason = fate.reason
        if fate.status == "copied" and digest != fate.sha256_in and RENEWED not in reason:
            reason = f"{reason}; {RENEWED}"
        if fate.status == "copied" and residual and self.way is None:  # of an image it is of the values
            residual, reason = "", f"{reason}; its original does not come back: that was done without the key"
        return replace(fate, sha256_out=digest, residual=residual, reason=reason)

    def _with_way_back(self, fate: FileFate, original: Path) -> FileFate:
        if self.way is None or fate.status not in IN_OUTPUT:
            return fate
        target = self._target(fate)
        digests = fate.sha256_in, fate.sha256_out
        kept = keep_file(self.way, original, within(self.output, target), fate.path, target, digests)
        return replace(fate, residual=self.way.name_of(kept))

    def _target(self, fate: FileFate) -> str:
        return self.whole.output_path(fate.path) if fate.status == "protected" else fate.path

    def _places(self, fates: Iterator[FileFate]) -> Iterator[Path]:
        for fate in fates:
            if fate.status in IN_OUTPUT:
                yield self.output / self._target(fate)
            if fate.residual and self.way is not None:
                yield self.way.folder / fate.residual

    def frozen(self, plan: ProtectionPlan) -> FrozenPlan:
        """Give the release's plan as that of one run over all files."""
        release, part = self.release.frozen, self.part
        files = {**release.known.files, **part.known.files}
        for record in self.copies:
            files[record.path] = KnownFile(record, record.stamp, self.fates[record.path].sha256_in)
        labels: dict[str, Target] = {
            path: _renumbered(target, old.classes, plan.classes)
            for found, old in ((release.labels, release.plan), (part.labels, part.plan))
            for path, target in found.items()
        }
        begun_with: dict[str, Any] = {
            **release.begun_with, "additions": part.begun_with["additions"],
            "grown": {**release.begun_with.get("grown", {}), **self._grown()},
        }  # fmt: skip
        known = KnownFiles({path: files[path] for path in sorted(files)})
        volumes = tuple({"line": "volume", **volume} for volume in decided_of_volumes(self.whole, plan))
        return FrozenPlan(plan, known, labels, release.key, begun_with, volumes)

    def _grown(self) -> dict[str, Any]:
        """Give the views of the series that slices were added to, which hold for them although they are not those of
        the whole.
        """
        views: Mapping[str, VolumeView] = self.release.beside().views
        added = {volume_of(self.whole.headers[file.path]) for sample in self.part.plan.samples for file in sample.files}
        return {series: views[series].to_json() for series in sorted(added & views.keys())}


def united(before: ProtectionPlan, added: ProtectionPlan, copies: Mapping[str, str]) -> ProtectionPlan:
    """Give the plan of all files of a release and of an addition to it.

    Args:
        before, added: the plans.
        copies: path of an added file -> path of the file of the release that has its bytes.
    """
    classes = tuple(ordered({*before.classes, *added.classes}))
    again_samples = {sample.sample_id for sample in added.samples}  # those of files that failed before
    old = [sample for sample in before.samples if sample.sample_id not in again_samples]
    samples = [
        replace(sample, target=_renumbered(sample.target, found, classes))
        for found, some in ((before.classes, old), (added.classes, added.samples))
        for sample in some
    ]
    again = {*added.refused, *added.documents, *added.copies, *copies}
    again |= {file.path for sample in added.samples for file in sample.files}
    refused = {path: reason for path, reason in before.refused.items() if path not in again}
    contents = {**(before.settings.get("contents") or {}), **(added.settings.get("contents") or {})}
    if "surrogate" in contents:  # the release's own, not the one that it left for the addition
        contents["surrogate"] = (before.settings.get("contents") or {}).get("surrogate")
    return ProtectionPlan(
        tuple(sorted(samples, key=lambda sample: (sample.sample_id, sample.files[0].path))),
        {**refused, **added.refused}, {**before.documents, **added.documents},
        {**before.copies, **added.copies, **copies}, classes, before.multi_label,
        {**before.settings, "contents": {name: digest for name, digest in contents.items() if digest}},
    )  # fmt: skip


def _renumbered(target: Any, old: tuple[str, ...], new: tuple[str, ...]) -> Any:
    """Give a class its number among those of the whole; findings and label maps stay."""
    return new.index(old[target]) if isinstance(target, int) and old else target


def _status(fates: Mapping[str, FileFate], path: str) -> str:
    return fates[path].status if path in fates else ""


def _copy(source: Path, target: Path) -> None:
    with atomic_target(target, private=True) as temporary:
        shutil.copyfile(source, temporary)
