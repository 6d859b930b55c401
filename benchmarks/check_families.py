"""Check `zoo/families/families.jsonl` against transformers' own classes, all of them.

    python benchmarks/check_families.py [--sample N] [--out benchmarks/results/family_data.md]

Each class is built on the meta device from its default configuration, then with layers more, with
switches changed, and with embeddings tied and not. Of each it is asked whether zoo, which is given
`config.json` as it would be written and the names, finds nothing missing and nothing unexpected;
the same for the names that `save_pretrained` would write. A class whose names zoo knows and would
not miss is no check: how many of the names zoo misses when they are taken away is counted too.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

import transformers  # noqa: E402
from make_families import Outline, changed, default, sections, values  # noqa: E402
from transformers.core_model_loading import revert_weight_conversion  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

from zoo.families import data, family_of  # noqa: E402

GROUPS = {
    "causal LM": ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"],
    "encoder (masked LM)": ["MODEL_FOR_MASKED_LM_MAPPING_NAMES"],
    "encoder-decoder": ["MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"],
    "vision-language": [
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    ],
    "image classification": ["MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"],
    "bodies": ["MODEL_MAPPING_NAMES"],
}


@dataclass
class Result:
    """What came of one class."""

    kind: str
    name: str
    cases: int = 0
    wrong: list[str] = field(default_factory=list)
    names: int = 0
    missed: int = 0
    """Names whose absence would be noticed."""
    milliseconds: float = 0.0


def check(kind: str, name: str, rng: random.Random) -> Result:
    """All cases of one class."""
    result = Result(kind, name)
    made = getattr(transformers, name, None) or _part(kind, name)
    config = default(made, kind)
    for label, case in [("as it is", config), *_cases(config, rng)]:
        try:
            outline = Outline(made, case)
        except Exception:
            if label == "as it is":
                raise
            continue  # no such model
        _case(result, label, case, outline, strength=label == "as it is")
    return result


def _part(kind: str, name: str) -> Any:
    """A class that transformers does not offer at its top."""
    from importlib import import_module

    folder = Path(transformers.__file__).parent / "models"
    for file in folder.glob("*/modeling_*.py"):
        if f"class {name}(" in file.read_text():
            return getattr(
                import_module(f"transformers.models.{file.parent.name}.{file.stem}"), name
            )
    raise LookupError(name)


def _cases(config: Any, rng: random.Random) -> list[tuple[str, Any]]:
    """Configurations that differ in one value each: layers, switches, ties."""
    found = []
    for flag in (True, False):
        tied = copy.deepcopy(config)
        for _, part in sections(tied):
            part.tie_word_embeddings = flag
        found.append((f"tie_word_embeddings={flag}", tied))
    own = list(values(config))
    counts = [v for v in own if type(v[2]) is int and 0 < v[2] <= 64 and "layers" in v[1]]
    both = getattr(config, "is_encoder_decoder", False)  # its decoder is one anyway
    switches = [v for v in own if isinstance(v[2], bool) and not (both and v[1] == "is_decoder")]
    for path, key, value in [*rng.sample(counts, min(2, len(counts)))]:
        found.append((f"{path}.{key}={value + 2}", _tried(config, path, key, value + 2)))
    for path, key, value in rng.sample(switches, min(4, len(switches))):
        found.append((f"{path}.{key}={not value}", _tried(config, path, key, not value)))
    return [(label, c) for label, c in found if c is not None]


def _tried(config: Any, path: str, key: str, value: Any) -> Any:
    try:
        return changed(config, path, key, value)
    except Exception:
        return None


def _case(result: Result, label: str, config: Any, outline: Outline, *, strength: bool) -> None:
    said = json.loads(config.to_json_string())
    said["architectures"] = [result.name]
    said.setdefault("model_type", result.kind)
    started = time.perf_counter()
    family = family_of(said, outline.names)
    found = family.compare(outline.names) if family else None
    took = (time.perf_counter() - started) * 1000
    if strength:
        result.milliseconds = took
    result.cases += 1
    if family is None or found is None or not family.known:
        result.wrong.append(f"{label}: not known")
        return
    if not found.none:
        result.wrong.append(
            f"{label}: missing {list(found.missing[:2])} ({len(found.missing)}), "
            f"unexpected {list(found.unexpected[:2])} ({len(found.unexpected)})"
        )
        return
    tied = dict(outline.module.all_tied_weights_keys)
    if tied != dict(family.tied):
        odd = tied.keys() ^ family.tied.keys()
        result.wrong.append(f"{label}: tied differ, {sorted(odd)[:2]} ({len(odd)})")
    if not strength:
        return
    kept = {t for t in family.templates.values() if not t.optional and not t.absent}
    needed = {n for t in kept for n in t.names()} & set(outline.names)
    result.names, result.missed = len(outline.names), len(needed)
    try:
        state = outline.module.state_dict()
        old = set(revert_weight_conversion(outline.module, dict(state)))
    except Exception:
        return  # it has no other form
    if old != set(outline.names):
        result.cases += 1
        again = family.compare(old)
        if not again.none:
            result.wrong.append(
                f"as saved: missing {list(again.missing[:2])} ({len(again.missing)}), "
                f"unexpected {list(again.unexpected[:2])} ({len(again.unexpected)})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="classes, drawn with the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    classes = [(k, c) for k in data.kinds() for c in (data.kind(k) or {})["classes"]]
    rng = random.Random(given.seed)
    if given.sample:
        classes = sorted(rng.sample(classes, given.sample))
    results: list[Result] = []
    failed: list[tuple[str, str, str]] = []
    started = told = time.monotonic()
    for kind, name in classes:
        try:
            results.append(check(kind, name, rng))
        except Exception as error:
            failed.append((kind, name, f"{type(error).__name__}: {str(error)[:120]}"))
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"  {kind} {told - started:.0f} s", flush=True)
    page = _page(results, failed, time.monotonic() - started)
    print(page)
    if given.out:
        given.out.write_text(page)


def _page(results: list[Result], failed: list[tuple[str, str, str]], took: float) -> str:
    made = data.made_with()
    wrong = [r for r in results if r.wrong]
    good = {(r.kind, r.name) for r in results if not r.wrong}
    lines = [
        "# Families, checked against transformers",
        "",
        "    python benchmarks/check_families.py --out benchmarks/results/family_data.md",
        "",
        f"transformers {transformers.__version__}; data made with {made['transformers']}. "
        f"{len(results)} classes of {len({r.kind for r in results})} model types, "
        f"{sum(r.cases for r in results)} configurations, {took:.0f} s.",
        "",
        f"- {len(good)} classes: nothing missing, nothing unexpected, ties alike, in every "
        "configuration tried.",
        f"- {len(wrong)} classes differ in some configuration, listed below.",
        f"- Of {sum(r.names for r in results)} names, {sum(r.missed for r in results)} would be "
        "missed if they were left out "
        f"({100 * sum(r.missed for r in results) / max(1, sum(r.names for r in results)):.1f} %); "
        "the rest depends on layers or values that a configuration need not say.",
        f"- Time for `family_of` and `compare`: median "
        f"{_quantile([r.milliseconds for r in results], 0.5):.1f} ms, 99 % under "
        f"{_quantile([r.milliseconds for r in results], 0.99):.1f} ms.",
        "",
        "| group | classes | in the data | without a difference |",
        "|---|---|---|---|",
    ]
    have = {(r.kind, r.name) for r in results}
    for group, maps in GROUPS.items():
        named = {
            (k, c)
            for m in maps
            for k, cs in getattr(modeling_auto, m).items()
            for c in (cs if isinstance(cs, (list, tuple)) else [cs])
        }
        lines.append(f"| {group} | {len(named)} | {len(named & have)} | {len(named & good)} |")
    lines += ["", "## Not built", ""]
    short = [(k, c, " ".join(w.split())[:120]) for k, c, w in [*made["failed"], *failed]]
    reasons = Counter(why for _, _, why in short)
    lines += [
        f"{len(made['failed']) + len(failed)} classes have no data or could not be checked.",
        "",
    ]
    lines += [f"- {count} times: {why}" for why, count in reasons.most_common() if count > 1]
    lines += [f"- `{k}` `{c}`: {why}" for k, c, why in short if reasons[why] == 1]
    lines += ["", "## Differences", ""]
    lines += [f"- `{r.kind}` `{r.name}`: {'; '.join(r.wrong)}" for r in wrong]
    return "\n".join(lines) + "\n"


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


if __name__ == "__main__":
    main()
