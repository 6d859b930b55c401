"""Tasks declared in a registry: added, found again, derived, replaced; and what is refused."""

from __future__ import annotations

import os
import textwrap

import numpy as np
import pytest
import torch
from data_files import idx_pair

import zoo
from zoo.engine.merging import data_of
from zoo.errors import InvalidName, InvalidTask, NotFound, RegistryError
from zoo.tasks.known import task_named

GOLDEN = {
    "small": "sha256:5682df8ac111e5df36dd4895a3fc98c330e89a194aaaf9940cf759acd5c4ee73",
    "turned": "sha256:914dba52d8c66e0be893c67a258d0317dad002b38eee41955acea87d8240320f",
    "noisy": "sha256:6e56e09f9f3040d72cf4193753c92d54faf2853c209c1bc8ce382afe2d85af56",
    "bent": "sha256:8d7834f2577945b1e2da1a82c73bd68444ca56edd76c98ee56c07dab7e97ac0a",
}
"""Digests of data that never changes: what was measured on it stays known to be the same."""


@pytest.fixture
def small(registry, tmp_path):
    """A declared task of three images of 2 x 2 pixels."""
    return registry.add_task(idx_pair(tmp_path))


def test_a_declared_task_is_found_by_another_process(registry, small, plugins):
    digest = small.digest("test")
    with zoo.open(registry.url, plugins=plugins) as again:
        found = task_named(again, "small")
        assert ("small", ("test",), ("0", "1")) == (found.name, found.splits, found.labels)
        assert digest == found.digest("test") == registry.catalog.task("small").digests["test"]
        assert found is again.task("small")


def test_nothing_is_read_until_it_is_used(registry, small, tmp_path, plugins):
    (tmp_path / "x").unlink()
    with zoo.open(registry.url, plugins=plugins) as again:
        assert sorted([*plugins.tasks, "small"]) == [t.name for t in again.tasks()]
        assert ("0", "1") == again.task("small").labels


def test_digests_are_golden(registry, small):
    made = {
        "small": small,
        "turned": registry.add_task(
            {"name": "turned", "from": "small", "derive": [{"rotate": 90}, {"permute": 1}]}
        ),
        "noisy": registry.add_task(
            {"name": "noisy", "from": "small", "derive": [{"noise": {"level": 5}}]}
        ),
        "bent": registry.add_task(
            {"name": "bent", "from": "small", "derive": [{"resize": 5}, {"rotate": 30}]}
        ),
    }

    assert GOLDEN == {name: task.digest("test") for name, task in made.items()}


def test_a_file_is_a_declaration_and_its_path_starts_from_the_file(registry, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    idx_pair(tmp_path / "sub")
    (tmp_path / "small.yaml").write_text(
        textwrap.dedent(
            """
            name: small
            format: idx
            path: sub
            splits:
              test: {inputs: x, targets: y}
            labels: [zero, one]
            license: MIT
            normalize: {mean: 0.5, std: [0.25]}
            """
        )
    )
    monkeypatch.chdir("/")

    task = registry.add_task(os.path.relpath(tmp_path / "small.yaml", "/"))

    assert (("zero", "one"), "MIT") == (task.labels, task.license)
    assert torch.allclose(
        (torch.arange(12).view(3, 1, 2, 2) / 255 - 0.5) / 0.25, task.tensors("test")[0]
    )
    assert str(tmp_path / "sub") == registry.catalog.task("small").declaration["path"]


def test_the_same_again_changes_nothing_and_another_needs_replace(registry, tmp_path):
    declaration = idx_pair(tmp_path)
    registry.add_task(declaration)
    registry.add_task(declaration)

    with pytest.raises(RegistryError, match="already there with another declaration"):
        registry.add_task({**declaration, "license": "MIT"})
    assert registry.task("small").license is None
    assert "MIT" == registry.add_task({**declaration, "license": "MIT"}, replace=True).license


def test_changed_data_is_refused_until_it_is_declared_again(registry, tmp_path, plugins):
    declaration = idx_pair(tmp_path)
    registry.add_task(declaration)
    pixels = bytearray((tmp_path / "x").read_bytes())
    pixels[-1] ^= 1
    (tmp_path / "x").write_bytes(pixels)

    with zoo.open(registry.url, plugins=plugins) as again:
        task = again.task("small")
        with pytest.raises(InvalidTask, match=r"has changed.*zoo tasks add FILE --replace"):
            next(task.batches("test"))
        with pytest.raises(RegistryError, match="already there with other data"):
            again.add_task(declaration)
        again.add_task(declaration, replace=True)
        assert 3 == again.task("small").size("test")


def test_missing_data_is_named_with_the_remedy(registry, small, tmp_path, plugins):
    (tmp_path / "y").unlink()
    with (
        zoo.open(registry.url, plugins=plugins) as again,
        pytest.raises(InvalidTask, match=r"`.*/y` does not exist.*--replace") as e,
    ):
        again.task("small").digest("test")
    assert str(tmp_path / "y") == str(e.value.path)


def test_missing_data_is_refused_when_it_is_declared_and_nothing_is_kept(registry, tmp_path):
    declaration = idx_pair(tmp_path)
    (tmp_path / "y").unlink()

    with pytest.raises(InvalidTask, match="does not exist"):
        registry.add_task(declaration)
    assert [] == registry.catalog.tasks()


@pytest.fixture
def named(registry, tmp_path):
    """A task of names, whose splits have different ones, normalized."""
    np.savez(
        tmp_path / "n.npz",
        x=np.arange(24, dtype=np.uint8).reshape(6, 2, 2),
        train=np.array(["fig", "plum", "fig", "ash", "ash", "fig"]),
        test=np.array(["plum", "oak", "plum", "oak", "plum", "oak"]),
    )
    return registry.add_task(
        {
            "name": "named",
            "format": "npz",
            "path": str(tmp_path / "n.npz"),
            "splits": {
                "test": {"inputs": "x", "targets": "test"},
                "train": {"inputs": "x", "targets": "train"},
                "some": {"inputs": "x", "targets": "train", "fold": {"of": 2, "take": [2]}},
            },
            "license": "MIT",
            "normalize": {"mean": 0.5, "std": 2.0},
        }
    )


def test_labels_of_all_splits_are_found(named):
    assert ("ash", "fig", "oak", "plum") == named.labels
    assert [3, 2, 3, 2, 3, 2] == named.tensors("test")[1].tolist()
    assert [1, 3, 1, 0, 0, 1] == named.tensors("train")[1].tolist()
    assert [1, 0] == named.tensors("some")[1].tolist()
    assert ("train", "some", "test") == named.splits


def test_a_derived_task_takes_over_what_it_does_not_say(registry, named, plugins):
    registry.add_task(
        {"name": "trees", "from": "named", "derive": [{"labels": ["oak", "ash"]}, "invert"]}
    )
    registry.add_task(
        {"name": "plain", "from": "trees", "splits": ["test"], "normalize": {"mean": 0, "std": 1}}
    )

    with zoo.open(registry.url, plugins=plugins) as again:
        trees, plain = again.task("trees"), again.task("plain")
        assert (("oak", "ash"), "MIT", ("train", "some", "test")) == (
            trees.labels,
            trees.license,
            trees.splits,
        )
        assert [1, 1] == trees.tensors("train")[1].tolist()
        inverted = 1 - torch.arange(24).view(6, 1, 2, 2)[1::2] / 255
        assert torch.allclose((inverted - 0.5) / 2, trees.tensors("test")[0])
        assert ("test",) == plain.splits
        assert torch.allclose(inverted, plain.tensors("test")[0])


def test_a_derived_task_notices_that_its_source_changed(registry, tmp_path, plugins):
    declaration = idx_pair(tmp_path)
    registry.add_task(declaration)
    registry.add_task({"name": "turned", "from": "small", "derive": [{"rotate": 180}]})
    idx_pair(tmp_path, targets=(1, 0, 1))
    registry.add_task(declaration, replace=True)

    with (
        zoo.open(registry.url, plugins=plugins) as again,
        pytest.raises(InvalidTask, match="`turned` has changed"),
    ):
        again.task("turned").digest("test")


def test_tasks_of_plugins_can_be_derived_from(registry):
    task = registry.add_task({"name": "d28", "from": "digits", "derive": [{"resize": 28}]})

    assert (355, 1, 28, 28) == task.tensors("test")[0].shape
    assert "CC-BY-4.0" == task.license


def test_removal(registry, small):
    registry.add_task({"name": "turned", "from": "small", "derive": [{"rotate": 180}]})

    with pytest.raises(RegistryError, match=r"what `turned` derive"):
        registry.remove_task("small")
    registry.remove_task("turned")
    registry.remove_task("small")
    assert "small" not in [t.name for t in registry.tasks()]
    with pytest.raises(NotFound, match="No task `small` was declared"):
        registry.remove_task("small")
    with pytest.raises(RegistryError, match="comes from plugin `digits`"):
        registry.remove_task("digits")


def test_an_unknown_task_is_named_with_the_nearest(registry, small):
    with pytest.raises(NotFound, match=r"no task `smal`.*Did you mean `small`"):
        registry.task("smal")


def test_a_task_is_never_derived_from_itself(registry, tmp_path):
    declaration = idx_pair(tmp_path)
    registry.add_task(declaration)
    registry.add_task({"name": "b", "from": "small"})
    registry.add_task({"name": "c", "from": "b"})

    with pytest.raises(InvalidTask, match="derived from itself: small from c from b from small"):
        registry.add_task({"name": "small", "from": "c"}, replace=True)


def test_recipes_with_data_see_declared_tasks(registry, small):
    batches = list(data_of(registry, {"data": {"task": "small", "split": "test"}})())

    assert [0, 1, 1] == batches[0][1].tolist()


BASE = {
    "name": "t",
    "format": "idx",
    "path": "/nowhere",
    "splits": {"test": {"inputs": "x", "targets": "y"}},
}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"format": "idz"}, "no reader of `idz`. Did you mean `idx`"),
        ({"formt": "idx"}, "`formt` is unknown. Did you mean `format`"),
        ({"format": None}, "`format` is missing"),
        ({"splits": {}}, "`splits` is {}"),
        ({"splits": {"test": {"input": "x", "targets": "y"}}}, "`input` is unknown. Did you mean"),
        (
            {"splits": {"test": {"inputs": "x"}}},
            "Split `test` cannot be read: `targets` is missing",
        ),
        ({"options": {"divde": 3}}, "`divde` is unknown. Did you mean `divide`"),
        ({"options": {"divide": 0}}, "`divide` is 0"),
        ({"options": {"shape": []}}, "`shape` is"),
        ({"normalize": {"mean": 0, "std": 0}}, "std"),
        ({"normalize": {"mean": 0}}, "std` is missing"),
        ({"labels": "abc"}, "`labels` is 'abc'"),
        ({"derive": ["rotat"]}, "no step `rotat`"),
        ({"from": "digits"}, "has `from`, and `format` or `path` as well"),
        ({"name": 3}, "no `name`"),
        (
            {"splits": {"test": {"inputs": "x", "targets": "y", "fold": {"of": 2, "take": [3]}}}},
            "takes 3 of 2",
        ),
    ],
)
def test_wrong_declarations_say_what_is_wrong(registry, change, what):
    with pytest.raises(InvalidTask, match=what):
        registry.add_task({**BASE, **change})
    assert [] == registry.catalog.tasks()


@pytest.mark.parametrize(
    ("declaration", "what"),
    [
        ({"name": "t", "from": "digit"}, "`digit`, which is not there. Did you mean `digits`"),
        ({"name": "t", "from": "digits", "labels": ["a"]}, "labels of task `t` are not those"),
        ({"name": "t", "from": "digits", "splits": ["tset"]}, "splits of task `t` are not those"),
        ({"name": "t", "from": "digits", "options": {}}, "`options` is unknown"),
    ],
)
def test_wrong_derived_declarations_say_what_is_wrong(registry, declaration, what):
    with pytest.raises(InvalidTask, match=what):
        registry.add_task(declaration)


def test_names_that_would_confuse_metrics_are_refused(registry, tmp_path):
    with pytest.raises(InvalidName):
        registry.add_task({**idx_pair(tmp_path), "name": "a:b"})
    with pytest.raises(RegistryError, match="already there, from plugin `digits`"):
        registry.add_task({**idx_pair(tmp_path), "name": "digits"})


def test_files_that_are_no_declarations(registry, tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    (tmp_path / "tag.yaml").write_text("!!python/object/apply:os.abort []\n")

    with pytest.raises(NotFound):
        registry.add_task(tmp_path / "none.yaml")
    for name, what in (("list", "no declaration"), ("bad", "be read"), ("tag", "be read")):
        with pytest.raises(InvalidTask, match=what):
            registry.add_task(tmp_path / f"{name}.yaml")


def test_a_task_that_is_not_in_memory_is_no_source(registry, plugins, monkeypatch):
    class Streamed(zoo.Task):
        name = "streamed"

        def batches(self, split, size=256):
            return []

    monkeypatch.setitem(plugins.tasks, "streamed", Streamed())

    with pytest.raises(InvalidTask, match="cannot be derived from `streamed`"):
        registry.add_task({"name": "t", "from": "streamed"})
