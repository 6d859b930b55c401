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

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.dtypes import DTYPES
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.hookspecs import hookimpl
from zoo.moe.fits import files_of, fit
from zoo.moe.layouts import config_for
from zoo.moe.mixture import Mixture
from zoo.moe.options import UpcycleOptions
from zoo.recipe import output_dtype
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
        return UpcycleOptions

    def apply(self, parents: Parents, parameters: Any) -> Transformed:
        options: UpcycleOptions = parameters
        (base,), experts, shared = (parents[role] for role in ("base", "expert", "shared"))
        for key, said, those in (
            ("experts", options.experts, experts),
            ("shared_experts", options.shared_experts, shared),
        ):
            if said and len(said) != len(those):
                raise InvalidRecipe(
                    f"`{key}` says something of {len(said)} models, and there are {len(those)}.",
                    how="Say it of each, in their order, or of none.",
                    key=key,
                )
        dtype = None if options.dtype is None else output_dtype(options.dtype)
        found = fit(base, experts, shared, options)
        if found.problems:
            raise IncompatibleModels(
                f"These models cannot become a mixture, {len(found.problems)} "
                f"{'problem' if len(found.problems) == 1 else 'problems'}:",
                "; ".join(found.problems) + ".",
                problems=found.problems,
            )
        assert found.layout is not None
        mixture = Mixture(
            found.layout,
            base,
            experts,
            shared,
            options,
            dtype,
            found.width,
            found.shared_width,
            found.ids,
        )
        router = mixture.router()
        checkpoint = mixture.checkpoint(router)
        config = config_for(
            found.layout,
            mixture.config,
            experts=len(experts),
            experts_per_token=options.experts_per_token,
            width=found.width,
            shared_width=found.shared_width or mixture.silent_width,
            dtype=None if dtype is None else DTYPES[dtype].torch_name,
        )
        # Worked out with the tensors: the version is written after them.
        notes = router.notes
        notes["layout"] = found.layout.name
        notes["notes"] = found.notes
        return Transformed(
            checkpoint,
            {**files_of(base), "config.json": _json(config)},
            base=base,
            architecture=found.layout.name,
            notes=notes,
        )


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


@hookimpl
def zoo_register_transforms(register: Callable[[Transform], None]) -> None:
    register(Upcycle())
