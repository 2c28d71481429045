# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and other rules that hold for every module of the package. The rooms stand in the order of the
picture in ``docs/how-it-works.md``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "monai_salm"
FILES = sorted(PACKAGE.rglob("*.py"))
EVERY_FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())

# Rooms from the bottom up: a room imports from itself and from the rooms named here.
VALUES = {
    "windows", "hounsfield", "background", "working_grid", "anatomy", "burned_in", "views", "budget", "noise", "canvas",
    "working_samples",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "progress": {"errors"},
    "disk": {"errors"},
    "seals": set(),
    "chance": set(),
    "workers": {"errors", "progress"},
    # Arrays in parts, limits on integers, shapes in marks
    "slabs": set(),
    "spans": set(),
    "morphology": {"slabs"},
    # What a file shows
    "windows": {"errors"},
    "hounsfield": {"errors"},
    "background": {"windows", "hounsfield"},
    "working_grid": set(),
    "anatomy": {"background", "slabs", "spans", "morphology"},
    "burned_in": {"morphology"},
    "views": {"windows", "background", "slabs", "spans", "anatomy", "burned_in"},
    # What its values may become
    "budget": {"errors", "windows", "background", "slabs", "views"},
    "noise": {"errors", "disk", "seals", "slabs", "spans", "budget", "working_grid"},
    "canvas": {"views", "budget", "working_grid", "noise"},
    "bounds": {"windows", "slabs", "views", "budget"},
    "working_samples": {"views", "canvas", "working_grid"},
    # Files
    "io": {"errors", "disk"},
    "volumes": {"io", "windows", "background", "views", "budget", "canvas"},
    "residuals": {"errors", "disk", "slabs"},
    "dicomweb": {"errors", "progress", "disk", "seals", "io"},
    # Networks
    "learning": {"errors", "seals", "progress", "chance"} | VALUES,
    "methods": {"errors", "progress", "chance", "learning"} | VALUES,
    # What runs them over files, over arrays, and against each other
    "pipeline": {"errors", "disk", "seals", "chance", "progress", "workers", "slabs"}
    | {"io", "bounds", "volumes", "residuals", "dicomweb", "learning", "methods"}
    | VALUES,
    "transforms": {"errors", "disk", "slabs", "io", "bounds", "volumes", "learning", "methods"} | VALUES,
    "evaluate": {"errors", "disk", "progress", "io", "learning", "pipeline"} | VALUES,
    # Skins
    "bundle": {"errors", "disk", "dicomweb", "learning", "pipeline", "transforms", "evaluate"} | VALUES,
    "demo": {"errors", "io", "pipeline", "evaluate", "transforms"} | VALUES,
    "cli": {
        "errors",
        "disk",
        "progress",
        "workers",
        "windows",
        "budget",
        "io",
        "dicomweb",
        "methods",
        "pipeline",
        "evaluate",
        "demo",
    },
}
# Modules that whoever looks at files imports; they load none of the packages that take seconds.
LIGHT = ["errors", "progress", "disk", "seals", "chance", "workers", "slabs", "spans", "morphology"]
LIGHT += [*sorted(VALUES), "io", "bounds", "volumes", "residuals", "dicomweb"]
HEAVY = ("torch", "monai")
# Rooms inside io, likewise: no format knows another, and what is shared knows no format.
TELLING = {"signatures", "pictures_in_text", "leftovers"}
ALLOWED_IN_IO: dict[str, set[str]] = {
    "modalities": set(),
    "signatures": set(),
    "pictures_in_text": {"signatures"},
    "leftovers": {"signatures", "pictures_in_text"},
    "pdf": TELLING,
    "evidence": set(),
    "kinds": {"evidence"},
    "origins": set(),
    "sharing": set(),
    "deflating": {"origins"},
    "base": {"kinds", "origins"},
    "new_values": {"base"},
    "dicom": {"base", "kinds", "modalities", "new_values", "origins", "pdf", "sharing"} | TELLING,
    "nifti": {"base", "deflating", "kinds", "leftovers", "new_values", "origins"},
    "itk": {"base", "deflating", "kinds", "leftovers", "new_values", "origins"},
    "raster": {"base", "kinds", "leftovers", "new_values", "origins"},
    "other": {"base", "pdf"} | TELLING,
    "segmentations": set(),
    "simpleitk": set(),
    "second_reader": {"origins"},
}
# Foreign packages that some rooms or modules alone may import.
AT_HOME = {
    # Bars in the logs of those who watch no terminal, and of --quiet, came from elsewhere.
    "tqdm": {"progress"},
    "click": {"cli"},
    # The demo makes an export of its own; nothing else writes files from nothing.
    "pydicom": {"io.dicom", "demo.files"},
    "nibabel": {"io.nifti", "demo.files"},
    "nilearn": {"demo.brain"},
    "imagecodecs": {"io.dicom.codecs.libraries"},
    "jpeg_ls": {"io.dicom.codecs.libraries"},
    "cryptography": {"residuals.sealing"},
    "distributed": {"workers.cluster"},
    "dicomweb_client": {"dicomweb"},
    "requests": {"dicomweb"},
    "highdicom": {"io.segmentations"},
    # A countermeasure uses what a stranger would use.
    "SimpleITK": {"io.simpleitk", "evaluate.countermeasures.filters"},
    "PIL": {"io.raster.decoding", "evaluate.countermeasures.filters"},
    "skimage": {"evaluate.countermeasures.filters"},
    # Both take seconds to load, and files are read and written without them.
    "torch": {"learning", "methods", "pipeline", "transforms", "evaluate", "bundle", "cli.demo"},
    "monai": {"learning", "methods", "pipeline", "transforms", "bundle"},
}


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Calls that import a module by its name.
BY_NAME = {"import_module", "_optional"}

MODULES = {_module(file) for file in FILES}


def _room(module: str) -> str:
    """Name the room of a module: empty for the package itself, and for ``python -m`` that of the command line."""
    name = module.partition(".")[2].partition(".")[0]
    return "cli" if name == "__main__" else name


def _within(module: str, rooms: set[str]) -> bool:
    return any(f"{module}.".startswith(f"monai_salm.{room}.") for room in rooms)


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
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BY_NAME:
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
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
    if room == "":
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
        "as_planned",
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
        "run_lock",
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


@pytest.mark.parametrize("file", [file for file in FILES if "io" in file.relative_to(PACKAGE).parts[:1]], ids=str)
def test_rooms_of_io_import_downward_only(file: Path) -> None:
    room = _room(_module(file).removeprefix("monai_salm."))
    if room == "":
        return  # io itself, which knows every format
    assert room in ALLOWED_IN_IO, f"room {room!r} of io is new: say in ALLOWED_IN_IO what it may import"
    ours = {name.removeprefix("monai_salm.") for name in _imports(file) if _within(name, {"io"})}
    upward = {name for name in ours if _room(name) not in {room} | ALLOWED_IN_IO[room]}
    assert not upward, f"{_module(file)} may not import {sorted(upward)}"


@pytest.mark.parametrize(
    ("heading", "allowed"), [("## Rooms", ALLOWED), ("### Inside io", ALLOWED_IN_IO)], ids=["package", "io"]
)
def test_rooms_stand_as_in_the_picture(heading: str, allowed: dict[str, set[str]]) -> None:
    """The lines of the picture name the rooms from the top down; a room imports none above its own line."""
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    picture = page.partition(f"{heading}\n")[2].partition("```\n")[2].partition("```")[0]
    lines = [line.split("  ")[0].split(", ") for line in reversed(picture.splitlines())]
    assert [room for line in lines for room in line] == list(allowed)
    for height, line in enumerate(lines):
        below = {room for lower in lines[: height + 1] for room in lower}
        assert all(allowed[room] <= below for room in line)


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
        if name in AT_HOME and not _within(module, AT_HOME[name])
    }
    assert not strays, f"{module} may not import {sorted(strays)}"


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_no_heavy_package(name: str) -> None:
    program = f"import sys, monai_salm.{name}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@EVERY_FILE
def test_habits(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert len(text.splitlines()) < 400
    nodes = list(ast.walk(_tree(file)))
    assert not any(isinstance(node, ast.Assert) for node in nodes), "an assert is gone under python -O; raise an error"
    assert not any(isinstance(node, ast.Name) and node.id == "print" for node in nodes), (
        "only the command line prints, with click.echo"
    )


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("monai_salm.cli", {"torch", "monai", "numpy", "pydicom"}),
        ("monai_salm.io", {"torch", "monai", "scipy.ndimage", "scipy.sparse", "highdicom", "SimpleITK"}),
    ],
)
def test_starting_loads_little(module: str, slow: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not slow & set(done.stdout.split())


def test_the_rules_see_something() -> None:
    assert {"monai_salm.budget", "monai_salm.io.dicom", "monai_salm.pipeline"} <= MODULES
    found = {name.split(".")[0]: _module(file) for file in FILES for name in _imports(file)}
    assert set(AT_HOME) <= set(found)
    assert {_room(module) for module in MODULES} - {""} == set(ALLOWED)
    assert {name.split(".")[2] for name in MODULES if name.startswith("monai_salm.io.")} == set(ALLOWED_IN_IO)
