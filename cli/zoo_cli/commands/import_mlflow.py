"""`zoo import-mlflow`: take the models of an MLflow registry in."""

from __future__ import annotations

import click

from zoo_cli.output import Column, json_option, say, show_json, show_table
from zoo_cli.session import Session, pass_session


@click.command("import-mlflow")
@click.argument("uri")
@click.option("--model", "models", multiple=True, metavar="GLOB", help="Only these; repeatable.")
@click.option(
    "--stage", "stages", multiple=True, metavar="STAGE", help="Only versions in it; repeatable."
)
@click.option(
    "--alias", "aliases", multiple=True, metavar="ALIAS", help="Only versions with it; repeatable."
)
@click.option(
    "--artifacts-root",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIRECTORY",
    help="What `mlflow-artifacts:/` stands for on this machine.",
)
@click.option("--dry-run", is_flag=True, help="Find the weights; write nothing.")
@json_option
@pass_session
def command(
    session: Session,
    uri: str,
    models: tuple[str, ...],
    stages: tuple[str, ...],
    aliases: tuple[str, ...],
    artifacts_root: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take the registered models of MLflow in.

    Their aliases, tags, parameters and metrics come along. URI is MLflow's database, as a file
    or a URL, or the directory of its file store. It is only read, and MLflow need not be
    installed. A version whose weights cannot be had is skipped, with the reason. Run it again
    to bring what is new and to move aliases.

    \b
        zoo import-mlflow mlflow.db
        zoo import-mlflow postgresql://user@host/mlflow --alias champion
        zoo import-mlflow ./mlruns --model 'qwen-*' --stage Production
    """
    with session.open(create=True) as registry:
        found = registry.import_mlflow(
            uri,
            models=models,
            stages=stages,
            aliases=aliases,
            artifacts_root=artifacts_root,
            dry_run=dry_run,
            progress=session.progress,
        )
    if as_json:
        show_json([one.as_dict() for one in found])
        return
    show_table(
        [Column(title) for title in ("model", "version", "outcome", "ref", "reason")],
        [[o.model, str(o.version), o.outcome, o.ref or "", o.reason or ""] for o in found],
    )
    count = {o: sum(one.outcome == o for one in found) for o in ("imported", "updated", "skipped")}
    say(", ".join(f"{n} {outcome}" for outcome, n in count.items()))
