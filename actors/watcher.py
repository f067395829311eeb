"""Restarts the child when files it is made of change."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from mcpkeep.actors.actor import Actor, ActorError
from mcpkeep.protocol.child import ChildEvent, GetStatus, Notify, RestartChild, RestartDone

__all__ = ["FileChanges", "describe_changes", "watch_files"]

STATUS_LIMIT = 10.0


class FileChanges(Protocol):
    def watch(self) -> AsyncIterator[Sequence[str]]:
        """The paths that changed, each time some did and then were quiet for a moment. Never ends by itself.

        What changes while the receiver is busy comes next.
        """
        ...


async def watch_files(
    *,
    child: Actor[ChildEvent | GetStatus],
    changes: FileChanges,
    notify: Callable[[Notify], None],
    restart_limit: float,
) -> None:
    """Ask for a restart at each change, until cancelled.

    A restart under way may have started its process before the change; then another follows. One that fails
    is told by the child actor, and the next change tries again. `restart_limit` is in seconds.
    """
    async for paths in changes.watch():
        reason = f"{describe_changes(paths)} changed"
        try:
            while True:
                status = await child.ask(GetStatus(), within=STATUS_LIMIT)
                newest = max(status.generation, status.candidate or 0)
                joins = status.candidate is not None
                if joins:
                    notify(Notify("info", f"{reason}; the server starts again after the restart under way"))
                outcome = await child.ask(RestartChild(reason=reason), within=restart_limit)
                if outcome.generation > newest if isinstance(outcome, RestartDone) else not joins:
                    break
        except ActorError:
            continue  # the child actor has left, or the restart takes its time; the next change asks again


def describe_changes(paths: Sequence[str]) -> str:
    """Name the first path and count the others."""
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
