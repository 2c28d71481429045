# SPDX-License-Identifier: Apache-2.0
"""The documents say what the program does: commands, options, public names, and the commands that the README gives."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

import monai_salm
from monai_salm.cli import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLI_PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
FOR_CONTRIBUTORS = [
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
    "benchmarks/README.md",
    ".github/PULL_REQUEST_TEMPLATE.md",
]


def test_cli_page_is_what_the_commands_say() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == CLI_PAGE, "run python docs/make_cli.py"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_has_help_and_is_documented(name: str) -> None:
    command = cli.commands[name]
    assert command.help
    assert f"## {name}\n" in CLI_PAGE
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or isinstance(parameter.type, click.Choice) or parameter.name == "seed", (
                f"{name} {parameter.name} has no help"
            )
            assert parameter.opts[0] in CLI_PAGE


def test_readme_gives_two_commands_that_are_complete() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    demo, tests = blocks[0].strip(), blocks[1].strip()
    assert demo.endswith(".venv/bin/monai-salm demo")
    assert tests.endswith(".venv/bin/pytest")
    for block in (demo, tests):
        assert block.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt")
    assert tests in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines(), (
        "continuous integration must run the README's test command as it is"
    )


def test_readme_uses_only_commands_and_options_that_exist() -> None:
    used = re.findall(r"^monai-salm (.+?)(?:\s{2,}#.*)?$", README, flags=re.M)
    assert used
    for line in used:
        name, *arguments = shlex.split(line)
        known = {opt for parameter in cli.commands[name].params for opt in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= known


def test_public_names_exist_and_the_contract_of_the_design_holds() -> None:
    for name in monai_salm.__all__:
        assert getattr(monai_salm, name) is not None
    assert {"MinMinOptimizer", "NoiseStore", "PerturbationBudget"} <= set(monai_salm.__all__)
    assert sorted(monai_salm.__all__) == dir(monai_salm)


def test_python_blocks_of_the_readme_import() -> None:
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.S):
        imports = [line for line in block.splitlines() if line.startswith(("from ", "import "))]
        assert imports
        exec("\n".join(imports), {})  # noqa: S102 (our own README)


def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)(?:#([^)]+))?\)", _text(page))
    missing = {link for link, _ in links if not ((ROOT / page).parent / link).exists()}
    assert not missing
    for link, heading in links:
        if heading:
            assert heading in {title.lower() for title in re.findall(r"^#+ (.+)$", _text(link), flags=re.M)}


def test_files_and_names_in_contributing_exist() -> None:
    """A file from the top, from the package, or from one of the two packages that are walked through."""
    package = Path(monai_salm.__file__).parent
    roots = [ROOT, package.parent, package, package / "io" / "nifti", package / "evaluate" / "countermeasures"]
    quoted = set(re.findall(r"`([\w./-]+)`", _text("CONTRIBUTING.md")))
    files = {name for name in quoted if name.endswith((".py", ".md", ".toml", ".txt"))}
    assert {name for name in files if not any((root / name).exists() for root in roots)} == set()
    code = "\n".join(
        path.read_text(encoding="utf-8") for room in (package, ROOT / "tests") for path in room.rglob("*.py")
    )
    names = {name.rpartition(".")[2] for name in quoted - files if re.fullmatch(r"[A-Za-z_.]+", name)}
    assert len(names) > 20
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS)
def test_commands_for_contributors_exist(page: str) -> None:
    lines = "".join(re.findall(r"```sh\n(.*?)```", _text(page), flags=re.S)).splitlines()
    lines += re.findall(r"^\| `((?:pytest|ruff|python|\.ci)[^`]*)`", _text(page), flags=re.M)
    for command in (part for line in lines for part in line.partition("   #")[0].split("&&")):
        program, *words = shlex.split(command)
        files = [word for word in words if word.startswith(("tests/", "benchmarks/"))]
        assert all((ROOT / file).exists() for file in files), command
        if program == "monai-salm" and words[0] in cli.commands:
            known = {opt for parameter in cli.commands[words[0]].params for opt in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, command
        elif program == "python" and words[0] == "-m":
            assert importlib.util.find_spec(words[1]) is not None, command
