"""The front matter of a card: what the Hub reads, and the `zoo:` block that says it exactly.

The Hub's keys have no room for a parent's revision, weight or digest, so that block has them:

    zoo:
      weights: sha256:...          digest of this model's weights
      recipe: sha256:...           digest of the resolved recipe, where one made it
      parents:
      - {ref: math@1, role: expert, weight: 0.5, weights: sha256:..., source: ..., revision: ...}

Source: https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.catalog.origins import hub_model
from zoo.engine.inputs import Input
from zoo.records import Version

_LIBRARIES = {
    "transformers_version": "transformers",
    "_diffusers_version": "diffusers",
    "pretrained_cfg": "timm",
}
"""A key that only a library's configurations have."""
_TRANSFORMERS = re.compile(r"[A-Z]\w*(For[A-Z]\w*|Model)")
"""How transformers calls its classes."""


@dataclass(frozen=True, slots=True)
class CardParent:
    """A parent, as a card tells of it."""

    label: str
    """`math@1`, or a path as it was given."""
    role: str
    digest: str
    """Of its weights."""
    weight: float | None = None
    source: str = ""
    license: str | None = None

    @property
    def model(self) -> str:
        """Its id on the hub it came from, or else its label."""
        hub = hub_model(self.source)
        return hub.id if hub else self.label

    @property
    def is_public(self) -> bool:
        """Whether the Hub knows it by its id."""
        return hub_model(self.source) is not None

    @property
    def block(self) -> dict[str, Any]:
        """Its lines in the `zoo:` block."""
        hub = hub_model(self.source)
        found = {
            "ref": self.label,
            "role": self.role,
            "weight": self.weight,
            "weights": self.digest,
            "source": f"hf://{hub.id}" if hub else None,
            "revision": hub.revision if hub else None,
        }
        return {k: v for k, v in found.items() if v is not None}


def card_parent(one: Input, role: str, weight: float | None = None) -> CardParent:
    """An opened parent."""
    version = one.version
    return CardParent(
        one.model.label,
        role,
        one.model.digest,
        weight,
        version.source if version else "",
        version.license if version else None,
    )


def version_parent(version: Version, role: str, weight: float | None = None) -> CardParent:
    """A registered parent."""
    return CardParent(version.ref, role, version.digest, weight, version.source, version.license)


def front_matter(
    *,
    models: Iterable[str],
    relation: str | None,
    library: str | None,
    license: str | None,
    tags: Sequence[str],
    zoo: Mapping[str, Any],
) -> dict[str, Any]:
    """The keys of a card, those that are known.

    Args:
        models: what `base_model` lists.
        relation: `finetune`, `adapter`, `merge`, `quantized`; said only where a model is listed.
        zoo: the `zoo:` block.
    """
    listed = list(dict.fromkeys(models))
    found = {
        "base_model": listed[0] if len(listed) == 1 and relation != "merge" else listed or None,
        "base_model_relation": relation if listed else None,
        "library_name": library,
        **licence_keys(license),
        "tags": list(dict.fromkeys(tags)),
        "zoo": {k: v for k, v in zoo.items() if v is not None},
    }
    return {k: v for k, v in found.items() if v is not None}


def licence_keys(license: str | None) -> dict[str, Any]:
    """A licence in the Hub's words: it knows some ids, all in lower case, and `other` by a name."""
    if license is None:
        return {}
    if license.lower() in HUB_LICENCES:
        return {"license": license.lower()}
    return {"license": "other", "license_name": license}


# fmt: off
HUB_LICENCES = frozenset({
     "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0",
     "bigcode-openrail-m", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd",
     "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc",
     "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
     "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
     "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
     "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
     "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0",
     "etalab-2.0", "eupl-1.1", "eupl-1.2", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0",
     "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr",
     "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit",
     "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++",
     "osl-3.0", "other", "pddl", "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
})
# fmt: on
"""Source: https://huggingface.co/docs/hub/repositories-licenses"""


def library_of(config: Mapping[str, Any] | None) -> str | None:
    """The library that loads a model with this `config.json`; None where it does not say."""
    config = config or {}
    classes = config.get("architectures")
    if isinstance(classes, list) and any(
        isinstance(name, str) and _TRANSFORMERS.fullmatch(name) for name in classes
    ):
        return "transformers"
    return next((name for key, name in _LIBRARIES.items() if key in config), None)
