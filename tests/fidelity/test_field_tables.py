# SPDX-License-Identifier: Apache-2.0
"""Label tables and folders of label maps as people have them: read as they are meant, or refused with words that help;
what was read is shown first.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.exports import block, mr_slice, nifti_file
from tests.fidelity.field_inputs import RANDOM, Command, Told, itk_file

NAMES = [f"sub dir/im{number}.dcm" for number in range(4)]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        mr_slice(tmp_path / "in" / name, number)
    return tmp_path / "in"


def _planned(command: Command, export: Path, table: bytes, *options: str) -> Told:
    (export.parent / "labels.csv").write_bytes(table)
    return command(
        "protect",
        export,
        export.parent / "out",
        *RANDOM,
        "--method",
        "lsp",
        "--labels",
        export.parent / "labels.csv",
        "--dry-run",
        *options,
    )


def _table(*lines: str, end: str = "\n") -> bytes:
    return "".join(line + end for line in lines).encode()


ROWS = [f"{name},{number % 2}" for number, name in enumerate(NAMES)]
READ = {
    "commas": _table("path,label", *ROWS),
    "semicolons": _table("path;label", *(row.replace(",", ";") for row in ROWS)),
    "tabs": _table("path\tlabel", *(row.replace(",", "\t") for row in ROWS)),
    "sep=,": _table("sep=,", "path,label", *ROWS),
    "sep=;": _table("sep=;", "path;label", *(row.replace(",", ";") for row in ROWS)),
    "backslashes": _table("path,label", *(row.replace("/", "\\") for row in ROWS)),
    "lines of Windows": _table("path,label", *ROWS, end="\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + _table("path,label", *ROWS),
    "semicolons, quoted": _table('"path";"label"', *('"' + row.replace(",", '";"') + '"' for row in ROWS)),
}
"""Tables that are read as they are meant."""
HELPED = {
    "path of Windows": (
        _table("path,label", *("C:\\data\\exp\\" + row.replace("/", "\\") for row in ROWS)),
        r"Windows|backslash|relative",
    ),
    "index of pandas": (
        _table(",path,label", *(f"{number},{row}" for number, row in enumerate(ROWS))),
        r"index|no name|empty|without a name",
    ),
    "blanks": (_table("path , label", *(row.replace(",", " , ") for row in ROWS)), r"blank|space"),
    "comment": (_table("# labels of the export", "path,label", *ROWS), r"comment|#"),
    "UTF-16": (_table("path,label", *ROWS).decode().encode("utf-16"), r"UTF-8"),
}
"""Tables that are read as they are meant, or refused with one of these words."""


@pytest.mark.parametrize("kind", READ)
def test_table_is_read(command: Command, export: Path, kind: str) -> None:
    told = _planned(command, export, READ[kind], "--json")
    assert told.code == 0, told.text
    assert (len(told.json["classes"]), told.json["counts"]["protect"]) == (2, 4)


@pytest.mark.parametrize("kind", HELPED)
def test_table_is_read_or_the_message_helps(command: Command, export: Path, kind: str) -> None:
    table, words = HELPED[kind]
    told = _planned(command, export, table, "--json")
    if told.code == 0:
        assert (len(told.json["classes"]), told.json["counts"]["protect"]) == (2, 4)
    else:
        assert told.code == 2
        assert told.err.count("\n") == 1
        assert re.search(words, told.words(export.parent)), told.err
        assert "the first column is ''" not in told.err


@pytest.mark.parametrize(
    "labels",
    [("0", "1", "0.0", "1.0"), ("1", "2", "01", "02"), ("0", "1", "0.", "1e0"), ("-1", "1", "-1.0", "+1")],
    ids=["decimals", "zeros", "forms", "signs"],
)
def test_numbers_compare_as_numbers(command: Command, export: Path, labels: tuple[str, ...]) -> None:
    told = _planned(command, export, _table("path,label", *map(",".join, zip(NAMES, labels, strict=True))), "--json")
    assert (told.code, len(told.json["classes"])) == (0, 2)


@pytest.mark.parametrize("none", ["", "nan", "NaN", "NA", "N/A", " "])
def test_no_label_is_no_class(command: Command, export: Path, none: str) -> None:
    rows = [f"{NAMES[0]},0", f"{NAMES[1]},1", f"{NAMES[2]},0", f"{NAMES[3]},{none}"]
    told = _planned(command, export, _table("path,label", *rows), "--json")
    assert (told.code, len(told.json["classes"]), told.json["counts"]["protect"]) == (3, 2, 3)
    shown = _planned(command, export, _table("path,label", *rows)).words(export.parent)
    assert NAMES[3] in shown
    assert "label" in shown


@pytest.mark.parametrize("head", ["path,label,label", "path,label, label", "path,path,label"])
def test_repeated_header_is_refused(command: Command, export: Path, head: str) -> None:
    told = _planned(command, export, _table(head, *(f"{row},{1 - number % 2}" for number, row in enumerate(ROWS))))
    assert told.code == 2
    assert re.search("twice|two columns|repeated|more than one|duplicate|several", told.words(export.parent)), told.err


def test_classes_and_their_counts_are_shown_first(command: Command, export: Path) -> None:
    rows = [
        *(f"{name},{label}" for name, label in zip(NAMES, ("benign", "benign", "benign", "Malignant"), strict=True)),
        "gone.dcm,benign",
    ]
    shown = _planned(command, export, _table("path,label", *rows)).text
    assert re.search(r"benign\W{0,4}3\b|\b3\W{1,4}benign", shown), shown
    assert re.search(r"Malignant\W{0,4}1\b|\b1\W{1,4}Malignant", shown), shown
    assert re.search(r"\b1\b[^\n]*\brow", shown), shown


def test_classes_that_differ_in_case_are_seen(command: Command, export: Path) -> None:
    shown = _planned(
        command,
        export,
        _table("path,label", *map(",".join, zip(NAMES, ("benign", "malignant", "Benign", "malignant "), strict=True))),
    ).text
    assert "benign" in shown
    assert "Benign" in shown


# Label maps in a folder ----------------------------------------------------------------------------------------------
def _segmentation(command: Command, folder: Path) -> Told:
    options = ("--task", "segmentation", "--labels", folder / "lab", "--modality", "MR")
    return command("protect", folder / "in", folder / "out", *options, "--dry-run", "--json", "--quiet")


def test_one_label_map_for_two_cases_is_refused(command: Command, tmp_path: Path) -> None:
    for number, case in enumerate("AB"):
        nifti_file(tmp_path / "in" / case / "image.nii.gz", block(number)[0])
    nifti_file(tmp_path / "lab" / "image.nii.gz", block(0)[1])
    told = _segmentation(command, tmp_path)
    assert told.code in (2, 3)
    assert "image.nii.gz" in told.words(tmp_path)
    if told.code == 3:
        assert told.json["counts"]["protect"] == 0


def test_label_maps_of_two_cases_are_told_apart_by_their_paths(command: Command, tmp_path: Path) -> None:
    for number, case in enumerate("AB"):
        image, labels = block(number)
        nifti_file(tmp_path / "in" / case / "image.nii.gz", image)
        nifti_file(tmp_path / "lab" / case / "image.nii.gz", labels)
    told = _segmentation(command, tmp_path)
    assert (told.code, told.json["counts"]["protect"]) == (0, 2)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif"])
def test_channel_suffix_of_nnunet(command: Command, tmp_path: Path, suffix: str) -> None:
    """The label map is found, whatever the format; if it is of one that is not read, that is the reason, not that there
    is none.
    """
    for number in range(2):
        for folder, channel, values in zip(("in", "lab"), ("_0000", ""), block(number), strict=True):
            path = tmp_path / folder / f"case{number}{channel}{suffix}"
            path.parent.mkdir(exist_ok=True)
            if suffix not in (".png", ".tif"):  # one search sees volumes or slices
                nifti_file(path.with_name(f"sure{number}{channel}.nii.gz"), values if folder == "lab" else values + 1)
            if suffix in (".png", ".tif"):
                picture = values[..., 6] // 3 if folder == "in" else values[..., 6]
                pytest.importorskip("PIL.Image").fromarray(picture.astype(np.uint8)).save(path)
            elif ".nii" in suffix:
                nifti_file(path, values)
            else:
                itk_file(path, values)
    told = _segmentation(command, tmp_path)
    found = {file["path"]: (file["fate"], file["reason"]) for file in told.json["files"]}
    for number in range(2):
        fate, reason = found[f"case{number}_0000{suffix}"]
        assert fate == "protect" or f"case{number}{suffix}" in reason, found
        assert fate == "protect" or ".nii" not in suffix, found
