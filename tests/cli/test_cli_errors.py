"""Errors say what, why and how, with the exit code of their type, and no traceback unasked."""

from __future__ import annotations

import json
import re

import pytest

RAISING = """
    import click
    import zoo
    from zoo.errors import IncompatibleModels

    @zoo.hookimpl
    def zoo_register_commands(cli):
        @cli.command()
        def burst():
            {}["not there"]

        @cli.command()
        @click.option("--json", "as_json", is_flag=True)
        def refuse(as_json):
            raise IncompatibleModels(
                "Cannot merge `a` with `b`.",
                "Their shapes differ.",
                "Choose others: `zoo ls`.",
                problems=["w is (2, 3) and (3, 2)", "v is missing"],
            )
"""


@pytest.fixture
def raising(drop_in):
    return drop_in("raising", RAISING)


def test_a_zoo_error_says_what_why_and_how_and_lists_every_problem(zoo_run, raising):
    result = zoo_run("--plugins-dir", raising, "refuse")

    assert 6 == result.exit_code
    assert "" == result.stdout
    assert [
        "error: Cannot merge `a` with `b`.",
        "  - w is (2, 3) and (3, 2)",
        "  - v is missing",
        "  why: Their shapes differ.",
        "  how: Choose others: `zoo ls`.",
    ] == result.stderr.splitlines()


def test_verbose_adds_the_traceback_and_keeps_the_exit_code(zoo_run, raising):
    result = zoo_run("-v", "--plugins-dir", raising, "refuse")

    assert 6 == result.exit_code
    assert "Traceback (most recent call last)" in result.stderr


def test_an_unforeseen_error_is_one_line_that_names_the_switch(zoo_run, raising):
    result = zoo_run("--plugins-dir", raising, "burst")

    assert 1 == result.exit_code
    assert "error: KeyError: 'not there'" in result.stderr
    assert "zoo -v" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unforeseen_error_shows_its_traceback_when_asked(zoo_run, raising):
    result = zoo_run("-v", "--plugins-dir", raising, "burst")

    assert "in burst" in result.stderr


def test_with_json_the_error_is_json_on_stderr(zoo_run):
    result = zoo_run("ls", "--json")

    assert 3 == result.exit_code
    assert "" == result.stdout
    error = json.loads(result.stderr)["error"]
    assert "NotFound" == error["type"]
    assert 3 == error["exit_code"]
    assert {"what", "why", "how"} <= set(error)


def test_a_merge_of_a_path_that_is_not_there_names_the_path_not_a_registry(zoo_run, tmp_path):
    (tmp_path / "recipe.yml").write_text("{method: linear, experts: [./nowhere, ./neither]}")

    result = zoo_run("merge", "recipe.yml", "--out", "out")

    assert 0 != result.exit_code
    assert "There is no model `./nowhere`" in result.output
    assert "zoo init" not in result.output


def test_models_that_do_not_fit_get_all_problems_listed(zoo_run, checkpoint, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"a.weight": torch.ones(5, 6), "c": torch.ones(1)}, tmp_path / "other.safetensors")

    result = zoo_run(
        *("merge", "--method", "linear", "--expert", checkpoint("math", 1.0)),
        *("--expert", "./other.safetensors", "--out", "out"),
    )

    assert 6 == result.exit_code
    head, *problems, why = result.stderr.splitlines()
    assert "error: These models cannot be merged, 3 problems:" == head
    assert ["`a.weight`", "`b.bias`", "`c`"] == sorted(
        re.search("tensor (`.*?`)", p)[1] for p in problems
    )
    assert why.startswith("  why: ")
    assert not (tmp_path / "out").exists()


def test_a_missing_registry_names_the_command_that_makes_one(zoo_run):
    result = zoo_run("ls")

    assert 3 == result.exit_code
    assert "zoo init" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["merge"], "Give a RECIPE file or --method"),
        (["merge", "--method", "ties"], "--as NAME"),
        (["merge", "--method", "ties", "--as", "x", "--set", "density"], "key=value"),
        (["merge", "--method", "ties", "--as", "x", "--set", "density=[1"], "not YAML"),
        (["register", "x", "--name", "x", "--metric", "accuracy=high"], "`high` is not a number"),
        (["register", "x", "--name", "x", "--tag", "=v"], "key=value"),
        (["annotate", "x"], "Nothing to set"),
    ],
)
def test_wrong_usage_exits_2_and_says(args, words, zoo_run):
    result = zoo_run(*args)

    assert 2 == result.exit_code
    assert words in result.stderr


def test_every_error_type_has_an_exit_code_of_its_own():
    from zoo import errors

    codes = [
        e.exit_code
        for e in vars(errors).values()
        if isinstance(e, type) and issubclass(e, errors.ZooError)
    ]

    assert len(codes) == len(set(codes))
    assert 2 not in codes
