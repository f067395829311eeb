"""The child's nouns: settings, state, events, effects and status. The rules of its life are in `life.py`.

What is wanted, what a process actually does and whether it is ready are kept apart. A generation is one
process; its number is never used again, so that a late word about it moves nothing.
"""

import enum
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from mcpkeep.protocol.question import Question
from mcpkeep.protocol.replacement import (
    Dropped,
    DropPrepared,
    EndFrozen,
    Preparation,
    PrepareChild,
    PrepareFailed,
    PrepareOutcome,
    PromoteOutcome,
    PromotePrepared,
    ReplaceMode,
)
from mcpkeep.protocol.restart import RestartPolicy, Tally
from mcpkeep.protocol.switch import (
    ChildDrained,
    ChildReady,
    ChildRefused,
    ChildWedged,
    Exit,
    RelayOrder,
    describe_exit,
)

__all__ = [
    "After",
    "AnswerAsker",
    "AnswerDrop",
    "AnswerPrepare",
    "AnswerPromote",
    "AnswerRestart",
    "Child",
    "ChildEffect",
    "ChildEvent",
    "ChildSettings",
    "ChildState",
    "ChildStatus",
    "Crashed",
    "DeadlinePassed",
    "Exited",
    "FreezeProcess",
    "GetStatus",
    "KillProcess",
    "Level",
    "Notify",
    "ReplaceMode",
    "RestartChild",
    "RestartDone",
    "RestartFailed",
    "RestartOutcome",
    "Run",
    "SpawnChild",
    "SpawnFailed",
    "Spawned",
    "Stage",
    "StartChild",
    "StopChild",
    "StopProcess",
    "ThawProcess",
    "Wanted",
    "child_status",
    "next_deadline",
]

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ChildSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The graces and limits of a child's life. All durations are seconds."""

    restart: RestartPolicy = RestartPolicy()
    replace: ReplaceMode = ReplaceMode.OVERLAP
    drain_grace: Seconds = 30.0
    """How long a child that is being replaced may finish what is in flight."""
    stop_eof: Seconds = 2.0
    """How long a child may take to end after its stdin is closed; the official SDKs' number."""
    stop_term: Seconds = 2.0
    """How long after SIGTERM, before SIGKILL; the official SDKs' number."""
    start_limit: Seconds = 900.0
    """How long a child may take to become ready once the command is known to work; 0 sets no bound."""


class Wanted(enum.Enum):
    """What was asked for."""

    UP = "up"
    DOWN = "down"


class ChildState(enum.Enum):
    """What is so."""

    DOWN = "down"
    """Nothing serves, and nothing will until it is asked to."""
    BACKOFF = "backoff"
    """Nothing serves until the next attempt, which has its time."""
    FAILED = "failed"
    """Given up: nothing serves until somebody restarts it."""
    UP = "up"
    """The current process is starting, serves, or has been ended for a fault and is yet to exit."""
    OVERLAP = "overlap"
    """The current process serves while a candidate starts."""
    HOLD = "hold"
    """Calls wait while the current process finishes what is in flight."""
    SWAP = "swap"
    """The current process is being ended; another is started when it is gone."""
    VACANT = "vacant"
    """Nothing serves and calls wait while a prepared one starts, or waits to be promoted."""
    STOPPING = "stopping"
    """Everything is being ended."""


class Stage(enum.Enum):
    """How far one process has come; it only moves on, but that a frozen one may be ready again."""

    SPAWNING = "spawning"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FROZEN = "frozen"
    ENDING = "ending"


class After(enum.Enum):
    """What becomes of a process that has finished what was in flight, or took too long to."""

    EOF = "eof"
    """It is ended, its stdin closed first."""
    TERM = "term"
    """It is ended by SIGTERM with its stdin open: on EOF a prAxIs server deletes its successor's files."""
    FREEZE = "freeze"
    """It is stopped where it stands, to be woken in an instant."""


class Run(msgspec.Struct, frozen=True):
    """One process, from the order to spawn it until its exit."""

    generation: int
    stage: Stage = Stage.SPAWNING
    pid: int | None = None
    started_at: float | None = None
    """When the process began; None until it has."""
    ready_since: float | None = None
    deadline: float | None = None
    """When the wait of this stage is over: to become ready, or to drain."""
    promote: bool = False
    """Attached beside a serving one, so that the relay serves with it only once it is promoted."""
    fault: str | None = None
    """Why mcpkeep ended it as if it had crashed."""
    release: str | None = None
    """What it was started of; None is the command as configured."""
    after: After = After.EOF


class Child(msgspec.Struct, frozen=True):
    """The whole state. Every process that may exist is current, candidate, prepared, frozen or leaving."""

    command: str
    """As people are to read it."""
    settings: ChildSettings = ChildSettings()
    wanted: Wanted = Wanted.DOWN
    state: ChildState = ChildState.DOWN
    current: Run | None = None
    candidate: Run | None = None
    leaving: tuple[Run, ...] = ()
    """Those that serve no longer: they drain or end."""
    release: str | None = None
    """What serves, and what every restart starts; None is the command as configured."""
    prepared: Run | None = None
    """A successor that starts, or waits to be promoted, beside whatever goes on."""
    frozen: Run | None = None
    """One that served before, stopped where it stood."""
    preparation: Preparation | None = None
    unprepared: PrepareFailed | None = None
    """Why the last prepared one is no more; None once another is on its way."""
    generation: int = 0
    """The last one used."""
    retry_at: float | None = None
    tally: Tally = Tally()
    proven: bool = False
    """Whether a child of this command has ever been ready."""
    restart: bool = False
    """Whether somebody waits for the outcome of a restart."""
    restarts: int = 0
    """How often a process stood in for one that ended unasked."""
    last_exit: Exit | None = None
    """How the last one that ended unasked did so."""
    restart_failed: str | None = None
    """Why the last restart that somebody asked for failed; None once one has succeeded."""

    @property
    def ready(self) -> bool:
        """Whether a child serves."""
        return self.current is not None and self.current.stage in (Stage.READY, Stage.DRAINING)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every process that may exist."""
        runs = (self.current, self.candidate, *self.leaving, self.prepared, self.frozen)
        return tuple(run for run in runs if run is not None)

    def find(self, generation: int) -> Run | None:
        """The process of that generation; None once it is gone."""
        return next((run for run in self.runs if run.generation == generation), None)

    def is_current(self, run: Run) -> bool:
        """Whether this process serves, or is to."""
        return self.current is not None and self.current.generation == run.generation

    def put(self, run: Run) -> "Child":
        """Set the run down in the place where its generation stands."""
        if self.is_current(run):
            return replace(self, current=run)
        if self.candidate is not None and self.candidate.generation == run.generation:
            return replace(self, candidate=run)
        if self.prepared is not None and self.prepared.generation == run.generation:
            return replace(self, prepared=run)
        others = tuple(run if old.generation == run.generation else old for old in self.leaving)
        return replace(self, leaving=others)

    def without(self, run: Run) -> "Child":
        """Forget a leaving one."""
        return replace(self, leaving=tuple(old for old in self.leaving if old.generation != run.generation))


class RestartDone(msgspec.Struct, frozen=True, tag="child.restart_done"):
    """A new child serves."""

    generation: int


class RestartFailed(msgspec.Struct, frozen=True, tag="child.restart_failed"):
    """No new child serves."""

    reason: str
    kept: bool
    """Whether the old one still does."""


RestartOutcome = RestartDone | RestartFailed


# Events. Those of the relay stand in `switch.py`, those of a prepared child in `replacement.py`.


class StartChild(msgspec.Struct, frozen=True, tag="child.start"):
    """Bring it up, unless it is."""


class StopChild(msgspec.Struct, frozen=True, tag="child.stop"):
    """End every process, and start none."""


class RestartChild(Question[RestartOutcome], frozen=True, tag="child.restart"):
    """Replace the child, or start it where none runs. One that comes while another is under way joins it."""

    mode: ReplaceMode | None = None
    """None is as the settings say."""
    reason: str = "asked to"
    """For the log: who wants it, and why."""


class Spawned(msgspec.Struct, frozen=True, tag="child.spawned"):
    """The process runs and its pipes are open."""

    generation: int
    pid: int


class SpawnFailed(msgspec.Struct, frozen=True, tag="child.spawn_failed"):
    """The command could not be executed."""

    generation: int
    reason: str


class Exited(msgspec.Struct, frozen=True, tag="child.exited"):
    """The process is gone, and everything it wrote has been read."""

    generation: int
    exit: Exit
    accepted: int
    """Bytes that the kernel took for it."""


class DeadlinePassed(msgspec.Struct, frozen=True, tag="child.deadline_passed"):
    """The time that `next_deadline` named has come."""


ChildEvent = (
    StartChild
    | StopChild
    | RestartChild
    | PrepareChild
    | PromotePrepared
    | DropPrepared
    | EndFrozen
    | Spawned
    | SpawnFailed
    | Exited
    | ChildReady
    | ChildRefused
    | ChildDrained
    | ChildWedged
    | DeadlinePassed
)


# Effects. Orders to the relay are effects too; they stand in `switch.py`.

Level = Literal["debug", "info", "warning", "error"]


class SpawnChild(msgspec.Struct, frozen=True, tag="child.spawn"):
    """Start the release, or the command as configured; Spawned or SpawnFailed follows."""

    generation: int
    release: str | None = None


class StopProcess(msgspec.Struct, frozen=True, tag="child.stop_process"):
    """Close its stdin, wait, SIGTERM, wait, SIGKILL; Exited follows. Seconds."""

    generation: int
    eof_grace: float | None
    """None leaves its stdin open, and begins with SIGTERM."""
    term_grace: float


class KillProcess(msgspec.Struct, frozen=True, tag="child.kill_process"):
    """SIGKILL, now; Exited follows."""

    generation: int


class FreezeProcess(msgspec.Struct, frozen=True, tag="child.freeze_process"):
    """SIGSTOP its group, and tell the relay with ChildFrozen how much it had taken."""

    generation: int


class ThawProcess(msgspec.Struct, frozen=True, tag="child.thaw_process"):
    """Tell the relay with ChildThawed, and SIGCONT its group."""

    generation: int


class Crashed(msgspec.Struct, frozen=True, tag="child.crashed"):
    """Tell whoever watches the release that it ended though nobody asked it to."""

    release: str | None
    exit: Exit
    times: int
    """How often in a row, this time included, without a healthy run between."""


class Notify(msgspec.Struct, frozen=True, tag="child.notify"):
    """Tell the log, and the client's."""

    level: Level
    text: str


class AnswerRestart(msgspec.Struct, frozen=True, tag="child.answer_restart"):
    """Answer everybody who waits for a restart."""

    outcome: RestartOutcome


class AnswerPrepare(msgspec.Struct, frozen=True, tag="child.answer_prepare"):
    """Answer whoever waits for a child to be prepared."""

    outcome: PrepareOutcome


class AnswerPromote(msgspec.Struct, frozen=True, tag="child.answer_promote"):
    """Answer whoever waits for the prepared child to be promoted."""

    outcome: PromoteOutcome


class AnswerDrop(msgspec.Struct, frozen=True, tag="child.answer_drop"):
    """Answer whoever waits for the prepared child to be dropped."""


class AnswerAsker(msgspec.Struct, frozen=True, tag="child.answer_asker"):
    """Answer only the question that this step is about."""

    outcome: PrepareOutcome | Dropped


ChildEffect = (
    SpawnChild
    | StopProcess
    | KillProcess
    | FreezeProcess
    | ThawProcess
    | Crashed
    | Notify
    | AnswerRestart
    | AnswerPrepare
    | AnswerPromote
    | AnswerDrop
    | AnswerAsker
    | RelayOrder
)


# Status.


class ChildStatus(msgspec.Struct, frozen=True, tag="child.status"):
    """The child at one moment. Durations are seconds."""

    command: str
    state: ChildState
    wanted: Wanted
    ready: bool
    generation: int
    """Of the current process, or the last one where none is."""
    pid: int | None
    uptime: float | None
    """How long the current process has run."""
    restarts: int
    last_exit: str | None
    restart_failed: str | None
    """Why the last restart that was asked for failed, such as an error in an edited file."""
    retry_in: float | None
    candidate: int | None
    leaving: tuple[int, ...]
    release: str | None = None
    """What it was started of; None is the command as configured."""
    prepared: int | None = None
    """A successor that is not to serve yet."""
    frozen: str | None = None
    """The release of a former one that is stopped, to be woken by a rollback."""
    starting: float | None = None
    """How long the current process has run without its session being open; None once it is."""


class GetStatus(Question[ChildStatus], frozen=True, tag="child.get_status"):
    """Ask for the ChildStatus."""


def child_status(child: Child, now: float) -> ChildStatus:
    """Describe the child at `now`."""
    run = child.current
    uptime = None if run is None or run.started_at is None else now - run.started_at
    return ChildStatus(
        command=child.command,
        state=child.state,
        wanted=child.wanted,
        ready=child.ready,
        generation=child.generation if run is None else run.generation,
        pid=None if run is None else run.pid,
        uptime=uptime,
        restarts=child.restarts,
        last_exit=None if child.last_exit is None else describe_exit(child.last_exit),
        restart_failed=child.restart_failed,
        retry_in=None if child.retry_at is None else max(0.0, child.retry_at - now),
        candidate=None if child.candidate is None else child.candidate.generation,
        leaving=tuple(run.generation for run in child.leaving),
        release=child.release,
        prepared=None if child.prepared is None else child.prepared.generation,
        frozen=None if child.frozen is None else child.frozen.release,
        starting=uptime if run is not None and run.stage is Stage.STARTING else None,
    )


def next_deadline(child: Child) -> float | None:
    """When DeadlinePassed is due; None while nothing is waited for."""
    times = (child.retry_at, *(run.deadline for run in child.runs))
    return min((time for time in times if time is not None), default=None)
