"""A child's life step by step: each event answers with what must be done."""

from mcpkeep.protocol.child import (
    Child,
    ChildEffect,
    ChildEvent,
    Crashed,
    Exited,
    Notify,
    Spawned,
    StartChild,
)
from mcpkeep.protocol.life import step
from mcpkeep.protocol.switch import ChildReady, Exit

__all__ = ["CLEAN", "KILLED", "Life", "exited", "spawned", "up"]

KILLED = Exit(signal="SIGKILL")
CLEAN = Exit(code=0)


class Life:
    """A child and a clock; each event answers with its effects, the notices and crashes apart."""

    def __init__(self, child: Child | None = None, *, now: float = 100.0) -> None:
        self.child = Child("server") if child is None else child
        self.now = now
        self.notices: list[Notify] = []
        self.crashes: list[Crashed] = []

    def __call__(self, event: ChildEvent, *, at: float | None = None) -> list[ChildEffect]:
        self.now = self.now if at is None else at
        self.child, effects = step(self.child, event, now=self.now, chance=1.0)
        self.notices += [effect for effect in effects if isinstance(effect, Notify)]
        self.crashes += [effect for effect in effects if isinstance(effect, Crashed)]
        return [effect for effect in effects if not isinstance(effect, Notify | Crashed)]

    def play(self, *events: ChildEvent) -> "Life":
        for event in events:
            self(event)
        return self


def spawned(generation: int) -> Spawned:
    return Spawned(generation, 1000 + generation)


def exited(generation: int, exit_: Exit = KILLED) -> Exited:
    return Exited(generation, exit_, 7)


def up(child: Child | None = None) -> Life:
    return Life(child).play(StartChild(), spawned(1), ChildReady(1))
