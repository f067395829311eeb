"""Spawning a child: pipes, its own session, the run's mark in its environment, and why it could not be.

Light to import (the standard library's `subprocess` and little else): the entrypoint spawns the first child
before its other imports, which brings the time to the child's first byte from 106 ms to 33.
"""

import errno
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mcpkeep.protocol.errors import SpawnError
from mcpkeep.supervisor.sweep import GENERATION_VARIABLE, RUN_VARIABLE

__all__ = ["Spawned", "mark_environment", "spawn_child"]


class Spawned(NamedTuple):
    """A running child, the leader of its own session, and our ends of its pipes, which are non-blocking."""

    popen: subprocess.Popen[bytes]
    stdin: int
    stdout: int
    stderr: int
    run_id: str
    generation: int


def mark_environment(env: Mapping[str, str], *, run_id: str, generation: int) -> dict[str, str]:
    """`env` with the mark by which the run's processes are found; for whatever mcpkeep starts."""
    return {**env, RUN_VARIABLE: run_id, GENERATION_VARIABLE: str(generation)}


def spawn_child(
    command: Sequence[str], *, cwd: str, env: Mapping[str, str], run_id: str, generation: int
) -> Spawned:
    """Start `command` in `cwd` with `env`, in a session of its own, so that a terminal's Ctrl-C misses it.

    A command without a slash is looked up in the PATH of `env`; a relative one is relative to `cwd`.

    Raises:
        SpawnError: it could not be executed; `reason` says why and where it was looked for.
    """
    if not command:
        raise SpawnError("", "the command is empty")
    marked = mark_environment(env, run_id=run_id, generation=generation)
    pipes: list[int] = []
    try:
        for _ in range(3):
            pipes.extend(os.pipe())
        child_stdin, stdin, stdout, child_stdout, stderr, child_stderr = pipes
        popen = subprocess.Popen(
            list(command),
            stdin=child_stdin,
            stdout=child_stdout,
            stderr=child_stderr,
            cwd=cwd,
            env=marked,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        for fd in pipes:
            os.close(fd)
        raise SpawnError(command[0], _reason(error, command[0], cwd, env)) from error
    for fd in (child_stdin, child_stdout, child_stderr):
        os.close(fd)
    for fd in (stdin, stdout, stderr):
        os.set_blocking(fd, False)
    return Spawned(popen, stdin, stdout, stderr, run_id, generation)


def _reason(error: OSError | ValueError, name: str, cwd: str, env: Mapping[str, str]) -> str:
    if isinstance(error, ValueError):
        return str(error)
    if error.errno not in (
        errno.ENOENT,
        errno.EACCES,
        errno.ENOTDIR,
        errno.ENOEXEC,
        errno.EPERM,
        errno.ELOOP,
    ):
        return os.strerror(error.errno or 0)
    if not os.path.isdir(cwd):
        state = "is not a folder" if os.path.lexists(cwd) else "does not exist"
        return f"its working folder {cwd!r} {state}"
    if not os.access(cwd, os.X_OK):
        return f"its working folder {cwd!r} may not be entered"
    if "/" in name:
        found = os.path.join(cwd, name)
        if not os.path.lexists(found):
            looked = "" if os.path.isabs(name) else f", looked for in its working folder {cwd!r}"
            return f"no such file{looked}"
    else:
        folders = os.get_exec_path(dict(env))
        hits = (os.path.join(cwd, folder, name) for folder in folders)
        hit = next((path for path in hits if os.path.lexists(path)), None)
        if hit is None:
            return f"no such command in the PATH {os.pathsep.join(folders)!r}"
        found = hit
    return _file_reason(error, found)


def _file_reason(error: OSError, path: str) -> str:
    if os.path.isdir(path):
        return f"{path!r} is a folder"
    if not os.path.exists(path):
        return f"{path!r} is a link to {os.path.realpath(path)!r}, which does not exist"
    if not os.access(path, os.X_OK):
        return f"{path!r} is not executable; try chmod +x"
    if error.errno == errno.ENOEXEC:
        return f"{path!r} is neither a program for this machine nor a script that begins with #!"
    interpreter = _interpreter(path)
    if interpreter is not None:
        return f"the interpreter {interpreter!r} named in the first line of {path!r} cannot be executed"
    return f"{path!r}: {os.strerror(error.errno or 0)}; its loader may be missing"


def _interpreter(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            line = file.readline(256)
    except OSError:
        return None
    if not line.startswith(b"#!"):
        return None
    # A line end of DOS is part of the interpreter's name to the kernel: repr shows it.
    words = line[2:].rstrip(b"\n").split(b" ")
    return next((os.fsdecode(word) for word in words if word), "")
