"""The conformance kit passes sound methods, and catches each breach of the contract."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Interval

import zoo
from zoo.plugins import load_plugins
from zoo.testing import CHECKS, MethodConformance, check_method, required_parameters


def statuses(method, **options):
    """Check -> status."""
    return {o.check: o.status for o in check_method(method, **options)}


def failed(method, **options):
    """Names of the checks that failed."""
    return {o.check: o.detail for o in check_method(method, **options) if o.status == "failed"}


def mean(experts):
    """The mean."""
    total = experts[0].clone()
    for row in experts[1:]:
        total += row
    return total / len(experts)


class TestLinear(MethodConformance):
    method = load_plugins().methods["linear"]


class TestSlerp(MethodConformance):
    method = load_plugins().methods["slerp"]


class TestTaskArithmetic(MethodConformance):
    method = load_plugins().methods["task_arithmetic"]


class TestTies(MethodConformance):
    method = load_plugins().methods["ties"]


class TestTiesTensorByTensor(MethodConformance):
    method = load_plugins().methods["ties"]
    parameters = {"scope": "tensor", "trim": "at_least_one", "zero_sign": "positive"}


def test_a_sound_method_passes_every_check():
    sound = zoo.method("sound", version="1.0.0")(mean)

    assert dict.fromkeys(CHECKS, "passed") == statuses(sound)


def test_chance_from_torch_itself_is_caught():
    @zoo.method("chance", version="1.0.0")
    def chance(experts):
        """A mean with noise."""
        return mean(experts) + torch.randn(experts.shape[1]).to(experts)

    assert "determinism" in failed(chance)


def test_a_result_that_depends_on_the_chunk_is_caught():
    @zoo.method("centred", version="1.0.0")
    def centred(experts):
        """The mean, without the mean of the chunk."""
        merged = mean(experts)
        return merged - merged.mean() if merged.numel() else merged

    assert "chunk equals whole" in failed(centred)


def test_a_result_that_depends_on_threads_is_caught():
    calls = []

    @zoo.method("counting", version="1.0.0")
    def counting(experts):
        """The mean, and how often it was called."""
        calls.append(1)
        return mean(experts) + len(calls)

    assert {"determinism", "thread count"} <= set(failed(counting))


def test_an_undeclared_order_is_caught_and_a_declared_one_is_not():
    def first(experts):
        """The first expert."""
        return experts[0].clone()

    assert "order of experts" in failed(zoo.method("first", version="1.0.0")(first))
    declared = zoo.method("first", version="1.0.0", ordered=True)(first)
    assert "skipped" == statuses(declared)["order of experts"]


def test_a_method_that_does_not_keep_equal_inputs_is_caught_unless_it_says_why():
    @zoo.method("doubled", version="1.0.0")
    def doubled(experts):
        """Twice the mean."""
        return mean(experts) * 2

    assert "identity on equal inputs" in failed(doubled)
    found = {o.check: o for o in check_method(doubled, identity_exempt="it doubles")}
    assert "it doubles" == found["identity on equal inputs"].detail
    assert "skipped" == found["identity on equal inputs"].status


def test_division_by_a_norm_of_zero_is_caught():
    @zoo.method("normed", version="1.0.0")
    def normed(experts):
        """The mean of directions."""
        return mean(experts / experts.abs().amax(dim=0)) * experts[0].abs()

    assert "From zero inputs" in failed(normed)["finite output"]


def test_a_failure_on_empty_tensors_is_caught():
    @zoo.method("picky", version="1.0.0", needs="tensor")
    def picky(experts):
        """The mean, less nothing."""
        return mean(experts) - 0 * experts.flatten()[0]

    assert "empty and 0-d tensors" in failed(picky)


def test_a_missing_docstring_a_bad_version_and_a_mute_parameter_are_caught():
    @zoo.method("mute", version="1.0.0")
    def mute(experts, *, scale: float = 1.0):
        return mean(experts) * scale

    @zoo.method("unhelpful", version="1")
    def unhelpful(experts):
        """The mean."""
        return mean(experts)

    @zoo.method("wordless", version="1.0.0")
    def wordless(experts, *, scale: float = 1.0):
        """The mean."""
        return mean(experts) * scale

    assert "no docstring" in failed(mute)["declaration"]
    assert "`1` is not of the form" in failed(unhelpful)["declaration"]
    assert "`scale`" in failed(wordless)["declaration"]


def test_a_method_that_cannot_do_without_its_optional_base_is_caught():
    @zoo.method("pulled", version="1.0.0")
    def pulled(experts, base: torch.Tensor | None):
        """The mean, drawn to the base."""
        return (mean(experts) + base) / 2

    found = failed(pulled, identity_exempt="")

    assert set(CHECKS) - {"declaration", "unknown parameter"} == set(found)
    assert (
        "Without a base, which the method does not require: TypeError"
        in found["dtype of the output"]
    )


def test_a_wrong_result_without_the_optional_base_is_caught():
    @zoo.method("halved", version="1.0.0")
    def halved(experts, base: torch.Tensor | None):
        """The mean; half of it without a base."""
        return mean(experts) if base is not None else mean(experts) / 2

    assert ["identity on equal inputs"] == list(failed(halved))


def test_a_method_that_makes_do_without_its_optional_base_passes():
    @zoo.method("either", version="1.0.0")
    def either(experts, base: torch.Tensor | None):
        """The mean, drawn to the base where there is one."""
        return mean(experts) if base is None else (mean(experts) + base) / 2

    assert {} == failed(either)


def test_values_are_made_up_for_required_parameters():
    @zoo.method("needy", version="1.0.0")
    def needy(
        experts,
        *,
        t: Annotated[float, Interval(ge=0, le=1)],
        k: int,
        mode: Literal["a", "b"],
        flag: bool,
    ):
        """The mean."""
        return mean(experts)

    assert {"t": 0.5, "k": 1, "mode": "a", "flag": False} == required_parameters(needy)


def learner(name, choose):
    """A method that gives back one of its modules."""

    @zoo.method(name, version="1.0.0", needs="data", replay="platform")
    def learned(experts, data, device):
        """One of the experts."""
        yield from experts[choose(experts, data)].state_dict().items()

    return learned


def least_loss(experts, data):
    """The place of the expert that fits the batches best."""
    losses = [
        sum(float(torch.nn.functional.cross_entropy(m(x), y).detach()) for x, y in data)
        for m in experts
    ]
    return losses.index(min(losses))


def test_a_sound_method_that_needs_data_passes():
    found = statuses(learner("fitting", least_loss))

    assert {"chunk equals whole", "empty and 0-d tensors"} == {
        name for name, status in found.items() if status == "skipped"
    }
    assert {"passed", "skipped"} == set(found.values())


def test_breaches_of_methods_that_need_data_are_caught():
    @zoo.method("restless", version="1.0.0", needs="data", replay="platform")
    def restless(experts, data, device):
        """The first expert, with noise on what merges."""
        for name, value in experts[0].state_dict().items():
            yield name, value + torch.rand(value.shape) if value.is_floating_point() else value

    assert "determinism" in failed(restless)
    assert ["order of experts"] == list(failed(learner("first", lambda experts, data: 0)))


class TestFitting(MethodConformance):
    method = learner("fitting_a_line", lambda experts, data: least_error(experts, data))

    def module(self):
        return torch.nn.Linear(2, 1)

    def data(self):
        return [(torch.ones(3, 2), torch.ones(3, 1))]


def least_error(experts, data):
    """The place of the expert whose outputs are nearest to the targets."""
    errors = [sum(float((m(x) - y).abs().sum().detach()) for x, y in data) for m in experts]
    return errors.index(min(errors))


def test_a_method_that_needs_data_merges_in_memory():
    data = [(torch.ones(1, 2), torch.full((1, 1), 3.0))]
    near, far = ({"weight": torch.full((1, 2), v), "bias": torch.zeros(1)} for v in (1.5, 9.0))

    merged = zoo.merge(
        learner("fitting_here", least_error),
        [far, near],
        module=lambda: torch.nn.Linear(2, 1),
        data=data,
    )

    assert [[1.5, 1.5]] == merged["weight"].tolist()


def test_a_sum_whose_order_depends_on_the_chunk_is_caught():
    @zoo.method("summed", version="1.0.0")
    def summed(experts):
        """The mean, by torch's own sum."""
        return experts.sum(dim=0) / len(experts)

    assert ["chunk equals whole"] == list(failed(summed))


def test_a_function_that_loses_digits_is_caught():
    @zoo.method("halved", version="1.0.0")
    def narrowed(experts):
        """The mean, in half precision."""
        return mean(experts).half()

    assert (
        "gives torch.float16 where it gets torch.float" in failed(narrowed)["dtype of the output"]
    )


def test_a_result_that_is_no_tensor_of_numbers_is_named():
    @zoo.method("forgetful", version="1.0.0")
    def forgetful(experts):
        """The mean, if it were returned."""
        mean(experts)

    @zoo.method("doubtful", version="1.0.0")
    def doubtful(experts):
        """Whether the mean is positive."""
        return mean(experts) > 0

    assert "`forgetful` gave NoneType for tensor" in failed(forgetful)["determinism"]
    assert "`doubtful` gave torch.bool for tensor" in failed(doubtful)["determinism"]
