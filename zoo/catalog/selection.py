"""The selection language: a SQL boolean expression over the catalog, and nothing else.

    kind = 'expert' and base = 'qwen' and accuracy > 0.5 and tag.owner is not null

Say `kind = 'expert'` to merge: a merge is a version too, with the base of its experts, so the same
selection would find it the next time.

sqlglot parses the text into a tree. We walk the tree, accept the few nodes named here, and build
SQLAlchemy expressions with bound values. No text of the user ever becomes SQL text.

    Names      columns of `COLUMNS`; `tag.owner`, `tag.'any key'`; a metric by its bare name, or
               `metric.'name'`, `metric.'name'.'split'`
    Tests      = != < <= > >= in, not in, between, like, ilike, is null, is not null, and, or, not
    Values     'text', numbers, true, false; + - * /; lower upper length abs coalesce
    Meaning    as in SQL: a comparison with something absent is neither true nor false, and selects
               nothing. Division by zero is absent. Text compares by code point. A tag compares as
               a number with numbers, and as text with text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Select,
    and_,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.sql.elements import ColumnElement, UnaryExpression

from zoo.catalog import tables as t
from zoo.errors import InvalidSelection, did_you_mean

if TYPE_CHECKING:
    from sqlglot import Dialect, exp

Kind = Literal["text", "number", "bool", "tag"]
Clause = ColumnElement[bool]
Lookup = Callable[[Clause], "Select[Any]"]

LONGEST = 20_000
"""Characters of a selection."""
DEEPEST = 60
"""Levels of a selection's tree; chains of `and` and of `or` count once."""
SHOWN = 60
"""Characters of a selection that are shown around a mistake."""
COUNTED = 10_000
"""Entries counted to find the rarest part of a selection."""
MOST_TERMS = 400
"""Names and values in a selection, those inside `in (...)` aside."""

COLUMNS = {
    "name": "name of the entry",
    "version": "number of the version",
    "kind": "base, expert, merge, adapter or artifact",
    "base": "name of the entry it was fine-tuned from or merged onto",
    "task": "what it was trained for",
    "phase": "phase label",
    "phase_rule": "NAME@N of the rule its phase was derived by; absent when it was asserted",
    "architecture": "model type",
    "license": "licence",
    "digest": "weights digest, sha256:HEX",
    "parameters": "elements of the floating tensors",
    "bytes": "bytes of all tensors",
    "created_at": "time of registration, UTC, ISO 8601",
    "source": "where it was registered from",
    "method": "merge method that made it",
    "run": "id of the run that made it",
    "latest": "whether it is the newest version of its name",
    "alias": "any of its aliases",
}
"""What a selection can name besides tags and metrics."""


class Vocabulary(Protocol):
    """What the registry knows of metrics, asked only when a selection names one."""

    def splits(self, metric: str) -> Sequence[str]:
        """Splits the metric was ever recorded for; empty for an unknown metric."""

    def metrics(self) -> Sequence[str]:
        """All metric names."""


@dataclass(frozen=True)
class _Choice:
    """A necessary part of a selection that an index can answer."""

    exact: Clause
    """Looked up version by version."""
    quick: Clause
    """Looked up all at once."""
    found: Select[Any]
    """What `quick` collects."""


@dataclass(frozen=True)
class Selection:
    """A compiled selection."""

    rest: list[Clause]
    choices: list[_Choice]

    def clause(self, connection: Connection) -> Clause:
        """A condition on `versions`, led by the part that fits the fewest.

        SQLite cannot tell from its statistics which of two metrics is the rarer, and would
        collect both. Counting some thousand entries of an index costs less than a wrong guess.
        """
        parts = list(self.rest)
        lead = min(self.choices, key=lambda c: self._size(connection, c), default=None)
        parts += [c.quick if c is lead else c.exact for c in self.choices]
        return and_(true(), *parts)

    def _size(self, connection: Connection, choice: _Choice) -> int:
        if len(self.choices) == 1:
            return 0
        some = choice.found.limit(COUNTED).subquery()
        return connection.scalar(select(func.count()).select_from(some)) or 0


def compile_where(text: str, vocabulary: Vocabulary) -> Selection:
    """A condition on `versions`.

    Raises:
        InvalidSelection: not one expression, an unknown name, or types that do not compare.
    """
    compiler = _Compiler(text, vocabulary)
    with compiler.bounded():
        return compiler.where()


def compile_order(text: str, vocabulary: Vocabulary) -> list[UnaryExpression[Any]]:
    """Sort keys from `accuracy desc, name`; what is absent comes last in both directions.

    Raises:
        InvalidSelection: as `compile_where`.
    """
    compiler = _Compiler(text, vocabulary)
    with compiler.bounded():
        return compiler.order()


@dataclass(frozen=True)
class _Value:
    """A compiled operand."""

    kind: Kind
    sql: ColumnElement[Any]
    """Correlated with `versions`; for a tag, its text."""
    number: ColumnElement[Any] | None = None
    """A tag as a number."""
    inner: ColumnElement[Any] | None = None
    """The column that holds the value in its own table, where there is a lookup."""
    inner_number: ColumnElement[Any] | None = None
    link: ColumnElement[Any] | None = None
    lookup: Lookup | None = None
    """From a condition on `inner` to the values of `link`, a column of `versions`."""
    constant: bool = False
    many: bool = False
    """Aliases: a version has any number of them, and a test asks whether one passes."""

    def of(self, kind: Kind) -> ColumnElement[Any]:
        return self.number if kind == "number" and self.number is not None else self.sql

    def inside(self, kind: Kind) -> ColumnElement[Any] | None:
        return self.inner_number if kind == "number" and self.kind == "tag" else self.inner


class _Compiler:
    """One pass over one text."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self._text = text
        self._vocabulary = vocabulary
        self._terms = 0
        self._sorts = False
        """Whether the text is a sort order, in which texts have no place."""
        self._found: Select[Any] | None = None
        """The look-up that the part at hand used last."""

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Errors may show a tree that is deeper than the stack."""
        try:
            yield
        except RecursionError as error:
            raise self._error("It is nested too deeply.") from error

    def where(self) -> Selection:
        from sqlglot import exp

        tree = self._parse(self._text, exp.Condition).unnest()
        rest: list[Clause] = []
        choices: list[_Choice] = []
        for part in tree.flatten() if isinstance(tree, exp.And) else [tree]:
            self._found = None
            quick = self._condition(part, True, 0)
            found = cast("Select[Any] | None", self._found)
            if found is None or isinstance(part.unnest(), exp.And | exp.Or | exp.Not):
                rest.append(quick)
            else:
                choices.append(_Choice(self._condition(part, False, 0), quick, found))
        return Selection(rest, choices)

    def order(self) -> list[UnaryExpression[Any]]:
        from sqlglot import exp

        keys: list[UnaryExpression[Any]] = []
        self._sorts = True
        for item in self._parse(f"ORDER BY {self._text}", exp.Order).expressions:
            if not isinstance(item, exp.Ordered) or item.args.get("with_fill"):
                raise self._refused(item)
            if item.args.get("nulls_first"):
                raise self._error("What is absent comes last.", "Leave out `nulls first`.")
            value = self._operand(item.this, 0)
            if value.many:
                raise self._error("A version has any number of aliases; they give no order.")
            columns = [value.sql] if value.number is None else [value.number, value.sql]
            descending = bool(item.args.get("desc"))
            keys += [(c.desc() if descending else c.asc()).nulls_last() for c in columns]
        return keys

    # Parsing

    def _parse(self, text: str, into: type[exp.Expr]) -> exp.Expr:
        import sqlglot
        from sqlglot.errors import SqlglotError

        if len(text) > LONGEST:
            raise self._error(f"It has {len(text)} characters; {LONGEST} is the most.")
        if "\0" in text:
            raise self._error("It holds a NUL character.")
        try:
            tree = sqlglot.parse_one(text, into=into, dialect=_dialect())
        except SqlglotError as error:
            how = (
                "Write one expression, such as kind = 'expert' and accuracy > 0.5; odd names stand "
                "in quotes: tag.'my key', metric.'my metric'."
            )
            raise self._error(_reason(error), how) from error
        except ValueError as error:
            raise self._error("It is malformed.") from error
        return tree

    # Conditions

    def _condition(self, node: exp.Expr, positive: bool, depth: int) -> Clause:
        """A boolean expression.

        Args:
            positive: nothing above negates it, so "absent" may become "false" and an index be
                used. Below a NOT the two differ, and values are looked up one by one.
        """
        from sqlglot import exp

        if depth > DEEPEST:
            raise self._error(f"It is nested more than {DEEPEST} levels deep.")
        # A parser may say in a flag of a node what it said in a node of its own before.
        if any(node.args[key] for key in node.args.keys() - _UNDERSTOOD):
            raise self._refused(node)
        down = depth + 1
        match node:
            case exp.Paren():
                return self._condition(node.this, positive, down)
            case exp.And() | exp.Or():
                join = and_ if isinstance(node, exp.And) else or_
                return join(*(self._condition(part, positive, down) for part in node.flatten()))
            case exp.Not():
                return self._negation(node.this, positive, down)
            case exp.Is():
                return self._is(node, positive, down)
            case exp.In():
                return self._in(node, positive, down)
            case exp.Between():
                return self._between(node, positive, down)
            case exp.EQ() | exp.NEQ() | exp.LT() | exp.LTE() | exp.GT() | exp.GTE():
                return self._comparison(node, positive, down)
            case exp.Like() | exp.ILike():
                if node.args.get("negate"):
                    return not_(self._like(node, False, down))
                return self._like(node, positive, down)
            case exp.Boolean():
                return true() if node.this else false()
        value = self._operand(node, down)
        if value.kind == "bool":
            return value.sql
        raise self._error(f"`{node.sql()}` alone is no condition: compare it with a value.")

    def _negation(self, node: exp.Expr, positive: bool, depth: int) -> Clause:
        from sqlglot import exp

        inner = node.unnest()
        if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
            value = self._operand(inner.this, depth)
            if value.lookup and (positive or value.many):
                return self._look_up(value, true())
            return value.sql.is_not(None)
        return not_(self._condition(node, False, depth))

    def _is(self, node: exp.Is, positive: bool, depth: int) -> Clause:
        from sqlglot import exp

        if isinstance(node.expression, exp.Null):
            value = self._operand(node.this, depth)
            if value.many and value.lookup:
                return not_(self._look_up(value, true()))
            return value.sql.is_(None)
        if isinstance(node.expression, exp.Boolean):
            clause = self._condition(node.this, False, depth)
            wanted = clause if node.expression.this else not_(clause)
            return func.coalesce(wanted, false())
        raise self._error("After `is` comes null, not null, true or false.")

    def _comparison(self, node: exp.Expr, positive: bool, depth: int) -> Clause:
        from sqlglot import exp

        test = _TESTS[type(node).__name__]
        sides = [node.this, node.expression]
        for side, other in (sides, sides[::-1]):
            if isinstance(other, exp.Boolean):
                if not isinstance(node, exp.EQ | exp.NEQ):
                    raise self._error("true and false have no order.")
                clause = self._condition(side, False, depth)
                return clause if bool(other.this) == isinstance(node, exp.EQ) else not_(clause)
        left, right = (self._operand(side, depth) for side in sides)
        kind = self._common([left, right], node)
        if (left.many and not right.constant) or (right.many and not left.constant):
            raise self._error("Compare `alias` with a text.")
        if (left.many or right.many) and isinstance(node, exp.NEQ):
            alias, word = (left, right) if left.many else (right, left)
            return not_(self._apply(alias, kind, lambda c: c == word.of(kind), positive))
        if right.constant:
            return self._apply(left, kind, lambda c: test(c, right.of(kind)), positive)
        if left.constant:
            return self._apply(right, kind, lambda c: test(left.of(kind), c), positive)
        return cast(Clause, test(left.of(kind), right.of(kind)))

    def _in(self, node: exp.In, positive: bool, depth: int) -> Clause:
        items = node.expressions
        if not items or any(
            node.args.get(key) for key in ("query", "unnest", "field", "is_global")
        ):
            raise self._error("After `in` comes a list of values in parentheses.")
        value = self._operand(node.this, depth)
        self._terms -= len(items)  # a long list is one term
        options = [self._operand(item, depth) for item in items]
        if not all(option.constant for option in options):
            raise self._error("A list after `in` holds texts and numbers only.")
        kind = self._common([value, *options], node)
        wanted = [option.of(kind) for option in options]
        return self._apply(value, kind, lambda c: c.in_(wanted), positive)

    def _between(self, node: exp.Between, positive: bool, depth: int) -> Clause:
        if node.args.get("symmetric"):
            raise self._refused(node)
        value = self._operand(node.this, depth)
        low, high = (self._operand(node.args[end], depth) for end in ("low", "high"))
        if low.many or high.many or (value.many and not (low.constant and high.constant)):
            raise self._error("Compare `alias` with a text.")
        kind = self._common([value, low, high], node)
        first, last = low.of(kind), high.of(kind)
        if not (low.constant and high.constant):
            subject = value.of(kind)
            return and_(subject >= first, subject <= last)
        return self._apply(value, kind, lambda c: and_(c >= first, c <= last), positive)

    def _like(self, node: exp.Like | exp.ILike, positive: bool, depth: int) -> Clause:
        from sqlglot import exp

        value, pattern = self._operand(node.this, depth), node.expression
        if not (isinstance(pattern, exp.Literal) and pattern.is_string):
            raise self._error("After `like` comes a pattern in quotes.")
        self._common([value, _text("")], node)
        wanted = str(pattern.this)
        if (len(wanted) - len(wanted.rstrip("\\"))) % 2:
            raise self._error("A pattern cannot end in a single backslash, which escapes.")
        if isinstance(node, exp.ILike):
            return self._apply(value, "text", lambda c: c.ilike(wanted, escape="\\"), positive)
        return self._apply(value, "text", lambda c: c.like(wanted, escape="\\"), positive)

    def _apply(
        self, value: _Value, kind: Kind, test: Callable[[ColumnElement[Any]], Any], positive: bool
    ) -> Clause:
        """A test of a value against constants: through its index where that means the same."""
        inner = value.inside(kind)
        if value.lookup and inner is not None and (value.many or positive):
            return self._look_up(value, test(inner))
        return cast(Clause, test(value.of(kind)))

    def _look_up(self, value: _Value, test: Clause) -> Clause:
        assert value.lookup is not None and value.link is not None
        self._found = value.lookup(test)
        return value.link.in_(self._found)

    # Operands

    def _operand(self, node: exp.Expr, depth: int) -> _Value:
        from sqlglot import exp

        self._terms += 1
        if self._terms > MOST_TERMS:
            raise self._error(f"It names more than {MOST_TERMS} things.")
        if depth > DEEPEST:
            raise self._error(f"It is nested more than {DEEPEST} levels deep.")
        down = depth + 1
        match node:
            case exp.Paren():
                return self._operand(node.this, down)
            case exp.Literal():
                return _text(str(node.this)) if node.is_string else self._number(str(node.this))
            case exp.Column():
                return self._column(node)
            case exp.Neg():
                if isinstance(node.this, exp.Literal) and not node.this.is_string:
                    return self._number(f"-{node.this.this}")
                return _Value("number", -self._numeric(node.this, down))
            case exp.Add() | exp.Sub() | exp.Mul() | exp.Div():
                left = sql_cast(self._numeric(node.this, down), Double)
                right = sql_cast(self._numeric(node.expression, down), Double)
                return _Value("number", _ARITHMETIC[type(node).__name__](left, right))
            case exp.Abs():
                return _Value("number", func.abs(self._numeric(node.this, down)))
            case exp.Lower() | exp.Upper():
                change = func.lower if isinstance(node, exp.Lower) else func.upper
                return _Value("text", change(self._textual(node.this, down), type_=t.TEXT))
            case exp.Length():
                return _Value("number", func.length(self._textual(node.this, down)))
            case exp.Coalesce():
                values = [self._operand(part, down) for part in (node.this, *node.expressions)]
                if any(value.many for value in values):
                    raise self._error("Compare `alias` with a text.")
                kind = self._common(values, node)
                return _Value(kind, func.coalesce(*(value.of(kind) for value in values)))
            case exp.Null():
                raise self._error("Nothing equals null: write `is null` or `is not null`.")
        raise self._refused(node)

    def _numeric(self, node: exp.Expr, depth: int) -> ColumnElement[Any]:
        value = self._operand(node, depth)
        if value.kind not in ("number", "tag"):
            raise self._error(f"`{node.sql()}` is {value.kind}, and a number is needed there.")
        return value.of("number")

    def _textual(self, node: exp.Expr, depth: int) -> ColumnElement[Any]:
        value = self._operand(node, depth)
        if value.kind not in ("text", "tag") or value.many:
            raise self._error(f"`{node.sql()}` is no single text, and one is needed there.")
        return value.of("text")

    def _number(self, digits: str) -> _Value:
        try:
            value = int(digits)
            if -(2**63) <= value < 2**63:
                return _Value("number", literal(value, BigInteger()), constant=True)
        except ValueError:
            pass
        try:
            number = float(digits)
        except ValueError:
            raise self._error(f"`{digits}` is no number.") from None
        if not math.isfinite(number):
            raise self._error(f"`{digits}` is too large.")
        return _Value("number", literal(number, Double()), constant=True)

    def _common(self, values: Sequence[_Value], node: exp.Expr) -> Kind:
        """The kind all values compare as; tags take the kind of the rest."""
        kinds = {value.kind for value in values} - {"tag"}
        if not kinds:
            return "text"
        if len(kinds) > 1 or "bool" in kinds:
            raise self._error(
                f"`{node.sql()}` compares {' with '.join(sorted(kinds))}.",
                "Texts stand in single quotes, numbers do not.",
            )
        return kinds.pop()

    # Names

    def _column(self, node: exp.Column) -> _Value:
        from sqlglot import exp

        parts = node.parts
        if not all(
            isinstance(part, exp.Identifier) or (isinstance(part, exp.Literal) and part.is_string)
            for part in parts
        ) or isinstance(parts[0], exp.Literal):
            raise self._refused(node)
        first, *rest = (str(part.this) for part in parts)
        space = first.lower()
        if len(rest) == 1 and space == "tag":
            return _tag(rest[0])
        if 1 <= len(rest) <= 2 and space == "metric":
            return self._metric(*rest)
        if not rest and space in COLUMNS:
            return _column_value(space)
        if not rest and "" in self._vocabulary.splits(first):
            return _metric(first, "")
        raise self._unknown(".".join((first, *rest)), parts)

    def _metric(self, name: str, split: str = "") -> _Value:
        splits = self._vocabulary.splits(name)
        if split in splits:
            return _metric(name, split)
        if splits:
            raise self._splits_only(name, split, splits)
        raise InvalidSelection(
            f"No version has a metric `{name}`.",
            how=did_you_mean(name, list(self._vocabulary.metrics())),
            selection=self._text,
            name=name,
        )

    def _splits_only(self, name: str, split: str, splits: Sequence[str]) -> InvalidSelection:
        ways = " or ".join(f"metric.'{name}'.'{s}'" if s else name for s in splits[:4])
        part = f"for split `{split}`" if split else "for the whole data set"
        return InvalidSelection(
            f"Metric `{name}` was not measured {part}.",
            how=f"Write {ways}.",
            selection=self._text,
            name=name,
        )

    def _unknown(self, name: str, parts: Sequence[Any]) -> InvalidSelection:
        if len(parts) == 1 and (splits := self._vocabulary.splits(name)):
            return self._splits_only(name, "", splits)
        known = [*COLUMNS, *self._vocabulary.metrics()]
        how = did_you_mean(name, known)
        quoted = len(parts) == 1 and parts[0].args.get("quoted")
        if quoted or (len(parts) == 1 and not self._sorts and not how.startswith("Did")):
            how = f"For the text, write '{name}' in single quotes. {how}"
        elif len(parts) > 1:
            how = "Write tag.KEY, metric.'name' or metric.'name'.'split'."
        return InvalidSelection(
            f"Unknown column or metric `{name}`.", how=how, selection=self._text, name=name
        )

    # Errors

    def _refused(self, node: exp.Expr) -> InvalidSelection:
        return self._error(
            f"`{node.sql()[:80]}` is not part of the language.",
            "It knows comparisons, in, between, like, is null, and, or, not, arithmetic, and "
            "lower, upper, length, abs, coalesce.",
        )

    def _error(self, why: str, how: str = "") -> InvalidSelection:
        shown = self._text if len(self._text) <= 200 else self._text[:200] + "..."
        return InvalidSelection(f"Cannot select by `{shown}`.", why, how, selection=self._text)


_UNDERSTOOD = {"this", "expression", "expressions", "low", "high", "negate", "table", "db"}
"""Arguments of a condition that its compiler looks at."""

_TESTS: dict[str, Callable[[Any, Any], Any]] = {
    "EQ": lambda a, b: a == b,
    "NEQ": lambda a, b: a != b,
    "LT": lambda a, b: a < b,
    "LTE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GTE": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / func.nullif(b, literal(0.0, Double())),
}


def _text(value: str) -> _Value:
    return _Value("text", literal(value, t.TEXT), constant=True)


@cache
def _dialect() -> type[Dialect]:
    """Plain SQL that says of a sort key that its nulls come first only where the text says so."""
    from sqlglot import Dialect

    class Selections(Dialect):
        NULL_ORDERING = "nulls_are_last"

    return Selections


def _reason(error: Exception) -> str:
    """The parser's first complaint, in our words."""
    details = getattr(error, "errors", None)
    if not details:
        said = str(error)
        return "It is empty." if said.startswith("No expression") else "A quote is not closed."
    said, at = str(details[0].get("description")), str(details[0].get("highlight") or "")
    before = str(details[0].get("start_context") or "").removeprefix("ORDER BY ")
    read = f"{before}{at}"[-SHOWN:].strip()
    if said == "Expecting )":
        return f"A `)` is missing after `{read}`."
    if said.startswith("Required"):
        return f"Something is missing beside the `{at}` of `{read}`."
    return f"`{at}` cannot stand " + (f"after `{before[-SHOWN:].strip()}`." if before else "first.")


# Where each name's value lies

_OWN_TEXTS = (
    *("kind", "task", "phase", "phase_rule", "architecture", "license", "created_at", "source"),
)


def _column_value(name: str) -> _Value:
    v = t.versions.c
    if name == "version":
        return _Value("number", v.number)
    if name in _OWN_TEXTS:
        return _Value("text", v[name])
    if name == "run":
        return _Value("text", v.run_id)
    if name == "latest":
        other = t.versions.alias("other")
        newest = (
            select(other.c.id)
            .where(other.c.entry_id == v.entry_id, other.c.removed_at.is_(None))
            .order_by(other.c.number.desc())
            .limit(1)
            .scalar_subquery()
        )
        return _Value("bool", v.id == newest)
    if name == "alias":
        return _Value(
            "text",
            literal(None, t.TEXT),
            inner=t.aliases.c.alias,
            link=v.id,
            lookup=lambda test: select(t.aliases.c.version_id).where(test).correlate(None),
            many=True,
        )
    if name == "base":
        base = t.versions.alias("based_on")
        chosen = select(base.c.id).join(t.entries, t.entries.c.id == base.c.entry_id)
        value = select(t.entries.c.name).join(base, base.c.entry_id == t.entries.c.id)
        return _Value(
            "text",
            value.where(base.c.id == v.base_id).correlate(t.versions).scalar_subquery(),
            inner=t.entries.c.name,
            link=v.base_id,
            lookup=lambda test: chosen.where(test).correlate(None),
        )
    own: dict[str, tuple[Kind, ColumnElement[Any], ColumnElement[Any], ColumnElement[Any]]] = {
        "name": ("text", t.entries.c.name, t.entries.c.id, v.entry_id),
        "method": ("text", t.runs.c.method, t.runs.c.id, v.run_id),
        "digest": ("text", t.manifests.c.digest, t.manifests.c.id, v.manifest_id),
        "parameters": ("number", t.manifests.c.parameters, t.manifests.c.id, v.manifest_id),
        "bytes": ("number", t.manifests.c.bytes, t.manifests.c.id, v.manifest_id),
    }
    kind, column, key, link = own[name]
    return _Value(
        kind,
        select(column).where(key == link).correlate(t.versions).scalar_subquery(),
        inner=column,
        link=link,
        lookup=lambda test: select(key).where(test).correlate(None),
    )


def _tag(key: str) -> _Value:
    v, tag = t.versions.c, t.tags.c
    here = select(tag.value).where(tag.version_id == v.id, tag.key == key)
    return _Value(
        "tag",
        here.correlate(t.versions).scalar_subquery(),
        number=here.with_only_columns(tag.number).correlate(t.versions).scalar_subquery(),
        inner=tag.value,
        inner_number=tag.number,
        link=v.id,
        lookup=lambda test: select(tag.version_id).where(tag.key == key, test).correlate(None),
    )


def _metric(name: str, split: str) -> _Value:
    v, m = t.versions.c, t.metrics.c
    chosen = (m.name == name) & (m.split == split)
    here = select(m.value).where(m.version_id == v.id, chosen).correlate(t.versions)
    return _Value(
        "number",
        here.scalar_subquery(),
        inner=m.value,
        link=v.id,
        lookup=lambda test: select(m.version_id).where(chosen, test).correlate(None),
    )
