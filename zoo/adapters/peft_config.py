"""What `adapter_config.json` says of a PEFT adapter, read as peft 0.21 reads it.

Patterns of ranks and of alphas are regular expressions over the end of a module's name, the first
that fits wins: `re.match(rf"(.*\\.)?({pattern})$", name)` (peft/utils/other.py, get_pattern_key).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import InvalidCheckpoint, UnsupportedFormat

CONFIG = "adapter_config.json"
METHODS = ("LORA", "LOHA", "LOKR")
_MERGE_FIRST = (
    "Merge it where it was trained, `model.merge_and_unload().save_pretrained(DIR)`, and register "
    "DIR as an expert."
)
_REBASED = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Values of `init_lora_weights` that take the first product out of the base's weights."""
_NOT_FACTORS = {
    "use_qalora": "QALoRA pools the inputs of its layers",
    "use_bdlora": "BD-LoRA's factors are block-diagonal",
    "arrow_config": "Arrow chooses among adapters token by token",
    "kasa_config": "KaSA changes the base's own weights",
    "monteclora_config": "MonteCLoRA draws its factors at random",
    "alora_invocation_tokens": "an activated LoRA acts after certain tokens only",
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it adapts parameters that are no modules' weights",
    "megatron_config": "it adapts Megatron's own layers",
}
"""Fields that, where they are set, make more of an adapter than a sum of products."""
_LONGEST_PATTERN = 1000


@dataclass(frozen=True)
class PeftConfig:
    """The part of a configuration that decides what an adapter adds."""

    method: str
    """`LORA`, `LOHA`, `LOKR`."""
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False
    dora: bool = False
    transposed: bool = False
    """`fan_in_fan_out`."""
    base: str | None = None
    """`base_model_name_or_path`."""
    revision: str | None = None
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """`trainable_token_indices`, by the end of the embeddings' name; under an empty name those of
    the input embeddings, whatever they are called."""

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(_pattern_key(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What multiplies the product of a module's factors."""
        alpha = self.alpha_pattern.get(_pattern_key(self.alpha_pattern, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def _pattern_key(patterns: Mapping[str, Any], module: str) -> str:
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return pattern
    return module


def read_peft_config(content: Mapping[str, Any], origin: str) -> PeftConfig:
    """The configuration, checked.

    Args:
        origin: of the adapter, for messages.
    Raises:
        UnsupportedFormat: an adapter that is no sum of products.
        InvalidCheckpoint: a value that cannot be.
    """
    method = content.get("peft_type")
    if not isinstance(method, str) or method.upper() not in METHODS:
        raise UnsupportedFormat(
            f"`{origin}` is an adapter of type {method}:",
            f"zoo merges what can be added to weights, {', '.join(METHODS)}.",
            _MERGE_FIRST
            if method in ("IA3", "OFT", "BOFT", "VERA", "ADALORA", "HRA", "BONE", "MISS")
            else "It has no dense form that all merges share.",
            path=origin,
            peft_type=method,
        )
    for key, why in _NOT_FACTORS.items():
        if content.get(key):
            raise UnsupportedFormat(
                f"`{origin}` sets `{key}`:", f"{why}.", _MERGE_FIRST, path=origin, key=key
            )
    started = content.get("init_lora_weights")
    if isinstance(started, str) and started.lower().startswith(_REBASED):
        raise UnsupportedFormat(
            f"`{origin}` began with `init_lora_weights: {started}`:",
            "what it adds is meant for a base from which its first product was taken.",
            "Convert it, `model.save_pretrained(DIR, path_initial_model_for_weight_conversion=...)`"
            ", or merge it where it was trained, and register the whole model.",
            path=origin,
            key="init_lora_weights",
        )
    read = _Reader(content, origin)
    lora = method.upper() == "LORA"
    return PeftConfig(
        method=method.upper(),
        rank=int(read.number("r", 8, least=1, whole=True)),
        alpha=read.number("lora_alpha" if lora else "alpha", 8),
        rank_pattern={k: int(v) for k, v in read.patterns("rank_pattern", whole=True).items()},
        alpha_pattern=read.patterns("alpha_pattern"),
        rank_stabilized=bool(content.get("use_rslora", False)) and lora,
        dora=bool(content.get("use_dora", False)),
        transposed=bool(content.get("fan_in_fan_out", False)),
        base=read.text("base_model_name_or_path"),
        revision=read.text("revision"),
        tokens=read.tokens(),
    )


class _Reader:
    def __init__(self, content: Mapping[str, Any], origin: str) -> None:
        self._content, self._origin = content, origin

    def _refuse(self, key: str, value: Any, why: str) -> InvalidCheckpoint:
        return InvalidCheckpoint(
            f"`{CONFIG}` of `{self._origin}` has `{key}: {str(value)[:60]}`:",
            f"{why}.",
            "Correct it, or export the adapter again.",
            path=self._origin,
            key=key,
        )

    def _number(self, key: str, value: Any, least: float | None, whole: bool) -> float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or (whole and value != int(value)):
            raise self._refuse(key, value, "it must be a number" + (" without fraction" * whole))
        if least is not None and value < least:
            raise self._refuse(key, value, f"it must be at least {least}")
        return float(value)

    def number(
        self, key: str, default: float, *, least: float | None = None, whole: bool = False
    ) -> float:
        value = self._content.get(key, default)
        return self._number(key, default if value is None else value, least, whole)

    def patterns(self, key: str, *, whole: bool = False) -> dict[str, float]:
        found = self._content.get(key) or {}
        if not isinstance(found, Mapping):
            raise self._refuse(key, found, "it must be a map")
        for pattern in found:
            try:
                harmless = len(pattern) <= _LONGEST_PATTERN and _is_harmless(pattern)
            except re.error as error:
                raise self._refuse(key, pattern, f"it is no regular expression, {error}") from None
            if not harmless:
                raise self._refuse(key, pattern, "it could take for ever to compare")
        least = 1 if whole else None
        return {k: self._number(f"{key}.{k}", v, least, whole) for k, v in found.items()}

    def text(self, key: str) -> str | None:
        value = self._content.get(key)
        return value if isinstance(value, str) and value else None

    def tokens(self) -> dict[str, tuple[int, ...]]:
        key = "trainable_token_indices"
        found = self._content.get(key) or {}
        if isinstance(found, list):
            found = {"": found}
        if not isinstance(found, Mapping):
            raise self._refuse(key, found, "it must be a list, or a map of lists")
        for value in found.values():
            if not isinstance(value, list) or not all(type(i) is int for i in value):
                raise self._refuse(key, value, "it must hold whole numbers")
        return {str(k): tuple(v) for k, v in found.items()}


def _is_harmless(pattern: str) -> bool:
    """Whether a pattern repeats no repetition, and little in a row: a stranger wrote it, and such
    patterns take a time that grows without bounds with the name they are compared with."""
    import warnings
    from re import _parser  # type: ignore[attr-defined]  # the only parser of patterns there is

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = _parser.parse(rf"(.*\.)?({pattern})$")
    return _repeats(tree, False) <= 5


def _repeats(tree: Any, inside: bool) -> int:
    """How often a pattern repeats something without a small bound; many, if within itself."""
    count = 0
    for operator, argument in tree:
        name = str(operator)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            _, most, content = argument
            many = int(most) > 20
            count += many + (100 if many and inside else 0) + _repeats(content, inside or many)
        elif name == "BRANCH":
            count += sum(_repeats(one, inside) for one in argument[1])
        elif name == "SUBPATTERN":
            count += _repeats(argument[-1], inside)
        elif name in ("ASSERT", "ASSERT_NOT"):
            count += _repeats(argument[1], inside)
        elif name in ("ATOMIC_GROUP",):
            count += _repeats(argument, inside)
        elif name == "GROUPREF":
            count += 100
    return count
