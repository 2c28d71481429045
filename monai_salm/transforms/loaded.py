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

RIGHT_AFTER_LOADING = (
    "apply SALMProtect right after loading, as float32 or float64, before any change of intensity, "
    "spacing or orientation (as_closest_canonical is one)"
)

_MODALITY, _SERIES, _SLOPE, _INTERCEPT = "00080060", "0020000E", "00281053", "00281052"
_BITS_STORED, _SIGNED, _PADDING, _PADDING_LIMIT = "00280101", "00280103", "00280120", "00280121"
_CENTER, _WIDTH, _FUNCTION = "00281050", "00281051", "00281056"


def rounding(values_real: NDArray[Any], intercept: float = 0.0) -> float:
    """Give how far real values may be from those of a file because a reader had them in 32 bits; what is farther off
    was changed.
    """
    finite = np.abs(values_real[np.isfinite(values_real)])
    largest = max(float(finite.max(initial=0.0)), abs(intercept))
    return 4 * float(np.spacing(np.float32(min(largest, float(np.finfo(np.float32).max) / 2))))


def same_values(values: NDArray[np.float64], real: NDArray[np.float64]) -> bool:
    """Say whether values of a pipeline are the real values of a file, which a reader may have rounded to 32 bits."""
    if values.shape != real.shape:
        return False
    with np.errstate(invalid="ignore"):
        same = (np.abs(values - real) <= rounding(real)) | (values == real)
    return bool((same | (np.isnan(values) & np.isnan(real))).all())


@dataclass(frozen=True)
class Origin:
    """What an image's values are stored as.

    Args:
        parts: file after file, in the order of a volume's slices, with the canvas of each.
        axes: transposed by these, the image has the axes of the files.
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

    def turned(self, image: NDArray[Any]) -> NDArray[Any]:
        """Give an array of the image's shape in the axes and the order of the files."""
        result = image.transpose(self.axes)
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

    def find(self, image: Any, values: NDArray[Any]) -> Origin:
        """Find the origin of an image.

        Args:
            image: as it came, perhaps with metadata.
            values: its only channel, in the type that it came in.

        Raises:
            RefusedError: its file is none that can be protected, or cannot carry the noise.
            UsageError: its file holds other values.
        """
        path = _file_of(image)
        try:
            if path is not None and path.is_dir():
                return self._of_folder(path, values.astype(np.float64))
            found = None if path is None else _identified(path)
            if path is not None and isinstance(found, ImageHeader):
                return self._of_file(path, found, values.astype(np.float64))
            if isinstance(found, Document):
                raise RefusedError(f"not an image ({found.kind}); leave it out of the images")
            return self._of_values(image, values)
        except RefusedError as refusal:
            raise RefusedError(f"{path or 'the image'}: {refusal}") from refusal

    def _of_file(self, path: Path, header: ImageHeader, values: NDArray[np.float64]) -> Origin:
        source = read_source(path)
        for axes in _turns(values.shape, source.stored.shape):
            if same_values(values.transpose(axes), source.real):
                volume = volume_of(header)
                paths = self._slices(path.parent, volume) if volume else [path]
                canvas = self._volume(paths, header, {path: source}).canvas(source, self._epsilon)
                return Origin(((source, canvas),), axes)
        raise UsageError(
            f"{path}: the image of shape {values.shape} does not hold the values of its file; {RIGHT_AFTER_LOADING}"
        )

    def _of_folder(self, folder: Path, values: NDArray[np.float64]) -> Origin:
        series: dict[str, list[tuple[Path, ImageHeader]]] = {}
        for path, header in self._pictures(folder):
            series.setdefault(header.identifiers.get("SeriesInstanceUID", ""), []).append((path, header))
        planes = values.shape if values.ndim == 3 else (1,)
        for files in series.values():
            if len(files) == 1:
                with suppress(UsageError):
                    return self._of_file(*files[0], values)
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
            "load one series whole, or each slice as an "
            f"image of its own, and {RIGHT_AFTER_LOADING}"
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
        limits: Any = np.iinfo(values.dtype) if values.dtype.kind in "iu" else np.finfo(values.dtype)
        center, width = _number(meta, _CENTER), _number(meta, _WIDTH)
        header = ImageHeader(
            path=Path("image"), format="other", shape=values.shape, dtype=values.dtype,
            modality=_text(meta, _MODALITY).upper(),
            spacing=_spacing(image, values.ndim), spacing_known=any(step != 1 for step in _spacing(image, values.ndim)),
            window_real=None if center is None or width is None else voi_window(center, width, _text(meta, _FUNCTION)),
        )  # fmt: skip
        source = _rescaled(meta, header, values) or SourceImage(
            header=header, stored=values, range_stored=(float(limits.min), float(limits.max))
        )
        known = self._card.series.get(series_key(_text(meta, _SERIES)))
        if known is not None:
            shown = VolumeView.from_json(known)
        else:
            volume = VolumeValues(1)
            volume.add(source)
            shown = self._view(header, volume, judgements(source))
        return Origin(((source, shown.canvas(source, self._epsilon)),), tuple(range(values.ndim)))


def file_values(image: Any, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Give the real values of an image as its file has them, more exactly than a reader in 32 bits; None where no file
    says so.
    """
    path = _file_of(image)
    if path is None or path.is_dir():
        return None
    with suppress(RefusedError):
        real = read_source(path).real
        for axes in _turns(values.shape, real.shape):
            if same_values(values.transpose(axes), real):
                return real.transpose(np.argsort(axes))
    return None


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
    name = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    if not isinstance(name, (str, Path)) or not str(name):
        return None
    with suppress(OSError, ValueError):  # a name that is none
        return Path(name) if Path(name).exists() else None
    return None


def _state(path: Path) -> tuple[Path, int, int]:
    found = path.stat()
    return path, found.st_mtime_ns, found.st_size


def _turns(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Give the orders of axes that bring one shape into another; readers differ in theirs."""
    if len(shape) != len(wanted):
        return []
    return [axes for axes in itertools.permutations(range(len(shape))) if tuple(shape[axis] for axis in axes) == wanted]


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


def _rescaled(meta: Mapping[Any, Any], header: ImageHeader, values: NDArray[Any]) -> SourceImage | None:
    """Undo the rescaling that the metadata of a DICOM reader tells; None where it tells none, or another one."""
    slope, intercept, bits = _number(meta, _SLOPE), _number(meta, _INTERCEPT) or 0.0, _number(meta, _BITS_STORED)
    if not slope or not bits or not 1 <= bits <= 32:
        return None
    real = values.astype(np.float64)
    stored = np.rint((real - intercept) / slope)
    signed = bool(_number(meta, _SIGNED))
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if (
        not np.isfinite(real).all()
        or stored.min() < low
        or stored.max() > high
        or not same_values(real, stored * slope + intercept)
    ):
        return None
    padding = _number(meta, _PADDING)
    ends = (
        None
        if padding is None
        else sorted((padding, padding if (limit := _number(meta, _PADDING_LIMIT)) is None else limit))
    )
    return SourceImage(
        header=header, stored=stored.astype(np.int64), slope=slope, intercept=intercept, range_stored=(low, high),
        padding_stored=None if ends is None else (ends[0], ends[1]),
    )  # fmt: skip


def _spacing(image: Any, ndim: int) -> tuple[float, ...]:
    if not isinstance(image, MetaTensor) or "affine" not in image.meta:
        return ()
    spacing = tuple(float(step) for step in image.pixdim)[:ndim]
    return spacing if len(spacing) == ndim and all(step > 0 for step in spacing) else ()


def _text(meta: Mapping[Any, Any], tag: str) -> str:
    """Give the first value of a DICOM element from the metadata of MONAI's pydicom or ITK reader; empty without one."""
    found = meta.get(tag, meta.get(f"{tag[:4]}|{tag[4:].lower()}"))
    if isinstance(found, Mapping):
        found = next(iter(found.get("Value", [])), "")
    return str("" if found is None else found).partition("\\")[0].strip()


def _number(meta: Mapping[Any, Any], tag: str) -> float | None:
    with suppress(ValueError):
        number = float(_text(meta, tag))
        return number if np.isfinite(number) else None
    return None
