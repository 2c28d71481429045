# SPDX-License-Identifier: Apache-2.0
"""A PACS of one's own for a test: Debian's Orthanc on the loopback interface, with nothing of it left behind."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

START_SECONDS = 30.0
ANSWER_SECONDS = 30.0
_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins")
_PLACES = "/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin"


def find_orthanc() -> str | None:
    """Give the path of the program; None where it is not installed."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path=_PLACES)


def find_dicomweb() -> Path | None:
    """Give the plugin that serves DICOMweb; None where it is not installed."""
    places = (Path(folder) / "libOrthancDicomWeb.so" for folder in _PLUGINS)
    return next((place for place in places if place.exists()), None)


class Orthanc:
    """A running server.

    Args:
        port: of its web interface on 127.0.0.1.
        dicom_port: of C-STORE.
    """

    def __init__(self, port: int, dicom_port: int = 0) -> None:
        self.port, self.dicom_port = port, dicom_port

    @property
    def dicomweb(self) -> str:
        """Where it serves DICOMweb."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Give the body of an answer.

        Raises:
            RuntimeError: the server refuses; the message has its reason.
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300].decode('utf-8', errors='replace')}")
        return content

    def get(self, path: str) -> Any:
        """Give an answer in JSON."""
        return json.loads(self.request("GET", path))

    def upload(self, content: bytes) -> dict[str, Any]:
        """Store a DICOM file; gives the server's ``ID`` and ``Status`` of it."""
        answer: dict[str, Any] = json.loads(self.request("POST", "/instances", content))
        return answer

    def file(self, instance: str) -> bytes:
        """Give a stored file."""
        return self.request("GET", f"/instances/{instance}/file")

    def delete(self, instance: str) -> None:
        """Remove a stored file."""
        self.request("DELETE", f"/instances/{instance}")

    def studies(self) -> list[str]:
        """Give the server's names of all studies."""
        return sorted(self.get("/studies"))

    def saved(self, study: str, kind: str) -> bytes:
        """Give a zip of a study: ``archive`` is its files in folders, ``media`` a file-set with a DICOMDIR."""
        return self.request("GET", f"/studies/{study}/{kind}")


@contextmanager
def running_orthanc(*plugins: Path) -> Iterator[Orthanc]:
    """Start an empty server and end it in any case.

    Args:
        plugins: that it has.

    Raises:
        RuntimeError: it is not installed, or does not start.
    """
    program = find_orthanc()
    if program is None:
        raise RuntimeError("Orthanc is not installed")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        http_port, dicom_port = _free_ports()
        settings = {
            "Name": "test", "HttpPort": http_port, "DicomPort": dicom_port, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True, "OverwriteInstances": False, "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"), "Plugins": [str(plugin) for plugin in plugins],
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
        log = stack.enter_context((folder / "log").open("w+"))
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
        stack.callback(_end, process)
        server = Orthanc(http_port, dicom_port)
        _await(server, process, folder / "log")
        yield server


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _await(server: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, HTTPException, RuntimeError, ValueError):
            server.get("/system")
            return
        time.sleep(0.1)
    raise RuntimeError(f"Orthanc does not start: {log.read_text(errors='replace')[-500:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
