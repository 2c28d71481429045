# SPDX-License-Identifier: Apache-2.0
"""Writing the output of a run, file by file: protected images, documents, and copies, with the fate of each in the
manifest.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

from monai_salm.disk import make_folder, remove_leftovers, within
from monai_salm.errors import RefusedError
from monai_salm.io import Derivation, Document, ImageHeader
from monai_salm.io.sharing import shared
from monai_salm.pipeline.as_planned import ChangedError, as_planned
from monai_salm.pipeline.directories import keep_directory
from monai_salm.pipeline.documents import write_documents
from monai_salm.pipeline.fates import IN_OUTPUT, FileFate, fates_told
from monai_salm.pipeline.inventory import Inventory, file_digest, has_digest
from monai_salm.pipeline.keys import run_secret
from monai_salm.pipeline.manifest import Manifest
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import FilePlan, ProtectionPlan, SamplePlan
from monai_salm.pipeline.references import renewed_uids
from monai_salm.pipeline.release import Release
from monai_salm.pipeline.way_back import WayBack, keep_the_rest, way_back_of
from monai_salm.pipeline.write import WriteJob, copy_file, not_written, write_file
from monai_salm.pipeline.write_settings import WriteSettings, kept_settings
from monai_salm.progress import Progress
from monai_salm.workers import Workers

logger = logging.getLogger(__name__)

_OF_MANY_FILES = ("status", "reason", "left_out", "unprotected", "epsilon_real", "epsilon_stored", "max_change_stored")
"""Fields of fates that are the same for many files."""


def write_files(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    output: Path,
    work_dir: Path,
    executor: Workers | Executor,
    *,
    release: Release | None = None,
    show_progress: bool = False,
) -> dict[str, FileFate]:
    """Write the protected files, the documents and the manifest; gives the fate of every file of the input.

    What lies in the private folder, as the files do that are packed into a zip, is as private.

    Args:
        inventory, plan, options: of the run.
        output, work_dir: its folders.
        executor: writes the samples: in processes of this machine, or on others that see the folders.
        release: that the files are added to; None for a release of their own.
        show_progress: a progress bar on standard error.
    """
    private = output.is_relative_to(work_dir)
    manifest, way = Manifest(work_dir / "manifest.jsonl"), way_back_of(options, work_dir)
    fates = _finished_before(inventory, plan, output, manifest, way) if options.resume else {}
    manifest.rewrite(fates)  # a line that a crash cut short must not swallow the next one
    _remove_temporary_files(inventory, output)
    if way is not None:
        way.store.sweep()
    derivation = make_derivation(inventory, plan, options, work_dir, release)
    settings = WriteSettings(inventory.root, output, work_dir / "noise", derivation, private, way)
    make_folder(output, private=private)
    waiting = [sample for sample in plan.samples if not all(file.path in fates for file in sample.files)]
    count, sizes = sum(len(sample.files) for sample in waiting), inventory.sizes()
    total = sum(sizes[file.path] for _, file in _files(waiting))
    with (
        _swept(executor, inventory, output),
        Progress("writing", count, "files", show_progress=show_progress, total_bytes=total) as bar,
        kept_settings(settings, work_dir) as kept,
        _Lines(manifest, _Places(inventory, output, way)) as lines,
    ):
        results = write_jobs(_jobs(inventory, waiting, kept), executor, count)
        for (sample, file), fate in zip(_files(waiting), results, strict=True):
            fates[file.path] = fate = _kept_once(fate, sample, file)
            lines.add(fate)
            bar.update(done_bytes=sizes[file.path])
    unsaid: set[str] = set()  # paths of files that are not in the manifest yet, and so perhaps not on the disk
    # An image that could not be protected after all keeps its name, if it is there at all, and so do references to it.
    if any(fates[file.path].status != "protected" for _, file in _files(plan.samples)):
        protected = (inventory.headers[path] for path, fate in fates.items() if fate.status == "protected")
        documents = [inventory.documents[path] for path in plan.documents]
        derivation = replace(derivation, changed_uids=_renewed(protected, documents, release))
    lost = settings.derivation.changed_uids - derivation.changed_uids
    if lost:
        name_lost = {path for path, header in inventory.headers.items() if lost & header.references}
        again = [sample for sample in plan.samples if any(file.path in name_lost for file in sample.files)]
        count = sum(len(sample.files) for sample in again)
        with kept_settings(replace(settings, derivation=derivation), work_dir) as kept:
            for fate in write_jobs(_jobs(inventory, again, kept), executor, count):
                fates[fate.path] = fate
                unsaid.add(fate.path)
    fates |= {path: FileFate(path=path, status="refused", reason=reason) for path, reason in plan.refused.items()}
    for path, first in plan.copies.items():
        fates[path] = written_again(inventory, fates[first], path, output, private=private)
        unsaid.add(path)
    if options.copy_unprotected:
        for path, fate in fates.items():
            if fate.status in ("refused", "failed"):
                fates[path] = _copy_unprotected(fate, settings)
                unsaid.add(path)
    present = (inventory.output_path(path) for path, fate in fates.items() if fate.status in IN_OUTPUT)
    written = frozenset(present if plan.documents else ())  # which only documents ask for
    if release is not None:
        written |= release.targets.keys()
    for fate in write_documents(inventory, plan.documents, output, derivation, written, private=private):
        if fate.left_out:
            keep_directory(work_dir, inventory.documents[fate.path], fate.path)
        if options.copy_unprotected and fate.status == "refused":
            fate = _copy_unprotected(fate, settings)
        fates[fate.path] = fate
        unsaid.add(fate.path)
    for fate in () if way is None else keep_the_rest(way, inventory, fates, output):
        fates[fate.path] = fate
        unsaid.add(fate.path)
    fates |= _lost(fates, inventory, output)
    manifest.rewrite(fates, _Places(inventory, output, way).of(fates[path] for path in unsaid))
    return fates


@dataclass(frozen=True)
class _Places:
    """Where the files lie that fates are of, which have to be on the disk before these are told."""

    inventory: Inventory
    output: Path
    way: WayBack | None

    def of(self, fates: Iterable[FileFate]) -> Iterator[Path]:
        for fate in fates:
            if fate.status in IN_OUTPUT:
                yield _place(fate, self.inventory, self.output)
            if fate.residual and self.way is not None:
                yield self.way.folder / fate.residual


@contextmanager
def _swept(executor: Workers | Executor, inventory: Inventory, output: Path) -> Iterator[None]:
    """Remove what processes that ended in the middle, or are ended now, leave of the files of an output."""
    try:
        yield
    except BaseException:
        if isinstance(executor, Workers):
            executor.close()  # before anything else writes
        _remove_temporary_files(inventory, output)
        raise
    if isinstance(executor, Workers) and executor.ended:
        _remove_temporary_files(inventory, output)


class _Lines:
    """Lines for a manifest, kept back until there are some, or some seconds are over, or something goes wrong; the disk
    is waited for while the next files are written.
    """

    MOST, SECONDS = 128, 2.0

    def __init__(self, manifest: Manifest, places: _Places) -> None:
        self.manifest, self.places = manifest, places
        self._fates: list[FileFate] = []
        self._since = monotonic()
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def add(self, fate: FileFate) -> None:
        self._fates.append(fate)
        if len(self._fates) >= self.MOST or monotonic() - self._since > self.SECONDS:
            self._write()

    def _write(self) -> None:
        fates, self._fates = self._fates, []
        written = list(self.places.of(fates))
        self._wait()
        self._written = self._thread.submit(self.manifest.append, fates, written)
        self._since = monotonic()

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        with self._thread:
            self._write()
            self._wait()


def _place(fate: FileFate, inventory: Inventory, output: Path) -> Path:
    """Give where a file of the output lies."""
    return output / (inventory.output_path(fate.path) if fate.status == "protected" else fate.path)


def _lost(fates: Mapping[str, FileFate], inventory: Inventory, output: Path) -> dict[str, FileFate]:
    """Give a new fate to the files that were written and are not in the output any more: somebody removed them while
    the run went on.
    """
    return {
        path: replace(
            fate, status="failed", sha256_out="",
            reason="it was written, but is not in the output any more; run again with --resume",
        )
        for path, fate in fates.items()
        if fate.status in IN_OUTPUT
        and not _place(fate, inventory, output).is_file()
    }  # fmt: skip


def make_derivation(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    work_dir: Path,
    release: Release | None = None,
) -> Derivation:
    """Give what every written file is to say of the run, and the map of UIDs; arguments as of :func:`write_files`."""
    changed = [inventory.pictures[file.path] for _, file in _files(plan.samples)]
    documents = [inventory.documents[path] for path in plan.documents]
    return Derivation(
        software="monai_salm",
        version=version("monai_salm"),
        description="",
        uid_secret=run_secret(options, work_dir) if options.uids == "new" else None,
        changed_uids=_renewed(changed, documents, release),
        image_type=options.image_type,
        provenance=options.provenance,
        source_reference=options.source_reference,
        transfer_syntaxes=new_syntaxes(changed),
    )


def new_syntaxes(protected: Iterable[ImageHeader]) -> dict[str, str]:
    """Give the transfer syntax of each protected image that is not written in its own, by its SOP Instance UID."""
    return {
        header.identifiers["SOPInstanceUID"]: header.output_transfer_syntax
        for header in protected
        if header.output_transfer_syntax
    }


def _renewed(
    protected: Iterable[ImageHeader], documents: Iterable[Document], release: Release | None
) -> frozenset[str]:
    """Give the UIDs that get new ones, or have them since a release was made."""
    if release is None:
        return renewed_uids(protected, documents)
    return renewed_uids([*release.protected, *protected], [*release.documents, *documents])


def _files(samples: Sequence[SamplePlan]) -> Iterator[tuple[SamplePlan, FilePlan]]:
    """Give the files of samples, each with its sample, in the order in which they are written."""
    return ((sample, file) for sample in samples for file in sample.files)


def _jobs(inventory: Inventory, samples: Sequence[SamplePlan], settings: Path) -> Iterator[WriteJob]:
    return (
        WriteJob(
            sample.sample_id,
            file,
            (number, len(sample.files)) if len(sample.files) > 1 else None,
            inventory.output_path(file.path),
            settings,
        )
        for sample in samples
        for number, file in enumerate(sample.files)
    )


def _kept_once(fate: FileFate, sample: SamplePlan, file: FilePlan) -> FileFate:
    """Give a fate that came from another process or from a manifest, with the texts and numbers of its plan where they
    are the same: an input may have a million files.
    """
    planned = {
        "path": file.path, "sample_id": sample.sample_id, "sha256_in": file.sha256, "modality": file.canvas.modality,
    }  # fmt: skip
    same: dict[str, Any] = {name: known for name, known in planned.items() if getattr(fate, name) == known}
    common = {name: shared(getattr(fate, name)) for name in _OF_MANY_FILES}
    return replace(fate, **same, **common)


def written_again(inventory: Inventory, first: FileFate, path: str, output: Path, *, private: bool = False) -> FileFate:
    """Give a file that has the bytes of another one what that became."""
    if first.status == "protected":
        source, target = inventory.output_path(first.path), inventory.output_path(path)
        try:
            with as_planned(inventory.absolute(path), first.sha256_in):
                pass  # nothing of it is read but to know that it is still a copy
            copy_file(output, source, output, target, private=private)
        except RefusedError as refusal:
            return FileFate(path=path, status="refused", reason=str(refusal))
        except (ChangedError, OSError) as error:
            return FileFate(path=path, status="failed", reason=str(error), sha256_in=first.sha256_in)
    return replace(first, path=path, residual="")


def _copy_unprotected(fate: FileFate, settings: WriteSettings) -> FileFate:
    """Copy a file as it is; what is no file of the input, or cannot be read, keeps its fate."""
    root, output = settings.root, settings.output
    source = root / fate.path
    if not source.is_file() or not source.resolve().is_relative_to(root.resolve()):
        return fate
    try:
        copy_file(root, fate.path, output, fate.path, private=settings.private)
    except (OSError, RefusedError) as error:
        why = error.strerror if isinstance(error, OSError) else ""
        return replace(fate, reason=f"{fate.reason}; it could not be copied either: {why or error}")
    digest = file_digest(output / fate.path)
    return replace(fate, status="copied", sha256_in=digest, sha256_out=digest)


def _finished_before(
    inventory: Inventory, plan: ProtectionPlan, output: Path, manifest: Manifest, way: WayBack | None
) -> dict[str, FileFate]:
    """Give the fates of the files that a stopped run protected; remove all others that it wrote, such as unprotected
    copies, which are made again if still wanted. What these are does not depend on what is left of the manifest.
    """
    fates = _told_before(plan, manifest)
    for path in [
        path for path, fate in fates.items() if not _still_there(fate, output, inventory.output_path(path), way)
    ]:
        del fates[path]
    kept = {inventory.output_path(path) for path in fates}
    for record in inventory.files:
        for path in {record.path, inventory.output_path(record.path)} - kept:
            with suppress(RefusedError):  # it lies outside the output, so it is none of its files
                _remove(within(output, path, itself=True))
    return fates


def _told_before(plan: ProtectionPlan, manifest: Manifest) -> dict[str, FileFate]:
    """Give the fates that are in a manifest; a line that is damaged is told."""
    planned = {file.path: (sample, file) for sample, file in _files(plan.samples)}
    fates: dict[str, FileFate] = {}
    damaged = 0
    for number, fate in fates_told(manifest.path):
        if isinstance(fate, str):
            damaged = damaged or number
            continue
        known = planned.get(fate.path)
        fate = fate if known is None else _kept_once(fate, *known)
        fates[fate.path] = fate
    if damaged:
        logger.warning("%s: line %d is damaged; its file is written again", manifest.path, damaged)
    return fates


def _remove(place: Path) -> None:
    """Delete a file or a link, if there is one."""
    if os.path.isfile(place) or os.path.islink(place):  # noqa: PTH113, PTH114 (False for a path that is too long)
        place.unlink()


def _remove_temporary_files(inventory: Inventory, output: Path) -> None:
    """Remove the files that were being written when a run was killed."""
    folders: dict[str, set[str]] = defaultdict(set)
    for record in inventory.files:
        folder, _, name = inventory.output_path(record.path).rpartition("/")
        folders[folder].add(name)
    for folder, names in folders.items():
        with suppress(RefusedError):
            remove_leftovers(within(output, folder) if folder else output, names)


def write_jobs(jobs: Iterable[WriteJob], executor: Workers | Executor, count: int) -> Iterator[FileFate]:
    """Write so many files; the order, and so the manifest, is that of the jobs, wherever they are done."""
    if isinstance(executor, Workers):
        yield from executor.map(write_file, jobs, lost=not_written, chunk=executor.fair_chunk(count))
    else:
        yield from executor.map(write_file, jobs)


def _still_there(fate: FileFate, output: Path, path: str, way: WayBack | None) -> bool:
    try:
        written = fate.status == "protected" and has_digest(within(output, path), fate.sha256_out)
        return written and (way is None or way.leads_back(fate))
    except RefusedError:
        return False
