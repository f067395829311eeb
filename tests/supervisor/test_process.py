"""Real children, well-behaved and not; a socket which the kernel closes tells that a process has ended."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest

from mcpkeep.actors.interfaces import Wire
from mcpkeep.protocol.errors import SpawnError
from mcpkeep.protocol.switch import Exit
from mcpkeep.supervisor.child_wire import connect_child
from mcpkeep.supervisor.launch import Launch
from mcpkeep.supervisor.local import LocalHost, LocalProcess
from mcpkeep.supervisor.loop import new_loop
from mcpkeep.supervisor.process import spawn_child
from mcpkeep.supervisor.stderr import LINE_LIMIT, TAIL_LINES, StderrTail


@pytest.fixture(params=[new_loop, asyncio.new_event_loop], ids=["fast lane", "asyncio"])
def anyio_backend(
    request: pytest.FixtureRequest,
) -> tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]:
    return "asyncio", {"loop_factory": request.param}


ALIVE = """
import os, signal, socket, subprocess, sys, time
def hold():
    # Keeps a connection to the test open for as long as this process lives; the test answers when it has it.
    held = socket.create_connection(("127.0.0.1", int(os.environ["ALIVE_PORT"])))
    held.recv(1)
    return held
"""


class Relay:
    """A relay that remembers what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.events: list[tuple[str, int]] = []
        self.wires: dict[int, Wire] = {}
        self.lines: list[tuple[int, str]] = []

    def connect(self, generation: int, wire: Wire) -> None:
        self.wires[generation] = wire

    def child_data(self, generation: int, data: bytes) -> None:
        assert generation in self.wires
        self.data += data

    def child_eof(self, generation: int) -> None:
        self.events.append(("eof", generation))

    def child_broken(self, generation: int) -> None:
        self.events.append(("broken", generation))

    def child_writable(self, generation: int) -> None:
        self.events.append(("writable", generation))

    def line(self, generation: int, text: str) -> None:
        self.lines.append((generation, text))


class Liveness:
    """Where processes of the test hold a connection open."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._held: list[socket.socket] = []

    async def arrived(self, count: int = 1) -> None:
        """Wait for so many; none goes on before all are there."""
        for _ in range(count):
            with anyio.fail_after(60):
                await anyio.wait_readable(self._server)
            self._held.append(self._server.accept()[0])
        for held in self._held[-count:]:
            held.sendall(b"!")

    async def all_dead(self) -> None:
        for held in self._held:
            with anyio.fail_after(60):
                await anyio.wait_readable(held)
            with suppress(ConnectionResetError):
                assert held.recv(1) == b""
            held.close()
        self._held.clear()

    def close(self) -> None:
        for held in (*self._held, self._server):
            held.close()


class World:
    """A host for one Python program, with the relay and the liveness server it reports to."""

    def __init__(self, program: str, *, run_id: str, liveness: Liveness) -> None:
        self.relay = Relay()
        self.liveness = liveness
        self.run_id = run_id
        self.env = {**os.environ, "ALIVE_PORT": str(liveness.port)}
        self.host = LocalHost(
            lambda _release: Launch((sys.executable, "-c", ALIVE + program), self.env),
            cwd="/",
            run_id=run_id,
            relay=self.relay,
            on_stderr_line=self.relay.line,
        )

    async def said(self, expected: bytes) -> None:
        await until(lambda: bytes(self.relay.data) == expected)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def exit_of(process: LocalProcess) -> Exit:
    with anyio.fail_after(60):
        return await process.wait()


def wait_for_death(pid: int) -> None:
    """Let the loop stand still until the child is dead, so that all it wrote waits in the pipe."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@asynccontextmanager
async def running(program: str) -> AsyncGenerator[tuple[World, LocalProcess]]:
    liveness = Liveness()
    world = World(program, run_id=uuid.uuid4().hex, liveness=liveness)
    process = await world.host.spawn(1, None)
    try:
        yield world, process
    finally:
        with anyio.CancelScope(shield=True):
            process.kill()
            await exit_of(process)
        liveness.close()


# The child's life.


@pytest.mark.anyio
async def test_a_child_answers_and_ends_by_itself_at_eof() -> None:
    async with running("sys.stdout.write(sys.stdin.readline()); sys.stdin.read()") as (world, process):
        world.relay.wires[1].write(b"hello\n")
        sys_eof = process.stop(eof_grace=10, term_grace=10)
        with anyio.fail_after(60):
            assert await sys_eof == Exit(code=0)
        assert await process.wait() == Exit(code=0)
        assert (bytes(world.relay.data), world.relay.events) == (b"hello\n", [("eof", 1)])


@pytest.mark.anyio
async def test_a_child_that_survives_eof_is_ended_by_sigterm_after_the_grace() -> None:
    async with running("hold(); signal.pause()") as (world, process):
        await world.liveness.arrived()
        with anyio.fail_after(60):
            assert await process.stop(eof_grace=0, term_grace=10) == Exit(signal="SIGTERM")


@pytest.mark.anyio
async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN); keep = hold(); time.sleep(60)"
    async with running(program) as (world, process):
        await world.liveness.arrived()
        with anyio.fail_after(60):
            assert await process.stop(eof_grace=0, term_grace=0.01) == Exit(signal="SIGKILL")
        await world.liveness.all_dead()


@pytest.mark.anyio
async def test_a_cancelled_stop_kills_at_once_and_leaves_nothing_running() -> None:
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN); keep = hold(); time.sleep(60)"
    async with running(program) as (world, process):
        await world.liveness.arrived()
        with anyio.move_on_after(0) as scope:
            await process.stop(eof_grace=3600, term_grace=3600)
        assert scope.cancelled_caught
        assert await exit_of(process) == Exit(signal="SIGKILL")
        await world.liveness.all_dead()


@pytest.mark.anyio
async def test_stop_kills_a_tree_that_left_the_group_and_dropped_the_mark() -> None:
    program = (
        "subprocess.Popen([sys.executable, '-c', os.environ['SUB']], start_new_session=True,"
        " env={'ALIVE_PORT': os.environ['ALIVE_PORT']});"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); keep = hold(); time.sleep(60)"
    )
    liveness = Liveness()
    world = World(program, run_id=uuid.uuid4().hex, liveness=liveness)
    world.env["SUB"] = ALIVE + "keep = hold(); time.sleep(60)"
    process = await world.host.spawn(1, None)
    await liveness.arrived(2)
    with anyio.fail_after(60):
        assert await process.stop(eof_grace=0, term_grace=0) == Exit(signal="SIGKILL")
    await liveness.all_dead()
    liveness.close()


@pytest.mark.anyio
async def test_grandchildren_in_the_group_die_with_a_child_that_was_killed() -> None:
    program = "os.fork(); keep = hold(); time.sleep(60)"
    async with running(program) as (world, process):
        await world.liveness.arrived(2)
        os.kill(process.pid, signal.SIGKILL)
        assert await exit_of(process) == Exit(signal="SIGKILL")
        await world.liveness.all_dead()


@pytest.mark.anyio
async def test_double_forked_descendants_in_sessions_of_their_own_die_with_the_child() -> None:
    program = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        keep = hold()
        time.sleep(60)
    os._exit(0)
keep = hold()
print("last words", flush=True)
"""
    async with running(program) as (world, process):
        await world.liveness.arrived(2)
        assert await exit_of(process) == Exit(code=0)
        assert (bytes(world.relay.data), world.relay.events) == (b"last words\n", [("eof", 1)])
        await world.liveness.all_dead()


@pytest.mark.anyio
async def test_the_descendants_of_another_generation_live_on() -> None:
    liveness = Liveness()
    program = "keep = hold(); sys.stdin.read()"
    world = World(program, run_id=uuid.uuid4().hex, liveness=liveness)
    old = await world.host.spawn(1, None)
    new = await world.host.spawn(2, None)
    await liveness.arrived(2)
    old.kill()
    assert await exit_of(old) == Exit(signal="SIGKILL")
    with anyio.fail_after(60):
        assert await new.stop(eof_grace=10, term_grace=10) == Exit(code=0)
    await liveness.all_dead()
    liveness.close()


# What it writes.


@pytest.mark.anyio
async def test_what_a_child_wrote_before_it_died_in_the_middle_of_a_line_is_handed_on() -> None:
    program = "os.write(1, b'whole\\n' + b'x' * 50000); os.kill(os.getpid(), signal.SIGKILL)"
    async with running(program) as (world, process):
        assert await exit_of(process) == Exit(signal="SIGKILL")
        assert bytes(world.relay.data) == b"whole\n" + b"x" * 50000


@pytest.mark.anyio
async def test_a_child_that_dies_at_start_leaves_its_code_and_its_last_words() -> None:
    program = "print('no such model', file=sys.stderr); sys.exit(3)"
    async with running(program) as (world, process):
        assert await exit_of(process) == Exit(code=3, stderr_tail=("no such model",))
        assert world.relay.lines == [(1, "no such model")]


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="macOS has waitid from Python 3.13 on")
@pytest.mark.anyio
async def test_the_last_lines_are_those_it_wrote_last_however_many_wait_when_it_dies() -> None:
    program = "os.write(2, b''.join(b'%05d\\n' % number for number in range(10_000)))"
    async with running(program) as (world, process):
        wait_for_death(process.pid)
        last = tuple(f"{number:05d}" for number in range(9_960, 10_000))
        assert await exit_of(process) == Exit(code=0, stderr_tail=last)
        assert len(world.relay.lines) == 10_000


@pytest.mark.anyio
async def test_a_child_that_closes_stdout_and_lives_on_has_an_end_but_no_exit() -> None:
    async with running("os.close(1); keep = hold(); sys.stdin.read()") as (world, process):
        await world.liveness.arrived()
        await until(lambda: world.relay.events == [("eof", 1)])
        with anyio.fail_after(60):
            assert await process.stop(eof_grace=10, term_grace=10) == Exit(code=0)
        assert world.relay.events == [("eof", 1)]


@pytest.mark.anyio
async def test_a_child_that_closes_stdin_breaks_its_wire_and_lives_on() -> None:
    async with running("os.close(0); keep = hold(); signal.pause()") as (world, process):
        await world.liveness.arrived()
        process.wire.write(b"nobody reads this")
        await until(lambda: world.relay.events == [("broken", 1)])
        with anyio.fail_after(60):
            assert await process.stop(eof_grace=0, term_grace=10) == Exit(signal="SIGTERM")


@pytest.mark.anyio
async def test_a_flood_on_stdout_waits_in_the_kernel_while_reading_is_paused() -> None:
    async with running("os.set_blocking(1, True)\nwhile True: os.write(1, b'x' * 65536)") as (world, process):
        await until(lambda: len(world.relay.data) > 0)
        process.wire.pause_reading()
        await anyio.lowlevel.checkpoint()
        paused_at = len(world.relay.data)
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        assert len(world.relay.data) == paused_at
        process.kill()
        assert await exit_of(process) == Exit(signal="SIGKILL")
        assert len(world.relay.data) - paused_at <= 2 << 20


@pytest.mark.anyio
async def test_a_flood_on_stderr_is_drained_and_the_data_path_goes_on() -> None:
    program = """
if os.fork() == 0:
    while True: os.write(2, b"noise\\n" * 10000)
for line in sys.stdin: print(line, end="", flush=True)
"""
    async with running(program) as (world, process):
        await until(lambda: len(world.relay.lines) > 10_000)
        for number in range(20):
            world.relay.data.clear()
            process.wire.write(b"%d\n" % number)
            await world.said(b"%d\n" % number)
        with anyio.fail_after(60):
            ended = await process.stop(eof_grace=10, term_grace=0)
        assert (ended.code, set(ended.stderr_tail[:-1])) == (0, {"noise"})


# Spawning.


@pytest.mark.anyio
async def test_a_child_that_runs_already_is_the_first_generation_and_the_next_is_spawned() -> None:
    command = (
        sys.executable,
        "-c",
        "import os; print(os.environ['MCPKEEP_RUN'], os.environ['MCPKEEP_GENERATION'])",
    )
    relay = Relay()
    first = spawn_child(command, cwd="/", env=os.environ, run_id="r", generation=1)
    host = LocalHost(
        lambda _release: Launch(command, os.environ),
        cwd="/",
        run_id="r",
        relay=relay,
        on_stderr_line=relay.line,
        first=(first, connect_child(relay, first)),
    )
    process = await host.spawn(1, None)
    assert process.pid == first.popen.pid
    assert await exit_of(process) == Exit(code=0)
    assert await exit_of(await host.spawn(2, None)) == Exit(code=0)
    assert bytes(relay.data) == b"r 1\nr 2\n"


@pytest.mark.anyio
async def test_a_hundred_children_leave_no_descriptor_and_no_zombie() -> None:
    relay = Relay()
    host = LocalHost(
        lambda _release: Launch(("true",), os.environ),
        cwd="/",
        run_id=uuid.uuid4().hex,
        relay=relay,
        on_stderr_line=relay.line,
    )
    await exit_of(await host.spawn(0, None))
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    before = os.listdir("/dev/fd")
    pids: list[int] = []
    for generation in range(1, 101):
        process = await host.spawn(generation, None)
        pids.append(process.pid)
        assert await exit_of(process) == Exit(code=0)
    await until(lambda: len(os.listdir("/dev/fd")) <= len(before))
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


def spawn_error(command: Sequence[str], *, cwd: str = "/", path: str = "/usr/bin:/bin") -> str:
    with pytest.raises(SpawnError) as caught:
        spawn_child(command, cwd=cwd, env={"PATH": path}, run_id="r", generation=1)
    return caught.value.reason


def test_a_missing_command_names_the_path_that_was_searched() -> None:
    assert spawn_error(["no-such-thing"]) == "no such command in the PATH '/usr/bin:/bin'"


def test_a_missing_file_names_the_working_folder_it_was_looked_for_in(tmp_path: Path) -> None:
    assert spawn_error(["/no/such"]) == "no such file"
    looked = f"no such file, looked for in its working folder {str(tmp_path)!r}"
    assert spawn_error(["./no-such"], cwd=str(tmp_path)) == looked


def test_a_missing_working_folder_is_told_apart_from_a_missing_command(tmp_path: Path) -> None:
    assert spawn_error(["true"], cwd="/no/such") == "its working folder '/no/such' does not exist"
    (tmp_path / "file").touch()
    file = str(tmp_path / "file")
    assert spawn_error(["true"], cwd=file) == f"its working folder {file!r} is not a folder"


def test_a_file_that_is_no_program_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "server"
    assert spawn_error([str(tmp_path)]) == f"{str(tmp_path)!r} is a folder"
    file.write_text("#!/no/such/python -u\r\n")
    assert spawn_error([str(file)]) == f"{str(file)!r} is not executable; try chmod +x"
    assert spawn_error(["server"], path=str(tmp_path)) == f"{str(file)!r} is not executable; try chmod +x"
    file.chmod(0o755)
    bad = f"the interpreter '/no/such/python' named in the first line of {str(file)!r} cannot be executed"
    assert spawn_error([str(file)]) == bad
    file.write_text("#!/bin/sh\r\n")
    assert "the interpreter '/bin/sh\\r' named" in spawn_error([str(file)])
    file.write_text("echo hello\n")
    assert "neither a program" in spawn_error([str(file)])
    file.unlink()
    file.symlink_to(tmp_path / "gone")
    gone = f"{str(file)!r} is a link to {str(tmp_path / 'gone')!r}, which does not exist"
    assert spawn_error([str(file)]) == gone


def test_an_empty_command_and_a_null_byte_are_refused() -> None:
    assert spawn_error([]) == "the command is empty"
    assert spawn_error(["a\0b"]) == "embedded null byte"


def test_a_command_that_cannot_be_started_leaves_no_descriptor_open() -> None:
    program = """
import os
from mcpkeep.protocol.errors import SpawnError
from mcpkeep.supervisor.loop import new_loop
from mcpkeep.supervisor.process import spawn_child
before = os.listdir("/dev/fd")
try:
    spawn_child(["/no/such"], cwd="/", env={}, run_id="r", generation=1)
except SpawnError:
    print(os.listdir("/dev/fd") == before)
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "True\n"


def test_spawning_imports_neither_anyio_nor_msgspec_nor_psutil_nor_asyncio() -> None:
    program = (
        "import sys, mcpkeep.supervisor.process, mcpkeep.supervisor.orphans;"
        "print(sorted({'anyio', 'asyncio', 'msgspec', 'psutil'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


# Lines of stderr.


def lines_of(*chunks: bytes) -> list[str]:
    told: list[str] = []
    tail = StderrTail(told.append)
    for chunk in chunks:
        tail.feed(chunk)
    tail.end()
    assert tail.last() == tuple(told[-TAIL_LINES:])
    return told


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n\r\n", ["one", "two", ""]),
        (b"no end", ["no end"]),
        (b" 10%\r 20%\r 30%\rdone\nnext\n", ["done", "next"]),
        (b" 10%\r 20%\r", [" 20%"]),
        ("gr\u00fc\u00dfe \U0001f600\n".encode(), ["gr\u00fc\u00dfe \U0001f600"]),
        (b"bad \xff byte\n", ["bad \ufffd byte"]),
    ],
)
def test_lines_are_the_same_however_the_bytes_are_cut(data: bytes, lines: list[str]) -> None:
    assert lines_of(data) == lines
    assert lines_of(*(data[i : i + 1] for i in range(len(data)))) == lines


def test_a_long_line_is_cut_and_the_next_one_is_whole() -> None:
    assert lines_of(*[b"x" * 1000] * 100, b"\nnext\n") == ["x" * LINE_LIMIT, "next"]


def test_a_line_without_end_takes_no_memory() -> None:
    tail = StderrTail(lambda _: None)
    chunk = b"x" * 65536
    tracemalloc.start()
    try:
        for _ in range(100):
            tail.feed(chunk)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_only_the_last_lines_are_kept_and_an_unfinished_one_is_shown() -> None:
    tail = StderrTail(lambda _: None)
    tail.feed(b"".join(b"%d\n" % number for number in range(1000)) + b"unfinished")
    assert tail.last() == (*(str(number) for number in range(801, 1000)), "unfinished")
    assert tail.last(2) == ("999", "unfinished")


def test_a_progress_bar_without_end_takes_no_memory() -> None:
    told: list[str] = []
    tail = StderrTail(told.append)
    for number in range(10_000):
        tail.feed(b"\r%d of 10000 done, a bar of some length" % number)
    assert (told, tail.last()) == ([], ("9999 of 10000 done, a bar of some length",))
