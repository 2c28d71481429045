# SPDX-License-Identifier: Apache-2.0
"""The main job: a folder of images goes in, protected images come out, and a private work folder keeps what is needed to go on or to check."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_salm.errors import SalmError, UsageError
from monai_salm.io import atomic_target
from monai_salm.pipeline.inventory import Inventory, file_digest, scan
from monai_salm.pipeline.labels import LabelAssignment, label_maps, labels_from_folders, labels_from_table
from monai_salm.pipeline.manifest import FileFate, Manifest, count_fates
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import BudgetOptions, ProtectionPlan, build_plan
from monai_salm.pipeline.search import SearchSummary, make_noise
from monai_salm.pipeline.write import WriteJob, copy_file, identifiers_of, write_sample

logger = logging.getLogger(__name__)

LEAST_KEY_BYTES = 16
"""A shorter key could be guessed, and with it which old UID became which new one."""


@dataclass(frozen=True)
class ProtectResult:
    """What a run did.

    Args:
        output: folder of protected files.
        work_dir: private folder.
        fates: by path.
        search: what the search of the noise did.
    """

    output: Path
    work_dir: Path
    fates: dict[str, FileFate]
    search: SearchSummary

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm protect --json`` prints."""
        problems = [
            {"path": fate.path, "status": fate.status, "reason": fate.reason}
            for _, fate in sorted(self.fates.items())
            if fate.status in ("refused", "failed") or fate.reason
        ]
        done = [fate for fate in self.fates.values() if fate.status == "protected"]
        summary = {
            "lowest_psnr": min((fate.psnr for fate in done if fate.psnr is not None), default=None),
            "largest_changed_fraction": max((fate.changed_fraction for fate in done if fate.changed_fraction is not None), default=None),
        }
        return {
            "output": str(self.output), "work_dir": str(self.work_dir), "counts": count_fates(self.fates),
            "rounds": self.search.rounds, "passes_per_sample": self.search.passes, **summary, "problems": problems,
        }  # fmt: skip


def prepare(source: Path, options: ProtectOptions, *, show_progress: bool = False) -> tuple[Inventory, ProtectionPlan, LabelAssignment | None]:
    """Scan an input, find its labels and plan what will be done with every file; changes nothing.

    Raises:
        UsageError: the options do not fit each other or the input.
    """
    budget = BudgetOptions(epsilon=options.parsed_epsilon(), window=options.parsed_window(), modality=options.modality.upper())
    needs_labels = options.noise_method().search is not None
    inventory = scan(source, show_progress=show_progress)
    labels = find_labels(inventory, options) if needs_labels else None
    if not inventory.pictures:
        raise UsageError(f"{source}: none of its {len(inventory.files)} files can be protected; 'monai-salm scan' lists the reasons")
    if labels is not None and labels.unused:
        logger.warning("%d of the labels belong to no picture of the input", labels.unused)
    plan = build_plan(inventory, budget, labels=labels, sample=options.sample, show_progress=show_progress)
    # Where things lie, and how fast they are done, does not change what is done.
    elsewhere = {"labels", "work_dir", "resume", "workers", "copy_unprotected", "key_file", "device"}
    plan.settings = {name: value for name, value in vars(options).items() if name not in elsewhere} | {"version": version("monai_salm")}
    return inventory, plan, labels


def find_labels(inventory: Inventory, options: ProtectOptions) -> LabelAssignment:
    """Find the labels that a method needs, as the options say.

    Raises:
        UsageError: there are none.
    """
    if options.labels is not None and options.labels_from_folders:
        raise UsageError("--labels and --labels-from-folders contradict each other; give one of them")
    if options.task == "segmentation":
        if options.labels is None:
            raise UsageError("--task segmentation needs --labels FOLDER with a label map for each image")
        return label_maps(options.labels, inventory)
    if options.labels_from_folders:
        return labels_from_folders(inventory)
    if options.labels is None:
        raise UsageError(f"method {options.method!r} needs labels; give --labels FILE, --labels-from-folders, or --method random")
    if options.labels.is_dir():
        raise UsageError(f"{options.labels} is a folder; a table is needed for classification, or give --task segmentation")
    return labels_from_table(options.labels, inventory, options.label_column)


class ProtectionRun:
    """One run over one input, step by step: :meth:`prepare`, :meth:`search`, :meth:`write`.

    Args:
        source: folder, or one file.
        output: folder to make; relative paths and names are those of the input.
        options: see :class:`~monai_salm.pipeline.options.ProtectOptions`.
        show_progress: progress bars on standard error.
    """

    def __init__(self, source: Path, output: Path, options: ProtectOptions, *, show_progress: bool = False) -> None:
        self.source = source
        self.output = output
        self.options = options
        self.show_progress = show_progress
        place = output if output.name not in ("", "..") else output.resolve()
        self.work_dir = options.work_dir or place.with_name(place.name + ".work")
        self._prepared: tuple[Inventory, ProtectionPlan] | None = None
        self._summary: SearchSummary | None = None

    def prepare(self) -> tuple[Inventory, ProtectionPlan]:
        """Check the folders, plan what will be done with every file and freeze the plan in the work folder; done once.

        Raises:
            UsageError: the options do not fit each other, the input or the folders.
        """
        if self._prepared is None:
            _check_folders(self.source, self.output, self.work_dir, self.options.resume)
            _check_key(self.options, self.work_dir)
            inventory, plan, _ = prepare(self.source, self.options, show_progress=self.show_progress)
            self.work_dir.mkdir(parents=True, exist_ok=True)
            _freeze(self.work_dir / "plan.json", plan, self.options.resume)
            self._prepared = inventory, plan
        return self._prepared

    def search(self) -> SearchSummary:
        """Search the noise of all samples, into ``work_dir/noise``; done once."""
        if self._summary is None:
            self._summary = make_noise(*self.prepare(), self.options, self.work_dir, show_progress=self.show_progress)
        return self._summary

    def write(self) -> ProtectResult:
        """Write the protected files and the manifest."""
        summary = self.search()
        fates = write_files(*self.prepare(), self.options, self.output, self.work_dir, show_progress=self.show_progress)
        return ProtectResult(self.output, self.work_dir, fates, summary)


def protect(source: Path, output: Path, options: ProtectOptions, *, show_progress: bool = False) -> ProtectResult:
    """Protect the images of a folder; arguments and errors as :class:`ProtectionRun`."""
    return ProtectionRun(source, output, options, show_progress=show_progress).write()


def _check_folders(source: Path, output: Path, work_dir: Path, resume: bool) -> None:
    # Of a single file nothing but its own folder is in danger.
    inside, single = (source.resolve(), False) if source.is_dir() else (source.resolve().parent, True)
    for name, folder in (("output", output), ("work folder", work_dir)):
        if folder.resolve() == inside or (folder.resolve().is_relative_to(inside) and not single):
            raise UsageError(f"the {name} {folder} lies in the input {source}; give a folder outside it")
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"the {name} {folder} is a file; give a folder")
        if folder.is_dir() and any(folder.iterdir()) and not resume:
            raise UsageError(f"the {name} {folder} is not empty; give --resume to go on with a stopped run, or another folder")
    if work_dir.resolve().is_relative_to(output.resolve()):
        raise UsageError(f"the work folder {work_dir} lies in the output {output}, which is handed out; give a folder outside it")
    if source.resolve().is_relative_to(output.resolve()):
        raise UsageError(f"the input {source} lies in the output {output}, which is handed out; give a folder beside it")
    if resume and output.is_dir() and any(output.iterdir()) and not (work_dir / "plan.json").is_file():
        raise UsageError(
            f"the output {output} is not empty, but the work folder {work_dir} has no run to go on with; give that run's --work-dir, or another output"
        )


def _freeze(path: Path, plan: ProtectionPlan, resume: bool) -> None:
    """Write the plan, or check that it is still the one that was begun with."""
    text = json.dumps(plan.to_json() | {"digest": plan.digest()}, indent=1, sort_keys=True) + "\n"
    if resume and path.is_file() and _digest_of(path) != plan.digest():
        raise UsageError(
            f"{path}: the files, labels or options are not those that the run was begun with; give those again, or start with an empty work folder"
        )
    with atomic_target(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _digest_of(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise SalmError(f"{path}: the plan is damaged ({error}); start again with an empty work folder") from error


# Files ---------------------------------------------------------------------------------------------------------------


def write_files(
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, output: Path, work_dir: Path, *, show_progress: bool = False
) -> dict[str, FileFate]:
    """Write the protected files and the manifest; gives the fate of every file of the input."""
    manifest = Manifest(work_dir / "manifest.jsonl")
    earlier = manifest.load() if options.resume else {}
    fates = {path: fate for path, fate in earlier.items() if _still_there(fate, output)}
    manifest.rewrite(fates)  # a line that a crash cut short must not swallow the next one
    _remove_leftovers(output, earlier, {record.path for record in inventory.files})
    secret = uid_secret(plan, options, work_dir)
    changed = identifiers_of(inventory.pictures, plan.samples)
    output.mkdir(parents=True, exist_ok=True)
    jobs = [
        WriteJob(sample, inventory.root, output, work_dir / "noise", "monai_salm", version("monai_salm"), secret, changed)
        for sample in plan.samples
        if not all(file.path in fates for file in sample.files)
    ]
    with tqdm(total=sum(len(job.sample.files) for job in jobs), desc="writing", unit="file", disable=not show_progress) as bar:
        for done in _map(jobs, options.workers):
            for fate in done:
                fates[fate.path] = fate
                manifest.append(fate)
                bar.update()
    for path, reason in plan.refused.items():
        fates[path] = FileFate(path=path, status="refused", reason=reason)
    for path, first in plan.copies.items():
        fates[path] = replace(fates[first], path=path)
        if fates[path].status == "protected":
            copy_file(output, first, output, path)
    if options.copy_unprotected:
        for path, fate in fates.items():
            if fate.status in ("refused", "failed"):
                fates[path] = _copy_unprotected(inventory.root, output, fate)
    manifest.rewrite(fates)
    return fates


def _copy_unprotected(root: Path, output: Path, fate: FileFate) -> FileFate:
    """Copy a file as it is; what is no file of the input, or cannot be read, keeps its fate."""
    source = root / fate.path
    if not source.is_file() or not source.resolve().is_relative_to(root.resolve()):
        return fate
    try:
        copy_file(root, fate.path, output, fate.path)
    except OSError as error:
        return replace(fate, reason=f"{fate.reason}; it could not be copied either: {error.strerror or error}")
    digest = file_digest(output / fate.path)
    return replace(fate, status="copied", sha256_in=digest, sha256_out=digest)


def _remove_leftovers(output: Path, earlier: Mapping[str, FileFate], paths: set[str]) -> None:
    """Remove what a stopped run left: files that were being written when it was killed, and unprotected copies, which are made again if still wanted."""
    for path, fate in earlier.items():
        if fate.status == "copied":
            (output / path).unlink(missing_ok=True)
    for temporary in output.rglob(".*.tmp") if output.is_dir() else ():
        name = re.fullmatch(r"\.(.+)\.[^.]+\.tmp", temporary.name)
        if name is not None and (temporary.parent / name[1]).relative_to(output).as_posix() in paths:
            temporary.unlink()


def _map(jobs: list[WriteJob], workers: int) -> Iterable[list[FileFate]]:
    """Write samples in this process, or in several; the order, and so the manifest, is that of the jobs either way."""
    if workers <= 1 or len(jobs) < 2:
        yield from map(write_sample, jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as executor:
        yield from executor.map(write_sample, jobs, chunksize=max(1, len(jobs) // (8 * workers)))


def _still_there(fate: FileFate, output: Path) -> bool:
    return fate.status == "protected" and (output / fate.path).is_file() and file_digest(output / fate.path) == fate.sha256_out


def uid_secret(plan: ProtectionPlan, options: ProtectOptions, work_dir: Path) -> bytes:
    """Give the secret that new UIDs are made with, and keep it in the work folder, readable by its owner alone.

    Without a key file it is made from the seed and the digests of the input's files: the same run gives the same UIDs, and nobody without the originals
    can tell which old UID became which new one.
    """
    path = work_dir / "uid.key"
    if options.resume and path.is_file():
        return bytes.fromhex(path.read_text(encoding="ascii"))
    if options.key_file is not None:
        secret = _key_secret(options.key_file)
    else:
        digests = sorted(file.sha256 for sample in plan.samples for file in sample.files)
        secret = _secret("/".join([str(options.seed), *digests]).encode())
    with atomic_target(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(secret.hex(), encoding="ascii")
    return secret


def _secret(material: bytes) -> bytes:
    return hashlib.sha256(b"monai_salm uid secret/1\0" + material).digest()


def _key_secret(key_file: Path) -> bytes:
    try:
        material = key_file.read_bytes()
    except OSError as error:
        raise UsageError(f"{key_file}: the key cannot be read ({error.strerror}); make one with 'monai-salm keygen FILE'") from error
    if len(material.strip()) < LEAST_KEY_BYTES:
        raise UsageError(
            f"{key_file}: the key has {len(material.strip())} bytes, at least {LEAST_KEY_BYTES} are needed; make one with 'monai-salm keygen FILE'"
        )
    return _secret(material)


def _check_key(options: ProtectOptions, work_dir: Path) -> None:
    """Find out now, not after hours of search, that a key cannot be read or is not the one that the run was begun with."""
    if options.key_file is None:
        return
    secret, kept = _key_secret(options.key_file), work_dir / "uid.key"
    if options.resume and kept.is_file() and kept.read_text(encoding="ascii") != secret.hex():
        raise UsageError(f"{options.key_file}: not the key that the run in {work_dir} was begun with; give that one again, or start with an empty work folder")
