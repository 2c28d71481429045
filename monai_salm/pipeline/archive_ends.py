# SPDX-License-Identifier: Apache-2.0
"""A run whose input or output is a DICOMweb archive: it goes over folders as any other, into which the input is fetched
before, and from which the output is stored after.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_salm.dicomweb import SCHEME, ArchivePlace
from monai_salm.dicomweb.connecting import connect
from monai_salm.dicomweb.fetching import FETCHED, fetch, fetched_place, forget, is_begun
from monai_salm.dicomweb.storing import StoreResult, store, uids_below, uids_stored
from monai_salm.disk import make_private
from monai_salm.errors import UsageError
from monai_salm.pipeline.archive import is_archive
from monai_salm.pipeline.fates import IN_OUTPUT, FileFate
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.record import default_work_dir

OF_ARCHIVES = "dicomweb"
"""Folder in the work folder: of what was fetched, and of what is known to be stored."""
PROTECTED = "protected"
"""Folder in the work folder: of what is stored."""
_JOURNAL = "stored.jsonl"
_ADVICE = "the same command with --resume goes on"


class ArchiveEnds:
    """The two ends of a run, as folders, and what is done for those that lie in archives.

    Args:
        source, output: of the run: paths, or places in archives.
        options: of it; those that name no work folder take the one of a folder ``output``.

    Raises:
        UsageError: the places and the options do not fit each other.
    """

    def __init__(self, source: Path | ArchivePlace, output: Path | ArchivePlace, options: ProtectOptions) -> None:
        self.fetched_from = source if isinstance(source, ArchivePlace) else None
        self.stored_in = output if isinstance(output, ArchivePlace) else None
        for place in (source, output):
            if isinstance(place, Path) and str(place).startswith(SCHEME):
                raise UsageError(
                    f"{SCHEME} in a path: that has lost slashes of the URL; give monai_salm.dicomweb.place_of(text)"
                )
        if options.work_dir is not None:
            self.work_dir = options.work_dir
        elif isinstance(output, ArchivePlace):
            raise UsageError(
                f"{output}: beside an archive there is no place for the private work folder; give --work-dir FOLDER"
            )
        else:
            self.work_dir = default_work_dir(output)
        self._home = self.work_dir / OF_ARCHIVES
        self.source = source if isinstance(source, Path) else self._home / FETCHED
        self.output = output if isinstance(output, Path) else self.work_dir / PROTECTED
        self.told_source = str(source)
        """The input as it was named."""
        self._goes_on = options.resume
        self._check(options)

    def _check(self, options: ProtectOptions) -> None:
        """Find out before anything is asked of an archive what cannot be done."""
        place, output = self.fetched_from, self.stored_in
        if place is not None and not place.studies:
            raise UsageError(f"{place}: a study is needed; give {place}/studies/UID")
        if place is not None and options.labels_from_folders:
            raise UsageError(
                f"{place}: in an archive there are no folders that name classes; give a table as --labels, by "
                "StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, PatientID or AccessionNumber"
            )
        if output is None:
            return
        if output.series:
            raise UsageError(f"{output}: what is protected is in new series; give {output.url} or a study of it")
        if options.add:
            raise UsageError(
                f"{output}: nothing can be added in an archive, for what refers to what comes would be replaced there; "
                "add to a folder, or protect the new studies by themselves with --surrogate and --key-file"
            )
        if self.source.is_file() and is_archive(self.source):
            raise UsageError(f"{self.source}: a zip becomes a zip, which no archive takes; unpack it first")

    def reach(self) -> None:
        """Find out whether the archive that files are to be stored in answers, before hours of work for it."""
        if self.stored_in is not None:
            connect(self.stored_in).reach()

    def fetch(self, *, show_progress: bool) -> None:
        """Fetch the input, or what of it is not there yet; errors as of :func:`~monai_salm.dicomweb.fetching.fetch`."""
        if self.fetched_from is None:
            return
        make_private(self.work_dir)
        if not self._goes_on:
            forget(self._home)
        ours = set()
        if self.stored_in is not None:
            ours = uids_stored(self._home / _JOURNAL) | uids_below(self.output)
        fetch(self.fetched_from, self._home, ours=ours, advice=_ADVICE, show_progress=show_progress)

    def fetch_for_now(self, spare: Path, *, show_progress: bool) -> Path:
        """Fetch the input into a folder that is not kept, unless a stopped run has it; gives its folder."""
        if self.fetched_from is None:
            return self.source
        if is_begun(self._home):
            self.fetch(show_progress=show_progress)
            return self.source
        return fetch(self.fetched_from, spare, show_progress=show_progress)

    def named_input(self) -> str:
        """Give the input as a plan names it, from wherever that is carried out."""
        return str(self.source.absolute() if self.fetched_from is None else self.fetched_from)

    def store(self, fates: Mapping[str, FileFate], inventory: Inventory, *, show_progress: bool) -> StoreResult | None:
        """Store what is in the output: images before what refers to them. A DICOMDIR stays behind, for an archive has
        an index of its own; of other files that are no DICOM objects this is told.
        """
        if self.stored_in is None:
            return None
        files = {
            inventory.output_path(path) if fate.status == "protected" else path: fate.sha256_out
            for status in IN_OUTPUT
            for path, fate in sorted(fates.items())
            if fate.status == status and not _is_directory(inventory, path)
        }
        done = store(
            self.stored_in, self.output, files, self._home / _JOURNAL, advice=_ADVICE, show_progress=show_progress
        )  # fmt: skip
        place = self.fetched_from
        if place is not None and place.url == self.stored_in.url:  # beside the protected files, in their studies
            place = fetched_place(place, self._home)
        done.original = str(place or self.source)
        return done

    def end(self, fates: Mapping[str, FileFate], stored: StoreResult | None) -> None:
        """Remove the originals that were fetched, unless something failed, and is to be done again from them."""
        failed = any(fate.status == "failed" for fate in fates.values()) or (stored is not None and stored.problems)
        if self.fetched_from is not None and not failed:
            forget(self._home)


def _is_directory(inventory: Inventory, path: str) -> bool:
    document = inventory.documents.get(path)
    return document is not None and bool(document.files)
