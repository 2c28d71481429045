# SPDX-License-Identifier: Apache-2.0
"""Residuals give back what was changed, to the key that they were written with, and tell nobody else anything."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from monai_salm.errors import RefusedError
from monai_salm.residuals import Residual, ResidualKey, ResidualStore, packed_changes, with_changes_undone
from monai_salm.residuals.sealing import padded_size

KEY = ResidualKey(bytes(range(32)))
SIZES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=9)
TYPES = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])


def _residual(**changes: Any) -> Residual:
    found = Residual(
        way="values", path="a/b\udcff.dcm", target="a/c.dcm", found_by="1.2.3", sha256="0" * 64,
        coding={"rows": 3, "tiles": [1, 1]}, before=b"before\nand", after=b"after", content=b"content",
    )  # fmt: skip
    return replace(found, **changes)


@given(st.data(), TYPES)
def test_changes_are_undone_to_the_last_bit(data: st.DataObject, kind: str) -> None:
    shape = data.draw(SIZES)
    original, protected = (data.draw(arrays.arrays(kind, shape)) for _ in range(2))
    back = with_changes_undone(protected, packed_changes(original, protected))
    assert back.dtype == original.dtype
    assert back.tobytes() == original.tobytes()  # also where a NaN is not equal to itself


@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_layout_in_memory_does_not_matter(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_salm.residuals.changes.SLAB", 100)
    generator = np.random.default_rng(0)
    original = generator.integers(-2000, 2000, (7, 30, 11)).astype("i2")
    protected = original + generator.integers(-300, 300, original.shape).astype("i2")
    given_as = {"C": original, "F": np.asfortranarray(original), "strided": np.repeat(original, 2, 1)[:, ::2]}[layout]
    packed = packed_changes(given_as, protected)
    for values in (protected, np.asfortranarray(protected)):
        np.testing.assert_array_equal(with_changes_undone(values, packed), original)


@pytest.mark.parametrize("kinds", [1, 2, 3, 4, 5, 16, 17, 200])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_changes_of_few_values_are_undone(kinds: int, size: int) -> None:
    generator = np.random.default_rng(kinds)
    original = generator.integers(0, 3000, size).astype("u2")
    protected = original + generator.integers(-kinds // 2, kinds // 2 + 1, size).astype("u2")
    packed = packed_changes(original, protected)
    np.testing.assert_array_equal(with_changes_undone(protected, packed), original)
    if kinds == 2 and size == 1000:
        assert len(packed) < 330, "one bit for where, and two for which"


def test_little_is_kept_of_few_changes() -> None:
    original = np.zeros((512, 512), "i2")
    protected = original.copy()
    protected[100:200, 100:200] = 5
    assert len(packed_changes(original, protected)) < 400


@pytest.mark.parametrize("spoiled", ["cut", "longer", "nothing", "noise", "of another shape"])
def test_damaged_changes_are_refused(spoiled: str) -> None:
    original, protected = np.arange(100, dtype="u2"), np.arange(100, dtype="u2")[::-1].copy()
    packed = packed_changes(original, protected)
    packed = {
        "cut": packed[:-5], "longer": packed + b"x", "nothing": b"", "noise": os.urandom(100),
        "of another shape": packed_changes(original[:50], protected[:50]),
    }[spoiled]  # fmt: skip
    with pytest.raises(RefusedError, match="not of an image of this shape"):
        with_changes_undone(protected, packed)


def test_content_is_read_as_it_was_written() -> None:
    assert Residual.from_bytes(_residual().to_bytes()) == _residual()
    for data in (b"", _residual().to_bytes()[:20], zlib.compress(b"{}"), b"\3\0\0\0abc"):
        with pytest.raises(RefusedError, match=r"monai_salm\.residual/1"):
            Residual.from_bytes(data)


def test_store_gives_back_by_uid_digest_and_path(tmp_path: Path) -> None:
    store = ResidualStore(tmp_path / "store", KEY)
    places = [
        store.write(_residual()),
        store.write(_residual(target="copy.dcm")),
        store.write(_residual(found_by="a.nii")),
    ]
    assert sorted(store.places()) == sorted(places)
    assert sorted(store.found_by("1.2.3")) == sorted(places[:2])
    assert store.found_by("a.nii") == [places[2]]
    assert store.found_by("1.2") == store.of_target("b.dcm") == []
    assert sorted(store.of_target("a/c.dcm")) == sorted([places[0], places[2]])
    assert [store.is_of(place, "a/c.dcm") for place in places] == [True, False, True]
    assert store.read(places[2]) == _residual(found_by="a.nii")
    assert store.write(_residual()) == places[0]
    assert not list(tmp_path.rglob("*.tmp"))
    assert places[0].stat().st_mode & 0o777 == 0o600


def test_what_is_written_later_is_found_too(tmp_path: Path) -> None:
    """A process of a cluster may have looked before."""
    store = ResidualStore(tmp_path, KEY)
    store.write(_residual())
    assert store.of_target("later.dcm") == []
    place = store.write(_residual(target="later.dcm", found_by="9.9.9"))
    assert store.of_target("later.dcm") == [place]
    place.unlink()
    assert store.of_target("later.dcm") == []


def test_same_residual_is_the_same_bytes(tmp_path: Path) -> None:
    contents = {ResidualStore(tmp_path / name, KEY).write(_residual()).read_bytes() for name in "ab"}
    assert len(contents) == 1


def test_nothing_tampered_is_accepted(tmp_path: Path) -> None:
    store = ResidualStore(tmp_path, KEY)
    place = store.write(_residual(content=os.urandom(300)))
    other = store.write(_residual(found_by="4.5.6", content=os.urandom(300)))
    whole = place.read_bytes()
    generator = np.random.default_rng(0)
    spoiled = [other.read_bytes(), b"", whole + b"\0", ResidualKey(b"another key" * 3).seal(place.stem, b"content")]
    spoiled += [whole[:size] for size in range(0, len(whole), 7)]
    for bit in generator.integers(0, 8 * len(whole), 300):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        spoiled.append(bytes(flipped))
    for content in spoiled:
        place.write_bytes(content)
        with pytest.raises(RefusedError, match="damaged, another file's, or of another key"):
            store.read(place)
    place.write_bytes(whole)
    store.read(place)
    with pytest.raises(RefusedError, match="another key"):
        ResidualStore(tmp_path, ResidualKey(b"not the key at all")).read(place)


def test_sizes_are_few_and_names_say_nothing(tmp_path: Path) -> None:
    sizes = {padded_size(size) for size in range(1, 1 << 16)}
    assert len(sizes) < 40
    assert all(size <= padded_size(size) <= max(512, 1.25 * size) for size in range(1, 1 << 16, 13))
    store = ResidualStore(tmp_path, KEY)
    places = [store.write(_residual(content=bytes(size), found_by=str(size))) for size in (1, 9)]
    found = {place.stat().st_size for place in places}
    assert len(found) == 1
    content = b"".join(place.read_bytes() + place.name.encode() for place in store.places())
    for word in (b"1.2.3", b"before", b"b\xff.dcm", b"c.dcm", b"0" * 20):
        assert word not in content
    assert KEY.mark("found by", "x") != KEY.mark("target", "x") != ResidualKey(b"1" * 32).mark("target", "x")


def test_leftovers_are_swept(tmp_path: Path) -> None:
    store = ResidualStore(tmp_path, KEY)
    place = store.write(_residual())
    left = place.with_name(".salm-0123456789ab-01234567.tmp")
    left.write_bytes(b"x")
    store.sweep()
    assert not left.exists()
    assert place.exists()


def test_changes_of_several_bytes_are_packed_by_what_repeats() -> None:
    """Of floats a change has several bytes, which others repeat: to look for runs of one byte alone finds none."""
    draw = np.random.default_rng(0)
    original = draw.integers(100, 900, (64, 64)).astype(np.float32)
    protected = original + draw.choice(np.array([-3, 0, 3], np.float32), size=original.shape)
    packed = packed_changes(original, protected)
    assert np.array_equal(with_changes_undone(protected, packed), original)
    assert len(packed) < 3700
