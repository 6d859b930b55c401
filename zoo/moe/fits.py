"""Pre-flight of a mixture: everything that speaks against it, from headers and small files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.dtypes import DTYPES
from zoo.engine.inputs import Input
from zoo.errors import InvalidRecipe, ZooError
from zoo.moe.dense import EMBEDDINGS, KINDS, MLP, PARTS, is_derived, mlp, outside_the_mlp, spoken
from zoo.moe.hidden import check_runs
from zoo.moe.layouts import Layout, layout_for
from zoo.moe.options import DRAWN, ExpertOptions, UpcycleOptions
from zoo.moe.prompts import tokenized
from zoo.tokenizers.tokenizer import FAST, Tokenizer, read_tokenizer

SHOWN = 3
"""Names that one problem lists."""


@dataclass
class Fit:
    """What pre-flight found."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layout: Layout | None = None
    width: int = 0
    """Of every expert: rows of its `gate_proj`."""
    shared_width: int = 0
    ids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Token ids of every prompt."""


def fit(
    base: Input, experts: Sequence[Input], shared: Sequence[Input], options: UpcycleOptions
) -> Fit:
    """Look at models that are to become a mixture."""
    found = Fit()
    config = base.model.checkpoint.opened.config
    problem = _no_config(base)
    if problem or config is None:
        found.problems.append(problem or "")
        return found
    kind = str(config.get("model_type"))
    layout = layout_for(options.architecture, kind, len(shared))
    if isinstance(layout, str):
        found.problems.append(_sentence(layout))
    else:
        found.layout = layout
    if kind in KINDS:
        found.problems += _base_problems(base, kind, config, found.layout)
        for one in [*experts, *shared]:
            found.problems += _sibling_problems(one, base, kind, config)
        found.width = _width(found, experts, "experts")
        found.shared_width = _width(found, shared, "shared experts")
    _vocabularies(found, base, [*experts, *shared], config)
    _router(found, base, experts, shared, options)
    return found


def _no_config(one: Input) -> str | None:
    config = one.model.checkpoint.opened.config
    if config is None:
        return f"`{one.model.label}` has no `config.json`: put it beside the weights"
    numbers = ("num_hidden_layers", "hidden_size", "num_attention_heads")
    wrong = [k for k in numbers if not isinstance(config.get(k), int) or config[k] < 1]
    if config.get("model_type") in KINDS and wrong:
        return f"`config.json` of `{one.model.label}` has no usable {_listed(wrong)}"
    layers, tensors = config.get("num_hidden_layers"), len(one.model.checkpoint.tensors)
    if isinstance(layers, int) and layers > tensors:
        return f"`config.json` of `{one.model.label}` says {layers} layers for {tensors} tensors"
    return None


def _base_problems(
    base: Input, kind: str, config: Mapping[str, Any], layout: Layout | None
) -> Iterator[str]:
    label, tensors = base.model.label, base.model.checkpoint.tensors
    if config.get("quantization_config"):
        yield f"the base `{label}` is quantized: give the weights it was quantized from"
    if layout is not None:
        if layout.name != "qwen3_moe" and config.get("attention_bias"):
            yield (
                f"the attention of the base `{label}` has biases, and `{layout.name}` has no place "
                "for all of them: choose another base"
            )
        if layout.name == "qwen3_moe" and config.get("use_sliding_window"):
            yield (
                f"the base `{label}` slides over its context in some layers, and `qwen3_moe` does "
                "in all or none: set `use_sliding_window` to false in its `config.json`"
            )
    if config.get("mlp_bias"):
        yield f"the MLPs of the base `{label}` have biases, and no mixture has them"
    wanted = outside_the_mlp(KINDS[kind], config, config["num_hidden_layers"])
    outside = {n for n in tensors if not MLP.fullmatch(n) and not is_derived(n)}
    if missing := sorted(wanted - outside):
        yield f"the base `{label}` lacks {_listed(missing)}: is it a whole `{kind}` for text?"
    spare = outside - wanted - {"lm_head.weight"}  # some store a tied head all the same
    if spare:
        yield (
            f"the base `{label}` has {_listed(sorted(spare))}, for which a mixture has no place: "
            "remove it, or choose another base"
        )
    for name in sorted(wanted & outside):
        if not DTYPES[tensors[name].dtype].merges:
            yield f"`{name}` of the base `{label}` is {tensors[name].dtype}: give it dequantized"
            break


def _sibling_problems(
    one: Input, base: Input, kind: str, base_config: Mapping[str, Any]
) -> Iterator[str]:
    label, checkpoint = one.model.label, one.model.checkpoint
    if problem := _no_config(one):
        yield problem
        return
    config = checkpoint.opened.config or {}
    if config.get("model_type") != kind:
        yield (
            f"`{label}` is `{config.get('model_type')}` and the base is `{kind}`: experts must be "
            "fine-tuned from the base, or from what it was made of"
        )
        return
    if config.get("mlp_bias"):
        yield f"the MLPs of `{label}` have biases, and no mixture has them"
    ours, theirs = (spoken(KINDS[kind], c) for c in (base_config, config))
    for key in ("num_hidden_layers", "hidden_size", "hidden_act"):
        if ours.get(key) != theirs.get(key):
            yield f"`{label}` has {key} {theirs.get(key)}, and the base {ours.get(key)}"
            if key != "hidden_act":
                return
    tensors = checkpoint.tensors
    names = [mlp(i, p) for i in range(config["num_hidden_layers"]) for p in PARTS]
    if missing := [n for n in names if n not in tensors]:
        yield f"`{label}` lacks {_listed(missing)}"
        return
    if kinds := sorted({tensors[n].dtype for n in names if not DTYPES[tensors[n].dtype].merges}):
        yield f"`{label}` has MLPs of {_listed(kinds)}: give it dequantized"
    d = config["hidden_size"]
    width = tensors[names[0]].shape[0] if tensors[names[0]].shape else 0
    shapes = {"gate_proj": (width, d), "up_proj": (width, d), "down_proj": (d, width)}
    for name in names:
        wanted = shapes[name.split(".")[-2]]
        if tensors[name].shape != wanted:
            yield f"`{name}` of `{label}` is {tensors[name].shape}, not {wanted}"
            break


def _width(found: Fit, those: Sequence[Input], what: str) -> int:
    """The width of MLPs that must have one; 0 where they cannot be looked at."""
    widths = {}
    for one in those:
        info = one.model.checkpoint.tensors.get(mlp(0, "gate_proj"))
        if info is not None and len(info.shape) == 2:
            widths[one.model.label] = info.shape[0]
    if len(set(widths.values())) > 1:
        each = ", ".join(f"`{label}` {width}" for label, width in widths.items())
        found.problems.append(f"the MLPs of the {what} differ in width: {each}")
    return next(iter(widths.values()), 0)


def _vocabularies(
    found: Fit, base: Input, those: Sequence[Input], config: Mapping[str, Any]
) -> None:
    """Compare what token ids mean: the mixture has the embeddings and the tokenizer of the base."""
    ours, key = _tokenizer(base, found), _fast(base)
    rows = _rows(base)
    seen: set[str] = set()
    for one in those:
        label = one.model.label
        if one.model.digest in (base.model.digest, *seen):
            continue
        seen.add(one.model.digest)
        same_file = key is not None and key == _fast(one)
        theirs = None if same_file else _tokenizer(one, found)
        if ours is not None and theirs is not None:
            moved = [
                f"`{t}` ({ours.vocabulary[t]} and {i})"
                for t, i in theirs.vocabulary.items()
                if ours.vocabulary.get(t, i) != i
            ]
            if moved:
                found.problems.append(
                    f"`{label}` and the base number their tokens differently: "
                    f"{_listed(moved, marks=False)}; choose experts that share the base's tokenizer"
                )
            elif theirs.vocabulary != ours.vocabulary:
                found.notes.append(
                    f"`{label}` knows {len(theirs.vocabulary)} tokens and the base "
                    f"{len(ours.vocabulary)}; the mixture knows the base's"
                )
        elif not same_file and rows != _rows(one):
            found.problems.append(
                f"`{label}` has {_rows(one)} token embeddings and the base {rows}, and without the "
                "tokenizers of both nobody can tell whether their tokens agree: put "
                f"`{FAST}` beside the weights"
            )


def _tokenizer(one: Input, found: Fit) -> Tokenizer | None:
    try:
        return read_tokenizer(one.model.label, {f.path: p for f, p in one.beside.items()})
    except InvalidRecipe:  # in a binary file only
        return None
    except ZooError as error:
        found.problems.append(_sentence(str(error)))
        return None


def _fast(one: Input) -> str | None:
    return next((f.object for f in one.beside if f.path == FAST), None)


def _rows(one: Input) -> int | None:
    info = one.model.checkpoint.tensors.get(EMBEDDINGS)
    return info.shape[0] if info is not None and info.shape else None


def _router(
    found: Fit,
    base: Input,
    experts: Sequence[Input],
    shared: Sequence[Input],
    options: UpcycleOptions,
) -> None:
    """Whether the router can be worked out, and what they will be worth."""
    if options.experts_per_token > len(experts):
        found.problems.append(
            f"`experts_per_token` is {options.experts_per_token}, and there are {len(experts)} "
            "experts"
        )
    if len(experts) & (len(experts) - 1):
        found.notes.append(
            f"{len(experts)} experts are no power of two: llama.cpp will not run the mixture"
        )
    if len({e.model.digest for e in experts}) == 1:
        found.notes.append(
            "all experts are one model: the mixture does what it does, until it is trained"
        )
    if options.gate_mode in DRAWN:
        found.notes.append("the router is drawn at random: train it before use")
        return
    said = said_of(options.experts, len(experts))
    silent = [i for i, e in enumerate(said) if not e.positive_prompts]
    for i in silent:
        found.problems.append(
            f"expert {i}, `{experts[i].model.label}`, has no `positive_prompts`, which "
            f"`gate_mode: {options.gate_mode}` needs: write some, or choose `gate_mode: random`"
        )
    each = [(e.positive_prompts, e.negative_prompts) for e in said]
    if not silent and len(set(each)) == 1:
        found.problems.append(
            "all experts have the same prompts, so the router could not tell them apart: write "
            "for each what it alone is for"
        )
    others = said_of(options.shared_experts, len(shared))
    if any(not e.positive_prompts for e in others):
        found.notes.append("a shared expert without prompts counts half for every token")
    prompts = [p for e in (*said, *others) for p in (*e.positive_prompts, *e.negative_prompts)]
    rows = _rows(base)
    if prompts and rows is not None:
        files = {f.path: p for f, p in base.beside.items()}
        try:
            found.ids = tokenized(base.model.label, files, prompts, rows)
            if options.gate_mode != "cheap_embed" and not found.problems:
                check_runs(base.model.label, base.model.checkpoint.opened.config or {})
        except ZooError as error:
            found.problems += error.facts.get("problems", [str(error)])


def said_of(options: Sequence[ExpertOptions], count: int) -> tuple[ExpertOptions, ...]:
    """What is said of each of so many experts; nothing where nothing is."""
    return tuple(options) or (ExpertOptions(),) * count


def _listed(names: Sequence[str], marks: bool = True) -> str:
    shown = [f"`{n}`" if marks else n for n in names[:SHOWN]]
    more = len(names) - SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _sentence(text: str) -> str:
    return text.rstrip(".")


def config_file(config: Mapping[str, Any]) -> bytes:
    """The content of a `config.json`, keys in their order."""
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def files_of(base: Input) -> dict[str, bytes | Path]:
    """What lies beside the weights of the base and describes the mixture as well."""
    own = {f.path: p for f, p in base.beside.items()}
    return {n: p for n, p in own.items() if n != "config.json" and not n.endswith(".py")}
