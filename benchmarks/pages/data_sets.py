# SPDX-License-Identifier: Apache-2.0
"""Tables of what victims learned on each data set."""

from __future__ import annotations

from statistics import mean
from typing import Any

from measured import CHOICES, Measured, Row, fates, figure, in_order, made_by, table

from monai_salm.evaluate import COUNTERMEASURES


def section(found: Measured) -> str:
    """Give all tables of a data set with one setting."""
    title = f"{found.data.title}, epsilon {found.epsilon}" + (
        f", {found.fraction:.0%} of the anatomy" if found.fraction != 0.4 else ""
    )
    parts = [
        _victims(found),
        _methods(found),
        _countermeasures(found),
        _shares(found),
        _seen_before(found),
        _augmented(found),
        _utility(found),
    ]
    return f"\n## {title}\n" + "".join(parts)


def _script(found: Measured, rows: list[Row]) -> str:
    return "\n" + made_by(
        rows,
        "benchmarks/" + ("pneumonia.py" if found.version and found.data.name == "pneumonia" else found.data.script),
    )


def _part(found: Measured, victims: list[str], countermeasures: set[str], *, whole: bool = True) -> list[Row]:
    """Give the rows behind a table."""
    return [
        row for row in found.rows
        if row["victim"] in victims and row.get("countermeasure",
        "none") in countermeasures and (row.get("protected_share", 1.0) == 1) == whole
    ]  # fmt: skip


def _victims(found: Measured) -> str:
    """Victims from scratch, by method, without a countermeasure."""
    victims, columns = found.victims(), ["clean", *found.methods]
    rows = _part(found, victims, {"none"})
    if not rows:
        return "\nNo victim was measured.\n"
    guess = (
        "a guess has Dice near 0" if found.score == "dice" else f"a guess scores {found.chance:.3f} balanced accuracy"
    )
    guess += "" if found.majority is None else f", the commonest class alone {found.majority:.3f} accuracy"
    text = f"\nVictims with flips and shifts, from scratch; {fates(found.counts)} images; {guess}.\n"
    text += "Bold: as low as the target asks, where clean images taught something.\n"
    scores: list[tuple[str, str, float | None]] = [
        (found.score, found.score.replace("_", " ").capitalize(), found.highest)
    ]
    if found.score == "dice":
        others = sorted(
            {
                name
                for cell in found.cells.values()
                for name in cell
                if name.startswith("dice_") and not name.endswith("_sd")
            }
        )
        scores += [
            *((name, f"Dice of label {name.removeprefix('dice_')}", None) for name in others),
            ("hd95", "HD95, mm", None),
        ]
    else:
        scores.append(("auc", "AUC", None))
    peak_limit = None if found.score == "dice" else found.chance + 0.15
    scores += [("peak", "Peak over epochs", peak_limit), ("reliance", "Reliance", None)]
    for name, title, limit in scores:
        body = []
        for victim in victims:
            cells = [found.cell(victim, column) for column in columns]
            seeds = sorted({cell["seeds"] for cell in cells if cell})
            low = limit if found.learned(victim) else None
            marked = [figure(cells[0], name), *(figure(cell, name, limit=low) for cell in cells[1:])]
            if any(cell and name in cell for cell in cells):
                body.append([victim, "-".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))), *marked])
        text += f"\n{title}:\n\n" + table([["victim", "seeds", *columns], *body]) if body else ""
    return text + _script(found, rows)


def trade_off(present: list[Measured]) -> str:
    """Give the scores of SALM against strength, sparsity and rounds, of the data sets that were measured with more than
    one setting.
    """
    text = ""
    for data in dict.fromkeys(found.data for found in present if not found.own_setting):
        settings = sorted(
            (found for found in present if found.data == data), key=lambda found: (_size(found.epsilon), found.fraction)
        )
        own = CHOICES[data.task][1]  # rows of that time
        own = own if any(own in found.methods for found in settings) else "salm"
        victims = in_order({victim for found in settings for victim in found.victims()}, data.victims)
        victims = [
            name for name in victims if all(found.cell(name, own) for found in settings if not found.own_setting)
        ]
        body = []
        for found in settings:
            for method in (name for name in (f"{own}@1", own) if name in found.methods):
                made = found.protects.get(method, {})
                cells = [found.cell(victim, method) for victim in victims]
                scores = [
                    f"{figure(cell, found.score)} / {figure(cell, 'auc')} / {figure(cell, 'peak')}" for cell in cells
                ]
                made_of = [made.get(name, "-") for name in ("rounds", "passes_per_sample", "mean_psnr", "lowest_psnr")]
                body.append([found.epsilon, f"{found.fraction:.0%}", *made_of, *scores])
        head = [
            "epsilon",
            "share of the anatomy",
            "rounds",
            "passes per sample",
            "mean PSNR dB",
            "lowest PSNR dB",
            *victims,
        ]
        text += (
            f"\n## Strength, sparsity and rounds: {data.title}\n\nA cell reads "
            f"{settings[0].score.replace('_', ' ')} / AUC / peak.\n\n"
        )
        text += table([head, *body]) + _script(
            settings[0], [row for found in settings if not found.own_setting for row in found.rows]
        )
    return text


def _size(epsilon: str) -> float:
    top, _, bottom = epsilon.partition("/")
    return float(top) / float(bottom or 1)


def common_victims(found: Measured, methods: list[str]) -> list[str]:
    """Name the victims from scratch that were measured with all methods, and that learn from clean images."""
    return [
        victim
        for victim in found.victims()
        if found.learned(victim) and all(found.cell(victim, method) for method in methods)
    ]


def mean_score(found: Measured, method: str, victims: list[str], name: str = "") -> float:
    """Give the mean over victims of a score, without a countermeasure; the main score if none is named."""
    return mean(
        float(cell[name or found.score]) for victim in victims if (cell := found.cell(victim, method)) is not None
    )


_TITLES = {"balanced_accuracy": "balanced accuracy", "auc": "AUC", "dice": "Dice"}


def _mean_text(found: Measured, method: str, victims: list[str], name: str) -> str:
    """Format the mean over victims of a score; a dash where one of them lacks it."""
    values = [(found.cell(victim, method) or {}).get(name) for victim in victims]
    return f"{mean_score(found, method, victims, name):.3f}" if values and None not in values else "-"


def _all_of(found: Measured, cell: Row | None) -> str:
    """Format main score, AUC where there is one, and peak of a cell."""
    return " / ".join(figure(cell, name) for name in _names_of_all(found))


def _names_of_all(found: Measured) -> list[str]:
    return [found.score, "peak"] if found.score == "dice" else [found.score, "auc", "peak"]


def _title_of_all(found: Measured) -> str:
    return " / ".join(_TITLES.get(name, name) for name in _names_of_all(found))


def _methods(found: Measured) -> str:
    """What the methods cost, and how they compare on the victims that SALM was measured with, too."""
    names = in_order({*found.methods, *found.protects}, ["salm"])
    if not names:
        return ""
    names_of_scores = [found.score, *(["auc"] if found.score != "dice" else []), "peak", "reliance"]
    body = []
    for method in names:
        made = found.protects.get(method, {})
        victims = (
            common_victims(found, [method, "salm"]) if "salm" in found.methods else common_victims(found, [method])
        )
        means = [_mean_text(found, method, victims, name) for name in names_of_scores]
        beside = f"{mean_score(found, 'salm', victims):.3f}" if victims and "salm" in found.methods else "-"
        changed, most = (made.get(name) for name in ("mean_changed_fraction", "largest_changed_fraction"))
        body.append([
            method, len(victims), *means, beside, *(made.get(name, "-") for name in ("mean_psnr", "lowest_psnr")),
            "-" if changed is None else f"{changed:.1%}" + ("" if most is None else f" ({most:.1%})"),
            *(made.get(name) or "-" for name in ("rounds", "passes_per_sample", "seconds")),
            fates(made.get("verified", {})) if made else "-",
        ])  # fmt: skip
    head = [
        "method", "victims", *(f"mean {_TITLES.get(name, name)}" for name in names_of_scores),
        "SALM on the same victims",
        "mean PSNR dB", "lowest PSNR dB",
        "changed share of the anatomy (largest)", "rounds", "passes per sample", "seconds", "verify",
    ]  # fmt: skip
    text = (
        "\nMethods, means over the victims that learn from clean images and that SALM was measured with:\n\n"
        + table([head, *body])
    )
    victims = common_victims(found, found.methods)
    if victims and len(found.methods) > 1:
        best = min(found.methods, key=lambda method: mean_score(found, method, victims))
        text += (
            f"\nLowest mean over the victims that all methods have ({', '.join(victims)}): **{best}**, "
            f"{mean_score(found, best, victims):.3f}.\n"
        )
    rows = list(found.protects.values())
    return text + (_script(found, rows) if rows else "")


def _countermeasures(found: Measured) -> str:
    """What is left of the protection after each countermeasure."""
    keys = [key for key in found.cells if key[2] != "none" and key[1] in found.methods and key[3] == 1]
    if not keys:
        return ""
    body = []
    for countermeasure in in_order({key[2] for key in keys}, COUNTERMEASURES):
        for victim in in_order({key[0] for key in keys if key[2] == countermeasure}, found.data.victims):
            for method in found.methods:
                clean, cell = found.cell(victim, "clean", countermeasure), found.cell(victim, method, countermeasure)
                if cell is None:
                    continue
                kept = found.kept(victim, method, countermeasure)
                half = ("yes" if kept >= 0.5 else "**no**") if kept is not None else "not learned" if clean else "-"
                share = "-" if kept is None else f"{kept:.0%}"
                body.append([
                    countermeasure, victim, method, cell["seeds"], _all_of(found, clean), _all_of(found, cell),
                    figure(cell, "reliance"), share, half,
                ])  # fmt: skip
    head = [
        "countermeasure",
        "victim",
        "method",
        "seeds",
        "clean under it",
        "protected under it",
        "reliance",
        "gap to a guess kept",
        "at least half",
    ]
    rows = _part(found, found.victims() + found.victims(seen_before=True), {key[2] for key in keys})
    return f"\nCountermeasures, {_title_of_all(found)}:\n\n" + table([head, *body]) + _script(found, rows)


def _shares(found: Measured) -> str:
    """What protected images are worth beside clean ones."""
    body = []
    keys = [key for key in found.cells if key[3] < 1 and key[1] in found.methods]
    for victim, method, countermeasure, share in sorted(keys, key=lambda key: (key[0], key[2], key[1], -key[3])):
        part, mixed = (
            found.cell(victim, "clean part", countermeasure, share),
            found.cells[victim, method, countermeasure, share],
        )
        gain = "-" if part is None else f"{mixed[found.score] - part[found.score]:+.3f}"
        figures = [_all_of(found, cell) for cell in (part, mixed, found.cell(victim, "clean", countermeasure))]
        body.append([victim, method, countermeasure, f"{share:.0%}", mixed["seeds"], *figures, gain])
    if not body:
        return ""
    head = [
        "victim",
        "method",
        "countermeasure",
        "protected",
        "seeds",
        "clean part alone",
        "with the protected part",
        "all clean",
        "gain by protected images",
    ]
    rows = [row for row in found.rows if row.get("protected_share", 1.0) < 1]
    return (
        f"\nA part of the images protected, {_title_of_all(found)}:\n\n" + table([head, *body]) + _script(found, rows)
    )


def _seen_before(found: Measured) -> str:
    """Victims that saw clean images without labels before."""
    text = (
        "\nVictims that saw clean images without labels first (*pretrained*: all weights train on; *frozen*: the "
        "head alone does):\n\n"
    )
    return _by_score(found, found.victims(seen_before=True), text)


def _augmented(found: Measured) -> str:
    """Victims that do something else to their images than flips and shifts."""
    text = (
        "\nVictims without any augmentation (*none*), and with rotation, scaling, mirroring, noise, blur, brightness, "
        "contrast, low resolution and gamma as in nnU-Net (*nnunet*):\n\n"
    )
    return _by_score(found, found.augmented(), text)


def _by_score(found: Measured, victims: list[str], text: str) -> str:
    """Every score of some victims in one table, without a countermeasure; nothing if none was measured."""
    columns = ["clean", *found.methods]
    rows = _part(found, victims, {"none"})
    if not rows:
        return ""
    body = [
        [victim, name.replace("_", " "), *(figure(found.cell(victim, column), name) for column in columns)]
        for victim in victims
        for name in ("dice", "balanced_accuracy", "auc", "peak", "reliance")
        if any(name in (found.cell(victim, column) or {}) for column in columns)
    ]
    return text + table([["victim", "score", *columns], *body]) + _script(found, rows)


def _utility(found: Measured) -> str:
    """What a network that was trained on clean images makes of protected ones."""
    body: list[list[Any]] = []
    for (method, victim), row in found.utilities.items():
        agreement = min((feature["icc"] for feature in row["features"] if feature["icc"] is not None), default=None)
        for name, change in row["change"].items():
            if change is not None:
                body.append([method, victim, name.replace("_", " "), f"{row['clean'][name]:.4f}",
                f"{row['protected'][name]:.4f}", f"{change:+.4f}",
                             "-" if agreement is None else f"{agreement:.4f}"])  # fmt: skip
    if not body:
        return ""
    head = ["method", "network", "score", "clean images", "protected images", "change", "lowest ICC of a feature"]
    text = "\nUse for who trained on clean images, scored on the other half of the training images:\n\n"
    return text + table([head, *body]) + _script(found, list(found.utilities.values()))


def earlier(sets: list[Measured]) -> str:
    """Tables of an earlier version's rows."""
    if not sets:
        return ""
    text = (
        "\n# Earlier version\n\n"
        "Version 0.1, measured with the settings that it had; these figures do not hold for the present one. "
        "Early trials on a part of PneumoniaMNIST were\n"
        "scored on its test set, too; no setting was chosen by those scores.\n"
    )
    return text + "".join(map(section, sets))
