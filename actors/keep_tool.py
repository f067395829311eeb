"""Answers the tool `mcpkeep`, by asking the child actor and the relay."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import msgspec
from msgspec import Raw

from mcpkeep.actors.actor import Actor, ActorError
from mcpkeep.actors.toolbox import Progress, refusal
from mcpkeep.protocol.child import ChildEvent, GetStatus, ReplaceMode, RestartChild, RestartDone
from mcpkeep.protocol.keep import KeepArguments, KeepOptions, action_names
from mcpkeep.protocol.relay.relay import RelayStatus
from mcpkeep.protocol.relay.tools import ToolResult

if TYPE_CHECKING:
    from mcpkeep.protocol.upgrade.tool import UpgradeArguments

__all__ = ["KeepTool", "Upgrades"]

STATUS_LIMIT = 5.0
"""Seconds for the child actor to describe itself; it never waits for the child to do so."""

_Answer: TypeAlias = Mapping[str, object]


class Upgrades(Protocol):
    """Answers the actions that upgrade."""

    async def call(self, asked: "UpgradeArguments", progress: Progress) -> ToolResult: ...

    async def status(self) -> Mapping[str, object]:
        """Release, lock, what is under way, probation."""
        ...


class KeepTool:
    """One call is one action; each is a row of the table below."""

    def __init__(
        self,
        *,
        child: Actor[ChildEvent | GetStatus],
        relay_status: Callable[[], RelayStatus],
        stderr_lines: Callable[[int], tuple[str, ...]],
        about: Callable[[], Mapping[str, object]],
        workflows: Callable[[], Awaitable[Mapping[str, object]]] | None = None,
        restart_limit: float,
        upgrades: "Upgrades | None" = None,
    ) -> None:
        """`about` describes this mcpkeep itself, `workflows` the sessions; `restart_limit` is in seconds.

        `upgrades` answers the further actions of a workspace with prAxIs OS.
        """
        self._upgrades = upgrades
        self._arguments: type[KeepArguments | UpgradeArguments] = (
            KeepArguments if upgrades is None else _upgrade_arguments()
        )
        self._workflows = workflows
        self._child = child
        self._relay_status = relay_status
        self._stderr_lines = stderr_lines
        self._about = about
        self._restart_limit = restart_limit
        self._actions: dict[str, Callable[[KeepOptions], Awaitable[_Answer | ToolResult]]] = {
            "status": self._status,
            "restart": self._restart,
            "logs": self._logs,
        }

    async def call(self, arguments: Raw, progress: Progress) -> ToolResult:
        """Answer one call."""
        try:
            asked = msgspec.json.decode(bytes(arguments) or b"{}", type=self._arguments)
        except msgspec.DecodeError as error:
            actions = action_names(self._arguments)
            return refusal(
                None,
                "ValueError",
                f"the arguments cannot be used: {error}",
                f"Give `action`, one of {', '.join(actions)}, and what that action takes.",
                valid_actions=actions,
            )
        try:
            if self._upgrades is not None and asked.action not in self._actions:
                return await self._upgrades.call(cast("UpgradeArguments", asked), progress)
            answer = await self._actions[asked.action](asked)
        except ActorError as error:
            return refusal(asked.action, "StateError", str(error), "Try again; `status` tells how it stands.")
        if isinstance(answer, ToolResult):
            return answer
        members = {"status": "success", "action": asked.action, **answer}
        return ToolResult(Raw(msgspec.json.encode(members)))

    async def _status(self, asked: KeepOptions) -> _Answer:
        child = await self._child.ask(GetStatus(), within=STATUS_LIMIT)
        workflows = {} if self._workflows is None else {"workflows": await self._workflows()}
        upgrade = {} if self._upgrades is None else {"upgrade": await self._upgrades.status()}
        return {
            "server": child,
            "session": self._relay_status(),
            "mcpkeep": self._about(),
            **workflows,
            **upgrade,
        }

    async def _restart(self, asked: KeepOptions) -> _Answer | ToolResult:
        mode = ReplaceMode(asked.mode) if asked.mode is not None else None
        question = RestartChild(mode=mode, reason="the tool `mcpkeep` was asked to")
        outcome = await self._child.ask(question, within=self._restart_limit)
        if isinstance(outcome, RestartDone):
            child = await self._child.ask(GetStatus(), within=STATUS_LIMIT)
            return {"restarted": True, "server": child}
        keeps = "The former server still serves." if outcome.kept else "No server is up now."
        return refusal(
            "restart",
            "RestartFailed",
            outcome.reason,
            f"{keeps} Look at `logs`, mend the cause, and call `restart` again.",
            stderr_tail=self._stderr_lines(asked.lines),
        )

    async def _logs(self, asked: KeepOptions) -> _Answer:
        lines = self._stderr_lines(asked.lines)
        return {"lines": lines, "count": len(lines)}


def _upgrade_arguments() -> "type[UpgradeArguments]":
    # Only where upgrades are offered: what it imports delays the first answer.
    from mcpkeep.protocol.upgrade.tool import UpgradeArguments

    return UpgradeArguments
