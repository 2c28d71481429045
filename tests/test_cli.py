# SPDX-License-Identifier: Apache-2.0
"""The command line: exit codes, one JSON object, one line for an error, and nothing else."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from monai_salm import cli
from monai_salm.pipeline import ProtectOptions
from tests.exports import KEY, ROOT_UID, block, dicom_object, mr_export, mr_labels, mr_slice, nifti_file, tree, zip_file

SMALL = ("--rounds", "1", "--surrogate", "small-cnn", "--working-size", "24", "--device", "cpu", "--key-file", str(KEY))
DRAWN = ("--method", "random", "--working-size", "24", "--key-file", str(KEY))
SR = "1.2.840.10008.5.1.4.1.1.88.33"

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("log_as_before")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit, match=r"^\d$") as stop:
            cli.main([str(argument) for argument in arguments])
        return (int(str(stop.value)), *capsys.readouterr())

    return call


@pytest.fixture
def export(tmp_path: Path) -> Path:
    mr_labels(tmp_path / "labels.csv", 4)
    return mr_export(tmp_path / "in", 4)


def _is_one_line(error: str) -> bool:
    return error.startswith("Error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_protect_verify_and_scan(export: Path, tmp_path: Path, run: Run) -> None:
    code, out, _ = run("protect", export, tmp_path / "out", "--labels", tmp_path / "labels.csv", *SMALL)
    assert code == 0
    assert out.startswith("4 protected, 0 copied, 0 refused, 0 failed; ")
    assert f"private, not to be handed out: {tmp_path / 'out.work'}" in out
    code, out, _ = run("verify", export, tmp_path / "out")
    assert (code, out.splitlines()[0]) == (0, "4 protected, 0 copied, 0 absent, 0 mismatch")
    assert "shift of a region's mean, real units: at most " in out
    code, out, _ = run("scan", export)
    assert (code, out.splitlines()) == (
        0,
        ["4 dicom MR, 24x24", "4 files can be protected, 0 are copied, 0 are refused, 0 ignored"],
    )


def test_scan_names_refused_files_but_not_copies(export: Path, run: Run) -> None:
    (export / "copy.dcm").write_bytes((export / "case0" / "image.dcm").read_bytes())
    (export / "raw.bin").write_bytes(b"\0x")
    code, out, _ = run("scan", export)
    assert code == 0
    assert "5 files can be protected, 0 are copied, 1 are refused, 0 ignored" in out
    assert "refused: raw.bin: unknown binary format" in out
    assert "refused: copy.dcm" not in out


@pytest.mark.slow
def test_labels_are_told_by_the_run_and_by_its_dry_run(export: Path, tmp_path: Path, run: Run) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(
        "path;label\ncase0/image.dcm;0\ncase1/image.dcm;1\ncase2/image.dcm;0.0\ncase3/image.dcm;NA\nnone.dcm;1\n"
    )
    told = [
        "labels: classes of column 'label': 0 2, 1 1 of 3 images",
        "labels: 1 row without an image: none.dcm",
        "labels: 1 row without a label: case3/image.dcm (no value in column 'label', line 5 ('NA'))",
        "labels: 1 image without a label: case3/image.dcm",
    ]
    for arguments, place in ((("--dry-run",), 1), ((), 3)):
        code, out, error = run("protect", export, tmp_path / "out", "--labels", table, *SMALL, *arguments, "--quiet")
        assert (code, error, out.splitlines()[place : place + 4]) == (3, "", told)
        assert "refused: case3/image.dcm: its row in the table has no value in column 'label', line 5" in out
    code, out, _ = run("protect", export, tmp_path / "more", "--labels", table, *SMALL, "--json", "--quiet")
    assert json.loads(out)["labels"]["classes"] == {"0": 2, "1": 1}


@pytest.mark.slow
def test_scan_promises_what_the_run_keeps(export: Path, tmp_path: Path, run: Run) -> None:
    mr_slice(export / "metal.dcm", 9, (block(0)[0][:, :, 6] + 1500), Modality="CT")
    nifti_file(export / "v.nii", block(0)[0] * 2 - 1024)
    code, out, _ = run("scan", export, "--values", "--quiet")
    assert (code, out.splitlines()[-3]) == (0, "4 files can be protected, 0 are copied, 2 are refused, 0 ignored")
    assert "refused: metal.dcm: none of its" in out
    assert "refused: v.nii: values reach -524, which looks like CT" in out
    assert run("protect", export, tmp_path / "out", *DRAWN, "--quiet")[1].startswith("4 protected, 0 copied, 2 refused")
    options = ("--modality", "CT", "--window", "-2000,4000")
    assert (
        "6 files can be protected, 0 are copied, 0 are refused"
        in run("scan", export, "--values", "--quiet", *options)[1]
    )
    assert run("protect", export, tmp_path / "more", *DRAWN, "--quiet", *options)[1].startswith("6 protected")


def test_scan_goes_by_the_headers(export: Path, run: Run) -> None:
    mr_slice(export / "metal.dcm", 9, (block(0)[0][:, :, 6] + 1500), Modality="CT")
    whole = run("scan", export, "--values", "--json", "--quiet")
    code, out, error = run("scan", export, "--json", "--quiet")
    seen, known = json.loads(out), json.loads(whole[1])
    assert (code, error, seen["counts"]) == (0, "", {"protect": 5, "copy": 0, "refuse": 0, "ignored": 0})
    assert known["counts"] == {"protect": 4, "copy": 0, "refuse": 1, "ignored": 0}
    assert [file["path"] for file in seen["files"] if file not in known["files"]] == ["metal.dcm"]
    assert "5 files can be protected, 0 are copied, 0 are refused, 0 ignored" in run("scan", export, "--quiet")[1]


def test_scan_refuses_a_header_whose_values_are_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.mhd").write_bytes(
        b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = a.raw\n"
    )
    (tmp_path / "a.raw").write_bytes(bytes(128))
    result = json.loads(run("scan", tmp_path, "--json", "--quiet")[1])
    assert {file["path"]: file["fate"] for file in result["files"]} == {"a.mhd": "refuse", "a.raw": "refuse"}


def test_scan_loads_nothing_heavy(export: Path) -> None:
    code = (
        "import sys; from monai_salm.cli import cli; cli(sys.argv[1:], standalone_mode=False); "
        "print({'torch', 'monai', 'scipy.signal', 'scipy.ndimage', 'SimpleITK'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "scan", str(export), "--quiet"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_exit_code_of_a_run_that_is_incomplete(export: Path, tmp_path: Path, run: Run) -> None:
    (export / "raw.bin").write_bytes(b"\0x")
    code, out, _ = run("protect", export, tmp_path / "out", *DRAWN)
    assert code == cli.EXIT_INCOMPLETE == 3
    assert "refused: raw.bin: unknown binary format" in out


def test_exit_code_of_a_run_that_protects_nothing(export: Path, tmp_path: Path, run: Run) -> None:
    code, out, _ = run("protect", export, tmp_path / "out", *DRAWN, "--epsilon", "0.1 units")
    assert code == cli.EXIT_FAILED == 1
    assert "0 protected" in out
    assert not tree(tmp_path / "out")


@pytest.mark.slow
def test_exit_code_of_a_mismatch(export: Path, tmp_path: Path, run: Run) -> None:
    run("protect", export, tmp_path / "out", *DRAWN)
    name = Path("case0", "image.dcm")
    (tmp_path / "out" / name).write_bytes((export / name).read_bytes())
    code, out, _ = run("verify", export, tmp_path / "out")
    assert code == cli.EXIT_MISMATCH == 4
    assert "mismatch: case0/image.dcm: no voxel differs" in out
    code, out, _ = run("verify", export, tmp_path / "out", "--json", "--epsilon", "1/255")
    assert (code, json.loads(out)["counts"]["mismatch"]) == (4, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("protect", "{in}", "{out}", *DRAWN), 0),
        (("protect", "{in}", "{out}", "--labels", "{labels}", *SMALL), 0),
        (("protect", "{in}", "{out}", *DRAWN, "--dry-run"), 0),
        (("scan", "{in}"), 0),
        (("verify", "{in}", "{other}"), 4),
    ],
    ids=["random", "salm", "dry run", "scan", "verify"],
)
def test_json_is_one_object_and_quiet_is_quiet(
    export: Path, tmp_path: Path, run: Run, arguments: tuple[str, ...], code: int
) -> None:
    mr_export(tmp_path / "other", 1)
    places = {"in": export, "out": tmp_path / "out", "labels": tmp_path / "labels.csv", "other": tmp_path / "other"}
    found, out, error = run(*(argument.format(**places) for argument in arguments), "--json", "--quiet")
    assert found == code
    assert isinstance(json.loads(out), dict)
    assert error == ""


def test_dry_run_changes_nothing_and_counts_all(export: Path, tmp_path: Path, run: Run) -> None:
    (export / "copy.dcm").write_bytes((export / "case0" / "image.dcm").read_bytes())
    before = tree(tmp_path)
    code, out, _ = run(
        "protect", export, tmp_path / "out", "--labels", tmp_path / "labels.csv", "--dry-run", "--json", *SMALL
    )
    result = json.loads(out)
    assert code == 0
    assert result["counts"] == {"protect": 5, "copy": 0, "refuse": 0, "samples": 4, "incomplete": 0}
    assert {file["path"] for file in result["files"]} == set(tree(export))
    assert all(file["fate"] == "protect" and file["epsilon_stored"] >= 1 for file in result["files"])
    (export / "raw.bin").write_bytes(b"\0x")
    before["in/raw.bin"] = b"\0x"
    code, out, _ = run("protect", export, tmp_path / "out", *DRAWN, "--dry-run")
    assert code == 3
    assert out.startswith(
        "would protect 5 files in 4 samples, copy 0 and refuse 1; nothing was written\nrefused: raw.bin: "
    )
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("protect", "{in}", "{out}"), 2, "needs labels; give --labels FILE"),
        (("protect", "{none}", "{out}", *DRAWN), 2, "no such file or folder"),
        (("protect", "{in}", "{in}/out", *DRAWN), 2, "lies in the input"),
        (("protect", "{in}", "{out}", "--method", "magic"), 2, "method 'magic' is unknown"),
        (("protect", "{in}", "{out}", "--labels", "{none}", *SMALL), 2, "the label table cannot be read"),
        (("protect", "{in}", "{out}", *DRAWN, "--window", "5,1"), 2, "is empty or not finite"),
        (("verify", "{in}", "{none}"), 2, "no such file or folder"),
        (("verify", "{in}", "{in}"), 2, "are the same"),
        (("verify", "{in}", "{out}", "--epsilon", "x"), 2, "epsilon 'x' is not understood"),
        (("scan", "{none}"), 2, "no such file or folder"),
        (("keygen", "{none}/key"), 1, "No such file or directory"),
    ],
    ids=lambda value: "-".join(part.strip("{}-") for part in value[:1]) if isinstance(value, tuple) else None,
)
def test_error_is_one_line(
    export: Path, tmp_path: Path, run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    places = {"in": export, "out": tmp_path / "out", "none": tmp_path / "none"}
    found, out, error = run(
        *(argument.format(**places) for argument in arguments), *(["--quiet"] if arguments[0] != "keygen" else [])
    )
    assert (found, out) == (code, "")
    assert _is_one_line(error)
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("protect",),
        ("protect", "a"),
        ("scan", "a", "--nonsense"),
        ("nonsense",),
        ("protect", "a", "b", "--workers", "-1"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert error.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    ("exception", "message"),
    [
        (
            RuntimeError("first\nsecond"),
            "Error: unexpected RuntimeError: first second; please report it with the command that you gave\n",
        ),
        (OSError(28, "No space left on device", "/x"), "Error: /x: No space left on device\n"),
        (MemoryError(), "Error: out of memory; give a smaller --working-size, or fewer --workers\n"),
        (KeyboardInterrupt(), "Error: stopped\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_unexpected_exception_is_one_line(
    export: Path, run: Run, monkeypatch: pytest.MonkeyPatch, exception: BaseException, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise exception

    monkeypatch.setattr("monai_salm.pipeline.scan", fail)
    code, out, error = run("scan", export, "--quiet")
    assert (code, out, error.lstrip()) == (1, "", message)  # click begins a new line after the ^C of a terminal


def test_stopped_protection_says_how_to_go_on(
    export: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_salm.pipeline.protect", fail)
    code, _, error = run("protect", export, tmp_path / "out", *DRAWN, "--quiet")
    assert (code, error.lstrip()) == (1, "Error: stopped; the same command with --resume goes on\n")


def test_termination_is_met_like_an_interrupt(tmp_path: Path) -> None:
    """In a process of its own, for the signal ends what does not meet it."""
    program = """
import os, signal, sys
from pathlib import Path
import monai_salm.pipeline as pipeline
from monai_salm.cli.entry import main
from monai_salm.disk import atomic_target

def terminated(*_, **__):
    with atomic_target(Path(sys.argv[2]) / "file"):
        os.kill(os.getpid(), signal.SIGTERM)

pipeline.protect = terminated
main(["protect", sys.argv[1], sys.argv[2], "--method", "random", "--quiet"])
"""
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-c", program, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.lstrip()) == (1, "Error: stopped; the same command with --resume goes on\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_keygen(tmp_path: Path, run: Run) -> None:
    key = tmp_path / "key"
    assert run("keygen", key)[:2] == (0, f"wrote {key}; keep it private, and keep a copy\n")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    content = key.read_text()
    assert re.fullmatch(r"[0-9a-f]{64}\n", content)
    code, _, error = run("keygen", key)
    assert code == 2
    assert "exists already; a key that was used must not be replaced" in error
    assert key.read_text() == content
    run("keygen", tmp_path / "other")
    assert (tmp_path / "other").read_text() != content


class StopError(Exception):
    """The options are seen; the run is not needed."""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {"uids": "new", "image_type": "derived", "provenance": "full", "source_reference": True}),
        (("--uids", "keep"), {"uids": "keep"}),
        (("--image-type", "keep"), {"image_type": "keep"}),
        (("--provenance", "minimal"), {"provenance": "minimal"}),
        (("--provenance", "none", "--no-source-reference"), {"provenance": "none", "source_reference": False}),
        (("--source-reference",), {"source_reference": True}),
        (("--task", "segmentation"), {"task": "segmentation", "labels": None}),
    ],
    ids=lambda value: " ".join(value) or "none" if isinstance(value, tuple) else None,
)
def test_options_reach_the_run(
    export: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: dict[str, Any],
) -> None:
    seen: list[ProtectOptions] = []

    def protect(source: Path, output: Path, options: ProtectOptions, **_: Any) -> None:
        assert (source, output) == (export, tmp_path / "out")
        seen.append(options)
        raise StopError

    monkeypatch.setattr("monai_salm.pipeline.protect", protect)
    run("protect", export, tmp_path / "out", *arguments, "--quiet")
    assert {name: getattr(seen[0], name) for name in expected} == expected


@pytest.mark.parametrize(
    "arguments", [("--uids", "old"), ("--image-type", "original"), ("--provenance", "some")], ids=" ".join
)
def test_choices_are_those_that_there_are(export: Path, tmp_path: Path, run: Run, arguments: tuple[str, ...]) -> None:
    code, _, error = run("protect", export, tmp_path / "out", *DRAWN, *arguments)
    assert code == 2
    assert f"Invalid value for '{arguments[0]}'" in error


@pytest.mark.slow
def test_kept_uids_are_warned_of_on_standard_error(export: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "monai_salm",
        "protect",
        str(export),
        str(tmp_path / "out"),
        *DRAWN,
        "--uids",
        "keep",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["counts"]["protected"]) == (0, 4)
    assert "UIDs are kept: an archive that has the originals will ignore the protected files" in done.stderr


def test_scan_says_what_is_copied_what_is_ignored_and_what_to_know(export: Path, run: Run) -> None:
    (export / "notes.txt").write_text("x")
    (export / "more.txt").write_text("y")
    (export / "report.pdf").write_bytes(b"%PDF-1.4\n")
    (export / "other.pdf").write_bytes(b"%PDF-1.4\n")
    (export / ".DS_Store").write_bytes(b"\0")
    dicom_object(export / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.1"])
    nifti_file(export / "labels.nii", block(0)[1])
    code, out, _ = run("scan", export)
    assert (code, out.splitlines()) == (
        0,
        [
            "4 dicom MR, 24x24",
            "1 no image (Comprehensive SR Storage)",
            "2 no image (PDF)",
            "1 no image (label map)",
            "2 no image (text)",
            "4 files can be protected, 6 are copied, 0 are refused, 1 ignored",
            "note: other.pdf and 1 more: no image was found in the PDF, whose lines and text are not looked at",
        ],
    )
    code, out, _ = run("scan", export, "--json", "--quiet")
    result = json.loads(out)
    assert result["counts"] == {"protect": 4, "copy": 6, "refuse": 0, "ignored": 1}
    assert result["ignored"] == [".DS_Store"]


@pytest.mark.slow
def test_protect_counts_what_it_copied_and_prints_notes(export: Path, tmp_path: Path, run: Run) -> None:
    (export / "report.pdf").write_bytes(b"%PDF-1.4\n")
    dicom_object(export / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.1"])
    code, out, _ = run("protect", export, tmp_path / "out", *DRAWN)
    assert code == 0
    assert out.startswith("4 protected, 2 copied, 0 refused, 0 failed; ")
    assert "note: report.pdf: no image was found in the PDF, whose lines and text are not looked at" in out
    assert "note: sr.dcm: references to changed objects were renewed" in out
    code, out, _ = run("verify", export, tmp_path / "out")
    assert (code, out.splitlines()[0]) == (0, "4 protected, 2 copied, 0 absent, 0 mismatch")


def test_documents_alone_are_done(tmp_path: Path, run: Run) -> None:
    dicom_object(tmp_path / "in" / "sr.dcm", SR, 1)
    code, out, _ = run("protect", tmp_path / "in", tmp_path / "out", *DRAWN)
    assert (code, out.splitlines()[0]) == (0, f"0 protected, 1 copied, 0 refused, 0 failed; {tmp_path / 'out'}")
    assert run("verify", tmp_path / "in", tmp_path / "out")[:2] == (0, "0 protected, 1 copied, 0 absent, 0 mismatch\n")
    assert run("protect", tmp_path / "in", tmp_path / "more", *DRAWN, "--dry-run")[0] == 0


def test_nothing_usable_fails(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "raw.bin").write_bytes(b"\0x")
    (tmp_path / "in" / "Thumbs.db").write_bytes(b"\0x")
    code, out, _ = run("protect", tmp_path / "in", tmp_path / "out", *DRAWN)
    assert (code, out.splitlines()[0]) == (1, f"0 protected, 0 copied, 1 refused, 0 failed; {tmp_path / 'out'}")
    (tmp_path / "in" / "raw.bin").unlink()
    code, _, error = run("protect", tmp_path / "in", tmp_path / "more", *DRAWN, "--quiet")
    assert code == 2
    assert "there is no file in it" in error


def test_refused_files_that_were_asked_for_are_still_problems(export: Path, tmp_path: Path, run: Run) -> None:
    (export / "raw.bin").write_bytes(b"\0x")
    (export / "notes.txt").write_text("x")
    code, out, _ = run("protect", export, tmp_path / "out", *DRAWN, "--copy-unprotected")
    assert code == 3
    assert out.startswith("4 protected, 2 copied, 0 refused, 0 failed; ")
    assert "copied: raw.bin: unknown binary format" in out
    assert "copied: notes.txt" not in out


@pytest.mark.slow
def test_zip_on_the_command_line(export: Path, tmp_path: Path, run: Run) -> None:
    source = zip_file(tmp_path / "export.zip", export)
    before = tree(tmp_path)
    code, out, _ = run("scan", source)
    assert (code, out.splitlines()[0]) == (0, "4 dicom MR, 24x24")
    code, out, _ = run("protect", source, tmp_path / "out.zip", *DRAWN, "--dry-run")
    assert (code, out.splitlines()[0]) == (
        0,
        "would protect 4 files in 4 samples, copy 0 and refuse 0; nothing was written",
    )
    assert tree(tmp_path) == before
    code, out, _ = run("protect", source, tmp_path / "out.zip", *DRAWN)
    assert (code, out.splitlines()[0]) == (0, f"4 protected, 0 copied, 0 refused, 0 failed; {tmp_path / 'out.zip'}")
    code, out, _ = run("verify", source, tmp_path / "out.zip")
    assert (code, out.splitlines()[0]) == (0, "4 protected, 0 copied, 0 absent, 0 mismatch")
    code, _, error = run("protect", source, tmp_path / "out.zip", *DRAWN, "--quiet")
    assert code == 2
    assert "out.zip is a file already; give another name" in error


@pytest.mark.slow
def test_verify_says_which_references_lead_nowhere_and_which_bounds_are_not_stated(
    export: Path, tmp_path: Path, run: Run
) -> None:
    dicom_object(export / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.1"])
    run("protect", export, tmp_path / "out", *DRAWN, "--provenance", "none")
    (tmp_path / "out" / "case0" / "image.dcm").unlink()
    code, out, _ = run("verify", export, tmp_path / "out")
    assert code == 4
    assert "mismatch: case0/image.dcm: it is absent, and the run's manifest says that it was protected" in out
    assert "give --allow-absent" in out
    code, out, _ = run("verify", export, tmp_path / "out", "--allow-absent")
    assert code == 0
    assert "absent: case0/image.dcm: absent files are allowed" in out
    assert "1 references are to objects that were not handed out; --json lists them" in out
    assert "NOT CHECKED: the bound of 3 files, which state none; give --epsilon" in out
    code, out, _ = run("verify", export, tmp_path / "out", "--epsilon", "8/255", "--allow-absent", "--json", "--quiet")
    assert (code, json.loads(out)["bound_not_stated"], json.loads(out)["dangling_references"]) == (0, 0, 1)


def test_altered_document_is_a_mismatch(tmp_path: Path, run: Run) -> None:
    mr_slice(tmp_path / "in" / "a.dcm", 0)
    dicom_object(tmp_path / "in" / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.1"])
    run("protect", tmp_path / "in", tmp_path / "out", *DRAWN)
    (tmp_path / "out" / "sr.dcm").write_bytes((tmp_path / "in" / "sr.dcm").read_bytes())
    code, out, _ = run("verify", tmp_path / "in", tmp_path / "out")
    assert code == 4
    assert f"mismatch: sr.dcm: the reference to {ROOT_UID}.10.1 is gone" in out


@pytest.mark.parametrize("name", sorted(cli.cli.commands))
def test_every_command_and_option_has_help(name: str) -> None:
    command = cli.cli.commands[name]
    assert command.help
    bare = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert set(bare) <= {"seed", "device", "task"}, bare  # their names and choices say it


def test_commands_are_those_of_the_contract() -> None:
    assert {"protect", "scan", "verify", "keygen", "evaluate", "demo"} <= set(cli.cli.commands)


@pytest.mark.slow
def test_installed_program(export: Path, tmp_path: Path) -> None:
    (export / "raw.bin").write_bytes(b"\0x")
    command = [
        sys.executable,
        "-m",
        "monai_salm",
        "protect",
        str(export),
        str(tmp_path / "out"),
        *DRAWN,
        "--json",
        "--quiet",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert json.loads(done.stdout)["counts"] == {"protected": 4, "copied": 0, "refused": 1, "failed": 0}
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert _is_one_line(again.stderr)
