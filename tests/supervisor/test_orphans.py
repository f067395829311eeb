"""Whatever way mcpkeep ends, its children end too; a socket which the kernel closes tells that one has."""

import os
import select
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psutil
import pytest

from mcpkeep.supervisor.orphans import Watcher
from mcpkeep.supervisor.process import Spawned, mark_environment, spawn_child
from mcpkeep.supervisor.sweep import carriers, sweep

LIMIT = 60.0
"""Seconds that any wait of these tests may last."""

HOLD = """
import os, signal, socket, subprocess, sys, time
from mcpkeep.supervisor.orphans import Watcher
from mcpkeep.supervisor.process import spawn_child
def hold():
    held = socket.create_connection(("127.0.0.1", int(os.environ["ALIVE_PORT"])))
    held.recv(1)
    return held
def keep(program, run_id):
    # What mcpkeep does at its start; the child gets the rest of the programs in its environment.
    spawned = spawn_child(
        [sys.executable, "-c", os.environ["HOLD"] + os.environ[program]],
        cwd="/", env=os.environ, run_id=run_id, generation=1,
    )
    watcher = Watcher(run_id)
    watcher.ready()
    return spawned, watcher
"""

STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nkept = hold()\ntime.sleep(60)"

DETACHED = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        kept = hold()
        time.sleep(60)
    os._exit(0)
os.fork()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
kept = hold()
time.sleep(60)
"""


class Liveness:
    """Where the processes of a test hold a connection open."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(LIMIT)
        self.held: list[socket.socket] = []

    def env(self, **programs: str) -> dict[str, str]:
        return {**os.environ, "ALIVE_PORT": str(self.server.getsockname()[1]), "HOLD": HOLD, **programs}

    def arrived(self, count: int) -> None:
        for _ in range(count):
            held = self.server.accept()[0]
            held.settimeout(LIMIT)
            held.sendall(b"!")
            self.held.append(held)

    def all_dead(self) -> None:
        for held in self.held:
            try:
                assert held.recv(1) == b""
            except ConnectionResetError:
                continue

    def close(self) -> None:
        for held in (*self.held, self.server):
            held.close()


@pytest.fixture
def liveness() -> Iterator[Liveness]:
    liveness = Liveness()
    yield liveness
    liveness.close()


@pytest.fixture
def run_id() -> Iterator[str]:
    run_id = uuid.uuid4().hex
    yield run_id
    sweep(run_id)


def run_mcpkeep(program: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", HOLD + program], env=env, stdout=subprocess.PIPE)


def is_gone(pid: int) -> bool:
    """Wait until no process has this pid, or only a zombie that nobody has asked after."""
    if sys.platform != "linux":
        psutil.Process(pid).wait(LIMIT)
        return True
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], LIMIT)[0])
    finally:
        os.close(handle)


def read_line(process: subprocess.Popen[bytes]) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(LIMIT)
    assert process.stdout is not None
    process.stdout.close()


def popen_of(spawned: Spawned) -> subprocess.Popen[bytes]:
    for fd in (spawned.stdin, spawned.stdout, spawned.stderr):
        os.close(fd)
    return spawned.popen


def test_sigkill_of_mcpkeep_leaves_no_process_of_its_tree_and_no_watcher(
    liveness: Liveness, run_id: str
) -> None:
    program = f"child, watcher = keep('CHILD', {run_id!r}); print(watcher.pid, flush=True);"
    program += "kept = hold(); time.sleep(60)"
    mcpkeep = run_mcpkeep(program, liveness.env(CHILD=DETACHED))
    (watcher,) = read_line(mcpkeep)
    liveness.arrived(4)
    end(mcpkeep)
    liveness.all_dead()
    assert is_gone(watcher)
    assert carriers(run_id) == []


def test_a_watcher_that_was_killed_is_replaced_and_sigkill_of_mcpkeep_leaves_nothing(
    liveness: Liveness, run_id: str
) -> None:
    program = (
        f"child, watcher = keep('CHILD', {run_id!r}); former = watcher.pid; os.kill(former, signal.SIGKILL)"
    )
    program += "\nwhile watcher.pid == former: os.sched_yield()"
    program += "\nprint(watcher.pid, flush=True); kept = hold(); time.sleep(60)"
    mcpkeep = run_mcpkeep(program, liveness.env(CHILD=DETACHED))
    (watcher,) = read_line(mcpkeep)
    liveness.arrived(4)
    end(mcpkeep)
    liveness.all_dead()
    assert is_gone(watcher)
    assert carriers(run_id) == []


def test_mcpkeep_killed_before_the_watcher_has_run_an_instruction_leaves_nothing(run_id: str) -> None:
    program = (
        f"child, watcher = keep('CHILD', {run_id!r}); os.write(1, b'%d %d' % (child.popen.pid, watcher.pid));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "HOLD": HOLD, "CHILD": "signal.pause()"}
    mcpkeep = run_mcpkeep(program, env)
    pids = read_line(mcpkeep)
    assert [is_gone(pid) for pid in pids] == [True, True]
    end(mcpkeep)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_watcher_outlives_the_signals_that_end_a_group_of_processes(
    liveness: Liveness, run_id: str, number: signal.Signals
) -> None:
    program = f"child, watcher = keep('CHILD', {run_id!r}); print(watcher.pid, flush=True); time.sleep(60)"
    mcpkeep = run_mcpkeep(program, liveness.env(CHILD=STUBBORN))
    (watcher,) = read_line(mcpkeep)
    liveness.arrived(1)
    if sys.platform == "linux":
        while not _mask(watcher, "SigIgn") >> (number - 1) & 1:
            os.sched_yield()
    os.kill(watcher, number)
    end(mcpkeep)
    liveness.all_dead()
    assert is_gone(watcher)


def _mask(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith(name))


def test_an_outer_mcpkeep_that_is_killed_takes_the_inner_one_and_its_children_along(
    liveness: Liveness, run_id: str
) -> None:
    outer, inner = run_id, uuid.uuid4().hex
    programs = {
        "INNER": f"child, watcher = keep('CHILD', {inner!r}); kept = hold(); time.sleep(60)",
        "CHILD": DETACHED,
    }
    program = f"child, watcher = keep('INNER', {outer!r}); kept = hold(); time.sleep(60)"
    mcpkeep = run_mcpkeep(program, liveness.env(**programs))
    liveness.arrived(5)
    end(mcpkeep)
    liveness.all_dead()
    assert (carriers(outer), carriers(inner)) == ([], [])


def test_the_inner_mcpkeep_that_is_killed_leaves_the_outer_one_alone(liveness: Liveness, run_id: str) -> None:
    inner = uuid.uuid4().hex
    programs = {
        "INNER": f"child, watcher = keep('CHILD', {inner!r}); os.write(1, b'ready'); time.sleep(60)",
        "CHILD": STUBBORN,
    }
    outer = spawn_child(
        [sys.executable, "-c", HOLD + programs["INNER"]],
        cwd="/",
        env=liveness.env(**programs),
        run_id=run_id,
        generation=1,
    )
    liveness.arrived(1)
    bystander = spawn_child(["cat"], cwd="/", env=os.environ, run_id=run_id, generation=1)
    outer.popen.kill()
    outer.popen.wait(LIMIT)
    liveness.all_dead()
    os.write(bystander.stdin, b"alive")
    assert select.select([bystander.stdout], [], [], LIMIT)[0]
    assert os.read(bystander.stdout, 100) == b"alive"
    bystander.popen.kill()
    popen_of(bystander).wait(LIMIT)
    popen_of(outer)


def test_the_watcher_holds_none_of_mcpkeeps_pipes_and_carries_no_mark(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in mark_environment({}, run_id=run_id, generation=7).items():
        monkeypatch.setenv(name, value)
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    watcher = Watcher(uuid.uuid4().hex)
    watcher.ready()
    os.close(write_end)
    assert carriers(run_id) == []
    assert select.select([read_end], [], [], LIMIT)[0]
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    watcher.close()


def test_a_closed_watcher_has_ended_everything_by_then(run_id: str) -> None:
    child = popen_of(spawn_child(["sleep", "60"], cwd="/", env=os.environ, run_id=run_id, generation=1))
    watcher = Watcher(run_id)
    watcher.close()
    watcher.close()
    assert child.wait(LIMIT) == -signal.SIGKILL


def test_a_sweep_ends_one_generation_and_only_by_the_whole_mark(run_id: str) -> None:
    marks = [(run_id, 1), (run_id, 11), (run_id, 2), (run_id + "0", 1)]
    children = [
        popen_of(spawn_child(["sleep", "60"], cwd="/", env=os.environ, run_id=run, generation=generation))
        for run, generation in marks
    ]
    assert sweep(run_id, 1) == {children[0].pid}
    assert [child.poll() for child in children] == [-signal.SIGKILL, None, None, None]
    assert sweep(run_id) == {children[1].pid, children[2].pid}
    sweep(run_id + "0")
    assert [child.wait(LIMIT) for child in children] == [-signal.SIGKILL] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no other way to compare with")
def test_both_ways_to_find_the_carriers_agree(run_id: str) -> None:
    from mcpkeep.supervisor.sweep import _carriers_by_psutil  # pyright: ignore[reportPrivateUsage]

    child = popen_of(spawn_child(["sleep", "60"], cwd="/", env=os.environ, run_id=run_id, generation=3))
    assert _carriers_by_psutil({("MCPKEEP_RUN", run_id)}) == carriers(run_id) == [child.pid]
    assert _carriers_by_psutil({("MCPKEEP_RUN", run_id), ("MCPKEEP_GENERATION", "4")}) == []
    child.kill()
    child.wait(LIMIT)
