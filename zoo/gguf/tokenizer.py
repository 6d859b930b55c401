"""`tokenizer.json` from a GGUF file's metadata, and back.

The metadata has one of two kinds that we read,

    gpt2     byte-level BPE: tokens in the byte alphabet, merges, and a name for how text is split
    llama    sentencepiece BPE: tokens with scores, from which the merges follow

and sometimes `tokenizer.huggingface.json`, the whole file, which is then taken as it is. What we
write has all of these, so that our own files give back the tokenizer byte for byte.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer; llama.cpp,
`llama-vocab.cpp` and `convert_hf_to_gguf.py`; transformers, `integrations/gguf` and
`convert_slow_tokenizer.py`, for merges from scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidCheckpoint

if TYPE_CHECKING:
    from zoo.gguf.header import Value

WHOLE = "tokenizer.huggingface.json"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""`tokenizer.ggml.token_type`."""
_SPACE = "▁"
_SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
"""`tokenizer.ggml.pre` -> the pattern that text is split by; what is not here is not guessed."""
_BY_BYTES = ("gpt-2", "gpt2")
"""Names of GPT-2's own way, which the byte-level step has built in."""


def tokenizer_of(pairs: Mapping[str, Value]) -> tuple[dict[str, bytes], str]:
    """`tokenizer.json` and `tokenizer_config.json`, and why they are not there if they are not."""
    tokens = pairs.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        return {}, "the file has no tokenizer"
    config = _config_of(pairs, tokens)
    whole = pairs.get(WHOLE)
    if isinstance(whole, str):
        return {"tokenizer.json": whole.encode(), "tokenizer_config.json": _json(config)}, ""
    kind = pairs.get("tokenizer.ggml.model")
    if kind == "gpt2":
        made, problem = _byte_level(pairs, tokens)
    elif kind == "llama":
        made, problem = _sentencepiece(pairs, tokens), ""
    else:
        made, problem = None, f"tokenizers of kind `{str(kind)[:40]}` are not read"
    if made is None:
        return {}, problem
    made |= {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(pairs, tokens),
        "post_processor": _around(pairs, tokens, made.pop("_first", None)),
    }
    return {"tokenizer.json": _json(made), "tokenizer_config.json": _json(config)}, ""


def _config_of(pairs: Mapping[str, Value], tokens: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, key in _SPECIAL.items():
        number = pairs.get(key)
        if type(number) is int and 0 <= number < len(tokens):
            found[name] = tokens[number]
    for name in ("add_bos_token", "add_eos_token"):
        if isinstance(said := pairs.get(f"tokenizer.ggml.{name}"), bool):
            found[name] = said
    if isinstance(template := pairs.get("tokenizer.chat_template"), str):
        found["chat_template"] = template
    return found


def _types(pairs: Mapping[str, Value], tokens: Sequence[str]) -> list[int]:
    types = pairs.get("tokenizer.ggml.token_type")
    if types is None:
        return [NORMAL] * len(tokens)
    listed = [] if isinstance(types, str | list | int | float) else [int(t) for t in types.tolist()]
    _same_length("token_type", listed, tokens)
    return listed


def _added(pairs: Mapping[str, Value], tokens: Sequence[str]) -> list[dict[str, Any]]:
    """Tokens that are found whole in a text: special ones, and those a user defined."""
    return [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind in (CONTROL, UNKNOWN),
        }
        for i, (token, kind) in enumerate(zip(tokens, _types(pairs, tokens), strict=True))
        if kind in (CONTROL, UNKNOWN, USER)
    ]


def _byte_level(
    pairs: Mapping[str, Value], tokens: Sequence[str]
) -> tuple[dict[str, Any] | None, str]:
    pre = pairs.get("tokenizer.ggml.pre")
    merges = pairs.get("tokenizer.ggml.merges", [])
    if not isinstance(merges, list):
        merges = []  # an empty list has no type
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pre in _BY_BYTES:
        before: dict[str, Any] = {**step, "use_regex": True}
    elif isinstance(pre, str) and pre in SPLITS:
        before = {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": SPLITS[pre]},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**step, "use_regex": False},
            ],
        }
    else:
        return None, f"its tokenizer splits text as `{str(pre)[:40]}`, which zoo does not know"
    return {
        "normalizer": {"type": "NFC"} if pre in ("qwen2", "deepseek-r1-qwen") else None,
        "pre_tokenizer": before,
        "decoder": {**step, "use_regex": True},
        "model": _bpe(tokens, [m.split(" ") for m in merges], byte_fallback=False, unknown=None),
    }, ""


def _sentencepiece(pairs: Mapping[str, Value], tokens: Sequence[str]) -> dict[str, Any]:
    scores = pairs.get("tokenizer.ggml.scores")
    if scores is None or isinstance(scores, str | list | int | float):
        raise InvalidCheckpoint("The tokenizer of this GGUF file has no scores.")
    listed = [float(s) for s in scores.tolist()]
    _same_length("scores", listed, tokens)
    space = pairs.get("tokenizer.ggml.add_space_prefix") is not False
    unknown = pairs.get("tokenizer.ggml.unknown_token_id")
    named = tokens[unknown] if type(unknown) is int and 0 <= unknown < len(tokens) else None
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if space:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*([{"type": "Prepend", "prepend": _SPACE}] if space else []), replace],
        },
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": _bpe(tokens, _merges(tokens, listed), byte_fallback=True, unknown=named),
        "_first": True,
    }


def _bpe(
    tokens: Sequence[str],
    merges: Sequence[Sequence[str]],
    *,
    byte_fallback: bool,
    unknown: str | None,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [list(m) for m in merges],
    }


def _merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, best token first."""
    place = {token: i for i, token in enumerate(tokens)}
    found: list[tuple[str, str, float]] = []
    for token, score in zip(tokens, scores, strict=True):
        halves = [
            (token[:i], token[i:])
            for i in range(1, len(token))
            if token[:i] in place and token[i:] in place
        ]
        halves.sort(key=lambda pair: (place[pair[0]], place[pair[1]]))
        found.extend((a, b, score) for a, b in halves)
    found.sort(key=lambda merge: -merge[2])
    return [(a, b) for a, b, _ in found]


def _around(
    pairs: Mapping[str, Value], tokens: Sequence[str], first: bool | None
) -> dict[str, Any] | None:
    """The tokens put before and after a text."""

    def special(name: str, default: bool | None) -> str | None:
        said = pairs.get(f"tokenizer.ggml.add_{name}_token")
        number = pairs.get(f"tokenizer.ggml.{name}_token_id")
        wanted = said if isinstance(said, bool) else default
        if not wanted or type(number) is not int or not 0 <= number < len(tokens):
            return None
        return tokens[number]

    # Older files do not say so, but sentencepiece models begin with a token of their own.
    bos, eos = special("bos", first), special("eos", None)
    if bos is None and eos is None:
        return None

    def template(of: Sequence[str]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for i, text in enumerate(of):
            if bos is not None:
                parts.append({"SpecialToken": {"id": bos, "type_id": i}})
            parts.append({"Sequence": {"id": text, "type_id": i}})
            if eos is not None:
                parts.append({"SpecialToken": {"id": eos, "type_id": i}})
        return parts

    return {
        "type": "TemplateProcessing",
        "single": template("A"),
        "pair": template("AB"),
        "special_tokens": {
            t: {"id": t, "ids": [tokens.index(t)], "tokens": [t]} for t in (bos, eos) if t
        },
    }


def pairs_of_tokenizer(
    files: Mapping[str, bytes], rows: int, config: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The metadata of a tokenizer, and what could not be said in it.

    Args:
        files: by name; `tokenizer.json` and `tokenizer_config.json`, `chat_template.jinja`.
        rows: of the embeddings: llama.cpp wants a token for each.
        config: of the model, whose special tokens count where the tokenizer has none.
    """
    if "tokenizer.json" not in files:
        said = {key: config.get(f"{name}_id") for name, key in _SPECIAL.items()}
        return {key: n for key, n in said.items() if type(n) is int}, [
            "there is no `tokenizer.json`, so the file has no tokenizer"
        ]
    whole = json.loads(files["tokenizer.json"])
    about = json.loads(files.get("tokenizer_config.json", b"{}"))
    model = whole.get("model", {})
    if model.get("type") != "BPE":
        return {WHOLE: files["tokenizer.json"].decode()}, [
            f"tokenizers of type {model.get('type')} are written as `{WHOLE}` only"
        ]
    notes: list[str] = []
    special = {t["content"]: bool(t.get("special")) for t in whole.get("added_tokens") or ()}
    numbers: dict[str, int] = dict(model["vocab"])
    numbers |= {t["content"]: t["id"] for t in whole.get("added_tokens") or ()}
    by_number = {i: token for token, i in numbers.items()}
    size = max(rows, max(by_number, default=-1) + 1)
    tokens = [by_number.get(i, f"[PAD{i}]") for i in range(size)]
    unknown = model.get("unk_token")
    types = [
        _type_of(token, i in by_number, special, unknown, bool(model.get("byte_fallback")))
        for i, token in enumerate(tokens)
    ]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or ()]
    found: dict[str, Any] = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
    }
    if model.get("byte_fallback"):
        found["tokenizer.ggml.model"] = "llama"
        found["tokenizer.ggml.pre"] = "default"
        found["tokenizer.ggml.scores"] = _scores(tokens, merges)
        found["tokenizer.ggml.add_space_prefix"] = "Prepend" in json.dumps(
            whole.get("normalizer")
        ) or '"always"' in json.dumps(whole.get("pre_tokenizer"))
    else:
        found["tokenizer.ggml.model"] = "gpt2"
        found["tokenizer.ggml.merges"] = merges
        pre = _pre(whole.get("pre_tokenizer"))
        if pre is None:
            notes.append("llama.cpp has no name that zoo knows for how this tokenizer splits text")
        else:
            found["tokenizer.ggml.pre"] = pre
    for name, key in _SPECIAL.items():
        token = about.get(name)
        text = token.get("content") if isinstance(token, Mapping) else token
        number = numbers.get(text) if isinstance(text, str) else config.get(f"{name}_id")
        if isinstance(number, list):
            number = number[0] if number else None
        if isinstance(number, int):
            found[key] = number
    around = json.dumps(whole.get("post_processor"))
    for name in ("bos", "eos"):
        number = found.get(f"tokenizer.ggml.{name}_token_id")
        token = tokens[number] if isinstance(number, int) and number < size else None
        adds = about.get(f"add_{name}_token")
        if not isinstance(adds, bool):
            adds = bool(token) and json.dumps(token) in around
        found[f"tokenizer.ggml.add_{name}_token"] = adds
    template = files.get("chat_template.jinja")
    said_template = about.get("chat_template")
    if template is not None:
        found["tokenizer.chat_template"] = template.decode()
    elif isinstance(said_template, str):
        found["tokenizer.chat_template"] = said_template
    found[WHOLE] = files["tokenizer.json"].decode()
    return found, notes


def _type_of(
    token: str, known: bool, special: Mapping[str, bool], unknown: str | None, by_bytes: bool
) -> int:
    if not known:
        return UNUSED
    if by_bytes and token == unknown:
        return UNKNOWN
    if token in special:
        return CONTROL if special[token] else USER
    if by_bytes and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return BYTE
    return NORMAL


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Scores from which the merges follow in their order: minus the rank of a token's first."""
    rank: dict[str, int] = {}
    for i, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", "", 1), i)
    lowest = float(-len(merges) - 1)
    return [float(-rank[t]) if t in rank else lowest for t in tokens]


def _pre(step: Any) -> str | None:
    """llama.cpp's name for a way to split text; None where it has none that we know."""
    if not isinstance(step, Mapping):
        return None
    if step.get("type") == "ByteLevel":
        return "gpt-2" if step.get("use_regex", True) else None
    steps = step.get("pretokenizers") or ()
    patterns = [s["pattern"].get("Regex") for s in steps if s.get("type") == "Split"]
    if len(patterns) != 1 or len(steps) != 2:
        return None
    return next((name for name, pattern in SPLITS.items() if pattern == patterns[0]), None)


def _same_length(what: str, listed: Sequence[Any], tokens: Sequence[str]) -> None:
    if len(listed) != len(tokens):
        raise InvalidCheckpoint(
            f"The tokenizer of this GGUF file has {len(tokens):,} tokens and {len(listed):,} "
            f"of `{what}`:",
            "one of the lists is not whole.",
            "Download or convert it again.",
        )


def _json(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
