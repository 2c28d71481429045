# SPDX-License-Identifier: Apache-2.0
"""Tables of labels as spreadsheets, pandas and people write them: read as they are meant, or refused
with what helps.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from monai_salm.errors import UsageError
from monai_salm.pipeline import Inventory, scan
from monai_salm.pipeline.deciding import build_plan
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.pipeline.label_matching import match_paths
from monai_salm.pipeline.label_table import is_missing, one_spelling, read_table
from monai_salm.pipeline.labels import LabelAssignment, describe_labels, labels_from_folders, labels_from_table
from tests.exports import label_table, mr_export, mr_slice

ROWS = "".join(f"{{0}}sub dir/im{n}.dcm{{1}}{n % 2}\n" for n in range(4))


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    """Give pictures ``sub dir/im0.dcm`` to ``im3.dcm`` of the patients 007, 010, A and 123456789012345."""
    folder = tmp_path_factory.mktemp("labels") / "in"
    for number, patient in enumerate(("007", "010", "A", "123456789012345")):
        mr_slice(folder / "sub dir" / f"im{number}.dcm", number, PatientID=patient)
    return scan(folder)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    return scan(mr_export(tmp_path_factory.mktemp("many") / "in", 24))


def _read(folder: Path, content: str | bytes, inventory: Inventory, column: str | None = None) -> LabelAssignment:
    table = folder / "labels.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return labels_from_table(table, inventory, column)


def _labels(values: Sequence[object], key: str = "path") -> str:
    return f"{key},label\n" + "".join(f"sub dir/im{n}.dcm,{value}\n" for n, value in enumerate(values))


@pytest.mark.parametrize(
    "content",
    [
        "path;label\n" + ROWS.format("", ";"),
        "path\tlabel\n" + ROWS.format("", "\t"),
        "path|label\n" + ROWS.format("", "|"),
        "sep=,\npath,label\n" + ROWS.format("", ","),
        "sep=;\r\npath;label\r\n" + ROWS.format("", ";"),
        '"sep=;"\npath;label\n' + ROWS.format("", ";"),
        "SEP=\t\npath\tlabel\n" + ROWS.format("", "\t"),
        "path , label\n" + ROWS.format("", " , "),
        "# of the export\n\n# of May\npath,label\n" + ROWS.format("", ","),
        "#path,label\n" + ROWS.format("", ","),
        ",path,label\n" + ROWS.format("0,", ","),
        "Unnamed: 0,path,label\n" + ROWS.format("0,", ","),
        "index,path,label\n" + ROWS.format("0,", ","),
        '"path","label"\n' + ROWS.format('"', '",'),
        "Path,LABEL\n" + ROWS.format("", ","),
        "path,label,,\n" + ROWS.format("", ",").replace("\n", ",,\n"),
        "path,label\n" + ROWS.format("", ",") + ",\n \n",
        "path,label\n" + ROWS.format("./", ","),
        "path,label\n" + ROWS.format("", ",").replace("/", "\\"),
        "path,label\n" + ROWS.format("C:/data/exp/", ",").replace("/", "\\"),
        "path,label\n" + ROWS.format("//server/share/exp/", ",").replace("/", "\\"),
        "path,label\n" + ROWS.format("/home/somebody/exp/", ","),
        ("\ufeffpath,label\n" + ROWS.format("", ",")).encode(),
        ("path\tlabel\r\n" + ROWS.format("", "\t")).encode("utf-16"),
        ("\ufeffpath,label\n" + ROWS.format("", ",")).encode("utf-16-be"),
        ("path,label\n" + ROWS.format("", ",")).replace("\n", "\r"),
        "path,label\n" + ROWS.format("", ",0").replace("0sub", "sub"),
        "path,label\n" + ROWS.format("", ",").replace("0\n", "0.0\n"),
        "path;label\n" + ROWS.format("", ";").replace("1\n", "1,0\n"),
    ],
    ids=[
        "semicolon", "tab", "bar", "sep comma", "sep semicolon", "sep in quotes", "sep tab", "blanks", "comments",
        "header as comment", "index of pandas",
        "unnamed index", "named index", "quotes", "case", "columns of nothing", "rows of nothing", "dot", "backslashes",
        "drive", "server", "other root",
        "byte order mark", "UTF-16", "UTF-16 big endian", "old Mac", "zeros in front", "floats", "decimal commas",
    ],
)  # fmt: skip
def test_table_is_read_as_it_is_meant(tmp_path: Path, inventory: Inventory, content: str | bytes) -> None:
    labels = _read(tmp_path, content, inventory)
    assert labels.targets == {f"sub dir/im{n}.dcm": n % 2 for n in range(4)}
    assert (labels.classes, labels.unmatched, labels.blank, labels.rows) == (["0", "1"], [], [], 4)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["0", "1", "0.0", "1.0"], ["0", "1"]),
        (["1", "2", "01", "02"], ["1", "2"]),
        (["0", "1", "1e0", "+1"], ["0", "1"]),
        (["0", "-0.0", "0.5", ".50"], ["0", "0.5"]),
        (["a", "b", "1.0", "1"], ["1", "a", "b"]),
        (["9", "10", "9.0", "10"], ["9", "10"]),
        (["1e400", "2", "2.0", "x"], ["1e400", "2", "x"]),
    ],
    ids=["floats of a merge", "zeros in front", "exponent", "minus zero", "among text", "in order", "beyond floats"],
)
def test_numbers_compare_as_numbers(
    tmp_path: Path, inventory: Inventory, values: list[str], classes: list[str]
) -> None:
    labels = _read(tmp_path, _labels(values), inventory)
    assert labels.classes == classes
    assert [labels.classes[int(str(labels.targets[f"sub dir/im{n}.dcm"]))] for n in range(4)] == [
        one_spelling(value) for value in values
    ]


def test_numbers_that_a_float_does_not_hold_stay_text() -> None:
    assert one_spelling("9007199254740993") == "9007199254740993"
    assert one_spelling("1_000") == "1_000"
    assert one_spelling("0,5") == "0,5"
    assert one_spelling("0,50", decimal_comma=True) == "0.5"


@pytest.mark.parametrize(
    "text", ["", "nan", "NaN", "NA", "N/A", "#N/A", "<NA>", "null", "None", "?", "NaT", "#VALUE!", "#DIV/0!"]
)
def test_what_is_no_label_is_counted_and_told(tmp_path: Path, inventory: Inventory, text: str) -> None:
    assert is_missing(text)
    labels = _read(tmp_path, _labels(["a", "b", text, "a"]), inventory)
    assert labels.classes == ["a", "b"]
    assert len(labels.blank) == 1
    assert labels.blank[0].startswith("sub dir/im2.dcm (no value in column 'label', line 4")
    assert "its row in the table has no value in column 'label', line 4" in labels.refused["sub dir/im2.dcm"]
    plan = build_plan(inventory, BudgetOptions(), labels=labels)
    assert plan.refused["sub dir/im2.dcm"] == labels.refused["sub dir/im2.dcm"]


def test_finding_that_is_not_known_is_told(tmp_path: Path, inventory: Inventory) -> None:
    content = "path,edema,mass\nsub dir/im0.dcm,0,1\nsub dir/im1.dcm,1,NA\nsub dir/im2.dcm,True,0.0\n"
    labels = _read(tmp_path, content, inventory)
    assert labels.targets == {"sub dir/im0.dcm": (0.0, 1.0), "sub dir/im2.dcm": (1.0, 0.0)}
    assert labels.blank == ["sub dir/im1.dcm (no value in column 'mass', line 3 ('NA'))"]
    assert labels.to_json(inventory)["classes"] == {"edema": 1, "mass": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label,label\nsub dir/im0.dcm,0,1\n", "two columns 'label' and 'label'"),
        ("path,label,Label \nsub dir/im0.dcm,0,1\n", "two columns 'label' and 'Label'"),
        ("path,label,label.1\nsub dir/im0.dcm,0,1\n", "'label' and 'label.1' were two of one name"),
        ("path,path,label\nsub dir/im0.dcm,x,1\n", "two columns 'path' and 'path'"),
        (_labels(["benign", "malignant", "Benign", "malignant"]),
        r"the classes 'Benign' \(1\) and 'benign' \(1\) "
        r"differ in their spelling alone"),
        (_labels(["no finding", "mass", "no_finding", "No  Finding"]),
        r"'No  Finding' \(1\) and 'no finding' \(1\) and 'no_finding' \(1\)"),
        (_labels(["0", "True", "1", "False"]), r"'0' \(1\), '1' \(1\), 'False' \(1\), 'True' \(1\) say yes and no in "
                                               r"2 ways"),
        ("label,path\n0,sub dir/im0.dcm\n", "put the column 'path' first"),
        ("path,,label\nsub dir/im0.dcm,0,1\n", "column 2 has values but no name"),
        ("path,label\nsub dir/im0.dcm,NA\n", "holds no label in 1 rows"),
        ('path,label\n"sub dir/im0.dcm,0\nsub dir/im1.dcm,1\n', "cannot be read .*; see to its quotes"),
        ("path,label\nsub dir/im0.dcm,0\nsub dir/im1.dcm,1\nsub dir/im0.dcm,1\n",
        r"line 4 gives .* the label \('1',\), line 2 the label \('0',\)"),
        ("PatientID,label\nA,0\nA,1\n",
        "line 3 gives the PatientID in line 2 the label .*, line 2 the label .*; keep one, or label smaller units"),
        ("path,edema\nsub dir/im0.dcm,0\nsub dir/im1.dcm,-1\n",
        r"they are no findings of 0 and 1: line 3 has '-1' in "
        r"column 'edema'"),
        ("path,label\nC:\\a\\sub dir\\im0.dcm,0\nC:\\b\\sub dir\\im1.dcm,1\n", "its paths begin with 'C:/a/', 'C:/b/'"),
        ("path,label\nSUB DIR/IM0.DCM,0\n", "'SUB DIR/IM0.DCM' is not there, but 'sub dir/im0.dcm' differs in case"),
        ("path,label\nsub dir/im0,0\n", "'sub dir/im0.dcm' has another suffix"),
        ("path,label\nim0.dcm,0\n", "'sub dir/im0.dcm' lies in another folder"),
        ("PatientID,label\n7,0\n",
        "the PatientID in line 2 is not there, but that of sub dir/im0.dcm is written as text, with its zeros"),
        ("PatientID,label\n7.0,0\n", "line 2 is not there, but that of sub dir/im0.dcm is written as text"),
        ("PatientID,label\na,0\n", "line 2 is not there, but that of sub dir/im2.dcm differs in case"),
        ("PatientID,label\n1.23457E+14,0\n", "that of sub dir/im3.dcm has more digits"),
        ("path,label\nsub dir/im0\0.dcm,0\n", "line 2 has a zero byte inside a field"),
        (b"PK\x03\x04more", "is an Excel workbook or a zip; save it as 'CSV UTF-8'"),
        ("path,label\nsub dir/im0.dcm,gr\u00f6\u00dfer\n".encode("latin-1"),
        "line 2 is not UTF-8.*Excel saves as 'CSV UTF-8'"),
        ("path,label\nsub dir/im0.dcm,0\n".encode("utf-16-le"), "looks like UTF-16 without a byte order mark"),
    ],
    ids=[
        "twin columns", "twins in case", "twins of pandas", "twin keys", "case of classes", "blanks in classes",
        "truth in two ways", "key behind",
        "nameless column", "nothing but NA", "open quote", "contradiction", "contradicting patient",
        "uncertain finding", "two roots", "case of path",
        "no suffix", "other folder", "lost zeros", "float of a number", "case of patient", "rounded number",
        "zero byte", "workbook", "Latin-1",
        "UTF-16 without mark",
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused_with_what_helps(
    tmp_path: Path, inventory: Inventory, content: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _read(tmp_path, content, inventory)


def test_what_comes_near_is_told_where_others_match(tmp_path: Path, inventory: Inventory) -> None:
    labels = _read(tmp_path, "PatientID,label\n10,0\nA,1\n007,0\nB,1\n", inventory)
    assert sorted(labels.targets) == ["sub dir/im0.dcm", "sub dir/im2.dcm"]
    assert labels.unmatched == ["line 2", "line 5"]
    assert labels.refused == {
        "sub dir/im1.dcm": "it has no label: the table has the PatientID in line 2 where that of sub dir/im1.dcm is "
        "written as text, with its zeros; write it as it is"
    }
    assert labels.notes == [
        "the PatientID in line 2 belongs to no image, but that of sub dir/im1.dcm is written as text, with its zeros"
    ]
    plan = build_plan(inventory, BudgetOptions(), labels=labels)
    assert "that of sub dir/im1.dcm is written as text" in plan.refused["sub dir/im1.dcm"]


def test_name_of_another_unicode_form_is_the_same(tmp_path: Path) -> None:
    mr_slice(tmp_path / "in" / "Gro\u0308\u00dfe.dcm", 0)
    labels = _read(tmp_path, "path,label\nGr\u00f6\u00dfe.dcm,1\n", scan(tmp_path / "in"))
    assert len(labels.targets) == 1


def test_path_that_is_there_wins_over_one_that_is_below_another_root(tmp_path: Path) -> None:
    for number, name in enumerate(("a/im.dcm", "im.dcm", "b\\im.dcm", "b/im.dcm")):
        mr_slice(tmp_path / "in" / name, number)
    inventory = scan(tmp_path / "in")
    found = match_paths(["b\\im.dcm", "C:\\x\\a\\im.dcm", "C:\\x\\im.dcm"], tmp_path / "t.csv", inventory).found
    assert found == {"b\\im.dcm": ["b\\im.dcm"], "C:\\x\\a\\im.dcm": ["a/im.dcm"], "C:\\x\\im.dcm": ["im.dcm"]}


def test_all_pictures_of_a_patient_that_comes_near_are_refused_for_it(tmp_path: Path) -> None:
    for number, patient in enumerate(("007", "007", "010")):
        mr_slice(tmp_path / "in" / f"{number}.dcm", number, PatientID=patient)
    labels = _read(tmp_path, "patient_id,label\n7,0\n010,1\n", scan(tmp_path / "in"))
    assert sorted(labels.refused) == ["0.dcm", "1.dcm"]


@pytest.mark.parametrize(
    "values", [["1-2", "12", "1-2", "12"], ["-1", "1", "-1", "1"], ["a+", "a-", "a", "a+"], ["T2*", "T2", "T2*", "T2"]]
)
def test_classes_that_differ_in_more_than_their_spelling_are_classes(
    tmp_path: Path, inventory: Inventory, values: list[str]
) -> None:
    assert sorted(_read(tmp_path, _labels(values), inventory).classes) == sorted(set(values))


def test_few_pictures_of_many_classes_can_be_labeled(tmp_path: Path, many: Inventory) -> None:
    labels = labels_from_table(label_table(tmp_path / "l.csv", {f"case{n}/image.dcm": n % 10 for n in range(15)}), many)
    assert len(labels.classes) == 10
    assert "much for classes" in labels.notes[0]


def test_rows_that_belong_to_no_picture_are_named(tmp_path: Path, inventory: Inventory) -> None:
    content = _labels(["a", "b"]) + "other/x.dcm,a\nother/y.dcm,b\nnan,b\n"
    labels = _read(tmp_path, content, inventory)
    assert labels.unmatched == ["line 6 without path", "other/x.dcm", "other/y.dcm"]
    found = labels.to_json(inventory)
    assert found["classes"] == {"a": 1, "b": 1}
    assert (found["rows"], found["unmatched_rows"]["count"], found["unlabeled_pictures"]["first"]) == (
        5,
        3,
        ["sub dir/im2.dcm", "sub dir/im3.dcm"],
    )
    assert describe_labels(found) == [
        "labels: classes of column 'label': a 1, b 1 of 2 images",
        "labels: 3 rows without an image: line 6 without path, other/x.dcm, other/y.dcm",
        "labels: 2 images without a label: sub dir/im2.dcm, sub dir/im3.dcm",
    ]


@pytest.mark.parametrize(
    "values",
    [
        [str(40 + n) for n in range(24)],
        [f"{n / 7:.3f}" for n in range(24)],
        [f"id{n // 2 * 2 if n < 4 else n}" for n in range(24)],
    ],
)
def test_column_of_no_classes_is_refused_with_the_others(tmp_path: Path, many: Inventory, values: list[str]) -> None:
    rows = {f"case{n}/image.dcm": [values[n], n % 3, "x"] for n in range(24)}
    table = label_table(tmp_path / "l.csv", rows, columns=("label", "grade", "site"))
    with pytest.raises(
        UsageError,
        match=r"column 'label' has \d\d different values in 24, such as .*, of which 'grade' \(3 values\) may be one",
    ):
        labels_from_table(table, many)
    assert labels_from_table(table, many, "grade").classes == ["0", "1", "2"]


def test_column_of_many_classes_is_told(tmp_path: Path, many: Inventory) -> None:
    table = label_table(tmp_path / "l.csv", {f"case{n}/image.dcm": n // 3 for n in range(24)})
    (note,) = labels_from_table(table, many).notes
    assert "column 'label' has 8 different values in 24, which is much for classes" in note


def test_folders_of_their_own_are_no_classes(many: Inventory) -> None:
    with pytest.raises(
        UsageError, match=r"the folder of an image has 24 different values in 24, .*; give --labels FILE"
    ):
        labels_from_folders(many)


@pytest.mark.parametrize(
    ("names", "message"),
    [(("benign", "Benign"), "differ in their spelling"), (("1", "01"), "differ in their spelling")],
)
def test_folders_of_one_class_in_two_spellings_are_refused(
    tmp_path: Path, names: tuple[str, str], message: str
) -> None:
    for number, name in enumerate(names):
        mr_slice(tmp_path / "train" / name / f"{number}.dcm", number)
    with pytest.raises(UsageError, match=message):
        labels_from_folders(scan(tmp_path))


def test_identical_rows_are_fine_in_any_spelling(tmp_path: Path, inventory: Inventory) -> None:
    content = _labels(["0", "1"]) + "./sub dir/im0.dcm,0.0\nsub dir/im1.dcm,1\n"
    assert len(_read(tmp_path, content, inventory).targets) == 2


def test_table_of_a_zip_may_name_the_places_of_another_machine(tmp_path: Path, inventory: Inventory) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "export"), "zip", inventory.root))
    unpacked = scan(packed, unpack_into=tmp_path / "spare")
    assert len(_read(tmp_path, "path,label\n" + ROWS.format("D:\\exports\\7\\", ","), unpacked).targets) == 4


def test_line_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text('sep=;\n# x\n\npath;label;note\na;1;"two\nlines"\nb;2;\n')
    table = read_table(tmp_path / "l.csv")
    assert [row.line for row in table.rows] == [6, 7]


WHOLE = (
    "path,label\n" + "".join(f"case{n}/image.dcm,{n % 2}\n" for n in range(6)),
    "sep=;\npath;label;x\n" + "".join(f"C:\\d\\case{n}\\image.dcm;{n % 2},0;y\n" for n in range(6)),
    "PatientID,edema,mass\n" + "".join(f"P{n},{n % 2},{n // 3}\n" for n in range(6)),
    ",path,label\n" + "".join(f"{n},case{n}/image.dcm,{'ab'[n % 2]}\n" for n in range(6)),
)
PIECES = (
    "\0",
    "\n",
    "\r",
    '"',
    ",",
    ";",
    "\t",
    "|",
    "#",
    "sep=",
    "nan",
    "\\",
    "//",
    "C:",
    "\u00e9",
    "\ufeff",
    "\u2028",
    "1e9",
    "../../..",
    "path",
    "  ",
    "x" * 300,
)


@pytest.mark.slow
def test_damaged_tables_are_read_or_refused_in_one_line(tmp_path: Path, many: Inventory) -> None:
    chance = random.Random(5)
    read, refused = 0, list[str]()
    for _ in range(600):
        text = chance.choice(WHOLE)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice(PIECES) + text[place + chance.choice((0, 0, 1, 3)) :]
        content = text.encode(chance.choice(("utf-8", "utf-8", "utf-16", "latin-1", "utf-16-le")), "replace")
        try:
            labels = _read(
                tmp_path, content[: chance.randrange(len(content) + 1)] if chance.random() < 0.1 else content, many
            )
            assert describe_labels(labels.to_json(many))
            read += 1
        except UsageError as error:
            refused.append(str(error))
    assert min(read, len(refused)) > 100
    assert not any("\n" in message for message in refused)


def test_no_message_names_a_patient(tmp_path: Path) -> None:
    """What people are called is in the table and in the files; logs go further than both."""
    for number in range(4):
        mr_slice(tmp_path / "in" / f"{number}.dcm", number, PatientID=f"Q{number}Q")
    inventory = scan(tmp_path / "in")
    tables = [
        "PatientID,label\nQ0Q,0\nQ1Q,1\nQ7Q,1\nq2q,0\nQ3Q,\n",
        "PatientID,label\nQ0Q,0\nQ0Q,1\n",
        "PatientID,label\nq0q,0\n",
        "PatientID,label\nQ9Q,0\n",
        "AccessionNumber,label\nQ9Q,0\n",
        "path,PatientName,edema\n0.dcm,Q9Q,0\n",
    ]
    told = []
    for table in tables:
        try:
            found = _read(tmp_path, table, inventory)
            told += [*describe_labels(found.to_json(inventory)), *found.refused.values(), str(found.to_json(inventory))]
        except UsageError as error:
            told.append(str(error))
    assert len(told) > 10
    assert not [line for line in told if "Q" in line.upper().replace("SEQUENCE", "")]
