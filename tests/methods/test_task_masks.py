"""consensus, tall_masks, emr, twin, tsv_compress: what is merged, and what each task gets back."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import overlay_oracle as oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo import Chunk, Overlay, Parts
from zoo.errors import GateFailed, InvalidRecipe, PluginError
from zoo.plugins import load_plugins
from zoo.testing import MethodConformance

METHODS = load_plugins().methods
GOLDEN = Path(__file__).parent / "golden"
QUICK = settings(deadline=None, max_examples=25)
SHAPES = {
    "square": (9, 9),
    "wide": (6, 31),
    "conv": (8, 3, 2, 2),
    "bias": (11,),
    "none": (0, 4),
    "scale": (),
}
State = dict[str, torch.Tensor]
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]
TASK_METHODS: dict[str, dict[str, Any]] = {
    "tall_masks": {},
    "emr": {},
    "twin": {"rank_fraction": 0.4},
    "tsv_compress": {},
}


def family(experts: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[State]:
    """Experts and, last, a base; the deltas are of the size of the weights."""
    draw = torch.Generator().manual_seed(seed)
    return [
        {
            n: torch.randn(s, generator=draw, dtype=torch.float64).to(dtype)
            for n, s in SHAPES.items()
        }
        for _ in range(experts + 1)
    ]


def merged(method: Any, models: list[State], chunk: int = 1 << 17, **parameters: Any) -> Any:
    """Merge all but the last, which is the base."""
    *experts, base = models
    known = METHODS[method] if isinstance(method, str) else method
    values = {name.rstrip("_"): value for name, value in parameters.items()}
    return zoo.merge(known, experts, base=base, parameters=values, chunk=chunk)


def arrays(state: State) -> dict[str, np.ndarray]:
    return {n: t.double().numpy() for n, t in state.items()}


def near(found: State, expected: Any, tolerance: float = 1e-9) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        got = found[name].double().numpy()
        assert np.shape(value) == got.shape
        assert np.allclose(got, value, rtol=0, atol=tolerance), name


def equal(a: State, b: State) -> bool:
    """Bit for bit."""
    return all(
        torch.equal(a[n].reshape(-1).view(torch.uint8), b[n].reshape(-1).view(torch.uint8))
        for n in b
    )


# Golden numbers


def cases(name: str) -> list[Any]:
    found = json.loads((GOLDEN / f"{name}.json").read_text())
    return [pytest.param(case, id=case["case"]) for case in found]


def golden(case: dict[str, Any], dtype: torch.dtype) -> list[State]:
    models = [*case["models"], case["base"]]
    return [{n: torch.tensor(v, dtype=dtype) for n, v in m.items()} for m in models]


@pytest.mark.parametrize("case", cases("consensus"))
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_consensus_and_its_masks_agree_with_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    given, expected = case["params"], case["expected"]
    if given.get("output") == "packed_bytes":
        made = merged(packing(given["bits"]), [{"w": torch.ones(10)}, {"w": torch.zeros(10)}])
        assert expected["bytes"] == made.overlays[0]["mask:w"].tolist()
        return
    models = golden(case, dtype)
    keys = ("mask_lambda", "multi_task_vector", "density", "k", "lambda")
    parameters = {k: given[k] for k in keys if k in given}
    if "output" not in given:
        near(merged("consensus", models, **parameters), expected["merged"], tolerance)
        return
    made = merged("tall_masks", models, **parameters)
    for i, wanted in enumerate(expected.get("masks", ())):
        for name, bits in wanted.items():
            assert np.packbits(bits).tolist() == made.overlays[i][f"mask:{name}"].tolist()
    for i, wanted in enumerate(expected.get("reconstructed", ())):
        near(made.task(i), wanted, tolerance)


def packing(bits: list[bool]) -> zoo.Method:
    """A method whose mask is given."""

    def given_bits(experts: torch.Tensor, base: torch.Tensor, *, chunk: Chunk) -> Parts:
        """The first expert, with a mask."""
        return Parts(experts[0], masks=torch.tensor([bits[chunk.start : chunk.stop]]))

    wrap = zoo.method("given_bits", version="1.0.0", overlays=lambda p, e, shape: Overlay("mask"))
    return wrap(given_bits)


@pytest.mark.parametrize("case", cases("emr"))
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_emr_agrees_with_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    models, expected = golden(case, dtype), case["expected"]

    made = merged("emr", models, **case["params"])

    for i, scale in enumerate(expected["rescalers"]):
        assert np.isclose(scale, made.overlays[i]["scale:w"].item(), rtol=0, atol=tolerance)
        for name, bits in expected["masks"][i].items() if "masks" in expected else ():
            assert np.packbits(bits).tolist() == made.overlays[i][f"mask:{name}"].tolist()
        near(made.task(i), expected["reconstructed"][i], tolerance)
    unified = expected.get("unified_task_vector", {})
    near({n: made[n] - models[-1][n] for n in unified}, unified, tolerance)


@pytest.mark.parametrize("case", cases("twin_merging"))
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_twin_agrees_with_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    if "router_logits" in case["params"]:
        pytest.skip("what depends on the input is not part of the static method")
    given, expected = case["params"], case["expected"]

    made = merged(
        "twin",
        golden(case, dtype),
        lambda_=given["lambda"],
        rank_fraction=given["rank_fraction"],
    )

    near(made, expected["shared"], tolerance)
    for i, wanted in enumerate(expected["reconstructed"]):
        near(made.task(i), wanted, tolerance)
        own = {n: made.task(i)[n] - made[n] for n in wanted}
        near(own, expected["exclusive"][i], tolerance)


@pytest.mark.parametrize("case", [c for c in cases("tsv") if c.id == "tsv_compress"])
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_tsv_compress_agrees_with_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    made = merged("tsv_compress", golden(case, dtype), rank_fraction=0.5)

    near(made.task(0), case["expected"]["reconstructed"], tolerance)
    for name, values in case["expected"]["singular_values"].items():
        columns = made.overlays[0][f"left:{name}"].norm(dim=0)
        assert np.allclose(values, columns.square().numpy(), rtol=0, atol=tolerance)


# Oracle


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("chunk", [7, 1 << 17])
@pytest.mark.parametrize("kind", ["sum", "ties_sum"])
def test_consensus_and_tall_masks_agree_with_the_oracle(
    kind: str, chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    models = family(3, dtype=dtype)
    *experts, base = (arrays(m) for m in models)
    density, limits = [0.3, 0.5, 1.0], [0.2, 0.4, 0.7]
    asked = {"multi_task_vector": kind, "density": density, "mask_lambda": limits}

    for k in range(5):
        found = merged("consensus", models, chunk, k=k, lambda_=0.7, **asked)
        wanted = oracle.consensus(experts, base, limits, k, 0.7, kind, density)
        near(found, wanted, tolerance)
    made = merged("tall_masks", models, chunk, **asked)
    for i, wanted in enumerate(oracle.tall(experts, base, limits, kind, density)):
        near(made.task(i), wanted, tolerance)


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("chunk", [7, 1 << 17])
@pytest.mark.parametrize("rescaler", ["global_l1", "sum_of_tensor_means"])
def test_emr_agrees_with_the_oracle(
    rescaler: str, chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    models = family(4, dtype=dtype)
    *experts, base = (arrays(m) for m in models)
    trunk, tasks = oracle.emr(experts, base, rescaler == "sum_of_tensor_means")

    made = merged("emr", models, chunk, rescaler=rescaler)

    near(made, trunk, tolerance)
    for i, wanted in enumerate(tasks):
        near(made.task(i), wanted, 10 * tolerance)


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 1.0])
def test_twin_agrees_with_the_oracle(fraction: float, dtype: torch.dtype, tolerance: float) -> None:
    models = family(3, dtype=dtype)
    *experts, base = (arrays(m) for m in models)
    trunk, tasks = oracle.twin(experts, base, 0.3, fraction)

    made = merged("twin", models, lambda_=0.3, rank_fraction=fraction)

    near(made, trunk, tolerance)
    for i, wanted in enumerate(tasks):
        near(made.task(i), wanted, 10 * tolerance)


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("convolutions", ["full", "matrix"])
@pytest.mark.parametrize("fraction", [None, 0.0, 0.5, 1.0])
def test_tsv_compress_agrees_with_the_oracle(
    fraction: float | None, convolutions: str, dtype: torch.dtype, tolerance: float
) -> None:
    models = family(3, dtype=dtype)
    *experts, base = (arrays(m) for m in models)

    made = merged("tsv_compress", models, rank_fraction=fraction, convolutions=convolutions)

    assert equal(made, models[-1])
    wanted = oracle.tsv_compress(experts, base, fraction, convolutions == "matrix")
    for i, task in enumerate(wanted):
        near(made.task(i), task, 10 * tolerance)


# Invariants

SMALL = st.integers(-8, 8).map(lambda n: n / 4)
"""Quarters: their sums and differences are exact."""


@st.composite
def small_families(draw: st.DrawFn, most: int = 4) -> list[State]:
    """One to `most` experts and a base, of one tensor; many equal values and zeros."""
    size = draw(st.integers(0, 20))
    count = draw(st.integers(1, most)) + 1
    values = [draw(st.lists(SMALL, min_size=size, max_size=size)) for _ in range(count)]
    return [{"w": torch.tensor(v, dtype=torch.float32)} for v in values]


def masks_of(made: Any) -> list[np.ndarray]:
    """One row of booleans for each task; all ones where its model is the trunk."""
    size = made["w"].numel()
    packed = [o.get("mask:w") for o in made.overlays]
    return [
        np.ones(size, bool) if p is None else np.unpackbits(p.numpy())[:size].astype(bool)
        for p in packed
    ]


@QUICK
@given(small_families(), st.floats(0, 2), st.floats(0, 2))
def test_masks_shrink_as_lambda_grows(models: list[State], a: float, b: float) -> None:
    wide = masks_of(merged("tall_masks", models, mask_lambda=min(a, b)))
    narrow = masks_of(merged("tall_masks", models, mask_lambda=max(a, b)))

    assert all((n <= w).all() for n, w in zip(narrow, wide, strict=True))


@QUICK
@given(small_families())
def test_consensus_shrinks_in_k_from_the_sum_to_the_base(models: list[State]) -> None:
    experts, base = len(models) - 1, models[-1]
    made = [merged("consensus", models, k=k, lambda_=1.0)["w"] for k in range(experts + 2)]

    summed = zoo.merge("task_arithmetic", models[:-1], base=base)
    assert torch.equal(summed["w"], made[0])
    assert torch.equal(base["w"], made[-1])
    for more, fewer in pairwise(made):
        moved = fewer != base["w"]
        assert torch.equal(more[moved], fewer[moved])


@QUICK
@given(small_families(), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scaling_all_deltas_leaves_the_masks(models: list[State], by: float) -> None:
    base = models[-1]["w"]
    scaled = [{"w": base + by * (m["w"] - base)} for m in models]

    for method in ("tall_masks", "emr"):
        before, after = masks_of(merged(method, models)), masks_of(merged(method, scaled))
        assert all((a == b).all() for a, b in zip(after, before, strict=True))


@QUICK
@given(small_families(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("method", ["tall_masks", "emr"])
def test_masks_follow_their_task_when_the_experts_are_shuffled(
    method: str, models: list[State], random: Any
) -> None:
    order = list(range(len(models) - 1))
    random.shuffle(order)
    shuffled = merged(method, [models[i] for i in order] + models[-1:])
    straight = merged(method, models)

    for place, i in enumerate(order):
        assert torch.equal(straight.task(i)["w"], shuffled.task(place)["w"])


@QUICK
@given(small_families())
def test_tall_masks_err_nowhere_but_where_tasks_meet(models: list[State]) -> None:
    *experts, base = (m["w"] for m in models)
    alone = sum((e != base).int() for e in experts) <= 1
    made = merged("tall_masks", models)

    for i, expert in enumerate(experts):
        assert torch.equal(expert[alone], made.task(i)["w"][alone])


@QUICK
@given(small_families())
def test_emr_keeps_the_l1_norm_of_each_delta(models: list[State]) -> None:
    *experts, base = (m["w"] for m in models)
    made = merged("emr", models)

    for i, (expert, mask) in enumerate(zip(experts, masks_of(made), strict=True)):
        size = float((expert - base).abs().sum())
        if mask.any():
            found = float((made.task(i)["w"] - base).abs().sum())
            assert np.isclose(size, found, rtol=1e-4)
        else:
            assert torch.equal(base, made.task(i)["w"])
        unified = (made["w"] - base)[torch.from_numpy(mask)].abs()
        assert bool((unified >= (expert - base).abs()[torch.from_numpy(mask)]).all())


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_twin_errs_by_the_singular_values_it_leaves_out(seed: int, rank: int) -> None:
    models = [{"square": m["square"]} for m in family(2, seed)]
    made = merged("twin", models, rank_fraction=rank / 9 + 1e-9 if rank < 9 else 1.0)

    for i, expert in enumerate(models[:-1]):
        own = (expert["square"] - made["square"]).numpy()
        left_out = np.linalg.svd(own, compute_uv=False)[rank:]
        error = (made.task(i)["square"] - expert["square"]).norm().item()
        assert np.isclose(np.sqrt((left_out**2).sum()), error, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", TASK_METHODS)
def test_one_expert_comes_back_bit_for_bit(method: str, dtype: torch.dtype) -> None:
    models = family(1, dtype=dtype)
    made = merged(method, models, **({"rank_fraction": 1.0} if method == "twin" else {}))

    assert equal(made.task(0), models[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_experts_come_back_bit_for_bit_from_emr(dtype: torch.dtype) -> None:
    expert, base = family(1, dtype=dtype)
    made = merged("emr", [expert, expert, expert, base])

    for i in range(3):
        assert equal(made.task(i), expert)


@pytest.mark.parametrize("method", TASK_METHODS)
def test_experts_without_a_delta_give_the_base(method: str) -> None:
    *_, base = family(1)
    made = merged(method, [base, base, base])

    for i in range(2):
        near(made.task(i), arrays(base), 1e-12)


@pytest.mark.parametrize("rescaler", ["global_l1", "sum_of_tensor_means"])
def test_a_task_that_loses_every_election_gets_the_base_and_is_told(
    rescaler: str, caplog: pytest.LogCaptureFixture
) -> None:
    models = [{"w": torch.tensor(v)} for v in ([3.0, 3.0], [-1.0, -2.0], [0.0, 0.0])]

    made = merged("emr", models, rescaler=rescaler)

    assert [0.0, 0.0] == made.task(1)["w"].tolist()
    assert [3.0, 3.0] == made.task(0)["w"].tolist()
    assert "expert 1 loses every election" in caplog.text


def test_the_trunk_of_emr_is_made_of_weights_at_hand() -> None:
    models = family(3, dtype=torch.float32)
    made = merged("emr", models)

    for name, trunk in made.items():
        assert bool(torch.stack([m[name] == trunk for m in models]).any(0).all())


@pytest.mark.parametrize("scale", [2.0, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_small_floats_keep_the_bits_that_the_mask_leaves(dtype: torch.dtype, scale: float) -> None:
    """Where the mask is 0, the base's own bits; else base + scale (trunk - base), rounded once."""
    draw = torch.Generator().manual_seed(3)
    expert, base = ({"w": torch.randn(50, generator=draw).to(dtype)} for _ in range(2))
    bits = (torch.rand(50, generator=draw) > 0.5).tolist()
    base["w"][0] = -0.0

    def scaled(experts: torch.Tensor, base: torch.Tensor) -> Parts:
        """The first expert under a mask, scaled."""
        return Parts(experts[0], masks=torch.tensor([bits]), scales=[scale])

    wrap = zoo.method("scaled", version="1.0.0", overlays=lambda *a: Overlay("mask", scaled=True))
    found = merged(wrap(scaled), [expert, base]).task(0)["w"]

    origin, trunk = base["w"].float(), expert["w"].float()
    wanted = ((trunk - origin) * scale + origin).where(torch.tensor(bits), origin).to(dtype)
    assert equal({"w": wanted}, {"w": found})


@pytest.mark.parametrize("chunk", [1, 3, 8, 13, 16])
def test_masks_are_packed_alike_for_any_chunk(chunk: int) -> None:
    models = family(3)
    whole, part = merged("tall_masks", models), merged("tall_masks", models, chunk)

    for a, b in zip(whole.overlays, part.overlays, strict=True):
        assert all(torch.equal(a[n], b[n]) for n in a)


@QUICK
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 40))
def test_bits_of_any_length_are_packed_and_found_again(bits: list[bool], chunk: int) -> None:
    n = len(bits)
    models = [{"w": torch.ones(n)}, {"w": torch.zeros(n)}]

    made = merged(packing(bits), models, chunk)

    assert np.packbits(np.array(bits, bool)).tolist() == made.overlays[0]["mask:w"].tolist()
    assert bits == made.task(0)["w"].bool().tolist()


# What is refused


def test_numbers_that_are_no_numbers_are_refused() -> None:
    models = family(2)
    for method, wrong in (
        ("consensus", {"k": -1}),
        ("consensus", {"mask_lambda": -0.1}),
        ("tall_masks", {"density": 1.5}),
        ("tall_masks", {"multi_task_vector": "mean"}),
        ("emr", {"rescaler": "l2"}),
        ("twin", {"rank_fraction": 2}),
        ("tsv_compress", {"rank_fraction": -1}),
    ):
        with pytest.raises(InvalidRecipe, match=next(iter(wrong))):
            merged(method, models, **wrong)


def test_what_is_not_finite_is_named() -> None:
    models = family(2)
    models[1]["bias"][3] = torch.nan
    for method in TASK_METHODS:
        with pytest.raises(GateFailed, match=r"expert 1.*bias"):
            merged(method, models)


@pytest.mark.parametrize(
    "parts, said",
    [
        (lambda x: x, "no `Parts`"),
        (lambda x: Parts(x), "no mask"),
        (lambda x: Parts(x, masks=torch.ones(2, 3, dtype=torch.bool)), "no mask of the trunk's"),
        (lambda x: Parts(x, masks=torch.ones(2, x.numel(), dtype=torch.bool)), "no scales"),
    ],
)
def test_a_method_that_breaks_its_promise_is_named(parts: Any, said: str) -> None:
    def broken(experts: torch.Tensor, base: torch.Tensor) -> Any:
        """Less than it promised."""
        return parts(experts[0])

    wrap = zoo.method("broken", version="1.0.0", overlays=lambda *a: Overlay("mask", scaled=True))
    models = [{"w": torch.zeros(5)}] * 3

    with pytest.raises(PluginError, match=f"`broken` declares overlays and gave {said}"):
        merged(wrap(broken), models)


def test_parts_of_whole_models_are_refused() -> None:
    wrap = zoo.method("whole", version="1.0.0", needs="model", overlays=lambda *a: None)

    with pytest.raises(PluginError, match="overlays and needs='model'"):
        wrap(lambda experts: None)


def test_a_matrix_too_small_for_its_rank_is_told() -> None:
    plugin = METHODS["twin"]
    parameters = plugin.parameters(rank_fraction=0.1)

    assert "too few" in plugin.remark(parameters, 2, (6, 31))
    assert plugin.remark(parameters, 2, (20, 31)) is None
    assert plugin.remark(parameters, 2, (6,)) is None


class TestConsensus(MethodConformance):
    method = METHODS["consensus"]


class TestConsensusTies(MethodConformance):
    method = METHODS["consensus"]
    parameters = {"multi_task_vector": "ties_sum", "k": 1}


class TestTallMasks(MethodConformance):
    method = METHODS["tall_masks"]


class TestEmr(MethodConformance):
    method = METHODS["emr"]


class TestTwin(MethodConformance):
    method = METHODS["twin"]


class TestTsvCompress(MethodConformance):
    method = METHODS["tsv_compress"]
