"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from zoo_cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


def complete_reference(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of entries, after `@` versions and aliases, and files where a path is begun."""
    if incomplete.startswith((".", "/", "~")):
        return complete_path(ctx, param, incomplete)
    url = ctx.find_root().params.get("registry") or "registry.db"
    name, at, _ = incomplete.partition("@")
    try:
        with Session(registry_url=url).open() as registry:
            if at:
                versions = registry.select(f"name = '{name}'", "version")
                known = [v.ref for v in versions]
                known += [f"{name}@{alias}" for v in versions for alias in v.aliases]
            else:
                known = sorted({v.name for v in registry.select()})
    except Exception:  # a shell must never see an error while completing
        return []
    return [CompletionItem(k) for k in known if k.startswith(incomplete)]


def complete_path(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files and directories, for what may also be a URL."""
    return [CompletionItem(incomplete, type="file")]


def complete_method(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of merge methods, those of plugins too, each with its first line."""
    import warnings

    session = Session(plugins_dirs=ctx.find_root().params.get("plugins_dirs") or ())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a shell would show them between its words
            methods = session.plugins.methods
    except Exception:  # a shell must never see an error while completing
        return []
    return [
        CompletionItem(name, help=method.summary)
        for name, method in sorted(methods.items())
        if name.startswith(incomplete)
    ]


def reference_argument(name: str) -> Callable[[F], F]:
    """`name`, `name@3`, `name@alias` or `name@sha256:abcd...`; completed by name."""
    return click.argument(name, shell_complete=complete_reference)


def references_argument(command: F) -> F:
    """Any number of references, of a command that takes a selection instead as well."""
    return click.argument("refs", metavar="[REF]...", nargs=-1, shell_complete=complete_reference)(
        command
    )


def check_chosen(refs: Sequence[str], asked: Mapping[str, Any], message: str) -> None:
    """Raise a usage error unless models are named, or selected: one of the two."""
    selecting = any(asked[key] is not None for key in ("where", "order_by", "limit"))
    if bool(refs) == selecting:
        raise click.UsageError(message)


def pair(text: str) -> tuple[str, str]:
    """Read `key=value`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"`{text}` is not of the form key=value.")
    return key, value


def number_pair(text: str) -> tuple[str, float]:
    """Read `key=number`, `key/split=number`."""
    key, value = pair(text)
    try:
        return key, float(value)
    except ValueError:
        raise click.BadParameter(f"`{text}`: `{value}` is not a number.") from None


def yaml_pair(text: str) -> tuple[str, Any]:
    """Read `key=value` with a value in YAML: a number, a boolean, a word, a list."""
    import yaml

    key, value = pair(text)
    try:
        return key, _with_exponents(yaml.safe_load(value))
    except yaml.YAMLError as e:
        raise click.BadParameter(f"`{text}`: the value is not YAML ({e}).") from None


def _with_exponents(value: Any) -> Any:
    """YAML 1.1 takes `1e-3` for a word; everybody who writes it means a number."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    if isinstance(value, list):
        return [_with_exponents(v) for v in value]
    return value


def tag_option(command: F) -> F:
    return click.option(
        "--tag", "tags", type=pair, metavar="K=V", multiple=True, help="Tag to set; repeatable."
    )(command)


def metric_option(command: F) -> F:
    return click.option(
        "--metric",
        "metrics",
        type=number_pair,
        metavar="K=V",
        multiple=True,
        help="Measured value, as name=0.61 or name/split=0.61; repeatable.",
    )(command)


def about_options(command: F) -> F:
    """`--task` and `--phase`, for commands that describe a version."""
    command = click.option("--phase", metavar="LABEL", help="Phase, asserted: `IV-B`.")(command)
    return click.option("--task", metavar="NAME", help="Task it is for: `math`.")(command)


def base_option(command: F) -> F:
    """--base, of a command that takes experts."""
    return click.option(
        "--base",
        metavar="REF",
        shell_complete=complete_reference,
        help="Version or path the experts were fine-tuned from.",
    )(command)


def expert_option(verb: str) -> Callable[[F], F]:
    """--expert, of a command that does what the verb says with them."""
    return click.option(
        "--expert",
        "experts",
        metavar="REF",
        shell_complete=complete_reference,
        multiple=True,
        help=f"Version or path to {verb}; repeatable, in order. Or select them with --where.",
    )


def selection_options(command: F) -> F:
    """`--where`, `--order-by` and `--limit`."""
    command = click.option(
        "--limit", type=click.IntRange(min=0), metavar="N", help="At most so many."
    )(command)
    command = click.option(
        "--order-by", metavar="COLUMNS", help='Columns to sort by: "accuracy desc, name".'
    )(command)
    return click.option(
        "--where",
        metavar="EXPRESSION",
        help="SQL expression over columns, tags and metrics: "
        "\"kind = 'expert' and accuracy > 0.5\".",
    )(command)


def threads_option(command: F) -> F:
    return click.option(
        "--threads", type=click.IntRange(min=1), metavar="N", help="All cores by default."
    )(command)


def sample_options(command: F) -> F:
    """`--samples`, `--batch`, `--seed` and `--device`: which examples a model is run on, where."""
    for option in (
        click.option(
            "--device",
            metavar="NAME",
            default="cpu",
            show_default=True,
            help="Where to run: `cpu`, `cuda`.",
        ),
        click.option(
            "--seed", type=int, metavar="N", default=0, show_default=True, help="Of all draws."
        ),
        click.option(
            "--batch",
            type=click.IntRange(min=1),
            metavar="N",
            default=256,
            show_default=True,
            help="Examples per batch.",
        ),
        click.option(
            "--samples",
            type=click.IntRange(min=1),
            metavar="N",
            help="Examples, drawn by the seed; all by default.",
        ),
    ):
        command = option(command)
    return command
