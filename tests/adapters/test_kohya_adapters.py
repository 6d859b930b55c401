"""Adapters for diffusion models: kohya's files, LyCORIS's, and diffusers' own."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import zoo
from zoo.adapters.ldm_names import ldm_name
from zoo.errors import IncompatibleModels, InvalidCheckpoint, UnsupportedFormat
from zoo.registry import Registry

diffusers = pytest.importorskip("diffusers")


def unet() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )


TARGETS = ("to_q", "to_out_0", "ff_net_2", "proj_in", "conv1", "downsamplers_0_conv")


def kohya_lora(model: nn.Module, rank: int = 3, alpha: float = 2.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, module in model.named_modules():
        flat = "lora_unet_" + name.replace(".", "_")
        if not flat.endswith(TARGETS) or not isinstance(module, (nn.Linear, nn.Conv2d)):
            continue
        shape = module.weight.shape
        ones = (1,) * (len(shape) - 2)
        found[f"{flat}.lora_down.weight"] = torch.randn(rank, *shape[1:], generator=generator) * 0.2
        found[f"{flat}.lora_up.weight"] = (
            torch.randn(shape[0], rank, *ones, generator=generator) * 0.2
        )
        found[f"{flat}.alpha"] = torch.tensor(alpha)
    assert len(found) > 30
    return found


def merged(tmp_path: Path, adapter: dict[str, torch.Tensor], base: str = "base") -> Any:
    save_file({n: t.clone() for n, t in adapter.items()}, tmp_path / "lora.safetensors")
    with zoo.open(tmp_path / "r.db") as registry:
        if not registry.select("name = 'base'"):
            registry.register(tmp_path / base, name="base", kind="base")
        version = registry.register(tmp_path / "lora.safetensors", name="lora", base="base")

        assert ("adapter", "base@1") == (version.kind, version.base)

        found = registry.merge(method="linear", experts=["lora"], name="m")
        assert found is not None
        assert registry.verify("m", replay=True).ok
        return registry.load_state("m")


def largest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((t.double() - theirs[n].double()).abs().max()) for n, t in ours.items())


def fused(lora: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What diffusers makes of it."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

    model = unet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, alphas = _convert_non_diffusers_lora_to_diffusers(dict(lora))
        model.load_lora_adapter(state, prefix="unet", network_alphas=alphas)
        model.fuse_lora()
        model.unload_lora()
    return dict(model.state_dict())


def test_a_lora_of_kohyas_is_what_diffusers_fuses(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "base")
    lora = kohya_lora(unet())

    ours = merged(tmp_path, lora)

    assert largest(ours, fused(lora)) < 1e-6
    assert largest(ours, dict(unet().state_dict())) > 0.01


def test_a_directory_with_one_such_file_and_a_card_is_an_adapter(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "base")
    (tmp_path / "pulled").mkdir()
    (tmp_path / "pulled" / "README.md").write_text("---\nlicense: mit\n---\n# LoRA\n")
    save_file(kohya_lora(unet()), tmp_path / "pulled" / "pytorch_lora_weights.safetensors")
    save_file(kohya_lora(unet()), tmp_path / "alone.safetensors")
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        registry.register(tmp_path / "alone.safetensors", name="alone", base="base")

        version = registry.register(tmp_path / "pulled", name="pulled", base="base")

        assert ("adapter", "base@1", "mit") == (version.kind, version.base, version.license)

        first = registry.merge(method="linear", experts=["alone"], name="first")
        second = registry.merge(method="linear", experts=["pulled"], name="second")

        assert first is not None
        assert second is not None
        assert first.digest == second.digest


def test_a_file_of_diffusers_own_has_its_alphas_in_the_metadata(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "base")
    lora = kohya_lora(unet(), rank=3, alpha=7.5)
    names = {n.replace(".", "_"): n for n, _ in unet().named_modules()}
    renamed = {}
    for name, tensor in lora.items():
        module, _, slot = name.removeprefix("lora_unet_").partition(".")
        if slot != "alpha":
            side = "A" if "down" in slot else "B"
            renamed[f"unet.{names[module]}.lora_{side}.weight"] = tensor
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 3, "unet.lora_alpha": 7.5})}
    save_file(renamed, tmp_path / "lora.safetensors", metadata)
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        registry.register(tmp_path / "lora.safetensors", name="lora", base="base")

        registry.merge(method="linear", experts=["lora"], name="m")

        assert largest(registry.load_state("m"), fused(lora)) < 1e-6


def test_a_base_in_stabilitys_layout_takes_names_of_diffusers(tmp_path: Path) -> None:
    state = {
        "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": torch.ones(4, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (
            torch.ones(4, 4)
        ),
        "model.diffusion_model.output_blocks.2.1.conv.weight": torch.ones(4, 4, 3, 3),
        "model.diffusion_model.middle_block.1.proj_in.weight": torch.ones(4, 4),
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(4, 4),
    }
    (tmp_path / "base").mkdir()
    save_file(state, tmp_path / "base" / "model.safetensors")
    modules = {
        "lora_unet_down_blocks_0_resnets_0_conv1": (4, 3, 3),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (4,),
        "lora_unet_up_blocks_0_upsamplers_0_conv": (4, 3, 3),
        "lora_unet_mid_block_attentions_0_proj_in": (4,),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (4,),
    }
    lora = {}
    for name, shape in modules.items():
        lora[f"{name}.lora_down.weight"] = torch.ones(2, *shape)
        lora[f"{name}.lora_up.weight"] = torch.ones(4, 2, *(1,) * (len(shape) - 1))

    ours = merged(tmp_path, lora)

    assert all(torch.equal(t, torch.full_like(t, 3.0)) for t in ours.values())


def test_names_of_the_two_layouts_lead_to_each_other() -> None:
    pairs = {
        "input_blocks_4_1_proj_in": "down_blocks_1_attentions_0_proj_in",
        "output_blocks_8_0_skip_connection": "up_blocks_2_resnets_2_conv_shortcut",
        "middle_block_2_out_layers_3": "mid_block_resnets_1_conv2",
        "time_embed_0": "time_embedding_linear_1",
        "input_blocks_3_0_op": "down_blocks_0_downsamplers_0_conv",
    }
    for theirs, ours in pairs.items():
        assert ours in list(ldm_name("lora_unet", theirs))
        assert theirs in list(ldm_name("lora_unet", ours))


@pytest.fixture
def two_layers(tmp_path: Path) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {
        "unet.lin.weight": torch.randn(8, 12, generator=generator),
        "unet.lin.bias": torch.randn(8, generator=generator),
        "unet.conv.weight": torch.randn(8, 6, 3, 3, generator=generator),
    }
    (tmp_path / "base").mkdir()
    save_file(state, tmp_path / "base" / "model.safetensors")
    return state


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def lycoris_cases() -> dict[str, tuple[dict[str, torch.Tensor], Any]]:
    """Adapter of `lin`, and of `conv`; what it adds to each, by einsum in float64."""
    cases: dict[str, Any] = {}
    a1, b1, a2, b2 = random(8, 2), random(2, 12), random(8, 2) * 2, random(2, 12) * 3
    cases["LoHa"] = (
        {"lin": {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}},
        {"lin": 1.5 * (a1 @ b1) * (a2 @ b2)},
    )
    t1, t2, p, q = random(2, 2, 3, 3), random(2, 2, 3, 3) + 1, random(2, 8), random(2, 6)
    made = [torch.einsum("ijkl,jr,ip->prkl", t, q, p) for t in (t1, t2)]
    cases["LoHa, Tucker"] = (
        {
            "conv": {
                "hada_t1": t1,
                "hada_t2": t2,
                "hada_w1_a": p,
                "hada_w1_b": q,
                "hada_w2_a": p,
                "hada_w2_b": q,
            }
        },
        {"conv": 1.5 * made[0] * made[1]},
    )
    w1, w2 = random(2, 3), random(4, 4)
    cases["LoKr, whole"] = (
        {"lin": {"lokr_w1": w1, "lokr_w2": w2}},
        {"lin": torch.kron(w1, w2)},
    )
    w2a, w2b = random(4, 2), random(2, 4)
    cases["LoKr, thin"] = (
        {"lin": {"lokr_w1": w1, "lokr_w2_a": w2a, "lokr_w2_b": w2b}},
        {"lin": 1.5 * torch.kron(w1, w2a @ w2b)},
    )
    c1, c2 = random(2, 3), random(4, 2, 3, 3)
    cases["LoKr, convolution"] = (
        {"conv": {"lokr_w1": c1, "lokr_w2": c2}},
        {"conv": torch.kron(c1[:, :, None, None], c2)},
    )
    core, ca, cb = random(2, 2, 3, 3), random(2, 4), random(2, 2)
    cases["LoKr, Tucker"] = (
        {"conv": {"lokr_w1": c1, "lokr_t2": core, "lokr_w2_a": ca, "lokr_w2_b": cb}},
        {
            "conv": 1.5
            * torch.kron(
                c1[:, :, None, None], torch.einsum("ijkl,ip,jr->prkl", core, ca, cb).contiguous()
            )
        },
    )
    up, down, mid = random(8, 2, 1, 1), random(2, 6, 1, 1), random(2, 2, 3, 3)
    cases["a core between the factors"] = (
        {"conv": {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid}},
        {"conv": 1.5 * torch.einsum("op,pqkl,qi->oikl", up[..., 0, 0], mid, down[..., 0, 0])},
    )
    cases["in full"] = (
        {"lin": {"diff": random(8, 12), "diff_b": random(8)}},
        {"lin": random(8, 12)},
    )
    return cases


@pytest.mark.parametrize("case", lycoris_cases())
def test_an_adapter_of_lycoris_is_the_dense_product(
    case: str, tmp_path: Path, two_layers: dict[str, torch.Tensor]
) -> None:
    factors, added = lycoris_cases()[case]
    lora = {f"lycoris_{m}.{s}": t for m, of in factors.items() for s, t in of.items()}
    lora |= {f"lycoris_{m}.alpha": torch.tensor(3.0) for m in factors if case != "in full"}

    ours = merged(tmp_path, lora)

    expected = {n: t.double() for n, t in two_layers.items()}
    for module, delta in added.items():
        expected[f"unet.{module}.weight"] = two_layers[f"unet.{module}.weight"] + delta.double()
    if case == "in full":
        expected["unet.lin.bias"] = two_layers["unet.lin.bias"] + random(8)
    assert largest(ours, expected) < 1e-5


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("module", ["lin", "conv"])
def test_dora_of_lycoris_sets_norms_of_outputs_or_of_inputs(
    along: int, module: str, tmp_path: Path, two_layers: dict[str, torch.Tensor]
) -> None:
    weight = two_layers[f"unet.{module}.weight"]
    sizes = [1] * weight.dim()
    sizes[along] = weight.shape[along]
    magnitude = random(*sizes).abs() + 0.5
    up, down = random(8, 2), random(2, *weight.shape[1:])
    ones = (1,) * (weight.dim() - 2)
    lora = {
        f"lora_unet_{module}.lora_up.weight": up.reshape(8, 2, *ones),
        f"lora_unet_{module}.lora_down.weight": down,
        f"lora_unet_{module}.dora_scale": magnitude,
    }

    ours = merged(tmp_path, lora)[f"unet.{module}.weight"]

    w = weight.double() + (up.double() @ down.double().flatten(1)).reshape(weight.shape)
    others = [i for i in range(w.dim()) if i != along]
    expected = w / w.square().sum(dim=others, keepdim=True).sqrt() * magnitude.double()
    assert float((ours.double() - expected).abs().max()) < 1e-6


def refused(
    tmp_path: Path, lora: dict[str, torch.Tensor], error: type[Exception], says: str
) -> None:
    save_file({n: t.clone() for n, t in lora.items()}, tmp_path / "lora.safetensors")
    with Registry(str(tmp_path / "r.db")) as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        with pytest.raises(error, match=says):
            registry.register(tmp_path / "lora.safetensors", name="lora", base="base")

        assert ["base@1"] == [v.ref for v in registry.select()]


GOOD = {
    "lora_unet_lin.lora_up.weight": random(8, 2),
    "lora_unet_lin.lora_down.weight": random(2, 12),
}
BAD: dict[str, tuple[dict[str, torch.Tensor], type[Exception], str]] = {
    "IA3": ({"lora_unet_lin.on_input": torch.ones(1)}, UnsupportedFormat, "that multiply"),
    "OFT": ({"lora_unet_lin.oft_blocks": torch.ones(1)}, UnsupportedFormat, "that multiply"),
    "unknown": ({"lora_unet_lin.what": torch.ones(1)}, InvalidCheckpoint, "none that kohya's"),
    "nowhere": (
        {n.replace("lin", "gone"): t for n, t in GOOD.items()},
        IncompatibleModels,
        "no module for `lora_unet_gone`",
    ),
    "half": (
        {"lora_unet_conv.lora_down.weight": torch.ones(2, 6, 3, 3)},
        InvalidCheckpoint,
        "half",
    ),
    "wide": (
        {"lora_unet_lin.lora_down.weight": random(2, 11)},
        IncompatibleModels,
        r"is \[8, 12\], and its factors make \[8, 11\]",
    ),
    "alphas": ({"lora_unet_lin.alpha": torch.ones(2)}, InvalidCheckpoint, "should be one number"),
    "endless": (
        {"lora_unet_lin.alpha": torch.tensor(float("nan"))},
        InvalidCheckpoint,
        "nothing can be scaled",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("two_layers")
def test_what_is_no_adapter_of_the_base_is_refused(case: str, tmp_path: Path) -> None:
    tensors, error, says = BAD[case]

    refused(tmp_path, {**GOOD, **tensors}, error, says)


@pytest.mark.usefixtures("two_layers")
def test_an_adapter_without_a_base_says_how_to_name_one(tmp_path: Path) -> None:
    from zoo.errors import NotFound

    save_file(GOOD, tmp_path / "lora.safetensors")
    with (
        Registry(str(tmp_path / "r.db")) as registry,
        pytest.raises(NotFound, match=r"does not say what it was trained on.*--base REF"),
    ):
        registry.register(tmp_path / "lora.safetensors", name="lora")
