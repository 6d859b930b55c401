"""Models made to fit each other: where a recipe allows it, and where only a name stands between.

    missing: base       tensors an expert lacks are the base's; what only it has is left out
    mismatch: crop      embeddings and heads of different sizes are cut to the block all have

A head that a configuration ties to the embeddings is stored by some models and not by others:
where one stores it, the embeddings of the others stand for theirs; where the result would have none
and all that store it are tied, it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from zoo.checkpoints.tied_heads import embeddings_of, head_of, is_tied, tied_pair
from zoo.checkpoints.views import Piece, pieces_of, view
from zoo.engine.plan import Model, Place, listed
from zoo.tokenizers.vocabulary import is_of_tokens, text_parts


@dataclass
class Fitted:
    """Models that fit, or as nearly as the recipe allows."""

    experts: list[Model]
    base: Model | None
    config: Mapping[str, Any] | None
    """The result's."""
    notes: list[str] = field(default_factory=list)


def fitted(
    lock: Mapping[str, Any],
    experts: Sequence[Model],
    base: Model | None,
    config: Mapping[str, Any] | None,
    places: Mapping[str, Place] | None,
) -> Fitted:
    """The models, changed where the lock allows it; what needs no change stays what it is.

    Args:
        config: the donor's.
        places: where models are views of slices, the tensors they are made of.
    """
    models = [*([base] if base else []), *experts]
    found = Fitted([], None, config)
    pieces = [pieces_of(m) for m in models]
    untied = _with_heads(models, pieces, places, found)
    if lock["missing"] == "base":
        _with_missing(models, pieces, base is not None, places, found)
    rows = _cropped(pieces, found) if lock["mismatch"] == "crop" else None
    if config is not None and (untied or rows is not None):
        found.config = _described(config, untied, rows)
    fit = [
        model
        if own == pieces_of(model)
        else replace(view(own, found.config), label=model.label, artifacts=model.artifacts)
        for model, own in zip(models, pieces, strict=True)
    ]
    found.base, found.experts = (fit[0], fit[1:]) if base else (None, fit)
    return found


def _with_heads(
    models: Sequence[Model],
    pieces: Sequence[dict[str, Piece]],
    places: Mapping[str, Place] | None,
    found: Fitted,
) -> bool:
    """Give tied models the head that others have; whether the first model was given one."""
    configs = [m.checkpoint.opened.config for m in models]
    both = zip(pieces, configs, strict=True)
    head = next((h for own, said in both if (h := head_of(own, said)) is not None), None)
    if head is None or (places is not None and head in places):
        return False  # heads of slices are settled where they are stacked
    if head not in pieces[0] and (copies := _copies(head, models, pieces)):
        for i in copies:
            del pieces[i][head]
        labels = ", ".join(f"`{models[i].label}`" for i in copies)
        found.notes.append(f"`{head}` is left out: in {labels} it is tied to the embeddings")
        return False
    given = []
    for i, (model, own) in enumerate(zip(models, pieces, strict=True)):
        if head in own or not is_tied(model.checkpoint.opened.config):
            continue
        embeddings = embeddings_of(own, model.checkpoint.opened.config)
        if embeddings is not None:
            own[head] = Piece(model, embeddings)
            given.append(i)
    if given:
        labels = ", ".join(f"`{models[i].label}`" for i in given)
        found.notes.append(f"embeddings stand for `{head}`, which is tied to them in {labels}")
    return 0 in given


def _copies(head: str, models: Sequence[Model], pieces: Sequence[Mapping[str, Piece]]) -> list[int]:
    """The models that store a head, if to all of them it is their embeddings once more."""
    having = [i for i, own in enumerate(pieces) if head in own]
    pairs = [tied_pair(models[i].checkpoint.opened.config, pieces[i]) for i in having]
    return having if all(pair is not None and pair[0] == head for pair in pairs) else []


def _with_missing(
    models: Sequence[Model],
    pieces: Sequence[dict[str, Piece]],
    has_base: bool,
    places: Mapping[str, Place] | None,
    found: Fitted,
) -> None:
    """Give experts the tensors of the first model that they lack, and take what it lacks."""
    reference = pieces[0]
    for i, (model, own) in enumerate(zip(models, pieces, strict=True)):
        if i == 0:
            continue
        number = i - 1 if has_base else i
        wanted = {n for n in reference if places is None or number < len(places[n].names)}
        lacking = sorted(wanted - own.keys())
        own.update({n: reference[n] for n in lacking})
        extra = sorted(own.keys() - reference.keys())
        for name in extra:
            del own[name]
        if lacking:
            found.notes.append(
                f"`{model.label}` lacks {listed(lacking)}: those of `{models[0].label}` stand "
                "for them"
            )
        if extra:
            found.notes.append(f"{listed(extra)} of `{model.label}` are left out")


def _cropped(pieces: Sequence[dict[str, Piece]], found: Fitted) -> int | None:
    """Cut what has a row per token to the block that all models have; the rows left, or None."""
    names = sorted({n for own in pieces for n in own if is_of_tokens(n)})
    shapes = {n: [own[n].block for own in pieces if n in own] for n in names}
    shapes = {n: s for n, s in shapes.items() if {len(shape) for shape in s} in ({1}, {2})}
    rows = min((shape[0] for s in shapes.values() for shape in s), default=0)
    if all(len(set(s)) == 1 and s[0][0] == rows for s in shapes.values()):
        return None
    for name, own_shapes in shapes.items():
        block = (rows, *(min(sizes) for sizes in zip(*(s[1:] for s in own_shapes), strict=True)))
        for own in pieces:
            if name in own:
                own[name] = Piece(own[name].model, own[name].name, block)
        found.notes.append(f"`{name}` is cut to {list(block)}, the block that all models have")
    return rows


def _described(config: Mapping[str, Any], untied: bool, rows: int | None) -> dict[str, Any]:
    """A configuration that says what was done."""
    found = deepcopy(dict(config))
    parts = [found, *text_parts(found)]
    if untied:
        for part in [p for p in parts if "tie_word_embeddings" in p] or [found]:
            part["tie_word_embeddings"] = False
    for part in parts:
        size = part.get("vocab_size")
        if rows is not None and isinstance(size, int) and size > rows:
            part["vocab_size"] = rows
    return found


def described_as_untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose head is a matrix of its own."""
    return _described(config, True, None)
