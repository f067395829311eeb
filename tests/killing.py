"""Upgrades that are struck by a signal somewhere, and what must be found at the next start."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
import psutil

from mcpkeep.protocol.upgrade.journal import JournalState
from mcpkeep.supervisor.upgrade.journal import JournalFiles
from mcpkeep.supervisor.upgrade.layout import Layout, find_installation
from mcpkeep.supervisor.upgrade.lock import HeldLock
from mcpkeep.supervisor.upgrade.pending import anything_pending
from tests.praxis import World, world_in
from tests.upgrades import LIMIT, NEW_TOOL, QUERY, mcpkeep_environment, session_in

__all__ = [
    "EDITED",
    "State",
    "Struck",
    "count_of_kills",
    "doomed",
    "edited_world",
    "journals_of",
    "layout_of",
    "points_of",
    "require_nothing_left",
    "require_served",
    "require_whole",
    "spread",
    "state_of",
    "strike",
    "upgrade_words",
]

EDITED = "standards/universal/ai-safety/git-safety.md"
DELETED = "standards/universal/documentation/windows.md"
OWN = "standards/development/our rules é.md"
METADATA = "workflows/spec_execution_v1/metadata.json"

_NOT_CONTENT = (".mcpkeep", ".backups", ".cache", "state", "venv")
_RECORDS = (
    ".upgrade-lock",
    "VERSION.txt",
    "UPDATE_LOG.txt",
    "INSTALLATION_SUMMARY.md",
    ".mcp_server_state.json",
)
_DOOMED = Path(__file__).with_name("doomed.py")

State = dict[str, tuple[int, bytes]]


class Struck(NamedTuple):
    """How a run of mcpkeep ended, and what it did until then."""

    code: int
    trace: list[str]
    out: str
    err: str


def edited_world(folder: Path, version: str = "v1.1.0") -> World:
    """The sample world, with what a user did to it: edits that merge, a file of their own, one deleted."""
    folder.mkdir(exist_ok=True)
    world = world_in(folder, version)
    for path, old, new in (
        (EDITED, "History is what", "Our history is what"),
        (METADATA, '"estimated_duration": "30 minutes"', '"estimated_duration": "a day"'),
    ):
        text = (world.base / path).read_text()
        assert old in text
        (world.base / path).write_text(text.replace(old, new))
    (world.base / OWN).write_bytes(b"# Our rules\r\n\r\nWe name branches after their issues.\r\n")
    (world.base / OWN).chmod(0o755)
    (world.base / DELETED).unlink()
    return world


def state_of(world: World) -> State:
    """All that an upgrade may change, and all that is the user's: mode and bytes by path."""
    found: State = {}
    for folder, folders, names in os.walk(world.base):
        folders[:] = [name for name in folders if name not in (*_NOT_CONTENT, "__pycache__")]
        for name in names:
            path = Path(folder, name)
            if name not in _RECORDS:
                data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
                found[path.relative_to(world.base).as_posix()] = (stat.S_IMODE(path.lstat().st_mode), data)
    return found


def doomed(at: int, number: int, trace: Path, *words: str) -> list[str]:
    """The command line of an mcpkeep that is struck by the signal at its call `at`; never, with -1."""
    return [sys.executable, str(_DOOMED), str(at), str(int(number)), str(trace), *words]


def upgrade_words(world: World) -> tuple[str, ...]:
    return ("upgrade", "--source", str(world.source), "--yes", "--json")


def strike(
    world: World,
    at: int,
    *words: str,
    number: int = signal.SIGKILL,
    meanwhile: Callable[[], object] | None = None,
) -> Struck:
    """Run a command of mcpkeep, strike it there, and wait until it has ended.

    With SIGSTOP it goes on once `meanwhile` was done.
    """
    folder = world.workspace.parent / f"run-{os.urandom(4).hex()}"
    folder.mkdir()
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        process = subprocess.Popen(
            doomed(at, number, folder / "trace", *words),
            cwd=world.workspace,
            env=mcpkeep_environment(world),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        if meanwhile is not None:
            stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert stopped is not None and stopped.si_status == signal.SIGSTOP
            meanwhile()
            process.send_signal(signal.SIGCONT)
        code = process.wait(LIMIT * 2)
    finally:
        process.kill()
        process.wait()
    texts = [(folder / name).read_text() for name in ("trace", "out", "err")]
    return Struck(code, texts[0].splitlines(), texts[1], texts[2])


def points_of(trace: Sequence[str], *, each: Sequence[str] = ()) -> list[int]:
    """Where to strike: the first call from each place in the code, and every one from places with `each`."""
    seen: set[str] = set()
    points: list[int] = []
    for number, line in enumerate(trace):
        if line not in seen or any(part in line for part in each):
            points.append(number)
        seen.add(line)
    return [*points, len(trace)]


def count_of_kills(default: int) -> int | None:
    """How many points a test takes: `MCPKEEP_KILLS`, with None for `all`."""
    asked = os.environ.get("MCPKEEP_KILLS", "")
    if asked == "all":
        return None
    return int(asked) if asked else default


def spread(points: Sequence[int], count: int | None) -> list[int]:
    """So many of the points, evenly; all of them with None."""
    if count is None or count >= len(points):
        return list(points)
    return [points[number * (len(points) - 1) // max(1, count - 1)] for number in range(count)]


def layout_of(world: World) -> Layout:
    layout = find_installation(world.workspace)
    assert layout is not None
    return layout


def journals_of(world: World) -> list[JournalState]:
    """The journals that have not ended."""
    return list(JournalFiles(layout_of(world)).open())


def require_nothing_left(world: World, session_id: str | None = None) -> None:
    """No lock, staging, temporary file, open journal, or process of that world, but of the session."""
    base, own = world.base, layout_of(world).own
    open_ = [state.begun.session_id for state in journals_of(world)]
    assert open_ in ([], [session_id])
    owner = HeldLock(layout_of(world)).owner()
    assert owner is None or [owner["session_id"]] == open_
    assert [path.name for path in (own / "staging").glob("*")] in ([], open_)
    assert anything_pending(str(world.workspace)) is bool(open_)
    elsewhere = {"state", "venvs", "staging"}
    unfinished = [path.relative_to(base) for path in base.rglob("*.tmp")]
    assert [path for path in unfinished if not elsewhere & {*path.parts}] == []
    assert [path.name for path in base.rglob(".mcpkeep-*")] == []
    assert [path.name for path in own.glob("baseline.*")] == []
    for release in (own / "releases").glob("*"):
        assert (release / "release.json").is_file(), release
    for change in (own / "changes").glob("*"):
        assert change.name in open_ or (change / "change.json").is_file(), change
    for backup in (base / ".backups").glob("*-*"):
        assert (backup / "MANIFEST.json").is_file(), backup
    require_no_process(world)


def require_no_process(world: World) -> None:
    """Wait until nothing runs any more that was started in that world."""
    left = psutil.wait_procs(_processes(world), timeout=LIMIT)[1]
    assert [process.cmdline() for process in left] == []


def _processes(world: World) -> list[psutil.Process]:
    """By the home that each of them is given."""
    home = str(world.workspace.parent / "home")
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == home and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def require_whole(world: World, old: State, new: State) -> str:
    """Which version stands there, `old` or `new`, whole."""
    state = state_of(world)
    which = {True: "old", False: "new"}[EDITED in state and state[EDITED] == old[EDITED]]
    wanted = old if which == "old" else new
    differing = sorted(path for path in {*state, *wanted} if state.get(path) != wanted.get(path))
    assert differing == [], (which, differing)
    version = world.base / "VERSION.txt"
    assert ("v2.0.0" in (version.read_text() if version.exists() else "")) is (which == "new")
    layout = layout_of(world)
    current = layout.current_release()
    if current is None:
        assert which == "old"
    else:
        assert (current == "adopted") is (which == "old"), current
        for path in (layout.releases / current / "mcp_server").rglob("*.py"):
            live = world.base / "mcp_server" / path.relative_to(layout.releases / current / "mcp_server")
            assert live.read_bytes() == path.read_bytes()
        assert layout.venv.is_symlink()
    return which


async def require_served(world: World, which: str) -> None:
    """A client that comes now is served by that version, and told which it is."""
    async with session_in(world) as session:
        with anyio.fail_after(LIMIT):
            assert (await session.call("search_standards", **QUERY))["retrieval_method"] == "vector"
            assert (NEW_TOOL in await session.tools()) is (which == "new")
            upgrade = (await session.keep("status"))["upgrade"]
        assert upgrade["under_way"] is None, upgrade
        assert (upgrade["version"] == "v2.0.0") is (which == "new"), upgrade
