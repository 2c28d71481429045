# SPDX-License-Identifier: Apache-2.0
"""What is handed out as a release: the wheel has what users need and nothing else, the sdist is what is in git, and
examples, documents and bundles hold for the installed wheel, where there is no clone.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from monai_salm.cli import cli
from tests.wheels import ROOT, build, run

BUNDLES = sorted(folder.name for folder in (ROOT / "bundles").iterdir() if (folder / "configs").is_dir())


def _tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is no clone")
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).exists()}


def test_wheel_has_the_package_the_bundles_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        content = {name: file.read(name) for name in file.namelist()}
    own = {name for name in content if ".dist-info/" not in name}
    tracked = _tracked()
    assert own == {name for name in tracked if name.startswith("monai_salm/")} | {
        f"monai_salm/{name}" for name in tracked if name.startswith("bundles/")
    }
    assert {name.partition(".dist-info/")[2] for name in set(content) - own} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"
    }  # fmt: skip
    assert {"monai_salm/py.typed", "monai_salm/io/image_attributes.dic"} <= own
    assert {f"monai_salm/evaluate/report/page.{kind}" for kind in ("css", "js")} <= own
    assert not [name for name, bytes_ in content.items() if str(ROOT).encode() in bytes_], "a path of this machine"


def _metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("/METADATA"))).decode()


def test_metadata(wheel: Path) -> None:
    head, _, description = _metadata(wheel).partition("\n\n")
    assert "\nLicense-Expression: Apache-2.0\nLicense-File: LICENSE\n" in head
    assert description == (ROOT / "README.md").read_text(encoding="utf-8")
    # The name may be somebody else's on a registry; and nothing that a user installs needs it from there.
    assert not re.search(r"^Requires-Dist: monai.salm", head, flags=re.M)
    assert re.findall(r"^Project-URL: (.+)$", head, flags=re.M) == ["Paper, https://arxiv.org/abs/2403.10573"]


def test_sdist_has_what_is_in_git(source: Path) -> None:
    found = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert found == _tracked() - {".git-blame-ignore-revs"} | {"PKG-INFO"}


def test_sdist_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    again = next(build(source, tmp_path, "wheel").iterdir())
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_installed_command_puts_each_bundle_where_it_is_wanted(installed: Path, tmp_path: Path) -> None:
    program = "import monai_salm, sys; print(monai_salm.__file__, *sys.path, sep='\\n')"
    home, *path = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()
    assert Path(home).is_relative_to(installed.parent)
    assert str(ROOT) not in path
    for name in BUNDLES:
        out = run(installed / "monai-salm", "bundle", tmp_path / name, "--name", name, cwd=tmp_path)
        assert out.startswith(f"wrote the bundle {name} to {tmp_path / name}")
        ours = {path.relative_to(ROOT / "bundles") for path in (ROOT / "bundles" / name).rglob("*") if path.is_file()}
        theirs = {path.relative_to(tmp_path): path for path in (tmp_path / name).rglob("*") if path.is_file()}
        assert set(theirs) == {path for path in ours if "__pycache__" not in path.parts}
        assert all(path.read_bytes() == (ROOT / "bundles" / copy).read_bytes() for copy, path in theirs.items())


@pytest.mark.slow
def test_examples_documents_and_bundles_hold_for_the_wheel(source: Path, installed: Path, tmp_path: Path) -> None:
    """Their tests, as a distribution runs them: from the sdist, and the package from where it is installed."""
    shutil.copytree(source, tmp_path / "tree", ignore=shutil.ignore_patterns("monai_salm"))
    tests = [f"tests/test_{name}.py" for name in ("bundle", "docs", "examples", "names", "version")]
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    out = run(installed / "python", *command, cwd=tmp_path / "tree", PYTHONPATH="")
    assert re.search(r"\d+ passed", out)


@pytest.mark.parametrize("name", BUNDLES)
def test_bundles_ask_for_this_version(name: str) -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    metadata = json.loads((ROOT / "bundles" / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert declared is not None
    assert metadata["required_packages_version"]["monai_salm"] == declared[1]


# What users are told of it --------------------------------------------------------------------------------------------


def _rows(page: str, heading: str) -> list[list[str]]:
    part = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"][2:]


def test_the_page_names_every_extra_and_what_it_brings(wheel: Path) -> None:
    metadata = _metadata(wheel).partition("\n\n")[0]
    brought = {extra: set[str]() for extra in re.findall(r"^Provides-Extra: (.+)$", metadata, flags=re.M)}
    for package, extra in re.findall(r"^Requires-Dist: ([\w.-]+).*extra == '(.+)'$", metadata, flags=re.M):
        brought[extra].add(package.lower())
    told = {
        name: set(brings.lower().split(", ")) - {""}
        for names, _, brings in _rows("install.md", "Extras")
        for name in re.findall(r"`(\w+)`", names)
    }
    assert set(told) == set(brought)
    assert {extra: packages for extra, packages in told.items() if packages and packages != brought[extra]} == {}
    assert {extra for extra, packages in told.items() if not packages} == {"formats", "test", "dev"}


def test_the_page_gives_the_ranges_that_are_asked_for(wheel: Path) -> None:
    metadata = _metadata(wheel).partition("\n\n")[0].lower()
    asked = dict(re.findall(r"^requires-dist: ([\w.-]+)>=([\d.]+)$", metadata, flags=re.M))
    asked |= dict(re.findall(r"^requires-(python): >=([\d.]+)$", metadata, flags=re.M))
    rows = _rows("install.md", "What it runs with")
    assert {"python", "monai", "torch"} <= {name.lower() for name, *_ in rows}
    for name, supported, tested in rows:
        assert supported == f"{asked[name.lower()]} and newer"
        assert (tested + ",").startswith((f"{asked[name.lower()]},", f"{asked[name.lower()]}.0,")), "not the oldest"


def test_the_container_is_made_of_what_is_there(wheel: Path) -> None:
    text = (ROOT / "docs" / "container" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    last = dict(steps)
    assert last["FROM"] == "${BASE}"
    assert json.loads(last["ENTRYPOINT"]) == ["monai-salm"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"]), "a number, so that rules against root can be held"
    assert not re.search(r"(?i)token|secret|passw|https?:|--mount", text)
    extras = re.search(r'"/src\[(.+?)\]"', text)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(re.findall(r"^Provides-Extra: (.+)$", _metadata(wheel), flags=re.M))
    taken = (ROOT / "docs" / "container" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    given = re.findall(r"^!(.+)$", taken, flags=re.M)
    assert all((ROOT / name).exists() for name in given)
    # What the wheel is built from, and the file of versions
    assert {"pyproject.toml", "README.md", "LICENSE", "monai_salm", "bundles", "constraints.txt"} == set(given)


@pytest.mark.parametrize("page", ["install.md", "container.md"])
def test_commands_of_the_pages_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.S))
    used = re.findall(r"^(?:docker run (?!.*--entrypoint).*? )?monai-salm(?:-cuda)? +(.+)$", blocks, flags=re.M)
    assert used
    for line in used:
        name, *arguments = shlex.split(line.partition("   #")[0])
        known = {opt for parameter in cli.commands[name].params for opt in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= known
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert all((ROOT / "docs" / link).exists() for link in links)
