# SPDX-License-Identifier: Apache-2.0
"""What the figures mean, in plain words: names, verdicts and limits. A weak result is never called protected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monai_salm.evaluate.countermeasures import COUNTERMEASURES, NO_COUNTERMEASURE
from monai_salm.evaluate.report.markup import number, percent
from monai_salm.evaluate.results import CLEAN, CLEAN_PART, victim_name

Row = Mapping[str, Any]

NONE = NO_COUNTERMEASURE.name

VERDICTS = ("protected", "weakened", "not protected", "not learned")
"""From the best to the one that says nothing; a verdict of another name counts as ``not protected``."""

SIGNS = {"protected": "\u2713", "weakened": "\u25d0", "not protected": "\u2717", "not learned": "?"}

MEANINGS = {
    "protected": "on clean test images the network is close to a guess, at the end of its training and at its best "
    "epoch",
    "weakened": "it is better than that, but the protection takes away at least half of what training on the "
    "originals gives",
    "not protected": "it keeps more than half of what training on the originals gives",
    "not learned": "it hardly learned from the originals either, so nothing can be said",
}

KNOWN_VICTIMS = (
    "small-resnet", "small-cnn", "resnet18", "resnet18-3x3", "resnet50", "DenseNet121", "EfficientNetBN", "ViT",
    "small-unet", "UNet", "AttentionUnet", "DynUNet", "SegResNet", "SwinUNETR",
)  # fmt: skip
NEVER_MEASURED = (
    "diffusion purifiers (AVATAR, DiffPure), D-VAE, ECLIPSE, the full BridgePure, foundation models, "
    "networks or settings made for your images"
)

LIMITS = (
    ("No safeguard by itself", "This is no encryption, no anonymization, no access control, and fulfills no duty "
                               "under GDPR or HIPAA. Patients stay "
     "identifiable, and what the images show stays readable."),
    ("The change can be seen", "Up to the share of the anatomy that the table above names is changed, by as much as "
                               "the bound. Who looks for it sees it: fine "
     "stripes or grain in even tissue. The images below show where."),
    ("Measurements are biased", "The mean of a small region can move by as much as the bound (measured on CT: by 12 "
                                "HU in a region of 15 x 15 pixels, with a "
     "bound of 12 HU); where the files were verified, a table above says by how much it did. Do not measure densities, "
     "uptake, textures or radiomics in protected images."),
    ("Models in use may be misled", "Noise moves the scores of networks that were trained on clean images; the table "
                                    "of the clinical utility says by how much for one of them. Targeted noise is "
                                    "adversarial: it is made to move them. A small movement here is no promise for "
                                    "another network. Do not feed protected images to models in use."),
    ("Cheap steps can undo it", "JPEG compression, filters, strong augmentation, adversarial training, orthogonal "
                                "projection, early stopping. In the "
     "literature, JPEG compression or conversion to gray restored all of twelve published methods."),
    ("Purifiers can undo it", "A few hundred leaked pairs of clean and protected images are enough to train one. Any "
                              "clean release of the same images, "
     "earlier or later, ends the protection. This software is public, so anybody can make such pairs from images "
     "of their own."),
    ("Little effect on some networks", "Pretrained and foundation models, training sets that clean images are mixed "
                                       "into (20 % restored most of the "
     "performance in the literature), other tasks, and methods to come. There is no guarantee."),
    ("It can be found out", "Simple networks can tell protected images from others; who knows of the noise will try "
                            "to remove it, and who does not may be "
     "misled without noticing. Label what you release: the method, the bound, and whom to ask."),
    ("Not for diagnosis", "Diagnostic pixels were changed. Do not use protected images in clinical care, keep the "
                          "originals, and mark the images as derived."),
    ("Sparse noise has its own weak sides", "It is expected to be weaker under JPEG compression, resampling and "
                                            "median filters, and noise that follows a "
     "labeled region can give the label away. The figures hold for the images, networks and countermeasures of "
     "this page, and for no others."),
    ("It can be misused", "The same method can spoil shared data sets. Provenance in the files and a verifier come "
                          "with it; do not upload protected images "
     "to collections of others without saying so."),
)  # fmt: skip

_SCORES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auc": "AUC",
    "mcc": "MCC",
    "dice": "Dice",
    "hd95": "HD95",
    "peak": "peak",
    "reliance": "reliance",
}


@dataclass(frozen=True)
class Headline:
    """The verdict on one protected folder.

    Args:
        folder: its name in the report.
        level: ``good``, ``caution``, ``bad`` or ``unknown``.
        title: one line.
        sentences: what is behind it.
        counts: tests by verdict.
    """

    folder: str
    level: str
    title: str
    sentences: list[str]
    counts: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Give it as data."""
        return asdict(self)


def score_name(name: str) -> str:
    """Give the name of a score for people: ``dice_1`` is ``Dice of class 1``."""
    main, _, index = name.rpartition("_")
    return (
        f"{_SCORES[main]} of class {index}"
        if main in _SCORES and index.isdigit()
        else _SCORES.get(name, name.replace("_", " "))
    )


def verdict_of(row: Row) -> str:
    """Give a row's verdict; one that is not known counts as the worst."""
    return row["verdict"] if row.get("verdict") in VERDICTS else "not protected"


def is_whole(row: Row) -> bool:
    """True where the victim saw no clean images beside the protected ones."""
    return row.get("protected_share", 1.0) is None or row.get("protected_share", 1.0) >= 1


def protected_folders(report: Row) -> list[str]:
    """Name the protected folders in the order of the report."""
    named = (row["trained_on"] for key in ("verdicts", "summary", "results") for row in report.get(key) or ())
    return [name for name in dict.fromkeys(named) if name not in (CLEAN, CLEAN_PART)]


def measured_folder(report: Row) -> str:
    """Name the protected folder that was verified and measured for its utility, and that examples are of; empty where
    it is not said.
    """
    return (report.get("verification") or {}).get("folder") or ""


def describe(row: Row) -> str:
    """Name a victim with its countermeasure."""
    name = victim_name(row)
    return f"{name}, no countermeasure" if row["countermeasure"] == NONE else f"{name} with {row['countermeasure']}"


def headlines(report: Row) -> list[Headline]:
    """Give the verdict on each protected folder; one that says so where nothing was measured."""
    folders = protected_folders(report)
    return [_headline(report, folder) for folder in folders] or [
        Headline("", "unknown", "No verdict: nothing was measured", [], {})
    ]


def weakest(rows: Iterable[Row]) -> Row | None:
    """Find the test in which the protection took away least, among those in which the network can learn."""
    judged = [row for row in rows if verdict_of(row) != "not learned" and row.get("kept") is not None]
    return min(judged, key=lambda row: (-VERDICTS.index(verdict_of(row)), row["kept"]), default=None)


def _headline(report: Row, folder: str) -> Headline:
    rows = [row for row in report.get("verdicts") or () if row["trained_on"] == folder]
    whole, mixed = [row for row in rows if is_whole(row)], [row for row in rows if not is_whole(row)]
    found = Counter(map(verdict_of, whole))
    counts = {name: found[name] for name in VERDICTS}
    broken = what_is_broken(report) if measured_folder(report) in ("", folder) else ""
    level, title = _title(whole, counts)
    sentences = [f"{_of_all(counts)}."] if whole else []
    plain = [row for row in whole if row["countermeasure"] == NONE]
    if level == "bad" and plain and all(verdict_of(row) == "protected" for row in plain):
        sentences.append(
            "Without a countermeasure all networks stay close to a guess: who takes the trouble of one gets more."
        )
    if (worst := weakest(whole)) is not None:
        sentences.append(_weakest_sentence(worst, report))
    if mixed:
        learned = sum(verdict_of(row) != "protected" for row in mixed)
        sentences.append(f"Once clean images are mixed in, networks learn in {learned} of {len(mixed)} such tests.")
    if broken:
        level, title = "bad", f"{broken} {title}"
    sentences.append(_trust(report, folder))
    return Headline(folder, level, title, sentences, counts)


def _title(rows: Sequence[Row], counts: Mapping[str, int]) -> tuple[str, str]:
    total = len(rows)
    if counts["not protected"]:
        return "bad", f"Not protected in {counts['not protected']} of {total} tests"
    if counts["weakened"]:
        return "caution", f"Only weakened in {counts['weakened']} of {total} tests: networks still learn something"
    if not counts["protected"]:
        return (
            "unknown",
            "No verdict: no network learned from the originals" if total else "No verdict: nothing was measured",
        )
    if counts["not learned"]:
        return "caution", f"Protected where it could be judged; {counts['not learned']} of {total} tests say nothing"
    if all(row["countermeasure"] == NONE for row in rows):
        return "caution", "Protected against plain training; no countermeasure was tested"
    return "good", f"Protected in all {total} tests that were made"


def _of_all(counts: Mapping[str, int]) -> str:
    unknown = counts["not learned"]
    rest = (
        f", {unknown} without a verdict, since the network did not learn from the originals either" if unknown else ""
    )
    return (
        f"Of {sum(counts.values())} combinations of a network with a countermeasure: "
        f"{', '.join(f'{counts[name]} {name}' for name in VERDICTS[:3])}{rest}"
    )


def _weakest_sentence(row: Row, report: Row) -> str:
    score = score_name(report.get("main_score") or "score")
    guess = "" if report.get("chance") is None else f"; a guess gives {number(report['chance'], 2)}"
    taken = f"{percent(row['kept'])} of what there is to learn" if row["kept"] > 0 else "nothing"
    return (
        f"The weakest point: {describe(row)}. Trained on the protected images it reaches a {score} of "
        f"{number(row.get('protected'), 2)} on clean test images "
        f"(at its best epoch {number(row.get('peak'), 2)}); trained on the originals "
        f"{number(row.get('clean'), 2)}{guess}. "
        f"The protection takes away {taken}."
    )


def _trust(report: Row, folder: str) -> str:
    rows = [row for row in report.get("summary") or () if row["trained_on"] == folder]
    seeds = min((row.get("seeds") or 1 for row in rows), default=0)
    trainings = (
        f"{seeds} trainings per combination"
        if seeds > 1
        else "one training per combination, so the part of chance is not known"
    )
    test = (report.get("counts") or {}).get("test")
    images = "" if test is None else f", scored on {test} clean test images"
    measured = f"Measured with {trainings}{images}. " if seeds else ""
    tried = {row["countermeasure"] for row in [*rows, *(report.get("verdicts") or ())]}
    missing = [name for name in COUNTERMEASURES if name not in tried]
    known = len(COUNTERMEASURES) - 1
    untried = (
        f"{len(missing)} of the {known} countermeasures that this software knows were not tried. " if missing else ""
    )
    return f"{measured}{untried}Nothing is known of what was not tested."


def is_broken(modality: Row) -> bool:
    """True where the largest change of a modality is above its bound."""
    bound = modality.get("epsilon_stored")
    if modality.get("beyond_bound"):
        return True
    return bound is not None and (modality.get("largest_change_stored") or 0) > bound + 1e-6


def what_is_broken(report: Row) -> str:
    """Say which of the promises about the files are broken; empty where none is."""
    found = report.get("verification") or {}
    names = [str(row["modality"] or "unknown modality") for row in found.get("modalities") or () if is_broken(row)]
    absent = found.get("absent_without_reason") or 0
    mismatches = ((found.get("counts") or {}).get("mismatch") or 0) - absent
    said = [f"A bound is broken ({', '.join(names)})."] if names else []
    said += [f"Verification found {mismatches} files that are not as they should be."] if mismatches > 0 else []
    said += [f"{absent} files are absent, and nothing says why."] if absent else []
    return " ".join(said)
