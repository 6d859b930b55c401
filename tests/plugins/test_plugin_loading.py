"""Plugins are found, loaded whole or left out, and the broken are named."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import zoo
from zoo.plugin_sources import BUNDLED
from zoo.plugins import BrokenPluginWarning, load_plugins

MEAN = """
    import zoo

    @zoo.method("{name}", version="1.0.0")
    def average(experts):
        "The mean."
        return experts.sum(0) / len(experts)

    @zoo.hookimpl
    def zoo_register_methods(register):
        register(average)
"""


def test_a_file_in_a_plugins_directory_offers_its_method(drop_in, load):
    plugins = load(drop_in("mean", MEAN.format(name="mean")))

    assert ["mean"] == list(plugins.methods)
    assert ("mean", "mean.py", "") == plugins.origin("mean")
    assert ("method mean",) == plugins.loaded["mean"].offers


def test_a_drop_in_tells_its_version(drop_in, load):
    plugins = load(drop_in("mean", MEAN.format(name="mean") + '\n    __version__ = "2.1"\n'))

    assert "2.1" == plugins.origin("mean").version


def test_files_with_a_leading_underscore_are_not_plugins(drop_in, load):
    plugins = load(drop_in("_shared", "raise RuntimeError"))

    assert [] == plugins.broken


def test_plugins_directories_come_from_the_environment(drop_in, tmp_path, monkeypatch):
    first = drop_in("mean", MEAN.format(name="mean"))
    second = tmp_path / "more"
    second.mkdir()
    (second / "other.py").write_text((first / "mean.py").read_text().replace('"mean"', '"other"'))
    monkeypatch.setenv("ZOO_PLUGINS_DIR", os.pathsep.join([str(first), str(second)]))

    plugins = load_plugins(entry_points=False)

    assert ["mean", "other"] == list(plugins.methods)


def test_an_edit_is_seen_and_nothing_is_written_beside_the_plugin(drop_in, load):
    directory = drop_in("mean", MEAN.format(name="mean"))
    load(directory)
    drop_in("mean", MEAN.format(name="man_"))

    assert ["man_"] == list(load(directory).methods)
    assert ["mean.py"] == [p.name for p in directory.iterdir()]


BROKEN = {
    "it imports what is not there": ("import not_there_at_all", "No module named"),
    "it has a syntax error": ("def (", "SyntaxError"),
    "it exits": ("import sys; sys.exit(3)", "SystemExit"),
    "a hook is misspelt": (
        """
        import zoo
        @zoo.hookimpl
        def zoo_register_method(register): ...
        """,
        "Did you mean `zoo_register_methods`",
    ),
    "a hook has a wrong argument": (
        """
        import zoo
        @zoo.hookimpl
        def zoo_register_methods(registrar): ...
        """,
        "registrar",
    ),
    "a hook is not marked": (
        "def zoo_register_methods(register): ...",
        "Put `@zoo.hookimpl` above it",
    ),
    "it has no hook": ("x = 1", "no hook"),
    "its method has a wrong signature": (
        """
        import zoo
        @zoo.method("m", version="1.0.0")
        def m(tensors): ...
        """,
        "`experts` or `deltas`",
    ),
    "it registers something else than a method": (
        """
        import zoo
        @zoo.hookimpl
        def zoo_register_methods(register):
            register(len)
        """,
        "instance of `zoo.contract.Method`",
    ),
    "it asks zoo for a name it has not": (
        """
        import zoo
        class Mine(zoo.NoSuchThing): ...
        """,
        "no attribute 'NoSuchThing' (bad.py, line 3)",
    ),
    "its hook raises": (
        """
        import zoo
        @zoo.hookimpl
        def zoo_register_methods(register):
            raise ValueError("out of luck")
        """,
        "out of luck (bad.py, line 5)",
    ),
}


@pytest.mark.parametrize("why", BROKEN)
def test_a_broken_plugin_is_named_and_stops_no_other_because(why, drop_in, load):
    source, words = BROKEN[why]
    drop_in("bad", source)
    directory = drop_in("mean", MEAN.format(name="mean"))

    plugins = load(directory)

    assert ["mean"] == list(plugins.methods)
    assert ["bad"] == [b.name for b in plugins.broken]
    assert words in plugins.broken[0].error
    assert str(directory / "bad.py") == plugins.broken[0].source


def test_a_broken_plugin_warns_loudly(drop_in):
    directory = drop_in("bad", "import not_there_at_all")

    with pytest.warns(BrokenPluginWarning, match=r"`bad` .*bad\.py .*not_there_at_all"):
        load_plugins([directory], entry_points=False)


def test_a_plugins_directory_that_is_not_there_is_reported(tmp_path, load):
    assert "No such file" in load(tmp_path / "nowhere").broken[0].error


def test_of_two_methods_with_one_name_the_first_stays_and_both_plugins_are_named(drop_in, load):
    drop_in("first", MEAN.format(name="mean"))
    plugins = load(drop_in("second", MEAN.format(name="mean")))

    assert "first" == plugins.origin("mean").plugin
    assert "second" == plugins.broken[0].name
    assert "`first`" in plugins.broken[0].error


def test_a_plugin_that_fails_half_way_leaves_nothing_behind(drop_in, load):
    plugins = load(
        drop_in(
            "half",
            MEAN.format(name="mean")
            + """
    @zoo.hookimpl
    def zoo_register_tasks(register):
        raise ValueError

    @zoo.hookimpl
    def zoo_after_register(version):
        raise AssertionError("a plugin that was left out is never called")
            """,
        )
    )

    assert {} == plugins.methods
    plugins.notify("zoo_after_register", version=None)


def test_two_plugins_of_one_name_are_both_named(drop_in, load, tmp_path):
    first = drop_in("mean", MEAN.format(name="mean"))
    second = tmp_path / "second"
    second.mkdir()
    (second / "mean.py").write_text((first / "mean.py").read_text())

    plugins = load(first, second)

    assert str(first / "mean.py") in plugins.broken[0].error


def test_an_unknown_method_suggests_the_nearest(drop_in, load):
    plugins = load(drop_in("mean", MEAN.format(name="average")))

    with pytest.raises(zoo.ZooError, match="Did you mean `average`") as caught:
        plugins.method("averge")
    assert 8 == caught.value.exit_code


def test_the_bundled_plugins_come_through_the_entry_points():
    """When this fails after an entry point was added: `pip install -e .` again."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    installed = {e.name: e.value for e in entry_points(group="zoo") if e.dist.name == BUNDLED}

    assert project["entry-points"]["zoo"] == installed


def test_every_bundled_plugin_loads_and_the_four_methods_are_there():
    plugins = load_plugins()

    assert [] == plugins.broken
    assert {"linear", "slerp", "task_arithmetic", "ties"} <= set(plugins.methods)
    assert BUNDLED == plugins.origin("ties").distribution


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with one plugin on the path, as pip would."""

    def installed(name, source):
        info = tmp_path / f"{name}-3.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.0\n")
        (info / "entry_points.txt").write_text(f"[zoo]\n{name} = {name}_module\n")
        (tmp_path / f"{name}_module.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)

    return installed


def test_an_installed_plugin_is_found_by_its_entry_point(install):
    install("median_plugin", MEAN.format(name="median"))

    plugins = load_plugins()

    assert ("median_plugin", "median_plugin", "3.0") == plugins.origin("median")


def test_a_broken_installed_plugin_is_named_with_its_distribution(install):
    install("burst_plugin", "raise ValueError('no luck')")

    with pytest.warns(BrokenPluginWarning, match=r"burst_plugin_module \(burst_plugin 3.0\)"):
        plugins = load_plugins()

    assert "ValueError: no luck (burst_plugin_module.py, line 1)." == plugins.broken[0].error


def test_a_drop_in_cannot_replace_a_bundled_method(drop_in):
    directory = drop_in("mine", MEAN.format(name="ties"))

    with pytest.warns(BrokenPluginWarning, match="`mine`.*`ties` is already offered"):
        plugins = load_plugins([directory])

    assert BUNDLED == plugins.origin("ties").distribution


def test_formats_of_plugins_are_asked_before_the_bundled_ones(drop_in):
    directory = drop_in(
        "own",
        """
        import zoo
        from zoo.checkpoint import Format

        class Own(Format):
            name = "own"
            def matches(self, path): return False
            def open(self, path): ...

        @zoo.hookimpl
        def zoo_register_formats(register):
            register(Own())
        """,
    )

    names = [f.name for f in load_plugins([directory]).formats]

    assert "own" == names[0]
    assert len(names) > 1


def test_the_environment_switch_shows_every_hook_call(drop_in):
    directory = drop_in("mean", MEAN.format(name="mean"))

    done = subprocess.run(
        [sys.executable, "-c", "import zoo.plugins as p; p.load_plugins()"],
        env={**os.environ, "ZOO_TRACE_PLUGINS": "1", "ZOO_PLUGINS_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "zoo_register_methods(" in done.stderr
    assert "-> mean" in done.stderr


def test_loading_every_bundled_plugin_imports_nothing_heavy():
    heavy = ("torch", "duckdb", "sqlmodel", "sqlalchemy", "pydantic", "sqlglot", "rich", "yaml")
    code = (
        "import sys, zoo.plugins; p = zoo.plugins.load_plugins(); assert p.loaded\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()
