"""A model's tokenizer as its files say it: which token has which id, and how it is written again.

Only the vocabulary is read, from `tokenizer.json`, else from older files (`older_tokenizers`);
nothing is tokenized, so no tokenizer library is needed. What is written is what was read, less the
tokens that no embedding has, and with tokens added as the library adds them: at the end, outside
the learned vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from zoo.checkpoints.safetensors import read_small
from zoo.errors import InvalidCheckpoint, InvalidRecipe
from zoo.tokenizers.older_tokenizers import (
    BPE,
    MERGES,
    REMEDY,
    SENTENCEPIECE,
    WORDPIECE,
    cut,
    is_of_tiktoken,
    lines,
    pieces,
)

FAST, CONFIG, LEGACY = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
_CORE = (BPE, MERGES, WORDPIECE)
SPECIAL = "special_tokens_map.json"
TEMPLATE, TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
FILES = frozenset(
    {FAST, CONFIG, LEGACY, SPECIAL, TEMPLATE, TEMPLATE_JSON} | set(_CORE) | set(SENTENCEPIECE)
)
"""All that a tokenizer's files are called, at the top of a model's directory."""

_PLAIN = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": True,
    "special": False,
}
"""How a token is matched that was added without saying how."""


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, and the files it came from."""

    label: str
    """The model's, for messages."""
    vocabulary: Mapping[str, int]
    """Token -> id, ids ascending; added tokens included."""
    added: Mapping[str, Mapping[str, Any]]
    """The tokens matched before the model splits words: token -> how, ids ascending."""
    learned: Mapping[str, int]
    """The vocabulary as it was read, without what was added to it: token -> id."""
    files: Mapping[str, Path]
    """The tokenizer's files by name."""
    changed: bool = False
    """Whether it says something else than the files."""
    named: frozenset[str] = frozenset()
    """All tokens there were when it was read."""

    def limited(self, rows: int) -> Tokenizer:
        """Without the tokens whose ids are `rows` or more: the embeddings have no row for them."""
        if all(i < rows for i in self.vocabulary.values()):
            return self
        kept = {t: i for t, i in self.vocabulary.items() if i < rows}
        added = {t: how for t, how in self.added.items() if t in kept}
        return replace(self, vocabulary=kept, added=added, changed=True)

    def extended(self, tokens: Iterable[tuple[str, Mapping[str, Any] | None]]) -> Tokenizer:
        """With tokens added at the end, or marked as added where they are there already.

        Args:
            tokens: each token and how it is matched; None for the plain way, which marks nothing.
        Raises:
            InvalidRecipe: the ids have holes, so that what is added would not be found again.
        """
        vocabulary, added = dict(self.vocabulary), dict(self.added)
        holes = max(vocabulary.values(), default=-1) + 1 != len(vocabulary)
        for token, how in tokens:
            if token not in vocabulary:
                if holes:
                    raise InvalidRecipe(
                        f"`{self.label}` leaves ids unused between its tokens:",
                        f"`{token}` cannot be added at the end.",
                        "Choose the tokenizer of another model as `source`.",
                        token=token,
                    )
                vocabulary[token] = len(vocabulary)
                how = how or _PLAIN
            if how is not None and token not in added:
                added[token] = how
        if len(added) == len(self.added):  # whatever is new is added
            return self
        added = dict(sorted(added.items(), key=lambda item: vocabulary[item[0]]))
        return replace(self, vocabulary=vocabulary, added=added, changed=True)


def read_tokenizer(label: str, files: Mapping[str, Path]) -> Tokenizer | None:
    """The tokenizer of a model, or None where it has none.

    Args:
        files: files beside the weights, by relative path.
    Raises:
        InvalidCheckpoint: a file is not what its name says.
        InvalidRecipe: the vocabulary is in a file only that zoo cannot read.
    """
    own = {name: files[name] for name in sorted(FILES & files.keys())}
    if FAST in own:
        document = read_object(own[FAST])
        core = _core(document, own[FAST])
        listed = document.get("added_tokens") or []
    elif BPE in own:
        core, listed = _ids(read_object(own[BPE]), own[BPE]), []
    elif WORDPIECE in own:
        core, listed = _ids(lines(own[WORDPIECE]), own[WORDPIECE]), []
    elif binary := [name for name in own if name in SENTENCEPIECE]:
        config = read_object(own[CONFIG]) if CONFIG in own else {}
        core, listed = pieces(label, own[binary[0]], config)
    elif foreign := sorted(filter(is_of_tiktoken, files)):
        raise InvalidRecipe(
            f"The tokenizer of `{label}` is in `{foreign[0]}` only, which zoo does not read.",
            "It is in a form of tiktoken's, which says nothing of special tokens.",
            REMEDY.format(label),
            file=foreign[0],
        )
    else:
        return None
    # A token of the learned vocabulary keeps its id there, whatever the list says.
    added: dict[str, Mapping[str, Any]] = {}
    vocabulary, taken = dict(core), set(core.values())
    for entry in (*_entries(listed, label), *_entries(_later(own), label)):
        token, number = entry["content"], entry["id"]
        if token not in added and (token in vocabulary or number not in taken):
            taken.add(vocabulary.setdefault(token, number))
            added[token] = {key: bool(entry.get(key, _PLAIN[key])) for key in _PLAIN}
    return Tokenizer(
        label,
        dict(sorted(vocabulary.items(), key=lambda item: item[1])),
        dict(sorted(added.items(), key=lambda item: vocabulary[item[0]])),
        core,
        own,
        named=frozenset(vocabulary),
    )


def read_object(path: Path) -> dict[str, Any]:
    """The content of a tokenizer's file: JSON as its library writes it, with its 30-digit numbers.

    Raises:
        InvalidCheckpoint: it is no JSON, or no map.
    """
    try:
        content = json.loads(read_small(path), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidCheckpoint(f"`{path}` is not valid JSON:", f"{problem}.", path=path) from None
    if not isinstance(content, dict):
        raise InvalidCheckpoint(f"`{path}` is no tokenizer's file:", "it is not a map.", path=path)
    return content


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def written(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The content of all files of a tokenizer; those that its vocabulary does not change, as is."""
    files, ids = tokenizer.files, tokenizer.vocabulary
    found = {name: path.read_bytes() for name, path in files.items()}
    if not tokenizer.changed:
        return found
    entries = [{"id": ids[t], "content": t, **how} for t, how in tokenizer.added.items()]
    lost = tokenizer.learned.keys() - ids.keys()
    if FAST in found:
        document = read_object(files[FAST])
        document["added_tokens"] = entries
        if lost:
            _shorten(document["model"], lost)
        found[FAST] = _json(document)
        if lost:  # the other spellings of the vocabulary are not true any more
            found = {n: data for n, data in found.items() if n not in (*_CORE, *SENTENCEPIECE)}
    elif lost:
        shorter = cut(found, lost)
        if shorter is None:
            raise InvalidRecipe(
                f"The vocabulary of `{tokenizer.label}` is longer than its embeddings,",
                "and is in a form that cannot be cut.",
                REMEDY.format(tokenizer.label),
            )
        found = shorter
    gone = {t for t in tokenizer.named if t not in ids}
    for name in (CONFIG, SPECIAL) if gone else ():
        if name in found:
            found[name] = _json(_without(read_object(files[name]), gone))
    if CONFIG in found:
        config = json.loads(found[CONFIG])
        if "added_tokens_decoder" in config or FAST not in found:
            config["added_tokens_decoder"] = {
                str(e["id"]): {key: e[key] for key in ("content", *_PLAIN)} for e in entries
            }
        found[CONFIG] = _json(config)
    if LEGACY in found or FAST not in found:
        late = [t for t in tokenizer.added if t not in tokenizer.learned]
        found[LEGACY] = _json({t: ids[t] for t in late})
    return found


def _without(content: Mapping[str, Any], gone: set[str]) -> dict[str, Any]:
    """Special tokens without those that are no tokens any more: transformers would add them, with
    ids that no embedding has."""

    def text(value: Any) -> Any:
        return value.get("content") if isinstance(value, dict) else value

    found = {}
    for key, value in content.items():
        if key.endswith("_special_tokens") and isinstance(value, list):
            found[key] = [v for v in value if text(v) not in gone]
        elif not key.endswith("_token") or text(value) not in gone:
            found[key] = value
    return found


def _shorten(model: dict[str, Any], lost: set[str]) -> None:
    """Take tokens out of a learned vocabulary, and the merges that need them."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [pair for pair in vocabulary if pair[0] not in lost]
    else:
        model["vocab"] = {t: i for t, i in vocabulary.items() if t not in lost}
    if "merges" in model:
        model["merges"] = [m for m in model["merges"] if not lost & _parts(m)]


def _parts(merge: Any) -> set[str]:
    """The two tokens of a merge, and the one they make."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return {left, right, left + right}


def _core(document: Mapping[str, Any], path: Path) -> dict[str, int]:
    """The learned vocabulary of a `tokenizer.json`."""
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: [token, score], in order of id
        if all(isinstance(p, list) and p and isinstance(p[0], str) for p in vocabulary):
            return {pair[0]: i for i, pair in reversed(list(enumerate(vocabulary)))}
        vocabulary = None
    return _ids(vocabulary, path)


def _ids(vocabulary: Any, path: Path) -> dict[str, int]:
    whole = isinstance(vocabulary, dict) and all(
        isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31
        for i in vocabulary.values()
    )
    if not whole or len(set(vocabulary.values())) < len(vocabulary):
        raise InvalidCheckpoint(
            f"`{path}` holds no vocabulary:",
            "tokens with one id each, from 0, were expected.",
            path=path,
        )
    found: dict[str, int] = vocabulary
    return found


def _later(files: Mapping[str, Path]) -> list[Any]:
    """Added tokens that are told beside the vocabulary: by the configuration, else by a list."""
    if CONFIG in files:
        decoder = read_object(files[CONFIG]).get("added_tokens_decoder")
        if isinstance(decoder, dict) and all(i.isdigit() for i in decoder):
            return [
                {**e, "id": int(i)} if isinstance(e, dict) else None for i, e in decoder.items()
            ]
    if LEGACY in files:
        return [{"content": t, "id": i} for t, i in read_object(files[LEGACY]).items()]
    return []


def _entries(found: Any, label: str) -> list[dict[str, Any]]:
    """Entries of added tokens, checked, ids ascending."""
    good = isinstance(found, list) and all(
        isinstance(e, dict)
        and isinstance(e.get("content"), str)
        and isinstance(e.get("id"), int)
        and 0 <= e["id"] < 2**31
        for e in found
    )
    if not good:
        raise InvalidCheckpoint(
            f"The tokenizer of `{label}` is damaged:",
            "it lists added tokens without their text or their id.",
            "Download its files again.",
        )
    entries: list[dict[str, Any]] = sorted(found, key=lambda e: e["id"])
    return entries


def _json(content: Any) -> bytes:
    """As tokenizer files are usually written; the order of their keys is kept."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
