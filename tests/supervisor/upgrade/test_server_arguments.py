"""The arguments of the user's own server command stay with it through upgrades: real processes."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from tests.praxis import World, commit_files, world_in
from tests.upgrades import run_mcpkeep, session_in

pytestmark = pytest.mark.anyio

PYTHON = ".praxis-os/venv/bin/python"
MODULE = ("-m", "mcp_server")
OWN = ("--transport", "stdio", "--log-level", "WARNING")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_in(tmp_path)


def commit_recorder(world: World, record: Path, *, log_level: bool) -> None:
    """Commit a version that writes down what each of its servers was started with."""
    main = (world.source / "mcp_server/__main__.py").read_text()
    level = """    parser.add_argument("--log-level", default="INFO")\n"""
    start = "def main() -> None:\n"
    assert level in main and start in main
    note = f"    open({str(record)!r}, 'a').write(repr(sys.argv[1:]).replace(chr(39), chr(34)) + chr(10))\n"
    main = main.replace("import argparse\n", "import argparse\nimport sys\n").replace(start, start + note)
    main = main if log_level else main.replace(level, "")
    commit_files(world.source, {"mcp_server/__main__.py": main}, "Write down the arguments")


def recorded(record: Path) -> list[list[str]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


async def test_candidate_and_server_are_started_with_them(world: World, tmp_path: Path) -> None:
    commit_recorder(world, tmp_path / "record", log_level=True)
    run = (sys.executable, "-m", "mcpkeep.supervisor", "run", "--workspace", str(world.workspace))
    async with session_in(
        world, (*run, "--", "env", "PYTHONPATH=.praxis-os", PYTHON, *MODULE, *OWN)
    ) as session:
        assert psutil.Process(await session.server()).cmdline() == [PYTHON, *MODULE, *OWN]
        session_id = await session.start()
        await session.complete_all(session_id, [0, 1])
        # It runs from its release then.
        adopted, *words = psutil.Process(await session.server()).cmdline()
        assert (".mcpkeep/releases/adopted/" in adopted, words) == (True, [*MODULE, *OWN])
        await session.complete_all(session_id, [2, 3, 4, 5])
        upgraded, *words = psutil.Process(await session.server()).cmdline()
        assert (upgraded != adopted, words) == (True, [*MODULE, *OWN])
    said = recorded(tmp_path / "record")
    assert len(said) >= 2 and all(words == list(OWN) for words in said)


def test_those_that_the_new_version_does_not_know_are_left_out_and_reported(
    world: World, tmp_path: Path
) -> None:
    commit_recorder(world, tmp_path / "record", log_level=False)
    command = json.dumps([PYTHON, *MODULE, *OWN])
    (world.workspace / "mcpkeep.toml").write_text(f"[child]\ncommand = {command}\n")
    done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
    assert done.returncode == 0, done.stderr
    said = recorded(tmp_path / "record")
    assert len(said) >= 2 and all(words == ["--transport", "stdio"] for words in said)
    (summary,) = (world.base / ".cache").glob("upgrade-summary-*.md")
    assert "does not know --log-level of your server's command" in summary.read_text()
