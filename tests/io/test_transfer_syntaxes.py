# SPDX-License-Identifier: Apache-2.0
"""The table of transfer syntaxes, held against the numbers of PS3.6 A."""

from __future__ import annotations

import pytest

from monai_salm.io.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from monai_salm.io.dicom.transfer_syntaxes import (
    FAMILIES,
    HIGH_THROUGHPUT,
    LOSSLESS,
    LOSSY,
    LOSSY_METHODS,
    NATIVE,
    is_known,
    is_video,
)

ROOT = "1.2.840.10008.1.2"


def test_native_syntaxes() -> None:
    assert {
        ROOT: IMPLICIT_LITTLE,
        f"{ROOT}.1": EXPLICIT_LITTLE,
        f"{ROOT}.1.99": EXPLICIT_LITTLE,
        f"{ROOT}.2": EXPLICIT_BIG,
    } == NATIVE


def test_compressed_syntaxes() -> None:
    numbers = {"jpeg": (50, 51, 57, 70), "jpeg-ls": (80, 81), "jpeg2000": (90, 91, 201, 202, 203)}
    assert {f"{ROOT}.4.{number}": family for family, row in numbers.items() for number in row} == FAMILIES
    assert {f"{ROOT}.4.{number}" for number in (201, 202, 203)} == HIGH_THROUGHPUT
    assert {f"{ROOT}.4.{number}" for number in (50, 51, 81, 91, 203)} == LOSSY
    assert {f"{ROOT}.5", *(f"{ROOT}.4.{number}" for number in (57, 70, 80, 90, 201, 202))} == LOSSLESS
    assert {
        f"{ROOT}.4.50": "ISO_10918_1",
        f"{ROOT}.4.51": "ISO_10918_1",
        f"{ROOT}.4.81": "ISO_14495_1",
        f"{ROOT}.4.91": "ISO_15444_1",
        f"{ROOT}.4.203": "ISO_15444_15",
    } == LOSSY_METHODS


@pytest.mark.parametrize(
    ("number", "known", "video"),
    [
        (".1", True, False),
        (".1.98", False, False),
        (".3", False, False),
        (".4.50", True, False),
        (".4.55", True, False),
        (".4.99", True, False),
        (".4.100", True, True),
        (".4.100.1", True, True),
        (".4.108", True, True),
        (".4.109", True, False),
        (".5", True, False),
    ],
)
def test_what_is_known_and_what_is_video(number: str, known: bool, video: bool) -> None:
    assert (is_known(ROOT + number), is_video(ROOT + number)) == (known, video)
