"""What is measured of a live server from outside: real watches, real test runs."""

import os
import select
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcpkeep.supervisor.upgrade.live_checks import UnitTests, Watching, run_unit_tests, watching

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux' own")

WATCH = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(0)
for folder in sys.argv[1:]:
    assert libc.inotify_add_watch(fd, os.fsencode(folder), 0x2) > 0
print("watching", flush=True)
sys.stdin.read()
"""


@contextmanager
def watcher(*folders: Path, command: tuple[str, ...] = ()) -> Generator[int]:
    """A process that watches the folders; its pid."""
    process = subprocess.Popen(
        [*command, sys.executable, "-c", WATCH, *map(str, folders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"watching\n"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@linux
def test_the_folders_that_a_server_watches_are_told(tmp_path: Path) -> None:
    folders = [tmp_path / "standards", tmp_path / "workflows"]
    for folder in (*folders, tmp_path / "other"):
        folder.mkdir()
    with watcher(folders[0], tmp_path / "other") as pid:
        assert watching(pid, [*folders, tmp_path / "absent"]) == Watching(2, (str(folders[0]),))


@linux
def test_a_server_that_watches_nothing_is_told_from_one_that_cannot_be_seen(tmp_path: Path) -> None:
    with watcher() as pid:
        assert watching(pid, [tmp_path]) == Watching(0, ())
    assert watching(pid, [tmp_path]) is None


@linux
def test_the_watches_of_its_children_count(tmp_path: Path) -> None:
    wrapper = (sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])")
    with watcher(tmp_path, command=wrapper) as pid:
        assert watching(pid, [tmp_path]) == Watching(1, (str(tmp_path),))


def test_where_the_kernel_does_not_tell_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert watching(os.getpid(), []) is None


def run(code: str, tmp_path: Path, limit: float = 20.0) -> UnitTests:
    return run_unit_tests([sys.executable, "-c", code], cwd=str(tmp_path), env=os.environ, limit=limit)


def test_tests_that_pass_are_told_with_their_last_lines(tmp_path: Path) -> None:
    code = "import os, sys\nfor n in range(100): print(n)\nprint(os.getcwd(), file=sys.stderr, flush=True)"
    result = run(code, tmp_path)
    assert result.passed
    assert len(result.output) == 40
    assert set(result.output) == {*map(str, range(61, 100)), str(tmp_path)}


def test_tests_that_fail_say_how(tmp_path: Path) -> None:
    assert run("print('no'); raise SystemExit(3)", tmp_path) == UnitTests(
        False, ("no", "they exited with code 3")
    )


def test_tests_that_hang_end_with_all_they_started(tmp_path: Path) -> None:
    # Open for writing in the tests and in their child, for as long as either lives.
    os.mkfifo(tmp_path / "alive")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    code = (
        "import os, time\n"
        "held = os.open('alive', os.O_WRONLY)\n"
        "os.write(held, b'x')\n"
        "print('begun', flush=True) if os.fork() else None\n"
        "time.sleep(300)"
    )
    assert run(code, tmp_path, limit=2.0) == UnitTests(False, ("begun", "they took longer than 2 s"))
    assert os.read(alive, 1) == b"x"
    gone = select.poll()
    gone.register(alive, 0)
    assert gone.poll(10_000) == [(alive, select.POLLHUP)]
    os.close(alive)


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert run_unit_tests(["/no/such"], cwd=str(tmp_path), env={}) == UnitTests(
        False, ("'/no/such' cannot be started: No such file or directory",)
    )
