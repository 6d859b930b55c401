"""Turns errors into words and exit codes; the only place that prints one."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from zoo.errors import ZooError
from zoo_cli.session import Session


@contextmanager
def reported(ctx: click.Context) -> Iterator[None]:
    """Print what went wrong, why and how to mend it, and exit with the error's code.

    Exit codes are those of `zoo.errors`; 1 is an error nobody foresaw. With `-v` the traceback
    comes first. Errors of click (wrong usage, 2) pass through.
    """
    session = ctx.ensure_object(Session)
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except ZooError as e:
        _show(e, session)
        ctx.exit(e.exit_code)
    except Exception as e:
        if isinstance(e, OSError) and e.errno == errno.EPIPE:
            raise
        how = "" if session.verbose else "Run `zoo -v ...` again to see where it happened."
        what = f"{type(e).__name__}: {e}".rstrip(": ")
        unforeseen = ZooError(what, "", how)
        unforeseen.__traceback__ = e.__traceback__
        _show(unforeseen, session)
        ctx.exit(unforeseen.exit_code)


def _show(error: ZooError, session: Session) -> None:
    if session.verbose:
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True)
    if session.as_json:
        click.echo(json.dumps({"error": as_dict(error)}, ensure_ascii=False, default=str), err=True)
        return
    click.echo(click.style("error: ", fg="red", bold=True) + error.what.rstrip(), err=True)
    for problem in _problems(error):
        click.echo(f"  - {problem}", err=True)
    for label, text in (("why", error.why), ("how", error.how)):
        if text:
            click.echo(click.style(f"  {label}: ", bold=True) + text, err=True)


def _problems(error: ZooError) -> list[str]:
    """The list an error carries, unless its sentence holds it already."""
    problems = error.facts.get("problems", ())
    return [str(p) for p in problems if str(p) not in str(error)]


def as_dict(error: ZooError) -> dict[str, Any]:
    """The error as data: its type, exit code, sentences and facts."""
    return {
        "type": type(error).__name__,
        "exit_code": error.exit_code,
        "what": error.what,
        "why": error.why,
        "how": error.how,
        **{k: v for k, v in error.facts.items() if k not in ("what", "why", "how", "type")},
    }
