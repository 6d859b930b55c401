"""`zoo plugins new` writes a project whose tests pass, and refuses what it cannot write."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zoo.errors import InvalidName, PluginError
from zoo.scaffold import write_plugin

ROOT = Path(__file__).parents[2]


def run_tests(project: Path) -> subprocess.CompletedProcess[str]:
    """The project's own tests, as its author would run them, in a process of their own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env={"PYTHONPATH": f"{project}:{ROOT}", "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def test_the_tests_of_a_new_plugin_pass_as_they_stand(tmp_path):
    project = write_plugin("my_mean", tmp_path)

    done = run_tests(project)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "11 passed" in done.stdout


def test_a_new_plugin_is_a_drop_in_as_well(tmp_path, load):
    project = write_plugin("my_mean", tmp_path)

    assert ["my_mean"] == list(load(project).methods)


def test_a_new_plugin_names_its_entry_point(tmp_path):
    project = write_plugin("my_mean", tmp_path)
    written = tomllib.loads((project / "pyproject.toml").read_text())["project"]

    assert "zoo-my-mean" == written["name"]
    assert {"my_mean": "zoo_my_mean"} == written["entry-points"]["zoo"]


@pytest.mark.parametrize("name", ["", "Mean", "my-mean", "1st", "a/b", "../up", "a b"])
def test_a_name_that_is_no_module_is_refused(name, tmp_path):
    with pytest.raises(InvalidName, match="zoo plugins new trimmed_mean"):
        write_plugin(name, tmp_path)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["class", "lambda", "import"])
def test_a_word_of_python_is_refused(name, tmp_path):
    with pytest.raises(InvalidName, match="Python keeps the word"):
        write_plugin(name, tmp_path)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["zoo", "torch", "len", "register", "base", "deltas"])
def test_a_name_that_the_new_code_needs_is_refused(name, tmp_path):
    with pytest.raises(InvalidName, match="would hide a name"):
        write_plugin(name, tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_a_method_that_exists_is_not_made_again(tmp_path):
    with pytest.raises(InvalidName, match="zoo plugins new my_ties"):
        write_plugin("ties", tmp_path, taken=["ties"])
    assert [] == list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    project = write_plugin("mine", tmp_path)
    (project / "README.md").write_text("mine")

    with pytest.raises(PluginError, match="exists already"):
        write_plugin("mine", tmp_path)
    assert "mine" == (project / "README.md").read_text()


def test_the_example_plugin_passes_its_own_tests():
    done = run_tests(ROOT / "plugins" / "example")

    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_example_plugin_offers_what_its_readme_says(load):
    plugins = load(ROOT / "plugins" / "example")

    assert [] == plugins.broken
    assert ("method trimmed_mean",) == plugins.loaded["zoo_trimmed_mean"].offers
    assert "zoo_register_commands" in plugins.loaded["zoo_trimmed_mean"].hooks
