"""`zoo import-zoo`."""

from __future__ import annotations

import click


@click.command("import-zoo")
def command() -> None:
    """Take a bundle in."""
    raise NotImplementedError
