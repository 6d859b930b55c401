"""Ids of tokens that a model's configuration names, after its vocabulary changed.

Beginning, end and padding are what the tokenizer says they are: their ids come from the model whose
tokenizer the result has. Any other id follows its token, from where the donor had it to where the
result has it. An id whose token is gone is left out: it would be another token's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

OF_TOKENIZER = tuple(
    f"{name}_token_id" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
)
"""Keys whose ids belong to the tokenizer, not to the network."""
_IDS = re.compile(r"(?:^|_)token_(?:ids?|index)$|(?:^|_)suppress_tokens$")
TEXT_PARTS = ("text_config", "language_config", "llm_config")
"""Parts of a configuration that describe the language model in a larger one. Other parts may have
vocabularies of their own."""
_WORDS = ("bad_words_ids", "force_words_ids")
_FORCED = "forced_decoder_ids"

Now = Callable[[int], int | None]
"""From an id of before to the id its token has now; None where it is gone."""


def now_of(before: Mapping[str, int], after: Mapping[str, int]) -> Now:
    """How ids move from one vocabulary to another; both are token -> id.

    An id that no token had or has is no token's business, and stays.
    """
    tokens = {number: token for token, number in before.items()}
    taken = set(after.values())

    def now(number: int) -> int | None:
        if number in tokens:
            return after.get(tokens[number])
        return None if number in taken else number

    return now


def renumbered(config: Mapping[str, Any], now: Now) -> tuple[dict[str, Any], list[str]]:
    """A configuration with the ids of now, in its text part too; and the keys that lost some.

    A single id that is gone becomes None; a list loses what is gone.
    """
    lost: list[str] = []

    def id_of(key: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return value  # -1 means none in some configurations
        found = now(value)
        if found is None and key not in lost:
            lost.append(key)
        return found

    def moved(key: str, value: Any) -> Any:
        if key in TEXT_PARTS and isinstance(value, Mapping):
            return {k: moved(k, v) for k, v in value.items()}
        if key in _WORDS and isinstance(value, list):
            words = [[id_of(key, i) for i in word] for word in value if isinstance(word, list)]
            return [word for word in words if None not in word]
        if key == _FORCED and isinstance(value, list):
            pairs = [[at, id_of(key, i)] for at, i in value]
            return [pair for pair in pairs if pair[1] is not None]
        if not _IDS.search(key):
            return value
        if isinstance(value, list):
            return [i for v in value if (i := id_of(key, v)) is not None]
        return id_of(key, value)

    return {key: moved(key, value) for key, value in config.items()}, lost


def of_tokenizer(configs: Mapping[str, Any], now: Now) -> dict[str, Any]:
    """The ids of beginning, end and padding that a tokenizer's own model says, as they are now."""
    own = {k: configs[k] for k in OF_TOKENIZER if configs.get(k) is not None}
    return {k: v for k, v in renumbered(own, now)[0].items() if v not in (None, [])}
