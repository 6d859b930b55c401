"""How a conversation is written as one text: templates by name, and the ones models carry.

The names are those of mergekit's recipes. A template is Jinja, rendered by whoever runs the model
with `messages`, `bos_token`, `eos_token` and `add_generation_prompt`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.checkpoints.safetensors import read_small
from zoo.errors import InvalidRecipe, did_you_mean
from zoo.tokenizers.tokenizer import CONFIG, TEMPLATE, TEMPLATE_JSON, read_object

_CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_LLAMA3 = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}"
)
_MISTRAL = (
    "{{- bos_token }}"
    "{%- set asked = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' and loop.first %}"
    "{%- set asked.system = message['content'] + '\\n\\n' %}"
    "{%- elif message['role'] == 'user' %}"
    "{{- ' [INST] ' + asked.system + message['content'] + ' [/INST]' }}"
    "{%- set asked.system = '' %}"
    "{%- elif message['role'] == 'assistant' %}"
    "{{- ' ' + message['content'] + eos_token }}"
    "{%- else %}"
    "{{- raise_exception('A conversation has the roles user and assistant, after one system.') }}"
    "{%- endif %}"
    "{%- endfor %}"
)
_ALPACA = (
    "{%- set titles = {'user': 'Instruction', 'user_context': 'Input', 'assistant': 'Response'} %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}"
    "{{- message['content'] | trim + '\\n\\n' }}"
    "{%- elif message['role'] in titles %}"
    "{{- '### ' + titles[message['role']] + ':\\n' + message['content'] | trim + '\\n\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Response:\\n' }}{%- endif %}"
)
_EXAONE = (
    "{%- if messages and messages[0]['role'] != 'system' %}"
    "{{- '[|system|][|endofturn|]\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '[|' + message['role'] + '|]' + message['content'] }}"
    "{{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '[|assistant|]' }}{%- endif %}"
)
BUILT_IN: Mapping[str, str] = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}


def chosen_template(asked: str, models: Sequence[Mapping[str, Path]]) -> str | None:
    """The template a recipe asks for.

    Args:
        asked: `auto` for the one most models have, the first of equals; a name; or a template.
        models: the files of each model by relative path, the donor first.
    Returns:
        None where `auto` finds none.
    Raises:
        InvalidRecipe: neither a name nor a template.
    """
    if asked == "auto":
        found = [t for files in models if (t := template_of(files))]
        return Counter(found).most_common(1)[0][0] if found else None
    if asked in BUILT_IN:
        return BUILT_IN[asked]
    if "{" not in asked:
        raise InvalidRecipe(
            f"There is no chat template `{asked}`.",
            "It is `auto`, a known name, or the template itself, which has a `{` in it.",
            did_you_mean(asked, ("auto", *BUILT_IN)),
            key="chat_template",
        )
    return asked


def template_of(files: Mapping[str, Path]) -> str | None:
    """The template that a model's files carry, as it applies when none is named."""
    if TEMPLATE in files:
        return read_small(files[TEMPLATE]).decode(errors="replace").strip() or None
    for name in (CONFIG, TEMPLATE_JSON):
        found: Any = read_object(files[name]).get("chat_template") if name in files else None
        if isinstance(found, list):  # several, each with a name
            found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        if isinstance(found, dict):
            found = found.get("default")
        if isinstance(found, str) and found.strip():
            return found.strip()
    return None


def with_template(files: Mapping[str, bytes], template: str) -> dict[str, bytes]:
    """Tokenizer files that carry another template: where they carried one, and in the
    configuration, where all versions of transformers look."""
    found = dict(files)
    if CONFIG in found:
        found[CONFIG] = _told(found[CONFIG], template)
    if TEMPLATE_JSON in found:
        found[TEMPLATE_JSON] = _told(found[TEMPLATE_JSON], template)
    if TEMPLATE in found or CONFIG not in found:
        found[TEMPLATE] = template.encode()
    return found


def _told(data: bytes, template: str) -> bytes:
    content = {**json.loads(data), "chat_template": template}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
