# SPDX-License-Identifier: Apache-2.0
"""A run's surrogate gives the same values in a pipeline as with ``protect --surrogate``, within the budget that the run
has for the file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_salm.errors import SalmError, UsageError
from monai_salm.io import read_source
from monai_salm.pipeline import protect
from monai_salm.transforms import SALMProtectd
from tests.exports import block, body, label_table, mr_series, mr_slice, nifti_file, small
from tests.io.builders import dicom_dataset, write_dicom

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:UserWarning")]

ROOT_UID = "1.2.826.0.1.3680043.8.498"
CT = {"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "RescaleSlope": 1, "RescaleIntercept": -1024}


def ct_slice(path: Path, number: int, **extra: Any) -> Path:
    """Write a CT instance of signed values: air, and a body of 20 to 140 HU with a brighter lesion in
    every second one.
    """
    generator = np.random.default_rng(number)
    values = np.where(body(number) > 0, 1044 + generator.integers(0, 120, (24, 24)) + 60 * (body(number) > 500), 24)
    return mr_slice(
        path,
        number,
        values.astype(np.int16),
        **(CT | {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1} | extra),
    )


def _slices(make: Callable[..., Path], **extra: Any) -> Callable[[Path, int, int], list[Path]]:
    return lambda folder, first, count: [
        make(folder / f"case{n}" / "image.dcm", n, **extra) for n in range(first, first + count)
    ]


def _volumes(dtype: Any, **fields: Any) -> Callable[[Path, int, int], list[Path]]:
    def make(folder: Path, first: int, count: int) -> list[Path]:
        # Brighter from one to the next: each has a window of its own.
        return [
            nifti_file(folder / f"v{n}.nii.gz", (block(n)[0] * (1 + n / 10)).astype(dtype), **fields)
            for n in range(first, first + count)
        ]

    return make


def _shared_series(folder: Path, first: int, count: int) -> list[Path]:
    """Write slices of two MR series, dark and bright: each slice alone would have another window than its series."""
    paths = []
    for n in range(first, first + count):
        place = {
            "SeriesInstanceUID": f"{ROOT_UID}.77.{first}",
            "StudyInstanceUID": f"{ROOT_UID}.78.{first}",
            "PatientID": f"S{first}",
        }
        values = (body(n) * (1 + (n - first) / 3)).astype(np.int16)
        paths.append(
            mr_slice(
                folder / f"slice{n}.dcm", n, values, RescaleSlope=1.35, ImagePositionPatient=[0, 0, float(n)], **place
            )
        )
    return paths


def _pictures(folder: Path, first: int, count: int, *, colors: bool = False) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"p{n}.png" for n in range(first, first + count)]
    for n, path in zip(range(first, first + count), paths, strict=True):
        gray = (body(n) // 3 + (body(n) > 0) * 20).astype(np.uint8)
        Image.fromarray(np.stack([gray, gray // 2, gray // 3], axis=-1) if colors else gray).save(path)
    return paths


def _time_series(folder: Path, first: int, count: int) -> list[Path]:
    return [
        nifti_file(folder / f"t{n}.nii.gz", np.stack([block(n)[0], block(n)[0] + 2 * (block(n)[0] > 0)], axis=-1))
        for n in range(first, first + count)
    ]


def _frames(folder: Path, first: int, count: int) -> list[Path]:
    """Write stacks of frames, which MONAI's reader gives with the first two axes swapped."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n in range(first, first + count):
        own: dict[str, Any] = {
            "SOPInstanceUID": f"{ROOT_UID}.12.{n + 1}",
            "SeriesInstanceUID": f"{ROOT_UID}.22.{n + 1}",
            "PatientID": f"P{n}",
        }
        own |= {"Modality": "XA", "WindowCenter": 400, "WindowWidth": 800, "RescaleSlope": 1, "RescaleIntercept": 0}
        dataset = dicom_dataset(shape=(24, 24), frames=8, extra=own)
        paths.append(write_dicom(folder / f"a{n}.dcm", dataset, np.stack([body(n * 8 + frame) for frame in range(8)])))
    return paths


KINDS: dict[str, Callable[[Path, int, int], list[Path]]] = {
    "NIfTI int16": _volumes(np.int16),
    "NIfTI scl_slope": _volumes(np.uint16, slope=0.5, intercept=10.0),
    "NIfTI float32": _volumes(np.float32),
    "NIfTI float32 fractions": lambda folder, first, count: [
        nifti_file(folder / f"v{n}.nii.gz", (block(n)[0] * 0.7317).astype(np.float32))
        for n in range(first, first + count)
    ],
    "NIfTI float64": lambda folder, first, count: [
        nifti_file(folder / f"v{n}.nii.gz", (block(n)[0] * 0.7317).astype(np.float64))
        for n in range(first, first + count)
    ],
    "CT": _slices(ct_slice),
    "MR": _slices(mr_slice, RescaleSlope=1.35, RescaleIntercept=3),
    "MR of one series": _shared_series,
    "XA frames": _frames,
    "PNG": _pictures,
    "PNG in colors": partial(_pictures, colors=True),
    "time series": _time_series,
}


def _labels(table: Path, folder: Path, paths: list[Path], first: int) -> Path:
    return label_table(
        table,
        {path.relative_to(folder).as_posix(): ("healthy", "ill")[n % 2] for n, path in enumerate(paths, start=first)},
    )


class Runs(dict[str, Path]):
    """For each kind, once it is asked for: a first run, and a second one over other files with the surrogate of the
    first.
    """

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        super().__init__()
        self.factory = factory

    def __missing__(self, kind: str) -> Path:
        folder = self[kind] = self.factory.mktemp("doors")
        olds, news = KINDS[kind](folder / "old", 0, 4), KINDS[kind](folder / "new", 4, 3)
        protect(folder / "old", folder / "first", small(labels=_labels(folder / "a.csv", folder / "old", olds, 0)))
        surrogate = str(folder / "first.work" / "surrogate.safetensors")
        options = small(labels=_labels(folder / "b.csv", folder / "new", news, 4), surrogate=surrogate, rounds=None)
        result = protect(folder / "new", folder / "second", options)
        assert result.to_json()["counts"]["protected"] == 3, result.to_json()["problems"]
        assert result.search.rounds == 2, "as many as the first run took"
        return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory)


def _chain(folder: Path, **arguments: Any) -> Compose:
    surrogate = folder / "first.work" / "surrogate.safetensors"
    return Compose([*_LOAD, SALMProtectd("image", surrogate=surrogate, label_key="label", **arguments)])


_LOAD = [LoadImaged("image"), EnsureChannelFirstd("image", channel_dim="no_channel")]


def _load(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Compose(_LOAD)({"image": path})["image"])


def _manifest(work: Path) -> dict[str, dict[str, Any]]:
    return {line["path"]: line for line in map(json.loads, (work / "manifest.jsonl").read_text().splitlines())}


def _cases(folder: Path, name: str, first: int) -> Iterator[tuple[Path, str]]:
    for n, path in enumerate(sorted(path for path in (folder / name).rglob("*") if path.is_file()), start=first):
        yield path, ("healthy", "ill")[n % 2]


@pytest.mark.parametrize("kind", KINDS)
def test_both_doors_give_the_same_values(runs: dict[str, Path], kind: str) -> None:
    folder = runs[kind]
    chain, manifest = _chain(folder), _manifest(folder / "second.work")
    for path, label in _cases(folder, "new", 4):
        name = path.relative_to(folder / "new").as_posix()
        before, after = _load(path), np.asarray(chain({"image": path, "label": label})["image"])
        assert np.array_equal(after, _load(folder / "second" / name)), name
        change, limit = np.abs(after.astype(float) - before).max(), manifest[name]["epsilon_real"]
        assert 0 < change <= limit * (1 + 1e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_stored_noise_gives_the_written_values(runs: dict[str, Path], kind: str) -> None:
    folder = runs[kind]
    transform = SALMProtectd("image", noise=folder / "second.work" / "noise")
    for path, _ in _cases(folder, "new", 4):
        after = np.asarray(transform(Compose(_LOAD)({"image": path}))["image"])
        assert np.array_equal(after, _load(folder / "second" / path.relative_to(folder / "new")))


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_first_run_keep_its_bound(runs: dict[str, Path], kind: str) -> None:
    folder = runs[kind]
    chain, manifest = _chain(folder, rounds=1), _manifest(folder / "first.work")
    for path, label in _cases(folder, "old", 0):
        before, after = _load(path), np.asarray(chain({"image": path, "label": label})["image"])
        assert (
            0
            < np.abs(after.astype(float) - before).max()
            <= manifest[path.relative_to(folder / "old").as_posix()]["epsilon_real"] * (1 + 1e-6)
        )


def test_noise_does_not_depend_on_the_other_samples(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = runs["MR"]
    shutil.copytree(folder / "new" / "case5", tmp_path / "alone" / "case5")
    table = label_table(tmp_path / "l.csv", {"case5/image.dcm": "ill"})
    options = small(labels=table, surrogate=str(folder / "first.work" / "surrogate.safetensors"))
    assert protect(tmp_path / "alone", tmp_path / "out", options).to_json()["counts"]["protected"] == 1, (
        "one class of those that it knows"
    )
    written = [
        read_source(path).stored
        for path in (tmp_path / "out" / "case5" / "image.dcm", folder / "second" / "case5" / "image.dcm")
    ]
    assert np.array_equal(*written)


@pytest.mark.parametrize("method", ["random-mask", "em-augmented", "salm:exchange"])
def test_other_methods_depend_on_the_image_alone(tmp_path: Path, method: str) -> None:
    olds, news = (KINDS["MR"](tmp_path / name, first, 4) for name, first in (("old", 0), ("new", 4)))
    protect(
        tmp_path / "old",
        tmp_path / "first",
        small(labels=_labels(tmp_path / "a.csv", tmp_path / "old", olds, 0), method=method),
    )
    options = small(
        labels=_labels(tmp_path / "b.csv", tmp_path / "new", news, 4),
        method=method,
        surrogate=str(tmp_path / "first.work" / "surrogate.safetensors"),
    )
    protect(tmp_path / "new", tmp_path / "second", options)
    chain = _chain(tmp_path)
    for path, label in _cases(tmp_path, "new", 4):
        after = np.asarray(chain({"image": path, "label": label})["image"])
        assert np.array_equal(after, _load(tmp_path / "second" / path.relative_to(tmp_path / "new")))


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"epsilon": "4/255"}, "--epsilon '0.03137254901960784'"),
        ({"epsilon": "20 units"}, "--epsilon '0.03137254901960784'"),
        ({"window": "0,500"}, "--window auto"),
        ({"modality": "MR"}, "--modality ''"),
        ({"perturbed_fraction": 0.2}, "--perturbed-fraction 0.4"),
        ({"working_size": 16}, "--working-size 24"),
        ({"method": "em"}, "--method salm"),
        ({"method": "em", "working_size": 16}, "--method salm --working-size 24"),
    ],
    ids=str,
)
def test_options_that_differ_from_the_surrogates_are_named(
    runs: dict[str, Path], tmp_path: Path, changes: dict[str, Any], advice: str
) -> None:
    folder = runs["MR"]
    options = small(
        **{"labels": folder / "b.csv", "surrogate": str(folder / "first.work" / "surrogate.safetensors")} | changes
    )
    with pytest.raises(UsageError, match=f"differ; give {advice}$"):
        protect(folder / "new", tmp_path / "out", options)
    assert not list(tmp_path.iterdir()), "before anything is written"


# Images without a file ------------------------------------------------------------------------------------------------


def test_ct_without_its_file_is_known_by_the_readers_metadata(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = runs["CT"]
    path = Path(shutil.copy(folder / "new" / "case4" / "image.dcm", tmp_path / "gone.dcm"))
    loaded = Compose(
        [LoadImaged("image", prune_metadata=False), EnsureChannelFirstd("image", channel_dim="no_channel")]
    )({"image": path, "label": "healthy"})
    path.unlink()
    change = np.abs(np.asarray(_chain(folder).transforms[-1](loaded)["image"]) - np.asarray(loaded["image"]))
    assert change.max() == _manifest(folder / "second.work")["case4/image.dcm"]["epsilon_real"] // 1 == 12
    assert not change[np.asarray(loaded["image"]) <= -1000].any()


def test_slice_without_its_file_has_the_window_of_its_series(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = runs["MR of one series"]
    path = Path(shutil.copy(folder / "old" / "slice2.dcm", tmp_path / "gone.dcm"))
    loaded = Compose(
        [LoadImaged("image", prune_metadata=False), EnsureChannelFirstd("image", channel_dim="no_channel")]
    )({"image": path, "label": "healthy"})
    path.unlink()
    protected = np.asarray(_chain(folder).transforms[-1](loaded)["image"])
    limit = _manifest(folder / "first.work")["slice2.dcm"]["epsilon_real"]
    assert limit - 1.35 <= np.abs(protected - np.asarray(loaded["image"])).max() <= limit * (1 + 1e-6)


@pytest.mark.parametrize(
    "change",
    [lambda i: i * 2, lambda i: i + 0.2, lambda i: i.flip(1), lambda i: i[:, 2:]],
    ids=["scaled", "shifted", "flipped", "cropped"],
)
@pytest.mark.parametrize("kind", ["NIfTI int16", "MR"])
def test_image_that_was_changed_after_loading_is_refused(runs: dict[str, Path], kind: str, change: Any) -> None:
    folder = runs[kind]
    path, label = next(_cases(folder, "new", 4))
    loaded = Compose(_LOAD)({"image": path, "label": label})
    protect_image = _chain(folder).transforms[-1]
    with pytest.raises(UsageError, match="does not hold the values of its file; apply SALMProtect right after loading"):
        protect_image(loaded | {"image": change(loaded["image"])})
    protect_image(loaded)


def test_label_map_as_image_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    nifti_file(tmp_path / "seg.nii.gz", block(1)[1])
    loaded = Compose(_LOAD)({"image": tmp_path / "seg.nii.gz", "label": 1})
    with pytest.raises(SalmError, match=r"seg\.nii\.gz: "):
        _chain(runs["NIfTI int16"]).transforms[-1](loaded)


# A series as one image ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first run over MR series, a second one over others with its surrogate, and one over instances."""
    folder = tmp_path_factory.mktemp("series")
    for name, first in (("old", 0), ("new", 4)):
        for n in range(first, first + 4):
            mr_series(folder / name / f"s{n}", n, slices=5, RescaleSlope=1.35)
    tables = {
        name: label_table(
            folder / f"{name}.csv",
            {f"{ROOT_UID}.21.{n + 1}": ("healthy", "ill")[n % 2] for n in range(first, first + 4)},
            "SeriesInstanceUID",
        )
        for name, first in (("old", 0), ("new", 4))
    }
    protect(folder / "old", folder / "first", small(labels=tables["old"]))
    surrogate = str(folder / "first.work" / "surrogate.safetensors")
    protect(folder / "new", folder / "second", small(labels=tables["new"], surrogate=surrogate))
    (folder / "flat").mkdir()
    protect(folder / "old", folder / "flat" / "first", small(labels=tables["old"], sample="instance"))
    surrogate = str(folder / "flat" / "first.work" / "surrogate.safetensors")
    options = small(labels=tables["new"], surrogate=surrogate, sample="instance")
    protect(folder / "new", folder / "flat" / "second", options)
    return folder


def test_series_folder_is_a_volume(series: Path) -> None:
    chain, manifest = _chain(series), _manifest(series / "second.work")
    for n in range(4, 8):
        path, label = series / "new" / f"s{n}", ("healthy", "ill")[n % 2]
        before, after = _load(path), np.asarray(chain({"image": path, "label": label})["image"])
        assert before.shape == (1, 16, 16, 5)
        assert np.array_equal(after, _load(series / "second" / f"s{n}"))
        assert (
            0
            < np.abs(after - before).max()
            <= min(line["epsilon_real"] for line in manifest.values() if line["path"].startswith(f"s{n}/")) * (1 + 1e-6)
        )


def test_slices_of_a_series_may_come_in_any_order(series: Path) -> None:
    protect_image = _chain(series).transforms[-1]
    loaded = Compose(_LOAD)({"image": series / "new" / "s5", "label": "ill"})
    straight = np.asarray(protect_image(loaded)["image"])
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        turned = protect_image(loaded | {"image": loaded["image"][..., order]})["image"]
        assert np.array_equal(np.asarray(turned), straight[..., order])


def test_series_for_a_surrogate_of_slices_is_protected_slice_by_slice(series: Path) -> None:
    """As ``protect --sample instance`` does it."""
    chain = _chain(series / "flat")
    after = np.asarray(chain({"image": series / "new" / "s5", "label": "ill"})["image"])
    assert np.array_equal(after, _load(series / "flat" / "second" / "s5"))
    for path in (series / "new" / "s5").iterdir():
        alone = np.asarray(chain({"image": path, "label": "ill"})["image"])
        assert np.array_equal(alone, _load(series / "flat" / "second" / "s5" / path.name))


def test_image_of_other_axes_is_refused_with_the_option_that_helps(series: Path, runs: dict[str, Path]) -> None:
    volume = Compose(_LOAD)({"image": runs["NIfTI int16"] / "new" / "v5.nii.gz", "label": "ill"})
    with pytest.raises(UsageError, match=r"trained on 2D images, .* give the surrogate of a run over volumes"):
        _chain(series / "flat").transforms[-1](volume)
    slice_ = Compose(_LOAD)({"image": next((series / "new" / "s5").iterdir()), "label": "ill"})
    with pytest.raises(
        UsageError, match=r"trained on 3D images, .* of a run over slices \(--sample instance\), or load"
    ):
        _chain(series).transforms[-1](slice_)


def test_half_a_series_is_refused_with_advice_that_helps(series: Path) -> None:
    chain = _chain(series)
    loaded = Compose(_LOAD)({"image": series / "new" / "s5", "label": "ill"})
    with pytest.raises(
        UsageError, match="does not hold the values of a series in this folder; load one series whole, or each slice"
    ):
        chain.transforms[-1](loaded | {"image": loaded["image"][..., :3]})
    chain({"image": series / "new" / "s5", "label": "ill"})


def test_folder_of_instances_has_the_stored_noise_of_each(series: Path) -> None:
    transform = SALMProtectd("image", noise=series / "flat" / "first.work" / "noise")
    found = Compose([*_LOAD, transform])({"image": series / "old" / "s1"})["image"]
    assert np.array_equal(np.asarray(found), _load(series / "flat" / "first" / "s1"))


def test_label_map_follows_the_axes_of_its_image(tmp_path: Path) -> None:
    """DICOM volumes come transposed, and so do their label maps."""
    for name, first in (("old", 0), ("new", 2)):
        for n in range(first, first + 2):
            nifti_file(tmp_path / name / f"v{n}.nii.gz", block(n)[0])
            nifti_file(tmp_path / f"{name}-maps" / f"v{n}.nii.gz", block(n)[1])
    options = {"task": "segmentation", "method": "salm:minmin", "surrogate": "small-unet"}
    protect(tmp_path / "old", tmp_path / "first", small(labels=tmp_path / "old-maps", **options))
    frozen = {
        "task": "segmentation",
        "method": "salm:minmin",
        "surrogate": str(tmp_path / "first.work" / "surrogate.safetensors"),
    }
    protect(tmp_path / "new", tmp_path / "second", small(labels=tmp_path / "new-maps", **frozen))
    keys = ["image", "label"]
    chain = Compose(
        [LoadImaged(keys), EnsureChannelFirstd(keys, channel_dim="no_channel"), _chain(tmp_path).transforms[-1]]
    )
    item = {"image": tmp_path / "new" / "v3.nii.gz", "label": tmp_path / "new-maps" / "v3.nii.gz"}
    assert np.array_equal(np.asarray(chain(item)["image"]), _load(tmp_path / "second" / "v3.nii.gz"))


def test_classes_that_are_named_by_numbers_are_found_by_their_names(tmp_path: Path) -> None:
    for n in range(4):
        nifti_file(tmp_path / "in" / f"v{n}.nii.gz", block(n)[0])
    protect(
        tmp_path / "in",
        tmp_path / "first",
        small(labels=label_table(tmp_path / "l.csv", {f"v{n}.nii.gz": 1 + n % 2 for n in range(4)})),
    )
    chain, path = _chain(tmp_path), tmp_path / "in" / "v0.nii.gz"
    results = [
        np.asarray(chain({"image": path, "label": label})["image"]) for label in (1, "1", "01", 1.0, np.array([1]))
    ]
    assert all(np.array_equal(result, results[0]) for result in results)
    assert not np.array_equal(np.asarray(chain({"image": path, "label": 2})["image"]), results[0])
    with pytest.raises(UsageError, match=r"label 0 is none of the classes \['1', '2'\]"):
        chain.transforms[-1](Compose(_LOAD)({"image": path, "label": 0}))


def test_names_of_series_on_the_card_are_not_uids(series: Path) -> None:
    content = (series / "first.work" / "surrogate.safetensors").read_bytes()
    assert ROOT_UID.encode() not in content
