# SPDX-License-Identifier: Apache-2.0
"""``monai-salm bundle``: a bundle as a folder of the user's own, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_salm.cli import bundle as command
from monai_salm.cli import main
from monai_salm.cli.exit_codes import EXIT_FAILED, EXIT_USAGE
from tests.exports import tree

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bundle", *map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return run


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those of a package that is installed, where nobody may write: one of them."""
    package = tmp_path / "site" / "monai_salm"
    configs = package / "bundles" / "first" / "configs"
    configs.mkdir(parents=True)
    (configs / "train.json").write_text("{}")
    (configs / "__pycache__").mkdir()
    (configs / "__pycache__" / "x.pyc").touch()
    (package.parent / "bundles" / "another" / "configs").mkdir(parents=True)  # somebody else's, beside the package
    (configs / "train.json").chmod(0o444)
    configs.chmod(0o555)
    monkeypatch.setattr(command, "_PACKAGE", package)
    return package / "bundles"


def test_it_is_written_with_what_to_do_next(bundles: Path, tmp_path: Path, run: Run) -> None:
    target = tmp_path / "new" / "of mine"
    code, said = run(target)
    assert code == 0
    assert f"wrote the bundle first to {target};" in said
    assert f"python -m monai.bundle run --config_file '{target}/configs/train.json' --dataset_dir" in said
    assert list(tree(target)) == ["configs/train.json"]
    (target / "configs" / "mine.json").touch()
    assert (target / "configs" / "train.json").stat().st_mode & 0o200
    assert target.stat().st_mode == target.parent.stat().st_mode
    assert list(target.parent.iterdir()) == [target]


def test_it_fills_an_empty_folder_that_must_stay(
    bundles: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mounted"
    target.mkdir()
    monkeypatch.chdir(target)
    before = target.stat().st_ino
    assert run(".")[0] == 0
    assert target.stat().st_ino == before
    assert [path.name for path in target.iterdir()] == ["configs"]


def test_nothing_is_written_over(bundles: Path, tmp_path: Path, run: Run) -> None:
    run(tmp_path / "mine")
    (tmp_path / "mine" / "configs" / "train.json").write_text("of mine")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    before = tree(tmp_path)
    for taken in ("mine", "file", "link"):
        assert run(tmp_path / taken) == (
            EXIT_USAGE,
            f"Error: {tmp_path / taken} exists already; give another folder, or remove it\n",
        )
    assert tree(tmp_path) == before


@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left_of_one_that_could_not_be_written_whole(
    bundles: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_text("{")
        raise OSError(28, "No space left on device", str(target))

    target = tmp_path / "new"
    if there:
        target.mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(command.shutil, "copyfile", full)
    code, said = run(target)
    assert code == EXIT_FAILED
    assert "No space left on device" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_one_of_several_is_named(bundles: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(bundles / "first", bundles / "second")
    code, said = run(tmp_path / "mine")
    assert (code, said) == (EXIT_USAGE, "Error: there are 2 bundles; give --name with one of first, second\n")
    code, said = run(tmp_path / "mine", "--name", "third")
    assert (code, said) == (EXIT_USAGE, "Error: bundle 'third' is unknown; give one of first, second\n")
    assert not (tmp_path / "mine").exists()
    code, said = run(tmp_path / "mine", "--name", "second")
    assert "wrote the bundle second to" in said


def test_what_the_bundle_needs_is_named(
    bundles: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert "first: pip install 'fire>=" in run(tmp_path / "mine")[1]


def test_without_any(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_PACKAGE", tmp_path / "site" / "monai_salm")
    assert run(tmp_path / "mine") == (
        EXIT_USAGE,
        "Error: this installation has no bundle; install the package again, from its wheel\n",
    )
