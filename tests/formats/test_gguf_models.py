"""Models in GGUF: read as transformers has them, written as llama.cpp does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from zoo import Registry

FAMILIES = (
    *("llama", "llama3", "mistral", "qwen2", "qwen3", "qwen3moe"),
    *("gemma", "gemma2", "gemma3_text", "phi3", "starcoder2"),
)
READ_BY_TRANSFORMERS = ("llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3_text", "phi3")
"""With the same result: its reader drops the scaling of Llama 3, and knows no `gemma`."""
IDS = torch.arange(3, 23)[None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a family's model, in float16, made once."""
    folder = tmp_path_factory.mktemp("models")

    def made(family: str) -> Path:
        if not (folder / family).exists():
            llama_cpp.model(family).half().save_pretrained(folder / family)
        return folder / family

    return made


def logits(directory: Path, **options: Any) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **options)
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_llama_cpp_is_read_as_the_model_it_was_made_of(
    family: str, saved: Callable[[str], Path], registry: Registry, tmp_path: Path
) -> None:
    llama_cpp.converted(saved(family), tmp_path / "tiny.gguf", family)

    version = registry.register(tmp_path / "tiny.gguf", name="tiny")

    expected = load_file(saved(family) / "model.safetensors")
    actual = load_file(registry.path("tiny") / "model.safetensors")
    assert "names" not in version.notes["gguf"]
    assert sorted(expected) == sorted(actual)
    # llama.cpp adds 1 to Gemma's norms in float32, which the smallest of them do not survive.
    lost = 2**-24 if "gemma" in family else 0
    for name, tensor in expected.items():
        assert torch.allclose(tensor.float(), actual[name].float(), rtol=0, atol=lost), name
    apart = 1e-5 if "gemma" in family else 0
    made = logits(registry.path("tiny"))
    assert torch.allclose(logits(saved(family)), made, rtol=0, atol=apart)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_llama_cpp_writes(
    family: str, saved: Callable[[str], Path], registry: Registry, tmp_path: Path
) -> None:
    llama_cpp.converted(saved(family), tmp_path / "expected.gguf", family)
    registry.register(saved(family), name="tiny")

    path = registry.export("tiny", tmp_path / "out", format="gguf")

    expected, actual = (gguf.GGUFReader(p) for p in (tmp_path / "expected.gguf", path))
    theirs, ours = ({t.name: t for t in r.tensors} for r in (expected, actual))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert tensor.tensor_type == ours[name].tensor_type, name
        assert tensor.shape.tolist() == ours[name].shape.tolist(), name
        if name == "rope_freqs.weight":  # worked out in float32 there, in float64 here
            assert np.allclose(tensor.data, ours[name].data, rtol=1e-6, atol=0)
        else:
            assert np.array_equal(tensor.data, ours[name].data), name
    told = {k: f.contents() for k, f in expected.fields.items() if k.startswith(f"{family}.")}
    assert told == {k: actual.fields[k].contents() for k in told}


@pytest.mark.parametrize("family", FAMILIES)
def test_f16_out_and_in_again_keeps_the_weights_digest(
    family: str, saved: Callable[[str], Path], registry: Registry, tmp_path: Path
) -> None:
    version = registry.register(saved(family), name="tiny")

    again = registry.register(registry.export("tiny", tmp_path / "out", format="gguf"), name="back")

    assert version.digest == again.digest
    assert version.architecture == again.architecture


@pytest.mark.parametrize("family", READ_BY_TRANSFORMERS)
def test_transformers_reads_what_is_written_with_the_same_logits(
    family: str, saved: Callable[[str], Path], registry: Registry, tmp_path: Path
) -> None:
    llama_cpp.converted(saved(family), tmp_path / "tiny.gguf", family)
    # With a tokenizer, from which transformers has the size of the vocabulary.
    registry.register(tmp_path / "tiny.gguf", name="tiny")

    path = registry.export("tiny", tmp_path / "out", format="gguf")

    expected = logits(saved(family))
    assert torch.equal(expected, logits(path.parent, gguf_file=path.name))
