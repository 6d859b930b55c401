"""`zoo export-zoo`."""

from __future__ import annotations

import click


@click.command("export-zoo")
def command() -> None:
    """Pack a zoo into a bundle."""
    raise NotImplementedError
