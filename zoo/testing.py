"""The conformance kit: what every merge method and architecture must pass, whoever wrote it.

Of methods: two doors, the same checks. In a plugin's tests:

    from zoo.testing import MethodConformance

    class TestMedian(MethodConformance):
        method = median

On the command line, `zoo plugins check NAME`. Both run the real engine on small tensors in
memory, so a method that passes merges the same way in a registry.

Of architectures, in a plugin's tests:

    class TestMlp(ArchitectureConformance):
        architecture = Mlp()
        config = {"model_type": "mlp", "width": 8}

        def inputs(self):
            return torch.randn(3, 8)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zoo.contract import CHUNK, Method, Parts

if TYPE_CHECKING:
    import torch

    from zoo.architecture import Architecture
    from zoo.architecture_checks import Case

    State = dict[str, torch.Tensor]

SHAPES = {
    "block.0.weight": (32, 21),
    "block.0.bias": (32,),
    "block.1.weight": (7, 5, 3, 3),
    "empty": (0, 4),
    "scale": (),
}
"""Tensors of the models the checks merge: odd sizes, none a multiple of a chunk or a vector."""

CHUNKS = (1, 61, 64, 500)
"""Elements per chunk that must give what one chunk gives."""

MANY = 9
"""Experts whose chunks are compared: from the fifth row on, torch's sums are added in an order that
depends on the length of the rows."""

CLOSE = 1e-5
"""Largest difference, relative to the largest element, where the last bits may differ: sums in
another order. Dimensionless; float32 has a rounding error of 6e-8."""


class ConformanceError(AssertionError):
    """The method breaks the contract; the message says how."""


class NotApplicable(Exception):
    """The check says nothing about this method; the message says why."""


@dataclass(frozen=True)
class Subject:
    """A method under test, with what the checks must know to drive it."""

    method: Method
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Values to test with, by public name; required ones not given here are made up."""
    identity_exempt: str = ""
    """Why equal inputs need not give themselves back; empty when they must."""
    with_base: bool = True
    """Whether the models have a base, where the method may get one."""
    most: int = 3
    """Experts to merge, where the method allows so many."""
    module: Callable[[], torch.nn.Module] | None = None
    """Builds what the models are weights of; for methods that run them, a classifier by default."""
    data: Sequence[Any] = ()
    """Batches for such a method; of examples for that classifier by default."""

    def all_parameters(self) -> dict[str, Any]:
        return {**required_parameters(self.method), **self.parameters}

    @property
    def experts(self) -> int:
        """How many to merge: `most`, or as many as the method allows."""
        allowed = self.method.max_experts
        return max(self.method.min_experts, min(self.most, allowed or self.most))

    @property
    def runs(self) -> bool:
        """Whether the method runs its models."""
        return self.method.needs == "data"

    def build(self) -> torch.nn.Module:
        """The module of the models, for a method that runs them."""
        return (self.module or classifier)()

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape of the tensors that merge."""
        if not self.runs:
            return SHAPES
        state = self.build().state_dict()
        return {name: tuple(t.shape) for name, t in state.items() if t.is_floating_point()}

    @cached_property
    def fixed(self) -> State:
        """Tensors that do not merge, the same in all models: counters of a module."""
        if not self.runs:
            return {}
        return {n: t for n, t in self.build().state_dict().items() if n not in self.shapes}

    def merge(
        self,
        experts: list[State],
        base: State | None,
        *,
        threads: int = 1,
        chunk: int = CHUNK,
        parameters: Mapping[str, Any] | None = None,
    ) -> State:
        from zoo.engine.in_memory import merge

        merged: State = merge(
            self.method,
            experts=experts,
            base=base,
            artifacts={role: [_beside(e) for e in experts] for role in self.method.artifacts},
            parameters=self.all_parameters() if parameters is None else parameters,
            seed=0,
            threads=threads,
            chunk=chunk,
            module=self.build if self.runs else None,
            data=(self.data or examples()) if self.runs else None,
        )
        return merged


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found."""

    check: str
    status: Literal["passed", "failed", "skipped"]
    detail: str = ""
    """Why it failed or was skipped."""


def required_parameters(method: Method) -> dict[str, Any]:
    """A value for each parameter without a default: the middle of its bounds, or the first word.

    Raises:
        ConformanceError: nothing can be made up for one of them; name it in `parameters`.
    """
    schema = method.parameters.model_json_schema()
    return {name: _value(name, schema["properties"][name]) for name in schema.get("required", [])}


def _value(name: str, schema: Mapping[str, Any]) -> Any:
    for choice in schema.get("anyOf", ()):
        if choice.get("type") not in ("array", "null"):
            return _value(name, choice)
    if "default" in schema:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if schema.get("type") == "number":
        if low is None:
            return 0.5 if high is None or high > 0.5 else high - 1.0
        return low + 0.5 if high is None else (low + high) / 2
    if schema.get("type") == "integer":
        return 1 if low is None else low + ("exclusiveMinimum" in schema)
    if schema.get("type") == "boolean":
        return False
    raise ConformanceError(
        f"The parameter `{name}` is required, and no value for it can be made up. Give one in "
        "the `parameters` of the test class."
    )


def models(
    subject: Subject, dtype: str = "F32", *, kind: str = "random"
) -> tuple[list[State], State | None]:
    """Experts and a base for the method, the same ones every time.

    Args:
        dtype: a float type of `zoo.dtypes`.
        kind: `random` (base from a normal distribution, experts near it), `equal` (all
            experts are one model: the base where the method works with one), `zero`.
    """
    import torch

    from zoo.dtypes import torch_dtype

    generator = torch.Generator().manual_seed(20250207)

    def draw(scale: float) -> State:
        return {
            name: scale * torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in subject.shapes.items()
        }

    base = draw(0.0 if kind == "zero" else 1.0)
    experts = []
    for _ in range(subject.experts):
        step = draw(0.1 if kind == "random" else 0.0)
        experts.append({name: base[name] + step[name] for name in base})
    kept = torch_dtype(dtype)

    def state(values: State) -> State:
        merging = {n: t.abs() if n.endswith("running_var") else t for n, t in values.items()}
        return {**{name: t.to(kept) for name, t in merging.items()}, **subject.fixed}

    if subject.method.base == "refused" or not subject.with_base:
        return [state(e) for e in experts], None
    return [state(e) for e in experts], state(base)


def classifier() -> torch.nn.Module:
    """What methods that run their models are tried on: 4 inputs, 3 classes."""
    from torch import nn

    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def examples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three batches of (inputs, labels) for `classifier`, the same ones every time."""
    import torch

    generator = torch.Generator().manual_seed(20250208)
    return [
        (
            torch.randn(8, 4, generator=generator),
            torch.randint(0, 3, (8,), generator=generator),
        )
        for _ in range(3)
    ]


def _beside(expert: State) -> State:
    """An artifact of an expert, a function of it alone: non-negative, as curvatures are."""
    return {name: tensor.float().square() for name, tensor in expert.items()}


def check_declaration(subject: Subject) -> None:
    """The method has a docstring, a semantic version, and parameters that make a class."""
    method = subject.method
    if not method.summary:
        raise ConformanceError("The function has no docstring; its first line is the summary.")
    if not re.fullmatch(r"\d+\.\d+\.\d+([-+].+)?", method.version):
        raise ConformanceError(f"The version `{method.version}` is not of the form 1.2.3.")
    undescribed = [
        f.alias or name for name, f in method.parameters.model_fields.items() if not f.description
    ]
    if undescribed:
        raise ConformanceError(
            "Parameters without a word of help: "
            + ", ".join(f"`{name}`" for name in undescribed)
            + '. Write `Annotated[float, "what it does, unit"]`.'
        )


def check_determinism(subject: Subject) -> None:
    """Two runs give the same bytes, whatever torch's global random state."""
    import torch

    if not subject.method.deterministic:
        raise NotApplicable("the method declares deterministic=False")
    experts, base = models(subject)
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(1)
        first = subject.merge(experts, base)
        torch.manual_seed(2)
        second = subject.merge(experts, base)
    finally:
        torch.random.set_rng_state(state)
    _same(first, second, "Two runs differ")


def check_chunks(subject: Subject) -> None:
    """The length of a chunk changes nothing.

    For elementwise methods not one bit. With statistics the last bits may, since these are
    summed chunk by chunk; a real merge always uses `zoo.contract.CHUNK`.
    """
    if subject.method.needs not in ("elementwise", "statistics"):
        raise NotApplicable(f'a method that needs "{subject.method.needs}" gets no chunks')
    subject = replace(subject, most=MANY)
    experts, base = models(subject)
    whole = subject.merge(experts, base)
    compare = _same if subject.method.needs == "elementwise" else _near
    for chunk in CHUNKS:
        part = subject.merge(experts, base, chunk=chunk)
        compare(whole, part, f"Chunks of {chunk} elements differ from the whole")


def check_threads(subject: Subject) -> None:
    """One thread and four give the same bytes, in few large chunks and in many small ones."""
    if not subject.method.deterministic:
        raise NotApplicable("the method declares deterministic=False")
    experts, base = models(subject)
    for chunk in (CHUNK, 1):
        alone = subject.merge(experts, base, threads=1, chunk=chunk)
        with _switching_often():
            together = subject.merge(experts, base, threads=4, chunk=chunk)
        _same(alone, together, "Four threads differ from one")


def check_order(subject: Subject) -> None:
    """The order of the experts changes nothing but the last bits."""
    if subject.method.ordered:
        raise NotApplicable("the method declares ordered=True")
    if subject.experts < 2:
        raise NotApplicable("the method takes one expert")
    experts, base = models(subject)
    forth = subject.merge(experts, base)
    for turned in (experts[::-1], experts[1:] + experts[:1]):
        _near(
            forth,
            subject.merge(turned, base),
            "Another order of the experts gives another result; declare ordered=True if it should",
        )


def check_identity(subject: Subject) -> None:
    """Equal inputs give themselves back.

    In delta space, experts equal to the base give the base; in weight space, equal experts
    give that expert.
    """
    if subject.identity_exempt:
        raise NotApplicable(subject.identity_exempt)
    experts, base = models(subject, kind="equal")
    what = (
        "Experts equal to the base do not give the base"
        if subject.method.space == "delta"
        else "Equal experts do not give that expert"
    )
    _near(experts[0], subject.merge(experts, base), what)


def check_dtype(subject: Subject) -> None:
    """The result has the names, shapes and element types of its inputs: bf16 to float64.

    The function itself gives no narrower type than it got: the engine would round twice.
    """
    for dtype in ("BF16", "F16", "F32", "F64"):
        experts, base = models(subject, dtype)
        watched = replace(subject, method=_watched(subject.method))
        merged = watched.merge(experts, base)
        if sorted(merged) != sorted(experts[0]):
            raise ConformanceError(f"The result has the tensors {sorted(merged)}.")
        for name, tensor in merged.items():
            wanted = experts[0][name]
            if tensor.dtype != wanted.dtype:
                raise ConformanceError(
                    f"`{name}` is {tensor.dtype}, from inputs of {wanted.dtype}."
                )
            if tensor.shape != wanted.shape:
                raise ConformanceError(
                    f"`{name}` has shape {tuple(tensor.shape)}, and its inputs "
                    f"{tuple(wanted.shape)}."
                )


def check_small_tensors(subject: Subject) -> None:
    """Tensors without elements, and 0-d ones, merge on their own."""
    if subject.runs:
        raise NotApplicable("the method runs its models, whose tensors are as they are")
    experts, base = models(subject)
    for name in ("empty", "scale"):
        merged = subject.merge(
            [{name: e[name]} for e in experts], None if base is None else {name: base[name]}
        )
        if merged[name].shape != experts[0][name].shape:
            raise ConformanceError(
                f"A tensor of shape {tuple(experts[0][name].shape)} became one of "
                f"shape {tuple(merged[name].shape)}."
            )


def check_finite(subject: Subject) -> None:
    """Finite inputs give finite results; all-zero and all-equal ones too."""
    from zoo.errors import GateFailed

    for kind in ("random", "equal", "zero"):
        experts, base = models(subject, kind=kind)
        try:
            merged = subject.merge(experts, base)
        except GateFailed as e:
            raise ConformanceError(f"From {kind} inputs: {e.what}") from e
        bad = [name for name, tensor in merged.items() if not tensor.isfinite().all()]
        if bad:
            raise ConformanceError(f"From {kind} inputs: not all of {bad} is finite.")


def check_unknown_parameter(subject: Subject) -> None:
    """A parameter the method does not have is refused by name."""
    from zoo.errors import ZooError

    experts, base = models(subject)
    try:
        subject.merge(
            experts, base, parameters={**subject.all_parameters(), "no_such_parameter": 1}
        )
    except ZooError as e:
        if "no_such_parameter" not in str(e):
            raise ConformanceError(f"The refusal does not name the parameter: {e}") from e
    else:
        raise ConformanceError("The parameter `no_such_parameter` was accepted.")


CHECKS: dict[str, Callable[[Subject], None]] = {
    "declaration": check_declaration,
    "determinism": check_determinism,
    "chunk equals whole": check_chunks,
    "thread count": check_threads,
    "order of experts": check_order,
    "identity on equal inputs": check_identity,
    "dtype of the output": check_dtype,
    "empty and 0-d tensors": check_small_tensors,
    "finite output": check_finite,
    "unknown parameter": check_unknown_parameter,
}
"""Every check by the name `zoo plugins check` prints."""


def check_method(
    method: Method, *, parameters: Mapping[str, Any] | None = None, identity_exempt: str = ""
) -> list[Outcome]:
    """Run every check, each to its own outcome; an error of the method fails the check."""
    subject = Subject(method, parameters or {}, identity_exempt)
    return [_outcome(name, check, subject) for name, check in CHECKS.items()]


def _run(check: Callable[[Subject], None], subject: Subject) -> None:
    """Run a check; once more without a base where the function gets one only if there is one.

    Raises:
        NotApplicable, ConformanceError, or whatever the method raises.
    """
    method = subject.method
    check(subject)
    if method.base == "optional" and method.takes_base:
        try:
            check(replace(subject, with_base=False))
        except Exception as e:  # the plugin's code runs here, and may raise anything
            what = str(e) if isinstance(e, ConformanceError) else f"{type(e).__name__}: {e}"
            raise ConformanceError(
                f"Without a base, which the method does not require: {what}"
            ) from e


def _outcome(name: str, check: Callable[[Subject], None], subject: Subject) -> Outcome:
    try:
        _run(check, subject)
    except NotApplicable as e:
        return Outcome(name, "skipped", str(e))
    except ConformanceError as e:
        return Outcome(name, "failed", str(e))
    except Exception as e:  # the plugin's code runs here, and may raise anything
        return Outcome(name, "failed", f"{type(e).__name__}: {e}")
    return Outcome(name, "passed")


class MethodConformance:
    """Inherit from this in a plugin's tests; pytest runs every check on `method`."""

    method: ClassVar[Method]
    parameters: ClassVar[Mapping[str, Any]] = {}
    """Values to test with; needed for required parameters that cannot be made up."""
    identity_exempt: ClassVar[str] = ""
    """Why equal inputs need not give themselves back; empty when they must."""

    def module(self) -> torch.nn.Module:
        """What the models are weights of, for a method that runs them."""
        return classifier()

    def data(self) -> Sequence[Any]:
        """Batches for such a method."""
        return examples()

    def _run(self, check: Callable[[Subject], None]) -> None:
        import pytest

        subject = Subject(
            self.method,
            self.parameters,
            self.identity_exempt,
            module=self.module,
            data=self.data() if self.method.needs == "data" else (),
        )
        try:
            _run(check, subject)
        except NotApplicable as e:
            pytest.skip(str(e))

    def test_its_declaration_is_complete(self) -> None:
        self._run(check_declaration)

    def test_two_runs_give_the_same_bytes(self) -> None:
        self._run(check_determinism)

    def test_the_length_of_a_chunk_changes_nothing(self) -> None:
        self._run(check_chunks)

    def test_the_number_of_threads_changes_nothing(self) -> None:
        self._run(check_threads)

    def test_the_order_of_experts_changes_nothing(self) -> None:
        self._run(check_order)

    def test_equal_inputs_give_themselves_back(self) -> None:
        self._run(check_identity)

    def test_the_result_has_the_dtype_and_shape_of_its_inputs(self) -> None:
        self._run(check_dtype)

    def test_empty_and_0_d_tensors_merge(self) -> None:
        self._run(check_small_tensors)

    def test_finite_inputs_give_finite_results(self) -> None:
        self._run(check_finite)

    def test_an_unknown_parameter_is_refused_by_name(self) -> None:
        self._run(check_unknown_parameter)


class ArchitectureConformance:
    """Inherit from this in a plugin's tests; pytest builds `config`, and runs every check on it."""

    architecture: ClassVar[Architecture]
    config: ClassVar[Mapping[str, Any]]
    """Of a small model: as `config.json` has it."""
    tolerance: ClassVar[float] = 1e-5
    """Largest difference that rounding makes, relative to the largest output, dimensionless."""

    def inputs(self) -> torch.Tensor:
        """A batch of two examples or more, the same each time."""
        raise NotImplementedError("give the test class a method `inputs`")

    def _run(self, check: Callable[[Case], None]) -> None:
        import pytest

        from zoo.architecture_checks import Case, NotDeclared

        try:
            check(Case(self.architecture, self.config, self.inputs(), self.tolerance))
        except NotDeclared as e:
            pytest.skip(str(e))

    def test_it_builds_the_same_model_from_the_same_seed(self) -> None:
        from zoo.architecture_checks import check_build

        self._run(check_build)

    def test_each_output_is_of_its_own_example_alone(self) -> None:
        from zoo.architecture_checks import check_eval_mode

        self._run(check_eval_mode)

    def test_a_saved_model_loads_as_it_was(self) -> None:
        from zoo.architecture_checks import check_round_trip

        self._run(check_round_trip)

    def test_other_weights_are_refused_by_name(self) -> None:
        from zoo.architecture_checks import check_wrong_weights

        self._run(check_wrong_weights)

    def test_an_empty_configuration_is_refused(self) -> None:
        from zoo.architecture_checks import check_config

        self._run(check_config)

    def test_its_head_makes_the_outputs(self) -> None:
        from zoo.architecture_checks import check_head

        self._run(check_head)

    def test_its_layers_have_each_tensor_once(self) -> None:
        from zoo.architecture_checks import check_layers

        self._run(check_layers)

    def test_permuting_units_leaves_the_function(self) -> None:
        from zoo.architecture_checks import check_axes

        self._run(check_axes)


def _watched(method: Method) -> Method:
    """The method, raising when what it gives has fewer digits than what it was given."""
    if method.needs in ("model", "data"):
        return method  # it reads its inputs as it likes
    function = method.function

    @wraps(function)
    def watched(models: torch.Tensor, *rest: Any, **named: Any) -> Any:
        made = function(models, *rest, **named)
        given = made.trunk if isinstance(made, Parts) else made
        if given.dtype.itemsize < models.dtype.itemsize:
            raise ConformanceError(
                f"The function gives {given.dtype} where it gets {models.dtype}: the digits "
                "between are lost. Return the type you are given; zoo rounds to the models'."
            )
        return made

    double = replace(method, function=watched)
    # The class comes from annotations, which mean something in the method's own module only.
    vars(double)["parameters"] = method.parameters
    return double


@contextmanager
def _switching_often() -> Iterator[None]:
    """Python changes threads after each few instructions, so that races show."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _same(a: State, b: State, what: str) -> None:
    """Raise unless two states are equal bit for bit."""
    import torch

    for name in a:
        left, right = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a[name], b[name]))
        if not torch.equal(left, right):
            differing = int((a[name] != b[name]).sum())
            raise ConformanceError(
                f"{what}: {differing} of {a[name].numel()} elements of `{name}`."
            )


def _near(a: State, b: State, what: str) -> None:
    """Raise unless two states agree but for the rounding of sums."""
    for name in a:
        left, right = a[name].double(), b[name].double()
        if left.numel() == 0:
            continue
        worst = float((left - right).abs().max())
        size = max(float(left.abs().max()), 1e-30)
        if not worst <= CLOSE * size:
            raise ConformanceError(
                f"{what}: `{name}` is off by {worst:.3g}, where its largest element is {size:.3g}."
            )
