"""Training: the same seed gives the same weights, stopped and resumed or not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import GateFailed, IncompatibleModels, InvalidCheckpoint, InvalidRecipe
from zoo.grow.training import TrainingPlan, fresh, learning_rate, train, training_data

PLAN = TrainingPlan(lr=0.1, epochs=4, batch=8)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_training_learns_the_task_and_records_each_epoch(clouds, network):
    module = fresh(network, 0)
    record = train(module, clouds, replace(PLAN, epochs=20), seed=0)

    assert list(range(1, 21)) == [e.epoch for e in record.epochs]
    assert [8 * e for e in range(1, 21)] == [e.steps for e in record.epochs]
    assert record.epochs[-1].loss < record.epochs[0].loss / 2
    assert record.train_accuracy > 0.9
    assert not module.training
    assert ("clouds", 60, 160) == (record.task, record.examples, record.steps)
    assert json.loads(json.dumps(record.as_dict()))["plan"]["batch"] == 8


def test_the_final_loss_is_that_of_the_module_on_its_training_examples(clouds, network):
    module = fresh(network, 0)
    plan = replace(PLAN, label_noise=0.2, data=0.5)
    record = train(module, clouds, plan, seed=0)
    x, y = training_data(clouds, plan)

    outputs = module(x)
    assert pytest.approx(torch.nn.functional.cross_entropy(outputs, y).item()) == record.train_loss
    assert (outputs.argmax(1) == y).double().mean().item() == record.train_accuracy


def test_one_seed_gives_one_module_and_another_seed_another(clouds, network):
    made = []
    for seed in (0, 0, 1):
        module = fresh(network, seed)
        train(module, clouds, PLAN, seed=seed)
        made.append(module)

    assert same(made[0], made[1])
    assert not same(made[0], made[2])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_resumed_after_any_epoch_it_ends_at_the_same_bits(clouds, network, tmp_path, optimizer):
    plan = replace(PLAN, optimizer=optimizer, lr=0.01, schedule="cosine")
    whole = fresh(network, 5)
    straight = train(whole, clouds, plan, seed=5)
    state = tmp_path / "state.pt"
    seen: list[int] = []

    def stop_once(epoch, module):
        seen.append(epoch.epoch)
        if seen == [1, 2, 3]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(network, 5), clouds, plan, seed=5, on_epoch=stop_once, state=state)
    resumed = fresh(network, 99)
    record = train(resumed, clouds, plan, seed=5, on_epoch=stop_once, state=state)

    assert same(whole, resumed)
    assert [1, 2, 3, 3, 4] == seen
    assert straight.train_loss == record.train_loss
    assert [e.loss for e in straight.epochs] == [e.loss for e in record.epochs]


def test_a_state_of_another_training_is_refused(clouds, network, tmp_path):
    state = tmp_path / "state.pt"
    train(fresh(network, 0), clouds, PLAN, seed=0, state=state)

    with pytest.raises(InvalidCheckpoint, match="seed") as raised:
        train(fresh(network, 0), clouds, PLAN, seed=1, state=state)
    assert ["seed"] == raised.value.differ


def test_a_damaged_state_is_refused(clouds, network, tmp_path):
    state = tmp_path / "state.pt"
    state.write_bytes(b"PK\x03\x04 no archive")

    with pytest.raises(InvalidCheckpoint, match="Remove it to begin anew"):
        train(fresh(network, 0), clouds, PLAN, seed=0, state=state)


def test_the_random_state_of_the_caller_stays_as_it_is(clouds, network):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train(fresh(network, 0), clouds, PLAN, seed=0)

    assert torch.equal(expected, torch.rand(3))


def test_a_training_that_diverges_says_where_and_how_to_mend_it(clouds, network):
    with pytest.raises(GateFailed, match=r"diverged.*Lower the learning rate") as raised:
        train(torch.nn.Linear(2, 3), clouds, TrainingPlan(lr=1e38, epochs=9, batch=8), seed=0)
    assert 1e38 == raised.value.lr


def test_training_stops_after_the_steps_that_were_asked_for(clouds, network):
    record = train(fresh(network, 0), clouds, replace(PLAN, max_steps=11), seed=0)

    assert [8, 11] == [e.steps for e in record.epochs]


def test_a_last_batch_of_one_example_joins_the_one_before(clouds, network):
    record = train(fresh(network, 0), clouds, replace(PLAN, batch=59, epochs=1), seed=0)

    assert 1 == record.steps


def test_a_head_for_other_classes_is_refused(clouds):
    with pytest.raises(IncompatibleModels, match="3 labels"):
        train(torch.nn.Linear(2, 4), clouds, PLAN, seed=0)


def test_frozen_parameters_stay_as_they_are(clouds, network):
    module = fresh(network, 0)
    module[0].weight.requires_grad_(False)
    before = module[0].weight.clone()
    train(module, clouds, PLAN, seed=0)

    assert torch.equal(before, module[0].weight)


@given(small=st.floats(0.01, 1), large=st.floats(0.01, 1))
def test_more_data_holds_all_that_less_has(made_clouds, small, large):
    small, large = sorted((small, large))
    few, _ = training_data(made_clouds, TrainingPlan(data=small))
    many, _ = training_data(made_clouds, TrainingPlan(data=large))

    assert max(1, round(60 * small)) == len(few)
    rows = {tuple(row) for row in many.tolist()}
    assert all(tuple(row) in rows for row in few.tolist())


@given(noise=st.floats(0, 1))
def test_label_noise_changes_just_that_share_of_the_labels(made_clouds, noise):
    _, clean = training_data(made_clouds, TrainingPlan())
    _, noisy = training_data(made_clouds, TrainingPlan(label_noise=noise))

    assert round(60 * noise) == int((clean != noisy).sum())
    assert {0, 1, 2} >= set(noisy.tolist())


def test_data_of_one_order_is_chosen_alike(clouds, ordered_clouds):
    plan = TrainingPlan(data=0.3, label_noise=0.5)
    for one, other in zip(
        training_data(clouds, plan), training_data(ordered_clouds, plan), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("total", [4, 10, 37, 200])
def test_onecycle_is_that_of_torch(total):
    plan = TrainingPlan(lr=0.3, schedule="onecycle")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=total, cycle_momentum=False
    )
    for step in range(total):
        assert pytest.approx(optimizer.param_groups[0]["lr"]) == learning_rate(plan, step, total)
        optimizer.step()
        if step + 1 < total:
            oracle.step()


def test_the_other_schedules_by_hand():
    def rates(schedule):
        plan = TrainingPlan(lr=1.0, schedule=schedule)
        return [learning_rate(plan, step, 4) for step in range(4)]

    assert [1, 1, 1, 1] == rates("constant")
    assert pytest.approx([1, 1, 0.1, 0.01]) == rates("step")
    half = 2**0.5 / 4
    assert pytest.approx([1, 0.5 + half, 0.5, 0.5 - half]) == rates("cosine")


def test_sgd_takes_the_steps_that_the_formula_says(clouds):
    """Two steps over all examples, by hand: v = m v + g + wd w, w = w - lr v."""
    plan = TrainingPlan(lr=0.2, momentum=0.5, weight_decay=0.1, epochs=2, batch=60)
    module = torch.nn.Linear(2, 3)
    w = module.weight.detach().clone().requires_grad_()
    b = module.bias.detach().clone().requires_grad_()
    train(module, clouds, plan, seed=0)
    x, y = training_data(clouds, plan)
    speeds = [torch.zeros_like(w), torch.zeros_like(b)]
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(x @ w.T + b, y)
        slopes = torch.autograd.grad(loss, (w, b))
        for i, (p, slope) in enumerate(zip((w, b), slopes, strict=True)):
            speeds[i] = 0.5 * speeds[i] + slope + 0.1 * p.detach()
            p.data -= 0.2 * speeds[i]

    torch.testing.assert_close(w.detach(), module.weight.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(b.detach(), module.bias.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bacth": 8}, "Did you mean `batch`"),
        ({"optimizer": "sdg"}, "Did you mean `sgd`"),
        ({"schedule": "cosin"}, "Did you mean `cosine`"),
        ({"lr": 0}, "more than 0"),
        ({"lr": "0.1"}, "`lr` cannot be '0.1'"),
        ({"lr": float("nan")}, "`lr` cannot be nan"),
        ({"epochs": 1.5}, "whole number"),
        ({"batch": True}, "`batch` cannot be True"),
        ({"data": 1.2}, "0 to 1"),
        ({"label_noise": -0.1}, "0 to 1"),
        ({"max_steps": 0}, "at least 1"),
        ({"split": 3}, "`split` cannot be 3"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(settings, said):
    with pytest.raises(InvalidRecipe, match=said):
        TrainingPlan.read(settings)


def test_a_split_that_is_not_there_is_refused(clouds, network):
    with pytest.raises(InvalidRecipe, match=r"has no split `trian`\. Did you mean `train`"):
        train(network(), clouds, replace(PLAN, split="trian"), seed=0)
