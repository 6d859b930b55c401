"""Make synthetic models with the shapes of published ones, to merge and to measure.

    python benchmarks/make_models.py --shapes qwen2.5-0.5b --experts 3 --out benchmarks/work/models

Writes Hugging Face directories `OUT/SHAPES/base` and `OUT/SHAPES/expert-1` … `expert-N`: a
`config.json` that transformers accepts and one `model.safetensors` in bfloat16 with the names and
shapes of Qwen2.5 (embeddings tied, so no `lm_head.weight`).

    base     = normal(0, 0.02), the initialisation Qwen2 declares; norms are 1 + normal(0, 0.02)
    expert_i = base + 0.05 * 0.02 * normal(0, 1)

A relative delta of 5 % is larger than most fine-tunes leave. It is chosen so that nothing is easy:
two experts have a cosine of 0.9975, below SLERP's threshold of 0.9995 for its linear shortcut, and
few deltas vanish in bfloat16, so that TIES has to rank and elect all of them.

Values depend on the seed, the tensor's position and the model alone. Tensors are produced and
written in pieces of 4 Mi elements, so a model of any size needs about 150 MB of memory.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

BASE_SPREAD = 0.02  # standard deviation, dimensionless: Qwen2's initializer_range
DELTA_SPREAD = 0.05 * BASE_SPREAD
PIECE = 1 << 22  # elements produced at a time


@dataclass(frozen=True)
class Shapes:
    """Sizes of one Qwen2 transformer, in elements; `layers` and the heads are counts."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in file order, as transformers' Qwen2ForCausalLM has them."""
        h, m = self.hidden, self.intermediate
        kv = h // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocabulary, h)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            yield prefix + "input_layernorm.weight", (h,)
            yield prefix + "mlp.down_proj.weight", (h, m)
            yield prefix + "mlp.gate_proj.weight", (m, h)
            yield prefix + "mlp.up_proj.weight", (m, h)
            yield prefix + "post_attention_layernorm.weight", (h,)
            yield prefix + "self_attn.k_proj.bias", (kv,)
            yield prefix + "self_attn.k_proj.weight", (kv, h)
            yield prefix + "self_attn.o_proj.weight", (h, h)
            yield prefix + "self_attn.q_proj.bias", (h,)
            yield prefix + "self_attn.q_proj.weight", (h, h)
            yield prefix + "self_attn.v_proj.bias", (kv,)
            yield prefix + "self_attn.v_proj.weight", (kv, h)
        yield "model.norm.weight", (h,)

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": min(151643, self.vocabulary - 1),
            "eos_token_id": min(151643, self.vocabulary - 1),
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": BASE_SPREAD,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 32768,
            "max_window_layers": self.layers,
            "model_type": "qwen2",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocabulary,
        }


SHAPES = {
    "qwen2.5-0.5b": Shapes(896, 24, 4864, 14, 2, 151936),
    "qwen2.5-1.5b": Shapes(1536, 28, 8960, 12, 2, 151936),
    "qwen2.5-7b": Shapes(3584, 28, 18944, 28, 4, 152064),
    "tiny": Shapes(64, 2, 160, 4, 2, 1000),  # to try the scripts out
}


def parameter_count(shapes: Shapes) -> int:
    """Elements of one model."""
    return sum(math.prod(shape) for _, shape in shapes.tensors())


def make_models(shapes_name: str, experts: int, out: Path, *, seed: int = 0) -> list[Path]:
    """Write a base and `experts` experts; returns their directories, base first.

    A directory whose weights are complete and made with the same settings is kept, so calling
    this again is cheap.
    """
    shapes = SHAPES[shapes_name]
    names = ["base", *(f"expert-{number}" for number in range(1, experts + 1))]
    directories = [out / shapes_name / name for name in names]
    settings = {"shapes": shapes_name, "seed": seed, "delta": DELTA_SPREAD, "format": 1}
    missing = [i for i, path in enumerate(directories) if _settings_of(path) != settings]
    with ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for i in missing:
            directories[i].mkdir(parents=True, exist_ok=True)
            (directories[i] / ".made.json").unlink(missing_ok=True)
            (directories[i] / "config.json").write_text(json.dumps(shapes.config(), indent=2))
            files[i] = stack.enter_context((directories[i] / "model.safetensors").open("wb"))
            files[i].write(_header(shapes))
        if files:
            _write_tensors(shapes, seed, files)
    for i in missing:  # last, and hidden: it says that the weights are complete
        (directories[i] / ".made.json").write_text(json.dumps(settings))
    return directories


def _settings_of(directory: Path) -> object:
    try:
        return json.loads((directory / ".made.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _header(shapes: Shapes) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.tensors():
        end = offset + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_tensors(shapes: Shapes, seed: int, files: dict[int, BinaryIO]) -> None:
    for position, (name, shape) in enumerate(shapes.tensors()):
        mean = 1.0 if "norm" in name else 0.0
        size = math.prod(shape)
        for start in range(0, size, PIECE):
            count = min(PIECE, size - start)
            key = (seed, position, start)
            base = _round_to_bfloat16(mean + np.float32(BASE_SPREAD) * _normal((*key, 0), count))
            for model, file in files.items():
                piece = base
                if model:  # model 0 is the base
                    delta = np.float32(DELTA_SPREAD) * _normal((*key, model), count)
                    piece = _round_to_bfloat16(_widen(base) + delta)
                file.write(piece.tobytes())


def _normal(key: tuple[int, ...], count: int) -> NDArray[np.float32]:
    generator = np.random.Generator(np.random.SFC64(key))
    return generator.standard_normal(count, dtype=np.float32)


def _round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 values to nearest even; returns the bit patterns."""
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    bits = bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))
    return (bits >> 16).astype("<u2")


def _widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="qwen2.5-0.5b")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "work" / "models")
    options = parser.parse_args()
    millions = parameter_count(SHAPES[options.shapes]) / 1e6
    print(f"{options.shapes}: {millions:.1f} million parameters each")
    for path in make_models(options.shapes, options.experts, options.out, seed=options.seed):
        print(path)


if __name__ == "__main__":
    main()
