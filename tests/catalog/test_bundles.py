"""Bundles: a zoo leaves as one file, and arrives whole in another, or not at all."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import MetricValue, Registry
from zoo.bundle.pack import CATALOG, MANIFEST, member
from zoo.digest import canonical_json, flat_key, json_digest
from zoo.errors import InvalidCheckpoint, NotFound, RegistryError, StoreError, VerificationFailed

Model = Callable[..., Path]


def _writes(place: Path) -> Model:
    def write(name: str, value: float) -> Path:
        folder = place / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"a.weight": torch.full((3, 4), value), "b.bias": torch.arange(5.0) + value}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "tiny", "value": value}))
        return folder

    return write


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Writes a model of two tensors."""
    return _writes(tmp_path)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Registry]]:
    made: dict[str, Registry] = {}

    def open_(name: str) -> Registry:
        if name not in made:
            (tmp_path / name).mkdir()
            made[name] = zoo.open(tmp_path / name / "registry.db")
        return made[name]

    yield open_
    for registry in made.values():
        registry.close()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with everything in it: merges, aliases that moved, tombstones, metrics of all kinds."""
    place = tmp_path_factory.mktemp("grown")
    model = _writes(place)
    (place / "ours").mkdir()
    with zoo.open(place / "ours" / "registry.db") as registry:
        registry.register(model("base", 0.0), name="base", kind="base", license="mit")
        for number, name in enumerate(("math", "code"), 1):
            registry.register(
                model(name, number),
                name=name,
                base="base",
                task=name,
                tags={"lab": "ours"},
                metrics=[MetricValue("accuracy", 0.5 + number / 8, "test", stderr=0.01)],
            )
        registry.merge(method="linear", experts=["math", "code"], name="both", seed=3)
        registry.alias("math", "best")
        registry.register(model("math2", 5.0), name="math", base="base")
        registry.alias("math@2", "best")
        registry.alias("both", "best")
        registry.unalias("both", "best")
        ids = [registry.get("math@1").id, registry.get("code").id]
        registry.catalog.record_group_metrics(ids, [MetricValue("barrier", 0.25)])
        rule = registry.catalog.add_phase_rule("usual", {"loss": 0.1, "connectivity": 0.9})
        registry.catalog.set_phase([registry.get("code").id], "IV-B", f"usual@{rule}")
        registry.remove("math@2", "diverged")
        registry.export_zoo(place / "all.zoo")
    return place


@pytest.fixture
def ours(grown: Path, tmp_path: Path) -> Iterator[Registry]:
    """A copy of that zoo."""
    shutil.copytree(grown, tmp_path, symlinks=True, dirs_exist_ok=True)
    (tmp_path / "all.zoo").unlink()
    with zoo.open(tmp_path / "ours" / "registry.db") as registry:
        yield registry


def told(registry: Registry) -> dict[str, Any]:
    """All that a zoo says of its versions, but for what belongs to its own database."""

    def shown(ref: str) -> dict[str, Any]:
        version = registry.catalog.get(ref, removed=True)
        found = version.as_dict()
        found["notes"] = {k: v for k, v in version.notes.items() if k != "imported"}
        run = registry.catalog.run_of(version.id)
        found["recipe"] = run.recipe if run else None
        found["tensors"] = registry.catalog.tensors(version.id)
        found["files"] = registry.catalog.files(version.id)
        found["measured"] = registry.catalog.measured(version.id)
        found["edges"] = registry.lineage(ref).edges
        del found["path"]
        return found

    refs = ["base@1", "math@1", "math@2", "code@1", "both@1"]
    return {
        "versions": {ref: shown(ref) for ref in refs},
        "live": [v.ref for v in registry.select()],
        "aliases": {n: registry.catalog.alias_history(n) for n in ("base", "math", "both")},
        "groups": registry.catalog.group_metrics(),
        "rules": [r.thresholds for r in registry.catalog.phase_rules()],
    }


def is_empty(registry: Registry) -> bool:
    """Whether a refused bundle left nothing: no version, no object, nothing staged."""
    return (
        not registry.select()
        and not list(registry.store.objects())
        and not list((registry.store.root / "staging").iterdir())
        and not registry.catalog.check_audit()
    )


# The way there and back


def test_a_zoo_arrives_whole_in_an_empty_one(ours, opened, tmp_path):
    packed = ours.export_zoo(tmp_path / "all.zoo")
    report = opened("theirs").import_zoo(tmp_path / "all.zoo")

    assert (5, True) == (packed.versions, packed.whole)
    assert {f"{n}@{i}" for n, i in (("base", 1), ("math", 1), ("math", 2))} < report.added.keys()
    assert all(was == now for was, now in report.added.items())
    assert told(ours) == told(opened("theirs"))
    assert opened("theirs").fsck().ok
    assert opened("theirs").verify("both", replay=True).ok


def test_the_same_zoo_gives_the_same_bytes(ours, tmp_path):
    ours.export_zoo(tmp_path / "one.zoo")
    ours.export_zoo(tmp_path / "two.zoo")

    assert (tmp_path / "one.zoo").read_bytes() == (tmp_path / "two.zoo").read_bytes()


def test_a_bundle_taken_in_twice_changes_nothing(ours, opened, tmp_path):
    ours.export_zoo(tmp_path / "all.zoo")
    opened("theirs").import_zoo(tmp_path / "all.zoo")
    before = opened("theirs").catalog.events()
    report = opened("theirs").import_zoo(tmp_path / "all.zoo")

    assert ({}, 5, 0, []) == (report.added, report.known, report.said, report.kept)
    assert before == opened("theirs").catalog.events()


def test_a_dry_run_says_the_same_and_adds_nothing(ours, opened, tmp_path):
    ours.export_zoo(tmp_path / "all.zoo")
    theirs = opened("theirs")
    trial = theirs.import_zoo(tmp_path / "all.zoo", dry_run=True)

    assert is_empty(theirs)
    done = theirs.import_zoo(tmp_path / "all.zoo").as_dict()
    assert {**done, "dry_run": True} == trial.as_dict()


def test_what_was_added_elsewhere_comes_home_and_nothing_is_there_twice(
    ours, opened, model, tmp_path
):
    ours.export_zoo(tmp_path / "there.zoo")
    theirs = opened("theirs")
    theirs.import_zoo(tmp_path / "there.zoo")
    theirs.register(model("math3", 9.0), name="math", base="base")
    theirs.alias("math@3", "best")
    theirs.annotate("code", tags={"seen": "yes"}, metrics={"loss": 0.25})
    theirs.export_zoo(tmp_path / "back.zoo")
    report = ours.import_zoo(tmp_path / "back.zoo")

    assert ({"math@3": "math@3"}, 5) == (report.added, report.known)
    assert "math@3" == ours.get("math@best").ref
    assert ("yes", 0.25) == (ours.get("code").tags["seen"], ours.get("code").metrics["loss"])
    assert ours.fsck().ok
    assert ours.import_zoo(tmp_path / "back.zoo").added == {}


def test_history_comes_along_event_by_event(ours, opened, tmp_path):
    ours.export_zoo(tmp_path / "all.zoo")
    opened("theirs").import_zoo(tmp_path / "all.zoo")
    came = [
        e["detail"]["event"]
        for e in opened("theirs").catalog.events()
        if e["action"] == "import" and e["subject"] != "zoo"
    ]

    assert [e["hash"] for e in ours.catalog.events()] == [e["hash"] for e in came]
    assert [] == opened("theirs").catalog.check_audit()


def test_a_part_brings_its_ancestors_and_no_more(ours, opened, model, tmp_path):
    ours.register(model("other", 7.0), name="other")
    packed = ours.export_zoo(tmp_path / "part.zoo", refs=["both"])
    theirs = opened("theirs")
    theirs.import_zoo(tmp_path / "part.zoo")

    assert not packed.whole
    assert ["base@1", "both@1", "code@1", "math@1"] == sorted(v.ref for v in theirs.select())
    assert theirs.verify("both", replay=True).ok
    with pytest.raises(NotFound, match="No version fits"):
        ours.export_zoo(tmp_path / "none.zoo", where="task = 'law'")


def test_versions_of_a_part_are_numbered_without_gaps(ours, opened, model, tmp_path):
    ours.register(model("math3", 9.0), name="math", base="base")
    ours.export_zoo(tmp_path / "part.zoo", refs=["math@3"])
    report = opened("theirs").import_zoo(tmp_path / "part.zoo")

    assert {"base@1": "base@1", "math@3": "math@1"} == report.added
    ours.export_zoo(tmp_path / "all.zoo")
    later = opened("theirs").import_zoo(tmp_path / "all.zoo")
    assert ("math@2", "math@3") == (later.added["math@1"], later.added["math@2"])


# Two zoos that grew apart


def test_entries_that_only_share_a_name_wait_for_a_word(ours, opened, model, tmp_path):
    theirs = opened("theirs")
    theirs.register(model("their-math", 4.0), name="math")
    ours.export_zoo(tmp_path / "all.zoo")

    with pytest.raises(RegistryError, match=r"1 of .* `math`.*--on-conflict rename"):
        theirs.import_zoo(tmp_path / "all.zoo")
    assert ["math@1"] == [v.ref for v in theirs.select()]


def test_append_puts_versions_after_those_that_are_there(ours, opened, model, tmp_path):
    theirs = opened("theirs")
    own = theirs.register(model("their-math", 4.0), name="math")
    ours.export_zoo(tmp_path / "all.zoo")
    report = theirs.import_zoo(tmp_path / "all.zoo", conflict="append")

    assert ("math@2", "math@3") == (report.added["math@1"], report.added["math@2"])
    assert own == theirs.get("math@1")
    assert ours.get("math@1").digest == theirs.get("math@2").digest
    assert theirs.verify("both", replay=True).ok
    assert theirs.fsck().ok


def test_rename_gives_an_entry_of_its_own_and_goes_on_there(ours, opened, model, tmp_path):
    theirs = opened("theirs")
    theirs.register(model("their-math", 4.0), name="math")
    ours.export_zoo(tmp_path / "all.zoo")
    theirs.import_zoo(tmp_path / "all.zoo", conflict="rename")
    other = f"math-{ours.catalog.owner.id[:8]}"
    ours.register(model("math3", 9.0), name="math")
    ours.export_zoo(tmp_path / "later.zoo")
    report = theirs.import_zoo(tmp_path / "later.zoo")

    assert {"math@3": f"{other}@3"} == report.added
    assert ours.get("math@3").digest == theirs.get(other).digest


def test_what_both_zoos_say_differently_stays_and_is_told(ours, opened, tmp_path):
    ours.export_zoo(tmp_path / "all.zoo")
    theirs = opened("theirs")
    theirs.import_zoo(tmp_path / "all.zoo")
    theirs.annotate("code", tags={"lab": "theirs"}, metrics={"accuracy/test": 0.125})
    theirs.alias("math@1", "best")
    ours.alias("math@1", "first")
    ours.register(tmp_path / "models" / "code", name="math")
    ours.alias("math@3", "best")
    ours.export_zoo(tmp_path / "later.zoo")
    report = theirs.import_zoo(tmp_path / "later.zoo")

    assert [
        "Tag `lab` of `code@1` is `theirs`, not `ours`.",
        "`accuracy/test` of `code@1` is 0.125, not 0.75.",
        "Alias `math@best` stays where it was moved here.",
    ] == report.kept
    assert "math@1" == theirs.get("math@best").ref
    assert "math@1" == theirs.get("math@first").ref


def test_rules_of_one_name_and_other_thresholds_both_stay(ours, opened, tmp_path):
    theirs = opened("theirs")
    theirs.catalog.add_phase_rule("usual", {"loss": 0.5, "connectivity": 0.5})
    ours.export_zoo(tmp_path / "all.zoo")
    theirs.import_zoo(tmp_path / "all.zoo")

    assert "usual@2" == theirs.get("code").phase_rule
    assert 0.1 == theirs.catalog.phase_rule("usual", 2).thresholds["loss"]


# What must not get in


def packed_anew(
    source: Path,
    target: Path,
    *,
    edit: Callable[[list[dict[str, Any]]], None] | None = None,
    objects: Mapping[str, bytes] | None = None,
    manifest: Mapping[str, Any] | None = None,
    extra: tuple[str, bytes] | None = None,
) -> Path:
    """A bundle that someone changed and sealed again, digests of the catalog included."""
    with tarfile.open(source) as tar:
        content = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    head = json.loads(content.pop(MANIFEST))
    lines = [json.loads(x) for x in content.pop(CATALOG).splitlines()]
    if edit:
        edit(lines)
    catalog = b"".join(canonical_json(x) + b"\n" for x in lines)
    head["catalog"] = {"bytes": len(catalog), "sha256": flat_key(catalog)[5:]}
    content |= {member(k): v for k, v in (objects or {}).items()}
    head["objects"] = [[k, len(content[member(k)])] for k, _ in head["objects"]]
    head |= manifest or {}
    with tarfile.open(target, "w") as tar:
        entries = [(MANIFEST, canonical_json(head)), (CATALOG, catalog), *content.items()]
        for name, data in [*entries, *([extra] if extra else [])]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_byte_never_gets_in(grown, ours, opened, tmp_path, seed):
    data = bytearray((grown / "all.zoo").read_bytes())
    place = random.Random(seed).randrange(len(data))
    data[place] ^= 1 << random.Random(seed).randrange(8)
    (tmp_path / "bad.zoo").write_bytes(data)
    theirs = opened("theirs")
    try:
        theirs.import_zoo(tmp_path / "bad.zoo")
    except (InvalidCheckpoint, VerificationFailed):
        assert is_empty(theirs)
    else:  # padding between the members, or a time of one, which mean nothing
        assert told(ours) == told(theirs)
        assert theirs.fsck().ok


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_bundle_that_was_cut_short_is_refused(grown, opened, tmp_path, part):
    with tarfile.open(grown / "all.zoo") as tar:
        last = tar.getmembers()[-1]
    data = (grown / "all.zoo").read_bytes()[: last.offset_data + last.size]
    (tmp_path / "cut.zoo").write_bytes(data[: int(part * len(data))])

    with pytest.raises(InvalidCheckpoint, match="no bundle"):
        opened("theirs").import_zoo(tmp_path / "cut.zoo")
    assert is_empty(opened("theirs"))


def test_other_bytes_under_an_objects_name_are_refused(ours, opened, tmp_path):
    ours.export_zoo(tmp_path / "all.zoo")
    key = next(f.object for f in ours.catalog.files(ours.get("code").id) if "config" in f.path)
    bad = packed_anew(tmp_path / "all.zoo", tmp_path / "bad.zoo", objects={key: b"{}"})

    with pytest.raises(VerificationFailed, match="is not what it is called"):
        opened("theirs").import_zoo(bad)
    assert is_empty(opened("theirs"))


def test_a_version_with_anothers_weights_is_refused(ours, opened, tmp_path):
    def swap(lines: list[dict[str, Any]]) -> None:
        versions = {x["name"]: x for x in lines if x["is"] == "version" and x["number"] == 1}
        versions["code"]["files"] = versions["base"]["files"]

    ours.export_zoo(tmp_path / "all.zoo")
    bad = packed_anew(tmp_path / "all.zoo", tmp_path / "bad.zoo", edit=swap)

    with pytest.raises(VerificationFailed, match=r"weights of `code@1` .* are not those"):
        opened("theirs").import_zoo(bad)
    assert is_empty(opened("theirs"))


def test_a_list_of_tensors_that_does_not_add_up_is_refused(ours, opened, tmp_path):
    def change(lines: list[dict[str, Any]]) -> None:
        manifest = next(x for x in lines if x["is"] == "manifest")
        manifest["tensors"][0][3] = "sha256:" + "0" * 64

    ours.export_zoo(tmp_path / "all.zoo")
    bad = packed_anew(tmp_path / "all.zoo", tmp_path / "bad.zoo", edit=change)

    with pytest.raises(VerificationFailed, match="do not add up"):
        opened("theirs").import_zoo(bad)


def _tell_otherwise(lines: list[dict[str, Any]]) -> None:
    event = next(x for x in lines if x["is"] == "event" and x["action"] == "remove")
    event["detail"] = canonical_json({"reason": "nothing was wrong"}).decode()


def _leave_out(lines: list[dict[str, Any]]) -> None:
    lines.remove(next(x for x in lines if x["is"] == "event" and x["action"] == "remove"))


def _cut_off(lines: list[dict[str, Any]]) -> None:
    lines.pop()


def _rewrite(lines: list[dict[str, Any]]) -> None:
    """All hashes anew: only the head that the zoo wrote down tells."""
    previous = ""
    for line in (x for x in lines if x["is"] == "event"):
        line["previous"] = previous
        line["at"] = "2020-01-01T00:00:00.000000Z"
        row = {k: v for k, v in line.items() if k not in ("is", "hash")}
        line["hash"] = previous = json_digest(row)


@pytest.mark.parametrize("edit", [_tell_otherwise, _leave_out, _cut_off, _rewrite])
def test_an_audit_log_that_was_tampered_with_is_refused(ours, opened, tmp_path, edit):
    ours.export_zoo(tmp_path / "all.zoo")
    bad = packed_anew(tmp_path / "all.zoo", tmp_path / "bad.zoo", edit=edit)

    with pytest.raises(VerificationFailed, match="audit log"):
        opened("theirs").import_zoo(bad)
    assert is_empty(opened("theirs"))


def _without(key: str) -> Callable[[list[dict[str, Any]]], None]:
    def edit(lines: list[dict[str, Any]]) -> None:
        next(x for x in lines if x["is"] == "version").pop(key)

    return edit


def _path(place: str) -> Callable[[list[dict[str, Any]]], None]:
    def edit(lines: list[dict[str, Any]]) -> None:
        files = next(x for x in lines if x["is"] == "version")["files"]
        next(f for f in files if f[0] == "config.json")[0] = place

    return edit


def _orphan(lines: list[dict[str, Any]]) -> None:
    next(x for x in lines if x["is"] == "version" and x["base"])["base"] = "nobody@1"


def _named(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        if line.get("name") == "code":
            line["name"] = "../../etc"


HOSTILE = {
    **{f"version without {k}": _without(k) for k in ("notes", "files", "digest", "run", "tags")},
    **{p: _path(p) for p in ("../../escape.json", "/etc/passwd", "a/../../b", "a\0b")},
    "a base that is not there": _orphan,
    "a name that is a path": _named,
    "no zoo": lambda lines: lines.pop(0),
    "a line that is a number": lambda lines: lines.append(7),
    "version of another type": lambda lines: lines.append({"is": "version", "name": 3}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_catalog_is_refused_and_leaves_nothing(ours, opened, tmp_path, what):
    ours.export_zoo(tmp_path / "all.zoo")
    bad = packed_anew(tmp_path / "all.zoo", tmp_path / "bad.zoo", edit=HOSTILE[what])

    with pytest.raises(zoo.ZooError):
        opened("theirs").import_zoo(bad)
    assert is_empty(opened("theirs"))
    assert not (tmp_path / "escape.json").exists()


@pytest.mark.parametrize(
    "manifest",
    [
        {"format": 2},
        {"format": "1"},
        {"objects": [["flat:../../x", 3]]},
        {"objects": [["flat:" + "0" * 64, -1]]},
        {"objects": {"flat": 1}},
        {"catalog": None},
    ],
)
def test_a_hostile_manifest_is_refused(ours, opened, tmp_path, manifest):
    ours.export_zoo(tmp_path / "all.zoo")
    bad = packed_anew(tmp_path / "all.zoo", tmp_path / "bad.zoo", manifest=manifest)

    with pytest.raises(InvalidCheckpoint):
        opened("theirs").import_zoo(bad)
    assert is_empty(opened("theirs"))


def test_members_that_nobody_announced_are_refused(ours, opened, tmp_path):
    ours.export_zoo(tmp_path / "all.zoo")
    bad = packed_anew(tmp_path / "all.zoo", tmp_path / "bad.zoo", extra=("../../evil", b"x"))

    with pytest.raises(InvalidCheckpoint, match="more than it says"):
        opened("theirs").import_zoo(bad)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_in_place_of_files_are_refused(opened, tmp_path, kind):
    info = tarfile.TarInfo(MANIFEST)
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "bad.zoo", "w") as tar:
        tar.addfile(info)

    with pytest.raises(InvalidCheckpoint, match="where one belongs"):
        opened("theirs").import_zoo(tmp_path / "bad.zoo")


def test_a_header_of_gigabytes_is_not_read(opened, tmp_path):
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    with (tmp_path / "bad.zoo").open("wb") as file:
        file.write(info.tobuf())
        file.truncate(8 << 30)  # sparse: it takes no room

    with pytest.raises(InvalidCheckpoint, match="no archive of ours"):
        opened("theirs").import_zoo(tmp_path / "bad.zoo")


# Accidents


def test_a_bundle_never_replaces_a_file(ours, tmp_path):
    (tmp_path / "all.zoo").write_text("mine")

    with pytest.raises(StoreError, match="exists"):
        ours.export_zoo(tmp_path / "all.zoo")
    assert "mine" == (tmp_path / "all.zoo").read_text()


def test_a_missing_object_is_named_and_no_bundle_is_left(ours, tmp_path):
    key = next(f.object for f in ours.catalog.files(ours.get("code").id))
    ours.store.path(key).unlink()

    with pytest.raises(NotFound, match=key):
        ours.export_zoo(tmp_path / "all.zoo")
    assert ["models", "ours"] == sorted(p.name for p in tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(ours, opened, tmp_path, monkeypatch):
    ours.export_zoo(tmp_path / "all.zoo")
    theirs = opened("theirs")
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 10})())

    assert usage
    with pytest.raises(StoreError, match="10 free"):
        theirs.import_zoo(tmp_path / "all.zoo")
    assert is_empty(theirs)


def test_a_process_killed_at_any_rename_leaves_a_clean_zoo(ours, opened, tmp_path, monkeypatch):
    """Whatever the last call was: nothing half-published is visible, and the rerun succeeds."""
    ours.export_zoo(tmp_path / "all.zoo")
    theirs = opened("theirs")
    rename = Path.rename

    class Killed(BaseException):
        pass

    def dying(calls: int) -> Callable[..., Any]:
        left = iter(range(calls))

        def maybe(path: Path, target: Any) -> Any:
            if next(left, None) is None and ".trash" not in str(target):
                raise Killed
            return rename(path, target)

        return maybe

    killed = 0
    for calls in range(40):
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Path, "rename", dying(calls))
                theirs.import_zoo(tmp_path / "all.zoo")
        except Killed:
            killed += 1
            assert [] == theirs.select()
            assert theirs.fsck().ok
        else:
            break

    assert killed > 2
    assert told(ours) == told(theirs)


def test_a_zoo_moves_to_another_database(ours, url, store, tmp_path):
    ours.export_zoo(tmp_path / "all.zoo")
    with zoo.open(url, store=store) as theirs:
        theirs.import_zoo(tmp_path / "all.zoo")

        assert told(ours) == told(theirs)
        assert theirs.fsck().ok
        theirs.export_zoo(tmp_path / "back.zoo")
    report = ours.import_zoo(tmp_path / "back.zoo")
    assert ({}, 5, []) == (report.added, report.known, report.kept)


# The commands


def test_the_commands_say_what_was_done(ours, tmp_path):
    from click.testing import CliRunner
    from zoo_cli.main import cli

    ours_url = ours.url
    packed = CliRunner().invoke(
        cli, ["--registry", ours_url, "export-zoo", str(tmp_path / "a.zoo"), "--json"]
    )
    theirs = str(tmp_path / "new.db")
    taken = CliRunner().invoke(cli, ["--registry", theirs, "import-zoo", str(tmp_path / "a.zoo")])
    again = CliRunner().invoke(
        cli, ["--registry", theirs, "import-zoo", str(tmp_path / "a.zoo"), "--json"]
    )

    assert {"versions": 5, "whole": True}.items() <= json.loads(packed.stdout).items()
    assert "Added 5 versions" in taken.output
    assert (5, {}) == (json.loads(again.stdout)["known"], json.loads(again.stdout)["added"])
