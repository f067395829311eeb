"""Answers the tool `pos_workflow`: one table joins each action's type to the function that answers it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar, cast

import anyio
import anyio.to_thread
import msgspec
from msgspec import Raw

from mcpkeep.actors import workflow_phases as phases
from mcpkeep.actors import workflow_sessions as sessions
from mcpkeep.actors.phase_runs import PhaseRuns
from mcpkeep.actors.session import SessionActor
from mcpkeep.actors.toolbox import Progress, named_action, refusal
from mcpkeep.actors.workflow_desk import Catalog, Desk, Members
from mcpkeep.protocol.relay.tools import ToolResult
from mcpkeep.protocol.workflow.refusal import Refusal
from mcpkeep.protocol.workflow.request import (
    CompletePhase,
    DeleteSession,
    GetErrors,
    GetPhase,
    GetSession,
    GetState,
    GetTask,
    Kinds,
    ListSessions,
    ListWorkflows,
    OfSession,
    Pause,
    Request,
    Resume,
    RetryPhase,
    Rollback,
    Start,
    action_of,
    parse_request,
)

__all__ = ["ANSWERED", "WorkflowTool"]

R = TypeVar("R", bound=Request)

_Handler: TypeAlias = Callable[[Desk, Request], Awaitable[Members]]

LARGE = 64 * 1024
"""Bytes from which on arguments and answers are not worked on in the event loop: about a millisecond."""


def _row(kind: type[R], answer: Callable[[Desk, R], Awaitable[Members]]) -> tuple[type[Request], _Handler]:
    return kind, cast("_Handler", answer)


_ACTIONS: Mapping[type[Request], _Handler] = dict(
    (
        _row(ListWorkflows, sessions.list_workflows),
        _row(Start, phases.start),
        _row(GetPhase, phases.get_phase),
        _row(GetTask, phases.get_task),
        _row(CompletePhase, phases.complete_phase),
        _row(GetState, sessions.get_state),
        _row(ListSessions, sessions.list_sessions),
        _row(GetSession, sessions.get_session),
        _row(DeleteSession, sessions.delete_session),
        _row(Pause, sessions.pause),
        _row(Resume, phases.resume),
        _row(RetryPhase, phases.retry_phase),
        _row(Rollback, phases.rollback),
        _row(GetErrors, sessions.get_errors),
    )
)

ANSWERED = tuple(_ACTIONS)
"""The types of all actions that are answered here: those of `protocol.workflow.request`, each."""

_KINDS = Kinds(_ACTIONS)


class WorkflowTool:
    """One call is one action. Calls run concurrently; those that change one session take turns."""

    def __init__(self, *, sessions: SessionActor, catalog: Catalog, runs: PhaseRuns) -> None:
        self._sessions = sessions
        self._catalog = catalog
        self._runs = runs
        self._loading = anyio.Lock()
        self._loaded = False

    async def call(self, arguments: Raw, progress: Progress) -> ToolResult:
        """Answer one call; what it reports as changed is on disk by then."""
        data = bytes(arguments)
        action: str | None = None
        session: dict[str, object] = {}
        try:
            if len(data) > LARGE:
                asked = await anyio.to_thread.run_sync(parse_request, data, _KINDS)
            else:
                asked = parse_request(data, _KINDS)
            action = action_of(type(asked))
            if isinstance(asked, OfSession):
                session = {"session_id": asked.session_id}
            await self.load()
            desk = Desk(self._sessions, self._catalog, self._runs, progress)
            members = await _ACTIONS[type(asked)](desk, asked)
        except Refusal as refused:
            return refusal(
                action or named_action(data),
                refused.error_type,
                str(refused),
                refused.remediation,
                **{**session, **refused.more},
            )
        answer = {"status": "success", "action": action, **session, **members}
        return ToolResult(Raw(msgspec.json.encode(answer)), is_error=answer["status"] == "error")

    async def load(self) -> None:
        """Read what the disk holds, once. Calls do so themselves; a start need not wait for it."""
        if self._loaded:
            return
        async with self._loading:
            if not self._loaded:
                await self._sessions.load()
                self._loaded = True
