"""What the bundled networks compute, against torch's own layers; what they refuse."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from zoo_plugins.cnn_architecture import Cnn
from zoo_plugins.gpt_architecture import Gpt
from zoo_plugins.mlp_architecture import Mlp
from zoo_plugins.resnet_architecture import ResNet
from zoo_plugins.vgg_architecture import Vgg
from zoo_plugins.vit_architecture import Vit

from zoo.errors import InvalidCheckpoint, StoreError
from zoo.networks.modules import batch_norms, norms, save_module, stored

CONFIGS: dict[str, dict[str, Any]] = {
    "zoo_mlp": {"inputs": 64, "width": 5, "depth": 2, "classes": 3, "activation": "gelu"},
    "zoo_cnn": {
        "channels": 1,
        "size": 8,
        "width": 2,
        "depth": 2,
        "hidden": 5,
        "classes": 3,
        "norm": "layer",
    },
    "zoo_vgg": {
        "channels": 1,
        "width": 2,
        "convolutions": [1, 1],
        "classes": 3,
        "norm": "batch",
    },
    "zoo_resnet": {"channels": 1, "width": 2, "blocks": [1, 1], "classes": 3, "norm": "batch"},
    "zoo_vit": {
        "channels": 1,
        "size": 8,
        "patch": 4,
        "width": 8,
        "depth": 1,
        "heads": 2,
        "inner": 4,
        "classes": 3,
    },
    "zoo_gpt": {
        "vocab_size": 5,
        "context": 4,
        "width": 8,
        "depth": 1,
        "heads": 2,
        "inner": 4,
        "tie_word_embeddings": True,
    },
}


ARCHITECTURES = {a.name: a for a in (Mlp(), Cnn(), Vgg(), ResNet(), Vit(), Gpt())}


def built(name: str, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES[name].build({**CONFIGS[name], **changes}).eval()


def example(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if name == "zoo_gpt":
        return torch.randint(5, (2, 4), generator=generator)
    return torch.randn(2, 1, 8, 8, generator=generator)


def test_names_are_not_those_of_transformers():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert not {*CONFIGS} & {*CONFIG_MAPPING_NAMES}


def torch_layer(state: dict[str, torch.Tensor], block: str, width: int, heads: int, inner: int):
    """torch's own pre-norm encoder layer with the weights of a block of ours."""
    layer = torch.nn.TransformerEncoderLayer(
        width, heads, inner, 0.0, "gelu", batch_first=True, norm_first=True
    ).eval()
    own = {k.removeprefix(f"{block}."): v for k, v in state.items() if k.startswith(f"{block}.")}
    names = {"fc1": "linear1", "fc2": "linear2", "attention.out": "self_attn.out_proj"}
    theirs = {}
    for part in ("weight", "bias"):
        theirs[f"self_attn.in_proj_{part}"] = torch.cat(
            [own[f"attention.{x}.{part}"] for x in "qkv"]
        )
        for name in ("norm1", "norm2", *names):
            theirs[f"{names.get(name, name)}.{part}"] = own[f"{name}.{part}"]
    layer.load_state_dict(theirs)
    return layer


def test_a_vision_transformer_computes_what_torchs_encoder_layers_do():
    module, x = built("zoo_vit", depth=2), example("zoo_vit")
    state = module.state_dict()

    patches = F.unfold(x, 4, stride=4).transpose(1, 2)  # (n, patches, pixels)
    h = patches @ state["patches.weight"].flatten(1).T + state["patches.bias"]
    h = torch.cat((state["class_token"].expand(2, 1, 8), h), 1) + state["positions"]
    for i in range(2):
        h = torch_layer(state, f"blocks.{i}", 8, 2, 4)(h)
    h = F.layer_norm(h[:, 0], (8,), state["norm.weight"], state["norm.bias"])
    expected = h @ state["head.weight"].T + state["head.bias"]

    torch.testing.assert_close(module(x), expected)


def test_a_gpt_computes_what_torchs_masked_encoder_layers_do():
    module, x = built("zoo_gpt", depth=2), example("zoo_gpt")
    state = module.state_dict()

    h = state["model.embed_tokens.weight"][x] + state["model.positions.weight"]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(4)
    for i in range(2):
        h = torch_layer(state, f"model.blocks.{i}", 8, 2, 4)(h, src_mask=mask)
    h = F.layer_norm(h, (8,), state["model.norm.weight"], state["model.norm.bias"])
    expected = h @ state["model.embed_tokens.weight"].T

    assert (2, 4, 5) == module(x).shape
    torch.testing.assert_close(module(x), expected)


def test_a_gpt_sees_only_what_is_before():
    module, x = built("zoo_gpt"), example("zoo_gpt")
    other = x.clone()
    other[:, 2:] = (other[:, 2:] + 1) % 5

    assert torch.equal(module(x)[:, :2], module(other)[:, :2])
    assert not torch.equal(module(x)[:, 2:], module(other)[:, 2:])


def test_a_residual_network_adds_each_shortcut():
    module, x = built("zoo_resnet"), example("zoo_resnet")
    w = module.state_dict()

    def conv(h, name, norm, stride=1):
        side = w[f"{name}.weight"].shape[2]
        h = F.conv2d(h, w[f"{name}.weight"], None, stride, side // 2)
        means, variances = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
        return F.batch_norm(h, means, variances, w[f"{norm}.weight"], w[f"{norm}.bias"])

    h = F.relu(conv(x, "conv1", "norm1"))
    for s in range(2):
        b = f"stages.{s}.0"
        y = F.relu(conv(h, f"{b}.conv1", f"{b}.norm1", s + 1))
        y = conv(y, f"{b}.conv2", f"{b}.norm2")
        h = F.relu(y + (conv(h, f"{b}.shortcut.0", f"{b}.shortcut.1", 2) if s else h))
    expected = h.mean((2, 3)) @ w["head.weight"].T + w["head.bias"]

    assert (2, 4, 4, 4) == h.shape
    torch.testing.assert_close(module(x), expected)


def test_published_sizes():
    """Parameters of ResNet-20 and VGG-11 for CIFAR-10, reckoned from their tables."""
    resnet = built("zoo_resnet", channels=3, width=16, blocks=[3, 3, 3], classes=10)
    vgg = built("zoo_vgg", channels=3, width=64, convolutions=[1, 1, 2, 2, 2], classes=10)

    # 0.27 million in the paper, and the two 1x1 shortcuts: 16*32 + 2*32 + 32*64 + 2*64.
    assert 269722 + 2752 == sum(p.numel() for p in resnet.parameters())
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    convolutions = sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    assert convolutions + 512 * 10 + 10 == sum(p.numel() for p in vgg.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_second_derivatives_exist(name):
    """Of the loss, by torch.func: what curvature is measured with."""
    module, x = built(name).double().requires_grad_(False), example(name)
    state = {k: v for k, v in stored(module).items() if v.is_floating_point()}
    weights = {k: v for k, v in state.items() if "running" not in k}
    statistics = {k: v for k, v in state.items() if "running" in k}
    x = x.double() if x.is_floating_point() else x
    targets = torch.zeros(2, dtype=torch.long)

    def loss(moved):
        y = torch.func.functional_call(module, {**statistics, **moved}, (x,))
        return F.cross_entropy(y if y.ndim == 2 else y[:, -1], targets)

    gradient = torch.func.grad(loss)
    product = torch.func.grad(lambda w: sum(g.sum() for g in gradient(w).values()))(weights)

    h = 1e-5
    ahead, behind = (gradient({k: v + d for k, v in weights.items()}) for d in (h, -h))
    for k, v in product.items():
        torch.testing.assert_close(v, (ahead[k] - behind[k]) / (2 * h), rtol=1e-3, atol=1e-5)


def test_normalisation_layers_are_found():
    assert ["norm1", "norm2"] == [*batch_norms(built("zoo_vgg"))]
    assert ["norm1", "norm2"] == [*norms(built("zoo_cnn"))]
    assert {} == batch_norms(built("zoo_cnn"))
    assert ["blocks.0.norm1", "blocks.0.norm2", "norm"] == [*norms(built("zoo_vit"))]
    assert {} == norms(built("zoo_mlp"))


def test_all_that_is_wrong_with_a_configuration_is_told_at_once():
    config = {"model_type": "zoo_mlp", "widht": 5, "inputs": 64, "depth": 2.0, "classes": 0}

    with pytest.raises(InvalidCheckpoint) as caught:
        ARCHITECTURES["zoo_mlp"].build(config)

    said = str(caught.value)
    assert 5 == len(caught.value.problems)
    assert "`widht` is unknown. Did you mean `width`?" in said
    assert "`width` is missing." in said and "`activation` is missing." in said
    assert "`depth` is 2.0" in said and "`classes` is 0" in said
    assert '"model_type": "zoo_mlp"' in said


@pytest.mark.parametrize("name", CONFIGS)
def test_each_key_is_needed_and_no_other_is_taken(name):
    for key in CONFIGS[name]:
        with pytest.raises(InvalidCheckpoint, match=f"`{key}` is missing"):
            ARCHITECTURES[name].build({k: v for k, v in CONFIGS[name].items() if k != key})
    with pytest.raises(InvalidCheckpoint, match="`dropout` is unknown"):
        built(name, dropout=0.1)
    assert built(name, id2label={"0": "cat"}, torch_dtype="float32")


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("zoo_cnn", {"size": 3}, "Make `depth` at most 1."),
        ("zoo_cnn", {"norm": "group"}, "`norm` is 'group'"),
        ("zoo_vgg", {"convolutions": []}, "`convolutions` is []"),
        ("zoo_vgg", {"convolutions": [1, 0]}, "`convolutions` is [1, 0]"),
        ("zoo_resnet", {"blocks": 3}, "`blocks` is 3"),
        ("zoo_vit", {"patch": 3}, "Make `size` a multiple of `patch`."),
        ("zoo_vit", {"heads": 3}, "Make `width` a multiple of `heads`."),
        ("zoo_gpt", {"heads": 3}, "Make `width` a multiple of `heads`."),
        ("zoo_gpt", {"tie_word_embeddings": 1}, "`tie_word_embeddings` is 1"),
    ],
)
def test_what_contradicts_itself_is_refused(name, wrong, said):
    with pytest.raises(InvalidCheckpoint) as caught:
        ARCHITECTURES[name].build({**CONFIGS[name], **wrong})

    assert said in str(caught.value)


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="5 tokens are more than the context of 4"):
        built("zoo_gpt")(torch.zeros(1, 5, dtype=torch.long))


def test_a_tied_head_is_stored_once_and_comes_back_tied(tmp_path):
    from safetensors import safe_open

    module = built("zoo_gpt")
    config = {"model_type": "zoo_gpt", **CONFIGS["zoo_gpt"]}
    save_module(module, config, tmp_path / "gpt")

    with safe_open(tmp_path / "gpt" / "model.safetensors", "pt") as file:
        names = [*file.keys()]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    back = ARCHITECTURES["zoo_gpt"].load(tmp_path / "gpt")
    assert back.lm_head.weight is back.model["embed_tokens"].weight
    assert torch.equal(module(example("zoo_gpt")), back(example("zoo_gpt")))


def test_a_directory_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")

    with pytest.raises(StoreError):
        save_module(built("zoo_mlp"), {"model_type": "zoo_mlp"}, tmp_path / "taken")
    assert ["file"] == [p.name for p in (tmp_path / "taken").iterdir()]


def test_a_configuration_must_say_what_builds_the_module_again(tmp_path):
    module = built("zoo_mlp")
    with pytest.raises(InvalidCheckpoint, match="no `model_type`"):
        save_module(module, CONFIGS["zoo_mlp"], tmp_path / "m")
    with pytest.raises(InvalidCheckpoint, match="cannot be written as JSON"):
        save_module(module, {"model_type": "zoo_mlp", "width": torch.ones(1)}, tmp_path / "m")
    assert [] == [*tmp_path.iterdir()]


def test_loading_leaves_torchs_random_state_alone(tmp_path):
    config = {"model_type": "zoo_mlp", **CONFIGS["zoo_mlp"]}
    save_module(built("zoo_mlp"), config, tmp_path / "m")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ARCHITECTURES["zoo_mlp"].load(tmp_path / "m")

    assert torch.equal(before, torch.get_rng_state())


def test_half_precision_stays(tmp_path):
    config = {"model_type": "zoo_mlp", **CONFIGS["zoo_mlp"]}
    save_module(built("zoo_mlp").bfloat16(), config, tmp_path / "m")

    back = ARCHITECTURES["zoo_mlp"].load(tmp_path / "m")
    assert {torch.bfloat16} == {p.dtype for p in back.parameters()}
