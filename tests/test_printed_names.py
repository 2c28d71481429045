# SPDX-License-Identifier: Apache-2.0
"""Whatever a file is called, and whatever it says: what a command prints and logs has no control characters, and no
line more than it means to have.
"""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from monai_salm import cli
from monai_salm.errors import PrintableFormatter
from monai_salm.evaluate.report.markup import element
from monai_salm.progress import BesideProgress, how_logs_are_told, log_as
from tests.exports import label_table, mr_slice

HOSTILE = ("a\x1b[2J.dcm", "b\nError: all is lost.dcm", "c\r\x07.dcm", "d\u202e.dcm", "e\x9b31m.dcm", "f\x7f.dcm")
PACKAGE = Path(cli.__file__).parents[1]


def _hostile_export(folder: Path) -> Path:
    for number, name in enumerate(HOSTILE):
        mr_slice(folder / "in" / "\x1b]0;owned\x07" / name, number, PatientID=f"P\x1b[31m{number}")
    (folder / "in" / "raw\x1b[5m\n.bin").write_bytes(b"\0")
    return folder / "in"


def _run(*arguments: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "monai_salm", *arguments], cwd=cwd, capture_output=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).decode("utf-8")


def _clean(text: str) -> None:
    assert not [letter for letter in text if not letter.isprintable() and letter != "\n"], ascii(text)
    assert "\nError: all is lost" not in text


@pytest.mark.slow
def test_no_command_prints_a_control_character(tmp_path: Path) -> None:
    _hostile_export(tmp_path)
    names = {f"\x1b]0;owned\x07/{name}": number % 2 for number, name in enumerate(HOSTILE)}
    label_table(tmp_path / "l.csv", names | {"no\x1b[1m.dcm": 1})
    small = ["--labels", "l.csv", "--rounds", "1", "--surrogate", "small-cnn", "--working-size", "24"]
    commands = [
        (["scan", "in"], 0),
        (["scan", "in", "--json"], 0),
        (["protect", "in", "out\x1b[1m", "--method", "random", "--workers", "2", "--copy-unprotected"], 3),
        (["protect", "in", "none", "--method", "random", "--dry-run"], 3),
        (["protect", "in", "again", *small, "--no-estimate"], 3),
        (["verify", "in", "again"], 4),
        (["keygen", "k\x1b[1m"], 0),
        (["protect", "a", "b", "c\x1b[1m\nError: all is lost"], 2),
        (["scan", "no\x1b[1m\nError: all is lost"], 2),
        (["verify\x1b[1m"], 2),
    ]
    for command, expected in commands:
        if command[0] == "verify":
            next((tmp_path / "again").rglob("a*.dcm")).unlink()
        code, text = _run(*command, cwd=tmp_path)
        assert code == expected, text
        assert text, command
        _clean(text)


@pytest.mark.slow
def test_warnings_of_other_packages_are_printed_so_too(tmp_path: Path) -> None:
    program = (
        "import sys, warnings, logging\n"
        "from monai_salm.cli import entry\n"
        "def loud(*_, **__):\n"
        "    warnings.warn('a\\x1b[31m\\nError: all is lost')\n"
        "    logging.getLogger('pydicom').warning('b\\x9b\\nError: all is lost')\n"
        "    sys.exit(0)\n"
        "entry.cli.commands['scan'].callback = loud\n"
        "entry.main(['scan', 'in'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    text = (done.stdout + done.stderr).decode("utf-8")
    assert "a [31m Error: all is lost" in text
    assert "b  Error: all is lost" in text
    _clean(text)


def test_formatter_gives_one_printable_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", ("a\x1b[31m\nb\u202e",), None)
    assert PrintableFormatter().format(record) == "a [31m b "
    assert PrintableFormatter(logging.Formatter("%(name)s %(message)s")).format(record) == "x a [31m b "
    try:
        raise ValueError("c\x1b")
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *others = PrintableFormatter().format(record).splitlines()
    assert (first, others[0], others[-1]) == ("a [31m", "b ", "ValueError: c ")


def test_commands_print_in_one_place() -> None:
    """``print_line`` makes what it prints printable; nobody goes around it."""
    for file in sorted((PACKAGE / "cli").glob("*.py")):
        found = [
            node.func.attr
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        assert file.name == "printing.py" or not {"echo", "secho", "show", "print"} & set(found), file.name


def test_report_shows_no_control_characters() -> None:
    shown = element("td", "a\x1b[31m\u202e<b>\N{NO-BREAK SPACE}%", title="c\x9b\udce9")
    assert shown == '<td title="c \\xe9">a [31m &lt;b&gt;\N{NO-BREAK SPACE}%</td>'


@pytest.mark.slow
def test_bundle_logs_so_too(tmp_path: Path) -> None:
    bundle = PACKAGE.parent / "bundles" / "salm_protect"
    options = {
        "bundle_root": bundle, "config_file": bundle / "configs" / "train.json", "dataset_dir": tmp_path / "in",
        "output_dir": tmp_path / "out\x1b[1m", "method": "random", "working_size": 16, "device": "cpu",
    }  # fmt: skip
    mr_slice(tmp_path / "in" / "a.dcm", 1)
    pytest.importorskip("fire")
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *(f"--{name}={value}" for name, value in options.items())],
        cwd=tmp_path, capture_output=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.decode("utf-8").splitlines() if "not to be handed out" in line)
    assert line.endswith("out [1m.work")


def test_a_process_that_writes_files_tells_its_logs_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    for handlers, telling in (([], "unknown"), ([logging.NullHandler()], "nothing"), ([BesideProgress()], "printable")):
        monkeypatch.setattr(root, "handlers", list(handlers))
        assert how_logs_are_told() == telling
        monkeypatch.setattr(root, "handlers", [])
        with warnings.catch_warnings():
            log_as(telling)
        assert [type(handler) for handler in root.handlers] == [type(handler) for handler in handlers]
