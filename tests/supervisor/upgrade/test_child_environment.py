"""What `[child] env` gives a server it has wherever it is started: live, in staging, or for a command."""

from pathlib import Path

import pytest

from tests.praxis import World, commit_files, world_in
from tests.upgrades import NEW_TOOL, run_mcpkeep, session_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The new version does not start without a variable, which the workspace's configuration has."""
    world = world_in(tmp_path)
    main = "mcp_server/__main__.py"
    text = (world.source / main).read_text()
    needed = 'import os\n\nassert os.environ["MODEL"] == "here", "MODEL is not set"\n'
    commit_files(world.source, {main: needed + text}, "Need a model")
    (world.workspace / "mcpkeep.toml").write_text('[child]\nenv = { MODEL = "here" }\n')
    return world


async def test_a_candidate_has_what_the_live_server_has(world: World) -> None:
    async with session_in(world) as session:
        done = await session.keep("upgrade", source_path=str(world.source))
        assert done["status"] == "success", done
        assert NEW_TOOL in await session.tools()


def test_so_has_the_server_that_a_command_starts(world: World) -> None:
    done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[-1] for line in done.stderr.splitlines() if "merging" in line] == ["merging"]
