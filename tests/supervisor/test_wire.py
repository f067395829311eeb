"""The wire over every kind of descriptor that a client or a child may give, on both event loops."""

import asyncio
import os
import pty
import socket
import subprocess
import sys
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcpkeep.supervisor.loop import new_loop
from mcpkeep.supervisor.wire import FdWire


@pytest.fixture(params=[new_loop, asyncio.new_event_loop], ids=["fast lane", "asyncio"])
def anyio_backend(
    request: pytest.FixtureRequest,
) -> tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]:
    return "asyncio", {"loop_factory": request.param}


class Peer:
    """What a wire told, and a way to wait for it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.events: list[str] = []

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_data": self.data.extend,
            "on_eof": lambda: self.events.append("eof"),
            "on_broken": lambda: self.events.append("broken"),
            "on_writable": lambda: self.events.append("writable"),
        }


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.lowlevel.checkpoint()


def open_fds() -> set[str]:
    return set(os.listdir("/dev/fd"))


def read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := os.read(fd, size - len(data))):
        data += chunk
    return data


@pytest.mark.anyio
async def test_a_pipe_carries_bytes_both_ways_and_its_end() -> None:
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    peer = Peer()
    wire = FdWire(read_fd, write_fd, **peer.callbacks())
    wire.open()
    os.write(their_write, b"question\n")
    await until(lambda: bytes(peer.data) == b"question\n")
    wire.write(b"answer\n")
    assert os.read(their_read, 100) == b"answer\n"
    assert (wire.accepted, wire.queued) == (7, 0)
    wire.close_writing()
    assert os.read(their_read, 100) == b""
    os.close(their_write)
    await until(lambda: peer.events == ["eof"])
    wire.close()
    os.close(their_read)


@pytest.mark.anyio
async def test_a_socket_as_both_descriptors_keeps_reading_after_its_writing_was_closed() -> None:
    ours, theirs = socket.socketpair()
    fd = ours.detach()
    peer = Peer()
    wire = FdWire(fd, fd, **peer.callbacks())
    wire.open()
    wire.write(b"answer")
    wire.close_writing()
    assert theirs.recv(100) == b"answer"
    assert theirs.recv(100) == b""
    theirs.sendall(b"late")
    await until(lambda: bytes(peer.data) == b"late")
    theirs.close()
    await until(lambda: peer.events == ["eof"])
    wire.close()


@pytest.mark.anyio
async def test_what_a_slow_reader_leaves_is_queued_and_told_when_it_has_gone_down() -> None:
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    peer = Peer()
    wire = FdWire(read_fd, write_fd, high_water=100_000, low_water=50_000, **peer.callbacks())
    sent = b"".join(b"%07d\n" % number for number in range(500_000))
    for start in range(0, len(sent), 9_999):
        wire.write(sent[start : start + 9_999])
    assert wire.accepted + wire.queued == len(sent)
    assert wire.queued > 100_000
    assert peer.events == []
    wire.close_writing()
    with anyio.fail_after(60):
        got = await anyio.to_thread.run_sync(read_exactly, their_read, len(sent) + 1)
    assert got == sent
    assert (wire.accepted, wire.queued, peer.events) == (len(sent), 0, ["writable"])
    wire.close()
    os.close(their_read)
    os.close(their_write)


@pytest.mark.anyio
async def test_flush_returns_when_the_queue_is_empty() -> None:
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    wire = FdWire(read_fd, write_fd, **Peer().callbacks())
    wire.write(bytes(3_000_000))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, read_exactly, their_read, 3_000_000)
        with anyio.fail_after(60):
            await wire.flush()
        assert (wire.accepted, wire.queued) == (3_000_000, 0)
    wire.close()
    os.close(their_read)
    os.close(their_write)


@pytest.mark.parametrize("queued_before", [False, True])
@pytest.mark.anyio
async def test_a_peer_that_stops_reading_breaks_the_wire_once_and_drops_the_rest(queued_before: bool) -> None:
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    peer = Peer()
    wire = FdWire(read_fd, write_fd, **peer.callbacks())
    if queued_before:
        wire.write(bytes(3_000_000))
        assert wire.queued > 0
    accepted = wire.accepted
    os.close(their_read)
    wire.write(b"x")
    wire.write(b"y")
    await until(lambda: peer.events == ["broken"])
    wire.write(b"z")
    wire.close_writing()
    await anyio.lowlevel.checkpoint()
    assert (wire.accepted, wire.queued, peer.events) == (accepted, 0, ["broken"])
    with anyio.fail_after(60):
        await wire.flush()
    wire.close()
    os.close(their_write)


@pytest.mark.anyio
async def test_a_paused_wire_leaves_the_writer_blocked_and_loses_nothing() -> None:
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    os.set_blocking(their_write, False)
    peer = Peer()
    wire = FdWire(read_fd, write_fd, **peer.callbacks())
    wire.open()
    wire.pause_reading()
    await anyio.lowlevel.checkpoint()
    filled = 0
    for _ in range(100):
        try:
            filled += os.write(their_write, bytes(65536))
        except BlockingIOError:
            break
        await anyio.lowlevel.checkpoint()
    else:
        pytest.fail("a paused wire went on reading")
    assert len(peer.data) == 0
    wire.resume_reading()
    await until(lambda: len(peer.data) == filled)
    wire.close()
    os.close(their_read)
    os.close(their_write)


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.anyio
async def test_drain_now_delivers_all_that_was_written_though_another_holds_the_pipe(paused: bool) -> None:
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    os.set_blocking(their_write, False)
    peer = Peer()
    wire = FdWire(read_fd, write_fd, **peer.callbacks())
    wire.open()
    if paused:
        wire.pause_reading()
    sent = b"".join(b"%07d\n" % number for number in range(100_000))
    written = 0
    while written < 500_000:
        written += os.write(their_write, sent[written : written + 60_000])
        if not paused and written < 300_000:
            await anyio.lowlevel.checkpoint()
    wire.drain_now()
    assert (bytes(peer.data), peer.events) == (sent[:written], ["eof"])
    os.write(their_write, b"too late")
    wire.drain_now()
    await anyio.lowlevel.checkpoint()
    assert (bytes(peer.data), peer.events) == (sent[:written], ["eof"])
    wire.close()
    os.close(their_read)
    os.close(their_write)


@pytest.mark.anyio
async def test_drain_now_stops_at_its_limit() -> None:
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    os.set_blocking(their_write, False)
    peer = Peer()
    wire = FdWire(read_fd, write_fd, **peer.callbacks())
    written = os.write(their_write, bytes(1 << 20))
    wire.drain_now(1)
    # One chunk at most above the limit.
    assert (0 < len(peer.data) <= min(written, 1 << 18), peer.events) == (True, ["eof"])
    wire.close()
    os.close(their_read)
    os.close(their_write)


@pytest.mark.anyio
async def test_a_terminal_is_served_and_its_hangup_is_the_end() -> None:
    master, terminal = pty.openpty()
    tty.setraw(terminal)
    peer = Peer()
    wire = FdWire(terminal, terminal, **peer.callbacks())
    wire.open()
    os.write(master, b"typed")
    await until(lambda: bytes(peer.data) == b"typed")
    wire.write(b"shown")
    with anyio.fail_after(60):
        await wire.flush()
    assert os.read(master, 100) == b"shown"
    assert (wire.accepted, os.get_blocking(terminal)) == (5, True)
    os.close(master)
    await until(lambda: peer.events == ["eof"])
    wire.close()


@pytest.mark.anyio
async def test_files_are_served(tmp_path: Path) -> None:
    content = b"".join(b"%07d\n" % number for number in range(200_000))
    (tmp_path / "in").write_bytes(content)
    read_fd = os.open(tmp_path / "in", os.O_RDONLY)
    write_fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    peer = Peer()
    wire = FdWire(read_fd, write_fd, **peer.callbacks())
    wire.open()
    await until(lambda: peer.events == ["eof"])
    assert bytes(peer.data) == content
    wire.write(content)
    wire.write(b"end")
    with anyio.fail_after(60):
        await wire.flush()
    assert (tmp_path / "out").read_bytes() == content + b"end"
    wire.close()


@pytest.mark.anyio
async def test_a_paused_file_is_not_read_into_memory(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(2_000_000))
    read_fd = os.open(tmp_path / "in", os.O_RDONLY)
    position = os.dup(read_fd)
    peer = Peer()
    wire = FdWire(read_fd, os.open(os.devnull, os.O_WRONLY), **peer.callbacks())
    wire.pause_reading()
    wire.open()
    await until(lambda: os.lseek(position, 0, os.SEEK_CUR) >= 4 * 65536)
    for _ in range(100):
        await anyio.lowlevel.checkpoint()
    assert (len(peer.data), os.lseek(position, 0, os.SEEK_CUR)) == (0, 4 * 65536)
    wire.resume_reading()
    await until(lambda: peer.events == ["eof"])
    assert len(peer.data) == 2_000_000
    wire.close()
    os.close(position)


@pytest.mark.anyio
async def test_dev_null_is_an_end_at_once_and_takes_everything() -> None:
    peer = Peer()
    wire = FdWire(os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY), **peer.callbacks())
    wire.open()
    await until(lambda: peer.events == ["eof"])
    wire.write(b"gone")
    with anyio.fail_after(60):
        await wire.flush()
    assert wire.accepted == 4
    wire.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/full")
@pytest.mark.anyio
async def test_a_full_disk_breaks_the_wire() -> None:
    peer = Peer()
    wire = FdWire(os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY), **peer.callbacks())
    wire.write(b"x")
    await until(lambda: peer.events == ["broken"])
    assert (wire.accepted, wire.queued) == (0, 0)
    wire.close()


@pytest.mark.anyio
async def test_what_was_blocking_is_blocking_again_after_close() -> None:
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    copies = [os.dup(read_fd), os.dup(write_fd)]
    wire = FdWire(read_fd, write_fd, **Peer().callbacks())
    wire.open()
    assert [os.get_blocking(fd) for fd in copies] == [False, False]
    wire.close()
    assert [os.get_blocking(fd) for fd in copies] == [True, True]
    for fd in (their_read, their_write, *copies):
        os.close(fd)


@pytest.mark.anyio
async def test_no_descriptor_is_left_open_by_any_kind(tmp_path: Path) -> None:
    # libuv opens /dev/null once for a loop's first stream, and keeps it.
    first = FdWire(*os.pipe(), **Peer().callbacks())
    first.open()
    first.close()
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    before = open_fds()
    their_read, write_fd = os.pipe()
    read_fd, their_write = os.pipe()
    ours, theirs = socket.socketpair()
    shared = ours.detach()
    (tmp_path / "in").write_bytes(b"")
    kinds = [
        (read_fd, write_fd),
        (shared, shared),
        (os.open(tmp_path / "in", os.O_RDONLY), os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)),
        (os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)),
    ]
    for read, write in kinds:
        wire = FdWire(read, write, **Peer().callbacks())
        wire.open()
        wire.write(b"x")
        wire.drain_now()
        wire.close()
        wire.close()
    os.close(their_read)
    os.close(their_write)
    theirs.close()
    await until(lambda: open_fds() <= before)


STDIO = """
import os, sys, asyncio
from mcpkeep.supervisor.loop import new_loop
from mcpkeep.supervisor.wire import FdWire

async def main():
    ended = asyncio.Event()
    wire = FdWire(0, 1, on_data=lambda data: wire.write(data), on_eof=ended.set)
    wire.open()
    os.write(2, b"blocking %s\\n" % str(os.get_blocking(2)).encode())
    await ended.wait()
    await wire.flush()
    if "close" in sys.argv:
        wire.close()

asyncio.run(main())
"""


def run_stdio(end: str, *, stdin: int, stdout: int, stderr: int) -> int:
    command = [sys.executable, "-c", STDIO, end]
    return subprocess.run(
        command, stdin=stdin, stdout=stdout, stderr=stderr, timeout=60, check=False
    ).returncode


@pytest.mark.parametrize("end", ["close", "leave"])
def test_stdio_is_given_back_blocking_to_those_who_share_it(end: str) -> None:
    ours, theirs = socket.socketpair()
    errors, write_end = os.pipe()
    ours.sendall(b"echo")
    ours.shutdown(socket.SHUT_WR)
    assert run_stdio(end, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=write_end) == 0
    assert (ours.recv(100), os.read(errors, 100)) == (b"echo", b"blocking True\n")
    assert os.get_blocking(theirs.fileno())
    ours.close()
    theirs.close()
    os.close(errors)
    os.close(write_end)


def test_a_stdout_that_is_also_stderr_stays_blocking() -> None:
    stdin, write_stdin = os.pipe()
    read_end, write_end = os.pipe()
    os.write(write_stdin, b"echo")
    os.close(write_stdin)
    assert run_stdio("close", stdin=stdin, stdout=write_end, stderr=write_end) == 0
    written = os.read(read_end, 100)
    assert written.replace(b"echo", b"") == b"blocking True\n"
    assert len(written) == len(b"echoblocking True\n")
    os.close(stdin)
    os.close(read_end)
    os.close(write_end)
