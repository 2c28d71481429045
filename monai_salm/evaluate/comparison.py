# SPDX-License-Identifier: Apache-2.0
"""The comparison of a clean and a protected folder: the same victims, trained on the files of each, scored on the same
clean test files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from math import lcm
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from monai_salm.errors import UsageError
from monai_salm.evaluate.facts import run_facts
from monai_salm.evaluate.folder_loading import load_folders
from monai_salm.evaluate.folders import FolderPlaces, Folders, stratified_part
from monai_salm.evaluate.inspection import inspect
from monai_salm.evaluate.options import EvaluateOptions
from monai_salm.evaluate.report import write_report
from monai_salm.evaluate.results import CLEAN, EvaluateReport, VictimResult
from monai_salm.evaluate.state import EvaluationState
from monai_salm.evaluate.trainings import Grid, VictimBuilder, plan_cells
from monai_salm.evaluate.utility import FEATURES, FEWEST_IMAGES, feature_drift, score_change
from monai_salm.evaluate.victims import is_pretrained
from monai_salm.learning.checks import pick_device
from monai_salm.learning.networks import size_multiple
from monai_salm.learning.samples import SLICE_BATCH, VOLUME_BATCH
from monai_salm.learning.victims import LEAST_STEPS, VictimRecipe
from monai_salm.pipeline.labels import describe_labels


def evaluate(
    clean: Path,
    protected: Path | Mapping[str, Path],
    test: Path,
    options: EvaluateOptions,
    *,
    command: str = "",
    show_progress: bool = False,
    after_training: Callable[[VictimResult], None] | None = None,
) -> EvaluateReport:
    """Train each victim on the clean and on the protected files, after each countermeasure, and score all on the clean
    test files.

    Only images that are in all folders are used, so that all learn from the same images.

    Args:
        clean: folder of originals, or a zip of it.
        protected: what came out of ``protect``; same relative paths. Or several such folders by name, of which the
            first is verified and measured for its utility.
        test: clean images that no victim trains on.
        options: see :class:`~monai_salm.evaluate.options.EvaluateOptions`.
        command: as it was typed, for the report; empty makes one from the options.
        show_progress: progress bars on standard error.
        after_training: called with the scores of each victim as soon as they are known.

    Raises:
        UsageError: labels, folders, victims or countermeasures do not fit each other.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import EvaluateOptions, evaluate
        >>> options = EvaluateOptions(
        ...     labels=Path("labels.csv"), test_labels=Path("test.csv"), epochs=1, least_steps=100, working_size=24,
        ...     utility=False,
        ... )
        >>> report = evaluate(Path("EXPORT"), Path("OUT"), Path("TEST"), options)
        >>> [(result.victim, result.trained_on) for result in report.results]
        [('small-resnet', 'clean'), ('small-resnet', 'protected')]
    """
    began = monotonic()
    named = protected if isinstance(protected, Mapping) else {"protected": protected}
    places = FolderPlaces(clean, named, test, options.pretrain)
    victims, shares, device = options.victim_names(), options.shares(), pick_device(options.device)
    state = EvaluationState(options.state)
    options.chosen_countermeasures()  # before anything is read
    augmentations = options.augmentations()
    options.check_epsilon()
    _check_report(options.report)
    with TemporaryDirectory() as spare:
        multiple = lcm(*map(size_multiple, victims))
        folders = load_folders(places, options, multiple=multiple, spare=Path(spare), show_progress=show_progress)
        countermeasures, notes = options.chosen_countermeasures(len(folders[CLEAN].samples))
        _check_shares(folders, shares)
        build = VictimBuilder(folders, device)
        build.check(victims)
        # What takes no training comes first: files that break a bound are not worth any.
        inspection = inspect(folders, places, options, show_progress=show_progress)
        grid = Grid(folders, build, _recipe(folders, options), state)
        cells = plan_cells(victims, countermeasures, shares, options.seeds, folders.protected, augmentations)
        results = grid.run(cells, show_progress=show_progress, after_training=after_training)
        seen_first = ""
        if any(map(is_pretrained, victims)):
            kind = "the test folder" if places.pretrain is None else f"the folder {places.pretrain}"
            seen_first = f"{len(folders[build.source].samples)} images of {kind}"
            notes.append(f"victims with +pretrained or +frozen saw {seen_first} first, without labels")
        utility = None
        if options.utility and len(folders[CLEAN].samples) < FEWEST_IMAGES:
            notes.append(f"utility was not measured: it takes {FEWEST_IMAGES} images")
        elif options.utility:
            utility = _utility(grid, victims[0])
        labels = [f"{name} images: {line}" for name, known in folders.labels.items() for line in describe_labels(known)]
        report = EvaluateReport(
            results, folders.counts, folders.chance(), folders.majority_share(), utility=utility,
            verification=inspection.figures(options.budget_options().modality),
            notes=[*folders.notes, *notes, *grid.notes, *labels],
            options=options.to_json() | {"pretrained_on": seen_first}, labels=folders.labels,
            run=run_facts(
                inspection, places, options, results, device=device, command=command, seconds=monotonic() - began
            ),
        )  # fmt: skip
        if options.report is not None:
            write_report(report.to_json(), inspection.examples(), options.report)
    return report


def _check_report(target: Path | None) -> None:
    """Find out before hours of training whether the report can be written where it is wanted."""
    if target is None:
        return
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{target}: the report is a page; give a name that ends in .html")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: its folder does not exist; make it, or give another")


def _check_shares(folders: Folders, shares: list[float]) -> None:
    """Find out whether each share leaves images on both of its sides."""
    count = len(folders[CLEAN].samples)
    for share in shares:
        part = len(stratified_part(folders[CLEAN].samples, share, seed=0))
        if share < 1 and not 0 < part < count:
            raise UsageError(
                f"protected share {share:.0%} of {count} images is {part} of them; give one that leaves clean and "
                "protected ones"
            )


def _recipe(folders: Folders, options: EvaluateOptions) -> VictimRecipe:
    """Give how victims are trained; batches of volumes are smaller, and it takes more of them."""
    dims = folders.spatial_dims
    return VictimRecipe(
        epochs=options.epochs, batch_size=VOLUME_BATCH if dims == 3 else SLICE_BATCH,
        least_steps=LEAST_STEPS[dims] if options.least_steps is None else options.least_steps,
    )  # fmt: skip


def _utility(grid: Grid, victim: str) -> dict[str, Any]:
    """Measure the utility of the first protected folder, or take it from the state."""
    folders, build, recipe, state = grid.folders, grid.build, grid.recipe, grid.state
    name = folders.protected[0]
    source = folders[build.source].digest if is_pretrained(victim) else ""
    images = [folders[folder].digest for folder in (CLEAN, name)]
    key = state.key({
        "utility": [victim, name], "features": FEATURES, "recipe": repr(recipe), "images": [*images, source],
        "shape": folders.shape, "version": version("monai_salm"),
    })  # fmt: skip
    record = state.get(key)
    if record is None:
        record = {
            "utility": score_change(folders, name, victim, build, recipe) | {"features": feature_drift(folders, name)}
        }
        state.put(key, record)
    found: dict[str, Any] = record["utility"]
    return found
