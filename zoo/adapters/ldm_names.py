"""What a module of Stable Diffusion's UNet is called in the other of its two layouts.

Stability's checkpoints number the blocks of the UNet (`input_blocks.4.1`), diffusers names them by
level (`down_blocks.1.attentions.0`). kohya's files for SD 1 and 2 have diffusers' names, those for
SDXL Stability's; each is used with checkpoints of both layouts. Names here are flattened.

    input_blocks: one for conv_in; then, level by level, two blocks and, but for the last, a
    downsampler. output_blocks: three per level, the last with an upsampler, but for the last level.

Source: diffusers, scripts/convert_diffusers_to_original_stable_diffusion.py and ..._sdxl.py;
kohya-ss/sd-scripts, library/sdxl_model_util.py, make_unet_conversion_map.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

LEVELS = (4, 3)
"""Levels of the UNet: SD 1 and 2, SDXL."""
_RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_OUTER = {
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "input_blocks_0_0": "conv_in",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}


def ldm_name(network: str, module: str) -> Iterator[str]:
    """Names that a module of the UNet may have in the other layout; none for text encoders."""
    if network not in ("lora_unet", "lycoris"):
        return
    for levels in LEVELS:
        for theirs, ours in _blocks(levels):
            for a, b in ((theirs, ours), (ours, theirs)):
                if module == a or module.startswith(a + "_"):
                    yield from _inner(b, module[len(a) :].removeprefix("_"))


def _inner(block: str, rest: str) -> Iterator[str]:
    """A block's new name with what is below it, in either layout's words."""
    if not rest:
        yield block
        return
    yield f"{block}_{rest}"
    for a, b in _RESNET.items():
        if rest == a:
            yield f"{block}_{b}"
        elif rest == b:
            yield f"{block}_{a}"


@cache
def _blocks(levels: int) -> tuple[tuple[str, str], ...]:
    """(Stability's name, diffusers' name) of the blocks of a UNet, longest first."""
    found = list(_OUTER.items())
    for level in range(levels):
        for i in range(2):
            number = 3 * level + i + 1
            found.append((f"input_blocks_{number}_0", f"down_blocks_{level}_resnets_{i}"))
            found.append((f"input_blocks_{number}_1", f"down_blocks_{level}_attentions_{i}"))
        if level < levels - 1:
            down = f"down_blocks_{level}_downsamplers_0_conv"
            found.append((f"input_blocks_{3 * (level + 1)}_0_op", down))
        for i in range(3):
            number = 3 * level + i
            found.append((f"output_blocks_{number}_0", f"up_blocks_{level}_resnets_{i}"))
            found.append((f"output_blocks_{number}_1", f"up_blocks_{level}_attentions_{i}"))
        if level < levels - 1:
            # After the attention where the level has one, and in its place where it has none.
            up = f"up_blocks_{level}_upsamplers_0_conv"
            found += [(f"output_blocks_{3 * level + 2}_{at}_conv", up) for at in (2, 1)]
    found += [
        ("middle_block_0", "mid_block_resnets_0"),
        ("middle_block_1", "mid_block_attentions_0"),
    ]
    found.append(("middle_block_2", "mid_block_resnets_1"))
    return tuple(sorted(found, key=lambda pair: -len(pair[0])))
