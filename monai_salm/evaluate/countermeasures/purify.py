# SPDX-License-Identifier: Apache-2.0
"""Purification: what a stranger learns about the noise from the protected images and their labels, or from leaked
originals.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.evaluate.countermeasures.base import Countermeasure, ImageChange, Leak, by_channel, in_range
from monai_salm.learning.consumers import binomial_blur
from monai_salm.learning.samples import WorkingSet

_RIDGE = 1e-4
"""Keeps the weights finite where the classes can be separated."""
_LINEAR_ITERATIONS = 200
_DENOISER_STEPS = 300
_DENOISER_BATCH = {2: 16, 3: 4}
_DENOISER_CHANNELS = {2: 24, 3: 16}
_DENOISER_PATCH = {2: 32, 3: 16}
"""By dimensions, so that a denoiser of volumes takes no longer than one of images."""
_DILATIONS = (1, 2, 4)


def fit_orthogonal_projection(leak: Leak) -> ImageChange:
    """Remove from every image what a linear model of its label reads.

    Sandoval-Segura et al. (arXiv 2305.19254): logistic regression on the pixels, QR of its weights, x - Q Q^T x. Here
    the deviation from the mean image is projected instead of the image, a difference of one constant image that keeps
    more values in [0, 1]; the regression is solved with L-BFGS and a small ridge instead of some epochs of gradient
    descent; and of several classes the differences of their weights are removed, all that can be read.

    Raises:
        UsageError: the targets are label maps, or the images differ in shape.
    """
    if leak.task.spatial_target:
        raise UsageError(
            "orthogonal-projection needs one label an image, and the labels are label maps; leave this "
            "countermeasure out"
        )
    train = WorkingSet(leak.train)
    images = [sample.image_model for sample in train.samples]
    shape = images[0].shape
    other = next((image.shape for image in images if image.shape != shape), None)
    if other is not None:
        raise _other_shape(shape, other)
    rows = torch.from_numpy(np.stack(images).reshape(len(images), -1)).to(leak.device)
    mean = rows.mean(dim=0)
    basis, _ = torch.linalg.qr(_linear_weights(rows - mean, train.targets().to(leak.device), leak))

    def change(image: NDArray[np.float32]) -> NDArray[np.float32]:
        if image.shape != shape:
            raise _other_shape(shape, image.shape)
        row = torch.from_numpy(image.reshape(-1)).to(leak.device)
        return in_range((row - basis @ (basis.T @ (row - mean))).reshape(shape).cpu().numpy())

    return change


def _linear_weights(rows: Tensor, targets: Tensor, leak: Leak) -> Tensor:
    """Fit logistic regression to centered images; give the directions that it reads, ``(pixels, directions)``."""
    rows = rows / rows.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)  # one scale for all image sizes
    weights = torch.zeros(rows.shape[1], leak.task.outputs, device=rows.device, requires_grad=True)
    offsets = torch.zeros(leak.task.outputs, device=rows.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, offsets], max_iter=_LINEAR_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = leak.task.loss(rows @ weights + offsets, targets).mean() + _RIDGE / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    fitted = weights.detach()
    return fitted if targets.ndim == 2 else fitted[:, 1:] - fitted[:, :1]


def _other_shape(shape: tuple[int, ...], other: tuple[int, ...]) -> UsageError:
    return UsageError(
        f"orthogonal-projection needs images of one shape, and there are {shape} and {other}; give images of one "
        "shape, or leave this countermeasure out"
    )


def fit_denoiser(leak: Leak, pairs: int) -> ImageChange:
    """Train a small network to find the noise in patches of leaked pairs, and subtract what it finds from every image.

    A residual denoiser after Zhang et al. (DnCNN, IEEE TIP 26, 2017), smaller, with dilated convolutions and without
    batch statistics. Strangers with a diffusion bridge (BridgePure, arXiv 2412.21061) do better, so this is a lower
    bound of what a leak costs. On a GPU, sums come in any order.

    Args:
        leak: see :class:`~monai_salm.evaluate.countermeasures.base.Leak`.
        pairs: how many of the leaked pairs to learn from, the first ones.

    Raises:
        UsageError: fewer pairs leaked.
    """
    if len(leak.pairs) < pairs:
        raise UsageError(
            f"denoiser-{pairs} needs {pairs} pairs of a clean and a protected image, and there are "
            f"{len(leak.pairs)}; leave this countermeasure out"
        )
    sides = ([pair[side] for pair in leak.pairs[:pairs]] for side in (0, 1))
    if leak.in_color:  # each color is an image of its own
        sides = ([image[..., color] for image in images for color in range(image.shape[-1])] for images in sides)
    clean, noisy = ([torch.from_numpy(np.ascontiguousarray(image)) for image in images] for images in sides)
    scale = float(torch.cat([(b - a).flatten() for a, b in zip(clean, noisy, strict=True)]).square().mean().sqrt())
    if scale == 0:
        return lambda image: image
    network = _NoiseFinder(clean[0].ndim, scale, leak.seed).to(leak.device)
    _train_denoiser(network, clean, noisy, leak)

    def denoised(image: NDArray[np.float32]) -> NDArray[np.floating]:
        with torch.no_grad():
            noise = network(torch.from_numpy(image)[None, None].to(leak.device))[0, 0] * scale
        result: NDArray[np.floating] = image - noise.cpu().numpy()
        return result

    return lambda image: in_range(by_channel(denoised, image) if leak.in_color else denoised(image))


class _NoiseFinder(nn.Module):
    """Convolutions that give the noise in units of ``scale``; their weights depend on the seed alone, and the global
    random state stays as it is.

    Beside the image they see what a blur takes away from it, in the same units: noise of a hundredth of the image's
    range is learned much faster.
    """

    def __init__(self, dims: int, scale: float, seed: int) -> None:
        super().__init__()
        self.scale = scale
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        channels = _DENOISER_CHANNELS[dims]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for number, dilation in enumerate(_DILATIONS):
                layers += [
                    convolution(channels if number else 2, channels, 3, padding=dilation, dilation=dilation),
                    nn.ReLU(),
                ]
            self.layers = nn.Sequential(*layers, convolution(channels, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Give the noise of images ``(batch, 1, *spatial)``."""
        noise: Tensor = self.layers(torch.cat([images, (images - binomial_blur(images)) / self.scale], dim=1))
        return noise


def _train_denoiser(network: _NoiseFinder, clean: list[Tensor], noisy: list[Tensor], leak: Leak) -> None:
    """Train on random patches."""
    generator = torch.Generator().manual_seed(leak.seed)
    dims = clean[0].ndim
    patch = [min(_DENOISER_PATCH[dims], *lengths) for lengths in zip(*(image.shape for image in clean), strict=True)]
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _DENOISER_STEPS)
    for _ in range(_DENOISER_STEPS):
        cut: tuple[list[Tensor], list[Tensor]] = ([], [])
        for index in torch.randint(len(clean), (_DENOISER_BATCH[dims],), generator=generator).tolist():
            starts = [
                int(torch.randint(n - m + 1, (1,), generator=generator))
                for n, m in zip(clean[index].shape, patch, strict=True)
            ]
            region = tuple(slice(start, start + m) for start, m in zip(starts, patch, strict=True))
            for patches, images in zip(cut, (clean, noisy), strict=True):
                patches.append(images[index][region])
        before, after = (torch.stack(patches)[:, None].to(leak.device) for patches in cut)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.mse_loss(network(after), (after - before) / network.scale).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


PURIFICATIONS = [
    Countermeasure(name="orthogonal-projection", fit=fit_orthogonal_projection),
    *(
        Countermeasure(name=f"denoiser-{pairs}", fit=partial(fit_denoiser, pairs=pairs), leaked_pairs=pairs)
        for pairs in (10, 100, 500)
    ),
]
