"""The cases of mergekit's tests of vocabularies, and what its documented rules make of them.

A case is a mergekit document over models that are named, so that the same list runs here and in
mergekit (`benchmarks/tokenizer_parity.py`).

Source: arcee-ai/mergekit, tests/test_tokenizer.py, test_vocabulary_axis.py and
test_embedding_truncation.py, for what is tried; docs/tokenizer.md for the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_vocabularies import EMBEDDING, HEAD, SPECIAL, State, write_tokenizer, write_weights

WORDS = (*SPECIAL, *(f"_tok_{i}" for i in range(3, 24)))
CHATML = ("<|im_start|>", "<|im_end|>")
UNUSED = tuple(f"<UNUSED_{i}>" for i in range(4))
BIAS = "lm_head.bias"


@dataclass(frozen=True)
class Tiny:
    """A model: its words, what is added to them, and rows where these are not as many."""

    words: Sequence[str] = WORDS
    more: Sequence[str] = ()
    rows: int | None = None
    tied: bool = False
    biased: bool = False

    @property
    def known(self) -> list[str]:
        """Tokens that have a row, by id."""
        every = [*self.words, *self.more]
        return every[: self.rows or len(every)]

    def write(self, path: Path, seed: int) -> State:
        rows = self.rows or len(self.words) + len(self.more)
        write_tokenizer(path, self.words, self.more)
        heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 0}
        about = {"architectures": ["LlamaForCausalLM"], "intermediate_size": 4, **heads}
        state = write_weights(path, rows, seed, tied=self.tied, **about)
        if self.biased:
            from safetensors.torch import save_file

            state[BIAS] = torch.arange(rows) * 1.5 + seed
            save_file(state, path / "model.safetensors", {"format": "pt"})
        return state


MODELS = {
    "plain": Tiny(),
    "chatml": Tiny(more=CHATML),
    "padded": Tiny(more=UNUSED, rows=len(WORDS)),
    "swapped": Tiny((*SPECIAL, *WORDS[:2:-1])),
    "longer": Tiny((*WORDS, "late1", "late2")),
    "roomy": Tiny(rows=32),
    "tied": Tiny(tied=True),
    "tied_chatml": Tiny(more=CHATML, tied=True),
    "biased": Tiny(biased=True),
    "biased_swapped": Tiny((*SPECIAL, *WORDS[:2:-1], "late1"), biased=True),
}


@dataclass(frozen=True)
class Case:
    """Models to average, and the vocabulary of the result."""

    models: tuple[str, ...]
    source: str = "union"
    tokens: Mapping[str, Any] | None = None
    padding: int | None = None
    base: str | None = None
    by_key: bool = False
    """Whether the document says `tokenizer_source`, as it did once."""

    def document(self, place: Path) -> dict[str, Any]:
        source = str(place / self.source) if self.source in MODELS else self.source
        block: dict[str, Any] = {"source": source}
        if self.tokens:
            block["tokens"] = _placed(self.tokens, place)
        if self.padding:
            block["pad_to_multiple_of"] = self.padding
        names = [str(place / m) for m in self.models]
        return {
            "merge_method": "linear",
            "base_model": str(place / self.base) if self.base else names[0],
            "models": [{"model": n, "parameters": {"weight": 1.0}} for n in names],
            "dtype": "float32",
            **({"tokenizer_source": source} if self.by_key else {"tokenizer": block}),
        }


CASES = {
    "source_base": Case(("plain", "padded", "chatml"), "base"),
    "source_union": Case(("plain", "padded", "chatml")),
    "source_model": Case(("plain", "padded", "chatml"), "chatml"),
    "source_by_the_old_key": Case(("plain", "chatml"), "union", by_key=True),
    "source_base_by_the_old_key": Case(("plain", "chatml"), "base", by_key=True),
    "one_model_and_its_own_tokenizer": Case(("chatml",), "base"),
    "force_token": Case(
        ("plain", "chatml"),
        tokens={
            "_tok_10": {"source": "chatml", "force": True},
            "_tok_11": {"source": "plain", "force": True},
        },
    ),
    "token_without_force_keeps_each_models_row": Case(
        ("plain", "chatml"), tokens={"_tok_10": {"source": "chatml"}}
    ),
    "special_token_of_a_model_for_those_that_lack_it": Case(
        ("plain", "chatml"), tokens={CHATML[0]: {"source": "chatml"}}
    ),
    "model_token_by_id_and_by_text": Case(
        ("plain", "chatml"),
        "base",
        {
            "_tok_20": {
                "source": {"kind": "model_token", "model": "chatml", "token_id": len(WORDS)},
                "force": True,
            },
            "_tok_21": {
                "source": {"kind": "model_token", "model": "plain", "token": "<s>"},
                "force": True,
            },
        },
    ),
    "zero": Case(
        ("plain", "chatml"), tokens={CHATML[0]: {"source": {"kind": "zero"}, "force": True}}
    ),
    "new_token_from_another": Case(
        ("plain", "chatml"),
        "base",
        {"<end>": {"source": {"kind": "model_token", "model": "plain", "token": "</s>"}}},
    ),
    "pad_to_multiple_of": Case(("chatml",), "base", padding=16),
    "pad_that_is_whole_already": Case(("chatml",), "base", padding=13),
    "pad_a_union": Case(("plain", "chatml"), padding=32),
    "vocabulary_longer_than_embeddings": Case(("padded", "chatml")),
    "tokens_in_another_order": Case(("plain", "swapped")),
    "tokens_in_another_order_from_the_second": Case(("plain", "swapped"), "swapped"),
    "a_longer_vocabulary": Case(("plain", "longer"), "base"),
    "a_longer_vocabulary_joined": Case(("plain", "longer")),
    "tied_heads": Case(("tied", "tied_chatml")),
    "biases_of_heads_move_with_their_rows": Case(("biased", "biased_swapped")),
    "biases_of_heads_in_the_bases_vocabulary": Case(("biased", "biased_swapped"), "base"),
    "embeddings_longer_than_vocabulary": Case(("roomy", "chatml")),
}


def _placed(value: Any, place: Path) -> Any:
    """Rules with directories for names."""
    if isinstance(value, Mapping):
        return {
            k: str(place / v)
            if isinstance(v, str) and k in ("source", "model")
            else _placed(v, place)
            for k, v in value.items()
        }
    return value


def expected_tokens(case: Case) -> set[str]:
    """The vocabulary that the rules give."""
    known = {m: MODELS[m].known for m in case.models}
    first = case.base or case.models[0]
    if case.source == "union":
        found = {t for tokens in known.values() for t in tokens}
    else:
        found = set(MODELS[first if case.source == "base" else case.source].known)
    return found | set(case.tokens or {})


def expected_row(case: Case, states: Mapping[str, State], token: str, name: str) -> torch.Tensor:
    """The mean over the models of the row that the rules give each, in float64."""
    tables = {m: states[m][name].double() for m in case.models}
    known = {m: {t: i for i, t in enumerate(MODELS[m].known)} for m in case.models}
    first = case.base or case.models[0]
    having = [m for m in case.models if token in known[m]]
    rule = (case.tokens or {}).get(token)
    if rule is not None:
        default = _ruled(rule["source"], token, tables, known)
    elif len(having) != 1 and token in known[first]:
        default = tables[first][known[first][token]]
    elif having:
        default = torch.stack([tables[m][known[m][token]] for m in having]).mean(0)
    else:
        default = torch.zeros_like(tables[first][0])
    forced = rule is not None and rule.get("force", False)
    rows = [
        tables[m][known[m][token]] if token in known[m] and not forced else default
        for m in case.models
    ]
    return torch.stack(rows).mean(0)


def _ruled(
    source: Any,
    token: str,
    tables: Mapping[str, torch.Tensor],
    known: Mapping[str, Mapping[str, int]],
) -> torch.Tensor:
    if isinstance(source, str):
        return tables[source][known[source][token]]
    if source["kind"] == "zero":
        return torch.zeros_like(next(iter(tables.values()))[0])
    model = source["model"]
    number = source.get("token_id")
    return tables[model][known[model][source["token"]] if number is None else number]


def tensors_of(case: Case) -> tuple[str, ...]:
    biased = all(MODELS[m].biased for m in case.models)
    return (EMBEDDING, HEAD, *([BIAS] if biased else []))
