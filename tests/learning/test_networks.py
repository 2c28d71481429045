# SPDX-License-Identifier: Apache-2.0
"""Networks by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from monai_salm.errors import UsageError
from monai_salm.learning.consumers import ConsumerAugmentation, draws_needed
from monai_salm.learning.networks import (
    CleanNetwork,
    behind_view,
    build_network,
    freeze_backbone,
    head_layers,
    logits_of,
    members_of,
    set_training,
    size_multiple,
)
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.learning.training import supervised
from tests.builders import disk_set


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spatial_dims", "size"),
    [
        ("small-resnet", 2, 16),
        ("small-resnet", 3, 16),
        ("small-cnn", 2, 16),
        ("small-cnn", 3, 16),
        ("resnet18", 2, 32),
        ("resnet18", 3, 32),
        ("resnet50", 2, 32),
        ("DenseNet121", 2, 64),
        ("EfficientNetBN", 2, 32),
        ("EfficientNetBN", 3, 32),
        ("SEResNet50", 2, 64),
    ],
)
def test_classifiers_give_one_logit_per_class(name: str, spatial_dims: int, size: int) -> None:
    network = build_network(name, spatial_dims=spatial_dims, outputs=5, in_channels=2).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 2, *[size] * spatial_dims)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "spatial_dims", "size"),
    [
        ("small-unet", 2, 16),
        ("small-unet", 3, 8),
        ("small-segresnet", 3, 8),
        ("UNet", 2, 16),
        ("Unet", 3, 16),
        ("AttentionUnet", 2, 16),
        ("SegResNet", 2, 16),
        ("SegResNet", 3, 16),
        ("SwinUNETR", 2, 64),
    ],
)
def test_segmenters_give_one_logit_per_class_and_voxel(name: str, spatial_dims: int, size: int) -> None:
    if name == "SwinUNETR":
        pytest.importorskip("einops")
    network = build_network(name, spatial_dims=spatial_dims, outputs=3).eval()
    shape = [size] * spatial_dims
    with torch.no_grad():
        assert network(torch.rand(1, 1, *shape)).shape == (1, 3, *shape)


CLASSIFIERS = [
    "resnet18",
    "resnet18-3x3",
    "resnet50",
    "DenseNet121",
    "EfficientNetBN",
    "ViT",
    "small-cnn",
    "small-resnet",
]
SEGMENTERS = ["UNet", "AttentionUnet", "SegResNet", "SwinUNETR", "small-unet", "small-segresnet"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spatial_dims"),
    [
        *((name, 2) for name in CLASSIFIERS + SEGMENTERS),
        *((name, 3) for name in ("DenseNet121", "UNet", "SegResNet", "small-unet")),
    ],
)
def test_victims_train_on_two_small_images(name: str, spatial_dims: int) -> None:
    """28 wide images are padded to 32; statistics of a batch of two must be enough, down to the single voxel that a
    deep network makes of them.
    """
    if name in ("ViT", "SwinUNETR"):
        pytest.importorskip("einops")
    shape = (32,) * spatial_dims
    network = build_network(name, spatial_dims=spatial_dims, outputs=3, image_shape=shape).train()
    logits = logits_of(network, torch.rand(2, 1, *shape))
    assert logits.shape == ((2, 3) if name in CLASSIFIERS else (2, 3, *shape))
    logits.square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None or bool(parameter.grad.isfinite().all()) for parameter in network.parameters())
    assert bool(logits.isfinite().all())


def test_transformer_gives_plain_logits_for_the_shape_it_was_built_for() -> None:
    pytest.importorskip("einops")
    for shape, patches in (((32, 32), 64), ((48, 64), 48), ((128, 112), 56)):
        assert all(side % size_multiple("ViT") == 0 for side in shape)
        network = build_network("ViT", spatial_dims=2, outputs=2, image_shape=shape).eval()
        torch.nn.init.constant_(network.classification_head.bias, 5.0)  # type: ignore[union-attr, arg-type]
        with torch.no_grad():
            logits = network(torch.rand(2, 1, *shape))
        assert isinstance(logits, torch.Tensor)
        assert float(logits.min()) > 1  # a tanh would keep them below
        assert network.get_submodule("patch_embedding").position_embeddings.shape[1] == patches  # type: ignore[index]


@pytest.mark.slow
def test_small_stem_keeps_the_size() -> None:
    small, plain = (build_network(name, spatial_dims=2, outputs=2) for name in ("resnet18-3x3", "resnet18"))
    features = {}
    for name, network in (("small", small), ("plain", plain)):
        network.layer1.register_forward_hook(lambda _, __, output, name=name: features.update({name: output.shape[-1]}))  # type: ignore[union-attr]
        network(torch.rand(2, 1, 32, 32))
    assert features == {"small": 32, "plain": 16}


def test_size_multiples() -> None:
    names = ("resnet18", "ViT+frozen", "SwinUNETR+pretrained")
    assert [size_multiple(name) for name in names] == [8, 16, 32]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spatial_dims"), [*((name, 2) for name in CLASSIFIERS + SEGMENTERS), ("small-unet", 3), ("small-cnn", 3)]
)
def test_head_alone_makes_the_logits(name: str, spatial_dims: int) -> None:
    """With all weights of the head at zero, the image no longer matters; and nothing else can be trained."""
    if name in ("ViT", "SwinUNETR"):
        pytest.importorskip("einops")
    shape = (32,) * spatial_dims
    network = build_network(name, spatial_dims=spatial_dims, outputs=3, image_shape=shape)
    freeze_backbone(network)
    trainable = {parameter for parameter in network.parameters() if parameter.requires_grad}
    assert trainable == {parameter for layer in head_layers(network).values() for parameter in layer.parameters()}
    assert (
        0
        < sum(parameter.numel() for parameter in trainable)
        < sum(parameter.numel() for parameter in network.parameters()) / 5
    )
    images = torch.rand(2, 1, *shape)
    with torch.no_grad():
        assert float(network.eval()(images).std(dim=0).max()) > 0
        for parameter in trainable:
            parameter.zero_()
        assert float(network(images).std(dim=0).max()) == 0


def test_frozen_statistics_stay_as_they_are() -> None:
    network = build_network("small-resnet", spatial_dims=2, outputs=2)
    freeze_backbone(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    set_training(network)
    assert network.training
    assert head_layers(network)["fc"].training
    network(torch.rand(4, 1, 16, 16))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.requires_grad_(True)
    set_training(network)
    network(torch.rand(4, 1, 16, 16))
    assert not torch.equal(network.bn1.running_mean, before["bn1.running_mean"])  # type: ignore[union-attr, arg-type]


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(**_: object) -> None:
        raise ImportError("import einops (No module named 'einops').")

    monkeypatch.setattr("monai.networks.nets.SwinUNETR", without)
    with pytest.raises(
        UsageError,
        match=r"'SwinUNETR' needs a package that is not installed: import einops .*pip install 'einops>=\d",
    ):
        build_network("SwinUNETR", spatial_dims=2, outputs=2)


def test_first_of_several_results_is_the_logits() -> None:
    network = build_network("BasicUNetPlusPlus", spatial_dims=2, outputs=2)
    assert logits_of(network.eval(), torch.rand(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_network_without_layers_has_no_head() -> None:
    with pytest.raises(UsageError, match="no head can be told from its backbone"):
        head_layers(torch.nn.ReLU())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-net", "network 'no-such-net' is unknown; give one of small-resnet"),
        ("resnet", "network 'resnet' is unknown"),
        ("__name__", "network '__name__' is unknown"),
        ("ViT", "network 'ViT' needs img_size, patch_size, which only you can choose"),
        ("UNet-3x3", "network 'UNet-3x3' is unknown"),
        ("resnet-3x3", "network 'resnet-3x3' is unknown"),
        ("ResNet", "network 'ResNet' needs block, block_inplanes, layers, which only you can choose"),
        ("MILModel", "network 'MILModel' (needs a package that is not installed: .*torchvision|cannot be built with)"),
        ("SegResNetVAE", "network 'SegResNetVAE' needs input_image_size, which only you can choose"),
        ("SwinTransformer", "network 'SwinTransformer' is unknown"),
        ("EfficientNetBNFeatures", "network 'EfficientNetBNFeatures' needs model_name"),
    ],
)
def test_what_is_no_network_is_told(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_network(name, spatial_dims=2, outputs=3)
    assert "\n" not in str(caught.value)


def test_a_network_at_half_the_size() -> None:
    """It gives what the network gives for images whose cells are means of boxes, at the border of what is there."""
    network = build_network("small-cnn/2", spatial_dims=2, outputs=3).eval()
    images = torch.rand(2, 1, 17, 32, generator=torch.Generator().manual_seed(0))
    means = [[images[:, 0, i : i + 2, j : j + 2].mean((1, 2)) for j in range(0, 32, 2)] for i in range(0, 17, 2)]
    halves = torch.stack([torch.stack(row, -1) for row in means], -2)[:, None]
    with torch.no_grad():
        assert torch.allclose(network(images), members_of(network)[0].network(halves), atol=1e-6)
    assert size_multiple("SwinUNETR/2,small-cnn/4") == 64
    with pytest.raises(
        UsageError, match=r"small-cnn/3 is unknown; small-cnn/2 and small-cnn/4 .*, small-cnn/gray sees"
    ):
        build_network("small-cnn/3", spatial_dims=2, outputs=3)
    colors = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    gray = build_network("small-cnn/gray", spatial_dims=2, outputs=3, in_channels=3).eval()
    with torch.no_grad():
        assert torch.allclose(gray(colors), members_of(gray)[0].network(colors.mean(1, keepdim=True)), atol=1e-6)


def test_views_come_before_augmentation() -> None:
    """Boxes of two cells of one value stay whole for who halves the images first, wherever they are shifted then."""
    network = build_network("small-cnn/2", spatial_dims=2, outputs=2)
    seeing, view = behind_view(network)
    assert seeing is network.network
    seen: list[torch.Tensor] = []
    seeing.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.randint(0, 2, (1, 1, 16, 16)).float().repeat_interleave(2, -1).repeat_interleave(2, -2)
    batch = disk_set(1, 32).batch([0], torch.device("cpu"))
    shifts = ConsumerAugmentation(flip=0.0, shift=0.28, identity=0.0)
    draws = torch.full((1, draws_needed(2)), 0.9)
    supervised(network, ClassificationTask(2), shifts)(replace(batch, images=images, draws=draws))
    assert seen[0].shape == (1, 1, 16, 16)
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}
    assert set(view(shifts.apply(images, draws)[0]).unique().tolist()) == {0.0, 0.25, 0.5, 0.75, 1.0}, (
        "the shift is odd"
    )


def test_a_network_that_is_to_be_misled_may_see_half_of_the_size() -> None:
    network = build_network("small-cnn/2/clean", spatial_dims=2, outputs=2)
    assert isinstance(network, CleanNetwork)
    seeing, view = behind_view(network)
    images = torch.rand(1, 1, 16, 16)
    assert view(images).shape == (1, 1, 8, 8)
    assert torch.equal(network.eval()(images), seeing.eval()(view(images)))
    assert size_multiple("ViT/2/clean+frozen") == 32
