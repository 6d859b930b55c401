"""A mixture of dense siblings, from headers: what is wrong, then lazy tensors."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.dtypes import DTYPES
from zoo.engine.inputs import Input
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.moe.fits import config_file, files_of, fit
from zoo.moe.layouts import config_for
from zoo.moe.mixture import Mixture
from zoo.moe.options import UpcycleOptions
from zoo.recipes.recipe import output_dtype
from zoo.transform import Transformed


def mixed(
    base: Input, experts: Sequence[Input], shared: Sequence[Input], options: UpcycleOptions
) -> Transformed:
    """A mixture of experts: the base with a router over the experts' MLPs.

    Raises:
        IncompatibleModels: `problems` lists all that is wrong.
        InvalidRecipe: something is said of more or fewer models than there are.
    """
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
        {**files_of(base), "config.json": config_file(config)},
        base=base,
        architecture=found.layout.name,
        notes=notes,
    )
