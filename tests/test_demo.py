# SPDX-License-Identifier: Apache-2.0
"""The demo, with few images: it makes its own export, tells what it does, and leaves a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_salm.demo import DemoSize, run_demo
from monai_salm.demo.brain import PATCH, TEST_SLABS, TRAIN_SLABS
from monai_salm.errors import UsageError


@pytest.mark.slow
def test_demo_tells_its_story_and_leaves_files(tmp_path: Path) -> None:
    lines: list[str] = []
    size = DemoSize(train=16, test=8, rounds=1, epochs=1, least_steps=1)
    report = run_demo(tmp_path / "demo", echo=lines.append, size=size)
    text = "\n".join(lines)
    assert "16 of 16 protected" in text
    assert "every change within its bound" in text
    assert "trained on" in text
    assert report.counts == {"clean": 16, "protected": 16, "test": 8}
    names = sorted(
        path.relative_to(tmp_path / "demo" / "protected").as_posix()
        for path in (tmp_path / "demo" / "protected").rglob("*.*")
    )
    assert sum(name.endswith(".dcm") for name in names) == sum(name.endswith(".nii.gz") for name in names) == 8
    assert str(tmp_path / "demo" / "report.html") in text
    assert "</html>" in (tmp_path / "demo" / "report.html").read_text()
    examples = json.loads((tmp_path / "demo" / "report.json").read_text())["examples"]
    assert sorted(example["name"].partition("/")[0] for example in examples) == ["dicom"] * 3 + ["nifti"] * 3
    assert all(example["shape"] == [PATCH, PATCH] and example["largest_change_model"] > 0 for example in examples)


def test_demo_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="exists already; give another folder"):
        run_demo(tmp_path, echo=lambda _: None)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_no_test_slice_is_near_a_training_slice() -> None:
    train = [k for slab in TRAIN_SLABS for k in range(*slab)]
    assert all(min(abs(k - other) for other in train) >= 5 for slab in TEST_SLABS for k in range(*slab))
