"""`zoo push`."""

from __future__ import annotations

import click


@click.command("push")
def command() -> None:
    """Put a version on a hub."""
    raise NotImplementedError
