# SPDX-License-Identifier: Apache-2.0
"""The demo, with few images: it makes its own export, tells what it does, and leaves pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_salm.demo import run_demo
from monai_salm.demo.brain import PATCH, TEST_SLABS, TRAIN_SLABS
from monai_salm.errors import UsageError


def test_demo_tells_its_story_and_leaves_files(tmp_path: Path) -> None:
    lines: list[str] = []
    report = run_demo(tmp_path / "demo", echo=lines.append, train=16, test=8, rounds=1, epochs=1)
    text = "\n".join(lines)
    assert "16 of 16 protected" in text
    assert "every change within its bound" in text
    assert "trained on" in text
    assert report.counts == {"clean": 16, "protected": 16, "test": 8}
    names = sorted(path.relative_to(tmp_path / "demo" / "protected").as_posix() for path in (tmp_path / "demo" / "protected").rglob("*.*"))
    assert sum(name.endswith(".dcm") for name in names) == sum(name.endswith(".nii.gz") for name in names) == 8
    picture = np.asarray(Image.open(tmp_path / "demo" / "pictures.png"))
    assert picture.shape[0] > 4 * 4 * PATCH
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_demo_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="exists already; give another folder"):
        run_demo(tmp_path, echo=lambda _: None)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_no_test_slice_is_near_a_training_slice() -> None:
    train = [k for slab in TRAIN_SLABS for k in range(*slab)]
    assert all(min(abs(k - other) for other in train) >= 5 for slab in TEST_SLABS for k in range(*slab))
