# SPDX-License-Identifier: Apache-2.0
"""Every method by its name, from files to files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray

from monai_salm.background import border_values, find_window
from monai_salm.errors import UsageError
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.surrogate import load_surrogate
from monai_salm.methods import error_minimizing, generators, pil, tap
from monai_salm.methods.base import MethodRun
from monai_salm.methods.error_minimizing import ErrorMinimizing
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.names import METHOD_KINDS, check_method
from monai_salm.methods.registry import METHODS, find_method
from monai_salm.methods.textures import class_waves
from monai_salm.pipeline import protect, verify
from monai_salm.transforms import SALMProtect
from tests.exports import body, label_table, mr_export, mr_labels, nifti_export, small, tree

SEGMENTING = {name for name, kind in METHOD_KINDS.items() if kind.tasks == ("segmentation",)}
NO_ROUNDS = {"lsp", "textures"}
"""Methods whose noise is made at once; others are expected to have the two rounds that they are told."""
NO_NETWORK = {"lsp", "textures", "salm:lattice"}
"""Methods that train and ask no network, so that they have no passes."""
CLASSIFYING = {name for name, kind in METHOD_KINDS.items() if kind.tasks == ("classification",)}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the surrogates of baselines train for a moment only."""
    for module in (tap, pil):
        monkeypatch.setattr(module, "EPOCHS", 1)
        monkeypatch.setattr(module, "LEAST_STEPS", 2)
    monkeypatch.setattr(generators, "LEAST_STEPS", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("method", sorted(set(METHODS) - SEGMENTING - {"salm", "random"}))
def test_classification(tmp_path: Path, method: str) -> None:
    mr_export(tmp_path / "in", 4)
    options = small(labels=mr_labels(tmp_path / "l.csv", 4), method=method)
    result = protect(tmp_path / "in", tmp_path / "out", options)
    assert result.to_json()["counts"] == {"protected": 4, "copied": 0, "refused": 0, "failed": 0}
    assert {file.verdict for file in verify(tmp_path / "in", tmp_path / "out").files} == {"protected"}
    record = json.loads((tmp_path / "out.work" / "search.json").read_text())
    assert record["rounds"] == result.to_json()["rounds"] == (0 if method in NO_ROUNDS else 2)
    assert (record["passes"] > 0) == (method not in NO_NETWORK)
    assert record["passes"] == result.to_json()["passes_per_sample"]
    if method in CLASSIFYING:
        protect(tmp_path / "in", tmp_path / "again", options)
        assert tree(tmp_path / "again") == tree(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("method", sorted(set(METHODS) - SEGMENTING))
def test_findings(tmp_path: Path, method: str) -> None:
    mr_export(tmp_path / "in", 4)
    findings = {f"case{number}/image.dcm": (number % 2, int(number < 2)) for number in range(4)}
    table = label_table(tmp_path / "l.csv", findings, columns=("edema", "mass"))
    result = protect(tmp_path / "in", tmp_path / "out", small(labels=table, method=method, rounds=1))
    assert result.to_json()["counts"] == {"protected": 4, "copied": 0, "refused": 0, "failed": 0}
    assert {file.verdict for file in verify(tmp_path / "in", tmp_path / "out").files} == {"protected"}


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("method", ["em", "random-mask", *sorted(SEGMENTING)])
def test_segmentation(tmp_path: Path, method: str) -> None:
    nifti_export(tmp_path / "in", 3, labels=tmp_path / "maps")
    options = small(labels=tmp_path / "maps", task="segmentation", surrogate="", method=method, rounds=1)
    result = protect(tmp_path / "in", tmp_path / "out", options)
    assert result.to_json()["counts"] == {"protected": 3, "copied": 0, "refused": 0, "failed": 0}
    assert {file.verdict for file in verify(tmp_path / "in", tmp_path / "out").files} == {"protected"}
    assert (result.to_json()["passes_per_sample"] > 0) == (method not in NO_NETWORK)


def _share_of(noise: NDArray[Any], label: int, settings: dict[str, Any]) -> float:
    """Give how much of what two classes' waves make up in noise is one class's."""
    grid = np.meshgrid(*(np.arange(n) for n in noise.shape), indexing="ij")
    power = [
        sum(
            abs((noise * np.exp(-2j * np.pi * sum(f * axis for f, axis in zip(wave, grid, strict=True)))).sum()) ** 2
            for wave in waves
        )
        for waves in class_waves(settings["class_directions"], noise.ndim, settings["texture_period"])
    ]
    return float(power[label] / sum(power))


@pytest.mark.slow
def test_salm_puts_the_class_into_the_noise_and_so_does_its_frozen_surrogate(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 4)
    protect(tmp_path / "in", tmp_path / "out", small(labels=mr_labels(tmp_path / "l.csv", 4)))
    assert {file.verdict for file in verify(tmp_path / "in", tmp_path / "out").files} == {"protected"}
    surrogate = tmp_path / "out.work" / "surrogate.safetensors"
    settings = load_surrogate(surrogate)[1].search
    assert settings["texture_period"] >= 2
    assert len(settings["class_directions"]) == 2, "found, and kept for further images"
    for number in range(4):
        before, after = (
            pydicom.dcmread(tmp_path / folder / f"case{number}" / "image.dcm").pixel_array.astype(float)
            for folder in ("in", "out")
        )
        assert _share_of(after - before, number % 2, settings) > 0.6
    image = torch.from_numpy(body(9).astype(np.float32))[None]
    values = image[0].numpy().astype(np.float64)
    window, _ = find_window("", values.ravel(), border_values(values))
    for rounds in (1, 3):
        transform = SALMProtect(surrogate=surrogate, rounds=rounds)
        for label in (0, 1):
            protected = torch.as_tensor(transform(image, label))
            assert torch.equal(torch.as_tensor(transform(image, label)), protected), (
                "the surrogate learned from an image"
            )
            change = protected.double() - image.double()
            assert 0 < change.abs().max() <= 8 / 255 * window.width
            assert not change[image == 0].any()
            assert 0.2 < (change != 0).sum() / (image > 0).sum() <= 0.41
            assert _share_of(change[0].numpy(), label, settings) > 0.6


@pytest.mark.slow
def test_further_files_keep_the_directions_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", 4)
    labels = mr_labels(tmp_path / "l.csv", 4)
    first = str(tmp_path / "0.work" / "surrogate.safetensors")
    for number, (found, surrogate, kept) in enumerate(
        [((1, None), "small-cnn", [1, None]), ((0, 1), first, [1, None]), ((0, 1), "small-cnn", [0, 1])]
    ):
        monkeypatch.setattr(error_minimizing, "class_directions", lambda *_, found=found, **__: found)
        protect(tmp_path / "in", tmp_path / f"{number}", small(labels=labels, surrogate=surrogate))
        assert (
            load_surrogate(tmp_path / f"{number}.work" / "surrogate.safetensors")[1].search["class_directions"] == kept
        )


def test_salm_has_no_textures_for_label_maps() -> None:
    slices, maps = find_method("salm:texture"), find_method("salm:minmin", "segmentation")
    assert isinstance(slices, ErrorMinimizing)
    assert isinstance(maps, ErrorMinimizing)
    assert slices.settings.texture_period >= 2
    assert slices.settings.mask_blur > 1
    assert maps.settings == MinMinSettings(), "error-minimizing noise from none"
    assert maps.augmentation == ConsumerAugmentation()
    for name in set(METHODS) - {"salm", "random-mask"}:
        assert len(set(map(id, METHODS[name].values()))) == 1, "others are the same for both tasks"


def test_names_tell_what_the_methods_are_for() -> None:
    assert list(METHOD_KINDS) == list(METHODS)
    assert all(tuple(methods) == METHOD_KINDS[name].tasks for name, methods in METHODS.items())
    assert [name for name, kind in METHOD_KINDS.items() if not kind.needs_labels] == ["random"]
    assert {method.takes_surrogate for method in METHODS["salm"].values()} == {True}


@pytest.mark.parametrize("method", METHODS)
def test_task_of_a_method(method: str) -> None:
    for task, strangers in (("classification", SEGMENTING), ("segmentation", CLASSIFYING)):
        if method in strangers:
            with pytest.raises(
                UsageError, match=rf"method '{method}' is not for {task}; give one of salm, .*em"
            ) as caught:
                check_method(method, task)
            assert not strangers & set(str(caught.value).partition("give one of ")[2].split(", "))
        else:
            check_method(method, task)


def test_slices_are_not_for_volumetric_generators() -> None:
    check_method("voxshield", "segmentation", 3)
    with pytest.raises(UsageError, match=r"'voxshield' is not for segmentation of 2D samples; give one of .*umed"):
        check_method("voxshield", "segmentation", 2)


def test_wrong_task_stops_the_run(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    with pytest.raises(UsageError, match="'umed' is not for classification"):
        protect(tmp_path / "in", tmp_path / "out", small(labels=mr_labels(tmp_path / "l.csv", 2), method="umed"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "l.csv"], "before anything is written"


@pytest.mark.slow
def test_surrogate_with_a_place_for_each_cell(tmp_path: Path) -> None:
    pytest.importorskip("einops")
    mr_export(tmp_path / "in", 4)
    options = {"labels": mr_labels(tmp_path / "l.csv", 4), "working_size": 12, "rounds": 1}
    protect(tmp_path / "in", tmp_path / "out", small(**options, surrogate="ViT"))
    surrogate = tmp_path / "out.work" / "surrogate.safetensors"
    assert load_surrogate(surrogate)[1].padded_shape == [16, 16]
    again = protect(tmp_path / "in", tmp_path / "again", small(**options, surrogate=str(surrogate)))
    assert again.to_json()["counts"]["protected"] == 4
    with pytest.raises(UsageError, match=r"\.safetensors: .* differ; give --working-size 12"):
        protect(tmp_path / "in", tmp_path / "larger", small(**options | {"working_size": 20}, surrogate=str(surrogate)))


def test_surrogate_of_a_finished_run_is_refused(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    with pytest.raises(
        UsageError, match=r"'tap' trains a surrogate of its own; give a network's name instead of s\.safetensors"
    ):
        protect(
            tmp_path / "in",
            tmp_path / "out",
            small(labels=mr_labels(tmp_path / "l.csv", 2), method="tap", surrogate="s.safetensors"),
        )


def test_choices_of_the_user() -> None:
    control, salm = find_method("random-mask"), find_method("salm:texture")
    assert isinstance(control, ErrorMinimizing)
    assert isinstance(salm, ErrorMinimizing)
    assert control.settings.mask_rule == "random"
    assert replace(control.settings, mask_rule=salm.settings.mask_rule) == salm.settings, "it differs in its mask alone"
    assert control.augmentation == salm.augmentation
    run = MethodRun(seed=3, device=torch.device("cpu"), build_surrogate=torch.nn.Module)
    assert find_method("tap").rounds_of(run) == 60
    assert find_method("tap").rounds_of(replace(run, rounds=7)) == 7
    for name in ("tap", "salm"):
        with pytest.raises(UsageError, match="rounds 0 must be at least 1"):
            find_method(name).check(perturbed_fraction=0.4, rounds=0)
    with pytest.raises(
        UsageError,
        match="method 'magic' is unknown; give one of salm, salm:texture, ",
    ):
        find_method("magic")
