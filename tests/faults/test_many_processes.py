"""Several processes at once: dense versions, one worker per merge, and a collector that waits."""

from __future__ import annotations

from warm_process import Warm

LIST = """
    with open_zoo(path) as registry:
        assert registry.fsck().ok
        result = sorted([v.name, v.version] for v in registry.select())
"""


def test_eight_processes_registering_one_name_get_dense_versions(
    warm: Warm, stocked: str, sources: dict[str, str]
) -> None:
    endings = warm.run_all(
        [
            "with open_zoo(path) as registry:\n"
            "    result = registry.register(sources['a'], name='many').version"
        ]
        * 8,
        path=stocked,
        sources=sources,
    )

    assert list(range(1, 9)) == sorted(e.value for e in endings)
    listed = [n for name, n in warm.run(LIST, path=stocked).value if name == "many"]
    assert list(range(1, 9)) == listed


def test_eight_processes_merging_into_one_name_get_dense_versions(warm: Warm, stocked: str) -> None:
    endings = warm.run_all(
        [
            f"""
            with open_zoo(path) as registry:
                result = registry.merge(
                    method="task_arithmetic", experts=["a", "b"],
                    parameters={{"lambda": {i / 8}}}, name="many",
                ).version
            """
            for i in range(8)
        ],
        path=stocked,
    )

    assert list(range(1, 9)) == sorted(e.value for e in endings)
    listed = [n for name, n in warm.run(LIST, path=stocked).value if name == "many"]
    assert list(range(1, 9)) == listed


def test_one_merge_is_made_by_one_process_and_the_others_are_told_which(
    warm: Warm, stocked: str
) -> None:
    work = """
        import os
        from zoo.errors import StoreError

        with open_zoo(path) as registry:
            try:
                made = registry.merge(method="ties", experts=["a", "b"], name="same")
                result = [made.version, os.getpid()]
            except StoreError as error:
                result = [None, error.pid]
        """

    endings = warm.run_all([work] * 6, path=stocked)

    made = sorted(v for v, _ in (e.value for e in endings) if v)
    assert made and list(range(1, len(made) + 1)) == made
    workers = {pid for v, pid in (e.value for e in endings) if v}
    assert {pid for v, pid in (e.value for e in endings) if not v} <= workers
    listed = [n for name, n in warm.run(LIST, path=stocked).value if name == "same"]
    assert made == listed


def test_a_collector_takes_nothing_from_those_who_work(
    warm: Warm, stocked: str, sources: dict[str, str]
) -> None:
    work = {
        "register": "registry.register(sources['a'], name=f'r{i}')",
        "merge": "registry.merge(method='linear', experts=['a', 'b'], name='m',"
        " parameters={'weight': [1.0, 1.0 + i]})",
        "remove": "registry.remove(registry.register(sources['b'], name='gone').ref)",
        "gc": "registry.gc(partial_age_days=0)",
    }
    loop = "with open_zoo(path) as registry:\n    for i in range(6):\n        "

    warm.run_all([loop + w for w in (*work.values(), work["gc"])], path=stocked, sources=sources)

    versions = warm.run(LIST, path=stocked).value
    assert 3 + 6 + 6 == len(versions)
    warm.run(
        """
        with open_zoo(path) as registry:
            for v in registry.select():
                assert registry.verify(v.ref).ok
                assert (registry.path(v.ref) / "model.safetensors").is_file()
        """,
        path=stocked,
    )
