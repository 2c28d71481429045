# SPDX-License-Identifier: Apache-2.0
"""SALMProtectd inside a training pipeline that exists: one more line behind loading, and the network sees the values
that ``monai-salm protect`` wrote, though only the originals and the noise are on the disk.

    python 02_training_pipeline.py                                   # slices that it makes
    python 02_training_pipeline.py EXPORT labels.csv OUT.work/noise  # originals, a table (path,label), a run's noise
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from made_up_data import Arguments, make_slices, start
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandFlipd, Resized, ScaleIntensityd
from torch import nn

from monai_salm import ProtectOptions, build_network, protect
from monai_salm.transforms import SALMProtectd


def make_noise(export: Path, labels: Path, out: Path) -> Path:
    """Protect the slices, and give the folder of the noise."""
    done = protect(export, out, ProtectOptions(labels=labels, method="textures"))  # fast; salm is what to use
    print(done.to_json()["counts"])
    return done.work_dir / "noise"


def pipeline(noise: Path | None) -> Compose:
    """Give the transforms of a training, without or with protection."""
    protection = [] if noise is None else [SALMProtectd("image", noise=noise)]
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            *protection,  # the line that is new: right behind loading, before anything else touches the values
            ScaleIntensityd("image"),
            Resized("image", (32, 32)),
        ]
    )


def train(files: list[dict[str, object]], noise: Path | None, classes: int, epochs: int) -> float:
    """Train a small network, as always, and give the mean loss of its last epoch."""
    flips = Compose([pipeline(noise), RandFlipd("image", prob=0.5, spatial_axis=1)])
    loader = DataLoader(CacheDataset(files, flips, progress=False), batch_size=8, shuffle=True)
    torch.manual_seed(0)
    network, loss = build_network("small-cnn", spatial_dims=2, outputs=classes), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        losses = []
        for batch in loader:
            optimizer.zero_grad()
            value = loss(network(batch["image"].as_tensor()), batch["label"])
            value.backward()
            optimizer.step()
            losses.append(value.item())
    return sum(losses) / len(losses)


def main(arguments: argparse.Namespace, folder: Path) -> None:
    """Show what the transform changes, and train the same network without and with it."""
    export, labels, noise = arguments.export, arguments.labels, arguments.noise
    if noise is None:
        export, labels = make_slices(folder / "export", folder / "labels.csv", count=24)
        noise = make_noise(export, labels, folder / "out")
    with labels.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    files = [{"image": str(export / row["path"]), "label": names.index(row["label"])} for row in rows]

    load = [LoadImaged("image"), EnsureChannelFirstd("image")]
    before = Compose(load)(files[0])["image"]
    change = (Compose([*load, SALMProtectd("image", noise=noise)])(files[0])["image"] - before).abs()
    print(f"{rows[0]['path']}: {(change > 0).float().mean():.0%} of the values move, by at most {change.max():g}")
    for what, stored in (("originals", None), ("originals with SALMProtectd", noise)):
        print(f"trained on {what}: loss {train(files, stored, len(names), arguments.epochs):.3f}")
    print("What a network that was trained so is worth on clean images, evaluate measures: 05_compare_methods.py")


def parser() -> Arguments:
    """Say which arguments there are."""
    found = Arguments(description="Train with SALMProtectd in the pipeline.")
    found.add_argument("export", type=Path, nargs="?", help="folder of originals")
    found.add_argument("labels", type=Path, nargs="?", help="table with columns path and label")
    found.add_argument("noise", type=Path, nargs="?", help="folder noise of the work folder of a run over them")
    found.add_argument("--epochs", type=int, default=6, help="of each training")
    return found


if __name__ == "__main__":
    start(main, parser())
