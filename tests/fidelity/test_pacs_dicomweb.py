# SPDX-License-Identifier: Apache-2.0
"""A study goes from Orthanc through ``protect`` and back by DICOMweb, also where the run is killed on the way; and the
commands of the page for data managers do what it says.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from monai_salm import cli
from tests.exports import KEY, label_table, tree
from tests.fidelity.orthanc import Orthanc, find_dicomweb, find_orthanc, running_orthanc
from tests.fidelity.studies import STUDY, made_study, references

PAGE = Path(__file__).parents[2] / "docs" / "pacs.md"
DRAWN = ["--method", "random", "--working-size", "16", "--key-file", str(KEY)]

# Runs the command of the other arguments, and ends as a process that is killed in the middle of a file.
KILLED = """
import os, signal, sys
from pathlib import Path
from monai_salm.cli import main
from monai_salm.dicomweb.client import Archive

method, last, log, *command = sys.argv[1:]
whole = getattr(Archive, method)

def counted(self, *arguments):
    with open(log, "a") as file:
        file.write("x")
    if os.path.getsize(log) < int(last):
        return whole(self, *arguments)
    if method == "retrieve":
        arguments[1].write_bytes(b"half")
    else:
        whole(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Archive, method, counted)
main(command)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_orthanc() is None or find_dicomweb() is None, reason="Orthanc has no DICOMweb"),
]


@pytest.fixture
def pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orthanc]:
    """An archive with one study."""
    pytest.importorskip("dicomweb_client", reason="an extra is not installed")
    plugin = find_dicomweb()
    assert plugin is not None
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with running_orthanc(plugin) as server:
        for content in tree(made_study(tmp_path / "study")).values():
            server.upload(content)
        yield server
    root.handlers, root.level = handlers, level


def _held(pacs: Orthanc) -> dict[str, bytes]:
    """Give the files of an archive by their SOP Instance UIDs."""
    files = (pacs.file(instance) for instance in pacs.get("/instances"))
    return {str(_read(content).SOPInstanceUID): content for content in files}


def _read(content: bytes) -> Dataset:
    return pydicom.dcmread(BytesIO(content))


def _run(*command: str) -> int:
    with pytest.raises(SystemExit, match=r"^\d$") as stop:
        cli.main(list(command))
    return int(str(stop.value))


def _killed(method: str, last: int, folder: Path, *command: str) -> None:
    log = folder / method
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = [sys.executable, "-c", KILLED, method, str(last), str(log), *command]
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert log.stat().st_size == last


def test_a_study_goes_through_and_back(pacs: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    originals = _held(pacs)
    study = f"dicomweb:{pacs.dicomweb}/studies/{STUDY}"
    command = ["protect", study, f"dicomweb:{pacs.dicomweb}", "--work-dir", "W", "--workers", "0", *DRAWN]
    _killed("retrieve", 4, tmp_path, *command)
    fetched = {path: path.stat().st_mtime_ns for path in (tmp_path / "W" / "dicomweb" / "fetched").rglob("*.dcm")}
    assert len(fetched) == 3
    _killed("send", 3, tmp_path, *command, "--resume")
    assert {path: path.stat().st_mtime_ns for path in fetched} == fetched  # none was fetched again
    assert len(_held(pacs)) == len(originals) + 3
    assert len((tmp_path / "W" / "dicomweb" / "stored.jsonl").read_text().splitlines()) == 2
    before = pacs.get("/statistics")["CountInstances"]
    assert _run(*command, "--resume") == 0
    out = capsys.readouterr().out
    assert "10 files stored" in out
    assert "3 of them before" in out
    after = _held(pacs)
    assert (before, len(after)) == (13, 2 * len(originals))
    assert {uid: after[uid] for uid in originals} == originals
    protected = {uid: _read(content) for uid, content in after.items() if uid not in originals}
    old_series = {_read(content).SeriesInstanceUID for content in originals.values()}
    assert len({dataset.SeriesInstanceUID for dataset in protected.values()} - old_series) == 4
    assert {dataset.StudyInstanceUID for dataset in protected.values()} == {STUDY}
    assert sorted(tree(tmp_path / "W" / "protected").values()) == sorted(after[uid] for uid in protected)
    referred = {uid for dataset in protected.values() for uid in references(dataset)}
    assert len(referred) == 8
    assert referred <= protected.keys()  # and so they are there
    check = next(line for line in out.splitlines() if line.startswith("to check them: monai-salm ")).split()[4:]
    assert _run(*check) == 0
    assert "8 protected, 2 copied, 0 absent, 0 mismatch" in capsys.readouterr().out


def _commands(study: str, protected: str, pacs: Orthanc) -> Iterator[list[str]]:
    """Give the commands of the page, for an archive that is there."""
    page = PAGE.read_text(encoding="utf-8")
    for line in "".join(re.findall(r"```sh\n(.*?)```", page, flags=re.S)).splitlines():
        words = {
            "https://pacs.example.org/dicom-web": pacs.dicomweb, "1.2.3/series/ORIGINAL": study,
            "1.2.3/series/PROTECTED": protected, "1.2.3": STUDY, "ARCHIVE": "ORTHANC",
            "pacs.example.org": "127.0.0.1", "4242": str(pacs.dicom_port),
        }  # fmt: skip
        for word, meant in words.items():
            line = line.replace(word, meant)
        yield shlex.split(line)


def test_the_commands_of_the_page(pacs: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    originals = _held(pacs)
    images = {uid: _read(content) for uid, content in originals.items()}
    classes = {dataset.SeriesInstanceUID: dataset.Modality for dataset in images.values() if "PixelData" in dataset}
    label_table(tmp_path / "labels.csv", classes, key="SeriesInstanceUID")
    old = {str(dataset.SeriesInstanceUID) for dataset in images.values()}
    fast = ["--rounds", "1", "--method", "salm:texture", "--surrogate", "small-cnn", "--working-size", "16",
            "--no-estimate", "--device", "cpu"]  # fmt: skip
    done: list[str] = []
    for number in range(len(list(_commands("", "", pacs)))):
        new = {str(_read(content).SeriesInstanceUID) for content in _held(pacs).values()} - old
        series = (f"{STUDY}/series/{','.join(sorted(some))}" for some in (old, new))
        program, *words = list(_commands(*series, pacs))[number]
        done.append(words[0])
        if program == "monai-salm":
            assert _run(*words, *(fast if words[0] == "protect" else [])) == 0, words
        elif program == "storescu" and (found := shutil.which(program)) is not None:
            subprocess.run([found, *words], cwd=tmp_path, capture_output=True, check=True)
        else:
            assert program in ("pip", "storescu")
    assert {"scan", "keygen", "protect", "verify", "restore"} <= set(done)
    assert "0 mismatch" in capsys.readouterr().out
    assert sorted(tree(tmp_path / "BACK").values()) == sorted(originals.values())
    assert originals.items() <= _held(pacs).items()
