"""A child's pipes as a wire that is connected to the relay."""

from functools import partial
from typing import Protocol

from mcpkeep.actors.interfaces import Wire
from mcpkeep.supervisor.process import Spawned
from mcpkeep.supervisor.wire import FdWire

__all__ = ["RelayPort", "connect_child"]


class RelayPort(Protocol):
    """Where the bytes of children go; called in the event loop's thread, each with the child's generation."""

    def connect(self, generation: int, wire: Wire) -> None:
        """This is the generation's wire; nothing is read from it before."""
        ...

    def child_data(self, generation: int, data: bytes) -> None: ...

    def child_eof(self, generation: int) -> None:
        """It writes nothing more; comes once, and before wait() returns."""
        ...

    def child_broken(self, generation: int) -> None:
        """It reads nothing more: what is written to it from now on is dropped."""
        ...

    def child_writable(self, generation: int) -> None:
        """What was queued has gone down far enough to write again."""
        ...


def connect_child(relay: RelayPort, child: Spawned) -> FdWire:
    """Connect the child to the relay, and read from it; to be called in the running event loop."""
    wire = FdWire(
        child.stdout,
        child.stdin,
        on_data=partial(relay.child_data, child.generation),
        on_eof=partial(relay.child_eof, child.generation),
        on_broken=partial(relay.child_broken, child.generation),
        on_writable=partial(relay.child_writable, child.generation),
    )
    relay.connect(child.generation, wire)
    wire.open()
    return wire
