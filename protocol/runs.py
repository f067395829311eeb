"""What `life.py` and `handover.py` share: how one process is begun, told to end, and spoken of."""

import msgspec
from msgspec.structs import replace

from mcpkeep.protocol.child import (
    After,
    AnswerRestart,
    Child,
    ChildEffect,
    ChildState,
    Exited,
    KillProcess,
    RestartFailed,
    RestartOutcome,
    Run,
    SpawnChild,
    SpawnFailed,
    Stage,
    StopProcess,
)
from mcpkeep.protocol.switch import ChildExited, Exit, describe_exit

__all__ = [
    "Moment",
    "Result",
    "answer_restart",
    "end",
    "ending",
    "exit_of",
    "how",
    "is_due",
    "known",
    "late",
    "new_run",
    "spawn",
    "stop_process",
    "told",
]

Result = tuple[Child, tuple[ChildEffect, ...]]


class Moment(msgspec.Struct, frozen=True):
    """What the world adds to an event."""

    now: float
    chance: float


def known(child: Child, generation: int) -> Run:
    run = child.find(generation)
    assert run is not None  # step() lets no other generation through
    return run


def new_run(child: Child, moment: Moment, release: str | None) -> Run:
    # Before any child was ready the client may not have opened its session, which is no fault of the child's.
    bounded = child.proven and child.settings.start_limit > 0
    deadline = moment.now + child.settings.start_limit if bounded else None
    return Run(child.generation + 1, deadline=deadline, release=release)


def spawn(child: Child, moment: Moment) -> Result:
    """Start the child's release, to serve."""
    run = new_run(child, moment, child.release)
    child = replace(child, state=ChildState.UP, current=run, generation=run.generation, retry_at=None)
    return child, (SpawnChild(run.generation, run.release),)


def ending(run: Run, fault: str | None = None) -> Run:
    return replace(run, stage=Stage.ENDING, deadline=None, fault=run.fault or fault)


def end(child: Child, run: Run) -> tuple[ChildEffect, ...]:
    """Stop it once: one that is ending already was told, one not yet spawned is told when it is."""
    if run.stage is Stage.FROZEN:
        return (KillProcess(run.generation),)  # it hears nothing gentler
    if run.stage is Stage.ENDING or run.started_at is None:
        return ()
    return (stop_process(child, run),)


def stop_process(child: Child, run: Run) -> StopProcess:
    eof_grace = child.settings.stop_eof if run.after is After.EOF else None
    return StopProcess(run.generation, eof_grace, child.settings.stop_term)


def told(run: Run, event: Exited | SpawnFailed, *, planned: bool) -> tuple[ChildEffect, ...]:
    """The word to the relay, which knows nothing of a process that never was."""
    if isinstance(event, SpawnFailed):
        return ()
    return (ChildExited(run.generation, event.exit, event.accepted, planned),)


def exit_of(event: Exited | SpawnFailed) -> Exit:
    return event.exit if isinstance(event, Exited) else Exit(spawn_error=event.reason)


def how(run: Run, exit_: Exit) -> str:
    return describe_exit(exit_) if run.fault is None else f"{describe_exit(exit_)} after it {run.fault}"


def late(child: Child) -> str:
    return f"was not ready within {child.settings.start_limit:g} s"


def is_due(run: Run | None, now: float) -> bool:
    return run is not None and run.deadline is not None and run.deadline <= now


def answer_restart(child: Child, outcome: RestartOutcome) -> Result:
    """Answer those who wait for a restart, if any do."""
    if not child.restart:
        return child, ()
    failed = outcome.reason if isinstance(outcome, RestartFailed) else None
    return replace(child, restart=False, restart_failed=failed), (AnswerRestart(outcome),)
