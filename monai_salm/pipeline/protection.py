# SPDX-License-Identifier: Apache-2.0
"""The main job: a folder of images goes in, protected images come out, and a private work folder keeps what is needed
to go on or to check.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_salm.dicomweb import ArchivePlace
from monai_salm.disk import check_space, disk_full, holds_files, make_private, remove_leftovers
from monai_salm.errors import DiskError, UsageError
from monai_salm.pipeline.adding import ADDING, begin, take_in
from monai_salm.pipeline.archive import is_archive, pack
from monai_salm.pipeline.archive_ends import ArchiveEnds
from monai_salm.pipeline.deciding import Decision, is_by_series
from monai_salm.pipeline.effort import Effort, effort_of
from monai_salm.pipeline.frozen_plan import PLAN_FILE, FrozenPlan
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.keys import begun_secret, check_key, keep_secret, renew_secret, secret_mark
from monai_salm.pipeline.labels import LabelAssignment, describe_labels
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.output import write_files
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.planning import check_complete, prepare, take_up
from monai_salm.pipeline.previews import add_what_is_left, with_unprotected_copies
from monai_salm.pipeline.protect_result import ProtectResult
from monai_salm.pipeline.release import Release
from monai_salm.pipeline.run_lock import RunLocks
from monai_salm.pipeline.search_record import EarlierSearch
from monai_salm.pipeline.search_summary import SearchSummary
from monai_salm.pipeline.searching import check_choices, foresee, make_noise, preflight
from monai_salm.pipeline.space import space_to_unpack, space_to_write
from monai_salm.pipeline.volume_decisions import decided_of_volumes
from monai_salm.pipeline.way_back import way_back_of
from monai_salm.workers import workers_of

if TYPE_CHECKING:
    from monai_salm.learning.ranks import Ranks
    from monai_salm.learning.samples import WorkingSet
    from monai_salm.methods.search_state import RoundLog

logger = logging.getLogger(__name__)


class ProtectionRun:
    """One run over one input, step by step: :meth:`prepare`, :meth:`search`, :meth:`write`.

    Args:
        source: folder, zip, DICOMDIR, or one file; or studies of an archive.
        output: folder to make; relative paths and names are those of the input. A zip becomes a zip: ``output`` itself
            where that ends in .zip, else one of the source's name in the folder ``output``. Or an archive, where the
            files are stored once they are written; they stay in the work folder.
        options: see :class:`~monai_salm.pipeline.options.ProtectOptions`.
        show_progress: progress bars on standard error.
    """

    def __init__(
        self,
        source: Path | ArchivePlace,
        output: Path | ArchivePlace,
        options: ProtectOptions,
        *,
        show_progress: bool = False,
    ) -> None:
        if options.scheduler:  # whose workers have other current folders
            options = options.with_absolute_places()
            source, output = (place.absolute() if isinstance(place, Path) else place for place in (source, output))
        self._ends = ArchiveEnds(source, output, options)
        self.source, self.output = source, output = self._ends.source, self._ends.output
        self.options = options
        self.show_progress = show_progress
        self.release_dir = self._ends.work_dir
        self.work_dir = self.release_dir / ADDING if options.add else self.release_dir
        self._release: Release | None = None
        self._plan_file = self.work_dir / PLAN_FILE
        self._zip: Path | None = None
        if source.is_file() and is_archive(source):
            if options.add:
                raise UsageError(f"{source}: a zip becomes a zip, which nothing can be added to; unpack it first")
            self._zip = output if output.suffix.lower() == ".zip" else output / source.name
        self.labels: dict[str, Any] | None = None
        self.effort = Effort()
        self._prepared: tuple[Inventory, ProtectionPlan] | None = None
        self._working: WorkingSet | None = None
        self._earlier = EarlierSearch()
        self._summary: SearchSummary | None = None
        self._locks: RunLocks | None = None
        self._workers = workers_of(options.workers, options.scheduler)

    def __enter__(self) -> ProtectionRun:
        """Begin; with the block end the processes and the hold on the folders, whatever was done."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let other runs in."""
        self._end()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other runs out of both folders, until all is written or something goes wrong."""
        try:
            if self._locks is None:
                self._check_places()
                self._locks = RunLocks()
                for folder in (self.output, self.release_dir):
                    self._locks.take(folder)
            yield
        except BaseException:
            self._end()
            raise

    def _check_places(self) -> None:
        way = way_back_of(self.options, self.release_dir)
        private = {"work folder": self.release_dir} | ({} if way is None else {"folder of residuals": way.folder})
        _check_places(self.source, self.output, private)

    def _end(self) -> None:
        """End the processes, and let other runs in."""
        self._workers.close()
        if self._locks is not None:
            self._locks.release()
            self._locks = None

    def prepare(self) -> tuple[Inventory, ProtectionPlan]:
        """Check the folders, plan what will be done with every file and freeze the plan in the work folder; done once.

        Raises:
            UsageError: the options do not fit each other, the input or the folders.
        """
        if self._prepared is None:
            with self._alone():
                self._prepared = self._prepare()
        return self._prepared

    def _prepare(self) -> tuple[Inventory, ProtectionPlan]:
        """Plan, with the folders to itself."""
        self._check_content()
        if self.options.add:
            self._release = Release.read(self.release_dir)
        self._ends.reach()
        self._ends.fetch(show_progress=self.show_progress)
        with _nothing_left(self.work_dir):
            if self._release is not None:
                self._make_work_dir()
                self.options = begin(self._release, self.options, self.work_dir)
            check_key(self.options)
            if self._zip is not None:
                check_space(space_to_unpack(self.source, self.work_dir, self._zip))
                self._make_work_dir()
            inventory, decision, labels = self._decide(self.work_dir / "input")
            decided = plan = decision.plan
            check_space(self._needs(inventory, plan))
            if self._goes_on():
                self._earlier = EarlierSearch.find(plan, begun_secret(self.options, self.work_dir), self.work_dir)
            if not self._earlier.is_whole:
                if self._goes_on():
                    check_choices(self.options)
                plan, self._working = preflight(
                    inventory, decision, self.options, self._workers, show_progress=self.show_progress
                )
        self.labels = _labels_found(labels, inventory, plan, self._working)
        for line in describe_labels(self.labels) if self.labels is not None else ():
            logger.info(line)
        self._make_work_dir()
        if self._goes_on():
            check_complete(self._plan_file, decided, plan)
            if self.options.key_file is not None:  # it is the run's, and what is kept of it may be damaged
                renew_secret(self.options, self.work_dir)
        else:
            archive = self.source if self._zip is not None else None
            key = secret_mark(self._new_secret())
            begun_with = {
                "input": self._ends.named_input(), "options": self.options.to_json(),
                "sample": "series" if is_by_series(self.options.sample, labels) else "instance",
                "additions": 0 if self._release is None else self._release.additions + 1,
            }  # fmt: skip
            folder = self._folder()
            self.effort = effort_of(inventory, plan, self.options, folder, self.work_dir, decision.seconds)
            volumes = ({"line": "volume", **volume} for volume in decided_of_volumes(inventory, plan))
            notes = ({"line": "effort", **vars(self.effort)}, *volumes)
            FrozenPlan.of(
                plan, inventory, labels, archive=archive, decided=decided, key=key, begun_with=begun_with, notes=notes
            ).write(self._plan_file)
        return inventory, plan

    def _new_secret(self) -> bytes:
        """Keep the secret of the run that begins, and give it: the release's, where there is one."""
        if self._release is None:
            return renew_secret(self.options, self.work_dir)
        keep_secret(self._release.secret, self.work_dir)
        return self._release.secret

    def _check_content(self) -> None:
        output = self.work_dir if self.options.add else self.output  # where the release is that is added to
        _check_content(output, self.work_dir, self.options.resume)

    def _goes_on(self) -> bool:
        """Say whether there is a plan to obey."""
        return self.options.resume and self._plan_file.is_file()

    def _decide(self, unpack_into: Path) -> tuple[Inventory, Decision, LabelAssignment | None]:
        """Plan, or take up the plan that the run was begun with."""
        if self._goes_on():
            return take_up(
                self.source, self.options, self._plan_file, unpack_into, release=self._release,
                workers=self._workers, show_progress=self.show_progress,
            )  # fmt: skip
        return prepare(
            self.source, self.options, unpack_into, release=self._release, workers=self._workers,
            show_progress=self.show_progress,
        )  # fmt: skip

    def preview(self) -> dict[str, Any]:
        """Give what ``monai-salm protect --dry-run --json`` prints: what would become of each file; nothing is written.

        Raises:
            UsageError: as the run would.
        """
        self._check_places()
        self._check_content()
        with self, TemporaryDirectory() as spare:
            if self.options.add:
                self._release = Release.read(self.release_dir)
                self.options = begin(self._release, self.options, Path(spare))
            check_key(self.options)
            self._ends.reach()
            self.source = self._ends.fetch_for_now(Path(spare), show_progress=self.show_progress)
            inventory, decision, labels = self._decide(Path(spare) / "input")
            check_space(self._needs(inventory, decision.plan))
            plan, working = foresee(inventory, decision, self.options, self._workers, show_progress=self.show_progress)
            found = _labels_found(labels, inventory, plan, working)
            result = plan.preview() | {"labels": found, "input": self._ends.told_source, "ignored": inventory.ignored}
            add_what_is_left(result, inventory)
        return with_unprotected_copies(result) if self.options.copy_unprotected else result

    def _make_work_dir(self) -> None:
        """Make the work folder, or take it over from a stopped run, for nobody but its owner."""
        if not make_private(self.work_dir):
            logger.warning(
                "%s: others may read the private work folder, for its disk knows no rights; give --work-dir on "
                "another disk",
                self.work_dir,
            )
        remove_leftovers(self.work_dir)
        remove_leftovers(self.work_dir / "noise")

    def _folder(self) -> Path:
        """Give the folder that files are written to; those of a zip are packed afterwards."""
        return self.output if self._zip is None else self.work_dir / "output"

    def _needs(self, inventory: Inventory, plan: ProtectionPlan) -> dict[Path, int]:
        """Give about how many bytes are still to be written to each folder."""
        needs = space_to_write(inventory, plan, self.options, self._folder(), self.work_dir)
        return needs if self._zip is None else needs | {self._zip.parent: self.source.stat().st_size}

    def search(
        self, after_round: Callable[[RoundLog], None] | None = None, ranks: Ranks | None = None
    ) -> SearchSummary:
        """Search the noise of all samples, into ``work_dir/noise``; done once.

        Args:
            after_round: told of each round, by methods that know of it while they go on.
            ranks: processes that share it, see :func:`~monai_salm.pipeline.launching.together`; None searches alone.
        """
        if self._summary is None:
            with self._alone():
                self._summary = make_noise(
                    *self.prepare(), self.options, self.work_dir, self._working, self._earlier, self._workers,
                    show_progress=self.show_progress, after_round=after_round, ranks=ranks,
                )  # fmt: skip
            self._working, self._earlier = None, EarlierSearch()  # the writing needs the memory
        return self._summary

    def write(self) -> ProtectResult:
        """Write the protected files and the manifest."""
        with self._alone():
            summary = self.search()
            inventory, plan = self.prepare()
            folder = self._folder()
            try:
                fates = write_files(
                    inventory, plan, self.options, folder, self.work_dir, self._workers, release=self._release,
                    show_progress=self.show_progress,
                )  # fmt: skip
            except DiskError as error:
                if error.full is None:
                    raise
                raise disk_full(
                    error.full, self._needs(inventory, plan)[folder]
                ) from error  # what is left of the run, not of the file
            if self._release is not None:
                fates = take_in(self._release, self.options, inventory, folder, self.work_dir)
            if self._zip is not None:
                remove_leftovers(self._zip.parent, [self._zip.name])
                pack(folder, self.source, self._zip, show_progress=self.show_progress)
                for temporary in (folder, inventory.root):
                    shutil.rmtree(temporary)
            stored = self._ends.store(fates, inventory, show_progress=self.show_progress)
            self._ends.end(fates, stored)
        self._end()
        return ProtectResult(
            self._zip or self.output,
            self.release_dir,
            fates,
            summary,
            frozenset(plan.documents),
            tuple(inventory.ignored),
            self.labels,
            len(inventory.of_release),
            stored,
        )


def protect(
    source: Path | ArchivePlace, output: Path | ArchivePlace, options: ProtectOptions, *, show_progress: bool = False,
    ranks: Ranks | None = None,
) -> ProtectResult:  # fmt: skip
    """Protect the images of a folder; arguments and errors as :class:`ProtectionRun` and its ``search``.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import ProtectOptions, protect
        >>> options = ProtectOptions(labels=Path("labels.csv"), rounds=2, working_size=24)
        >>> protect(Path("EXPORT"), Path("OUT"), options).to_json()["counts"]
        {'protected': 4, 'copied': 1, 'refused': 0, 'failed': 0}
    """
    run = ProtectionRun(source, output, options, show_progress=show_progress)
    run.search(ranks=ranks)
    return run.write()


def _check_places(source: Path, output: Path, private: Mapping[str, Path]) -> None:
    # Of a single file nothing but its own folder is in danger.
    inside, single = (source.resolve(), False) if source.is_dir() else (source.resolve().parent, True)
    for name, folder in {"output": output, **private}.items():
        if folder.resolve() == inside or (folder.resolve().is_relative_to(inside) and not single):
            raise UsageError(f"the {name} {folder} lies in the input {source}; give a folder outside it")
    for name, folder in private.items():
        if folder.resolve().is_relative_to(output.resolve()):
            raise UsageError(
                f"the {name} {folder} lies in the output {output}, which is handed out; give a folder outside it"
            )
    if source.resolve().is_relative_to(output.resolve()):
        raise UsageError(
            f"the input {source} lies in the output {output}, which is handed out; give a folder beside it"
        )


def _check_content(output: Path, work_dir: Path, resume: bool) -> None:
    for name, folder in (("output", output), ("work folder", work_dir)):
        if folder.exists() and not folder.is_dir() and not (resume and name == "output"):
            raise UsageError(f"the {name} {folder} is a file already; give another name")
        if holds_files(folder) and not resume:
            raise UsageError(
                f"the {name} {folder} is not empty; give --resume to go on with a stopped run, or another folder"
            )
    if resume and holds_files(output) and not (work_dir / PLAN_FILE).is_file():
        raise UsageError(
            f"the output {output} is not empty, but the work folder {work_dir} has no run to go on with; give "
            "that run's --work-dir, or another output"
        )


def _labels_found(
    labels: LabelAssignment | None, inventory: Inventory, plan: ProtectionPlan, working: WorkingSet | None
) -> dict[str, Any] | None:
    """Give what is known of the labels; the classes of label maps with the number of samples that hold them."""
    if labels is None:
        return None
    found = labels.to_json(inventory)
    if not labels.classes and working is not None:
        held = Counter(
            int(value) for sample in working.samples if sample.target is not None for value in np.unique(sample.target)
        )
        found["classes"] = {name: held[number] for number, name in enumerate(plan.classes)}
    return found


@contextmanager
def _nothing_left(work_dir: Path) -> Iterator[None]:
    """Take back what was unpacked where a run cannot begin, so that the next try finds no full folder."""
    was_there = work_dir.exists()
    try:
        yield
    except BaseException:
        if not was_there:
            shutil.rmtree(work_dir, ignore_errors=True)
        raise
