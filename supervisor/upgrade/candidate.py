"""Candidates: a release is booted in its staging workspace and proven there, away from all clients."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from mcpkeep.actors.smoke import make_smoke_tests
from mcpkeep.actors.upgrade_world import Progress
from mcpkeep.protocol.arguments import left_out
from mcpkeep.protocol.upgrade.failure import ServerEnded, UpgradeFailed
from mcpkeep.protocol.upgrade.handshake import ServerInfo
from mcpkeep.protocol.upgrade.places import SETTINGS
from mcpkeep.protocol.upgrade.proof import Proof, SmokeResult, SmokeTest
from mcpkeep.protocol.upgrade.readiness import Patience
from mcpkeep.protocol.upgrade.release import Release
from mcpkeep.protocol.upgrade.smoke import CALL_LIMIT, SEARCH_TEST, browser_wanted, choose_smoke, value_of
from mcpkeep.protocol.upgrade.validation import outcome_of
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.launch import clean_environment
from mcpkeep.supervisor.upgrade.index import (
    METADATA,
    REBUILD_FLAG,
    carry_index,
    drop_index,
    filled_at,
    is_current,
    lack_of,
    stamp_build_time,
)
from mcpkeep.supervisor.upgrade.launch import (
    ask_code_path,
    check_code_path,
    launch_release,
)
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.probe import TERM_GRACE, Probe, open_probe
from mcpkeep.supervisor.workspace import prepare_index

__all__ = ["TAIL_LINES", "StagedCandidates"]

TAIL_LINES = 40
"""Lines of stderr in a proof."""

PROGRESS_WIDTH = 100

_PLACES = ("praxis_os_path", "agent_os_path")
"""Where a server says which installation it serves; the latter before 2025-10-27."""

_Index = Literal["none", "carried", "updated", "built"]
T = TypeVar("T")


class _Tried(NamedTuple):
    """What one start of the candidate showed."""

    info: ServerInfo
    tools: dict[str, str]
    smoke: tuple[SmokeResult, ...]
    seconds: float
    stderr: tuple[str, ...]


class StagedCandidates:
    """`Candidates` on this machine."""

    def __init__(
        self,
        layout: Layout,
        *,
        run_id: str,
        patience: Patience | None = None,
        term_grace: float = TERM_GRACE,
        environ: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        heard: Callable[[str], None] = lambda _: None,
        calls: FileCalls = OS_CALLS,
    ) -> None:
        """`run_id` is the mark by which mcpkeep's watcher finds them; `heard` takes their lines of stderr.

        `arguments` are the user's own for the server.
        """
        self._layout = layout
        self._run_id = run_id
        self._arguments = tuple(arguments)
        self._patience = patience or Patience()
        self._term_grace = term_grace
        self._environ = clean_environment(os.environ if environ is None else environ)
        self._heard = heard
        self._calls = calls

    async def prove(
        self,
        release: Release,
        session_id: str,
        *,
        carry_index: bool,
        smoke: Sequence[SmokeTest],
        progress: Progress,
    ) -> Proof:
        """Boot the release in staging/<session>/, handshake, list tools, make the smoke tests, end it.

        Started once as a rule; once more where the carried index lacks what is new in the content, and once
        more where it must be built. Failed smoke tests stand in the proof and raise nothing.

        Raises:
            UpgradeFailed: it does not start, is silent, crashes, or loads other code; with its last words.
        """
        workspace = self._layout.staging(session_id)
        launch = launch_release(self._layout, release, workspace, self._arguments)
        progress("looking where the new server's code is loaded from")
        code_path = await ask_code_path(launch, str(workspace), self._run_id, environ=self._environ)
        check_code_path(code_path, self._layout.releases / release.release_id)

        def start() -> AbstractAsyncContextManager[Probe]:
            return open_probe(
                launch,
                str(workspace),
                self._run_id,
                patience=self._patience,
                term_grace=self._term_grace,
                environ=self._environ,
                heard=self._heard,
            )

        at = self._layout.candidate(session_id)
        trial = _Trial(at, start, smoke, progress, partial(stamp_build_time, calls=self._calls))
        tried, index = await trial.run(self._layout if carry_index else None)
        return Proof(
            server_name=tried.info.name,
            server_version=tried.info.version,
            code_path=code_path,
            tools=tried.tools,
            smoke=tried.smoke,
            index=index,
            seconds_to_ready=tried.seconds,
            stderr_tail=tried.stderr,
            left_out=left_out(launch.command, self._arguments),
        )


class _Trial(NamedTuple):
    """The starts of one candidate, until its index is what its content needs."""

    at: Layout
    """The staged installation's."""
    start: Callable[[], AbstractAsyncContextManager[Probe]]
    smoke: Sequence[SmokeTest]
    progress: Progress
    stamp: Callable[[Layout, datetime], None]

    async def run(self, live: Layout | None) -> tuple[_Tried, _Index]:
        """Try it with the index of the installation `live`, if it can use that, else with one it builds."""
        index, flag = self.at.vector_index, self.at.base / REBUILD_FLAG
        filled = await _in_thread(filled_at, self.at.base)
        await _in_thread(drop_index, index)
        try:
            if live is not None and await _in_thread(carry_index, live, self.at):
                carried = await _in_thread(_read, index / METADATA)
                tried = await self._try_carried(flag)
                if tried is not None and await _in_thread(_read, index / METADATA) == carried:
                    return tried, "carried"
                if tried is not None:
                    await _in_thread(self.stamp, self.at, filled)
                    return tried, "updated"
                await _in_thread(drop_index, index)
            tried = await self._try("starting the new server; it builds its search index")
            if await _in_thread(lack_of, self.at) is None:
                await _in_thread(drop_index, index)
                return tried, "none"
            await _in_thread(self.stamp, self.at, filled)
            return tried, "built"
        finally:
            flag.unlink(missing_ok=True)

    async def _try_carried(self, flag: Path) -> _Tried | None:
        """None where the carried index is of no use."""
        try:
            tried = await self._try("starting the new server with a copy of the search index")
        except ServerEnded as error:
            # A native crash may come of another format of the index; any other is the server's own.
            if error.exit is None or error.exit.signal is None:
                raise
            return None
        outcome = outcome_of(tried.smoke, SEARCH_TEST)
        lack = await _in_thread(lack_of, self.at)
        if outcome == "failed" or lack is None:
            return None
        if outcome == "skipped" or not lack:
            return tried
        if lack.removed:
            return None
        await _in_thread(flag.touch)
        tried = await self._try("starting the new server again; it brings its search index up to date")
        current = await _in_thread(is_current, self.at)
        return tried if current and outcome_of(tried.smoke, SEARCH_TEST) == "passed" else None

    async def _try(self, doing: str) -> _Tried:
        await _in_thread(prepare_index, str(self.at.base), str(self.at.workspace))
        self.progress(doing)
        began = anyio.current_time()
        async with self.start() as server:
            info = await server.handshake(
                waiting=lambda line: self.progress(f"{doing}: {line.strip()[:PROGRESS_WIDTH]}")
            )
            seconds = anyio.current_time() - began
            tools = await server.tools()
            await self._check_place(server, tools)
            config = await _in_thread(_read, self.at.base / SETTINGS)
            runs = choose_smoke(tools, declared=self.smoke, browser=browser_wanted(config, tools))
            self.progress("making smoke tests of the new server")
            results = await make_smoke_tests(server, runs)
            return _Tried(info, tools, results, seconds, server.stderr_lines(TAIL_LINES))

    async def _check_place(self, server: Probe, tools: Mapping[str, str]) -> None:
        """A server that found another installation than the staged one must not be let go on."""
        if "get_server_info" not in tools:
            return
        try:
            result = await server.call("get_server_info", {}, within=CALL_LIMIT)
        except ServerEnded:
            raise
        except UpgradeFailed:
            return
        for key in _PLACES:
            place = value_of(result, f"$.project.{key}")
            if isinstance(place, str) and not await _in_thread(_same_place, place, self.at.base):
                raise UpgradeFailed(
                    f"the new server attached itself to {place!r} instead of its staging workspace",
                    remediation="look for a setting that names an installation, such as in its environment",
                )


async def _in_thread(call: Callable[..., T], *words: object, **named: object) -> T:
    return await anyio.to_thread.run_sync(partial(call, *words, **named))


def _same_place(place: str, folder: Path) -> bool:
    return os.path.realpath(place) == os.path.realpath(folder)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
