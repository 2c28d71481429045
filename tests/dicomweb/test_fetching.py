# SPDX-License-Identifier: Apache-2.0
"""What an archive holds comes as it lies there, once; whatever the archive does wrong is one line, and costs nothing
that was fetched.
"""

from __future__ import annotations

import ssl
import stat
import sys
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from monai_salm.dicomweb import ArchivePlace
from monai_salm.dicomweb.fetching import fetch, in_folders
from monai_salm.errors import SalmError, UsageError
from tests.dicomweb.conftest import STUDY
from tests.dicomweb.stub import Fault, Handler, Stub
from tests.exports import ROOT_UID, mr_series, tree

SERIES = f"{ROOT_UID}.21.1"


def sop(number: int) -> str:
    """Name an instance; the third that is fetched is number 3."""
    return f"{ROOT_UID}.11.1.{number}"


def failure(place: ArchivePlace, home: Path, kind: type[SalmError] = SalmError) -> str:
    with pytest.raises(kind) as error:
        fetch(place, home, advice="go on")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_come_as_they_lie_there_and_once(stub: Stub, place: ArchivePlace, tmp_path: Path) -> None:
    folder = fetch(place, tmp_path / "home")
    assert sorted(tree(folder).values()) == sorted(stub.files.values())
    assert stub.retrieved() == [sop(number) for number in (1, 2, 3, 4)]
    names = "\n".join(tree(folder))
    assert SERIES not in names
    assert sop(1) not in names
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.parent.rglob("*")} == {0o700, 0o600}
    assert fetch(place, tmp_path / "home") == folder
    assert len(stub.retrieved()) == 4


def test_a_damaged_file_is_fetched_again(stub: Stub, place: ArchivePlace, tmp_path: Path) -> None:
    folder = fetch(place, tmp_path)
    first, *_, last = sorted(folder.rglob("*.dcm"))
    first.write_bytes(last.read_bytes())
    last.write_bytes(b"")
    fetch(place, tmp_path)
    assert sorted(tree(folder).values()) == sorted(stub.files.values())
    assert len(stub.retrieved()) == 6


@pytest.mark.parametrize("page", [1, 3, 4, 100])
def test_pages(stub: Stub, place: ArchivePlace, tmp_path: Path, page: int) -> None:
    stub.page = page
    assert len(tree(fetch(place, tmp_path))) == 4


def test_series_and_several_studies(stub: Stub, tmp_path: Path) -> None:
    stub.put(*mr_series(tmp_path / "more", 1, slices=2), *mr_series(tmp_path / "others", 2, slices=1))
    studies = (STUDY, f"{ROOT_UID}.31.2")
    assert len(tree(fetch(ArchivePlace(stub.url, studies), tmp_path / "a"))) == 6
    series = (f"{ROOT_UID}.21.2",)
    assert len(tree(fetch(ArchivePlace(stub.url, studies, series), tmp_path / "b"))) == 2
    told = failure(ArchivePlace(stub.url, (STUDY,), series), tmp_path / "c", UsageError)
    assert f"no series {series[0]}" in told
    assert SERIES in told


def status(code: int, **more: str) -> Fault:
    def fault(handler: Handler) -> bool:
        handler.answer(code, b"see /secret", "text/html", **more)
        return True

    return fault


def truncated(handler: Handler) -> bool:
    content = handler.server.files[STUDY, SERIES, sop(3)]
    handler.instance(content[:-40], b"", length=len(content) + 100)
    return True


def without_end(handler: Handler) -> bool:
    handler.instance(handler.server.files[STUDY, SERIES, sop(3)], b"")
    return True


def cut(handler: Handler) -> bool:
    handler.instance(handler.server.files[STUDY, SERIES, sop(3)][:140])
    return True


def another(handler: Handler) -> bool:
    handler.instance(handler.server.files[STUDY, SERIES, sop(2)])
    return True


def page_of_login(handler: Handler) -> bool:
    handler.answer(200, b"<html>", "text/html")
    return True


@pytest.mark.parametrize(
    ("fault", "said", "tries"),
    [
        (status(500), "the archive answers 500", 1),
        (status(404), "has nothing there", 1),
        (status(206), "the archive answers 206", 1),
        (status(302, Location="http://elsewhere.org/x?secret"), "leads elsewhere to http://elsewhere.org/x, which", 1),
        (Handler.hang_up, "broken off|closed", 4),
        (truncated, "broken off", 4),
        (without_end, "cut off", 1),
        (cut, "no DICOM file, or was cut off", 1),
        (another, f"another instance, {sop(2)}", 1),
        (page_of_login, "sent text/html instead of DICOM", 1),
    ],
)
def test_what_goes_wrong_is_told_and_gone_on_with(
    stub: Stub, place: ArchivePlace, tmp_path: Path, waits: list[float], fault: Fault, said: str, tries: int
) -> None:
    stub.faults[sop(3)] = fault
    with pytest.raises(SalmError, match=said) as error:
        fetch(place, tmp_path / "home", advice="go on")
    told = str(error.value)
    assert f"{stub.url}/studies/{STUDY}/series/{SERIES}/instances/{sop(3)}" in told
    assert told.endswith("2 of 4 files are fetched; go on")
    assert "secret" not in told
    assert len(waits) == tries - 1
    assert stub.retrieved()[2:] == [sop(3)] * tries
    assert len(tree(tmp_path / "home" / "fetched")) == 2
    stub.faults.clear()
    stub.asked.clear()
    assert sorted(tree(fetch(place, tmp_path / "home")).values()) == sorted(stub.files.values())
    assert stub.retrieved() == [sop(3), sop(4)]


def test_a_connection_that_comes_back_is_no_failure(
    stub: Stub, place: ArchivePlace, tmp_path: Path, waits: list[float]
) -> None:
    def twice(handler: Handler) -> bool:
        return len(waits) < 2 and handler.hang_up()

    stub.faults[sop(3)] = twice
    assert len(tree(fetch(place, tmp_path))) == 4
    assert waits == [0.5, 4.0]


def test_an_archive_that_is_not_there(tmp_path: Path, stub: Stub, waits: list[float]) -> None:
    told = failure(ArchivePlace("http://127.0.0.1:9/dw", (STUDY,)), tmp_path)
    assert "http://127.0.0.1:9/dw" in told
    assert "refused, tried 4 times" in told
    assert len(waits) == 3


def test_nothing_to_fetch(stub: Stub, tmp_path: Path) -> None:
    assert "no such study" in failure(ArchivePlace(stub.url, ("1.2.3",)), tmp_path, UsageError)
    assert "a study is needed" in failure(ArchivePlace(stub.url), tmp_path, UsageError)
    stub.faults["instances?limit=1000&offset=0"] = lambda handler: handler.entries([]) is None
    assert f"{SERIES}: the archive says" in failure(ArchivePlace(stub.url, (STUDY,)), tmp_path)


def test_a_list_that_lacks_instances_is_refused(stub: Stub, place: ArchivePlace, tmp_path: Path) -> None:
    stub.said[SERIES] = 5
    assert "says that it has 5 instances there, and lists 4" in failure(place, tmp_path)
    assert stub.retrieved() == []


@pytest.mark.parametrize("change", ["came", "gone"])
def test_a_study_that_changed_is_told(stub: Stub, place: ArchivePlace, tmp_path: Path, change: str) -> None:
    fetch(place, tmp_path / "home")
    key, content = stub.files.popitem()
    if change == "came":
        stub.files |= {key: content, (STUDY, SERIES, "1.9.9"): content}
    told = failure(place, tmp_path / "home", UsageError)
    assert str(place) in told
    assert {"came": "1 instances came, such as 1.9.9", "gone": f"1 instances are gone, such as {key[2]}"}[
        change
    ] in told
    other = failure(ArchivePlace(stub.url, (STUDY,), (SERIES,)), tmp_path / "home", UsageError)
    assert "came" in other or "gone" in other or f"fetched from {place}" in other


def test_what_a_run_stored_itself_is_no_change(stub: Stub, place: ArchivePlace, tmp_path: Path) -> None:
    fetch(place, tmp_path)
    stub.files[STUDY, "1.9", "1.9.9"] = b""
    assert len(tree(fetch(place, tmp_path, ours={"1.9.9"}))) == 4


@pytest.mark.parametrize(
    ("said", "header"),
    [
        ({"USER": "me", "PASSWORD": "geheim"}, f"Basic {b64encode(b'me:geheim').decode()}"),
        ({"TOKEN": "geheim"}, "Bearer geheim"),
        ({}, f"Basic {b64encode(b'she:geheim').decode()}"),
    ],
)
def test_who_asks(
    stub: Stub,
    place: ArchivePlace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: dict[str, str],
    header: str,
) -> None:
    stub.user = header
    told = failure(place, tmp_path / "home", UsageError)
    assert "does not know who asks (401 Unauthorized); set MONAI_SALM_DICOMWEB_USER" in told
    netrc = tmp_path / "netrc"  # counts where nothing else is said, and only there
    netrc.write_text("machine 127.0.0.1 login she password geheim\n", encoding="utf-8")
    netrc.chmod(0o600)
    for name, value in said.items():
        monkeypatch.setenv(f"MONAI_SALM_DICOMWEB_{name}", value)
    fetch(place, tmp_path / "home", show_progress=True)
    assert b"geheim" not in b"".join(tree(tmp_path / "home").values())
    assert "geheim" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "said", [{"USER": "me"}, {"PASSWORD": "geheim"}, {"USER": "me", "PASSWORD": "x", "TOKEN": "y"}, {"TOKEN": "a b"}]
)
def test_half_of_who_asks(
    place: ArchivePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str]
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(f"MONAI_SALM_DICOMWEB_{name}", value)
    told = failure(place, tmp_path, UsageError)
    assert "set" in told
    assert "geheim" not in told


def test_what_is_not_encrypted_is_told(
    stub: Stub, place: ArchivePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(place, tmp_path / "a")
    assert not caplog.records
    monkeypatch.setattr(ArchivePlace, "in_clear", True)
    fetch(place, tmp_path / "b")
    fetch(place, tmp_path / "b")
    told = [record.getMessage() for record in caplog.records if "not encrypted" in record.getMessage()]
    assert [line.partition(": http")[0] for line in told] == [stub.url]


def test_temporary_folders(stub: Stub, place: ArchivePlace, tmp_path: Path) -> None:
    with in_folders(place, tmp_path) as (folder, same):
        assert len(tree(folder)) == 4
        assert same == tmp_path
    assert not folder.exists()
    with pytest.raises(UsageError, match="given twice"), in_folders(place, place):
        pass
    with pytest.raises(UsageError, match="use --workers"), in_folders(place, shared=True):
        pass


def test_without_the_client(place: ArchivePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "monai_salm.dicomweb.client")
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    told = failure(place, tmp_path, UsageError)
    assert "needs dicomweb-client" in told
    assert "pip install 'dicomweb-client>=" in told


def test_certificates(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _certificate(tmp_path / "own.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    stub.socket = context.wrap_socket(stub.socket, server_side=True)
    place = ArchivePlace(stub.url.replace("http:", "https:"), (STUDY,))
    told = failure(place, tmp_path / "home")
    assert "certificate of the archive is not to be trusted" in told
    assert "REQUESTS_CA_BUNDLE" in told
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(own))
    assert len(tree(fetch(place, tmp_path / "home"))) == 4


def _certificate(path: Path) -> Path:
    """Write a key and a certificate that nobody else has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(pem))
    return path
