"""`zoo verify`: are the bytes those on record, those a recipe makes again, those signed?"""

from __future__ import annotations

from pathlib import Path

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
@click.option(
    "--signature",
    type=click.Path(),
    metavar="FILE",
    help="Compare with what was signed; REF may then be an exported directory.",
)
@click.option(
    "--key", type=click.Path(), metavar="PUB.pem", help="Public key that is trusted to have signed."
)
@click.option(
    "--memory",
    metavar="SIZE",
    default="1GiB",
    show_default=True,
    help="Memory a replay may use.",
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
    signature: str | None,
    key: str | None,
    memory: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare a version's bytes with the digests on record.

    With --replay, or --sample, derive it again from its parents. Exit code 12 when any tensor
    differs.

    With --signature and --key, compare the files and the lineage with what `zoo sign` signed.

    \b
        zoo verify both
        zoo verify both --replay
        zoo verify both --signature both@1.sig --key key.pub.pem
    """
    again = replay or sample is not None
    if (signature is None) != (key is None) or (signature and again):
        raise click.UsageError("--signature needs --key, and goes without --replay and --sample.")
    if signature is not None and key is not None:
        _compare_with_signature(ctx, session, ref, signature, key, as_json)
        return
    with session.open() as registry:
        verdict = registry.verify(
            ref,
            replay=again,
            sample=sample,
            memory=memory,
            threads=threads,
            progress=session.progress,
        )
    if as_json:
        show_json(verdict.as_dict())
    elif verdict.ok:
        done = "derived again from its parents" if again else "read"
        kind = f" ({verdict.replay_class})" if again and verdict.replay_class else ""
        agree = f"{len(verdict.near)} within the method's tolerance, the others to the byte"
        say(
            click.style("ok  ", fg="green", bold=True)
            + f"{ref}: {verdict.checked} tensors {done}, "
            + (f"{agree if verdict.near else 'all bytes as recorded'}{kind}.")
        )
        for note in verdict.notes:
            say(f"note: {note}")
    if not verdict.ok:
        if as_json:
            ctx.exit(VerificationFailed.exit_code)
        raise VerificationFailed(
            f"{len(verdict.mismatched)} of {verdict.checked} tensors of `{ref}` differ "
            "from what was recorded.",
            "Differs: " + ", ".join(f"`{name}`" for name in verdict.mismatched[:10]) + ".",
            "".join(f"Note that {note}. " for note in verdict.notes)
            + "`zoo fsck` tells whether the store is damaged.",
            mismatched=list(verdict.mismatched),
        )


def _compare_with_signature(
    ctx: click.Context, session: Session, ref: str, signature: str, key: str, as_json: bool
) -> None:
    with session.open() as registry:
        verdict = registry.verify_signature(ref, signature, key)
    if as_json:
        show_json(verdict.as_dict())
        if not verdict.ok:
            ctx.exit(VerificationFailed.exit_code)
        return
    if not verdict.ok:
        differences = {
            "changed": verdict.changed,
            "missing": verdict.missing,
            "not signed": verdict.extra,
            "signed with another lineage": verdict.lineage,
        }
        told = "; ".join(
            f"{what}: " + ", ".join(f"`{name}`" for name in names[:10])
            for what, names in differences.items()
            if names
        )
        raise VerificationFailed(
            f"`{ref}` is not what was signed in `{signature}`.",
            f"{told[:1].upper()}{told[1:]}.",
            "Get the directory again from whoever signed it."
            if Path(ref).is_dir()
            else "`zoo fsck` tells whether the store is damaged.",
            changed=list(verdict.changed),
            missing=list(verdict.missing),
            extra=list(verdict.extra),
            lineage=list(verdict.lineage),
        )
    lineage = ", and its lineage" if verdict.said is not None else ""
    say(
        click.style("ok  ", fg="green", bold=True)
        + f"{ref}: {verdict.checked} files{lineage}, as signed by {key}."
    )
