"""Two windows and more on one workspace: each one's server follows wherever the workspace goes."""

import os
import signal
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from mcpkeep.supervisor.upgrade.command import Stopper
from mcpkeep.supervisor.upgrade.installer import Installer
from mcpkeep.supervisor.upgrade.layout import Layout
from tests.praxis import World, server_command, world_in
from tests.upgrades import LIMIT, NEW_TOOL, Session, Traffic, live_processes, mcpkeep_environment, session_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_in(tmp_path)


def current(world: World) -> str:
    return (world.base / ".mcpkeep" / "current").readlink().name


async def look(session: Session) -> tuple[str | None, bool, int]:
    """The release that its server is of, whether its client is offered the new tool, and the server's pid."""
    status = await session.keep("status")
    return status["server"]["release"], NEW_TOOL in await session.tools(), await session.server()


async def upgrade(session: Session) -> None:
    done = await session.keep("upgrade", source_path=str(session.world.source))
    assert done["status"] == "success", done


async def window(session: Session) -> int:
    pid: int = (await session.keep("status"))["mcpkeep"]["pid"]
    return pid


async def until_on(session: Session, release: str) -> int:
    """Wait until its server is of that release; its pid."""
    with anyio.fail_after(LIMIT):
        while (found := await look(session))[0] != release:
            pass
    return found[2]


async def test_every_windows_server_follows_an_upgrade_and_the_way_back(world: World, tmp_path: Path) -> None:
    config = tmp_path / "named.toml"
    config.write_text(f'[child.env]\nPYTHONPATH = "{world.base}"\n')
    mcpkeep = (sys.executable, "-m", "mcpkeep.supervisor", "run", "--config", str(config))
    async with session_in(world) as first:
        holder = await window(first)
        async with (
            session_in(world, (*mcpkeep, "--", *server_command(world))) as named,
            session_in(world) as second,
            Traffic(second).flowing() as traffic,
        ):
            assert first.holder() == holder
            old, old_named = await second.server(), await named.server()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(upgrade, first)
                await first.until_noticed("making the backup")
                async with session_in(world) as late:
                    await first.until_noticed("writing the report")
                    await until_on(late, current(world))
            # Every window has followed when it is over.
            *found, new = await look(second)
            assert (found, new != old) == ([current(world), True], True)
            await second.until_noticed(f"runs release {current(world)!r} now, by another mcpkeep")
            await second.until_changed(1)
            *found, new_named = await look(named)
            assert (found, new_named != old_named) == ([None, True], True), "by its command, again"
            os.kill(await window(second), signal.SIGUSR1)
            assert "adopted serves again" in await second.until_noticed("SIGUSR1: ")
            *found, back = await look(second)
            assert (found, back not in (old, new)) == (["adopted", False], True)
            assert (await look(named))[:2] == (None, False)
            assert (await look(first))[:2] == ("adopted", False)
            await traffic.until_answered_by(lambda pid: pid == back)
        assert traffic.failures == []
        assert [pid for pid in dict.fromkeys(traffic.pids) if pid in (old, new, back)] == [old, new, back]
    assert live_processes(world) == []


async def test_after_the_holder_was_killed_the_next_one_is_followed(world: World) -> None:
    environ = mcpkeep_environment(world)
    Installer(Layout(world.workspace, world.base), environ=environ).adopt(
        stopper=Stopper(), progress=lambda _: None
    )
    async with session_in(world) as first:
        holder = await window(first)
        async with session_in(world) as second, session_in(world) as third:
            windows = {await window(second): second, await window(third): third}
            servers = {session: await session.server() for session in windows.values()}
            psutil.Process(holder).kill()
            with anyio.fail_after(LIMIT):
                while first.holder() not in windows:
                    await anyio.lowlevel.checkpoint()
            assert {session: await session.server() for session in windows.values()} == servers
            with (world.base / "mcp_server" / "tools.py").open("a") as code:
                code.write("\n# edited\n")
            psutil.Process(servers[third]).kill()  # it is started again, or just was, when its turn comes
            async with session_in(world) as fourth:  # its start makes a release of the edited code
                assert "adopted" != current(world) == (await look(fourth))[0]
                for session in windows.values():
                    assert await until_on(session, current(world)) != servers[session]
            [last] = [pid for pid in windows if pid != first.holder()]
            server = await windows[last].server()
            psutil.Process(first.holder()).kill()
            with anyio.fail_after(LIMIT):
                while first.holder() != last:
                    await anyio.lowlevel.checkpoint()
            assert await windows[last].server() == server, "it is what it should be"
