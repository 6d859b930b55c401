"""Plugins on the command line: their commands, and `zoo plugins`."""

from __future__ import annotations

import json
import re

import pytest

COMMAND = """
    import zoo

    @zoo.hookimpl
    def zoo_register_commands(cli):
        @cli.command("{name}")
        def greet():
            "Greet."
            import click
            click.echo("hello from {name}")
"""

METHOD = """
    import zoo

    @zoo.method("{name}", version="1.0.0")
    def f(experts):
        "The first expert."
        return experts[0].clone()

    @zoo.hookimpl
    def zoo_register_methods(register):
        register(f)
"""


def test_a_plugins_command_runs_and_is_listed(zoo_run, drop_in):
    directory = drop_in("greeting", COMMAND.format(name="greet"))

    assert "hello from greet\n" == zoo_run("--plugins-dir", directory, "greet").output
    overview = zoo_run("--plugins-dir", directory, "--help").output
    assert ["greet", "Greet."] == overview.partition("From plugins:")[2].split()[:2]


def test_a_plugins_directory_in_the_environment_brings_its_commands(zoo_run, drop_in, monkeypatch):
    monkeypatch.setenv("ZOO_PLUGINS_DIR", str(drop_in("greeting", COMMAND.format(name="greet"))))

    assert "From plugins:" in zoo_run("--help").output
    assert 0 == zoo_run("greet").exit_code


def test_a_run_does_not_remember_the_commands_of_the_last(zoo_run, drop_in):
    directory = drop_in("greeting", COMMAND.format(name="greet"))
    zoo_run("--plugins-dir", directory, "greet")

    assert 2 == zoo_run("greet").exit_code


@pytest.mark.parametrize("taken", ["ls", "greet"])
def test_a_command_that_exists_is_not_replaced_and_the_plugin_is_named(taken, zoo_run, drop_in):
    drop_in("a_first", COMMAND.format(name="greet"))
    directory = drop_in("b_second", COMMAND.format(name=taken))

    result = zoo_run("--plugins-dir", directory, "--help")

    assert "warning: Plugin `b_second`" in result.stderr
    assert f"`{taken}` exists already" in result.stderr
    assert "hello from greet" in zoo_run("--plugins-dir", directory, "greet").output


def test_a_failing_observer_is_named_on_stderr_and_the_version_is_registered(
    zoo_run, drop_in, checkpoint
):
    directory = drop_in(
        "failing",
        """
        import zoo

        @zoo.hookimpl
        def zoo_after_register(version):
            raise ValueError("boom")
        """,
    )
    zoo_run("init")

    result = zoo_run("--plugins-dir", directory, "register", checkpoint("a", 1), "--name", "a")

    assert 0 == result.exit_code
    assert "warning: Plugin `failing` failed in `zoo_after_register`" in result.stderr
    assert "a@1" in zoo_run("ls").output


def test_a_broken_plugin_is_named_on_stderr_and_the_command_still_runs(zoo_run, drop_in):
    drop_in("bad", "import not_there_at_all")
    directory = drop_in("good", METHOD.format(name="first"))

    result = zoo_run("--plugins-dir", directory, "methods", "--json")

    assert 0 == result.exit_code
    assert "first" in {m["name"] for m in json.loads(result.stdout)}
    assert "warning: Plugin `bad`" in result.stderr
    assert "not_there_at_all" in result.stderr


def test_the_list_tells_what_each_plugin_offers_and_which_are_broken(zoo_run, drop_in):
    drop_in("bad", "import not_there_at_all")
    directory = drop_in("good", METHOD.format(name="first"))

    said = json.loads(zoo_run("--plugins-dir", directory, "plugins", "--json").stdout)

    good = next(p for p in said["plugins"] if p["name"] == "good")
    assert ["method first"] == good["offers"]
    assert ["zoo_register_methods"] == good["hooks"]
    assert ["bad"] == [b["name"] for b in said["broken"]]
    again = zoo_run("--plugins-dir", directory, "plugins", "list", "--json")
    assert said == json.loads(again.stdout)


def test_check_prints_each_check_and_fails_with_13(zoo_run, drop_in):
    directory = drop_in("good", METHOD.format(name="first"))

    result = zoo_run("--plugins-dir", directory, "plugins", "check", "good")

    assert 13 == result.exit_code
    assert "failed   order of experts" in result.stdout
    assert "declare ordered=True" in result.stdout
    assert "passed   determinism" in result.stdout


def test_check_of_a_sound_method_succeeds_and_speaks_json(zoo_json):
    said = zoo_json("plugins", "check", "linear")

    assert said["ok"]
    assert {"passed"} == {o["status"] for o in said["methods"]["linear"]}


def test_check_of_a_broken_plugin_tells_its_error(zoo_run, drop_in):
    directory = drop_in("bad", "import not_there_at_all")

    result = zoo_run("--plugins-dir", directory, "plugins", "check", "bad")

    assert 13 == result.exit_code
    assert "error: The plugin `bad`" in result.stderr


def test_check_of_a_plugin_that_is_not_there_suggests(zoo_run):
    result = zoo_run("plugins", "check", "linaer")

    assert 3 == result.exit_code
    assert "`linear`" in result.stderr


def test_a_new_plugin_cannot_take_a_bundled_methods_name(zoo_run, tmp_path):
    result = zoo_run("plugins", "new", "ties")

    assert 4 == result.exit_code
    assert "There is a method `ties` already" in result.stderr
    assert [] == list(tmp_path.iterdir())


def test_new_writes_a_plugin_that_check_then_passes(zoo_run, zoo_json):
    made = zoo_json("plugins", "new", "my_mean")

    assert "zoo-my-mean" == made["path"]
    assert "zoo_my_mean.py" in made["files"]
    result = zoo_run("--plugins-dir", made["path"], "plugins", "check", "my_mean")
    assert 0 == result.exit_code, result.output


def test_methods_explains_one_with_its_parameters(zoo_json, zoo_run):
    said = zoo_json("methods", "ties")

    assert "ties" == said["name"]
    assert "density" in said["parameters"]
    assert "zoo-registry" == said["plugin"]["distribution"]
    assert "density" in zoo_run("methods", "ties").output


def test_an_unknown_method_suggests_the_nearest(zoo_run):
    result = zoo_run("methods", "tise")

    assert 8 == result.exit_code
    assert "Did you mean `ties`?" in result.stderr


def test_a_name_that_is_like_none_gets_a_list_that_fits_a_terminal(zoo_run):
    result = zoo_run("plugins", "check", "qqq")

    assert 3 == result.exit_code
    assert re.search(r"Known: `arcee_fusion`, .* and \d+ more\.", result.stderr)
    assert len(result.stderr) < 800
