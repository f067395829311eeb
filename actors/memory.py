"""Replaces the child when its process tree holds more memory than it may."""

from collections.abc import Callable
from typing import Protocol

import anyio

from mcpkeep.actors.actor import Actor, ActorError
from mcpkeep.protocol.child import ChildEvent, ChildState, GetStatus, Notify, RestartChild
from mcpkeep.protocol.memory import Guard, judge_memory

__all__ = ["INTERVAL", "MemoryMeter", "watch_memory"]

INTERVAL = 5.0
"""Seconds between measurements: listing the processes of a machine takes milliseconds."""

STATUS_LIMIT = 10.0


class MemoryMeter(Protocol):
    async def held(self, pid: int) -> int | None:
        """The resident bytes of the process and all its descendants; None if there is no such process."""
        ...


async def watch_memory(
    *,
    child: Actor[ChildEvent | GetStatus],
    meter: MemoryMeter,
    limit: int,
    notify: Callable[[Notify], None],
    restart_limit: float,
    interval: float = INTERVAL,
    clock: Callable[[], float] = anyio.current_time,
) -> None:
    """Measure every `interval` seconds, until cancelled or the child actor has left.

    Only a child that serves alone is judged: one that is being replaced already goes anyway.

    Args:
        limit: bytes.
        restart_limit: seconds that a replacement may take.
    """
    guard = Guard(limit)
    while True:
        await anyio.sleep(interval)
        try:
            status = await child.ask(GetStatus(), within=STATUS_LIMIT)
            if status.pid is None or not status.ready or status.state is not ChildState.UP:
                continue
            held = await meter.held(status.pid)
            if held is None:
                continue
            guard, verdict = judge_memory(guard, held, clock())
            if verdict.warning is not None:
                notify(Notify("warning", verdict.warning))
            if verdict.restart is not None:
                await child.ask(RestartChild(reason=verdict.restart), within=restart_limit)
        except ActorError:
            continue  # it is told elsewhere, and the next measurement finds how things stand
