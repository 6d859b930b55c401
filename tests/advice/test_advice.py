"""Advice as a pure function: what it promises, the rules, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from zoo.advice.advise import Expert, Pair, advise, judge, scale_of
from zoo.errors import InvalidRecipe, NotFound

A = Expert("a@1", "mlp", "base@1", "one", "IV-B", 0.9, 0.3)
B = Expert("b@1", "mlp", "base@1", "two", "IV-B", 0.8, 0.4)
NEAR = Pair(
    cosine=0.05, sign_agreement=0.52, length_ratio=1.1, barrier=0.0, error_barrier=0.0, cka=0.9
)
share = st.floats(0, 1)
cosine = st.floats(-1, 1)
pairs = st.builds(
    Pair,
    cosine=st.none() | cosine,
    sign_agreement=st.none() | share,
    length_ratio=st.none() | st.floats(1, 50),
    subspace_excess=st.none() | cosine,
    barrier=st.none() | st.floats(0, 5),
    error_barrier=st.none() | share,
    cka=st.none() | share,
)


def of(pair, a=A, b=B):
    return judge([a, b], {frozenset((a.ref, b.ref)): pair})


@given(pairs)
def test_a_promise_is_a_share(pair):
    assert 0 <= of(pair).promise <= 1


@given(pairs)
def test_the_order_of_the_two_does_not_matter(pair):
    one, other = of(pair), of(pair, B, A)

    assert (one.promise, one.method, one.parameters) == (
        other.promise,
        other.method,
        other.parameters,
    )


@pytest.mark.parametrize(
    ("part", "better", "values"),
    [
        ("error_barrier", min, share),
        ("barrier", min, st.floats(0, 5)),
        ("cosine", max, cosine),
        ("cka", max, share),
    ],
)
def test_what_is_better_never_promises_less(part, better, values):
    @given(pairs, values, values)
    def check(pair, x, y):
        if part == "barrier":  # the barrier of the error is asked first
            pair = replace(pair, error_barrier=None)
        good = better(x, y)
        bad = x + y - good

        assert (
            of(replace(pair, **{part: good})).promise
            >= of(replace(pair, **{part: bad})).promise - 1e-12
        )

    check()


@given(pairs)
def test_a_better_phase_never_promises_less(pair):
    order = ("I", "III", "II", "IV-A", "IV-B")
    promises = [of(pair, replace(A, phase=p)).promise for p in order]

    assert sorted(promises) == promises


@given(pairs, share, share)
def test_better_experts_never_promise_less(pair, x, y):
    low, high = sorted((x, y))

    assert of(pair, replace(A, accuracy=low)).promise <= of(pair, replace(A, accuracy=high)).promise


def test_the_unknown_lies_between_good_and_bad():
    good, bad = replace(NEAR, error_barrier=0.0), replace(NEAR, error_barrier=0.5)
    unknown = replace(NEAR, error_barrier=None, barrier=None)

    assert of(good).promise > of(unknown).promise > of(bad).promise


def test_a_promise_by_hand():
    found = of(Pair(cosine=0.0, error_barrier=0.02, cka=0.6))

    # |a - b| = sqrt(0.09 + 0.16) = 0.5; (3 / 2 + 2 / 1.5 + 0.6 + 1 + 0.8) / 8
    assert pytest.approx((1.5 + 2 / 1.5 + 2.4) / 8) == found.promise


@given(pairs, st.floats(0, 3), st.floats(0, 3))
def test_what_moved_farther_from_another_never_promises_more(pair, x, y):
    pair, (near, far) = replace(pair, cosine=-0.5), sorted((x, y))

    promises = [of(pair, replace(A, length=length)).promise for length in (near, far)]
    assert promises[0] >= promises[1] - 1e-12


def test_unknown_parts_are_named():
    assert ("connection", "nearness", "similarity") == of(Pair()).missing
    assert () == of(NEAR).missing
    assert ("nearness", "phase", "skill") == (
        of(NEAR, replace(A, phase=None, accuracy=None, length=None)).missing
    )


@pytest.mark.parametrize(
    ("pair", "changes", "verdict", "method"),
    [
        (NEAR, {}, "merge", "task_arithmetic"),
        (replace(NEAR, error_barrier=None, barrier=None), {}, "try", "task_arithmetic"),
        (replace(NEAR, cosine=None), {}, "try", "task_arithmetic"),
        (replace(NEAR, cosine=0.6), {}, "merge", "linear"),
        (replace(NEAR, cosine=-0.3), {}, "merge", "ties"),
        (replace(NEAR, sign_agreement=0.4), {}, "merge", "ties"),
        (replace(NEAR, error_barrier=0.4), {}, "try", "task_arithmetic"),
        (NEAR, {"task": "one"}, "merge", "linear"),
        (NEAR, {"architecture": "cnn"}, "do not merge", None),
        (NEAR, {"base": None}, "merge", "linear"),
        (replace(NEAR, error_barrier=0.3), {"base": "other@1"}, "do not merge", None),
        (Pair(), {"base": None}, "do not merge", None),
    ],
)
def test_the_rules(pair, changes, verdict, method):
    found = of(pair, b=replace(B, **changes))

    assert (verdict, method) == (found.verdict, found.method)
    assert found.reasons and all(r[0].isupper() and r[-1] in ".]" for r in found.reasons)
    assert (found.merge_command() is None) == (method is None)


@given(pairs)
def test_unrelated_starts_are_not_merged_over_a_barrier(pair):
    found = of(pair, b=replace(B, base=None))

    if pair.rise is None:
        assert ("do not merge", None, 0.0) == (found.verdict, found.method, found.promise)
    elif pair.rise > 1:
        assert ("do not merge", None) == (found.verdict, found.method)
    else:
        assert "linear" == found.method


@given(pairs)
def test_a_common_base_never_promises_less(pair):
    assert of(pair).promise >= of(pair, b=replace(B, base=None)).promise


def test_many_experts_that_share_directions_are_untangled():
    experts = [replace(A, ref=f"e{i}@1", task=f"t{i}") for i in range(8)]
    pairs = {
        frozenset((a.ref, b.ref)): replace(NEAR, subspace_excess=0.3)
        for a, b in combinations(experts, 2)
    }

    assert "tsv" == judge(experts, pairs).method
    assert "task_arithmetic" == judge(experts[:3], pairs).method
    apart = {key: replace(p, subspace_excess=0.0) for key, p in pairs.items()}
    found = judge(experts, apart)
    assert ("task_arithmetic", {"lambda": 0.3}) == (found.method, found.parameters)


def test_a_long_task_vector_is_told_with_weights():
    found = of(replace(NEAR, length_ratio=4), replace(A, length=2.0), replace(B, length=8.0))

    assert "weight=[1.0, 0.25]" in found.reasons[-1]


@given(st.integers(2, 50), cosine)
def test_the_scale_lies_between_the_mean_and_what_is_published(n, c):
    found = scale_of(n, c)

    assert 1 / n <= found <= max(0.4, 1 / n)
    assert scale_of(n, 1.0) == pytest.approx(1 / n)


@given(st.integers(2, 50), cosine, cosine)
def test_the_scale_falls_as_task_vectors_align(n, x, y):
    low, high = sorted((x, y))

    assert scale_of(n, low) >= scale_of(n, high)


def test_the_scale_of_eight_orthogonal_ones_is_one_over_the_root():
    assert pytest.approx(8**-0.5) == scale_of(8, 0.0)


def three():
    c = replace(A, ref="c@1", task="three")
    known = {("a@1", "b@1"): 0.0, ("a@1", "c@1"): 0.1, ("b@1", "c@1"): 0.3}
    return [A, B, c], {
        frozenset(key): replace(NEAR, error_barrier=value) for key, value in known.items()
    }


def test_the_best_sets_come_first_and_the_weakest_pair_counts():
    experts, known = three()

    found = advise(experts, known)

    assert [("a@1", "b@1"), ("a@1", "c@1"), ("a@1", "b@1", "c@1"), ("b@1", "c@1")] == [
        one.experts for one in found
    ]
    assert found[2].promise == found[3].promise
    assert found[:2] == advise(experts, known, most=2)


def test_the_order_of_the_candidates_does_not_matter():
    experts, known = three()

    expected = [frozenset(one.experts) for one in advise(experts, known)]

    for order in permutations(experts):
        assert expected == [frozenset(one.experts) for one in advise(order, known)]


def test_with_tasks_a_set_has_one_expert_for_each():
    experts, known = three()
    twin = replace(B, ref="b@2", accuracy=0.1)

    found = advise([*experts, twin], known, tasks=["one", "two"])

    assert [("a@1", "b@1"), ("a@1", "b@2")] == [one.experts for one in found]


def test_what_cannot_be_advised_is_told():
    with pytest.raises(InvalidRecipe, match="1 expert cannot"):
        advise([A], {})
    with pytest.raises(NotFound, match=r"`five`.*`one`, `two`"):
        advise([A, B], {}, tasks=["one", "five"])
    with pytest.raises(InvalidRecipe, match="two tasks"):
        advise([A, B], {}, tasks=["one"])
    many = [replace(A, ref=f"{t}{i}", task=t) for t in "abcde" for i in range(9)]
    with pytest.raises(InvalidRecipe, match="59,049 ways"):
        advise(many, {}, tasks=list("abcde"))


@given(pairs)
def test_the_command_names_all_that_is_needed(pair):
    found = of(pair)
    assume(found.method is not None)

    command = found.merge_command()

    assert command.startswith(f"zoo merge --method {found.method} --expert a@1 --expert b@1")
    assert ("--base base@1" in command) == (found.method != "linear")
    for key, value in found.parameters.items():
        assert f"--set {key}={value}" in command
