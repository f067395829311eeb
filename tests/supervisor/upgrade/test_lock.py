"""The upgrade's lock: one holder, taken over from the dead, refused by name, gone at release."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.lock import HeldLock

HOLDER = """
import sys
from pathlib import Path
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.lock import HeldLock
HeldLock(Layout(Path(sys.argv[1]), Path(sys.argv[1]))).take("theirs")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path, tmp_path)


@pytest.mark.anyio
async def test_it_is_taken_again_by_its_session_and_refused_to_another(layout: Layout) -> None:
    lock = HeldLock(layout)
    await lock.acquire("mine")
    await lock.acquire("mine")
    assert lock.held_for == "mine"
    owner = lock.owner()
    assert owner is not None
    assert (owner["session_id"], owner["pid"], owner["alive"]) == ("mine", os.getpid(), True)
    for other in (lock, HeldLock(layout)):
        with pytest.raises(UpgradeFailed, match=rf"session 'mine', pid {os.getpid()}, since 20.*Z"):
            await other.acquire("other")
    await lock.release()
    await lock.release()
    assert list(layout.base.iterdir()) == []
    assert lock.owner() is None


def test_a_living_process_keeps_it_and_a_killed_one_leaves_it_to_the_next(layout: Layout) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(layout.base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        lock = HeldLock(layout)
        with pytest.raises(UpgradeFailed, match=f"session 'theirs', pid {holder.pid}") as refusal:
            lock.take("mine")
        assert refusal.value.details["alive"] is True
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    owner = lock.owner()
    assert owner is not None
    assert (owner["session_id"], owner["alive"]) == ("theirs", False)
    lock.take("mine")
    assert lock.held_for == "mine"
    lock.let_go()


def test_one_that_waited_for_a_removed_file_takes_the_new_one(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = HeldLock(layout), HeldLock(layout)
    first.take("a")
    real = fcntl.flock

    def released_meanwhile(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        first.let_go()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", released_meanwhile)
    second.take("b")
    assert second.held_for == "b"
    with pytest.raises(UpgradeFailed, match="session 'b'"):
        first.take("a")
    second.let_go()


def test_a_file_system_without_flock_is_refused_by_name(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_flock(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with pytest.raises(UpgradeFailed, match=f"file system of '{layout.base}' has no flock"):
        HeldLock(layout).take("a")


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(UpgradeFailed, match="cannot be made"):
        HeldLock(Layout(tmp_path, tmp_path / "none")).take("a")


def test_a_file_that_says_nothing_has_a_dead_owner_and_is_taken_over(layout: Layout) -> None:
    layout.lock.write_bytes(b"")
    lock = HeldLock(layout)
    assert lock.owner() == {"session_id": "", "started_at": "", "pid": 0, "alive": False}
    lock.take("a")
    lock.let_go()


def test_one_whose_file_was_removed_is_not_held_any_more(layout: Layout) -> None:
    lock = HeldLock(layout)
    lock.take("a")
    layout.lock.unlink()
    assert lock.held_for is None
    lock.take("b")
    assert lock.held_for == "b"
    lock.let_go()
