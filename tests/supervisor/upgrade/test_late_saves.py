"""Files that the user saves while an upgrade's server starts or right after the commit; the plan after it."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.killing import (
    State,
    Struck,
    edited_world,
    require_nothing_left,
    require_served,
    state_of,
    strike,
    upgrade_words,
)
from tests.praxis import World
from tests.upgrades import NEW_TOOL, mcpkeep_environment, session_in

pytestmark = pytest.mark.anyio

GATE = "workflows/spec_execution_v1/phases/1/gate-definition.yaml"
TOOLS = "mcp_server/tools.py"
STARTING = "spawned process.spawn_child<probe.__init__<probe.start_probe<direct.start"
VALIDATING = "spawned launch.ask_code_path<measures.measure"
_OPEN = ("add", "update", "merge", "conflict", "remove")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Struck, State]:
    """An upgrade that nobody disturbs, and what stands after it."""
    world = edited_world(tmp_path_factory.mktemp("usual"))
    done = strike(world, -1, *upgrade_words(world))
    assert done.code == 0, done.err
    return done, state_of(world)


def saved(
    world: World, usual: tuple[Struck, State], place: str, save: Callable[[], object], *words: str
) -> Struck:
    at = next(number for number, line in enumerate(usual[0].trace) if place in line)
    return strike(world, at, *(words or upgrade_words(world)), number=signal.SIGSTOP, meanwhile=save)


def append(path: Path, text: str) -> Callable[[], object]:
    def write() -> None:
        with open(path, "a") as file:
            file.write(text)

    return write


def plan_of(world: World) -> dict[str, str]:
    """The case of each file that the next upgrade would look at."""
    words = (sys.executable, "-m", "mcpkeep.supervisor", "plan", "--source", str(world.source), "--json")
    made = subprocess.run(
        words, cwd=world.workspace, env=mcpkeep_environment(world), capture_output=True, check=True
    )
    plan = msgspec.json.decode(made.stdout)["plan"]
    return {file["path"]: file["case"] for file in plan["files"]}


async def test_what_is_saved_while_the_server_starts_is_merged_with_the_new_version(
    tmp_path: Path, usual: tuple[Struck, State]
) -> None:
    world = edited_world(tmp_path / "world")
    words = (word for word in upgrade_words(world) if word != "--json")
    done = saved(world, usual, STARTING, append(world.base / GATE, "# my own line\n"), *words)
    assert done.code == 0, done.out + done.err
    mode, new = usual[1][GATE]
    assert state_of(world) == {**usual[1], GATE: (mode, new + b"# my own line\n")}
    assert f"{GATE} was changed by you meanwhile: your edit and the new version were merged" in done.out
    assert plan_of(world)[GATE] == "keep"
    report = next((world.base / ".cache").glob("upgrade-summary-*.md")).read_text()
    assert f"- `{GATE}`: your edit and the new version were merged" in report
    require_nothing_left(world)
    await require_served(world, "new")
    back = strike(world, -1, "rollback", "--yes", "--json")
    assert back.code == 0, back.err
    assert (world.base / GATE).read_text().endswith("# my own line\n")
    assert (world.base / GATE).read_bytes() != new + b"# my own line\n"


async def test_where_a_late_save_overlaps_it_stays_and_the_next_plan_offers_the_conflict(
    tmp_path: Path, usual: tuple[Struck, State]
) -> None:
    world = edited_world(tmp_path / "world")
    gate = world.base / GATE
    mine = gate.read_text().replace("strict: false", "strict: maybe")
    done = saved(world, usual, STARTING, lambda: gate.write_text(mine))
    assert done.code == 0, done.out + done.err
    assert gate.read_text() == mine
    session = msgspec.json.decode(done.out)["session_id"]
    aside = f".mcpkeep/conflicts/{session}/late/{GATE}"
    assert (world.base / aside).read_bytes() == usual[1][GATE][1]
    assert f"{GATE} was changed by you meanwhile: yours stands; the new version lies in {aside}" in done.out
    assert {path: case for path, case in plan_of(world).items() if case in _OPEN} == {GATE: "conflict"}
    require_nothing_left(world)
    again = strike(world, -1, *upgrade_words(world), "--on-conflict", "take")
    assert again.code == 0, again.out + again.err
    assert gate.read_bytes() == usual[1][GATE][1]


async def test_code_that_is_saved_while_the_server_starts_stops_the_upgrade_before_the_switch(
    tmp_path: Path, usual: tuple[Struck, State]
) -> None:
    world = edited_world(tmp_path / "world")
    save = append(world.base / TOOLS, "\n# my own note\n")
    old = state_of(world)
    done = saved(world, usual, STARTING, save)
    assert done.code == 1, done.out + done.err
    note = b"\n# my own note\n"
    assert state_of(world) == {**old, TOOLS: (old[TOOLS][0], old[TOOLS][1] + note)}
    assert f"changed while the server started: {TOOLS}" in done.out + done.err
    assert msgspec.json.decode(done.out)["state"] == "unchanged"
    require_nothing_left(world)
    await require_served(world, "old")
    again = strike(world, -1, *upgrade_words(world))
    assert again.code == 0, again.out + again.err
    assert (world.base / TOOLS).read_bytes() == usual[1][TOOLS][1] + note
    await require_served(world, "new")


@pytest.mark.parametrize("path", [GATE, TOOLS])
async def test_an_edit_of_the_new_version_after_the_commit_stands_with_the_upgrade(
    tmp_path: Path, usual: tuple[Struck, State], path: str
) -> None:
    world = edited_world(tmp_path / "world")
    done = saved(world, usual, VALIDATING, append(world.base / path, "# my own line\n"))
    assert done.code == 0, done.out + done.err
    mode, new = usual[1][path]
    assert state_of(world) == {**usual[1], path: (mode, new + b"# my own line\n")}
    assert f"{path} was changed by you meanwhile: yours stands" in done.out
    assert plan_of(world)[path] == "keep"
    require_nothing_left(world)
    async with session_in(world) as session:
        assert NEW_TOOL in await session.tools()


async def test_the_former_text_saved_over_the_new_one_stays_and_the_next_plan_merges_it(
    tmp_path: Path, usual: tuple[Struck, State]
) -> None:
    world = edited_world(tmp_path / "world")
    gate = world.base / GATE
    mine = gate.read_bytes() + b"# my own line\n"
    done = saved(world, usual, VALIDATING, lambda: gate.write_bytes(mine))
    assert done.code == 0, done.out + done.err
    assert gate.read_bytes() == mine
    assert f"{GATE} was changed by you meanwhile: yours stands; the new version lies in" in done.out
    assert {path: case for path, case in plan_of(world).items() if case in _OPEN} == {GATE: "merge"}
    again = strike(world, -1, *upgrade_words(world))
    assert again.code == 0, again.out + again.err
    assert gate.read_bytes() == usual[1][GATE][1] + b"# my own line\n"


@pytest.mark.parametrize("path", [TOOLS, "scripts/build_rag_index.py"])
async def test_former_code_saved_over_the_new_one_takes_the_upgrade_back_and_stays(
    tmp_path: Path, usual: tuple[Struck, State], path: str
) -> None:
    world = edited_world(tmp_path / "world")
    old = state_of(world)
    mine = old[path][1] + b"\n# my own note\n"
    done = saved(world, usual, VALIDATING, lambda: (world.base / path).write_bytes(mine))
    assert done.code == 1, done.out + done.err
    assert f"code of the new version was saved over from its former text: {path}" in done.out + done.err
    assert state_of(world) == {**old, path: (old[path][0], mine)}
    require_nothing_left(world)
    await require_served(world, "old")
