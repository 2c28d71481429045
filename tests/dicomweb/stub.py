# SPDX-License-Identifier: Apache-2.0
"""A DICOMweb archive of a few files on the loopback interface, which does wrong what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from monai_salm.io.dicom import object_uids

Key = tuple[str, str, str]
Fault = Callable[["Handler"], bool]
"""Does something to a request; says whether that was all there is to do."""


class Stub(ThreadingHTTPServer):
    """The archive.

    ``files`` has its instances by Study, Series and SOP Instance UID; ``asked`` the requests; ``faults`` what is done
    instead, by what a request (``GET /dw/...``) ends with; ``said`` how many instances a series is said to have;
    ``page`` how many entries are in a list at most, and None for a server that knows no pages; ``user`` who may ask.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[Key, bytes] = {}
        self.asked: list[str] = []
        self.faults: dict[str, Fault] = {}
        self.said: dict[str, int] = {}
        self.page: int | None = None
        self.user = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dw"

    def put(self, *paths: Path) -> None:
        for path in paths:
            self.files[key_of(path)] = path.read_bytes()

    def count(self, beginning: str) -> int:
        """Count the requests that begin so."""
        return sum(line.startswith(beginning) for line in self.asked)

    def retrieved(self) -> list[str]:
        """Give the SOP Instance UIDs that were asked for, in order."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/instances/" in line]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


def key_of(path: Path) -> Key:
    uids = object_uids(path)
    return uids["StudyInstanceUID"], uids["SeriesInstanceUID"], uids["SOPInstanceUID"]


@contextmanager
def running() -> Iterator[Stub]:
    stub = Stub()
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self._is_done():
            return
        match urlsplit(self.path).path.removeprefix("/dw/").split("/"):
            case ["studies"]:
                self.entries([])
            case ["studies", study, "series"]:
                found = {series for at, series, _ in self.server.files if at == study}
                self.entries([self._series(series) for series in sorted(found)])
            case ["studies", study, "series", series, "instances"]:
                sops = sorted(sop for *at, sop in self.server.files if at == [study, series])
                self.entries([{"00080018": {"vr": "UI", "Value": [sop]}} for sop in sops])
            case ["studies", study, "series", series, "instances", sop] if (study, series, sop) in self.server.files:
                self.instance(self.server.files[study, series, sop])
            case _:
                self.answer(404)

    def do_POST(self) -> None:
        message = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._is_done():
            self.take(message)

    def _is_done(self) -> bool:
        line = f"{self.command} {self.path}"
        self.server.asked.append(line)
        if self.server.user and self.headers.get("Authorization") != self.server.user:
            self.answer(401)
            return True
        faults = [fault for ending, fault in self.server.faults.items() if line.endswith(ending)]
        return any(fault(self) for fault in faults)

    def take(self, message: bytes) -> Key:
        """Store the file of a message, and say so."""
        content = message.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
        key = _key(content)
        self.server.files.setdefault(key, content)
        self.answer(200, stored(key[2]))
        return key

    def _series(self, series: str) -> dict[str, Any]:
        said = self.server.said.get(series)
        count = {} if said is None else {"00201209": {"vr": "IS", "Value": [said]}}
        return {"0020000E": {"vr": "UI", "Value": [series]}, **count}

    def entries(self, found: list[dict[str, Any]]) -> None:
        if self.server.page is not None:
            query = parse_qs(urlsplit(self.path).query)
            first = int(query.get("offset", ["0"])[0])
            found = found[first : first + self.server.page]
        self.answer(200, json.dumps(found).encode())

    def instance(self, content: bytes, end: bytes = b"\r\n--edge--\r\n", *, length: int = 0) -> None:
        body = b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + content + end
        self.answer(200, body, 'multipart/related; type="application/dicom"; boundary=edge', length=length)

    def answer(
        self, status: int, body: bytes = b"", kind: str = "application/dicom+json", *, length: int = 0, **more: str
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length or len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or length > len(body)

    def hang_up(self) -> bool:
        """End the connection without a word."""
        self.close_connection = True
        return True


def stored(sop: str) -> bytes:
    return json.dumps({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [sop]}}]}}).encode()


def failed(sop: str, reason: int) -> bytes:
    item = {"00081155": {"vr": "UI", "Value": [sop]}, "00081197": {"vr": "US", "Value": [reason]}}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


def _key(content: bytes) -> Key:
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return key_of(Path(file.name))
