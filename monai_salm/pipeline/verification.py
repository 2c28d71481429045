# SPDX-License-Identifier: Apache-2.0
"""Checking two folders against each other, from their files alone: bounds, masks and headers; what a run kept can only
excuse that a file is absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from monai_salm.budget import Epsilon
from monai_salm.errors import RefusedError
from monai_salm.io import Document, is_litter
from monai_salm.io.kinds import LABEL_MAP
from monai_salm.pipeline.archive import is_archive
from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.file_checks import (
    DocumentJob,
    VerifyJob,
    VolumeFindings,
    document_not_verified,
    same_bytes,
    verify_document,
    verify_volume,
    volume_not_verified,
)
from monai_salm.pipeline.file_sets import as_handed_out, directory_problems
from monai_salm.pipeline.file_views import BudgetOptions, VolumeFiles, volumes_in
from monai_salm.pipeline.identities import Found, Identities, paired_paths
from monai_salm.pipeline.inventory import NO_CHOICES, Inventory, kinds_found
from monai_salm.pipeline.record import RunRecord, find_record, grown_views
from monai_salm.pipeline.scanning import scan
from monai_salm.pipeline.sides import check_places, check_sides
from monai_salm.pipeline.verdicts import FileVerdict, VerifyReport, kept_once
from monai_salm.progress import Progress
from monai_salm.volumes import volume_of
from monai_salm.workers import Workers, workers_of


def verify(
    original: Path,
    protected: Path,
    *,
    options: BudgetOptions | None = None,
    check_epsilon: Epsilon | None = None,
    choices: KindChoices = NO_CHOICES,
    allow_absent: bool = False,
    workers: int = 0,
    scheduler: str = "",
    show_progress: bool = False,
) -> VerifyReport:
    """Compare two folders, or zips, file by file.

    A file that is absent is a mismatch, unless it cannot be protected by the rules, the manifest of the very run (in
    the work folder beside the protected folder, where that is still there) says that it was refused or failed, or
    ``allow_absent`` is given. Nothing else is taken from there but the windows of series that slices were added to.

    Args:
        original: folder, zip or file that was protected.
        protected: what came out.
        options: window and modality, as they were given to ``protect``; they choose the anatomy of files that do not
            say their modality.
        check_epsilon: the budget to hold every file to; None takes the bound that a DICOM file states itself, and
            checks none in NIfTI files.
        choices: what the user says of images and label maps, as it was said to ``protect``.
        allow_absent: True takes all absent files for such as were meant not to be handed out.
        workers: processes that read and compare files; a file that ends one costs its own verdict. With 0 it is done in
            this one, where a library that crashes on a file ends all.
        scheduler: address of a Dask scheduler, whose workers do it instead.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: a folder does not exist, the original one is empty, or they are swapped or have nothing to do with
            each other.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import Epsilon, verify
        >>> report = verify(Path("EXPORT"), Path("OUT"), check_epsilon=Epsilon(8 / 255))
        >>> report.to_json()["counts"], report.mismatches
        ({'protected': 4, 'copied': 1, 'absent': 0, 'mismatch': 0}, [])
    """
    if scheduler:  # whose workers have other current folders
        original, protected = original.absolute(), protected.absolute()
    check_places(original, protected)
    if is_archive(original) and protected.is_dir() and is_archive(protected / original.name):
        protected = protected / original.name  # where protect puts a zip that is to go into a folder
    with TemporaryDirectory() as spare, workers_of(workers, scheduler) as processes:
        before = scan(
            original, unpack_into=Path(spare) / "original", choices=choices, workers=processes,
            show_progress=show_progress,
        )  # fmt: skip
        empty = protected.is_dir() and not any(
            path.is_symlink() or not (path.is_dir() or is_litter(path.name)) for path in protected.rglob("*")
        )
        # What a file is, the original says: noise does not change it, and must not make an image of a label map.
        same = KindChoices(known=kinds_found(before))
        after = (
            Inventory(protected)
            if empty
            else scan(
                protected, unpack_into=Path(spare) / "protected", choices=same, workers=processes,
                show_progress=show_progress,
            )
        )  # fmt: skip
        verification = _Verification(before, after, options or BudgetOptions(), check_epsilon, allow_absent)
        check_sides(original, protected, before, after, bool(verification.targets))
        if set(verification.targets) != {record.path for record in before.files}:
            verification.record = find_record(protected, before, after)
        return verification.run(processes, show_progress=show_progress)


class _Verification:
    """One comparison of two inventories."""

    def __init__(
        self,
        before: Inventory,
        after: Inventory,
        options: BudgetOptions,
        check_epsilon: Epsilon | None,
        allow_absent: bool,
    ) -> None:
        self.before = before
        self.after = after
        self.options = options
        self.check_epsilon = check_epsilon
        self.allow_absent = allow_absent
        self.record = RunRecord()
        self.refused = before.refused
        self.strays = _strays(after)
        self.present = {record.path for record in after.files}
        self.targets = paired_paths(before, after)
        self.plan, self.views = grown_views(after.root)
        self.originals = {record.path for record in before.files}
        results: dict[str, Found] = {**after.headers, **after.documents}
        documents = {
            path: self._as_handed_out(path, found, results.get(self.targets.get(path, "")))
            for path, found in before.documents.items()
        }
        originals: dict[str, Found] = {**before.headers, **documents}
        self.pairs = {
            path: (found, results[self.targets[path]])
            for path, found in originals.items()
            if self.targets.get(path) in results
        }
        self.identities = Identities(originals, ((path, *pair) for path, pair in self.pairs.items()))

    def _as_handed_out(self, path: str, original: Document, protected: Found | None) -> Document:
        """See :func:`~monai_salm.pipeline.file_sets.as_handed_out`; what vanished is told when it is compared."""
        try:
            return as_handed_out(path, original, protected, self.originals, self.present)
        except (RefusedError, OSError):
            return original

    def run(self, workers: Workers, *, show_progress: bool) -> VerifyReport:
        """Give the verdict of every file of both."""
        verdicts: dict[str, FileVerdict] = {}
        with Progress("verifying", len(self.before.pictures), "files", show_progress=show_progress) as bar:
            for paths, findings in self._volumes(workers):
                self.refused |= findings.refused
                for path in paths:
                    verdicts[path] = self._without_file(path) or self._finished(kept_once(findings.verdicts[path]))
                bar.update(len(paths))
        jobs = []
        for path in (*self.before.documents, *self.before.refused):
            if (verdict := self._without_file(path)) is None:
                jobs.append(self._document(path))
            else:
                verdicts[path] = verdict
        found = workers.map(verify_document, jobs, lost=document_not_verified, chunk=workers.fair_chunk(len(jobs)))
        for job, verdict in zip(jobs, found, strict=True):
            verdicts[job.path] = verdict if job.compared == "bytes" else self._finished(verdict)
        for path, first in self.before.copies.items():
            verdicts[path] = self._without_file(path) or self._copy(path, verdicts[first])
        for path in self.present - set(self.targets.values()):
            verdicts[path] = FileVerdict(path=path, verdict="mismatch", problems=["it is not in the original folder"])
        return VerifyReport([verdicts[path] for path in sorted(verdicts)], self._use_of_record(verdicts.values()))

    def _without_file(self, path: str) -> FileVerdict | None:
        """Give the verdict of an original that no file can be held against; None where there is one."""
        if path not in self.targets:
            return self._absent(path)
        stray = self.strays.get(self.targets[path])
        return (
            FileVerdict(path=path, verdict="mismatch", problems=[f"what is there cannot be handed out: {stray}"])
            if stray
            else None
        )

    def _absent(self, path: str) -> FileVerdict:
        """Judge a file that is not there: by the run's manifest, which may have copied what the rules refuse, then by
        the rules.
        """
        fate = self.record.fates.get(path)
        rule = self.refused.get(path) or self.refused.get(self.before.copies.get(path, ""))
        if self.allow_absent:
            return FileVerdict(
                path=path,
                verdict="absent",
                absence=f"it cannot be protected: {rule}" if rule else "absent files are allowed",
            )
        if fate is not None and fate.status in ("refused", "failed"):
            return FileVerdict(
                path=path,
                verdict="absent",
                absence=f"{fate.status} by the run, says its manifest: {fate.reason or 'no reason given'}",
            )
        if rule and fate is None:
            return FileVerdict(path=path, verdict="absent", absence=f"it cannot be protected: {rule}")
        why = f"the run's manifest says that it was {fate.status}" if fate is not None else "nothing says why"
        return FileVerdict(path=path, verdict="mismatch", problems=[f"it is absent, and {why}"], absence=why)

    def _use_of_record(self, verdicts: Iterable[FileVerdict]) -> str:
        """Say in a line what the manifest was used for."""
        return "; ".join(filter(None, (self._use_of_views(), self._use_of_fates(verdicts))))

    def _use_of_views(self) -> str:
        grown = self.views.keys() & {volume_of(header) for header in self.before.pictures.values()}
        if not grown:
            return ""
        return f"{len(grown)} series grew: they are held to the windows of their first slices, which {self.plan} says"

    def _use_of_fates(self, verdicts: Iterable[FileVerdict]) -> str:
        record = self.record
        if record.path is None or self.allow_absent:
            return ""
        if record.fault:
            return f"{record.path} excuses no absent file: {record.fault}"
        absent = [verdict for verdict in verdicts if verdict.absence and verdict.path in record.fates]
        excused = sum(verdict.verdict == "absent" for verdict in absent)
        return (
            f"{excused} absent files are accepted, because {record.path}, which the run itself wrote, says that "
            "it refused them"
            if excused
            else ""
        )

    def _places(self, path: str) -> tuple[Path, Path]:
        return self.before.absolute(path), self.after.absolute(self.targets[path])

    def _volumes(self, workers: Workers) -> Iterator[tuple[list[str], VolumeFindings]]:
        """Give what is found of each volume, with the paths of its originals."""
        volumes = volumes_in(self.before)
        jobs, chunk = map(self._volume, volumes), workers.fair_chunk(len(volumes))
        found = workers.map(verify_volume, jobs, lost=volume_not_verified, chunk=chunk)
        for paths, findings in zip(volumes, found, strict=True):
            yield paths, _narrowed(workers, findings)

    def _volume(self, paths: list[str]) -> VerifyJob:
        """Give the job of a volume; what is no file of the folder itself is not looked at."""
        targets = {path: target for path in paths if (target := self.targets.get(path)) and target not in self.strays}
        files = VolumeFiles.of(self.before, paths, self.options, self.views)
        return VerifyJob(files, self.after.root, targets, self.check_epsilon)

    def _document(self, path: str) -> DocumentJob:
        """Give the job of what is no image, which may differ in references only, or cannot be protected, so that it may
        only be there as it was.
        """
        pair = self.pairs.get(path, ())
        formats = {found.format for found in pair}
        labels = {found.kind for found in pair if isinstance(found, Document)} == {LABEL_MAP}
        if path in self.before.documents and len(formats) == 1:
            if formats == {"dicom"}:
                return DocumentJob(path, self._places(path), "values" if labels else "header")
            if formats != {"other"} and not labels:
                return DocumentJob(path, self._places(path), "header")
        return DocumentJob(path, self._places(path), "bytes", self.refused.get(path, "no image"))

    def _finished(self, verdict: FileVerdict) -> FileVerdict:
        """Add what references do not follow to a verdict that is open yet."""
        if verdict.verdict != "mismatch" and verdict.path in self.pairs:
            pair = self.pairs[verdict.path]
            verdict.problems += self.identities.problems(verdict.path, *pair)
            verdict.dangling = self.identities.dangling(pair[0])
            verdict.problems += directory_problems(
                verdict.path, self.before.documents.get(verdict.path), pair[1], self.originals, self.present
            )
        return replace(verdict, verdict="mismatch") if verdict.problems else verdict

    def _copy(self, path: str, first: FileVerdict) -> FileVerdict:
        """A copy of another original shares its verdict, if it is a copy of its protected file too."""
        if self._is_copy(path, first.path):
            return replace(first, path=path)
        return FileVerdict(
            path=path,
            verdict="mismatch",
            problems=[f"the original is a copy of {first.path}, but the protected file is not"],
        )

    def _is_copy(self, path: str, first: str) -> bool:
        if first not in self.targets or self.targets[first] in self.strays:
            return False
        targets = self.targets[path], self.targets[first]
        copied = [self.after.copies.get(target, target) for target in targets]
        if copied[0] == copied[1]:
            return True  # as their digests said
        try:
            return same_bytes(*(self.after.absolute(target) for target in targets))
        except OSError:
            return False


def _narrowed(workers: Workers, findings: VolumeFindings) -> VolumeFindings:
    """Find the protected files of a volume on which no process came to an end, so that the others have their
    verdicts.
    """
    if findings.lost is None or len(findings.lost[0].targets) < 2:
        return findings
    job = findings.lost[0]
    (originals,) = workers.map(verify_volume, [replace(job, targets={})], lost=volume_not_verified)
    if originals.lost is not None:
        return findings
    verdicts: dict[str, FileVerdict] = {}
    parts = job.halves()
    while parts:
        rest: list[VerifyJob] = []
        for part in workers.map(verify_volume, parts, lost=volume_not_verified):
            if part.lost is not None and len(part.lost[0].targets) > 1:
                rest += part.lost[0].halves()
            else:
                verdicts |= part.verdicts
        parts = rest
    return VolumeFindings(verdicts, originals.refused)


def _strays(after: Inventory) -> dict[str, str]:
    """Give the paths of what is no file of the protected folder itself, with the reason: links that lead out of it,
    members that cannot be unpacked.
    """
    root = after.root.resolve()
    places = ((path, reason, after.absolute(path)) for path, reason in after.refused.items())
    return {
        path: reason
        for path, reason, place in places
        if not place.is_file() or not place.resolve().is_relative_to(root)
    }
