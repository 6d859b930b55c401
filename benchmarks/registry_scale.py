"""How fast is the registry when it is large? Every number that the design wants reached.

    python benchmarks/registry_scale.py

Makes registries of its own in `benchmarks/work/scale`: one that grows to 100,000 versions, one with
a lineage of 10,000 merges, one with files to register, one with 1 GiB of objects to check. They
are made on SQLite, and on PostgreSQL too when `ZOO_TEST_POSTGRES` is the URL of an empty database
(what is made there is dropped again). Rows of registries are written through the catalog's own
bulk door, `Catalog.add_many`; nothing is measured that was not committed before.

Each figure is the median of repeats in one process, wall clock, with the smallest beside it, since
whoever else works on the machine can only add to it; `CPU` is the median of this process's own
time, user and system. `--realtime` (Linux, root) asks the kernel to let nobody else have the core
while something is timed, where a machine is shared. The page goes to
`benchmarks/results/registry_scale.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import os
import shutil
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from measure import Cost, commit, machine, run, zoo_command
from registry_population import POPULAR, draft, family, fill, names
from safetensors.numpy import save_file

import zoo
from zoo.catalog.lineage import reach as closure_of
from zoo.catalog.many import plain_rows
from zoo.digest import BLOCK

HERE = Path(__file__).parent
POSTGRES = os.environ.get("ZOO_TEST_POSTGRES", "")
VERSIONS = 100_000
MERGES = 10_000
TAGS = {"owner": "team7", "seed": "17", "stage": "draft"}
SELECTIONS = (
    "tag.owner = 'team7' and tag.seed = '17'",
    "tag.owner = 'team7' and accuracy > 0.95",
    "task = 'task3' and accuracy > 0.99",
    "accuracy > 0.99 and loss < 0.1",
    "name = 'entry7' and phase = 'II'",
    "tag.owner = 'team7' and tag.stage = 'ready'",
)
"""Two predicates each: on tags, metrics and columns; the last finds several hundred versions."""


@dataclass(frozen=True)
class Timing:
    """Repeats of one call, seconds."""

    wall: Sequence[float]
    cpu: Sequence[float]

    def ms(self) -> str:
        return (
            f"{statistics.median(self.wall) * 1e3:.1f} ms | {min(self.wall) * 1e3:.1f} ms | "
            f"{statistics.median(self.cpu) * 1e3:.1f} ms"
        )

    def rate(self, count: int) -> str:
        return (
            f"{count / statistics.median(self.wall):,.0f}/s | {count / min(self.wall):,.0f}/s | "
            f"{statistics.median(self.cpu) / count * 1e3:.2f} ms each"
        )


def timed(call: Callable[[], object], repeats: int) -> Timing:
    """Time a call, after one that nobody counts."""
    call()
    return counted(call, repeats)


def counted(call: Callable[[], object], repeats: int) -> Timing:
    wall, cpu = [], []
    for _ in range(repeats):
        with undisturbed():
            w, c = time.perf_counter(), time.process_time()
            call()
            wall.append(time.perf_counter() - w)
            cpu.append(time.process_time() - c)
    return Timing(wall, cpu)


REALTIME = False


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """With `--realtime`, this thread and what it starts go before all others."""
    if not REALTIME:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Page:
    """Rows as they are measured, told on the way."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def row(self, engine: str, what: str, reach: str, figures: str) -> None:
        self.lines.append(f"| {what} | {engine} | {reach} | {figures} |")
        print(self.lines[-1], flush=True)


@contextlib.contextmanager
def opened(engine: str, folder: Path) -> Iterator[zoo.Registry]:
    """A new zoo: its registry on the engine, its store in the folder."""
    folder.mkdir(parents=True)
    if engine == "SQLite":
        with zoo.open(folder / "registry.db") as registry:
            yield registry
        return
    from sqlalchemy import create_engine, make_url, text

    schema = f"scale_{uuid.uuid4().hex[:12]}"
    admin = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    url = make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    try:
        place = url.render_as_string(hide_password=False)
        with zoo.open(place, store=folder / "store") as registry:
            yield registry
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        admin.dispose()


# Registering


def small_models(folder: Path, count: int) -> list[Path]:
    """Safetensors files of 1.3 kB, no two alike."""
    folder.mkdir(parents=True)
    made = []
    for i in range(count):
        path = folder / f"{i}.safetensors"
        weights = np.full((16, 16), i, np.float32)
        save_file({"weight": weights, "bias": np.full(16, -i, np.float32)}, path)
        made.append(path)
    return made


def registering(page: Page, engine: str, folder: Path, block: int, repeats: int) -> None:
    """Files one by one, files in bulk, and rows alone, which is what MLflow's figure is of."""
    sources = iter(small_models(folder / "sources", 40 + (repeats + 1) * block))
    with opened(engine, folder / "zoo") as registry:

        def one() -> None:
            registry.register(next(sources), name="single", tags=TAGS)

        def bulk() -> None:
            registry.register_many(
                zoo.Registration(next(sources), f"bulk{i % 100}", tags=TAGS) for i in range(block)
            )

        number = iter(range(10**9))

        def rows() -> None:
            registry.catalog.add_many(
                [draft(next(number), f"row{i % 100}", metrics=()) for i in range(block)]
            )

        reach = "1,000/s"
        page.row(engine, "register a file, 3 tags", "", timed(one, 39).rate(1))
        what = f"register {block:,} files, 3 tags each, one call"
        page.row(engine, what, reach, timed(bulk, repeats).rate(block))
        what = f"add {block:,} rows without files, 3 tags each"
        page.row(engine, what, reach, timed(rows, repeats).rate(block))


# Finding


def finding(page: Page, engine: str, folder: Path, repeats: int) -> None:
    """One of 20,000 versions of one entry; selections and SQL over 100,000."""
    with opened(engine, folder) as registry:
        fill(registry.catalog, 0, POPULAR)
        wanted = iter(list(names(1000)))
        many = 10 * repeats
        of = f"of {POPULAR:,} of one name"
        number = timed(lambda: registry.get(next(wanted)), many)
        page.row(engine, f"get version N {of}", "5 ms", number.ms())
        page.row(
            engine,
            f"get the latest {of}",
            "5 ms",
            timed(lambda: registry.get("popular"), many).ms(),
        )
        fill(registry.catalog, POPULAR, VERSIONS)
        number = timed(lambda: registry.get(next(wanted)), many)
        page.row(engine, f"get version N {of}, {VERSIONS:,} in all", "5 ms", number.ms())
        prefix = f"popular@{registry.get('popular@777').digest[:20]}"
        took = timed(lambda: registry.get(prefix), many)
        page.row(engine, f"get by a digest {of}, {VERSIONS:,} in all", "5 ms", took.ms())
        for where in SELECTIONS:
            found = len(registry.select(where))
            took = timed(lambda where=where: registry.select(where), repeats)
            page.row(engine, f"select `{where}`: {found} of {VERSIONS:,}", "20 ms", took.ms())
        sql = "SELECT v.task, avg(m.value) FROM versions v JOIN metrics m USING (ref) GROUP BY 1"

        def first() -> None:
            registry.query(sql)

        what = f"query over {VERSIONS:,} versions"
        page.row(engine, f"{what}, first: makes the snapshot", "", counted(first, 1).ms())
        page.row(engine, f"{what}, again", "", timed(first, repeats).ms())
        registry.annotate("popular@7", tags={"owner": "me"})
        page.row(engine, f"{what}, after a change", "", counted(first, 1).ms())


def lineages(page: Page, engine: str, folder: Path, repeats: int) -> None:
    """All 10,000 merges above the last, and below the first."""
    with opened(engine, folder) as registry:
        first, last = family(registry.catalog, MERGES)
        for what, start, down in (("up", last, False), ("down", first, True)):
            nodes = len(registry.catalog.lineage(start, descendants=down).nodes)
            took = timed(
                lambda i=start, d=down: registry.catalog.lineage(i, descendants=d), repeats
            )
            page.row(engine, f"lineage of {nodes:,} versions, {what}", "50 ms", took.ms())
            with registry.catalog.database.read() as connection:
                closure = closure_of(start, descendants=down)
                took = timed(lambda c=connection, q=closure: plain_rows(c, q), repeats)
            page.row(engine, f"the same, row ids only, {what}", "", took.ms())


# Checking and starting


def raw_hash(paths: Sequence[Path], threads: int) -> None:
    """The same bytes by hashlib alone, in blocks, on as many threads: what fsck is held to."""

    def one(path: Path) -> None:
        h, buffer = hashlib.sha256(), memoryview(bytearray(BLOCK))
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(buffer):
                h.update(buffer[:n])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, paths))


def checking(page: Page, folder: Path, repeats: int) -> None:
    """fsck and hashlib in turn over the same objects, in the page cache."""
    sources = folder / "sources"
    sources.mkdir(parents=True)
    rng = np.random.default_rng(5)
    with opened("SQLite", folder / "zoo") as registry:
        for i in range(8):
            weights = {f"layer{n}": rng.integers(0, 256, 2**22, dtype=np.uint8) for n in range(32)}
            save_file(weights, sources / f"{i}.safetensors")
            registry.register(sources / f"{i}.safetensors", name=f"model{i}")
            (sources / f"{i}.safetensors").unlink()
        objects = [path for _, path, _ in registry.store.objects()]
        size = sum(path.stat().st_size for path in objects)
        threads = os.cpu_count() or 1
        raw_hash(objects, threads)
        ours, theirs = [], []
        for _ in range(repeats):
            theirs.append(counted(lambda: raw_hash(objects, threads), 1))
            ours.append(counted(lambda: registry.fsck(threads=threads), 1))
    for what, timings in (("hashlib alone", theirs), ("fsck", ours)):
        wall = [t.wall[0] for t in timings]
        cpu = statistics.median(t.cpu[0] for t in timings)
        best, middle = size / min(wall) / 1e6, size / statistics.median(wall) / 1e6
        figures = f"{middle:,.0f} MB/s | {best:,.0f} MB/s | {cpu:.2f} s"
        page.row("", f"{what}, {size / 2**30:.1f} GiB, {threads} threads", "", figures)
    pairs = [a.wall[0] / b.wall[0] for a, b in zip(theirs, ours, strict=True)]
    cpu_ratio = sum(t.cpu[0] for t in theirs) / sum(t.cpu[0] for t in ours)
    figures = f"{statistics.median(pairs):.0%} | {max(pairs):.0%} | {cpu_ratio:.0%}"
    page.row("", "fsck against hashlib, in turn", "80 %", figures)


def starting(page: Page, folder: Path, repeats: int) -> None:
    """Whole commands, Python's own start included, with bytecode kept as an installation has it."""
    with opened("SQLite", folder) as registry:
        fill(registry.catalog, 0, 20)
    env = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    for arguments, reach in ((["--help"], "0.25 s"), (["ls"], "0.5 s")):

        def once(arguments: list[str] = arguments) -> Cost:
            command = [*zoo_command(), *arguments]
            with undisturbed():
                return run(command, cwd=folder, env=env, log=folder / "log")

        once()
        costs = [once() for _ in range(repeats)]
        took = Timing([c.wall_s for c in costs], [c.user_s + c.system_s for c in costs])
        page.row("", f"`zoo {' '.join(arguments)}`", reach, took.ms())


def page_text(page: Page) -> str:
    m = machine()
    return "\n".join(
        (
            "# The registry at scale",
            "",
            f"{datetime.date.today()}, zoo {version('zoo-registry')} ({commit()}), "
            f"{m['processor']}, {m['cores']} cores, Python {m['python']}; load at the end "
            f"{m['load_before']}{', timed with `--realtime`' if REALTIME else ''}. "
            "Written by `benchmarks/registry_scale.py`, which says how. Wall clock: median and "
            "smallest of repeats; CPU: median of this process's own time.",
            "",
            "| what | on | reach | median | smallest | CPU |",
            "|---|---|---:|---:|---:|---:|",
            *page.lines,
            "",
        )
    )


PARTS = ("registering", "finding", "lineages", "checking", "starting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--block", type=int, default=2_000, help="registrations in one call")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "scale")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "registry_scale.md")
    options = parser.parse_args()

    global REALTIME
    REALTIME = options.realtime
    work, repeats = options.work.resolve(), options.repeats
    shutil.rmtree(work, ignore_errors=True)
    page = Page()
    try:
        for engine in ("SQLite", "PostgreSQL") if POSTGRES else ("SQLite",):
            here = work / engine
            if "registering" in options.parts:
                registering(page, engine, here / "registering", options.block, 5)
            if "finding" in options.parts:
                finding(page, engine, here / "finding", repeats)
            if "lineages" in options.parts:
                lineages(page, engine, here / "lineages", repeats)
        if "checking" in options.parts:
            checking(page, work / "checking", min(repeats, 7))
        if "starting" in options.parts:
            starting(page, work / "starting", repeats)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    options.out.write_text(page_text(page))


if __name__ == "__main__":
    main()
