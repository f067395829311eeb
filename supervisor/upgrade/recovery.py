"""At the next start, before any child: what an interruption left is taken back, or finished.

One rule: an interrupted group of steps is always taken back, also where all its steps were performed. Only
`done` says that they are on the disk and were compared with what the plan saw; and the old version is known
to serve, while the new one had not served anybody yet. A rollback is then gone over again: whoever asked for
it did not want what stood there. Each part may be cut short anywhere, and is done again by the next start.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from mcpkeep.protocol.upgrade.change import ChangeOrder
from mcpkeep.protocol.upgrade.evidence import PHASE_COUNT
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Begun, Ended, JournalState, Outcome, PhaseUndone
from mcpkeep.protocol.upgrade.late_edit import LateEdit, lacking
from mcpkeep.protocol.upgrade.places import RECORDS, SERVER_STATE
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.baseline import exchange_baseline, settle_baseline
from mcpkeep.supervisor.upgrade.changes import ChangeFiles
from mcpkeep.supervisor.upgrade.journal import JournalFiles
from mcpkeep.supervisor.upgrade.lock import HeldLock
from mcpkeep.supervisor.upgrade.release_store import read_release
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.rollback import plan_restored, plan_rollback
from mcpkeep.supervisor.upgrade.spares import drop_unfinished

__all__ = ["Recovered", "recover"]

_PREPARATION = 1
"""The phase that takes the lock and fills staging."""
_COMMIT = 3
_LAST = PHASE_COUNT - 1


class Recovered(msgspec.Struct, frozen=True):
    """What was done."""

    said: tuple[str, ...] = ()
    """In sentences, for the log, the status and the session."""
    resumed: tuple[str, ...] = ()
    """Sessions led by an agent that go on; the lock is held for one whose phase 1 is done."""
    ended: Mapping[str, Outcome] = {}
    """Sessions that ended here."""
    gone_back: tuple[str, ...] = ()
    """Upgrades whose changes were taken back: the sessions that led them are to say so."""
    failed: bool = False
    """Something could not be put right, as `said` tells; the lock stays held, so that nobody builds on it."""


def recover(
    changes: ChangeFiles,
    journals: JournalFiles,
    lock: HeldLock,
    *,
    first: Callable[[], None] = lambda: None,
    log_line: Callable[[Mapping[str, object]], None] = lambda _line: None,
    record: Callable[[RollbackReport, str], None] = lambda _report, _reason: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    calls: FileCalls = OS_CALLS,
) -> Recovered:
    """Bring the installation to one whole version; nothing where a living process holds the lock.

    `first` mends what no journal tells of, under the lock; `record` takes the report of a rollback that ends
    here, and why it is made, and `log_line` what the history is to say of a session that ends here: each
    perhaps not for the first time.
    """
    return _Recovery(changes, journals, lock, first, log_line, record, now, calls).run()


class _Recovery:
    def __init__(
        self,
        changes: ChangeFiles,
        journals: JournalFiles,
        lock: HeldLock,
        first: Callable[[], None],
        log_line: Callable[[Mapping[str, object]], None],
        record: Callable[[RollbackReport, str], None],
        now: Callable[[], datetime],
        calls: FileCalls,
    ) -> None:
        self._changes = changes
        self._journals = journals
        self._lock = lock
        self._mend = first
        self._log_line = log_line
        self._record = record
        self._now = now
        self._calls = calls
        self._said: list[str] = []
        self._resumed: list[str] = []
        self._ended: dict[str, Outcome] = {}
        self._gone_back: list[str] = []
        self._damaged: list[str] = []
        self._keep_lock = False
        self._failed = False

    def run(self) -> Recovered:
        states = self._open()
        holder = next((s for s in states if s.begun.agent_led and _PREPARATION in s.phases), None)
        first = holder.begun.session_id if holder else states[0].begun.session_id if states else "recovery"
        try:
            self._lock.take(first)
        except UpgradeFailed as e:
            return Recovered((f"nothing was recovered: {e}",))
        # Before it was held, another may have been at work.
        self._said.clear()
        self._damaged.clear()
        try:
            self._mend()
        except (UpgradeFailed, OSError) as e:
            self._failed = True
            self._said.append(f"what was interrupted could not be mended: {e}")
        # The newest first: a rollback stands on the upgrade that it goes back over.
        for state in reversed(self._open()):
            try:
                self._settle(state)
            except (UpgradeFailed, OSError) as e:
                self._fail(state, e)
        self._failed = self._failed or bool(self._damaged)
        if not self._failed:
            try:
                self._tidy()
                if not self._keep_lock:
                    self._lock.let_go()
            except (UpgradeFailed, OSError) as e:
                self._said.append(f"what an upgrade left could not be tidied up: {e}")
        back = tuple(dict.fromkeys(self._gone_back))
        return Recovered(tuple(self._said), tuple(self._resumed), self._ended, back, self._failed)

    def _open(self) -> list[JournalState]:
        """The journals that have not ended, oldest first."""
        found: list[JournalState] = []
        for session_id in self._journals.session_ids():
            try:
                state = self._journals.read(session_id)
            except UpgradeFailed as e:
                self._damaged.append(session_id)
                self._said.append(f"{e}; {e.remediation}")
                continue
            if state is not None and state.ended is None:
                found.append(state)
        return sorted(found, key=lambda state: (state.begun.at, state.begun.session_id))

    def _settle(self, state: JournalState) -> None:
        session_id = state.begun.session_id
        if state.begun.kind == "rollback":
            self._finish_rollback(state)
        elif _LAST in state.phases:
            self._end(state, "completed", f"upgrade {session_id!r} had done all its phases; it is completed")
        elif state.committed and self._is_covered(session_id):
            self._end(state, "rolled_back", f"upgrade {session_id!r} was rolled back already")
        elif state.begun.agent_led:
            self._resume(state)
        elif state.committed and self._has_record(session_id):
            self._roll_back(state)
        else:
            stayed = self._changes.undo(session_id)
            self._end(
                state, "aborted", f"upgrade {session_id!r} was interrupted, and taken back whole", stayed
            )

    def _resume(self, state: JournalState) -> None:
        """Take the interrupted phase back; what the completed ones made stays."""
        session_id = state.begun.session_id
        phase = next(n for n in range(_PREPARATION, PHASE_COUNT) if n not in state.phases)
        stayed: tuple[str, ...] = ()
        if phase > _COMMIT and state.committed and not self._has_record(session_id):
            # Its taking back was interrupted.
            phase = _COMMIT
            self._journals.append(session_id, PhaseUndone(phase))
        if phase <= _COMMIT:
            stayed = self._changes.undo(session_id)
            self._changes.discard(session_id)
        else:
            self._changes.settle(session_id)
        if _PREPARATION in state.phases:
            self._keep_lock = True
        else:
            remove_tree(self._changes.layout.staging(session_id), calls=self._calls)
        self._resumed.append(session_id)
        self._say(f"upgrade {session_id!r} goes on at phase {phase}", stayed)

    def _roll_back(self, state: JournalState) -> None:
        """It was committed, and nobody is there to lead it on."""
        session_id, back_id = state.begun.session_id, f"{state.begun.session_id}-back"
        back = self._journals.read(back_id)
        if back is None:
            self._journals.begin(Begun(back_id, "rollback", False, "recovery", self._now(), {"to": None}))
            back = self._journals.read(back_id)
            assert back is not None
        if back.ended is None:
            self._finish_rollback(back)
        if not self._is_covered(session_id):
            self._end(state, "failed", f"upgrade {session_id!r} was interrupted; its version stands")
        else:
            self._end(state, "rolled_back", f"upgrade {session_id!r} was interrupted, and rolled back")

    def _finish_rollback(self, state: JournalState) -> None:
        session_id, whole = state.begun.session_id, bool(state.begun.options.get("restore"))
        prepared = self._changes.order(session_id)
        if state.committed and (self._has_record(session_id) or (whole and self._changes.made.forgetting)):
            self._conclude(state, prepared, f"rollback {session_id!r} was complete", whole=whole)
            return
        to = self._target(state, prepared)
        self._changes.undo(session_id)
        try:
            order, aside = self._restored(session_id, to) if whole else self._planned(session_id, to)
            self._changes.prepare(order)
            self._changes.swap_first(order)
            stayed = self._changes.swap_rest(order)
        except UpgradeFailed as e:
            self._changes.undo(session_id)
            said = f"rollback {session_id!r} was interrupted, and cannot be finished: {e}"
            stands = self._changes.layout.current_release()
            self._report(state, stands, stands or "unknown", said, failure=f"{said}; {e.remediation}")
            self._end(state, "failed", said)
            return
        said = f"rollback {session_id!r} was interrupted, and finished: release {order.to_release!r}"
        self._conclude(state, order, said, aside, stayed, whole=whole)

    def _target(self, state: JournalState, prepared: ChangeOrder | None) -> str | None:
        """What was asked for; where no change knows it, where that had led to."""
        default = prepared.to_release if prepared is not None else None
        to = state.begun.options.get("to", default)
        if not isinstance(to, str) or state.begun.options.get("restore"):
            return to if isinstance(to, str) else None
        known = any(to in (record.from_release, record.backup_id) for record in self._changes.made.records())
        known = known or os.path.isdir(self._changes.layout.backups / to)
        return to if known or default is None else default

    def _planned(self, session_id: str, to: str | None) -> tuple[ChangeOrder, tuple[str, ...]]:
        plan = plan_rollback(self._changes, session_id, to, calls=self._calls)
        return plan.order, tuple(plan.kept_aside)

    def _restored(self, session_id: str, backup_id: str | None) -> tuple[ChangeOrder, tuple[str, ...]]:
        """Whole folders of a backup, once more: how far it came cannot be seen."""
        at = self._changes.layout
        backups = BackupFiles(at, calls=self._calls)
        release = backups.manifest(backup_id or "").release
        if release is None:
            raise UpgradeFailed(f"backup {backup_id!r} names no release", remediation="choose another")
        self._changes.require_release(release, backup_id=backup_id)
        done = backups.restore(backup_id or "", session_id, check=lambda: None)
        order = plan_restored(self._changes, session_id, release, done.carried_over)
        return order, tuple(done.kept_aside)

    def _conclude(
        self,
        state: JournalState,
        order: ChangeOrder | None,
        said: str,
        aside: Sequence[str] = (),
        stayed: Sequence[LateEdit] = (),
        *,
        whole: bool,
    ) -> None:
        self._changes.settle(state.begun.session_id)
        if order is not None:
            self._gone_back += order.undoes
            behind = () if whole else (*aside, *lacking(self._changes.edits.told(order.session_id)))
            exchange_baseline(
                self._changes.layout, order.session_id, order.undoes, lacking=behind, calls=self._calls
            )
            self._report(state, order.from_release, order.to_release, said, order=order, whole=whole)
        if whole:
            self._changes.made.forget()
        self._end(state, "completed", said, (*aside, *(edit.path for edit in stayed)))

    def _report(
        self,
        state: JournalState,
        former: str | None,
        release: str,
        said: str,
        *,
        order: ChangeOrder | None = None,
        whole: bool = False,
        failure: str = "",
    ) -> None:
        """Leave the records that one that was not interrupted leaves; where they cannot be, it is told."""
        at, begun = self._changes.layout, state.begun
        version: str | None = None
        with suppress(UpgradeFailed):
            version = read_release(at, release).version
        restored = () if order is None or whole else (*order.written, *order.removed)
        merged = order.merged if order is not None else ()
        conflicts = at.conflicts(begun.session_id)
        aside = {
            path.relative_to(conflicts).as_posix().removeprefix("late/"): path.relative_to(at.base).as_posix()
            for path in sorted(conflicts.rglob("*"))
            if path.is_symlink() or not path.is_dir()
        }
        report = RollbackReport(
            session_id=begun.session_id,
            by=begun.by,
            from_release=former,
            to_release=release,
            to_version=version,
            started_at=begun.at,
            ended_at=max(self._now(), begun.at),
            restored=tuple(sorted({*restored} - {*merged})),
            merged=merged,
            kept=order.kept if order is not None else (),
            kept_aside=aside,
            warnings=() if failure else (said,),
            failure=failure,
        )
        try:
            self._record(report, said)
        except (UpgradeFailed, OSError) as e:
            self._said.append(f"the records of rollback {begun.session_id!r} could not be written: {e}")

    def _end(self, state: JournalState, outcome: Outcome, said: str, stayed: tuple[str, ...] = ()) -> None:
        session_id = state.begun.session_id
        self._log_line(self._line(state, outcome, said))
        # Before the journal says that it ended: the next start would not look any more.
        remove_tree(self._changes.layout.staging(session_id), calls=self._calls)
        self._changes.discard(session_id)
        self._journals.append(session_id, Ended(outcome, self._now(), said))
        self._ended[session_id] = outcome
        if outcome == "rolled_back":
            self._gone_back.append(session_id)
        self._say(said, stayed)

    def _line(self, state: JournalState, outcome: Outcome, said: str) -> Mapping[str, object]:
        begun = state.begun
        line: dict[str, object] = {
            "at": f"{self._now():%Y-%m-%dT%H:%M:%SZ}",
            "session_id": begun.session_id,
            "by": begun.by,
            "kind": begun.kind,
            "outcome": outcome,
            "reason": said,
        }
        for record in self._changes.made.records():
            if record.session_id == begun.session_id:
                line |= {"from": record.from_release, "to": record.to_release}
        return line

    def _tidy(self) -> None:
        """Remove what belongs to no session that goes on, and releases that were never finished."""
        at = self._changes.layout
        settle_baseline(at, calls=self._calls)
        for name in _names(at.stagings):
            if name not in self._resumed:
                remove_tree(at.stagings / name, calls=self._calls)
        for name in _names(at.changes):
            drop_unfinished(at.changes / name, calls=self._calls)
            if name not in self._resumed:
                self._changes.discard(name)
        for name in _names(at.releases):
            if name.endswith(".broken") or not (at.releases / name / "release.json").exists():
                remove_tree(at.releases / name, calls=self._calls)
        for session_id in self._journals.session_ids():
            if self._journals.read(session_id) is None:  # Cut short at its first record.
                self._calls.unlink(at.journals / f"{session_id}.jsonl")
        own = [(folder, ".") for folder in (at.own, at.journals, at.backups)]
        records = [(at.base, f".{name}.") for name in (SERVER_STATE, *RECORDS)]
        for folder, prefix in (*own, *records, (at.reports, ".upgrade-")):
            for name in _names(folder):
                if name.startswith(prefix) and name.endswith(".tmp"):
                    self._calls.unlink(folder / name)

    def _has_record(self, session_id: str) -> bool:
        """Not so any more, though its journal says that it was made, where its taking back has begun."""
        return any(record.session_id == session_id for record in self._changes.made.records())

    def _is_covered(self, session_id: str) -> bool:
        """Whether another change was made upon it."""
        return any(record.session_id == session_id for record in self._changes.made.records()[:-1])

    def _fail(self, state: JournalState, error: UpgradeFailed | OSError) -> None:
        self._failed = True
        remedy = error.remediation if isinstance(error, UpgradeFailed) else "look after the disk"
        self._said.append(
            f"{state.begun.kind} {state.begun.session_id!r} could not be recovered: {error}; {remedy}"
        )

    def _say(self, said: str, stayed: tuple[str, ...]) -> None:
        edits = f"; your edits stay in {', '.join(stayed)}" if stayed else ""
        self._said.append(said + edits)


def _names(folder: os.PathLike[str]) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
