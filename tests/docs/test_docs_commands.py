"""Commands that the documentation shows exist, with the options it shows."""

from __future__ import annotations

import shlex

import click
import pytest
from docs_pages import Page, all_pages, commands

PROGRAMS = {"cat", "cd", "createdb", "git", "head", "ls", "make", "mkdir", "mv", "pip", "python"}
PROGRAMS |= {"python3", "source", "zoo", "cp", "model_signing", "openssl"}


def shown(page: Page) -> list[str]:
    return [c for block in page.blocks("console") for c, _ in commands(block)]


@pytest.mark.parametrize("page", all_pages(), ids=str)
def test_every_command_shown_begins_with_a_known_program(page: Page) -> None:
    words = [shlex.split(c, comments=True) for c in shown(page)]
    programs = [next(w for w in line if "=" not in w) for line in words]

    assert [p for p in programs if p not in PROGRAMS] == []


@pytest.mark.parametrize("page", all_pages(), ids=str)
def test_every_zoo_command_shown_exists_with_its_options(page: Page) -> None:
    from zoo_cli.main import cli

    unknown = []
    for line in shown(page):
        words = shlex.split(line, comments=True)
        if next(w for w in words if "=" not in w) != "zoo":
            continue
        command: click.Command = cli
        options = {name for p in cli.params for name in p.opts}
        for word in words[words.index("zoo") + 1 :]:
            if word in ("|", ">", ";", "&&"):
                break
            child = (
                command.get_command(click.Context(command), word)
                if isinstance(command, click.Group) and not word.startswith("-")
                else None
            )
            if child is not None:
                command = child
                options |= {name for p in child.params for name in (*p.opts, *p.secondary_opts)}
            elif word.startswith("--") and word.partition("=")[0] not in options | {"--help"}:
                unknown.append(f"{line}: {word}")
        if command is cli and "--help" not in words and "--version" not in words:
            unknown.append(line)

    assert unknown == []


def all_commands() -> list[tuple[str, click.Command]]:
    from zoo_cli.main import BUILT_IN, cli

    found: list[tuple[str, click.Command]] = []

    def walk(name: str, command: click.Command) -> None:
        found.append((name, command))
        if isinstance(command, click.Group):
            for child, below in command.commands.items():
                walk(f"{name} {child}", below)

    for name in BUILT_IN:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        walk(name, command)
    return found


def test_every_command_and_every_option_has_help() -> None:
    silent = []
    for name, command in all_commands():
        if not command.help:
            silent.append(name)
        silent += [
            f"{name} {p.opts[0]}"
            for p in command.params
            if isinstance(p, click.Option) and not p.help
        ]

    assert silent == []
