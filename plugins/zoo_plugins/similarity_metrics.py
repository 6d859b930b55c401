"""How alike two models are in what they compute: CKA of their outputs, and disagreement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from zoo import Metric, MetricValue, Sample, Subject, hookimpl, metric
from zoo.errors import InvalidRecipe, did_you_mean

if TYPE_CHECKING:
    import torch


@metric(
    "cka",
    version="1.0.0",
    arity=2,
    needs="data",
    gives={
        "cka": "linear CKA, 0 to 1; grows with the width where there are few examples",
        "cka_debiased": "linear CKA from unbiased HSIC, at most 1; about 0 for unlike models",
    },
    passes=lambda p, models: models,
)
def cka(
    models: Sequence[Subject],
    sample: Sample,
    *,
    layer: Annotated[
        str, "what is compared: `output`, `features` (what the head is given), or a module's name"
    ] = "output",
    mixup: Annotated[
        float, Ge(0), "inputs are mixed in pairs, by shares from Beta(mixup, mixup); 0 for none"
    ] = 0.0,
) -> Iterator[MetricValue]:
    """Linear centred kernel alignment of what two models make of the same examples.

        CKA = |X^T Y|^2 / (|X^T X| |Y^T Y|),    X, Y the outputs with centred columns

    Maps of several axes are flattened. Constant outputs have none. Mixed inputs compare models that
    fit their training data to the last example at points between these.

    Cost: one pass over the sample for each model, forward only.
    Memory: p^2 + q^2 for p and q outputs; where there are fewer examples n, n (p + q + 2 n).
    Source: Kornblith et al. 2019, arXiv:1905.00414; Song et al. 2012 (the unbiased HSIC); Yang et
        al. 2021, arXiv:2107.11228 (mixed inputs).
    """
    import torch

    from zoo.measuring.cka import CkaSums

    size = sample.task.size(sample.split)
    counts = [n for n in (size, sample.count) if n is not None]
    alike = CkaSums(min(counts, default=None))
    with _Layer(models[0], layer, sample) as first, _Layer(models[1], layer, sample) as second:
        mixing = _Mixing(mixup, sample)
        with torch.inference_mode():
            for x, _ in sample.batches():
                inputs = mixing(x)
                sample.progress.advance(len(x))  # the second model
                alike.add(first(inputs), second(inputs))
    told = {"examples": alike.examples}
    found = alike.cka()
    for name, value in (("cka", found.biased), ("cka_debiased", found.debiased)):
        if value is not None:
            yield MetricValue(name, value, protocol=told)


class _Layer:
    """Calls a model, and gives what one of its layers makes of the inputs, flattened."""

    def __init__(self, model: Subject, layer: str, sample: Sample) -> None:
        self._label = model.label
        self._layer = layer
        self._module = model.module(sample.device)
        self._head = model.architecture.head(model.config) if model.architecture else None
        self._seen: object = None

    def __enter__(self) -> _Layer:
        if self._layer == "features":
            if self._head is None:
                raise InvalidRecipe(
                    f"What the head of `{self._label}` is given cannot be told:",
                    "its architecture does not say which module is the head.",
                    "Name a module: `--set layer=NAME`.",
                )
            head = self._module.get_submodule(self._head)
            self._hook = head.register_forward_pre_hook(lambda _, given: self._keep(given[0]))
        else:
            part = self._part()
            self._hook = part.register_forward_hook(lambda _, __, made: self._keep(made))
        return self

    def __exit__(self, *exc: object) -> None:
        self._hook.remove()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        self._module(x)
        if not isinstance(self._seen, torch.Tensor) or self._seen.ndim < 2:
            raise InvalidRecipe(
                f"`{self._layer}` of `{self._label}` gives no tensor of one row for each example.",
                how="Name another module: `--set layer=NAME`.",
            )
        return self._seen.flatten(1)

    def _keep(self, seen: object) -> None:
        self._seen = seen

    def _part(self) -> torch.nn.Module:
        if self._layer == "output":
            return self._module
        parts: dict[str, torch.nn.Module] = dict(self._module.named_modules())
        if self._layer not in parts or not self._layer:
            names = ["output", "features", *filter(None, parts)]
            raise InvalidRecipe(
                f"`{self._label}` has no module `{self._layer}`.",
                how=did_you_mean(self._layer, names),
                layer=self._layer,
            )
        return parts[self._layer]


class _Mixing:
    """Mixes each batch with itself in another order, by one share for the batch."""

    def __init__(self, strength: float, sample: Sample) -> None:
        import numpy as np

        self._strength = strength
        self._generator = sample.generator()
        self._shares = np.random.Generator(np.random.Philox(sample.seed))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        if not self._strength:
            return x
        if not x.is_floating_point():
            raise InvalidRecipe(
                "Inputs that are not numbers of a continuum cannot be mixed.",
                how="Leave out `mixup`.",
            )
        share = float(self._shares.beta(self._strength, self._strength))
        order = torch.randperm(len(x), generator=self._generator).to(x.device)
        return share * x + (1 - share) * x[order]


@metric(
    "disagreement",
    version="1.0.0",
    arity=2,
    needs="data",
    gives={
        "disagreement": "share of examples that the two answer differently, 0 to 1",
        "normalized_disagreement": "the same over the mean of both shares of wrong answers",
        "churn": "share of examples that one answers right and the other wrong, mean over both "
        "directions, 0 to 0.5",
        "jensen_shannon": "mean Jensen-Shannon divergence of the two predictions, nats, 0 to ln 2",
        "ensemble_gap": "accuracy of the mean of both predictions minus their mean accuracy",
    },
    passes=lambda p, models: models,
)
def disagreement(models: Sequence[Subject], sample: Sample) -> Iterator[MetricValue]:
    """How often two classifiers answer differently, and what their ensemble gains.

        |wrong_a - wrong_b| <= disagreement <= wrong_a + wrong_b

    Two runs of one training that differ by seed alone disagree about as often as they are wrong, if
    their ensemble is calibrated.

    Cost: one pass over the sample for each model, forward only.
    Source: Jiang et al. 2022, arXiv:2106.13799; Milani Fard et al. 2016 (churn).
    """
    import torch

    from zoo.measuring.scores import check_outputs
    from zoo.paths.profile import answers

    modules = [m.module(sample.device) for m in models]
    found: list[Comparison] = []
    with torch.inference_mode():
        for x, y in sample.batches():
            sample.progress.advance(len(x))  # the second model
            rows = []
            for module in modules:
                outputs = module(x)
                if sample.task.labels and y.ndim == 1:
                    check_outputs(sample.task, outputs)
                rows.append(answers(outputs, y))
            if rows[0] is None or rows[1] is None:
                raise InvalidRecipe(
                    f"The targets of task `{sample.task.name}` are no labels.",
                    "Disagreement compares answers among labels.",
                    "Measure `cka` instead.",
                )
            found.append(compare(rows[0][0].double(), rows[1][0].double(), rows[0][1]))
    yield from _disagreement_values(found)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two classifiers say of the same examples; all of shape (n,), float64."""

    differ: torch.Tensor
    right_a: torch.Tensor
    right_b: torch.Tensor
    divergence: torch.Tensor
    """Jensen-Shannon, nats."""
    right_ensemble: torch.Tensor


def compare(a: torch.Tensor, b: torch.Tensor, targets: torch.Tensor) -> Comparison:
    """Compare logits of shape (n, c), example by example.

    JS = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats; the ensemble answers by m.
    """
    import torch

    p, q = a.softmax(1), b.softmax(1)
    mean = (p + q) / 2
    entropy = torch.special.xlogy
    divergence = sum(((entropy(r, r) - entropy(r, mean)).sum(1) for r in (p, q)), p.new_zeros(()))
    answers = a.argmax(1), b.argmax(1)
    return Comparison(
        (answers[0] != answers[1]).double(),
        (answers[0] == targets).double(),
        (answers[1] == targets).double(),
        divergence / 2,
        (mean.argmax(1) == targets).double(),
    )


def _disagreement_values(found: Sequence[Comparison]) -> Iterator[MetricValue]:
    import torch

    def every(part: Callable[[Comparison], torch.Tensor]) -> torch.Tensor:
        return torch.cat([part(one) for one in found]).cpu()

    if not found:
        return
    differ = every(lambda c: c.differ)
    right_a, right_b = every(lambda c: c.right_a), every(lambda c: c.right_b)
    yield _mean("disagreement", differ)
    wrong = 1 - float((right_a + right_b).mean()) / 2
    if wrong > 0:
        yield MetricValue("normalized_disagreement", float(differ.mean()) / wrong)
    yield _mean("churn", (right_a - right_b).abs() / 2)
    yield _mean("jensen_shannon", every(lambda c: c.divergence).clamp_min(0))
    yield _mean("ensemble_gap", every(lambda c: c.right_ensemble) - (right_a + right_b) / 2)


def _mean(name: str, each: torch.Tensor) -> MetricValue:
    n = len(each)
    spread = float(each.std()) / n**0.5 if n > 1 else None
    return MetricValue(name, float(each.mean()), stderr=spread)


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(cka)
    register(disagreement)
