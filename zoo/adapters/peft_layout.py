"""The tensors of a PEFT adapter, as changes to its base; from names and shapes alone.

    base_model.model.MODULE.lora_A.weight, lora_B.weight     a low-rank update of MODULE.weight
    ... .lora_A.default.weight                               the same, saved by hand
    ... .lora_B.bias                                         added to MODULE.bias (lora_bias)
    ... .lora_embedding_A, lora_embedding_B                  of embeddings, transposed
    ... .lora_magnitude_vector                               DoRA's norms
    ... .hada_w1_a ...,  .lokr_w1 ...                        LoHa, LoKr
    ... .token_adapter.trainable_tokens_delta                rows that replace those of the base
    ... .weight, .bias, .base_layer.bias                     the tensor itself (modules_to_save)

Source: peft 0.21, utils/save_and_load.py and tuners/lora/layer.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.adapters.change import Change, Magnitude, TokenRows
from zoo.adapters.peft_config import CONFIG, PeftConfig
from zoo.adapters.targets import Targets
from zoo.adapters.updates import Hadamard, Kronecker, LowRank, Update, Whole
from zoo.checkpoint import TensorInfo
from zoo.errors import InvalidCheckpoint

PREFIX = "base_model.model."
PRODUCT_SLOTS = (
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
)
"""What LyCORIS and PEFT both call the factors of LoHa and LoKr."""
_SLOTS = (
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    *PRODUCT_SLOTS,
)
_SLOT = re.compile(rf"(.+)\.({'|'.join(_SLOTS)})(?:\.[\w-]+?)??(\.weight|\.bias)?")
"""Module, slot, perhaps the name the adapter had in memory, and what of it."""
_TOKENS = re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta(?:\.[\w-]+)?")
_SAVED = re.compile(r"(.+?)(?:\.base_layer|\.original_module|\.modules_to_save\.[\w-]+)?\.([\w-]+)")
CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Architectures whose linear layers keep the transpose, as transformers' `Conv1D` does."""


@dataclass
class _Module:
    """What an adapter has for one module."""

    slots: dict[str, TensorInfo] = field(default_factory=dict)
    bias: TensorInfo | None = None


def peft_changes(
    tensors: Mapping[str, TensorInfo],
    config: PeftConfig,
    base: Mapping[str, TensorInfo],
    base_config: Mapping[str, Any] | None,
    origin: str,
) -> tuple[dict[str, Change], list[str]]:
    """What the adapter does to each tensor of the base, and what is wrong.

    Args:
        tensors: the adapter's.
        origin: of the adapter, for messages.
    Returns:
        Changes by the base's names; problems, each one sentence.
    Raises:
        InvalidCheckpoint: a tensor that no PEFT adapter has, or a factor without the other.
    """
    modules: dict[str, _Module] = {}
    changes: dict[str, Change] = {}
    problems: list[str] = []
    targets = Targets(base)

    def change_of(name: str, made: bool = False) -> Change | None:
        found = targets.find(name)
        if found is None and not made:
            problems.append(f"the base has no tensor `{name}`, which the adapter changes")
            return None
        found = found or name
        return changes.setdefault(found, Change(found))

    for name, info in tensors.items():
        short = name.removeprefix(PREFIX)
        if match := _SLOT.fullmatch(short):
            module = modules.setdefault(match[1], _Module())
            if match[3] == ".bias":
                module.bias = info
            else:
                module.slots[match[2]] = info
        elif match := _TOKENS.fullmatch(short):
            if found := change_of(f"{match[1]}.weight"):
                found.tokens = TokenRows(info, _indices(config, match[1], origin))
        elif (match := _SAVED.fullmatch(short)) and "lora_" not in short:
            if found := change_of(f"{match[1]}.{match[2]}", made=True):
                found.replaced = info
        else:
            raise InvalidCheckpoint(
                f"Tensor `{name}` of `{origin}` is none that a PEFT adapter has.",
                how="Export the adapter again: `model.save_pretrained(DIR)`.",
                tensor=name,
            )
    for at, own in sorted(modules.items()):
        weight = change_of(f"{at}.weight")
        if weight is None:
            continue
        target = weight.replaced or base.get(weight.target)
        shape = target.shape if target else ()
        update = _update(at, own.slots, config, shape, base_config, origin)
        weight.updates.append(update)
        _check_rank(at, update, config, origin)
        if (vector := own.slots.get("lora_magnitude_vector")) is not None:
            turned = isinstance(update, LowRank) and update.transposed
            weight.magnitude = Magnitude(vector, "columns" if turned else "rows")
        elif config.dora and "lora_A" in own.slots:
            raise _incomplete(at, "lora_magnitude_vector", origin)
        if own.bias is not None and (bias := change_of(f"{at}.bias")):
            bias.updates.append(Whole(own.bias, config.scale_of(at)))
    return changes, problems


def _update(
    module: str,
    slots: Mapping[str, TensorInfo],
    config: PeftConfig,
    shape: tuple[int, ...],
    base_config: Mapping[str, Any] | None,
    origin: str,
) -> Update:
    """The update of a module's weight that its factors make.

    Args:
        shape: of the base's weight.
    """
    scale = config.scale_of(module)

    def part(slot: str) -> TensorInfo:
        if slot not in slots:
            raise _incomplete(module, slot, origin)
        return slots[slot]

    if "lora_embedding_A" in slots or "lora_embedding_B" in slots:
        return LowRank(part("lora_embedding_B"), part("lora_embedding_A"), scale, transposed=True)
    if any(slot.startswith("hada") for slot in slots):
        cores = (part("hada_t1"), part("hada_t2")) if "hada_t1" in slots else None
        return Hadamard(
            (part("hada_w1_a"), part("hada_w1_b")),
            (part("hada_w2_a"), part("hada_w2_b")),
            scale,
            cores,
        )
    if any(slot.startswith("lokr") for slot in slots):
        return kronecker(slots, "lokr_", part, scale)
    up, down = part("lora_B"), part("lora_A")
    return LowRank(up, down, scale, transposed=_is_transposed(up, down, shape, config, base_config))


def kronecker(slots: Mapping[str, TensorInfo], prefix: str, part: Any, scale: float) -> Kronecker:
    """A LoKr update of what there is of its factors."""
    first = (part(f"{prefix}w1"),) if f"{prefix}w1" in slots else _pair(part, f"{prefix}w1")
    if f"{prefix}w2" in slots:
        return Kronecker(first, (part(f"{prefix}w2"),), scale)
    second = _pair(part, f"{prefix}w2")
    if f"{prefix}t2" in slots:
        second = (*second, part(f"{prefix}t2"))
    return Kronecker(first, second, scale)


def _pair(part: Any, slot: str) -> tuple[TensorInfo, ...]:
    return part(f"{slot}_a"), part(f"{slot}_b")


def _is_transposed(
    up: TensorInfo,
    down: TensorInfo,
    shape: tuple[int, ...],
    config: PeftConfig,
    base_config: Mapping[str, Any] | None,
) -> bool:
    """Whether the base keeps inputs as rows. Its shape says so, unless it is square."""
    if len(shape) != 2 or not up.shape or len(down.shape) != 2:
        return False
    made = (up.shape[0], down.shape[1])
    if made[0] != made[1]:
        return made == shape[::-1]
    kind = (base_config or {}).get("model_type")
    return kind in CONV1D if isinstance(kind, str) else config.transposed


def _check_rank(module: str, update: Update, config: PeftConfig, origin: str) -> None:
    """The scale is alpha / r with the configuration's r, so that r must be the factors'."""
    if isinstance(update, LowRank) and update.rank != config.rank_of(module):
        raise InvalidCheckpoint(
            f"`{module}` of `{origin}` has rank {update.rank}, and its `{CONFIG}` says "
            f"{config.rank_of(module)}:",
            "the scale of what it adds would be wrong.",
            "Correct `r` or `rank_pattern` there, or export the adapter again.",
            module=module,
        )


def _indices(config: PeftConfig, module: str, origin: str) -> tuple[int, ...]:
    fits = [v for k, v in config.tokens.items() if not k or module == k or module.endswith(f".{k}")]
    if not fits:
        raise InvalidCheckpoint(
            f"`{origin}` has rows for `{module}`, and its `{CONFIG}` does not say which:",
            "`trainable_token_indices` names them.",
            "Export the adapter again: `model.save_pretrained(DIR)`.",
            module=module,
        )
    return fits[0]


def _incomplete(module: str, slot: str, origin: str) -> InvalidCheckpoint:
    return InvalidCheckpoint(
        f"`{module}` of `{origin}` has no `{slot}`:",
        "half of a product adds nothing that is known.",
        "Download it again, or export it again: `model.save_pretrained(DIR)`.",
        module=module,
        slot=slot,
    )
