"""The server that the workspace's clients are attached to, as an upgrade handles it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio
import msgspec

from mcpkeep.actors.actor import ActorError
from mcpkeep.actors.child import ChildActor
from mcpkeep.actors.relay import RelayActor, RequestFailed
from mcpkeep.actors.upgrade_world import Progress
from mcpkeep.protocol.question import Question
from mcpkeep.protocol.replacement import (
    ChildPrepared,
    DropPrepared,
    EndFrozen,
    PrepareChild,
    PrepareFailed,
    PromoteDone,
    PromotePrepared,
    SwitchRefused,
)
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.proof import tool_digests

__all__ = ["RunningServer"]

DRAIN = 5.0
"""Seconds that calls in flight may take to finish at the old server: the debounce of its file watcher."""

LIST_LIMIT = 30.0
"""Seconds for one page of tools/list."""

SETTLE_SLACK = 30.0
"""Seconds beyond its graces that an old server may take to be gone, which a killed one does not need."""

STDERR_LINES = 100
_MAX_PAGES = 100

Answer = TypeVar("Answer")


class RunningServer:
    """A `LiveServer` made of the child actor and the relay."""

    def __init__(
        self,
        *,
        child: ChildActor,
        relay: RelayActor,
        stderr_lines: Callable[[int, int | None], tuple[str, ...]],
        start_limit: float,
        stop_limit: float,
        moved: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Take the actors.

        Args:
            stderr_lines: the last so many lines of a generation, or of the newest one.
            start_limit: seconds that a server may take to start, with the end of the former where it has to
                make room.
            stop_limit: seconds that one may take to end.
            moved: awaited after each promote() that succeeds; it raises nothing.
        """
        self._child = child
        self._relay = relay
        self._stderr_lines = stderr_lines
        self._start_limit = start_limit
        self._stop_limit = stop_limit
        self._moved = moved
        self._generation: int | None = None

    @property
    def serving(self) -> bool:
        """Whether there is one that clients are attached to."""
        return self._child.ready and self._relay.is_attended

    @property
    def release(self) -> str | None:
        """The release of the one that serves; None where it is of none."""
        return self._child.release

    @property
    def pid(self) -> int | None:
        """Of the one that serves; None where there is none."""
        return self._child.pid

    def is_up(self, release_id: str) -> bool:
        """Whether a server of that release can be called."""
        return self.serving and self.release == release_id

    async def tools(self) -> Mapping[str, str]:
        """Its tools: name to SHA-256 of their description and schemas. Empty where none serves."""
        tools: list[Mapping[str, object]] = []
        if not self.serving:
            return {}
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self._request("tools/list", {} if cursor is None else {"cursor": cursor}, LIST_LIMIT)
            decoded = _decode_page(page)
            tools += decoded.tools
            cursor = decoded.next_cursor
            if cursor is None:
                break
        return tool_digests(tools)

    async def call(
        self, tool: str, arguments: Mapping[str, object], *, within: float
    ) -> Mapping[str, object]:
        """Call one of its tools, and answer the result object. Seconds. Raises UpgradeFailed."""
        result = await self._request("tools/call", {"name": tool, "arguments": arguments}, within)
        return msgspec.json.decode(result, type=dict[str, object])

    async def start(self, release_id: str | None, *, progress: Progress) -> None:
        """Start a server of that release beside the serving one, up to its handshake. See `LiveServer`.

        None is the command as configured.
        """
        of = "as configured" if release_id is None else f"of release {release_id}"
        progress(f"starting the server {of}")
        try:
            outcome = await self._ask(PrepareChild(release_id), self._start_limit)
        except BaseException:
            self._child.tell(DropPrepared())
            raise
        match outcome:
            case ChildPrepared():
                progress(f"the server {of} is ready")
            case PrepareFailed() | SwitchRefused():
                raise self._failed(outcome)

    async def promote(self, *, freeze: bool) -> None:
        """Move requests to the started one; returns when the old one is frozen or gone. See `LiveServer`."""
        question = PromotePrepared(freeze=freeze, drain=DRAIN)
        with anyio.CancelScope(shield=True):  # it is done all the same, and somebody has to know
            match await self._ask(question, DRAIN + self._stop_limit + SETTLE_SLACK):
                case PromoteDone(generation):
                    self._generation = generation
                case PrepareFailed() | SwitchRefused() as outcome:
                    raise self._failed(outcome)
        if self._moved is not None:
            await self._moved()

    async def drop(self) -> None:
        """End the started one; the old one goes on. May be called where none was started."""
        await self._ask(DropPrepared(), self._stop_limit + SETTLE_SLACK)

    def frozen(self) -> str | None:
        """The release of the frozen server; None where there is none."""
        return self._child.frozen

    async def end_frozen(self) -> None:
        self._child.tell(EndFrozen())

    def stderr_since_switch(self) -> tuple[str, ...]:
        """The last lines of its stderr, oldest first."""
        return self._stderr_lines(STDERR_LINES, self._generation) or self._stderr_lines(STDERR_LINES, None)

    async def _ask(self, question: Question[Answer], within: float) -> Answer:
        try:
            return await self._child.ask(question, within=within)
        except ActorError as error:
            raise UpgradeFailed(
                f"the server could not be switched: {error}",
                remediation="Look at the log, and try again when the server is up.",
            ) from error

    async def _request(self, method: str, params: Mapping[str, object], within: float) -> msgspec.Raw:
        try:
            return await self._relay.request(method, params, within=within)
        except RequestFailed as error:
            raise UpgradeFailed(
                f"the live server failed: {error}",
                remediation="Look at its stderr by the tool `mcpkeep` with the action `logs`.",
                details={"stderr_tail": self.stderr_since_switch()},
            ) from error

    def _failed(self, outcome: PrepareFailed | SwitchRefused) -> UpgradeFailed:
        if isinstance(outcome, SwitchRefused):
            return UpgradeFailed(outcome.reason, remediation="Try again when that is over.")
        exit_ = outcome.exit
        tail = exit_.stderr_tail if exit_ is not None else self._stderr_lines(STDERR_LINES, None)
        return UpgradeFailed(
            outcome.reason,
            remediation="The former release stays. Mend what its last lines of stderr name, and try again.",
            details={
                "exit_code": exit_.code if exit_ is not None else None,
                "signal": exit_.signal if exit_ is not None else None,
                "stderr_tail": tail,
            },
        )


class _Page(msgspec.Struct):
    tools: list[dict[str, object]] = []
    next_cursor: str | None = msgspec.field(default=None, name="nextCursor")


def _decode_page(raw: msgspec.Raw) -> _Page:
    try:
        return msgspec.json.decode(raw, type=_Page)
    except msgspec.DecodeError as error:
        raise UpgradeFailed(
            f"the live server's tools/list cannot be read: {error}",
            remediation="Mend the server: its answer is not what the protocol says.",
        ) from error
