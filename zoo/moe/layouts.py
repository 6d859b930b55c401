"""Layouts of mixtures: which dense models become one, what its tensors are called on disk, and what
its configuration says.

Names are those that transformers reads and writes: since version 5 it fuses the experts of a layer
in memory, and separate ones stay the form on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import did_you_mean
from zoo.moe.dense import KINDS, spoken

SILENT_WIDTH = 256
"""Widest a shared expert of zeros is, where the layout must have one and none is given."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A form of mixture."""

    name: str
    """`model_type`."""
    title: str
    """As people, and mergekit, call it."""
    model_class: str
    sources: tuple[str, ...]
    """Dense kinds that it is made of, by `model_type`."""
    block: str
    """What stands for `mlp` in names."""
    parts: Mapping[str, str]
    """Part of a dense MLP -> what an expert calls it."""
    shared: bool = False
    """Whether it has a shared expert, which every token goes through."""

    def gate(self, layer: int) -> str:
        return f"model.layers.{layer}.{self.block}.gate.weight"

    def expert(self, layer: int, index: int, part: str) -> str:
        return f"model.layers.{layer}.{self.block}.experts.{index}.{self.parts[part]}.weight"

    def shared_gate(self, layer: int) -> str:
        return f"model.layers.{layer}.{self.block}.shared_expert_gate.weight"

    def shared_expert(self, layer: int, part: str) -> str:
        return f"model.layers.{layer}.{self.block}.shared_expert.{part}.weight"


_PLAIN = {p: p for p in ("gate_proj", "up_proj", "down_proj")}
LAYOUTS = {
    one.name: one
    for one in (
        Layout(
            "mixtral",
            "Mixtral",
            "MixtralForCausalLM",
            ("llama", "mistral"),
            "block_sparse_moe",
            {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
        ),
        Layout(
            "qwen2_moe",
            "Qwen MoE",
            "Qwen2MoeForCausalLM",
            ("qwen2", "llama", "mistral"),
            "mlp",
            _PLAIN,
            shared=True,
        ),
        Layout("qwen3_moe", "Qwen3 MoE", "Qwen3MoeForCausalLM", ("qwen3",), "mlp", _PLAIN),
    )
}


def layout_for(word: str | None, kind: str, shared: int) -> Layout | str:
    """The layout that is meant, or what is wrong with the wish.

    Args:
        word: a name, or the beginning of one, as mergekit has it; None is the first that fits.
        kind: `model_type` of the base.
        shared: how many shared experts there are.
    """
    meant = list(LAYOUTS.values())
    if word is not None:
        plain = _plain(word)
        named = [(x, (_plain(x.name), _plain(x.title), _plain(x.model_class))) for x in meant]
        meant = [x for x, names in named if plain and any(n.startswith(plain) for n in names)]
        if not meant:
            return f"there is no layout `{word}`; {did_you_mean(word, list(LAYOUTS))}"
    fitting = [x for x in meant if kind in x.sources]
    if not fitting:
        if word is None or kind not in KINDS:
            return f"the base is `{kind}`, and mixtures are made of " + ", ".join(
                f"`{k}`" for k in KINDS
            )
        sources = list(dict.fromkeys(k for x in meant for k in x.sources))
        return (
            f"the base is `{kind}`, and `{meant[0].name}` is made of "
            + " or ".join(f"`{k}`" for k in sources)
            + ": leave `architecture` out, or choose another base"
        )
    most = [x for x in fitting if shared <= int(x.shared)]
    if not most:
        room = "one shared expert" if any(x.shared for x in fitting) else "no shared expert"
        return f"`{fitting[-1].name}` has {room}, and {shared} are given"
    return most[0]


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())


def config_for(
    layout: Layout,
    config: Mapping[str, Any],
    *,
    experts: int,
    experts_per_token: int,
    width: int,
    shared_width: int,
    dtype: str | None,
) -> dict[str, Any]:
    """The mixture's configuration.

    Args:
        config: of the base.
        width: of an expert: rows of its `gate_proj`.
        shared_width: of the shared expert, where the layout has one.
        dtype: torch's name of the type, or None for what the base says.
    """
    kind = KINDS[config["model_type"]]
    found = spoken(kind, config)
    for key in ("auto_map", "_name_or_path", "mlp_bias", "pretraining_tp", "quantization_config"):
        found.pop(key, None)
    found |= {
        "architectures": [layout.model_class],
        "model_type": layout.name,
        "num_experts_per_tok": experts_per_token,
    }
    if layout.name == "mixtral":
        for key in ("attention_bias", "layer_types"):
            found.pop(key, None)
        found |= {"intermediate_size": width, "num_local_experts": experts}
        found.setdefault("sliding_window", None)
    else:
        found |= {
            "num_experts": experts,
            "moe_intermediate_size": width,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    if layout.name == "qwen2_moe":
        found["shared_expert_intermediate_size"] = shared_width
        found.pop("attention_bias", None)
        found["qkv_bias"] = kind.name == "qwen2"
        _say_windows(kind.name, found)
    if dtype is not None:
        found["dtype" if "dtype" in found and "torch_dtype" not in found else "torch_dtype"] = dtype
        if "dtype" in found and "torch_dtype" in found:
            found["dtype"] = dtype
    return dict(sorted(found.items()))


def _say_windows(kind: str, config: dict[str, Any]) -> None:
    """Qwen2-MoE slides in other layers than Qwen2 does, unless each layer is listed."""
    count, window = config["num_hidden_layers"], config.get("sliding_window")
    if kind == "llama" or (kind == "qwen2" and not config["use_sliding_window"]) or not window:
        config |= {"use_sliding_window": False, "sliding_window": None}
        config["layer_types"] = ["full_attention"] * count
        return
    first = 0 if kind == "mistral" else config["max_window_layers"]
    config["use_sliding_window"] = True
    config["layer_types"] = config.get("layer_types") or [
        "sliding_attention" if i >= first else "full_attention" for i in range(count)
    ]
