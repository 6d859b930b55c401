"""Measuring: what is computed, what is recorded, and what a failure leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from measured_zoo import Counted, Own

import zoo
from zoo.errors import InvalidRecipe, NotFound, PluginError, RegistryError
from zoo.measuring.measurement import Measured, Measurement, plan
from zoo.measuring.measurement_cost import Costs


def recorded(registry: zoo.Registry, *refs: str) -> dict[str, float]:
    """What the registry keeps of one version, or of a set: `name` or `name/split` -> value."""
    if len(refs) == 1:
        return dict(registry.get(refs[0]).metrics)
    rows = registry.catalog.group_metrics([registry.get(r).id for r in refs])
    return {f"{r['name']}/{r['split']}" if r["split"] else r["name"]: r["value"] for r in rows}


def told(done: Sequence[Measured]) -> dict[str, float]:
    return {
        f"{v.name}/{v.split}" if v.split else v.name: v.value for one in done for v in one.values
    }


# What is recorded


def test_values_are_recorded_and_selected_by(registry: zoo.Registry, own: Own) -> None:
    done = registry.measure(["e1"], metrics=["told"], parameters={"plus": 0.5})

    assert [("told", ("e1@1",), None)] == [(d.metric, d.versions, d.error) for d in done]
    assert {"told": 0.5, "told/layer0": 0.0, "told_last": 2.0} == told(done)
    assert told(done) == recorded(registry, "e1")
    assert ["e1"] == [v.name for v in registry.select("told > 0.4")]


def test_the_protocol_is_recorded_with_each_value(registry: zoo.Registry, own: Own) -> None:
    registry.measure(["e1"], metrics=["drawn"], samples=20, batch=8, seed=3)

    (value,) = [
        v for v in registry.catalog.measured(registry.get("e1").id) if v.name == "inner" and v.split
    ]
    assert "digits" == value.dataset
    assert {
        "metric": "drawn",
        "version": "1.0.0",
        "parameters": {},
        "task": "digits",
        "data": registry.plugins.tasks["digits"].digest("test"),
        "split": "test",
        "samples": 20,
        "batch": 8,
        "seed": 3,
    } == value.protocol
    assert {"zoo", "torch", "platform", "device"} == value.environment.keys()
    assert value.tool.startswith("zoo-registry ")


def test_values_on_the_own_task_have_their_bare_name_too(registry: zoo.Registry, own: Own) -> None:
    registry.measure(["e1"], metrics=["drawn"])
    registry.measure(["base"], metrics=["drawn"], task="digits")
    registry.measure(["e2"], metrics=["drawn"], split="train")

    assert {"drawn", "drawn/digits", "inner", "inner/digits"} == recorded(registry, "e1").keys()
    assert {"drawn/digits", "inner/digits"} == recorded(registry, "base").keys()
    assert {"drawn/digits:train", "inner/digits:train"} == recorded(registry, "e2").keys()


def test_bare_names_follow_a_task_that_is_given_later(registry: zoo.Registry) -> None:
    registry.annotate("e1", task="other")
    registry.measure(["e1", "e2"], metrics=["disagreement"], task="digits", samples=20)
    registry.measure(["e1"], metrics=["sam_sharpness"], task="digits", samples=20)
    pair = [registry.get(ref).id for ref in ("e1", "e2")]

    def bare() -> set[str]:
        return {r["name"] for r in registry.catalog.group_metrics(pair) if not r["split"]}

    assert not bare()
    assert "sam_sharpness" not in registry.get("e1").metrics

    registry.annotate("e1", task="digits")
    assert {"disagreement", "churn"} <= bare()
    assert ["e1@1"] == [v.ref for v in registry.select("sam_sharpness < 1000")]

    registry.annotate("e2", task="other")
    assert not bare()
    registry.annotate("e1", task="other")
    assert "sam_sharpness" not in registry.get("e1").metrics


def test_pairs_and_sets_are_recorded_once_for_each_unordered_set(
    registry: zoo.Registry, own: Own
) -> None:
    first = registry.measure(["e1", "e2", "e3"], metrics=["both", "everyone"])
    again = registry.measure(["e3", "e2", "e1", "e1"], metrics=["everyone", "both"])

    assert 4 == len(own.seen)
    assert all(one.was_known for one in again)
    assert [2, 2, 2, 3] == [len(one.versions) for one in first]
    assert {frozenset(d.versions) for d in first} == {frozenset(d.versions) for d in again}
    assert {"both": 0.0} == recorded(registry, "e2", "e1")
    assert {"everyone": 3.0} == recorded(registry, "e3", "e1", "e2")


def test_only_those_that_agree_are_paired(registry: zoo.Registry, own: Own) -> None:
    done = registry.measure(
        where="task = 'digits'", metrics=["both", "everyone"], within=["parity", "base"]
    )

    assert {frozenset({"e1@1", "e3@1"})} == {frozenset(d.versions) for d in done}
    with pytest.raises(InvalidRecipe, match="2 versions that agree in `name`, and 1 are"):
        registry.measure(["e1", "e2"], metrics=["both"], within=["name"])


@pytest.mark.parametrize(
    "metrics", ["barrier", "set_barrier", "mode_connectivity", "cka", "disagreement"]
)
def test_a_metric_measured_twice_gives_the_same_values(
    registry: zoo.Registry, metrics: str
) -> None:
    refs, options = ["e1", "e2", "e3"], {"samples": 60, "batch": 32, "force": True}
    small = {"mode_connectivity": {"epochs": 2}}.get(metrics, {})
    before = torch.get_rng_state()

    first = registry.measure(refs, metrics=[metrics], parameters=small, **options)
    torch.manual_seed(99)
    second = registry.measure(refs[::-1], metrics=[metrics], parameters=small, **options)
    other = registry.measure(refs, metrics=[metrics], parameters=small, seed=5, **options)

    assert not any(one.was_known or one.error for one in first + second)
    by_set = [
        {frozenset(one.versions): {v.name: v.value for v in one.values} for one in done}
        for done in (first, second, other)
    ]
    assert by_set[0] == by_set[1]
    assert by_set[0] != by_set[2]
    torch.set_rng_state(before)


def test_draws_are_fixed_by_the_seed_and_the_callers_go_on(
    registry: zoo.Registry, own: Own
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)

    found = [
        told(registry.measure(["e1"], metrics=["drawn"], seed=seed, force=True))["drawn"]
        for seed in (0, 0, 1)
    ]

    assert expected == torch.rand(1)
    assert found[0] == found[1]
    assert found[0] != found[2]


# What is known already


def test_what_is_recorded_under_the_same_protocol_is_not_measured_again(
    registry: zoo.Registry, own: Own
) -> None:
    first = registry.measure(["e1", "e2"], metrics=["told", "drawn"])
    again = registry.measure(["e1", "e2"], metrics=["told", "drawn"])

    assert 4 == len(own.seen)
    assert [False] * 4 + [True] * 4 == [one.was_known for one in first + again]
    for a, b in zip(first, again, strict=True):
        assert {(v.name, v.split, v.value) for v in a.values} == {
            (v.name, v.split, v.value) for v in b.values
        }


@pytest.mark.parametrize(
    "change",
    [{"samples": 9}, {"batch": 9}, {"seed": 9}, {"split": "train"}, {"force": True}],
    ids=lambda change: next(iter(change)),
)
def test_another_protocol_is_measured(
    registry: zoo.Registry, own: Own, change: dict[str, Any]
) -> None:
    registry.measure(["e1"], metrics=["drawn"])

    (done,) = registry.measure(["e1"], metrics=["drawn"], **change)

    assert not done.was_known
    assert 2 == len(own.seen)


def test_another_version_of_a_metric_or_of_the_data_is_measured(
    registry: zoo.Registry, own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.measure(["e1"], metrics=["drawn"])
    task = registry.plugins.tasks["digits"]
    monkeypatch.setattr(type(task), "digest", lambda self, split: "sha256:other")

    registry.measure(["e1"], metrics=["drawn"])
    object.__setattr__(registry.plugins.metrics["drawn"], "version", "1.0.1")
    registry.measure(["e1"], metrics=["drawn"])

    assert 3 == len(own.seen)


def test_values_that_others_replaced_do_not_count(registry: zoo.Registry, own: Own) -> None:
    for layers in (3, 1, 1, 3):
        registry.measure(["e1"], metrics=["told"], parameters={"layers": layers})

    # Of the second, two layers of the first were left over; they are not the second's.
    assert 3 == len(own.seen)
    (known,) = registry.measure(["e1"], metrics=["told"], parameters={"layers": 3})
    assert known.was_known
    assert 5 == len(known.values)


def test_values_that_another_protocol_does_not_give_go(registry: zoo.Registry) -> None:
    def measured(points: int) -> bool:
        (done,) = registry.measure(
            ["e1", "e2"], metrics=["barrier"], samples=20, parameters={"points": points}
        )
        return not done.was_known

    def recorded() -> set[str]:
        pair = [registry.get(ref).id for ref in ("e1", "e2")]
        rows = registry.catalog.group_metrics(pair)
        assert 1 == len({r["protocol"]["parameters"]["points"] for r in rows})
        return {r["name"] for r in rows}

    assert measured(3)
    assert "midpoint_barrier" in recorded()
    assert measured(4)
    assert "midpoint_barrier" not in recorded()
    assert not measured(4)


def test_parts_of_another_protocol_go_and_those_of_others_stay(
    registry: zoo.Registry, own: Own
) -> None:
    registry.annotate("e1", metrics={"told": 7.0, "size": 3.0})
    registry.measure(["e1"], metrics=["silent", "drawn"])
    for layers in (3, 1):
        registry.measure(["e1"], metrics=["told"], parameters={"layers": layers})

    found = registry.get("e1").metrics

    assert {"told", "told/layer0", "told_last"} == {n for n in found if n.startswith("told")}
    assert {"size", "drawn", "inner"} <= set(found)
    assert not registry.catalog.check_audit()


def test_parts_left_over_are_not_told_as_known(registry: zoo.Registry, own: Own) -> None:
    for _ in range(2):
        registry.measure(["e1"], metrics=["told"], parameters={"layers": 3})
        registry.measure(["e1"], metrics=["told"], parameters={"layers": 1})

    (known,) = registry.measure(["e1"], metrics=["told"], parameters={"layers": 1})

    assert known.was_known
    assert {"told", "told_last", "told/layer0"} == told([known]).keys()


def test_a_metric_without_a_value_is_no_failure(registry: zoo.Registry, own: Own) -> None:
    (done,) = registry.measure(["e1"], metrics=["silent"])

    assert ((), None, False) == (done.values, done.error, done.was_known)
    assert {} == recorded(registry, "e1")


# Failures


def test_one_failure_is_told_and_the_others_go_on(registry: zoo.Registry, own: Own) -> None:
    own.fails["e2@1"] = RuntimeError("mat1 and mat2 cannot be multiplied")

    done = registry.measure(["e1", "e2", "e3"], metrics=["told"])

    assert [None, PluginError, None] == [one.error and type(one.error) for one in done]
    assert "`told` failed on `e2@1`: RuntimeError: mat1 and mat2" in str(done[1].error)
    assert [3, 0, 3] == [len(recorded(registry, f"e{i}")) for i in (1, 2, 3)]
    own.fails.clear()
    again = registry.measure(["e1", "e2", "e3"], metrics=["told"])
    assert [True, False, True] == [one.was_known for one in again]


def test_a_failure_of_a_pair_leaves_nothing_of_it(registry: zoo.Registry, own: Own) -> None:
    own.fails |= {ref: RuntimeError("no") for ref in ("e1@1", "e2@1", "e3@1")}

    done = registry.measure(["e1", "e2"], metrics=["both"])

    assert [PluginError] == [type(one.error) for one in done]
    assert {} == recorded(registry, "e1", "e2")


def test_a_kill_leaves_what_was_finished_and_the_next_run_does_the_rest(
    registry: zoo.Registry, own: Own
) -> None:
    own.fails["e2@1"] = KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        registry.measure(["e1", "e2", "e3"], metrics=["told"])

    assert [3, 0, 0] == [len(recorded(registry, f"e{i}")) for i in (1, 2, 3)]
    own.fails.clear()
    done = registry.measure(["e1", "e2", "e3"], metrics=["told"])
    assert [True, False, False] == [one.was_known for one in done]


def test_a_value_that_is_not_finite_leaves_none_of_the_measurement(
    registry: zoo.Registry, own: Own
) -> None:
    (done,) = registry.measure(["e1"], metrics=["infinite"])

    assert isinstance(done.error, RegistryError)
    assert {} == recorded(registry, "e1")


def test_a_value_that_was_not_announced_is_refused(registry: zoo.Registry, own: Own) -> None:
    (done,) = registry.measure(["e1"], metrics=["liar"])

    assert isinstance(done.error, PluginError)
    assert "gave a value `other`" in str(done.error)
    assert {} == recorded(registry, "e1")


def test_a_base_that_is_missing_concerns_its_own_version(registry: zoo.Registry) -> None:
    done = registry.measure(["e1", "odd"], metrics=["task_vector"])

    assert [None, "Metric `task_vector` needs the base of `odd@1`"] == [
        one.error and str(one.error).partition(", and")[0] for one in done
    ]


def test_a_base_whose_bytes_are_gone_is_missed_only_where_it_is_needed(
    registry: zoo.Registry, own: Own
) -> None:
    registry.remove("base")
    registry.gc()

    done = registry.measure(["e1"], metrics=["told", "task_vector"])

    assert [None, NotFound] == [one.error and type(one.error) for one in done]


def test_a_head_of_other_classes_concerns_its_own_version(registry: zoo.Registry) -> None:
    done = registry.measure(["e1", "e2", "odd"], metrics=["disagreement"], task="digits")

    assert [True, False, False] == sorted((one.error is None for one in done), reverse=True)
    failed = [one for one in done if one.error is not None]
    assert all("10 labels" in str(one.error) and "odd@1" in one.versions for one in failed)


def test_a_set_of_two_tasks_or_of_none_needs_one_named(registry: zoo.Registry, own: Own) -> None:
    registry.annotate("e2", task="other")

    done = registry.measure(["e1", "e2", "odd"], metrics=["cka"])

    assert 3 == len(done)
    assert all("The task to measure on is not known" in str(one.error) for one in done)
    (single,) = registry.measure(["odd"], metrics=["drawn"])
    assert "`odd@1`: none" in str(single.error)


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        ({"metrics": ["barier"]}, InvalidRecipe, "Did you mean `barrier`"),
        ({"metrics": []}, InvalidRecipe, "Name at least one metric"),
        ({"metrics": ["both"], "refs": ["e1"]}, InvalidRecipe, "takes 2 versions, and 1 is"),
        ({"metrics": ["everyone"], "refs": ["e1"]}, InvalidRecipe, "takes 2 or more versions"),
        ({"parameters": {"pluss": 1}}, InvalidRecipe, "Did you mean `plus`"),
        ({"parameters": {"both.plus": 1}}, InvalidRecipe, "Unknown parameter `both.plus`"),
        ({"parameters": {"plus": "much"}}, InvalidRecipe, "`plus` of metric `told` cannot be"),
        ({"samples": 0}, InvalidRecipe, "`samples` is 0"),
        ({"batch": 0}, InvalidRecipe, "`batch` is 0"),
        ({"device": "moon"}, InvalidRecipe, "no device `moon`"),
        ({"refs": ["nobody"]}, NotFound, "nobody"),
        ({"refs": None, "where": "name = 'nobody'"}, NotFound, "No version fits"),
        ({"refs": None}, InvalidRecipe, "Name the versions, or select"),
        ({"where": "true"}, InvalidRecipe, "Name the versions, or select"),
        ({"metrics": ["cka"], "task": "digit"}, NotFound, "digit"),
        ({"metrics": ["cka"], "task": "digits", "split": "tes"}, NotFound, "no split `tes`"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_measured(
    registry: zoo.Registry,
    own: Own,
    asked: dict[str, Any],
    kind: type[Exception],
    said: str,
) -> None:
    asked = {"refs": ["e1", "e2"], "metrics": ["told"], **asked}

    with pytest.raises(kind, match=said):
        registry.measure(asked.pop("refs"), **asked)

    assert [] == own.seen


def test_a_metric_can_be_named_by_a_value_that_it_gives(registry: zoo.Registry, own: Own) -> None:
    done = registry.measure(["e1"], metrics=["told_last", "told"])

    assert ["told"] == [one.metric for one in done]


def test_a_parameter_may_be_for_one_metric_or_for_all_that_have_it(
    registry: zoo.Registry, own: Own
) -> None:
    done = registry.measure(
        ["e1", "e2"],
        metrics=["told", "both", "everyone"],
        parameters={"both.plus": 3, "plus": 1},
    )

    assert [1.0, 1.0, 3.0] == [
        v.value for d in done for v in d.values if v.name in ("told", "both") and not v.split
    ]


# Beforehand


def test_a_plan_measures_nothing(registry: zoo.Registry, own: Own) -> None:
    registry.measure(["e1"], metrics=["told"])
    own.seen.clear()

    planned = plan(registry, ["e1", "e2", "odd"], metrics=["told", "drawn", "cka"], samples=50)

    assert [] == own.seen
    states = {
        (p.metric.name if isinstance(p, Measurement) else p.metric, tuple(p.refs))
        if isinstance(p, Measurement)
        else ("failed", p.versions): bool(p.known) if isinstance(p, Measurement) else None
        for p in planned
    }
    assert True is states["told", ("e1@1",)]
    assert False is states["told", ("e2@1",)]
    assert None is states["failed", ("odd@1",)]  # it has no task
    (pair,) = [p for p in planned if isinstance(p, Measurement) and p.metric.name == "cka"]
    assert (50, 2.0) == (pair.examples, pair.passes)


def test_cost_grows_with_passes_and_examples(
    registry: zoo.Registry, own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Costs, "_one_batch", lambda self, asked: 0.5)
    costs = Costs(registry)

    def seconds(metric: str, **asked: Any) -> float | None:
        (one,) = plan(registry, ["e1", "e2"], metrics=[metric], **asked)
        assert isinstance(one, Measurement)
        return costs.seconds(one)

    assert 2 * 2 * 0.5 == seconds("cka")  # 355 examples in batches of 256
    assert 11 * 1 * 0.5 == seconds("barrier", samples=100)
    assert 3 * 1 * 0.5 == seconds("barrier", samples=100, parameters={"points": 3})
    assert seconds("task_vectors") is None


def test_a_batch_is_timed_on_the_model_itself(registry: zoo.Registry) -> None:
    (one,) = plan(registry, ["e1", "e2"], metrics=["cka"], samples=40)
    assert isinstance(one, Measurement)

    seconds = Costs(registry).seconds(one)

    assert seconds is not None
    assert seconds > 0


@pytest.mark.parametrize(
    ("metric", "parameters"),
    [
        ("barrier", {"points": 3}),
        ("set_barrier", {"points": 3}),
        ("mode_connectivity", {"points": 3, "epochs": 2}),
        ("cka", {}),
        ("disagreement", {}),
    ],
)
def test_progress_counts_all_examples_that_are_read(
    registry: zoo.Registry, metric: str, parameters: dict[str, Any]
) -> None:
    progress = Counted()

    registry.measure(
        ["e1", "e2"],
        metrics=[metric],
        parameters=parameters,
        samples=50,
        batch=16,
        progress=progress,
    )

    (work,) = progress.works
    assert work["total"] == work["done"] > 0
    assert work["ended"]
    assert work["label"].startswith(f"{metric} of e")


def test_a_long_measurement_says_how_long_at_most(
    registry: zoo.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = []
    for seconds in (0.5, 90.0):
        monkeypatch.setattr(Costs, "seconds", lambda self, one, seconds=seconds: seconds)
        progress = Counted()
        registry.measure(["e1", "e2"], metrics=["cka"], samples=50, progress=progress, force=True)
        labels.append(progress.works[0]["label"])

    assert "about" not in labels[0]
    assert labels[1].endswith(", at most about 90 s")


def test_a_model_that_does_not_take_the_inputs_is_told_under_a_bar_too(
    registry: zoo.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = registry.plugins.tasks["digits"]
    batches = type(task).batches
    monkeypatch.setattr(
        type(task),
        "batches",
        lambda self, *a: ((x[:, :, 1:], y) for x, y in batches(self, *a)),
    )
    progress = Counted()

    done = registry.measure(["e1", "e2"], metrics=["cka", "task_vectors"], progress=progress)

    assert [PluginError, None] == [one.error and type(one.error) for one in done]
    assert "Does the model take the inputs of `digits`?" in str(done[0].error)
    assert all(work["ended"] for work in progress.works)


def test_what_was_measured_is_ready_for_json(registry: zoo.Registry, own: Own) -> None:
    done = registry.measure(["e1", "odd"], metrics=["told", "drawn"])

    found = json.loads(json.dumps([one.as_dict() for one in done]))

    assert [None, None, "digits", None] == [one["task"] for one in found]
    assert {"name", "part", "value", "stderr", "protocol"} == found[0]["values"][0].keys()
    assert "not known" in found[-1]["error"]
