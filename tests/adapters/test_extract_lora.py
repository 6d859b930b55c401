"""From the difference of two models to an adapter that peft loads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_models import gpt2, llama, peft_adapter
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_adapters import base_state, dense
from zoo_cli.main import cli

import zoo
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.registry import Registry

peft = pytest.importorskip("peft")


def full(registry: Registry, folder: Path, state: dict[str, torch.Tensor], name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "model.safetensors")
    registry.register(folder, name=name, base="base")


@pytest.fixture
def tuned(registry: Registry, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The dense sum of the two adapters, registered as `tuned`: of rank 8."""
    one, two = dense(tmp_path / "one"), dense(tmp_path / "two")
    state = {n: (one[n] + two[n] - t.double()).float() for n, t in base_state().items()}
    full(registry, tmp_path / "tuned", state, "tuned")
    return state


def again(registry: Registry, ref: str) -> dict[str, torch.Tensor]:
    """The model that an adapter makes of its base, in float32."""
    registry.merge({"method": "linear", "experts": [ref], "dtype": "float32"}, name="again")
    return registry.load_state("again")


def largest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((t.double() - theirs[n].double()).abs().max()) for n, t in ours.items())


def test_the_factors_of_a_low_rank_difference_give_it_back(
    registry: Registry, tuned: dict[str, torch.Tensor]
) -> None:
    made = registry.extract_lora("tuned", "base", rank=8, name="lora")

    assert made is not None
    assert ("adapter", "base@1") == (made.kind, made.base)
    assert 1e-6 > made.notes["extract_lora"]["relative_error"]
    assert largest(again(registry, "lora"), tuned) < 1e-6
    assert registry.verify("lora").ok
    assert registry.verify("lora", replay=True).ok


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=6)
@given(rank=st.integers(1, 24), alpha=st.sampled_from([None, 1.0, 2.5, 64.0]))
def test_every_rank_gives_the_best_product(
    rank: int,
    alpha: float | None,
    registry: Registry,
    tuned: dict[str, torch.Tensor],
) -> None:
    registry.extract_lora("tuned", "base", rank=rank, alpha=alpha, name="lora")

    found = again(registry, "lora")

    for name in ("a.proj.weight", "b.proj.weight"):
        base = base_state()[name].double()
        wanted = torch.linalg.svdvals(tuned[name].double() - base)[rank:]
        missed = torch.linalg.norm(found[name].double() - tuned[name].double())
        assert float(missed) == pytest.approx(float(wanted.norm()), abs=1e-5)


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.999])
def test_an_energy_gives_the_smallest_rank_that_has_it(
    energy: float, registry: Registry, tuned: dict[str, torch.Tensor]
) -> None:
    made = registry.extract_lora("tuned", "base", energy=energy, name="lora")

    assert made is not None
    state = load_file(registry.path("lora") / "adapter_model.safetensors")
    for module in ("a.proj", "b.proj"):
        name = f"{module}.weight"
        values = torch.linalg.svdvals(tuned[name].double() - base_state()[name].double()) ** 2
        share = values.cumsum(0) / values.sum()
        rank = state[f"base_model.model.{module}.lora_A.weight"].shape[0]
        assert rank == int((share >= energy).int().argmax()) + 1
    assert made.notes["extract_lora"]["energy"] >= energy
    assert registry.verify("lora", replay=True).ok


def test_norms_go_in_whole_where_they_changed_and_out_where_that_is_asked(
    registry: Registry, tuned: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tuned["a.norm.weight"] += 1
    full(registry, tmp_path / "normed", tuned, "normed")

    registry.extract_lora("normed", "base", rank=8, name="with")
    registry.extract_lora("normed", "base", rank=8, modules_to_save="none", name="without")
    registry.extract_lora("normed", "base", rank=8, exclude=["a.*"], name="half")

    assert largest(again(registry, "with"), tuned) < 1e-6
    assert 0.9 < largest(again(registry, "without"), tuned)
    assert ["b.proj.weight"] == [
        n for n, t in again(registry, "half").items() if not torch.equal(t, base_state()[n].float())
    ]


def test_one_adapter_becomes_another_of_smaller_rank(registry: Registry) -> None:
    made = registry.extract_lora("one", "base", rank=2, name="smaller")

    assert made is not None
    assert 2 == made.notes["adapter"]["rank"]
    assert ["a.proj.weight", "b.proj.weight"] == [
        n
        for n, t in again(registry, "smaller").items()
        if not torch.equal(t, base_state()[n].float())
    ]


def test_a_merge_in_float32_is_factored_without_the_rounding_of_its_base(
    registry: Registry, tuned: dict[str, torch.Tensor]
) -> None:
    recipe = {"method": "task_arithmetic", "experts": ["one", "two"], "base": "base"}
    errors = {}
    for dtype in ("float32", "bfloat16"):
        registry.merge({**recipe, "dtype": dtype}, name=dtype)
        registry.extract_lora(dtype, "base", rank=8, name="lora")
        errors[dtype] = largest(again(registry, "lora"), tuned)

    assert errors["float32"] < 1e-6
    assert errors["bfloat16"] > 1e-4


def test_what_cannot_be_is_refused(registry: Registry, tmp_path: Path) -> None:
    full(registry, tmp_path / "more", {**base_state(), "x": torch.ones(2)}, "more")
    shifted = {n: t + 1 for n, t in base_state().items()}
    save_file({**shifted, "scale": torch.ones(2)}, tmp_path / "more" / "model.safetensors")

    with pytest.raises(InvalidRecipe, match="--rank 16"):
        registry.extract_lora("one", "base", name="x")
    with pytest.raises(InvalidRecipe, match=r"`nothing\.\*` fits no tensor"):
        registry.extract_lora("one", "base", rank=1, include=["nothing.*"], name="x")
    with pytest.raises(IncompatibleModels, match="`base@1` has no `x`"):
        registry.extract_lora("more", "base", rank=1, name="x")
    with pytest.raises(InvalidRecipe, match="`rank`"):
        registry.extract_lora("one", "base", rank=0, name="x")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(12).reshape(2, 6)).logits
    return found


def loaded(folder: Path) -> Any:
    """peft's model of the base and of what was extracted."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers no longer wants called
        base = AutoModelForCausalLM.from_pretrained(folder / "base")
        return peft.PeftModel.from_pretrained(base, str(folder / "l"))


@pytest.mark.parametrize("make", [llama, gpt2])
def test_peft_loads_what_was_extracted_and_computes_the_same(make: Any, tmp_path: Path) -> None:
    base = make()
    base.save_pretrained(tmp_path / "base")
    kinds = ["q_proj", "down_proj"] if make is llama else ["c_attn", "c_proj"]
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=kinds, modules_to_save=["norm", "ln_f"], bias="all"
    )
    theirs = peft_adapter(base, config, tmp_path / "a")
    tuned = make()
    tuned.load_state_dict(theirs)
    tuned.save_pretrained(tmp_path / "tuned")
    with zoo.open(tmp_path / "r.db") as registry:
        registry.extract_lora(
            str(tmp_path / "tuned"), str(tmp_path / "base"), energy=0.99999999, out=tmp_path / "l"
        )

    model = loaded(tmp_path)

    assert float((logits(model) - logits(tuned)).abs().max()) < 1e-5
    content = json.loads((tmp_path / "l" / "adapter_config.json").read_text())
    assert set(kinds) == set(content["target_modules"])
    assert float((logits(make()) - logits(tuned)).abs().max()) > 1e-2


def test_peft_loads_an_embedding_that_was_factored(tmp_path: Path) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["embed_tokens", "v_proj"])
    theirs = peft_adapter(base, config, tmp_path / "a")
    tuned = llama()
    tuned.load_state_dict(theirs)
    tuned.save_pretrained(tmp_path / "tuned")  # type: ignore[operator]
    with zoo.open(tmp_path / "r.db") as registry:
        registry.extract_lora(
            str(tmp_path / "tuned"), str(tmp_path / "base"), rank=3, embeddings=True,
            out=tmp_path / "l",
        )  # fmt: skip

    model = loaded(tmp_path)

    assert (tmp_path / "l" / "adapter_model.safetensors").stat().st_size < 20_000
    assert float((logits(model) - logits(tuned)).abs().max()) < 1e-5


def test_the_command_says_how_far_off_the_adapter_is(
    registry: Registry, tuned: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    start = ["--registry", str(tmp_path / "r.db"), "extract-lora", "tuned", "base"]

    shown = CliRunner().invoke(cli, [*start, "--rank", "2", "--as", "lora"])
    written = CliRunner().invoke(
        cli, [*start, "--energy", "0.9", "--out", str(tmp_path / "l"), "--json"]
    )
    neither = CliRunner().invoke(cli, [*start, "--as", "lora"])

    assert 0 == shown.exit_code
    assert "relative error" in shown.stderr and "worst `" in shown.stderr
    assert 0.9 <= json.loads(written.stdout)["notes"]["extract_lora"]["energy"]
    assert 2 == neither.exit_code
