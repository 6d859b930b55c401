"""What the documentation shows is what happens: its Python runs, its transcripts repeat."""

from __future__ import annotations

import doctest
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, _NamedTextIOWrapper
from docs_pages import DOCS, ROOT, Page, all_pages, commands

TRANSCRIPTS = [
    Page(ROOT / "README.md"),
    Page(DOCS / "tutorial/by-hand.md"),
    Page(DOCS / "how-to/audit-a-merge.md"),
]
"""Pages whose `console` blocks are run from first to last in an empty directory that holds
`examples`, and their output compared; `...` stands for anything."""

WITH_TINY_MODELS = [
    Page(DOCS / "how-to" / f"{name}.md")
    for name in (
        "build-a-mixture-of-experts",
        "check-models",
        "merge-adapters",
        "merge-vocabularies",
        "use-other-formats",
    )
]
"""The same of these, in a directory that `examples/tiny/make_models.py` has written. Blocks of YAML
that begin with `# NAME.yaml` are files."""

MAKING_MODELS = "python examples/tiny/make_models.py ."

WRITTEN = [p for p in all_pages() if "reference" not in p.path.parts]
"""Pages by hand; the generated ones show signatures as Python."""

CHECK_ALL = """
from zoo.testing import check_method

for method in (median, clipped_sum, loud_mean):
    failed = [outcome for outcome in check_method(method) if outcome.status == "failed"]
    assert not failed, (method.name, failed)
"""


@pytest.mark.parametrize("page", WRITTEN, ids=str)
def test_every_python_block_is_python(page: Page) -> None:
    for block in page.blocks("python"):
        compile("\n" * (block.line - 1) + block.text, str(page), "exec")


def test_the_how_to_on_methods_works_as_written(tmp_path: Path) -> None:
    page = Page(DOCS / "how-to/write-a-method.md")
    plugin, *later = [block.text for block in page.blocks("python")]
    directory = tmp_path / "my-plugins"
    directory.mkdir()
    (directory / "median.py").write_text(plugin, encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text("\n".join([plugin, *later, CHECK_ALL]), encoding="utf-8")

    for command in (
        "zoo --plugins-dir my-plugins methods median",
        "zoo --plugins-dir my-plugins plugins check median",
        f"{sys.executable} script.py",
    ):
        code, shown = typed(command, tmp_path)

        assert code == 0, shown


@pytest.mark.parametrize("page", TRANSCRIPTS, ids=str)
def test_transcripts_repeat(page: Page, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    same = doctest.OutputChecker().check_output
    for block in page.blocks("console"):
        for command, expected in commands(block):
            if not command.startswith("zoo"):
                continue
            code, shown = typed(command, tmp_path)

            assert code == 0, f"{page}:{block.line}: {command}\n{shown}"
            assert not expected or same(expected, shown, doctest.ELLIPSIS), (
                f"{page}:{block.line}: {command}\nin the page:\n{expected}\nnow:\n{shown}"
            )


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft", reason="adapters are made with peft")
    pytest.importorskip("diffusers", reason="pipelines are made with diffusers")
    place = tmp_path_factory.mktemp("models")
    code, shown = typed(f"{sys.executable} {ROOT}/examples/tiny/make_models.py .", place)

    assert code == 0, shown
    return place


@pytest.mark.parametrize("page", WITH_TINY_MODELS, ids=str)
def test_transcripts_with_tiny_models_repeat(
    page: Page, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(_NamedTextIOWrapper, "isatty", lambda self: self.name == "<stdout>")
    shutil.copytree(tiny_models, tmp_path, dirs_exist_ok=True)
    for block in page.blocks("yaml"):
        if named := re.match(r"# (\S+\.yaml)\n", block.text):
            (tmp_path / named[1]).write_text(block.text, encoding="utf-8")
    for block in page.blocks("console"):
        for command, expected in commands(block):
            if command == MAKING_MODELS:
                continue
            code, shown = in_process(command)
            fails = re.search("^(error:|no  )", expected, re.MULTILINE) is not None
            same = doctest.OutputChecker().check_output(expected, shown, doctest.ELLIPSIS)

            assert (code != 0) == fails, f"{page}:{block.line}: {command}\n{shown}"
            assert not expected or same, (
                f"{page}:{block.line}: {command}\nin the page:\n{expected}\nnow:\n{shown}"
            )


@pytest.mark.parametrize("page", all_pages(), ids=str)
def test_every_merge_shown_selects_experts_and_never_its_own_result(page: Page) -> None:
    for found in re.finditer(r'zoo merge [^\n]*--where "([^"\n]*)"', page.text):
        assert "kind = 'expert'" in found[1], found[0]


def test_the_tutorial_shows_what_the_demo_says(tmp_path: Path) -> None:
    page = Page(DOCS / "tutorial/index.md")
    code, shown = typed("zoo demo", tmp_path)
    said = {plain(line) for line in shown.splitlines()}
    lines = [line for block in page.blocks("text") for line in block.text.splitlines()]

    assert code == 0, shown
    assert [line for line in lines if line != "..." and plain(line) not in said] == []


def plain(line: str) -> str:
    """A line without figures, stars and rules: these differ in the last digit between machines."""
    return " ".join(re.sub(r"\d+\.\d+|[*─]+", "", line).split())


def in_process(command: str) -> tuple[int, str]:
    """What `typed` gives of a command of zoo, without the seconds that it takes to load torch."""
    from zoo_cli.main import cli

    result = CliRunner().invoke(cli, shlex.split(command)[1:], prog_name="zoo")
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", result.stdout).splitlines()
    return result.exit_code, "".join(line.rstrip() + "\n" for line in lines) + result.stderr


def typed(command: str, directory: Path) -> tuple[int, str]:
    """Exit code of a shell command, and what a reader would see on a plain terminal.

    stdout is a terminal 140 columns wide, colours removed; what goes to stderr comes after it.
    """
    ours, theirs = pty.openpty()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    surroundings = {"PATH": path, "COLUMNS": "140", "TERM": "xterm"}
    seen: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, seen))
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=directory,
        env={**os.environ, **surroundings},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(theirs)
        reader.start()
        assert process.stderr is not None
        complaints = process.stderr.read()
        reader.join()
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", b"".join(seen).decode()).splitlines()
    shown = "".join(line.rstrip() + "\n" for line in lines)
    return process.returncode, shown + complaints


def _read_all(descriptor: int, seen: list[bytes]) -> None:
    while True:
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # Linux says EIO when the other end has closed
            return
        if not data:
            return
        seen.append(data)
