"""A mixture with fewer experts, from headers: what is wrong, then lazy tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoo.engine.inputs import Input
from zoo.errors import IncompatibleModels
from zoo.moe.fits import config_file, files_of
from zoo.moe.grouping import Groups
from zoo.moe.merging import Merging, config_for, merged
from zoo.moe.mixed import Block, blocks_of, experts_said
from zoo.moe.options import MergeExpertsOptions
from zoo.transform import Transformed


def with_fewer_experts(one: Input, options: MergeExpertsOptions) -> Transformed:
    """A mixture's experts merged into fewer.

    Raises:
        IncompatibleModels: `problems` lists all that is wrong.
    """
    source = one.model.checkpoint
    config = source.opened.config or {}
    blocks, problems = blocks_of(source)
    problems += _problems(one, config, blocks, options)
    if problems:
        raise IncompatibleModels(
            f"The experts of `{one.model.label}` cannot be merged, {len(problems)} "
            f"{'problem' if len(problems) == 1 else 'problems'}:",
            "; ".join(problems) + ".",
            problems=problems,
        )
    asked: Groups | int = options.groups if options.groups is not None else options.experts or 1
    found: dict[str, Any] = {}
    merges = [
        Merging(
            source,
            block,
            _usage(options, i, block),
            asked,
            options.grouping,
            options.align,
            found,
        )
        for i, block in enumerate(blocks)
    ]
    left = asked if isinstance(asked, int) else len(asked)
    count = left if options.router == "mean" else None
    per_token = int(config["num_experts_per_tok"])
    chosen = options.experts_per_token or min(per_token, count or per_token)
    notes: dict[str, Any] = {"groups": found}  # filled as the tensors are made
    if chosen != per_token:
        notes["notes"] = [
            f"each token now goes through {chosen} expert{'s' * (chosen > 1)}, not {per_token}"
        ]
    made = config_for(config, count or blocks[0].experts, chosen)
    return Transformed(
        merged(source, merges, count, f"{one.model.label} with {left} experts"),
        {**files_of(one), "config.json": config_file(made)},
        base=one,
        architecture=str(config.get("model_type")),
        notes=notes,
    )


def _usage(options: MergeExpertsOptions, index: int, block: Block) -> tuple[float, ...]:
    """How often each expert of a block is used."""
    said = options.frequencies
    if said is None:
        return (1.0,) * block.experts
    one = said[index] if isinstance(said[0], tuple) else said
    return tuple(one)


def _problems(
    one: Input, config: Mapping[str, Any], blocks: list[Block], options: MergeExpertsOptions
) -> Iterator[str]:
    label = one.model.label
    if not blocks:
        yield f"`{label}` has no mixture that is known: layers with a gate and experts"
        return
    counts = sorted({b.experts for b in blocks})
    if len(counts) > 1:
        yield f"the layers have {counts} experts, and one number must do for all"
        return
    experts = counts[0]
    if experts_said(config) != experts:
        yield f"`config.json` says {experts_said(config)} experts, the router has {experts} rows"
    if not isinstance(config.get("num_experts_per_tok"), int):
        yield "`config.json` does not say `num_experts_per_tok`"
    if (options.experts is None) == (options.groups is None):
        yield "say either how many `experts` to leave or which `groups`"
        return
    if options.experts is not None and options.experts > experts:
        yield f"{options.experts} experts cannot be left of {experts}"
    if options.groups is not None:
        members = sorted(e for group in options.groups for e in group)
        if members != list(range(experts)) or () in options.groups:
            yield (f"`groups` must have each expert from 0 to {experts - 1} once, and none empty")
    left = options.experts or len(options.groups or ())
    left = experts if options.router == "keep" else left
    if options.experts_per_token is not None and options.experts_per_token > left:
        yield f"`experts_per_token` is {options.experts_per_token}, and {left} experts are left"
    said = options.frequencies
    if said is not None:
        layers = said if said and isinstance(said[0], tuple) else [said] * len(blocks)
        if len(layers) != len(blocks):
            yield f"`frequencies` has {len(layers)} layers, and the mixture {len(blocks)}"
        elif any(len(layer) != experts for layer in layers):
            yield f"`frequencies` must have {experts} numbers, one for each expert"
