"""`zoo extract-lora`."""

from __future__ import annotations

import click


@click.command("extract-lora")
def command() -> None:
    """Make an adapter of the difference of two models."""
    raise NotImplementedError
