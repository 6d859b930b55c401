"""Models of different vocabularies merge as their recipe says, and the result tokenizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import State, same_bytes
from tokenizers import Tokenizer

import zoo
from zoo import Registry
from zoo.errors import IncompatibleModels, InvalidCheckpoint, InvalidRecipe, StoreError
from zoo.plugins import Plugins

transformers = pytest.importorskip("transformers")

Load = Callable[..., State]
WIDTH = 6
SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = [*SPECIAL, *(f"_tok_{i}" for i in range(3, 16))]
CHATML = ["<|im_start|>", "<|im_end|>"]
EMBEDDING, HEAD, BODY = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def added(token: str, number: int, **how: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": token, **flags, "special": True, **how}


def write_tokenizer(
    directory: Path,
    words: Sequence[str] = WORDS,
    more: Sequence[str] = (),
    kind: str = "BPE",
    **about: Any,
) -> Path:
    """A tokenizer of whole words, the first three special, as transformers saves one."""
    vocabulary: Any = {w: i for i, w in enumerate(words)}
    model: dict[str, Any] = {"type": kind, "vocab": vocabulary, "unk_token": "<unk>"}
    if kind == "BPE":
        model["merges"] = []
    if kind == "Unigram":
        model = {"type": kind, "vocab": [[w, -1.0] for w in words], "unk_id": 0}
    document = {
        "version": "1.0",
        "added_tokens": [
            *(added(t, i) for i, t in enumerate(SPECIAL) if t in words),
            *(added(t, len(words) + i) for i, t in enumerate(more)),
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": model,
    }
    (directory / "tokenizer.json").write_text(json.dumps(document))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "model_max_length": 1000000000000000019884624838656,
        **about,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "special_tokens_map.json").write_text(json.dumps(special))
    return directory


def write_model(
    directory: Path, rows: int, seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any
) -> State:
    """Embeddings, a head and one layer of a decoder."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    shapes = {EMBEDDING: (rows, WIDTH), HEAD: (rows, WIDTH), BODY: (WIDTH,)}
    state = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
    directory.mkdir(parents=True)
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    about = {"model_type": "llama", "vocab_size": rows, "hidden_size": WIDTH, **config}
    (directory / "config.json").write_text(json.dumps(about))
    return state


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Three models: plain words; words and chatml; words and more than it has rows for."""
    made = {}
    for seed, (name, rows, more) in enumerate(
        [
            ("base", len(WORDS), []),
            ("chatml", len(WORDS) + 2, CHATML),
            ("padded", len(WORDS), [f"<UNUSED_{i}>" for i in range(4)]),
        ]
    ):
        made[name] = tmp_path / "models" / name
        write_model(made[name], rows, seed)
        write_tokenizer(made[name], more=more)
    return made


class Merged:
    """A merged directory: its tensors, and its tokenizer as transformers sees it."""

    def __init__(self, directory: Path, state: State) -> None:
        self.directory, self.state = directory, state
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
        self.vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        self.config = json.loads((directory / "config.json").read_text())

    def row(self, token: str, tensor: str = EMBEDDING) -> torch.Tensor:
        return self.state[tensor][self.vocabulary[token]]


@pytest.fixture
def merged(registry: Registry, load: Load, tmp_path: Path) -> Callable[..., Merged]:
    numbers = iter(range(100))

    def run(recipe: Mapping[str, Any]) -> Merged:
        out = tmp_path / f"out-{next(numbers)}"
        registry.merge(recipe, out=out)
        return Merged(out, load(out))

    return run


def linear(models: Sequence[Path], **more: Any) -> dict[str, Any]:
    """A mergekit document that averages."""
    return {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 1.0}} for m in models],
        "dtype": "float32",
        **more,
    }


def rows_of(path: Path, token: str, load: Load, tensor: str = EMBEDDING) -> torch.Tensor:
    number = Tokenizer.from_file(str(path / "tokenizer.json")).token_to_id(token)
    return load(path)[tensor][number]


# mergekit's own cases


def test_different_vocabularies_without_a_tokenizer_are_refused_with_the_remedy(
    registry: Registry, models: dict[str, Path], tmp_path: Path
) -> None:
    recipe = {"method": "linear", "experts": [str(m) for m in models.values()]}

    for asked in (recipe, linear([*models.values()], base_model=str(models["base"]))):
        with pytest.raises(IncompatibleModels, match=r"tokenizer: \{source: union\}"):
            registry.merge(asked, out=tmp_path / "out")


def test_embeddings_are_cropped_as_mergekit_does_where_that_is_asked_for(
    models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    document = linear([*models.values()], base_model=str(models["base"]))
    found = merged({**document, "mismatch": "crop"})

    assert len(WORDS) == len(found.vocabulary) == len(found.state[EMBEDDING])
    assert 3 == len(found.tokenizer.added_tokens_decoder)


def test_the_base_gives_the_vocabulary(
    models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    found = merged(
        linear([*models.values()], base_model=str(models["base"]), tokenizer_source="base")
    )

    assert len(WORDS) == len(found.vocabulary) == found.config["vocab_size"]
    assert 3 == len(found.tokenizer.added_tokens_decoder)
    assert (len(WORDS), WIDTH) == found.state[EMBEDDING].shape == found.state[HEAD].shape


def test_a_union_has_every_token_that_some_model_uses(
    models: dict[str, Path], merged: Callable[..., Merged], load: Load
) -> None:
    found = merged(
        linear([*models.values()], base_model=str(models["base"]), tokenizer_source="union")
    )

    assert [*WORDS, *CHATML] == sorted(found.vocabulary, key=found.vocabulary.__getitem__)
    assert len(WORDS) + 2 == found.config["vocab_size"] == len(found.state[HEAD])
    assert 5 == len(found.tokenizer.added_tokens_decoder)
    for token in CHATML:
        for tensor in (EMBEDDING, HEAD):
            expected = rows_of(models["chatml"], token, load, tensor)
            torch.testing.assert_close(found.row(token, tensor), expected)
    mean = sum(load(m)[EMBEDDING][5] for m in models.values()) / 3
    torch.testing.assert_close(found.state[EMBEDDING][5], mean)


def test_one_of_the_models_gives_the_vocabulary(
    models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    base, chatml = str(models["base"]), str(models["chatml"])
    found = merged(linear([*models.values()], base_model=base, tokenizer_source=chatml))

    assert len(WORDS) + 2 == len(found.vocabulary)
    assert set(CHATML) <= found.vocabulary.keys()


def test_two_vocabularies_meet_on_an_arc(
    models: dict[str, Path], merged: Callable[..., Merged], load: Load
) -> None:
    base, chatml = models["base"], models["chatml"]
    found = merged(
        {
            "merge_method": "slerp",
            "base_model": str(base),
            "models": [{"model": str(base)}, {"model": str(chatml)}],
            "parameters": {"t": 0.5},
            "tokenizer_source": "union",
            "dtype": "float32",
        }
    )

    assert len(WORDS) + 2 == len(found.vocabulary)
    assert (len(WORDS) + 2, WIDTH) == found.state[EMBEDDING].shape


def test_a_forced_token_has_one_models_row(
    models: dict[str, Path], merged: Callable[..., Merged], load: Load
) -> None:
    base, chatml = models["base"], models["chatml"]
    rules = {
        "_tok_10": {"source": str(chatml), "force": True},
        "_tok_11": {"source": str(base), "force": True},
    }
    found = merged(
        linear([base, chatml], base_model=str(base), tokenizer={"source": "union", "tokens": rules})
    )

    assert len(WORDS) + 2 == len(found.vocabulary)
    assert torch.equal(rows_of(chatml, "_tok_10", load), found.row("_tok_10"))
    assert torch.equal(rows_of(base, "_tok_11", load), found.row("_tok_11"))


def test_a_token_takes_the_row_of_another_by_id_or_by_text(
    models: dict[str, Path], merged: Callable[..., Merged], load: Load
) -> None:
    base, chatml = models["base"], models["chatml"]
    other = {"kind": "model_token", "model": str(chatml), "token_id": len(WORDS)}
    start = {"kind": "model_token", "model": str(base), "token": "<s>"}
    rules = {
        "_tok_12": {"source": other, "force": True},
        "_tok_13": {"source": start, "force": True},
    }
    found = merged(
        linear([base, chatml], base_model=str(base), tokenizer={"source": "base", "tokens": rules})
    )

    assert len(WORDS) == len(found.vocabulary)
    assert torch.equal(load(chatml)[EMBEDDING][len(WORDS)], found.row("_tok_12"))
    assert torch.equal(rows_of(base, "<s>", load), found.row("_tok_13"))


def test_rows_are_padded_with_the_mean_of_all(
    models: dict[str, Path], merged: Callable[..., Merged], load: Load
) -> None:
    chatml = models["chatml"]
    block = {"source": "base", "pad_to_multiple_of": 16}
    found = merged(linear([chatml], base_model=str(chatml), tokenizer=block))

    assert 32 == found.config["vocab_size"] == len(found.state[EMBEDDING])
    assert len(WORDS) + 2 == len(found.vocabulary)
    mean = load(chatml)[EMBEDDING].double().mean(0).float()
    for row in found.state[EMBEDDING][len(WORDS) + 2 :]:
        torch.testing.assert_close(row, mean)


# Rows that a model lacks


@pytest.fixture
def dialects(tmp_path: Path) -> dict[str, Path]:
    """Three models that share some words, each with its own order of them."""
    words = {
        "x": [*SPECIAL, "all", "xy", "xz", "only_x"],
        "y": [*SPECIAL, "xy", "all", "yz"],
        "z": [*SPECIAL, "yz", "xz", "all", "only_z"],
    }
    made = {}
    for seed, (name, own) in enumerate(words.items()):
        made[name] = tmp_path / "models" / name
        write_model(made[name], len(own), seed)
        write_tokenizer(made[name], own)
    return made


def test_a_token_of_several_models_is_averaged_for_those_that_lack_it(
    dialects: dict[str, Path], merged: Callable[..., Merged], load: Load
) -> None:
    found = merged(linear([*dialects.values()], tokenizer_source="union"))

    x, y, z = (dialects[n] for n in "xyz")
    assert {"xy", "xz", "yz", "all", "only_x", "only_z"} <= found.vocabulary.keys()
    for tensor in (EMBEDDING, HEAD):
        for token, (a, b) in {"xy": (x, y), "xz": (x, z), "yz": (y, z)}.items():
            mean = (rows_of(a, token, load, tensor) + rows_of(b, token, load, tensor)) / 2
            torch.testing.assert_close(found.row(token, tensor), mean)
        only = rows_of(z, "only_z", load, tensor)
        torch.testing.assert_close(found.row("only_z", tensor), only)


def test_a_token_of_the_base_is_the_bases_for_those_that_lack_it(
    dialects: dict[str, Path], merged: Callable[..., Merged], load: Load
) -> None:
    x, y, z = (dialects[n] for n in "xyz")
    found = merged(
        {
            "method": "task_arithmetic",
            "base": str(x),
            "experts": [str(y), str(z)],
            "tokenizer": {"source": "union"},
        }
    )

    # z lacks xy and so does not move it; y lacks and the base has xz.
    row = rows_of(y, "xy", load)
    torch.testing.assert_close(found.row("xy"), row)
    torch.testing.assert_close(found.row("xz"), rows_of(z, "xz", load))
    assert torch.equal(rows_of(x, "only_x", load), found.row("only_x"))


def test_a_new_token_needs_a_rule_and_may_be_zeros(
    models: dict[str, Path], merged: Callable[..., Merged], load: Load
) -> None:
    base, chatml = models["base"], models["chatml"]
    rules = {
        "<new>": {"source": {"kind": "zero"}},
        "<end>": {"source": {"kind": "model_token", "model": str(base), "token": "</s>"}},
        "_tok_5": {"source": str(base)},
    }
    found = merged(
        linear([base, chatml], base_model=str(base), tokenizer={"source": "base", "tokens": rules})
    )

    assert torch.equal(torch.zeros(WIDTH), found.row("<new>"))
    assert torch.equal(rows_of(base, "</s>", load), found.row("<end>"))
    # No force: each model has the token, and keeps its own row.
    mean = (rows_of(base, "_tok_5", load) + rows_of(chatml, "_tok_5", load)) / 2
    torch.testing.assert_close(found.row("_tok_5"), mean)
    assert [found.vocabulary["<new>"]] == found.tokenizer.encode("<new>", add_special_tokens=False)


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_vocabularies_agree_with_a_table_of_rows(
    data: st.DataObject, tmp_path: Path, plugins: Plugins
) -> None:
    """The oracle lays every model's rows out in full, in float64."""
    root = tmp_path / str(len(list(tmp_path.iterdir())))
    words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True)
    count = data.draw(st.integers(1, 3))
    with_base = data.draw(st.booleans())
    padding = data.draw(st.sampled_from([1, 4, 7]))
    dtypes = [torch.float32, torch.bfloat16, torch.float64]
    own: list[list[str]] = []
    states: list[State] = []
    for i in range(count):
        own.append(["<unk>", *data.draw(words)])
        dtype = data.draw(st.sampled_from(dtypes))
        states.append(write_model(root / str(i), len(own[-1]), i, dtype))
        write_tokenizer(root / str(i), own[-1])
    out = root / "out"
    recipe: dict[str, Any] = {
        "method": "linear",
        "base": str(root / "0") if with_base else None,
        "experts": [str(root / str(i)) for i in range(count)],
        "tokenizer": {"source": "union", "pad_to_multiple_of": padding},
        "dtype": "float32",
    }
    with zoo.open(root / "registry.db", plugins=plugins) as registry:
        registry.merge(recipe, out=out)
    from safetensors.torch import load_file

    found = load_file(out / "model.safetensors")
    vocabulary = Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab()
    assert {w for ws in own for w in ws} == vocabulary.keys()
    for name in (EMBEDDING, HEAD):
        tables = []
        for i in range(count):
            table = torch.zeros(len(vocabulary), WIDTH, dtype=torch.float64)
            for token, number in vocabulary.items():
                having = [j for j in range(count) if token in own[j]]
                if token in own[i]:
                    having = [i]
                elif with_base and token in own[0]:
                    having = [0]
                rows = [states[j][name][own[j].index(token)].double() for j in having]
                table[number] = torch.stack(rows).mean(0)
            rest = -len(table) % padding
            tables.append(torch.cat([table, table.mean(0).expand(rest, -1)]))
        torch.testing.assert_close(
            found[name].double(), torch.stack(tables).mean(0), rtol=1e-6, atol=1e-6
        )


# Files


def test_every_kind_of_tokenizer_is_read_and_written(
    tmp_path: Path, merged: Callable[..., Merged]
) -> None:
    for kind in ("BPE", "WordLevel", "Unigram"):
        a, b = tmp_path / kind / "a", tmp_path / kind / "b"
        write_model(a, len(WORDS), 1)
        write_tokenizer(a, kind=kind)
        write_model(b, len(WORDS) + 1, 2)
        write_tokenizer(b, more=["<chat>"], kind=kind)

        found = merged(linear([a, b], tokenizer_source="union"))

        assert [*WORDS, "<chat>"] == sorted(found.vocabulary, key=found.vocabulary.__getitem__)
        word = "_tok_7" if kind != "BPE" else "<s>"  # this one has no merges to make a word of
        expected = [WORDS.index(word), len(WORDS)]
        assert expected == found.tokenizer.encode(f"{word} <chat>", add_special_tokens=False)


def test_tokens_without_a_row_are_cut_with_their_merges(
    tmp_path: Path, merged: Callable[..., Merged]
) -> None:
    model = tmp_path / "m"
    write_model(model, 5, 1)
    write_tokenizer(model, ["<unk>", "a", "b", "c", "ab", "abc", "bc"], more=["<late>"])
    document = json.loads((model / "tokenizer.json").read_text())
    document["model"]["merges"] = ["a b", ["ab", "c"], "b c"]
    (model / "tokenizer.json").write_text(json.dumps(document))
    (model / "special_tokens_map.json").unlink()

    found = merged(linear([model], tokenizer_source="base"))

    assert {"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4} == found.vocabulary
    assert [4, 3] == found.tokenizer.encode("abc", add_special_tokens=False)


def test_a_vocabulary_beside_its_merges_is_read_where_there_is_no_tokenizer_json(
    tmp_path: Path, registry: Registry
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for seed, (path, more) in enumerate([(a, {}), (b, {"<chat>": 4})]):
        write_model(path, 4 + len(more), seed)
        (path / "vocab.json").write_text(json.dumps({"x": 0, "y": 1, "xy": 2, "z": 3}))
        (path / "merges.txt").write_text("#version: 0.2\nx y\n")
        (path / "added_tokens.json").write_text(json.dumps(more))
    out = tmp_path / "out"

    registry.merge(linear([a, b], tokenizer_source="union"), out=out)

    assert {"<chat>": 4} == json.loads((out / "added_tokens.json").read_text())
    assert (a / "vocab.json").read_bytes() == (out / "vocab.json").read_bytes()


def test_a_vocabulary_that_stays_keeps_its_files_to_the_byte(
    models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    found = merged(linear([models["base"], models["padded"]], tokenizer_source="base"))

    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (models["base"] / name).read_bytes() == (found.directory / name).read_bytes()


def test_a_configuration_in_a_configuration_says_the_vocabulary_too(
    tmp_path: Path, merged: Callable[..., Merged]
) -> None:
    model = tmp_path / "m"
    write_model(model, 8, text_config={"vocab_size": 8})
    config = json.loads((model / "config.json").read_text())
    del config["vocab_size"]
    (model / "config.json").write_text(json.dumps(config))
    write_tokenizer(model, WORDS[:8])

    found = merged(linear([model], tokenizer={"source": "base", "pad_to_multiple_of": 5}))

    assert {"vocab_size": 10} == found.config["text_config"]
    assert "vocab_size" not in found.config


def test_tied_embeddings_stay_tied(registry: Registry, tmp_path: Path, load: Load) -> None:
    from safetensors.torch import save_file

    for i, words in enumerate((WORDS, WORDS[::-1])):
        path = tmp_path / str(i)
        state = write_model(path, len(words), i, tie_word_embeddings=True)
        state[HEAD] = state[EMBEDDING].clone()
        save_file(state, path / "model.safetensors", {"format": "pt"})
        write_tokenizer(path, words)
    out = tmp_path / "out"

    registry.merge(
        {
            "method": "ties",
            "base": str(tmp_path / "0"),
            "experts": [str(tmp_path / "1")],
            "tokenizer": {"source": "union", "pad_to_multiple_of": 32},
        },
        out=out,
    )

    found = load(out)
    assert torch.equal(found[EMBEDDING], found[HEAD])


# The record


def test_a_replay_makes_the_same_bytes_and_the_same_tokenizer(
    registry: Registry, models: dict[str, Path], tmp_path: Path, load: Load
) -> None:
    for name, path in models.items():
        registry.register(path, name=name)
    recipe = {
        "method": "linear",
        "experts": ["base", "chatml"],
        "tokenizer": {
            "source": "union",
            "tokens": {"_tok_4": {"source": "chatml@1", "force": True}},
            "pad_to_multiple_of": 8,
        },
        "chat_template": "chatml",
    }

    version = registry.merge(recipe, name="merged", out=tmp_path / "out")

    assert version is not None
    verdict = registry.verify("merged", replay=True)
    assert verdict.ok, verdict.mismatched
    assert same_bytes(load(registry.path("merged")), load(tmp_path / "out"))
    block = json.loads((tmp_path / "out" / "zoo_recipe.json").read_text())["recipe"]["tokenizer"]
    chatml = registry.get("chatml").digest
    assert {"source": chatml, "force": True} == block["tokens"]["_tok_4"]
    keys = {f.path: f.object for f in registry.catalog.files(registry.get("chatml").id)}
    assert keys["tokenizer.json"] == block["files"][chatml]["tokenizer.json"]


def test_the_result_does_not_depend_on_threads_or_memory(
    registry: Registry, dialects: dict[str, Path], tmp_path: Path, load: Load
) -> None:
    document = linear([*dialects.values()], tokenizer={"source": "union", "pad_to_multiple_of": 64})

    for threads in (1, 4):
        registry.merge(document, out=tmp_path / str(threads), threads=threads)

    assert same_bytes(load(tmp_path / "1"), load(tmp_path / "4"))


def test_weights_known_with_another_tokenizer_are_not_taken_for_these(
    registry: Registry, models: dict[str, Path]
) -> None:
    registry.register(models["base"], name="known")
    write_tokenizer(models["base"], [*WORDS[:-1], "other"])

    with pytest.raises(StoreError, match="tokenizer of `known@1` is not the one"):
        registry.merge(
            linear([models["base"], models["chatml"]], tokenizer_source="union"), name="merged"
        )


# Chat templates


def template(directory: Path) -> str | None:
    found: str | None = transformers.PreTrainedTokenizerFast.from_pretrained(
        directory
    ).chat_template
    return found


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
RENDERED = {
    "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n",
    "llama3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
    ),
    "mistral": "<s> [INST] Hi [/INST] Ho</s>",
    "alpaca": "### Instruction:\nHi\n\n### Response:\nHo\n\n",
    "exaone": "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]Ho[|endofturn|]\n",
}


@pytest.mark.parametrize("name", RENDERED)
def test_a_template_by_name_writes_conversations_as_it_says(
    name: str, models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    write_tokenizer(models["base"], bos_token="<s>", eos_token="</s>")

    found = merged(linear([models["base"]], chat_template=name))

    assert RENDERED[name] == found.tokenizer.apply_chat_template(TALK, tokenize=False)


def test_a_template_may_be_written_out(
    models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    text = "{{messages[0]['content']}}"

    assert text == merged(linear([models["base"]], chat_template=text)).tokenizer.chat_template


def test_auto_takes_the_template_that_most_models_have(
    models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    for name, text in (("base", "{{ 1 }}"), ("chatml", "{{ 2 }}"), ("padded", "{{ 2 }}")):
        write_tokenizer(models[name], chat_template=text)
    same = [models["base"], models["padded"]]

    assert "{{ 1 }}" == merged(linear(same, chat_template="auto")).tokenizer.chat_template
    every = linear([*models.values()], chat_template="auto", tokenizer_source="base")
    assert "{{ 2 }}" == merged(every).tokenizer.chat_template


def test_a_template_takes_the_place_of_the_donors(
    models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    (models["base"] / "chat_template.jinja").write_text("{{ 'old' }}")

    found = merged(linear([models["base"]], chat_template="chatml"))

    assert "im_start" in str(template(found.directory))


def test_without_a_word_of_it_the_donors_template_stays(
    models: dict[str, Path], merged: Callable[..., Merged]
) -> None:
    (models["base"] / "chat_template.jinja").write_text("{{ 'old' }}")

    assert "{{ 'old' }}" == template(merged(linear([models["base"]])).directory)


# Mistakes

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer": "union"}, "`tokenizer` must be a map"),
    ({"tokenizer": {"sources": "union"}}, "Unknown key `sources` in tokenizer.*`source`"),
    ({"tokenizer": {"source": "chatml"}}, "names `chatml`, which is none of the models merged"),
    ({"tokenizer": {"tokens": {"a": {"force": True}}}}, "token `a` has no `source`"),
    ({"tokenizer": {"tokens": {"a": {"source": {"kind": "one"}}}}}, "cannot be 'one'"),
    ({"tokenizer": {"tokens": {"a": {"source": {"kind": "model_token"}}}}}, "takes a `model`"),
    ({"tokenizer": {"tokens": {3: {"source": {"kind": "zero"}}}}}, "A token is text, not 3"),
    ({"tokenizer": {"tokens": {"a": {"source": "BASE", "force": 1}}}}, "true or false, not 1"),
    ({"tokenizer": {"tokens": {"a": {"source": "BASE"}}}}, "takes token `a` of .* no such row"),
    ({"tokenizer": {"pad_to_multiple_of": 0}}, "from 1 to 1048576, not 0"),
    ({"tokenizer": {}, "tokenizer_source": "base"}, "either `tokenizer` or `tokenizer_source`"),
    ({"chat_template": "chatmil"}, "no chat template `chatmil`.*Did you mean `chatml`"),
    ({"chat_template": 3}, "`chat_template` must be text, not 3"),
]


def _with_base(value: Any, base: str) -> Any:
    if isinstance(value, dict):
        return {k: _with_base(v, base) for k, v in value.items()}
    return base if value == "BASE" else value


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_a_mistake_in_the_block_is_told(
    mistake: dict[str, Any],
    message: str,
    registry: Registry,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    asked = {k: _with_base(v, str(models["base"])) for k, v in mistake.items()}

    with pytest.raises(InvalidRecipe, match=message):
        registry.merge(linear([models["base"]], **asked), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_binary_vocabulary_is_refused_with_the_way_to_write_it_out(
    registry: Registry, models: dict[str, Path], tmp_path: Path
) -> None:
    (models["chatml"] / "tokenizer.json").unlink()
    (models["chatml"] / "tokenizer.model").write_bytes(b"\n\x0e")

    with pytest.raises(InvalidRecipe, match=r"`tokenizer.model` only.*save_pretrained"):
        registry.merge(
            linear([models["base"], models["chatml"]], tokenizer_source="union"),
            out=tmp_path / "out",
        )


def test_a_model_without_a_tokenizer_has_the_bases_and_a_base_without_one_is_refused(
    registry: Registry, models: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (models["padded"] / name).unlink()
    pair = [models["base"], models["padded"]]

    plan = registry.plan(linear(pair, tokenizer_source="union"))

    assert any("has no tokenizer; its tokens are taken to be" in note for note in plan.notes)
    with pytest.raises(InvalidRecipe, match="has no tokenizer"):
        registry.merge(linear(pair[::-1], tokenizer_source="union"), out=tmp_path / "out")


def test_a_model_without_embeddings_is_refused(registry: Registry, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "m").mkdir()
    save_file({"w": torch.zeros(3)}, tmp_path / "m" / "model.safetensors")
    write_tokenizer(tmp_path / "m")

    with pytest.raises(IncompatibleModels, match="has no embeddings"):
        registry.plan(linear([tmp_path / "m"], tokenizer_source="base"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "it is not a map"),
        ('{"model": {}}', "holds no vocabulary"),
        ('{"model": {"vocab": {"a": -1}}}', "holds no vocabulary"),
        ('{"model": {"vocab": {"a": 0, "b": 0}}}', "holds no vocabulary"),
        ('{"model": {"vocab": [["a"], 3]}}', "holds no vocabulary"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}', "without their text"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": 3}', "without their text"),
        ("{", "not valid JSON"),
        ('{"model": {"vocab": {"a": NaN}}}', "NaN is no number"),
    ],
)
def test_a_damaged_tokenizer_is_refused(
    document: str, message: str, registry: Registry, models: dict[str, Path]
) -> None:
    (models["base"] / "tokenizer.json").write_text(document)

    with pytest.raises(InvalidCheckpoint, match=message):
        registry.plan(linear([models["base"]], tokenizer_source="base"))
