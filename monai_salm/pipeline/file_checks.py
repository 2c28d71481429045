# SPDX-License-Identifier: Apache-2.0
"""What can be said of protected files from them and their originals alone, a volume or a document at a time, in any
process; what needs the others of the folder is said by :mod:`monai_salm.pipeline.verification`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from monai_salm.bounds import Limit, broken_bound, broken_rule, measure_changes, stated_bounds, whole_change
from monai_salm.budget import Epsilon
from monai_salm.errors import RefusedError
from monai_salm.io import HeaderChange, SourceImage, StoredArray, compare_headers, compare_sources, read_source
from monai_salm.pipeline.file_views import UNREADABLE, VolumeFiles, volume_views, why_unreadable
from monai_salm.pipeline.region_means import mean_shifts
from monai_salm.pipeline.second_opinions import SecondOpinions
from monai_salm.pipeline.similarity import structural_similarity
from monai_salm.pipeline.verdicts import FileVerdict
from monai_salm.views import FileView

SLAB_VALUES = 1 << 24
"""Values of a volume that are compared as model values at a time."""

AHEAD = 2
"""Files of a volume that are measured while others still read earlier ones."""

_File = TypeVar("_File", Path, SourceImage)

# Images ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VerifyJob:
    """A volume, or an image that is none, whose protected files are to be checked.

    Args:
        files: the originals.
        protected: folder of the protected files.
        targets: path of an original -> that of its protected file; without those that have none.
        check_epsilon: the budget to hold every file to; None takes the bound that a file states itself.
    """

    files: VolumeFiles
    protected: Path
    targets: Mapping[str, str]
    check_epsilon: Epsilon | None

    def places(self, path: str) -> tuple[Path, Path]:
        """Give the places of an original and of its protected file."""
        return self.files.root / path, self.protected / self.targets[path]

    def halves(self) -> list[VerifyJob]:
        """Give jobs of the same volume that check the one half of its protected files, and the other."""
        paths = list(self.targets)
        parts = [part for part in (paths[: len(paths) // 2], paths[len(paths) // 2 :]) if part]
        return [replace(self, targets={path: self.targets[path] for path in part}) for part in parts]


@dataclass(frozen=True)
class VolumeFindings:
    """What was found of a volume.

    Args:
        verdicts: of the protected files that there are, by the paths of the originals; what is a mismatch needs no
            look at other files any more.
        refused: why originals cannot be protected, by path.
        lost: the job and the reason, where no process came to the end of it.
    """

    verdicts: dict[str, FileVerdict] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    lost: tuple[VerifyJob, str] | None = None


def verify_volume(job: VerifyJob) -> VolumeFindings:
    """Read the originals of a volume and their protected files, and measure; in any process."""
    refused: dict[str, str] = {}
    verdicts: dict[str, FileVerdict] = {}
    waiting: deque[Callable[[], FileVerdict]] = deque()
    with SecondOpinions() as opinions:
        for path, source, view in volume_views(job.files, refused):
            if path not in job.targets:
                continue
            waiting.append(_check_image(job, path, source, view, opinions))
            if len(waiting) > (AHEAD if opinions.at_once(source) else 0):
                verdict = waiting.popleft()()
                verdicts[verdict.path] = verdict
        for finish in waiting:
            verdict = finish()
            verdicts[verdict.path] = verdict
    for path in refused.keys() & job.targets.keys():
        verdicts[path] = _check_bytes(DocumentJob(path, job.places(path), "bytes", refused[path]))
    return VolumeFindings(verdicts, refused)


def volume_not_verified(job: VerifyJob, why: str) -> VolumeFindings:
    """Give what is known of a volume where no process came to the end of its job."""
    verdicts = {path: _wrong(path, f"it cannot be checked: {why}") for path in job.targets}
    return VolumeFindings(verdicts, lost=(job, why))


def _check_image(
    job: VerifyJob, path: str, source: SourceImage, view: FileView, opinions: SecondOpinions
) -> Callable[[], FileVerdict]:
    """Hold one protected image against its original, whose values and view are known.

    Returns:
        Gives the verdict, once others who read the files are done.
    """
    verdict = FileVerdict(path=path, verdict="protected")
    places = job.places(path)
    try:
        found = read_source(places[1])
    except UNREADABLE as error:
        return partial(_wrong, path, f"the protected file cannot be read: {why_unreadable(error)}")
    if found.stored.shape != source.stored.shape or found.stored.dtype != source.stored.dtype:
        why = (
            f"values are {found.stored.dtype} {found.stored.shape}, in the original {source.stored.dtype} "
            f"{source.stored.shape}"
        )
        return partial(_wrong, path, why)
    too_large = partial(_wrong, path, "it cannot be checked: it needs more memory than there is")
    try:
        add_opinions = _measure(verdict, source, found, view, job, opinions)
        if (source.padding_stored or found.padding_stored) and not np.array_equal(source.padding, found.padding):
            verdict.problems.append("padding was entered or left")
        differences = _told(compare_sources, source, found) if _alike(source, found) else _differences(places)
        del found  # others are to read it now
    except MemoryError:
        return too_large

    def finish() -> FileVerdict:
        try:
            add_opinions()
        except MemoryError:
            return too_large()
        return _with_header(verdict, differences)

    return finish


def _measure(
    verdict: FileVerdict,
    source: SourceImage,
    found: SourceImage,
    view: FileView,
    job: VerifyJob,
    opinions: SecondOpinions,
) -> Callable[[], None]:
    """Measure the change, and hold it to the bound that was asked for, or that the file states.

    Returns:
        Adds what other readers find, once they are done.
    """
    anatomy = view.anatomy(source.stored)
    changes = measure_changes(source.stored, found.stored, view, anatomy)
    change = whole_change(changes)
    verdict.max_change_stored, verdict.max_change_real = _finite(change.max_stored), _finite(change.max_real)
    add_opinions = opinions.on(verdict, source, found)
    verdict.changed_fraction, verdict.changed_outside = change.changed_fraction, change.outside
    verdict.mean_shifts = mean_shifts(
        source.stored, found.stored, view, anatomy, largest_real=change.max_real,
        spacing_known=source.header.spacing_known,
    )  # fmt: skip
    verdict.psnr = _finite(change.psnr)
    verdict.ssim = _finite(_similarity(source.stored, found.stored, view))
    if change.max_stored == 0:
        verdict.problems.append("no voxel differs from the original: an unprotected image")
    # The last statement is that of the last run; what an original that was protected before states already holds
    # for the change before.
    stated = stated_bounds(found.header.derivation)[len(stated_bounds(source.header.derivation)) :]
    if job.check_epsilon is not None:
        verdict.bound = "option"
        real = job.check_epsilon.real(view.views[0].window)
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
    return add_opinions


def _similarity(before: StoredArray, after: StoredArray, view: FileView) -> float:
    """Give the structural similarity of stored values; of a large volume slab by slab, for model values take four times
    the memory of stored bytes.
    """
    shape = before.shape[: before.ndim - view.trailing]
    if before.size <= SLAB_VALUES or len(shape) == 2:
        return structural_similarity(view.model(before), view.model(after))
    axis = int(np.argmin(shape))
    step = max(1, SLAB_VALUES * shape[axis] // before.size)
    found = []
    for start in range(0, shape[axis], step):
        slab = (slice(None),) * axis + (slice(start, start + step),)
        of_frames = view.stacked and axis == 0 and len(view.views) > 1
        own = replace(view, views=view.views[start : start + step]) if of_frames else view
        models = (np.moveaxis(own.model(values[slab]), axis, 0) for values in (before, after))
        found += [structural_similarity(first, second) for first, second in zip(*models, strict=True)]
    return float(np.mean(found))


def _finite(value: float) -> float | None:
    """Give a figure as JSON has it: None for what is no finite number."""
    return value if math.isfinite(value) else None


# Documents, and what is no image --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DocumentJob:
    """A file whose values should be as they were.

    Args:
        path: of the original, relative to its folder.
        places: of the original and of the protected file.
        compared: its ``values`` and header, its ``header`` alone, which holds all, or its ``bytes``.
        reason: why its bytes should be as they were.
    """

    path: str
    places: tuple[Path, Path]
    compared: Literal["values", "header", "bytes"]
    reason: str = "no image"


def verify_document(job: DocumentJob) -> FileVerdict:
    """Compare a document, or a file that cannot be protected, with its original; in any process."""
    if job.compared == "bytes":
        return _check_bytes(job)
    try:
        differ = job.compared == "values" and _values_differ(*job.places)
    except (OSError, MemoryError) as error:
        return _wrong(job.path, f"its values cannot be compared: {why_unreadable(error)}")
    if differ:
        return _wrong(job.path, "it is a label map, so its values should be as they were, but they differ")
    return _with_header(FileVerdict(path=job.path, verdict="copied"), _differences(job.places))


def document_not_verified(job: DocumentJob, why: str) -> FileVerdict:
    """Give the verdict of a file where no process came to the end of its job."""
    return _wrong(job.path, f"it cannot be checked: {why}")


def _check_bytes(job: DocumentJob) -> FileVerdict:
    """Say whether a file that cannot be protected is there as it was."""
    try:
        same = same_bytes(*job.places)
    except OSError as error:
        return _wrong(job.path, f"its bytes cannot be compared: {why_unreadable(error)}")
    if same:
        return FileVerdict(path=job.path, verdict="copied")
    return _wrong(job.path, f"it cannot be protected, so it should be as it was, but its bytes differ ({job.reason})")


def same_bytes(first: Path, second: Path) -> bool:
    """Say whether two files have the same bytes.

    Raises:
        OSError: one of them cannot be read.
    """
    with first.open("rb") as one, second.open("rb") as other:
        while part := one.read(1 << 20):
            if part != other.read(len(part)):
                return False
        return not other.read(1)


def _values_differ(first: Path, second: Path) -> bool:
    """Say whether stored values differ; not of pixels that are not supported, whose bytes are compared
    with the header.
    """
    try:
        return not np.array_equal(read_source(first).stored, read_source(second).stored)
    except RefusedError:
        return False


# Headers --------------------------------------------------------------------------------------------------------------


def _differences(places: tuple[Path, Path]) -> list[HeaderChange] | str:
    """List what differs outside the values, or say why it cannot be known."""
    return _told(compare_headers, *places)


def _alike(source: SourceImage, found: SourceImage) -> bool:
    """Say whether both are of one format, so that they can be compared as they were read."""
    return source.header.format == found.header.format


def _told(
    compare: Callable[[_File, _File], list[HeaderChange]], original: _File, other: _File
) -> list[HeaderChange] | str:
    """Give what a comparison lists, or why it cannot list it."""
    try:
        return compare(original, other)
    except UNREADABLE as error:
        return why_unreadable(error)


def _with_header(verdict: FileVerdict, differences: list[HeaderChange] | str) -> FileVerdict:
    """Add what differs outside the values."""
    if isinstance(differences, str):
        return replace(
            verdict,
            verdict="mismatch",
            problems=[*verdict.problems, f"the protected file cannot be compared: {differences}"],
        )
    verdict.header_changes = tuple(difference.name for difference in differences if difference.allowed)
    verdict.problems += [
        f"{difference.name} is {difference.other or 'absent'}, in the original {difference.original or 'absent'}"
        for difference in differences
        if not difference.allowed
    ]
    return verdict


def _wrong(path: str, problem: str) -> FileVerdict:
    return FileVerdict(path=path, verdict="mismatch", problems=[problem])
