# SPDX-License-Identifier: Apache-2.0
"""What the user says of images and label maps, and what the files of a folder say of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from monai_salm.errors import UsageError
from monai_salm.io import Document, Judgement, Kind
from monai_salm.pipeline.case_names import case_of

MOST_OPEN = 0.2
"""Where more of the files of a folder that have the same few values cannot be told, the others are not
believed either.
"""


@dataclass(frozen=True)
class KindChoices:
    """Which files are images and which are label maps, as the user says.

    Args:
        label_maps, pictures: patterns (``labels/*``, ``*_seg.nii.gz``) of paths relative to the input, or of names
            where they have no slash; a star stands for slashes too, and a folder for all that is in it.
        label_folder: folder of label maps; where it lies in the input, all that is in it are some.
        labeled: paths, without suffix and channel, of which that folder has a label map, so that they are images.
        known: path -> what was found before, which counts as said.
        strict: refuse patterns that match nothing; False where they are those of another folder.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import scan
        >>> from monai_salm.pipeline import KindChoices
        >>> found = scan(Path("EXPORT"), choices=KindChoices(pictures=("case0/*",)))
        >>> found.pictures["case0/image.dcm"].modality
        'MR'
    """

    label_maps: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    label_folder: Path | None = None
    labeled: frozenset[str] = frozenset()
    known: Mapping[str, Kind] = field(default_factory=dict)
    strict: bool = True

    def of(self, root: Path, path: str) -> Kind | None:
        """Give what the user says of a file; None where that is nothing.

        Raises:
            UsageError: it is said to be both.
        """
        labels, picture = (
            next((pattern for pattern in patterns if matches(path, pattern)), None)
            for patterns in (self.label_maps, self.pictures)
        )
        if labels is not None and picture is not None:
            raise UsageError(
                f"{path}: both --label-maps {labels!r} and --pictures {picture!r} match it; give patterns of "
                "which one does"
            )
        if picture is not None:
            return "picture"
        if labels is not None or self._in_label_folder(root, path):
            return "label map"
        if self.labeled and case_of(path)[0] in self.labeled:
            return "picture"
        return self.known.get(path)

    @classmethod
    def with_labels(cls, folder: Path, label_maps: tuple[str, ...] = (), pictures: tuple[str, ...] = ()) -> KindChoices:
        """Take a folder of label maps for what it says: which files are some, and of which images they are."""
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return cls(label_maps, pictures, folder, frozenset(case_of(name)[0] for name in names))

    def _in_label_folder(self, root: Path, path: str) -> bool:
        """Say whether a file lies in the folder of label maps; one that holds the whole input says nothing."""
        if self.label_folder is None or root.resolve().is_relative_to(self.label_folder.resolve()):
            return False
        return (root / path).resolve().is_relative_to(self.label_folder.resolve())

    def check(self, paths: Iterable[str]) -> None:
        """Find patterns that match none of the input's files: they are misspelt, and the files that were meant would be
        judged by their values.

        Raises:
            UsageError: there is one.
        """
        names = list(paths) if self.strict else []
        for option, patterns in (("--label-maps", self.label_maps), ("--pictures", self.pictures)):
            for pattern in patterns:
                if names and not any(matches(path, pattern) for path in names):
                    raise UsageError(
                        f"{option} {pattern!r} matches none of the {len(names)} files; paths are relative to the "
                        f"input, such as {names[0]!r}"
                    )


def matches(path: str, pattern: str) -> bool:
    """Say whether a pattern stands for a path: the whole of it, its name where the pattern has no slash, or a folder
    that it lies in.
    """
    pattern = pattern.removeprefix("./").rstrip("/")
    if fnmatchcase(path, pattern) or ("/" not in pattern and fnmatchcase(PurePosixPath(path).name, pattern)):
        return True
    return any(fnmatchcase(str(folder), pattern) for folder in PurePosixPath(path).parents)


@dataclass(frozen=True)
class JudgedFile:
    """A file whose values were judged.

    Args:
        path: relative to the input.
        judgement: of its values.
        document: the label map; None where it cannot be told.
    """

    path: str
    judgement: Judgement
    document: Document | None


def judged_together(files: Iterable[JudgedFile]) -> dict[str, Kind]:
    """Judge label maps, and files that cannot be told, by the others of their folder and shape that have no other
    values than they.

    Returns:
        Path -> ``label map`` of files that are some because nearly all with these values are; or ``cannot tell`` of
        label maps of which many cannot.
    """
    folders: dict[tuple[str, tuple[int, ...]], list[JudgedFile]] = defaultdict(list)
    for file in files:
        if file.judgement.values:
            folders[str(PurePosixPath(file.path).parent), file.judgement.shape].append(file)
    changed: dict[str, Kind] = {}
    for group in folders.values():
        told = [file for file in group if file.document is not None]
        values = frozenset[float]().union(*(file.judgement.values for file in told))
        # A file of one value has nothing to judge by: a structure that is not there.
        open_ones = [file for file in group if file.document is None and file.judgement.values <= values]
        doubtful = [file for file in open_ones if file.judgement.foreground]
        if not told or not open_ones:
            continue
        if len(doubtful) <= MOST_OPEN * (len(told) + len(doubtful)):
            changed |= dict.fromkeys((file.path for file in open_ones), "label map")
        else:
            changed |= dict.fromkeys(
                (file.path for file in told if len(file.judgement.values) > 2 and not file.judgement.declared),
                "cannot tell",
            )
    return changed
