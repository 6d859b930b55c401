"""What chunks hold and say: whole rows, layers; and tensors that a recipe keeps out of a merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import State

import zoo
from zoo import Chunk, Mergekit, Registry, Statistic, method
from zoo.checkpoint import MemoryCheckpoint
from zoo.checkpoints.reading import Reader
from zoo.engine.in_memory import merge
from zoo.errors import GateFailed, InvalidRecipe

Register = Callable[..., zoo.Version]
Load = Callable[..., State]


def rows_seen() -> tuple[Any, list[Chunk]]:
    """A method on whole rows that ranks each one, and the chunks it was given."""
    seen: list[Chunk] = []

    @method("ranks", version="1.0.0", unit="row")
    def ranks(experts: torch.Tensor, *, chunk: Chunk) -> torch.Tensor:
        """The rank of each entry in its row."""
        seen.append(chunk)
        rows = experts[0].view(-1, chunk.row) if chunk.row else experts[0]
        return rows.argsort(-1).argsort(-1).float().flatten()

    return ranks, seen


@pytest.mark.parametrize("shape", [(6, 5), (3, 2, 4), (7,), (1, 9), (4, 1), (), (0, 3), (3, 0)])
@pytest.mark.parametrize("chunk", [1, 4, 11, 1000])
def test_a_method_on_rows_gets_whole_rows_however_long_they_are(
    shape: tuple[int, ...], chunk: int
) -> None:
    ranks, seen = rows_seen()
    values = torch.rand(shape)

    merged = merge(ranks, [{"w": values}], chunk=chunk)["w"]

    rows = values.reshape(shape[0], -1) if len(shape) > 1 and values.numel() else values.flatten()
    expected = rows.argsort(-1).argsort(-1).float().reshape(shape)
    torch.testing.assert_close(merged, expected)
    for c in seen:
        assert 0 == c.start % c.row == (c.stop - c.start) % c.row
        assert c.stop - c.start <= max(chunk, c.row)


def test_chunks_say_which_layer_of_which_stack_they_are_of() -> None:
    found: dict[str, tuple[int | None, int]] = {}

    @method("listener", version="1.0.0")
    def listener(experts: torch.Tensor, *, chunk: Chunk) -> torch.Tensor:
        """The first expert."""
        found[chunk.tensor] = (chunk.layer, chunk.layers)
        return experts[0]

    names = ["embed.weight", "encoder.layers.1.w", "encoder.layers.0.w", "decoder.layers.0.w"]
    merge(listener, [{name: torch.ones(2) for name in names}])

    assert {
        "embed.weight": (None, 0),
        "encoder.layers.0.w": (0, 2),
        "encoder.layers.1.w": (1, 2),
        "decoder.layers.0.w": (0, 1),
    } == found


def test_excluded_tensors_keep_the_base_and_count_in_no_statistic(
    register: Register, registry: Registry, load: Load
) -> None:
    body = torch.tensor([1.0, 2.0, 3.0, 4.0])
    register("base", {"body": torch.zeros(4), "head.w": torch.full((4,), 9.0)}, kind="base")
    register("one", {"body": body, "head.w": torch.full((4,), 100.0)}, base="base")
    recipe = {
        "method": "ties",
        "base": "base",
        "experts": ["one"],
        "parameters": {"density": 0.5},
        "exclude": ["head.*"],
    }

    version = registry.merge(recipe, name="merged")

    assert version is not None
    found = load(registry.path(version.ref))
    # With the head counted, half of all entries would be the head's four and nothing of the body.
    assert [0.0, 0.0, 3.0, 4.0] == found["body"].tolist()
    assert [9.0] * 4 == found["head.w"].tolist()
    assert registry.verify("merged", replay=True)


@pytest.mark.parametrize("pattern", ["lm_head.*", "*embed_tokens*"])
@pytest.mark.parametrize("config", [{}, {"text_config": {}}])
def test_tied_tensors_are_excluded_together(
    register: Register, registry: Registry, load: Load, pattern: str, config: dict[str, Any]
) -> None:
    names = ("model.embed_tokens.weight", "lm_head.weight")
    config.get("text_config", config)["tie_word_embeddings"] = True
    for seed, name in enumerate(("base", "one")):
        rows = torch.full((4, 3), float(seed))
        register(name, {n: rows.clone() for n in names} | {"body": rows.clone()}, config=config)
    recipe = {"method": "task_arithmetic", "base": "base", "experts": ["one"], "exclude": [pattern]}

    registry.merge(recipe, name="merged")

    found = load(registry.path("merged"))
    assert [0.0, 0.0, 1.0] == [float(found[name].mean()) for name in (*names, "body")]
    assert any("tied, and both" in note for note in registry.plan(recipe).notes)


def test_excluded_tensors_that_the_base_lacks_are_told(
    register: Register, registry: Registry, load: Load
) -> None:
    register("base", {"body": torch.zeros(4)})
    register("one", {"body": torch.ones(4), "score.w": torch.ones(2)})
    recipe = {"method": "ties", "base": "base", "experts": ["one"], "exclude": ["score.*"]}

    version = registry.merge(recipe, name="merged")

    assert version is not None
    assert {"body"} == load(registry.path("merged")).keys()
    assert any("`score.w`) are excluded, and left out" in n for n in version.notes["warnings"])


def test_what_is_excluded_may_be_infinite(
    register: Register, registry: Registry, load: Load
) -> None:
    mask = torch.tensor([0.0, float("-inf"), float("nan")])
    for name, value in (("one", 1.0), ("two", 3.0)):
        register(name, {"w": torch.full((3,), value), "attention.mask": mask})
    recipe = {"method": "linear", "experts": ["one", "two"]}

    with pytest.raises(GateFailed, match=r"not finite .* in tensor `attention.mask`"):
        registry.merge(recipe, name="merged")
    registry.merge({**recipe, "exclude": ["*.mask"]}, name="merged")

    found = load(registry.path("merged"))
    assert [2.0, 2.0, 2.0] == found["w"].tolist()
    torch.testing.assert_close(found["attention.mask"], mask, equal_nan=True)


def test_a_pattern_that_excludes_nothing_is_a_mistake(
    register: Register, registry: Registry
) -> None:
    register("one", {"body": torch.ones(4)})
    recipe = {"method": "linear", "experts": ["one"], "exclude": ["bodi"]}

    with pytest.raises(InvalidRecipe, match=r"`exclude` names `bodi`.*Did you mean `body`"):
        registry.merge(recipe, name="merged")


def test_compat_means_what_mergekit_means_and_what_is_given_stands(
    register: Register, registry: Registry, load: Load
) -> None:
    register("base", {"w": torch.zeros(3), "b": torch.zeros(1)}, kind="base")
    register("one", {"w": torch.tensor([5.0, 6.0, 7.0]), "b": torch.ones(1)}, base="base")
    recipe = {"method": "ties", "base": "base", "experts": ["one"], "compat": "mergekit"}

    registry.merge(recipe, name="whole")
    registry.merge({**recipe, "parameters": {"density": 0.4}}, name="trimmed")

    assert [5.0, 6.0, 7.0] == load(registry.path("whole"))["w"].tolist()
    # One entry of each tensor: the trim is by tensor, and keeps at least one.
    assert [0.0, 0.0, 7.0] == load(registry.path("trimmed"))["w"].tolist()
    assert [1.0] == load(registry.path("trimmed"))["b"].tolist()


def test_compat_with_what_is_not_there_is_refused(register: Register, registry: Registry) -> None:
    register("one", {"w": torch.ones(4)})

    with pytest.raises(InvalidRecipe, match="`compat` can be `mergekit`"):
        registry.merge({"method": "linear", "experts": ["one"], "compat": "torch"}, name="m")


def test_a_method_declares_its_names_in_mergekit() -> None:
    @method("twice", version="1.0.0", mergekit=[Mergekit("double", {"weight": None})])
    def twice(experts: torch.Tensor) -> torch.Tensor:
        """Twice the first expert."""
        return experts[0].mul_(2)

    assert ["double"] == [entry.name for entry in twice.mergekit]
    assert {} == twice.mergekit[0].sets


class Counting(MemoryCheckpoint):
    """Counts how often it is read."""

    reads = 0

    def read_into(self, name: str, start: int, out: memoryview) -> None:
        self.reads += 1
        super().read_into(name, start, out)


@pytest.mark.parametrize(("blocks", "reads"), [(4, 1), (3, 6)])
def test_a_tensor_that_fits_the_buffers_is_read_once_for_all_passes(
    blocks: int, reads: int
) -> None:
    values = torch.rand(40)
    checkpoint = Counting({"w": values, "v": values})
    reader = Reader(10, blocks)

    def whole(name: str) -> torch.Tensor:
        return torch.cat([row[0].clone() for _, row in reader.chunks(name, [checkpoint])])

    for _ in range(2):
        torch.testing.assert_close(whole("w"), values, rtol=0, atol=0)
        assert [2] == [c.index for c, _ in reader.chunks("w", [checkpoint], lambda c: c.index == 2)]

    assert checkpoint.reads == reads
    before = checkpoint.reads
    whole("v")
    reader.raw(4)  # somebody else's bytes
    torch.testing.assert_close(whole("v"), values, rtol=0, atol=0)
    assert checkpoint.reads == before + 2 * -(-4 // blocks)


def test_statistics_are_told_the_number_of_experts_wherever_they_are_asked_for() -> None:
    told: set[int] = set()

    class Nothing(Statistic):
        name = "nothing"

        def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> Any:
            return None

        def add(self, *chunk: Any) -> None:
            pass

        def finish(self, states: Any) -> Any:
            return 0

    def statistics(parameters: Any, experts: int) -> list[Statistic]:
        told.add(experts)
        return [Nothing()]

    @method("counts", version="1.0.0", needs="statistics", statistics=statistics)
    def counts(deltas: torch.Tensor) -> torch.Tensor:
        """The first delta."""
        return deltas[0]

    merge(counts, [torch.ones(3), torch.zeros(3)], base=torch.zeros(3))

    assert {2} == told


@pytest.mark.parametrize(
    "artifacts, said",
    [
        ({"exp_avg": [torch.ones(3)]}, "Unknown artifact `exp_avg`.*Did you mean `exp_avg_sq`"),
        ({"exp_avg_sq": [torch.ones(3)] * 2}, "`exp_avg_sq` has 2 values for 1 experts"),
    ],
)
def test_artifacts_in_memory_that_nothing_takes_are_refused(
    artifacts: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        merge("ota", [torch.ones(3)], artifacts=artifacts)
