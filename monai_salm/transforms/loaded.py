# SPDX-License-Identifier: Apache-2.0
"""Where the values of a pipeline's image come from: its file, the slices of its series, or, where there is no file, the
image itself.

What a file says (stored type, rescaling, padding, modality, window, background) is told by the package's own readers
and bound by the functions that ``monai-salm protect`` binds it by. The values are held against the file's: a budget is
for the values that it was bound to.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from monai_salm.budget import Epsilon
from monai_salm.canvas import Canvas
from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import (
    Document,
    ImageHeader,
    Judgement,
    SourceImage,
    UndecidedError,
    format_of,
    identify,
    read_source,
)
from monai_salm.io.dicom.image_headers import voi_window
from monai_salm.learning.surrogate import SurrogateCard, series_key
from monai_salm.noise import fingerprint
from monai_salm.transforms.images import PipelineImage
from monai_salm.transforms.loading import SOURCE, Provenance
from monai_salm.transforms.reader_metadata import (
    CENTER,
    FUNCTION,
    MODALITY,
    SERIES,
    WIDTH,
    number_of,
    rescaled,
    same_values,
    spacing_of,
    text_of,
)
from monai_salm.volumes import (
    VolumeValues,
    VolumeView,
    judgements,
    labels_among,
    picture_modality,
    slice_order,
    volume_of,
)
from monai_salm.windows import IntensityWindow


@dataclass(frozen=True)
class Origin:
    """What an image's values are stored as.

    Args:
        parts: file after file, in the order of a volume's slices, with the canvas of each.
        axes: transposed by these, the image has the axes of the files, channels last.
        places: which plane of the transposed image each file is; empty where one file is the whole image.
    """

    parts: tuple[tuple[SourceImage, Canvas], ...]
    axes: tuple[int, ...]
    places: tuple[int, ...] = ()

    @property
    def native(self) -> tuple[int, ...]:
        """Shape of the grid that noise lies on."""
        shape = self.parts[0][0].header.shape
        return (len(self.parts), *shape) if self.places else shape

    @property
    def pipeline_shape(self) -> tuple[int, ...]:
        """Shape of the same grid in the axes of the pipeline."""
        axes = self.axes[: len(self.native)]
        return tuple(self.native[axis] for axis in np.argsort(axes))

    def turned(self, image: NDArray[Any]) -> NDArray[Any]:
        """Give an array of the image's shape, perhaps without its channels, in the axes and the order of the files."""
        result = image.transpose(self.axes[: image.ndim])
        return result[list(self.places)] if self.places else result

    def restored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Undo :meth:`turned`."""
        result = np.empty_like(values)
        result[list(self.places) if self.places else ...] = values
        return result.transpose(np.argsort(self.axes))


class OriginFinder:
    """Find the origin of images for a surrogate; the view of a series is found once.

    Args:
        card: of the surrogate.
    """

    def __init__(self, card: SurrogateCard) -> None:
        self._card = card
        self._epsilon = Epsilon(*card.epsilon)
        self._window = IntensityWindow(*card.window) if card.window else None
        self._views: dict[Any, VolumeView] = {}
        self._folders: dict[Path, tuple[Any, list[tuple[Path, ImageHeader]]]] = {}

    def find(self, image: PipelineImage) -> Origin:
        """Find the origin of an image.

        Raises:
            RefusedError: its file is none that can be protected, or cannot carry the noise.
            UsageError: its file holds other values.
        """
        path = _file_of(image.tracked)
        try:
            if path is not None and path.is_dir():
                return self._of_folder(path, image)
            found = None if path is None else _identified(path)
            if path is not None and isinstance(found, ImageHeader):
                return self._of_file(path, found, image)
            if isinstance(found, Document):
                raise RefusedError(f"not an image ({found.kind}); leave it out of the images")
            return self._of_values(image.tracked, image.values)
        except RefusedError as refusal:
            raise RefusedError(f"{path or 'the image'}: {refusal}") from refusal

    def _of_file(self, path: Path, header: ImageHeader, image: PipelineImage) -> Origin:
        source, values = read_source(path), image.values.astype(np.float64)
        for axes in _turns(values.shape, source.stored.shape, len(header.trailing)):
            if same_values(values.transpose(axes), source.real):
                volume = volume_of(header)
                paths = self._slices(path.parent, volume) if volume else [path]
                canvas = self._volume(paths, header, {path: source}).canvas(source, self._epsilon)
                return Origin(((source, canvas),), axes)
        raise UsageError(
            f"{path}: the image of shape {values.shape} does not hold the values of its file; "
            f"{image.too_late(source.real)}"
        )

    def _of_folder(self, folder: Path, image: PipelineImage) -> Origin:
        values = image.values.astype(np.float64)
        series: dict[str, list[tuple[Path, ImageHeader]]] = {}
        for path, header in self._pictures(folder):
            series.setdefault(header.identifiers.get("SeriesInstanceUID", ""), []).append((path, header))
        planes = values.shape if values.ndim == 3 else (1,)
        for files in series.values():
            if len(files) == 1:
                with suppress(UsageError):
                    return self._of_file(*files[0], image)
            if len(files) not in planes or len({header.shape for _, header in files}) > 1:
                continue
            files.sort(key=lambda file: slice_order(file[1], file[0].name))
            sources = {path: read_source(path) for path, _ in files}
            reals = [source.real for source in sources.values()]
            for axes in _turns(values.shape, (len(reals), *reals[0].shape)):
                places = _places(values.transpose(axes), reals)
                if places is not None:
                    return Origin(
                        tuple(
                            (sources[path], self._of_series(files, path, sources).canvas(sources[path], self._epsilon))
                            for path, _ in files
                        ),
                        axes,
                        places,
                    )
        raise UsageError(
            f"{folder}: the image of shape {values.shape} does not hold the values of a series in this folder; "
            f"load one series whole, or each slice as an image of its own; {image.too_late()}"
        )

    def _of_series(
        self, files: list[tuple[Path, ImageHeader]], path: Path, sources: Mapping[Path, SourceImage]
    ) -> VolumeView:
        header = dict(files)[path]
        return self._volume([name for name, _ in files] if volume_of(header) else [path], header, sources)

    def _slices(self, folder: Path, series: str) -> list[Path]:
        """Give the slices of a volume in a folder, in their order, as ``protect`` finds them there."""
        found = {
            header.identifiers.get("SOPInstanceUID", path.name): (path, header)
            for path, header in self._pictures(folder)
            if volume_of(header) == series
        }
        return [path for path, header in sorted(found.values(), key=lambda file: slice_order(file[1], file[0].name))]

    def _pictures(self, folder: Path) -> list[tuple[Path, ImageHeader]]:
        """Give the images of a folder, without those in folders within it; looked through again once something in it
        changed.
        """
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        state = [_state(path) for path in paths]
        if folder not in self._folders or self._folders[folder][0] != state:
            found = []
            for path in paths:
                with suppress(RefusedError, OSError):
                    header = identify(path)
                    if isinstance(header, ImageHeader):
                        found.append((path, header))
            self._folders[folder] = state, found
        return self._folders[folder][1]

    def _volume(self, paths: list[Path], header: ImageHeader, sources: Mapping[Path, SourceImage]) -> VolumeView:
        key = tuple(_state(path) for path in paths)
        if key not in self._views:
            values, judged = VolumeValues(len(paths)), list[Judgement]()
            for path in paths:
                with suppress(RefusedError):  # as in a run, which refuses this slice and goes on
                    source = sources[path] if path in sources else read_source(path)
                    values.add(source)
                    judged += judgements(source)
            self._views[key] = self._view(header, values, judged)
        return self._views[key]

    def _view(self, header: ImageHeader, values: VolumeValues, judged: list[Judgement]) -> VolumeView:
        modality = picture_modality(header, self._card.modality)
        labels = labels_among(judged, modality)
        if labels is not None:
            raise RefusedError(
                f"{labels.evidence}, so it may be a label map, which noise would ruin; leave it out of the "
                "images, or, if it is an image, protect it with "
                "monai-salm protect --pictures PATTERN and give SALMProtect(noise=FOLDER) of that run"
            )
        return values.view(modality, self._window)

    def _of_values(self, image: Any, values: NDArray[Any]) -> Origin:
        """Take real values as stored ones, unless the metadata of a DICOM reader says how they were stored."""
        meta: Mapping[Any, Any] = image.meta if isinstance(image, MetaTensor) else {}
        color = _is_color(image, values)
        values, shape = (values.astype(np.uint8), values.shape[:-1]) if color else (values, values.shape)
        spacing = spacing_of(image, len(shape))
        limits: Any = np.iinfo(values.dtype) if values.dtype.kind in "iu" else np.finfo(values.dtype)
        center, width = number_of(meta, CENTER), number_of(meta, WIDTH)
        header = ImageHeader(
            path=Path("image"), format="other", shape=shape, dtype=values.dtype,
            trailing=(3,) if color else (), color=color, modality=text_of(meta, MODALITY).upper(),
            spacing=spacing, spacing_known=any(step != 1 for step in spacing),
            window_real=None if center is None or width is None else voi_window(center, width, text_of(meta, FUNCTION)),
        )  # fmt: skip
        source = (None if color else rescaled(meta, header, values)) or SourceImage(
            header=header, stored=values, range_stored=(float(limits.min), float(limits.max))
        )
        known = self._card.series.get(series_key(text_of(meta, SERIES)))
        if known is not None:
            shown = VolumeView.from_json(known)
        else:
            volume = VolumeValues(1)
            volume.add(source)
            shown = self._view(header, volume, judgements(source))
        return Origin(((source, shown.canvas(source, self._epsilon)),), tuple(range(values.ndim)))


def _is_color(image: Any, values: NDArray[Any]) -> bool:
    """Say whether an image that no file is known of is one of colors.

    Raises:
        UsageError: it has channels that no file says the meaning of.
    """
    if len(image) == 1:
        return False
    plain = np.nan_to_num(values.astype(np.float64), nan=-1.0)
    if len(image) == 3 and plain.min() >= 0 and plain.max() <= 255 and np.array_equal(plain, np.rint(plain)):
        return True
    raise UsageError(
        f"the image of shape {tuple(image.shape)} has {len(image)} channels, and no file says what they are; channels "
        "are taken where a file has them (time series, colors), or as red, green and blue of whole numbers in 0..255; "
        "protect others one by one, as images of one channel"
    )


def file_values(image: Any, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Give the real values of an image as its file has them, more exactly than a reader in 32 bits; None where no file
    says so.
    """
    path = _file_of(image)
    if path is None or path.is_dir():
        return None
    with suppress(RefusedError):
        source = read_source(path)
        real = source.real
        for axes in _turns(values.shape, real.shape, len(source.header.trailing)):
            if same_values(values.transpose(axes), real):
                return real.transpose(np.argsort(axes))
    return None


def real_of_file(image: Any) -> NDArray[np.float64] | None:
    """Give the real values of the file that an image was loaded from, in its axes; None where there is no such file."""
    path = _file_of(image)
    with suppress(RefusedError, OSError):
        return None if path is None or path.is_dir() else read_source(path).real
    return None


def file_fingerprints(image: Any) -> dict[str, NDArray[Any]]:
    """Give the stored values of the file that an image was loaded from, or of those in its folder, by their
    fingerprints; none where nothing is there.
    """
    path, found = _file_of(image), {}
    for one in () if path is None else sorted(path.iterdir()) if path.is_dir() else (path,):
        with suppress(RefusedError, OSError):
            stored = read_source(one).stored
            found[fingerprint(stored)] = stored
    return found


def _identified(path: Path) -> ImageHeader | Document | None:
    """Say what a file is; where that cannot be told, who gives it as an image says that it is one. None where it is of
    no format that is read (.npy).
    """
    if format_of(path) is None:
        return None
    try:
        return identify(path)
    except UndecidedError:
        return identify(path, "picture")


def _file_of(image: Any) -> Path | None:
    """Give the file or folder that an image was loaded from; None where that is not known, or nothing is there any
    more.
    """
    meta = image.meta if isinstance(image, MetaTensor) else {}
    name = meta.get("filename_or_obj")
    if isinstance(meta.get(SOURCE), str) and len(files := Provenance.of_text(meta[SOURCE]).files) > 1:
        name = str(Path(files[0]).parent)  # slices that were given one by one
    if not isinstance(name, (str, Path)) or not str(name):
        return None
    with suppress(OSError, ValueError):  # a name that is none
        return Path(name) if Path(name).exists() else None
    return None


def _state(path: Path) -> tuple[Path, int, int]:
    found = path.stat()
    return path, found.st_mtime_ns, found.st_size


def _turns(shape: tuple[int, ...], wanted: tuple[int, ...], trailing: int = 0) -> list[tuple[int, ...]]:
    """Give the orders of axes that bring one shape into another; readers differ in theirs, but for the last ones."""
    if len(shape) != len(wanted):
        return []
    grid, last = range(len(shape) - trailing), tuple(range(len(shape) - trailing, len(shape)))
    orders = (axes + last for axes in itertools.permutations(grid))
    return [axes for axes in orders if tuple(shape[axis] for axis in axes) == wanted]


def _places(planes: NDArray[np.float64], reals: list[NDArray[np.float64]]) -> tuple[int, ...] | None:
    """Find the plane of each slice, whatever their order; None if one is missing."""
    straight = range(len(reals))
    for order in (straight, straight[::-1]):
        if all(same_values(planes[place], real) for place, real in zip(order, reals, strict=True)):
            return tuple(order)
    left, found = list(straight), []
    for real in reals:
        place = next((place for place in left if same_values(planes[place], real)), None)
        if place is None:
            return None
        left.remove(place)
        found.append(place)
    return tuple(found)
