"""`zoo pull`."""

from __future__ import annotations

import click


@click.command("pull")
def command() -> None:
    """Bring a model from a hub."""
    raise NotImplementedError
