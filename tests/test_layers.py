# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and other rules that hold for every module of the package."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "monai_salm"
FILES = sorted(PACKAGE.rglob("*.py"))
EVERY_FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())

# Rooms from the bottom up: a room imports from itself and from the rooms named here.
VALUES = {"budget", "hounsfield", "working_grid", "anatomy", "burned_in", "canvas", "noise"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "disk": {"errors"},
    # What a voxel may do
    "budget": {"errors"},
    "hounsfield": {"errors"},
    "working_grid": set(),
    "anatomy": {"budget", "hounsfield"},
    "burned_in": {"budget"},
    "noise": {"errors", "disk", "budget", "working_grid"},
    "canvas": {"budget", "working_grid", "anatomy", "burned_in", "noise"},
    # Files
    "io": {"errors", "disk"},
    "bounds": {"io", "budget", "anatomy", "canvas"},
    # Networks
    "learning": {"errors", "disk", "progress"} | VALUES,
    "methods": {"errors", "progress", "learning"} | VALUES,
    # What runs them over files, over arrays, and against each other
    "transforms": {"errors", "io", "bounds", "learning", "methods"} | VALUES,
    "pipeline": {"errors", "disk", "progress", "io", "bounds", "learning", "methods"} | VALUES,
    "evaluate": {"errors", "disk", "progress", "io", "bounds", "learning", "pipeline"} | VALUES,
    "bundle": {"errors", "pipeline", "transforms"} | VALUES,
    "demo": {"errors", "io", "pipeline", "evaluate", "transforms"} | VALUES,
}
# Foreign packages that one room alone may import.
AT_HOME = {
    # Bars in the logs of those who watch no terminal, and of --quiet, came from elsewhere.
    "tqdm": ("monai_salm.progress",),
    # The demo makes an export of its own; nothing else writes files from nothing.
    "pydicom": ("monai_salm.io.dicom", "monai_salm.demo.files"),
    "nibabel": ("monai_salm.io.nifti", "monai_salm.demo.files"),
    "click": ("monai_salm.cli",),
    # A countermeasure uses what a stranger would use.
    "SimpleITK": ("monai_salm.io.simpleitk", "monai_salm.evaluate.countermeasures.filters"),
    "skimage": ("monai_salm.evaluate.countermeasures.filters",),
    "PIL": ("monai_salm.io.raster", "monai_salm.evaluate.countermeasures.filters"),
    "imagecodecs": ("monai_salm.io.dicom.codecs",),
    "jpeg_ls": ("monai_salm.io.dicom.codecs",),
    "highdicom": ("monai_salm.io.segmentations",),
}


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Longer than 400 lines since lines end at column 120; each is to be split by meaning.
TO_SPLIT = {
    f"monai_salm.{name}"
    for name in [
        "budget",
        "cli",
        "evaluate.report.page",
        "io.dicom.codecs",
        "io.dicom.comparing",
        "io.dicom.files",
        "io.evidence",
        "io.raster.tiff",
        "methods.minmin",
        "pipeline.archive",
    ]
}

MODULES = {_module(file) for file in FILES}


def _room(module: str) -> str:
    """Name the room of a module: ``cli`` for all the modules of the command line, empty for the package itself."""
    name = module.partition(".")[2].partition(".")[0]
    return "cli" if name.startswith("cli") or name == "__main__" else name


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imports(file: Path) -> set[str]:
    """Name the modules that a file imports anywhere, also inside functions; a name of a package that is a module counts
    as that module.
    """
    found = set()
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return found


@EVERY_FILE
def test_rooms_import_downward_only(file: Path) -> None:
    module = _module(file)
    room = _room(module)
    if room in ("", "cli"):
        return
    assert room in ALLOWED, f"room {room!r} is new: say in ALLOWED what it may import"
    ours = {name for name in _imports(file) if name.split(".")[0] == "monai_salm"}
    assert "monai_salm" not in ours, (
        f"{module} imports from the package itself; import from the module that defines the name"
    )
    upward = {name for name in ours if _room(name) != room and _room(name) not in ALLOWED[room]}
    assert not upward, f"{module} may not import {sorted(upward)}"


def _reached(module: str) -> set[str]:
    """Name the modules of the package that a module imports, or that these import; a package alone stands for none of
    its modules, since it loads them when they are used.
    """
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        place = ROOT / name.replace(".", "/")
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        new = {other for other in _imports(file) if other in MODULES and other != module} - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("module", sorted(name for name in MODULES if _room(name) == "evaluate"))
def test_evaluation_takes_nothing_from_the_search(module: str) -> None:
    """What it shares with a run lies where both can reach it."""
    taken = {f"monai_salm.pipeline.{name}" for name in ("search", "protection", "preflight", "checkpoint", "outlook")}
    assert not _reached(module) & (taken | {"monai_salm.pipeline"})


WRITER = {
    f"monai_salm.pipeline.{name}"
    for name in [
        "checkpoint",
        "documents",
        "foresight",
        "frozen_plan",
        "keys",
        "label_values",
        "labeling",
        "loading",
        "manifest",
        "options",
        "outlook",
        "output",
        "plan_changes",
        "planning",
        "preflight",
        "protection",
        "search",
        "space",
        "working",
        "write",
        "write_settings",
    ]
}
"""What decides, searches and writes. The rooms of file formats read and write, so they are not among them."""


def test_the_prover_takes_nothing_from_the_writer() -> None:
    """Who checks files must not share the mistakes of who wrote them; where a picture's anatomy is, and what a bound
    is, both have to find alike.
    """
    assert WRITER <= MODULES
    reached = _reached("monai_salm.pipeline.verification")
    assert not reached & (WRITER | {"monai_salm.pipeline"})
    assert not {_room(name) for name in reached} & {"learning", "methods", "evaluate", "transforms"}


def test_only_the_command_line_knows_the_command_line() -> None:
    users = {
        _module(file)
        for file in FILES
        if any(_room(name) == "cli" for name in _imports(file) if name.startswith("monai_salm."))
    }
    assert {_room(module) for module in users} <= {"cli"}


def test_no_circles() -> None:
    graph = {_module(file): {name for name in _imports(file) if name in MODULES} - {_module(file)} for file in FILES}
    TopologicalSorter(graph).prepare()


@EVERY_FILE
def test_foreign_packages_stay_at_home(file: Path) -> None:
    module = _module(file)
    strays = {
        name
        for name in (found.split(".")[0] for found in _imports(file))
        if name in AT_HOME and not module.startswith(AT_HOME[name])
    }
    assert not strays, f"{module} may not import {sorted(strays)}"


@EVERY_FILE
def test_habits(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert len(text.splitlines()) < 400 or _module(file) in TO_SPLIT
    nodes = list(ast.walk(_tree(file)))
    assert not any(isinstance(node, ast.Assert) for node in nodes), "an assert is gone under python -O; raise an error"
    if _room(_module(file)) not in ("cli", "demo"):
        assert not any(isinstance(node, ast.Name) and node.id == "print" for node in nodes), (
            "only the command line prints"
        )


def test_the_rules_see_something() -> None:
    assert {"monai_salm.budget", "monai_salm.io.dicom", "monai_salm.pipeline"} <= MODULES
    assert "pydicom" in {name.split(".")[0] for file in FILES for name in _imports(file)}
