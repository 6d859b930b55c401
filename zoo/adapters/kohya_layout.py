"""The tensors of kohya's and LyCORIS's files, as changes to the base; from names and shapes alone.

    unet.MODULE.lora_A.weight, lora_B.weight      diffusers' own; alphas in the file's metadata
    lora_unet_MODULE.lora_down.weight, lora_up.weight, lora_mid.weight     low-rank; with a core
    ... .alpha                                    a number: the scale is alpha / rank
    ... .hada_w1_a ..., .lokr_w1 ...              LoHa, LoKr
    ... .diff, .diff_b                            the difference in full
    ... .dora_scale                               DoRA's norms

A MODULE is the name of a module with underscores for dots, and what is before it says which
network: `lora_unet`, `lora_te`, `lora_te1`, `lora_te2`, `lycoris`. The base's names are flattened
in the same way and looked up, below each of the places where its kind of checkpoint keeps that
network.

Alphas are read when the file is opened: without them, nothing is known of the scale.

Source: kohya-ss/sd-scripts, networks/lora.py; KohakuBlueleaf/LyCORIS, lycoris/modules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from zoo.adapters.change import Change, Magnitude
from zoo.adapters.ldm_names import ldm_name
from zoo.adapters.peft_config import PeftConfig
from zoo.adapters.peft_layout import PRODUCT_SLOTS, kronecker
from zoo.adapters.targets import by_flat_name
from zoo.adapters.updates import Hadamard, LowRank, Update, Whole
from zoo.checkpoint import Checkpoint, TensorInfo, tensor_of
from zoo.errors import InvalidCheckpoint, UnsupportedFormat
from zoo.source import HeadersOnly

_SLOTS = (
    "lora_down.weight",
    "lora_up.weight",
    "lora_mid.weight",
    "lora_A.weight",
    "lora_B.weight",
    "alpha",
    "dora_scale",
    "diff",
    "diff_b",
    *PRODUCT_SLOTS,
)
SLOT = re.compile(rf"(?P<module>.+?)\.(?P<slot>{'|'.join(re.escape(s) for s in _SLOTS)})")
_REFUSED = re.compile(r".+\.(on_input|a1\.weight|bias_indices|oft_blocks|oft_diag|w_norm|b_norm)")
PLACES = {
    "lora_unet": ("", "unet", "transformer", "model_diffusion_model", "diffusion_model"),
    "lora_te": ("", "text_encoder", "cond_stage_model_transformer"),
    "lora_te1": ("", "text_encoder", "conditioner_embedders_0_transformer"),
    "lora_te2": ("text_encoder_2", "conditioner_embedders_1_transformer"),
    "lora_te3": ("text_encoder_3",),
    "lycoris": ("", "unet", "transformer", "model_diffusion_model"),
    "lora_transformer": ("", "transformer"),
    "lora_prior_unet": ("", "prior"),
    "unet": ("", "unet"),
    "transformer": ("", "transformer"),
    "text_encoder": ("", "text_encoder"),
    "text_encoder_2": ("text_encoder_2",),
    "text_encoder_3": ("text_encoder_3",),
}
"""What is before a module's name, and where checkpoints keep that network, flattened."""
_PREFIX = re.compile("(" + "|".join(sorted(PLACES, key=len, reverse=True)) + ")[_.]")


def is_kohya(names: Iterable[str]) -> bool:
    """Whether tensors' names are those of such a file."""
    return any(_PREFIX.match(n) and SLOT.fullmatch(n) for n in names)


def kohya_changes(
    checkpoint: Checkpoint,
    base: Mapping[str, TensorInfo],
    configs: Mapping[str, PeftConfig] | None = None,
) -> tuple[dict[str, Change], list[str]]:
    """What the adapter does to each tensor of the base, and what is wrong.

    Args:
        configs: by network, what the file's metadata says of ranks and alphas.
    Raises:
        InvalidCheckpoint: a tensor that no such file has, or a factor without the other.
        UnsupportedFormat: a kind of adapter that is no sum.
    """
    origin = checkpoint.opened.origin
    modules: dict[str, dict[str, TensorInfo]] = {}
    for name, info in checkpoint.tensors.items():
        match = SLOT.fullmatch(name)
        if match is None:
            raise _unknown(name, origin)
        modules.setdefault(match["module"], {})[match["slot"]] = info
    flat = by_flat_name(base)
    changes: dict[str, Change] = {}
    problems: list[str] = []
    for module, own in sorted(modules.items()):
        found = _weight(module, flat)
        if found is None:
            problems.append(f"the base has no module for `{module}`")
            continue
        weight = changes.setdefault(found, Change(found))
        shape = base[found].shape
        if update := _update(module, own, checkpoint, configs or {}):
            weight.updates.append(update)
        if (scale := own.get("dora_scale")) is not None:
            weight.magnitude = Magnitude(scale, _along(scale, shape))
        if (bias := own.get("diff_b")) is not None:
            name = found.removesuffix(".weight") + ".bias"
            if name not in base:
                problems.append(f"the base has no tensor `{name}`, which `{bias.name}` changes")
            else:
                changes.setdefault(name, Change(name)).updates.append(Whole(bias, 1.0))
    return {n: c for n, c in changes.items() if c.parts}, problems


def _along(scale: TensorInfo, shape: tuple[int, ...]) -> Literal["rows", "columns"]:
    """Whether norms are of rows or of columns: LyCORIS has both, and says it by the shape."""
    return "rows" if scale.shape[:1] == shape[:1] else "columns"


def _weight(module: str, flat: Mapping[str, list[str]]) -> str | None:
    """The base's weight that a module's name means; None where nothing fits, or several do."""
    match = _PREFIX.match(module)
    if match is None:
        return None
    rest = module[match.end() :].replace(".", "_")
    for name in (rest, *ldm_name(match[1], rest)):
        for place in PLACES[match[1]]:
            key = f"{place}_{name}" if place else name
            if len(found := flat.get(key, [])) == 1:
                return found[0]
    return None


def _update(
    module: str,
    slots: Mapping[str, TensorInfo],
    checkpoint: Checkpoint,
    configs: Mapping[str, PeftConfig],
) -> Update | None:
    """What is added to a module's weight; None for one that has only a bias."""
    origin = checkpoint.opened.origin

    def part(slot: str) -> TensorInfo:
        if slot not in slots:
            raise InvalidCheckpoint(
                f"`{module}` of `{origin}` has no `{slot}`:",
                "half of a product adds nothing that is known.",
                "Download the file again.",
                module=module,
                slot=slot,
            )
        return slots[slot]

    network, _, short = module.partition(".")
    if network in configs:
        said = configs[network].scale_of(short)
        scale: Callable[[int], float] = lambda rank: said  # noqa: E731  (a rule, as below)
    else:
        scale = _scale_of(slots, checkpoint)
    if any(s.startswith("hada") for s in slots):
        first = (part("hada_w1_a"), part("hada_w1_b"))
        second = (part("hada_w2_a"), part("hada_w2_b"))
        cores = (part("hada_t1"), part("hada_t2")) if "hada_t1" in slots else None
        return Hadamard(first, second, scale(first[1].shape[0]), cores)
    if any(s.startswith("lokr") for s in slots):
        made = kronecker(slots, "lokr_", part, 1.0)
        # Two whole factors have no rank to divide by: LyCORIS sets alpha to it.
        return kronecker(slots, "lokr_", part, scale(made.rank) if made.rank else 1.0)
    for up, down in (("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight")):
        if up in slots or down in slots:
            factors = part(up), part(down)
            rank = factors[1].shape[0] if factors[1].shape else 1
            return LowRank(*factors, scale(rank), slots.get("lora_mid.weight"))
    return Whole(slots["diff"], 1.0) if "diff" in slots else None


def _scale_of(slots: Mapping[str, TensorInfo], checkpoint: Checkpoint) -> Callable[[int], float]:
    """alpha / rank; 1 where there is no alpha."""
    info = slots.get("alpha")
    if info is None or isinstance(checkpoint, HeadersOnly):
        return lambda rank: 1.0
    if info.elements != 1:
        raise InvalidCheckpoint(
            f"`{info.name}` of `{checkpoint.opened.origin}` is {list(info.shape)}:",
            "it should be one number.",
            tensor=info.name,
        )
    alpha = float(tensor_of(checkpoint, info).reshape(()))
    if not math.isfinite(alpha):
        raise InvalidCheckpoint(
            f"`{info.name}` of `{checkpoint.opened.origin}` is {alpha}:",
            "nothing can be scaled by it.",
            tensor=info.name,
        )
    return lambda rank: alpha / max(1, rank)


def _unknown(name: str, origin: str) -> InvalidCheckpoint:
    if _REFUSED.fullmatch(name):
        return UnsupportedFormat(
            f"`{origin}` holds `{name}`:",
            "adapters that multiply (IA3, OFT, BOFT, GLoRA) are no sums that a merge could take.",
            "Merge it into its model where it was made, and register the model.",
            tensor=name,
        )
    return InvalidCheckpoint(
        f"Tensor `{name}` of `{origin}` is none that kohya's files or LyCORIS's have.",
        how="Download the file again; or say at its source what made it.",
        tensor=name,
    )
