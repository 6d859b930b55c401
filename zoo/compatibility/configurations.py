"""What configurations say differently although the tensors fit: the result has the donor's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.tied_heads import head_of, is_tied
from zoo.compatibility.problem import Problem
from zoo.compatibility.settings import Settings, kind_of, settings_of
from zoo.compatibility.wording import by_value
from zoo.dtypes import DTYPES

if TYPE_CHECKING:
    from zoo.engine.planned import Model

_MATTERS: Mapping[str, str] = {
    "rope_theta": "positions are turned by other angles, and attention was trained with its own",
    "rope_scaling": "positions are stretched otherwise, and attention was trained with its own",
    "partial_rotary_factor": "other parts of the heads are turned by position",
    "norm_eps": "norms divide by another number",
    "hidden_act": "the same weights feed another function",
    "num_attention_heads": "the same matrices are cut into other heads",
    "num_key_value_heads": "the same matrices are cut into other heads",
    "head_dim": "the same matrices are cut into other heads",
    "sliding_window": "layers see another stretch of the text",
    "layer_types": "layers see another stretch of the text",
    "position_embedding_type": "positions are told in another way",
    "attn_logit_softcapping": "attention is bounded otherwise",
    "final_logit_softcapping": "logits are bounded otherwise",
    "query_pre_attn_scalar": "attention is scaled otherwise",
    "logit_scale": "logits are scaled otherwise",
    "embedding_multiplier": "embeddings are scaled otherwise",
    "residual_multiplier": "residual branches are scaled otherwise",
    "num_experts_per_tok": "another number of experts is asked for each token",
    "norm_topk_prob": "experts are weighted otherwise",
}
"""Our key -> why weights trained with one value do not work with another."""
_SILENT: Mapping[str, Callable[[Settings], Any]] = {
    # What silence means, for all families that have the key.
    "rope_scaling": lambda s: None,
    "sliding_window": lambda s: None,
    "num_key_value_heads": lambda s: s.key_value_heads,
    "head_dim": lambda s: s.head_dim,
}


def doubts_of_configurations(models: Sequence[Model], donor: Model) -> list[Problem]:
    """Kinds and settings that differ between models that are to be merged."""
    told = [m for m in models if m.checkpoint.opened.config]
    if len(told) < 2:
        return []
    found = _kinds(told, donor)
    settings = {m.label: settings_of(m.checkpoint.opened.config) for m in told}
    for key, why in _MATTERS.items():
        values = _values(settings, key)
        if len({repr(v) for v in values.values()}) > 1:
            spelt = next((s.spelt[key] for s in settings.values() if key in s.spelt), key)
            found.append(
                Problem(
                    "settings",
                    "warning",
                    f"`{spelt}` is {by_value(values)}",
                    why,
                    f"The result has that of `{donor.label}`; `donor: REF` in the recipe takes "
                    "another's.",
                    tuple(values),
                )
            )
    return [*found, *_ties(told, donor)]


def _values(settings: Mapping[str, Settings], key: str) -> dict[str, Any]:
    """By label; of those that say it, and of the silent where silence has a meaning."""
    if not any(key in s.values for s in settings.values()):
        return {}
    silent = _SILENT.get(key)
    found = {}
    for label, own in settings.items():
        if own.values.get(key) is not None:
            found[label] = _plain(own.values[key])
        elif key in own.values or silent is not None:
            found[label] = silent(own) if silent else None
    return found


def _plain(value: Any) -> Any:
    """Numbers that are equal look equal: 10000 and 10000.0."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value


def _kinds(models: Sequence[Model], donor: Model) -> list[Problem]:
    remedy = (
        f"The result is described as `{donor.label}` is; `donor: REF` in the recipe takes "
        "another's description."
    )
    kinds = {m.label: k for m in models if (k := kind_of(m.checkpoint.opened.config))}
    if len(set(kinds.values())) > 1:
        return [
            Problem(
                "architecture",
                "warning",
                f"the architecture is {by_value(kinds)}",
                "tensors of one name may mean something else in another network",
                remedy,
                tuple(kinds),
            )
        ]
    classes = {m.label: c for m in models if (c := _class_of(m))}
    if len(set(classes.values())) > 1:
        return [
            Problem(
                "architecture",
                "warning",
                f"the class is {by_value(classes)}",
                "the heads were trained for different things",
                remedy,
                tuple(classes),
            )
        ]
    return []


def _class_of(model: Model) -> str | None:
    listed = (model.checkpoint.opened.config or {}).get("architectures")
    first = listed[0] if isinstance(listed, list) and listed else None
    return first if isinstance(first, str) else None


def _ties(models: Sequence[Model], donor: Model) -> list[Problem]:
    """A head that is stored in all models, and that only some say is the embeddings."""
    if not all(head_of(m.checkpoint.tensors, m.checkpoint.opened.config) for m in models):
        return []
    tied = {m.label: is_tied(m.checkpoint.opened.config) for m in models}
    if len(set(tied.values())) < 2:
        return []
    lost = tied.get(donor.label)
    return [
        Problem(
            "head",
            "warning",
            f"`tie_word_embeddings` is {by_value(tied)}",
            "a head that the configuration ties is not read from the file, and what the others "
            "have there is lost"
            if lost
            else "the result has a head of its own, made of embeddings too",
            f"The result is described as `{donor.label}` is; `donor: REF` in the recipe takes "
            "another's description.",
            tuple(tied),
        )
    ]


def notes_of_types(models: Sequence[Model], donor: Model, dtype: str | None) -> list[Problem]:
    """Floating types that differ between the models: what the result will be in."""
    types = {m.label: t for m in models if (t := _type_of(m))}
    if len(set(types.values())) < 2 or dtype is not None:
        return []
    return [
        Problem(
            "types",
            "note",
            f"the weights are {by_value(types)}",
            remedy=f"The result has the type of `{donor.label}`, tensor by tensor; "
            "`dtype: float32` in the recipe says another.",
            models=tuple(types),
        )
    ]


def _type_of(model: Model) -> str | None:
    """The type of most of a model's floating elements."""
    sizes: dict[str, int] = {}
    for info in model.checkpoint.tensors.values():
        if DTYPES[info.dtype].merges:
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.elements
    return max(sizes, key=lambda t: sizes[t]) if sizes else None
