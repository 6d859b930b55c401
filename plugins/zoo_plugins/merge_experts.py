"""Merge experts: those of each layer of a mixture become fewer, by average.

Source: Li et al. 2024, arXiv:2310.01334 (M-SMoE); see `zoo.moe.merging` and `zoo.moe.grouping` for
where this departs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.hookspecs import hookimpl
from zoo.transform import Parents, Transform, Transformed

if TYPE_CHECKING:
    from pydantic import BaseModel


class MergeExperts(Transform):
    """A mixture with fewer experts."""

    name = "merge_experts"
    version = "1.0.0"
    summary = "A mixture of experts whose experts are merged into fewer, by average."
    roles = {"model": (1, 1)}

    def parameters(self) -> type[BaseModel]:
        from zoo.moe.options import MergeExpertsOptions

        return MergeExpertsOptions

    def apply(self, parents: Parents, parameters: Any) -> Transformed:
        from zoo.moe.fewer import with_fewer_experts

        return with_fewer_experts(parents["model"][0], parameters)


@hookimpl
def zoo_register_transforms(register: Callable[[Transform], None]) -> None:
    register(MergeExperts())
