"""`zoo compress`, and what `show` and `export` say of versions with parts per task."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file


@pytest.fixture
def family(zoo_json, checkpoint):
    """A base and two experts in the registry."""
    zoo_json("register", checkpoint("base", 0.0), "--name", "base", "--kind", "base")
    for name, value in (("math", 1.0), ("code", 3.0)):
        path = checkpoint(name, value)
        zoo_json("register", path, "--name", name, "--base", "base", "--task", name)


@pytest.fixture
def compressed(family, zoo_json):
    """Both experts as `both@1`."""
    return zoo_json(
        *("compress", "--where", "kind = 'expert'", "--order-by", "name", "--method", "emr"),
        *("--as", "both", "--tag", "by=test"),
    )


def test_compress_tells_ratio_and_error_of_each_task(compressed):
    kept, errors = compressed["overlays"], compressed["errors"]

    assert ("both", 1, "merge") == tuple(compressed[k] for k in ("name", "version", "kind"))
    assert {"by": "test"} == compressed["tags"]
    assert [("code", "code@1"), ("math", "math@1")] == [
        (t["task"], t["expert"]) for t in kept["tasks"]
    ]
    assert kept["expert_bytes"] / kept["bytes"] == kept["ratio"]
    assert ["code", "math"] == [e["task"] for e in errors]
    # One task lies beyond the other everywhere: it comes back whole, the other scaled.
    assert 0 == errors[0]["relative"] and errors[1]["relative"] < 1e-6


def test_compress_in_a_pipe_has_a_line_for_each_task(family, zoo_run):
    lines = zoo_run(
        *("compress", "--expert", "math", "--expert", "code", "--exclude", "b.*"),
        *("--set", "mask_lambda=0.3", "--as", "both"),
    ).stdout.splitlines()

    assert ["task", "expert", "size", "error", "of delta"] == lines[-3].split("\t")
    assert ["math", "math@1"] == lines[-2].split("\t")[:2]
    assert any(line.startswith("compression\t") for line in lines)


def test_show_lists_tasks_with_bytes_and_the_ratio(compressed, zoo_run, zoo_json):
    said = dict(line.split("\t", 1) for line in zoo_run("show", "both").stdout.splitlines())

    assert compressed["overlays"] == zoo_json("show", "both")["overlays"]
    assert "code  " in said["tasks"] and "for math@1" in said["tasks"]
    assert "of experts, the base not counted" in said["compression"]
    assert zoo_json("show", "math")["overlays"] is None
    assert "\ntasks\t" not in zoo_run("show", "math").stdout


def test_export_writes_the_plain_model_of_a_task(compressed, zoo_json, zoo_run, tmp_path):
    said = zoo_json("export", "both", "out", "--task", "code")

    assert {"path": "out"} == said
    assert ["model.safetensors"] == [p.name for p in Path("out").iterdir()]
    found, wanted = load_file("out/model.safetensors"), load_file("code.safetensors")
    assert all((found[n] == wanted[n]).all() for n in wanted)
    again = zoo_json("register", "out", "--name", "again", "--base", "base")
    assert again["digest"] == zoo_json("show", "code")["digest"]


def test_export_of_everything_keeps_the_tasks(compressed, zoo_run, zoo_json):
    zoo_json("export", "both", "all")

    for task in ("math", "code"):
        zoo_json("export", "both", task, "--task", task)
        zoo_json("export", "all", f"again-{task}", "--task", task)
        one, other = (Path(p, "model.safetensors").read_bytes() for p in (task, f"again-{task}"))
        assert one == other


def test_a_directory_needs_no_registry_but_its_base(family, zoo_run, monkeypatch):
    merge = ("merge", "--method", "tall_masks", "--expert", "math", "--expert", "code")
    assert 0 == zoo_run(*merge, "--base", "base", "--out", "out").exit_code
    monkeypatch.setenv("ZOO_REGISTRY", "none.db")

    refused = zoo_run("export", "out", "one", "--task", "math")
    made = zoo_run("export", "out", "one", "--task", "math", "--base", "base.safetensors")

    assert 3 == refused.exit_code and "--base PATH" in refused.stderr
    assert 0 == made.exit_code, made.output
    assert Path("one/model.safetensors").is_file()
    assert not Path("none.db").exists()


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("compress", "--as", "m"), 2, "Select the experts"),
        (("compress", "--where", "1", "--expert", "math", "--as", "m"), 2, "Select the experts"),
        (("compress", "--expert", "math"), 2, "--as"),
        (("compress", "--expert", "math", "--method", "ties", "--as", "m"), 8, "per task"),
        (("export", "both", "out", "--base", "base"), 2, "--base goes with --task"),
        (("export", "both", "out", "--task", "maths"), 3, "Did you mean `math`"),
        (("export", "math", "out", "--task", "math"), 3, "one model for everything"),
    ],
)
def test_what_cannot_be_done_is_told(args, code, said, compressed, zoo_run):
    result = zoo_run(*args)

    assert code == result.exit_code, result.output
    assert said in result.stderr
    assert not Path("out").exists()
