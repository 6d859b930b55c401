"""The `tokenizer` block of a recipe: whose vocabulary the result has, and its tokens' rows.

    tokenizer:
      source: union                # of all models; or `base`; or a model, merged or not
      tokens:
        "<|im_start|>": {source: chat@2, force: true}
        "<pad>": {source: {kind: zero}}
        "<end>": {source: {kind: model_token, model: math@1, token: "</s>"}}    # or token_id: 2
      pad_to_multiple_of: 64       # rows of the embeddings
      missing: {kind: omp, k: 64}  # rows of all other tokens that a model lacks; see below
      match: spelling              # `Ġred` and `▁red` are one token; else they must be the same

A token that has a rule and is nowhere yet is added. The rule gives the row that a model without
the token takes; with `force`, every model takes it. mergekit writes the block in the same way.

What `missing` makes of a token that a model lacks and no rule is for:

    average         the base's row, else the average of those that have it (as mergekit does)
    zero            zeros
    mean            the mean of the model's own rows
    omp             the token is written as a sum of k tokens that both models know, in a model
                    that has it, and the same sum is taken of the model's own rows; see
                    `zoo.tokenizers.transplant`

The first two take rows of other models as they are, which means something where the models were
trained from one; the last two do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import InvalidRecipe, did_you_mean

_KEYS = ("source", "tokens", "pad_to_multiple_of", "missing", "match")
_KINDS = ("average", "zero", "mean", "omp")
USUAL_K, MOST_K = 64, 1024
_RULE_KEYS = ("source", "force")
_SOURCE_KEYS = {"zero": ("kind",), "model_token": ("kind", "model", "token", "token_id")}
MOST_ROWS = 2**20
"""Padding beyond a million rows is a slip."""


@dataclass(frozen=True, slots=True)
class TokenRule:
    """The row of one token."""

    model: str | None
    """Whose row; None for zeros."""
    token: str | None = None
    """Another token of that model, whose row it is."""
    token_id: int | None = None
    """The same, by its id."""
    force: bool = False
    """For all models, not only those that lack the token."""

    def as_dict(self, names: Callable[[str], str]) -> dict[str, Any]:
        source: Any
        if self.model is None:
            source = {"kind": "zero"}
        elif self.token is None and self.token_id is None:
            source = names(self.model)
        else:
            other = {"token": self.token} if self.token is not None else {"token_id": self.token_id}
            source = {"kind": "model_token", "model": names(self.model), **other}
        return {"source": source, "force": self.force}


@dataclass(frozen=True, slots=True)
class Missing:
    """The rows of tokens that a model lacks."""

    kind: str = "average"
    k: int | None = None
    """Tokens in a sum, for `omp`."""

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind} | ({} if self.k is None else {"k": self.k})


@dataclass(frozen=True, slots=True)
class TokenizerBlock:
    """What the result's vocabulary is made of."""

    source: str = "union"
    """`union`, `base`, or one of the models."""
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None
    missing: Missing = Missing()
    spelt: bool = False
    """Whether tokens are matched by what they spell, not by how they are written."""

    def as_dict(self, names: Callable[[str], str]) -> dict[str, Any]:
        """As it is read, with every model called what `names` says."""
        # Recipes of earlier releases have neither of these, and keep their digests.
        said: dict[str, Any] = {"match": "spelling"} if self.spelt else {}
        if self.missing != Missing():
            said["missing"] = self.missing.as_dict()
        return {
            "source": self.source if self.source in ("union", "base") else names(self.source),
            "tokens": {t: rule.as_dict(names) for t, rule in self.tokens.items()},
            "pad_to_multiple_of": self.pad_to_multiple_of,
            **said,
        }


def read_tokenizer_block(value: Any, model: Callable[[Any], str]) -> TokenizerBlock:
    """Read a block.

    Args:
        model: what a model is called, from how the document names it.
    Raises:
        InvalidRecipe: unknown key, wrong kind of value; says which.
    """
    block = _map(value, "tokenizer", _KEYS)
    source = block.get("source", "union")
    padding = block.get("pad_to_multiple_of")
    if padding is not None and (
        isinstance(padding, bool) or not isinstance(padding, int) or not 0 < padding <= MOST_ROWS
    ):
        raise InvalidRecipe(
            f"`pad_to_multiple_of` must be an integer from 1 to {MOST_ROWS}, not {padding!r}.",
            key="pad_to_multiple_of",
        )
    rules = _map(block.get("tokens") or {}, "tokens", None)
    return TokenizerBlock(
        source if source in ("union", "base") else model(source),
        {token: _rule(token, rule, model) for token, rule in rules.items()},
        padding,
        _missing(block.get("missing")),
        _spelt(block.get("match"), source),
    )


def _spelt(value: Any, source: Any) -> bool:
    if value not in (None, "exact", "spelling"):
        raise InvalidRecipe(
            f"`match` of a tokenizer cannot be {value!r}.",
            how=did_you_mean(str(value), ("exact", "spelling")),
            key="match",
        )
    if value == "spelling" and source == "union":
        raise InvalidRecipe(
            "A union is of tokens as they are written, and cannot have `match: spelling`.",
            how="Name the model whose tokenizer the result has as `source`.",
            key="match",
        )
    return bool(value == "spelling")


def _missing(value: Any) -> Missing:
    if value is None:
        return Missing()
    found = _map(value, "missing", ("kind", "k"))
    kind, k = found.get("kind"), found.get("k")
    if kind not in _KINDS:
        raise InvalidRecipe(
            f"`kind` in `missing` cannot be {kind!r}.", how=did_you_mean(str(kind), _KINDS)
        )
    if kind != "omp":
        if k is not None:
            raise InvalidRecipe(f"`missing` of kind `{kind}` has no `k`.", key="k")
        return Missing(kind)
    k = USUAL_K if k is None else k
    if isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= MOST_K:
        raise InvalidRecipe(
            f"`k` in `missing` must be an integer from 1 to {MOST_K}, not {k!r}.", key="k"
        )
    return Missing(kind, k)


def _rule(token: Any, value: Any, model: Callable[[Any], str]) -> TokenRule:
    if not isinstance(token, str) or not token:
        raise InvalidRecipe(f"A token is text, not {token!r}.", how="Put it in quotes.")
    where = f"the rule of token `{token}`"
    rule = _map(value, where, _RULE_KEYS)
    source, force = rule.get("source"), rule.get("force", False)
    if not isinstance(force, bool):
        raise InvalidRecipe(f"`force` in {where} must be true or false, not {force!r}.")
    if source is None:
        raise InvalidRecipe(
            f"{where.capitalize()} has no `source`.",
            how="Name a model, or say `source: {kind: zero}`.",
            token=token,
        )
    if not isinstance(source, Mapping) or "kind" not in source:
        return TokenRule(model(source), force=force)
    kind = source["kind"]
    if kind not in _SOURCE_KEYS:
        raise InvalidRecipe(
            f"`kind` in {where} cannot be {kind!r}.", how=did_you_mean(str(kind), [*_SOURCE_KEYS])
        )
    own = _map(source, where, _SOURCE_KEYS[kind])
    if kind == "zero":
        return TokenRule(None, force=force)
    text, number = own.get("token"), own.get("token_id")
    named = isinstance(text, str) and number is None
    numbered = text is None and isinstance(number, int) and not isinstance(number, bool)
    if "model" not in own or not (named or numbered):
        raise InvalidRecipe(
            f"`model_token` in {where} takes a `model` and either a `token` or a `token_id`.",
            token=token,
        )
    return TokenRule(model(own["model"]), text, number, force)


def _map(value: Any, where: str, known: tuple[str, ...] | None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRecipe(f"`{where}` must be a map, not {value!r}.", key=where)
    for key in value:
        if known is not None and key not in known:
            raise InvalidRecipe(
                f"Unknown key `{key}` in {where}.", how=did_you_mean(str(key), known), key=key
            )
    return dict(value)
