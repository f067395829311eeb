"""The live workspace's server, started from a terminal's command: real processes on a real workspace."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from mcpkeep.actors.upgrade_world import LiveServer
from mcpkeep.protocol.upgrade.failure import ServerEnded, UpgradeFailed
from mcpkeep.protocol.upgrade.readiness import Patience
from mcpkeep.protocol.upgrade.smoke import value_of
from mcpkeep.supervisor.upgrade.direct import DirectServer
from tests.supervisor.upgrade.small_server import Installation, make_installation, mark

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def made(tmp_path: Path) -> Installation:
    made = make_installation(tmp_path)
    (made.folder / "release.json").write_bytes(msgspec.json.encode(made.release))
    made.index(made.layout.base)
    return made


@pytest.fixture
def run_id() -> Iterator[str]:
    yield from mark()


def server_of(made: Installation, run_id: str) -> DirectServer:
    return DirectServer(made.layout, run_id=run_id, patience=Patience(silence=5.0))


async def test_it_serves_the_command_alone_and_ends_by_sigterm_without_a_state_file_left(
    made: Installation, run_id: str
) -> None:
    told: list[str] = []
    async with server_of(made, run_id) as server:
        assert await server.tools() == {}
        assert server.pid is None
        await server.start(made.release.release_id, progress=told.append)
        await server.promote(freeze=True)
        pid = server.pid
        assert pid is not None
        assert psutil.Process(pid).cwd() == str(made.layout.workspace)
        assert set(await server.tools()) == {"pos_workflow", "search_standards", "get_server_info"}
        result = await server.call("get_server_info", {}, within=10)
        assert value_of(result, "$.project.praxis_os_path") == str(made.layout.base)
        assert (server.serving, server.frozen()) == (False, None)
        assert server.stderr_since_switch() == ("starting",)
        await server.end_frozen()
    assert not psutil.pid_exists(pid)
    assert server.pid is None
    assert not made.state_file(made.layout.base).exists()
    assert told[0] == "starting the server on the workspace"


async def test_it_has_a_place_for_its_index_where_that_was_deleted(made: Installation, run_id: str) -> None:
    shutil.rmtree(made.layout.base / ".cache")
    async with server_of(made, run_id) as server:
        await server.start(made.release.release_id, progress=lambda _: None)
        assert server.pid is not None


async def test_it_can_be_dropped_and_started_again(made: Installation, run_id: str) -> None:
    async with server_of(made, run_id) as server:
        await server.drop()
        await server.start(made.release.release_id, progress=lambda _: None)
        first = server.pid
        await server.start(made.release.release_id, progress=lambda _: None)
        assert first is not None
        assert server.pid != first
        assert not psutil.pid_exists(first)
        await server.drop()
        assert (await server.tools(), server.stderr_since_switch()) == ({}, ())
        with pytest.raises(UpgradeFailed, match="no server of the live workspace runs here"):
            await server.call("where", {}, within=1)


async def test_an_unfinished_index_is_removed_before_it_starts(made: Installation, run_id: str) -> None:
    (made.layout.base / ".cache/vector_index/metadata.json").unlink()
    async with server_of(made, run_id) as server:
        await server.start(made.release.release_id, progress=lambda _: None)
        assert (made.layout.base / ".cache/vector_index/metadata.json").exists()


async def test_a_server_that_does_not_start_leaves_nothing(made: Installation, run_id: str) -> None:
    made.vary("import no_such_package")
    async with server_of(made, run_id) as server:
        with pytest.raises(ServerEnded, match="no_such_package"):
            await server.start(made.release.release_id, progress=lambda _: None)
        assert server.pid is None


async def test_a_release_that_is_not_there_is_refused(made: Installation, run_id: str) -> None:
    with pytest.raises(UpgradeFailed, match="there is no release 'other'"):
        await server_of(made, run_id).start("other", progress=lambda _: None)


def test_it_is_a_live_server(made: Installation) -> None:
    server: LiveServer = DirectServer(made.layout, run_id="x")
    assert server.frozen() is None
