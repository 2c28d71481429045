# SPDX-License-Identifier: Apache-2.0
"""Whatever picture is handed out has been changed, or the run says that it was not and ends with exit code 3: in all
formats, and through every door.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

pytest.importorskip("PIL.Image")
pytest.importorskip("SimpleITK")

from monai_salm.bundle import NoiseTrainer
from monai_salm.errors import SalmError
from monai_salm.pipeline import ProtectionRun, protect
from tests.exports import drawn, file_set, mr_export, mr_slice, nifti_export, nifti_file, zip_file
from tests.fidelity.field_formats import FORMATS, GRAY, OTHER, VOLUME, encoded, pdf
from tests.fidelity.field_inputs import RANDOM, Command, Told, fates_of
from tests.fidelity.seen import pictures_below

pytestmark = pytest.mark.slow  # all formats through all doors

SINGLE = [
    "DICOM",
    "DICOM frames",
    "NIfTI gz",
    "NIfTI pair",
    "NRRD",
    "NRRD, detached",
    "MetaImage, detached",
    "PNG",
    "JPEG",
    "TIFF",
]
"""What is protected when it is alone, and so goes through every door."""


def _check(
    originals: Iterable[set[str]], output: Path, code: int, problems: list[dict[str, Any]]
) -> dict[str, set[str]]:
    """Hold what is handed out against the originals; gives the pictures of the output."""
    known = set().union(*originals)
    assert known, "no reader sees the input"
    found = pictures_below(output) if output.exists() else {}
    told = {PurePosixPath(problem["path"]).with_suffix("") for problem in problems}
    unchanged = [path for path, pictures in found.items() if pictures & known]
    assert all(PurePosixPath(path).with_suffix("") in told for path in unchanged), (
        f"{unchanged} are handed out as they were, but told are {problems}"
    )
    assert code == 3 or not unchanged
    return found


def _hold(told: Told, source: Path, output: Path) -> dict[str, set[str]]:
    return _check(pictures_below(source).values(), output, told.code, told.json["problems"])


def _made(kind: str, tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    FORMATS[kind](tmp_path / "in")
    return tmp_path / "in"


SEVERAL = [
    *(
        "DICOM frames",
        "DICOM enhanced",
        "DICOM with icon",
        "DICOM with deep icon",
        "DICOM with private JPEG",
        "NIfTI 4D",
        "TIFF of pages",
        "MPO",
    ),
    *(
        "PNG with preview",
        "PNG, animated",
        "PNG with another behind it",
        "JPEG with preview",
        "JPEG with another behind it",
    ),
]
"""What shows more than one picture."""


@pytest.mark.parametrize("kind", FORMATS)
def test_this_test_sees_the_pictures(tmp_path: Path, kind: str) -> None:
    source = _made(kind, tmp_path)
    pictures = set().union(*pictures_below(source).values())
    assert len(pictures) >= (2 if kind in SEVERAL else 1)
    with pytest.raises(AssertionError, match="handed out as they were"):
        _check([pictures], source, 3, [])
    with pytest.raises(AssertionError):
        _check([pictures], source, 0, [{"path": path} for path in pictures_below(source)])


# All formats ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", FORMATS)
def test_folder(command: Command, tmp_path: Path, kind: str) -> None:
    source = _made(kind, tmp_path)
    mr_slice(source / "sure.dcm", 30)
    found = _hold(
        command("protect", source, tmp_path / "out", *RANDOM, "--json", "--modality", "MR"), source, tmp_path / "out"
    )
    assert "sure.dcm" in found
    assert kind not in SINGLE or len(found) > 1


@pytest.mark.parametrize("kind", FORMATS)
def test_copies_of_what_cannot_be_protected(command: Command, tmp_path: Path, kind: str) -> None:
    """A second picture, a page or a frame that the output lacks is told, too; icons and previews are made of the
    picture.
    """
    source = _made(kind, tmp_path)
    told = command("protect", source, tmp_path / "out", *RANDOM, "--json", "--modality", "MR", "--copy-unprotected")
    after, fates = _hold(told, source, tmp_path / "out"), fates_of(tmp_path / "out")
    assert told.code in (0, 3)
    if "icon" not in kind and "preview" not in kind:
        before = {path: len(pictures) for path, pictures in pictures_below(source).items()}
        fewer = [
            path for path, count in before.items() if len(after.get(path, after.get(f"{path[:-4]}.png", set()))) < count
        ]
        assert all(fates[path].left_out or fates[path].status in ("refused", "failed") for path in fewer), fates
        assert told.code == 3 or not fewer


# All doors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("more", [(), ("--copy-unprotected",)], ids=["", "copies"])
def test_one_file(command: Command, tmp_path: Path, kind: str, more: tuple[str, ...]) -> None:
    source = _made(kind, tmp_path)
    first = min(source.iterdir())
    assert _hold(
        command("protect", first, tmp_path / "out", *RANDOM, "--json", "--modality", "MR", *more),
        source,
        tmp_path / "out",
    )


@pytest.mark.parametrize(
    "kind", [*SINGLE, "MPO", "PDF", "DICOM with private copy", "PNG with preview", "TIFF of pages", "GIF"]
)
@pytest.mark.parametrize("more", [(), ("--copy-unprotected",)], ids=["", "copies"])
def test_zip(command: Command, tmp_path: Path, kind: str, more: tuple[str, ...]) -> None:
    source = _made(kind, tmp_path)
    zip_file(tmp_path / "in.zip", source)
    told = command("protect", tmp_path / "in.zip", tmp_path / "out.zip", *RANDOM, "--json", "--modality", "MR", *more)
    _hold(told, source, tmp_path / "out.zip")


@pytest.mark.parametrize("suffix", ["", ".dcm"])
@pytest.mark.parametrize("more", [(), ("--copy-unprotected",)], ids=["", "copies"])
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "DICOMDIR"])
@pytest.mark.filterwarnings("ignore")
def test_file_set(command: Command, tmp_path: Path, alone: bool, more: tuple[str, ...], suffix: str) -> None:
    source = tmp_path / "in"
    file_set(source, [mr_slice(tmp_path / "made" / f"{number}.dcm", number) for number in range(2)])
    for path in sorted(source.rglob("IM*")):
        path.rename(path.with_name(path.name + suffix))
    told = command("protect", source / "DICOMDIR" if alone else source, tmp_path / "out", *RANDOM, "--json", *more)
    assert len(_hold(told, source, tmp_path / "out")) == 2


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("how", ["copy", "link", "hard link"])
def test_the_same_file_again(command: Command, tmp_path: Path, kind: str, how: str) -> None:
    source = _made(kind, tmp_path)
    (source / "more").mkdir()
    for path in [path for path in source.iterdir() if path.is_file()]:
        target = source / "more" / path.name
        if how == "copy":
            shutil.copyfile(path, target)
        elif how == "link":
            target.symlink_to(path)
        else:
            target.hardlink_to(path)
    told = command("protect", source, tmp_path / "out", *RANDOM, "--json", "--modality", "MR")
    assert _hold(told, source, tmp_path / "out")


@pytest.mark.parametrize("kind", SINGLE)
def test_resumed_run_does_not_trust_what_lies_in_the_output(command: Command, tmp_path: Path, kind: str) -> None:
    source = _made(kind, tmp_path)
    words = ("protect", source, tmp_path / "out", *RANDOM, "--json", "--modality", "MR")
    command(*words)
    for path in [path for path in source.iterdir() if (tmp_path / "out" / path.name).exists()]:
        shutil.copyfile(path, tmp_path / "out" / path.name)
    assert _hold(command(*words, "--resume"), source, tmp_path / "out")


@pytest.mark.parametrize("kind", ["GIF", "PNG, animated", "TIFF of pages", "NumPy"])
def test_resumed_run_takes_unprotected_copies_back(command: Command, tmp_path: Path, kind: str) -> None:
    source = _made(kind, tmp_path)
    mr_slice(source / "sure.dcm", 30)
    words = ("protect", source, tmp_path / "out", *RANDOM, "--json")
    assert command(*words, "--copy-unprotected").code == 3
    told = command(*words, "--resume")
    assert list(_hold(told, source, tmp_path / "out")) == ["sure.dcm"]


@pytest.mark.parametrize("kind", SINGLE)
def test_picture_that_changes_between_plan_and_write(tmp_path: Path, kind: str) -> None:
    """Whatever the file has become, it is not handed out as it is."""
    source = _made(kind, tmp_path)
    originals = list(pictures_below(source).values())
    run = ProtectionRun(source, tmp_path / "out", drawn(modality="MR"))
    run.prepare()
    run.search()
    for path in source.iterdir():
        path.write_bytes(encoded(OTHER, "PNG"))
    result = run.write()
    _check(
        [*originals, *pictures_below(source).values()],
        tmp_path / "out",
        3 if result.to_json()["problems"] else 0,
        result.to_json()["problems"],
    )


@pytest.mark.parametrize("content", [encoded(GRAY, "PNG"), encoded(GRAY), pdf()], ids=["PNG", "JPEG", "PDF"])
@pytest.mark.parametrize("name", ["notes.txt", "same.dcm", "refused.bin"])
@pytest.mark.parametrize("copies", [False, True])
def test_document_that_becomes_a_picture_between_plan_and_write(
    tmp_path: Path, name: str, content: bytes, copies: bool
) -> None:
    source = mr_export(tmp_path / "in", 2)
    (source / "notes.txt").write_text("nothing to see", encoding="ascii")
    (source / "refused.bin").write_bytes(b"\0x")
    shutil.copyfile(source / "case0" / "image.dcm", source / "same.dcm")
    run = ProtectionRun(source, tmp_path / "out", drawn(copy_unprotected=copies))
    run.prepare()
    run.search()
    (source / name).write_bytes(content)
    problems = run.write().to_json()["problems"]
    _check(pictures_below(source).values(), tmp_path / "out", 3 if problems else 0, problems)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("kind", ["DICOM", "NIfTI gz", "GIF", "MPO", "PDF", "TIFF of pages", "DICOM with private copy"])
def test_python_and_the_bundle(tmp_path: Path, kind: str, copies: bool) -> None:
    source = _made(kind, tmp_path)
    mr_slice(source / "sure.dcm", 30)
    before = list(pictures_below(source).values())
    done = protect(source, tmp_path / "out", drawn(modality="MR", copy_unprotected=copies)).to_json()
    _check(before, tmp_path / "out", 3 if done["problems"] else 0, done["problems"])
    trainer = NoiseTrainer(
        str(source), str(tmp_path / "bundle"), show_progress=False, method="random", modality="MR", working_size=24,
        device="cpu", copy_unprotected=copies
    )  # fmt: skip
    trainer.run()
    try:
        problems = trainer.write()["problems"]
    except SalmError as error:
        problems = [problem for problem in done["problems"] if problem["path"] in str(error)]
        assert problems
    assert problems == done["problems"]
    _check(before, tmp_path / "bundle", 3 if problems else 0, problems)


@pytest.mark.parametrize("names", [("v.nii.gz", "v.nii"), ("a.hdr", "b.hdr")], ids=["two suffixes", "two headers"])
def test_two_files_of_one_picture(command: Command, tmp_path: Path, names: tuple[str, str]) -> None:
    source = tmp_path / "in"
    if names[0].endswith(".hdr"):
        _made("NIfTI pair", tmp_path)
        shutil.copyfile(source / "a.hdr", source / "b.hdr")
        shutil.copyfile(source / "a.img", source / "b.img")
    else:
        for name in names:
            nifti_file(source / name, VOLUME)
    assert _hold(
        command("protect", source, tmp_path / "out", *RANDOM, "--json", "--modality", "MR"), source, tmp_path / "out"
    )


def test_folder_of_pictures_given_as_label_maps(command: Command, tmp_path: Path) -> None:
    """What a user names by mistake as labels is no reason to hand it out."""
    source = nifti_export(tmp_path / "in", 3)
    told = command(
        "protect",
        source,
        tmp_path / "out",
        "--task",
        "segmentation",
        "--labels",
        source,
        "--modality",
        "MR",
        "--dry-run",
        "--json",
        "--quiet",
    )
    assert told.code == 2 or all(file["fate"] != "copy" for file in told.json["files"])
