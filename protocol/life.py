"""The rules of the child's life: one table, keyed by state and event type, complete in both.

House rules. A process is current, candidate, prepared, frozen or leaving from the order to spawn it until
its exit, so none is ever forgotten. The last three are treated alike in every state (`handover.py` has the
rules of the first two of them), and a word about an unknown generation moves nothing; only what is left
reaches the table. After a crash the order to spawn comes first, since clients are waiting, and the words to
the relay and the log after it.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from mcpkeep.protocol import handover
from mcpkeep.protocol.child import (
    Child,
    ChildEffect,
    ChildEvent,
    ChildState,
    Crashed,
    DeadlinePassed,
    Exited,
    KillProcess,
    Level,
    Notify,
    ReplaceMode,
    RestartChild,
    RestartDone,
    RestartFailed,
    Run,
    SpawnChild,
    Spawned,
    SpawnFailed,
    Stage,
    StartChild,
    StopChild,
    Wanted,
)
from mcpkeep.protocol.replacement import DropPrepared, EndFrozen, PrepareChild, PromotePrepared
from mcpkeep.protocol.restart import GiveUp, Restart, Stay, Tally, decide
from mcpkeep.protocol.runs import (
    Moment,
    Result,
    answer_restart,
    end,
    ending,
    exit_of,
    how,
    is_due,
    known,
    late,
    new_run,
    spawn,
    stop_process,
    told,
)
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildDrained,
    ChildPromoted,
    ChildReady,
    ChildRefused,
    ChildUnavailable,
    ChildWedged,
    Exit,
)

__all__ = ["TABLE", "step"]

REMEDY = "Call the `mcpkeep` tool with action `restart`, send SIGUSR2 to mcpkeep, or fix the command."


def step(child: Child, event: ChildEvent, *, now: float, chance: float) -> Result:
    """Say what the child becomes and what must be done, in this order. Never raises.

    Args:
        now: seconds on a clock that never goes back.
        chance: from 0 to 1, fresh for each step; it spreads the backoff.
    """
    moment = Moment(now, chance)
    child, effects = _happen(child, event, moment)
    child, settled = handover.settle(child)
    return child, (*effects, *settled)


def _happen(child: Child, event: ChildEvent, moment: Moment) -> Result:
    done: tuple[ChildEffect, ...] = ()
    match event:
        case StartChild() | StopChild() | RestartChild():
            pass
        case PrepareChild() | PromotePrepared() | DropPrepared() | EndFrozen():
            pass
        case DeadlinePassed():
            child, done = _elapsed(child, moment.now)
            child, given_up = handover.prepared_elapsed(child, moment.now)
            done += given_up
        case _:
            run = child.find(event.generation)
            if run is None or _contradicts(run, event):
                return child, ()
            if isinstance(event, ChildWedged) and run.stage is Stage.ENDING:
                return child, ()  # it was told to end, may close its pipes, and has its graces
            if run is child.prepared:
                return handover.prepared_word(child, run, event, moment)
            if run is child.frozen:
                return handover.frozen_word(child, run, event)
            if run in child.leaving:
                return _leave(child, run, event, moment)
    child, effects = TABLE[child.state, type(event)](child, event, moment)
    return child, (*done, *effects)


# The runs.


def _current(child: Child) -> Run:
    assert child.current is not None  # the states whose rules ask for it have one
    return child.current


def _contradicts(run: Run, event: ChildEvent) -> bool:
    """Only what has not begun can begin, or fail to; anything else happens to what has."""
    return (run.started_at is None) is not isinstance(event, Spawned | SpawnFailed)


# What is asked for.


def _ignore(child: Child, _event: ChildEvent, _moment: Moment) -> Result:
    return child, ()


def _start(child: Child, _event: StartChild, moment: Moment) -> Result:
    return spawn(replace(child, wanted=Wanted.UP, tally=Tally()), moment)


def _start_again(child: Child, event: RestartChild, moment: Moment) -> Result:
    child = replace(child, wanted=Wanted.UP, tally=Tally(), restart=True)
    child, effects = spawn(child, moment)
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
            child = replace(child, state=ChildState.SWAP, current=ending(run))
            return child, (*end(child, run), notice)
        case _:
            pass
    if (event.mode or child.settings.replace) is ReplaceMode.HOLD:
        deadline = moment.now + child.settings.drain_grace
        current = replace(run, stage=Stage.DRAINING, deadline=deadline)
        return replace(child, state=ChildState.HOLD, current=current), (CallsHeld(), notice)
    candidate = new_run(child, moment, child.release)
    child = replace(child, state=ChildState.OVERLAP, candidate=candidate, generation=candidate.generation)
    return child, (SpawnChild(candidate.generation, candidate.release), notice)


def _join(child: Child, _event: RestartChild, _moment: Moment) -> Result:
    """It is being replaced already."""
    return replace(child, restart=True), ()


def _stop(child: Child, _event: StopChild, _moment: Moment) -> Result:
    runs = child.runs
    ends = tuple(effect for run in runs for effect in end(child, run))
    idle = not runs
    untold = child.state is ChildState.BACKOFF
    former = child.prepared
    child = replace(
        child,
        wanted=Wanted.DOWN,
        state=ChildState.DOWN if idle else ChildState.STOPPING,
        current=None,
        candidate=None,
        prepared=None,
        frozen=None,
        leaving=tuple(ending(run) for run in runs),
        retry_at=None,
    )
    child, answers = answer_restart(child, RestartFailed(f"{child.command} was stopped", kept=False))
    child, refusals = handover.unprepare(child, was=former)
    gone = _stopped(child, child.last_exit) if idle and untold and child.last_exit is not None else ()
    return child, (*ends, *gone, *answers, *refusals)


def _stopped(child: Child, exit_: Exit) -> tuple[ChildEffect, ...]:
    return (ChildUnavailable(exit_, f"{child.command} was stopped. {REMEDY}"),)


# Processes begin, become ready, end.


def _spawned(child: Child, event: Spawned, moment: Moment) -> Result:
    run = known(child, event.generation)
    begun = replace(run, pid=event.pid, started_at=moment.now)
    if run.stage is Stage.ENDING:
        return child.put(begun), (stop_process(child, run),)
    begun = replace(begun, stage=Stage.STARTING, promote=not child.is_current(run))
    return child.put(begun), (ChildAttached(run.generation),)


def _ready(child: Child, event: ChildReady, moment: Moment) -> Result:
    """A current one serves; a candidate takes the current one's place."""
    run = known(child, event.generation)
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
    child, answers = answer_restart(child, RestartDone(run.generation))
    return child, (*promoted, *answers, notice)


def _lost(child: Child, event: Exited | SpawnFailed, moment: Moment) -> Result:
    """The current one ended though nobody asked it to."""
    run = _current(child)
    exit_ = exit_of(event)
    what = f"{child.command} {how(run, exit_)}"
    child = replace(child, current=None, last_exit=exit_)
    child, answers = answer_restart(child, RestartFailed(what, kept=False))
    gone = told(run, event, planned=False)
    decision = decide(
        child.settings.restart,
        child.tally,
        exit_=exit_,
        ready_since=run.ready_since,
        proven=child.proven,
        now=moment.now,
        chance=moment.chance,
    )
    level: Level
    match decision:
        case Restart(after, tally) if after <= 0:
            child = replace(child, tally=tally, restarts=child.restarts + 1)
            child, spawns = spawn(child, moment)
            notice = Notify("warning", f"{what}; it is started again")
            return child, (*spawns, *gone, *answers, _crashed(run, exit_, tally.streak), notice)
        case Restart(after, tally):
            child = replace(child, state=ChildState.BACKOFF, tally=tally, retry_at=moment.now + after)
            notice = Notify("warning", f"{what}; next start in {after:.3g} s")
            return child, (*gone, *answers, _crashed(run, exit_, tally.streak), notice)
        case Stay():
            child = replace(child, state=ChildState.DOWN, wanted=Wanted.DOWN)
            detail, level = f"{what}, and its restart type leaves it so. {REMEDY}", "warning"
        case GiveUp(reason):
            child = replace(child, state=ChildState.FAILED)
            detail, level = f"{what}, and {reason}. {REMEDY}", "error"
    crashed = _crashed(run, exit_, child.tally.streak + 1)
    return child, (*gone, ChildUnavailable(exit_, detail), *answers, crashed, Notify(level, detail))


def _crashed(run: Run, exit_: Exit, times: int) -> Crashed:
    return Crashed(run.release, exit_, times)


def _swapped(child: Child, event: Exited | SpawnFailed, moment: Moment) -> Result:
    """The current one is gone, to make room for the next."""
    run = _current(child)
    planned = run.stage is Stage.ENDING and run.fault is None
    gone = told(run, event, planned=planned)
    if not planned:
        child = replace(child, last_exit=exit_of(event))
        gone += (_crashed(run, exit_of(event), child.tally.streak + 1),)
    child = replace(child, current=None)
    child, spawns = handover.fit_in(child, moment) or spawn(child, moment)
    return child, (*spawns, *gone)


def _lost_in_overlap(child: Child, event: Exited | SpawnFailed, moment: Moment) -> Result:
    """The candidate's end leaves all as it was; the current one's puts the candidate in its place."""
    run = known(child, event.generation)
    exit_ = exit_of(event)
    gone = told(run, event, planned=False)
    what = f"{child.command} {how(run, exit_)}"
    if child.is_current(run):
        child = replace(
            child,
            state=ChildState.UP,
            current=child.candidate,
            candidate=None,
            restarts=child.restarts + 1,
            last_exit=exit_,
        )
        notice = Notify("warning", f"{what}; the one that is starting takes its place")
        return child, (*gone, _crashed(run, exit_, child.tally.streak + 1), notice)
    child, effects = _give_up_candidate(replace(child, last_exit=exit_), what)
    return child, (*gone, *effects)


def _give_up_candidate(child: Child, reason: str) -> Result:
    child = replace(child, state=ChildState.UP, candidate=None)
    child, answers = answer_restart(child, RestartFailed(reason, kept=True))
    return child, (*answers, Notify("error", f"restart failed, the old child stays: {reason}"))


def _drop_candidate(child: Child, run: Run, ends: Iterable[ChildEffect], fault: str) -> Result:
    child = replace(child, leaving=(*child.leaving, ending(run, fault)))
    child, effects = _give_up_candidate(child, f"the new child {fault}")
    return child, (*ends, *effects)


# What the relay finds.


def _refused(child: Child, event: ChildRefused, _moment: Moment) -> Result:
    run = known(child, event.generation)
    if run.stage not in (Stage.STARTING, Stage.READY):
        return child, ()
    fault = f"was refused: {event.reason}"
    ends = end(child, run)
    if not child.is_current(run):
        return _drop_candidate(child, run, ends, fault)
    return replace(child, current=ending(run, fault)), ends


def _wedged(child: Child, event: ChildWedged, _moment: Moment) -> Result:
    run = known(child, event.generation)
    kill = KillProcess(run.generation)
    fault = f"was found unusable: {event.reason}"
    if not child.is_current(run):
        return _drop_candidate(child, run, (kill,), fault)
    return replace(child, current=ending(run, fault)), (kill,)


def _wedged_in_hold(child: Child, event: ChildWedged, moment: Moment) -> Result:
    child, effects = _wedged(child, event, moment)
    return replace(child, state=ChildState.SWAP), effects


def _drained(child: Child, _event: ChildDrained | DeadlinePassed, _moment: Moment) -> Result:
    run = _current(child)
    return replace(child, state=ChildState.SWAP, current=ending(run)), end(child, run)


# Deadlines.


def _retry(child: Child, _event: DeadlinePassed, moment: Moment) -> Result:
    if child.retry_at is None or child.retry_at > moment.now:
        return child, ()
    return spawn(replace(child, restarts=child.restarts + 1), moment)


def _drain_elapsed(child: Child, event: DeadlinePassed, moment: Moment) -> Result:
    return _drained(child, event, moment) if is_due(child.current, moment.now) else (child, ())


def _start_elapsed(child: Child, _event: DeadlinePassed, moment: Moment) -> Result:
    run = _current(child)
    if not is_due(run, moment.now):
        return child, ()
    return replace(child, current=ending(run, late(child))), end(child, run)


def _candidate_elapsed(child: Child, _event: DeadlinePassed, moment: Moment) -> Result:
    run = child.candidate
    assert run is not None
    if not is_due(run, moment.now):
        return child, ()
    return _drop_candidate(child, run, end(child, run), late(child))


def _elapsed(child: Child, now: float) -> Result:
    effects: tuple[ChildEffect, ...] = ()
    for run in [run for run in child.leaving if is_due(run, now)]:
        child, ends = handover.finish(child, run)
        effects += ends
    return child, effects


# Those that leave, in whatever state.


def _leave(child: Child, run: Run, event: ChildEvent, moment: Moment) -> Result:
    match event:
        case Spawned():
            begun = replace(run, pid=event.pid, started_at=moment.now)
            return child.put(begun), (stop_process(child, run),)
        case ChildDrained() if run.stage is Stage.DRAINING:
            return handover.finish(child, run)
        case ChildWedged():
            return child.put(ending(run)), (KillProcess(run.generation),)
        case Exited() | SpawnFailed():
            gone = told(run, event, planned=run.stage is Stage.ENDING)
            child = child.without(run)
            if child.state is not ChildState.STOPPING or child.leaving:
                return child, gone
            if child.wanted is Wanted.UP:
                child, effects = spawn(replace(child, tally=Tally()), moment)
                return child, (*effects, *gone)
            child = replace(child, state=ChildState.DOWN)
            return child, (*gone, *_stopped(child, exit_of(event)))
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
            **dict.fromkeys((_S.OVERLAP, _S.HOLD, _S.SWAP, _S.VACANT), _join),
        },
    ),
    **_on(StopChild, dict.fromkeys(_S, _stop)),
    **_on(
        PrepareChild,
        {
            **dict.fromkeys((_S.DOWN, _S.BACKOFF, _S.FAILED), handover.prepare_in_place),
            _S.UP: handover.prepare_in_turn,
            **dict.fromkeys((_S.OVERLAP, _S.HOLD, _S.SWAP), handover.prepare_beside),
            **dict.fromkeys((_S.VACANT, _S.STOPPING), handover.refuse),
        },
    ),
    **_on(PromotePrepared, {**dict.fromkeys(_S, handover.promote), _S.STOPPING: handover.refuse}),
    **_on(DropPrepared, dict.fromkeys(_S, handover.drop)),
    **_on(EndFrozen, dict.fromkeys(_S, handover.end_frozen)),
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
