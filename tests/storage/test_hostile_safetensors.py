"""Files that lie: each is a clear InvalidCheckpoint, and nothing is read beyond the header."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.checkpoints.safetensors_header import MOST_TENSORS, MOST_VALUES, read_header
from zoo.errors import InvalidCheckpoint


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refusal(path: Any) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        read_header(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    return str(caught.value.problem)


def test_a_good_file_is_read(write_raw):
    path = write_raw({"__metadata__": {"a": "b"}, "w": entry()}, b"\0" * 4)

    header = read_header(path)

    assert {"a": "b"} == header.metadata
    assert [("w", "F32", (1,))] == [(t.name, t.dtype, t.shape) for t in header.tensors]
    assert path.stat().st_size - 4 == header.tensors[0].offset


def test_an_empty_file_is_refused(write_raw, tmp_path):
    path = tmp_path / "empty.safetensors"
    path.touch()

    assert "0 bytes" in refusal(path)


def test_a_header_length_of_one_terabyte_is_refused(write_raw):
    assert "most allowed" in refusal(write_raw(b"{}", length=10**12))


def test_the_largest_header_length_is_refused(write_raw):
    assert "most allowed" in refusal(write_raw(b"{}", length=2**64 - 1))


def test_a_header_length_beyond_the_file_is_refused(write_raw):
    assert "has only" in refusal(write_raw(b"{}", length=11))


def many(count: int) -> bytes:
    """A header of so many tensors without elements: 50 bytes each, and kilobytes once parsed."""
    empty = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return ("{" + ",".join(f'"{i}":{empty}' for i in range(count)) + "}").encode()


def test_more_tensors_than_any_model_has_are_refused_before_they_are_parsed(write_raw, monkeypatch):
    path = write_raw(many(MOST_TENSORS + 2))
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("parsed"))

    assert f"over {MOST_TENSORS:,} tensors" in refusal(path)


def test_more_values_than_any_model_has_are_refused_before_they_are_parsed(write_raw, monkeypatch):
    header = b'{"w":[' + b"0," * MOST_VALUES + b"0,0]}"
    path = write_raw(header)
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("parsed"))

    assert f"over {MOST_VALUES:,} values" in refusal(path)


def test_a_duplicate_tensor_is_refused(write_raw):
    text = json.dumps(entry())
    path = write_raw(f'{{"w": {text}, "w": {text}}}'.encode(), b"\0" * 4)

    assert "'w' appears twice" in refusal(path)


def test_a_duplicate_key_inside_a_tensor_is_refused(write_raw):
    path = write_raw(
        b'{"w":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', b"0000"
    )

    assert "'dtype' appears twice" in refusal(path)


def test_overlapping_tensors_are_refused(write_raw):
    path = write_raw({"a": entry(), "b": entry(offsets=(2, 6))}, b"\0" * 6)

    assert "overlap" in refusal(path)


def test_two_tensors_over_the_same_bytes_are_refused(write_raw):
    assert "overlap" in refusal(write_raw({"a": entry(), "b": entry()}, b"\0" * 4))


def test_a_hole_between_tensors_is_refused(write_raw):
    path = write_raw({"a": entry(), "b": entry(offsets=(8, 12))}, b"\0" * 12)

    assert "hole" in refusal(path)


def test_a_hole_at_the_start_is_refused(write_raw):
    assert "hole" in refusal(write_raw({"a": entry(offsets=(4, 8))}, b"\0" * 8))


def test_bytes_after_the_last_tensor_are_refused(write_raw):
    assert "1 bytes after" in refusal(write_raw({"a": entry()}, b"\0" * 5))


def test_a_file_cut_short_is_refused(write_raw):
    assert "cut short" in refusal(write_raw({"a": entry()}, b"\0" * 3))


@pytest.mark.parametrize(
    "shape", [[-1], [-1, -1], [1.0], [True], ["1"], None, 1, {}, [2**63], [1] * 65, [[1]]]
)
def test_an_impossible_shape_is_refused(write_raw, shape):
    assert "no possible shape" in refusal(write_raw({"w": entry(shape=shape)}, b"\0" * 4))


@pytest.mark.parametrize(
    "offsets", [[4, 0], [-4, 0], [0], [0, 4, 8], [0.0, 4.0], "0,4", [0, 2**64]]
)
def test_impossible_offsets_are_refused(write_raw, offsets):
    assert "data_offsets" in refusal(write_raw({"w": entry(offsets=offsets)}, b"\0" * 4))


@pytest.mark.parametrize("dtype", ["F31", "f32", "", None, 32, ["F32"]])
def test_an_unknown_dtype_is_refused(write_raw, dtype):
    assert "unknown dtype" in refusal(write_raw({"w": entry(dtype=dtype)}, b"\0" * 4))


def test_a_dtype_that_does_not_fit_the_offsets_is_refused(write_raw):
    assert "8 by its dtype F64" in refusal(write_raw({"w": entry(dtype="F64")}, b"\0" * 4))


def test_a_shape_whose_product_overflows_64_bits_is_refused(write_raw):
    path = write_raw({"w": entry(shape=[2**62, 2**62], offsets=[0, 0])})

    assert "by its dtype" in refusal(path)


def test_half_a_byte_is_refused(write_raw):
    path = write_raw({"w": entry(dtype="F4", shape=[3], offsets=[0, 2])}, b"\0\0")

    assert "whole bytes" in refusal(path)


def test_a_missing_field_is_refused(write_raw):
    assert "not described" in refusal(write_raw({"w": {"dtype": "F32", "shape": [1]}}, b"\0" * 4))


def test_an_unknown_field_is_refused(write_raw):
    assert "not described" in refusal(write_raw({"w": {**entry(), "strides": [1]}}, b"\0" * 4))


@pytest.mark.parametrize("metadata", [[], "x", {"a": 1}, {"a": {"b": "c"}}, None])
def test_metadata_that_is_not_text_is_refused(write_raw, metadata):
    assert "__metadata__" in refusal(write_raw({"__metadata__": metadata}))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'"w"', b"null", b" {}", b"{", b'{"w": NaN}', b"\xff{}"]
)
def test_a_header_that_is_no_json_object_is_refused(write_raw, text):
    assert refusal(write_raw(text))


def test_bad_utf8_is_refused(write_raw):
    assert "UTF-8" in refusal(write_raw(b'{"\xff": 1}'))


def test_deeply_nested_json_is_refused(write_raw):
    deep = b'{"a":' * 200_000 + b"1" + b"}" * 200_000

    assert "nested" in refusal(write_raw(deep))


def test_a_number_of_a_million_digits_is_refused(write_raw):
    text = b'{"w":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b'],"data_offsets":[0,4]}}'

    assert "1000000 digits" in refusal(write_raw(text, b"\0" * 4))


@pytest.mark.parametrize("name", ["a\x00b", "\x1b[2J", "a\nb", "\ud800"])
def test_a_tensor_name_that_could_harm_a_terminal_or_database_is_refused(write_raw, name):
    assert "name it cannot have" in refusal(write_raw({name: entry()}, b"\0" * 4))


def test_a_directory_is_refused(tmp_path):
    assert refusal(tmp_path)


def test_a_device_is_refused_and_does_not_block(tmp_path):
    import os

    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)

    assert refusal(pipe)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), length=st.integers(0, 260))
def test_no_bytes_whatever_raise_anything_else(tmp_path_factory, data, length):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + data)

    try:
        read_header(path)
    except InvalidCheckpoint as error:
        assert error.path == path


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "w", "__metadata__"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(content=_json)
def test_no_json_whatever_raises_anything_else(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz2.safetensors"
    text = json.dumps(content).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)

    try:
        read_header(path)
    except InvalidCheckpoint as error:
        assert error.path == path
