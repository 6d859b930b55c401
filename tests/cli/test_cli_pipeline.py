"""The whole pipeline, typed as a user types it, with the JSON that was promised."""

from __future__ import annotations

import json

import pytest

PROMISED = {
    "name",
    "version",
    "kind",
    "base",
    "task",
    "phase",
    "digest",
    "path",
    "parameters",
    "bytes",
    "metrics",
    "tags",
}


@pytest.fixture
def family(zoo_json, checkpoint):
    """A base and two experts in the registry."""
    zoo_json("register", checkpoint("base", 0.0), "--name", "base", "--kind", "base")
    for name, value, accuracy in (("math", 1.0, 0.61), ("code", 3.0, 0.55)):
        zoo_json(
            "register",
            checkpoint(name, value),
            *("--name", name, "--base", "base", "--task", name, "--license", "MIT"),
            *("--metric", f"accuracy={accuracy}", "--metric", f"accuracy/test={accuracy / 2}"),
            *("--tag", "seed=1", "--phase", "IV-B"),
        )


@pytest.fixture
def merged(family, zoo_json):
    """The average of the two experts, as `both@1`."""
    return zoo_json(
        *("merge", "--method", "linear", "--where", "base = 'base'", "--as", "both"),
        *("--tag", "by=test", "--task", "both"),
    )


def test_register_tells_what_is_known_of_the_version(zoo_json, family):
    said = zoo_json("show", "math")

    assert set(said) >= PROMISED
    assert ("math", 1, "expert", "base@1") == tuple(
        said[k] for k in ("name", "version", "kind", "base")
    )
    assert ("math", "IV-B", "MIT") == (said["task"], said["phase"], said["license"])
    assert {"accuracy": 0.61, "accuracy/test": 0.305} == said["metrics"]
    assert {"seed": "1"} == said["tags"]
    assert (34, 136) == (said["parameters"], said["bytes"])
    assert ["model.safetensors"] == [f["path"] for f in said["files"]]


def test_show_in_a_pipe_is_one_field_a_line(zoo_run, family):
    fields = dict(line.split("\t", 1) for line in zoo_run("show", "math").stdout.splitlines())

    assert "math@1" == fields["version"]
    assert "34 (34)" == fields["parameters"]


def test_ls_selects_orders_and_limits(zoo_json, zoo_run, family):
    listed = zoo_json(
        "ls", "--where", "accuracy > 0.5", "--order-by", "accuracy desc", "--limit", "1"
    )

    assert ["math"] == [v["name"] for v in listed]
    assert set(listed[0]) >= PROMISED
    head, *rows = (line.split("\t") for line in zoo_run("ls").stdout.splitlines())
    assert ["base@1", "code@1", "math@1"] == [row[0] for row in rows]
    assert "0.61" == rows[2][head.index("accuracy")]


def test_an_empty_selection_is_an_empty_list_and_a_word_on_stderr(zoo_json, zoo_run, family):
    assert [] == zoo_json("ls", "--where", "task = 'art'")
    said = zoo_run("ls", "--where", "task = 'art'")
    assert ("", "No version matches.\n") == (said.stdout, said.stderr)


def test_an_unknown_column_suggests_the_nearest(zoo_run, family):
    result = zoo_run("ls", "--where", "tsk = 'math'")

    assert 7 == result.exit_code
    assert "`task`" in result.stderr


def test_annotate_changes_what_is_said_and_not_the_digest(zoo_json, family):
    before = zoo_json("show", "math")
    after = zoo_json(
        *("annotate", "math", "--tag", "good=yes", "--untag", "seed"),
        *("--metric", "accuracy=0.7", "--phase", "V"),
    )

    assert {"good": "yes"} == after["tags"]
    assert (0.7, "V") == (after["metrics"]["accuracy"], after["phase"])
    assert before["digest"] == after["digest"]


def test_an_alias_names_a_version_until_it_is_taken_away(zoo_json, zoo_run, family):
    said = zoo_json("alias", "math", "best")

    assert {"alias": "math@best", "version": "math@1"} == said
    assert ["best"] == zoo_json("show", "math@best")["aliases"]
    zoo_json("alias", "math", "best", "--delete")
    assert 3 == zoo_run("show", "math@best").exit_code


def test_a_merge_is_a_new_version_with_its_run(zoo_json, merged):
    assert set(merged) >= PROMISED
    assert ("both", 1, "merge") == (merged["name"], merged["version"], merged["kind"])
    assert {"by": "test"} == merged["tags"]
    made_by = zoo_json("show", "both")["made_by"]
    assert "linear" == made_by["method"]
    assert "base = 'base'" == made_by["selection"]["where"]
    assert ["expert", "expert"] == [i["role"] for i in made_by["inputs"]]


def test_a_recipe_file_merges_the_same_bytes(zoo_json, merged, tmp_path):
    (tmp_path / "recipe.yaml").write_text("method: linear\nselect:\n  where: base = 'base'\n")

    assert merged["digest"] == zoo_json("merge", "recipe.yaml", "--as", "again")["digest"]


def test_set_reads_yaml(zoo_json, family):
    said = zoo_json(
        *("merge", "--method", "linear", "--expert", "math", "--expert", "code"),
        *("--set", "weight=[1, 1e-3]", "--as", "mostly"),
    )

    weights = zoo_json("lineage", "mostly")["edges"]
    assert {"math@1": 1.0, "code@1": 0.001} == {
        e["parent"]: e["weight"] for e in weights if e["child"] == "mostly@1"
    }
    assert "merge" == said["kind"]


def test_a_dry_run_predicts_and_stores_nothing(zoo_json, zoo_run, family):
    plan = zoo_json("merge", "--method", "linear", "--where", "base = 'base'", "--dry-run")

    assert 2 == plan["tensors"]
    assert 3 == len(zoo_json("ls"))
    human = zoo_run("merge", "--method", "linear", "--where", "base = 'base'", "--dry-run")
    assert "experts\tcode@1 math@1" in human.stdout.splitlines()


def test_out_writes_a_directory_and_stores_nothing(zoo_json, family, tmp_path):
    said = zoo_json(
        *("merge", "--method", "linear", "--where", "base = 'base'"), *("--out", tmp_path / "out")
    )

    assert str(tmp_path / "out") == said["out"]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert 3 == len(zoo_json("ls"))


def test_paths_merge_into_a_directory_without_any_registry(zoo_run, checkpoint, tmp_path):
    merge = ["merge", "--method", "linear"]
    for name in ("a", "b"):
        merge += ["--expert", checkpoint(name, 1.0)]

    planned = zoo_run(*merge, "--dry-run")
    merged = zoo_run(*merge, "--out", tmp_path / "out")

    assert 0 == planned.exit_code, planned.output
    assert 0 == merged.exit_code, merged.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "registry.db").exists()


def test_an_unknown_parameter_suggests_the_nearest(zoo_run, family):
    result = zoo_run(
        *("merge", "--method", "ties", "--where", "base = 'base'", "--base", "base"),
        *("--set", "densty=0.2", "--as", "x"),
    )

    assert 8 == result.exit_code
    assert "`density`" in result.stderr


def test_lineage_goes_up_and_down_in_four_forms(zoo_json, zoo_run, merged):
    up = zoo_json("lineage", "both")

    assert {"nodes", "edges"} <= set(up)
    experts = [e for e in up["edges"] if e["child"] == "both@1" and e["role"] == "expert"]
    assert {"math@1", "code@1"} == {e["parent"] for e in experts}
    assert {"parent", "child", "role", "weight", "run"} <= set(up["edges"][0])
    down = zoo_json("lineage", "math", "--descendants")
    assert "both@1" in {e["child"] for e in down["edges"]}
    assert up == json.loads(zoo_run("lineage", "both", "--format", "json").stdout)
    assert "math@1" in zoo_run("lineage", "both").stdout
    assert "digraph" in zoo_run("lineage", "both", "--format", "dot").stdout
    assert zoo_run("lineage", "both", "--format", "mermaid").stdout.startswith(
        ("graph", "flowchart")
    )


def test_verify_reads_and_replays(zoo_json, zoo_run, merged):
    read = zoo_json("verify", "both")
    replayed = zoo_json("verify", "both", "--replay")

    assert {"ok": True, "checked": 2, "mismatched": []}.items() <= read.items()
    assert {"ok": True, "checked": 2, "mismatched": []}.items() <= replayed.items()
    assert 1 == zoo_json("verify", "both", "--sample", "1")["checked"]
    assert "ok" in zoo_run("verify", "both", "--replay").stderr


def test_a_replay_has_the_memory_it_is_given(zoo_run, merged):
    little = zoo_run("verify", "both", "--replay", "--memory", "64MiB")

    assert 6 == little.exit_code
    assert "--memory" in little.stderr
    assert 0 == zoo_run("verify", "both", "--replay", "--memory", "2GiB").exit_code


def test_a_replay_says_what_may_make_other_bytes(zoo_run, merged, monkeypatch):
    from zoo.contract import Method

    monkeypatch.setattr(Method, "code_hash", property(lambda self: "sha256:0"))

    assert "note: the method's code differs" in zoo_run("verify", "both", "--replay").stderr


def test_damage_is_found_by_verify_and_fsck_which_name_the_versions(zoo_run, zoo_json, merged):
    from pathlib import Path

    path = Path(zoo_json("path", "math")["path"], "model.safetensors").resolve()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    verified = zoo_run("verify", "math", "--json")
    checked = zoo_run("fsck", "--json")

    assert 12 == verified.exit_code
    assert not json.loads(verified.stdout)["ok"]
    assert 12 == zoo_run("verify", "math").exit_code
    assert 10 == checked.exit_code
    said = json.loads(checked.stdout)
    assert not said["ok"]
    assert {"object", "versions", "descendants"} <= set(said["damaged"][0])
    assert ["math@1"] == said["damaged"][0]["versions"]
    assert ["both@1"] == said["damaged"][0]["descendants"]
    assert "math@1" in zoo_run("fsck").stdout


def test_diff_tells_shared_and_changed_tensors(zoo_json, zoo_run, family):
    said = zoo_json("diff", "math", "code")

    assert ["b.bias"] == said["shared"]
    assert ["a.weight"] == [c["tensor"] for c in said["changed"]]
    human = zoo_run("diff", "math", "code")
    assert "1 shared, 1 changed" in human.stderr
    assert "a.weight" in human.stdout


def test_path_and_export_give_directories_with_the_weights(zoo_run, zoo_json, family, tmp_path):
    from pathlib import Path

    assert Path(zoo_run("path", "math").stdout.strip(), "model.safetensors").is_file()
    said = zoo_json("export", "math", tmp_path / "plain")
    assert not Path(said["path"], "model.safetensors").is_symlink()


def test_query_keeps_columns_of_one_name_apart(zoo_json, family):
    assert [{"a": 1, "a_1": 2}] == zoo_json("query", "SELECT 1 AS a, 2 AS a")


def test_query_answers_sql_as_rows(zoo_json, zoo_run, family):
    sql = "SELECT task, count(*) AS n FROM versions WHERE task IS NOT NULL GROUP BY task ORDER BY 1"

    assert [{"task": "code", "n": 1}, {"task": "math", "n": 1}] == zoo_json("query", sql)
    assert ["task\tn", "code\t1", "math\t1"] == zoo_run("query", sql).stdout.splitlines()


def test_a_removed_version_is_gone_but_for_its_lineage_and_gc_frees_its_bytes(
    zoo_json, zoo_run, merged
):
    assert {"removed": "math@1", "reason": "test"} == zoo_json("rm", "math", "--reason", "test")

    assert 3 == zoo_run("show", "math").exit_code
    assert "math@1" in zoo_run("lineage", "both").stdout
    would = zoo_json("gc", "--dry-run")
    freed = zoo_json("gc")
    assert would["removed_objects"] == freed["removed_objects"]
    assert freed["removed_bytes"] > 0
    assert zoo_json("fsck")["ok"]


def test_init_makes_a_registry_and_a_second_time_changes_nothing(zoo_json, tmp_path):
    first = zoo_json("init")

    assert (tmp_path / "registry.db").is_file()
    assert first == zoo_json("init")
    assert [] == zoo_json("ls")


def test_init_does_not_claim_to_have_given_a_registry_another_store(zoo_json, zoo_run, tmp_path):
    made = zoo_json("init")

    refused = zoo_run("init", "--store", tmp_path / "other")

    assert 11 == refused.exit_code
    assert made["store"] in refused.stderr
    assert not (tmp_path / "other").exists()
    (tmp_path / "registry.store").rename(tmp_path / "other")
    assert str(tmp_path / "other") == zoo_json("init", "--store", tmp_path / "other")["store"]
    assert made["registry"] == zoo_json("init")["registry"]
    assert not (tmp_path / "registry.store").exists()


def test_the_registry_is_chosen_by_option_and_by_environment(
    zoo_json, zoo_run, tmp_path, monkeypatch
):
    assert 0 == zoo_run("--registry", tmp_path / "other.db", "init").exit_code
    assert (tmp_path / "other.db").is_file()
    monkeypatch.setenv("ZOO_REGISTRY", str(tmp_path / "other.db"))
    assert [] == zoo_json("ls")
