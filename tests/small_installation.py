"""A very small installation with two releases, an upgrade between them, and ways to be killed in it."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.change import ChangeOrder
from mcpkeep.protocol.upgrade.journal import Begun, JournalRecord, Kind
from mcpkeep.protocol.upgrade.late_edit import LateEdit
from mcpkeep.protocol.upgrade.release import Release
from mcpkeep.supervisor.durable import FileCalls
from mcpkeep.supervisor.upgrade.changes import ChangeFiles
from mcpkeep.supervisor.upgrade.journal import JournalFiles
from mcpkeep.supervisor.upgrade.layout import Layout, standing
from mcpkeep.supervisor.upgrade.lock import HeldLock
from mcpkeep.supervisor.upgrade.recovery import Recovered, recover
from tests.faults import Killed, Kills

__all__ = ["NEW", "OLD", "USERS", "World", "build", "live", "sha", "upgrade", "upgraded"]

OLD: Mapping[str, bytes] = {
    "mcp_server/main.py": b"old server\n",
    "scripts/build.py": b"old build\n",
    "standards/universal/a.md": b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n",
    "standards/universal/gone/b.md": b"goes with its folder\n",
    ".cache/vector_index/t.lance/data/1": b"old index",
}
NEW: Mapping[str, bytes] = {
    "mcp_server/main.py": b"new server\n",
    "scripts/build.py": b"new build\n",
    "standards/universal/a.md": b"one\ntwo\nthree, changed\nfour\nfive\nsix\nseven\n",
    "workflows/made/c.md": b"comes with its folder\n",
    ".cache/vector_index/t.lance/data/2": b"new index",
}
USERS: Mapping[str, bytes] = {
    "config.json": b"{}\n",
    "standards/development/mine.md": b"mine\n",
}
INDEX = ".cache/vector_index"
STATE = b'{"pid": 1}'
SESSION = "s-1"


@dataclass
class World:
    """One process's view of an installation."""

    layout: Layout
    calls: FileCalls = field(default_factory=lambda: Kills(10**9))
    journals: JournalFiles = field(init=False)
    changes: ChangeFiles = field(init=False)
    lock: HeldLock = field(init=False)
    _seconds: int = 0

    def __post_init__(self) -> None:
        self.journals = JournalFiles(self.layout, calls=self.calls)
        self.changes = ChangeFiles(self.layout, self.journals, now=self.now, calls=self.calls)
        self.lock = HeldLock(self.layout, now=self.now, calls=self.calls)

    def now(self) -> datetime:
        self._seconds += 1
        return datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=self._seconds)

    @property
    def base(self) -> Path:
        return standing(self.layout.base)

    def again(self, calls: FileCalls | None = None) -> "World":
        """The next process, after this one died: the kernel lets its lock go."""
        self.lock._close()  # pyright: ignore[reportPrivateUsage]
        base = standing(self.layout.base)
        calls = calls or Kills(10**9)
        return World(Layout(self.layout.workspace, base), calls, _seconds=self._seconds + 1000)

    def begin(self, session_id: str = SESSION, *, kind: Kind = "upgrade", agent_led: bool = False) -> None:
        self.journals.begin(Begun(session_id, kind, agent_led, "test", self.now()))

    def append(self, session_id: str, *records: JournalRecord) -> None:
        for record in records:
            self.journals.append(session_id, record)

    def commit(self, order: ChangeOrder) -> tuple[LateEdit, ...]:
        self.changes.prepare_first(order)
        self.changes.swap_first(order)
        self.changes.prepare_rest(order)
        return self.changes.swap_rest(order)

    def recover(self) -> Recovered:
        return recover(self.changes, self.journals, self.lock, now=self.now, calls=self.calls)


def build(workspace: Path, *, base: str = ".praxis-os") -> World:
    """The installation at its old release, and the new one staged for SESSION."""
    installation = workspace / base
    _fill(installation, {**OLD, **USERS, ".mcp_server_state.json": STATE})
    layout = Layout(workspace, installation)
    for release_id in ("old", "new"):
        (layout.venvs / release_id).mkdir(parents=True)
        release = Release(
            schema=1,
            release_id=release_id,
            version=release_id,
            commit=None,
            made_at=datetime(2026, 1, 1, tzinfo=UTC),
            venv=release_id,
            requirements_sha256="",
            server_files={},
            command=(),
        )
        _fill(layout.releases / release_id, {"release.json": msgspec.json.encode(release)})
    os.symlink("releases/old", layout.current)
    os.symlink(".mcpkeep/venvs/old", layout.venv)
    stage(layout)
    return World(layout)


def stage(layout: Layout, session_id: str = SESSION, files: Mapping[str, bytes] = NEW) -> None:
    staged = layout.staged(session_id)
    if staged.exists():
        shutil.rmtree(staged)
    _fill(staged, files)


def order(world: World, session_id: str = SESSION) -> ChangeOrder:
    written = tuple(path for path in NEW if not path.startswith(INDEX))
    removed = ("standards/universal/gone/b.md",)
    return ChangeOrder(
        session_id=session_id,
        kind="upgrade",
        from_release="old",
        to_release="new",
        staged_root=f".mcpkeep/staging/{session_id}/.praxis-os",
        written=written,
        removed=removed,
        expected={path: sha(OLD[path]) if path in OLD else None for path in (*written, *removed)},
        swap_index=True,
    )


def upgrade(world: World, *, agent_led: bool = False) -> tuple[LateEdit, ...]:
    """Lock, journal, commit; not ended."""
    world.lock.take(SESSION)
    world.begin(agent_led=agent_led)
    return world.commit(order(world))


def upgraded(workspace: Path) -> World:
    """The installation at its new release, with spare copies of the old one."""
    world = build(workspace)
    upgrade(world)
    world.lock.let_go()
    world.changes.keep_spares(SESSION)
    return world


def live(world: World) -> dict[str, bytes | str]:
    """All that is not mcpkeep's own; links by their text."""
    found: dict[str, bytes | str] = {}
    for at, folders, files in os.walk(world.base):
        here = Path(at)
        if here == world.base:
            folders.remove(".mcpkeep")
        for name in (*folders, *files):
            path = here / name
            relative = path.relative_to(world.base).as_posix()
            if path.is_symlink():
                found[relative] = os.readlink(path)
            elif path.is_file():
                found[relative] = path.read_bytes()
            elif not any(path.iterdir()):
                found[relative] = "empty folder"
    return found


def version(which: str) -> dict[str, bytes | str]:
    """What live() says of the whole old or new version."""
    files: dict[str, bytes | str] = {**(OLD if which == "old" else NEW), **USERS}
    files[".mcp_server_state.json"] = STATE
    files["venv"] = f".mcpkeep/venvs/{which}"
    if which == "new":  # What the old server may still read came along.
        files[".cache/vector_index/t.lance/data/1"] = OLD[".cache/vector_index/t.lance/data/1"]
    return files


def whole(world: World) -> str:
    """Which version stands whole; an assertion fails where none does."""
    which = world.layout._replace(base=world.base).current_release()
    assert which is not None
    found = live(world)
    wanted = version(which)
    # For a server that runs: after a power loss none does.
    if which == "new" and found.get(carried := f"{INDEX}/t.lance/data/1", b"old index") == b"old index":
        found[carried] = b"old index"
    for extra in set(found) - set(wanted):
        # An index that went back and forth has brought along what a running server read.
        if extra.startswith(INDEX) or (extra, found[extra]) == ("workflows", "empty folder"):
            del found[extra]
    assert found == wanted, {
        path: (found.get(path), wanted.get(path))
        for path in found.keys() | wanted.keys()
        if found.get(path) != wanted.get(path)
    }
    return which


@contextlib.contextmanager
def in_memory(otherwise: Path) -> Generator[Path]:
    """A folder in memory where the system has such: these tests make a thousand installations."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def killed_at(
    n: int, world: World, work: Callable[[World], object], *, exchanges: bool = True
) -> tuple[World, bool]:
    """Do the work in a process that dies at call n; the next process's world, and whether it died."""
    dying = world.again(Kills(n, exchanges=exchanges))
    after = Kills(10**9, exchanges=exchanges)
    try:
        work(dying)
    except Killed:
        return dying.again(after), True
    return dying.again(after), False
