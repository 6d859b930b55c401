"""`zoo check`."""

from __future__ import annotations

import click


@click.command("check")
def command() -> None:
    """Find what keeps models from being merged."""
    raise NotImplementedError
