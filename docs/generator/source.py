"""What Python source says of functions and classes: signatures, attributes, methods."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from typing import Any

from generator.markdown import code, fenced, prose, table


class Bare:
    """An annotation that prints as it was written, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(thing: Callable[..., Any], name: str, *, method: bool = False) -> str:
    """`name(args) -> result` as a Python block, one argument a line when it is long."""
    sig = inspect.signature(thing)
    parameters = [
        p.replace(annotation=Bare(p.annotation)) if isinstance(p.annotation, str) else p
        for p in list(sig.parameters.values())[int(method) :]
    ]
    result = sig.return_annotation
    if isinstance(result, str):
        result = Bare(result)
    flat = name + str(sig.replace(parameters=parameters, return_annotation=result))
    if len(flat) <= 88:
        return fenced(flat, "python")
    arguments: list[str] = []
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        arguments.append(str(p))
    arrow = "" if result is sig.empty else f" -> {result!r}"
    return fenced("\n".join([f"{name}(", *(f"    {a}," for a in arguments), f"){arrow}"]), "python")


def class_text(cls: type) -> str:
    """A class: its docstring, its attributes with the string under each, its public methods."""
    parts = [f"## {cls.__name__}", f"`{cls.__module__}.{cls.__name__}`", prose(cls.__doc__)]
    rows = [(code(n), code(a), d) for n, a, d in (*attributes(cls), *properties(cls))]
    if rows:
        parts.append(table(["attribute", "type", "meaning"], rows))
    for name, member in vars(cls).items():
        if name.startswith("_") or not inspect.isfunction(member):
            continue
        mark = " (abstract)" if getattr(member, "__isabstractmethod__", False) else ""
        parts += [
            f"### {cls.__name__}.{name}{mark}",
            signature(member, name, method=True),
            prose(_with_what_it_cites(member.__doc__ or "")),
        ]
    return "\n\n".join(p for p in parts if p)


def _with_what_it_cites(docstring: str) -> str:
    """A docstring that says "see `zoo.load`" goes on with what that public function says, or what
    `zoo.storage.register.register` says where there is only a module `zoo.storage.register`."""
    import zoo

    cited = re.search(r"; see `zoo\.(\w+)`", docstring)
    if cited is None:
        return docstring
    home = zoo if cited[1] in zoo.__all__ else import_module(f"zoo.{cited[1]}")
    target = getattr(home, cited[1], None)
    if target is None:
        return docstring
    rest = (inspect.getdoc(target) or "").partition("\n\n")[2]
    return inspect.cleandoc(docstring.replace(cited[0], "")) + "\n\n" + rest


def properties(cls: type) -> Iterator[tuple[str, str, str]]:
    """Name, type and docstring of each public property of a class."""
    for name, member in vars(cls).items():
        getter = getattr(member, "fget", None) or getattr(member, "func", None)
        if isinstance(member, property | cached_property) and not name.startswith("_"):
            result = str(inspect.signature(getter).return_annotation)
            yield name, result, " ".join((inspect.getdoc(getter) or "").split())


def attributes(cls: type) -> Iterator[tuple[str, str, str]]:
    """Name, annotation and the string literal below each annotated attribute of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.target.id.startswith("_"):
                continue
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            yield node.target.id, ast.unparse(node.annotation), text
