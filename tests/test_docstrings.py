# SPDX-License-Identifier: Apache-2.0
"""Every public name says what it does, names its arguments, and has an example that runs.

The examples begin in one folder, in which the example of ``protect`` has run: EXPORT (four DICOM images and a text),
``labels.csv``, TEST, ``test.csv``, OUT and OUT.work; ``samples`` is what the example of ``WorkingSet`` makes. The pages
of the site say so.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from monai_salm import WorkingSet
from monai_salm.pipeline import protect
from tests.exports import lesion_table, mr_export, mr_labels, mr_slice

ROOMS = ("", "transforms", "pipeline", "evaluate", "io", "bundle", "methods.base", "methods.registry")
INTERFACE = {
    "methods.base": ["MethodRun", "NoiseMethod", "SearchMemory", "TrainedSurrogate"],
    "methods.registry": ["find_method"],
}
"""What is public of rooms that list no names."""

SHOWN_BY = {
    "Casing": "casing",
    "Derivation": "write_like",
    "Document": "identify",
    "EvaluateReport": "write_report",
    "FileBudget": "PerturbationBudget",
    "HeaderChange": "compare_headers",
    "ImageHeader": "identify",
    "Inventory": "scan",
    "Judgement": "judge",
    "MethodRun": "NoiseMethod",
    "ProtectResult": "protect",
    "ProtectionPlan": "build_plan",
    "ProtectionRun": "protect",
    "RestoreResult": "restore",
    "SourceImage": "read_source",
    "VerifyReport": "verify",
    "VictimResult": "write_report",
    "VictimScores": "write_report",
    "VictimTraining": "train_victim",
    "cased": "casing",
}
"""Records, and halves of a pair: the example of the name that gives or takes them shows them."""

WITHOUT = {
    "affine": "None for most; LoadFaithful shows it",
    "ExamplePair": "evaluate makes it for the report",
    "Leak": "evaluate gives it to a countermeasure",
    "Segmentation": "needs a SEG object",
    "SearchMemory": "the run gives it to a method",
    "TrainedSurrogate": "a method leaves it to the run",
    "VictimEvaluation": "as evaluate, inside of a bundle",
    "UndecidedError": "a RefusedError, which has one",
    "VerificationError": "no written file should be wrong",
    "ZipBytes": "for zipfile alone",
    "check_overrides": "works inside of a bundle alone",
    "dcmtk_finds_within": "needs dcmtk",
    "kept_bytes": "for residuals alone",
    "read_segmentation": "needs a SEG object",
    "read_with_simpleitk": "needs SimpleITK",
    "remaining_references": "needs a DICOMDIR",
    "renew_references": "for additions alone",
}


def _public() -> dict[str, Any]:
    """Give the classes and functions that users see, by name."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(f"monai_salm.{room}".rstrip("."))
        for name in INTERFACE.get(room) or module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(value.__name__, value)
    return found


PUBLIC = _public()
EVERY_NAME = pytest.mark.parametrize("name", sorted(PUBLIC))
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def _example(value: Any) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, value.__name__, None, None)


@EVERY_NAME
def test_says_what_it_does_and_names_its_arguments(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    effect = text.partition("\n\n")[0]
    assert effect.rstrip().endswith(".") or ";" in effect, "the first line says the effect"
    arguments = set(inspect.signature(PUBLIC[name]).parameters) - {"self", "args", "kwargs"} - {"message"}  # of errors
    if arguments and "arguments " not in effect:
        section = text.partition("Args:\n")[2].partition("\n\n")[0]
        lines = re.findall(r"^    ([\w*, ]+):", section, flags=re.M)
        missing = arguments - {word.strip(" *") for line in lines for word in line.split(",")}
        assert not missing, f"{name} does not say what {missing} are"


@EVERY_NAME
def test_has_an_example_or_a_reason(name: str) -> None:
    has = bool(_example(PUBLIC[name]).examples)
    assert has != (name in SHOWN_BY or name in WITHOUT), "an example, or what shows it, or why it has none; not two"
    if name in SHOWN_BY:
        shown = PUBLIC[SHOWN_BY[name]]
        assert _example(shown).examples, f"{SHOWN_BY[name]} is to show {name}"


def test_no_reason_is_left_of_a_name_that_is_gone() -> None:
    assert (set(SHOWN_BY) | set(WITHOUT)) - set(PUBLIC) == set()


def _run(value: Any, globs: dict[str, Any]) -> dict[str, Any]:
    """Run the example of a name, and give what it defines."""
    example, lines = _example(value), list[str]()
    example.globs = dict(globs)
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=lines.append, clear_globs=False).failed
    assert failed == 0, "".join(lines)
    return example.globs


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkingSet]:
    """Go to the folder that the examples begin in, and give the samples that some of them use."""
    folder = tmp_path_factory.mktemp("examples")
    mr_export(folder / "EXPORT", 4)
    (folder / "EXPORT" / "notes.txt").write_text("x")
    mr_labels(folder / "labels.csv", 4)
    for number in range(4):
        mr_slice(folder / "TEST" / f"{number}.dcm", 10 + number)
    lesion_table(folder / "test.csv", [f"{number}.dcm" for number in range(4)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _run(protect, {})
        yield _run(WorkingSet, {})["samples"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "value", [value for value in PUBLIC.values() if value is not protect and _example(value).examples]
)
def test_the_example_runs(value: Callable[..., Any], samples: WorkingSet) -> None:
    _run(value, {"samples": samples})
