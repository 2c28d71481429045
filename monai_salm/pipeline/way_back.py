# SPDX-License-Identifier: Apache-2.0
"""The way back of one file: its residual is made while it is written, and proven by restoring the file from it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from monai_salm.disk import within
from monai_salm.errors import RefusedError, UsageError, VerificationError
from monai_salm.io import Casing, SourceImage, cased, casing, identify, kept_bytes, read_source
from monai_salm.io.origins import Buffer, same_bytes
from monai_salm.pipeline.fates import IN_OUTPUT, FileFate
from monai_salm.pipeline.inventory import Inventory, Stamp, file_digest
from monai_salm.pipeline.keys import key_material
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.residuals import Residual, ResidualKey, ResidualStore, packed_changes, with_changes_undone

RESIDUALS = "residuals"
"""Name of the folder of residuals in the work folder."""

_PIECE = 1 << 20
_LEVEL = 1


@dataclass(frozen=True)
class WayBack:
    """Where the residuals of a run are written, and with which key.

    Args:
        folder: of the residuals.
        key_file: of the key, which each process reads for itself, so that it is written nowhere else.
    """

    folder: Path
    key_file: Path

    @property
    def store(self) -> ResidualStore:
        """Give the residuals."""
        return _store(self, Stamp.of(self.key_file))  # a worker of a cluster may outlive the key of a run

    def name_of(self, place: Path) -> str:
        """Give what a fate calls a residual."""
        return place.relative_to(self.folder).as_posix()

    def leads_back(self, fate: FileFate) -> bool:
        """Say whether the residual that a fate names is there, and whole."""
        try:
            return bool(fate.residual) and bool(self.store.read(within(self.folder, fate.residual)))
        except (RefusedError, OSError):
            return False


def way_back_of(options: ProtectOptions, work_dir: Path) -> WayBack | None:
    """Give where a run writes residuals; None where it writes none.

    Raises:
        UsageError: a folder for them without a key, or together with ``restore=False``.
    """
    if options.residuals is not None and (options.key_file is None or not options.restore):
        raise UsageError(
            "--residuals needs a key that the originals come back with; make one with 'monai-salm keygen FILE' and "
            "give it as --key-file" + ("" if options.restore else ", without --no-restore")
        )
    if options.key_file is None or not options.restore:
        return None
    return WayBack((options.residuals or work_dir / RESIDUALS).absolute(), options.key_file.absolute())


@lru_cache(maxsize=4)
def _store(way: WayBack, _key: Stamp | None) -> ResidualStore:
    return ResidualStore(way.folder, ResidualKey(key_material(way.key_file)))


def found_by(identifiers: Mapping[str, str], sha256_out: str) -> str:
    """Give what a file is found by when it comes back: its SOP Instance UID, which an archive keeps, or its bytes."""
    uid = identifiers.get("SOPInstanceUID")
    return f"uid:{uid}" if uid else f"bytes:{sha256_out}"


# Making --------------------------------------------------------------------------------------------------------------


def keep_image(way: WayBack, source: SourceImage, written: SourceImage, path: str, target: str) -> Path:
    """Keep what leads from a written image back to its source, and give where; it is proven first.

    Args:
        way: where, and with which key.
        source: the image as it was read.
        written: the same as it was written and read back.
        path, target: below INPUT and OUTPUT.

    Raises:
        VerificationError: the source did not come back.
    """
    return way.store.write(_of_values(source, written, path, target) or _whole(source, written, path, target))


def keep_file(way: WayBack, source: Path, written: Path, path: str, target: str, digests: tuple[str, str]) -> Path:
    """Keep what leads from a file that was copied, or in which references were renewed, back to its source.

    Args:
        way, path, target: as of :func:`keep_image`.
        source, written: the files.
        digests: of the two.

    Raises:
        VerificationError: the source is not what it was any more.
    """
    same = digests[0] == digests[1]
    residual = Residual(
        way="same" if same else "whole", path=path, target=target, found_by=_found_by_of(written, digests[1]),
        sha256=digests[0], content=b"" if same else zlib.compress(source.read_bytes(), _LEVEL),
    )  # fmt: skip
    _prove(residual, restored(residual, written))
    return way.store.write(residual)


def keep_again(way: WayBack, fate: FileFate, before: Path, after: Path, target: str) -> str:
    """Keep what leads from a file of a release, in which references were renewed since, back to its original, and give
    its name. What led back from the file as it was stays: somebody may have that one.

    Args:
        way: where, and with which key.
        fate: of the file before.
        before, after: it, as it was and as it is.
        target: below OUTPUT.

    Raises:
        VerificationError: the original does not come back.
    """
    now = _found_by_of(after, file_digest(after))
    # Where that was stopped in the middle, the file may be renewed already.
    for place in (within(way.folder, fate.residual), *way.store.found_by(now)):
        try:
            residual = way.store.read(place)
            original = b"".join(restored(residual, before))
        except (RefusedError, OSError):
            continue
        if hashlib.sha256(original).hexdigest() == fate.sha256_in:
            break
    else:
        raise VerificationError("its original does not come back from its residual")
    if residual.found_by == now and residual.way != "same" and _digest(restored(residual, after)) == fate.sha256_in:
        return way.name_of(place)
    return way.name_of(
        way.store.write(
            Residual(
                way="whole", path=fate.path, target=target, found_by=now, sha256=fate.sha256_in,
                content=zlib.compress(original, _LEVEL),
            )
        )
    )  # fmt: skip


def keep_the_rest(way: WayBack, inventory: Inventory, fates: Mapping[str, FileFate], output: Path) -> list[FileFate]:
    """Keep what leads back to each file of an output that nothing leads back to yet: documents, copies of images, and
    what was copied unprotected; gives their new fates.

    Args:
        way: where, and with which key.
        inventory: of the input.
        fates: of all files.
        output: folder of the written ones.
    """
    done = []
    for path, fate in fates.items():
        if fate.status not in IN_OUTPUT or fate.residual:
            continue
        target = inventory.output_path(path) if fate.status == "protected" else path
        try:
            place = keep_file(
                way, within(inventory.root, path), within(output, target), path, target,
                (fate.sha256_in, fate.sha256_out),
            )  # fmt: skip
        except (RefusedError, VerificationError) as error:
            within(output, target, itself=True).unlink(missing_ok=True)
            done.append(replace(fate, status="failed", reason=str(error), sha256_out=""))
        else:
            done.append(replace(fate, residual=way.name_of(place)))
    return done


def _of_values(source: SourceImage, written: SourceImage, path: str, target: str) -> Residual | None:
    """Keep what is around the values, and their changes; None where the file does not come back from these."""
    around = casing(source)
    if around is None:
        return None
    residual = Residual(
        way="values", path=path, target=target, found_by=found_by(written.header.identifiers, written.sha256),
        sha256=source.sha256, coding=around.coding, before=around.before, after=around.after,
        content=packed_changes(source.stored, written.stored),
    )  # fmt: skip
    return residual if _are_those_of(source, _from_values(residual, written)) else None


def _whole(source: SourceImage, written: SourceImage, path: str, target: str) -> Residual:
    content = kept_bytes(source)
    residual = Residual(
        way="whole", path=path, target=target, found_by=found_by(written.header.identifiers, written.sha256),
        sha256=source.sha256,
        content=zlib.compress(source.header.path.read_bytes() if content is None else content, _LEVEL),
    )  # fmt: skip
    _prove(residual, _inflated(residual.content))
    return residual


def _prove(residual: Residual, parts: Iterable[Buffer]) -> None:
    if _digest(parts) != residual.sha256:
        raise VerificationError("its original did not come back from its residual; it changed while it was written")


def _are_those_of(source: SourceImage, parts: Iterable[Buffer]) -> bool:
    """Say whether bytes are those that an image was read from."""
    whole = kept_bytes(source)
    if whole is None:
        return _digest(parts) == source.sha256
    view, place = memoryview(whole), 0
    for part in parts:
        if not same_bytes(view[place : place + len(part)], part):
            return False
        place += len(part)
    return place == len(view)


def _digest(parts: Iterable[Buffer]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _found_by_of(place: Path, sha256: str) -> str:
    try:
        return found_by(identify(place).identifiers, sha256)
    except RefusedError:
        return found_by({}, sha256)


# Going ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """A file that came back from whoever had it.

    Args:
        place: it.
        found_by: what its residual is found by.
        image: what it holds; None where it is no image.
    """

    place: Path
    found_by: str
    image: SourceImage | None = None

    @classmethod
    def at(cls, place: Path) -> Returned:
        """Look at a file."""
        try:
            image = read_source(place)
        except RefusedError:
            return cls(place, _found_by_of(place, file_digest(place)))
        return cls(place, found_by(image.header.identifiers, image.sha256), image)


def restored(residual: Residual, returned: Path | Returned) -> Iterator[Buffer]:
    """Give the bytes of an original, part by part; whether they are is for the caller to see from their digest.

    Args:
        residual: of the file.
        returned: the protected file.

    Raises:
        RefusedError: the file is not the one that was handed out, or too different from it.
    """
    place = returned if isinstance(returned, Path) else returned.place
    if residual.way == "same":
        return _pieces(place)
    if residual.way == "whole":
        return _inflated(residual.content)
    image = read_source(place) if isinstance(returned, Path) else returned.image
    if image is None:
        raise RefusedError(
            "it was an image when it was handed out, and can be read as none any more; get it back again"
        )
    return _from_values(residual, image)


def _from_values(residual: Residual, image: SourceImage) -> Iterator[Buffer]:
    values = with_changes_undone(image.stored, residual.content)
    around = Casing(before=residual.before, after=residual.after, coding=residual.coding)
    return cased(around, image, values)


def _inflated(content: bytes) -> Iterator[bytes]:
    stream = zlib.decompressobj()
    rest = content
    while rest:
        yield stream.decompress(rest, _PIECE)
        rest = stream.unconsumed_tail
    yield stream.flush()


def _pieces(place: Path) -> Iterator[bytes]:
    with place.open("rb", buffering=0) as handle:
        while piece := handle.read(_PIECE):
            yield piece
