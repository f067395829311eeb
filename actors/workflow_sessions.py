"""The actions on sessions as a whole: list, look at, pause, delete; and the listing of workflows."""

from mcpkeep.actors.workflow_desk import Desk, Members
from mcpkeep.protocol.workflow.answer import error_members, history_of, state_of, summary_of
from mcpkeep.protocol.workflow.refusal import NotFound, StateConflict
from mcpkeep.protocol.workflow.request import (
    DeleteSession,
    GetErrors,
    GetSession,
    GetState,
    ListSessions,
    ListWorkflows,
    Pause,
)
from mcpkeep.protocol.workflow.session import Status

__all__ = [
    "delete_session",
    "get_errors",
    "get_session",
    "get_state",
    "list_sessions",
    "list_workflows",
    "pause",
]

PAGE = 100
"""Sessions in a list whose length nobody names."""


async def list_workflows(desk: Desk, asked: ListWorkflows) -> Members:
    listing = await desk.catalog.ask(lambda shelf: shelf.listing(asked.category))
    warning = {} if listing.warning is None else {"warning": listing.warning}
    return {"workflows": listing.workflows, "count": len(listing.workflows), **warning}


async def list_sessions(desk: Desk, asked: ListSessions) -> Members:
    status = Status(asked.status) if asked.status is not None else None
    limit = PAGE if asked.limit is None else asked.limit
    page = await desk.sessions.list(status, limit=limit, offset=asked.offset or 0)
    return {
        "sessions": [summary_of(summary) for summary in page.sessions],
        "count": page.count,
        **({"warnings": page.warnings} if page.warnings else {}),
    }


async def get_state(desk: Desk, asked: GetState) -> Members:
    session = await desk.sessions.get(asked.session_id)
    return state_of(session, await desk.total_of(session))


async def get_session(desk: Desk, asked: GetSession) -> Members:
    session = await desk.sessions.get(asked.session_id)
    state = state_of(session, await desk.total_of(session))
    return {"session": {"session_id": session.session_id, **state, **history_of(session)}}


async def get_errors(desk: Desk, asked: GetErrors) -> Members:
    session = await desk.sessions.get(asked.session_id)
    last = session.errors[-1].timestamp if session.errors else None
    return {
        "errors": error_members(session.errors),
        "error_count": session.error_count,
        "last_error": last,
    }


async def pause(desk: Desk, asked: Pause) -> Members:
    session = await desk.sessions.get(asked.session_id)
    changed = await desk.sessions.pause(session.session_id, note=asked.checkpoint_note, seen=session)
    return {"paused": True, "resume_capable": True, "checkpoint": changed.after.checkpoint}


async def delete_session(desk: Desk, asked: DeleteSession) -> Members:
    try:
        session = await desk.sessions.get(asked.session_id)
    except NotFound:
        session = None
    if session is not None:
        desk.runs.require_idle(session.session_id)
        runner = desk.runs.runner(session.workflow_type)
        if runner is not None and (why := runner.holds(session)) is not None:
            raise StateConflict(
                f"the session cannot be deleted: {why}", "finish it, or roll it back to phase 0"
            )
    deleted = await desk.sessions.delete(asked.session_id, reason=asked.reason)
    return {
        "deleted": True,
        "cleanup": {"state_file_removed": deleted.state_file_removed, "artifacts_preserved": True},
        "reason": asked.reason,
    }
