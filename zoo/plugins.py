"""Finds plugins, loads each one whole or not at all, calls them, and names those that are broken.

A plugin is a module with functions marked `@zoo.hookimpl`; `zoo.hookspecs` lists the hooks. It
comes from one of two places:

    an installed distribution   entry points of the group `zoo`; the bundled ones too
    a drop-in                   a `.py` file in a plugins directory; names with a leading
                                underscore are left out

Load order is bundled, installed (by distribution, then name), drop-ins (by directory as given,
then name). Of two methods with one name the first stays, so nothing replaces a bundled method.

A hook that fails is its plugin's fault, and said to be: `Plugins.notify` and `Plugins.ask` are the
only ways to call one.
"""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from zoo import hookspecs
from zoo.errors import InvalidRecipe, PluginError, ZooError, did_you_mean
from zoo.plugin_sources import (
    BUNDLED,
    GROUP,
    Installed,
    directories,
    import_file,
    installed_plugins,
)

if TYPE_CHECKING:
    from zoo.architecture import Architecture
    from zoo.checkpoint import Format
    from zoo.contract import Method
    from zoo.metrics import Metric
    from zoo.task import Task
    from zoo.transform import Transform

Reject = (Exception, SystemExit)
"""What a plugin may raise while it loads. A plugin that calls `sys.exit` is broken, no more."""


_HERE = Path(__file__).parent


class BrokenPluginWarning(UserWarning):
    """A plugin was left out, or failed where nothing depends on it; the message names it."""


class Origin(NamedTuple):
    """Where a plugin came from; recorded in each run that used it."""

    plugin: str
    """The entry point's name, or the drop-in's file name without `.py`."""
    distribution: str
    """Distribution name, or the drop-in's file name."""
    version: str
    """The distribution's version, or the drop-in's `__version__`, or empty."""


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that was left out."""

    name: str
    source: str
    """`module (distribution version)`, or the path of the drop-in."""
    error: str
    """What is wrong with it, one sentence or more."""

    def __str__(self) -> str:
        return f"Plugin `{self.name}` from {self.source} was left out: {self.error}"


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin that works, and what it offers."""

    origin: Origin
    source: str
    hooks: tuple[str, ...]
    """Hooks it implements, sorted."""
    offers: tuple[str, ...]
    """`method ties`, `format torch`, ...; in the order it registered them."""


@dataclass(slots=True)
class _Offers:
    """What one plugin registered, kept apart until the whole plugin has proved sound."""

    methods: dict[str, Method] = field(default_factory=dict)
    formats: dict[str, Format] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    architectures: dict[str, Architecture] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    transforms: dict[str, Transform] = field(default_factory=dict)


_KINDS = {
    "formats": "zoo.checkpoint.Format",
    "methods": "zoo.contract.Method",
    "metrics": "zoo.metrics.Metric",
    "architectures": "zoo.architecture.Architecture",
    "tasks": "zoo.task.Task",
    "transforms": "zoo.transform.Transform",
}


class Plugins:
    """The plugins in use, and what they offer by name. Build one with `load_plugins`."""

    def __init__(self) -> None:
        self.methods: dict[str, Method] = {}
        self.formats: list[Format] = []
        """In the order they are asked: of plugins first, bundled last."""
        self.metrics: dict[str, Metric] = {}
        self.architectures: dict[str, Architecture] = {}
        self.tasks: dict[str, Task] = {}
        self.transforms: dict[str, Transform] = {}
        self.loaded: dict[str, LoadedPlugin] = {}
        """By plugin name, in load order."""
        self.broken: list[BrokenPlugin] = []
        self._providers: dict[tuple[str, str], str] = {}
        self._relay = _Relay(GROUP)
        self._relay.add_hookspecs(hookspecs)
        if os.environ.get("ZOO_TRACE_PLUGINS", "0") not in ("", "0"):
            self._relay.add_hookcall_monitoring(_trace, _no_trace)

    def method(self, name: str) -> Method:
        """The method of that name.

        Raises:
            InvalidRecipe: no plugin offers it; suggests the nearest names.
        """
        try:
            return self.methods[name]
        except KeyError:
            raise InvalidRecipe(
                f"Unknown method `{name}`.",
                how=did_you_mean(name, sorted(self.methods))
                + " List them with `zoo methods`."
                + "".join(f" {b}" for b in self.broken if b.name == name),
                method=name,
            ) from None

    def architecture(self, name: str | None, config: Mapping[str, Any]) -> Architecture | None:
        """The architecture of that name, else the first that knows the configuration, or None."""
        if name in self.architectures:
            return self.architectures[name]
        return next((a for a in self.architectures.values() if a.knows(config)), None)

    def origin(self, name: str, kind: str = "methods") -> Origin:
        """Where a method came from. Methods made in memory have no plugin: all fields empty.

        Args:
            kind: `methods` or `transforms`.
        """
        plugin = self._providers.get((kind, name))
        return self.loaded[plugin].origin if plugin else Origin("", "", "")

    def provider(self, kind: str, name: str) -> str:
        """Name of the plugin that offers a thing; `kind` as in `methods`, `tasks`."""
        return self._providers[kind, name]

    def record(self) -> dict[str, dict[str, str]]:
        """The plugins in use that did not come with zoo, by name: `distribution`, `version` and
        `code_hash`; for a run to remember. Any of them may have had a hand in it."""
        from zoo.code_hash import module_hash

        found = {}
        for name, plugin in sorted(self.loaded.items()):
            module: Any = self._relay.get_plugin(name)
            _, distribution, version = plugin.origin
            if distribution != BUNDLED:
                found[name] = {
                    "distribution": distribution,
                    "version": version,
                    "code_hash": module_hash(module),
                }
        return found

    def implementing(self, hook: str) -> Iterator[str]:
        """Names of the loaded plugins that implement a hook, in load order."""
        for name, plugin in self.loaded.items():
            if hook in plugin.hooks:
                yield name

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell all plugins what is done already: the hooks `zoo_after_*`.

        Warns:
            BrokenPluginWarning: for each plugin that raised, after all have been told.
        """
        failed = []
        for plugin in self._callees(hook):
            try:
                self.call_one(plugin, hook, **arguments)
            except Reject as e:
                failed.append(f"Plugin `{plugin}` failed in `{hook}`: {_explain(e)}")
        for message in failed:
            warnings.warn(message, BrokenPluginWarning, stacklevel=2)

    def ask(self, hook: str, **arguments: Any) -> Any:
        """Ask plugins before something is done: the hooks `zoo_before_*` and `zoo_resolve_*`.

        Returns:
            The first answer that is not None, for hooks that want one answer; else None.
        Raises:
            ZooError: a plugin refuses; it is the plugin's own.
            PluginError: a plugin raised something else; names plugin and hook.
        """
        wants_answer = getattr(hookspecs, hook).zoo_spec["firstresult"]
        for plugin in self._callees(hook):
            try:
                answer = self.call_one(plugin, hook, **arguments)
            except ZooError:
                raise
            except Reject as e:
                raise PluginError(
                    f"Plugin `{plugin}` failed in `{hook}`: {_explain(e)}",
                    "Only a `ZooError` is an answer; anything else is a mistake of the plugin.",
                    f"Mend it, or take it out: {self.loaded[plugin].source}.",
                    plugin=plugin,
                    hook=hook,
                ) from e
            if wants_answer and answer is not None:
                return answer
        return None

    def _callees(self, hook: str) -> list[str]:
        """Plugins that implement a hook, in pluggy's order of calling: the last loaded first."""
        caller: pluggy.HookCaller = getattr(self._relay.hook, hook)
        return [impl.plugin_name for impl in reversed(caller.get_hookimpls())]

    def call_one(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """Call one plugin's implementation of a hook, so that its failure is its own."""
        others = [p for name, p in self._relay.list_name_plugin() if name != plugin]
        return self._relay.subset_hook_caller(hook, others)(**arguments)

    def leave_out(self, name: str, source: str, error: BaseException) -> None:
        """Take a plugin out of use, and remember why."""
        self._forget(name)
        self.loaded.pop(name, None)
        for (kind, offered), plugin in list(self._providers.items()):
            if plugin != name:
                continue
            del self._providers[kind, offered]
            if kind == "formats":
                self.formats = [f for f in self.formats if f.name != offered]
            else:
                del getattr(self, kind)[offered]
        self.broken.append(BrokenPlugin(name, source, _explain(error)))

    def add(self, module: ModuleType, origin: Origin, source: str) -> None:
        """Take a plugin in, whole; when anything is wrong, not at all.

        Raises:
            PluginError: a hook is misspelt, unmarked or has a wrong signature; something it
                registers is of the wrong type, or has a name that is taken.
        """
        name = origin.plugin
        if name in self.loaded:
            raise PluginError(
                f"Two plugins are named `{name}`.",
                f"The other is {self.loaded[name].source}, and it came first.",
                "Rename one of them.",
                plugin=name,
            )
        _check_marks(module)
        try:
            self._relay.register(module, name=name)
        except pluggy.PluginValidationError as e:
            self._forget(name)
            raise PluginError(
                _signature_problem(str(e)),
                "Arguments of a hook are found by name.",
                "See `zoo.hookspecs`; arguments that are not used may be left out.",
                plugin=name,
            ) from e
        try:
            hooks = self._implemented(module)
            offers = self._collect(name, hooks)
        except BaseException:
            self._forget(name)
            raise
        self._merge_in(name, offers, bundled=origin.distribution == BUNDLED)
        said = [f"{kind[:-1]} {offered}" for kind in _KINDS for offered in getattr(offers, kind)]
        self.loaded[name] = LoadedPlugin(origin, source, hooks, tuple(said))

    def _forget(self, name: str) -> None:
        # pluggy before 1.7 leaves a plugin that failed validation half registered.
        if self._relay.has_plugin(name):
            self._relay.unregister(name=name)

    def _implemented(self, module: ModuleType) -> tuple[str, ...]:
        """The hooks a module implements.

        Raises:
            PluginError: one of them is no hook of ours, or there is none.
        """
        callers = self._relay.get_hookcallers(module) or []
        known = sorted(n for n in vars(hookspecs) if n.startswith("zoo_"))
        for caller in callers:
            if not caller.has_spec():
                raise PluginError(
                    f"There is no hook `{caller.name}`.",
                    how=did_you_mean(caller.name, known),
                    hook=caller.name,
                )
        if not callers:
            raise PluginError(
                "It implements no hook.",
                "A plugin acts through functions marked `@zoo.hookimpl`, and it has none.",
                "Begin with `zoo plugins new NAME`.",
            )
        return tuple(sorted(caller.name for caller in callers))

    def _collect(self, name: str, hooks: tuple[str, ...]) -> _Offers:
        offers = _Offers()
        for kind in _KINDS:
            hook = f"zoo_register_{kind}"
            if hook in hooks:
                self.call_one(name, hook, register=self._registrar(kind, getattr(offers, kind)))
        return offers

    def _registrar(self, kind: str, into: dict[str, Any]) -> Callable[[Any], None]:
        """The callback a plugin gets: checks type and name, then keeps the thing."""
        word = kind[:-1]

        def register(thing: Any) -> None:
            wanted = _load(_KINDS[kind])
            if not isinstance(thing, wanted):
                raise PluginError(
                    f"It registers {thing!r} as a {word}.",
                    f"A {word} is an instance of `{_KINDS[kind]}`.",
                    f"Decorate the function with `@zoo.{word}(...)`."
                    if kind in ("methods", "metrics")
                    else "Make an instance: call the class.",
                )
            offered = getattr(thing, "name", None)
            if not isinstance(offered, str) or not offered:
                raise PluginError(f"It registers a {word} without a name ({thing!r}).")
            first = self._providers.get((kind, offered))
            if first is not None or offered in into:
                raise PluginError(
                    f"The {word} `{offered}` is already offered by "
                    + (f"plugin `{first}` ({self.loaded[first].source})" if first else "it")
                    + ".",
                    "The first one stays.",
                    f"Give the {word} another name.",
                    name=offered,
                )
            into[offered] = thing

        return register

    def _merge_in(self, name: str, offers: _Offers, *, bundled: bool) -> None:
        for kind in _KINDS:
            for offered in getattr(offers, kind):
                self._providers[kind, offered] = name
        self.methods.update(offers.methods)
        self.metrics.update(offers.metrics)
        self.architectures.update(offers.architectures)
        self.tasks.update(offers.tasks)
        self.transforms.update(offers.transforms)
        if bundled:
            self.formats.extend(offers.formats.values())
        else:
            self.formats[:0] = offers.formats.values()


class _Relay(pluggy.PluginManager):
    """Looks for hooks among the routines of a module alone: the rest is most of it, and slow."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        if not inspect.isroutine(vars(plugin).get(name)):
            return None
        return super().parse_hookimpl_opts(plugin, name)


def load_plugins(
    dirs: Iterable[str | os.PathLike[str]] = (), *, entry_points: bool = True
) -> Plugins:
    """All plugins that work, with those that do not in `.broken`.

    Args:
        dirs: plugins directories; when there are none, those of `ZOO_PLUGINS_DIR`, which are
            separated as in PATH.
        entry_points: whether installed plugins, bundled ones among them, are loaded.

    Warns:
        BrokenPluginWarning: once for each plugin left out, after all others are loaded.
    """
    plugins = Plugins()
    if entry_points:
        for installed in installed_plugins():
            _add_installed(plugins, installed)
    for directory in directories(dirs):
        _add_directory(plugins, directory)
    for broken in plugins.broken:
        warnings.warn(str(broken), BrokenPluginWarning, stacklevel=2)
    return plugins


def _add_installed(plugins: Plugins, installed: Installed) -> None:
    entry_point = installed.entry_point
    origin = Origin(entry_point.name, installed.distribution, installed.version)
    source = f"{entry_point.value} ({origin.distribution} {origin.version})"
    try:
        plugins.add(entry_point.load(), origin, source)
    except Reject as e:
        plugins.broken.append(BrokenPlugin(entry_point.name, source, _explain(e)))


def _add_directory(plugins: Plugins, directory: Path) -> None:
    try:
        files = sorted(p for p in directory.iterdir() if p.suffix == ".py")
    except OSError as e:
        error = f"The plugins directory cannot be read ({e.strerror})."
        plugins.broken.append(BrokenPlugin(directory.name, str(directory), error))
        return
    for file in files:
        if file.name.startswith("_"):
            continue
        try:
            module = import_file(file)
            version = str(getattr(module, "__version__", ""))
            plugins.add(module, Origin(file.stem, file.name, version), str(file))
        except Reject as e:
            plugins.broken.append(BrokenPlugin(file.stem, str(file), _explain(e)))


def _check_marks(module: ModuleType) -> None:
    """Refuse a hook function without its mark; pluggy would pass over it in silence."""
    for name, value in vars(module).items():
        if (
            name.startswith(("zoo_register_", "zoo_before_", "zoo_after_", "zoo_resolve_"))
            and callable(value)
            and not hasattr(value, f"{GROUP}_impl")
        ):
            raise PluginError(
                f"The function `{name}` is not marked as a hook.",
                "Only functions marked `@zoo.hookimpl` are called.",
                "Put `@zoo.hookimpl` above it.",
                hook=name,
            )


def _signature_problem(message: str) -> str:
    """pluggy's own words, without the module's repr in front of them."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[1:] or lines).rstrip(".") + "."


def _explain(error: BaseException) -> str:
    """One line for a reader who has the plugin's source before them."""
    if isinstance(error, ZooError):
        return str(error)
    where = ""
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if _HERE not in file.parents:  # a plugin that misuses zoo is to be mended, not zoo
            where = f" ({file.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        where = f" ({Path(error.filename or '').name}, line {error.lineno})"
        return f"{type(error).__name__}: {error.msg}{where}."
    return f"{type(error).__name__}: {error}{where}."


def _load(dotted: str) -> type:
    module, _, name = dotted.rpartition(".")
    from importlib import import_module

    found: type = getattr(import_module(module), name)
    return found


def _trace(hook: str, impls: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]) -> None:
    said = ", ".join(f"{k}={_short(v)}" for k, v in arguments.items())
    called = ", ".join(impl.plugin_name for impl in reversed(impls))
    sys.stderr.write(f"{hook}({said}) -> {called}\n")


def _no_trace(*_: Any) -> None:
    """pluggy wants an observer of the outcome too; the call is all we show."""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
