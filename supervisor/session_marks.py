"""Marks a workflow session where no tool does: one that led an upgrade ends with the rollback of it."""

import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from mcpkeep.actors.session import SessionActor
from mcpkeep.protocol.workflow.refusal import InvalidArgument, NotFound, Refusal
from mcpkeep.protocol.workflow.session import SessionError
from mcpkeep.supervisor.session_store import SessionFiles
from mcpkeep.supervisor.session_threads import ThreadedSessionStore
from mcpkeep.supervisor.workflow_parts import sessions_folder

__all__ = ["GONE_BACK", "mark_rolled_back", "mark_session_rolled_back"]

GONE_BACK = "it was interrupted, and rolled back at the next start"
"""What a session is told whose upgrade recovery took back."""

_log = logging.getLogger("mcpkeep")


async def mark_rolled_back(sessions: SessionActor, session_id: str, reason: str) -> None:
    """Make the session `rolled_back`, with the reason; one that is unknown or is so already is left alone."""
    try:
        try:
            session = await sessions.get(session_id)
        except (InvalidArgument, NotFound):
            return  # no workflow led it
        error = SessionError(
            phase=session.current_phase,
            timestamp=datetime.now(UTC),
            error_type="UpgradeRolledBack",
            message=reason,
            remediation="read the report, mend the cause, and start a new session",
        )
        await sessions.undo(session_id, error=error)
    except Refusal as refusal:
        _log.info("session %s is not marked as rolled back: %s", session_id, refusal)


def mark_session_rolled_back(workspace: Path) -> Callable[[str, str], Awaitable[None]]:
    """Do so on the workspace's own files, for as long as a change takes."""

    async def mark(session_id: str, reason: str) -> None:
        files = SessionFiles(
            sessions_folder(str(workspace), None),
            who="mcpkeep rollback",
            older=[],
        )
        sessions = SessionActor(
            store=ThreadedSessionStore(files),
            now=lambda: datetime.now(UTC),
            new_id=lambda: str(uuid.uuid4()),
        )
        await sessions.load()
        try:
            await mark_rolled_back(sessions, session_id, reason)
        finally:
            await sessions.close()

    return mark
