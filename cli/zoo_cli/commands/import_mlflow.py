"""`zoo import-mlflow`."""

from __future__ import annotations

import click


@click.command("import-mlflow")
def command() -> None:
    """Take an MLflow registry in."""
    raise NotImplementedError
