"""Neural collapse: NC1 to NC4, from the features before the head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from zoo import Metric, MetricValue, Sample, Subject, hookimpl, metric
from zoo.errors import IncompatibleModels

if TYPE_CHECKING:
    import torch


@metric(
    "neural_collapse",
    version="1.0.0",
    needs="data",
    split="train",
    gives={
        "nc1": "scatter within classes over scatter between them, tr(S_W S_B^+), dimensionless",
        "nc1_over_c": "the same over the number of classes",
        "nc2_equinorm_means": "spread of the lengths of the class means, standard deviation / mean",
        "nc2_equinorm_head": "the same of the rows of the head",
        "nc2_equiangular_means": "mean distance of the cosines between class means from those of a "
        "simplex",
        "nc2_equiangular_head": "the same of the rows of the head",
        "nc3": "squared distance of the head from the class means, each scaled to norm 1",
        "nc4": "share of examples whose answer is not the class of the nearest mean",
    },
    passes=lambda p, models: 2.0,
)
def neural_collapse(
    model: Subject,
    sample: Sample,
    *,
    dtype: Annotated[Literal["float32", "float64"], "arithmetic of the network"] = "float32",
) -> Iterator[MetricValue]:
    """How far the features have collapsed to a simplex of class means; all are zero when they have.

    When: on the training set, to see how far past zero error a model was trained; on a task's data,
        how much of an expert's separation of classes a merged model has kept (NC1).

    Needs an architecture that names its head, a `torch.nn.Linear` with a row for each class.

    Cost: two passes, forward.
    Source: Papyan, Han, Donoho 2020, arXiv:2008.08186; their notebook.
    """
    import torch

    from zoo.landscape.collapse import collapse
    from zoo.landscape.estimate import value
    from zoo.landscape.examples import Examples
    from zoo.measuring.scores import check_outputs

    module = model.module(sample.device, getattr(torch, dtype))
    head = _head(model, module)
    if not sample.task.labels:
        raise IncompatibleModels(
            f"Task `{sample.task.name}` has no labels.",
            "Neural collapse is of features around the means of their classes.",
            task=sample.task.name,
        )
    held: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: held.append(given[0]))
    examples = Examples(sample, head.weight.dtype)

    def features() -> Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for x, y in examples:
            held.clear()
            with torch.inference_mode():
                outputs = module(x)
            if len(held) != 1 or held[0].shape != (len(x), head.in_features):
                raise IncompatibleModels(
                    f"The head of `{model.label}` took inputs of shape "
                    f"{[tuple(h.shape) for h in held]} for {len(x)} examples.",
                    "Neural collapse needs one feature vector for each example.",
                )
            check_outputs(sample.task, outputs)
            sample.progress.advance(len(x))
            yield held[0], outputs.argmax(1), y

    try:
        found = collapse(features, head.weight.detach())
    finally:
        hook.remove()
    for name, one in found.items():
        yield from value(name, one.value, stderr=one.stderr)


def _head(model: Subject, module: torch.nn.Module) -> torch.nn.Linear:
    """The layer that makes the outputs.

    Raises:
        IncompatibleModels: it is not known, or no `torch.nn.Linear`.
    """
    import torch

    name = model.architecture.head(model.config) if model.architecture else None
    if name is None:
        raise IncompatibleModels(
            f"The head of `{model.label}` is not known.",
            "Features are what goes into it.",
            "Let its architecture say so: `Architecture.head`.",
        )
    head = dict(module.named_modules()).get(name)
    if not isinstance(head, torch.nn.Linear):
        raise IncompatibleModels(
            f"The head `{name}` of `{model.label}` is "
            + (f"a {type(head).__name__}." if head is not None else "not in the module."),
            "A `torch.nn.Linear` is needed, with a row for each class.",
            head=name,
        )
    return head


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(neural_collapse)
