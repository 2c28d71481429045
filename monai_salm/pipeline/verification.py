# SPDX-License-Identifier: Apache-2.0
"""Checking two folders against each other, from their files alone: bounds, masks and headers; what a run kept can only
excuse that a file is absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from monai_salm.bounds import Limit, broken_bound, broken_rule, measure_changes, stated_bounds, whole_change
from monai_salm.budget import Epsilon
from monai_salm.errors import RefusedError
from monai_salm.io import (
    Document,
    SourceImage,
    compare_headers,
    is_litter,
    read_source,
)
from monai_salm.io.kinds import LABEL_MAP
from monai_salm.pipeline.archive import is_archive
from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.file_sets import as_handed_out, directory_problems
from monai_salm.pipeline.file_views import BudgetOptions, file_views
from monai_salm.pipeline.identities import Found, Identities, paired_paths
from monai_salm.pipeline.inventory import NO_CHOICES, Inventory, file_digest, kinds_found
from monai_salm.pipeline.record import RunRecord, find_record
from monai_salm.pipeline.region_means import mean_shifts
from monai_salm.pipeline.scanning import scan
from monai_salm.pipeline.second_opinions import add_opinions
from monai_salm.pipeline.sides import check_places, check_sides
from monai_salm.pipeline.similarity import structural_similarity
from monai_salm.pipeline.verdicts import FileVerdict, VerifyReport
from monai_salm.progress import Progress
from monai_salm.views import FileView


def verify(
    original: Path,
    protected: Path,
    *,
    options: BudgetOptions | None = None,
    check_epsilon: Epsilon | None = None,
    choices: KindChoices = NO_CHOICES,
    allow_absent: bool = False,
    show_progress: bool = False,
) -> VerifyReport:
    """Compare two folders, or zips, file by file.

    A file that is absent is a mismatch, unless it cannot be protected by the rules, the manifest of the very run (in
    the work folder beside the protected folder, where that is still there) says that it was refused or failed, or
    ``allow_absent`` is given. Nothing else is taken from the manifest.

    Args:
        original: folder, zip or file that was protected.
        protected: what came out.
        options: window and modality, as they were given to ``protect``; they choose the anatomy of files that do not
            say their modality.
        check_epsilon: the budget to hold every file to; None takes the bound that a DICOM file states itself, and
            checks none in NIfTI files.
        choices: what the user says of images and label maps, as it was said to ``protect``.
        allow_absent: True takes all absent files for such as were meant not to be handed out.
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
    check_places(original, protected)
    if is_archive(original) and protected.is_dir() and is_archive(protected / original.name):
        protected = protected / original.name  # where protect puts a zip that is to go into a folder
    with TemporaryDirectory() as spare:
        before = scan(original, unpack_into=Path(spare) / "original", choices=choices, show_progress=show_progress)
        empty = protected.is_dir() and not any(
            path.is_symlink() or not (path.is_dir() or is_litter(path.name)) for path in protected.rglob("*")
        )
        # What a file is, the original says: noise does not change it, and must not make an image of a label map.
        same = KindChoices(known=kinds_found(before))
        after = (
            Inventory(protected)
            if empty
            else scan(protected, unpack_into=Path(spare) / "protected", choices=same, show_progress=show_progress)
        )
        verification = _Verification(before, after, options or BudgetOptions(), check_epsilon, allow_absent)
        check_sides(original, protected, before, after, bool(verification.targets))
        if set(verification.targets) != {record.path for record in before.files}:
            verification.record = find_record(protected, before, after)
        return verification.run(show_progress=show_progress)


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
        self.options = replace(options, epsilon=None)  # one that is too small for a file would refuse it here
        self.check_epsilon = check_epsilon
        self.allow_absent = allow_absent
        self.record = RunRecord()
        self.refused = before.refused
        self.strays = _strays(after)
        self.present = {record.path for record in after.files}
        self.targets = paired_paths(before, after)
        self.originals = {record.path for record in before.files}
        results: dict[str, Found] = {**after.headers, **after.documents}
        documents = {
            path: as_handed_out(path, found, results.get(self.targets.get(path, "")), self.originals, self.present)
            for path, found in before.documents.items()
        }
        originals: dict[str, Found] = {**before.headers, **documents}
        self.pairs = {
            path: (found, results[self.targets[path]])
            for path, found in originals.items()
            if self.targets.get(path) in results
        }
        self.identities = Identities(originals, ((path, *pair) for path, pair in self.pairs.items()))

    def run(self, *, show_progress: bool) -> VerifyReport:
        """Give the verdict of every file of both."""
        verdicts: dict[str, FileVerdict] = {}
        with Progress("verifying", len(self.before.pictures), "files", show_progress=show_progress) as bar:
            for path, source, view in file_views(self.before, self.options, self.refused):
                verdicts[path] = self._without_file(path) or self._picture(path, source, view)
                bar.update()
        for path in self.before.documents:
            verdicts[path] = self._without_file(path) or self._document(path)
        for path in self.refused:
            verdicts[path] = self._without_file(path) or self._refused(path)
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

    def _picture(self, path: str, source: SourceImage, view: FileView) -> FileVerdict:
        verdict = FileVerdict(path=path, verdict="protected")
        try:
            found = read_source(self._places(path)[1])
        except RefusedError as refusal:
            return replace(verdict, verdict="mismatch", problems=[f"the protected file cannot be read: {refusal}"])
        if found.stored.shape != source.stored.shape or found.stored.dtype != source.stored.dtype:
            why = (
                f"values are {found.stored.dtype} {found.stored.shape}, in the original {source.stored.dtype} "
                f"{source.stored.shape}"
            )
            return replace(verdict, verdict="mismatch", problems=[why])
        self._measure(verdict, source, found, view)
        if not np.array_equal(source.padding, found.padding):
            verdict.problems.append("padding was entered or left")
        add_opinions(verdict, source, self._places(path))
        return self._with_header(verdict)

    def _measure(self, verdict: FileVerdict, source: SourceImage, found: SourceImage, view: FileView) -> None:
        """Measure the change, and hold it to the bound that was asked for, or that the file states."""
        anatomy = view.anatomy(source.stored)
        changes = measure_changes(source.stored, found.stored, view, anatomy)
        change = whole_change(changes)
        verdict.max_change_stored, verdict.max_change_real = _finite(change.max_stored), _finite(change.max_real)
        verdict.changed_fraction, verdict.changed_outside = change.changed_fraction, change.outside
        verdict.mean_shifts = mean_shifts(
            source.stored, found.stored, view, anatomy, largest_real=change.max_real,
            spacing_known=source.header.spacing_known,
        )  # fmt: skip
        verdict.psnr = _finite(change.psnr)
        verdict.ssim = _finite(structural_similarity(view.model(source.stored), view.model(found.stored)))
        if change.max_stored == 0:
            verdict.problems.append("no voxel differs from the original: an unprotected image")
        # The last statement is that of the last run; what an original that was protected before states already holds
        # for the change before.
        stated = stated_bounds(found.header.derivation)[len(stated_bounds(source.header.derivation)) :]
        if self.check_epsilon is not None:
            verdict.bound = "option"
            real = self.check_epsilon.real(view.views[0].window)
            limits = [Limit.of_statement(own.window, real, real / abs(own.slope)) for own in view.views]
            verdict.epsilon_stored = max(real / abs(own.slope) for own in view.views)
            problem = broken_bound(changes, limits)
        elif stated:
            verdict.bound = "file"
            verdict.epsilon_stored, real = stated[-1]
            limits = [Limit.of_statement(own.window, real, verdict.epsilon_stored) for own in view.views]
            problem = broken_bound(changes, limits)
        else:
            problem = broken_rule(change)
        if problem:
            verdict.problems.append(problem)

    def _with_header(self, verdict: FileVerdict) -> FileVerdict:
        """Add what differs outside the values, and what references do not follow."""
        try:
            differences = compare_headers(*self._places(verdict.path))
        except RefusedError as refusal:
            return replace(
                verdict,
                verdict="mismatch",
                problems=[*verdict.problems, f"the protected file cannot be compared: {refusal}"],
            )
        for difference in differences:
            if difference.allowed:
                verdict.header_changes.append(difference.name)
            else:
                verdict.problems.append(
                    f"{difference.name} is {difference.other or 'absent'}, in the original "
                    f"{difference.original or 'absent'}"
                )
        if verdict.path in self.pairs:
            pair = self.pairs[verdict.path]
            verdict.problems += self.identities.problems(verdict.path, *pair)
            verdict.dangling = self.identities.dangling(pair[0])
            verdict.problems += directory_problems(
                verdict.path, self.before.documents.get(verdict.path), pair[1], self.originals, self.present
            )
        return replace(verdict, verdict="mismatch") if verdict.problems else verdict

    def _document(self, path: str) -> FileVerdict:
        """What is no image may differ in references only."""
        verdict = FileVerdict(path=path, verdict="copied")
        pair = self.pairs.get(path, ())
        formats = {found.format for found in pair}
        labels = {found.kind for found in pair if isinstance(found, Document)} == {LABEL_MAP}
        if labels and formats == {"dicom"} and _differ(*self._places(path)):
            return replace(
                verdict,
                verdict="mismatch",
                problems=["it is a label map, so its values should be as they were, but they differ"],
            )
        if len(formats) == 1 and "other" not in formats and (not labels or formats == {"dicom"}):
            return self._with_header(verdict)
        return self._refused(path)

    def _refused(self, path: str) -> FileVerdict:
        """A file that cannot be protected may only be there as it was."""
        before, after = self._places(path)
        if file_digest(before) == file_digest(after):
            return FileVerdict(path=path, verdict="copied")
        reason = self.refused.get(path, "no image")
        problem = f"it cannot be protected, so it should be as it was, but its bytes differ ({reason})"
        return FileVerdict(path=path, verdict="mismatch", problems=[problem])

    def _copy(self, path: str, first: FileVerdict) -> FileVerdict:
        """A copy of another original shares its verdict, if it is a copy of its protected file too."""
        if first.path in self.targets and file_digest(self._places(path)[1]) == file_digest(
            self._places(first.path)[1]
        ):
            return replace(first, path=path)
        return FileVerdict(
            path=path,
            verdict="mismatch",
            problems=[f"the original is a copy of {first.path}, but the protected file is not"],
        )


def _finite(value: float) -> float | None:
    """Give a figure as JSON has it: None for what is no finite number."""
    return value if math.isfinite(value) else None


def _differ(first: Path, second: Path) -> bool:
    """Say whether stored values differ; not of pixels that are not supported, whose bytes are compared
    with the header.
    """
    try:
        return not np.array_equal(read_source(first).stored, read_source(second).stored)
    except RefusedError:
        return False


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
