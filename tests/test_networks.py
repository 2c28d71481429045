# SPDX-License-Identifier: Apache-2.0
"""Networks by name."""

from __future__ import annotations

import pytest
import torch

from monai_salm.errors import UsageError
from monai_salm.networks import build_network


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-net", "network 'no-such-net' is unknown; give one of small-resnet"),
        ("resnet", "network 'resnet' is unknown"),
        ("__name__", "network '__name__' is unknown"),
        ("ViT", "network 'ViT' needs img_size, patch_size, which only you can choose"),
        ("ResNet", "network 'ResNet' needs block, block_inplanes, layers, which only you can choose"),
        ("MILModel", "network 'MILModel' cannot be built with"),
        ("SwinTransformer", "network 'SwinTransformer' is unknown"),
        ("EfficientNetBNFeatures", "network 'EfficientNetBNFeatures' needs model_name"),
    ],
)
def test_what_is_no_network_is_told(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_network(name, spatial_dims=2, outputs=3)
    assert "\n" not in str(caught.value)
