"""Models of different vocabularies, merged: every model is shown with the result's.

Row i of the embeddings and of the output head belongs to token i. A `Vocabulary` says for each
model which row that is: its own; of a token it lacks the base's, or that of the one model that has
it, or the average of those that do; zeros where none has. A recipe may have other rows in place of
these (`missing`). A `Reindexed` checkpoint shows a model so, and reads the rows where they are: the
engine merges equal shapes and knows nothing of tokens.

Models of equal weights are told apart by their files: a model may stand beside itself with other
tokens. A lock names the second of them by its digest and `#2`.

Source: mergekit's tokenizer option, whose rules these are. Departs: where mergekit's order of
models, and so the ids of new tokens, change from run to run, ours is the recipe's; a token that
has a rule and is in the learned vocabulary already is tokenized as before; padding of embeddings
counts as no token's even where the tokenizer names it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.dtypes import DTYPES
from zoo.errors import IncompatibleModels, InvalidRecipe, StoreError, ZooError
from zoo.recipes.tokenizer_block import TokenizerBlock, TokenRule, read_tokenizer_block
from zoo.tokenizers.chat_templates import chosen_template
from zoo.tokenizers.reindexed import AVERAGE, MEAN, OWN_MEAN, SUM, ZERO, Reindexed, Row, Rows
from zoo.tokenizers.spelling import Spelling
from zoo.tokenizers.token_ids import TEXT_PARTS, Now, now_of, of_tokenizer, renumbered
from zoo.tokenizers.tokenizer import FILES, Tokenizer, read_object, read_tokenizer
from zoo.tokenizers.transplant import Lacking

if TYPE_CHECKING:
    from zoo.contract import Method
    from zoo.engine.inputs import Input, Inputs
    from zoo.recipes.recipe import Recipe
    from zoo.registry import Registry

EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|embeddings)\.weight$"
    r"|^(?:model\.)?shared\.weight$"
)
HEAD = re.compile(
    r"(?:^|\.)(?:lm_head(?:\.linear|\.decoder)?|embed_out|output_layer|vocab_projector)"
    r"\.(?:weight|bias)$"
    r"|^output\.(?:weight|bias)$"
    r"|^cls\.predictions\.(?:decoder\.(?:weight|bias)|bias)$"
)


class Identity(NamedTuple):
    """What tells one input of a merge from another."""

    weights: str
    """Weights digest."""
    config: str | None
    """Object key of its config.json."""
    tokenizer: tuple[tuple[str, str], ...]
    """Its tokenizer's files by path, and the object keys of their bytes."""


@dataclass(frozen=True)
class Vocabulary:
    """The result's vocabulary, and every model's rows in it."""

    tokenizer: Tokenizer
    rows: int
    """Of the embeddings: one per token, and padding."""
    by_model: Mapping[Identity, Rows]
    """`Row.model` counts `order`."""
    order: tuple[Identity, ...]
    dtype: str | None
    """The type the recipe asks for."""
    before: Mapping[str, int]
    """Token -> id in the donor's tokenizer, whose ids its configurations name."""
    source: Identity | None
    """The model whose tokenizer it is, where that is another than the donor."""
    notes: tuple[str, ...] = ()

    def renumbered(self, config: Mapping[str, Any], inputs: Inputs, name: str) -> dict[str, Any]:
        """A configuration of the donor, with the ids that tokens have now.

        Args:
            name: `config.json`, or `generation_config.json`.
        """
        found, _ = renumbered(config, self._now)
        if self.source is None:
            return found
        one = next(i for i in _parents(inputs) if identity(i) == self.source)
        said = _said(one, "config.json")
        if name != "config.json":
            said |= _said(one, name)
        special = of_tokenizer(said, self._now_of_source(one))
        parts = [part for part in (found, *text_parts(found)) if "vocab_size" in part] or [found]
        for part in parts:
            part.update(special)
        for part in (found, *text_parts(found)):
            part.update({k: v for k, v in special.items() if k in part})
        return found

    @property
    def _now(self) -> Now:
        return now_of(self.before, self.tokenizer.vocabulary)

    def _now_of_source(self, one: Input) -> Now:
        files = {r.path: p for r, p in one.beside.items()}
        own = read_tokenizer(one.model.label, files)
        before = own.vocabulary if own else self.before
        return now_of(before, self.tokenizer.vocabulary)

    def over(self, inputs: Inputs) -> Inputs:
        """The inputs, each shown with this vocabulary."""
        raw = {identity(i): i.model.checkpoint for i in _parents(inputs)}
        models = [raw[one] for one in self.order]

        def shown(one: Input) -> Input:
            model = one.model
            infos = {
                name: replace(info, dtype=self._dtype(info), shape=(self.rows, *info.shape[1:]))
                for name, info in model.checkpoint.tensors.items()
                if is_of_tokens(name) and info.shape
            }
            view = Reindexed(model.checkpoint, models, self.by_model[identity(one)], infos)
            digests = {n: d for n, d in model.digests.items() if n not in infos}
            return replace(one, model=replace(model, checkpoint=view, digests=digests))

        base = shown(inputs.base) if inputs.base else None
        return replace(inputs, experts=tuple(map(shown, inputs.experts)), base=base)

    def _dtype(self, info: TensorInfo) -> str:
        """Averages of rows are not rounded to less than what the result holds."""
        wider = self.dtype in ("F32", "F64") and DTYPES[info.dtype].bits < 32
        return "F32" if wider else info.dtype


def settled(recipe: Recipe, method: Method, inputs: Inputs, registry: Registry) -> dict[str, Any]:
    """What the lock says of donor and tokenizer: models by digest, and the digests of the files.

    Raises:
        InvalidRecipe: the block names a model that is not merged, or a template that is none.
    """
    keys = _keys(inputs)
    known = {i.model.label: keys[identity(i)] for i in reversed(_parents(inputs))}
    # The recipe's own names: a stage is a version by now, and called otherwise. A query has none.
    own = zip([e.model for e in recipe.experts], inputs.experts, strict=False)
    for name, one in ((recipe.base, inputs.base), (recipe.donor, inputs.giver), *own):
        if name is not None and one is not None:
            known[name] = keys[identity(one)]

    def key(name: str) -> str:
        found = known.get(name) or _registered(registry, name)
        if found not in known.values():
            raise InvalidRecipe(
                f"The tokenizer block names `{name}`, which is none of the models merged.",
                "Its tokens and rows are not at hand.",
                "Rules for tokens name the base, an expert, or the model whose tokenizer it is.",
                model=name,
            )
        assert found is not None
        return found

    template = None
    if recipe.chat_template is not None:
        every = [{r.path: p for r, p in i.beside.items()} for i in _merged(inputs)]
        if not every[0].keys() & FILES:
            raise InvalidRecipe(
                f"`{inputs.donor.model.label}` has no tokenizer, so no place for `chat_template`.",
                how="Put its tokenizer files beside the weights, or leave out `chat_template`.",
            )
        template = chosen_template(recipe.chat_template, every)
    donor = inputs.giver.model.digest if inputs.giver else None
    if recipe.tokenizer is None:
        return {"donor": donor, "tokenizer": None, "chat_template": template}
    if method.needs == "data":
        raise InvalidRecipe(
            f"Method `{method.name}` runs its models, each with its own tokens,",
            "and cannot take a `tokenizer` block.",
            method=method.name,
        )
    block = recipe.tokenizer.as_dict(key)
    files = {keys[identity(i)]: dict(identity(i).tokenizer) for i in _parents(inputs)}
    files_read = {**block, "files": files}
    return {"donor": donor, "tokenizer": files_read, "chat_template": template}


def _registered(registry: Registry, name: str) -> str | None:
    try:
        return registry.get(name).digest
    except ZooError:
        return None


def shown(inputs: Inputs, lock: Mapping[str, Any]) -> tuple[Inputs, Vocabulary | None]:
    """The inputs with the vocabulary that a lock asks for; as they are where it asks for none.

    Raises:
        InvalidRecipe: a rule that no row fits, or a tokenizer that cannot be read.
        StoreError: a tokenizer is not the one that the lock was made with.
    """
    block = lock["tokenizer"]
    if block is None:
        return inputs, None
    keys, files = _keys(inputs), block["files"]
    stands = {one: _standing_for(one, keys, files) for one in keys}
    for parent in _parents(inputs):
        one = identity(parent)
        if stands[one] == one and dict(one.tokenizer) != files[keys[one]]:
            raise StoreError(
                f"The tokenizer of `{parent.model.label}` is not the one this merge is made with:",
                "its weights are, and its tokenizer files differ.",
                "Register the model with its own tokenizer under another name.",
                model=parent.model.label,
            )
    asked = {k: v for k, v in block.items() if k != "files"}
    joint = _Union(inputs, stands, keys, read_tokenizer_block(asked, str), lock["dtype"])
    made = joint.vocabulary()
    return made.over(inputs), made


def _standing_for(
    one: Identity, keys: Mapping[Identity, str], files: Mapping[str, Mapping[str, str]]
) -> Identity:
    """The model itself; or, in a lock of a release that knew models by their weights alone, the
    one of these weights that it took."""
    if keys[one] in files:
        return one
    alike = [o for o in keys if o.weights == one.weights]
    return next((o for o in alike if dict(o.tokenizer) == files.get(o.weights)), alike[0])


def remedy(tensor: str, a: Sequence[int], b: Sequence[int]) -> str:
    """What to do about a tensor of two shapes, if it is the vocabularies that differ."""
    if not is_of_tokens(tensor) or not a or not b or a[0] == b[0] or a[1:] != b[1:]:
        return ""
    return (
        ": their vocabularies differ, and `tokenizer: {source: union}` in the recipe "
        "(or `base`, or one of the models) says whose the result has; `mismatch: crop` keeps the "
        "rows that all have"
    )


class _Union:
    """Works out a vocabulary."""

    def __init__(
        self,
        inputs: Inputs,
        stands: Mapping[Identity, Identity],
        keys: Mapping[Identity, str],
        block: TokenizerBlock,
        dtype: str | None,
    ) -> None:
        self.block, self.dtype, self.stands = block, dtype, stands
        parents = {identity(i): i for i in _parents(inputs)}
        self.order = tuple(one for one in parents if stands[one] == one)
        self.named = {keys[one]: n for n, one in reversed([*enumerate(self.order)])}
        """What a lock calls a model -> its number."""
        base = inputs.base or inputs.giver  # mergekit's base, where it is not the method's
        self.base = self.order.index(stands[identity(base)]) if base else None
        self.giver = 0 if block.source in ("union", "base") else self.named[block.source]
        """The number of the model whose tokenizer the result has, or begins with."""
        self.models = [parents[one].model for one in self.order]
        self.heights = [_height(m.label, m.checkpoint) for m in self.models]
        self.notes: list[str] = []
        self.own: list[Tokenizer] = []
        self.tokenizers: list[Tokenizer] = []
        """As they were read; `own` is without the tokens that have no row."""
        self.merged = len({stands[identity(i)] for i in _merged(inputs)})
        """Models that are merged; one that gives its tokenizer alone comes after them."""
        for one, height in zip(self.order, self.heights, strict=True):
            model = parents[one].model
            found = read_tokenizer(model.label, {r.path: p for r, p in parents[one].beside.items()})
            if found is None and 0 < len(self.tokenizers) < self.merged:
                self.notes.append(
                    f"`{model.label}` has no tokenizer; its tokens are taken to be those of "
                    f"`{self.models[0].label}`"
                )
                found = self.tokenizers[0]
            if found is None:
                raise InvalidRecipe(
                    f"`{model.label}` has no tokenizer.",
                    "The recipe asks for the vocabulary that it says.",
                    "Put its `tokenizer.json` beside the weights, or leave out `tokenizer`.",
                    model=model.label,
                )
            self.tokenizers.append(found)
            self.own.append(found.limited(height))
        self.spellings = [Spelling(t) for t in self.own] if block.spelt else []

    def _row(self, model: int, token: str, writer: int) -> int | None:
        """A model's row of a token.

        Args:
            writer: the model in whose tokenizer it is written so.
        """
        own = self.own[model].vocabulary
        if not self.spellings or (
            token in own and self.spellings[model].by_bytes == self.spellings[writer].by_bytes
        ):
            return own.get(token)
        return self.spellings[model].id_of(self.spellings[writer].of(token))

    def vocabulary(self) -> Vocabulary:
        chosen = self._union() if self.block.source == "union" else self.own[self.giver]
        chosen = chosen.extended((t, None) for t in self.block.tokens)
        ids = chosen.vocabulary
        height = max(ids.values(), default=-1) + 1
        padding = self.block.pad_to_multiple_of or 1
        rows = -(-height // padding) * padding
        defaults = self._defaults(ids)
        made = [self._rows(n, ids, defaults, height, rows) for n in range(self.merged)]
        merged = dict(zip(self.order, made, strict=False))
        by_model = {one: merged[own] for one, own in self.stands.items() if own in merged}
        before = self.tokenizers[0].vocabulary
        config = self.models[0].checkpoint.opened.config or {}
        for key in renumbered(config, now_of(before, ids))[1]:
            self.notes.append(f"`{key}` of the configuration names a token that is gone")
        return Vocabulary(
            chosen,
            rows,
            by_model,
            self.order,
            self.dtype,
            before,
            self.order[self.giver] if self.giver else None,
            tuple(self.notes),
        )

    def _union(self) -> Tokenizer:
        """The donor's vocabulary; then what other models learned; then what was added to them."""
        special: dict[str, Mapping[str, Any]] = {}
        unlike: list[str] = []
        for tokenizer in self.own:
            for token, how in tokenizer.added.items():
                if special.setdefault(token, how) != how and token not in unlike:
                    unlike.append(token)
        if unlike:
            self.notes.append(
                f"{len(unlike)} added tokens are matched differently by some models, "
                f"first `{unlike[0]}`: the first model's way is kept"
            )
        learned = {t: None for tok in self.own for t in tok.vocabulary if t not in special}
        return self.own[0].extended([*learned.items(), *special.items()])

    def _defaults(self, ids: Mapping[str, int]) -> dict[str, tuple[Row, ...]]:
        """The row of each token for models that lack it: rows to average, none for zeros."""
        found: dict[str, tuple[Row, ...]] = {}
        orphans = []
        for token in ids:
            if token in self.block.tokens:
                found[token] = self._ruled(token, self.block.tokens[token])
                continue
            having = tuple(
                Row(m, row)
                for m in range(self.merged)
                if (row := self._row(m, token, self.giver)) is not None
            )
            having = tuple(r for r in having if r.model == self.base) or having
            if not having:
                orphans.append(token)
            found[token] = having
        kind = self.block.missing.kind
        if orphans and (kind in ("average", "zero") or self.merged == len(self.own)):
            remedy = "" if self.merged == len(self.own) else "; `missing: {kind: omp}` makes better"
            self.notes.append(
                f"{len(orphans)} tokens have no embedding in any model, first `{orphans[0]}`: "
                f"their rows are {'the mean of all' if kind == 'mean' else 'zeros'}{remedy}"
            )
        return found

    def _ruled(self, token: str, rule: TokenRule) -> tuple[Row, ...]:
        if rule.model is None:
            return ()
        model = self.named[rule.model]
        if model >= self.merged:
            raise InvalidRecipe(
                f"The rule of token `{token}` takes a row of `{self.models[model].label}`,",
                "which gives its tokenizer and is not merged: its rows are of another space.",
                "Name a model that is merged, or say `missing: {kind: omp}` for all such tokens.",
                token=token,
            )
        row = rule.token_id
        if row is None:
            row = self.own[model].vocabulary.get(rule.token or token, -1)
        if not 0 <= row < self.heights[model]:
            wanted = f"id {row}" if rule.token_id is not None else f"token `{rule.token or token}`"
            raise InvalidRecipe(
                f"The rule of token `{token}` takes {wanted} of `{self.models[model].label}`,",
                "which has no such row.",
                "Name a model that has the token, or another token with `kind: model_token`.",
                token=token,
            )
        return (Row(model, row),)

    def _rows(
        self,
        model: int,
        ids: Mapping[str, int],
        defaults: Mapping[str, tuple[Row, ...]],
        height: int,
        count: int,
    ) -> Rows:
        taken = set(self.own[model].vocabulary.values())
        rules = self.block.tokens
        models, rows = array("i", [MEAN]) * count, array("i", [0]) * count
        for hole in set(range(height)) - set(ids.values()):  # ids that no token has
            unused = hole < self.heights[model] and hole not in taken
            models[hole], rows[hole] = (model, hole) if unused else (ZERO, 0)
        averages = {}
        lacks = []
        for token, number in ids.items():
            own = self._row(model, token, self.giver)
            if own is not None and not (token in rules and rules[token].force):
                models[number], rows[number] = model, own
            elif token not in rules and self.block.missing.kind != "average":
                lacks.append(token)
            elif len(sources := defaults[token]) == 1:
                models[number], rows[number] = sources[0]
            elif sources:
                models[number], averages[number] = AVERAGE, sources
            else:
                models[number] = ZERO
        lacking = self._lacking(model, lacks) if self.block.missing.kind == "omp" else {}
        found = {token: i for i, token in enumerate(t for one in lacking.values() for t in one)}
        otherwise = OWN_MEAN if self.block.missing.kind == "mean" else ZERO
        for token in lacks:
            models[ids[token]] = SUM if token in found else otherwise
            rows[ids[token]] = found.get(token, 0)
        firsts, runs = [], []
        for i, (m, r) in enumerate(zip(models, rows, strict=True)):
            counted = m >= 0 or m == SUM
            follows = i > 0 and m == models[i - 1] and (not counted or r == rows[i - 1] + 1)
            if not follows:
                firsts.append(i)
                runs.append(Row(m, r))
        sums = tuple(self._summed(model, donor, tokens) for donor, tokens in lacking.items())
        return Rows(count, firsts, runs, averages, height, self.heights[model], sums)

    def _lacking(self, model: int, tokens: Sequence[str]) -> dict[int, list[str]]:
        """Donor -> tokens that are worked out in its embeddings: the model whose vocabulary the
        result has, or else the base, or else the first that has the token."""
        first = [self.giver] if self.block.source not in ("union", "base") else []
        first += [] if self.base is None else [self.base]
        donors = [n for n in dict.fromkeys([*first, *range(len(self.order))]) if n != model]
        found: dict[int, list[str]] = {}
        for token in tokens:
            having = (n for n in donors if self._row(n, token, self.giver) is not None)
            if (donor := next(having, None)) is not None:
                found.setdefault(donor, []).append(token)
        return found

    def _summed(self, model: int, donor: int, tokens: Sequence[str]) -> Lacking:
        import numpy as np

        shared = [
            (theirs, ours)
            for token, theirs in self.own[donor].vocabulary.items()
            if (ours := self._row(model, token, donor)) is not None
        ]
        wanted = [self._row(donor, token, self.giver) for token in tokens]
        k = self.block.missing.k
        assert k is not None
        if not shared:
            raise InvalidRecipe(
                f"`{self.models[model].label}` and `{self.models[donor].label}` share no token,",
                "and `missing: {kind: omp}` writes tokens as sums of shared ones.",
                "Say `missing: {kind: mean}`, or choose models of related vocabularies.",
            )
        self.notes.append(
            f"{len(tokens)} tokens that `{self.models[model].label}` lacks are sums of up to "
            f"{min(k, len(shared))} of the {len(shared)} it shares with "
            f"`{self.models[donor].label}`"
        )
        return Lacking(
            donor,
            np.array(wanted, dtype=np.int64),
            np.array([theirs for theirs, _ in shared], dtype=np.int64),
            np.array([ours for _, ours in shared], dtype=np.int64),
            k,
        )


def identity(one: Input) -> Identity:
    files = ((r.path, r.object) for r in one.beside if r.path in FILES)
    return Identity(one.model.digest, one.config, tuple(sorted(files)))


def _merged(inputs: Inputs) -> list[Input]:
    """The models merged, each once, the donor first."""
    every = [inputs.donor, *([inputs.base] if inputs.base else []), *inputs.experts]
    return list({identity(i): i for i in every}.values())


def _parents(inputs: Inputs) -> list[Input]:
    """The models merged, and the one that gives its tokenizer alone."""
    return [*_merged(inputs), *([inputs.speaker] if inputs.speaker else [])]


def speaker_of(
    recipe: Recipe, merged: Iterable[Input | None], open_: Callable[[str], Input]
) -> Input | None:
    """The model that a recipe takes the tokenizer of, where it is none of those merged.

    Args:
        merged: base, experts and donor.
        open_: opens a model by what a recipe calls it.
    Raises:
        InvalidRecipe: there is no such model.
    """
    name = recipe.tokenizer.source if recipe.tokenizer else "base"
    own = [recipe.base, recipe.donor, *(e.model for e in recipe.experts)]
    if name in ("union", "base", *own):
        return None
    try:
        found = open_(name)
    except ZooError as error:
        raise InvalidRecipe(
            f"The tokenizer block names `{name}`, which is none of the models merged,",
            f"and cannot be opened: {error.what}",
            "Name a model of the recipe, an entry, or a directory with weights and a tokenizer.",
            model=name,
        ) from error
    # It may be one of them by another name.
    known = {identity(i) for i in merged if i is not None}
    return None if identity(found) in known else found


def names_in_lock(inputs: Inputs) -> dict[str, str]:
    """What a lock's tokenizer block calls each model -> its label."""
    return {key: i.model.label for i in _parents(inputs) for key in [_keys(inputs)[identity(i)]]}


def _said(one: Input, name: str) -> dict[str, Any]:
    """What a configuration of a model says, of its text part before all."""
    path = next((p for r, p in one.beside.items() if r.path == name), None)
    found = read_object(path) if path else {}
    for part in text_parts(found):
        found = {**found, **part}
    return found


def _keys(inputs: Inputs) -> dict[Identity, str]:
    """What a lock calls each model: by its weights, and the second with others' by a number."""
    found = {}
    seen: dict[str, list[Any]] = {}
    for one in map(identity, _parents(inputs)):
        known = seen.setdefault(one.weights, [])
        if one.tokenizer not in known:
            known.append(one.tokenizer)
        number = known.index(one.tokenizer) + 1
        found[one] = one.weights if number == 1 else f"{one.weights}#{number}"
    return found


def is_of_tokens(name: str) -> bool:
    """Whether a tensor has a row for every token: the embeddings, or the head."""
    return bool(EMBEDDING.search(name) or HEAD.search(name))


def _height(label: str, checkpoint: Checkpoint) -> int:
    """Rows that all of a model's embeddings and heads have, and that the configuration says are
    used."""
    tensors = checkpoint.tensors
    if not any(EMBEDDING.search(n) and t.shape for n, t in tensors.items()):
        raise IncompatibleModels(
            f"`{label}` has no embeddings:",
            "zoo knows them by name (`embed_tokens`, `wte`, `word_embeddings` and the like).",
            "Leave out `tokenizer` for a model without a vocabulary.",
            problems=[f"`{label}` has no embeddings that a vocabulary could be matched with"],
        )
    heights = [t.shape[0] for n, t in tensors.items() if is_of_tokens(n) and t.shape]
    config = checkpoint.opened.config or {}
    said = [part.get("vocab_size") for part in (config, *text_parts(config))]
    return min([*heights, *(s for s in said if isinstance(s, int) and s > 0)])


def text_parts(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a configuration that describe the language model in a larger one."""
    return [part for n in TEXT_PARTS if isinstance(part := config.get(n), dict)]
