"""The journal of one session: what was begun, what was meant, what was done. One JSON object per line.

The journal is the truth about an upgrade or a rollback; everything is folded from it. An intent without its
`done` or `undone` is work that a crash interrupted.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

import msgspec

from mcpkeep.protocol.upgrade.step import Step

__all__ = [
    "FIRST",
    "REST",
    "Begun",
    "Done",
    "Ended",
    "Intent",
    "JournalRecord",
    "JournalState",
    "Kind",
    "Outcome",
    "PhaseDone",
    "PhaseUndone",
    "Undone",
    "fold",
]

FIRST = "first"
"""The group that brings in what a new server needs to start: index and scripts."""
REST = "rest"
"""The group that brings in everything else: once it is done, the change is made."""

Kind = Literal["upgrade", "rollback"]
Outcome = Literal["completed", "aborted", "rolled_back", "failed"]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The first record."""

    session_id: str
    kind: Kind
    agent_led: bool
    """Led by `pos_workflow`: resumed after a crash. Otherwise undone whole."""
    by: str
    """Who asked: `pos_workflow`, `mcpkeep upgrade`, `tool`, `SIGUSR1`, `probation`, ..."""
    at: datetime
    options: Mapping[str, object] = {}


class PhaseDone(msgspec.Struct, frozen=True, tag="phase_done"):
    """A phase succeeded; `products` is what later phases need of it, `evidence` what it measured."""

    phase: int
    at: datetime
    seconds: float
    products: Mapping[str, object] = {}
    evidence: Mapping[str, object] = {}


class PhaseUndone(msgspec.Struct, frozen=True, tag="phase_undone"):
    """This phase and the later ones count no more."""

    phase: int


class Intent(msgspec.Struct, frozen=True, tag="intent"):
    """These steps will be performed, in this order."""

    group: str
    steps: tuple[Step, ...]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """All steps of the group were, and their folders are synced."""

    group: str


class Undone(msgspec.Struct, frozen=True, tag="undone"):
    """The group's steps were taken back."""

    group: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The last record."""

    outcome: Outcome
    at: datetime
    reason: str = ""


JournalRecord = Begun | PhaseDone | PhaseUndone | Intent | Done | Undone | Ended


class JournalState(msgspec.Struct, frozen=True):
    """What a journal comes to."""

    begun: Begun
    phases: Mapping[int, PhaseDone] = {}
    groups: Mapping[str, Intent] = {}
    """Those that stand, done or not."""
    done: tuple[str, ...] = ()
    ended: Ended | None = None

    @property
    def interrupted(self) -> tuple[Intent, ...]:
        """Groups that were neither done nor undone, oldest first."""
        return tuple(intent for name, intent in self.groups.items() if name not in self.done)

    @property
    def committed(self) -> bool:
        """Whether the change was made, and not taken back."""
        return REST in self.done


def fold(records: Iterable[JournalRecord]) -> JournalState | None:
    """Fold a journal, oldest record first; None where even its first record is missing."""
    state: JournalState | None = None
    for record in records:
        match record:
            case Begun():
                state = JournalState(record)
            case _ if state is None:
                return None
            case PhaseDone():
                state = msgspec.structs.replace(state, phases={**state.phases, record.phase: record})
            case PhaseUndone():
                phases = {number: done for number, done in state.phases.items() if number < record.phase}
                state = msgspec.structs.replace(state, phases=phases)
            case Intent():
                state = _without(state, record.group)
                state = msgspec.structs.replace(state, groups={**state.groups, record.group: record})
            case Done():
                # Of a group that nobody began, nothing can be taken back.
                if record.group in state.groups and record.group not in state.done:
                    state = msgspec.structs.replace(state, done=(*state.done, record.group))
            case Undone():
                state = _without(state, record.group)
            case Ended():
                state = msgspec.structs.replace(state, ended=record)
    return state


def _without(state: JournalState, group: str) -> JournalState:
    groups = {name: intent for name, intent in state.groups.items() if name != group}
    done = tuple(name for name in state.done if name != group)
    return msgspec.structs.replace(state, groups=groups, done=done)
