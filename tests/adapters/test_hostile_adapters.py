"""Adapters that are damaged, or not what they say: refused by name, before anything is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_adapters import write_adapter

from zoo.errors import (
    GateFailed,
    IncompatibleModels,
    InvalidCheckpoint,
    UnsupportedFormat,
)
from zoo.registry import Registry


def refused(registry: Registry, folder: Path, error: type[Exception], says: str) -> None:
    before = len(registry.select())
    with pytest.raises(error, match=says):
        registry.register(folder, name="bad", base="base")

    assert before == len(registry.select())


TENSORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "half a pair": (
        {"a.proj.lora_B.weight": None},
        InvalidCheckpoint,
        "`a.proj` of .* has no `lora_B`.*export it again",
    ),
    "of another width": (
        {"a.proj.lora_A.weight": torch.ones(4, 23)},
        IncompatibleModels,
        r"`a.proj.weight` is \[40, 24\], and its factors make \[40, 23\]",
    ),
    "that do not fit each other": (
        {"a.proj.lora_B.weight": torch.ones(40, 3)},
        IncompatibleModels,
        r"lora_B.weight` is \[40, 3\] and .*lora_A.weight` \[4, 24\]",
    ),
    "of another rank than is said": (
        {"a.proj.lora_B.weight": torch.ones(40, 3), "a.proj.lora_A.weight": torch.ones(3, 24)},
        InvalidCheckpoint,
        "`a.proj` of .* has rank 3, and its `adapter_config.json` says 4",
    ),
    "of a module that is not there": (
        {"c.proj.lora_A.weight": torch.ones(4, 2), "c.proj.lora_B.weight": torch.ones(2, 4)},
        IncompatibleModels,
        "(?s)the base has no tensor `c.proj.weight`.*--base REF",
    ),
    "of whole numbers": (
        {"a.proj.lora_A.weight": torch.ones(4, 24, dtype=torch.int32)},
        InvalidCheckpoint,
        "is I32.*made of floats",
    ),
    "without any extent": (
        {"a.proj.lora_A.weight": torch.ones(4), "a.proj.lora_B.weight": torch.ones(())},
        IncompatibleModels,
        "should be a matrix",
    ),
    "of rank nought": (
        {"a.proj.lora_A.weight": torch.ones(0, 24), "a.proj.lora_B.weight": torch.ones(40, 0)},
        InvalidCheckpoint,
        "has rank 0",
    ),
    "that no adapter has": (
        {"a.proj.lora_C.weight": torch.ones(1)},
        InvalidCheckpoint,
        "lora_C.weight` of .* is none that a PEFT adapter has",
    ),
    "of rows that nobody counts": (
        {"a.proj.token_adapter.trainable_tokens_delta": torch.ones(2, 24)},
        InvalidCheckpoint,
        "does not say which.*trainable_token_indices",
    ),
    "of DoRA in another size": (
        {"a.proj.lora_magnitude_vector": torch.ones(39)},
        IncompatibleModels,
        r"its magnitude is \[39\]",
    ),
    "of biases that are not there": (
        {"a.proj.lora_B.bias": torch.ones(40)},
        IncompatibleModels,
        "the base has no tensor `a.proj.bias`",
    ),
    "whole, of another width": (
        {"a.norm.weight": torch.ones(3, 3)},
        IncompatibleModels,
        r"`a.norm.weight` is \[24\] in the base, and \[3, 3\] here",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_factors_are_refused(case: str, registry: Registry, tmp_path: Path) -> None:
    tensors, error, says = TENSORS[case]

    refused(registry, write_adapter(tmp_path / "bad", tensors=tensors), error, says)


CONFIGS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "IA3": ({"peft_type": "IA3"}, UnsupportedFormat, "type IA3.*merge_and_unload"),
    "prompts": ({"peft_type": "PROMPT_TUNING"}, UnsupportedFormat, "no dense form"),
    "no type": ({"peft_type": None}, UnsupportedFormat, "type None"),
    "a base that was changed": (
        {"init_lora_weights": "pissa_niter_4"},
        UnsupportedFormat,
        "path_initial_model_for_weight_conversion",
    ),
    "activated": ({"alora_invocation_tokens": [1]}, UnsupportedFormat, "after certain tokens"),
    "parameters": ({"target_parameters": ["x"]}, UnsupportedFormat, "`target_parameters`"),
    "no rank": ({"r": 0}, InvalidCheckpoint, "`r: 0`.*at least 1"),
    "a rank that is text": ({"r": "4"}, InvalidCheckpoint, "must be a number"),
    "an endless alpha": ({"lora_alpha": float("inf")}, InvalidCheckpoint, "adapter_config.json"),
    "patterns that are a list": ({"rank_pattern": ["q"]}, InvalidCheckpoint, "must be a map"),
    "a pattern that is none": ({"rank_pattern": {"(": 4}}, InvalidCheckpoint, "regular expression"),
    "a pattern without an end": (
        {"rank_pattern": {"(a+)+b": 4}},
        InvalidCheckpoint,
        "take for ever",
    ),
    "indices that are text": (
        {"trainable_token_indices": ["x"]},
        InvalidCheckpoint,
        "whole numbers",
    ),
    "DoRA without its norms": ({"use_dora": True}, InvalidCheckpoint, "no `lora_magnitude_vector`"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_are_refused(case: str, registry: Registry, tmp_path: Path) -> None:
    config, error, says = CONFIGS[case]
    folder = write_adapter(tmp_path / "bad")
    content = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**content, **config}))

    refused(registry, folder, error, says)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"r": 1, "r": 2}', "\x00"])
def test_a_configuration_that_is_no_map_is_refused(
    text: str, registry: Registry, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "bad")
    (folder / "adapter_config.json").write_text(text)

    refused(registry, folder, InvalidCheckpoint, "adapter_config.json")


def test_a_header_that_claims_a_rank_of_a_billion_costs_nothing(
    registry: Registry, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "bad", r=10**9)
    rank = 10**9
    begin, shapes = 0, {"lora_A": [rank, 24], "lora_B": [40, rank]}
    header: dict[str, Any] = {}
    for slot, shape in shapes.items():
        size = shape[0] * shape[1] * 4
        name = f"base_model.model.a.proj.{slot}.weight"
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    raw = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + begin)  # sparse: nothing is written

    refused(registry, folder, IncompatibleModels, "its rank is 1000000000")


def test_factors_that_are_not_finite_register_and_a_merge_refuses_them(
    registry: Registry, tmp_path: Path
) -> None:
    factor = torch.ones(4, 24)
    factor[2, 3] = float("nan")
    registry.register(
        write_adapter(tmp_path / "bad", tensors={"a.proj.lora_A.weight": factor}),
        name="bad",
        base="base",
    )

    with pytest.raises(GateFailed, match=r"`bad@1` has 40 values that are not finite.*a\.proj"):
        registry.merge(method="ties", experts=["bad", "one"], name="m")


def test_a_base_whose_row_is_nought_has_no_direction_for_dora(
    registry: Registry, tmp_path: Path
) -> None:
    from safetensors.torch import save_file
    from small_adapters import base_state

    state = base_state()
    state["a.proj.weight"][0] = 0
    (tmp_path / "nought").mkdir()
    save_file(state, tmp_path / "nought" / "model.safetensors")
    registry.register(tmp_path / "nought", name="nought", kind="base")
    tensors = {
        "a.proj.lora_magnitude_vector": torch.ones(40),
        "b.proj.lora_magnitude_vector": torch.ones(24),
        "a.proj.lora_B.weight": torch.zeros(40, 4),
    }
    registry.register(
        write_adapter(tmp_path / "d", tensors=tensors, use_dora=True), name="d", base="nought"
    )

    with pytest.raises(GateFailed, match="`d@1` has 24 values that are not finite"):
        registry.merge(method="ties", experts=["d"], name="m")
