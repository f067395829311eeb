"""The control socket and its holder, with real sockets and processes."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import msgspec
import pytest

from mcpkeep.protocol.control import Ask, ControlError, encode_frame
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.request import (
    Aborted,
    AbortUpgrade,
    GetReport,
    Refused,
    Report,
    UpgradeAnswer,
    UpgradeMessage,
)
from mcpkeep.supervisor.control import Answering, Holder, ask_holder, serve_control, socket_path
from tests.benchmarks.line import environment

pytestmark = pytest.mark.anyio

LIMIT = 60.0
"""Seconds for any one wait: a hang becomes a failure."""

HOLD = """
import sys
from pathlib import Path
from mcpkeep.supervisor.control import Holder
holder = Holder(Path(sys.argv[1]), who="another window")
print(holder.try_to_hold(), flush=True)
sys.stdin.read()
holder.release()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def quiet(_session: str, _step: str) -> None: ...


async def report(question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
    on_step("s", "reading")
    return Report(type(question).__name__, None, 0, None)


@asynccontextmanager
async def serving(path: Path, answering: Answering = report) -> AsyncGenerator[None]:
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_control, path, answering)
            yield
            tasks.cancel_scope.cancel()


def other_window(own: Path) -> "subprocess.Popen[str]":
    """Another process that is the holder, or waits to be told off."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(own)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


# The socket


async def test_a_question_is_answered_after_its_steps(tmp_path: Path) -> None:
    path, steps = socket_path(tmp_path), list[tuple[str, str]]()

    def step(session_id: str, name: str) -> None:
        steps.append((session_id, name))

    async with serving(path):
        answer = await ask_holder(path, GetReport(), on_step=step)
    assert (answer, steps) == (Report("GetReport", None, 0, None), [("s", "reading")])
    assert not path.exists()


async def test_the_socket_is_its_owners_alone() -> None:
    with TemporaryDirectory() as folder:  # the path of a test's own may be too long for a socket
        own = Path(folder, "own")
        os.mkdir(own, 0o755)
        async with serving(socket_path(own)):
            modes = [stat.S_IMODE(os.lstat(each).st_mode) for each in (own, socket_path(own))]
    assert modes == [0o700, 0o600]


async def test_a_path_too_long_for_a_socket_is_found_elsewhere_even_after_a_rename(tmp_path: Path) -> None:
    own = tmp_path / ("long" * 30) / ".agent-os" / ".mcpkeep"
    own.mkdir(parents=True)
    path = socket_path(own)
    assert len(bytes(path)) <= 100 and path.parent.name == f"mcpkeep-{os.getuid()}"
    async with serving(path):
        own.parent.rename(own.parent.with_name(".praxis-os"))
        found = socket_path(own.parent.with_name(".praxis-os") / ".mcpkeep")
        assert await ask_holder(found, GetReport(), on_step=quiet) == Report("GetReport", None, 0, None)
        assert stat.S_IMODE(os.lstat(path.parent).st_mode) == 0o700
    assert not path.exists()


def test_where_the_folder_is_missing_nobody_can_listen(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        socket_path(tmp_path / ("long" * 30))


async def test_the_socket_of_a_killed_holder_is_refused_and_replaced(tmp_path: Path) -> None:
    path = socket_path(tmp_path)
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
    await anyio.run_process([sys.executable, "-c", script, str(path)])
    with pytest.raises(ConnectionRefusedError):
        await ask_holder(path, GetReport(), on_step=quiet)
    async with serving(path):
        assert await ask_holder(path, GetReport(), on_step=quiet) == Report("GetReport", None, 0, None)


async def test_nobody_listens_where_there_is_no_socket(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await ask_holder(socket_path(tmp_path), GetReport(), on_step=quiet)


async def test_a_folder_that_is_none_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ControlError, match="is not a folder of yours"):
        await serve_control(tmp_path / "link" / "control.sock", report)


# Questions and answers


async def test_an_answer_larger_than_every_buffer_arrives_whole(tmp_path: Path) -> None:
    large = Report("x" * 5_000_000, None, 0, None)

    async def answering(_question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        for number in range(1000):  # more than are kept for an asker that does not read
            on_step("s", f"step {number}")
        return large

    path = socket_path(tmp_path)
    async with serving(path, answering):
        assert await ask_holder(path, GetReport(), on_step=quiet) == large


async def test_a_question_whose_asker_leaves_is_worked_on_to_its_end(tmp_path: Path) -> None:
    asked, go_on, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def answering(_question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        asked.set()
        await go_on.wait()
        on_step("s", "to nobody")
        await anyio.lowlevel.checkpoint()
        done.set()
        return Aborted(())

    path = socket_path(tmp_path)
    async with serving(path, answering):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: ask_holder(path, AbortUpgrade(by="x"), on_step=quiet))
            await asked.wait()
            tasks.cancel_scope.cancel()
        go_on.set()
        await done.wait()
        async with await anyio.connect_unix(path) as again:  # and others are answered as before
            await again.send(encode_frame(Ask(GetReport())))
            assert await again.receive()


@pytest.mark.parametrize(
    "sent", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"GET / HTTP/1.1\r\n\r\n", b""]
)
async def test_rubble_is_answered_by_an_error_and_harms_nobody(tmp_path: Path, sent: bytes) -> None:
    path = socket_path(tmp_path)
    async with serving(path):
        async with await anyio.connect_unix(path) as stream:
            if sent:
                await stream.send(sent)
            await stream.send_eof()
            said = await stream.receive()
        assert b"the question could not be read" in said
        assert await ask_holder(path, GetReport(), on_step=quiet) == Report("GetReport", None, 0, None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UpgradeFailed("mcpkeep is leaving", remediation="ask again"), "mcpkeep is leaving"),
        (ValueError("oops"), "a bug in mcpkeep: ValueError"),
    ],
)
async def test_an_error_is_told_and_the_next_question_answered(
    tmp_path: Path, error: Exception, told: str
) -> None:
    async def answering(question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        if isinstance(question, AbortUpgrade):
            raise error
        return await report(question, on_step)

    path = socket_path(tmp_path)
    async with serving(path, answering):
        with pytest.raises(ControlError, match=told):
            await ask_holder(path, AbortUpgrade(by="x"), on_step=quiet)
        assert await ask_holder(path, GetReport(), on_step=quiet) == Report("GetReport", None, 0, None)


async def test_an_answer_that_cannot_be_encoded_is_an_error_and_no_end(tmp_path: Path) -> None:
    async def answering(question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        return Refused("no", "yes", {"what": object()})

    path = socket_path(tmp_path)
    async with serving(path, answering):
        for _ in range(2):
            with pytest.raises(ControlError, match="a bug in mcpkeep: TypeError"):
                await ask_holder(path, GetReport(), on_step=quiet)


async def test_whoever_goes_away_before_the_answer_is_named(tmp_path: Path) -> None:
    path = socket_path(tmp_path)

    async def leave(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, leave)
        with pytest.raises(ControlError, match="went away before it answered"):
            await ask_holder(path, GetReport(), on_step=quiet)
        tasks.cancel_scope.cancel()


# The holder


async def test_when_the_holder_is_killed_whoever_waits_becomes_it(tmp_path: Path) -> None:
    first = other_window(tmp_path)
    holder = Holder(tmp_path, who="this window")
    try:
        assert not holder.try_to_hold()
        assert (holder.pid(), int((tmp_path / "pid").read_text())) == (first.pid, first.pid)
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(holder.hold)
                first.send_signal(signal.SIGKILL)
        assert (holder.pid(), int((tmp_path / "pid").read_text())) == (os.getpid(), os.getpid())
    finally:
        first.kill()
        first.communicate()
    holder.release()
    assert (holder.pid(), (tmp_path / "pid").exists()) == (None, False)


async def test_of_three_windows_one_after_the_other_holds(tmp_path: Path) -> None:
    first = other_window(tmp_path)
    holders = [Holder(tmp_path, who=f"window {number}") for number in range(2)]
    held: list[Holder] = []

    async def hold(holder: Holder) -> None:
        await holder.hold()
        held.append(holder)
        holder.release()

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            for holder in holders:
                tasks.start_soon(hold, holder)
            await anyio.lowlevel.checkpoint()
            await anyio.to_thread.run_sync(first.communicate, "")
    assert sorted(map(id, held)) == sorted(map(id, holders))
    assert os.listdir(tmp_path) == ["holder"]


def test_a_dead_holders_word_is_not_taken(tmp_path: Path) -> None:
    gone = other_window(tmp_path)
    word = (tmp_path / "holder").read_bytes()
    gone.kill()
    gone.communicate()
    assert (tmp_path / "holder").read_bytes() == word
    assert msgspec.json.decode(word)["pid"] == gone.pid
    assert Holder(tmp_path, who="me").pid() is None
