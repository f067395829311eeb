"""The installation as phase 0 sees it: whether it can be upgraded, and what room that needs."""

import fcntl
import functools
import glob
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import disk_usage

import anyio
import anyio.to_thread

from mcpkeep.protocol.upgrade import inspection
from mcpkeep.protocol.upgrade.facts import Problem, TargetFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import BACKUPS, PARTS, SETTINGS
from mcpkeep.protocol.upgrade.rag_paths import ConfigRefused, read_rag
from mcpkeep.supervisor.upgrade.copying import walk
from mcpkeep.supervisor.upgrade.installer import folder_requirements, installed_version
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_tree import Special, read_bytes
from mcpkeep.supervisor.upgrade.python import runs_from
from mcpkeep.supervisor.upgrade.release_store import read_release, release_ids
from mcpkeep.supervisor.upgrade.venv import folder_bytes
from mcpkeep.supervisor.workspace import require_index, server_words

__all__ = ["InstalledTarget"]

_PYTHON = os.path.join("bin", "python")


class InstalledTarget:
    """`Targets` on this machine; looks, and changes nothing."""

    def __init__(self, layout: Callable[[], Layout], *, free: Callable[[Path], int] | None = None) -> None:
        """`layout` is asked each time, since an upgrade may rename the folder; `free` for its free bytes."""
        self._layout = layout
        self._free = free or _free_bytes

    async def inspect(self) -> TargetFacts:
        """What phase 0 wants to know; what is wrong is in `problems`, all of it at once."""
        return await anyio.to_thread.run_sync(lambda: _inspect(self._layout(), self._free))


def _inspect(layout: Layout, free: Callable[[Path], int]) -> TargetFacts:
    problems = [*_structure(layout), *_file_system(layout), *_settings(layout)]
    command = _command(layout, problems)
    content = sum(os.lstat(f"{layout.base}/{path}").st_size for path in walk(layout.base, content=True).files)
    venv = os.path.realpath(layout.venv)
    if os.pathsep in str(layout.base):
        problems.append(
            Problem(
                f"{str(layout.base)!r} has a {os.pathsep!r} in it, which Python takes for the end of a path",
                "rename that folder",
            )
        )
    if runs_from(layout.venv, layout.venvs):
        problems.append(
            Problem(
                f"mcpkeep itself runs from {str(layout.venv)!r}, which an upgrade replaces",
                "install mcpkeep elsewhere, with `uv tool` or `pipx`",
            )
        )
    current = layout.current_release()
    return TargetFacts(
        exists=True,
        structure_valid=not problems,
        bytes_available=free(layout.base),
        content_bytes=content,
        venv_bytes=_venv_bytes(venv, _installed_at(venv)),
        requirements_sha256=_requirements(layout),
        command=command,
        current_release=current,
        current_version=_version(layout, current),
        releases=tuple(sorted(release_ids(layout), reverse=True)),
        problems=tuple(problems),
    )


@functools.lru_cache(maxsize=4)
def _venv_bytes(venv: str, _at: tuple[int, ...]) -> int:
    """A venv can have as many files as all else together a hundred times over: they are counted once."""
    return folder_bytes(Path(venv))


def _installed_at(venv: str) -> tuple[int, ...]:
    """When packages came or went last, in nanoseconds: each has a folder of its own in site-packages."""
    return tuple(
        os.stat(folder).st_mtime_ns
        for folder in sorted(glob.glob(f"{glob.escape(venv)}/lib/python*/site-packages"))
    )


def _free_bytes(path: Path) -> int:
    return disk_usage(path).free


def _structure(layout: Layout) -> list[Problem]:
    base = str(layout.base)
    remedy = "install praxis-os first; the upgrade does not install from nothing"
    problems: list[Problem] = []
    server = (layout.base / "mcp_server").is_dir()
    if not server and (layout.base / "ouroboros").is_dir():
        return [inspection.newer(base)]
    if not server:
        problems.append(Problem(f"{base!r} has no mcp_server/", remedy))
    if not (layout.base / "standards/universal").is_dir():
        flat = (layout.base / "standards").is_dir()
        problems.append(_flat(base) if flat else Problem(f"{base!r} has no standards/universal/", remedy))
    for part in PARTS:
        folder = layout.base / part.installed
        if folder.is_symlink():
            problems.append(
                Problem(
                    f"{str(folder)!r} is a link to {os.readlink(folder)!r}, and an upgrade would write there",
                    "put a copy of that folder in its place",
                )
            )
    return problems


def _flat(base: str) -> Problem:
    return Problem(
        f"{base!r} has standards/, but no standards/universal/ in it",
        "move what came with praxis-os into standards/universal/, and your own into standards/development/",
    )


def _file_system(layout: Layout) -> list[Problem]:
    """What renames cannot replace, and a file system without locks."""
    problems: list[Problem] = []
    device = os.stat(layout.base).st_dev
    for name in dict.fromkeys((*(part.installed for part in PARTS), ".mcpkeep", BACKUPS, ".cache")):
        path = layout.base / name
        with suppress(OSError):
            if os.path.ismount(path):
                problems.append(_elsewhere(f"{str(path)!r} is a mount point"))
            elif os.stat(path).st_dev != device:
                problems.append(_elsewhere(f"{str(path)!r} is on another device"))
    fd = os.open(layout.base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except OSError as error:
        problems.append(_elsewhere(f"the file system of {str(layout.base)!r} has no locks: {error.strerror}"))
    finally:
        os.close(fd)
    if not os.access(layout.base, os.W_OK | os.X_OK):
        mounted = os.statvfs(layout.base).f_flag & os.ST_RDONLY
        remedy = (
            "its file system is mounted read-only; mount it for writing, or plan on a copy of the project"
        )
        problems.append(
            Problem(
                f"{str(layout.base)!r} cannot be written", remedy if mounted else "change its permissions"
            )
        )
    return problems


def _settings(layout: Layout) -> list[Problem]:
    try:
        with suppress(Special):
            read_rag(read_bytes(layout.base, SETTINGS))
        require_index(str(layout.base), str(layout.workspace))
    except ConfigRefused as refused:
        return [Problem(str(refused), refused.remedy)]
    return []


def _elsewhere(text: str) -> Problem:
    return Problem(text, "move it back, or upgrade where it really lives")


def _command(layout: Layout, problems: list[Problem]) -> tuple[str, ...]:
    if not (layout.base / "mcp_server").is_dir():
        return ()
    python = layout.venv / _PYTHON
    if not os.access(python, os.X_OK):
        problems.append(
            Problem(
                f"the server's interpreter {str(python)!r} is missing",
                "make a venv there, or a link to one, and install the requirements",
            )
        )
        return ()
    if (words := server_words(str(layout.base))) is None:
        problems.append(
            Problem(
                f"{str(layout.base)!r} has no mcp_server/__main__.py", "put it back; nothing else starts it"
            )
        )
        return ()
    return (str(python), *words)


def _requirements(layout: Layout) -> str | None:
    with suppress(UpgradeFailed, OSError):
        return folder_requirements(layout.base).sha256
    return None


def _version(layout: Layout, current: str | None) -> str | None:
    if current is not None:
        with suppress(UpgradeFailed):
            return read_release(layout, current).version
    with suppress(OSError):
        return installed_version((layout.base / "VERSION.txt").read_text(errors="replace"))
    return None
