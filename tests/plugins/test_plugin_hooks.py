"""Every hook is called, with the arguments its specification names, in a drop-in plugin."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import zoo
from zoo import hookspecs
from zoo.errors import InvalidRecipe, NotFound, PluginError
from zoo.plugins import BrokenPluginWarning, load_plugins

HOOKS = sorted(n for n in vars(hookspecs) if n.startswith("zoo_"))


@pytest.fixture
def observed(tmp_path):
    """What plugins wrote down, one JSON value a line."""
    log = tmp_path / "observed"

    def read():
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return log, read


@pytest.fixture
def state(tmp_path):
    """Writes a checkpoint of one tensor."""

    def write(name, value):
        import torch
        from safetensors.torch import save_file

        path = tmp_path / f"{name}.safetensors"
        save_file({"w": torch.full((3,), float(value))}, path)
        return path

    return write


OBSERVER = """
    import json
    import zoo

    def note(*values):
        with open({log!r}, "a") as log:
            log.write(json.dumps(values) + "\\n")

    @zoo.hookimpl
    def {hook}({arguments}):
        note({values})
        {more}
"""


def observer(drop_in, log, hook, arguments, values, more="pass"):
    return drop_in(
        "observer",
        OBSERVER.format(log=str(log), hook=hook, arguments=arguments, values=values, more=more),
    )


def merge(registry, **asked):
    return registry.merge(**{"method": "linear", "experts": ["a", "b"], "name": "merged", **asked})


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_has_a_test_here_named_after_it(hook):
    tests = [n for n in vars(sys.modules[__name__]) if n.startswith(f"test_{hook}_")]

    assert tests, f"write test_{hook}_..."


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_says_when_it_is_called(hook):
    assert getattr(hookspecs, hook).__doc__


def test_zoo_register_methods_brings_a_method_that_merges(drop_in, tmp_path, state):
    directory = drop_in(
        "largest",
        """
        import zoo

        @zoo.method("largest", version="1.0.0")
        def largest(experts):
            "The largest of each element."
            return experts.amax(dim=0)

        @zoo.hookimpl
        def zoo_register_methods(register):
            register(largest)
        """,
    )

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("a", 1), name="a")
        registry.register(state("b", 2), name="b")
        merged = merge(registry, method="largest")
        assert registry.get("b").digest == merged.digest
        run = registry.catalog.run_of(merged.id)

    assert ("largest", "1.0.0", "largest.py") == (run.method, run.method_version, run.plugin)


def test_zoo_register_formats_brings_a_format_that_registers(drop_in, tmp_path):
    directory = drop_in(
        "line_files",
        """
        import zoo
        from zoo.checkpoint import Format, MemoryCheckpoint, Opened

        class Lines(Format):
            name = "lines"

            def matches(self, path):
                return path.suffix == ".lines"

            def open(self, path):
                import torch

                values = torch.tensor([float(x) for x in path.read_text().split()])
                return MemoryCheckpoint({"w": values}, Opened(str(path)))

        @zoo.hookimpl
        def zoo_register_formats(register):
            register(Lines())
        """,
    )
    source = tmp_path / "model.lines"
    source.write_text("1 2 3")

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        assert 3 == registry.register(source, name="a").parameters


@pytest.mark.parametrize(
    ("kind", "parent", "body"),
    [
        ("architectures", "Architecture", "def build(self, config): return None"),
        ("tasks", "Task", "def batches(self, split, size=256): return []"),
    ],
)
def test_things_are_offered_by_name(kind, parent, body, drop_in, load):
    plugins = load(
        drop_in(
            "offer",
            f"""
            import zoo

            class Thing(zoo.{parent}):
                name = "thing"
                {body}

            @zoo.hookimpl
            def zoo_register_{kind}(register):
                register(Thing())
            """,
        )
    )

    assert [] == plugins.broken
    assert ["thing"] == list(getattr(plugins, kind))
    assert "offer" == plugins.provider(kind, "thing")


def test_zoo_register_metrics_offers_one(drop_in, load):
    plugins = load(
        drop_in(
            "offer",
            """
            import zoo

            @zoo.metric("thing", version="1.0.0", gives={"thing": "a number, dimensionless"})
            def thing(model, *, scale: float = 1.0):
                yield zoo.MetricValue("thing", scale)

            @zoo.hookimpl
            def zoo_register_metrics(register):
                register(thing)
            """,
        )
    )

    assert [] == plugins.broken
    assert ["thing"] == list(plugins.metrics)
    assert 2.0 == plugins.metrics["thing"].parameters(scale=2).scale


test_zoo_register_architectures_offers_one = test_things_are_offered_by_name
test_zoo_register_tasks_offers_one = test_things_are_offered_by_name


def test_zoo_register_commands_adds_a_command(drop_in, monkeypatch):
    from click.testing import CliRunner
    from zoo_cli.main import cli

    directory = drop_in(
        "greeting",
        """
        import zoo

        @zoo.hookimpl
        def zoo_register_commands(cli):
            import click

            @cli.command()
            def greet():
                click.echo("hello")
        """,
    )

    result = CliRunner().invoke(cli, ["--plugins-dir", str(directory), "greet"])

    assert "hello\n" == result.output


def test_zoo_register_transforms_offers_a_model_of_another_form(tmp_path, state):
    directory = tmp_path / "plugins"
    directory.mkdir()
    shutil.copy(Path(__file__).parent / "example_transform.py", directory)
    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        model = registry.register(state("one", 1), name="m", license="mit")
        made = registry.transform("scale", [("model", "m")], {"factor": 3.0}, name="scaled")

        assert ("merge", "m@1", "mit") == (made.kind, made.base, made.license)
        assert {"README.md", "note.txt", "zoo_recipe.json", "model.safetensors"} == {
            path.name for path in registry.path(made.ref).iterdir()
        }
        original = zoo.load_state("m", registry=registry)
        tripled = zoo.load_state("scaled", registry=registry)
        assert {f"scaled.{n}": (t * 3).tolist() for n, t in original.items()} == {
            n: t.tolist() for n, t in tripled.items()
        }
        verdict = registry.verify(made.ref, replay=True)
        assert (True, len(original), "exact") == (
            verdict.ok,
            verdict.checked,
            verdict.replay_class,
        )
        assert [("m@1", "model")] == [
            (e["parent"], e["role"]) for e in registry.lineage(made.ref).edges
        ]
        with pytest.raises(InvalidRecipe, match="cannot take `factr`"):
            registry.transform("scale", [("model", "m")], {"factr": 3.0}, name="scaled")
        assert model.digest == registry.get("m").digest


@pytest.mark.parametrize("sample", [None, 1])
def test_a_replay_finds_tensors_that_a_transform_makes_otherwise(tmp_path, state, sample):
    directory = tmp_path / "plugins"
    directory.mkdir()
    shutil.copy(Path(__file__).parent / "example_transform.py", directory)
    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("one", 1), name="m")
        registry.transform("scale", [("model", "m")], name="scaled")
        scale = registry.plugins.transforms["scale"]
        apply = scale.apply
        scale.apply = lambda parents, said: apply(parents, said.model_copy(update={"factor": 2.5}))

        verdict = registry.verify("scaled", replay=True, sample=sample)

        assert (False, ("scaled.w",)) == (verdict.ok, verdict.mismatched)


def test_zoo_resolve_source_turns_an_id_into_a_path(drop_in, observed, tmp_path, state):
    log, read = observed
    path = state("far", 1)
    directory = observer(
        drop_in,
        log,
        "zoo_resolve_source",
        "source",
        "source",
        f"from pathlib import Path; return Path({str(path)!r}) if 'far:' in source else None",
    )

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        version = registry.register("far:away", name="a")

    assert [["far:away"]] == read()
    assert 3 == version.parameters


def test_zoo_resolve_task_makes_a_task_that_none_registered(drop_in, tmp_path):
    directory = drop_in(
        "counting",
        """
        import zoo

        class Counting(zoo.Task):
            def __init__(self, name):
                self.name = name

            def batches(self, split, size=256):
                return []

        @zoo.hookimpl
        def zoo_resolve_task(name):
            return Counting(name) if name.startswith("count:") else None
        """,
    )

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        assert "count:10" == registry.task("count:10").name
        with pytest.raises(NotFound, match="There is no task `amount:10`"):
            registry.task("amount:10")


def test_zoo_before_register_can_refuse_a_source(drop_in, observed, tmp_path, state):
    log, read = observed
    directory = observer(
        drop_in,
        log,
        "zoo_before_register",
        "source, name",
        "source, name",
        "if name == 'bad': raise zoo.ZooError('Not in my zoo.')",
    )

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("a", 1), name="a")
        with pytest.raises(zoo.ZooError, match="Not in my zoo"):
            registry.register(state("a", 1), name="bad")
        assert ["a"] == [v.name for v in registry.select()]

    assert ["a", "bad"] == [name for _, name in read()]


def test_zoo_after_register_sees_registrations_and_merges(drop_in, observed, tmp_path, state):
    log, read = observed
    directory = observer(drop_in, log, "zoo_after_register", "version", "version.ref")

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("a", 1), name="a")
        registry.register(state("b", 2), name="b")
        merge(registry)

    assert [["a@1"], ["b@1"], ["merged@1"]] == read()


def test_zoo_before_merge_can_refuse_and_nothing_is_left(drop_in, observed, tmp_path, state):
    log, read = observed
    directory = observer(
        drop_in,
        log,
        "zoo_before_merge",
        "recipe",
        "sorted(recipe)",
        "raise zoo.ZooError('Not today.')",
    )

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("a", 1), name="a")
        registry.register(state("b", 2), name="b")
        with pytest.raises(zoo.ZooError, match="Not today"):
            merge(registry)
        assert 2 == len(registry.select())

    assert 1 == len(read())


def test_zoo_after_merge_gets_the_version_or_none(drop_in, observed, tmp_path, state):
    log, read = observed
    directory = observer(
        drop_in,
        log,
        "zoo_after_merge",
        "version, recipe",
        "version and version.ref, bool(recipe)",
    )

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("a", 1), name="a")
        registry.register(state("b", 2), name="b")
        merge(registry)
        merge(registry, name=None, out=tmp_path / "out")

    assert [["merged@1", True], [None, True]] == read()


def test_an_implementation_may_leave_arguments_out(drop_in, load):
    plugins = load(
        drop_in(
            "brief",
            """
            import zoo

            @zoo.hookimpl
            def zoo_after_merge(version): ...
            """,
        )
    )

    assert [] == plugins.broken
    plugins.notify("zoo_after_merge", version=None, recipe={})


FAILING = """
    import zoo

    @zoo.hookimpl
    def {hook}({arguments}):
        raise ValueError("boom")
"""


def test_an_observer_that_fails_is_named_and_the_others_are_told(
    drop_in, observed, tmp_path, state
):
    log, read = observed
    observer(drop_in, log, "zoo_after_register", "version", "version.ref")
    failing = FAILING.format(hook="zoo_after_register", arguments="version")
    drop_in("a_failing", failing)
    directory = drop_in("z_failing", failing)

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        with pytest.warns(BrokenPluginWarning) as warned:
            version = registry.register(state("a", 1), name="a")
        assert ["a@1"] == [v.ref for v in registry.select()]

    assert "a@1" == version.ref
    assert [["a@1"]] == read()
    messages = sorted(str(w.message) for w in warned)
    assert 2 == len(messages)
    assert messages[0].startswith("Plugin `a_failing` failed in `zoo_after_register`: ValueError")
    assert "`z_failing`" in messages[1]


def test_an_observer_of_merges_that_fails_does_not_undo_the_merge(drop_in, tmp_path, state):
    directory = drop_in("failing", FAILING.format(hook="zoo_after_merge", arguments="version"))

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("a", 1), name="a")
        registry.register(state("b", 2), name="b")
        with pytest.warns(BrokenPluginWarning, match="`failing` failed in `zoo_after_merge`"):
            assert "merged@1" == merge(registry).ref
        with pytest.warns(BrokenPluginWarning, match="boom"):
            merge(registry, name=None, out=tmp_path / "out")

    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("hook", ["zoo_before_register", "zoo_resolve_source"])
def test_a_plugin_that_fails_when_asked_is_named_and_nothing_is_registered(hook, drop_in, tmp_path):
    directory = drop_in("failing", FAILING.format(hook=hook, arguments="source"))

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        with pytest.raises(PluginError, match=f"`failing` failed in `{hook}`: .*boom") as e:
            registry.register("far:away", name="a")
        assert [] == registry.select()

    assert ("failing", hook) == (e.value.plugin, e.value.hook)


def test_a_plugin_that_fails_before_a_merge_is_named(drop_in, tmp_path, state):
    directory = drop_in("failing", FAILING.format(hook="zoo_before_merge", arguments="recipe"))

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("a", 1), name="a")
        registry.register(state("b", 2), name="b")
        with pytest.raises(PluginError, match="`failing` failed in `zoo_before_merge`"):
            merge(registry)


def test_all_plugins_are_asked_before_a_source_is_read(drop_in, observed, tmp_path, state):
    log, read = observed
    observer(drop_in, log, "zoo_before_register", "name", "name", "return True")
    directory = tmp_path / "plugins"
    (directory / "second.py").write_text((directory / "observer.py").read_text())

    with zoo.open(tmp_path / "r.db", plugins_dirs=[directory]) as registry:
        registry.register(state("a", 1), name="a")

    assert [["a"], ["a"]] == read()


def test_bundled_plugins_need_no_directory():
    assert "safetensors" in {f.name for f in load_plugins().formats}
