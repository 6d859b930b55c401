"""The reference is complete and says what the code says."""

from __future__ import annotations

import subprocess
import sys

import click
from docs_pages import DOCS, ROOT
from test_docs_commands import all_commands


def reference(page: str) -> str:
    return (DOCS / "reference" / page).read_text(encoding="utf-8")


def missing(words: set[str], text: str) -> set[str]:
    return {word for word in words if word not in text}


def test_the_reference_is_what_the_generator_writes() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_every_hook_is_in_the_reference() -> None:
    from zoo import hookspecs

    hooks = {name for name in vars(hookspecs) if name.startswith("zoo_")}

    assert missing({f"### {h}\n" for h in hooks}, reference("hooks.md")) == set()


def test_every_hook_has_a_test() -> None:
    from zoo import hookspecs

    hooks = {name for name in vars(hookspecs) if name.startswith("zoo_")}
    tests = "".join(
        p.read_text(encoding="utf-8")
        for p in (ROOT / "tests").rglob("test_*.py")
        if p.parent.name != "docs"
    )

    assert missing(hooks, tests) == set()


def test_every_command_and_option_is_in_the_reference() -> None:
    text = reference("cli.md")
    options = {
        f"{name} {option}"
        for name, command in all_commands()
        for p in command.params
        if isinstance(p, click.Option) and not p.hidden
        for option in p.opts
    }
    sections = {s.partition("\n")[0]: s for s in text.replace("\n### ", "\n## ").split("\n## ")}
    unsaid = {
        o for o in options if o.rpartition(" ")[2] not in sections[f"zoo {o.rpartition(' ')[0]}"]
    }

    assert unsaid == set()


def test_every_error_and_its_exit_code_is_in_the_reference() -> None:
    import zoo.errors

    errors = [
        e for e in vars(zoo.errors).values() if isinstance(e, type) and issubclass(e, Exception)
    ]
    rows = {f"| `{e.__name__}` | {e.exit_code} |" for e in errors}  # type: ignore[attr-defined]

    assert missing(rows, reference("errors.md")) == set()
    assert len({e.exit_code for e in errors}) == len(errors)  # type: ignore[attr-defined]


def test_every_table_and_column_is_in_the_reference() -> None:
    from zoo.catalog.tables import ZooTable

    sections = dict(s.partition("\n")[::2] for s in reference("tables.md").split("\n## ")[1:])
    unsaid = {
        f"{table.name}.{column.name}"
        for table in ZooTable.metadata.tables.values()
        for column in table.columns
        if f"| `{column.name}` |" not in sections[table.name]
    }

    assert unsaid == set()


def test_every_bundled_method_and_parameter_is_in_the_reference() -> None:
    from zoo.plugins import BUNDLED, load_plugins

    plugins = load_plugins()
    unsaid = set()
    for name, method in plugins.methods.items():
        if plugins.origin(name).distribution == BUNDLED:
            text = reference(f"methods/{name}.md")
            parameters = {f.alias or n for n, f in method.parameters.model_fields.items()}
            unsaid |= {f"{name}.{p}" for p in parameters if f"| `{p}` |" not in text}

    assert unsaid == set()


def test_every_public_name_is_in_the_reference() -> None:
    import zoo

    assert missing({f"## zoo.{n}\n" for n in zoo.__all__}, reference("python.md")) == set()
