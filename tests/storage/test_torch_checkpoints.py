"""torch files: where the weights are found, what is noted, and what is refused unread."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_plugins.torch_format import TorchFormat

from zoo.errors import InvalidCheckpoint

STATE = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1, dtype=torch.int64)}


def opened(content: object, path: Path, **options: object):
    torch.save(content, path, **options)
    return TorchFormat().open(path)


def values(checkpoint) -> dict[str, bytes]:
    found = {}
    for name, info in checkpoint.tensors.items():
        buffer = bytearray(info.nbytes)
        if buffer:
            checkpoint.read_into(name, 0, memoryview(buffer))
        found[name] = bytes(buffer)
    return found


EXPECTED = {name: t.numpy().tobytes() for name, t in STATE.items()}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bare_state_dict_is_read(tmp_path, legacy):
    checkpoint = opened(STATE, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)

    assert EXPECTED == values(checkpoint)
    assert "state_dict_key" not in checkpoint.opened.notes


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"state_dict": STATE, "epoch": 3, "rng": torch.ones(1)}, "state_dict"),
        (
            {"model": {"state_dict": STATE, "args": {}}, "optimizer": {"s": STATE}},
            "model.state_dict",
        ),
        (
            {"model_state_dict": STATE, "optimizer_state_dict": {"state": {0: STATE}}},
            "model_state_dict",
        ),
        ({"odd_name": STATE, "epoch": 3}, "odd_name"),
    ],
)
def test_the_state_dict_of_a_training_checkpoint_is_found(tmp_path, content, key):
    checkpoint = opened(content, tmp_path / "m.pth.tar")

    assert EXPECTED == values(checkpoint)
    assert key == checkpoint.opened.notes["state_dict_key"]
    assert checkpoint.opened.notes["dropped"]


def test_a_prefix_that_all_names_have_is_stripped_and_noted(tmp_path):
    checkpoint = opened({f"module.{n}": t for n, t in STATE.items()}, tmp_path / "m.th")

    assert EXPECTED == values(checkpoint)
    assert "module." == checkpoint.opened.notes["stripped_prefix"]


def test_a_prefix_that_some_names_lack_stays(tmp_path):
    checkpoint = opened({"module.w": torch.ones(1), "w": torch.ones(1)}, tmp_path / "m.pt")

    assert ["module.w", "w"] == list(checkpoint.tensors)


def test_tied_tensors_are_both_kept_and_the_tie_is_noted(tmp_path):
    w = torch.randn(4)

    checkpoint = opened({"embed": w, "head": w, "other": w.clone()}, tmp_path / "m.pt")

    assert [["embed", "head"]] == checkpoint.opened.notes["ties"]
    assert 3 == len(checkpoint.tensors)


def test_views_and_transposes_are_read_as_they_look(tmp_path):
    w = torch.arange(12.0).reshape(3, 4)

    checkpoint = opened({"t": w.T, "slice": w[1:, ::2]}, tmp_path / "m.pt")

    assert w.T.contiguous().numpy().tobytes() == values(checkpoint)["t"]
    assert w[1:, ::2].contiguous().numpy().tobytes() == values(checkpoint)["slice"]


def test_every_type_that_safetensors_has_is_read(tmp_path):
    types = (torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16)
    wide = (torch.float64, torch.complex64, torch.float8_e4m3fn)
    state = {str(d): torch.zeros(3, dtype=d) for d in types + wide} | {
        "scalar": torch.tensor(2.0),
        "empty": torch.empty(0, 3),
    }

    checkpoint = opened(state, tmp_path / "m.pt")

    assert {n: tuple(t.shape) for n, t in state.items()} == {
        n: t.shape for n, t in checkpoint.tensors.items()
    }
    assert values(checkpoint)


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_named_and_never_run(tmp_path, legacy):
    with pytest.raises(InvalidCheckpoint) as caught:
        opened(
            {"w": torch.ones(1), "x": Evil(tmp_path / "ran")},
            tmp_path / "m.pt",
            _use_new_zipfile_serialization=not legacy,
        )

    assert "posix.system" == caught.value.refused
    assert "state_dict()" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_refused_with_its_class(tmp_path):
    with pytest.raises(InvalidCheckpoint) as caught:
        opened(torch.nn.Linear(2, 2), tmp_path / "m.pt")

    assert "torch.nn.modules.linear.Linear" == caught.value.refused


@pytest.mark.parametrize(
    ("protocol", "told"), [(2, "would import `posix.system`"), (4, "holds code cannot be told")]
)
def test_a_plain_pickle_with_code_is_refused(tmp_path, protocol, told):
    path = tmp_path / "m.pt"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol))

    with pytest.raises(InvalidCheckpoint, match=told):
        TorchFormat().open(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{}, [], 3, {"a": 1}, {"a": {"b": {}}}, [torch.ones(1)]])
def test_a_file_without_weights_is_refused(tmp_path, content):
    with pytest.raises(InvalidCheckpoint):
        opened(content, tmp_path / "m.pt")


def test_several_sets_of_weights_are_all_named(tmp_path):
    with pytest.raises(InvalidCheckpoint) as caught:
        opened({"generator": STATE, "critic": STATE}, tmp_path / "m.pt")

    assert ["critic", "generator"] == sorted(caught.value.keys)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.zeros(2, dtype=torch.complex128),
        torch.empty(2, device="meta"),
    ],
)
def test_a_tensor_that_cannot_be_stored_is_named(tmp_path, tensor):
    with pytest.raises(InvalidCheckpoint) as caught:
        opened({"w": torch.ones(1), "odd": tensor}, tmp_path / "m.pt")

    assert "odd" == caught.value.tensor


def test_strides_of_zero_cannot_fill_the_disk(tmp_path):
    with pytest.raises(InvalidCheckpoint, match="claims tensors"):
        opened({"w": torch.ones(1).expand(1_000_000, 1_000_000)}, tmp_path / "m.pt")


def test_a_compressed_archive_is_refused(tmp_path):
    torch.save(STATE, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as stored:
        content = {i.filename: stored.read(i) for i in stored.infolist()}
    with zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in content.items():
            packed.writestr(name, data)

    with pytest.raises(InvalidCheckpoint, match="compressed"):
        TorchFormat().open(tmp_path / "z.pt")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_whatever_raises_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    with suppress(InvalidCheckpoint):
        values(TorchFormat().open(path))


def test_a_directory_with_pytorch_shards_is_read(tmp_path):
    torch.save({"w": STATE["w"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": STATE["b"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(
        json.dumps(
            {
                "weight_map": {
                    "w": "pytorch_model-00001-of-00002.bin",
                    "b": "pytorch_model-00002-of-00002.bin",
                }
            }
        )
    )
    (tmp_path / "config.json").write_text('{"model_type": "tiny"}')

    assert TorchFormat().matches(tmp_path)
    checkpoint = TorchFormat().open(tmp_path)

    assert EXPECTED == values(checkpoint)
    assert ["config.json"] == list(checkpoint.opened.auxiliary)
    assert {"model_type": "tiny"} == checkpoint.opened.config


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_is_known_by_its_first_bytes(tmp_path, legacy):
    torch.save(STATE, tmp_path / "final.1.0.3", _use_new_zipfile_serialization=not legacy)

    assert TorchFormat().matches(tmp_path / "final.1.0.3")


def test_other_files_are_left_to_other_formats(tmp_path):
    (tmp_path / "note").write_text("hello")
    (tmp_path / "model.safetensors").touch()
    torch.save(STATE, tmp_path / "pytorch_model.bin")

    assert not TorchFormat().matches(tmp_path / "note")
    assert not TorchFormat().matches(tmp_path)
