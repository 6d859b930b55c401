"""`zoo moe`."""

from __future__ import annotations

import click


@click.command("moe")
def command() -> None:
    """Build mixtures of experts."""
    raise NotImplementedError
