"""Write the reference pages, and the pictures on them, from the code they describe.

    python docs/generate.py            write docs/reference/
    python docs/generate.py --check    write nothing; show what is out of date and exit 1

One function of `docs/generator` makes one page. Nothing there knows a fact that the code knows:
when a page is wrong, mend a docstring, a help text or a column's comment.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path

from generator.command_line import cli
from generator.database import queries, tables
from generator.errors import errors
from generator.json_shapes import json_shapes
from generator.methods import bundled_methods, method_page, methods_index
from generator.metrics import metrics_page
from generator.pictures import picture
from generator.plugins import extensions, hooks
from generator.python_api import python_api
from generator.recipes import recipe
from generator.transforms import transforms_page

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code. Do not edit. -->\n"


def pages() -> dict[str, str]:
    """Every generated page and picture: path below `docs/reference` -> text."""
    made: dict[str, Callable[[], str]] = {
        "cli.md": cli,
        "errors.md": errors,
        "extensions.md": extensions,
        "hooks.md": hooks,
        "json.md": json_shapes,
        "methods/index.md": methods_index,
        "metrics.md": metrics_page,
        "python.md": python_api,
        "queries.md": queries,
        "recipe.md": recipe,
        "tables.md": tables,
        "transforms.md": transforms_page,
    }
    texts = {path: page() for path, page in made.items()}
    for method in bundled_methods():
        shown = picture(method)
        texts[f"methods/{method.name}.md"] = method_page(method, shown)
        if shown:
            texts[f"methods/{method.name}.svg"] = shown.svg
    return {path: NOTE + "\n" + text.strip() + "\n" for path, text in sorted(texts.items())}


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    wanted = pages()
    there = {
        str(p.relative_to(REFERENCE)): p.read_text(encoding="utf-8")
        for p in REFERENCE.rglob("*")
        if p.suffix in (".md", ".svg") and p.read_text(encoding="utf-8").startswith(NOTE)
    }
    changed = [p for p in sorted(wanted | there) if wanted.get(p) != there.get(p)]
    for path in changed:
        file = REFERENCE / path
        if arguments:
            sys.stdout.writelines(
                difflib.unified_diff(
                    there.get(path, "").splitlines(keepends=True),
                    wanted.get(path, "").splitlines(keepends=True),
                    f"docs/reference/{path}",
                    f"docs/reference/{path} as generated",
                )
            )
        elif path in wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted[path], encoding="utf-8")
            print(f"wrote docs/reference/{path}")
        else:
            file.unlink()
            print(f"removed docs/reference/{path}")
    if arguments and changed:
        print("\nOut of date. Mend with: python docs/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
