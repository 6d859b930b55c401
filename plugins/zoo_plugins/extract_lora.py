"""An adapter of the difference of two models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from zoo.hookspecs import hookimpl
from zoo.transform import Parents, Transform, Transformed

if TYPE_CHECKING:
    from pydantic import BaseModel


class ExtractLora(Transform):
    """A PEFT directory whose factors are the largest singular triples of model minus base."""

    name = "extract_lora"
    version = "1.0.0"
    summary = "A low-rank adapter of the difference of a model and its base."
    roles = {"model": (1, 1), "base": (1, 1)}
    makes = "adapter"
    replay = "platform"
    weights_stem = "adapter_model"

    def parameters(self) -> type[BaseModel]:
        from pydantic import BaseModel, ConfigDict, Field

        class Options(BaseModel):
            model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
            rank: int | None = Field(None, ge=1, description="rank of each product, at most")
            energy: float | None = Field(
                None, gt=0, le=1, description="share of the squared singular values to keep"
            )
            alpha: float | None = Field(
                None, gt=0, description="`lora_alpha` to write; the largest rank by default"
            )
            include: list[str] = Field([], description="globs of tensors to take; all by default")
            exclude: list[str] = Field([], description="globs of tensors to leave as the base's")
            embeddings: bool = Field(False, description="factor embeddings too")
            modules_to_save: Literal["changed", "none"] = Field(
                "changed", description="bring along what has no factors, such as norms and biases"
            )

        return Options

    def apply(self, parents: Parents, parameters: Any) -> Transformed:
        from zoo.adapters.factoring import Extraction, extracted

        (model,), (base,) = parents["model"], parents["base"]
        asked = Extraction(
            parameters.rank,
            parameters.energy,
            parameters.alpha,
            tuple(parameters.include),
            tuple(parameters.exclude),
            parameters.embeddings,
            parameters.modules_to_save,
        )
        return extracted(model, base, asked)


@hookimpl
def zoo_register_transforms(register: Callable[[Transform], None]) -> None:
    register(ExtractLora())
