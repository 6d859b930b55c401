"""`zoo tasks`, as people and programs use it."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from data_files import idx_pair
from zoo_cli.main import cli


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)

    def run(*args):
        return CliRunner().invoke(cli, [str(a) for a in args], prog_name="zoo")

    return run


@pytest.fixture
def file(tmp_path):
    written = tmp_path / "small.yaml"
    written.write_text(yaml.safe_dump({**idx_pair(tmp_path), "license": "MIT"}))
    return written


def test_before_there_is_a_registry_the_tasks_of_plugins_are_listed(run, tmp_path):
    result = run("tasks", "ls", "--json")

    assert "digits" in [t["name"] for t in json.loads(result.stdout)]
    assert "plugin digits" in run("tasks", "ls").stdout
    assert run("tasks").stdout == run("tasks", "ls").stdout
    assert not (tmp_path / "registry.db").exists()


def test_add_ls_show_rm(run, file):
    added = run("tasks", "add", file)
    assert (0, "Declared small: 3 test; 2 labels.\n") == (added.exit_code, added.stderr)
    (tmp := file.parent / "half.yaml").write_text("{name: half, from: small, derive: [invert]}")
    assert 0 == run("tasks", "add", tmp).exit_code

    listed = json.loads(run("tasks", "ls", "--json").stdout)
    assert {"half": "declared, from small", "small": "declared"} == {
        t["name"]: t["from"] for t in listed if not t["from"].startswith("plugin ")
    }

    shown = json.loads(run("tasks", "show", "half", "--json").stdout)
    assert [("test", 3, None)] == [(s["split"], s["size"], s["problem"]) for s in shown["splits"]]
    assert (["0", "1"], "MIT") == (shown["labels"], shown["license"])

    assert {"removed": "half"} == json.loads(run("tasks", "rm", "half", "--json").stdout)
    assert "half" not in run("tasks", "ls").stdout


def test_what_show_prints_can_be_added_again(run, file):
    run("tasks", "add", file)
    shown = json.loads(run("tasks", "show", "small", "--json").stdout)
    run("tasks", "rm", "small")
    again = file.parent / "again.yaml"
    again.write_text(yaml.safe_dump(shown["declaration"]))

    result = run("tasks", "add", again, "--json")

    assert shown == json.loads(result.stdout)


def test_show_tells_what_is_wrong_with_the_data(run, file):
    run("tasks", "add", file)
    (file.parent / "x").unlink()

    (split,) = json.loads(run("tasks", "show", "small", "--json").stdout)["splits"]

    assert split["size"] is None and "does not exist" in split["problem"]
    assert "does not exist" in run("tasks", "show", "small").stdout


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        (("show", "digit"), 3, "Did you mean `digits`"),
        (("add", "none.yaml"), 3, "no file `none.yaml`"),
        (("add", "small.yaml"), 16, "does not exist"),
        (("rm", "digits"), 11, "comes from plugin"),
    ],
)
def test_errors_have_their_exit_codes(run, file, args, code, what):
    run("init")
    (file.parent / "y").unlink()

    result = run("tasks", *args)

    assert code == result.exit_code
    assert what in result.stderr


def test_replace(run, file):
    run("tasks", "add", file)
    idx_pair(file.parent, targets=(1, 1, 0))

    assert 11 == run("tasks", "add", file).exit_code
    assert 0 == run("tasks", "add", file, "--replace").exit_code
