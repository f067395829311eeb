"""The holder tells other windows of its moves, over real sockets; what one of them makes of it."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from pathlib import Path

import anyio
import pytest
import trio.testing

from mcpkeep.actors.upgrade_world import Progress
from mcpkeep.protocol.child import Notify
from mcpkeep.protocol.control import ControlError, NotAnswered, encode_frame
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.request import GetReport
from mcpkeep.supervisor.control import Attending, ask_holder, serve_control, socket_path
from mcpkeep.supervisor.moves import Moves, follow_holder
from mcpkeep.supervisor.upgrade.following import AGAIN, RETRIES, FollowingServer
from mcpkeep.supervisor.upgrade.layout import Layout
from tests.supervisor.test_control import LIMIT, quiet, report

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def holding(own: Path, attending: Attending | None) -> AsyncGenerator[Path]:
    path = socket_path(own)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_control, path, report, attending)
            yield path
            tasks.cancel_scope.cancel()


class Window:
    """One that follows, and takes its time where it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[bool] = []
        self.may_go_on = anyio.Event()
        self.may_go_on.set()
        self._changed = anyio.Event()

    async def follow(self) -> None:
        await follow_holder(self.path, self.moved, is_own=lambda: False)

    async def until_heard(self, count: int) -> None:
        while len(self.heard) < count:
            await self._changed.wait()

    async def moved(self, first: bool) -> None:
        self.heard.append(first)
        self._changed.set()
        self._changed = anyio.Event()
        await self.may_go_on.wait()


# Between two windows


async def test_a_move_is_over_when_every_window_has_followed(tmp_path: Path) -> None:
    moves, told = Moves(limit=LIMIT), anyio.Event()

    async def move() -> None:
        await moves.tell()
        told.set()

    await moves.tell()  # nobody is there to wait for
    async with holding(tmp_path, moves.attend) as path, anyio.create_task_group() as tasks:
        slow, quick = Window(path), Window(path)
        for window in (slow, quick):
            tasks.start_soon(window.follow)
            await window.until_heard(1)
        slow.may_go_on = anyio.Event()
        tasks.start_soon(move)
        await slow.until_heard(2)
        await quick.until_heard(2)
        assert not told.is_set()
        slow.may_go_on.set()
        await told.wait()
        assert (slow.heard, quick.heard) == ([True, False],) * 2
        tasks.cancel_scope.cancel()


async def test_a_window_that_leaves_is_not_waited_for_and_leaves_nothing_behind(tmp_path: Path) -> None:
    moves = Moves(limit=inf)
    async with holding(tmp_path, moves.attend) as path:
        async with anyio.create_task_group() as moving, anyio.create_task_group() as tasks:
            window = Window(path)
            window.may_go_on = anyio.Event()
            tasks.start_soon(window.follow)
            await window.until_heard(1)
            moving.start_soon(moves.tell)
            assert moves.windows == 1
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert moves.windows == 0


async def test_a_window_that_does_not_follow_is_told_and_not_waited_for_any_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moves = Moves(limit=0.0)
    async with holding(tmp_path, moves.attend) as path, anyio.create_task_group() as tasks:
        window = Window(path)
        tasks.start_soon(window.follow)
        await window.until_heard(1)
        await moves.tell()
        await window.until_heard(2)
        tasks.cancel_scope.cancel()
    assert "not waited for any longer" in caplog.text


async def test_a_holder_that_is_to_end_waits_for_nobody(tmp_path: Path) -> None:
    moves = Moves(limit=inf)
    async with holding(tmp_path, moves.attend) as path, anyio.create_task_group() as tasks:
        window = Window(path)
        window.may_go_on = anyio.Event()
        tasks.start_soon(window.follow)
        await window.until_heard(1)
        async with anyio.create_task_group() as moving:
            moving.start_soon(moves.tell)
            await anyio.lowlevel.checkpoint()
            moves.hurry()
        await moves.tell()
        tasks.cancel_scope.cancel()


async def test_moves_while_a_window_follows_are_one_move_more(tmp_path: Path) -> None:
    moves = Moves(limit=LIMIT)
    async with holding(tmp_path, moves.attend) as path, anyio.create_task_group() as tasks:
        window = Window(path)
        tasks.start_soon(window.follow)
        await window.until_heard(1)
        async with anyio.create_task_group() as moving:
            for _ in range(3):
                moving.start_soon(moves.tell)
        assert window.heard == [True, False]
        tasks.cancel_scope.cancel()


async def test_the_end_of_the_holder_is_the_end_of_following(tmp_path: Path) -> None:
    window = Window(socket_path(tmp_path))
    async with anyio.create_task_group() as tasks, holding(tmp_path, Moves().attend):
        tasks.start_soon(window.follow)
        await window.until_heard(1)
    assert window.heard == [True]


async def test_its_own_socket_is_not_followed(tmp_path: Path) -> None:
    moves = Moves()
    async with holding(tmp_path, moves.attend) as path:
        window = Window(path)
        assert await follow_holder(path, window.moved, is_own=lambda: True)
        await ask_holder(path, GetReport(), on_step=quiet)  # by then the other was accepted
    assert (window.heard, moves.windows) == ([], 0)


# What a window makes of it


class Server:
    """A server that can be moved."""

    def __init__(self, release: str | None, *, fails: bool = False) -> None:
        self.release = release
        self.fails = fails
        self.dropped = False
        self.done: list[str | None] = []

    async def start(self, release_id: str | None, *, progress: Progress) -> None:
        self.done.append(release_id)

    async def promote(self, *, freeze: bool) -> None:
        assert not freeze
        if self.fails:
            raise UpgradeFailed("it ended meanwhile", remediation="mend it")
        self.release = self.done[-1]

    async def drop(self) -> None:
        self.dropped = True


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path, tmp_path / ".praxis-os")
    for name in ("r1", "r2"):
        folder = layout.releases / name
        (folder / "mcp_server").mkdir(parents=True)
        (folder / "venv" / "bin").mkdir(parents=True)
        (folder / "venv" / "bin" / "python").touch(mode=0o755)
        (folder / "mcp_server" / "__main__.py").touch()
        (folder / "release.json").touch()
    layout.current.symlink_to("releases/r1")
    return layout


def point(layout: Layout, release: str) -> None:
    layout.current.unlink()
    layout.current.symlink_to(f"releases/{release}")


def following(
    layout: Layout, server: Server, notices: list[Notify], *, recognised: bool = True
) -> FollowingServer:
    return FollowingServer(layout, server, recognised=recognised, notify=notices.append)


@pytest.mark.parametrize("release", ["r1", None])
async def test_a_server_of_another_release_is_replaced_and_one_of_the_current_only_after_a_move(
    layout: Layout, release: str | None
) -> None:
    server, notices = Server(release), list[Notify]()
    window = following(layout, server, notices)
    await window.catch_up()
    assert server.done == ([] if release else ["r1"])
    server.done.clear()
    await window.catch_up(moved=True)
    point(layout, "r2")
    await window.catch_up()
    await window.catch_up()
    assert server.done == ["r1", "r2"]
    assert notices[-1] == Notify(
        "warning", "this workspace runs release 'r2' now, by another mcpkeep; the server is replaced"
    )


async def test_a_server_whose_command_was_named_is_started_as_configured_until_it_was_moved(
    layout: Layout,
) -> None:
    server = Server(None)
    window = following(layout, server, [], recognised=False)
    await window.catch_up()
    point(layout, "r2")
    await window.catch_up()
    await window.catch_up()
    await window.catch_up(moved=True)
    assert server.done == [None, None]
    server.release = "r1"  # by an upgrade of its own
    await window.catch_up()
    assert server.done == [None, None, "r2"]


@pytest.mark.parametrize("why", ["no release yet", "not whole", "leaving"])
async def test_nothing_is_replaced_where_nothing_would_be_better(layout: Layout, why: str) -> None:
    server = Server(None)
    window = following(layout, server, [])
    match why:
        case "no release yet":
            layout.current.unlink()
        case "not whole":
            (layout.releases / "r1" / "release.json").unlink()
        case _:
            window.leave()
    await window.catch_up(moved=True)
    assert server.done == []


async def test_a_server_that_cannot_follow_is_given_up_and_that_is_told(layout: Layout) -> None:
    notices, server = list[Notify](), Server("r2", fails=True)
    await following(layout, server, notices).catch_up()
    text = "the former server stays: it ended meanwhile; restart this window's MCP server in the IDE"
    assert (notices[-1], server.dropped) == (Notify("error", text), True)


# The search for a holder

FAKE_TIME = pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})], ids=["trio"]
)


async def follow(window: FollowingServer) -> None:
    await window.follow(holds=lambda: False)


async def test_a_holder_that_cannot_be_followed_is_left_alone(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    async with holding(layout.own, None) as path:
        with pytest.raises(ControlError, match="nobody can be followed here"):
            await Window(path).follow()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, following(layout, Server("r1"), []))
            while "are not followed: nobody can be followed here" not in caplog.text:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()


async def test_an_earlier_version_of_mcpkeep_refuses_what_it_does_not_know(layout: Layout) -> None:
    async def refuse(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            assert b"control.follow" in await stream.receive()
            await stream.send(encode_frame(NotAnswered("the question could not be read")))

    path = socket_path(layout.own)
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, refuse)
        with pytest.raises(ControlError, match="could not be read"):
            await Window(path).follow()
        tasks.cancel_scope.cancel()


async def test_after_one_holder_the_next_is_followed(layout: Layout) -> None:
    server, held = Server("r1"), False
    window = following(layout, server, [])

    async def follow() -> None:
        await window.follow(holds=lambda: held)

    async with anyio.create_task_group() as tasks:
        for release in ("r1", "r2"):
            point(layout, release)
            moves = Moves(limit=LIMIT)
            async with holding(layout.own, moves.attend):
                if release == "r1":
                    tasks.start_soon(follow)
                while not moves.windows:
                    await anyio.lowlevel.checkpoint()
                await moves.tell()
        held = True
    assert server.done[0] == "r1" and server.done[-1] == "r2"


@FAKE_TIME
async def test_with_no_holder_to_be_found_the_search_goes_on_three_times_a_minute(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), anyio.move_on_after(sum(RETRIES) + 10 * 60 + 1):
        await follow(following(layout, Server("r1"), []))
    told = [record.levelname for record in caplog.records if record.name == "mcpkeep"]
    assert told == ["DEBUG"] * (len(RETRIES) + 1) + ["WARNING"] + ["DEBUG"] * 30


@FAKE_TIME
@pytest.mark.parametrize("before", ["nobody", "one that is not followed"])
async def test_a_holder_that_comes_late_is_followed_without_a_look_at_anything_else_meanwhile(
    layout: Layout, before: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, moves, looks = socket_path(layout.own), Moves(limit=inf), 0
    window = following(layout, Server("r1"), [])

    def holds() -> bool:
        nonlocal looks
        looks += 1
        return False

    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as others:
            if before != "nobody":
                await others.start(serve_control, path, report, None)
            tasks.start_soon(partial(window.follow, holds=holds))
            await anyio.sleep(3600)
            others.cancel_scope.cancel()
        with caplog.at_level(logging.INFO):
            await tasks.start(serve_control, path, report, moves.attend)
            await anyio.sleep(AGAIN + 1)
        assert moves.windows == 1
        assert "are followed again" in caplog.text
        looks = 0
        await anyio.sleep(24 * 3600)
        assert (moves.windows, looks) == (1, 0)
        tasks.cancel_scope.cancel()
