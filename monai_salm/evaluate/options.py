# SPDX-License-Identifier: Apache-2.0
"""What an evaluation can be told."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from monai_salm.budget import Epsilon
from monai_salm.errors import UsageError
from monai_salm.evaluate.countermeasures import COUNTERMEASURES, Countermeasure, find_countermeasure
from monai_salm.evaluate.results import FLIPS
from monai_salm.learning.augmentations import AUGMENTATIONS, find_augmentation
from monai_salm.learning.networks import DEFAULT_NETWORKS
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.pipeline.labeling import SampleOptions
from monai_salm.windows import parse_window


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What ``monai-salm evaluate`` can be told; the command's options have the same names.

    Args:
        labels, label_column, labels_from_folders, task: as in :class:`~monai_salm.pipeline.labeling.SampleOptions`.
        test_labels: labels of the test images; None takes ``labels``.
        countermeasures: names, separated by commas, or ``all``.
        victims: names of networks, separated by commas; empty takes a small one.
        seeds: trainings per network and folder, with seeds 0, 1, ...
        epochs: of each training; more where they make fewer than ``least_steps``.
        least_steps: optimizer steps of each training at least; None takes what
            :data:`~monai_salm.learning.victims.LEAST_STEPS` says.
        augmentation: what victims do to their images: ``none``, ``flips`` (and shifts), ``nnunet``, or several of
            these, separated by commas, each with trainings of its own.
        protected_shares: percentages of the training images that are protected, separated by commas; the other images
            are clean.
        pretrain: unlabeled clean images that victims with ``+pretrained`` or ``+frozen`` see first; None takes the test
            images.
        utility: measure what the protected images are still worth to a network that was trained on clean ones, and how
            far their features drift.
        verification: check the first protected folder against its originals first, as ``verify`` does.
        epsilon: bound to hold its files to; empty takes what DICOM files state, and for others what the manifest of
            their run says, if it is beside them.
        report: page to write, with its figures as JSON and its trainings as CSV beside it; None writes none.
        state: file that finished trainings are kept in, and taken from when the evaluation is run again; None keeps
            none.
        window, modality, device: as in :class:`~monai_salm.pipeline.options.ProtectOptions`.
        sample, working_size, label_maps, pictures: as in ``SampleOptions``.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import EvaluateOptions
        >>> options = EvaluateOptions(labels=Path("labels.csv"), countermeasures="jpeg-50", victims="small-cnn,ViT")
        >>> [chosen.name for chosen in options.chosen_countermeasures()[0]], options.victim_names()
        (['jpeg-50'], ['small-cnn', 'ViT'])
    """

    labels: Path | None = None
    label_column: str | None = None
    labels_from_folders: bool = False
    task: str = "classification"
    test_labels: Path | None = None
    countermeasures: str = "none"
    victims: str = ""
    seeds: int = 1
    epochs: int = 20
    least_steps: int | None = None
    augmentation: str = FLIPS
    protected_shares: str = "100"
    pretrain: Path | None = None
    utility: bool = True
    verification: bool = True
    epsilon: str = ""
    report: Path | None = None
    state: Path | None = None
    window: str = "auto"
    modality: str = ""
    sample: str = "auto"
    working_size: int = 128
    device: str = "auto"
    label_maps: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()

    def sample_options(self, *, test: bool = False) -> SampleOptions:
        """Give the options that say what the samples are, and where the labels of the training or the test images are;
        raises UsageError.
        """
        return SampleOptions(
            labels=(self.test_labels or self.labels) if test else self.labels, label_column=self.label_column,
            labels_from_folders=self.labels_from_folders, task=self.task, sample=self.sample,
            working_size=self.working_size, label_maps=self.label_maps, pictures=self.pictures,
        )  # fmt: skip

    def budget_options(self) -> BudgetOptions:
        """Give the options that say what values mean; no noise is made here, so there are no budgets."""
        return BudgetOptions(epsilon=None, window=parse_window(self.window), modality=self.modality)

    def check_epsilon(self) -> Epsilon | None:
        """Give the bound to hold files to, None for what they state themselves, or raise UsageError."""
        return Epsilon.parse(self.epsilon) if self.epsilon else None

    def to_json(self) -> dict[str, Any]:
        """Give what a reader of the report needs to repeat it, without the places of this machine."""
        names = (
            "task",
            "victims",
            "countermeasures",
            "protected_shares",
            "seeds",
            "epochs",
            "least_steps",
            "augmentation",
            "epsilon",
            "window",
            "modality",
            "sample",
            "working_size",
        )
        return {name: getattr(self, name) for name in names} | {
            "label_maps": list(self.label_maps),
            "pictures": list(self.pictures),
        }

    def victim_names(self) -> list[str]:
        """Give the networks in order."""
        return _items(self.victims) or [DEFAULT_NETWORKS[self.task]]

    def augmentations(self) -> list[str]:
        """Give the names of what victims do to their images, in order, or raise UsageError."""
        names = _items(self.augmentation)
        for name in names:
            find_augmentation(name)
        if not names:
            raise UsageError(f"no augmentation is named; give some of {', '.join(AUGMENTATIONS)}")
        return names

    def chosen_countermeasures(self, images: float = inf) -> tuple[list[Countermeasure], list[str]]:
        """Give the countermeasures in order, ``none`` first, and notes on those that ``all`` leaves out.

        Args:
            images: how many can leak; while that is not known, as many as are needed.

        Raises:
            UsageError: one that is named is unknown, lacks a package, or needs more images.
        """
        everything = self.countermeasures.strip() == "all"
        chosen, notes = [], []
        for name in COUNTERMEASURES if everything else _items(self.countermeasures):
            try:
                found = find_countermeasure(name)
                if found.leaked_pairs > images:
                    raise UsageError(
                        f"countermeasure {name!r} needs {found.leaked_pairs} leaked pairs, of {images} images; "
                        "leave it out"
                    )
                chosen.append(found)
            except UsageError as error:
                if not everything:
                    raise
                notes.append(f"not measured: {error}")
        if not chosen:
            raise UsageError(f"no countermeasure is named; give 'none', 'all', or some of {', '.join(COUNTERMEASURES)}")
        return sorted(chosen, key=lambda found: found.name != "none"), notes

    def shares(self) -> list[float]:
        """Give the shares of protected images, the largest first.

        Raises:
            UsageError: one is no percentage.
        """
        shares = set()
        for text in _items(self.protected_shares):
            try:
                share = float(text.rstrip("%")) / 100
            except ValueError:
                share = 0.0
            if not 0.01 <= share <= 1:  # 0.2 is meant as a fifth, and would be taken for two in a thousand
                raise UsageError(
                    f"protected share {text!r} is not a percentage from 1 to 100; give for example 20,40,60,80,100"
                )
            shares.add(share)
        return sorted(shares, reverse=True)


def _items(text: str) -> list[str]:
    """Split a list at its commas; each item counts once."""
    return list(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
