"""What the documentation shows is what happens: its Python runs, its transcripts repeat."""

from __future__ import annotations

import doctest
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import _NamedTextIOWrapper
from docs_pages import DOCS, ROOT, Page, all_pages, commands
from shells import in_process, typed

WITH_EXAMPLES = [Page(DOCS / "tutorial/by-hand.md"), Page(DOCS / "how-to/audit-a-merge.md")]
"""Pages whose `console` blocks are run from first to last in an empty directory that holds
`examples`, and their output compared; `...` stands for anything. So is the README, typed at a
terminal: it stands for what all of these need of a process of their own."""

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

WRITTEN = [p for p in all_pages() if "reference" not in p.path.parts]
"""Pages by hand; the generated ones show signatures as Python."""

CHECK_ALL = """
from zoo.testing import check_method

for method in (median, clipped_sum, loud_mean, boldest, best_fit):
    failed = [outcome for outcome in check_method(method) if outcome.status == "failed"]
    assert not failed, (method.name, failed)
"""


def repeat(page: Page, run: Callable[[str], tuple[int, str]]) -> None:
    """Runs the commands of zoo in a page: each says what the page shows, and fails if it does."""
    same = doctest.OutputChecker().check_output
    for block in page.blocks("console"):
        for command, expected in commands(block):
            if not command.startswith("zoo"):
                continue
            code, shown = run(command)
            fails = re.search("^(error:|no  )", expected, re.MULTILINE) is not None

            assert (code != 0) == fails, f"{page}:{block.line}: {command}\n{shown}"
            assert not expected or same(expected, shown, doctest.ELLIPSIS), (
                f"{page}:{block.line}: {command}\nin the page:\n{expected}\nnow:\n{shown}"
            )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which `in_process` finds a terminal like that of `typed`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(_NamedTextIOWrapper, "isatty", lambda self: self.name == "<stdout>")
    return tmp_path


@pytest.mark.parametrize("page", WRITTEN, ids=str)
def test_every_python_block_is_python(page: Page) -> None:
    for block in page.blocks("python"):
        compile("\n" * (block.line - 1) + block.text, str(page), "exec")


def test_the_how_to_on_methods_works_as_written(here: Path) -> None:
    page = Page(DOCS / "how-to/write-a-method.md")
    plugin, *later = [block.text for block in page.blocks("python")]
    directory = here / "my-plugins"
    directory.mkdir()
    (directory / "median.py").write_text(plugin, encoding="utf-8")
    script = here / "script.py"
    script.write_text("\n".join([plugin, *later, CHECK_ALL]), encoding="utf-8")

    for run, command in (
        (in_process, "zoo --plugins-dir my-plugins methods median"),
        (in_process, "zoo --plugins-dir my-plugins plugins check median"),
        (typed, f"{sys.executable} script.py"),
    ):
        code, shown = run(command)

        assert code == 0, shown


def test_the_readme_repeats_at_a_terminal(here: Path) -> None:
    (here / "examples").symlink_to(ROOT / "examples")

    repeat(Page(ROOT / "README.md"), typed)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=str)
def test_transcripts_repeat(page: Page, here: Path) -> None:
    (here / "examples").symlink_to(ROOT / "examples")

    repeat(page, in_process)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft", reason="adapters are made with peft")
    pytest.importorskip("diffusers", reason="pipelines are made with diffusers")
    place = tmp_path_factory.mktemp("models")
    code, shown = typed(f"{sys.executable} {ROOT}/examples/tiny/make_models.py .", place)

    assert code == 0, shown
    return place


@pytest.mark.parametrize("page", WITH_TINY_MODELS, ids=str)
def test_transcripts_with_tiny_models_repeat(page: Page, tiny_models: Path, here: Path) -> None:
    shutil.copytree(tiny_models, here, dirs_exist_ok=True)
    for block in page.blocks("yaml"):
        if named := re.match(r"# (\S+\.yaml)\n", block.text):
            (here / named[1]).write_text(block.text, encoding="utf-8")

    repeat(page, in_process)


@pytest.mark.parametrize("page", all_pages(), ids=str)
def test_every_merge_shown_selects_experts_and_never_its_own_result(page: Page) -> None:
    for found in re.finditer(r'zoo merge [^\n]*--where "([^"\n]*)"', page.text):
        assert "kind = 'expert'" in found[1], found[0]
