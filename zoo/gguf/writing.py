"""Writes a model as one GGUF file, tensor by tensor, in bounded memory.

Matrices are written in the type asked for, whatever has one axis as F32, which llama.cpp wants;
what such a tensor was before is noted in the file, so that reading it gives the same bytes.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.checkpoints.dequantize import dequantized, without_quantization
from zoo.checkpoints.safetensors import read_config, read_small
from zoo.dtypes import DTYPES, torch_dtype
from zoo.errors import InvalidCheckpoint, did_you_mean
from zoo.gguf.blocks import BLOCK, blocks_of
from zoo.gguf.config import factors_of, pairs_of
from zoo.gguf.families import FAMILIES, Family, family_of_model
from zoo.gguf.header import ALIGNMENT, MAGIC, STRING, TYPE_NUMBERS, TYPES
from zoo.gguf.opening import CONFIG_KEY, DTYPES_KEY, EXACT_KEY
from zoo.gguf.tensors import Target, targets
from zoo.gguf.tokenizer import pairs_of_tokenizer
from zoo.progress import NoProgress, Progress

if TYPE_CHECKING:
    import torch

DTYPE_WORDS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""What a user writes -> ggml's type."""
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
STEP = 1 << 20
"""Elements written at a time."""
_DROPPED = ".rotary_emb.inv_freq"
"""A buffer that old checkpoints have, and every library works out for itself."""


def write_gguf(
    checkpoint: Checkpoint,
    beside: Mapping[str, Path],
    target: Path,
    *,
    name: str,
    dtype: str | None = None,
    licence: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Write a model to `target`, which must not be there.

    Args:
        beside: the files beside its weights; configuration and tokenizer are taken from them.
        name: what the file says the model is called.
        dtype: a key of `DTYPE_WORDS`; by default the type that most weights have.
    Returns:
        What the file cannot say.
    Raises:
        InvalidCheckpoint: the model's architecture or a tensor has no place in GGUF.
    """
    import torch

    checkpoint = dequantized(checkpoint)
    path = beside.get("config.json")
    config = without_quantization(read_config(path) if path is not None else None) or {}
    family = _family(config, checkpoint.opened.origin)
    wanted = _wanted(dtype, checkpoint)
    plan, notes = _plan(checkpoint, family, wanted)
    heads = _heads(family, config)
    embeddings = next(p for p in plan if p.target.name == "token_embd.weight")
    pairs: dict[str, Any] = {
        "general.architecture": family.architecture,
        "general.type": "model",
        "general.name": name,
        "general.alignment": ALIGNMENT,
        "general.file_type": _FILE_TYPES[wanted],
        **({"general.license": licence} if licence else {}),
        **({"general.quantization_version": 2} if wanted == "Q8_0" else {}),
        **pairs_of(family, {**config, "vocab_size": embeddings.shape[0]}),
    }
    files = {
        f: read_small(beside[f])
        for f in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        if f in beside
    }
    tokenizer, told = pairs_of_tokenizer(files, embeddings.shape[0], config)
    pairs |= tokenizer
    pairs[CONFIG_KEY] = json.dumps(config, sort_keys=True, ensure_ascii=False)
    was = {p.target.name: p.dtype for p in plan if p.type == "F32" and p.dtype in ("F16", "BF16")}
    if was:
        pairs[DTYPES_KEY] = json.dumps(was, sort_keys=True)
    for shifted in (p for p in plan if p.target.change == "shifted"):
        weights = _elements(checkpoint, shifted.infos[0], 0, shifted.infos[0].elements).float()
        if not torch.equal((weights + 1) - 1, weights):
            pairs[EXACT_KEY + shifted.target.name] = weights.tolist()
    factors = factors_of(family, config)
    listening = progress or NoProgress()
    listening.start(sum(p.read for p in plan), "export")
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(fd, "wb") as out:
            described = [
                *((n, (len(v),), "F32", 4 * len(v)) for n, v in factors.items()),
                *((p.target.name, p.shape, p.type, p.written) for p in plan),
            ]
            out.write(_header(pairs, described))
            for values in factors.values():
                out.write(_padded(struct.pack(f"<{len(values)}f", *values)))
            for planned in plan:
                size = 0
                for raw in _bytes_of(checkpoint, planned, heads):
                    out.write(raw)
                    size += len(raw)
                out.write(bytes(-size % ALIGNMENT))
                listening.advance(planned.read)
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise
    finally:
        listening.done()
    return [*notes, *told]


class _Planned:
    """One tensor of the file."""

    def __init__(self, target: Target, infos: Sequence[TensorInfo], wanted: str) -> None:
        first = infos[0]
        self.target = target
        self.infos = infos
        self.dtype = first.dtype
        own = first.shape
        self.shape = (len(infos), *own) if "_exps" in target.name else own
        small = (
            len(own) < 2 or target.change == "shifted" or target.name.endswith("gate_inp.weight")
        )
        blocks = wanted == "Q8_0" and own and own[-1] % BLOCK
        self.type = "F32" if small else "F16" if blocks else wanted

    @property
    def read(self) -> int:
        return sum(i.nbytes for i in self.infos)

    @property
    def written(self) -> int:
        kind = TYPES[TYPE_NUMBERS[self.type]]
        return prod(self.shape) // kind.block * kind.size


def _family(config: Mapping[str, Any], origin: str) -> Family:
    model_type = config.get("model_type")
    family = family_of_model(model_type if isinstance(model_type, str) else None)
    if family is None:
        known = sorted({m for f in FAMILIES.values() for m in f.model_types})
        raise InvalidCheckpoint(
            f"`{origin}` cannot be written as GGUF:",
            f"its `model_type` is `{model_type}`, and zoo writes {', '.join(known)}.",
            "Export it as it is, and convert that with llama.cpp's `convert_hf_to_gguf.py`.",
            model_type=model_type,
        )
    return family


def _wanted(dtype: str | None, checkpoint: Checkpoint) -> str:
    if dtype is not None:
        if dtype.lower() not in DTYPE_WORDS:
            raise InvalidCheckpoint(
                f"GGUF is not written in `{dtype}`.",
                how=did_you_mean(dtype.lower(), tuple(DTYPE_WORDS)),
                dtype=dtype,
            )
        return DTYPE_WORDS[dtype.lower()]
    sizes: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.elements
    most = max(sorted(sizes), key=lambda d: sizes[d], default="F32")
    return most if most in ("F32", "F16", "BF16") else "F32"


def _plan(checkpoint: Checkpoint, family: Family, wanted: str) -> tuple[list[_Planned], list[str]]:
    names = [n for n in checkpoint.tensors if not n.endswith(_DROPPED)]
    notes = []
    if len(names) < len(checkpoint.tensors):
        notes.append("`rotary_emb.inv_freq` is left out: it follows from the configuration")
    made, lost = targets(names, family)
    odd = [n for n in names if not DTYPES[checkpoint.tensors[n].dtype].merges]
    if strange := sorted({*lost, *odd}):
        raise InvalidCheckpoint(
            f"`{checkpoint.opened.origin}` cannot be written as GGUF:",
            f"{len(strange)} tensors, `{strange[0]}` among them, have no place in a "
            f"`{family.architecture}` model of llama.cpp.",
            "Export it as it is, and convert that with llama.cpp's `convert_hf_to_gguf.py`.",
            tensors=strange,
        )
    if not any(t.name == "token_embd.weight" for t in made):
        raise InvalidCheckpoint(
            f"`{checkpoint.opened.origin}` cannot be written as GGUF:", "it has no embeddings."
        )
    return [_Planned(t, [checkpoint.tensors[n] for n in t.parts], wanted) for t in made], notes


def _heads(family: Family, config: Mapping[str, Any]) -> dict[str, int]:
    heads = config.get("num_attention_heads")
    keys = config.get("num_key_value_heads") or heads
    return {"attn_q": heads or 1, "attn_k": keys or 1} if family.permuted else {}


def _bytes_of(
    checkpoint: Checkpoint, planned: _Planned, heads: Mapping[str, int]
) -> Iterator[bytes]:
    """A tensor's bytes as the file has them, a few rows at a time."""
    for info in planned.infos:
        columns = info.shape[-1] if len(info.shape) > 1 else 1
        step = max(STEP // columns, 1) * columns
        head = 0
        if planned.target.change == "permuted":
            count = next(n for part, n in heads.items() if part in planned.target.name)
            head = info.shape[0] // count
            if info.shape[0] % (2 * count):
                raise InvalidCheckpoint(
                    f"`{info.name}` {list(info.shape)} cannot be divided among {count} heads.",
                    tensor=info.name,
                )
            step = max(STEP // (head * columns), 1) * head * columns
        elif columns == 1:
            step = STEP
        for first in range(0, info.elements, step):
            values = _elements(checkpoint, info, first, min(first + step, info.elements))
            if head:
                values = values.view(-1, 2, head // 2, columns).transpose(1, 2).reshape(-1)
            elif planned.target.change == "shifted":
                values = values.float() + 1
            yield _encoded(values, planned.type)


def _elements(checkpoint: Checkpoint, info: TensorInfo, first: int, last: int) -> torch.Tensor:
    import torch

    width = DTYPES[info.dtype].bits // 8
    raw = bytearray((last - first) * width)
    checkpoint.read_into(info.name, first * width, memoryview(raw))
    return torch.frombuffer(raw, dtype=torch_dtype(info.dtype))


def _encoded(values: torch.Tensor, kind: str) -> bytes:
    import torch

    if kind == "Q8_0":
        return blocks_of(values).tobytes()
    return values.to(torch_dtype(kind)).contiguous().view(torch.uint8).numpy().tobytes()


def _header(
    pairs: Mapping[str, Any], tensors: Sequence[tuple[str, tuple[int, ...], str, int]]
) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(pairs))]
    for key, value in pairs.items():
        parts += [_text(key), _value(value)]
    offset = 0
    for name, shape, kind, size in tensors:
        parts.append(_text(name))
        parts.append(struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        parts.append(struct.pack("<IQ", TYPE_NUMBERS[kind], offset))
        offset += size + -size % ALIGNMENT
    return _padded(b"".join(parts))


def _value(value: Any) -> bytes:
    """A value with its type: texts, truths, u32, f32, and lists of texts, i32 or f32."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, STRING, len(value)) + b"".join(map(_text, value))
    kind, code = (6, "f") if value and isinstance(value[0], float) else (5, "i")
    return struct.pack(f"<IIQ{len(value)}{code}", 9, kind, len(value), *value)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % ALIGNMENT)
