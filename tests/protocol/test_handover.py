"""A successor prepared beside the one that serves: each line is an event and what must be done then."""

import pytest

from mcpkeep.protocol.child import (
    AnswerAsker,
    AnswerDrop,
    AnswerPrepare,
    AnswerPromote,
    AnswerRestart,
    Child,
    ChildEffect,
    ChildEvent,
    ChildSettings,
    ChildState,
    Crashed,
    DeadlinePassed,
    FreezeProcess,
    KillProcess,
    Notify,
    RestartChild,
    RestartDone,
    SpawnChild,
    SpawnFailed,
    StopChild,
    StopProcess,
    ThawProcess,
    child_status,
    next_deadline,
)
from mcpkeep.protocol.life import step
from mcpkeep.protocol.replacement import (
    ChildPrepared,
    Dropped,
    DropPrepared,
    EndFrozen,
    PrepareChild,
    PrepareFailed,
    PromoteDone,
    PromotePrepared,
    ReplaceMode,
    SwitchRefused,
)
from mcpkeep.protocol.restart import RestartPolicy, Tally
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
)
from tests.protocol import child_life
from tests.protocol.child_life import CLEAN, KILLED, Life, exited, spawned

BROKEN = Exit(code=1, stderr_tail=("ImportError: no module named x",))
PREPARE = PrepareChild("new")
IN_TURN = PrepareChild("new", ReplaceMode.HOLD)
BUSY = AnswerAsker(SwitchRefused("another release is being prepared, or the switch to it is not over"))


def gone(generation: int, exit_: Exit = KILLED, *, planned: bool = False) -> ChildExited:
    return ChildExited(generation, exit_, 7, planned)


def term(generation: int) -> StopProcess:
    """SIGTERM with its stdin open."""
    return StopProcess(generation, None, 2.0)


def up(settings: ChildSettings | None = None) -> Life:
    """A child of the release `old`."""
    return child_life.up(Child("server", settings or ChildSettings(), release="old"))


def prepared() -> Life:
    return up().play(PREPARE, spawned(2), ChildReady(2))


def frozen() -> Life:
    """`new` serves as child 2, and child 1 of `old` is frozen."""
    return prepared().play(PromotePrepared(freeze=True), ChildDrained(1))


def test_a_successor_is_prepared_beside_the_serving_child_which_goes_on() -> None:
    life = up()
    assert life(PREPARE) == [SpawnChild(2, "new")]
    assert life(spawned(2)) == [ChildAttached(2, beside=True)]
    assert life(ChildReady(2)) == [AnswerPrepare(ChildPrepared(2))]
    assert next_deadline(life.child) is None
    status = child_status(life.child, 100.0)
    assert (status.generation, status.release, status.prepared, status.state) == (1, "old", 2, ChildState.UP)


def test_a_promoted_successor_serves_at_once_and_the_old_one_ends_by_sigterm_with_its_stdin_open() -> None:
    life = prepared()
    assert life(PromotePrepared(drain=5)) == [ChildPromoted(2)]
    assert (life.child.release, life.child.ready, next_deadline(life.child)) == ("new", True, 105.0)
    assert life(ChildDrained(1)) == [term(1)]
    assert life(exited(1, Exit(signal="SIGTERM"))) == [
        gone(1, Exit(signal="SIGTERM"), planned=True),
        AnswerPromote(PromoteDone(2, frozen=False)),
    ]
    assert (life.child.runs, life.child.preparation, life.crashes) == ((life.child.current,), None, [])


@pytest.mark.parametrize("event", [ChildDrained(1), DeadlinePassed()])
def test_the_old_one_is_frozen_when_it_has_drained_or_its_time_is_up(event: ChildEvent) -> None:
    life = prepared()
    assert life(PromotePrepared(freeze=True, drain=5)) == [ChildPromoted(2)]
    if isinstance(event, DeadlinePassed):
        assert life(event, at=104.9) == []
    assert life(event, at=105.0) == [FreezeProcess(1), AnswerPromote(PromoteDone(2, frozen=True))]
    assert child_status(life.child, 105.0).frozen == "old"
    assert next_deadline(life.child) is None


def test_a_release_that_is_frozen_is_prepared_at_once_and_woken_when_it_is_promoted() -> None:
    life = frozen()
    assert life(PrepareChild("old")) == [AnswerAsker(ChildPrepared(1, woken=True))]
    assert life(PromotePrepared(freeze=True)) == [ThawProcess(1), ChildPromoted(1)]
    assert life(ChildDrained(2)) == [FreezeProcess(2), AnswerPromote(PromoteDone(1, frozen=True))]
    assert (life.child.release, child_status(life.child, 100.0).frozen) == ("old", "new")
    # And so back and forth.
    assert life(PrepareChild("new")) == [AnswerAsker(ChildPrepared(2, woken=True))]
    assert life(PromotePrepared()) == [ThawProcess(2), ChildPromoted(2)]
    assert life(ChildDrained(1)) == [term(1)]


def test_a_woken_one_that_is_dropped_stays_frozen() -> None:
    life = frozen().play(PrepareChild("old"))
    assert life(DropPrepared()) == [AnswerAsker(Dropped())]
    assert life.child == frozen().child


def test_another_release_is_started_beside_a_frozen_one_which_it_outlives() -> None:
    life = frozen()
    assert life(PrepareChild("newer")) == [SpawnChild(3, "newer")]
    life.play(spawned(3), ChildReady(3), PromotePrepared(freeze=True))
    assert life(ChildDrained(2)) == [
        KillProcess(1),
        FreezeProcess(2),
        AnswerPromote(PromoteDone(3, frozen=True)),
    ]
    assert life(exited(1)) == [gone(1, planned=True)]
    assert child_status(life.child, 100.0).frozen == "new"


def test_a_frozen_one_is_killed_when_it_is_not_needed_any_more() -> None:
    life = frozen()
    assert life(EndFrozen()) == [KillProcess(1)]
    assert life(EndFrozen()) == []
    assert life(exited(1)) == [gone(1, planned=True)]
    assert life(PrepareChild("old")) == [SpawnChild(3, "old")]


def test_a_frozen_one_that_dies_is_forgotten_and_its_release_starts_cold() -> None:
    life = frozen()
    _, effects = step(life.child, exited(1), now=100.0, chance=1.0)
    assert effects == (
        gone(1),
        Notify("warning", "the frozen child 1 was killed by SIGKILL; a rollback starts release 'old' anew"),
    )
    life(exited(1))
    assert life.child.frozen is None
    assert life(PrepareChild("old")) == [SpawnChild(3, "old")]


def test_words_about_a_frozen_one_change_nothing_but_its_end() -> None:
    life = frozen()
    before = life.child
    for event in (ChildDrained(1), ChildReady(1), ChildRefused(1, "no"), ChildWedged(1, "silent")):
        assert life(event) == []
    assert life.child == before


def test_a_successor_that_dies_at_its_start_leaves_the_old_one_and_tells_its_last_words() -> None:
    life = up().play(PREPARE, spawned(2))
    reason = "release 'new' exited with code 1"
    assert life(exited(2, BROKEN)) == [
        gone(2, BROKEN),
        AnswerPrepare(PrepareFailed(reason, kept=True, exit=BROKEN)),
    ]
    assert life(PromotePrepared()) == [AnswerAsker(PrepareFailed(reason, kept=True, exit=BROKEN))]
    assert life(PREPARE) == [SpawnChild(3, "new")]
    assert life.crashes == []


@pytest.mark.parametrize(
    ("event", "at", "effects", "reason"),
    [
        (ChildRefused(2, "another version"), 101.0, [term(2)], "was refused: another version"),
        (ChildWedged(2, "silent"), 101.0, [KillProcess(2)], "was found unusable: silent"),
        (DeadlinePassed(), 1000.0, [term(2)], "was not ready within 900 s"),
    ],
)
def test_a_successor_that_cannot_be_used_is_ended_and_the_old_one_goes_on(
    event: ChildEvent, at: float, effects: list[ChildEffect], reason: str
) -> None:
    life = up().play(PREPARE, spawned(2))
    failed = PrepareFailed(f"release 'new' {reason}", kept=True)
    assert life(event, at=at) == [*effects, AnswerPrepare(failed)]
    assert life(exited(2)) == [gone(2, planned=True)]
    assert (life.child.release, life.child.ready) == ("old", True)


def test_a_successor_that_cannot_be_executed_leaves_the_old_one() -> None:
    life = up().play(PREPARE)
    exit_ = Exit(spawn_error="gone")
    failed = PrepareFailed("release 'new' could not be started: gone", kept=True, exit=exit_)
    assert life(SpawnFailed(2, "gone")) == [AnswerPrepare(failed)]


def test_a_successor_that_dies_while_it_waits_is_told_to_whoever_promotes_it() -> None:
    life = prepared()
    failed = PrepareFailed("release 'new' exited with code 1", kept=True, exit=BROKEN)
    assert life(exited(2, BROKEN)) == [gone(2, BROKEN)]
    assert life(PromotePrepared()) == [AnswerAsker(failed)]
    assert (life.child.release, life.child.ready) == ("old", True)


def test_a_serving_child_that_crashes_is_started_again_of_its_own_release_whatever_is_prepared() -> None:
    life = prepared()
    assert life(exited(1)) == [SpawnChild(3, "old"), gone(1)]
    assert life(spawned(3)) == [ChildAttached(3)]
    assert life.crashes == [Crashed("old", KILLED, 1)]
    assert life(PromotePrepared()) == [ChildPromoted(2), term(3)]
    assert life(exited(3)) == [gone(3, planned=True), AnswerPromote(PromoteDone(2, frozen=False))]


def test_a_restart_beside_a_prepared_one_starts_the_old_release_and_a_promotion_ends_it() -> None:
    life = prepared()
    assert life(RestartChild()) == [SpawnChild(3, "old")]
    life(spawned(3))
    assert life(PromotePrepared(freeze=True)) == [ChildPromoted(2), term(3), AnswerRestart(RestartDone(2))]
    assert life(exited(3)) == [gone(3, planned=True)]
    assert life(ChildDrained(1)) == [FreezeProcess(1), AnswerPromote(PromoteDone(2, frozen=True))]


def test_a_crash_of_the_new_release_restarts_the_new_release() -> None:
    life = frozen()
    assert life(exited(2)) == [SpawnChild(3, "new"), gone(2)]
    assert life.crashes == [Crashed("new", KILLED, 1)]
    life.play(spawned(3), exited(3))
    assert life.crashes[1:] == [Crashed("new", KILLED, 2)]


def test_a_new_release_that_has_been_given_up_is_rolled_back_from_there() -> None:
    life = frozen()
    while life.child.state is not ChildState.FAILED:
        if life.child.current is None:
            life(DeadlinePassed(), at=life.now + 1)
        else:
            generation = life.child.current.generation
            life.play(spawned(generation), exited(generation))
    assert [crash.times for crash in life.crashes] == [1, 2, 3, 4, 5, 6]
    assert life(PrepareChild("old")) == [AnswerAsker(ChildPrepared(1, woken=True))]
    assert life(PromotePrepared()) == [
        ThawProcess(1),
        ChildPromoted(1),
        AnswerPromote(PromoteDone(1, frozen=False)),
    ]
    assert (life.child.state, life.child.release, life.child.tally) == (ChildState.UP, "old", Tally())


def test_where_nothing_serves_calls_wait_for_the_successor_or_the_old_release() -> None:
    life = up().play(exited(1), spawned(2), exited(2))
    assert life.child.state is ChildState.BACKOFF
    assert life(PREPARE) == [SpawnChild(3, "new")]
    assert (life.child.state, next_deadline(life.child)) == (ChildState.VACANT, 1000.0)
    life(spawned(3))
    failed = PrepareFailed("release 'new' exited with code 1", kept=False, exit=BROKEN)
    assert life(exited(3, BROKEN)) == [SpawnChild(4, "old"), gone(3, BROKEN), AnswerPrepare(failed)]


def test_by_hold_the_old_one_ends_first_and_calls_wait_until_the_successor_is_promoted() -> None:
    life = up()
    assert life(IN_TURN) == [CallsHeld()]
    assert life(ChildDrained(1)) == [StopProcess(1, 2.0, 2.0)]
    assert life(exited(1, CLEAN)) == [SpawnChild(2, "new"), gone(1, CLEAN, planned=True)]
    assert life(spawned(2)) == [ChildAttached(2, beside=True)]
    assert life(RestartChild()) == []  # joins
    assert life(ChildReady(2)) == [AnswerPrepare(ChildPrepared(2))]
    assert not life.child.ready
    assert life(PromotePrepared(freeze=True)) == [
        ChildPromoted(2),
        AnswerRestart(RestartDone(2)),
        AnswerPromote(PromoteDone(2, frozen=False)),
    ]
    assert (life.child.release, life.child.frozen) == ("new", None)


@pytest.mark.parametrize(
    ("event", "effect"),
    [(DropPrepared(), term(2)), (ChildRefused(2, "no"), term(2)), (ChildWedged(2, "no"), KillProcess(2))],
)
def test_by_hold_a_successor_that_is_given_up_ends_before_the_old_release_comes_back(
    event: ChildEvent, effect: ChildEffect
) -> None:
    life = up().play(IN_TURN, ChildDrained(1), exited(1, CLEAN), spawned(2))
    assert life(event)[0] == effect
    assert life(exited(2))[:2] == [SpawnChild(3, "old"), gone(2, planned=True)]
    assert (life.child.release, life.child.state) == ("old", ChildState.UP)


def test_by_hold_a_successor_that_dies_brings_the_old_release_back() -> None:
    life = up().play(IN_TURN, ChildDrained(1), exited(1, CLEAN), spawned(2), ChildReady(2))
    assert life(exited(2)) == [SpawnChild(3, "old"), gone(2)]


def test_by_hold_an_old_one_that_crashes_first_makes_room_just_so() -> None:
    life = up().play(IN_TURN)
    assert life(exited(1)) == [SpawnChild(2, "new"), gone(1)]
    assert life.crashes == [Crashed("old", KILLED, 1)]


def test_by_hold_a_drop_before_the_old_one_is_gone_starts_the_old_release_again() -> None:
    life = up().play(IN_TURN)
    failed = PrepareFailed("release 'new' was dropped", kept=True)
    assert life(DropPrepared()) == [AnswerPrepare(failed), AnswerAsker(Dropped())]
    life(ChildDrained(1))
    assert life(exited(1, CLEAN)) == [SpawnChild(2, "old"), gone(1, CLEAN, planned=True)]


def test_a_drop_is_answered_when_the_successor_is_gone() -> None:
    life = prepared()
    assert life(DropPrepared()) == [term(2)]
    assert life(PREPARE) == [BUSY]
    assert life(exited(2)) == [gone(2, planned=True), AnswerDrop()]
    assert life(DropPrepared()) == [AnswerAsker(Dropped())]
    assert life.child.release == "old"


def test_a_drop_during_the_start_fails_the_start() -> None:
    life = up().play(PREPARE)
    failed = PrepareFailed("release 'new' was dropped", kept=True)
    assert life(DropPrepared()) == [AnswerPrepare(failed)]
    assert life(spawned(2)) == [term(2)]
    assert life(exited(2)) == [gone(2, planned=True), AnswerDrop()]


def test_one_switch_at_a_time() -> None:
    life = up().play(PREPARE)
    assert life(PrepareChild("other")) == [BUSY]
    not_ready = SwitchRefused("the release that is being prepared is not ready yet")
    assert life(PromotePrepared()) == [AnswerAsker(not_ready)]
    life.play(spawned(2), ChildReady(2), PromotePrepared())
    assert life(PrepareChild("old")) == [BUSY]
    assert life(PromotePrepared()) == [AnswerAsker(SwitchRefused("no release is prepared"))]


def test_by_hold_nothing_is_prepared_during_a_restart() -> None:
    life = up().play(RestartChild())
    restarting = SwitchRefused("server is being restarted; try again when that is over")
    assert life(IN_TURN) == [AnswerAsker(restarting)]


def test_a_stop_ends_the_prepared_and_kills_the_frozen_one() -> None:
    life = frozen().play(PrepareChild("newer"), spawned(3))
    stopped = PrepareFailed("server was stopped", kept=False)
    assert life(StopChild()) == [
        StopProcess(2, 2.0, 2.0),
        StopProcess(3, 2.0, 2.0),
        KillProcess(1),
        AnswerPrepare(stopped),
    ]
    assert life(PREPARE) == [AnswerAsker(SwitchRefused("server is being stopped"))]
    life.play(exited(1), exited(3))
    assert isinstance(life(exited(2))[-1], ChildUnavailable)
    assert life.child.runs == ()


def test_a_stop_during_a_switch_answers_it_when_the_old_one_is_gone() -> None:
    life = prepared().play(PromotePrepared(freeze=True))
    assert life(StopChild()) == [StopProcess(2, 2.0, 2.0), term(1)]
    assert life(exited(1)) == [gone(1, planned=True), AnswerPromote(PromoteDone(2, frozen=False))]


def test_crashes_of_a_child_that_is_never_started_again_are_told_too() -> None:
    life = up(ChildSettings(restart=RestartPolicy(backoff_base=0, intensity=1)))
    life.play(exited(1), spawned(2), exited(2))
    assert life.crashes == [Crashed("old", KILLED, 1), Crashed("old", KILLED, 2)]
    assert life.child.state is ChildState.FAILED
