"""Removes releases and venvs that nobody needs any more."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mcpkeep.protocol.upgrade.release import Pruned
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.command import Stopper
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.refusal import os_reason
from mcpkeep.supervisor.upgrade.release_store import remove_release
from mcpkeep.supervisor.upgrade.venv import Venvs

__all__ = ["prune"]


def prune(
    layout: Layout,
    venvs: Venvs,
    keep: Sequence[str],
    *,
    stopper: Stopper,
    progress: Callable[[str], None],
    calls: FileCalls = OS_CALLS,
) -> Pruned:
    """Remove the releases that are neither kept nor current, then the venvs that none links to; half made
    ones too. What cannot be removed is in the warnings.

    Raises:
        UpgradeFailed: another process builds or removes a venv.
        Stopped: by the stopper; each thing stands or is gone.
    """
    warnings: list[str] = []

    def remove(kind: str, names: Sequence[str], do: Callable[[str], None]) -> tuple[str, ...]:
        gone: list[str] = []
        for name in names:
            stopper.check()
            progress(f"removing {kind} {name}")
            try:
                do(name)
                gone.append(name)
            except OSError as error:
                warnings.append(f"{kind} {name} could not be removed: {os_reason(error)}")
        return tuple(gone)

    kept = {*keep, layout.current_release()}
    unkept = [name for name in _names(layout.releases) if name not in kept]
    releases = remove("release", unkept, lambda name: remove_release(layout, name, calls=calls))
    # By their links, not their records: one that cannot be read still keeps its venv.
    links = [layout.releases / name / "venv" for name in _names(layout.releases)]
    used = {_target(link) for link in (*links, layout.venv)}
    unused = [name for name in venvs.names() if name not in used]
    if not unused:
        return Pruned(releases, (), tuple(warnings))
    with venvs.lock():
        removed = remove("venv", unused, venvs.remove)
    return Pruned(releases, removed, tuple(warnings))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _target(link: Path) -> str:
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return ""
