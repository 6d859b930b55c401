"""Our own headers: byte-stable, aligned, and read alike by us and by the reference library."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from zoo.checkpoint import TensorInfo
from zoo.checkpoints.safetensors_header import index, layout, read_header, shards
from zoo.dtypes import DTYPES
from zoo.errors import InvalidCheckpoint

_tensors = st.dictionaries(
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
        lambda n: n != "__metadata__"
    ),
    st.tuples(
        st.sampled_from(sorted(d for d, t in DTYPES.items() if t.bits % 8 == 0)),
        st.lists(st.integers(0, 5), max_size=3),
    ),
    max_size=8,
).map(lambda d: [TensorInfo(n, dtype, tuple(shape)) for n, (dtype, shape) in d.items()])


@settings(max_examples=150, deadline=None)
@given(tensors=_tensors, data=st.data())
def test_what_we_lay_out_reads_back_whatever_the_order(tmp_path_factory, tensors, data):
    path = tmp_path_factory.getbasetemp() / "written.safetensors"
    laid = layout(tensors)
    path.write_bytes(laid.header + bytes(laid.size - len(laid.header)))

    header = read_header(path)

    assert laid.tensors == header.tensors
    assert laid.header == header.raw
    assert laid == layout(data.draw(st.permutations(tensors)))
    for t in header.tensors:
        assert 0 == t.offset % max(1, DTYPES[t.dtype].bits // 8)


@settings(max_examples=50, deadline=None)
@given(tensors=_tensors)
def test_the_reference_library_reads_what_we_lay_out(tmp_path_factory, tensors):
    path = tmp_path_factory.getbasetemp() / "reference.safetensors"
    laid = layout(tensors)
    path.write_bytes(laid.header + bytes(laid.size - len(laid.header)))

    with safe_open(path, framework="pt") as file:
        found = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
        assert {"format": "pt"} == file.metadata()
    assert {t.name: t.shape for t in tensors} == found


def test_the_bytes_of_a_header_never_change():
    laid = layout([TensorInfo("b", "F16", (2,)), TensorInfo("a", "F32", ())], {"z": "1", "a": "2"})

    text = (
        b'{"__metadata__":{"a":"2","z":"1"},'
        b'"a":{"data_offsets":[0,4],"dtype":"F32","shape":[]},'
        b'"b":{"data_offsets":[4,8],"dtype":"F16","shape":[2]}}'
    )
    text += b" " * (-len(text) % 8)
    assert len(text).to_bytes(8, "little") + text == laid.header


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(InvalidCheckpoint):
        layout([TensorInfo("a", "F32", (1,)), TensorInfo("a", "F32", (2,))])


def test_a_tensor_named_like_the_metadata_is_refused():
    with pytest.raises(InvalidCheckpoint):
        layout([TensorInfo("__metadata__", "F32", (1,))])


def test_a_small_model_is_one_file():
    assert ["model.safetensors"] == list(shards([TensorInfo("a", "F32", (1,))]))


def test_shards_are_filled_in_order_of_names_and_a_giant_stands_alone():
    sizes = {"d": 1, "a": 1, "b": 1, "c": 9}

    dealt = shards([TensorInfo(n, "U8", (s,)) for n, s in sizes.items()], limit=2)

    assert {
        "model-00001-of-00003.safetensors": ["a", "b"],
        "model-00002-of-00003.safetensors": ["c"],
        "model-00003-of-00003.safetensors": ["d"],
    } == {file: [t.name for t in group] for file, group in dealt.items()}
    assert all(t.file == file for file, group in dealt.items() for t in group)


def test_the_index_says_where_each_tensor_is():
    dealt = shards([TensorInfo(n, "U8", (2,)) for n in "ba"], limit=2)

    assert {
        "metadata": {"total_size": 4},
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        },
    } == json.loads(index(dealt))
