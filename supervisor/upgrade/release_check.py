"""Whether a release can be started: its code is what was installed, its interpreter runs and finds it."""

import os
from collections.abc import Mapping
from pathlib import Path

from mcpkeep.supervisor.upgrade.code_files import code_digests
from mcpkeep.supervisor.upgrade.command import Stopper, run_command
from mcpkeep.supervisor.upgrade.launch import FIND_SERVER, launch_release
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.python import bare_environment
from mcpkeep.supervisor.upgrade.refusal import os_reason
from mcpkeep.supervisor.upgrade.release_store import read_release

__all__ = ["check_release"]

_LIMIT = 30.0
"""Seconds for an interpreter to say where it would import from."""


def check_release(
    layout: Layout, release_id: str, *, environ: Mapping[str, str], stopper: Stopper | None = None
) -> tuple[str, ...]:
    """What keeps it from being started, in words; empty where nothing does. The server is not run.

    Raises:
        UpgradeFailed: there is no such release.
        Stopped: by the stopper.
    """
    release = read_release(layout, release_id)
    code = layout.releases / release_id / "mcp_server"
    found = code_digests(code, stopper=stopper)
    problems = [
        f"mcp_server/{path} is not what was installed"
        for path in sorted(found.keys() | release.server_files.keys())
        if found.get(path) != release.server_files.get(path)
    ]
    launch = launch_release(layout, release, layout.workspace)
    python = launch.command[0]
    try:
        done = run_command(
            (python, "-c", FIND_SERVER),
            env={**bare_environment(environ), **launch.env},
            cwd=str(layout.workspace),
            limit=_LIMIT,
            stopper=stopper,
        )
    except OSError as error:
        return (*problems, f"{python!r} does not run: {os_reason(error)}")
    last = done.lines[-1] if done.lines else ""
    if done.code:
        problems.append(f"{python!r} does not run: {last or f'code {done.code}'}")
    elif not Path(last).is_relative_to(os.path.realpath(code)):
        problems.append(f"mcp_server would be imported from {last or 'nowhere'!r}")
    return tuple(problems)
