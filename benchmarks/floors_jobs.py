"""What `floors.py` kills and fails: jobs of one or more steps; and what must work then.

All of it is source for children of `tests/faults/warm_process.py`. A step is acknowledged when its
line is in the file `acks`; a job's steps run in order, each with the registry opened anew.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCES = """
    import torch
    from pathlib import Path
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b", "c"):
        directory = Path(sources, name)
        directory.mkdir(parents=True)
        names = [f"layers.{i}.weight" for i in range(7)]
        state = {n: torch.randn(8 + i, 40, generator=generator) for i, n in enumerate(names)}
        state["steps"] = torch.arange(5)
        if name == "c":
            import json

            shards = {"model-00001-of-00002.safetensors": names[:4]}
            shards["model-00002-of-00002.safetensors"] = [*names[4:], "steps"]
            for file, held in shards.items():
                save_file({n: state[n] for n in held}, directory / file, {"format": "pt"})
            index = {"metadata": {}, "weight_map": {n: f for f, ns in shards.items() for n in ns}}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        else:
            save_file(state, directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text('{"model_type": "tiny"}')
        (directory / "notes.txt").write_text(name)
"""

STOCK = """
    with open_zoo(path) as registry:
        registry.register(f"{sources}/base", name="base", kind="base")
        registry.register(f"{sources}/a", name="a", base="base", tags={"k": "v"})
        registry.register(f"{sources}/b", name="b", base="base", metrics={"accuracy": 0.5})
        registry.alias("a", "best")
"""

LITTER = """
    from zoo.digest import flat_key

    with open_zoo(path) as registry:
        gone = registry.merge(name="gone", method="linear", experts=["a", "b"])
        registry.remove(gone.ref)
        for data in (bytes([i]) * 1000 for i in range(5)):
            garbage = registry.store.path(flat_key(data))
            garbage.parent.mkdir(exist_ok=True)
            garbage.write_bytes(data)
        left = registry.store.root / "staging" / "register-dead"
        left.mkdir()
        (left / ".lock").write_text("1 ")
        (left / "half").write_bytes(b"x" * 1000)
"""

OLD_SCHEMA = """
    import sqlite3

    # What 0002 added, taken away again.
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TABLE tasks; DROP TABLE phase_rules; ALTER TABLE versions DROP COLUMN phase_rule;"
        "UPDATE zoo_schema SET version_num = '0001'; PRAGMA user_version = 1;"
    )
    connection.close()
"""

ABSENT = """
    import shutil
    from pathlib import Path

    shutil.rmtree(Path(path).parent)
    Path(path).parent.mkdir()
"""

REGISTER = 'registry.register(f"{sources}/c", name="c", base="base", tags={"x": "1"}).digest'
MANY = '[Registration(f"{sources}/{n}", n, base="base") for n in ("c", "a")]'
EXPERTS = 'base="base", experts=["a", "b"]'
TIES = f'method="ties", {EXPERTS}, parameters={{"density": 0.3}}'
SLERP = 'method="slerp", experts=["a", "b"], parameters={"t": 0.3}'
COMPRESS = f'registry.compress(method="tall_masks", name="t", {EXPERTS})'


@dataclass(frozen=True)
class Job:
    """Steps, each an expression of `registry` whose value must be the same whenever it is run."""

    steps: tuple[str, ...]
    before: str = ""
    """Done once to the stocked zoo."""
    out: bool = False
    """Whether it writes the directory `out`."""


JOBS = {
    "first open": Job(("registry.select() and None",), ABSENT),
    "register": Job((REGISTER,)),
    "register again": Job(('registry.register(f"{sources}/a", name="a").digest',)),
    "register many": Job((f"[v.digest for v in registry.register_many({MANY})]",)),
    "merge": Job((f'registry.merge(name="m", {TIES}).digest',)),
    "merge linear": Job(
        ('registry.merge(name="m", method="linear", experts=["a", "b"], threads=1).digest',)
    ),
    "merge to a directory": Job((f"registry.merge(out=out, {TIES})",), out=True),
    "compress": Job((f"{COMPRESS} and registry.get('t').digest",)),
    "export": Job(('registry.export("a", out) and None',), out=True),
    "alias": Job(('registry.alias("b", "best")',)),
    "annotate": Job(('registry.annotate("a", tags={"k": "w"}, metrics={"m": 1.0}) and None',)),
    "rm": Job(("[registry.remove(v.ref) for v in registry.select(\"name = 'b'\")] * 0",)),
    "gc": Job(("registry.gc(partial_age_days=0) and None",), LITTER),
    "migrate": Job(("registry.select() and None",), OLD_SCHEMA),
    "session": Job(
        (
            REGISTER,
            'registry.alias("c", "best")',
            f'registry.merge(name="m", {TIES}).digest',
            'registry.alias("m", "best")',
            'registry.annotate("m", tags={"k": "w"}) and None',
            "[registry.remove(v.ref) for v in registry.select(\"name = 'c'\")] * 0",
            "registry.gc(partial_age_days=0) and None",
            'registry.alias("a", "good")',
            f'registry.merge(name="n", {SLERP}).digest',
        )
    ),
}

RUN = """
    import ctypes
    import logging
    import os
    from pathlib import Path
    from zoo.errors import ZooError
    from zoo.records import Registration

    logging.getLogger("zoo").setLevel(logging.CRITICAL)
    calls = ctypes.CDLL(None)
    told = os.open(hit, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    result = {"values": [], "error": "", "raw": ""}
    calls.floors_arm(ctypes.c_long(at), action, number, kinds, watched.encode(), told)
    try:
        for step in steps:
            with open_zoo(path) as registry:
                result["values"].append(eval(step))
                with open(acks, "a") as file:
                    file.write("done\\n")
    except ZooError as error:
        result["error"] = f"{type(error).__name__}: {error}"
    except Exception as error:
        import traceback

        result["raw"] = traceback.format_exc()
    calls.floors_disarm()
    result["calls"] = calls.floors_seen()
"""

SOUND = """
    import os
    from zoo.records import Registration

    with open_zoo(path) as registry:
        report = registry.fsck()
        assert report.ok, report.damaged
        for v in registry.select():
            assert (registry.path(v.ref) / "config.json").is_file()
        again = [eval(step) for step in steps]
        # What has no lock may belong to the living for a minute.
        for place in (registry.store.root / "staging").iterdir():
            for p in (place, *place.rglob("*")):
                os.utime(p, (0, 0), follow_symlinks=False)
        registry.gc(partial_age_days=0)
        report = registry.fsck()
        assert report.ok, report.damaged
        left = [p.name for p in (registry.store.root / "staging").iterdir()]
        stored = {k for k, _, _ in registry.store.objects()}
        live = registry.catalog.live_objects()
    result = {"again": again, "left": left, "garbage": sorted(stored - live)}
"""

BITS = """
    import os
    from pathlib import Path
    import torch
    from safetensors.torch import save_file
    from zoo.storage.fsck import damaged_objects

    with open_zoo(path) as registry:
        for name in ("a", "b"):
            source = Path(scratch, name)
            source.mkdir(parents=True)
            state = {"w": torch.full((3,), float(ord(name))), "n": torch.tensor(1)}
            save_file(state, source / "model.safetensors", {"format": "pt"})
            (source / "config.json").write_text('{"model_type": "' + name + '"}')
            registry.register(source, name=name)
        registry.merge(name="m", method="linear", experts=["a", "b"])
        files = {v.ref: registry.catalog.files(v.id) for v in registry.select()}
        found = named = bits = objects = 0
        for key, file, size in list(registry.store.objects()):
            if size > 1000:
                continue  # cards and recipes are flat files too, and only take longer
            holders = {r for r, held in files.items() if key in [f.object for f in held]}
            objects += 1
            file.chmod(0o644)
            good = file.read_bytes()
            for bit in range(8 * size):
                bad = bytearray(good)
                bad[bit // 8] ^= 1 << bit % 8
                file.write_bytes(bad)
                damage = registry.fsck().damaged if bit % 64 == 0 else damaged_objects(registry)
                bits += 1
                found += [d["object"] for d in damage] == [key]
                below = {"m@1"} if holders & {"a@1", "b@1"} else set()
                named += all(
                    set(d["versions"]) == holders and set(d["descendants"]) >= below - holders
                    for d in damage
                )
            file.write_bytes(good)
        assert registry.fsck().ok
    result = {"bits": bits, "objects": objects, "found": found, "named": named}
"""

OPEN = """
    with open_zoo(path) as registry:
        result = registry.store.owner().id
"""

CROWDS = {
    "register": """
        with open_zoo(path) as registry:
            result = registry.register(f"{sources}/a", name="crowd").version
        """,
    "merge": """
        import os

        with open_zoo(path) as registry:
            weight = {"weight": [1.0, os.getpid() / 1e5]}  # each a recipe of its own
            made = registry.merge(
                name="merged", method="linear", experts=["a", "b"], parameters=weight
            )
            result = made.version
        """,
}

FSCK = """
    with open_zoo(path) as registry:
        result = registry.fsck().ok
"""
