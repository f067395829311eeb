"""The rules of the child's life: one table, keyed by state and event type, complete in both.

House rules. A process is current, candidate or leaving from the order to spawn it until its exit, so none
is ever forgotten. A leaving one is treated alike in every state, and a word about an unknown generation
moves nothing; only what is left reaches the table. After a crash the order to spawn comes first, since
clients are waiting, and the words to the relay and the log after it.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import msgspec
from msgspec.structs import replace

from mcpkeep.protocol.child import (
    AnswerRestart,
    Child,
    ChildEffect,
    ChildEvent,
    ChildState,
    DeadlinePassed,
    Exited,
    KillProcess,
    Level,
    Notify,
    ReplaceMode,
    RestartChild,
    RestartDone,
    RestartFailed,
    RestartOutcome,
    Run,
    SpawnChild,
    Spawned,
    SpawnFailed,
    Stage,
    StartChild,
    StopChild,
    StopProcess,
    Wanted,
)
from mcpkeep.protocol.restart import GiveUp, Restart, Stay, Tally, decide
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildDrained,
    ChildExited,
    ChildPromoted,
    ChildReady,
    ChildRefused,
    ChildUnavailable,
    ChildWedged,
    Exit,
    describe_exit,
)

__all__ = ["TABLE", "Moment", "Result", "step"]

REMEDY = "Call the `mcpkeep` tool with action `restart`, send SIGUSR2 to mcpkeep, or fix the command."

Result = tuple[Child, tuple[ChildEffect, ...]]


class Moment(msgspec.Struct, frozen=True):
    """What the world adds to an event."""

    now: float
    chance: float


def step(child: Child, event: ChildEvent, *, now: float, chance: float) -> Result:
    """Say what the child becomes and what must be done, in this order. Never raises.

    Args:
        now: seconds on a clock that never goes back.
        chance: from 0 to 1, fresh for each step; it spreads the backoff.
    """
    moment = Moment(now, chance)
    done: tuple[ChildEffect, ...] = ()
    match event:
        case StartChild() | StopChild() | RestartChild():
            pass
        case DeadlinePassed():
            child, done = _drains_elapsed(child, now)
        case _:
            run = child.find(event.generation)
            if run is None or _contradicts(run, event):
                return child, ()
            if isinstance(event, ChildWedged) and run.stage is Stage.ENDING:
                return child, ()  # it was told to end, may close its pipes, and has its graces
            if run in child.leaving:
                return _leave(child, run, event, moment)
    child, effects = TABLE[child.state, type(event)](child, event, moment)
    return child, (*done, *effects)


# The runs.


def _known(child: Child, generation: int) -> Run:
    run = child.find(generation)
    assert run is not None  # step() lets no other generation through
    return run


def _current(child: Child) -> Run:
    assert child.current is not None  # the states whose rules ask for it have one
    return child.current


def _contradicts(run: Run, event: ChildEvent) -> bool:
    """Only what has not begun can begin, or fail to; anything else happens to what has."""
    return (run.started_at is None) is not isinstance(event, Spawned | SpawnFailed)


def _ending(run: Run, fault: str | None = None) -> Run:
    return replace(run, stage=Stage.ENDING, deadline=None, fault=run.fault or fault)


def _end(child: Child, run: Run) -> tuple[ChildEffect, ...]:
    """Stop it once: one that is ending already was told, one not yet spawned is told when it is."""
    if run.stage is Stage.ENDING or run.started_at is None:
        return ()
    return (_stop_process(child, run),)


def _stop_process(child: Child, run: Run) -> StopProcess:
    return StopProcess(run.generation, child.settings.stop_eof, child.settings.stop_term)


def _told(run: Run, event: Exited | SpawnFailed, *, planned: bool) -> tuple[ChildEffect, ...]:
    """The word to the relay, which knows nothing of a process that never was."""
    if isinstance(event, SpawnFailed):
        return ()
    return (ChildExited(run.generation, event.exit, event.accepted, planned),)


def _new_run(child: Child, moment: Moment) -> Run:
    # Before any child was ready the client may not have opened its session, which is no fault of the child's.
    bounded = child.proven and child.settings.start_limit > 0
    deadline = moment.now + child.settings.start_limit if bounded else None
    return Run(child.generation + 1, deadline=deadline)


def _spawn(child: Child, moment: Moment) -> Result:
    run = _new_run(child, moment)
    child = replace(child, state=ChildState.UP, current=run, generation=run.generation, retry_at=None)
    return child, (SpawnChild(run.generation),)


def _answer(child: Child, outcome: RestartOutcome) -> Result:
    if not child.restart:
        return child, ()
    failed = outcome.reason if isinstance(outcome, RestartFailed) else None
    return replace(child, restart=False, restart_failed=failed), (AnswerRestart(outcome),)


def _how(run: Run, exit_: Exit) -> str:
    return describe_exit(exit_) if run.fault is None else f"{describe_exit(exit_)} after it {run.fault}"


# What is asked for.


def _ignore(child: Child, _event: ChildEvent, _moment: Moment) -> Result:
    return child, ()


def _start(child: Child, _event: StartChild, moment: Moment) -> Result:
    return _spawn(replace(child, wanted=Wanted.UP, tally=Tally()), moment)


def _start_again(child: Child, event: RestartChild, moment: Moment) -> Result:
    child = replace(child, wanted=Wanted.UP, tally=Tally(), restart=True)
    child, effects = _spawn(child, moment)
    return child, (*effects, Notify("info", f"starting {child.command} ({event.reason})"))


def _want_up(child: Child, _event: StartChild, _moment: Moment) -> Result:
    return replace(child, wanted=Wanted.UP), ()


def _want_again(child: Child, _event: RestartChild, _moment: Moment) -> Result:
    return replace(child, wanted=Wanted.UP, restart=True), ()


def _replace_current(child: Child, event: RestartChild, moment: Moment) -> Result:
    run = _current(child)
    if child.restart:
        return child, ()
    child = replace(child, restart=True)
    notice = Notify("info", f"restarting {child.command} ({event.reason})")
    match run.stage:
        case Stage.SPAWNING:  # nothing newer could be started
            return child, ()
        case Stage.STARTING | Stage.ENDING:  # nothing serves that would be worth keeping
            child = replace(child, state=ChildState.SWAP, current=_ending(run))
            return child, (*_end(child, run), notice)
        case _:
            pass
    if (event.mode or child.settings.replace) is ReplaceMode.HOLD:
        deadline = moment.now + child.settings.drain_grace
        current = replace(run, stage=Stage.DRAINING, deadline=deadline)
        return replace(child, state=ChildState.HOLD, current=current), (CallsHeld(), notice)
    candidate = _new_run(child, moment)
    child = replace(child, state=ChildState.OVERLAP, candidate=candidate, generation=candidate.generation)
    return child, (SpawnChild(candidate.generation), notice)


def _stop(child: Child, _event: StopChild, _moment: Moment) -> Result:
    runs = [run for run in (child.current, child.candidate, *child.leaving) if run is not None]
    ends = tuple(effect for run in runs for effect in _end(child, run))
    idle = not runs
    untold = child.state is ChildState.BACKOFF
    child = replace(
        child,
        wanted=Wanted.DOWN,
        state=ChildState.DOWN if idle else ChildState.STOPPING,
        current=None,
        candidate=None,
        leaving=tuple(_ending(run) for run in runs),
        retry_at=None,
    )
    child, answers = _answer(child, RestartFailed(f"{child.command} was stopped", kept=False))
    told = _stopped(child, child.last_exit) if idle and untold and child.last_exit is not None else ()
    return child, (*ends, *told, *answers)


def _stopped(child: Child, exit_: Exit) -> tuple[ChildEffect, ...]:
    return (ChildUnavailable(exit_, f"{child.command} was stopped. {REMEDY}"),)


# Processes begin, become ready, end.


def _spawned(child: Child, event: Spawned, moment: Moment) -> Result:
    run = _known(child, event.generation)
    begun = replace(run, pid=event.pid, started_at=moment.now)
    if run.stage is Stage.ENDING:
        return child.put(begun), (_stop_process(child, run),)
    begun = replace(begun, stage=Stage.STARTING, promote=not child.is_current(run))
    return child.put(begun), (ChildAttached(run.generation),)


def _ready(child: Child, event: ChildReady, moment: Moment) -> Result:
    """A current one serves; a candidate takes the current one's place."""
    run = _known(child, event.generation)
    if run.stage is not Stage.STARTING:
        return child, ()
    fresh = replace(run, stage=Stage.READY, ready_since=moment.now, deadline=None)
    old = None if child.is_current(run) else child.current
    child = replace(child, state=ChildState.UP, current=fresh, candidate=None, proven=True)
    if old is not None:
        if old.stage is not Stage.ENDING:
            deadline = moment.now + child.settings.drain_grace
            old = replace(old, stage=Stage.DRAINING, deadline=deadline)
        child = replace(child, leaving=(*child.leaving, old))
    promoted = (ChildPromoted(run.generation),) if run.promote else ()
    # The client knows of the first one: it has just opened its session with it.
    level: Level = "info" if run.generation > 1 else "debug"
    notice = Notify(level, f"{child.command} is ready (child {run.generation})")
    child, answers = _answer(child, RestartDone(run.generation))
    return child, (*promoted, *answers, notice)


def _lost(child: Child, event: Exited | SpawnFailed, moment: Moment) -> Result:
    """The current one ended though nobody asked it to."""
    run = _current(child)
    exit_ = _exit(event)
    told = _told(run, event, planned=False)
    how = f"{child.command} {_how(run, exit_)}"
    child = replace(child, current=None, last_exit=exit_)
    child, answers = _answer(child, RestartFailed(how, kept=False))
    decision = decide(
        child.settings.restart,
        child.tally,
        exit_=exit_,
        ready_since=run.ready_since,
        proven=child.proven,
        now=moment.now,
        chance=moment.chance,
    )
    match decision:
        case Restart(after, tally) if after <= 0:
            child = replace(child, tally=tally, restarts=child.restarts + 1)
            child, spawns = _spawn(child, moment)
            return child, (*spawns, *told, *answers, Notify("warning", f"{how}; it is started again"))
        case Restart(after, tally):
            child = replace(child, state=ChildState.BACKOFF, tally=tally, retry_at=moment.now + after)
            return child, (*told, *answers, Notify("warning", f"{how}; next start in {after:.3g} s"))
        case Stay():
            child = replace(child, state=ChildState.DOWN, wanted=Wanted.DOWN)
            detail = f"{how}, and its restart type leaves it so. {REMEDY}"
            return child, (*told, ChildUnavailable(exit_, detail), *answers, Notify("warning", detail))
        case GiveUp(reason):
            child = replace(child, state=ChildState.FAILED)
            detail = f"{how}, and {reason}. {REMEDY}"
            return child, (*told, ChildUnavailable(exit_, detail), *answers, Notify("error", detail))


def _swapped(child: Child, event: Exited | SpawnFailed, moment: Moment) -> Result:
    """The current one is gone, to make room for the next."""
    run = _current(child)
    planned = run.stage is Stage.ENDING and run.fault is None
    told = _told(run, event, planned=planned)
    last_exit = child.last_exit if planned else _exit(event)
    child, spawns = _spawn(replace(child, current=None, last_exit=last_exit), moment)
    return child, (*spawns, *told)


def _lost_in_overlap(child: Child, event: Exited | SpawnFailed, moment: Moment) -> Result:
    """The candidate's end leaves all as it was; the current one's puts the candidate in its place."""
    run = _known(child, event.generation)
    exit_ = _exit(event)
    told = _told(run, event, planned=False)
    how = f"{child.command} {_how(run, exit_)}"
    if child.is_current(run):
        child = replace(
            child,
            state=ChildState.UP,
            current=child.candidate,
            candidate=None,
            restarts=child.restarts + 1,
            last_exit=exit_,
        )
        return child, (*told, Notify("warning", f"{how}; the one that is starting takes its place"))
    child, effects = _give_up_candidate(replace(child, last_exit=exit_), how)
    return child, (*told, *effects)


def _exit(event: Exited | SpawnFailed) -> Exit:
    return event.exit if isinstance(event, Exited) else Exit(spawn_error=event.reason)


def _give_up_candidate(child: Child, reason: str) -> Result:
    child = replace(child, state=ChildState.UP, candidate=None)
    child, answers = _answer(child, RestartFailed(reason, kept=True))
    return child, (*answers, Notify("error", f"restart failed, the old child stays: {reason}"))


def _drop_candidate(child: Child, run: Run, ends: Iterable[ChildEffect], fault: str) -> Result:
    child = replace(child, leaving=(*child.leaving, _ending(run, fault)))
    child, effects = _give_up_candidate(child, f"the new child {fault}")
    return child, (*ends, *effects)


# What the relay finds.


def _refused(child: Child, event: ChildRefused, _moment: Moment) -> Result:
    run = _known(child, event.generation)
    if run.stage not in (Stage.STARTING, Stage.READY):
        return child, ()
    fault = f"was refused: {event.reason}"
    ends = _end(child, run)
    if not child.is_current(run):
        return _drop_candidate(child, run, ends, fault)
    return replace(child, current=_ending(run, fault)), ends


def _wedged(child: Child, event: ChildWedged, _moment: Moment) -> Result:
    run = _known(child, event.generation)
    kill = KillProcess(run.generation)
    fault = f"was found unusable: {event.reason}"
    if not child.is_current(run):
        return _drop_candidate(child, run, (kill,), fault)
    return replace(child, current=_ending(run, fault)), (kill,)


def _wedged_in_hold(child: Child, event: ChildWedged, moment: Moment) -> Result:
    child, effects = _wedged(child, event, moment)
    return replace(child, state=ChildState.SWAP), effects


def _drained(child: Child, _event: ChildDrained | DeadlinePassed, _moment: Moment) -> Result:
    run = _current(child)
    return replace(child, state=ChildState.SWAP, current=_ending(run)), _end(child, run)


# Deadlines.


def _due(run: Run | None, now: float) -> bool:
    return run is not None and run.deadline is not None and run.deadline <= now


def _retry(child: Child, _event: DeadlinePassed, moment: Moment) -> Result:
    if child.retry_at is None or child.retry_at > moment.now:
        return child, ()
    return _spawn(replace(child, restarts=child.restarts + 1), moment)


def _drain_elapsed(child: Child, event: DeadlinePassed, moment: Moment) -> Result:
    return _drained(child, event, moment) if _due(child.current, moment.now) else (child, ())


def _start_elapsed(child: Child, _event: DeadlinePassed, moment: Moment) -> Result:
    run = _current(child)
    if not _due(run, moment.now):
        return child, ()
    return replace(child, current=_ending(run, _late(child))), _end(child, run)


def _candidate_elapsed(child: Child, _event: DeadlinePassed, moment: Moment) -> Result:
    run = child.candidate
    assert run is not None
    if not _due(run, moment.now):
        return child, ()
    return _drop_candidate(child, run, _end(child, run), _late(child))


def _late(child: Child) -> str:
    return f"was not ready within {child.settings.start_limit:g} s"


def _drains_elapsed(child: Child, now: float) -> Result:
    due = [run for run in child.leaving if _due(run, now)]
    effects = tuple(effect for run in due for effect in _end(child, run))
    for run in due:
        child = child.put(_ending(run))
    return child, effects


# Those that leave, in whatever state.


def _leave(child: Child, run: Run, event: ChildEvent, moment: Moment) -> Result:
    match event:
        case Spawned():
            begun = replace(run, pid=event.pid, started_at=moment.now)
            return child.put(begun), (_stop_process(child, run),)
        case ChildDrained() if run.stage is Stage.DRAINING:
            return child.put(_ending(run)), _end(child, run)
        case ChildWedged():
            return child.put(_ending(run)), (KillProcess(run.generation),)
        case Exited() | SpawnFailed():
            planned = run.stage is Stage.ENDING
            told = _told(run, event, planned=planned)
            child = child.without(run)
            if child.state is not ChildState.STOPPING or child.leaving:
                return child, told
            if child.wanted is Wanted.UP:
                child, effects = _spawn(replace(child, tally=Tally()), moment)
                return child, (*effects, *told)
            child = replace(child, state=ChildState.DOWN)
            return child, (*told, *_stopped(child, _exit(event)))
        case _:
            return child, ()


# The table.

Rule = Callable[[Child, Any, Moment], Result]
Event = TypeVar("Event")
Row = dict[tuple[ChildState, type[Any]], Rule]


def _on(event: type[Event], rules: dict[ChildState, Callable[[Child, Event, Moment], Result]]) -> Row:
    """The rules of one event; in the states that are not named it changes nothing."""
    return {(state, event): cast("Rule", rules.get(state, _ignore)) for state in ChildState}


_S = ChildState

TABLE: Row = {
    **_on(StartChild, {_S.DOWN: _start, _S.FAILED: _start, _S.STOPPING: _want_up}),
    **_on(
        RestartChild,
        {
            _S.DOWN: _start_again,
            _S.BACKOFF: _start_again,
            _S.FAILED: _start_again,
            _S.UP: _replace_current,
            _S.STOPPING: _want_again,
            # OVERLAP, HOLD, SWAP: it joins the one under way.
        },
    ),
    **_on(StopChild, dict.fromkeys(_S, _stop)),
    **_on(Spawned, {_S.UP: _spawned, _S.OVERLAP: _spawned, _S.SWAP: _spawned}),
    **_on(SpawnFailed, {_S.UP: _lost, _S.OVERLAP: _lost_in_overlap, _S.SWAP: _swapped}),
    **_on(Exited, {_S.UP: _lost, _S.OVERLAP: _lost_in_overlap, _S.HOLD: _swapped, _S.SWAP: _swapped}),
    **_on(ChildReady, {_S.UP: _ready, _S.OVERLAP: _ready}),
    **_on(ChildRefused, {_S.UP: _refused, _S.OVERLAP: _refused}),
    **_on(ChildDrained, {_S.HOLD: _drained}),
    **_on(
        ChildWedged,
        {_S.UP: _wedged, _S.OVERLAP: _wedged, _S.HOLD: _wedged_in_hold, _S.SWAP: _wedged},
    ),
    **_on(
        DeadlinePassed,
        {
            _S.UP: _start_elapsed,
            _S.OVERLAP: _candidate_elapsed,
            _S.HOLD: _drain_elapsed,
            _S.BACKOFF: _retry,
        },
    ),
}
