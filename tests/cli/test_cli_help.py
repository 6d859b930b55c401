"""Help is quick, complete and fits a terminal."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from zoo_cli.main import BUILT_IN, cli

FIXED = [
    "init",
    "register",
    "ls",
    "show",
    "annotate",
    "alias",
    "rm",
    "methods",
    "merge",
    "lineage",
    "verify",
    "diff",
    "path",
    "export",
    "query",
    "plugins",
    "fsck",
    "gc",
    "demo",
]

HEAVY = ("torch", "duckdb", "sqlmodel", "sqlalchemy", "pydantic", "sqlglot", "rich", "yaml")


def commands():
    """Every command with its path, those of groups too."""
    context = click.Context(cli)
    for name in BUILT_IN:
        command = cli.get_command(context, name)
        yield name, command
        if isinstance(command, click.Group):
            for sub in command.list_commands(context):
                yield f"{name} {sub}", command.get_command(context, sub)


def test_the_commands_that_were_promised_are_there():
    assert set(FIXED) <= set(BUILT_IN)
    assert {"plugins new", "plugins check", "plugins list"} <= {name for name, _ in commands()}


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda c: str(c))
def test_every_command_has_help_and_json(name, command):
    options = {o for p in command.params for o in p.opts}

    assert command.help
    assert "--json" in options
    assert all(p.help for p in command.params if isinstance(p, click.Option))


def test_no_line_of_the_overview_is_cut_short(zoo_run):
    result = zoo_run("--help")

    assert 0 == result.exit_code
    overview = result.output.partition("Register:")[2]
    assert "..." not in overview
    assert all(f"  {name} " in overview for name in FIXED)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from zoo_cli.main import cli\n"
        "try: cli(['--help'], prog_name='zoo')\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.splitlines()[-1]


def test_importing_zoo_imports_nothing_heavy():
    code = f"import sys, zoo; print([m for m in {HEAVY} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


def test_listing_versions_does_not_import_torch(zoo_run, tmp_path):
    assert 0 == zoo_run("init").exit_code
    code = (
        "import sys; from zoo_cli.main import cli\n"
        "try: cli(['ls'], prog_name='zoo')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print([m for m in ('torch', 'duckdb', 'rich', 'alembic') if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert "[]" == done.stdout.splitlines()[-1]


def test_the_version_is_that_of_the_distribution(zoo_run):
    from importlib.metadata import version

    assert f"zoo {version('zoo-registry')}\n" == zoo_run("--version").output


def test_a_misspelt_command_suggests_the_right_one(zoo_run):
    result = zoo_run("lineag", "x")

    assert 2 == result.exit_code
    assert "Did you mean `lineage`?" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for(shell, zoo_run):
    result = zoo_run("completion", shell)

    assert 0 == result.exit_code
    assert f"_ZOO_COMPLETE={shell}_complete" in result.output


def test_references_are_completed_by_name(zoo_run, zoo_json, checkpoint):
    zoo_json("register", checkpoint("m", 1.0), "--name", "math")

    def completed(words):
        said = CliRunner().invoke(
            cli,
            prog_name="zoo",
            env={
                "_ZOO_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
        )
        return [line for line in said.output.splitlines() if line]

    assert ["plain,math"] == completed("zoo show ma")
    assert ["plain,math"] == completed("zoo merge --base ma")
    assert ["plain,leaderboard", "plain,lineage", "plain,ls"] == sorted(completed("zoo l"))
    assert [] == completed("zoo --registry nowhere.db show ma")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("zoo show math@", ["plain,math@1", "plain,math@2", "plain,math@best"]),
        ("zoo merge --method tie", ["plain,ties"]),
        ("zoo methods slerp", ["plain,slerp"]),
        ("zoo register ./mo", ["file,./mo"]),
        ("zoo merge --expert ./mo", ["file,./mo"]),
    ],
)
def test_versions_methods_and_paths_are_completed(words, offered, zoo_json, checkpoint, zoo_run):
    for value in (1.0, 2.0):
        zoo_json("register", checkpoint("m", value), "--name", "math")
    zoo_json("alias", "math", "best")

    said = CliRunner().invoke(
        cli,
        prog_name="zoo",
        env={
            "_ZOO_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
    )

    assert offered == said.output.split()


def test_sql_is_shown_when_asked_twice_and_not_before(zoo_run, tmp_path):
    assert 0 == zoo_run("init").exit_code

    def said(*switches):
        return subprocess.run(
            [sys.executable, "-c", "from zoo_cli.main import main; main()", *switches, "ls"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stderr

    assert "SELECT" in said("-vv")
    assert "SELECT" not in said("-v")
