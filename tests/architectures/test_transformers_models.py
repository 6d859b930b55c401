"""The door to transformers: what it builds, loads and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from zoo.errors import InvalidCheckpoint
from zoo.testing import ArchitectureConformance

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from zoo_plugins.transformers_architectures import Transformers  # noqa: E402

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 24}
LLAMA = {**SMALL, "vocab_size": 20, "num_key_value_heads": 1, "max_position_embeddings": 16}
LLAMA |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
BERT = {**SMALL, "vocab_size": 20, "max_position_embeddings": 16, "num_labels": 3}
BERT |= {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
VIT = {**SMALL, "image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 3}
VIT |= {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
CONFIGS = {"llama": LLAMA, "bert": BERT, "vit": VIT}


def example(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "vit":
        return torch.randn(2, 1, 8, 8, generator=generator)
    return torch.randint(1, 20, (2, 6), generator=generator)


@pytest.fixture
def saved(tmp_path: Path):
    """A tiny random model, as transformers itself saves it."""

    def save(kind: str) -> Path:
        torch.manual_seed(0)
        made = getattr(transformers, CONFIGS[kind]["architectures"][0])
        made = made(made.config_class.from_dict(CONFIGS[kind]))
        made.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return save


class _Conformance(ArchitectureConformance):
    architecture = Transformers()
    tolerance = 1e-4

    def inputs(self) -> torch.Tensor:
        return example(str(self.config["model_type"]))

    def test_an_empty_configuration_is_refused(self) -> None:
        pytest.skip("transformers takes any key, and has a default for each")

    def test_other_weights_are_refused_by_name(self) -> None:
        pytest.skip("`load` is not by `load_module`; tested below")


class TestLlama(_Conformance):
    config = LLAMA


class TestTiedLlama(_Conformance):
    config = {**LLAMA, "tie_word_embeddings": True}


class TestBert(_Conformance):
    config = BERT


class TestVit(_Conformance):
    config = VIT


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_model_gives_the_logits_that_transformers_does(kind, saved):
    directory, x = saved(kind), example(kind)
    config = json.loads((directory / "config.json").read_text())
    architecture = Transformers()
    theirs = getattr(transformers, config["architectures"][0]).from_pretrained(directory).eval()

    assert architecture.knows(config)
    module = architecture.load(directory)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), theirs(x).logits)
        name = "pixel_values" if kind == "vit" else "input_ids"
        assert hasattr(module(**{name: x}), "logits")


def test_a_language_model_generates(saved):
    module = Transformers().load(saved("llama"))

    found = module.generate(input_ids=example("llama"), max_new_tokens=3, do_sample=False)
    assert (2, 9) == found.shape


@pytest.mark.parametrize(
    ("kind", "head"), [("llama", "lm_head"), ("bert", "classifier"), ("vit", "classifier")]
)
def test_head_and_layers_are_read_off_the_model(kind, head):
    architecture = Transformers()

    assert head == architecture.head(CONFIGS[kind])
    layers = architecture.layers(CONFIGS[kind])
    assert 4 == len(layers)
    assert any(name.startswith(head) for name in layers[-1])


def test_second_derivatives_exist(saved):
    module = Transformers().load(saved("vit"))
    loss = torch.nn.functional.cross_entropy(module(example("vit")), torch.tensor([0, 1]))
    weights = list(module.parameters())
    first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    total = sum(g.square().sum() for g in first if g is not None)
    second = torch.autograd.grad(total, weights, allow_unused=True)

    assert any(g is not None and g.abs().max() > 0 for g in second)


def test_missing_and_left_over_weights_are_errors(saved):
    from safetensors.torch import load_file, save_file

    directory = saved("llama")
    state = load_file(directory / "model.safetensors")
    state["extra"] = state.pop("model.norm.weight")
    state["lm_head.weight"] = state["lm_head.weight"][:7].clone()
    save_file(state, directory / "model.safetensors", {"format": "pt"})

    with pytest.raises(InvalidCheckpoint) as caught:
        Transformers().load(directory)
    assert {
        "`model.norm.weight` is missing",
        "`extra` is left over",
        "`lm_head.weight` is (7, 16), not (20, 16)",
    } == set(caught.value.problems)


def test_code_beside_a_model_is_not_run(saved, tmp_path):
    directory = saved("llama")
    config = json.loads((directory / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    Transformers().load(directory)
    assert not (tmp_path / "ran").exists()

    config["architectures"] = ["Evil"]
    assert not Transformers().knows(config)
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidCheckpoint, match="no model class `Evil`"):
        Transformers().load(directory)
    assert not (tmp_path / "ran").exists()


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(InvalidCheckpoint, match="`BertModel` is a model of `bert`"):
        Transformers().build({**LLAMA, "architectures": ["BertModel"]})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "llama"},
        {"model_type": "llama", "architectures": []},
        {"model_type": "llama", "architectures": [5]},
        {"model_type": 5, "architectures": ["LlamaForCausalLM"]},
        {"model_type": "../models/llama", "architectures": ["LlamaForCausalLM"]},
        {"model_type": "llama", "architectures": ["AutoModel; evil"]},
        {"model_type": "llama", "architectures": ["Pangolin"]},
        {"model_type": "resnet", "architectures": ["ResNet"]},
    ],
)
def test_other_configurations_are_not_its(config):
    assert not Transformers().knows(config)


def test_a_kind_whose_folder_has_another_name_is_known():
    config = transformers.CLIPTextConfig().to_dict()
    config |= {"architectures": ["CLIPTextModel"], "transformers_version": "5"}

    assert "clip_text_model" == config["model_type"]
    assert Transformers().knows(config)


def test_to_ask_imports_neither_torch_nor_transformers():
    code = f"""
        import sys
        from zoo_plugins.timm_architectures import Timm
        from zoo_plugins.transformers_architectures import Transformers
        assert Transformers().knows({LLAMA!r})
        assert not Transformers().knows({{"model_type": "mine", "architectures": ["Mine"]}})
        assert not Timm().knows({LLAMA!r})
        assert not {{"torch", "transformers", "timm"}} & {{*sys.modules}}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
