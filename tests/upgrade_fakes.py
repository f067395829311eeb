"""A world in memory for the upgrade actor: each part logs what it is asked, and fails or waits where told."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import anyio
import msgspec

from mcpkeep.actors.actor import Actor
from mcpkeep.actors.upgrade_world import LiveMeasures, Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.backup import (
    BackedUpFile,
    BackupDone,
    BackupManifest,
    BackupMessage,
    BackupRefused,
    CreateBackup,
    ListBackups,
    RemovedBackups,
    RemoveOldBackups,
    Verification,
    VerifyBackup,
)
from mcpkeep.protocol.upgrade.change import ChangeOrder, ChangeRecord, RollbackPlan
from mcpkeep.protocol.upgrade.facts import Problem, SourceFacts, TargetFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import (
    REST,
    Begun,
    Done,
    Intent,
    JournalRecord,
    JournalState,
    Undone,
    fold,
)
from mcpkeep.protocol.upgrade.late_edit import LateEdit, Standing
from mcpkeep.protocol.upgrade.plan import Applied, Case, Decision, Plan, PlannedFile, Version
from mcpkeep.protocol.upgrade.probation import Probation
from mcpkeep.protocol.upgrade.proof import Proof, SmokeResult, SmokeTest
from mcpkeep.protocol.upgrade.release import (
    AdoptRelease,
    CancelInstall,
    CheckRelease,
    GetSnapshot,
    InstallCancelled,
    InstallerMessage,
    InstallRefused,
    MakeRelease,
    PostInstallDone,
    Pruned,
    PruneReleases,
    Release,
    ReleaseChecked,
    ReleaseMade,
    RunPostInstall,
    Snapshot,
)
from mcpkeep.protocol.upgrade.report import history_line
from mcpkeep.protocol.upgrade.rollback import order_restored
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport

__all__ = ["CONFLICT", "NEW", "NOW", "OLD", "FakeWorld", "broken", "proof_of"]

NOW = datetime(2026, 1, 31, 10, tzinfo=UTC)
OLD, NEW = "adopted", "2026-01-31-abcdef1"
CONFLICT = "standards/universal/both.md"
TOOLS = {"search_standards": "s", "pos_workflow": "w"}
ANSWER = {"structuredContent": {"retrieval_method": "vector", "status": "success"}}

_FILE = Version("0" * 40, "100644", 3)


def broken(text: str = "the disk is full") -> UpgradeFailed:
    return UpgradeFailed(text, remediation="free space")


def proof_of(tools: Mapping[str, str] = TOOLS, *smoke: SmokeResult) -> Proof:
    return Proof("sample", "1", "/release/mcp_server", tools, smoke, "built", 0.1)


def _release(release_id: str, version: str) -> Release:
    return Release(1, release_id, version, None, NOW, "venv", "", {"server.py": "1"}, ("-m", "mcp_server"))


def _plan(paths: Mapping[str, Case], source: SourceFacts) -> Plan:
    files = tuple(
        PlannedFile(path, case, local=_FILE, upstream=_FILE) for path, case in sorted(paths.items())
    )
    return Plan("plan-1", "digest", source.path, source.commit, source.version, None, NOW, files)


class FakeWorld:
    """All collaborators in one; `log` is what they were asked, in order, such as `contents.plan`."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.failing: dict[str, Exception] = {}
        """What the call of that name raises, each time."""
        self.held: dict[str, tuple[anyio.Event, anyio.Event]] = {}
        self.source = SourceFacts("/source", "abcdef1234567890", "v2.0.0", clean=True)
        self.free = 10**9
        """Bytes on the disk; content takes 1 MB in all, a new venv 2 MB."""
        self.target_problems: tuple[Problem, ...] = ()
        self.cases = {"mcp_server/server.py": Case.UPDATE, "standards/universal/a.md": Case.ADD}
        self.proof = proof_of()
        self.browser = False
        self.stale: tuple[str, ...] = ()
        self.unindexed: tuple[str, ...] = ()
        self.altered: tuple[str, ...] = ()
        self.journals_: dict[str, list[JournalRecord]] = {}
        self.lock_: dict[str, object] | None = None
        self.staging: set[str] = set()
        self.prepared: set[str] = set()
        self.installed = OLD
        """The release whose files stand in the live tree."""
        self.changes_: list[ChangeRecord] = []
        self.running: str | None = None
        """The release that serves; None before it was moved to one."""
        self.started: str | None = None
        self.freezing: str | None = None
        self.lines: list[Mapping[str, object]] = []
        self.decided: dict[str, Mapping[str, Decision]] = {}
        self.probation: Probation | None = None
        self.backup_refusal: BackupRefused | None = None
        self.damaged_backup: tuple[str, ...] = ()
        self.standing = Standing()
        self.summary = ""
        self.lacking: tuple[str, ...] = ()
        self.install_refusal: InstallRefused | None = None
        self.unstartable: tuple[str, ...] = ()
        """What keeps releases from being started."""
        self.ids = 0
        self.time = NOW

    # What a test says.

    def hold(self, name: str) -> tuple[anyio.Event, anyio.Event]:
        """Have the call of that name wait: the events that it was reached, and that it may go on."""
        self.held[name] = anyio.Event(), anyio.Event()
        return self.held[name]

    def crash(self) -> None:
        """The live server ends, and is not up again yet."""
        self.running = None

    def state(self, session_id: str) -> JournalState | None:
        return fold(self.journals_.get(session_id, ()))

    @property
    def open_sessions(self) -> list[str]:
        found = ((name, fold(records)) for name, records in self.journals_.items())
        return [name for name, state in found if state is not None and state.ended is None]

    async def point(self, name: str) -> None:
        self.log.append(name)
        if name in self.failing:
            raise self.failing[name]
        if name in self.held:
            reached, go = self.held[name]
            reached.set()
            await go.wait()
        await anyio.lowlevel.checkpoint()

    def world(self) -> UpgradeWorld:
        me = cast("Any", self)
        return UpgradeWorld(
            sources=_Sources(self),
            targets=_Targets(self),
            contents=_Contents(self),
            lock=_Lock(self),
            journals=_Journals(self),
            changes=_Changes(self),
            live=_Live(self),
            candidates=_Candidates(self),
            validation=_Validation(self),
            records=_Records(self),
            backups=cast("Actor[BackupMessage]", _Asked(me._backup)),
            installer=cast("Actor[InstallerMessage]", _Asked(me._install)),
            now=lambda: self.time,
            clock=lambda: (self.time - NOW).total_seconds(),
            new_id=self._new_id,
            scratch="/staging/{}/code".format,
        )

    def _new_id(self) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    async def _backup(self, message: object) -> object:
        match message:
            case CreateBackup():
                await self.point("backups.create")
                files = {"mcp_server/server.py": BackedUpFile("0", 3, 0o644)}
                manifest = BackupManifest(
                    1,
                    ".praxis-os/.backups/2026-01-31-100000",
                    NOW,
                    message.session_id,
                    message.release,
                    files,
                    3,
                    (),
                )
                return self.backup_refusal or BackupDone("b", manifest)
            case VerifyBackup():
                await self.point("backups.verify")
                return Verification(message.backup_id, 1, self.damaged_backup, (), ())
            case RemoveOldBackups():
                await self.point("backups.remove_old")
                return RemovedBackups(("a",), ("b",))
            case ListBackups():
                return ()
            case _:
                raise AssertionError(message)

    async def _install(self, message: object) -> object:
        match message:
            case AdoptRelease():
                await self.point("installer.adopt")
                return ReleaseMade(_release(OLD, "v1.0.0"), venv_shared=True)
            case MakeRelease():
                await self.point("installer.make")
                made = ReleaseMade(
                    _release(message.release_id, message.version), venv_shared=False, packages=2
                )
                return self.install_refusal or made
            case CheckRelease():
                await self.point("installer.check")
                return ReleaseChecked(message.release_id, self.unstartable)
            case RunPostInstall():
                await self.point("installer.post_install")
                return PostInstallDone(())
            case PruneReleases():
                await self.point("installer.prune")
                return Pruned((), ())
            case CancelInstall():
                await self.point("installer.cancel")
                return InstallCancelled(None)
            case GetSnapshot():
                return Snapshot("anyio==4\n", "3.11.7")
            case _:
                raise AssertionError(message)


class _Asked:
    def __init__(self, answer: Callable[[object], Awaitable[object]]) -> None:
        self._answer = answer

    async def ask(self, question: object, *, within: float) -> object:
        assert within > 0
        return await self._answer(question)


class _Part:
    def __init__(self, world: FakeWorld) -> None:
        self._w = world


class _Sources(_Part):
    async def inspect(self, path: str, *, require_signed: bool) -> SourceFacts:
        await self._w.point("sources.inspect")
        return self._w.source

    async def export_code(self, path: str, commit: str, folder: str) -> int:
        await self._w.point("sources.export_code")
        return 1


class _Targets(_Part):
    async def inspect(self) -> TargetFacts:
        await self._w.point("targets.inspect")
        w = self._w
        return TargetFacts(
            exists=True,
            structure_valid=not w.target_problems,
            bytes_available=w.free,
            content_bytes=5 * 10**5,
            venv_bytes=2 * 10**6,
            current_release=w.installed,
            current_version="v2.0.0" if w.installed == NEW else None,
            problems=w.target_problems,
        )


class _Contents(_Part):
    async def plan(self, source: SourceFacts, *, content: bool, code: bool) -> Plan:
        await self._w.point("contents.plan")
        kept = {
            path: case
            for path, case in self._w.cases.items()
            if (code if path.startswith("mcp_server/") else content)
        }
        return _plan(kept, source)

    async def diffs(self, plan: Plan, paths: Sequence[str]) -> Mapping[str, str]:
        await self._w.point("contents.diffs")
        return dict.fromkeys(paths, "-a\n+b\n")

    async def compare(self, plan: Plan, release_id: str) -> tuple[str, ...]:
        await self._w.point("contents.compare")
        return ()

    async def stale(self, plan: Plan) -> tuple[str, ...]:
        await self._w.point("contents.stale")
        return self._w.stale

    async def verify_staged(self, plan: Plan, session_id: str, applied: Applied) -> tuple[str, ...]:
        await self._w.point("contents.verify_staged")
        return self._w.altered

    async def unindexed(self, plan: Plan, session_id: str) -> tuple[str, ...]:
        await self._w.point("contents.unindexed")
        return self._w.unindexed

    async def expected(self, plan: Plan, paths: Sequence[str]) -> Mapping[str, str | None]:
        await self._w.point("contents.expected")
        return dict.fromkeys(paths)

    async def exchange_baseline(
        self, session_id: str, undone: Sequence[str], *, lacking: Sequence[str] = ()
    ) -> None:
        await self._w.point("contents.exchange_baseline")

    async def fill_staging(self, session_id: str) -> None:
        self._w.staging.add(session_id)
        await self._w.point("contents.fill_staging")

    async def apply(self, plan: Plan, session_id: str, decisions: Mapping[str, Decision]) -> Applied:
        await self._w.point("contents.apply")
        written = tuple(file.path for file in plan.files)
        counts = plan.counts()
        return Applied(written, (), counts.new_files, counts.updated_files, len(decisions), decisions, {})

    async def take_code(self, session_id: str, folder: str) -> None:
        await self._w.point("contents.take_code")

    async def renew_baseline(self, plan: Plan, session_id: str, *, lacking: Sequence[str]) -> None:
        await self._w.point("contents.renew_baseline")
        self._w.lacking = tuple(lacking)

    async def remove_staging(self, session_id: str) -> None:
        await self._w.point("contents.remove_staging")
        self._w.staging.discard(session_id)

    async def forget_conflicts(self, session_id: str) -> None:
        await self._w.point("contents.forget_conflicts")


class _Lock(_Part):
    async def acquire(self, session_id: str) -> None:
        await self._w.point("lock.acquire")
        owner = self._w.lock_
        if owner is not None and owner["session_id"] != session_id and owner["alive"]:
            raise UpgradeFailed(
                f"session {owner['session_id']} holds the lock", remediation="wait", details=owner
            )
        self._w.lock_ = {"session_id": session_id, "started_at": "now", "pid": 1, "alive": True}

    async def release(self) -> None:
        await self._w.point("lock.release")
        self._w.lock_ = None

    def owner(self) -> Mapping[str, object] | None:
        return self._w.lock_


class _Journals(_Part):
    async def begin(self, begun: Begun) -> None:
        await self._w.point("journals.begin")
        self._w.journals_[begun.session_id] = [begun]

    async def append(self, session_id: str, record: JournalRecord) -> None:
        await self._w.point(f"journals.append {record.__struct_config__.tag}")
        self._w.journals_[session_id].append(record)

    async def read(self, session_id: str) -> JournalState | None:
        return self._w.state(session_id)

    async def open(self) -> tuple[JournalState, ...]:
        states = (self._w.state(name) for name in self._w.open_sessions)
        return tuple(state for state in states if state is not None)


class _Changes(_Part):
    async def prepare_first(self, order: ChangeOrder) -> None:
        self._w.prepared.add(order.session_id)
        await self._w.point("changes.prepare_first")

    async def prepare_rest(self, order: ChangeOrder) -> None:
        await self._w.point("changes.prepare_rest")

    async def swap_first(self, order: ChangeOrder) -> None:
        self._w.journals_[order.session_id].append(Intent("first", ()))
        await self._w.point("changes.swap_first")
        self._w.journals_[order.session_id].append(Done("first"))

    async def swap_rest(self, order: ChangeOrder) -> tuple[LateEdit, ...]:
        w = self._w
        w.journals_[order.session_id].append(Intent(REST, ()))
        await w.point("changes.swap_rest")
        w.journals_[order.session_id].append(Done(REST))
        w.installed = order.to_release
        w.changes_.append(
            ChangeRecord(
                schema=1,
                session_id=order.session_id,
                kind=order.kind,
                at=w.time,
                from_release=order.from_release,
                to_release=order.to_release,
                backup_id=order.backup_id,
                swapped_index=True,
                files={},
            )
        )
        return w.standing.edits

    async def keep_spares(self, session_id: str) -> None:
        await self._w.point("changes.keep_spares")

    async def settle(self, session_id: str) -> None:
        await self._w.point("changes.settle")

    async def undo(self, session_id: str) -> tuple[str, ...]:
        w = self._w
        await w.point("changes.undo")
        state = w.state(session_id)
        for group in reversed(tuple(state.groups if state is not None else ())):
            w.journals_[session_id].append(Undone(group))
        for record in w.changes_:
            if record.session_id == session_id:
                w.installed = record.from_release or ""
        w.changes_ = [record for record in w.changes_ if record.session_id != session_id]
        return ()

    async def discard(self, session_id: str) -> None:
        await self._w.point("changes.discard")
        if all(record.session_id != session_id for record in self._w.changes_):
            self._w.prepared.discard(session_id)

    async def records(self) -> tuple[ChangeRecord, ...]:
        return tuple(self._w.changes_)

    async def plan_first(self, session_id: str, to: str | None) -> RollbackPlan:
        w = self._w
        await w.point("changes.plan_first")
        if not w.changes_:
            raise UpgradeFailed("there is nothing to go back to", remediation="restore a backup")
        if to == w.installed:
            raise UpgradeFailed(f"release {to!r} is the current one already", remediation="name another")
        w.staging.add(session_id)
        last = w.changes_[-1]
        order = ChangeOrder(
            session_id=session_id,
            kind="rollback",
            from_release=last.to_release,
            to_release=last.from_release or "",
            staged_root="",
            written=(),
            removed=(),
            expected={},
            swap_index=True,
            undoes=(last.session_id,),
        )
        return RollbackPlan(order, (), (), (), {})

    async def plan_rest(self, first: RollbackPlan, to: str | None) -> RollbackPlan:
        await self._w.point("changes.plan_rest")
        return msgspec.structs.replace(first, restored=("a.md",))

    async def plan_restored(
        self, session_id: str, release_id: str, carried_over: Sequence[str]
    ) -> ChangeOrder:
        await self._w.point("changes.plan_restored")
        undoes = [record.session_id for record in self._w.changes_]
        return order_restored(session_id, self._w.installed, release_id, left={}, undoes=undoes)

    async def forget(self) -> None:
        await self._w.point("changes.forget")
        self._w.changes_.clear()

    async def damaged(self) -> tuple[str, ...]:
        return ()

    async def look_after(self, session_id: str) -> Standing:
        await self._w.point("changes.look_after")
        return self._w.standing

    async def prune(self, keep: Sequence[str]) -> None:
        await self._w.point("changes.prune")


class _Live(_Part):
    @property
    def serving(self) -> bool:
        return True

    @property
    def release(self) -> str | None:
        return self._w.running

    @property
    def pid(self) -> int | None:
        return 7

    def is_up(self, release_id: str) -> bool:
        return self._w.running == release_id

    async def tools(self) -> Mapping[str, str]:
        await self._w.point("live.tools")
        return self._w.proof.tools if self._w.running == NEW else TOOLS

    async def call(
        self, tool: str, arguments: Mapping[str, object], *, within: float
    ) -> Mapping[str, object]:
        await self._w.point("live.call")
        return ANSWER

    async def start(self, release_id: str, *, progress: Progress) -> None:
        await self._w.point("live.start")
        if self._w.started is not None:
            raise broken("another release is being prepared")
        self._w.started = release_id

    async def promote(self, *, freeze: bool) -> None:
        w = self._w
        await w.point("live.promote")
        w.freezing = w.running if freeze else None
        w.running, w.started = w.started, None

    async def drop(self) -> None:
        await self._w.point("live.drop")
        self._w.started = None

    def frozen(self) -> str | None:
        return self._w.freezing

    async def end_frozen(self) -> None:
        self._w.freezing = None

    def stderr_since_switch(self) -> tuple[str, ...]:
        return ()


class _Candidates(_Part):
    async def prove(
        self,
        release: Release,
        session_id: str,
        *,
        carry_index: bool,
        smoke: Sequence[SmokeTest],
        progress: Progress,
    ) -> Proof:
        progress("starting the candidate")
        await self._w.point("candidates.prove")
        return self._w.proof


class _Validation(_Part):
    async def measure(self, release_id: str, pid: int | None) -> LiveMeasures:
        await self._w.point("validation.measure")
        return LiveMeasures("/release", "/release/mcp_server", self._w.browser, True, True, None)


class _Records(_Part):
    async def stage(self, session_id: str, source: SourceFacts) -> tuple[str, ...]:
        await self._w.point("records.stage")
        return ("VERSION.txt",)

    async def write_validation(self, at: str, report: Mapping[str, object]) -> str:
        await self._w.point("records.write_validation")
        return "cache/validation.json"

    async def write_summary(self, at: str, markdown: str) -> str:
        await self._w.point("records.write_summary")
        self._w.summary = markdown
        return "cache/summary.md"

    async def write_records(self, *, log_entry: str, summary: str) -> None:
        await self._w.point("records.write_records")

    async def record_rollback(self, report: RollbackReport) -> str:
        await self._w.point("records.record_rollback")
        self._w.summary = report.to_markdown()
        if not report.failure:
            self._w.lines.append(history_line(report))
        return "cache/summary.md"

    async def save_decisions(self, plan_id: str, decisions: Mapping[str, Decision]) -> None:
        await self._w.point("records.save_decisions")
        self._w.decided[plan_id] = decisions

    async def decisions(self, plan_id: str) -> Mapping[str, Decision]:
        return self._w.decided.get(plan_id, {})

    async def save_probation(self, probation: Probation | None) -> None:
        await self._w.point("records.save_probation")
        self._w.probation = probation

    async def latest(self) -> tuple[str, str] | None:
        return None

    async def log_line(self, line: Mapping[str, object]) -> None:
        await self._w.point("records.log_line")
        self._w.lines.append(line)

    async def history(self) -> tuple[Mapping[str, object], ...]:
        return tuple(self._w.lines)

    async def commit(self, paths: Sequence[str], message: str) -> bool:
        await self._w.point("records.commit")
        return True
