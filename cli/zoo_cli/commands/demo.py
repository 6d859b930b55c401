"""`zoo demo`: the whole pipeline on real upscalers, in under a minute."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import VerificationFailed
from zoo_cli.output import Column, json_option, say, show_json, show_table
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from zoo.engine.verify import Verdict
    from zoo_cli.upscaler_demo import Board, Made

PICTURE = "zoo-demo.png"


@click.command("demo")
@click.option(
    "--example",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Directory of the upscalers. [default: the one that came with zoo]",
)
@json_option
@pass_session
@click.pass_context
def command(ctx: click.Context, session: Session, example: str | None, as_json: bool) -> None:
    """Register real upscalers, merge them four ways, and compare.

    Five published models go into the registry with their measured quality; a query selects among
    them; ten merges are stored, measured and ranked; the best is derived again from its
    parents, byte for byte. Leaves registry.db, registry.store and zoo-demo.png behind. Run again,
    it does only what is missing.
    """
    from zoo_cli import upscaler_demo as demo

    start = time.monotonic()
    directory = demo.find_example(example)
    if str(directory) not in session.plugins_dirs:
        session.plugins_dirs = (*session.plugins_dirs, str(directory))
    demo.check_ready(session.plugins)
    with session.open(create=True) as registry:
        heading("Register five published upscalers, with their PSNR at five levels of JPEG noise")
        made = tell(demo.register_all(registry, directory))
        heading("Select the experts that do well at JPEG quality 70")
        say(f'  zoo ls --where "{demo.SELECTION}"')
        selected = [v.ref for v in registry.select(demo.SELECTION)]
        say("  " + ", ".join(selected))
        heading("Merge them: four methods, each with several settings")
        made += tell(demo.merge_all(registry, directory))
        board = demo.board(made)
        best = board.best(merged=True)
        specialist = board.best(merged=False, level="q30")
        models = {
            "base": board.find(demo.BASE),
            f"{short(specialist)}, an expert": specialist,
            f"{short(best)}, a merge": best,
        }
        demo.picture(registry, models, Path(PICTURE))
        verdict = registry.verify(best.version.ref, replay=True)
        lineage = registry.lineage(best.version.ref)
    report: dict[str, Any] = {
        "selection": {"where": demo.SELECTION, "selected": selected},
        "leaderboard": [as_dict(m) for m in board.rows],
        "best": best.version.ref,
        "lineage": lineage.as_dict(),
        "verdict": verdict.as_dict(),
        "picture": PICTURE,
        "next": next_steps(zoo_command(session), best),
        "seconds": round(time.monotonic() - start, 1),
    }
    if as_json:
        show_json(report)
    else:
        heading("Leaderboard: PSNR in dB, higher is better, * marks the best of a column")
        show_board(board)
        say("\n".join(conclusions(board)))
        heading("Lineage of the best merge")
        click.echo(lineage.as_tree())
        heading("The same merge, made again from its parents")
        click.echo(told(verdict, best))
        heading("Picture: clean and as a poor JPEG, through bicubic, base, expert and merge")
        click.echo(PICTURE)
        heading(f"Done in {report['seconds']:.0f} s. Worth trying next")
        click.echo("\n".join(report["next"]))
    if not verdict.ok:
        ctx.exit(VerificationFailed.exit_code)


def heading(text: str) -> None:
    say("\n" + click.style(text, bold=True))


def tell(made: Iterable[Made]) -> list[Made]:
    """Name each version as it is made."""
    listed = []
    for m in made:
        listed.append(m)
        say(
            f"  {m.version.ref:<28}{m.scores['mean']:.2f} dB  {m.how}"
            + ("  (made before)" if m.reused else "")
        )
    return listed


def show_board(board: Board) -> None:
    leaders = board.leaders()
    columns = [
        Column("version", style="bold", whole=True),
        Column("kind"),
        *(Column(c, right=True, whole=True) for c in leaders),
    ]
    rows = []
    for m in board.rows:
        scores = [f"{'*' * (m.scores[c] == best)}{m.scores[c]:.2f}" for c, best in leaders.items()]
        rows.append([m.version.ref, m.version.kind, *scores])
    show_table(columns, rows)


def conclusions(board: Board) -> list[str]:
    """The best merge against each published model, by its mean over the levels."""
    best = board.best(merged=True)
    lines = [f"{best.version.ref} against each published model, mean over all levels:"]
    for m in board.rows:
        if m.version.kind != "merge":
            gain = best.scores["mean"] - m.scores["mean"]
            lines.append(f"  {m.version.ref:<28}{gain:+.2f} dB")
    return lines


def told(verdict: Verdict, best: Made) -> str:
    differ = len(verdict.mismatched)
    if not verdict.ok:
        return f"{best.version.ref}: {differ} of {verdict.checked} tensors differ"
    return f"{best.version.ref}: all {verdict.checked} tensors agree, byte for byte"


def zoo_command(session: Session) -> str:
    """How to call this zoo on this registry: by its path where the shell does not find it."""
    program, found = Path(sys.argv[0]), shutil.which("zoo")
    is_found = found is not None and Path(found).resolve() == program.resolve()
    called = "zoo" if is_found or program.name != "zoo" else shlex.quote(str(program))
    registry = session.registry_url
    return called if registry == "registry.db" else f"{called} --registry {shlex.quote(registry)}"


def next_steps(zoo: str, best: Made) -> list[str]:
    """Five commands that work as they stand."""
    from zoo_cli.upscaler_demo import BASE, SELECTION

    return [
        f"{zoo} ls --where \"kind = 'merge'\" --order-by 'psnr desc' --limit 3",
        f"{zoo} diff upscaler-noise1 {best.version.ref}",
        f'{zoo} merge --method ties --where "{SELECTION}" --base {BASE} --set lambda=0.1 --as mine',
        f"{zoo} lineage upscaler-noise1 --descendants",
        f"{zoo} query 'SELECT method, count(*) AS merges FROM runs GROUP BY method'",
    ]


def short(made: Made) -> str:
    return made.version.name.removeprefix("upscaler-")


def as_dict(made: Made) -> dict[str, Any]:
    return {**made.version.as_dict(), "how": made.how, "reused": made.reused, "psnr": made.scores}
