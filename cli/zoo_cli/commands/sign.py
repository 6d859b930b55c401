"""`zoo sign`."""

from __future__ import annotations

import click


@click.command("sign")
def command() -> None:
    """Sign a version."""
    raise NotImplementedError
