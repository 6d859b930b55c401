"""The page on `--json`."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from generator.markdown import fenced

KEYED_BY_DATA = {"gives", "metrics", "parameters", "tags", "timings", "methods"}
"""Maps whose keys are somebody's words."""

COMMANDS = """
zoo init                         | init
zoo register, annotate, merge    | register base --name tiny --kind base --license MIT
zoo register, annotate, merge    | register one --name one --base tiny --task a --phase x
zoo register, annotate, merge    | register two --name two --base tiny --tag owner=me
zoo alias                        | alias one best
zoo register, annotate, merge    | annotate one --metric accuracy=0.5
zoo register, annotate, merge    | merge --method linear --where "kind = 'expert'" --as mean
zoo merge --out                  | merge --method linear --expert one --expert two --out out
zoo merge --dry-run              | merge --method linear --expert one --expert two --dry-run
zoo show                         | show one
zoo show                         | show mean
zoo lineage                      | lineage mean
zoo verify                       | verify mean
zoo verify                       | verify mean --replay
zoo diff                         | diff one two
zoo diff                         | diff one one
zoo measure                      | measure one two --metric task_vectors
zoo measure --dry-run            | measure one two --metric task_vectors --dry-run
zoo measure --list               | measure --list --metric task_vectors
zoo path                         | path mean
zoo export                       | export mean exported
zoo query                        | query "SELECT name, version FROM versions"
zoo methods                      | methods
zoo methods NAME                 | methods ties
zoo plugins                      | plugins
zoo plugins new                  | plugins new my_method
zoo plugins check                | plugins check linear
zoo rm                           | rm two
zoo gc                           | gc
zoo fsck                         | fsck
zoo fsck                         | DAMAGE fsck
zoo verify                       | verify one
zoo lineage                      | lineage mean
an error                         | show nothing
"""
"""Title | command, run in this order; the outputs of one title are shown as one."""


def json_shapes() -> str:
    """What `--json` prints, read off a zoo of three tiny models."""
    parts = [
        "# JSON",
        "What each command prints with `--json`, as the types of its values. `zoo ls` prints a "
        "list of what `register` prints; so does a version within `zoo show`, with more keys. "
        "Errors go to stderr, as JSON too.",
    ]
    for title, values in samples().items():
        parts += [f"## {title}", fenced(shape(values))]
    return "\n\n".join(parts)


def samples() -> dict[str, list[Any]]:
    """Title -> what its commands printed."""
    found: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        before = Path.cwd()
        os.chdir(directory)
        try:
            for name, value in (("base", 0.0), ("one", 1.0), ("two", 3.0)):
                tiny_model(Path(name), value)
            for line in COMMANDS.strip().splitlines():
                title, _, command = (part.strip() for part in line.partition("|"))
                if command.startswith("DAMAGE "):
                    damage(Path("registry.store/objects"))
                    command = command.removeprefix("DAMAGE ")
                printed = printed_json(shlex.split(command))
                if title != "an error" and "error" in printed:
                    raise RuntimeError(f"zoo {command}: {printed['error']}")
                found.setdefault(title, []).append(printed)
        finally:
            os.chdir(before)
    return found


def damage(objects: Path) -> None:
    """Change the last byte of every weights file."""
    for path in objects.glob("tree/*/*"):
        path.chmod(0o644)
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def tiny_model(directory: Path, value: float) -> None:
    import torch
    from safetensors.torch import save_file

    directory.mkdir()
    save_file({"weight": torch.full((2, 2), value)}, directory / "model.safetensors")
    (directory / "config.json").write_text('{"model_type": "tiny"}')


def printed_json(arguments: list[str]) -> Any:
    from click.testing import CliRunner
    from zoo_cli.main import cli as root

    result = CliRunner().invoke(root, [*arguments, "--json"], prog_name="zoo")
    try:
        return json.loads(result.stdout or result.stderr)
    except ValueError:
        raise RuntimeError(f"zoo {shlex.join(arguments)}: {result.output}") from result.exception


def shape(values: list[Any], key: str = "", indent: str = "") -> str:
    """The types that values of one place have, as JSON with types for values."""
    words = {str: "text", bool: "true or false", int: "integer", float: "number"}
    kinds: list[str] = []
    inner = indent + "  "
    maps = [v for v in values if isinstance(v, dict)]
    lists = [v for v in values if isinstance(v, list)]
    if maps and key == "parameters" and any(isinstance(x, dict) for x in maps[0].values()):
        kinds.append("{name: JSON schema}")
    elif maps and key in KEYED_BY_DATA:
        within = [x for m in maps for x in m.values()]
        kinds.append(f'{{"...": {shape(within, "", indent)}}}' if within else "{}")
    elif maps:
        names = list(dict.fromkeys(name for m in maps for name in m))
        rows = [f'{inner}"{n}": ' + shape([m[n] for m in maps if n in m], n, inner) for n in names]
        kinds.append("{\n" + ",\n".join(rows) + "\n" + indent + "}" if rows else "{...}")
    if lists:
        within = [x for v in lists for x in v]
        kinds.append(f"[{shape(within, '', indent)}, ...]" if within else "[...]")
    kinds += sorted({words[type(v)] for v in values if type(v) in words})
    if {"integer", "number"} <= set(kinds):
        kinds.remove("integer")
    if None in values:
        kinds.append("null")
    return " or ".join(kinds)
