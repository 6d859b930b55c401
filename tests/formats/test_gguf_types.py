"""Types of numbers in GGUF: what each becomes, and what it is written as."""

from __future__ import annotations

from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file

from zoo import Registry
from zoo.errors import InvalidCheckpoint
from zoo.gguf.blocks import blocks_of, values_of

Q8_0 = gguf.GGMLQuantizationType.Q8_0
# Below, the library itself divides by too little.
NUMBERS = st.floats(-60000, 60000, width=32).map(lambda x: x if abs(x) > 2.0**-100 else 0.0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "llama"
    llama_cpp.model("llama").half().save_pretrained(path)
    return path


@given(arrays.arrays(np.float32, (3, 32), elements=NUMBERS))
def test_blocks_are_those_of_the_library_bit_for_bit(rows: np.ndarray) -> None:
    raw = blocks_of(torch.from_numpy(rows))

    assert np.array_equal(gguf.quants.quantize(rows, Q8_0).reshape(-1), raw)
    back = values_of(bytearray(raw.tobytes())).numpy()
    assert np.array_equal(gguf.quants.dequantize(raw.reshape(3, 34), Q8_0).reshape(-1), back)


def test_numbers_too_small_for_a_scale_are_zeros() -> None:
    rows = torch.full((32,), 2.0**-140)

    assert not values_of(bytearray(blocks_of(rows).tobytes())).any()


def test_q8_0_is_read_as_float16_and_the_notes_say_so(
    llama: Path, registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "model-Q8_0.gguf"
    llama_cpp.converted(llama, path, "llama", dtype=Q8_0)

    version = registry.register(path, name="model")

    assert {"kind": "Q8_0", "dtype": "F16"} == version.notes["gguf"]["dequantized"]
    found = {t.name: t for t in gguf.GGUFReader(path).tensors}["blk.1.ffn_up.weight"]
    state = load_file(registry.path("model") / "model.safetensors")
    expected = gguf.quants.dequantize(found.data, Q8_0).astype(np.float16)
    assert np.array_equal(expected, state["model.layers.1.mlp.up_proj.weight"].numpy())
    exact = load_file(llama / "model.safetensors")
    for name, tensor in exact.items():
        step = tensor.float().abs().max() / 127
        assert (tensor.float() - state[name].float()).abs().max() <= 0.51 * step, name


def test_q8_0_is_written_as_llama_cpp_writes_it(
    llama: Path, registry: Registry, tmp_path: Path
) -> None:
    llama_cpp.converted(llama, tmp_path / "expected.gguf", "llama", dtype=Q8_0)
    registry.register(llama, name="model")

    path = registry.export("model", tmp_path / "out", format="gguf", dtype="q8_0")

    theirs = {t.name: t for t in gguf.GGUFReader(tmp_path / "expected.gguf").tensors}
    reader = gguf.GGUFReader(path)
    for tensor in reader.tensors:
        assert theirs[tensor.name].tensor_type == tensor.tensor_type, tensor.name
        assert np.array_equal(theirs[tensor.name].data, tensor.data), tensor.name
    assert gguf.LlamaFileType.MOSTLY_Q8_0 == reader.fields["general.file_type"].contents()


@pytest.mark.parametrize("word", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_weights_written_in_their_own_type_keep_their_digest(
    word: str, family: str, registry: Registry, tmp_path: Path
) -> None:
    model = llama_cpp.model(family).to(getattr(torch, word))
    with torch.no_grad():
        # Numbers that are lost beside 1 in float32.
        model.model.norm.weight[:3] = torch.tensor([2.0**-24, -(2.0**-20), 3 * 2.0**-24])
    model.save_pretrained(tmp_path / "model")
    version = registry.register(tmp_path / "model", name="model")

    path = registry.export("model", tmp_path / "out", format="gguf")

    assert version.digest == registry.register(path, name="back").digest


def test_norms_that_another_program_changed_are_taken_as_they_are(
    registry: Registry, tmp_path: Path
) -> None:
    model = llama_cpp.model("gemma").half()
    with torch.no_grad():
        model.model.norm.weight[:] = 2.0**-24
    model.save_pretrained(tmp_path / "model")
    registry.register(tmp_path / "model", name="model")
    path = registry.export("model", tmp_path / "out", format="gguf")
    reader = gguf.GGUFReader(path, "r+")
    next(t for t in reader.tensors if t.name == "output_norm.weight").data[:] = 1.5
    reader.data.flush()

    registry.register(path, name="back")

    state = load_file(registry.path("back") / "model.safetensors")
    assert [0.5] == state["model.norm.weight"].unique().tolist()


def test_what_has_no_place_in_gguf_is_refused_before_anything_is_written(
    registry: Registry, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    BertModel(BertConfig(vocab_size=8, intermediate_size=8, **sizes)).save_pretrained(
        tmp_path / "bert"
    )
    registry.register(tmp_path / "bert", name="bert")

    with pytest.raises(InvalidCheckpoint, match=r"`model_type` is `bert`.*convert_hf_to_gguf\.py"):
        registry.export("bert", tmp_path / "out", format="gguf")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_file_and_says_where(
    llama: Path, registry: Registry, tmp_path: Path
) -> None:
    from zoo_cli.main import cli

    registry.register(llama, name="team/model")
    options = ["--format", "gguf", "--dtype", "Q8_0"]

    result = CliRunner().invoke(
        cli, ["--registry", registry.url, "export", "team/model", str(tmp_path / "out"), *options]
    )

    assert 0 == result.exit_code, result.output
    assert str(tmp_path / "out" / "model.gguf") == result.stdout.strip()
    assert (tmp_path / "out" / "model.gguf").is_file()
