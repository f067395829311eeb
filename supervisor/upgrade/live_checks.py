"""What phase 4 measures of the live server from outside, without writing anything into the workspace."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

__all__ = ["UNIT_TEST_LIMIT", "UnitTests", "Watching", "run_unit_tests", "watching"]

UNIT_TEST_LIMIT = 600.0
"""Seconds."""

_OUTPUT_LINES = 40
_OUTPUT_BYTES = 1 << 16


class Watching(NamedTuple):
    """The file watches that a process tree holds in the kernel."""

    watches: int
    folders: tuple[str, ...]
    """Those of the folders asked for that are watched."""


class UnitTests(NamedTuple):
    """How the unit tests ended."""

    passed: bool
    output: tuple[str, ...]
    """The last lines."""


def watching(pid: int, folders: Sequence[Path]) -> Watching | None:
    """What the process and its descendants watch by inotify; None where it cannot be told.

    The kernel tells the inode of each watch. Told on Linux only: elsewhere, and for a server of another
    user, nothing can be measured, and what is unknown is a fact for the report and fails nothing.
    """
    if sys.platform != "linux":
        return None
    inodes: list[int] = []
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            inodes += _watched_inodes(process.pid)
    except (psutil.Error, PermissionError, FileNotFoundError):
        return None
    known = set(inodes)
    found = [str(folder) for folder in folders if _inode(folder) in known]
    return Watching(len(inodes), tuple(found))


def run_unit_tests(
    command: Sequence[str], *, cwd: str, env: Mapping[str, str], limit: float = UNIT_TEST_LIMIT
) -> UnitTests:
    """Run the tests the user asked for; their whole process group ends with them. Seconds."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return UnitTests(False, (f"{command[0]!r} cannot be started: {error.strerror}",))
        try:
            code = process.wait(limit)
            end = () if code == 0 else (f"they exited with code {code}",)
        except subprocess.TimeoutExpired:
            end = (f"they took longer than {limit:g} s",)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
        lines = output.read().decode(errors="replace").splitlines()
    return UnitTests(not end, (*lines[-_OUTPUT_LINES:], *end))


def _watched_inodes(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/fdinfo"
    for name in os.listdir(folder):
        with suppress(FileNotFoundError), open(f"{folder}/{name}") as file:
            for line in file:
                if line.startswith("inotify "):
                    yield int(line.partition(" ino:")[2].split(" ")[0], 16)


def _inode(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_ino
    except OSError:
        return None
