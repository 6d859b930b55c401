"""Write the reference pages from the code they describe.

    python docs/generate.py            write docs/reference/
    python docs/generate.py --check    write nothing; show what is out of date and exit 1

One function makes one page. Nothing here knows a fact that the code knows: when a page is wrong,
mend a docstring, a help text or a column's comment.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

    from zoo.contract import Method

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code. Do not edit. -->\n"


def pages() -> dict[str, str]:
    """Every generated page: path below `docs/reference` -> Markdown."""
    made: dict[str, Callable[[], str]] = {
        "cli.md": cli,
        "errors.md": errors,
        "extensions.md": extensions,
        "hooks.md": hooks,
        "json.md": json_shapes,
        "methods/index.md": methods_index,
        "python.md": python_api,
        "queries.md": queries,
        "recipe.md": recipe,
        "tables.md": tables,
    }
    texts = {path: page() for path, page in made.items()}
    for method in bundled_methods():
        texts[f"methods/{method.name}.md"] = method_page(method)
    return {path: NOTE + "\n" + text.strip() + "\n" for path, text in sorted(texts.items())}


# --- Markdown -------------------------------------------------------------------------------------


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped, `None` is an empty cell."""

    def line(cells: Iterable[object]) -> str:
        texts = ("" if c is None else str(c).replace("|", "\\|").replace("\n", " ") for c in cells)
        return "| " + " | ".join(texts) + " |"

    return "\n".join([line(headings), line("---" for _ in headings), *map(line, rows)])


def code(text: object) -> str:
    return f"`{text}`"


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.strip()}\n```"


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: `Args:` blocks become lists, `Source: ...` lines stand alone."""
    out: list[str] = []
    block = None
    for line in (inspect.cleandoc(docstring or "")).splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Yields):", line)
        fact = re.match(r"(Cost|Source|Departs|Differs|Returns|Note): +(.*)", line)
        if heading:
            block = heading[1]
            out += ["", f"**{block}**", ""]
        elif fact:
            block = fact[1]
            out += ["", f"**{block}**: {fact[2]}"]
        elif line and not line.startswith(" "):
            block = None
            out.append(line)
        elif block and re.match(r" {4}\S", line):
            out.append(
                item(line.strip())
                if block in ("Args", "Returns", "Raises", "Yields")
                else line.strip()
            )
        elif block:
            out.append("  " + line.strip() if line.strip() else "")
        else:
            out.append(line)
    return "\n".join(out).strip()


def item(text: str) -> str:
    name, colon, rest = text.partition(": ")
    return f"- {code(name)}: {rest}" if colon and re.fullmatch(r"[\w*, ]+", name) else f"- {text}"


class Bare:
    """An annotation that prints as it was written, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(thing: Callable[..., Any], name: str, *, method: bool = False) -> str:
    """`name(args) -> result` as a Python block, one argument a line when it is long."""
    sig = inspect.signature(thing)
    parameters = [
        p.replace(annotation=Bare(p.annotation)) if isinstance(p.annotation, str) else p
        for p in list(sig.parameters.values())[int(method) :]
    ]
    result = sig.return_annotation
    if isinstance(result, str):
        result = Bare(result)
    flat = name + str(sig.replace(parameters=parameters, return_annotation=result))
    if len(flat) <= 88:
        return fenced(flat, "python")
    arguments: list[str] = []
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        arguments.append(str(p))
    arrow = "" if result is sig.empty else f" -> {result!r}"
    return fenced("\n".join([f"{name}(", *(f"    {a}," for a in arguments), f"){arrow}"]), "python")


# --- Errors, hooks, extension classes, Python API -------------------------------------------------


def errors() -> str:
    import zoo.errors as module

    tree = [module.ZooError, *_subclasses(module.ZooError)]
    rows = [
        (code(e.__name__), e.exit_code, code(e.__mro__[1].__name__), _own_doc(e))
        for e in sorted(tree, key=lambda e: e.exit_code)
    ]
    return "\n\n".join(
        [
            "# Errors and exit codes",
            "Every error zoo raises on purpose is a `zoo.ZooError` from `zoo.errors`. Its text "
            "says what happened, why that is an error, and how to mend it; the same facts are "
            "attributes, so that programs need not read prose. The command line prints the text "
            "to stderr and exits with the error's number. Exit 0 is success, 1 is an error "
            "nobody foresaw, 2 is wrong usage.",
            fenced(inspect.cleandoc(module.__doc__ or "")),
            table(["error", "exit code", "is a", "meaning"], rows),
            "## What every error carries",
            prose(module.ZooError.__doc__),
        ]
    )


def _subclasses(root: type) -> Iterator[Any]:
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield child
            yield from _subclasses(child)


def _own_doc(error: type) -> str:
    """The remark beside the error in the tree of `zoo.errors`, or its docstring's first line."""
    import zoo.errors as module

    remark = re.search(rf"{error.__name__} +\d+ {{2,}}(.+)", module.__doc__ or "")
    return remark[1] if remark else (error.__doc__ or "").split("\n")[0]


def hooks() -> str:
    """In the order of `zoo/hookspecs.py`, under the comments that head its groups."""
    import zoo.hookspecs as module

    source = inspect.getsource(module)
    parts = ["# Hooks", inspect.cleandoc(module.__doc__ or "")]
    parts.append(
        "Mark an implementation with `zoo.hookimpl`. A plugin is a module or object that has some "
        "of these functions, named by an entry point in the group `zoo` or put as a file into a "
        "plugins directory: [](../how-to/write-a-method.md)."
    )
    for found in re.finditer(r"^# (.+)$|^def (zoo_\w+)", source, re.MULTILINE):
        if found[1] and not found[1].startswith("noqa"):
            heading, _, rest = found[1].partition(": ")
            parts.append(f"## {heading}\n\n{rest[:1].upper()}{rest[1:]}")
        elif found[2]:
            hook = getattr(module, found[2])
            parts += [f"### {found[2]}", signature(hook, found[2]), prose(hook.__doc__)]
            if hook.zoo_spec.get("firstresult"):
                parts.append("The first answer that is not None wins.")
    return "\n\n".join(parts)


def extensions() -> str:
    """What plugins offer besides functions: the classes they subclass."""
    import zoo.checkpoint
    import zoo.contract
    import zoo.extensions

    parts = [
        "# Extension classes",
        "What plugins register through the [hooks](hooks.md). Abstract methods are marked; the "
        "others have a default.",
    ]
    for module, names in (
        (zoo.contract, ("Method", "Statistic", "Chunk")),
        (zoo.extensions, ("Architecture", "Task", "Metric")),
        (zoo.checkpoint, ("Format", "Checkpoint", "TensorInfo", "Opened")),
    ):
        parts += [class_text(getattr(module, name)) for name in names]
    parts.insert(2, "## The method decorator\n\n" + signature(zoo.contract.method, "zoo.method"))
    parts.insert(3, prose(zoo.contract.method.__doc__) + "\n\n" + contract_text())
    return "\n\n".join(parts)


def contract_text() -> str:
    """The docstring of `zoo.contract`, from its second paragraph on."""
    import zoo.contract

    return (zoo.contract.__doc__ or "").partition("\n\n")[2]


def class_text(cls: type) -> str:
    """A class: its docstring, its attributes with the string under each, its public methods."""
    parts = [f"## {cls.__name__}", f"`{cls.__module__}.{cls.__name__}`", prose(cls.__doc__)]
    rows = [(code(n), code(a), d) for n, a, d in attributes(cls)]
    if rows:
        parts.append(table(["attribute", "type", "meaning"], rows))
    for name, member in vars(cls).items():
        if name.startswith("_") or not inspect.isfunction(member):
            continue
        mark = " (abstract)" if getattr(member, "__isabstractmethod__", False) else ""
        parts += [
            f"### {cls.__name__}.{name}{mark}",
            signature(member, name, method=True),
            prose(member.__doc__),
        ]
    return "\n\n".join(p for p in parts if p)


def attributes(cls: type) -> Iterator[tuple[str, str, str]]:
    """Name, annotation and the string literal below each annotated attribute of a class."""
    import ast

    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.target.id.startswith("_"):
                continue
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            yield node.target.id, ast.unparse(node.annotation), text


def python_api() -> str:
    """The names of `zoo.__all__`, and the methods of `Registry`."""
    import zoo

    parts = [
        "# Python",
        "`import zoo` costs nothing: each name is loaded on first use.",
        fenced(
            "import zoo\n\n"
            'with zoo.open("registry.db") as registry:\n'
            "    best = registry.select(where=\"task = 'math' and accuracy > 0.5\")\n"
            '    merged = registry.merge(method="ties", experts=best, name="math-ties")',
            "python",
        ),
    ]
    for name in zoo.__all__:
        value = getattr(zoo, name)
        parts.append(f"## zoo.{name}")
        elsewhere = inspect.isclass(value) and name in (
            "Architecture",
            "Chunk",
            "Method",
            "Metric",
            "Statistic",
            "Task",
        )
        if elsewhere:
            parts.append(f"{_first_line(value)} See [](extensions.md).")
        elif name == "ZooError":
            parts.append("The root of every error: [](errors.md).")
        elif inspect.isclass(value):
            parts.append(class_text(value).partition("\n\n")[2].replace("\n### ", "\n### "))
        elif inspect.isfunction(value):
            parts += [signature(value, f"zoo.{name}"), prose(value.__doc__)]
        else:
            parts.append(_string_below(name))
    return "\n\n".join(parts)


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _string_below(name: str) -> str:
    """The string literal under a module-level assignment, for constants and type aliases."""
    import zoo

    source = inspect.getsource(sys.modules[zoo._HOMES[name]])
    found = re.search(rf'^{name} = .*\n"""((?:.|\n)*?)"""', source, re.MULTILINE)
    return " ".join(found[1].split()) if found else f"`{getattr(zoo, name)}`"


# --- Methods --------------------------------------------------------------------------------------


def bundled_methods() -> list[Method]:
    """The methods of zoo's own plugins, whatever else is installed here."""
    from zoo.plugins import load_plugins

    found = load_plugins().methods
    return [
        found[name]
        for name in sorted(found)
        if found[name].function.__module__.startswith("zoo_plugins.")
    ]


def methods_index() -> str:
    methods = bundled_methods()
    rows = [
        (f"[{m.name}]({m.name}.md)", m.summary, m.base, experts_of(m), m.needs, m.replay)
        for m in methods
    ]
    return "\n\n".join(
        [
            "# Methods",
            "The methods that come with zoo. `zoo methods` lists these and those of your plugins; "
            "which to take is the subject of [](../../how-to/choose-a-method.md).",
            table(["method", "result", "base", "experts", "needs", "replay"], rows),
            fenced("\n".join(["{toctree}", ":hidden:", "", *(m.name for m in methods)])).replace(
                "```text\n", "```"
            ),
        ]
    )


def experts_of(method: Method) -> str:
    if method.max_experts == method.min_experts:
        return str(method.min_experts)
    return (
        f"{method.min_experts} or more"
        if method.max_experts is None
        else (f"{method.min_experts} to {method.max_experts}")
    )


def method_page(method: Method) -> str:
    tolerance = f", tolerance {method.tolerance:g} elsewhere" if method.replay != "exact" else ""
    facts = [
        ("version", method.version),
        ("base", method.base),
        ("experts", experts_of(method)),
        ("works on", "deltas (expert minus base)" if method.space == "delta" else "weights"),
        ("needs", method.needs),
        ("order of experts matters", "yes" if method.ordered else "no"),
        ("deterministic", "yes" if method.deterministic else "no"),
        ("replay", method.replay + tolerance),
        ("in a mergekit recipe", mergekit_text(method)),
    ]
    return "\n\n".join(
        [
            f"# {method.name}",
            prose(method.function.__doc__),
            "## Parameters",
            parameters_text(method),
            "## Contract",
            table(["property", "value"], facts),
        ]
    )


def mergekit_text(method: Method) -> str:
    if not method.mergekit:
        return "same parameters"
    return ", ".join(f"`{k}={v}`" for k, v in method.mergekit.items())


def parameters_text(method: Method) -> str:
    """The table of a method's options, from the JSON schema that also checks them."""
    from zoo.parameters import per_expert

    schema = method.parameters.model_json_schema()
    many = per_expert(method)
    rows = []
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        default = "required" if required else code(python_value(field.get("default")))
        per = "per expert, or one for all" if name in many else ""
        kind = "; ".join(part for part in (type_text(field, name in many), per) if part)
        rows.append((code(name), kind, default, field.get("description", "")))
    if not rows:
        return "None."
    return table(["name", "type", "default", "meaning"], rows)


def python_value(value: object) -> object:
    return "null" if value is None else value


def type_text(field: dict[str, Any], per_expert: bool = False) -> str:
    """A JSON schema type with its bounds: `number, 0 to 1`."""
    if "$ref" in field:
        return code(field["$ref"].rpartition("/")[2])
    if "anyOf" in field:
        kinds = [f for f in field["anyOf"] if not (per_expert and f.get("type") == "array")]
        return " or ".join(dict.fromkeys(type_text(f) for f in kinds))
    if "oneOf" in field:
        return " or ".join(dict.fromkeys(type_text(f) for f in field["oneOf"]))
    if "enum" in field:
        return " or ".join(code(v) for v in field["enum"])
    if "const" in field:
        return code(field["const"])
    kind = str(field.get("type", "any value"))
    if kind == "array":
        return "list of " + type_text(field.get("items", {}))
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return "mapping to " + type_text(field["additionalProperties"])
    if {"minimum", "maximum"} <= field.keys():
        return f"{kind}, {field['minimum']:g} to {field['maximum']:g}"
    words = {
        "minimum": "at least {}", "maximum": "at most {}",
        "exclusiveMinimum": "above {}", "exclusiveMaximum": "below {}",
        "minItems": "{} or more", "pattern": "matching `{}`",
    }  # fmt: skip
    return ", ".join([kind, *(w.format(field[k]) for k, w in words.items() if k in field)])


# --- Command line ---------------------------------------------------------------------------------


def cli() -> str:
    from zoo_cli.main import cli as root

    parts = [
        "# Command line",
        "Data goes to stdout, everything else to stderr. Every command takes `--json`. "
        "Exit codes: [](errors.md).",
    ]
    for path, command in commands(root, ("zoo",)):
        level = "##" if len(path) < 3 else "###"
        parts += [f"{level} {' '.join(path)}", fenced(help_text(path, command))]
    return "\n\n".join(parts)


def commands(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below one, itself first, depth first; those of plugins left out."""
    import click
    from zoo_cli.main import BUILT_IN

    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in BUILT_IN if len(path) == 1 else command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


def help_text(path: tuple[str, ...], command: click.Command) -> str:
    import click
    from zoo_cli.session import Session

    session = Session()
    session.has_plugin_commands = True  # what is installed here is not part of the reference
    context = None
    for name in path[:-1]:
        context = click.Context(click.Group(name), info_name=name, parent=context)
    context = click.Context(
        command,
        info_name=path[-1],
        parent=context,
        obj=session,
        terminal_width=88,
        max_content_width=88,
    )
    return command.get_help(context)


# --- Tables ---------------------------------------------------------------------------------------


def tables() -> str:
    from sqlalchemy.dialects import sqlite

    import zoo.tables as module

    parts = ["# Tables", inspect.cleandoc(module.__doc__ or "")]
    for cls in vars(module).values():
        if not inspect.isclass(cls) or module.ZooTable not in cls.__mro__[1:]:
            continue
        described = module.ZooTable.metadata.tables[cls.__tablename__]
        meanings = {name: text for name, _, text in attributes(cls)}
        rows = []
        for column in described.columns:
            rules = ["primary key"] if column.primary_key else []
            rules += ["unique"] if column.unique else []
            rules += [f"references `{key.target_fullname}`" for key in column.foreign_keys]
            rules += ["may be NULL"] if column.nullable else []
            kind = column.type.compile(dialect=sqlite.dialect())
            rows.append((code(column.name), kind, ", ".join(rules), meanings[column.name]))
        parts += [
            f"## {cls.__tablename__}",
            prose(cls.__doc__),
            table(["column", "type", "rules", "meaning"], rows),
        ]
    return "\n\n".join(parts)


# --- Queries --------------------------------------------------------------------------------------


def queries() -> str:
    import zoo.selection as selection

    return "\n\n".join(
        [
            "# Queries",
            "## `--where` and `--order-by`",
            inspect.cleandoc(selection.__doc__ or ""),
            "The same text works in `zoo ls`, `zoo merge`, a recipe's `select:`, and "
            "`Registry.select`.",
            table(
                ["column", "meaning"],
                ((code(name), text) for name, text in selection.COLUMNS.items()),
            ),
            "`--order-by` takes `column [asc|desc], ...`.",
        ]
    )


# --- Recipes --------------------------------------------------------------------------------------


def recipe() -> str:
    import dataclasses

    import zoo.mergekit_recipe as mergekit
    import zoo.recipe as module
    import zoo.schedule as schedule

    meanings = {name: text for name, _, text in attributes(module.Recipe)}
    defaults = {f.name: f.default for f in dataclasses.fields(module.Recipe)}
    keys = [(code(key), scalar(defaults[key]), meanings[key]) for key in module._KEYS]
    accepted = [
        (code(method), ", ".join(map(code, names)), settings(mergekit._DEFAULTS.get(method, {})))
        for method, names in mergekit._PARAMETERS.items()
    ]
    return "\n\n".join(
        [
            "# Recipes",
            "## Our form",
            inspect.cleandoc(module.__doc__ or ""),
            table(["key", "default", "meaning"], keys),
            "The language of `select` is that of [Queries](queries.md).",
            "## Values that vary over a model",
            inspect.cleandoc(schedule.__doc__ or ""),
            "## mergekit's form",
            inspect.cleandoc(mergekit.__doc__ or ""),
            f"Keys: {', '.join(map(code, mergekit._KEYS))}. "
            f"Refused, not silently ignored: {', '.join(map(code, mergekit._LATER))}.",
            table(["merge_method", "parameters", "what is set for it"], accepted),
            "## The lock",
            prose(module.lock.__doc__),
            "It is stored with the run, and its JSON digest is the run's `recipe_digest`. "
            "For two experts and `linear`:",
            fenced(json.dumps(example_lock(), indent=2), "json"),
        ]
    )


def scalar(default: object) -> str:
    """A default as somebody would write it; nothing for what is required or empty."""
    return code(default) if isinstance(default, int | float) else ""


def settings(values: dict[str, Any]) -> str:
    return ", ".join(code(f"{k}={str(v).lower()}") for k, v in values.items())


def example_lock() -> dict[str, Any]:
    from zoo.recipe import lock, read_recipe

    linear = next(m for m in bundled_methods() if m.name == "linear")
    experts = ["sha256:" + digit * 64 for digit in "ab"]
    return lock(read_recipe({"method": "linear", "experts": ["a", "b"]}), linear, None, experts)


# --- main -----------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    wanted = pages()
    there = {
        str(p.relative_to(REFERENCE)): p.read_text(encoding="utf-8")
        for p in REFERENCE.rglob("*.md")
        if p.read_text(encoding="utf-8").startswith(NOTE)
    }
    changed = [p for p in sorted(wanted | there) if wanted.get(p) != there.get(p)]
    for path in changed:
        file = REFERENCE / path
        if arguments:
            sys.stdout.writelines(
                difflib.unified_diff(
                    there.get(path, "").splitlines(keepends=True),
                    wanted.get(path, "").splitlines(keepends=True),
                    f"docs/reference/{path}",
                    f"docs/reference/{path} as generated",
                )
            )
        elif path in wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted[path], encoding="utf-8")
            print(f"wrote docs/reference/{path}")
        else:
            file.unlink()
            print(f"removed docs/reference/{path}")
    if arguments and changed:
        print("\nOut of date. Mend with: python docs/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
