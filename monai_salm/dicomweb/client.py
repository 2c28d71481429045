# SPDX-License-Identifier: Apache-2.0
"""Asking an archive: what it holds (QIDO-RS), its files as they lie there (WADO-RS), and storing files (STOW-RS).

The searches are those of dicomweb-client. Files go through its session, but not through its calls: these give and take
parsed datasets, which hold a file in memory and write other bytes than were read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from dicomweb_client import URI, DICOMwebClient

from monai_salm.dicomweb.answers import Answer, answer_of
from monai_salm.dicomweb.credentials import HOW, credentials
from monai_salm.dicomweb.instances import WAITS, Instance, LostError
from monai_salm.dicomweb.messages import CHUNK, MessageError, Upload, only_part
from monai_salm.dicomweb.places import ArchivePlace
from monai_salm.errors import SalmError, UsageError

Result = TypeVar("Result")

TIMEOUT = (10.0, 300.0)
"""Seconds for a connection, and for the next bytes of an answer: an archive may be long in storing a large file."""
_SHOWN = 5
"""Series that are named where one is not there."""
PAGE = 1000
"""Entries of a list that are asked for at once."""

_STUDY, _SERIES, _INSTANCE, _IN_SERIES = "0020000D", "0020000E", "00080018", "00201209"
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Archive:
    """A DICOMweb service.

    What goes wrong is one line with the URL. A connection that fails is tried again, after some waiting; an answer that
    the archive gives is taken as it is. No redirection is followed: it could lead files and passwords elsewhere.

    Args:
        place: in it.

    Raises:
        UsageError: the environment says half of a password.
    """

    def __init__(self, place: ArchivePlace) -> None:
        logging.getLogger("dicomweb_client").setLevel(logging.WARNING)  # it tells every search
        self.url = place.url
        self._session = requests.Session()
        self._session.auth = credentials()
        self._session.max_redirects = 0
        self._client = DICOMwebClient(self.url, session=self._session, permissive_uid=True, timeout=TIMEOUT)
        self._client.host = urlsplit(self.url).netloc  # it names no port to the server, and no IPv6 address
        self._client.set_http_retry_params(retry=False)

    def reach(self) -> None:
        """Find out whether the archive answers, and lets us in."""
        self._ask(f"{self.url}/studies", lambda: self._client.search_for_studies(limit=1))

    def instances(self, place: ArchivePlace) -> list[Instance]:
        """List what there is at a place, in order of the UIDs.

        Raises:
            UsageError: there is nothing.
            SalmError: the archive does not answer well, or lists fewer instances than it says it has.
        """
        found: list[Instance] = []
        known: set[str] = set()
        for study in place.studies:
            series = self._series(study)
            if not series:
                raise UsageError(
                    f"{self.url}/studies/{study}: the archive has no such study, or shows you none of its series; see "
                    "that the UID is the Study Instance UID"
                )
            known |= series.keys()
            for uid in series.keys() & (place.series or series.keys()):
                found += self._whole(study, uid, series[uid])
        absent = [uid for uid in place.series if uid not in known]
        if absent:
            raise UsageError(
                f"{self.url}: there is no series {absent[0]} in {', '.join(place.studies)}; there are "
                f"{', '.join(sorted(known)[:_SHOWN])}{' and more' if len(known) > _SHOWN else ''}"
            )
        return sorted(found, key=astuple)

    def _whole(self, study: str, series: str, said: int) -> list[Instance]:
        """List a series that is said to have so many instances.

        Raises:
            SalmError: there are fewer.
        """
        listed = self.listed(study, series)
        if len(listed) < max(said, 1):
            raise SalmError(
                f"{self.url}/studies/{study}/series/{series}: the archive says that it has {said} instances there, and "
                f"lists {len(listed)}; some would be lost, so none is taken: ask who runs it, or name other series"
            )
        return [Instance(study, series, sop) for sop in listed]

    def listed(self, study: str, series: str) -> set[str]:
        """List the SOP Instance UIDs of a series; none where there is no such series."""

        def search(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_instances(study, series, limit=PAGE, offset=offset)

        return set(self._all(f"{self.url}/studies/{study}/series/{series}/instances", search, _INSTANCE))

    def _series(self, study: str) -> dict[str, int]:
        """List the series of a study, with the number of instances that each is said to have; 0 where it is not."""

        def search(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_series(study, limit=PAGE, offset=offset)

        found = self._all(f"{self.url}/studies/{study}/series", search, _SERIES)
        return {uid: _number(entry) for uid, entry in found.items()}

    def _all(self, url: str, search: Callable[[int], list[dict[str, Any]]], tag: str) -> dict[str, dict[str, Any]]:
        """Ask for the pages of a list until none has anything new: some servers know no pages and give all."""
        found: dict[str, dict[str, Any]] = {}
        nothing: list[dict[str, Any]] = []
        asked = 0
        while True:
            page = self._ask(url, partial(search, asked), absent=nothing)
            entries = {uid: entry for entry in page if (uid := _text(entry, tag))}
            if len(entries) < len(page):
                raise SalmError(f"{url}: the archive lists something without a UID; ask who runs it")
            if entries.keys() <= found.keys():
                return found
            found |= entries
            asked += len(page)

    def retrieve(self, instance: Instance, target: Path) -> None:
        """Write an instance as the archive has it, in whichever transfer syntax, into a file.

        Raises:
            SalmError: it cannot be had whole.
        """
        url = str(URI(self.url, instance.study, instance.series, instance.sop, permissive=True))

        def call() -> None:
            headers = {"Accept": _AS_STORED, "Accept-Encoding": "identity"}
            with self._session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                _check(response)
                with target.open("wb") as file:
                    file.writelines(_content(response))

        self._ask(url, call)

    def send(self, file: Path, instance: Instance) -> Answer:
        """Store a file; gives what the archive says of it.

        Raises:
            LostError: the connection failed; whether the file was stored is not known.
            SalmError: the archive takes no files from us.
        """
        url, upload = f"{self.url}/studies", Upload(file)
        headers = {"Content-Type": upload.content_type, "Accept": "application/dicom+json"}

        def call() -> Answer:
            response = self._session.post(url, data=upload, headers=headers, timeout=TIMEOUT)
            if response.status_code in (401, 403, 404, 405, 501):
                _check(response)
            return answer_of(response.status_code, response.reason or "", response.content, instance.sop)

        return self._ask(url, call, waits=())

    def _ask(
        self,
        url: str,
        call: Callable[[], Result],
        *,
        absent: Result | None = None,
        waits: tuple[float, ...] = WAITS,
    ) -> Result:
        """Give an answer; ``absent`` where the archive says that there is nothing at the URL, if that is given."""
        for wait in (*waits, None):
            try:
                return call()
            except requests.exceptions.SSLError as error:
                raise SalmError(
                    f"{url}: the certificate of the archive is not to be trusted ({_why(error)}); if it is one of your "
                    "own, name the file of its authority in REQUESTS_CA_BUNDLE"
                ) from error
            except requests.TooManyRedirects as error:
                raise SalmError(
                    f"{url}: the archive leads elsewhere{_leads(error)}, which is not followed; give that URL"
                ) from error
            except requests.HTTPError as error:
                if absent is not None and error.response is not None and error.response.status_code == 404:
                    return absent
                raise _refusal(url, error.response) from error
            except _BROKEN as error:
                if wait is None:
                    tried = f", tried {len(waits) + 1} times" if waits else ""
                    raise LostError(f"{url}: {_why(error)}{tried}; see that the archive runs and is reached") from error
                sleep(wait)
            except MessageError as error:
                raise SalmError(f"{url}: the archive {error}; see whether it can show this instance itself") from error
            except (requests.RequestException, ValueError) as error:
                raise SalmError(f"{url}: the answer cannot be read ({_why(error)}); see the archive's log") from error
        raise LostError(f"{url}: not asked")


def _check(response: requests.Response) -> None:
    response.raise_for_status()
    if response.status_code != requests.codes.ok:
        raise requests.HTTPError(response=response)


def _content(response: requests.Response) -> Iterator[bytes]:
    """Give the file that an answer holds."""
    content_type = response.headers.get("Content-Type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/related":
        return only_part(response.iter_content(CHUNK), content_type)
    if kind == "application/dicom":  # which the standard allowed for some years
        return response.iter_content(CHUNK)
    raise MessageError(f"sent {kind or 'something of no type'} instead of DICOM")


def _refusal(url: str, response: requests.Response | None) -> SalmError:
    """Say what an answer means that is none."""
    status = 0 if response is None else response.status_code
    what = f"{status} {'' if response is None else response.reason}".strip()
    if status == 401:
        return UsageError(f"{url}: the archive does not know who asks ({what}); {HOW}")
    if status == 403:
        return UsageError(f"{url}: the archive does not allow this ({what}); ask who runs it for the right")
    if status in (404, 405, 501):
        return UsageError(
            f"{url}: the archive has nothing there ({what}); see that the URL is that of its DICOMweb service, that "
            "the service is on, and that what you name is still there"
        )
    return SalmError(f"{url}: the archive answers {what}; see its log")


def _leads(error: requests.TooManyRedirects) -> str:
    """Say where an answer leads, without what may be a secret."""
    split = urlsplit("" if error.response is None else error.response.headers.get("Location", ""))
    return f" to {split.scheme}://{split.hostname}{split.path}" if split.hostname else ""


def _why(error: BaseException) -> str:
    """Give the reason at the bottom of an error, in a few words."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror.strip().rstrip(".")
        reason = getattr(seen, "reason", None)
        nested = [reason, *(one for one in seen.args if isinstance(one, BaseException))]
        seen = next((one for one in nested if isinstance(one, BaseException)), None) or seen.__cause__
    return "the connection was broken off" if isinstance(error, _BROKEN) else type(error).__name__


def _values(entry: dict[str, Any], tag: str) -> list[Any]:
    found = entry.get(tag)
    values = found.get("Value") if isinstance(found, dict) else None
    return values if isinstance(values, list) else []


def _text(entry: dict[str, Any], tag: str) -> str:
    values = _values(entry, tag)
    return values[0] if values and isinstance(values[0], str) else ""


def _number(entry: dict[str, Any]) -> int:
    """Give how many instances a series is said to have."""
    try:
        return int(_values(entry, _IN_SERIES)[0])
    except (IndexError, TypeError, ValueError):
        return 0
