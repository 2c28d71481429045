# SPDX-License-Identifier: Apache-2.0
"""What a pipeline's image is taken for, with its file and without it, is what a run takes its file for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirst, LoadImage

from monai_salm.canvas import Canvas
from monai_salm.errors import RefusedError
from monai_salm.learning.surrogate import load_surrogate
from monai_salm.pipeline import protect
from monai_salm.transforms import SALMProtect
from monai_salm.transforms.images import PipelineImage
from monai_salm.transforms.loaded import OriginFinder
from tests.exports import body, drawn, lesion_table, mr_slice, small
from tests.io.kind_samples import cells

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")

CLASS = "1.2.840.10008.5.1.4.1.1.1"
"""Of a plain film."""

WHOLE: dict[str, Any] = {"reader": "PydicomReader", "prune_metadata": False}
"""Loads DICOM with all that its header says."""


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The surrogate of a run over slices that do not say their modality."""
    folder = tmp_path_factory.mktemp("slices")
    for n in range(2):
        mr_slice(folder / "in" / f"s{n}.dcm", n, Modality="")
    protect(folder / "in", folder / "out", small(labels=lesion_table(folder / "l.csv", ["s0.dcm", "s1.dcm"])))
    return folder / "out.work" / "surrogate.safetensors"


def _load(path: Path, **options: Any) -> MetaTensor:
    image: MetaTensor = Compose([LoadImage(**options), EnsureChannelFirst(channel_dim="no_channel")])(path)
    return image


def _canvas(surrogate: Path, image: MetaTensor) -> Canvas:
    origin = OriginFinder(load_surrogate(surrogate)[1]).find(PipelineImage.of(image))
    return origin.parts[0][1]


# Label maps -----------------------------------------------------------------------------------------------------------


def _labels(path: Path, modality: str, scale: int = 1, **extra: Any) -> Path:
    return mr_slice(
        path, 1, cells(np.random.default_rng(1), (48, 48), 6).astype(np.int16) * scale, Modality=modality, **extra
    )


@pytest.mark.parametrize("form", ["file", "folder", "metadata"])
@pytest.mark.parametrize(("modality", "scale"), [("CT", 1), ("MR", 10), ("OT", 1)])
def test_labels_in_an_image_object_are_refused_as_by_a_run(
    surrogate: Path, tmp_path: Path, modality: str, scale: int, form: str
) -> None:
    path = _labels(tmp_path / "in" / "a.dcm", modality, scale)
    assert protect(tmp_path / "in", tmp_path / "out", drawn()).fates["a.dcm"].status == "refused"
    image = _load(path, **WHOLE)
    if form == "folder":
        image.meta["filename_or_obj"] = str(path.parent)
    if form == "metadata":
        path.unlink()
    with pytest.raises(
        RefusedError,
        match=r"so it may be a label map, which noise would ruin; leave it out .*protect --pictures PATTERN",
    ) as caught:
        SALMProtect(surrogate=surrogate)(image, "healthy")
    assert "\n" not in str(caught.value)


def test_label_map_as_an_array_is_refused(surrogate: Path) -> None:
    with pytest.raises(RefusedError, match=r"the image: .* so it may be a label map"):
        SALMProtect(surrogate=surrogate)(
            cells(np.random.default_rng(1), (48, 48), 6)[None].astype(np.float32), "healthy"
        )


def test_flat_slice_of_a_volume_that_is_a_picture_is_none(surrogate: Path, tmp_path: Path) -> None:
    """As in a run, the slices of a volume are judged together."""
    own = {"Modality": "MR", "SeriesInstanceUID": "1.2.3.4"}
    for n in range(3):
        mr_slice(tmp_path / f"{n}.dcm", n, body(n, 48), **own)
    flat = (body(0, 48) > 0).astype(np.int16) * 9 + (body(1, 48) > 500)
    alone = mr_slice(tmp_path / "alone" / "flat.dcm", 7, flat, **own)
    with pytest.raises(RefusedError, match="it may be a label map"):
        _canvas(surrogate, _load(alone, **WHOLE))
    path = mr_slice(tmp_path / "flat.dcm", 7, flat, **own)
    assert _canvas(surrogate, _load(path, **WHOLE)).budgets[0].modality == "MR"


# Metadata of a DICOM reader -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        {"Modality": "ct", "RescaleIntercept": -1024},
        {"Modality": "CR", "WindowCenter": 310, "WindowWidth": 600},
        {"Modality": "CR", "WindowCenter": 310, "WindowWidth": 600, "VOILUTFunction": "LINEAR"},
        {"Modality": "CR", "WindowCenter": 310, "WindowWidth": 600, "VOILUTFunction": "LINEAR_EXACT"},
        {"Modality": "CR", "WindowCenter": 310, "WindowWidth": 600, "VOILUTFunction": "SIGMOID"},
        {"Modality": "CR", "WindowCenter": [310, 20], "WindowWidth": [600, 40]},
        {"Modality": "CR", "WindowCenter": 310, "WindowWidth": 1},
    ],
    ids=["lower case", "linear", "said linear", "exact", "sigmoid", "two", "narrow"],
)
def test_metadata_alone_tell_what_the_file_tells(surrogate: Path, tmp_path: Path, extra: dict[str, Any]) -> None:
    path = mr_slice(tmp_path / "a.dcm", 1, body(1) + 1000, **({"SOPClassUID": CLASS} | extra))
    image = _load(path, **WHOLE)
    known = _canvas(surrogate, image)
    path.unlink()
    alone = _canvas(surrogate, image)
    assert (alone.budgets[0].modality, alone.budgets[0].window) == (known.budgets[0].modality, known.budgets[0].window)


# Files that no module reads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_image_of_a_file_that_is_not_read_is_one_without_a_file(surrogate: Path, tmp_path: Path, suffix: str) -> None:
    path, values = tmp_path / f"a{suffix}", body(1).astype(np.float32)
    np.save(path, values) if suffix == ".npy" else np.savez(path, values)
    image, transform = _load(path), SALMProtect(surrogate=surrogate)
    assert str(image.meta["filename_or_obj"]) == str(path)
    protected = np.asarray(transform(image, "ill"))
    assert np.array_equal(protected, np.asarray(transform(values[None], "ill")))
    assert not np.array_equal(protected[0], values)


def test_damaged_file_of_a_known_format_is_still_refused(surrogate: Path, tmp_path: Path) -> None:
    path = mr_slice(tmp_path / "a.dcm", 1)
    image = _load(path, **WHOLE)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RefusedError, match=r"a\.dcm: "):
        SALMProtect(surrogate=surrogate)(image, "ill")
