"""Quantized weights: eight-bit floats merge as what they stand for, other codes are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from zoo import Registry
from zoo.checkpoint import MemoryCheckpoint, Opened, TensorInfo, state_of
from zoo.checkpoints.dequantize import dequantized
from zoo.checkpoints.quantization import quantization_of
from zoo.errors import IncompatibleModels

State = dict[str, torch.Tensor]
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def directory(path: Path, state: State, **config: Any) -> Path:
    path.mkdir()
    save_file(state, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(config))
    return path


def codes(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 100).to(torch.float8_e4m3fn)


def values(code: torch.Tensor, scale: torch.Tensor, block: tuple[int, ...]) -> np.ndarray:
    """The values by hand, element by element, in float64."""
    found = np.empty(tuple(code.shape))
    exact, scales = code.double().numpy(), scale.double().numpy()
    for at in np.ndindex(*found.shape):
        found[at] = exact[at] * scales[tuple(i // b for i, b in zip(at, block, strict=True))]
    return found


@pytest.mark.parametrize(
    ("shape", "scales", "block"),
    [
        ((200, 300), (2, 3), (128, 128)),  # DeepSeek's, cut at the edges
        ((192, 256), (2, 2), (128, 128)),  # 192 = 2 * 96 too, and is not meant so
        ((6, 10), (6, 1), (1, 10)),  # a scale per output channel
        ((6, 10), (6,), (1, 10)),
        ((6, 10), (1,), (6, 10)),  # one for all
        ((6, 10), (), (6, 10)),
        ((3, 6, 10), (3, 1, 10), (1, 6, 1)),  # Llama 4's experts
        ((3, 6, 10), (3,), (1, 6, 10)),
        ((2, 200, 300), (2, 2, 3), (1, 128, 128)),
    ],
)
@pytest.mark.parametrize("ending", ["_scale", "_scale_inv"])
def test_values_are_codes_times_their_scales(
    shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, ...], ending: str
) -> None:
    code, scale = codes(shape), torch.rand(scales) + 0.5
    config = {"torch_dtype": "float32", **FP8}
    state = {"a.weight": code, f"a.weight{ending}": scale}

    made = state_of(dequantized(MemoryCheckpoint(state, Opened("x", config=config))))

    assert ["a.weight"] == list(made)
    wide = scale.reshape(scale.shape + (1,) * (len(shape) - scale.dim()))
    by_hand = values(code, wide, block)
    assert np.array_equal(by_hand.astype(np.float32), made["a.weight"].numpy())


@given(st.data())
def test_bytes_do_not_depend_on_how_they_are_read(data: st.DataObject) -> None:
    state = {"w": codes((150, 130)), "w_scale_inv": torch.rand(2, 2)}
    view = dequantized(MemoryCheckpoint(state, Opened("x", config={"dtype": "bfloat16"})))
    size = view.tensors["w"].nbytes
    whole = bytearray(size)
    view.read_into("w", 0, memoryview(whole))
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))

    part = bytearray(stop - start)
    view.read_into("w", start, memoryview(part))

    assert whole[start:stop] == part


def test_a_merge_has_plain_weights_and_says_so(registry: Registry, tmp_path: Path) -> None:
    config = {"model_type": "llama", "torch_dtype": "bfloat16", **FP8}
    for seed, name in enumerate("ab"):
        state = {
            "model.norm.weight": torch.full((4,), float(seed), dtype=torch.bfloat16),
            "model.l.weight": codes((130, 140), seed),
            "model.l.weight_scale_inv": torch.full((2, 2), 0.01 * (seed + 1)),
            "model.l.input_scale": torch.ones(1),
        }
        registry.register(directory(tmp_path / name, state, **config), name=name)

    registry.merge({"method": "linear", "experts": ["a", "b"], "dtype": "float32"}, name="m")

    kept = load_file(registry.path("a") / "model.safetensors")
    made = load_file(registry.path("m") / "model.safetensors")
    told = json.loads((registry.path("m") / "config.json").read_text())
    assert torch.float8_e4m3fn == kept["model.l.weight"].dtype
    assert ["model.l.weight", "model.norm.weight"] == sorted(made)
    assert {"model_type": "llama", "torch_dtype": "float32"} == told
    parts = [codes((130, 140), s).float() * np.float32(0.01 * (s + 1)) for s in range(2)]
    expected = sum(p.bfloat16().double() for p in parts) / 2
    assert torch.allclose(expected, made["model.l.weight"].double(), rtol=1e-6, atol=0)
    assert registry.verify("m", replay=True).ok


def test_codes_that_agree_under_other_scales_are_not_the_same_weights(
    registry: Registry, tmp_path: Path
) -> None:
    for name, scale in (("a", 1.0), ("b", 2.0)):
        state = {"w.weight": codes((4, 4)), "w.weight_scale": torch.full((1,), scale)}
        registry.register(directory(tmp_path / name, state), name=name, task=name)

    registry.compress(name="c", method="tall_masks", experts=["a", "b"], base="a")

    import zoo

    expected = (codes((4, 4)).float() * 2).bfloat16()
    made = zoo.load_state("c", task="b", registry=registry)["w.weight"]
    assert torch.allclose(expected.float(), made.float(), rtol=0.02)


def test_a_diff_compares_values_and_not_codes(registry: Registry, tmp_path: Path) -> None:
    for name, scale in (("a", 1.0), ("b", 0.5)):
        state = {
            "w.weight": (torch.ones(4, 4) * 2 * (1 / scale)).to(torch.float8_e4m3fn),
            "w.weight_scale": torch.full((1,), scale),
        }
        registry.register(directory(tmp_path / name, state), name=name)

    found = registry.diff("a", "b")

    assert [("w.weight", 0.0)] == [(d.tensor, d.distance_l2) for d in found.changed]


def test_transformers_dequantizes_to_the_same_values() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    code, scale = codes((256, 384)), torch.rand(2, 3)
    theirs = Fp8Dequantize.__new__(Fp8Dequantize)._dequantize_one(code, scale, torch.bfloat16)

    state = {"a.weight": code, "a.weight_scale_inv": scale}
    ours = state_of(dequantized(MemoryCheckpoint(state, Opened("x", config=FP8))))

    assert torch.equal(theirs, ours["a.weight"])


def infos(**tensors: tuple[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    named = {n.replace("__", "."): about for n, about in tensors.items()}
    return {n: TensorInfo(n, dtype, shape) for n, (dtype, shape) in named.items()}


CODED: dict[str, tuple[str | None, Mapping[str, TensorInfo], str]] = {
    "bitsandbytes, 4 bit": (
        "bitsandbytes",
        infos(a__weight=("U8", (8, 1)), a__weight__absmax=("F32", (1,))),
        "transformers",
    ),
    "bitsandbytes, 8 bit": (
        None,
        infos(a__weight=("I8", (4, 4)), a__SCB=("F32", (4,))),
        "dequantize()",
    ),
    "gptq": (
        None,
        infos(a__qweight=("I32", (8, 16)), a__qzeros=("I32", (1, 2)), a__scales=("F16", (1, 16))),
        "gptqmodel",
    ),
    "awq": (
        None,
        infos(a__qweight=("I32", (64, 2)), a__qzeros=("I32", (1, 2)), a__scales=("F16", (1, 16))),
        "gptqmodel",
    ),
    "hqq": ("hqq", infos(a__W_q=("U8", (8, 8))), "HQQLinear.dequantize()"),
    "eetq": (
        "eetq",
        infos(a__weight=("I8", (4, 4)), a__weight_scales=("F16", (4,))),
        "quantized from",
    ),
    "torchao": ("torchao", infos(a___weight_qdata=("I8", (4, 4))), "torchao"),
    "compressed-tensors": (
        "compressed-tensors",
        infos(a__weight_packed=("I32", (4, 1)), a__weight_scale=("F16", (4, 1))),
        "gptqmodel",
    ),
    "quanto": ("quanto", infos(a__weight___data=("U8", (4, 4))), "quanto"),
    "mxfp4": (
        "mxfp4",
        infos(a_blocks=("U8", (2, 4, 2, 16)), a_scales=("U8", (2, 4, 2))),
        "Mxfp4Config(dequantize=True)",
    ),
    "fp8": (
        "fp8",
        infos(a__weight=("F8_E4M3", (301, 301)), a__weight_scale_inv=("F32", (2, 2))),
        "fits no blocks",
    ),
    "fp8, half of it": ("fp8", infos(a__weight=("F8_E4M3", (4, 4))), "no scale beside it"),
}


@pytest.mark.parametrize("case", CODED)
def test_each_kind_of_code_is_recognised_with_its_remedy(case: str) -> None:
    said, tensors, remedy = CODED[case]
    config = {"quantization_config": {"quant_method": said}} if said else {}

    found = quantization_of(config, tensors)

    assert found is not None
    assert case.partition(",")[0] == found.kind
    assert not found.can_dequantize
    assert remedy in found.remedy
    assert set(found.tensors) <= set(tensors)


@pytest.mark.parametrize(
    "tensors",
    [
        infos(a__weight=("F8_E4M3", (4, 4))),
        infos(a__weight=("BF16", (4, 4)), a__scale=("F32", (4,))),
        infos(codebook__embed=("F32", (4, 4)), a__codes=("I64", (4,))),
        infos(logit_scale=("F32", ()), b__position_ids=("I64", (1, 4))),
    ],
)
def test_plain_values_are_no_codes(tensors: Mapping[str, TensorInfo]) -> None:
    assert quantization_of({}, tensors) is None


def test_codes_are_stored_and_refused_where_they_would_be_merged(
    registry: Registry, tmp_path: Path
) -> None:
    state = {
        "a.qweight": torch.zeros(8, 16, dtype=torch.int32),
        "a.qzeros": torch.zeros(1, 2, dtype=torch.int32),
        "a.scales": torch.ones(1, 16, dtype=torch.float16),
        "norm.weight": torch.ones(4),
    }
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    for name in "ab":
        registry.register(directory(tmp_path / name, state, **config), name=name)

    with pytest.raises(IncompatibleModels) as caught:
        registry.merge(method="linear", experts=["a", "b"], name="m")

    assert 2 == len(caught.value.problems)
    assert "codes of gptq" in caught.value.problems[0]
    assert "dequantize_model(DIR, OUT)" in caught.value.problems[0]
    assert ["a", "b"] == sorted(v.name for v in registry.select())
