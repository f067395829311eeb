"""The workspace: which folder it is, where mcpkeep's own files for it are, and what server lives in it.

Paths are strings: this runs before the child is spawned, and pathlib takes as long to import as all of it.
"""

import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from mcpkeep.protocol.arguments import module_words
from mcpkeep.protocol.bases import BASES
from mcpkeep.protocol.errors import ConfigError

__all__ = [
    "KnownServer",
    "StateFolder",
    "find_base",
    "find_workspace",
    "index_folder",
    "make_state_folder",
    "offers_workflows",
    "prepare_index",
    "recognise_server",
    "release_server",
    "require_index",
    "server_words",
]

_WORKFLOW_SIGNS = (*BASES, os.path.join("universal", "workflows"))
_MARKERS = (*BASES, "mcpkeep.toml")
_NEWER = "ouroboros"
_INDEX = os.path.join(".cache", "vector_index")


class KnownServer(NamedTuple):
    """A server that was recognised: how to run it, and what its environment needs."""

    command: tuple[str, ...]
    env: dict[str, str]
    release: str | None = None
    """The release that it is of; None where it runs from the live folder."""
    warning: str | None = None
    """Why it runs from the live folder although there is a current release."""


class StateFolder(NamedTuple):
    """The folder for logs and saved state, or why there is none."""

    path: str | None
    warning: str | None = None


def find_workspace(named: str | None, *, environ: Mapping[str, str], cwd: str, home: str) -> str | None:
    """The absolute path of the workspace; None in the home folder or `/` unless it was named.

    It is `named` (the flag), MCPKEEP_WORKSPACE, PROJECT_ROOT, or the nearest folder from `cwd` upwards that
    holds `.praxis-os`, `.agent-os` or `mcpkeep.toml`; where none does, `cwd` itself.

    Raises:
        ConfigError: the folder that was named is not there.
    """
    for name, value in (
        ("--workspace", named),
        ("MCPKEEP_WORKSPACE", environ.get("MCPKEEP_WORKSPACE")),
        ("PROJECT_ROOT", environ.get("PROJECT_ROOT")),
    ):
        if not value:
            continue
        path = os.path.abspath(os.path.join(cwd, os.path.expanduser(value)))
        if os.path.isdir(path):
            return path
        hint = "the IDE left a placeholder in it" if "${" in value else "name a folder that exists"
        raise ConfigError(f"{name} is {value!r}, which is no folder; {hint}")
    nowhere = {os.path.realpath(home), os.sep}
    start = os.path.realpath(cwd)
    folder = start
    while folder not in nowhere:
        if any(os.path.lexists(os.path.join(folder, marker)) for marker in _MARKERS):
            return folder
        folder = os.path.dirname(folder)
    return None if start in nowhere else start


def make_state_folder(
    workspace: str | None, *, environ: Mapping[str, str], cwd: str, home: str, platform: str = sys.platform
) -> StateFolder:
    """Make the folder for mcpkeep's own files, unless it is there; never raises.

    `.mcpkeep` (with a .gitignore in it) in the workspace's `.praxis-os` or `.agent-os`; else one
    in the user's state folder that is named after the workspace, so that other projects get no droppings.
    """
    bases = [os.path.join(workspace, base) for base in BASES] if workspace is not None else []
    inside = next((base for base in bases if os.path.isdir(base)), None)
    if inside is not None:
        path = os.path.join(inside, ".mcpkeep")
    else:
        path = os.path.join(_user_state(environ, home, platform), _readable_key(workspace or cwd))
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        ignore = os.path.join(path, ".gitignore")
        if inside is not None and not os.path.lexists(ignore):
            with open(ignore, "x", encoding="ascii") as file:
                file.write("*\n")
        if not os.access(path, os.W_OK | os.X_OK):
            return StateFolder(None, f"{path} is not writable; going on without log file and saved state")
    except FileExistsError as error:
        # Two that start at once both write the .gitignore; a file in the folder's place is another matter.
        if not os.path.isdir(path):
            return StateFolder(None, _no_state(path, error))
    except OSError as error:
        return StateFolder(None, _no_state(path, error))
    return StateFolder(path)


def recognise_server(workspace: str) -> KnownServer | None:
    """The prAxIs OS server installed in the workspace, if one is; it is looked at, not run.

    It runs from the current release, where an upgrade has made one, and else from the live folder. That of
    November 2025 and later, of which no releases are made, is one where no `mcp_server` is.
    """
    for base in BASES:
        root = os.path.join(workspace, base)
        python = os.path.join(root, "venv", "bin", "python")
        words = server_words(root)
        if words is None and (newer := server_words(root, module=_NEWER)) and os.access(python, os.X_OK):
            return KnownServer((python, *newer), {"PYTHONPATH": root})
        current = os.path.join(root, ".mcpkeep", "current")
        warning: str | None = None
        if os.path.lexists(current):
            release = os.path.basename(os.path.realpath(current))
            if server := release_server(root, release):
                return server
            warning = f"{current} names {release!r}, which is no whole release; the server runs from {root}"
        if words is not None and os.access(python, os.X_OK):
            return KnownServer((python, *words), {"PYTHONPATH": root}, warning=warning)
    return None


def release_server(base: str, release: str, arguments: Sequence[str] = ()) -> KnownServer | None:
    """The server of this release of the installation in `base`; None where the release is not whole.

    Of `arguments` it is given those that it knows.
    """
    folder = os.path.join(os.path.realpath(base), ".mcpkeep", "releases", release)
    python = os.path.join(folder, "venv", "bin", "python")
    # release.json is written last, so it says that all else was.
    whole = os.path.isfile(os.path.join(folder, "release.json")) and os.access(python, os.X_OK)
    if not whole or (words := server_words(folder, arguments)) is None:
        return None
    # Without PYTHONSAFEPATH, `-m` finds a project's own mcp_server/ first, since it runs in the project.
    return KnownServer((python, *words), {"PYTHONPATH": folder, "PYTHONSAFEPATH": "1"}, release)


def server_words(
    folder: str, arguments: Sequence[str] = (), *, module: str = "mcp_server"
) -> tuple[str, ...] | None:
    """The words after the interpreter that start the server in `folder`, with those of `arguments` that it
    knows; None where none is there.
    """
    path = os.path.join(folder, module, "__main__.py")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return module_words(file.read(), arguments, module=module)
    except OSError:
        return None


def find_base(workspace: str) -> str | None:
    """The folder of the prAxIs OS installation in the workspace, if there is one."""
    return next((base for name in BASES if os.path.isdir(base := os.path.join(workspace, name))), None)


def offers_workflows(enabled: bool | Literal["auto"], workspace: str | None) -> bool:
    """Whether `pos_workflow` stands in `tools/list`: by itself where the workspace has workflows."""
    if workspace is None:
        return False
    if enabled == "auto":
        return any(os.path.isdir(os.path.join(workspace, name)) for name in _WORKFLOW_SIGNS)
    return enabled


def prepare_index(base: str, workspace: str | None = None, *, alone: bool = True) -> None:
    """Make the place of the search index fit for a server's start; to be called before each, never raises.

    A server makes its index itself, but does not start where the folder for it is missing. Where no other
    server of ours runs (`alone`), an index without its metadata is removed, as a killed build leaves one: a
    server takes it for an index, and never builds another.
    """
    index = index_folder(base, workspace)
    with suppress(OSError):
        os.makedirs(os.path.dirname(index), exist_ok=True)
    if not alone or not os.path.isdir(index) or os.path.lexists(os.path.join(index, "metadata.json")):
        return
    if os.path.islink(index):
        with suppress(OSError):
            os.unlink(index)
    else:
        import shutil  # here, since there next to never is one

        shutil.rmtree(index, ignore_errors=True)


def index_folder(base: str, workspace: str | None = None) -> str:
    """Where the server keeps its search index; the usual place where that of config.json is not followed."""
    try:
        return require_index(base, workspace)
    except ValueError:
        return os.path.join(base, _INDEX)


def require_index(base: str, workspace: str | None = None) -> str:
    """Where the server keeps its search index, which need not be there; `workspace` is the folder of `base`.

    Raises:
        ConfigRefused: config.json is damaged, or names what cannot be exchanged by renames, or is none.
    """
    usual = os.path.join(base, _INDEX)
    try:
        config = _read_unseen(os.path.join(base, "config.json"))
    except OSError:
        return usual
    if b"index_path" not in config:
        return usual
    from mcpkeep.protocol.upgrade.rag_paths import Place, index_place, not_of_an_index, refused_index

    place = index_place(config)
    if place == Place(_INDEX, True):
        return usual
    root = os.path.realpath(base if place.installed else workspace or os.path.dirname(base))
    folder = above = os.path.join(root, place.path)
    if os.path.realpath(folder) != folder:
        raise refused_index(str(place), "is reached through a link")
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise refused_index(str(place), "is a file, or below one")
    try:
        if os.stat(above).st_dev != os.stat(base).st_dev or os.path.ismount(folder):
            raise refused_index(str(place), "is on another device")
        others = not_of_an_index(os.listdir(folder)) if above == folder else []
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise refused_index(str(place), f"cannot be looked at ({why})") from error
    if others:
        raise refused_index(str(place), f"holds other things than an index, such as {others[0]!r}")
    return folder


def _read_unseen(path: str) -> bytes:
    """A file's bytes, without changing its time of access where that can be: a plan leaves no trace."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # another's file
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return file.read()


def _user_state(environ: Mapping[str, str], home: str, platform: str) -> str:
    if platform == "darwin":
        return os.path.join(home, "Library", "Application Support", "mcpkeep")
    named = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    return os.path.join(named if os.path.isabs(named) else os.path.join(home, ".local", "state"), "mcpkeep")


def _readable_key(folder: str) -> str:
    real = os.path.realpath(folder)
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in os.path.basename(real))
    # A checksum suffices, since it only tells folders of one name apart; hashlib takes 4 ms to import.
    return f"{name.encode('ascii', 'ignore').decode()[:40] or 'root'}-{zlib.crc32(os.fsencode(real)):08x}"


def _no_state(path: str, error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"{path} cannot be made ({reason}); going on without log file and saved state"
