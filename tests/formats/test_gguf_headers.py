"""Headers of GGUF files that nobody vouches for."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo import Registry
from zoo.errors import InvalidCheckpoint, NotFound
from zoo.gguf.header import LONGEST_HEADER, read_gguf_header
from zoo.gguf.opening import open_gguf

HUGE = 2**63


def text(content: str | bytes, length: int | None = None) -> bytes:
    raw = content if isinstance(content, bytes) else content.encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str = "w", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *reversed(shape))
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def file(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: tuple[bytes, ...] = (),
    pairs: tuple[bytes, ...] = (),
    counts: tuple[int, int] | None = None,
    data: bytes = bytes(64),
) -> bytes:
    claimed = counts or (len(tensors), len(pairs))
    head = magic + struct.pack("<IQQ", version, *claimed) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


ARRAY, STRING, U32 = 9, 8, 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its header goes on"),
        (b"GGML" + bytes(60), "does not begin with `GGUF`"),
        (file(version=1), "version 1"),
        (file(version=3 << 24), "big-endian"),
        (file(counts=(HUGE, 0)), "tensors; 200,000 is the most"),
        (file(counts=(0, HUGE)), "pairs; 10,000 is the most"),
        (file(pairs=(text("k", HUGE),)), "the most allowed"),
        (file(pairs=(pair("k", STRING, text("v", HUGE)),)), "the most allowed"),
        (file(pairs=(pair("k", STRING, text("v", 60 << 20)),)), "its header goes on"),
        (file(pairs=(pair("k", STRING, text(b"\xff\xfe")),)), "not UTF-8"),
        (file(pairs=(pair("k", ARRAY, struct.pack("<IQ", U32, HUGE)),)), "items; 4,000,000"),
        (file(pairs=(pair("k", ARRAY, struct.pack("<IQ", U32, 3_000_000)),)), "its header goes on"),
        (file(pairs=(pair("k", ARRAY, struct.pack("<IQ", 8, 3_000_000)),)), "its header goes on"),
        (file(pairs=(pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1)),)), "arrays cannot hold"),
        (file(pairs=(pair("k", 99, b""),)), "does not exist"),
        (file(pairs=(pair("k", U32, bytes(4)),) * 2), "appears twice"),
        (file(pairs=(pair("general.alignment", U32, bytes(4)),)), "alignment cannot be 0"),
        (file(pairs=(pair("general.alignment", U32, struct.pack("<I", 24)),)), "alignment"),
        (file(tensors=(tensor("a\nb"),)), "a name it cannot have"),
        (file(tensors=(tensor(shape=(1,) * 5),)), "5 axes"),
        (file(tensors=(tensor(shape=(HUGE,)),)), "no possible shape"),
        (file(tensors=(tensor(shape=(2**40, 2**40)),)), "no possible shape"),
        (file(tensors=(tensor(kind=77),)), "of type 77"),
        (file(tensors=(tensor(kind=8),)), "blocks of 32"),
        (file(tensors=(tensor(offset=32),)), "leaves a hole"),
        (file(tensors=(tensor("a"), tensor("b"))), "overlaps"),
        (file(tensors=(tensor("a"), tensor("a", offset=32))), "there twice"),
        (file(tensors=(tensor(shape=(1000,)),)), "cut short"),
    ],
)
def test_a_hostile_header_is_a_clear_error(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)

    with pytest.raises(InvalidCheckpoint, match=message):
        read_gguf_header(path)


def test_a_header_that_goes_on_for_ever_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(file(counts=(0, 10_000)))
    with path.open("r+b") as out:
        out.truncate(1 << 40)  # sparse: keys of no length and values of zeros, for a terabyte

    with pytest.raises(InvalidCheckpoint):
        read_gguf_header(path)
    assert LONGEST_HEADER < 1 << 40


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_bytes_does_anything_but_read_or_refuse(
    data: st.DataObject, tmp_path: Path
) -> None:
    content = bytearray(
        file(
            pairs=(
                pair("general.architecture", STRING, text("llama")),
                pair("llama.attention.head_count", U32, struct.pack("<I", 2)),
                pair("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", 8, 1) + text("a")),
            ),
            tensors=(
                tensor("token_embd.weight", (2, 4)),
                tensor("blk.0.attn_q.weight", (4, 4), 1, 32),
            ),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    try:
        with open_gguf(path) as opened:
            for info in opened.tensors.values():
                opened.read_into(info.name, 0, memoryview(bytearray(info.nbytes)))
    except InvalidCheckpoint:
        pass


def _written(path: Path, **options: Any) -> None:
    writer = gguf.GGUFWriter(path, options.get("architecture", "somebody"))
    for key, value in options.get("strings", {}).items():
        writer.add_string(key, value)
    for name, (values, kind) in options["tensors"].items():
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


Q = gguf.GGMLQuantizationType
ROWS = np.linspace(-2, 2, 256, dtype=np.float32).reshape(4, 64)


def test_the_library_and_we_read_the_same_header(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tensors = {
        "a": (ROWS, Q.F32),
        "b.weight": (ROWS, Q.F16),
        "c": (ROWS, Q.BF16),
        "d": (ROWS, Q.Q8_0),
    }
    _written(path, tensors=tensors, strings={"some.text": "ünïcode"})

    ours, theirs = read_gguf_header(path), gguf.GGUFReader(path)

    assert {t.name: t.data_offset for t in theirs.tensors} == {
        t.name: t.offset for t in ours.tensors
    }
    assert [t.tensor_type.name for t in theirs.tensors] == [t.type for t in ours.tensors]
    assert {(4, 64)} == {t.shape for t in ours.tensors}
    assert "ünïcode" == ours.pairs["some.text"]


def test_fewer_bits_are_refused_with_the_tensors_and_the_remedy(
    registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "model-Q4_0.gguf"
    _written(path, tensors={"blk.0.ffn_up.weight": (ROWS, Q.Q4_0), "a": (ROWS, Q.F16)})

    with pytest.raises(InvalidCheckpoint) as caught:
        registry.register(path, name="model")

    assert {"Q4_0": 1} == caught.value.types
    assert "`blk.0.ffn_up.weight` (Q4_0)" in str(caught.value)
    assert "Use the F16, BF16 or Q8_0 file" in str(caught.value)
    assert [] == registry.select()


def test_an_unknown_architecture_keeps_its_names_and_says_so(
    registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    _written(path, tensors={"blk.0.odd.weight": (ROWS, Q.F32)})

    version = registry.register(path, name="model")

    assert ["blk.0.odd.weight"] == [t.name for t in registry.catalog.tensors(version.id)]
    assert "not `somebody`" in version.notes["gguf"]["names"]


def test_weights_are_not_read_when_a_file_is_opened(tmp_path: Path) -> None:
    whole, outline = tmp_path / "whole.gguf", tmp_path / "outline.gguf"
    _written(whole, tensors={"a": (ROWS, Q.F16)})
    start = read_gguf_header(whole).tensors[0].offset
    outline.write_bytes(whole.read_bytes()[:start])
    with outline.open("r+b") as out:
        out.truncate(whole.stat().st_size)

    with open_gguf(outline) as actual:
        told = [(t.name, t.dtype, t.shape) for t in actual.tensors.values()]

    assert [("a", "F16", (4, 64))] == told


def test_several_models_in_a_directory_are_not_chosen_among(
    registry: Registry, tmp_path: Path
) -> None:
    for name in ("model-F16.gguf", "model-Q8_0.gguf"):
        _written(tmp_path / name, tensors={"a": (ROWS, Q.F16)})

    with pytest.raises(NotFound, match=r"2 GGUF models .*Name the one you mean"):
        registry.register(tmp_path, name="model")


def test_split_files_are_read_together_and_a_missing_one_is_named(
    registry: Registry, tmp_path: Path
) -> None:
    first, second = (tmp_path / f"big-0000{i}-of-00002.gguf" for i in (1, 2))
    _written(first, tensors={"a": (ROWS, Q.F16)})
    _written(second, tensors={"b": (ROWS, Q.F32)})

    version = registry.register(first, name="big")

    assert ["a", "b"] == [t.name for t in registry.catalog.tensors(version.id)]
    second.unlink()
    with pytest.raises(InvalidCheckpoint, match=r"big-00002-of-00002\.gguf"):
        registry.register(first, name="big")
