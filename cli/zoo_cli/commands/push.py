"""`zoo push`: put a version on a hub."""

from __future__ import annotations

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import json_option, show_fields, show_json, title
from zoo_cli.session import Session, pass_session


@click.command("push")
@reference_argument("ref")
@click.argument("repo", metavar="ORG/NAME")
@click.option(
    "--revision", metavar="BRANCH", default="main", show_default=True, help="Branch to commit to."
)
@click.option("--create", is_flag=True, help="Make the repository if it is not there.")
@click.option("--private", is_flag=True, help="Make it private; goes with --create.")
@json_option
@pass_session
def command(
    session: Session, ref: str, repo: str, revision: str, create: bool, private: bool, as_json: bool
) -> None:
    """Put a version on a hub, as one commit.

    The commit has the weights as stored, configuration, tokenizer, a card with the lineage, and of
    a merge the recipe. Files that are there with the same bytes are not sent again. The token is
    that of `hf auth login`, or HF_TOKEN.

    \b
        zoo push qwen-mathcode me/qwen-mathcode --create --private
    """
    if repo.count("/") != 1:
        raise click.BadParameter(f"`{repo}` is not of the form ORG/NAME.")
    if private and not create:
        raise click.UsageError("--private goes with --create.")
    with session.open(create=False) as registry:
        pushed = registry.push(ref, repo, revision=revision, create=create, private=private)
    if as_json:
        show_json(
            {
                "ref": pushed.version.ref,
                "repo": pushed.repo,
                "revision": pushed.revision,
                "commit": pushed.commit,
                "url": pushed.url,
                "sent": pushed.sent,
                "removed": pushed.removed,
                "same": pushed.same,
            }
        )
        return
    title(pushed.version.ref, f"on {pushed.repo}")
    show_fields(
        [
            ("commit", pushed.commit),
            ("url", pushed.url),
            ("sent", ", ".join(pushed.sent) or "nothing: all is there already"),
            ("removed", ", ".join(pushed.removed)),
            ("unchanged", ", ".join(pushed.same)),
        ]
    )
