"""`zoo methods`: what can merge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import complete_method
from zoo_cli.output import Column, json_option, show_fields, show_json, show_table, title
from zoo_cli.parameters import show_parameters
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from zoo.contract import Method
    from zoo.plugins import Plugins


@click.command("methods")
@click.argument("name", required=False, shell_complete=complete_method)
@json_option
@pass_session
def command(session: Session, name: str | None, as_json: bool) -> None:
    """List the merge methods, or explain one and its parameters."""
    plugins = session.plugins
    if name is None:
        methods = [plugins.methods[n] for n in sorted(plugins.methods)]
        if as_json:
            show_json([_summary(m, plugins) for m in methods])
        else:
            _show_all(methods, plugins)
        return
    method = plugins.method(name)
    if as_json:
        show_json(
            {
                **_summary(method, plugins),
                "doc": _doc(method),
                "parameters": method.parameters.model_json_schema()["properties"],
                "mergekit": [{"name": m.name, "sets": dict(m.sets)} for m in method.mergekit],
                "code_hash": method.code_hash,
            }
        )
    else:
        _show_one(method, plugins)


def _summary(method: Method, plugins: Plugins) -> dict[str, Any]:
    return {
        "name": method.name,
        "version": method.version,
        "summary": method.summary,
        "needs": method.needs,
        "space": method.space,
        "base": method.base,
        "min_experts": method.min_experts,
        "max_experts": method.max_experts,
        "ordered": method.ordered,
        "deterministic": method.deterministic,
        "replay": method.replay,
        "plugin": plugins.origin(method.name)._asdict(),
    }


def _show_all(methods: list[Method], plugins: Plugins) -> None:
    show_table(
        [
            Column("method", style="bold", whole=True),
            Column("version", whole=True),
            Column("base", whole=True),
            Column("experts", whole=True),
            Column("what it does"),
            Column("plugin", style="dim", whole=True),
        ],
        [
            [
                m.name,
                m.version,
                m.base,
                _experts(m),
                m.summary,
                plugins.origin(m.name).distribution,
            ]
            for m in methods
        ],
    )


def _show_one(method: Method, plugins: Plugins) -> None:
    origin = plugins.origin(method.name)
    title(f"{method.name} {method.version}", f"{origin.distribution} {origin.version}")
    click.echo(f"\n{_doc(method)}\n")
    show_fields(
        [
            ("base", method.base),
            ("experts", _experts(method) + (", in order" if method.ordered else ", in any order")),
            ("works on", "deltas (expert minus base)" if method.space == "delta" else "weights"),
            ("needs", method.needs),
            (
                "replay",
                "exact anywhere"
                if method.replay == "exact"
                else f"exact on one platform, within {method.tolerance:g} elsewhere",
            ),
        ]
    )
    show_parameters(method)


def _experts(method: Method) -> str:
    if method.max_experts == method.min_experts:
        return str(method.min_experts)
    return (
        f"{method.min_experts} or more"
        if method.max_experts is None
        else (f"{method.min_experts} to {method.max_experts}")
    )


def _doc(method: Method) -> str:
    import inspect

    return inspect.getdoc(method.function) or ""
