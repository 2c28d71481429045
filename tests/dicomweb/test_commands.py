# SPDX-License-Identifier: Apache-2.0
"""The commands take archives where they read files, and ``protect`` where it writes them; all else refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_salm import cli
from monai_salm.bundle import NoiseTrainer, VictimEvaluation
from monai_salm.dicomweb import place_of
from monai_salm.errors import UsageError
from monai_salm.pipeline import protect
from tests.dicomweb.stub import Stub, failed
from tests.exports import KEY, ROOT_UID, drawn, mr_series, tree, zip_file

DRAWN = ("--method", "random", "--working-size", "16", "--key-file", str(KEY))
Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("log_as_before")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit, match=r"^\d$") as stop:
            cli.main([str(argument) for argument in arguments])
        return (int(str(stop.value)), *capsys.readouterr())

    return call


@pytest.fixture
def study(stub: Stub) -> str:
    return f"dicomweb:{stub.url}/studies/{ROOT_UID}.31.1"


@pytest.mark.slow
def test_from_an_archive_into_a_folder(run: Run, study: str, stub: Stub, tmp_path: Path) -> None:
    code, out, _ = run("protect", study, "OUT", *DRAWN)
    assert (code, "4 protected" in out) == (0, True)
    assert len(stub.retrieved()) == 4
    assert not (tmp_path / "OUT.work" / "dicomweb" / "fetched").exists()  # they are patients' images
    code, out, _ = run("verify", study, "OUT", "--json")
    assert (code, json.loads(out)["counts"]["protected"]) == (0, 4)
    assert run("restore", "OUT", "BACK", "--key-file", KEY)[0] == 0
    assert sorted(tree(tmp_path / "BACK").values()) == sorted(stub.files.values())


@pytest.mark.slow
def test_what_comes_out_is_what_a_folder_of_it_gives(run: Run, study: str, stub: Stub, tmp_path: Path) -> None:
    run("protect", study, "OUT", *DRAWN)
    for name, content in zip(sorted(tree(tmp_path / "OUT")), stub.files.values(), strict=True):
        (tmp_path / "EXPORT" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "EXPORT" / name).write_bytes(content)
    run("protect", "EXPORT", "OUT2", *DRAWN)
    assert sorted(tree(tmp_path / "OUT").values()) == sorted(tree(tmp_path / "OUT2").values())


@pytest.mark.slow
def test_nothing_is_kept_of_a_look(run: Run, study: str, stub: Stub, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert "4 files can be protected" in run("scan", study)[1]
    code, out, _ = run("protect", study, f"dicomweb:{stub.url}", "--work-dir", "W", "--dry-run", *DRAWN)
    assert (code, "would protect 4 files" in out) == (0, True)
    assert tree(tmp_path) == before
    assert stub.count("POST") == 0


@pytest.mark.slow
def test_from_an_archive_into_one(run: Run, study: str, stub: Stub, tmp_path: Path) -> None:
    originals = dict(stub.files)
    code, out, _ = run("protect", study, f"dicomweb:{stub.url}", "--work-dir", "W", *DRAWN)
    assert (code, f"4 files stored in dicomweb:{stub.url}, and found there again" in out) == (0, True)
    protected = {key: content for key, content in stub.files.items() if key not in originals}
    assert len(protected) == 4
    assert sorted(protected.values()) == sorted(tree(tmp_path / "W" / "protected").values())
    assert all(stub.files[key] == content for key, content in originals.items())
    check = next(line for line in out.splitlines() if line.startswith("to check them: monai-salm ")).split()[4:]
    code, out, _ = run(*check)
    assert (code, out.splitlines()[0]) == (0, "4 protected, 0 copied, 0 absent, 0 mismatch")
    for command in (("verify", study, study), ("verify", check[2], check[1])):
        assert run(*command)[0] == 2
    command = ("protect", study, f"dicomweb:{stub.url}", "--work-dir", "W", *DRAWN)
    assert run(*command)[0] == 2  # the folder is not empty
    stub.asked.clear()
    code, out, _ = run(*command, "--resume", "--json")
    assert (code, json.loads(out)["stored"]["sent"], stub.count("POST")) == (0, 0, 0)
    assert "stored" in json.loads(out)
    code, out, _ = run("restore", check[2], "BACK", "--key-file", KEY, "--residuals", "W/residuals")
    assert (code, sorted(tree(tmp_path / "BACK").values())) == (0, sorted(originals.values()))


@pytest.mark.slow
def test_from_a_folder_into_an_archive(run: Run, stub: Stub, tmp_path: Path) -> None:
    mr_series(tmp_path / "EXPORT", 4, slices=3)
    (tmp_path / "EXPORT" / "read.me").write_text("text", encoding="utf-8")
    stub.faults["POST /dw/studies"] = lambda handler: (
        stub.count("POST") == 1 and (handler.answer(409, failed("", 0x0110)) is None)
    )
    command = ("protect", "EXPORT", f"dicomweb:{stub.url}", "--work-dir", "W", *DRAWN)
    code, out, _ = run(*command)
    assert code == 3
    assert "3 files stored" not in out
    assert [line.partition(":")[0] for line in out.splitlines() if line.startswith("not stored")] == ["not stored"] * 2
    stub.faults.clear()
    code, out, _ = run(*command, "--resume")
    assert (code, "3 files stored" in out, "2 of them before" in out) == (3, True, True)
    assert "not stored: read.me: no DICOM object" in out


@pytest.mark.slow
def test_a_stopped_fetch_goes_on(run: Run, study: str, stub: Stub) -> None:
    stub.faults[f"{ROOT_UID}.11.1.3"] = lambda handler: handler.answer(500) is None
    code, _, err = run("protect", study, "OUT", *DRAWN, "--quiet")
    assert (code, err.count("\n")) == (1, 1)
    assert "answers 500" in err
    assert "2 of 4 files are fetched; the same command with --resume goes on" in err
    stub.faults.clear()
    assert "give --resume" in run("protect", study, "OUT", *DRAWN)[2]
    assert run("protect", study, "OUT", *DRAWN, "--resume")[0] == 0
    assert len(stub.retrieved()) == 5


@pytest.mark.slow
def test_a_study_that_changed_is_not_gone_on_with(run: Run, study: str, stub: Stub) -> None:
    stub.faults[f"{ROOT_UID}.11.1.3"] = lambda handler: handler.answer(500) is None
    run("protect", study, "OUT", *DRAWN)
    stub.faults.clear()
    stub.files.popitem()
    code, _, err = run("protect", study, "OUT", *DRAWN, "--resume")
    assert (code, "1 instances are gone" in err) == (2, True)


@pytest.mark.slow
def test_a_plan_of_an_archive(run: Run, study: str, stub: Stub, tmp_path: Path) -> None:
    stub.faults[f"{ROOT_UID}.11.1.3"] = lambda handler: handler.answer(500) is None
    assert run("plan", study, "W", *DRAWN)[0] == 1
    stub.faults.clear()
    assert run("plan", study, "W", *DRAWN)[0] == 0
    code, out, _ = run("protect", f"dicomweb:{stub.url}", "--plan", "W")
    assert (code, "4 files stored" in out, len(stub.retrieved())) == (0, True, 5)


@pytest.mark.slow
def test_next_months_study_is_added(run: Run, study: str, stub: Stub, tmp_path: Path) -> None:
    run("protect", study, "OUT", *DRAWN)
    stub.put(*mr_series(tmp_path / "more", 1, slices=2))
    more = study.replace("31.1", "31.2")
    stub.faults[f"{ROOT_UID}.11.2.2"] = lambda handler: handler.answer(500) is None
    assert run("protect", f"{study},{ROOT_UID}.31.2", "OUT", "--add", *DRAWN)[0] == 1
    assert run("protect", more, "OUT", "--add", *DRAWN)[0] == 1  # of which another study is left in no way
    stub.faults.clear()
    code, out, _ = run("protect", more, "OUT", "--add", "--resume", *DRAWN)
    assert (code, "2 protected" in out) == (0, True)
    assert len(tree(tmp_path / "OUT")) == 6
    assert run("verify", f"{study},{ROOT_UID}.31.2", "OUT")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("protect", "STUDY", "ARCHIVE", *DRAWN), "give --work-dir"),
        (("protect", "ARCHIVE", "OUT", *DRAWN), "a study is needed"),
        (("protect", "STUDY", "ARCHIVE/studies/1.2/series/1.3", "--work-dir", "W", *DRAWN), "new series"),
        (("protect", "STUDY", "ARCHIVE", "--work-dir", "W", "--add", *DRAWN), "add to a folder"),
        (("protect", "EXPORT.zip", "ARCHIVE", "--work-dir", "W", *DRAWN), "unpack it first"),
        (("protect", "STUDY", "OUT", "--labels-from-folders", "--key-file", str(KEY)), "give a table"),
        (("protect", "STUDY", "OUT", "--labels", "STUDY"), "a file or a folder of this machine"),
        (("restore", "STUDY", "BACK", "--key-file", str(KEY)), "give --residuals"),
        (("restore", "OUT", "ARCHIVE", "--key-file", str(KEY)), "a file or a folder of this machine"),
        (("evaluate", "STUDY", "OUT", "--test", "T"), "export the studies from the archive into a folder"),
        (("scan", "STUDY", "--scheduler", "tcp://127.0.0.1:9"), "use --workers"),
    ],
)
def test_what_takes_no_archive_says_what_to_do(
    run: Run, study: str, stub: Stub, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    zip_file(tmp_path / "EXPORT.zip", tmp_path / "export")
    words = {"STUDY": study, "ARCHIVE": f"dicomweb:{stub.url}"}
    code, out, err = run(*(next((new + a[len(old) :] for old, new in words.items() if a.startswith(old)), a)
                           for a in arguments))  # fmt: skip
    assert (code, out, stub.asked) == (2, "", [])
    assert said in err.splitlines()[-1]


def test_secrets_are_not_repeated(run: Run) -> None:
    for command in (("scan",), ("protect", "IN"), ("evaluate", "A", "--test", "T")):
        code, out, err = run(*command, "dicomweb:https://me:geheim@pacs.example.org/rs/studies/1.2")
        assert (code, "geheim" in out + err) == (2, False)


def test_an_archive_that_does_not_let_us_in_is_told_first(run: Run, study: str, stub: Stub) -> None:
    stub.faults["studies?limit=1"] = lambda handler: handler.answer(403) is None
    code, _, err = run("protect", study, f"dicomweb:{stub.url}", "--work-dir", "W", *DRAWN)
    assert (code, "does not allow this (403" in err, stub.retrieved()) == (2, True, [])


@pytest.mark.slow
def test_a_bundle_takes_an_archive(study: str, stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dataset_dir is an archive; export its studies"):
        VictimEvaluation(study, "OUT", "TEST")
    options: dict[str, Any] = {"method": "random", "working_size": 16, "show_progress": False}
    trainer = NoiseTrainer(study, f"dicomweb:{stub.url}", work_dir=str(tmp_path / "W"), **options)
    trainer.run()
    assert trainer.write()["stored"]["stored"] == 4


@pytest.mark.slow
def test_a_path_that_was_a_place(study: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="place_of"):
        protect(Path(study), tmp_path / "out", drawn())
    assert protect(place_of(study), tmp_path / "out", drawn()).to_json()["counts"]["protected"] == 4


@pytest.mark.slow
def test_an_instance_that_the_archive_itself_has_damaged_is_refused(run: Run, study: str, stub: Stub) -> None:
    key = max(stub.files)
    stub.files[key] = stub.files[key][:-40]
    code, out, _ = run("protect", study, "OUT", *DRAWN)
    assert (code, "3 protected, 0 copied, 1 refused" in out) == (3, True)
