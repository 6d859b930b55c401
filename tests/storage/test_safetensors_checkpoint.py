"""The lazy view: files, shards, indexes that lie, and reading from many threads."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.checkpoints.safetensors import open_files, open_path
from zoo.errors import InvalidCheckpoint, NotFound


def sharded(directory: Path, shards: dict[str, list[str]], weight_map: dict[str, str]) -> Path:
    directory.mkdir(exist_ok=True)
    for file, names in shards.items():
        save_file({n: torch.full((2,), float(ord(n[0]))) for n in names}, directory / file)
    index = {"metadata": {"total_size": 8}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def whole(checkpoint, name: str) -> bytes:
    buffer = bytearray(checkpoint.tensors[name].nbytes)
    checkpoint.read_into(name, 0, memoryview(buffer))
    return bytes(buffer)


def test_shards_are_one_checkpoint_with_names_ascending(tmp_path):
    sharded(
        tmp_path,
        {"1.safetensors": ["b"], "2.safetensors": ["a"]},
        {"b": "1.safetensors", "a": "2.safetensors"},
    )

    with open_path(tmp_path) as checkpoint:
        assert ["a", "b"] == list(checkpoint.tensors)
        assert "2.safetensors" == checkpoint.tensors["a"].file
        assert torch.full((2,), 97.0).numpy().tobytes() == whole(checkpoint, "a")


def test_the_index_is_carried_and_other_weights_are_not(tmp_path):
    sharded(tmp_path, {"1.safetensors": ["a"]}, {"a": "1.safetensors"})
    (tmp_path / "config.json").write_text('{"model_type": "tiny"}')
    (tmp_path / "modeling_tiny.py").write_text("")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "consolidated.safetensors").write_bytes(b"x")
    (tmp_path / ".gitattributes").write_text("")

    with open_path(tmp_path) as checkpoint:
        assert [
            "1_Pooling/config.json",
            "config.json",
            "model.safetensors.index.json",
            "modeling_tiny.py",
        ] == sorted(checkpoint.opened.auxiliary)
        assert {"model_type": "tiny"} == checkpoint.opened.config
        assert ["consolidated.safetensors", "pytorch_model.bin"] == checkpoint.opened.notes[
            "skipped"
        ]


@pytest.mark.parametrize(
    "file",
    ["../evil.safetensors", "/etc/passwd", "a/../../evil.safetensors", "", ".", "a\\b", "a//b"],
)
def test_an_index_that_leaves_its_directory_is_refused(tmp_path, file):
    save_file({"a": torch.ones(2)}, tmp_path / "evil.safetensors")
    directory = sharded(tmp_path / "model", {}, {"a": file})

    with pytest.raises(InvalidCheckpoint) as caught:
        open_path(directory)
    assert file == caught.value.file


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path, {"1.safetensors": ["a"]}, {"a": "1.safetensors", "b": "2.safetensors"})

    with pytest.raises(InvalidCheckpoint) as caught:
        open_path(tmp_path)
    assert "2.safetensors" == caught.value.file


def test_a_tensor_in_two_shards_is_named(tmp_path):
    sharded(
        tmp_path,
        {"1.safetensors": ["a", "b"], "2.safetensors": ["b"]},
        {"a": "1.safetensors", "b": "2.safetensors"},
    )

    with pytest.raises(InvalidCheckpoint) as caught:
        open_path(tmp_path)
    assert "b" == caught.value.tensor


@pytest.mark.parametrize(
    ("listed", "wrong", "told"),
    [
        ("a", "b", "by the index `b` is nowhere, by the files in `1.safetensors`"),
        ("abc", "c", "by the index `c` is in `1.safetensors`, by the files nowhere"),
    ],
)
def test_an_index_that_disagrees_with_its_shard_is_refused(tmp_path, listed, wrong, told):
    sharded(tmp_path, {"1.safetensors": ["a", "b"]}, dict.fromkeys(listed, "1.safetensors"))

    with pytest.raises(InvalidCheckpoint, match=f"about 1 tensor: {told}") as caught:
        open_path(tmp_path)
    assert [wrong] == caught.value.tensors


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "{"]
)
def test_an_index_that_is_no_index_is_refused(tmp_path, text):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(text)

    with pytest.raises(InvalidCheckpoint):
        open_path(tmp_path)


def test_a_configuration_that_is_no_map_is_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("[1]")

    with pytest.raises(InvalidCheckpoint):
        open_path(tmp_path)


def test_a_path_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        open_path(tmp_path / "nothing.safetensors")


def test_a_directory_without_weights_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        open_path(tmp_path)


def test_a_refused_checkpoint_leaves_no_file_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    sharded(tmp_path, {"1.safetensors": ["a"], "2.safetensors": ["a"]}, {"a": "1.safetensors"})
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").unlink()

    for _ in range(50):
        with pytest.raises(InvalidCheckpoint):
            open_path(tmp_path)

    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_reading_a_file_cut_short_after_opening_is_an_error_not_a_crash(tmp_path):
    save_file({"a": torch.ones(100_000)}, tmp_path / "model.safetensors")

    with open_path(tmp_path) as checkpoint:
        os.truncate(tmp_path / "model.safetensors", 1000)
        with pytest.raises(InvalidCheckpoint) as caught:
            whole(checkpoint, "a")
    assert "a" == caught.value.tensor


def test_reading_outside_a_tensor_is_refused(tmp_path):
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "model.safetensors")

    with open_path(tmp_path) as checkpoint:
        for start, count in ((-1, 4), (8, 1), (4, 8)):
            with pytest.raises(ValueError, match="outside"):
                checkpoint.read_into("a", start, memoryview(bytearray(count)))


def test_many_threads_read_one_file_at_once(tmp_path):
    state = {f"t{i}": torch.randn(5000) for i in range(40)}
    save_file(state, tmp_path / "model.safetensors")

    with (
        open_files({"model.safetensors": tmp_path / "model.safetensors"}, "x") as checkpoint,
        ThreadPoolExecutor(8) as pool,
    ):
        found = list(pool.map(lambda n: whole(checkpoint, n), list(state) * 5))

    assert [state[n].numpy().tobytes() for n in list(state) * 5] == found
