"""The selection language: what it means, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from drafts import draft, merge_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.catalog.catalog import Catalog
from zoo.errors import InvalidSelection
from zoo.records import MetricValue, Version


@pytest.fixture(scope="module")
def zoo(shared_catalog: Catalog) -> Iterator[Catalog]:
    """Thirty versions that differ in everything a selection can name."""
    catalog = shared_catalog
    base = catalog.add(draft("Base", 0, kind="base", license="mit", tags={"n": "-3"}))
    for i in range(1, 25):
        tags = {"team": ["red", "Blue", "10%_a", "x\\y"][i % 4]} if i % 3 else {}
        if i % 2:
            tags["n"] = ["1", "2.5", "1e1", "many", "-3"][i % 5]
        metrics = [MetricValue("acc", i / 16)] if i % 4 else []
        if i % 5 == 0:
            metrics.append(MetricValue("acc", i / 8, "test"))
        catalog.add(
            draft(
                f"expert-{i % 7}",
                i,
                base=base.id if i % 2 else None,
                task=["math", "code", None][i % 3],
                phase=["I", "IV"][i % 2],
                tags=tags,
                metrics=tuple(metrics),
            )
        )
    one, two = catalog.get("expert-1@1"), catalog.get("expert-2@1")
    catalog.add(draft("mix", 50, kind="merge", base=base.id), merge_run("r-1", base, one, two))
    catalog.alias(one.id, "best")
    catalog.alias(one.id, "good")
    catalog.alias(two.id, "good")
    gone = catalog.add(draft("expert-1", 60, task="math", metrics=(MetricValue("acc", 99.0),)))
    catalog.remove(gone.id)
    yield catalog


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("name = 'mix'", ["mix@1"]),
        ("base = 'Base' and kind = 'merge'", ["mix@1"]),
        ("method = 'ties' and run = 'r-1'", ["mix@1"]),
        ("alias = 'best'", ["expert-1@1"]),
        ("alias in ('best', 'good')", ["expert-1@1", "expert-2@1"]),
        ("alias = 'good' and alias != 'best'", ["expert-2@1"]),
        ("'good' = alias and 'best' != alias", ["expert-2@1"]),
        ("alias like 'b%'", ["expert-1@1"]),
        (
            "name like 'expert-1' and alias not like 'b%'",
            ["expert-1@2", "expert-1@3", "expert-1@4"],
        ),
        ("name not like 'e%' and name not ilike 'B%' and kind = 'merge'", ["mix@1"]),
        ("alias is not null", ["expert-1@1", "expert-2@1"]),
        ("alias is null and name in ('expert-1', 'expert-2') and version = 1", []),
        ("not alias = 'best' and name = 'expert-1'", [f"expert-1@{i}" for i in (2, 3, 4)]),
        ("name = 'expert-1' and latest", ["expert-1@4"]),
        ("name = 'expert-1' and latest = false and version > 2", ["expert-1@3"]),
        ("name = 'expert-1' and not latest is true", [f"expert-1@{i}" for i in (1, 2, 3)]),
        ("license = 'mit'", ["Base@1"]),
        ("license is not null", ["Base@1"]),
        ("parameters = 6 and bytes between 40 and 40 and name like 'm_x'", ["mix@1"]),
        ("name ilike 'EXPERT-1' and version in (1, 2.0)", ["expert-1@1", "expert-1@2"]),
        ("METRIC.'acc'.'test' >= 2.5", ["expert-6@3"]),
        ("metric.acc = 1.4375", ["expert-2@4"]),
        ("acc = 23 / 16", ["expert-2@4"]),
        ("0.0625 = acc", ["expert-1@1"]),
        ("tag.'team' = '10%_a' and tag.team like '10\\%\\_%' and acc > 1.3", ["expert-1@4"]),
        ("tag.n = -3 and kind = 'base'", ["Base@1"]),
        ("tag.n = 'many' and version = 1", ["expert-3@1"]),
        ("tag.n = 10 and version = 1", ["expert-0@1"]),
        ("tag.n = '10'", []),
        ("acc / 0 > 0", []),
        ("acc / 0 is null and name = 'mix'", ["mix@1"]),
        ("created_at > '2025-01-01' and name = 'mix'", ["mix@1"]),
        ("lower(name) = 'base' or upper(kind) = 'MERGE'", ["Base@1", "mix@1"]),
        ("coalesce(acc, -1) < 0 and latest and kind != 'expert'", ["Base@1", "mix@1"]),
        ("length(name) = 3", ["mix@1"]),
        ("true and not false and name = 'mix'", ["mix@1"]),
    ],
)
def test_a_selection_means_what_sql_says(zoo: Catalog, where: str, expected: list[str]) -> None:
    assert expected == [v.ref for v in zoo.select(where)]


def test_without_conditions_all_live_versions_come_by_name_and_number(zoo: Catalog) -> None:
    found = zoo.select()

    assert 26 == len(found)
    assert sorted(found, key=lambda v: (v.name, v.version)) == found


def test_order_by_puts_what_is_absent_last_and_breaks_ties_by_name(zoo: Catalog) -> None:
    for direction in ("asc", "desc"):
        found = [v.metrics.get("acc") for v in zoo.select(order_by=f"acc {direction}")]
        present = [x for x in found if x is not None]

        assert sorted(present, reverse=direction == "desc") == present
        assert [None] * (len(found) - len(present)) == found[len(present) :]
    assert zoo.select(order_by="kind, name, version") == zoo.select(order_by="kind")
    numbers = [v.tags.get("n") for v in zoo.select("tag.n is not null", order_by="tag.n")]
    assert numbers[0] == "-3" and numbers[-1] == "many", "numbers first, as numbers"
    assert numbers.index("2.5") < numbers.index("1e1")


def test_a_limit_takes_the_first_of_the_order(zoo: Catalog) -> None:
    assert zoo.select(order_by="acc desc")[:3] == zoo.select(order_by="acc desc", limit=3)
    assert [] == zoo.select(limit=0)
    with pytest.raises(InvalidSelection):
        zoo.select(limit=-1)


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("acuracy > 1", "Did you mean `acc`"),
        ("zzz > 1", "Known: `name`"),
        ("ac > 1", "Did you mean `acc`"),
        ("ACC > 1", "Did you mean `acc`"),
        ("tag.select = 'x'", "tag.'my key'"),
        ("taks = 'math'", "Did you mean `task`"),
        ('task = "math"', "single quotes"),
        ("metric.'ac' > 1", "Did you mean `acc`"),
        ("metric.'acc'.'tset' > 1", "metric.'acc'.'test'"),
        ("tags.team = 'red'", "tag.KEY"),
        ("team.tag.x.y = 'red'", "tag.KEY"),
        ("task > 0.5", "single quotes"),
        ("acc = 'high'", "single quotes"),
        ("task = null", "is null"),
        ("task", "alone is no condition"),
        ("acc + 1", "`acc + 1` alone is no condition"),
        ("task = expert", "For the text, write 'expert' in single quotes."),
        ("name = 'a'; drop table versions", "`drop` cannot stand after `name = 'a';`."),
        ("select 1", "`select` cannot stand first."),
        ("acc >", "Something is missing beside the `>` of `acc >`."),
        ("acc between 1", "Something is missing beside the `1` of `acc between 1`."),
        ("task in ('a'", "A `)` is missing after `task in ('a'`."),
        ("task = 'a", "A quote is not closed."),
        ("", "It is empty."),
        ("latest > true", "no order"),
        ("task like name", "quotes"),
        ("task like 'a\\'", "backslash"),
        ("latest = 1", "bool"),
        ("acc > 1e999", "too large"),
        ("alias = name", "Compare `alias`"),
        ("lower(alias) = 'x'", "no single text"),
        ("task in (name)", "texts and numbers only"),
    ],
)
def test_a_mistake_is_explained(zoo: Catalog, where: str, hint: str) -> None:
    with pytest.raises(InvalidSelection) as caught:
        zoo.select(where)
    assert hint in str(caught.value)


NOT_EXPRESSIONS = [
    "",
    "   ",
    ";",
    "name = 'a'; drop table versions",
    "name = 'a' order by name",
    "name = 'a' limit 1",
    "name = 'a' union select 1",
    "select 1",
    "(select 1) = 1",
    "exists (select 1)",
    "name in (select name from entries)",
    "name = any (select name from entries)",
    "delete from versions",
    "update versions set kind = 'x'",
    "drop table versions",
    "pragma user_version = 9",
    "attach 'x' as y",
    "load_extension('x') = 1",
    "randomblob(1000000000) is null",
    "abs(name, 1) = 1",
    "sqlite_version() = 'x'",
    "pg_sleep(10) is null",
    "pg_read_file('/etc/passwd') = ''",
    "count(*) > 1",
    "sum(acc) over () > 1",
    "case when acc > 1 then true else false end",
    "cast(acc as text) = '1'",
    "acc::text = '1'",
    "name || 'x' = 'y'",
    "name = ?",
    "name = :name",
    "name = $1",
    "name = @x",
    "name glob '*'",
    "name regexp '.*'",
    "name similar to 'x'",
    "name collate nocase = 'x'",
    "name = 'a' escape 'x'",
    "name like 'a' escape 'x'",
    "name is name",
    "name as x",
    "name, kind",
    "*",
    "versions.*",
    "tag.* = 'x'",
    "tag['x'] = 'y'",
    "name = 'unfinished",
    "(name = 'a'",
    "name = 'a')",
    "name = x'41'",
    "name = 0x41",
    "acc > 1 1",
    "acc & 1 = 1",
    "interval '1 day' is null",
    "current_user = 'x'",
    "name = 'a\0'",
    "'a'.name = 'x'",
    "1 between symmetric 2 and 3",
    "acc > {x}",
]


@pytest.mark.parametrize("where", NOT_EXPRESSIONS)
def test_nothing_but_an_expression_is_accepted(zoo: Catalog, where: str) -> None:
    with pytest.raises(InvalidSelection):
        zoo.select(where)


@pytest.mark.parametrize(
    "order",
    [
        "",
        "name; drop table versions",
        "name limit 1",
        "(select 1)",
        "random()",
        "alias",
        "acc nulls first",
    ],
)
def test_nothing_but_sort_keys_is_accepted(zoo: Catalog, order: str) -> None:
    if not order:
        assert zoo.select() == zoo.select(order_by=order)
        return
    with pytest.raises(InvalidSelection):
        zoo.select(order_by=order)


@pytest.mark.parametrize(
    "where",
    [
        "(" * 5000 + "true" + ")" * 5000,
        "not " * 3000 + "true",
        "-" * 2000 + "acc > 1",
        "acc" + " + acc" * 3000 + " > 1",
        " or ".join(["acc > 1"] * 2000),
        "name = '" + "x" * 30_000 + "'",
        "lower(" * 1000 + "name" + ")" * 1000 + " = 'x'",
        " and ".join(["latest"] * 1000),
        "a.b." * 4000 + "c = 1",
    ],
)
def test_an_absurdly_large_expression_is_refused(zoo: Catalog, where: str) -> None:
    with pytest.raises(InvalidSelection):
        zoo.select(where)


def test_a_long_list_of_values_is_fine(zoo: Catalog) -> None:
    names = ", ".join(f"'n{i}'" for i in range(1500))

    assert ["mix@1"] == [v.ref for v in zoo.select(f"name in ({names}, 'mix')")]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.text(max_size=60) | st.text("nameor=<>'\"()[]{}.;,-*/%$@:?\\ 0123456789", max_size=40)
)
def test_any_text_selects_or_is_refused_cleanly(zoo: Catalog, text: str) -> None:
    with suppress(InvalidSelection):
        zoo.select(text)


# The same expression as SQL text and as a Python function of a version; None is SQL's null.

Evaluate = Callable[[Version], Any]
Expression = tuple[str, Evaluate]


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def names_of_text() -> st.SearchStrategy[Expression]:
    return st.sampled_from(
        [
            ("name", lambda v: v.name),
            ("kind", lambda v: v.kind),
            ("task", lambda v: v.task),
            ("phase", lambda v: v.phase),
            ("base", lambda v: v.base and v.base.split("@")[0]),
            ("tag.team", lambda v: v.tags.get("team")),
            ("lower(tag.team)", lambda v: v.tags["team"].lower() if "team" in v.tags else None),
        ]
    )


def names_of_numbers() -> st.SearchStrategy[Expression]:
    leaves: st.SearchStrategy[Expression] = st.sampled_from(
        [
            ("version", lambda v: v.version),
            ("parameters", lambda v: v.parameters),
            ("acc", lambda v: v.metrics.get("acc")),
            ("metric.'acc'.'test'", lambda v: v.metrics.get("acc/test")),
            ("length(name)", lambda v: len(v.name)),
            ("abs(tag.n)", lambda v: null(abs, number(v.tags.get("n", "x")))),
            ("coalesce(acc, 0.5)", lambda v: v.metrics.get("acc", 0.5)),
        ]
    )
    operators = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b if b else None,
    }
    computed = st.builds(
        lambda a, op, b: (
            f"({a[0]} {op} {b[0]})",
            lambda v: null(operators[op], a[1](v), b[1](v)),
        ),
        leaves,
        st.sampled_from(list(operators)),
        leaves,
    )
    return leaves | computed


def null(function: Callable[..., Any], *values: Any) -> Any:
    """The function's value, or null when any argument is null."""
    return None if any(value is None for value in values) else function(*values)


TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
TEXTS = ["expert-1", "merge", "math", "code", "IV", "Base", "red", "Blue", "10%_a", "it's", ""]
NUMBERS = [0, 1, -3, 6, 2, 0.0625, 0.5, 1.25, 2.5, 10]


def quoted(value: str | float) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def comparisons() -> st.SearchStrategy[Expression]:
    def against(names: st.SearchStrategy[Expression], values: list[Any]) -> Any:
        value = st.sampled_from(values)
        compare = st.builds(
            lambda x, op, y: (
                f"{x[0]} {op} {quoted(y)}",
                lambda v: null(TESTS[op], x[1](v), y),
            ),
            names,
            st.sampled_from(list(TESTS)),
            value,
        )
        two = st.builds(
            lambda x, op, y: (
                f"{x[0]} {op} {y[0]}",
                lambda v: null(TESTS[op], x[1](v), y[1](v)),
            ),
            names,
            st.sampled_from(list(TESTS)),
            names,
        )
        among = st.builds(
            lambda x, negated, ys: (
                f"{x[0]} {negated}in ({', '.join(map(quoted, ys))})",
                lambda v: null(lambda a: (a in ys) != bool(negated), x[1](v)),
            ),
            names,
            st.sampled_from(["", "not "]),
            st.lists(value, min_size=1, max_size=3),
        )
        between = st.builds(
            lambda x, negated, low, high: (
                f"{x[0]} {negated}between {quoted(low)} and {quoted(high)}",
                lambda v: null(lambda a: (low <= a <= high) != bool(negated), x[1](v)),
            ),
            names,
            st.sampled_from(["", "not "]),
            value,
            value,
        )
        absent = st.builds(
            lambda x, negated: (
                f"{x[0]} is {negated}null",
                lambda v: (x[1](v) is None) != bool(negated),
            ),
            names,
            st.sampled_from(["", "not "]),
        )
        return compare | two | among | between | absent

    like = st.builds(
        lambda x, negated, pattern: (
            f"{x[0]} {negated}like {quoted(pattern)}",
            lambda v: null(lambda a: like_matches(pattern, a) != bool(negated), x[1](v)),
        ),
        names_of_text(),
        st.sampled_from(["", "not "]),
        st.sampled_from(["%", "ma%", "%e%", "_V", "10\\%%", "BLUE", "%\\_a", ""]),
    )
    tag_numbers = st.builds(
        lambda op, y: (
            f"tag.n {op} {y!r}",
            lambda v: null(TESTS[op], number(v.tags.get("n", "x")), y),
        ),
        st.sampled_from(list(TESTS)),
        st.sampled_from(NUMBERS),
    )
    texts: Any = against(names_of_text(), TEXTS)
    numbers: Any = against(names_of_numbers(), NUMBERS)
    return texts | numbers | like | tag_numbers


def like_matches(pattern: str, text: str) -> bool:
    parts = re.split(r"(\\.|%|_)", pattern, flags=re.DOTALL)
    translated = "".join(
        {"%": ".*", "_": "."}.get(part, re.escape(part[1:] if part[:1] == "\\" else part))
        for part in parts
    )
    return re.fullmatch(translated, text, flags=re.DOTALL) is not None


def negation(x: Expression) -> Expression:
    return f"not ({x[0]})", lambda v: null(lambda a: not a, x[1](v))


def conjunction(x: Expression, y: Expression) -> Expression:
    def both(v: Version) -> Any:
        a, b = x[1](v), y[1](v)
        return False if a is False or b is False else None if None in (a, b) else True

    return f"({x[0]} and {y[0]})", both


def disjunction(x: Expression, y: Expression) -> Expression:
    def either(v: Version) -> Any:
        a, b = x[1](v), y[1](v)
        return True if a is True or b is True else None if None in (a, b) else False

    return f"({x[0]} or {y[0]})", either


EXPRESSIONS = st.recursive(
    comparisons(),
    lambda inner: (
        st.builds(negation, inner)
        | st.builds(conjunction, inner, inner)
        | st.builds(disjunction, inner, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(expression=EXPRESSIONS)
def test_a_selection_equals_its_predicate_in_python(zoo: Catalog, expression: Expression) -> None:
    text, holds = expression

    expected = [v.ref for v in zoo.select() if holds(v) is True]

    assert expected == [v.ref for v in zoo.select(text)]
