# SPDX-License-Identifier: Apache-2.0
"""Places are told from paths by their text alone, and no secret in one is ever repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_salm.dicomweb import ArchivePlace, place_of
from monai_salm.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dicomweb:https://a.org/dicom-web", ArchivePlace("https://a.org/dicom-web")),
        ("dicomweb:https://a.org:8443/dicom-web/", ArchivePlace("https://a.org:8443/dicom-web")),
        ("dicomweb:http://[::1]:80/rs/studies/1.2", ArchivePlace("http://[::1]:80/rs", ("1.2",))),
        ("dicomweb:https://a.org/studies/1.2,1.3", ArchivePlace("https://a.org", ("1.2", "1.3"))),
        ("dicomweb:https://a.org/rs/studies/1.2/series/3,4,3", ArchivePlace("https://a.org/rs", ("1.2",), ("3", "4"))),
        ("EXPORT", Path("EXPORT")),
        ("C:/EXPORT", Path("C:/EXPORT")),
    ],
)
def test_places(text: str, expected: object) -> None:
    assert place_of(text) == expected
    assert place_of(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a.org",
        "a.org/dicom-web",
        "https:/a.org/studies/1.2",
        "https://a.org:port/rs",
        "https://a.org/rs/studies/1.2/instances/3",
        "https://a.org/rs/studies/1.2/series",
        "https://a.org/rs/studies/../../admin",
        "https://a.org/rs/studies/1.2,",
        f"https://a.org/rs/studies/1.{'2' * 64}",
        "https://a.org/rs /studies/1.2",
    ],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"give|digits"):
        place_of(f"dicomweb:{text}")


@pytest.mark.parametrize("text", ["//me:geheim@a.org/rs", "//a.org/rs?token=geheim", "//a.org/rs#geheim"])
def test_secrets_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="MONAI_SALM_DICOMWEB_") as refusal:
        place_of(f"dicomweb:https:{text}")
    assert "geheim" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("http://a.org", True),
        ("http://10.0.0.1", True),
        ("https://a.org", False),
        ("http://localhost:8042", False),
        ("http://127.0.0.1", False),
        ("http://[::1]:8042", False),
    ],
)
def test_what_can_be_read_on_the_way(url: str, in_clear: bool) -> None:
    assert ArchivePlace(url).in_clear == in_clear
