"""The page on metrics: what each bundled one gives, of what, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generator.docstring import take_apart
from generator.markdown import code, table
from generator.methods import parameters_text, sentence

if TYPE_CHECKING:
    from zoo.metrics import Metric

MODELS = {1: "one model", 2: "a pair", None: "a set of two or more"}
"""`Metric.arity` in words."""


def bundled_metrics() -> list[Metric]:
    """The metrics of zoo's own plugins, whatever else is installed here."""
    from zoo.plugins import load_plugins

    found = load_plugins().metrics
    return [
        found[name]
        for name in sorted(found)
        if found[name].function.__module__.startswith("zoo_plugins.")
    ]


def metrics_page() -> str:
    metrics = bundled_metrics()
    rows = [
        (f"[{m.name}](#{m.name})", MODELS.get(m.arity, m.arity), needs(m), summary(m))
        for m in metrics
    ]
    return "\n\n".join(
        [
            "# Metrics",
            "The metrics that come with zoo. `zoo measure --list` lists these and those of your "
            "plugins; how to measure is the subject of [](../how-to/measure-models.md). Scores on "
            "tasks, such as accuracy, are not measured but evaluated.",
            table(["metric", "of", "needs", "what it is"], rows),
            *(section(m) for m in metrics),
        ]
    )


def section(metric: Metric) -> str:
    doc = take_apart(metric.function.__doc__)
    parts = [f"## {metric.name}", doc.summary, *([doc.text] if doc.text else [])]
    gives = [(code(name), what) for name, what in metric.gives.items()]
    parts += [table(["gives", "what it is"], gives)]
    parts += ["Parameters:\n\n" + parameters_text(metric)] if has_parameters(metric) else []
    facts = [
        ("version", metric.version),
        ("of", MODELS.get(metric.arity, metric.arity)),
        ("needs", needs(metric)),
    ]
    if metric.passes is not None and not required(metric):
        count = metric.passes(metric.parameters(), metric.arity or 2)
        of = "" if metric.arity else " for two models"
        facts.append(("passes over the sample, at most", f"{count:g}{of}"))
    parts += [table(["property", "value"], facts)]
    for heading in ("Cost", "Source", "Departs"):
        if heading in doc.sections:
            parts.append(f"**{heading}**: {sentence(doc.sections[heading])}")
    return "\n\n".join(parts)


def summary(metric: Metric) -> str:
    return take_apart(metric.function.__doc__).summary


def needs(metric: Metric) -> str:
    found = f"data, split {code(metric.split)}" if metric.needs == "data" else "weights"
    return found + (", the base of each" if metric.base else "")


def has_parameters(metric: Metric) -> bool:
    return bool(metric.parameters.model_fields)


def required(metric: Metric) -> bool:
    """Whether there are parameters without a default."""
    return any(field.is_required() for field in metric.parameters.model_fields.values())
