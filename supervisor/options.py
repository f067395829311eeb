"""What `mcpkeep run` was asked to do: command line, environment and file, gathered into one value."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mcpkeep.protocol.config import Settings, resolve
from mcpkeep.protocol.errors import ConfigError
from mcpkeep.protocol.flags import parse_run_flags
from mcpkeep.supervisor.config import find_config, read_config
from mcpkeep.supervisor.workspace import find_base, find_workspace, make_state_folder, recognise_server

if TYPE_CHECKING:
    from mcpkeep.supervisor.upgrade.startup import Started

__all__ = ["RunOptions", "gather_options"]

NOTHING_TO_RUN = """\
there is no server to run. Name one in one of three ways:
  1. on the command line:      mcpkeep run -- npx -y @modelcontextprotocol/server-everything
  2. in the configuration:     [child] command in {place}, or MCPKEEP_CHILD_COMMAND
  3. by where it is started:   a workspace with prAxIs OS installed in .praxis-os/
"""


class RunOptions(NamedTuple):
    """All that `run` needs to know. Paths are absolute; relative ones in the settings count from `cwd`."""

    command: tuple[str, ...]
    """At least one word, passed on as it was written."""
    cwd: str
    """The child's working folder: the workspace, or else the one mcpkeep was started in."""
    env: Mapping[str, str]
    """Added to our own environment for the child."""
    workspace: str | None
    """None in the home folder or `/`; then nothing is read from or written into it."""
    state_dir: str | None
    """Exists and is writable; None if that could not be had."""
    log_file: str | None
    """The log file; its folder need not exist yet."""
    watch: tuple[str, ...]
    settings: Settings
    """Its command, env, watch paths and log file are as they were written; use those above."""
    origins: Mapping[str, str]
    """By setting name, such as `limits.hold`, where its value came from; default where it has no entry."""
    warnings: tuple[str, ...]
    """To be logged once logging is up."""
    release: str | None = None
    """The release of prAxIs OS that `command` starts; None where it is none."""
    base: str | None = None
    """The folder of the prAxIs OS installation, where `command` starts a server of it."""
    recognised: bool = False
    """Whether `command` is that of the server found in the workspace, and not one that was named."""
    config: str | None = None
    """The configuration file that was read."""
    started: "Started | None" = None
    """What the start found interrupted or edited, where it had to look."""


def gather_options(arguments: Sequence[str], *, environ: Mapping[str, str], cwd: str) -> RunOptions:
    """Read everything that decides a run; makes the state folder.

    Raises:
        ConfigError: a usage or configuration error, told in full by its text.
    """
    flags = parse_run_flags(arguments)
    home = environ.get("HOME") or os.path.expanduser("~")
    workspace = find_workspace(flags.workspace, environ=environ, cwd=cwd, home=home)
    folder = workspace or cwd
    warnings: list[str | None] = []
    path = flags.config or environ.get("MCPKEEP_CONFIG")
    if path:
        path = _absolute(cwd, path)
    elif workspace is not None:
        path, warning = find_config(workspace)
        warnings.append(warning)
    resolved = resolve(read_config(path) if path else None, environ=environ, flags=flags.settings)
    settings, origins = resolved.settings, dict(resolved.origins)
    warnings += resolved.warnings

    env: dict[str, str] = {}
    release: str | None = None
    recognised = False
    command = flags.command or settings.child.command
    if flags.command:
        origins["child.command"] = "the command line"
    elif not command and workspace is not None and (server := recognise_server(workspace)):
        command, env, release = server.command, server.env, server.release
        recognised = True
        warnings.append(server.warning)
        origins["child.command"] = "prAxIs OS in the workspace"
    if not command:
        raise ConfigError(NOTHING_TO_RUN.format(place=path or os.path.join(folder, "mcpkeep.toml")))

    state = make_state_folder(workspace, environ=environ, cwd=cwd, home=home)
    warnings.append(state.warning)
    log_file: str | None = None
    if isinstance(settings.log.file, str):
        log_file = _absolute(folder, settings.log.file)
    elif settings.log.file and state.path is not None:
        log_file = os.path.join(state.path, "logs", "mcpkeep.log")
    return RunOptions(
        command=command,
        cwd=folder,
        # What leads to a release's own code stands above all else.
        env={**env, **settings.child.env} if release is None else {**settings.child.env, **env},
        workspace=workspace,
        state_dir=state.path,
        log_file=log_file,
        watch=tuple(_absolute(folder, watched) for watched in settings.watch.paths),
        settings=settings,
        origins=origins,
        warnings=tuple(warning for warning in warnings if warning),
        release=release,
        base=find_base(workspace) if workspace is not None and "mcp_server" in command else None,
        recognised=recognised,
        config=path,
    )


def _absolute(base: str, path: str) -> str:
    return os.path.abspath(os.path.join(base, os.path.expanduser(path)))
