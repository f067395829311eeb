"""The live workspace's server where no mcpkeep serves it: a release is booted there, tried, and ended."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import anyio.to_thread
import msgspec

from mcpkeep.actors.upgrade_world import Progress
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import SERVER_STATE
from mcpkeep.protocol.upgrade.readiness import Patience
from mcpkeep.supervisor.launch import clean_environment
from mcpkeep.supervisor.stderr import TAIL_LINES
from mcpkeep.supervisor.upgrade.launch import launch_release
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.probe import TERM_GRACE, Probe, start_probe
from mcpkeep.supervisor.upgrade.release_store import read_release
from mcpkeep.supervisor.workspace import prepare_index

__all__ = ["DirectServer"]


class DirectServer:
    """A `LiveServer` for the commands of a terminal. As a context it ends what it started, by SIGTERM."""

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
    ) -> None:
        """`run_id` is the mark by which a watcher, where there is one, finds the server; `arguments` are the
        user's own for it.
        """
        self._layout = layout
        self._run_id = run_id
        self._arguments = tuple(arguments)
        self._patience = patience
        self._term_grace = term_grace
        self._environ = clean_environment(os.environ if environ is None else environ)
        self._heard = heard
        self._probe: Probe | None = None
        self._started: str | None = None
        self._tools: Mapping[str, str] = {}

    async def __aenter__(self) -> "DirectServer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drop()

    @property
    def serving(self) -> bool:
        """No client is attached to it, ever."""
        return False

    @property
    def release(self) -> str | None:
        """None: nobody is served."""
        return None

    def is_up(self, release_id: str) -> bool:
        """Whether a server of that release was started here, and can be called."""
        return self._probe is not None and self._started == release_id

    @property
    def pid(self) -> int | None:
        """Of the started server; None where none runs."""
        return None if self._probe is None else self._probe.pid

    async def tools(self) -> Mapping[str, str]:
        """The started server's; empty before start()."""
        return self._tools

    async def call(
        self, tool: str, arguments: Mapping[str, object], *, within: float
    ) -> Mapping[str, object]:
        """Call a tool of the started server. Seconds. Raises UpgradeFailed, also where none was started."""
        if self._probe is None:
            raise UpgradeFailed(
                "no server of the live workspace runs here", remediation="start mcpkeep for the workspace"
            )
        return await self._probe.call(tool, arguments, within=within)

    async def start(self, release_id: str, *, progress: Progress) -> None:
        """Boot the release on the live workspace, up to its list of tools. Raises UpgradeFailed."""
        await self.drop()
        release = await anyio.to_thread.run_sync(read_release, self._layout, release_id)
        workspace = self._layout.workspace
        await anyio.to_thread.run_sync(prepare_index, str(self._layout.base), str(workspace))
        doing = "starting the server on the workspace"
        progress(doing)
        self._probe = await start_probe(
            launch_release(self._layout, release, workspace, self._arguments),
            str(workspace),
            self._run_id,
            patience=self._patience,
            term_grace=self._term_grace,
            environ=self._environ,
            heard=self._heard,
        )
        try:
            await self._probe.handshake(waiting=lambda line: progress(f"{doing}: {line.strip()[:100]}"))
            self._tools = await self._probe.tools()
            self._started = release_id
        except BaseException:
            await self.drop()
            raise

    async def promote(self, *, freeze: bool) -> None:
        """Nothing is to be moved; the started server stays up to be validated."""

    async def drop(self) -> None:
        """End the started server; harmless where none runs."""
        probe, self._probe, self._tools = self._probe, None, {}
        if probe is not None:
            await probe.end()
            await anyio.to_thread.run_sync(_forget_server, self._layout.base / SERVER_STATE, probe.pid)

    def frozen(self) -> str | None:
        """Nothing is ever frozen: it would outlive the command."""
        return None

    async def end_frozen(self) -> None: ...

    def stderr_since_switch(self) -> tuple[str, ...]:
        """The last lines of the started server's stderr, oldest first."""
        return () if self._probe is None else self._probe.stderr_lines(TAIL_LINES)


class _ServerState(msgspec.Struct):
    pid: int


def _forget_server(state: Path, pid: int) -> None:
    """Remove the state file that a server ended by SIGTERM leaves, if it is that server's own."""
    with suppress(OSError, msgspec.DecodeError):
        if msgspec.json.decode(state.read_bytes(), type=_ServerState).pid == pid:
            state.unlink()
