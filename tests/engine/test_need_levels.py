"""Each level of need gets what the contract promises, in memory and from a recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import State, family, same_bytes

import zoo
from zoo import Registry
from zoo.contract import CHUNK, Method
from zoo.errors import GateFailed, IncompatibleModels, InvalidRecipe, PluginError
from zoo.plugins import Plugins, load_plugins

PLUGIN = '''
"""One method for each level of need, and a task and an architecture for the last."""

from __future__ import annotations

from typing import Annotated

import torch

import zoo
from zoo import AGAIN, Architecture, Chunk, MetricValue, Statistic, Task, hookimpl, method

CALLS = []


@method("middle", version="1.0.0")
def middle(experts: torch.Tensor, base: torch.Tensor | None, *, chunk: Chunk) -> torch.Tensor:
    """The mean of the extremes."""
    CALLS.append((chunk, tuple(experts.shape), None if base is None else tuple(base.shape)))
    return (experts.amax(0) + experts.amin(0)) / 2


class Largest(Statistic):
    name = "largest"
    scope = "model"

    def start(self, tensor, shape, parameters):
        return [0.0]

    def add(self, state, models, base, chunk, stats):
        if models.numel():
            state[0] = max(state[0], float(models.abs().max()))

    def finish(self, states):
        assert list(states) == sorted(states)
        return max(s[0] for s in states.values())


class Scaled(Statistic):
    """Sees what came before it, once more than it must."""

    name = "scaled"
    scope = "tensor"

    def __init__(self):
        self.rounds = 0

    def start(self, tensor, shape, parameters):
        return [0]

    def add(self, state, models, base, chunk, stats):
        state[0] += int((models.abs() > stats["largest"] / 2).sum())

    def finish(self, states):
        self.rounds += 1
        ((count,),) = states.values()
        return (count, self.elements) if self.rounds == 2 else AGAIN


@method("loud", version="1.0.0", needs="statistics", statistics=lambda p, n: [Largest(), Scaled()])
def loud(deltas: torch.Tensor, *, stats, bonus: Annotated[float, "added"] = 0.0) -> torch.Tensor:
    """The first delta, scaled by the share of loud entries of its tensor."""
    count, elements = stats["scaled"]
    return deltas[0] * (count / max(1, elements)) + bonus


@method("transposer", version="1.0.0", needs="tensor")
def transposer(experts: torch.Tensor) -> torch.Tensor:
    """Whole tensors in their shape: the mean, minus the mean of each row."""
    mean = experts.mean(0)
    return mean - mean.mean(-1, keepdim=True) if mean.dim() == 2 and mean.numel() else mean


@method("whole_delta", version="1.0.0", needs="tensor")
def whole_delta(deltas: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Half the first delta."""
    assert base.shape == deltas.shape[1:]
    return deltas[0] / 2


@method("shuffled", version="1.0.0", needs="model")
def shuffled(experts, base, *, skip: Annotated[int, "tensors left out"] = 0):
    """Tensors of the last expert, in an order of its own."""
    last = experts[-1]
    names = [n for n in last.tensors if last.tensors[n].dtype.startswith(("F", "B"))]
    for name in sorted(names, reverse=True)[skip:]:
        info = last.tensors[name]
        raw = bytearray(info.nbytes)
        last.read_into(name, 0, memoryview(raw))
        flat = torch.frombuffer(raw, dtype=torch.float32) if raw else torch.empty(0)
        yield name, flat.reshape(info.shape)


@method("dropout", version="1.0.0")
def dropout(deltas: torch.Tensor, *, random, keep: Annotated[float, "share"] = 0.5):
    """The mean of deltas with random entries dropped."""
    kept = [d * (random.uniform(i) < keep) for i, d in enumerate(deltas)]
    total = kept[0]
    for k in kept[1:]:
        total = total + k
    return total / (len(kept) * keep)


@method("noise", version="1.0.0")
def noise(experts: torch.Tensor, *, random) -> torch.Tensor:
    """The random numbers themselves."""
    return torch.stack([random.uniform(i) for i in range(len(experts))]).sum(0)


@method("fitted", version="1.0.0", needs="data", replay="platform")
def fitted(experts, data, device, *, steps: Annotated[int, "most batches"] = 3):
    """The expert that fits the data best."""
    batches = [(x.to(device), y.to(device)) for _, (x, y) in zip(range(steps), data)]
    errors = [float(sum((m(x) - y).abs().sum().detach() for x, y in batches)) for m in experts]
    yield from experts[errors.index(min(errors))].state_dict().items()


class Line(Architecture):
    name = "line"

    def build(self, config):
        return torch.nn.Linear(config["inputs"], 1)


class Ones(Task):
    name = "ones"

    def evaluate(self, module, sample):
        return [MetricValue("error", 0.0)]

    def batches(self, split, size=2):
        for _ in range(5):
            x = torch.ones(2, 3)
            yield x, torch.full((2, 1), 3.0 if split == "train" else -3.0)


@hookimpl
def zoo_register_methods(register):
    for m in (middle, loud, transposer, whole_delta, shuffled, dropout, noise, fitted):
        register(m)


@hookimpl
def zoo_register_architectures(register):
    register(Line())


@hookimpl
def zoo_register_tasks(register):
    register(Ones())
'''


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    directory = tmp_path_factory.mktemp("plugins")
    (directory / "levels.py").write_text(textwrap.dedent(PLUGIN))
    return load_plugins([directory])


@pytest.fixture
def methods(plugins: Plugins) -> dict[str, Method]:
    return plugins.methods


def expected_of(level: str, models: list[State]) -> State:
    """What the plugin's methods come to, reckoned here."""
    base, *experts = models
    floats = [n for n, t in base.items() if t.is_floating_point()]
    stack = {n: torch.stack([e[n] for e in experts]) for n in floats}
    made = {"norm.num_batches_tracked": base["norm.num_batches_tracked"]}
    if level == "middle":
        made |= {n: (s.amax(0) + s.amin(0)) / 2 if s.numel() else s[0] for n, s in stack.items()}
    if level == "loud":
        deltas = {n: s - base[n] for n, s in stack.items()}
        largest = max(float(d.abs().max()) for d in deltas.values() if d.numel())
        for n, d in deltas.items():
            share = int((d.abs() > largest / 2).sum()) / max(1, base[n].numel())
            made[n] = base[n] + d[0] * share
    if level == "transposer":
        for n, s in stack.items():
            mean = s.mean(0)
            flat = mean.dim() == 2 and mean.numel()
            made[n] = mean - mean.mean(-1, keepdim=True) if flat else mean
    if level == "whole_delta":
        made |= {n: base[n] + (experts[0][n] - base[n]) / 2 for n in floats}
    if level == "shuffled":
        made |= {n: experts[-1][n] for n in floats}
    return made


LEVELS = ["middle", "loud", "transposer", "whole_delta", "shuffled"]


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_merges_in_memory(level: str, methods: dict[str, Method]) -> None:
    base, *experts = models = family(3)

    merged = zoo.merge(methods[level], experts, base=base)

    expected = expected_of(level, models)
    assert expected.keys() == merged.keys()
    for name, value in expected.items():
        if name.endswith("running_var"):
            value = value.clamp_min(0)
        torch.testing.assert_close(merged[name], value)


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_merges_and_replays_in_a_zoo(
    level: str, registry: Registry, members: list[State], load: Callable[..., State]
) -> None:
    version = registry.merge(method=level, experts=["a", "b", "c"], base="base", name="m")

    assert version is not None
    merged = zoo.merge(registry.plugins.methods[level], members[1:], base=members[0])
    assert same_bytes(merged, load(registry.path("m")))
    verdict = registry.verify("m", replay=True)
    assert verdict.ok and 8 == verdict.checked
    assert registry.verify("m", sample=3).checked == 3


def test_chunks_tile_each_tensor_in_order(methods: dict[str, Method]) -> None:
    calls = methods["middle"].function.__globals__["CALLS"]
    calls.clear()
    models = [{"w": torch.zeros(7, 3), "empty": torch.zeros(0), "scalar": torch.zeros(())}] * 3

    zoo.merge(methods["middle"], models[:2], base=models[2], chunk=8)

    of_w = [(c.start, c.stop, c.index, c.count, n, b) for c, n, b in calls if c.tensor == "w"]
    assert [
        (0, 8, 0, 3, (2, 8), (8,)),
        (8, 16, 1, 3, (2, 8), (8,)),
        (16, 21, 2, 3, (2, 5), (5,)),
    ] == of_w
    assert {(7, 3)} == {c.shape for c, _, _ in calls if c.tensor == "w"}
    assert [(1,)] == [b for c, _, b in calls if c.tensor == "scalar"]


def test_an_optional_base_is_none_when_there_is_none(methods: dict[str, Method]) -> None:
    calls = methods["middle"].function.__globals__["CALLS"]
    calls.clear()

    zoo.merge(methods["middle"], [{"w": torch.zeros(2)}])

    assert [None] == [b for _, _, b in calls]


# Randomness


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7, 64, 1000, CHUNK])
@pytest.mark.parametrize("threads", [1, 3])
def test_random_numbers_do_not_depend_on_chunks_or_threads(
    chunk: int, threads: int, methods: dict[str, Method]
) -> None:
    base, *experts = family(3)
    options = {"base": base, "seed": 5}

    whole = zoo.merge(methods["dropout"], experts, **options)

    assert same_bytes(
        whole, zoo.merge(methods["dropout"], experts, chunk=chunk, threads=threads, **options)
    )


def test_random_numbers_depend_on_seed_tensor_and_expert(methods: dict[str, Method]) -> None:
    def drawn(seed: int = 0, name: str = "w", value: float = 0.0) -> torch.Tensor:
        model = {name: torch.full((5000,), value), "pad": torch.ones(3)}
        return zoo.merge(methods["noise"], [model], seed=seed)[name]

    first = drawn()

    assert torch.equal(first, drawn())
    assert not torch.equal(first, drawn(seed=1))
    assert not torch.equal(first, drawn(name="v"))
    assert not torch.equal(first, drawn(value=1.0))
    assert 0 <= first.min() and first.max() < 1
    assert abs(first.mean() - 0.5) < 0.02 and abs(first.std() - 12**-0.5) < 0.02
    assert first.unique().numel() > 4990


def test_random_numbers_move_with_their_expert(methods: dict[str, Method]) -> None:
    base, a, b = family(2)

    forth = zoo.merge(methods["dropout"], [a, b], base=base)
    back = zoo.merge(methods["dropout"], [b, a], base=base)

    for name in forth:
        torch.testing.assert_close(forth[name], back[name])


def test_the_stream_is_philox_and_stays_what_it_is(methods: dict[str, Method]) -> None:
    """Old merges replay only while these numbers stay."""
    import hashlib

    import numpy as np

    from zoo.random import Random

    digest = "sha256:" + "0" * 64
    key = np.frombuffer(hashlib.sha256(f"7\0w\0{digest}".encode()).digest()[:16], "<u8")
    words = np.random.Philox(key=key).random_raw(20)
    expected = torch.tensor([float(w >> np.uint64(40)) / 2**24 for w in words])

    assert torch.equal(expected, Random(7, "w", [digest], 0, 20).uniform(0))
    assert torch.equal(expected[5:13], Random(7, "w", [digest], 5, 8).uniform(0))


def test_a_random_merge_replays_from_the_recorded_seed(
    registry: Registry, members: list[State]
) -> None:
    one = registry.merge(method="dropout", experts=["a", "b"], base="base", seed=1, name="m")
    two = registry.merge(method="dropout", experts=["a", "b"], base="base", seed=2, name="m")

    assert one and two and one.digest != two.digest
    assert registry.verify("m@1", replay=True).ok
    assert registry.verify("m@2", replay=True).ok


# Data


@pytest.fixture
def lines(register: Callable[..., zoo.Version]) -> None:
    for name, weight in (("up", 1.0), ("down", -1.0)):
        state = {"weight": torch.full((1, 3), weight), "bias": torch.zeros(1)}
        register(name, state, config={"model_type": "line", "inputs": 3})


@pytest.mark.parametrize("split, best", [("train", "up"), ("test", "down")])
def test_a_method_that_needs_data_gets_modules_batches_and_a_device(
    split: str, best: str, registry: Registry, lines: None
) -> None:
    version = registry.merge(
        {
            "method": "fitted",
            "experts": ["up", "down"],
            "data": {"task": "ones", "split": split},
        },
        name="m",
    )

    assert version is not None and registry.get(best).digest == version.digest
    verdict = registry.verify("m", replay=True)
    assert verdict.ok and "platform" == verdict.replay_class


def test_what_a_method_with_data_lacks_is_listed(
    registry: Registry, lines: None, members: list[State]
) -> None:
    with pytest.raises(IncompatibleModels) as error:
        registry.merge(method="fitted", experts=["a", "b"], name="m")

    assert 3 == len(error.value.problems)
    assert "needs data: name a task in the recipe" in error.value.problems[0]
    assert "no plugin offers the architecture of `a@1`" in error.value.problems[1]

    recipe = {"method": "fitted", "experts": ["up", "down"], "data": {"task": "oness"}}
    with pytest.raises(InvalidRecipe, match=r"There is no task `oness`.*`ones`"):
        registry.merge(recipe, name="m")


# Breaches of the contract


def test_a_result_of_another_shape_is_the_plugins_fault(methods: dict[str, Method]) -> None:
    @zoo.method("short", version="1.0.0")
    def short(experts: torch.Tensor) -> torch.Tensor:
        return experts[0, :-1]

    with pytest.raises(PluginError, match=r"`short` returned shape \(2,\).*`w`.*\(3,\)"):
        zoo.merge(short, [{"w": torch.zeros(3)}])


def test_tensors_left_out_or_made_up_are_the_plugins_fault(methods: dict[str, Method]) -> None:
    base, *experts = family(2)
    with pytest.raises(PluginError, match="left out 2 tensors, first `scale`"):
        zoo.merge(methods["shuffled"], experts, base=base, parameters={"skip": 2})

    @zoo.method("generous", version="1.0.0", needs="model")
    def generous(experts: Any) -> Any:
        yield "w", torch.zeros(3)
        yield "w", torch.zeros(3)

    with pytest.raises(PluginError, match=r"gave tensor `w`.*not one that was due"):
        zoo.merge(generous, [{"w": torch.zeros(3)}])


def test_a_method_that_makes_nan_is_caught_at_every_level() -> None:
    @zoo.method("odd", version="1.0.0")
    def odd(experts: torch.Tensor) -> torch.Tensor:
        return experts[0] / 0

    @zoo.method("odd_tensor", version="1.0.0", needs="tensor")
    def odd_tensor(experts: torch.Tensor) -> torch.Tensor:
        return experts[0] / 0

    @zoo.method("odd_model", version="1.0.0", needs="model")
    def odd_model(experts: Any) -> Any:
        yield "w", torch.full((3,), float("nan"))

    for method in (odd, odd_tensor, odd_model):
        with pytest.raises(GateFailed, match="The merge made 3 values that are not finite"):
            zoo.merge(method, [{"w": torch.zeros(3)}])


def test_an_error_in_a_plugin_stops_all_threads_and_leaves_nothing_published(
    registry: Registry, members: list[State]
) -> None:
    @zoo.method("broken", version="1.0.0")
    def broken(experts: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("boom")

    registry.plugins.methods["broken"] = broken
    try:
        with pytest.raises(RuntimeError, match="boom"):
            registry.merge(method="broken", experts=["a", "b"], name="m", threads=4)
    finally:
        del registry.plugins.methods["broken"]

    assert not registry.select("name = 'm'")


def test_a_tensor_too_large_for_the_budget_is_refused_with_a_remedy(
    registry: Registry, register: Callable[..., zoo.Version]
) -> None:
    register("big", {"w": torch.zeros(3000, 1000)})

    with pytest.raises(IncompatibleModels, match=r"on one thread.*Pass --memory 369MiB"):
        registry.merge(method="transposer", experts=["big", "big"], memory="350MiB", name="m")
    assert registry.merge(method="transposer", experts=["big", "big"], memory="1GiB", name="m")


def test_whole_tensors_wait_for_room_in_the_budget(
    registry: Registry, register: Callable[..., zoo.Version]
) -> None:
    state = {f"w{i}": torch.full((300, 1000), float(i)) for i in range(6)}
    register("big", state)

    # Room for one and a half of them beside the interpreter.
    version = registry.merge(
        method="transposer", experts=["big"], memory="307MiB", threads=4, name="m"
    )

    assert version is not None


@pytest.mark.parametrize("level", LEVELS)
def test_tensors_without_elements_and_without_axes_pass_every_level(
    level: str, methods: dict[str, Method]
) -> None:
    models = [{"e": torch.zeros(0, 4), "s": torch.tensor(float(i))} for i in range(3)]

    merged = zoo.merge(methods[level], models[1:], base=models[0])

    assert (0, 4) == tuple(merged["e"].shape)
    assert () == tuple(merged["s"].shape)


def test_a_drop_in_plugin_is_named_in_the_run(
    registry: Registry, members: list[State], plugins: Plugins
) -> None:
    import hashlib

    version = registry.merge(method="middle", experts=["a", "b"], name="m")

    assert version is not None
    run = registry.catalog.run_of(version.id)
    assert run is not None
    source = Path(plugins.methods["middle"].function.__code__.co_filename)
    assert "levels.py" == run.plugin
    assert "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest() == run.code_hash
