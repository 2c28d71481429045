# SPDX-License-Identifier: Apache-2.0
"""Places in an archive, as a command line names them: told from paths before anything makes a path of them, which would
collapse their slashes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from monai_salm.errors import UsageError

SCHEME = "dicomweb:"
"""How the text of a place in an archive begins."""

_LONGEST_UID = 64
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_SERVICE_PATH = re.compile(r"(?P<service>.*?)(/studies/(?P<studies>[^/]+)(/series/(?P<series>[^/]+))?)?/?")
_EXAMPLE = "such as dicomweb:https://pacs.example.org/dicom-web/studies/1.2.3"


@dataclass(frozen=True)
class ArchivePlace:
    """An archive, or some studies of it, or some series of these.

    Args:
        url: of its DICOMweb service, without a slash at its end; it holds no secret.
        studies: Study Instance UIDs; empty for the archive as such.
        series: Series Instance UIDs of these; empty for all.
    """

    url: str
    studies: tuple[str, ...] = ()
    series: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Give the text that :func:`place_of` reads."""
        parts = (("studies", self.studies), ("series", self.series))
        return f"{SCHEME}{self.url}" + "".join(f"/{name}/{','.join(uids)}" for name, uids in parts if uids)

    @property
    def in_clear(self) -> bool:
        """Whether what is sent there can be read on the way: it is not encrypted, and leaves this machine."""
        split = urlsplit(self.url)
        return split.scheme == "http" and not _is_loopback(split.hostname or "")


def place_of(text: str) -> Path | ArchivePlace:
    """Read a place: ``dicomweb:URL``, ``dicomweb:URL/studies/UID``, ``dicomweb:URL/studies/UID/series/UID``, where a
    UID may be several with commas between them; any other text is a path.

    Raises:
        UsageError: the URL is none, or has a password or a query in it, which would land in logs; it is not repeated.

    Example:
        >>> place_of("dicomweb:https://pacs.example.org/dicom-web/studies/1.2,1.3").studies
        ('1.2', '1.3')
    """
    if not text.startswith(SCHEME):
        return Path(text)
    split = _split(text.removeprefix(SCHEME))
    found = _SERVICE_PATH.fullmatch(split.path)
    if found is None or "/studies" in found["service"]:
        raise UsageError(
            f"{SCHEME}{split.scheme}://{split.netloc}{split.path}: not a study or a series of an archive; give "
            f"dicomweb:URL/studies/UID or dicomweb:URL/studies/UID/series/UID, {_EXAMPLE}"
        )
    studies, series = _uids(found["studies"]), _uids(found["series"])
    return ArchivePlace(f"{split.scheme}://{split.netloc}{found['service'].rstrip('/')}", studies, series)


def _split(url: str) -> SplitResult:
    """Split a URL that holds no more than it may."""
    if any(not letter.isprintable() or letter.isspace() for letter in url):
        raise UsageError(f"the URL of an archive has a space or another character that no URL has; give one {_EXAMPLE}")
    try:
        split = urlsplit(url)
        host, _ = split.hostname, split.port
    except ValueError as error:
        raise UsageError(f"the URL of an archive cannot be read ({error}); give one {_EXAMPLE}") from error
    if "@" in split.netloc:
        raise UsageError(
            "the URL of an archive has a user or a password in it, which would land in logs and in the list of "
            "processes; set MONAI_SALM_DICOMWEB_USER and MONAI_SALM_DICOMWEB_PASSWORD, or write ~/.netrc, and give the "
            "URL without them"
        )
    if split.query or split.fragment:
        raise UsageError(
            "the URL of an archive has a query (?) or a fragment (#); leave it out, and give a token as "
            "MONAI_SALM_DICOMWEB_TOKEN"
        )
    if split.scheme not in ("http", "https") or not host:
        raise UsageError(f"the URL of an archive begins with https:// or http:// and a host; give one {_EXAMPLE}")
    return split


def _uids(text: str | None) -> tuple[str, ...]:
    """Read UIDs with commas between them, each once."""
    uids = dict.fromkeys((text or "").split(",")) if text else {}
    for uid in uids:
        if not _UID.fullmatch(uid) or len(uid) > _LONGEST_UID:
            raise UsageError(
                f"{uid!r} is no UID: digits with points between them, at most {_LONGEST_UID} characters; give the "
                "Instance UID that the archive shows"
            )
    return tuple(uids)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
