"""Upgrades of a workspace of the real size, and of a large one: phases, preview, backup, switch, rollback."""

import hashlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import msgspec

from mcpkeep.protocol.upgrade.places import PARTS
from mcpkeep.protocol.upgrade.requirements import read_requirements
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.command import Stopper
from mcpkeep.supervisor.upgrade.layout import find_installation
from mcpkeep.supervisor.upgrade.python import own_base
from mcpkeep.supervisor.upgrade.sample import Bulk, World, make_world
from mcpkeep.supervisor.upgrade.venv import Venvs, find_uv
from tests.benchmarks.figures import Table, percentile
from tests.benchmarks.line import Line, call, decode_answer
from tests.upgrades import content_of, mcpkeep_environment
from tests.wheels import make_wheel, offline_environment

__all__ = ["upgrade_scale_table", "upgrade_table"]

LIMIT = 600.0
"""Seconds for any one wait."""
PACE = 0.01
"""Seconds between two calls of the stream."""
BUDGETS = (30, 20, 45, 60, 30, 15)
"""Seconds that each phase may take by hand; a tenth of them with a server that starts at once."""
PHASES = ("checks", "backup and preparation", "content", "server", "validation", "cleanup")
COLD = "SIGUSR1 until it answers, from a cold start"
OWN_START = "the server's own start"
PACKAGES = 60
WHO: tuple[str, dict[str, object]] = ("get_server_info", {})
QUIET: tuple[tuple[str, dict[str, object]], ...] = (WHO, ("current_date", {}))
SEARCH: tuple[str, dict[str, object]] = ("search_standards", {"query": "how long may I hold a lock"})


class Stream:
    """One client of one mcpkeep: a thread reads, another may call at a steady pace; each call is timed."""

    def __init__(self, world: World, **env: str) -> None:
        command = [sys.executable, "-m", "mcpkeep.supervisor", "run", "--workspace", str(world.workspace)]
        self.line = Line(command, cwd=world.workspace, env={**mcpkeep_environment(world), **env})
        self.line.initialize()
        self.delays: dict[str, list[float]] = {}
        self.failures: list[str] = []
        self.pid = 0
        """The server that answered last, as far as it said so: WHO alone tells."""
        self._asking_who = False
        self._sent: dict[int, tuple[str, float]] = {}
        self._results: dict[int, tuple[float, bytes]] = {}
        self._next = 10
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, tool: str, **arguments: object) -> tuple[float, dict[str, Any]]:
        """Call and wait; seconds, and the answer."""
        id_ = self._send(tool, arguments)
        with self._changed:
            if not self._changed.wait_for(lambda: id_ in self._results, LIMIT):
                raise TimeoutError(f"{tool} {arguments!r} was not answered")
        seconds, result = self._results.pop(id_)
        answer: dict[str, Any] = msgspec.json.decode(result).get("structuredContent") or {}
        if answer.get("status") == "error":
            raise AssertionError(f"{tool} {arguments!r} was answered {answer!r}")
        return seconds, answer

    def wait_for_server(self, condition: Callable[[int], bool]) -> None:
        """Wait until the server that answered last fits; meanwhile each call asks who answers."""
        self._asking_who = True
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self.pid), LIMIT):
                raise TimeoutError(f"the server is still {self.pid}")
        self._asking_who = False

    @contextmanager
    def flowing(self) -> Generator[None]:
        """Call at a steady pace meanwhile; until all are answered."""
        self._ending.clear()
        ticker = threading.Thread(target=self._tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            self._ending.set()
            ticker.join()
            with self._changed:
                self._changed.wait_for(lambda: not self._sent, LIMIT)

    def close(self) -> None:
        assert self.line.process.stdin is not None
        self.line.process.stdin.close()
        self._reader.join(LIMIT)
        self.line.process.wait(LIMIT)

    def _send(self, tool: str, arguments: Mapping[str, object]) -> int:
        with self._lock:
            self._next += 1
            id_ = self._next
            self._sent[id_] = (tool, perf_counter())
            frame = call(id_, tool, arguments)
            while frame:
                frame = frame[os.write(self.line.to, frame) :]
        return id_

    def _tick(self) -> None:
        number = 0
        while not self._ending.wait(PACE):
            number += 1
            usual = SEARCH if number % 5 == 0 else QUIET[number % 2]
            self._send(*(WHO if self._asking_who else usual))

    def _read(self) -> None:
        while True:
            try:
                line = self.line.next_line()
            except Exception:  # the end of the session
                return
            now = perf_counter()
            answer = decode_answer(line)
            sent = self._sent.get(answer.id) if isinstance(answer.id, int) and answer.method is None else None
            if sent is None:
                continue
            tool, at = sent
            with self._changed:
                del self._sent[answer.id]  # type: ignore[arg-type]
                if tool in ("pos_workflow", "mcpkeep"):
                    self._results[answer.id] = (now - at, bytes(answer.result))  # type: ignore[index]
                else:
                    self._take(tool, now - at, bytes(answer.result), bytes(answer.error))
                self._changed.notify_all()

    def _take(self, tool: str, seconds: float, result: bytes, error: bytes) -> None:
        self.delays.setdefault(tool, []).append(seconds)
        said: dict[str, Any] = (msgspec.json.decode(result) if result else {}).get("structuredContent") or {}
        if error or not said or "error" in said or said.get("retrieval_method", "vector") != "vector":
            self.failures.append(f"{tool}: {(error or result)[:200]!r}")
        if "server" in said:
            self.pid = said["server"]["pid"]


def upgrade_table(*, rounds: int) -> Table:
    """348 files, 2.5 MB: the size of the real one, with a server that starts at once."""
    size = Bulk(files=293, bytes=2_440_000, suffix=".txt")
    rows = [row for row in _measured(size, rounds) if row]
    return Table(
        f"Upgrades of 348 files (2.5 MB), {rounds} of them, 100 calls a second meanwhile",
        ("", "median", "worst", "limit", "reach"),
        tuple(rows),
        (
            "limits of the phases: a tenth of what is allowed by hand; the sample's server starts in 50 ms, "
            "the real one in 8 to 10 s",
            "copytree, then hash: without a sync; and as durable as the backup, each file synced",
            "the way back to a cold server: 100 ms and the server's own start, which swings: by the medians",
            f"a venv of {PACKAGES} packages: made by uv out of its cache, synced",
        ),
    )


def upgrade_scale_table() -> Table:
    """20,000 files, 500 MB."""
    size = Bulk(files=20_000, bytes=500_000_000, suffix=".dat")
    return Table(
        "One upgrade of 20,000 files (500 MB), 100 calls a second meanwhile",
        ("", "median", "worst", "limit", "reach"),
        tuple(_measured(size, 1)),
        ("no limits: it is to be seen that it grows with the size, and that calls do not wait for it",),
    )


def _measured(size: Bulk, rounds: int) -> Iterator[tuple[str, ...]]:
    limited = rounds > 1
    seen: dict[str, list[float]] = {}
    delays: dict[str, list[float]] = {}
    # Removed at the end: for minutes after many removals ext4 without a journal makes new files slowly.
    with TemporaryDirectory(prefix="mcpkeep-benchmark-", ignore_cleanup_errors=True) as all_rounds:
        for number in range(rounds):
            folder = Path(all_rounds, str(number))
            folder.mkdir()
            world = make_world(folder, bulk=size)
            for name, seconds in _backups(world):
                seen.setdefault(name, []).append(seconds)
            for name, seconds in (*_upgrade(world, delays), *_cold_rollback(world), *_venvs(folder)):
                seen.setdefault(name, []).append(seconds)
    limits: dict[str, float] = {
        "preview, warm": 0.1,
        **{f"phase {n}, {name}": BUDGETS[n] / 10 for n, name in enumerate(PHASES)},
        "all six": 12.0,
        "content swap": 0.1,
        "SIGUSR1 until the old version answers": 0.25,
        COLD: _median(seen[OWN_START]) + 0.1,
        f"venv, {PACKAGES} packages": 2.0,
    }
    for name, all_of_it in seen.items():
        limit = limits.get(name) if limited else None
        yield _row(name, all_of_it, limit, judge=_median if name == COLD else max)
    hashed = percentile(seen["copytree, then hash, synced"], 0.5)
    ratio = hashed / percentile(seen["backup"], 0.5)
    yield "backup against that", f"{ratio:.1f}x faster", "", "2x", _reach(ratio >= 2, limited)
    quiet = [delay for tool, each in delays.items() if tool != SEARCH[0] for delay in each]
    yield _row("delay of a call, all of them", quiet, 0.05 if limited else None)
    yield _row("delay of a search", delays[SEARCH[0]], 0.5 if limited else None)


def _row(
    name: str,
    seconds: Sequence[float],
    limit: float | None,
    *,
    judge: Callable[[Sequence[float]], float] = max,
) -> tuple[str, ...]:
    return (
        name,
        _shown(_median(seconds)),
        _shown(max(seconds)),
        "" if limit is None else _shown(limit),
        _reach(judge(seconds) <= (limit or 0), limit is not None),
    )


def _median(seconds: Sequence[float]) -> float:
    return percentile(seconds, 0.5)


def _reach(met: bool, limited: bool) -> str:
    return ("met" if met else "MISSED") if limited else ""


def _shown(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _upgrade(world: World, delays: dict[str, list[float]]) -> Iterator[tuple[str, float]]:
    before = content_of(world)
    stream = Stream(world)
    source = str(world.source)
    stream.ask("mcpkeep", action="plan", source_path=source)
    yield "preview, warm", stream.ask("mcpkeep", action="plan", source_path=source)[0]
    with stream.flowing():
        stream.wait_for_server(bool)
        old = stream.pid
        total = 0.0
        for number, seconds in _phases(stream, source):
            total += seconds
            yield f"phase {number}, {PHASES[number]}", seconds
        yield "all six", total
        yield "content swap", _swap_seconds(world)
        stream.wait_for_server(old.__ne__)
        yield "SIGUSR1 until the old version answers", _way_back(world, stream)
    stream.close()
    for tool, each in stream.delays.items():
        delays.setdefault(tool, []).extend(each)
    if stream.failures or content_of(world) != before:
        raise AssertionError(f"not as before, or calls failed: {stream.failures[:3]}")


def _cold_rollback(world: World) -> Iterator[tuple[str, float]]:
    """The same upgrade once more, and back where no former server is kept; beside a server's own start."""
    python = world.base / "venv" / "bin" / "python"
    for _ in range(3):
        server = Line(
            [str(python), "-m", "mcp_server", "--transport", "stdio"],
            cwd=world.workspace,
            env={**world.environment, "PYTHONPATH": str(world.base)},
        )
        server.initialize()
        yield OWN_START, perf_counter() - server.started
        server.close()
    stream = Stream(world, MCPKEEP_UPGRADE_FREEZE="false")
    with stream.flowing():
        stream.wait_for_server(bool)
        old = stream.pid
        for _ in _phases(stream, str(world.source)):
            pass
        stream.wait_for_server(old.__ne__)
        yield COLD, _way_back(world, stream)
    stream.close()


def _way_back(world: World, stream: Stream) -> float:
    """Seconds from SIGUSR1 until another server answers."""
    new = stream.pid
    begun = perf_counter()
    os.kill(int((world.base / ".mcpkeep" / "pid").read_text()), signal.SIGUSR1)
    stream.wait_for_server(new.__ne__)
    return perf_counter() - begun


def _swap_seconds(world: World) -> float:
    """How long the content was neither the old one nor the new one, by the log."""
    log = (world.base / ".mcpkeep" / "logs" / "mcpkeep.log").read_text()
    begun, ended = (
        next(line.split()[0] for line in reversed(log.splitlines()) if line.endswith(step))
        for step in ("bringing the content in", "moving requests over")
    )
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()


def _venvs(folder: Path) -> Iterator[tuple[str, float]]:
    """A venv for requirements that a former one meets, and one of many packages from uv's cache."""
    wheels, home = folder / "many", folder / "home-of-uv"
    text = "".join(f"package{n}==1.0\n" for n in range(PACKAGES))
    for n in range(PACKAGES):
        make_wheel(
            wheels, f"package{n}", "1.0", files={f"package{n}/m{m}.py": "x = 1\n" * 50 for m in range(20)}
        )
    environ = offline_environment(wheels, home)
    file = folder / "many.txt"
    file.write_text(text)
    wanted = read_requirements("many.txt", {"many.txt": text}.get)
    for number in ("cold", "warm"):
        venvs = Venvs(folder / f"venvs-{number}", environ=environ, uv=find_uv(environ), own_base=own_base())
        begun = perf_counter()
        built = venvs.provide(
            wanted, file, former=None, former_sha256=None, stopper=Stopper(), progress=_unheard
        )
        if number == "warm":
            yield f"venv, {PACKAGES} packages", perf_counter() - begun
    begun = perf_counter()
    again = venvs.provide(
        wanted, file, former=built.name, former_sha256=wanted.sha256, stopper=Stopper(), progress=_unheard
    )
    assert again.shared
    yield "venv, unchanged requirements", perf_counter() - begun


def _unheard(_line: str) -> None:
    """Nobody watches."""


def _phases(stream: Stream, source: str) -> Iterator[tuple[int, float]]:
    _, started = stream.ask(
        "pos_workflow",
        action="start",
        workflow_type="praxis_os_upgrade_v1",
        target_file=".praxis-os",
        options={"source_path": source},
    )
    for number in range(len(PHASES)):
        begun = perf_counter()
        in_progress = True
        while in_progress:
            _, said = stream.ask(
                "pos_workflow",
                action="complete_phase",
                session_id=started["session_id"],
                phase=number,
                evidence={},
            )
            in_progress = said.get("in_progress", False)
        yield number, perf_counter() - begun


def _backups(world: World) -> Iterator[tuple[str, float]]:
    """The backup, and what it replaces, on the same files."""
    layout = find_installation(world.workspace)
    assert layout is not None
    store = BackupFiles(layout)
    os.sync()
    begun = perf_counter()
    done = store.create("bench", release=None, requirements="", now=datetime.now(UTC), check=lambda: None)
    yield "backup", perf_counter() - begun
    begun = perf_counter()
    assert store.verify(done.backup_id, check=lambda: None).verified
    yield "verification of it", perf_counter() - begun
    copy = world.workspace.parent / "copy"
    copy.mkdir()
    os.sync()
    begun = perf_counter()
    for part in {part.installed.split("/")[0] for part in PARTS}:
        if (world.base / part).exists():
            shutil.copytree(world.base / part, copy / part)
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(copy)}
    yield "copytree, then hash", perf_counter() - begun
    for path in digests:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    yield "copytree, then hash, synced", perf_counter() - begun
    shutil.rmtree(copy)
    shutil.rmtree(layout.backups)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
