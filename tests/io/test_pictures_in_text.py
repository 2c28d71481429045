# SPDX-License-Identifier: Apache-2.0
"""Text that is a picture, or has one in it, is refused; tables, sidecars and lists of numbers are copied."""

from __future__ import annotations

import json
from base64 import b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Iterable
from gzip import compress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io import other

RANDOM = np.random.default_rng(7)
NOISE = RANDOM.bytes(8000)


def smooth(*shape: int, low: float = 0, high: float = 256) -> NDArray[np.float64]:
    """Give pictures with edges and some noise, whole numbers, along the last two axes."""
    rows, columns = np.meshgrid(*(np.linspace(0, 1, length) for length in shape[-2:]), indexing="ij")
    base = (
        0.5
        + 0.25 * np.sin(7 * rows) * np.cos(5 * columns)
        + 0.15 * (np.hypot(rows - 0.5, columns - 0.5) < 0.3)
        + RANDOM.normal(0, 0.02, shape)
    )
    return np.floor(low + (high - low) * base.clip(0, 0.999))


def table(rows: Iterable[Iterable[Any]], by: str = ",", head: str = "") -> bytes:
    """Write rows as lines."""
    return (head + "".join(by.join(map(str, row)) + "\n" for row in rows)).encode()


def saved(values: NDArray[Any], **how: Any) -> bytes:
    """Write a matrix as NumPy does."""
    stream = BytesIO()
    np.savetxt(stream, values, **how)
    return stream.getvalue()


def png(rows: int = 40) -> bytes:
    """Give a small PNG."""
    stream = BytesIO()
    pytest.importorskip("PIL.Image").fromarray(smooth(rows, 40).astype("u1")).save(stream, "PNG")
    return stream.getvalue()


def flat(count: int, *shape: int) -> NDArray[np.int64]:
    """Give pictures, one a row, each with a label before it."""
    return np.hstack([RANDOM.integers(0, 7, (count, 1)), smooth(count, *shape).reshape(count, -1).astype(int)])


def _pixels_column() -> bytes:
    return table(
        ([3, " ".join(map(str, row)), "Training"] for row in flat(9, 24, 24)[:, 1:]), head="emotion,pixels,Usage\n"
    )


PICTURES = {
    "imageData of LabelMe": lambda: json.dumps({"imagePath": "a.png", "imageData": b64encode(png()).decode()}).encode(),
    "output of a notebook": lambda: json.dumps({"image/png": encodebytes(png()).decode()}, indent=1).encode(),
    "wrapped in XML": lambda: b"<value>\n" + encodebytes(png()) + b"</value>",
    "escaped slashes": lambda: b'{"a": "' + b64encode(b"\xff\xd8\xff\xe0" + NOISE[:99]).replace(b"/", b"\\/") + b'"}',
    "JPEG in HL7": lambda: b"OBX|1|ED|||^IM^JPEG^Base64^" + b64encode(b"\xff\xd8\xff\xe0" + NOISE[:99]) + b"|\r\n",
    "JPEG for a URL": lambda: b"x=" + urlsafe_b64encode(b"\xff\xd8\xff\xe0" + NOISE[:99]),
    "GIF": lambda: b64encode(b"GIF89a" + NOISE[:99]),
    "TIFF": lambda: b64encode(b"II*\0" + NOISE[:99]),
    "BMP": lambda: b64encode(b"BM\x36\x10\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0" + NOISE[:99]),
    "DICOM": lambda: encodebytes(bytes(128) + b"DICM" + NOISE[:99]),
    "NIfTI": lambda: b64encode(b"\x5c\1\0\0" + bytes(400)),
    "gzip": lambda: b64encode(compress(NOISE[:200])),
    "hexadecimal": lambda: b"raw: " + png().hex().encode(),
    "hexadecimal of SQL": lambda: b"INSERT (0x" + png().hex().upper().encode() + b");",
    "no signature": lambda: b'{"bdata": "' + b64encode(NOISE) + b'"}',
    "no signature, wrapped": lambda: b"<x>\n" + encodebytes(NOISE) + b"</x>\n",
    "far in the text": lambda: b"word " * 300_000 + b64encode(png()),
    "over a border of pieces": lambda: b" " * ((1 << 20) - 20) + b64encode(png()),
    "table of 28 x 28": lambda: table(
        flat(20, 28, 28), head=",".join(["label", *(f"pixel{place:04d}" for place in range(784))]) + "\n"
    ),
    "table of 8 x 8": lambda: table(flat(300, 8, 8)),
    "table of RGB": lambda: table(
        np.repeat(smooth(20, 28, 28).astype(int).reshape(20, -1), 3, axis=1)
        + RANDOM.integers(0, 90, 3)[[*range(3)] * 784]
    ),
    "table, quoted": lambda: table([[f'"{value}"' for value in row] for row in flat(20, 28, 28)], by=";"),
    "table of floats": lambda: table((smooth(20, 28, 28).reshape(20, -1) / 255).round(5)),
    "column of pixels": _pixels_column,
    "slice in HU": lambda: saved(smooth(64, 64, low=-1024, high=1500), fmt="%d"),
    "slice, default format": lambda: saved(smooth(64, 64, low=-1024, high=1500)),
    "slice of floats": lambda: saved(smooth(64, 64) / 255, delimiter=","),
    "slice in JSON": lambda: json.dumps({"pixels": smooth(64, 64).astype(int).tolist()}).encode(),
    "slice in JSON, one value a line": lambda: json.dumps(smooth(64, 64).astype(int).tolist(), indent=1).encode(),
    "flat list": lambda: json.dumps({"pixels": smooth(64, 64).astype(int).ravel().tolist()}).encode(),
    "flat list of 16 bits": lambda: json.dumps(smooth(64, 64, high=4096).astype(int).ravel().tolist()).encode(),
    "C": lambda: b"unsigned char a[] = {\n" + table(smooth(64, 64).astype(int).reshape(-1, 16)) + b"};",
    "XPM": lambda: b'/* XPM */\nstatic char *view[] = {\n"2 1 2 1",\n',
    "XBM": lambda: b"#define a_width 16\n#define a_height 1\nstatic char a_bits[] = {\n0x12, 0x34};\n",
    "XBM behind a comment": lambda: (
        b"/* made by hand */\n#define a_width 16\n#define a_height 1\nstatic char a_bits[] = {\n0x12, 0x34};\n"
    ),
    "MATLAB": lambda: b"A = [" + b"; ".join(saved(smooth(40, 40, low=-1000, high=999), fmt="%d").splitlines()) + b"];",
    "NumPy's own words": lambda: np.array2string(smooth(40, 40), threshold=10**6).encode(),
    "decimal commas": lambda: table(
        ([f"{value:.3f}".replace(".", ",") for value in row] for row in smooth(64, 64) / 7), by=";"
    ),
    "one column": lambda: table(smooth(64, 64).reshape(-1, 1).astype(int), head="gray\n"),
    "rows of bytes": lambda: b"\n".join(row.tobytes().hex(" ").encode() for row in smooth(64, 64).astype("u1")),
    "rows of bytes without blanks": lambda: b"\n".join(
        row.tobytes().hex().encode() for row in smooth(64, 64).astype("u1")
    ),
    "bytes in C": lambda: b"char a[] = {" + b", ".join(b"0x%02x" % value for value in NOISE[:1100]) + b"};",
    "PNG in C": lambda: b"char a[] = {\n  " + b", ".join(b"0x%02x" % value for value in png()[:50]) + b"};",
    "JPEG in Python": lambda: b"A = " + repr(b"\xff\xd8\xff\xe0\0" + NOISE[:40]).encode(),
    "dump of DICOM": lambda: (
        b"(7fe0,0010) OW "
        + b"\\".join(b"%04x" % int(value) for value in smooth(40, 40).ravel())
        + b" # 3200, 1 PixelData\n"
    ),
    "VTK": lambda: b'<?xml version="1.0"?>\n<VTKFile type="ImageData" version="1.0">',
    "uuencode": lambda: b"begin 644 a.png\nM?????\n`\nend\n",
}

TEXTS = {
    "labels": lambda: table(([f"case{i}.png", i % 3, 40 + i] for i in range(500)), head="image,label,age\n"),
    "one-hot": lambda: table(np.eye(100, dtype=int)[RANDOM.integers(0, 100, 300)]),
    "scores of a questionnaire": lambda: table(RANDOM.integers(0, 5, (80, 90))),
    "radiomics": lambda: table(
        RANDOM.lognormal(0, 4, (60, 107)) * RANDOM.lognormal(0, 3, 107),
        head=",".join(f"f{i}" for i in range(107)) + "\n",
    ),
    "counts of genes": lambda: table(RANDOM.poisson(RANDOM.lognormal(3, 2, 400), (40, 400))),
    "bval of shells": lambda: table([[0, *RANDOM.choice([990, 995, 1000, 1005, 2985, 2990, 3000], 287)]], by=" "),
    "bval by shell": lambda: table([np.sort(RANDOM.integers(0, 600, 288)) * 5], by=" "),
    "bvec": lambda: saved(np.sin(np.arange(864).reshape(3, 288) / 50)),
    "motion": lambda: saved(np.cumsum(RANDOM.normal(0, 0.01, (400, 6)), axis=0)),
    "confounds": lambda: table(
        (["n/a", *row] for row in np.cumsum(RANDOM.normal(0, 1, (300, 60)), axis=0) * RANDOM.lognormal(0, 3, 60)),
        by="\t",
    ),
    "pulse, one column": lambda: table([[int(2000 + 900 * np.sin(i / 40))] for i in range(9000)]),
    "pulse, one line": lambda: table([[int(2000 + 900 * np.sin(i / 40)) for i in range(9025)]], by=" "),
    "sorted ages": lambda: table(np.sort(RANDOM.integers(18, 90, (1024, 1)), axis=0)),
    "random numbers, one column": lambda: table(RANDOM.integers(0, 256, (1024, 1))),
    "registers in C": lambda: b"".join(b"#define REG_%d 0x%02x\n" % (number, number) for number in range(200)),
    "series of volumes": lambda: table((RANDOM.lognormal(8, 1, (50, 80)) * RANDOM.lognormal(0, 1, 80)).astype(int)),
    "polygon": lambda: json.dumps(
        [[int(v) for a in np.linspace(0, 6, 700) for v in (400 + 90 * np.cos(a), 150 + 60 * np.sin(a))]]
    ).encode(),
    "run lengths": lambda: json.dumps({"counts": RANDOM.integers(1, 40, 3000).tolist()}).encode(),
    "landmarks": lambda: json.dumps(np.cumsum(RANDOM.normal(0, 1, (2000, 3)), axis=0).tolist()).encode(),
    "sidecar": lambda: json.dumps(
        {"SliceTiming": np.linspace(0, 2, 72).tolist(), "EchoTime": 0.03, "ImageType": ["ORIGINAL", "PRIMARY"]},
        indent=2,
    ).encode(),
    "histogram": lambda: json.dumps((900 * np.exp(-(((np.arange(256) - 90) / 40) ** 2))).astype(int).tolist()).encode(),
    "checksums": lambda: "".join(f"{sha256(bytes([i])).hexdigest()}  case{i}.dcm\n" for i in range(200)).encode(),
    "checksums alone": lambda: "".join(f"{sha256(bytes([i])).hexdigest()}\n" for i in range(200)).encode(),
    "base64 of checksums": lambda: "".join(
        b64encode(sha256(bytes([i])).digest()).decode() + "\n" for i in range(200)
    ).encode(),
    "certificate": lambda: (
        b"-----BEGIN CERTIFICATE-----\n" + encodebytes(b"\x30\x82" + NOISE[:900]) + b"-----END CERTIFICATE-----\n"
    ),
    "sequence": lambda: (
        b">chr1\n" + b"".join(RANDOM.choice(list(b"ACGT"), 70).astype("u1").tobytes() + b"\n" for _ in range(200))
    ),
    "paths": lambda: "".join(
        f"Study/of/Patients/Head/Series{i:05d}/Instance/Nr/{i:05d}/long/name/of/some/Image{i:05d}\n" for i in range(300)
    ).encode(),
    "uids": lambda: "".join(f"1.2.826.0.1.3680043.8.498.{10**38 + i * 7919**8}\n" for i in range(300)).encode(),
    "units in brackets": lambda: table(
        (RANDOM.lognormal(8, 1, (300, 5)).astype(int)), by=";", head="a [mm];b [mm];c [1];d [2];e [3]\n"
    ),
    "dump of a DICOM header": lambda: (
        b"(0028,0010) US 512 # 2, 1 Rows\n(7fe0,0010) OW (not loaded) # 524288, 1 PixelData\n"
    ),
    "affine": lambda: saved(np.eye(4)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_text_with_a_picture_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(PICTURES[name]())
    with pytest.raises(
        RefusedError,
        match=r"the text has an image in it \(.+\), which is not protected; --copy-unprotected copies it as it is",
    ):
        other.identify(tmp_path / "a.txt")


@pytest.mark.parametrize("name", TEXTS)
def test_text_without_a_picture_is_copied(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXTS[name]())
    assert other.identify(tmp_path / "a.txt").kind == "text"
