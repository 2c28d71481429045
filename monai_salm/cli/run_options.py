# SPDX-License-Identifier: Apache-2.0
"""The options of a run, which ``plan`` and ``protect`` share."""

from __future__ import annotations

import click

from monai_salm.cli.options import (
    FILE,
    device_option,
    grid_options,
    in_order,
    kind_options,
    label_options,
    value_options,
    workers_option,
)
from monai_salm.methods.names import METHOD_KINDS, TASKS

_CONTROLS = ("random-mask", "textures", "random")


def _parts(task: str) -> list[str]:
    """Name the parts that SALM chooses among for a task."""
    parts = {name: kind for name, kind in METHOD_KINDS.items() if name.startswith("salm:") and kind.chosen}
    return [name for name, kind in parts.items() if task in kind.tasks]


def _methods() -> str:
    """Name the methods for a help text, by what they are for."""

    def names(*tasks: str) -> str:
        found = {name: kind for name, kind in METHOD_KINDS.items() if kind.tasks == tasks}
        volumes = {name for name, kind in found.items() if kind.spatial_dims == (3,)}
        others = [name for name in found if not name.startswith("salm") and name not in _CONTROLS]
        shown = [f"{name} (volumes)" if name in volumes else name for name in others]
        return ", ".join(shown)

    return (
        f"salm, which chooses among its parts {', '.join(_parts('classification'))}, for segmentation "
        f"{', '.join(_parts('segmentation'))}, by what small networks learn from each; one of these, or "
        f"salm:targeted (adversarial); "
        f"its controls {', '.join(_CONTROLS[:-1])} and {_CONTROLS[-1]} (needs no labels); or a baseline from its "
        f"authors' formula: {names(*TASKS)}, for classification {names('classification')}, for segmentation "
        f"{names('segmentation')}."
    )


run_options = in_order(
    label_options,
    click.option("--method", default="salm", show_default=True, help=_methods()),
    click.option(
        "--epsilon",
        default="8/255",
        show_default=True,
        help="Largest change: a fraction of the window, or real units such as '12 HU'.",
    ),
    click.option(
        "--perturbed-fraction",
        type=float,
        default=0.4,
        show_default=True,
        help="Largest share of the anatomy that sparse methods change.",
    ),
    value_options,
    click.option(
        "--surrogate",
        default="",
        help="Network by name, or the surrogate.safetensors of a finished run, then frozen.  [default: a small one]",
    ),
    click.option("--rounds", type=int, help="Rounds of the search at most.  [default: the method's]"),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Of chance; gives the same output with the same --key-file.",
    ),
    device_option,
    workers_option,
    grid_options,
    click.option(
        "--estimate/--no-estimate",
        default=True,
        show_default=True,
        help="Measure what a stranger would learn from the protected images.",
    ),
    click.option(
        "--gentle",
        is_flag=True,
        help="Of the parts of salm take none that moves the AUC of a network of clean images by more than 0.01.",
    ),
    click.option(
        "--key-file",
        type=FILE,
        help="Secret that new UIDs are made and noise is drawn with, and that originals come back with; see keygen and "
        "restore.  [default: a random one, without a way back]",
    ),
    click.option(
        "--restore/--no-restore",
        default=True,
        show_default=True,
        help="With --key-file: keep residuals, encrypted, that lead back to the originals.",
    ),
    click.option("--residuals", type=FILE, help="Folder of the residuals.  [default: in the work folder]"),
    click.option("--copy-unprotected", is_flag=True, help="Copy files that cannot be protected to OUTPUT as they are."),
    click.option(
        "--uids",
        type=click.Choice(["new", "keep"]),
        default="new",
        show_default=True,
        help="DICOM: new SOP and Series Instance UIDs, or the old ones.",
    ),
    click.option(
        "--image-type",
        type=click.Choice(["derived", "keep"]),
        default="derived",
        show_default=True,
        help="DICOM: Image Type of changed images.",
    ),
    click.option(
        "--provenance",
        type=click.Choice(["full", "minimal", "none"]),
        default="full",
        show_default=True,
        help="DICOM: how much a file says of the change.",
    ),
    click.option(
        "--source-reference/--no-source-reference",
        default=True,
        show_default=True,
        help="DICOM: name the original in a changed image.",
    ),
    kind_options,
)
