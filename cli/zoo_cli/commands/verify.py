"""`zoo verify`: are the bytes those that were recorded, and does the recipe make them again?"""

from __future__ import annotations

import click

from zoo.errors import VerificationFailed
from zoo_cli.arguments import reference_argument, threads_option
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session


@click.command("verify")
@reference_argument("ref")
@click.option("--replay", is_flag=True, help="Merge again from the parents, and compare bytes.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replay N tensors only, chosen by digest.",
)
@threads_option
@json_option
@pass_session
@click.pass_context
def command(
    ctx: click.Context,
    session: Session,
    ref: str,
    replay: bool,
    sample: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare a version's bytes with the digests on record.

    With --replay, or --sample, derive it again from its parents. Exit code 12 when any tensor
    differs.
    """
    with session.open() as registry:
        verdict = registry.verify(
            ref,
            replay=replay or sample is not None,
            sample=sample,
            threads=threads,
            progress=session.progress,
        )
    again = replay or sample is not None
    if as_json:
        show_json(verdict.as_dict())
    elif verdict.ok:
        done = "derived again from its parents" if again else "read"
        kind = f" ({verdict.replay_class})" if again and verdict.replay_class else ""
        say(
            click.style("ok  ", fg="green", bold=True)
            + f"{ref}: {verdict.checked} tensors {done}, all bytes as recorded{kind}."
        )
    if not verdict.ok:
        if as_json:
            ctx.exit(VerificationFailed.exit_code)
        raise VerificationFailed(
            f"{len(verdict.mismatched)} of {verdict.checked} tensors of `{ref}` differ "
            "from what was recorded.",
            "Differs: " + ", ".join(f"`{name}`" for name in verdict.mismatched[:10]) + ".",
            "`zoo fsck` tells whether the store is damaged.",
            mismatched=list(verdict.mismatched),
        )
