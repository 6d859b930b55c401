"""Upcycle: a mixture of experts of dense siblings, each giving its MLPs.

Attention, norms and embeddings are the base's; a router in each layer chooses for every token, by
a gate matrix (experts x d), which of the experts' MLPs it goes through.

Source: mergekit-moe (`docs/moe.md`, `mergekit/moe/`); Komatsuzaki et al. 2023, arXiv:2212.05055,
"Sparse upcycling", for copies of one MLP under a random router.
Departs: see `zoo.moe.router`; Mistral's sliding window stays; biases that Qwen2-MoE may do without
are left out rather than zeros; without a shared expert, Qwen2-MoE gets one of zeros; experts may
be wider or narrower than the base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.hookspecs import hookimpl
from zoo.transform import Parents, Transform, Transformed

if TYPE_CHECKING:
    from pydantic import BaseModel


class Upcycle(Transform):
    """A mixture of experts of dense siblings."""

    name = "upcycle"
    version = "1.0.0"
    summary = "A mixture of experts of dense siblings, with a router made of prompts or drawn."
    roles = {"base": (1, 1), "expert": (2, None), "shared": (0, None)}

    def parameters(self) -> type[BaseModel]:
        from zoo.moe.options import UpcycleOptions

        return UpcycleOptions

    def apply(self, parents: Parents, parameters: Any) -> Transformed:
        from zoo.moe.upcycling import mixed

        return mixed(parents["base"][0], parents["expert"], parents["shared"], parameters)


@hookimpl
def zoo_register_transforms(register: Callable[[Transform], None]) -> None:
    register(Upcycle())
