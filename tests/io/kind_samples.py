# SPDX-License-Identifier: Apache-2.0
"""Made arrays of every kind that the rule of ``monai_salm.io.kinds`` has to tell apart, with what they are; seeded, and
many of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Array = NDArray[Any]

PICTURE, LABEL_MAP, NEITHER = "picture", "label map", "neither"
"""What a sample is in truth; ``neither`` may be copied or refused, but not changed."""


@dataclass(frozen=True)
class Sample:
    """One made array.

    Args:
        name: of its kind.
        truth: what it is.
        values: stored values.
        slope, intercept: to real values.
        color: whether the last axis is a color.
        clinical: whether it is a picture of clinical bit depth, for which an open answer is a burden.
    """

    name: str
    truth: str
    values: Array
    slope: float = 1.0
    intercept: float = 0.0
    color: bool = False
    clinical: bool = False


def anatomy(rng: np.random.Generator, shape: tuple[int, ...], *, noise: float = 0.02, background: bool = True) -> Array:
    """Make a picture in [0, 1]: a body with organs and texture, and noise over all or over the body alone."""
    axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    body = sum((axis / (0.75 + 0.15 * rng.random())) ** 2 for axis in axes) < 1
    image = np.where(body, 0.35, 0.0)
    for _ in range(6):
        center, radius = rng.uniform(-0.5, 0.5, len(shape)), rng.uniform(0.1, 0.35)
        inside = sum((axis - middle) ** 2 for axis, middle in zip(axes, center, strict=True)) < radius**2
        image = np.where(inside & body, rng.uniform(0.15, 0.85), image)
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    image = (
        image + body * 0.05 * texture / texture.std() + noise * rng.standard_normal(shape) * (1 if background else body)
    )
    return np.clip(ndimage.gaussian_filter(image, 0.6), 0, 1)


def cells(
    rng: np.random.Generator, shape: tuple[int, ...], count: int, *, fill: float = 0.5, islands: int = 1
) -> Array:
    """Make a label map of ``count`` compact regions, numbered at random, each in ``islands`` parts."""
    points = rng.random((count * islands, len(shape))) * shape
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    distance, nearest = cKDTree(points).query(grid)
    labels = nearest % count + 1
    labels[distance > fill * (np.prod(shape) / (count * islands)) ** (1 / len(shape))] = 0
    return labels


def blobs(rng: np.random.Generator, shape: tuple[int, ...], count: int = 3) -> Array:
    """Make a mask of a few smooth blobs."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), min(shape) / 10)
    mask = field > np.quantile(field, 0.9)
    parts, found = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, parts, range(1, found + 1))
    return np.isin(parts, 1 + np.argsort(sizes)[::-1][:count])


def _size(rng: np.random.Generator, dims: int) -> tuple[int, ...]:
    choice = ((28, 28), (64, 64), (128, 96), (256, 256)) if dims == 2 else ((20, 24, 16), (40, 40, 40), (64, 64, 24))
    return choice[rng.integers(len(choice))]


def _bits(image: Array, bits: int) -> Array:
    return np.rint(image * ((1 << bits) - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def pictures(rng: np.random.Generator, dims: int) -> Iterator[Sample]:
    """Make pictures."""
    shape = _size(rng, dims)
    for bits in (8, 10, 12, 16):
        yield Sample(f"picture of {bits} bits", PICTURE, _bits(anatomy(rng, shape), bits), clinical=True)
    image = anatomy(rng, shape)
    yield Sample("picture of floats", PICTURE, image.astype(np.float32), clinical=True)
    yield Sample("picture in HU", PICTURE, np.rint(image * 2000 - 1024).astype(np.int16), clinical=True)
    yield Sample("picture, rescaled", PICTURE, _bits(image, 12), slope=1.3526, clinical=True)
    masked = anatomy(rng, shape, background=False)
    yield Sample("picture on zeros", PICTURE, _bits(masked, 12) * (masked > 0.05), clinical=True)
    inverted = 4095 - _bits(masked, 12) * (masked > 0.05)
    yield Sample("picture on a constant background", PICTURE, inverted, clinical=True)
    yield Sample("saturated picture", PICTURE, _bits(np.clip(anatomy(rng, shape) * 1.7, 0, 1), 8), clinical=True)
    yield Sample("picture, air cut off", PICTURE, _bits(np.clip(anatomy(rng, shape) - 0.12, 0, 1), 12), clinical=True)
    yield Sample("blurred picture of 8 bits", PICTURE, _bits(ndimage.gaussian_filter(anatomy(rng, shape), 1.2), 8))
    small = anatomy(rng, tuple(max(8, length // 3) for length in shape))
    enlarged = np.kron(_bits(small, 12), np.ones((3,) * dims, np.uint16))
    yield Sample("picture enlarged by nearest neighbors", PICTURE, enlarged)
    for levels in (4, 16):
        cut = np.floor(small * 0.999 * levels).astype(np.uint8)
        yield _of_levels(f"picture of {levels} levels, enlarged", np.kron(cut, np.ones((4,) * dims, np.uint8)))
    factor = rng.uniform(1.5, 4)
    yield Sample(
        "picture enlarged, linear",
        PICTURE,
        _bits(np.clip(ndimage.zoom(small, factor, order=1), 0, 1), 12),
        clinical=True,
    )
    yield Sample(
        "picture enlarged, cubic",
        PICTURE,
        _bits(np.clip(ndimage.zoom(small, factor, order=3), 0, 1), 12),
        clinical=True,
    )
    yield Sample(
        "picture turned, nearest neighbors", PICTURE, ndimage.rotate(enlarged, 17, axes=(0, 1), order=0, reshape=False)
    )
    for levels in (2, 3, 4, 8, 16, 32):
        cut = np.floor(np.clip(anatomy(rng, shape), 0, 0.999) * levels).astype(np.uint8)
        yield _of_levels(f"picture of {levels} levels", cut)
        smooth = ndimage.gaussian_filter(anatomy(rng, shape), 2)
        scaled = np.floor(smooth / smooth.max() * 0.999 * levels) * (255 // max(1, levels - 1))
        yield _of_levels(f"smooth picture of {levels} levels", scaled.astype(np.uint8))
    organs = np.zeros(shape, np.int16)
    for value in (210, 60, 255, 25, 120):
        center = [int(rng.integers(length // 5, 4 * length // 5)) for length in shape]
        grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
        organs[
            sum(((axis - middle) / (length / 8)) ** 2 for axis, middle, length in zip(grid, center, shape, strict=True))
            < 1
        ] = value
    yield Sample("phantom of five gray values", PICTURE, organs)
    if dims == 2:
        channels = [anatomy(rng, shape) for _ in range(3)]
        yield Sample(
            "color picture",
            PICTURE,
            np.stack([_bits(0.7 * channels[0] + 0.3 * one, 8) for one in channels], -1),
            color=True,
            clinical=True,
        )
        dithered = anatomy(rng, shape) > rng.random(shape)
        yield Sample("dithered picture", PICTURE, dithered.astype(np.uint8) * 255)


def _of_levels(name: str, values: Array) -> Sample:
    """Name a picture of few levels; of two it is a mask, for all its values are its extremes and none
    can carry noise.
    """
    return Sample(name, PICTURE if len(np.unique(values)) > 2 else NEITHER, values)


def label_maps(rng: np.random.Generator, dims: int) -> Iterator[Sample]:
    """Make label maps."""
    shape = _size(rng, dims)
    room = int(np.prod(shape))
    for count in (1, 2, 3, 7, 25, 104, 500, 2000):
        if count * 3**dims * 4 <= room:
            labels = cells(rng, shape, count, fill=rng.uniform(0.3, 0.9))
            yield Sample(f"label map of {count}", LABEL_MAP, labels.astype(np.uint16))
    labels = cells(rng, shape, 4)
    yield Sample("label map of floats", LABEL_MAP, labels.astype(np.float32))
    yield Sample("label map of near integers", LABEL_MAP, labels.astype(np.float32) * np.float32(1.0000001))
    yield Sample(
        "label map of arbitrary numbers", LABEL_MAP, np.array([0, 1002, 17, 2035, 53])[labels].astype(np.int32)
    )
    table = np.concatenate([[0], np.sort(rng.choice(2100, 60, replace=False)) + 1])
    yield Sample("label map of a table's numbers", LABEL_MAP, table[cells(rng, shape, 60, fill=0.8)].astype(np.int16))
    tiny = np.concatenate([[0], rng.permutation(9000) + 1])
    yield Sample(
        "label map of thousands of small regions",
        LABEL_MAP,
        tiny[cells(rng, shape, min(9000, room // 20), fill=0.7)].astype(np.int32),
    )
    yield Sample(
        "label map in scaled int16",
        LABEL_MAP,
        np.rint(labels * (65535 / 4) - 32768).astype(np.int16),
        4 / 65535,
        4 * 32768 / 65535,
    )
    yield Sample(
        "label map with an ignored rim",
        LABEL_MAP,
        np.where(ndimage.binary_dilation(labels > 0) & (labels == 0), 255, labels).astype(np.uint8),
    )
    yield Sample("label map without background", LABEL_MAP, cells(rng, shape, 12, fill=9.0).astype(np.uint8))
    yield Sample("label map with -1", LABEL_MAP, labels.astype(np.int16) - 1)
    yield Sample("label map of values as CT", LABEL_MAP, labels.astype(np.int16), 1.0, 0.0)
    deep = np.zeros((24, 24, 300) if dims == 3 else (24, 300), np.uint8)
    for number in range(25):
        deep[6:18, ..., number * 12 : number * 12 + 11] = 26 + number
    yield Sample("deep label map", LABEL_MAP, deep)
    order = 1 + rng.permutation(int(np.prod([length // 4 for length in shape])))
    blocks = np.kron(order.reshape([length // 4 for length in shape]), np.ones((4,) * dims, int))
    yield Sample("label map of numbered blocks", LABEL_MAP, blocks.astype(np.uint16))
    stacked = np.zeros((16, 16, 120) if dims == 3 else (16, 240), np.uint8)
    for number in range(40):
        stacked[4:12, ..., number * 3 * (2 if dims == 2 else 1) :][..., : 3 * (2 if dims == 2 else 1)] = 1 + number
    yield Sample("label map of stacked slabs", LABEL_MAP, stacked)
    mask = blobs(rng, shape)
    for top, kind in ((1, np.uint8), (255, np.uint8), (1, np.float32)):
        yield Sample(f"mask of 0 and {top} ({np.dtype(kind)})", LABEL_MAP, mask.astype(kind) * kind(top))
    landmarks = np.zeros(shape, np.uint8)
    for number in range(1, min(21, 2 + min(shape) // 4)):
        landmarks[tuple(rng.integers(2, length - 2) for length in shape)] = number
    yield Sample("landmarks", LABEL_MAP, landmarks)
    spots = np.zeros(shape, np.uint8)
    for number in range(1, 6):
        place = [int(rng.integers(2, length - 3)) for length in shape]
        spots[tuple(slice(start, start + 2) for start in place)] = number
    yield Sample("landmarks of 2 voxels", LABEL_MAP, spots)
    if dims == 2:
        yield Sample("color mask", LABEL_MAP, np.stack([mask.astype(np.uint8) * 255] * 3, -1), color=True)
        palette = rng.integers(0, 255, (5, 3)).astype(np.uint8)
        yield Sample("color label map", LABEL_MAP, palette[labels], color=True)
    yield Sample(
        "label map enlarged by nearest neighbors",
        LABEL_MAP,
        np.kron(labels, np.ones((3,) * dims, int)).astype(np.uint8),
    )


def neither(rng: np.random.Generator, dims: int) -> Iterator[Sample]:
    """Make what is neither: computed from a label map or from a picture, and no anatomy to look at."""
    shape = _size(rng, dims)
    mask = blobs(rng, shape)
    soft = ndimage.gaussian_filter(mask.astype(float), rng.uniform(1.0, 3.0))
    yield Sample("probability map", NEITHER, soft.astype(np.float32))
    yield Sample("probability map of 8 bits", NEITHER, _bits(soft, 8))
    logits = 8 * (ndimage.gaussian_filter(mask.astype(float), 1.0) - 0.5) + 0.8 * rng.standard_normal(shape)
    yield Sample("probability map of a network", NEITHER, (1 / (1 + np.exp(-2 * logits))).astype(np.float32))
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    yield Sample("distance map", NEITHER, outside.astype(np.float32))
    yield Sample("signed distance map", NEITHER, (outside - inside).astype(np.float32))
    yield Sample("distance map of integers", NEITHER, outside.astype(np.uint8))
    fine = np.kron(mask.astype(float), np.ones((4,) * dims))[tuple(slice(0, 4 * length) for length in shape)]
    partial = fine[tuple(slice(2, None) for _ in shape)]
    partial = partial[tuple(slice(0, length // 4 * 4) for length in partial.shape)]
    for axis in range(dims):
        partial = partial.reshape(*partial.shape[:axis], -1, 4, *partial.shape[axis + 1 :]).mean(axis + 1)
    yield Sample("partial volumes", NEITHER, partial.astype(np.float32))
    turned = ndimage.rotate(cells(rng, shape, 4).astype(np.float32), 10, axes=(0, 1), order=1, reshape=False)
    yield Sample("label map turned, linear", NEITHER, turned)
    smoothed = ndimage.gaussian_filter(cells(rng, shape, 3).astype(float), 0.6)
    yield Sample("label map, smoothed", NEITHER, smoothed.astype(np.float32))
    yield Sample("mask, smoothed", NEITHER, ndimage.gaussian_filter(mask.astype(float), 0.7).astype(np.float32))
    heat = np.zeros(shape)
    for _ in range(4):
        heat[tuple(rng.integers(4, length - 4) for length in shape)] = 1
    yield Sample("heat map of landmarks", NEITHER, ndimage.gaussian_filter(heat, 2).astype(np.float32))
    field = ndimage.gaussian_filter(rng.standard_normal(shape), min(shape) / 6)
    yield Sample("displacement field", NEITHER, (field / field.std()).astype(np.float32))
    yield Sample("constant", NEITHER, np.full(shape, 7, np.uint8))


MAKERS: tuple[Callable[[np.random.Generator, int], Iterator[Sample]], ...] = (pictures, label_maps, neither)


def samples(seed: int, times: int) -> Iterator[Sample]:
    """Give all kinds, ``times`` of each in 2D and in 3D."""
    for number in range(times):
        for dims in (2, 3):
            for maker in MAKERS:
                yield from maker(np.random.default_rng([seed, number, dims]), dims)
