# SPDX-License-Identifier: Apache-2.0
"""One contract that every format keeps for every kind of values it can hold."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_salm import io
from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation
from tests.io import builders
from tests.io.builders import (
    dicom_dataset,
    functional_groups,
    gzip_bytes,
    nifti_bytes,
    values_in,
    write_compressed,
    write_dicom,
)

DERIVATION = Derivation(software="monai_salm", version="1.2", description="at most 3 HU", uid_secret=b"secret")
SILENT = replace(DERIVATION, uid_secret=None, image_type="keep", provenance="none")


@dataclass(frozen=True)
class Case:
    """A file to write and the values in it.

    Args:
        values: as they were before they were written.
        write: writes them to a path.
        loss: how far they may be from those after a lossy compression.
        package: what writing or reading needs beside the requirements.
        changes: names of what changes in the header besides what always does.
    """

    values: NDArray[Any]
    write: Callable[[Path], Any]
    loss: int = 0
    package: str = ""
    changes: frozenset[str] = frozenset()


def _dicom(bits: int, stored: int, signed: bool, *, shape: tuple[int, int] = (6, 8), **how: Any) -> Case:
    photometric = how.pop("photometric", "MONOCHROME2")
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    values = values_in(low, high, shape, f"{'i' if signed else 'u'}{bits // 8}")

    def write(path: Path) -> None:
        dataset = dicom_dataset(
            bits_allocated=bits,
            bits_stored=stored,
            signed=signed,
            shape=shape,
            photometric=photometric,
        )
        write_dicom(path, dataset, values, **how)

    return Case(values, write)


def _color(
    kind: str, *, shape: tuple[int, int] = (6, 8), frames: int = 1, bits: int = 8, planar: int = 0, **how: Any
) -> Case:
    """Make native color; of YBR the values are luminance, beside which chroma is noise."""
    stack = (frames, *shape) if frames > 1 else shape
    high = (1 << bits) - 1
    chroma = np.random.default_rng(2).integers(0, high, (*stack, 2), endpoint=True)
    if kind == "RGB":
        values = values_in(0, high, (*stack, 3), f"u{bits // 8}")
        words = np.moveaxis(values, -1, -3) if planar else values
    else:
        values = values_in(0, high, stack, f"u{bits // 8}")
        words = np.concatenate([values[..., None], chroma], axis=-1)
    if kind == "YBR_FULL_422":
        words = np.concatenate([values.reshape(*stack[:-1], -1, 2), chroma[..., ::2, :]], axis=-1)
    elif planar:
        words = np.moveaxis(values if kind == "RGB" else words, -1, -3)

    def write(path: Path) -> None:
        size = {"bits_allocated": bits, "bits_stored": bits, "shape": shape, "frames": frames}
        write_dicom(
            path,
            dicom_dataset(photometric=kind, samples=3, extra={"PlanarConfiguration": planar}, **size),
            words,
            **how,
        )

    return Case(values, write)


def _stack(frames: int = 3, **how: Any) -> Case:
    """Make an enhanced image with a rescaling for each frame."""
    values = values_in(0, 4095, (frames, 6, 8) if frames > 1 else (6, 8), "u2")
    groups = functional_groups(slopes=tuple(range(1, frames + 1)))
    changes = {
        f"PerFrameFunctionalGroupsSequence[{frame}].CTImageFrameTypeSequence[0].FrameType" for frame in range(frames)
    }
    return Case(
        values,
        lambda path: write_dicom(path, dicom_dataset(frames=frames, extra=groups), values, **how),
        changes=frozenset(changes),
    )


def _mosaic() -> Case:
    """Make a Siemens mosaic of 2 x 2 tiles, of which three are slices."""
    values = values_in(0, 4095, (4, 3, 4), "u2")

    def write(path: Path) -> None:
        dataset = dicom_dataset(extra={"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]})
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 3)
        write_dicom(path, dataset, np.block([[values[0], values[1]], [values[2], values[3]]]))

    return Case(values, write)


LOSSY_CHANGES = frozenset(
    {
        "TransferSyntaxUID",
        "PixelData",
        "LossyImageCompression",
        "LossyImageCompressionRatio",
        "LossyImageCompressionMethod",
    }
)


def _compressed(
    syntax: str,
    bits: int,
    stored: int,
    *,
    signed: bool = False,
    frames: int = 1,
    color: str = "",
    loss: int = 0,
    **how: Any,
) -> Case:
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    shape = (*((frames,) if frames > 1 else ()), 32, 34, *((3,) if color else ()))
    values = values_in(low, high, shape, f"{'i' if signed else 'u'}{bits // 8}")

    def write(path: Path) -> None:
        dataset = dicom_dataset(
            bits_allocated=bits,
            bits_stored=stored,
            signed=signed,
            photometric=color or "MONOCHROME2",
            samples=3 if color else 1,
            frames=frames,
            shape=(32, 34),
        )
        write_compressed(path, dataset, values, syntax, **how)

    changes = (
        LOSSY_CHANGES | ({"PhotometricInterpretation"} if color not in ("", "RGB") else set()) if loss else frozenset()
    )
    return Case(
        values,
        write,
        loss,
        {builders.RLE: "", builders.JPEG_LS: "jpeg_ls", builders.JPEG_LS_NEAR: "jpeg_ls"}.get(syntax, "imagecodecs"),
        changes,
    )


def _nifti(dtype: str, *, shape: tuple[int, ...] = (4, 5, 3), packed: bool = False, **how: Any) -> Case:
    info: Any = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    values = np.random.default_rng(1).integers(max(info.min, -(2**40)), min(info.max, 2**40), shape).astype(dtype)
    values.ravel()[:2] = info.min, info.max
    content = nifti_bytes(values, **how)
    return Case(values, lambda path: path.write_bytes(gzip_bytes(content, name="a", mtime=99) if packed else content))


def _nrrd(*, packed: bool = False) -> Case:
    values = values_in(-(2**15), 2**15 - 1, (4, 5, 3), "i2")
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 3\nendian: little\n"
    voxels = values.tobytes(order="F")
    encoding, data = ("gzip", gzip_bytes(voxels, name="a", mtime=99)) if packed else ("raw", voxels)
    content = f"{head}encoding: {encoding}\n\n".encode() + data
    return Case(values, lambda path: path.write_bytes(content))


def _metaimage() -> Case:
    values = values_in(0, 255, (4, 5, 3), "u1")
    head = "ObjectType = Image\nNDims = 3\nDimSize = 4 5 3\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    return Case(values, lambda path: path.write_bytes(head.encode() + values.tobytes(order="F")))


def _raster(kind: str, high: int, shape: tuple[int, ...]) -> Case:
    values = values_in(0, high, shape, "u1" if high == 255 else "u2")

    def write(path: Path) -> None:
        from PIL import Image

        Image.fromarray(values).save(path, kind)

    return Case(values, write, package="PIL")


CASES = {
    "dicom u8": _dicom(8, 8, False),
    "dicom u8 odd": _dicom(8, 8, False, shape=(3, 5)),
    "dicom u8 odd big endian": _dicom(8, 8, False, shape=(3, 5), transfer_syntax=ExplicitVRBigEndian),
    "dicom s8": _dicom(8, 8, True),
    "dicom u10": _dicom(16, 10, False),
    "dicom u16": _dicom(16, 16, False, photometric="MONOCHROME1"),
    "dicom s16": _dicom(16, 16, True),
    "dicom s12 sign-extended": _dicom(16, 12, True),
    "dicom s12 zero-extended": _dicom(16, 12, True, sign_extended=False),
    "dicom s12 overlay": _dicom(16, 12, True, sign_extended=False, overlay_bit=13),
    "dicom u12 overlay": _dicom(16, 12, False, overlay_bit=12),
    "dicom u32": _dicom(32, 32, False),
    "dicom implicit": _dicom(16, 12, True, transfer_syntax=ImplicitVRLittleEndian),
    "dicom big endian": _dicom(16, 12, True, transfer_syntax=ExplicitVRBigEndian),
    "dicom deflated": _dicom(16, 12, False, transfer_syntax=DeflatedExplicitVRLittleEndian),
    "dicom trailing bytes": _dicom(16, 12, False, trailing=b"more"),
    "dicom stack": _stack(),
    "dicom stack implicit": _stack(transfer_syntax=ImplicitVRLittleEndian),
    "dicom stack big endian": _stack(transfer_syntax=ExplicitVRBigEndian),
    "dicom stack deflated": _stack(transfer_syntax=DeflatedExplicitVRLittleEndian),
    "dicom stack of one": _stack(1),
    "dicom mosaic": _mosaic(),
    "dicom RGB": _color("RGB"),
    "dicom RGB in OB": _color("RGB", vr="OB"),
    "dicom RGB odd": _color("RGB", shape=(3, 5)),
    "dicom RGB planar": _color("RGB", planar=1),
    "dicom RGB planar odd": _color("RGB", planar=1, shape=(3, 5)),
    "dicom RGB planar big endian": _color("RGB", planar=1, shape=(3, 5), transfer_syntax=ExplicitVRBigEndian),
    "dicom RGB big endian": _color("RGB", shape=(3, 5), transfer_syntax=ExplicitVRBigEndian),
    "dicom RGB big endian OB": _color("RGB", shape=(3, 5), transfer_syntax=ExplicitVRBigEndian, vr="OB"),
    "dicom RGB 16": _color("RGB", bits=16),
    "dicom RGB 16 planar big endian": _color("RGB", bits=16, planar=1, transfer_syntax=ExplicitVRBigEndian),
    "dicom RGB stack": _color("RGB", frames=3),
    "dicom RGB stack planar": _color("RGB", frames=3, planar=1, shape=(3, 5)),
    "dicom RGB implicit": _color("RGB", transfer_syntax=ImplicitVRLittleEndian, trailing=b"more"),
    "dicom YBR_FULL": _color("YBR_FULL"),
    "dicom YBR_FULL planar odd": _color("YBR_FULL", planar=1, shape=(3, 5)),
    "dicom YBR_FULL big endian": _color("YBR_FULL", shape=(3, 5), transfer_syntax=ExplicitVRBigEndian),
    "dicom YBR_FULL stack": _color("YBR_FULL", frames=3),
    "dicom YBR_FULL_422": _color("YBR_FULL_422"),
    "dicom YBR_FULL_422 odd": _color("YBR_FULL_422", shape=(3, 2)),
    "dicom YBR_FULL_422 big endian": _color("YBR_FULL_422", shape=(3, 2), transfer_syntax=ExplicitVRBigEndian),
    "dicom YBR_FULL_422 stack": _color("YBR_FULL_422", frames=3),
    **{
        f"dicom {name} {kind}": _compressed(syntax, **how)
        for name, syntax in {
            "RLE": builders.RLE,
            "JPEG lossless": builders.JPEG_LOSSLESS,
            "JPEG first order": builders.JPEG_FIRST_ORDER,
            "JPEG-LS": builders.JPEG_LS,
            "JPEG 2000": builders.J2K,
            "HTJ2K": builders.HTJ2K,
            "HTJ2K RPCL": builders.HTJ2K_RPCL,
        }.items()
        for kind, how in {
            "u8": {"bits": 8, "stored": 8},
            "u12": {"bits": 16, "stored": 12},
            "s12": {"bits": 16, "stored": 12, "signed": True},
            "s16": {"bits": 16, "stored": 16, "signed": True},
            "RGB": {"bits": 8, "stored": 8, "color": "RGB"},
            "stack": {"bits": 16, "stored": 12, "frames": 3},
        }.items()
    },
    "dicom JPEG 2000 YBR_RCT": _compressed(builders.J2K, 8, 8, color="YBR_RCT"),
    "dicom RLE RGB stack": _compressed(builders.RLE, 8, 8, color="RGB", frames=3),
    "dicom JPEG lossless fragments": _compressed(builders.JPEG_LOSSLESS, 16, 12, frames=3, fragments=3),
    "dicom JPEG-LS fragments without table": _compressed(builders.JPEG_LS, 16, 12, frames=3, fragments=2, table="none"),
    "dicom JPEG baseline": _compressed(builders.JPEG_BASELINE, 8, 8, loss=4),
    "dicom JPEG baseline RGB": _compressed(builders.JPEG_BASELINE, 8, 8, color="RGB", loss=4),
    "dicom JPEG baseline YBR": _compressed(builders.JPEG_BASELINE, 8, 8, color="YBR_FULL_422", loss=8),
    "dicom JPEG baseline stack": _compressed(builders.JPEG_BASELINE, 8, 8, color="YBR_FULL", frames=3, loss=4),
    "dicom JPEG extended": _compressed(builders.JPEG_EXTENDED, 16, 12, loss=16),
    "dicom JPEG-LS near": _compressed(builders.JPEG_LS_NEAR, 16, 12, loss=2),
    "dicom JPEG 2000 lossy": _compressed(builders.J2K_LOSSY, 16, 12, signed=True, loss=64),
    "dicom JPEG 2000 lossy YBR_ICT": _compressed(builders.J2K_LOSSY, 8, 8, color="YBR_ICT", loss=16),
    "dicom HTJ2K lossy": _compressed(builders.HTJ2K_LOSSY, 8, 8, color="YBR_ICT", loss=8),
    "nifti u1": _nifti("u1"),
    "nifti i1": _nifti("i1"),
    "nifti u2": _nifti("u2"),
    "nifti i2": _nifti("i2", order=">", slope=0.25, intercept=-1024),
    "nifti u4": _nifti("u4", version=2),
    "nifti i4": _nifti("i4"),
    "nifti u8": _nifti("u8", version=2, order=">"),
    "nifti i8": _nifti("i8"),
    "nifti f4": _nifti("f4", packed=True),
    "nifti f8": _nifti("f8", order=">", packed=True),
    "nifti 2D": _nifti("i2", shape=(4, 5)),
    "nifti extension and tail": _nifti("i2", extension=b"\x10\0\0\0\4\0\0\0 comment", tail=b"tail"),
    "nrrd": _nrrd(),
    "nrrd packed": _nrrd(packed=True),
    "metaimage": _metaimage(),
    "png": _raster("png", 255, (10, 7)),
    "png 16": _raster("png", 65535, (10, 7)),
    "png color": _raster("png", 255, (10, 7, 3)),
    "tiff": _raster("tiff", 255, (10, 7)),
    "tiff color": _raster("tiff", 255, (10, 7, 3)),
}


MANY = re.compile("RLE|JPEG|HTJ2K|planar|YBR|dicom .*(implicit|endian|deflated|stack)")
"""Ways to store the same values, which the fast subset leaves out."""


@pytest.fixture(
    params=[
        pytest.param(case, id=name, marks=[pytest.mark.slow] * bool(MANY.search(name))) for name, case in CASES.items()
    ]
)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def path(case: Case, tmp_path: Path) -> Path:
    if case.package:
        pytest.importorskip(case.package, reason="an extra is not installed")
    case.write(tmp_path / "source")
    return tmp_path / "source"


def _changed(values: NDArray[Any]) -> NDArray[Any]:
    """Move every second value by one step away from the end of the range."""
    changed = values.copy()
    flat = changed.reshape(-1)
    middle = flat.astype(np.float64).mean()
    up = flat[::2] < middle
    if flat.dtype.kind == "f":
        flat[::2] = np.nextafter(flat[::2], np.where(up, middle, -middle).astype(flat.dtype))
    else:
        one = flat.dtype.type(1)
        flat[::2] = np.where(up, flat[::2] + one, flat[::2] - one)
    return changed


def test_values_are_read_as_stored(case: Case, path: Path) -> None:
    source = io.read_source(path)
    assert source.stored.dtype == case.values.dtype
    assert source.stored.dtype.isnative
    assert not source.stored.flags.writeable
    if case.loss:
        np.testing.assert_allclose(source.stored.astype(np.float64), case.values, rtol=0, atol=case.loss)
    else:
        np.testing.assert_array_equal(source.stored, case.values)
    assert source.range_stored == (float(case.values.min()), float(case.values.max()))


def test_header_needs_no_pixels(path: Path) -> None:
    header = io.identify(path, "picture")
    assert isinstance(header, io.ImageHeader)
    assert header == io.read_source(path).header
    assert len(header.spacing) == len(header.shape)


def test_untouched_values_change_nothing_else(case: Case, path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    io.write_like(source, source.stored, tmp_path / "out", replace(DERIVATION, uid_secret=None))
    np.testing.assert_array_equal(io.read_source(tmp_path / "out").stored, source.stored)
    changes = io.compare_headers(path, tmp_path / "out")
    assert [change for change in changes if not change.allowed] == []
    if source.header.format != "dicom":  # they have no identity to renew
        assert changes == []
        assert (tmp_path / "out").read_bytes() == path.read_bytes()
    else:
        encoded = {
            "FileMetaInformationGroupLength",
            "PixelData",
        }  # differ if an encoder writes other bytes for the same values
        assert {change.name for change in changes} - encoded == case.changes - encoded | {
            "ImplementationClassUID",
            "ImplementationVersionName",
            "ImageType",
            "DerivationDescription",
            "DerivationCodeSequence[0]",
            "ContributingEquipmentSequence[0]",
        }


def test_saying_and_changing_nothing_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    io.write_like(source, source.stored, tmp_path / "out", SILENT)
    assert (tmp_path / "out").read_bytes() == path.read_bytes()
    assert io.compare_headers(path, tmp_path / "out") == []


def test_changed_values_are_read_back_exactly(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    source = io.read_source(path)
    stored = _changed(source.stored)
    assert (stored != source.stored).any()
    io.write_like(source, stored, tmp_path / "out", DERIVATION)
    again = io.read_source(tmp_path / "out")
    np.testing.assert_array_equal(again.stored, stored)
    for name in ("slope", "intercept", "frame_rescale", "range_stored", "padding_stored"):
        assert getattr(again, name) == getattr(source, name)
    for name in ("shape", "trailing", "stacked", "dtype", "spacing", "regions"):
        assert getattr(again.header, name) == getattr(source.header, name)
    assert [change for change in io.compare_headers(path, tmp_path / "out") if not change.allowed] == []
    assert path.read_bytes() == before


def test_same_call_gives_same_bytes(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    for name in ("one", "two"):
        io.write_like(source, _changed(source.stored), tmp_path / name, DERIVATION)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_changing_back_restores_the_voxels(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    io.write_like(source, _changed(source.stored), tmp_path / "there", DERIVATION)
    io.write_like(io.read_source(tmp_path / "there"), source.stored, tmp_path / "back", DERIVATION)
    np.testing.assert_array_equal(io.read_source(tmp_path / "back").stored, source.stored)


def test_silently_changing_back_restores_the_file(request: pytest.FixtureRequest, path: Path, tmp_path: Path) -> None:
    """Nothing but values is written where nothing is to be said, so that the way back leads to the same file."""
    source = io.read_source(path)
    io.write_like(source, _changed(source.stored), tmp_path / "there", SILENT)
    changed = io.read_source(tmp_path / "there")
    assert (changed.stored != source.stored).any()
    io.write_like(changed, source.stored, tmp_path / "back", SILENT)
    if re.search(
        "deflated|RLE|JPEG|HTJ2K|nifti f|png", request.node.name
    ):  # packed, by another encoder than the source was
        np.testing.assert_array_equal(io.read_source(tmp_path / "back").stored, source.stored)
    else:
        assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_file_comes_back_from_its_casing_and_values(request: pytest.FixtureRequest, path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    io.write_like(source, _changed(source.stored), tmp_path / "there", DERIVATION)
    casing = io.casing(source)
    if re.search("deflated|RLE|JPEG|HTJ2K|png|tiff", request.node.name):
        assert casing is None  # packed by an encoder whose settings are not known
        return
    if casing is None:
        assert "big endian" in request.node.name  # cells of eight bits in words
        return
    casing = replace(casing, coding=json.loads(json.dumps(casing.coding)))
    for template in (io.read_source(tmp_path / "there"), io.read_back(source, tmp_path / "there")):
        assert b"".join(io.cased(casing, template, source.stored)) == path.read_bytes()
        assert b"".join(io.cased(casing, template, template.stored)) != path.read_bytes()
        with pytest.raises(RefusedError, match=r"the file holds|not stored as"):
            b"".join(io.cased(casing, template, source.stored[:-1]))


def test_other_shape_and_type_are_refused(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    with pytest.raises(RefusedError, match="the new values are"):
        io.write_like(source, source.stored[:-1], tmp_path / "out", DERIVATION)
    with pytest.raises(RefusedError, match="the new values are"):
        io.write_like(source, np.zeros(source.stored.shape, np.complex64), tmp_path / "out", DERIVATION)
    assert not (tmp_path / "out").exists()


def test_own_file_is_no_target(path: Path) -> None:
    source = io.read_source(path)
    with pytest.raises(RefusedError, match="own file"):
        io.write_like(source, source.stored, path, DERIVATION)


def test_changed_source_is_refused(path: Path, tmp_path: Path) -> None:
    source = io.read_source(path)
    io.write_like(source, _changed(source.stored), tmp_path / "out", DERIVATION)
    path.write_bytes((tmp_path / "out").read_bytes())
    with pytest.raises(RefusedError, match="changed since it was read"):
        io.write_like(source, source.stored, tmp_path / "out", DERIVATION)


def test_digests_are_those_of_the_files(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is kept of a file that was read gives the same file as reading it again."""
    target = tmp_path / "out"
    source = io.read_source(path)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    values = _changed(source.stored)
    io.write_like(source, values, target, DERIVATION)
    written = target.read_bytes()
    monkeypatch.setattr("monai_salm.io.origins._SETTLED_NS", -(1 << 62))
    source = io.read_source(path)
    io.write_like(source, values, target, DERIVATION)
    assert target.read_bytes() == written
    found = io.read_back(source, target)
    assert found.sha256 == hashlib.sha256(written).hexdigest()
    assert io.compare_sources(source, found) == io.compare_headers(path, target)
    assert io.kept_bytes(source) in (path.read_bytes(), None)
    assert io.kept_bytes(replace(source, stored=source.stored.copy())) is None, "of another image than was read"
    assert replace(source, origin=None).sha256 == ""


def test_truncated_files_are_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    for size in {0, 1, 100, 200, 400, 700, *range(133, len(content) - 12, 97)}:
        cut = tmp_path / "cut"
        cut.write_bytes(content[: min(size, len(content) - 12)])
        with pytest.raises(RefusedError, match=r"."):
            io.read_source(cut)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_values_out_of_bits_stored_are_refused(syntax: str, tmp_path: Path) -> None:
    case = _dicom(16, 12, False, transfer_syntax=syntax)
    case.write(tmp_path / "source")
    source = io.read_source(tmp_path / "source")
    stored = source.stored.copy()
    stored[stored == 0] = 1
    stored[5, 7] = 4096
    with pytest.raises(RefusedError, match="are 1 to 4096, the file holds 0 to 4095"):
        io.write_like(source, stored, tmp_path / "out", DERIVATION)


def test_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("not an image")
    with pytest.raises(RefusedError, match=r"not an image \(text\)"):
        io.read_header(tmp_path / "a.dcm")
    with pytest.raises(RefusedError, match=r"not an image \(text\)"):
        io.read_source(tmp_path / "a.dcm")
