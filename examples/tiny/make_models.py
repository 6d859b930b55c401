"""Make the tiny models that the how-to pages are shown with: `python make_models.py [DIRECTORY]`.

Layouts, configurations and tokenizers are real; weights are noise. Needs transformers, and peft and
diffusers for the adapters and pipelines; what is not installed is left out.
"""

import importlib.util
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "dtype": "float32",
}
PROSE = ["Prove that the sum is even.", "Write a function that sorts.", "Solve for x: 2x = 6"] * 3
LICENCES = {"qwen-math": "apache-2.0", "qwen-code": "gpl-3.0", "qwen-chat": "llama3"}


def tokenizer(prose: list[str], size: int, *special: str) -> PreTrainedTokenizerFast:
    """Byte pairs, learned from a few sentences."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = bytes_only
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=bytes_only.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(prose, trainer)
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    found.add_special_tokens({"additional_special_tokens": list(special)})
    return found


def model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def tuned(origin: PreTrainedModel, seed: int) -> PreTrainedModel:
    """What training would do: every weight moves a little."""
    made = type(origin)(origin.config)
    made.load_state_dict(origin.state_dict())
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.005 * torch.randn(weight.shape, generator=noise)
    return made


def save(place: Path, made: PreTrainedModel, words: PreTrainedTokenizerFast) -> None:
    made.save_pretrained(place)
    words.save_pretrained(place)
    if licence := LICENCES.get(place.name):
        (place / "README.md").write_text(f"---\nlicense: {licence}\n---\n# {place.name}\n")


def language_models(place: Path) -> None:
    words = tokenizer(PROSE, 300)
    qwen = model(Qwen2Config(vocab_size=len(words), **SMALL), 0)
    save(place / "qwen", qwen, words)
    save(place / "qwen-math", tuned(qwen, 1), words)
    save(place / "qwen-code", tuned(qwen, 2), words)
    save(place / "qwen-stranger", model(qwen.config, 8), words)

    more = tokenizer(PROSE, 300, "<|im_start|>", "<|im_end|>")
    chat = tuned(qwen, 3)
    chat.resize_token_embeddings(len(more), mean_resizing=False)
    chat.config.rope_parameters = {"rope_type": "default", "rope_theta": 500_000.0}
    save(place / "qwen-chat", chat, more)

    other = tokenizer([line.lower() for line in PROSE], 280)
    save(place / "llama", model(LlamaConfig(vocab_size=len(other), **SMALL), 4), other)

    mistral = model(MistralConfig(vocab_size=len(words), **SMALL), 5)
    save(place / "mistral", mistral, words)
    save(place / "mistral-math", tuned(mistral, 6), words)
    save(place / "mistral-code", tuned(mistral, 7), words)


def adapters(place: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = str(place / "qwen")
    for seed, name in enumerate(("math-lora", "code-lora")):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False
        )
        made = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        made.save_pretrained(place / name)
        (place / name / "README.md").unlink()  # peft's, empty but for headings


def pipelines(place: Path) -> None:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
        utils,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    utils.logging.set_verbosity_error()

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(x + "</w>" for x in letters)]
    vocabulary = {word: i for i, word in enumerate(words)}
    for seed, name in enumerate(("sd15-anime", "sd15-photo")):
        torch.manual_seed(seed)
        StableDiffusionPipeline(
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(32, 64),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                layers_per_block=1,
                cross_attention_dim=32,
                attention_head_dim=8,
            ),
            vae=AutoencoderKL(block_out_channels=(32,), latent_channels=4, norm_num_groups=8),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(words),
                    hidden_size=32,
                    intermediate_size=37,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                )
            ),
            tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[]),
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(place / name)


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    language_models(target)
    for library, make in (("peft", adapters), ("diffusers", pipelines)):
        if importlib.util.find_spec(library):
            make(target)
        else:
            print(f"{library} is not installed: its models are left out", file=sys.stderr)
    print(*sorted(p.name for p in target.iterdir() if p.is_dir()), sep="  ")
