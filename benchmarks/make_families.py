"""Write `zoo/families/families.jsonl`: what transformers' model classes say of their tensors.

    python benchmarks/make_families.py [model_type ...]

Some classes need timm and scipy beside transformers; without them they are listed as failed.
Every class that the auto classes of transformers name is built on the meta device, where tensors
have names and shapes and no memory. Which numbers in names count what is found by changing one
value of the configuration at a time, and so is what depends on a switch. Nothing of transformers'
code goes into the file: names, counts, and the conversions that it lists as data. Transformers is
Apache-2.0, Copyright The HuggingFace Team.

Lines: `{"rules": {...}}`, blocks of renames, by number; then one per model type. See
`zoo/families/data.py` for the fields.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import PreTrainedConfig, PreTrainedModel  # noqa: E402
from transformers import conversion_mapping as conversions  # noqa: E402
from transformers.initialization import no_init_weights  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

OUT = Path(__file__).parent.parent / "zoo" / "families" / "families.jsonl"
MOST_LAYERS = 12
"""Layers that are built: enough for every pattern of layers that comes round again."""
COUNTS = re.compile(
    r"layer|depth|block|expert|stage|level|codebook|n_head|predict|mtp|conv|adapter|stack|group"
    r"|resolutions|num_|n_"
)
LAYERS = re.compile(r"layer|depth|block|stage|expert")
SIZES = re.compile(
    r"size|dim|token|position|window|bias|std|eps|heads?$|channels|length|ids?$|rate"
)
PLAIN = frozenset(PreTrainedConfig().to_dict()) - {"tie_word_embeddings"}
NEEDED: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 4},
    "aya_vision": {
        "vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}
    },
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "emu3": {"vocabulary_map": {"<image>": 4}},
    "esm": {"vocab_size": 33},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl_text": {"head_dim": 128},
    "informer": {"prediction_length": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
    "reformer": {"is_decoder": True},
    "time_series_transformer": {"prediction_length": 4},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
}
"""Values without which the default configuration of a type builds nothing."""
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")


def pairs() -> list[tuple[str, str]]:
    """(model type, class) of all that the auto classes name."""
    found: dict[tuple[str, str], None] = {}
    for name in sorted(dir(modeling_auto)):
        if re.fullmatch(r"MODEL_(?:\w+_)?NAMES", name):
            for kind, classes in getattr(modeling_auto, name).items():
                for one in classes if isinstance(classes, (list, tuple)) else [classes]:
                    found[kind, one] = None
    return sorted(found)


def default(kind: type[PreTrainedModel], model_type: str) -> Any:
    """The configuration that a class is built with."""
    given = NEEDED.get(model_type, {})
    if model_type in CONFIG_MAPPING:
        config = CONFIG_MAPPING[model_type](**given)
        if isinstance(config, kind.config_class):
            return config
    return kind.config_class(**given)


def sections(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration and those in it: (path, configuration)."""
    yield path, config
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            yield from sections(value, f"{path}.{key}" if path else key)


def section(config: Any, path: str) -> Any:
    for key in path.split(".") if path else ():
        config = getattr(config, key)
    return config


def values(config: Any) -> Iterator[tuple[str, str, Any]]:
    """(path, key, value) of what a configuration says of the network."""
    for path, part in sections(config):
        for key, value in list(vars(part).items()):
            if key in PLAIN or key.startswith("_") or key.endswith("token_id"):
                continue
            if key == "is_decoder" and getattr(config, "is_encoder_decoder", False):
                continue  # its decoder is one whatever this says
            yield path, key, value


def changed(config: Any, path: str, key: str, value: Any) -> Any:
    """A copy with one value changed, and lists that had one entry per layer as long as that."""
    found = copy.deepcopy(config)
    part = section(found, path)
    before = getattr(part, key)
    setattr(part, key, value)
    if type(before) is int and type(value) is int:
        for other, entries in list(vars(part).items()):
            if isinstance(entries, list) and len(entries) == before and entries:
                longer = entries + [entries[-1]] * max(0, value - before)
                setattr(part, other, longer[:value])
    return found


def build(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    with torch.device("meta"), no_init_weights():
        return kind(copy.deepcopy(config))


def shortened(kind: type[PreTrainedModel], config: Any, most: int = MOST_LAYERS) -> Any:
    """The configuration with fewer layers, where the class still builds."""
    for path, key, value in list(values(config)):
        if type(value) is int and value > most and re.search(r"layers?$|depth$", key):
            less = changed(config, path, key, most)
            try:
                build(kind, less)
            except Exception:
                continue
            config = less
    return config


class Outline:
    """Names of a built model."""

    def __init__(self, kind: type[PreTrainedModel], config: Any) -> None:
        self.module = build(kind, config)
        self.names = list(self.module.state_dict())


class Axes:
    """Which numbers in names count something: pattern of the prefix -> (key, offset)."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str | None, int]] = {}

    def pattern(self, name: str) -> str:
        """The name with numbers that count something left open."""
        parts = name.split(".")
        for i, part in enumerate(parts):
            if part.isdigit() and ".".join(parts[:i]) in self.found:
                parts[i] = "*"
        return ".".join(parts)

    def learn(self, before: list[str], after: list[str], key: str, value: int, more: int) -> None:
        most: dict[str, int] = defaultdict(lambda: -1)
        for name in before:
            parts = name.split(".")
            for i, part in enumerate(parts):
                if part.isdigit():
                    at = ".".join(parts[:i])
                    most[at] = max(most[at], int(part))
        grown: dict[str, int] = {}
        old = set(before)
        for name in after:
            if name in old:
                continue
            parts = name.split(".")
            for i, part in enumerate(parts):
                if part.isdigit():
                    at = ".".join(parts[:i])
                    if at in most and int(part) > most[at]:
                        grown[at] = max(grown.get(at, -1), int(part))
                        break
        # Only what grows wherever it occurs: nested prefixes are opened from the outside in.
        for at in sorted(grown, key=lambda a: a.count(".")):
            opened = self.pattern(at + ".0").rpartition(".")[0]
            exact = grown[at] - most[at] == more
            entry = (key, most[at] + 1 - value) if exact else (None, 0)
            if opened not in self.found or self.found[opened][0] is None:
                self.found[opened] = entry


def analysed(kind: type[PreTrainedModel], config: Any, full: bool) -> dict[str, Any]:
    """All that is learned of one class by building it many times."""
    config = shortened(kind, config)
    base = Outline(kind, config)
    if _alike(base.names):
        config = shortened(kind, config, 3)
        base = Outline(kind, config)
    axes = Axes()
    for path, key, value in list(values(config)):
        where = f"{path}.{key}" if path else key
        counts = (COUNTS if full else LAYERS).search(key) and not SIZES.search(key)
        if type(value) is int and 0 < value <= 512 and counts:
            for more in (1, value):
                try:
                    after = Outline(kind, changed(config, path, key, value + more)).names
                except Exception:
                    continue
                if set(after) != set(base.names):
                    axes.learn(base.names, after, where, value, more)
                break
        elif isinstance(value, list) and value and all(type(v) is int for v in value) and full:
            for i in range(len(value)):
                more = [v + (i == j) for j, v in enumerate(value)]
                try:
                    after = Outline(kind, changed(config, path, key, more)).names
                except Exception:
                    break
                if set(after) != set(base.names):
                    axes.learn(base.names, after, f"{where}.{i}", value[i], 1)
    places: dict[str, set[str]] = defaultdict(set)
    for name in base.names:
        places[axes.pattern(name)].add(name)
    counts = {a: _count(config, *e) for a, e in axes.found.items()}
    some = {
        p
        for p, own in places.items()
        if not _everywhere(p, own, places) or not _all(p, own, counts)
    }
    conditions: dict[str, set[str]] = defaultdict(set)
    defaults: dict[str, Any] = {}
    for path, key, value in list(values(config)):
        where = f"{path}.{key}" if path else key
        for other in _others(key, value, full):
            try:
                after = Outline(kind, changed(config, path, key, other))
            except Exception:
                continue
            own: dict[str, set[str]] = defaultdict(set)
            for name in after.names:
                own[axes.pattern(name)].add(name)
            gone, new = places.keys() - own.keys(), own.keys() - places.keys()
            if len(gone) > len(places) * 0.9:
                continue
            if type(value) is int and other:
                # It depends on how one number compares with another, which is not said here.
                some |= gone | new
                for pattern in new:
                    conditions.setdefault(pattern, set())
                continue
            for pattern in gone:
                conditions[pattern].add(("!" if other else "?") + where)
            for pattern in new:
                conditions[pattern].add(("?" if other else "!") + where)
                if not _everywhere(pattern, own[pattern], own):
                    some.add(pattern)
            for pattern in own.keys() & places.keys():
                if len(own[pattern]) < len(places[pattern]):
                    some.add(pattern)
            if gone or new:
                # A value that the configuration works out from others need not be in a file.
                said = key in getattr(type(section(config, path)), "__dataclass_fields__", {key: 0})
                defaults[where] = bool(value) if said else None
    return {
        "templates": {
            p: ("~" if p in some else "", sorted(conditions.get(p, ())))
            for p in sorted({*places, *conditions})
        },
        "axes": axes.found,
        "defaults": defaults,
        "names": base.names,
        "config": config,
        "module": base.module,
    }


def _count(config: Any, key: str | None, offset: int) -> int | None:
    value = _value(config, key)
    return None if value is None else value + offset


def _all(pattern: str, names: set[str], counts: dict[str, int | None]) -> bool:
    """Whether names are all that a pattern stands for, by the counts of its numbers."""
    expected, at = 1, ""
    for piece in pattern.split("*")[:-1]:
        at += piece
        count = counts.get(at.rstrip("."))
        if count is None:
            return True  # nothing says how many there are
        expected *= count
        at += "*"
    return len(names) == expected


def _alike(names: list[str]) -> bool:
    """Whether all that is numbered under one prefix has the same tensors under each number."""
    below: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdigit():
                below[".".join(parts[:i])][part].add(".".join(parts[i + 1 :]))
    return all(len(set(map(frozenset, own.values()))) == 1 for own in below.values())


def _everywhere(pattern: str, names: set[str], places: dict[str, set[str]]) -> bool:
    """Whether a kind of tensor is in every layer of its stack."""
    if "*" not in pattern:
        return True
    prefix = pattern.partition("*")[0]

    def firsts(own: set[str]) -> set[str]:
        return {n[len(prefix) :].partition(".")[0] for n in own if n.startswith(prefix)}

    layers = set().union(*(firsts(o) for p, o in places.items() if p.startswith(prefix + "*")))
    if firsts(names) != layers:
        return False
    per: dict[str, int] = defaultdict(int)
    for name in names:
        per[name[len(prefix) :].partition(".")[0]] += 1
    return len(set(per.values())) == 1


def _others(key: str, value: Any, full: bool) -> list[Any]:
    """Values to try in place of one."""
    if isinstance(value, bool):
        return [not value]
    if not full:
        return []
    if value is None:
        return [8] if not re.search(r"scaling|dict|map|list|id$|ids$", key) else []
    if type(value) is int and re.search(
        r"rank|expert|shared|_dim$|dense|proj|freq|period|interval|window|adapter|predict|types",
        key,
    ):
        return [None, 0, 2 * value]
    return [2 * value] if type(value) is int and key.endswith("_size") else []


def parts_of(module: PreTrainedModel) -> list[tuple[str, str, PreTrainedModel]]:
    """(prefix, path of the configuration, part) of the outermost models in a model."""
    found: list[tuple[str, str, PreTrainedModel]] = []
    own = {id(part): path for path, part in sections(module.config)}
    kinds: dict[type, list[str]] = defaultdict(list)
    for path, part in sections(module.config):
        kinds[type(part)].append(path)
    for name, part in module.named_modules():
        if not name or not isinstance(part, PreTrainedModel):
            continue
        if any(name.startswith(p) for p, _, _ in found):
            continue
        path = own.get(id(part.config))
        if path is None:
            same = kinds.get(type(part.config), [])
            if not same:
                continue
            path = same[0]
        found.append((name + ".", path, part))
    return found


def operations(transform: Any) -> list[Any]:
    return [[type(o).__name__, vars(o)] for o in getattr(transform, "operations", ())]


def rule(transform: Any) -> dict[str, Any]:
    """A conversion as data."""
    kinds = {
        "GroupWeightRename": "group",
        "Inkling2IndexOffsetWeightRename": "offset",
        "WeightConverter": "convert",
    }
    kind = kinds.get(type(transform).__name__, "rename")
    found: dict[str, Any] = {
        "kind": kind,
        "from": list(transform.source_patterns),
        "to": list(transform.target_patterns),
    }
    if kind == "convert":
        found["operations"] = operations(transform)
    if kind == "offset":
        found["offset"] = transform.offset
    return found


class Writer:
    def __init__(self) -> None:
        self.blocks: dict[str, int] = {}
        self.kinds: dict[str, dict[str, Any]] = {}
        self.done: dict[tuple[str, str], dict[str, Any]] = {}
        self.failed: list[tuple[str, str, str]] = []

    def renames(self, module: PreTrainedModel) -> list[Any]:
        """[scope, block] in the order they apply."""
        found: list[Any] = []
        run: list[Any] = []
        scope: Any = ()
        for transform in conversions.get_model_conversion_mapping(module, add_legacy=False):
            if transform.scope_prefix != scope:
                if run:
                    found.append([scope, self.block(run)])
                run, scope = [], transform.scope_prefix
            run.append(rule(transform))
        if run:
            found.append([scope, self.block(run)])
        return found

    def block(self, rules: list[Any]) -> int:
        return self.blocks.setdefault(json.dumps(rules, default=str), len(self.blocks))

    def add(self, kind: type[PreTrainedModel], model_type: str) -> dict[str, Any] | None:
        """What is known of a class; its parts are added first."""
        key = model_type, kind.__name__
        if key in self.done:
            return self.done[key]
        if any(f[:2] == key for f in self.failed):
            return None
        started = time.monotonic()
        try:
            config = default(kind, model_type)
            outline = Outline(kind, config)
            if not outline.names:
                raise ValueError("it has no tensors")
            entry = self._entry(kind, config, outline)
        except Exception as error:
            self.failed.append((*key, f"{type(error).__name__}: {str(error)[:160]}"))
            return None
        self.done[key] = entry
        line = self.kinds.setdefault(model_type, {"model_type": model_type, "classes": {}})
        line["classes"][kind.__name__] = entry["data"]
        took = time.monotonic() - started
        if took > 20:
            print(f"  {key} took {took:.0f} s", file=sys.stderr)
        return entry

    def _entry(self, kind: type[PreTrainedModel], config: Any, outline: Outline) -> dict[str, Any]:
        parts = []
        for prefix, path, part in parts_of(outline.module):
            if type(part) is kind:
                continue
            sub = self.add(type(part), part.config.model_type)
            parts.append((prefix, path, part, sub))
        short = {p[0] for p in parts}
        whole = sum(any(n.startswith(p) for p in short) for n in outline.names)
        found = analysed(kind, config, full=whole < len(outline.names) * 0.5)
        kept, predicted = [], {}
        for prefix, path, part, sub in parts:
            if (
                sub is not None
                and (of := self._as_part(prefix, path, sub))
                and _agrees(prefix, of, found)
            ):
                kept.append([prefix, path, type(part).__name__, part.config.model_type])
                predicted |= of["templates"]
            else:
                kept.append([prefix, path, None, part.config.model_type])
        if any(k[2] is None for k in kept) and whole >= len(outline.names) * 0.5:
            found = analysed(kind, config, full=True)
        inside = tuple(k[0] for k in kept if k[2] is not None)
        present = {p for p, (_, c) in found["templates"].items() if not c} | {
            Axes.pattern(_axes(found), n) for n in found["names"]
        }
        own = {p: m for p, m in found["templates"].items() if not (inside and p.startswith(inside))}
        # What is in a part here and not in the part for itself, or depends on more.
        for pattern, (mark, depends) in found["templates"].items():
            if not inside or not pattern.startswith(inside):
                continue
            known = predicted.get(pattern)
            if known is None or (pattern in present and not _holds(known[1], found["config"])):
                own[pattern] = (mark, depends)
            elif more := [c for c in depends if c not in known[1]]:
                own[pattern] = (known[0] or mark, sorted({*known[1], *more}))
        minus = sorted(
            p
            for p, (m, c) in predicted.items()
            if p not in present and not m and _holds(c, found["config"])
        )
        axes = {
            a: list(e)
            for a, e in found["axes"].items()
            if not (inside and (a + ".").startswith(inside))
        }
        axes |= {
            a: list(e)
            for a, e in found["axes"].items()
            if any(p.startswith(a + ".*") for p in own) and a not in axes
        }
        axes = {a: [*e, _value(config, e[0])] for a, e in axes.items()}
        module = found["module"]
        always = self._tied(kind, found, None)
        tied_if = {}
        any_at_all = always or self._tied(kind, found, "*")
        for path in [p for p, _ in sections(config)] if any_at_all else ():
            more = self._tied(kind, found, path)
            if more := {t: s for t, s in more.items() if t not in always}:
                tied_if[path] = more
        data: dict[str, Any] = {"base": module.base_model_prefix}
        data["parts"] = kept
        data["own"] = [" ".join([p + m, *c]) for p, (m, c) in sorted(own.items())]
        data["minus"] = minus
        data["axes"] = axes
        data["defaults"] = {
            k: v
            for k, v in found["defaults"].items()
            if any(k in c[1:] for _, cs in own.values() for c in cs)
        }
        data["tied"] = always
        data["tied_if"] = tied_if
        data["ties"] = [p for p in tied_if if _ties(section(config, p))]
        data["embeddings"] = _named(module, "get_input_embeddings")
        data["head"] = _named(module, "get_output_embeddings")
        data["ignored"] = sorted(module._keys_to_ignore_on_load_unexpected or ())
        data["unneeded"] = sorted(module._keys_to_ignore_on_load_missing or ())
        buffers = [n for n, _ in module.named_buffers()]
        if any(b.endswith("rotary_emb.inv_freq") for b in buffers):
            data["ignored"].append(r"rotary_emb\.inv_freq")
        if any(b.endswith("position_ids") for b in buffers):
            data["ignored"].append(r"(^|\.)position_ids$")
        data["renames"] = self.renames(module)
        data["norms"] = sorted(
            {
                NUMBER.sub("*", n).rpartition(".")[2] or n
                for n, m in module.named_modules()
                if "norm" in type(m).__name__.lower() and any(True for _ in m.parameters())
            }
        )
        data["keys"] = _keys(config)
        data = {k: v for k, v in data.items() if v not in ([], {}, None, "")}
        return {"data": data, "found": found, "predicted": predicted}

    def _tied(self, kind: Any, found: dict[str, Any], path: str | None) -> dict[str, str]:
        """What is tied where one section of the configuration ties embeddings, all, or none."""
        config = copy.deepcopy(found["config"])
        for own, part in list(sections(config)):
            part.tie_word_embeddings = path in (own, "*")
        try:
            module = build(kind, config)
        except Exception:
            return {}
        axes = _axes(found)
        tied: dict[str, str] = {}
        for target, source in module.all_tied_weights_keys.items():
            opened, other = axes.pattern(target), axes.pattern(source)
            same = (
                NUMBER.findall(target)[: opened.count("*")]
                == NUMBER.findall(source)[: other.count("*")]
            )
            tied[opened if same else target] = other if same else source
        return tied

    def _as_part(self, prefix: str, path: str, sub: dict[str, Any]) -> dict[str, Any]:
        """Templates and axes of a class where it is part of another."""

        def key(k: str) -> str:
            return f"{path}.{k}" if path else k

        found = sub["found"]
        return {
            "templates": {
                prefix + p: (m, [c[0] + key(c[1:]) for c in cs])
                for p, (m, cs) in found["templates"].items()
            },
            "axes": {
                prefix + a: (None if k is None else key(k), o)
                for a, (k, o) in found["axes"].items()
            },
        }


def _holds(conditions: list[str], config: Any) -> bool:
    """Whether a configuration says that a kind of tensor is there."""
    for condition in conditions:
        path, _, key = condition[1:].rpartition(".")
        try:
            value = bool(getattr(section(config, path), key))
        except AttributeError:
            return True
        if value != (condition[0] == "?"):
            return False
    return True


def _axes(found: dict[str, Any]) -> Axes:
    axes = Axes()
    axes.found = found["axes"]
    return axes


def _agrees(prefix: str, of: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether a part counts its layers by the same keys as it does for itself."""
    here = {a: tuple(e) for a, e in found["axes"].items() if a.startswith(prefix)}
    if any(of["axes"].get(a) != e for a, e in here.items()):
        return False
    if any(a not in here for a, e in of["axes"].items() if a.count("*") == 0 and e[0]):
        names = [n for n in found["names"] if n.startswith(prefix)]
        return not any(n.startswith(a + ".") for n in names for a in of["axes"] if a not in here)
    return True


def _value(config: Any, where: str | None) -> int | None:
    """What a configuration has by default at a place."""
    for key in where.split(".") if where else ():
        try:
            config = config[int(key)] if key.isdigit() else getattr(config, key)
        except (AttributeError, IndexError, TypeError):
            return None
    return config if type(config) is int else None


def _ties(config: Any) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))


def _named(module: PreTrainedModel, getter: str) -> str | None:
    try:
        wanted = getattr(module, getter)()
    except Exception:
        return None
    for name, part in module.named_modules(remove_duplicate=False):
        if part is wanted and name:
            # Models of images call their patches embeddings, and have no tokens.
            tokens = isinstance(part, torch.nn.Embedding) or getter != "get_input_embeddings"
            return f"{name}.weight" if tokens and hasattr(part, "weight") else None
    return None


def _keys(config: Any) -> dict[str, str]:
    """Where the configuration says its sizes."""
    found = {}
    text = config.get_text_config()
    path = next((p for p, s in sections(config) if s is text), "")
    for meaning, standard in (
        ("hidden", "hidden_size"),
        ("heads", "num_attention_heads"),
        ("layers", "num_hidden_layers"),
        ("vocabulary", "vocab_size"),
    ):
        own = (type(text).attribute_map or {}).get(standard, standard)
        if own in vars(text):
            found[meaning] = f"{path}.{own}" if path else own
    return found


def main(asked: list[str]) -> None:
    writer, started = Writer(), time.monotonic()
    told = started
    for kind, name in pairs():
        if asked and kind not in asked:
            continue
        found = getattr(transformers, name, None)
        if found is None or not isinstance(found, type):
            writer.failed.append((kind, name, "transformers has no such class"))
            continue
        if not issubclass(found, PreTrainedModel):
            writer.failed.append((kind, name, "not a model of its own"))
            continue
        writer.add(found, kind)
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"  {kind} {time.monotonic() - started:.0f} s", file=sys.stderr)
    for kind, name in modeling_auto.MODEL_MAPPING_NAMES.items():
        if kind in writer.kinds:
            one = name[0] if isinstance(name, (list, tuple)) else name
            if one in writer.kinds[kind]["classes"]:
                writer.kinds[kind]["base"] = one
    legacy = conversions.get_checkpoint_conversion_mapping("legacy")
    rules: dict[str, Any] = {str(n): json.loads(b) for b, n in writer.blocks.items()}
    rules["legacy"] = [rule(t) for t in legacy]
    head = {"transformers": transformers.__version__, "failed": writer.failed}
    lines = [head, {"rules": rules}, *(writer.kinds[k] for k in sorted(writer.kinds))]
    target = OUT if not asked else Path("/dev/stdout")
    text = "".join(json.dumps(line, separators=(",", ":"), default=str) + "\n" for line in lines)
    target.write_text(text)
    print(
        f"{len(writer.done)} classes of {len(writer.kinds)} model types, "
        f"{len(writer.failed)} failed, "
        f"{len(text) >> 10} kB, {time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
