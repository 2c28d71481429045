# SPDX-License-Identifier: Apache-2.0
"""What the rows lack."""

from __future__ import annotations

from measured import Measured

from monai_salm.evaluate import COUNTERMEASURES
from monai_salm.learning.augmentations import AUGMENTATIONS

_LEAST_SEEDS = 3
_SHARES = (0.8, 0.6, 0.4, 0.2)


def not_run(sets: list[Measured]) -> str:
    """List the cells that were not run, of those that the data sets have at their epsilon."""
    text = (
        "\n# Not run\n\nEach victim from scratch with each method; each countermeasure, augmentation, share and "
        "pretrained victim with SALM; three seeds of each.\n"
    )
    for found in sets:
        text += f"\n{found.data.title}, epsilon {found.epsilon}:\n\n" + "".join(
            f"- {line}\n" for line in _missing(found) or ["nothing is missing"]
        )
    return text


def _missing(found: Measured) -> list[str]:
    """Give the lines of what is missing of a data set."""
    data = found.data

    def absent(
        victims: tuple[str, ...], method: str, countermeasure: str = "none", share: float = 1.0
    ) -> tuple[str, ...]:
        """Name the victims that lack this cell, or the clean one beside it."""
        clean = "clean" if share == 1 else "clean part"
        return tuple(
            v
            for v in victims
            if not (found.cell(v, method, countermeasure, share) and found.cell(v, clean, countermeasure, share))
        )

    kinds: dict[str, dict[str, tuple[str, ...]]] = {
        "methods": {method: absent(data.victims, method) for method in data.methods},
        "countermeasures": {name: absent(data.victims, "salm", name) for name in COUNTERMEASURES if name != "none"},
        "augmentations": {
            name: tuple(v for v in data.victims if absent((f"{v} ({name})",), "salm"))
            for name in AUGMENTATIONS
            if name != "flips"
        },
        "protected shares": {f"{share:.0%}": absent(data.victims, "salm", share=share) for share in _SHARES},
    }
    lines = []
    for kind, cells in kinds.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for name, victims in cells.items():
            alike.setdefault(victims, []).append(name)
        for victims, names in alike.items():
            label = f"all {kind}" if len(names) == len(cells) else f"{kind} {', '.join(names)}"
            if victims:
                lines.append(f"{label}: " + ("no victim" if victims == data.victims else f"not {', '.join(victims)}"))
    seen_before = absent(data.seen_before, "salm")
    lines += [f"victims that saw other images before: not {', '.join(seen_before)}"] if seen_before else []
    lines += ["utility"] if not any(method == "salm" for method, _ in found.utilities) else []
    few = [key for key, cell in found.cells.items() if cell["seeds"] < _LEAST_SEEDS]
    lines += [f"fewer than {_LEAST_SEEDS} seeds: {len(few)} of {len(found.cells)} cells that were run"] if few else []
    return lines
