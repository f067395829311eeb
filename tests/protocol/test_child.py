"""The child's life: scripted lives, the whole product of states and events, and invariants of any life."""

import itertools
from typing import get_args

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
    ChildStatus,
    Crashed,
    DeadlinePassed,
    FreezeProcess,
    KillProcess,
    Notify,
    ReplaceMode,
    RestartChild,
    RestartDone,
    RestartFailed,
    SpawnChild,
    SpawnFailed,
    Stage,
    StartChild,
    StopChild,
    StopProcess,
    ThawProcess,
    Wanted,
    child_status,
    next_deadline,
)
from mcpkeep.protocol.life import TABLE, step
from mcpkeep.protocol.replacement import DropPrepared, EndFrozen, PrepareChild, PromotePrepared
from mcpkeep.protocol.restart import RestartPolicy, RestartType, Tally
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
from tests.protocol.child_life import CLEAN, KILLED, Life, exited, spawned, up

REMEDY = "Call the `mcpkeep` tool with action `restart`, send SIGUSR2 to mcpkeep, or fix the command."
OVERLAP, HOLD = RestartChild(ReplaceMode.OVERLAP), RestartChild(ReplaceMode.HOLD)


def stop(generation: int) -> StopProcess:
    return StopProcess(generation, 2.0, 2.0)


# Scripted lives: each line is an event and what must be done then, the notices left out.


def test_a_start_spawns_attaches_and_serves() -> None:
    life = Life()
    assert life(StartChild()) == [SpawnChild(1)]
    assert life(spawned(1)) == [ChildAttached(1)]
    assert not life.child.ready
    assert life(ChildReady(1)) == []
    assert life.child.ready
    assert (life.child.state, life.child.wanted) == (ChildState.UP, Wanted.UP)
    assert next_deadline(life.child) is None


def test_a_serving_child_that_crashes_is_replaced_at_once_and_the_spawn_comes_first() -> None:
    life = up()
    child, effects = step(life.child, exited(1), now=100.0, chance=1.0)
    assert effects == (
        SpawnChild(2),
        ChildExited(1, KILLED, 7, planned=False),
        Crashed(None, KILLED, 1),
        Notify("warning", "server was killed by SIGKILL; it is started again"),
    )
    assert (child.restarts, child.last_exit) == (1, KILLED)


def test_repeated_crashes_back_off_and_end_in_a_failure_that_says_what_to_do() -> None:
    policy = RestartPolicy(intensity=2)
    life = up(Child("server", ChildSettings(restart=policy)))
    assert life(exited(1)) == [SpawnChild(2), ChildExited(1, KILLED, 7)]
    life.play(spawned(2), ChildReady(2))
    assert life(exited(2)) == [ChildExited(2, KILLED, 7)]
    assert life.child.state is ChildState.BACKOFF
    assert next_deadline(life.child) == 100.1
    assert life(DeadlinePassed(), at=100.05) == []
    assert life(DeadlinePassed(), at=100.1) == [SpawnChild(3)]
    life(spawned(3))
    detail = f"server exited with code 3, and it was restarted 2 times within 60 s. {REMEDY}"
    assert life(exited(3, Exit(code=3))) == [
        ChildExited(3, Exit(code=3), 7),
        ChildUnavailable(Exit(code=3), detail),
    ]
    assert life.notices[-1] == Notify("error", detail)
    assert (life.child.state, life.child.wanted) == (ChildState.FAILED, Wanted.UP)
    assert life(RestartChild()) == [SpawnChild(4)]
    assert life.child.tally == Tally()
    life(spawned(4))
    assert life(ChildReady(4)) == [AnswerRestart(RestartDone(4))]


def test_a_command_that_does_not_exist_is_unavailable_at_once() -> None:
    life = Life().play(StartChild())
    assert life(SpawnFailed(1, "no such file")) == [
        ChildUnavailable(
            Exit(spawn_error="no such file"),
            f"server could not be started: no such file, and it has never run. {REMEDY}",
        )
    ]
    assert life.child.state is ChildState.FAILED


def test_a_transient_child_that_ends_well_stays_down_until_it_is_asked_for() -> None:
    policy = RestartPolicy(type=RestartType.TRANSIENT)
    life = up(Child("server", ChildSettings(restart=policy)))
    detail = f"server exited with code 0, and its restart type leaves it so. {REMEDY}"
    assert life(exited(1, CLEAN)) == [ChildExited(1, CLEAN, 7), ChildUnavailable(CLEAN, detail)]
    assert (life.child.state, life.child.wanted) == (ChildState.DOWN, Wanted.DOWN)
    assert life(StartChild()) == [SpawnChild(2)]


def test_an_overlap_starts_the_new_one_beside_the_old_which_then_drains_and_ends() -> None:
    life = up()
    assert life(OVERLAP) == [SpawnChild(2)]
    assert life(spawned(2)) == [ChildAttached(2)]
    assert life.child.ready
    assert life(RestartChild()) == []  # joins
    assert life(ChildReady(2)) == [ChildPromoted(2), AnswerRestart(RestartDone(2))]
    assert [(run.generation, run.stage) for run in life.child.leaving] == [(1, Stage.DRAINING)]
    assert next_deadline(life.child) == 130.0
    assert life(ChildDrained(1)) == [stop(1)]
    assert life(ChildDrained(1)) == []
    assert life(exited(1, CLEAN)) == [ChildExited(1, CLEAN, 7, planned=True)]
    assert life.child.leaving == ()
    assert (life.child.restarts, life.child.last_exit) == (0, None)


def test_an_old_child_that_does_not_drain_is_ended_after_the_grace() -> None:
    life = up().play(OVERLAP, spawned(2), ChildReady(2))
    assert life(DeadlinePassed(), at=129.9) == []
    assert life(DeadlinePassed(), at=130.0) == [stop(1)]
    assert next_deadline(life.child) is None


def test_an_old_child_that_crashes_while_it_drains_is_told_as_a_crash_and_not_restarted() -> None:
    life = up().play(OVERLAP, spawned(2), ChildReady(2))
    assert life(exited(1)) == [ChildExited(1, KILLED, 7, planned=False)]
    assert life.child.ready


@pytest.mark.parametrize(
    ("event", "at", "effects", "reason"),
    [
        (exited(2, Exit(code=1)), 101.0, [ChildExited(2, Exit(code=1), 7)], "server exited with code 1"),
        (
            ChildRefused(2, "another protocol version"),
            101.0,
            [stop(2)],
            "the new child was refused: another protocol version",
        ),
        (ChildWedged(2, "silent"), 101.0, [KillProcess(2)], "the new child was found unusable: silent"),
        (DeadlinePassed(), 1000.0, [stop(2)], "the new child was not ready within 900 s"),
    ],
)
def test_a_candidate_that_fails_leaves_the_old_child_serving(
    event: ChildEvent, at: float, effects: list[ChildEffect], reason: str
) -> None:
    life = up().play(OVERLAP, spawned(2))
    assert life(event, at=at) == [*effects, AnswerRestart(RestartFailed(reason, kept=True))]
    assert (life.child.state, life.child.ready, life.child.candidate) == (ChildState.UP, True, None)
    assert life.notices[-1] == Notify("error", f"restart failed, the old child stays: {reason}")
    # Whatever of it is left ends without a word about the one that serves.
    life.play(ChildReady(2), exited(2))
    assert life.child.leaving == ()
    assert life.child.current == up().child.current
    assert life(OVERLAP) == [SpawnChild(3)]


def test_a_candidate_that_cannot_be_executed_leaves_the_old_child_serving() -> None:
    life = up().play(OVERLAP)
    failed = RestartFailed("server could not be started: gone", kept=True)
    assert life(SpawnFailed(2, "gone")) == [AnswerRestart(failed)]
    assert life.child.ready


def test_a_candidate_given_up_before_it_was_spawned_is_ended_when_it_is() -> None:
    life = up().play(OVERLAP)
    late = RestartFailed("the new child was not ready within 900 s", kept=True)
    assert life(DeadlinePassed(), at=1000.0) == [AnswerRestart(late)]
    assert life(spawned(2)) == [stop(2)]
    assert life(exited(2)) == [ChildExited(2, KILLED, 7, planned=True)]


def test_a_candidate_takes_the_place_of_a_serving_child_that_crashes_without_a_second_spawn() -> None:
    life = up().play(OVERLAP, spawned(2))
    assert life(exited(1)) == [ChildExited(1, KILLED, 7, planned=False)]
    assert not life.child.ready
    assert life(ChildReady(2)) == [ChildPromoted(2), AnswerRestart(RestartDone(2))]
    assert life.child.ready
    assert life.child.restarts == 1


def test_a_candidate_that_took_a_place_before_it_was_spawned_is_attached_as_the_only_one() -> None:
    life = up().play(OVERLAP, exited(1))
    assert life(spawned(2)) == [ChildAttached(2)]
    assert life(ChildReady(2)) == [AnswerRestart(RestartDone(2))]


def test_hold_lets_the_calls_wait_ends_the_old_one_and_then_starts_the_new_one() -> None:
    life = up()
    assert life(HOLD) == [CallsHeld()]
    assert life.child.ready
    assert life(RestartChild()) == []  # joins
    assert life(ChildDrained(1)) == [stop(1)]
    assert life(exited(1, CLEAN)) == [SpawnChild(2), ChildExited(1, CLEAN, 7, planned=True)]
    assert life(spawned(2)) == [ChildAttached(2)]
    assert life(ChildReady(2)) == [AnswerRestart(RestartDone(2))]
    assert (life.child.restarts, life.child.last_exit) == (0, None)


def test_hold_ends_a_child_that_does_not_drain_after_the_grace() -> None:
    life = up().play(HOLD)
    assert life(DeadlinePassed(), at=129.9) == []
    assert life(DeadlinePassed(), at=130.0) == [stop(1)]
    assert life.child.state is ChildState.SWAP


def test_hold_goes_on_when_the_old_child_crashes_meanwhile() -> None:
    life = up().play(HOLD)
    assert life(exited(1)) == [SpawnChild(2), ChildExited(1, KILLED, 7, planned=False)]
    assert life.child.last_exit == KILLED


def test_hold_kills_a_child_that_is_wedged_meanwhile() -> None:
    life = up().play(HOLD)
    assert life(ChildWedged(1, "silent")) == [KillProcess(1)]
    assert life(exited(1)) == [SpawnChild(2), ChildExited(1, KILLED, 7, planned=False)]


def test_a_child_that_closes_its_pipes_while_it_ends_keeps_its_graces() -> None:
    life = up().play(HOLD, ChildDrained(1))
    assert life(ChildWedged(1, "it closed its stdout and lives on")) == []
    assert life(exited(1, CLEAN)) == [SpawnChild(2), ChildExited(1, CLEAN, 7, planned=True)]


def test_an_old_child_that_closes_its_pipes_while_it_ends_keeps_its_graces() -> None:
    life = up().play(OVERLAP, spawned(2), ChildReady(2), ChildDrained(1))
    assert life(ChildWedged(1, "it closed its stdout and lives on")) == []
    assert life(exited(1, CLEAN)) == [ChildExited(1, CLEAN, 7, planned=True)]


def test_a_restart_by_hold_whose_new_child_crashes_is_failed_and_the_policy_goes_on() -> None:
    life = up().play(HOLD, ChildDrained(1), exited(1, CLEAN), spawned(2))
    failed = RestartFailed("server was killed by SIGKILL", kept=False)
    assert life(exited(2)) == [ChildExited(2, KILLED, 7), AnswerRestart(failed)]
    assert life.child.state is ChildState.BACKOFF


def test_a_restart_while_the_child_is_starting_ends_it_and_starts_another() -> None:
    life = Life().play(StartChild(), spawned(1))
    assert life(OVERLAP) == [stop(1)]
    assert life(exited(1, CLEAN)) == [SpawnChild(2), ChildExited(1, CLEAN, 7, planned=True)]


def test_a_restart_while_the_child_is_being_spawned_waits_for_that_one() -> None:
    life = Life().play(StartChild())
    assert life(OVERLAP) == []
    life(spawned(1))
    assert life(OVERLAP) == []
    assert life(ChildReady(1)) == [AnswerRestart(RestartDone(1))]


def test_a_restart_during_backoff_starts_right_away_with_a_fresh_tally() -> None:
    life = up().play(exited(1), spawned(2), exited(2))
    assert life.child.state is ChildState.BACKOFF
    assert life(RestartChild()) == [SpawnChild(3)]
    assert (life.child.tally, next_deadline(life.child)) == (Tally(), 1000.0)


def test_a_wedged_child_is_killed_and_counts_as_crashed() -> None:
    life = up()
    assert life(ChildWedged(1, "no answer to a ping")) == [KillProcess(1)]
    assert not life.child.ready
    assert life(exited(1)) == [SpawnChild(2), ChildExited(1, KILLED, 7, planned=False)]
    assert life.notices[-1].text == (
        "server was killed by SIGKILL after it was found unusable: no answer to a ping; it is started again"
    )


def test_a_wedged_child_that_is_being_killed_when_its_successor_is_ready_does_not_drain() -> None:
    life = up().play(OVERLAP, spawned(2))
    assert life(ChildWedged(1, "silent")) == [KillProcess(1)]
    assert life(ChildReady(2)) == [ChildPromoted(2), AnswerRestart(RestartDone(2))]
    assert [(run.generation, run.stage) for run in life.child.leaving] == [(1, Stage.ENDING)]
    assert next_deadline(life.child) is None


def test_a_child_that_is_refused_before_it_was_ready_counts_as_crashed() -> None:
    life = up().play(exited(1), spawned(2))
    assert life(ChildRefused(2, "another protocol version")) == [stop(2)]
    assert life(exited(2, CLEAN)) == [ChildExited(2, CLEAN, 7, planned=False)]
    assert life.child.state is ChildState.BACKOFF


def test_a_restarted_child_that_is_never_ready_counts_as_crashed_after_the_start_limit() -> None:
    life = up().play(exited(1), spawned(2))
    assert next_deadline(life.child) == 1000.0
    assert life(DeadlinePassed(), at=1000.0) == [stop(2)]
    assert life(exited(2, CLEAN)) == [ChildExited(2, CLEAN, 7, planned=False)]


def test_the_first_child_may_wait_for_its_client_for_ever() -> None:
    life = Life().play(StartChild(), spawned(1))
    assert next_deadline(life.child) is None


def test_without_a_start_limit_a_candidate_may_take_for_ever() -> None:
    life = up(Child("server", ChildSettings(start_limit=0))).play(OVERLAP, spawned(2))
    assert next_deadline(life.child) is None


def test_a_stop_ends_everything_and_starts_nothing() -> None:
    life = up().play(OVERLAP, spawned(2), ChildReady(2), OVERLAP, spawned(3))
    stopped = RestartFailed("server was stopped", kept=False)
    assert life(StopChild()) == [stop(2), stop(3), stop(1), AnswerRestart(stopped)]
    assert life(StopChild()) == []
    assert life(exited(2)) == [ChildExited(2, KILLED, 7, planned=True)]
    assert life(exited(1)) == [ChildExited(1, KILLED, 7, planned=True)]
    assert life.child.state is ChildState.STOPPING
    assert life(exited(3, CLEAN)) == [
        ChildExited(3, CLEAN, 7, planned=True),
        ChildUnavailable(CLEAN, f"server was stopped. {REMEDY}"),
    ]
    assert (life.child.state, life.child.wanted) == (ChildState.DOWN, Wanted.DOWN)


def test_a_stop_while_a_child_is_spawned_ends_it_when_it_is() -> None:
    life = Life().play(StartChild())
    assert life(StopChild()) == []
    assert life.child.state is ChildState.STOPPING
    assert life(spawned(1)) == [stop(1)]
    assert life(exited(1)) == [
        ChildExited(1, KILLED, 7, planned=True),
        ChildUnavailable(KILLED, f"server was stopped. {REMEDY}"),
    ]


def test_a_stop_during_backoff_answers_those_who_wait() -> None:
    life = up().play(exited(1), spawned(2), exited(2))
    assert life(StopChild()) == [ChildUnavailable(KILLED, f"server was stopped. {REMEDY}")]
    assert life.child.state is ChildState.DOWN
    assert life(DeadlinePassed(), at=1e6) == []


def test_a_restart_during_a_stop_starts_when_all_have_ended() -> None:
    life = up().play(StopChild())
    assert life(RestartChild()) == []
    assert life(exited(1)) == [SpawnChild(2), ChildExited(1, KILLED, 7, planned=True)]
    life(spawned(2))
    assert life(ChildReady(2)) == [AnswerRestart(RestartDone(2))]


def test_a_status_tells_what_is_wanted_what_is_and_what_comes() -> None:
    life = up().play(OVERLAP)
    assert child_status(life.child, 103.0) == ChildStatus(
        command="server",
        state=ChildState.OVERLAP,
        wanted=Wanted.UP,
        ready=True,
        generation=1,
        pid=1001,
        uptime=3.0,
        restarts=0,
        last_exit=None,
        restart_failed=None,
        retry_in=None,
        candidate=2,
        leaving=(),
    )
    life = up().play(exited(1), spawned(2), exited(2))
    assert child_status(life.child, 100.0625) == ChildStatus(
        command="server",
        state=ChildState.BACKOFF,
        wanted=Wanted.UP,
        ready=False,
        generation=2,
        pid=None,
        uptime=None,
        restarts=1,
        last_exit="was killed by SIGKILL",
        restart_failed=None,
        retry_in=100.1 - 100.0625,
        candidate=None,
        leaving=(),
    )
    status = child_status(Life().play(StartChild(), spawned(1)).child, 107.5)
    assert (status.state, status.ready, status.uptime, status.starting) == (ChildState.UP, False, 7.5, 7.5)


# The whole product.

FAILED = (StartChild(), SpawnFailed(1, "gone"))
SERVING = (StartChild(), spawned(1), ChildReady(1))
PROMOTED = (*SERVING, OVERLAP, spawned(2), ChildReady(2))
BESIDE = (*SERVING, PrepareChild("new", ReplaceMode.OVERLAP))
PREPARED = (*BESIDE, spawned(2), ChildReady(2))
FREEZING = (*PREPARED, PromotePrepared(freeze=True))
FROZEN = (*FREEZING, ChildDrained(1))
IN_TURN = (*SERVING, PrepareChild("new", ReplaceMode.HOLD))
VACANT = (*IN_TURN, ChildDrained(1), exited(1, CLEAN))

LIVES: dict[str, tuple[ChildEvent, ...]] = {
    "down": (),
    "failed": FAILED,
    "spawning": (StartChild(),),
    "starting": (StartChild(), spawned(1)),
    "serving": SERVING,
    "serving, wedged": (*SERVING, ChildWedged(1, "silent")),
    "serving, an old one drains": PROMOTED,
    "serving, an old one ends": (*PROMOTED, ChildDrained(1)),
    "backoff": (*SERVING, exited(1), spawned(2), exited(2)),
    "backoff, an old one drains": (*PROMOTED, exited(2), spawned(3), exited(3)),
    "overlap, spawning": (*SERVING, OVERLAP),
    "overlap, starting": (*SERVING, OVERLAP, spawned(2)),
    "overlap, wedged": (*SERVING, OVERLAP, spawned(2), ChildWedged(1, "silent")),
    "overlap, an old one drains": (*PROMOTED, OVERLAP, spawned(3)),
    "hold": (*SERVING, HOLD),
    "hold, an old one drains": (*PROMOTED, HOLD),
    "swap": (*SERVING, HOLD, ChildDrained(1)),
    "preparing, spawning": BESIDE,
    "preparing, starting": (*BESIDE, spawned(2)),
    "prepared": PREPARED,
    "prepared, backoff": (*PREPARED, exited(1), spawned(3), exited(3)),
    "prepared, overlap": (*PREPARED, OVERLAP, spawned(3)),
    "prepared, hold": (*PREPARED, HOLD),
    "prepared, swap": (*PREPARED, HOLD, ChildDrained(1)),
    "dropped, ending": (*PREPARED, DropPrepared()),
    "promoted, to be frozen": FREEZING,
    "promoted, the old one ends": (*PREPARED, PromotePrepared(), ChildDrained(1)),
    "frozen": FROZEN,
    "frozen, prepared": (*FROZEN, PrepareChild(None)),
    "frozen, overlap": (*FROZEN, OVERLAP, spawned(3)),
    "frozen, being ended": (*FROZEN, EndFrozen()),
    "hold, for another release": IN_TURN,
    "swap, for another release": (*IN_TURN, ChildDrained(1)),
    "vacant, spawning": VACANT,
    "vacant, starting": (*VACANT, spawned(2)),
    "vacant, prepared": (*VACANT, spawned(2), ChildReady(2)),
    "vacant, dropped": (*VACANT, spawned(2), DropPrepared()),
    "vacant, frozen": (*FROZEN, exited(2), spawned(3), exited(3), PrepareChild(None)),
    "stopping, all kinds": (*FROZEN, PrepareChild("newer"), spawned(3), StopChild()),
    "stopping": (*PROMOTED, StopChild()),
    "stopping, spawning": (*SERVING, OVERLAP, StopChild()),
    "stopping, wanted up": (*SERVING, StopChild(), StartChild()),
}


def words_about(generation: int) -> list[ChildEvent]:
    return [
        spawned(generation),
        SpawnFailed(generation, "gone"),
        exited(generation),
        exited(generation, CLEAN),
        ChildReady(generation),
        ChildRefused(generation, "no"),
        ChildDrained(generation),
        ChildWedged(generation, "silent"),
    ]


EVENTS: list[ChildEvent] = [
    *(StartChild(), StopChild(), RestartChild(), OVERLAP, HOLD, DeadlinePassed()),
    *(PrepareChild("other", mode) for mode in ReplaceMode),
    *(PrepareChild(None), PromotePrepared(), PromotePrepared(freeze=True), DropPrepared(), EndFrozen()),
    *(word for generation in range(6) for word in words_about(generation)),
]


def check(child: Child) -> None:
    """What holds in every state."""
    generations = [run.generation for run in child.runs]
    assert len(set(generations)) == len(generations)
    assert max(generations, default=0) <= child.generation
    assert (child.current is not None) == (
        child.state in (ChildState.UP, ChildState.OVERLAP, ChildState.HOLD, ChildState.SWAP)
    )
    assert (child.candidate is not None) == (child.state is ChildState.OVERLAP)
    assert (child.retry_at is not None) == (child.state is ChildState.BACKOFF)
    if child.candidate is not None:
        assert child.candidate.stage in (Stage.SPAWNING, Stage.STARTING)
    if child.state is ChildState.OVERLAP:
        assert child.restart
    if child.current is not None and child.state is not ChildState.SWAP:
        assert child.current.release == child.release
    assert child.frozen is None or child.frozen.stage is Stage.FROZEN
    if child.prepared is not None:
        assert child.prepared.stage in (Stage.SPAWNING, Stage.STARTING, Stage.READY, Stage.FROZEN)
        assert child.preparation is not None and child.preparation.settles is None
    assert child.state is not ChildState.VACANT or child.prepared is not None
    if child.preparation is not None and child.preparation.settles is not None:
        settles = child.find(child.preparation.settles)
        assert settles is not None and settles.stage is not Stage.FROZEN
    elif child.preparation is not None and child.prepared is None:
        assert child.preparation.hold and child.state in (ChildState.HOLD, ChildState.SWAP)
    if child.state is ChildState.STOPPING:
        assert child.leaving
    assert all(run.stage in (Stage.DRAINING, Stage.ENDING) for run in child.leaving)
    assert child.state is not ChildState.DOWN or child.wanted is Wanted.DOWN


def test_the_table_holds_every_state_with_every_event() -> None:
    assert set(TABLE) == set(itertools.product(ChildState, get_args(ChildEvent)))


def test_the_product_covers_every_state_and_every_event_type() -> None:
    assert {Life().play(*events).child.state for events in LIVES.values()} == set(ChildState)
    assert {type(event) for event in EVENTS} == set(get_args(ChildEvent))


@pytest.mark.parametrize("name", LIVES)
@pytest.mark.parametrize("later", [0.0, 50.0, 1e6])
def test_every_event_in_every_state_has_an_answer_that_keeps_the_state_whole(name: str, later: float) -> None:
    child = Life().play(*LIVES[name]).child
    check(child)
    for event in EVENTS:
        life = Life(child, now=100.0 + later)
        life(event)
        check(life.child)


@pytest.mark.parametrize("name", LIVES)
def test_a_word_about_a_generation_that_is_gone_or_never_was_changes_nothing(name: str) -> None:
    child = Life().play(*LIVES[name]).child
    for event in EVENTS:
        generation = getattr(event, "generation", None)
        if generation is None or child.find(generation) is not None:
            continue
        assert step(child, event, now=1e6, chance=1.0) == (child, ())


@pytest.mark.parametrize("name", LIVES)
def test_a_stop_in_any_state_ends_with_no_process_and_nobody_waiting(name: str) -> None:
    life = Life().play(*LIVES[name], StopChild())
    for run in life.child.leaving:
        if run.started_at is None:
            [ends] = life(spawned(run.generation))
            assert isinstance(ends, StopProcess) and ends.generation == run.generation
        life(exited(run.generation))
    assert life.child.state is ChildState.DOWN
    assert (life.child.wanted, life.child.runs) == (Wanted.DOWN, ())
    assert (life.child.restart, life.child.preparation) == (False, None)


def test_the_life_of_one_generation_can_be_told_twice_without_effect() -> None:
    life = up()
    before = life.child
    assert life(spawned(1)) == life(ChildReady(1)) == life(StartChild()) == life(SpawnFailed(1, "x")) == []
    assert life.child == before


# Any life.


class AnyLife(RuleBasedStateMachine):
    """A world of processes around the pure child, which answers its effects in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        policy = RestartPolicy(intensity=3)
        self.child = Child("server", ChildSettings(restart=policy))
        self.now = 0.0
        self.ordered: set[int] = set()  # every generation ever spawned
        self.spawning: set[int] = set()
        self.running: set[int] = set()
        self.gone: set[int] = set()
        self.attached: set[int] = set()
        self.told_gone: set[int] = set()
        self.serving: int | None = None  # as the relay sees it
        self.waiting = False
        self.frozen: set[int] = set()
        self.switching: list[str] = []  # whoever waits for a switch, the newest last

    def happen(self, event: ChildEvent) -> None:
        if isinstance(event, RestartChild):
            self.waiting = True
        if isinstance(event, PrepareChild | PromotePrepared | DropPrepared):
            self.switching.append(type(event).__name__)
        self.child, effects = step(self.child, event, now=self.now, chance=0.5)
        for effect in effects:
            self.perform(effect)

    def perform(self, effect: ChildEffect) -> None:
        match effect:
            case SpawnChild(generation):
                assert generation not in self.ordered, "two spawns for one generation"
                assert self.child.wanted is Wanted.UP
                self.ordered.add(generation)
                self.spawning.add(generation)
            case StopProcess(generation):
                assert generation in self.running - self.frozen, "only what runs can be asked to end"
            case KillProcess(generation):
                assert generation in self.running, "only what runs can be killed"
            case FreezeProcess(generation):
                assert generation in self.running - self.frozen
                assert generation != self.serving, "what serves is never frozen"
                self.frozen.add(generation)
            case ThawProcess(generation):
                self.frozen.remove(generation)
            case ChildAttached(generation, beside):
                assert generation in self.running
                self.attached.add(generation)
                if self.serving is None and not beside:
                    self.serving = generation
            case ChildPromoted(generation):
                assert generation in self.attached - self.told_gone - self.frozen
                self.serving = generation
            case AnswerPrepare():
                self.answer("PrepareChild")
            case AnswerPromote():
                self.answer("PromotePrepared")
            case AnswerDrop():
                self.answer("DropPrepared")
            case AnswerAsker():
                self.switching.pop()
            case ChildExited(generation):
                assert generation in self.gone, "only what is gone is told as gone"
                assert generation not in self.told_gone, "told once"
                self.told_gone.add(generation)
                if self.serving == generation:
                    self.serving = None
            case CallsHeld():
                assert self.serving is not None
            case ChildUnavailable():
                assert self.child.current is None
            case AnswerRestart():
                assert self.waiting, "answered though nobody asked"
                self.waiting = False
            case Notify() | Crashed():
                pass
            case _:
                raise AssertionError(effect)

    def answer(self, kind: str) -> None:
        assert kind in self.switching, "answered though nobody asked"
        self.switching = [other for other in self.switching if other != kind]

    @rule()
    def start(self) -> None:
        self.happen(StartChild())

    @rule()
    def stop(self) -> None:
        self.happen(StopChild())

    @rule(mode=st.sampled_from([None, *ReplaceMode]))
    def restart(self, mode: ReplaceMode | None) -> None:
        self.happen(RestartChild(mode))

    @rule(release=st.sampled_from([None, "a", "b"]), mode=st.sampled_from([None, *ReplaceMode]))
    def prepare(self, release: str | None, mode: ReplaceMode | None) -> None:
        self.happen(PrepareChild(release, mode))

    @rule(freeze=st.booleans())
    def promote(self, freeze: bool) -> None:
        self.happen(PromotePrepared(freeze=freeze))

    @rule()
    def drop(self) -> None:
        self.happen(DropPrepared())

    @rule()
    def end_frozen(self) -> None:
        self.happen(EndFrozen())

    @precondition(lambda self: self.spawning)
    @rule(data=st.data(), works=st.booleans())
    def spawn(self, data: st.DataObject, works: bool) -> None:
        generation = data.draw(st.sampled_from(sorted(self.spawning)))
        self.spawning.remove(generation)
        if works:
            self.running.add(generation)
            self.happen(spawned(generation))
        else:
            self.gone.add(generation)
            self.happen(SpawnFailed(generation, "gone"))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), exit_=st.sampled_from([KILLED, CLEAN]))
    def exit(self, data: st.DataObject, exit_: Exit) -> None:
        generation = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(generation)
        self.frozen.discard(generation)
        self.gone.add(generation)
        self.happen(exited(generation, exit_))

    @precondition(lambda self: self.attached)
    @rule(data=st.data(), what=st.sampled_from(["ready", "ready", "refused", "drained", "wedged"]))
    def report(self, data: st.DataObject, what: str) -> None:
        generation = data.draw(st.sampled_from(sorted(self.attached)))
        match what:
            case "ready":
                self.happen(ChildReady(generation))
            case "refused":
                self.happen(ChildRefused(generation, "no"))
            case "drained":
                self.happen(ChildDrained(generation))
            case _:
                self.happen(ChildWedged(generation, "silent"))

    @rule(seconds=st.sampled_from([0.01, 1.0, 31.0, 901.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.happen(DeadlinePassed())

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def say_something_late(self, data: st.DataObject) -> None:
        generation = data.draw(st.sampled_from(sorted(self.gone)))
        for event in (exited(generation), spawned(generation), ChildReady(generation)):
            assert step(self.child, event, now=self.now, chance=0.5) == (self.child, ())

    @invariant()
    def the_state_is_whole(self) -> None:
        check(self.child)

    @invariant()
    def every_process_is_known(self) -> None:
        assert {run.generation for run in self.child.runs} == self.spawning | self.running

    @invariant()
    def what_serves_is_what_the_relay_serves_with(self) -> None:
        current = self.child.current
        if self.child.ready:
            assert current is not None
            assert self.serving == current.generation
            assert current.generation not in self.frozen

    @invariant()
    def somebody_waits_exactly_while_the_child_knows_it(self) -> None:
        assert self.waiting == self.child.restart
        switch, prepared = self.child.preparation, self.child.prepared
        under_way = prepared is None or prepared.stage in (Stage.SPAWNING, Stage.STARTING)
        waiting: list[str] = []
        if switch is not None and switch.settles is None and under_way:
            waiting = ["PrepareChild"]
        elif switch is not None and switch.settles is not None:
            waiting = ["DropPrepared" if switch.dropped else "PromotePrepared"]
        assert self.switching == waiting

    def teardown(self) -> None:
        """From anywhere: a stop ends everything; and a restart then brings it up again."""
        self.happen(StopChild())
        for generation in sorted(self.spawning):
            self.spawning.remove(generation)
            self.running.add(generation)
            self.happen(spawned(generation))
        for generation in sorted(self.running):
            self.running.remove(generation)
            self.gone.add(generation)
            self.happen(exited(generation))
        assert self.child.state is ChildState.DOWN
        assert (self.child.runs, self.waiting, self.switching, self.serving) == ((), False, [], None)
        self.happen(RestartChild())
        assert self.spawning == {self.child.generation}


AnyLife.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyLife = AnyLife.TestCase
