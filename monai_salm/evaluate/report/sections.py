# SPDX-License-Identifier: Apache-2.0
"""The sections of the page: each gives its content, or nothing where there is nothing to say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from monai_salm.evaluate.countermeasures import COUNTERMEASURES
from monai_salm.evaluate.report import figures, wording
from monai_salm.evaluate.report.markup import Markup, element, join, number, percent, signed, table
from monai_salm.evaluate.report.pictures import ExamplePair, show_example
from monai_salm.evaluate.results import FLIPS
from monai_salm.learning.augmentations import AUGMENTATIONS
from monai_salm.progress import in_words


def proof(report: Mapping[str, Any]) -> Markup:
    """Show what was changed in the files, beside its bounds, per modality."""
    found = report.get("verification")
    if not found:
        return element(
            "p",
            "The files were not verified for this report. monai-salm verify ORIGINAL PROTECTED proves the bounds "
            "from the files alone.",
        )
    broken = wording.what_is_broken(report)
    rows = []
    for row in found.get("modalities") or ():
        largest, bound = row.get("largest_change_stored"), row.get("epsilon_stored")
        name = str(row["modality"] or "unknown modality")
        kept = "no bound known" if bound is None else "broken" if wording.is_broken(row) else "kept"
        sign = {"kept": "protected", "broken": "not-protected"}.get(kept, "not-learned")
        rows.append([
            name, row.get("files"), number(largest, 1), number(bound, 1),
            element("td", element("span", kept, class_=f"verdict {sign}")),
            f"{number(row.get('lowest_psnr'), 1)} dB", f"{number(row.get('mean_psnr'), 1)} dB",
            percent(row.get("mean_changed_fraction"), 1),
            percent(row.get("largest_changed_fraction"), 1), row.get("bound_from") or "not stated",
        ])  # fmt: skip
    head = [
        "modality",
        "files",
        "largest change",
        "bound",
        "the bound is",
        "lowest PSNR",
        "mean PSNR",
        "changed, mean",
        "changed, most",
        "bound known from",
    ]
    counts = ", ".join(f"{count} {name}" for name, count in (found.get("counts") or {}).items())
    text = (
        "Read back from the written files: no voxel outside the anatomy may change, and none by more than the "
        "bound. Changes and bounds are in the "
    )
    caption = "Changes in the protected files, per modality"
    return join([
        element("p", f"Files: {counts}." if counts else ""),
        element("p", f"{text}files' own stored units; “changed” is the share of the anatomy's voxels."),
        element("p", f"{broken} Do not hand these files out.", class_="broken") if broken else "",
        table(caption, head, rows),
        _mean_shifts(found.get("modalities") or ()),
    ])  # fmt: skip


def _mean_shifts(modalities: Sequence[Mapping[str, Any]]) -> Markup:
    """Show how far the means of regions moved; nothing where that was not measured."""
    rows = [
        [
            str(row["modality"] or "unknown modality"),
            f"{shift['diameter']:g} {shift['unit']}",
            shift["regions"],
            number(shift["largest_real"], 3),
            number(shift["p99_real"], 3),
        ]
        for row in modalities
        for shift in row.get("mean_shifts") or ()
    ]
    if not rows:
        return Markup("")
    text = (
        "What a reader measures wrong: how far the mean over a disc in the plane of the image moved, up or down, in "
        "real units (HU, gray values), for discs around every voxel of the anatomy. “99 %” is what all but one disc in "
        "a hundred stay within, in the file in which they moved most. Diameters are pixels where files do not say how "
        "far those are apart."
    )
    head = ["modality", "diameter of the disc", "discs", "largest shift", "99 %"]
    return join([element("p", text), table("Shift of the mean over regions", head, rows)])


def learning(data: figures.Measured) -> Markup:
    """Show what each network learns without a countermeasure."""
    if not data.summary and not data.verdicts:
        return element("p", "No network was trained.")
    guess = "" if data.chance is None else f" A guess scores {number(data.chance)}."
    share = data.report.get("majority_share")
    largest = (
        ""
        if share is None
        else f" The largest class makes {percent(share, 1)} of the test images, which plain accuracy would give to "
        "who always names it."
    )
    text = (
        "Each network is trained from the same start on the originals and on the protected images, without any "
        f"countermeasure.{guess}{largest}"
    )
    name = wording.score_name(data.score)
    return join([
        element("p", text),
        _classes((data.report.get("run") or {}).get("classes") or {}),
        figures.clean_and_protected(data),
        figures.plain_table(data),
        element("p", figures.explain_reliance()),
        element("h3", "Learning curves"),
        element("p", f"{name[0].upper()}{name[1:]} after each epoch; the line is the mean over seeds, the band goes "
                     "from the lowest to the highest."),
        figures.curve_legend(data),
        figures.learning_curves(data, [wording.NONE]) or element("p", "No curves were kept."),
        _details("All scores", figures.all_scores(data)),
        _details("All trainings", figures.all_trainings(data)),
    ])  # fmt: skip


def _classes(classes: Mapping[str, Mapping[str, int]]) -> Markup:
    """List how many images of each class there are to learn from and to be scored on."""
    train, test = classes.get("clean") or {}, classes.get("test") or {}
    rows = [[name, train.get(name, 0), test.get(name, 0)] for name in dict.fromkeys([*train, *test])]
    return (
        table("Images with each class, finding or label", ["class", "to train on", "to test on"], rows)
        if rows
        else Markup("")
    )


def countermeasures(data: figures.Measured) -> Markup:
    """Show what each countermeasure gives back."""
    tested = [name for name in data.countermeasures if name != wording.NONE]
    if not tested:
        return element("p", "None was tested. What a stranger does to get rid of the noise may well succeed.")
    text = (
        "What a stranger may do to get rid of the noise. Each is also applied to the originals, and to the test "
        "images where it is a step before training, "
        "so that a network that a countermeasure itself weakens does not count as protected."
    )
    curves = figures.learning_curves(data, tested)
    return join([
        element("p", text),
        element("p", figures.explain_share()),
        *(figures.heat_map(data, folder) for folder in data.folders),
        element("h3", "In figures"),
        figures.countermeasure_table(data, tested),
        _details("Learning curves under each countermeasure",
        join([figures.curve_legend(data), curves])) if curves else "",
    ])  # fmt: skip


def mixtures(data: figures.Measured) -> Markup:
    """Show what protected images add to clean ones; nothing where no mixtures were run."""
    plots = figures.protected_shares(data)
    text = (
        "A stranger who also has clean images mixes both. Protected images are of no use to them where the two "
        "lines meet; where the upper one lies clearly "
        "above the clean part alone, the protected images helped."
    )
    return join([element("p", text), plots]) if plots else Markup("")


def utility(report: Mapping[str, Any]) -> Markup:
    """Show what a network trained on clean images makes of protected ones, and how features drift."""
    found = report.get("utility")
    if not found:
        return element(
            "p",
            "Not measured in this report: whether a network trained on clean images scores the same on the "
            "protected ones.",
        )
    clean, protected, change = (found.get(name) or {} for name in ("clean", "protected", "change"))
    rows = [
        [wording.score_name(name), number(clean[name], 4), number(protected.get(name), 4), signed(change.get(name), 4)]
        for name in clean
    ]
    parts = [
        element(
            "p",
            f"A network ({found.get('victim') or 'of unknown kind'}) trained on clean images, scored on clean "
            "images and on the same after protection.",
        ),
        table("Scores of a clean-trained network", ["score", "clean", "protected", "change"], rows),
    ]
    if features := found.get("features"):
        lines = [
            [
                row["feature"],
                number(row.get("clean"), 4),
                _relative(row.get("relative_change")),
                number(row.get("icc"), 4),
            ]
            for row in features
        ]
        parts += [
            element(
                "p",
                "Measurements in the images. ICC is the agreement of both over all images: 1 is perfect, above "
                "0.9 counts as excellent.",
            ),
            table("Drift of image features", ["feature", "clean", "relative change", "ICC"], lines),
        ]
    return join(parts)


def _relative(change: float | None) -> str:
    return percent(change, 2) if change is None or change < 0 else f"+{percent(change, 2)}"


def examples(pairs: Sequence[ExamplePair]) -> Markup:
    """Show slices before and after, by modality; nothing without any."""
    parts = []
    for modality in dict.fromkeys(pair.modality for pair in pairs):
        parts += [
            element("h3", modality or "Unknown modality"),
            *(show_example(pair) for pair in pairs if pair.modality == modality),
        ]
    intro = (
        "The images show the intensity window from black to white in 8-bit gray; the figures are of the values "
        "themselves."
    )
    return join([element("p", intro), *parts]) if parts else Markup("")


def limits(data: figures.Measured) -> Markup:
    """Say what was not measured, and what the protection does not do."""
    items = (element("li", element("strong", f"{title}."), f" {text}") for title, text in wording.LIMITS)
    tested = [name for name in data.countermeasures if name != wording.NONE]
    facts = [
        ("Networks tested", ", ".join(data.victims) or "none"),
        (
            "Augmentations not measured",
            ", ".join(name for name in AUGMENTATIONS if name not in _augmentations(data)) or "none",
        ),
        ("Countermeasures tested", ", ".join(tested) or "none"),
        (
            "Networks not measured",
            ", ".join(name for name in wording.KNOWN_VICTIMS if name not in data.networks)
            or "none of those that are built in",
        ),
        (
            "Pretrained networks",
            ", ".join(name for name in data.victims if "+" in name)
            or "not measured; little protection is to be expected",
        ),
        (
            "Countermeasures not measured",
            ", ".join(name for name in COUNTERMEASURES if name not in data.countermeasures) or "none",
        ),
        ("Not part of this software", wording.NEVER_MEASURED),
    ]
    return join(
        [
            element("ol", *items),
            element(
                "dl",
                *(element(*part) for fact in facts for part in zip(("dt", "dd"), fact, strict=True)),
                class_="wide",
            ),
        ]
    )


def reproduce(data: figures.Measured, run: Mapping[str, Any]) -> Markup:
    """Say what was run, on what, and with which command."""
    shares = sorted({float(row["protected_share"]) for row in data.summary if row.get("protected_share") is not None})
    protection = run.get("protection") or {}
    made = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in protection.items()
        if name != "known_from" and value not in (None, "")
    ]
    known = f"{', '.join(made)} (known from {protection['known_from']})" if protection else "not known"
    facts = {
        "date": run.get("date"), "versions": _pairs(run.get("versions")), "device": run.get("device"),
        "folders": _pairs(run.get("data"), ": "),
        "images": _pairs(data.report.get("counts")), "protection": known,
        "networks": ", ".join(data.networks), "augmentations": ", ".join(_augmentations(data)),
        "countermeasures": ", ".join(data.countermeasures),
        "protected shares": ", ".join(map(percent, shares)),
        "seeds": ", ".join(map(str,
        run.get("seeds") or sorted({row["seed"] for row in data.results if row.get("seed") is not None}))),
        "duration": f"{in_words(run['seconds'])} ({in_words(run['training_seconds'])} of training, with what was "
                    "finished before)" if run else "",
        "format": data.report.get("format"),
    }  # fmt: skip
    parts = [
        element(
            "p",
            "The same seeds give the same networks on the same machine. The file of the same name ending in .json "
            "holds all figures.",
        )
    ]
    if command := run.get("command"):
        words = (
            f"\\\n    {shlex.quote(word)}" if word.startswith("--") else shlex.quote(word)
            for word in shlex.split(command)
        )
        parts.append(element("pre", " ".join(words)))
    return join(
        [
            *parts,
            table(
                "What was run",
                ["what", "which"],
                ([name, value] for name, value in facts.items() if value),
                kind="text",
            ),
        ]
    )


def _augmentations(data: figures.Measured) -> list[str]:
    """Name what victims did to their images."""
    return list(dict.fromkeys(row.get("augmentation", FLIPS) for row in data.report.get("summary") or ()))


def _pairs(values: Mapping[str, Any] | None, between: str = " ") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in (values or {}).items())


def citations(run: Mapping[str, Any]) -> Markup:
    """Say whose work is to be cited; nothing where it is not known."""
    rows = [
        [", ".join(map(wording.score_name, entry["for"].split(", "))), entry["citation"]]
        for entry in run.get("citations") or ()
    ]
    text = (
        "Whoever publishes these figures cites the methods, networks, countermeasures and scores that they come from."
    )
    return join([element("p", text), table("Citations", ["for", "work"], rows, kind="text")]) if rows else Markup("")


def _details(title: str, content: Markup) -> Markup:
    return element("details", element("summary", title), content)
