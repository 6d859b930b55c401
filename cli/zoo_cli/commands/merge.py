"""`zoo merge`: make a model of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from zoo.digest import json_digest
from zoo.errors import NotFound
from zoo_cli.arguments import (
    about_options,
    base_option,
    complete_method,
    expert_option,
    selection_options,
    tag_option,
    threads_option,
    yaml_pair,
)
from zoo_cli.output import json_option, show_fields, show_json, title
from zoo_cli.session import Session, pass_session
from zoo_cli.units import short_digest, size, with_short_commits
from zoo_cli.versions import show_version

if TYPE_CHECKING:
    from zoo.registry import Registry


@click.command("merge")
@click.argument("recipe", required=False, type=click.Path())
@click.option(
    "--method",
    metavar="NAME",
    shell_complete=complete_method,
    help="Merge method; `zoo methods` lists them.",
)
@expert_option("merge")
@selection_options
@base_option
@click.option(
    "--set",
    "parameters",
    type=yaml_pair,
    metavar="K=V",
    multiple=True,
    help="Parameter of the method, the value in YAML: density=0.2, weight=[1, 2]; repeatable.",
)
@click.option("--seed", type=int, metavar="N", help="Seed of methods that draw.  [default: 0]")
@click.option("--as", "name", metavar="NAME", help="Entry to store the result under.")
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Directory to write the result to; without --as, nothing is stored in the registry.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, predict the cost, write nothing.")
@click.option(
    "--memory",
    metavar="SIZE",
    default="1GiB",
    show_default=True,
    help="Memory the merge may use.",
)
@click.option(
    "--rehash",
    is_flag=True,
    help="Hash all inputs. Without --as, digests of files that have not changed since they were "
    "hashed are remembered, in $ZOO_CACHE_DIR or the user's cache; an empty value turns that off.",
)
@threads_option
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="`cpu` or `cuda`.")
@about_options
@click.option(
    "--license", metavar="ID", help="Licence of the result.  [default: worked out of the parents']"
)
@tag_option
@json_option
@pass_session
def command(
    session: Session,
    /,
    recipe: str | None,
    experts: tuple[str, ...],
    parameters: tuple[tuple[str, Any], ...],
    seed: int | None,
    tags: tuple[tuple[str, str], ...],
    dry_run: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Merge models, by a recipe or by a method and a query.

    A mergekit configuration is a recipe as it stands. The result is a new version whose run
    records all that made it; an interrupted merge resumes where it was when run again.

    \b
        zoo merge --method ties --where "kind = 'expert' and base = 'qwen' and accuracy > 0.5" \\
            --set density=0.2 --as qwen-mathcode
        zoo merge recipe.yaml --as soup --dry-run
    """
    if recipe is None and choices["method"] is None:
        raise click.UsageError("Give a RECIPE file or --method.")
    if not (choices["name"] or choices["out"] or dry_run):
        raise click.UsageError("Name the result with --as NAME, or write it to --out DIR.")
    asked: dict[str, Any] = {**choices, "tags": dict(tags)}
    if experts:
        asked["experts"] = list(experts)
    if parameters:
        asked["parameters"] = dict(parameters)
    if seed is not None:
        asked["seed"] = seed
    with session.open(create=bool(choices["name"]), lazy=not choices["name"]) as registry:
        if dry_run:
            plans = [(name, plan.as_dict()) for name, plan in registry.plans(recipe, **asked)]
            if as_json:
                each = [{"name": name, **plan} for name, plan in plans]
                show_json({"stages": each} if len(plans) > 1 else plans[0][1])
            else:
                stages = {json_digest(p["recipe"]): name for name, p in plans if name}
                for name, plan in plans:
                    _show_plan(plan, registry, name, stages)
            return
        version = registry.merge(recipe, progress=session.progress, **asked)
    if version is not None:
        show_version(version, as_json)
    elif as_json:
        show_json({"out": choices["out"]})
    else:
        click.echo(choices["out"])


def _show_plan(
    plan: dict[str, Any], registry: Registry, stage: str | None, stages: Mapping[str, str]
) -> None:
    """What would be merged, and at what cost.

    Args:
        stages: names of stages by the digest of what they will make, which nothing has yet.
    """
    recipe = plan["recipe"]

    def named(digest: str) -> str:
        if name := stages.get(digest) or plan["models"].get(digest):
            return with_short_commits(name)
        try:
            version = registry.catalog.by_digest(digest)
        except NotFound:  # models given by path need no registry
            version = None
        return version.ref if version else short_digest(digest)

    title("would merge", "nothing was written")
    show_fields(
        [
            ("stage", stage),
            ("method", f"{recipe['method']} {recipe['method_version']}"),
            ("experts", "\n".join(named(d) for d in recipe["experts"])),
            ("slices", "\n".join(_slices(recipe["slices"] or [], named)) or None),
            ("base", named(recipe["base"]) if recipe["base"] else None),
            ("parameters", "\n".join(f"{k}={v}" for k, v in recipe["parameters"].items())),
            ("seed", str(recipe["seed"])),
            ("tensors", f"{plan['tensors']}: {plan['merged']} merged, {plan['carried']} carried"),
            ("reads", size(plan["bytes_read"])),
            ("writes", size(plan["bytes_written"])),
            ("peak memory", size(plan["peak_memory"])),
            ("time", f"about {plan['seconds']:.0f} s"),
            ("notes", with_short_commits("\n".join(plan["notes"]))),
        ]
    )


def _slices(slices: list[dict[str, Any]], named: Callable[[str], str]) -> Iterator[str]:
    """A line for each slice: the layers it becomes, what they are made of, and how."""
    at: dict[str | None, int] = {}

    def layers(found: list[int] | None) -> str:
        return f"[{found[0]}-{found[1] - 1}]" if found else ""

    for one in slices:
        module, base = one["module"], one["base"]
        first, stop = [*one["sources"], base][0]["layers"] or (0, 0)
        start = at.get(module, 0)
        at[module] = end = start + stop - first
        made = f"{start}-{end - 1}" if end > start else "all"
        models = " + ".join(named(s["model"]) + layers(s["layers"]) for s in one["sources"])
        origin = f" on {named(base['model'])}{layers(base['layers'])}" if base else ""
        values = ", ".join(f"{k}={v}" for k, v in one["parameters"].items())
        yield f"{module or 'layers'} {made:>5} = {models}{origin}  {values}".rstrip()
