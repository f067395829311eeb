"""What the actors need of the world. The supervisor supplies these; tests supply fakes."""

from typing import Protocol

from mcpkeep.protocol.switch import Exit

__all__ = ["ChildHost", "ChildProcess", "Wire"]


class Wire(Protocol):
    """The pipes to one peer. Writing never blocks and never raises; what is read is pushed to its opener."""

    @property
    def accepted(self) -> int:
        """Bytes that the kernel has taken since the wire was opened."""
        ...

    @property
    def queued(self) -> int:
        """Bytes written here that the kernel has not taken yet."""
        ...

    def write(self, data: bytes) -> bool:
        """Hand on `data`, or queue what the kernel does not take; dropped once the peer is gone.

        Returns whether the peer keeps up. Where not, write no more until told that it is writable.
        """
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close_writing(self) -> None:
        """Close the write side after what is queued has gone out."""
        ...


class ChildProcess(Protocol):
    """One running child: a process, the leader of its own group."""

    @property
    def pid(self) -> int: ...

    @property
    def wire(self) -> Wire: ...

    async def wait(self) -> Exit:
        """Wait for the process to end; all it wrote has been handed on by then. May be awaited again."""
        ...

    async def stop(self, *, eof_grace: float | None, term_grace: float) -> Exit:
        """End it: close stdin, wait, SIGTERM to its group, wait, SIGKILL to its whole tree. Seconds.

        With `eof_grace` None its stdin stays open, and SIGTERM comes first. A cancelled stop kills at once.
        Returns what wait() returns.
        """
        ...

    def freeze(self) -> None:
        """SIGSTOP its group: it does nothing, keeps its memory and its ports, and can be killed."""
        ...

    def thaw(self) -> None:
        """SIGCONT its group."""
        ...

    def kill(self) -> None:
        """SIGKILL its whole tree, now."""
        ...


class ChildHost(Protocol):
    """Starts children. Each generation is started once."""

    async def spawn(self, generation: int, release: str | None) -> ChildProcess:
        """Start the release, or the configured command; its wire is connected to the relay as `generation`.

        Raises:
            SpawnError: it could not be executed, or the release is not there; the text says which and why.
        """
        ...
