# SPDX-License-Identifier: Apache-2.0
"""Trials of noises in memory, on training and validation images alone: how the optimizer got its settings.

    python benchmarks/lab/trials.py --data DATA --data-set breast clean gclean@3@7 minmin@per=3,rounds=4,ns=4
    python benchmarks/lab/trials.py --data DATA --victims small-cnn,resnet18 --countermeasures none,jpeg-50 full@4
    python benchmarks/lab/trials.py --data DATA --data-set brain_tumor hv@3@7@5
    python benchmarks/lab/trials.py --data DATA --data-set hippocampus label@4@4 salm:lattice em@renew_every=4

``noises.py`` lists the variants of images, ``volumes.py`` those of volumes. Victims train as in the other benchmarks,
but on few images, by default with one seed. Balanced accuracy, AUC and Dice are those after the last epoch, ``recall``
is the share of each class's images that is recognized, ``dice_on_protected`` the Dice of a victim on what it was
trained on; PSNR is the mean over images, in dB. With ``--utility`` a row has ``auc_change`` instead: how far noise in
the images that are scored moves the AUC of a victim of clean images.

The rows of the commits 3958424+ and 8ac61d3+ came from an earlier form of these scripts, with the same arithmetic; most
of their scores have two digits. To redo a row, give its number of epochs, too.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from noises import BATCH, Pictures, fit, generator, new_network
from searches import protect
from torch import Tensor, nn
from torch.nn import functional
from volumes import load_volumes, noise_steps, protect_volumes

from monai_salm.errors import UsageError
from monai_salm.evaluate.countermeasures.base import Leak
from monai_salm.evaluate.countermeasures.filters import FILTERS
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import logits_of
from monai_salm.learning.tasks import LearningTask, SegmentationTask
from monai_salm.learning.victims import main_score

sys.path.insert(0, str(Path(__file__).parents[1]))  # what all benchmarks share

from common import RESULTS, Rows
from drawn_cells import drawn_cells

CONSUMER = ConsumerAugmentation(identity=0.0)
IMAGES = 1200
SCORING_VOLUMES = (160, 184)
"""Volumes that score, in the order of their names; those that train are the first ones."""
CHANGES = {"none": None} | {found.name: found for found in FILTERS}


def main() -> None:
    """Run trials."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("variants", nargs="+")
    arguments.add_argument("--data", type=Path, required=True, help="folder of the data sets, see benchmarks/README.md")
    arguments.add_argument(
        "--data-set",
        choices=["pneumonia", "breast", "brain_tumor", "eight", "cells", "hippocampus"],
        default="pneumonia",
    )
    arguments.add_argument(
        "--victims", default="", help="small-cnn,small-resnet for images and small-unet for volumes, if none is named"
    )
    arguments.add_argument("--countermeasures", default="none", help=f"for images: {','.join(CHANGES)}")
    arguments.add_argument(
        "--utility",
        action="store_true",
        help="score noisy validation images with victims that were trained on clean ones, instead",
    )
    arguments.add_argument("--seeds", type=int, default=1, help="of victims; the noise is made once")
    arguments.add_argument(
        "--epochs",
        type=int,
        default=0,
        help="of victims; else 8 for images, but 300 batches at least, and as many for volumes as make 804 batches",
    )
    arguments.add_argument("--flips-alone", action="store_true", help="victims of volumes see no shifts")
    arguments.add_argument("--volumes", type=int, default=48, help="volumes that train, 160 at most")
    arguments.add_argument("--shape", default="24x40x24", help="that volumes are cut to, multiples of 8")
    arguments.add_argument("--steps", type=float, default=8, help="budget in volumes, in steps of 255")
    arguments.add_argument(
        "--results",
        type=Path,
        default=RESULTS / "lab.jsonl",
        help="file that rows are added to",
    )
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = Rows(given.results, keep=True)
    if given.utility and given.data_set == "hippocampus":
        arguments.error("--utility is for images; give another data set")
    (try_volumes if given.data_set == "hippocampus" else try_utility if given.utility else try_pictures)(given, rows)


def try_pictures(given: argparse.Namespace, rows: Rows) -> None:
    """Train victims on the images of each variant, after each countermeasure."""
    data, test, test_labels = load_pictures(given.data, given.data_set)
    epochs = given.epochs or max(8, math.ceil(300 / (len(data.images) // BATCH)))
    for variant in given.variants:
        protected, passes = protect(data, variant)
        noise = psnr((data.images - protected)[..., : data.size, : data.size]) if variant != "clean" else None
        for victim in (given.victims or "small-cnn,small-resnet").split(","):
            for name, seed in product(given.countermeasures.split(","), range(given.seeds)):
                began = time.monotonic()
                images, others = filtered(protected, name), filtered(test, name)
                scores = train(
                    victim, data.task, images, data.labels, others, test_labels, epochs=epochs, batch=BATCH, seed=seed
                )
                rows.add(
                    what="trial", data_set=given.data_set, part="val", epsilon="8/255", variant=variant, victim=victim,
                    countermeasure=name, epochs=epochs,
                    seed=seed, **scores, psnr=noise, passes=None if passes is None else round(passes),
                    seconds=round(time.monotonic() - began),
                )  # fmt: skip


def try_utility(given: argparse.Namespace, rows: Rows) -> None:
    """Train victims on clean images, and score them on clean images and on those of each variant."""
    data, test, test_labels = load_pictures(given.data, given.data_set)
    epochs = given.epochs or max(8, math.ceil(300 / (len(data.images) // BATCH)))
    variants = [(variant, protect(Pictures(test, test_labels, data.size), variant)[0]) for variant in given.variants]
    for victim, seed in product((given.victims or "small-cnn,small-resnet").split(","), range(given.seeds)):
        network, scores = trained(
            victim, data.task, data.images, data.labels, test, test_labels, epochs=epochs, batch=BATCH, seed=seed
        )
        for variant, images in variants:
            change = score(network, data.task, images, test_labels, 4 * BATCH)["auc"] - scores["auc"]
            rows.add(
                what="utility trial", data_set=given.data_set, part="val", epsilon="8/255", variant=variant,
                victim=victim, epochs=epochs, seed=seed,
                auc=round(scores["auc"], 3), auc_change=round(change, 3),
            )  # fmt: skip


def try_volumes(given: argparse.Namespace, rows: Rows) -> None:
    """Train victims on the volumes of each variant."""
    shape = tuple(map(int, given.shape.split("x")))
    data, test = (
        load_volumes(given.data / "hippocampus", *numbers, shape) for numbers in ((0, given.volumes), SCORING_VOLUMES)
    )
    epochs = given.epochs or math.ceil(804 / math.ceil((given.volumes - 1) / 4))
    consumer = replace(CONSUMER, shift=0.0) if given.flips_alone else CONSUMER
    for variant in given.variants:
        began = time.monotonic()
        protected, passes = protect_volumes(data, variant, given.steps)
        change, seconds_of_noise = protected - data.images, round(time.monotonic() - began)
        noise = psnr(change, data.images > 0) if variant != "clean" else None
        for victim, seed in product((given.victims or "small-unet").split(","), range(given.seeds)):
            began = time.monotonic()
            network, scores = trained(
                victim, data.task, protected, data.labels, test.images, test.labels,
                epochs=epochs, batch=4, seed=seed, scorings=10, consumer=consumer,
            )  # fmt: skip
            seen = score(network, data.task, protected, data.labels, 8)["dice"]
            rows.add(
                what="trial", data_set="hippocampus", part="val", epsilon=f"{noise_steps(variant, given.steps):g}/255",
                variant=variant, victim=victim, countermeasure="none", shape=given.shape, volumes=given.volumes,
                shift=consumer.shift, epochs=epochs,
                steps=epochs * math.ceil((len(data.images) - 1) / 4), seed=seed, **rounded(scores),
                dice_on_protected=round(seen, 3), psnr=noise, changed=round(float((change != 0).float().mean()), 3),
                passes=None if passes is None else round(passes), noise_seconds=seconds_of_noise,
                seconds=round(time.monotonic() - began),
            )  # fmt: skip


def train(
    name: str,
    task: LearningTask,
    images: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    epochs: int,
    batch: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a victim, and give its scores."""
    network, scores = trained(name, task, images, labels, test, test_labels, epochs=epochs, batch=batch, seed=seed)
    return rounded(scores) | {"recall": recall(network, test, test_labels, 4 * batch)}


def rounded(scores: dict[str, Any]) -> dict[str, Any]:
    return {
        key: [round(part, 3) for part in value] if isinstance(value, list) else round(value, 3)
        for key, value in scores.items()
    }


def trained(
    name: str,
    task: LearningTask,
    images: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    epochs: int,
    batch: int,
    seed: int,
    scorings: int = 0,
    consumer: ConsumerAugmentation = CONSUMER,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a victim, and score it after each epoch or about so many times: give its last scores, the best, and the
    curve.
    """
    source, network = generator(seed), new_network(name, task, images, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    curve, often = [], max(1, epochs // scorings) if scorings else 1
    for epoch in range(epochs, 0, -1):
        fit(
            network,
            optimizer,
            task,
            images,
            labels,
            consumer,
            source,
            steps=math.ceil((len(images) - 1) / batch),
            batch=batch,
        )
        schedule.step()
        if (epoch - 1) % often:
            continue
        scores = score(network, task, test, test_labels, 2 * batch if task.spatial_target else 4 * batch)
        curve.append(scores[main_score(task)])
    return network, scores | {"peak": max(curve), "curve": curve}


def score(network: nn.Module, task: LearningTask, images: Tensor, labels: Tensor, batch: int) -> dict[str, float]:
    with torch.no_grad():
        parts = [
            task.evidence(
                logits_of(network, images[start : start + batch]), labels[start : start + batch], distances=False
            )
            for start in range(0, len(images), batch)
        ]
    return task.summarize(torch.cat(parts))


def recall(network: nn.Module, images: Tensor, labels: Tensor, batch: int) -> list[float]:
    """Give the share of each class's images that are recognized."""
    with torch.no_grad():
        found = torch.cat([logits_of(network, part).argmax(1) for part in images.split(batch)])
    return [round(float((found[labels == k] == k).double().mean()), 3) for k in labels.unique().tolist()]


def filtered(images: Tensor, name: str) -> Tensor:
    """Give images after a countermeasure that changes each one by itself."""
    if name not in CHANGES:
        raise UsageError(f"countermeasure {name!r} is no filter; give one of {', '.join(CHANGES)}")
    found = CHANGES[name]
    if found is None or found.fit is None:
        return images
    change = found.fit(Leak([], [], SegmentationTask(2), 0, torch.device("cpu")))  # filters look at none of it
    return torch.from_numpy(np.stack([change(image) for image in images[:, 0].numpy()]))[:, None]


def psnr(change: Tensor, inside: Tensor | None = None) -> float:
    """Give the mean over images, in dB; of cells inside alone if they are given."""
    squared = (change**2).flatten(1)
    mean = squared.mean(1) if inside is None else squared.sum(1) / inside.flatten(1).sum(1)
    return round(float((-10 * torch.log10(mean.clamp(min=1e-9))).mean()), 1)


# Data
# --------------------------------------------------------------------------------------------------------------


def load_pictures(folder: Path, name: str) -> tuple[Pictures, Tensor, Tensor]:
    """Give training images, and others with labels to score on; none of them is a test image."""
    if name == "eight":
        parts = _eight_classes(folder)
    elif name == "cells":
        parts = [(images[:IMAGES], labels[:IMAGES]) for images, labels in map(drawn_cells, ("train", "val"))]
    elif name == "brain_tumor":
        images, labels = _slices(folder / "brain_tumor" / "train")
        order = np.random.default_rng(0).permutation(len(labels))
        parts = [(images[chosen], labels[chosen]) for chosen in (order[:IMAGES], order[IMAGES : IMAGES + 400])]
    else:
        arrays = np.load(
            folder / {"pneumonia": "pneumonia/pneumoniamnist.npz", "breast": "breast/breastmnist.npz"}[name]
        )
        parts = [(arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel()) for split in ("train", "val")]
        count = 400 if name == "breast" else IMAGES
        (images, labels), others = parts
        if name == "breast":  # its 78 validation images are too few
            others = (np.concatenate([others[0], images[count:]]), np.concatenate([others[1], labels[count:]]))
        parts = [(images[:count], labels[:count]), others]
    (images, labels), (test, test_labels) = ((_padded(x), torch.from_numpy(y.astype(np.int64))) for x, y in parts)
    return Pictures(images, labels, parts[0][0].shape[2]), test, test_labels


def _eight_classes(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give eight classes of 28 x 28: those of PneumoniaMNIST, of BreastMNIST and of the brain tumor slices, 100 images
    of each to train on and 45 others to score on; none of them is a test image.
    """
    images, labels = _slices(folder / "brain_tumor" / "train", 28)
    classes = [images[labels == label] for label in range(4)]
    for path in ("pneumonia/pneumoniamnist.npz", "breast/breastmnist.npz"):
        arrays = np.load(folder / path)
        classes += [arrays["train_images"][arrays["train_labels"].ravel() == label] for label in (0, 1)]
    cuts = [np.random.default_rng(0).permutation(len(found))[:145] for found in classes]
    return [
        (
            np.concatenate([found[cut[part]] for found, cut in zip(classes, cuts, strict=True)]),
            np.repeat(np.arange(8), len(cuts[0][part])),
        )
        for part in (slice(0, 100), slice(100, 145))
    ]


def _slices(folder: Path, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Read the pictures of a folder per class."""
    from PIL import Image

    images, labels = [], []
    for label, group in enumerate(sorted(folder.iterdir())):
        for path in sorted(group.iterdir()):
            images.append(np.asarray(Image.open(path).convert("L").resize((side, side), Image.Resampling.BOX)))
            labels.append(label)
    return np.stack(images), np.array(labels)


def _padded(images: np.ndarray) -> Tensor:
    """Give model values of 8-bit images, channels first, padded so that 8 divides their sides."""
    values = torch.from_numpy(images.astype(np.float32) / 255)
    values = values[:, None] if values.ndim == 3 else values.movedim(-1, 1)
    pad = -values.shape[-1] % 8
    return functional.pad(values, (0, pad, 0, pad))


if __name__ == "__main__":
    main()
