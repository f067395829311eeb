"""A process that changes sessions with many writers at once and tells what was acknowledged; to be killed.

Each line on stdout is `what session_id revision`: `will` before a call, `did` after its answer.
"""

import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import anyio

from mcpkeep.actors.session import SessionActor
from mcpkeep.protocol.workflow import transition as rules
from mcpkeep.protocol.workflow.session import Session, SessionError
from mcpkeep.supervisor.session_store import SessionFiles
from mcpkeep.supervisor.session_threads import ThreadedSessionStore

WRITERS = 64


def tell(what: str, session_id: str, revision: int) -> None:
    # One write of less than PIPE_BUF: whole or not at all, even when killed.
    os.write(1, f"{what} {session_id} {revision}\n".encode())


def note(session: Session) -> Session:
    """Grows the session a little, so that torn files would show."""
    revision = session.revision + 1
    tell("will", session.session_id, revision)
    now = datetime.now(UTC)
    error = SessionError(1, now, "ValidationError", f"change {revision} " + "x" * 500)
    return rules.record_error(session, error=error, now=now)


async def work(actor: SessionActor) -> None:
    while True:
        started = await actor.start(workflow_type="w", target_file="a.py", first_phase=1, last_phase=3)
        session_id = started.session.session_id
        tell("did", session_id, 1)
        for _ in range(4):
            changed = await actor.change(session_id, note)
            tell("did", session_id, changed.after.revision)
        tell("will", session_id, 0)
        if int(session_id[-1], 16) % 2:
            await actor.delete(session_id)
            tell("did", session_id, 0)


async def main(folder: Path) -> None:
    store = ThreadedSessionStore(SessionFiles(folder, who="writers"))
    actor = SessionActor(store=store, now=lambda: datetime.now(UTC), new_id=lambda: str(uuid.uuid4()))
    await actor.load()
    async with anyio.create_task_group() as group:
        for _ in range(WRITERS):
            group.start_soon(work, actor)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
