"""From prompts to token ids, by the tokenizer of the base."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.errors import IncompatibleModels
from zoo.tokenizers.tokenizer import CONFIG, FAST, FILES, read_object

_SPECIAL = "special_tokens_map.json"
Encode = Callable[[str], Sequence[int]]


def tokenized(
    label: str, files: Mapping[str, Path], prompts: Sequence[str], rows: int
) -> dict[str, tuple[int, ...]]:
    """Prompt -> token ids: the token of beginnings, where there is one, and then the prompt's own.

    Args:
        label: of the base, for messages.
        files: beside its weights, by relative path.
        rows: of its embeddings.
    Raises:
        IncompatibleModels: there is no tokenizer or nothing to read it with, a prompt is empty, or
            a token has no embedding.
    """
    own = {name: path for name, path in files.items() if name in FILES or name == "config.json"}
    if not own.keys() & FILES:
        raise _refused(
            f"the base `{label}` has no tokenizer beside its weights, and prompts are tokens to "
            f"it: put `{FAST}` and `{CONFIG}` there, and register it again"
        )
    library = "tokenizers" if FAST in own else "transformers"
    if find_spec(library) is None:
        raise _refused(
            f"prompts need {library}, which is not installed: `pip install {library}`, or choose "
            "`gate_mode: random`"
        )
    try:
        encode = _fast(own) if FAST in own else _by_transformers(own)
        found = {p: tuple(encode(p)) for p in dict.fromkeys(prompts)}
    except Exception as error:  # the library raises whatever a file makes it stumble over
        said = (str(error).splitlines() or ["it does not say why"])[0]
        raise _refused(
            f"the tokenizer of the base `{label}` cannot be used: {type(error).__name__}: {said}"
        ) from error
    for prompt, ids in found.items():
        if not ids:
            raise _refused(f"the prompt {prompt!r} has no tokens: write something, or leave it out")
        if max(ids) >= rows:
            raise _refused(
                f"token {max(ids)} of the prompt {prompt!r} has no embedding: the base `{label}` "
                f"has {rows}, so its tokenizer is another model's"
            )
    return found


def _fast(files: Mapping[str, Path]) -> Encode:
    """By the file alone: transformers has classes that read it their own way."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files[FAST]))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    begin = _begin(files)
    return lambda prompt: tokenizer.encode(begin + prompt, add_special_tokens=False).ids


def _begin(files: Mapping[str, Path]) -> str:
    """The token that texts begin with; empty where a model has none."""
    for name in (CONFIG, _SPECIAL):
        if name in files:
            said = read_object(files[name]).get("bos_token")
            if isinstance(said, Mapping):
                said = said.get("content")
            if isinstance(said, str):
                return said
    return ""


def _by_transformers(files: Mapping[str, Path]) -> Encode:
    from transformers import AutoTokenizer

    with TemporaryDirectory(prefix="zoo-tokenizer-") as folder:
        for name, path in files.items():
            shutil.copyfile(path, Path(folder, name))
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    begin = tokenizer.bos_token or ""
    return lambda prompt: tokenizer(begin + prompt, add_special_tokens=False)["input_ids"]


def _refused(problem: str) -> IncompatibleModels:
    return IncompatibleModels(problem, problems=[problem])
