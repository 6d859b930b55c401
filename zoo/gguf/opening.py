"""Opens GGUF files: headers, names, configuration and tokenizer; no weights."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Opened
from zoo.checkpoints.auxiliary import auxiliary_files
from zoo.checkpoints.safetensors_header import parse_strict_json
from zoo.dtypes import DTYPES
from zoo.errors import InvalidCheckpoint, NotFound
from zoo.gguf.checkpoint import DEQUANTIZED, READABLE, GgufCheckpoint
from zoo.gguf.config import config_of
from zoo.gguf.families import FAMILIES, Family
from zoo.gguf.header import GgufHeader, GgufTensor, read_gguf_header
from zoo.gguf.tensors import ROPE, pieces
from zoo.gguf.tokenizer import tokenizer_of

if TYPE_CHECKING:
    import numpy as np

DTYPES_KEY = "zoo.dtypes"
"""JSON: tensor -> the type it had before it was written as F32, as llama.cpp wants small ones."""
EXACT_KEY = "zoo.exact."
"""Before a tensor's name: its values, where they do not follow from those that have 1 added."""
CONFIG_KEY = "zoo.config"
"""JSON: the `config.json` of the model that was written."""
MOST_NAMED = 5
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def open_gguf(path: Path) -> GgufCheckpoint:
    """A GGUF file, all files of a split one, or the only one of a directory.

    Raises:
        InvalidCheckpoint: damaged, quantized to fewer bits than eight, an adapter, or not whole.
        NotFound: several models in a directory, or none.
    """
    files = _files(path)
    headers = [read_gguf_header(file) for file in files]
    pairs = headers[0].pairs
    _check_types(path, [t for h in headers for t in h.tensors])
    _check_kind(path, pairs)
    architecture = pairs.get("general.architecture")
    family = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    notes: dict[str, Any] = {"architecture": str(architecture)}
    types = Counter(t.type for h in headers for t in h.tensors)
    notes["types"] = dict(sorted(types.items()))
    if "Q8_0" in types:
        notes["dequantized"] = {"kind": "Q8_0", "dtype": DEQUANTIZED}
    heads = _heads(family, pairs)
    if family is not None and heads is None:
        family = None
        notes["names"] = "those of GGUF: its layers are not all alike"
    elif family is None:
        known = ", ".join(sorted(FAMILIES))
        notes["names"] = f"those of GGUF: zoo knows {known}, and not `{architecture}`"
    unknown: list[str] = []
    found = []
    for file, header in zip(files, headers, strict=True):
        own, strange = pieces(header.tensors, family, heads or {})
        _check_heads(file, own)
        found.append((file, own))
        unknown += strange
    if unknown:
        notes["names_kept"] = sorted(unknown)
    with ExitStack() as keep:
        made: dict[str, bytes] = {}
        config: Mapping[str, Any] | None = None
        if family is not None:
            config, problems = _config(path, family, headers, files)
            made["config.json"] = _json(config)
            tokenizer, problem = tokenizer_of(pairs)
            made |= tokenizer
            if problems := [*problems, *([problem] if problem else [])]:
                notes["lacking"] = problems
        folder = Path(keep.enter_context(TemporaryDirectory(prefix="zoo-gguf-")))
        for name, content in made.items():
            (folder / name).write_bytes(content)
        auxiliary = {name: folder / name for name in made}
        if path.is_dir():
            beside, skipped = auxiliary_files(path, weights=[f.name for f in files])
            auxiliary |= beside
            if skipped:
                notes["skipped"] = skipped
            if "config.json" in beside:
                config = _parsed(beside["config.json"].read_bytes(), beside["config.json"])
        opened = Opened(str(path), {}, auxiliary, config, {"gguf": notes})
        exact = {
            key.removeprefix(EXACT_KEY): values
            for key, values in pairs.items()
            if key.startswith(EXACT_KEY) and not isinstance(values, str | list | int | float)
        }
        return GgufCheckpoint(found, opened, _dtypes(path, pairs), exact, keep.pop_all())


def _files(path: Path) -> list[Path]:
    """The file, or all of a split model, in order."""
    if path.is_dir():
        there = sorted(path.glob("*.gguf"))
        first = [f for f in there if not (m := _SPLIT.search(f.name)) or int(m[1]) == 1]
        if len(first) != 1:
            listed = ", ".join(f"`{f.name}`" for f in there[:MOST_NAMED])
            raise NotFound(
                f"`{path}` holds {len(first)} GGUF models ({listed}):",
                "they are alternatives, not parts.",
                f"Name the one you mean, such as `{there[0]}`.",
                path=path,
            )
        path = first[0]
    split = _SPLIT.search(path.name)
    if split is None:
        return [path]
    stem, count = path.name[: split.start()], int(split[2])
    files = [path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    if missing := [f.name for f in files if not f.is_file()]:
        raise InvalidCheckpoint(
            f"`{path}` is one of {count} files, and {len(missing)} are not beside it:",
            f"`{missing[0]}` is the first.",
            "Download the missing files.",
            path=path,
        )
    return files


def _check_types(path: Path, tensors: Sequence[GgufTensor]) -> None:
    coded = [t for t in tensors if t.type not in READABLE]
    if coded:
        types = Counter(t.type for t in coded)
        listed = ", ".join(f"`{t.name}` ({t.type})" for t in coded[:MOST_NAMED])
        more = f" and {len(coded) - MOST_NAMED} more" if len(coded) > MOST_NAMED else ""
        raise InvalidCheckpoint(
            f"`{path}` is quantized: {', '.join(f'{n} tensors of {t}' for t, n in types.items())}, "
            f"{listed}{more}.",
            "zoo reads F32, F16, BF16 and Q8_0: from fewer bits the weights do not come back.",
            "Use the F16, BF16 or Q8_0 file of the same model, or the safetensors it was made of.",
            path=path,
            types=dict(types),
        )


def _check_kind(path: Path, pairs: Mapping[str, Any]) -> None:
    if pairs.get("general.type") == "adapter":
        raise InvalidCheckpoint(
            f"`{path}` is an adapter in GGUF:",
            "zoo reads adapters in PEFT's form.",
            "Register the adapter that it was converted from.",
            path=path,
        )


def _heads(family: Family | None, pairs: Mapping[str, Any]) -> dict[str, int] | None:
    """Heads of queries and of keys; None where layers differ."""
    if family is None or not family.permuted:
        return {}
    heads = pairs.get(f"{family.architecture}.attention.head_count")
    keys = pairs.get(f"{family.architecture}.attention.head_count_kv", heads)
    if type(heads) is not int or type(keys) is not int or heads < 1 or keys < 1:
        return None
    return {"q": heads, "k": keys}


def _check_heads(path: Path, own: Sequence[Any]) -> None:
    for piece in own:
        if piece.change == "permuted" and piece.shape[0] % (2 * piece.heads):
            raise InvalidCheckpoint(
                f"`{path}` has {piece.heads} heads, and `{piece.source.name}` {list(piece.shape)}:",
                "its rows cannot be divided among them.",
                "Convert it again.",
                path=path,
            )


def _config(
    path: Path, family: Family, headers: Sequence[GgufHeader], files: Sequence[Path]
) -> tuple[dict[str, Any], list[str]]:
    pairs = headers[0].pairs
    said = pairs.get(CONFIG_KEY)
    if isinstance(said, str):
        content = _parsed(said.encode(), path)
        if isinstance(content, dict):
            return content, []
    tensors = {t.name: t for h in headers for t in h.tensors}
    embeddings = tensors.get("token_embd.weight")
    if embeddings is None or len(embeddings.shape) != 2:
        raise InvalidCheckpoint(
            f"`{path}` has no embeddings:", "`token_embd.weight` is missing.", path=path
        )
    sizes: Counter[str] = Counter()
    for t in tensors.values():
        sizes[READABLE[t.type]] += t.elements
    dtype = DTYPES[max(sorted(sizes), key=lambda d: sizes[d])].torch_name or "float32"
    factors = {
        t.name: _floats(file, t)
        for file, h in zip(files, headers, strict=True)
        for t in h.tensors
        if t.name in ROPE and t.type == "F32"
    }
    return config_of(family, pairs, list(tensors), embeddings.shape[0], dtype, factors)


def _floats(path: Path, tensor: GgufTensor) -> np.ndarray:
    """A small tensor of float32: factors of RoPE."""
    import numpy as np

    if tensor.elements > 1 << 16:
        raise InvalidCheckpoint(f"`{tensor.name}` of `{path}` has {tensor.elements:,} factors.")
    with path.open("rb") as file:
        file.seek(tensor.offset)
        return np.frombuffer(file.read(tensor.nbytes), "<f4")


def _dtypes(path: Path, pairs: Mapping[str, Any]) -> dict[str, str]:
    said = pairs.get(DTYPES_KEY)
    content = _parsed(said.encode(), path) if isinstance(said, str) else {}
    if not isinstance(content, dict):
        return {}
    return {k: v for k, v in content.items() if v in ("F16", "BF16")}


def _parsed(data: bytes, path: Path) -> Any:
    return parse_strict_json(data, path)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
