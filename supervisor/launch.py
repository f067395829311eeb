"""How the server is started: as configured, or of a release; looked up anew before each start.

Light to import: the first child is started before anything slow is imported.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from mcpkeep.protocol.arguments import arguments_of
from mcpkeep.protocol.errors import SpawnError
from mcpkeep.supervisor.workspace import prepare_index, release_server

if TYPE_CHECKING:
    from mcpkeep.supervisor.options import RunOptions

__all__ = ["Launch", "clean_environment", "launch"]

# Each of these changes where modules, or the installation, are found; or keeps an ended interpreter alive.
_STRIPPED = frozenset(
    {
        "AGENT_OS_BASE_PATH",
        "PYTHONEXECUTABLE",
        "PYTHONHOME",
        "PYTHONINSPECT",
        "PYTHONPATH",
        "PYTHONPLATLIBDIR",
        "PYTHONSTARTUP",
        "PYTHONUSERBASE",
        "VIRTUAL_ENV",
        "__PYVENV_LAUNCHER__",
    }
)


class Launch(NamedTuple):
    """How one server is started."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment, but for the run's mark."""


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what would lead a release's server to other code or another installation."""
    return {name: value for name, value in environ.items() if name not in _STRIPPED}


def launch(options: "RunOptions", release: str | None, *, alone: bool = True) -> Launch:
    """How the release is started, or with None the command as configured.

    The arguments of a configured `-m mcp_server` go along to a release that knows them.

    The place of its search index is prepared on the way; `alone` is whether no other server of ours runs.

    Raises:
        SpawnError: the release is not there, or not whole.
    """
    if options.base is not None:
        prepare_index(options.base, alone=alone)
    if release is None:
        environ = os.environ if options.release is None else clean_environment(os.environ)
        return Launch(options.command, {**environ, **options.env})
    server = (
        release_server(options.base, release, arguments_of(options.command))
        if options.base is not None
        else None
    )
    if server is None:
        where = options.base or "this workspace, which has no prAxIs OS"
        raise SpawnError(release, f"release {release!r} is not whole, or not in {where}")
    # As a candidate is proven: what leads to the release's code stands above all else.
    environ = {**clean_environment(os.environ), **options.settings.child.env, **server.env}
    return Launch(server.command, environ)
