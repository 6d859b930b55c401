"""What one says about a mixture besides its models; the words are mergekit-moe's."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, FiniteFloat

GateMode = Literal["hidden", "hidden_last", "hidden_avg", "cheap_embed", "random", "uniform_random"]
DRAWN = ("random", "uniform_random")
"""Modes that need no prompts."""


class ExpertOptions(BaseModel):
    """What one says about an expert."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    positive_prompts: tuple[str, ...] = ()
    """Texts that it is for."""
    negative_prompts: tuple[str, ...] = ()
    """Texts that it is not for."""
    noise_scale: Annotated[FiniteFloat, Ge(0)] = 0.0
    """Standard deviation of the noise added to its weights, in their unit."""
    residual_scale: FiniteFloat = 1.0
    """Factor of what it adds to the residual stream, dimensionless."""


class UpcycleOptions(BaseModel):
    """Options of the transform `upcycle`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    architecture: str | None = None
    """`mixtral`, `qwen2_moe` or `qwen3_moe`; the one that fits the base by default."""
    gate_mode: GateMode = "hidden"
    """How the router's weights come about."""
    experts_per_token: Annotated[int, Ge(1)] = 2
    dtype: str | None = None
    """Type of all floating tensors; by default what is added has that of the base."""
    experts: tuple[ExpertOptions, ...] = ()
    """One for each expert, in order; or none."""
    shared_experts: tuple[ExpertOptions, ...] = ()
    seed: int = 0
    """Of a router that is drawn, and of noise."""


Frequency = Annotated[FiniteFloat, Ge(0)]


class MergeExpertsOptions(BaseModel):
    """Options of the transform `merge_experts`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    experts: Annotated[int, Ge(1)] | None = None
    """Experts to leave in each layer."""
    groups: tuple[tuple[Annotated[int, Ge(0)], ...], ...] | None = None
    """Experts that go together, in every layer; in place of `experts`."""
    grouping: Literal["router", "weights", "consecutive"] = "router"
    """Which go together, where `groups` does not say."""
    frequencies: tuple[Frequency, ...] | tuple[tuple[Frequency, ...], ...] | None = None
    """How often each expert is used, of any scale; of all layers, or for each layer."""
    router: Literal["mean", "keep"] = "mean"
    """Average the rows of a group; or keep the router, and the merged expert for each of them."""
    align: bool = False
    """Permute the units of experts to those of the first expert, before they are averaged."""
    experts_per_token: Annotated[int, Ge(1)] | None = None
    """The mixture's own by default, or all experts where fewer are left."""
