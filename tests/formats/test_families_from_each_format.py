"""One merged model of each family, from each format: the library loads it and computes what the
mean of the weights, worked out by hand, computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo import Registry

TEXT = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PICTURE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
IDS = torch.arange(4, 14)[None]
PIXELS = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)


def made(family: str, seed: int) -> tuple[Any, dict[str, Any], Callable[[Any], torch.Tensor]]:
    """(model, what it is called with, where its result is)."""
    import transformers as t

    torch.manual_seed(seed)
    if family == "llama":
        config = t.LlamaConfig(**TEXT, num_key_value_heads=1, tie_word_embeddings=False)
        return t.LlamaForCausalLM(config), {"input_ids": IDS}, lambda o: o.logits
    if family == "mixtral":
        config = t.MixtralConfig(**TEXT, num_key_value_heads=1, num_local_experts=2)
        return t.MixtralForCausalLM(config), {"input_ids": IDS}, lambda o: o.logits
    if family == "gpt2":
        config = t.GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32)
        return t.GPT2LMHeadModel(config), {"input_ids": IDS}, lambda o: o.logits
    if family == "bert":
        config = t.BertConfig(**TEXT, max_position_embeddings=32, num_labels=3)
        model = t.BertForSequenceClassification(config)
        return model, {"input_ids": IDS}, lambda o: o.logits
    if family == "t5":
        config = t.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
        model = t.T5ForConditionalGeneration(config)
        return model, {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}, lambda o: o.logits
    if family == "vit":
        config = t.ViTConfig(**PICTURE, image_size=16, patch_size=4, num_labels=3)
        model = t.ViTForImageClassification(config)
        return model, {"pixel_values": PIXELS}, lambda o: o.logits
    if family == "clip":
        config = t.CLIPConfig(
            text_config={**TEXT, "eos_token_id": 13, "bos_token_id": 1},
            vision_config={**PICTURE, "image_size": 16, "patch_size": 4},
            projection_dim=8,
        )
        model = t.CLIPModel(config)
        return model, {"input_ids": IDS, "pixel_values": PIXELS}, lambda o: o.logits_per_image
    raise KeyError(family)


def saved(model: Any, path: Path, form: str) -> Path:
    """The model on disk: safetensors, sharded, or torch's pickles."""
    if form == "sharded":
        model.save_pretrained(path, max_shard_size="10KB")
    else:
        model.save_pretrained(path)
    if form == "bin":
        torch.save(model.state_dict(), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()
    return path


CASES = [
    *((f, "safetensors") for f in ("llama", "mixtral", "gpt2", "bert", "t5", "vit", "clip")),
    *(("gpt2", form) for form in ("sharded", "bin")),
    ("t5", "bin"),
]


@pytest.mark.parametrize(("family", "form"), CASES)
def test_a_merge_computes_what_the_mean_of_the_weights_computes(
    family: str, form: str, registry: Registry, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        registry.register(saved(made(family, seed)[0], tmp_path / name, form), name=name)

    registry.merge(method="linear", experts=["a", "b"], name="m")

    model, inputs, result = made(family, 0)
    other = made(family, 1)[0].state_dict()
    mean = {
        n: ((t.double() + other[n].double()) / 2).to(t.dtype) if t.is_floating_point() else t
        for n, t in model.state_dict().items()
    }
    model.load_state_dict(mean)
    loaded = type(model).from_pretrained(registry.path("m"))
    with torch.no_grad():
        expected, actual = (result(m.eval()(**inputs)) for m in (model, loaded))
    assert torch.allclose(expected, actual, rtol=1e-4, atol=1e-6)


def test_gguf_and_safetensors_merge_with_each_other(registry: Registry, tmp_path: Path) -> None:
    models = [made("llama", seed)[0].half() for seed in range(2)]
    for name, model in zip("ab", models, strict=True):
        registry.register(saved(model, tmp_path / name, "safetensors"), name=name)
    one = registry.export("a", tmp_path / "gguf", format="gguf")

    registry.merge(method="linear", experts=[str(one), "b"], name="m")

    from transformers import AutoModelForCausalLM

    expected = models[0].float()
    other = models[1].float().state_dict()
    mean = {n: ((t + other[n]) / 2).half().float() for n, t in expected.state_dict().items()}
    expected.load_state_dict(mean)
    actual = AutoModelForCausalLM.from_pretrained(registry.path("m"), dtype=torch.float32)
    with torch.no_grad():
        logits = [m.eval()(input_ids=IDS).logits for m in (expected, actual)]
    assert torch.allclose(*logits, rtol=1e-4, atol=1e-6)


def test_a_single_file_of_stable_diffusion_merges_under_its_own_names(
    registry: Registry, tmp_path: Path
) -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    for seed in range(2):
        state = {
            name: torch.full((4, 4), float(seed)),
            "cond_stage_model.logit_scale": torch.ones(()),
        }
        content = {"state_dict": state, "epoch": 3, "global_step": 100, "callbacks": {}}
        torch.save(content, tmp_path / f"{seed}.ckpt")

    experts = [str(tmp_path / f"{seed}.ckpt") for seed in range(2)]
    version = registry.merge(method="linear", experts=experts, name="m")

    assert version is not None
    import zoo

    state = zoo.load_state("m", registry=registry)
    assert 0.5 == state[name].unique().item()
    assert "state_dict" == registry.get("0").notes["state_dict_key"]
