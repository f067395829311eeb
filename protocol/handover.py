"""The rules of a successor that is prepared, then promoted or dropped, and of a predecessor that is frozen.

House rules. A prepared child lives beside whatever else goes on: it is nobody's candidate, and never serves
unasked, since it may be of a release that is not yet committed. If the serving one crashes meanwhile, its own
release is started again. Only in VACANT nothing serves beside it; there its end brings the old release back.
"""

from msgspec.structs import replace

from mcpkeep.protocol.child import (
    After,
    AnswerAsker,
    AnswerDrop,
    AnswerPrepare,
    AnswerPromote,
    Child,
    ChildEffect,
    ChildEvent,
    ChildState,
    Exited,
    FreezeProcess,
    KillProcess,
    Notify,
    RestartDone,
    Run,
    SpawnChild,
    Spawned,
    SpawnFailed,
    Stage,
    ThawProcess,
    Wanted,
)
from mcpkeep.protocol.replacement import (
    ChildPrepared,
    Dropped,
    DropPrepared,
    EndFrozen,
    Preparation,
    PrepareChild,
    PrepareFailed,
    PromoteDone,
    PromotePrepared,
    ReplaceMode,
    SwitchRefused,
)
from mcpkeep.protocol.restart import Tally
from mcpkeep.protocol.runs import (
    Moment,
    Result,
    answer_restart,
    end,
    ending,
    exit_of,
    how,
    is_due,
    late,
    new_run,
    spawn,
    told,
)
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildPromoted,
    ChildReady,
    ChildRefused,
    ChildWedged,
    Exit,
)

__all__ = [
    "drop",
    "end_frozen",
    "finish",
    "fit_in",
    "frozen_word",
    "prepare_beside",
    "prepare_in_place",
    "prepare_in_turn",
    "prepared_elapsed",
    "prepared_word",
    "promote",
    "refuse",
    "settle",
    "unprepare",
]

_BUSY = "another release is being prepared, or the switch to it is not over"


# What is asked for.


def refuse(child: Child, _event: ChildEvent, _moment: Moment) -> Result:
    """The rule of states in which nothing can be prepared or promoted."""
    match child.state:
        case ChildState.STOPPING:
            reason = f"{child.command} is being stopped"
        case ChildState.VACANT:
            reason = _BUSY
        case _:
            reason = f"{child.command} is being restarted; try again when that is over"
    return child, (AnswerAsker(SwitchRefused(reason)),)


def prepare_beside(child: Child, event: PrepareChild, moment: Moment) -> Result:
    """Something serves, or is about to: leave it alone. By `hold` only after the restart under way."""
    if child.preparation is not None:
        return child, (AnswerAsker(SwitchRefused(_BUSY)),)
    if _is_frozen(child, event):
        return _take_frozen(child, event)
    if _mode(child, event) is ReplaceMode.HOLD:
        return refuse(child, event, moment)
    return _spawn_prepared(_begin(child, event), moment)


def prepare_in_turn(child: Child, event: PrepareChild, moment: Moment) -> Result:
    """The current one is the only one: by `hold`, it is ended first."""
    hold = _mode(child, event) is ReplaceMode.HOLD
    if child.preparation is not None or not hold or _is_frozen(child, event):
        return prepare_beside(child, event, moment)
    child = _begin(child, event, hold=True)
    run = child.current
    assert run is not None  # so it is in the state UP
    if run.stage is not Stage.READY:
        return replace(child, state=ChildState.SWAP, current=ending(run)), end(child, run)
    current = replace(run, stage=Stage.DRAINING, deadline=moment.now + child.settings.drain_grace)
    return replace(child, state=ChildState.HOLD, current=current), (CallsHeld(),)


def prepare_in_place(child: Child, event: PrepareChild, moment: Moment) -> Result:
    """Nothing serves and nothing is about to: calls wait for the new one, or for the old release again."""
    if child.preparation is not None:
        return child, (AnswerAsker(SwitchRefused(_BUSY)),)
    vacant = replace(child, state=ChildState.VACANT, wanted=Wanted.UP, retry_at=None)
    if _is_frozen(child, event):
        return _take_frozen(vacant, event)
    return _spawn_prepared(_begin(vacant, event), moment)


def fit_in(child: Child, moment: Moment) -> Result | None:
    """The current one is gone, to make room: start the one that is prepared in turn, if one is."""
    preparation = child.preparation
    if preparation is None or not preparation.hold or preparation.settles is not None:
        return None
    if child.prepared is not None:
        return None
    return _spawn_prepared(replace(child, state=ChildState.VACANT, current=None), moment)


def promote(child: Child, event: PromotePrepared, moment: Moment) -> Result:
    """The prepared one serves; all others are on their way out, and the old one may be frozen at its end."""
    run, preparation = child.prepared, child.preparation
    if run is None or preparation is None:
        missing = SwitchRefused("no release is prepared")
        return child, (AnswerAsker(child.unprepared or missing),)
    if run.stage not in (Stage.READY, Stage.FROZEN):
        return child, (AnswerAsker(SwitchRefused("the release that is being prepared is not ready yet")),)
    wakes = (ThawProcess(run.generation),) if run.stage is Stage.FROZEN else ()
    fresh = replace(run, stage=Stage.READY, ready_since=moment.now)
    old, given_up = child.current, child.candidate
    ends: tuple[ChildEffect, ...] = ()
    after = After.FREEZE if event.freeze else After.TERM
    leaving = list(child.leaving)
    if given_up is not None:
        given_up = replace(given_up, after=After.TERM)
        ends += end(child, given_up)
        leaving.append(ending(given_up))
    if old is not None:
        if old.stage in (Stage.READY, Stage.DRAINING):
            old = replace(old, stage=Stage.DRAINING, deadline=moment.now + event.drain, after=after)
        else:  # what does not serve has nothing to finish, and is not worth freezing
            old = replace(old, after=After.TERM)
            ends += end(child, old)
            old = ending(old)
        leaving.append(old)
    child = replace(
        child,
        state=ChildState.UP,
        wanted=Wanted.UP,
        current=fresh,
        candidate=None,
        prepared=None,
        leaving=tuple(leaving),
        release=run.release,
        retry_at=None,
        tally=Tally(),
        preparation=None
        if old is None
        else replace(preparation, generation=run.generation, settles=old.generation),
    )
    child, answers = answer_restart(child, RestartDone(run.generation))
    if old is None:
        answers += (AnswerPromote(PromoteDone(run.generation, frozen=False)),)
    notice = Notify("info", f"{child.command} serves from {_of(run)} now (child {run.generation})")
    return child, (*wakes, ChildPromoted(run.generation), *ends, *answers, notice)


def drop(child: Child, _event: DropPrepared, moment: Moment) -> Result:
    """End the prepared one; where it is the only one, the old release follows it."""
    preparation, run = child.preparation, child.prepared
    if preparation is None or preparation.settles is not None:
        return child, (AnswerAsker(Dropped()),)
    if run is None:  # its predecessor is still being ended, and is started again in its place
        child, effects = _failed(child, "was dropped")
        return child, (*effects, AnswerAsker(Dropped()))
    if run.stage is Stage.FROZEN:
        child = replace(child, prepared=None, frozen=run, preparation=None)
        answer = AnswerAsker(Dropped())
        if child.state is not ChildState.VACANT:
            return child, (answer,)
        child, spawns = spawn(child, moment)
        return child, (*spawns, answer)
    child, effects = _give_up_failed(child, run, "was dropped")
    settling = replace(preparation, settles=run.generation, dropped=True)
    return replace(child, preparation=settling), effects


def end_frozen(child: Child, _event: EndFrozen, _moment: Moment) -> Result:
    return _end_frozen(child)


def _end_frozen(child: Child) -> Result:
    run = child.frozen
    if run is None:
        return child, ()
    return replace(child, frozen=None, leaving=(*child.leaving, ending(run))), end(child, run)


def unprepare(child: Child, *, was: Run | None) -> Result:
    """Everything is being stopped: nobody may wait for what will not be prepared any more."""
    preparation = child.preparation
    if preparation is None or preparation.settles is not None:
        return child, ()
    waits = was is None or was.stage in (Stage.SPAWNING, Stage.STARTING)
    failed = PrepareFailed(f"{child.command} was stopped", kept=False)
    child = replace(child, preparation=None, unprepared=failed)
    return child, (AnswerPrepare(failed),) if waits else ()


# What happens to the prepared one.


def prepared_word(child: Child, run: Run, event: ChildEvent, moment: Moment) -> Result:
    """A word about it, in whatever state."""
    match event:
        case Spawned():
            begun = replace(run, pid=event.pid, started_at=moment.now, stage=Stage.STARTING)
            return replace(child, prepared=begun), (ChildAttached(run.generation, beside=True),)
        case ChildReady() if run.stage is Stage.STARTING:
            ready = replace(run, stage=Stage.READY, ready_since=moment.now, deadline=None)
            notice = Notify("info", f"{_of(run)} is ready to serve (child {run.generation})")
            child = replace(child, prepared=ready, proven=True)
            return child, (AnswerPrepare(ChildPrepared(run.generation)), notice)
        case Exited() | SpawnFailed():
            exit_ = exit_of(event)
            gone = told(run, event, planned=False)
            waits = run.stage in (Stage.SPAWNING, Stage.STARTING)
            child, failed = _failed(replace(child, prepared=None), how(run, exit_), exit_, waits=waits)
            if child.state is not ChildState.VACANT:
                return child, (*gone, *failed)
            child, spawns = spawn(child, moment)
            return child, (*spawns, *gone, *failed)
        case ChildRefused() if run.stage in (Stage.STARTING, Stage.READY):
            return _give_up_failed(child, run, f"was refused: {event.reason}")
        case ChildWedged() if run.stage is not Stage.FROZEN:
            return _give_up_failed(child, run, f"was found unusable: {event.reason}", kill=True)
        case _:
            return child, ()


def prepared_elapsed(child: Child, now: float) -> Result:
    run = child.prepared
    if run is None or not is_due(run, now):
        return child, ()
    return _give_up_failed(child, run, late(child))


def _give_up_failed(child: Child, run: Run, fault: str, *, kill: bool = False) -> Result:
    waits = run.stage in (Stage.SPAWNING, Stage.STARTING)
    child, ends = _give_up(child, run, fault, kill=kill)
    child, failed = _failed(child, fault, waits=waits)
    return child, (*ends, *failed)


def _give_up(child: Child, run: Run, fault: str, *, kill: bool = False) -> Result:
    """End it. Where it is the only one, the old release is started when it is gone."""
    run = replace(run, after=After.TERM)
    ends = (KillProcess(run.generation),) if kill else end(child, run)
    if child.state is ChildState.VACANT:
        return replace(child, state=ChildState.SWAP, prepared=None, current=ending(run)), ends
    return replace(child, prepared=None, leaving=(*child.leaving, ending(run, fault))), ends


def _failed(child: Child, reason: str, exit_: Exit | None = None, *, waits: bool = True) -> Result:
    preparation = child.preparation
    assert preparation is not None  # there is a prepared one as long as there is a preparation
    of = "the command" if preparation.release is None else f"release {preparation.release!r}"
    failed = PrepareFailed(f"{of} {reason}", kept=child.ready, exit=exit_)
    child = replace(child, preparation=None, unprepared=failed)
    notice = Notify("error", f"{failed.reason}; the former release stays")
    return child, (*((AnswerPrepare(failed),) if waits else ()), notice)


# What happens to the old one.


def finish(child: Child, run: Run) -> Result:
    """A leaving one has finished what was in flight, or its time is up: end it, or freeze it."""
    if run.after is not After.FREEZE or child.state is ChildState.STOPPING:
        return child.put(ending(run)), end(child, run)
    child, ends = _end_frozen(child.without(run))
    frozen = replace(run, stage=Stage.FROZEN, deadline=None)
    notice = Notify("info", f"the former child {run.generation} is frozen, to be woken by a rollback")
    return replace(child, frozen=frozen), (*ends, FreezeProcess(run.generation), notice)


def frozen_word(child: Child, run: Run, event: ChildEvent) -> Result:
    """A word about the frozen one: only its end matters."""
    if not isinstance(event, Exited):
        return child, ()
    text = f"the frozen child {run.generation} {how(run, event.exit)}; a rollback starts {_of(run)} anew"
    gone = told(run, event, planned=False)
    return replace(child, frozen=None), (*gone, Notify("warning", text))


def settle(child: Child) -> Result:
    """After each step: is the switch over that somebody waits for?"""
    preparation = child.preparation
    if preparation is None or preparation.settles is None:
        return child, ()
    run = child.find(preparation.settles)
    if run is not None and run.stage is not Stage.FROZEN:
        return child, ()
    child = replace(child, preparation=None)
    if preparation.dropped:
        return child, (AnswerDrop(),)
    return child, (AnswerPromote(PromoteDone(preparation.generation, frozen=run is not None)),)


# Small things.


def _mode(child: Child, event: PrepareChild) -> ReplaceMode:
    return event.mode or child.settings.replace


def _is_frozen(child: Child, event: PrepareChild) -> bool:
    return child.frozen is not None and child.frozen.release == event.release


def _begin(child: Child, event: PrepareChild, *, hold: bool = False) -> Child:
    return replace(child, preparation=Preparation(event.release, hold), unprepared=None)


def _take_frozen(child: Child, event: PrepareChild) -> Result:
    run = child.frozen
    assert run is not None  # the caller has looked
    child = replace(_begin(child, event), prepared=run, frozen=None)
    return child, (AnswerAsker(ChildPrepared(run.generation, woken=True)),)


def _spawn_prepared(child: Child, moment: Moment) -> Result:
    assert child.preparation is not None  # it has just begun
    run = new_run(child, moment, child.preparation.release)
    child = replace(child, prepared=run, generation=run.generation)
    return child, (SpawnChild(run.generation, run.release), Notify("info", f"starting {_of(run)}"))


def _of(run: Run) -> str:
    return "the command" if run.release is None else f"release {run.release!r}"
