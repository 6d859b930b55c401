"""What the global options say, and the registry and plugins they lead to."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zoo.plugins import Plugins
    from zoo.progress import Progress
    from zoo.registry import Registry


@dataclass
class Session:
    """One invocation of `zoo`."""

    registry_url: str = "registry.db"
    plugins_dirs: tuple[str, ...] = ()
    verbose: int = 0
    as_json: bool = False
    """Whether the command was given `--json`; errors are then JSON too."""
    has_plugin_commands: bool = False
    _plugins: Plugins | None = field(default=None, repr=False)

    @property
    def plugins(self) -> Plugins:
        """The plugins, loaded once."""
        if self._plugins is None:
            from zoo.plugins import load_plugins

            self._plugins = load_plugins(self.plugins_dirs)
        return self._plugins

    def open(
        self, *, create: bool = False, store: str | None = None, lazy: bool = False
    ) -> Registry:
        """The registry; use as a context manager.

        Args:
            lazy: open its database when it is first needed: a merge of paths into a directory
                needs none.
        Raises:
            NotFound: there is none, and `create` is false.
        """
        import zoo

        if lazy:
            return zoo.Registry(self.registry_url, create=create, plugins=self.plugins)
        return zoo.open(
            self.registry_url,
            store=store,
            create=create,
            plugins=self._plugins,
            plugins_dirs=self.plugins_dirs,
        )

    @property
    def progress(self) -> Progress:
        """Bars of bytes on a terminal, silence elsewhere."""
        return self.counting("")

    def counting(self, unit: str) -> Progress:
        """Bars that count something, such as `examples`; silence where there is no terminal."""
        if sys.stderr.isatty():
            from zoo_cli.bars import Bars

            return Bars(unit)
        from zoo.progress import NoProgress

        return NoProgress()


pass_session = click.make_pass_decorator(Session)
