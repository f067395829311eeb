"""The upgrade actor: one upgrade or rollback at a time, for whoever asks; probation; what is open.

Long work runs in a task of its own, so that the inbox always answers. What is asked meanwhile and cannot be
done beside it is refused, except a rollback: that aborts the work, or waits for a commit to be whole.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, TypeAlias, assert_never

import anyio

from mcpkeep.actors.actor import Actor, AskTimedOut, Envelope
from mcpkeep.actors.upgrade_desk import UpgradeDesk
from mcpkeep.actors.upgrade_phases import Undecided
from mcpkeep.actors.upgrade_rollback import RollbackFailed, roll_back
from mcpkeep.actors.upgrade_run import RolledBackFor, UpgradeRun
from mcpkeep.actors.upgrade_world import UpgradeWorld
from mcpkeep.protocol.child import Notify
from mcpkeep.protocol.upgrade.evidence import PHASE_COUNT
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import JournalState
from mcpkeep.protocol.upgrade.options import UpgradeOptions, UpgradeSettings, read_options
from mcpkeep.protocol.upgrade.plan import Plan
from mcpkeep.protocol.upgrade.probation import Probation, note_crash
from mcpkeep.protocol.upgrade.release import UNKNOWN_VERSION
from mcpkeep.protocol.upgrade.request import (
    LEAVING,
    Aborted,
    AbortUpgrade,
    CancelWork,
    GetBackups,
    GetReport,
    GetUpgradeStatus,
    MakePlan,
    PhaseMeasured,
    Refused,
    ResolveConflicts,
    RollBack,
    RolledBack,
    RunPhase,
    RunUpgrade,
    ServerCrashed,
    Undone,
    UndoPhases,
    UpgradeAnswer,
    UpgradeDone,
    UpgradeFault,
    UpgradeMessage,
    UpToDate,
    VerifyBackups,
)

__all__ = ["LEAVE_LIMIT", "StepListener", "UpgradeActor"]

LEAVE_LIMIT = 60.0
"""Seconds in which a commit under way is made whole when mcpkeep leaves."""

_PROBATION = "probation"
"""Who calls for a rollback where nobody asked."""

StepListener: TypeAlias = Callable[[str, str], None]
"""Takes the session and the name of a step as it begins; never blocks or raises."""


class _Work:
    """The one piece of work that is under way."""

    def __init__(self, session_id: str, what: str, *, yields: bool) -> None:
        """`yields` says whether a rollback, or an abort, may end it."""
        self.session_id = session_id
        self.what = what
        self.yields = yields
        self.step = "starting"
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()


_Job: TypeAlias = Callable[[_Work], Awaitable[UpgradeAnswer]]


class UpgradeActor(Actor[UpgradeMessage]):
    """Conducts upgrades and rollbacks of one workspace."""

    def __init__(
        self,
        world: UpgradeWorld,
        settings: UpgradeSettings,
        *,
        notify: Callable[[Notify], None],
        mark_rolled_back: Callable[[str, str], Awaitable[None]],
        on_bug: Callable[[Exception], str],
        recovered: tuple[str, ...] = (),
        probation: Probation | None = None,
    ) -> None:
        """`mark_rolled_back` tells a workflow session so, with the reason; `on_bug` logs an unexpected error,
        and says where it can be read; `recovered` is what the start
        found interrupted, and did about it; `probation` one that began before it.
        """
        super().__init__("upgrade", leave_limit=LEAVE_LIMIT)
        self._world = world
        self._settings = settings
        self._notify = notify
        self._mark = mark_rolled_back
        self._on_bug = on_bug
        self._probation = probation
        self._work: _Work | None = None
        self._leaving = False
        self._listeners: list[StepListener] = []
        self._desk = UpgradeDesk(world, settings, recovered)

    @contextmanager
    def listen(self, listener: StepListener) -> Generator[None]:
        """Have `listener` told of each step while the context lasts."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def step(self, name: str) -> None:
        """Tell what a step of the work that is under way comes to, such as a line of an installation."""
        self._tell_step(self._work, name)

    def holds(self, session_id: str) -> str | None:
        """What the session holds, in words; None where it holds nothing."""
        owner = self._world.lock.owner()
        if owner is not None and owner.get("session_id") == session_id:
            return "it holds the upgrade lock"
        return None

    @property
    def is_idle(self) -> bool:
        """Whether no work is under way."""
        return self._work is None

    async def idle(self) -> None:
        """Wait until no work is under way."""
        while self._work is not None:
            await self._work.ended.wait()

    async def begin(self) -> None:
        if self._probation is None:
            return
        if (await self._world.targets.inspect()).current_release == self._probation.release:
            self.tasks.start_soon(self._end_probation, self._probation)
        else:  # gone back over meanwhile
            await self._set_probation(None)

    async def receive(self, envelope: Envelope[UpgradeMessage]) -> None:
        message = envelope.message
        match message:
            case ServerCrashed():
                self._crashed(message)
            case RunUpgrade():
                self._alone(
                    envelope,
                    self._world.new_id(),
                    "an upgrade",
                    lambda work: self._upgrade(message, work),
                    yields=True,
                )
            case RunPhase():
                what = f"phase {message.phase} of an upgrade"
                job: _Job = lambda work: self._phase(message, work)  # noqa: E731
                self._alone(envelope, message.session_id, what, job, yields=True)
            case UndoPhases():
                what = f"the return to phase {message.to_phase}"
                self._alone(envelope, message.session_id, what, lambda work: self._undo(message, work))
            case RollBack() | AbortUpgrade() | CancelWork():
                self.tasks.start_soon(self._interrupt, envelope, message)
            case MakePlan():
                self._beside(envelope, lambda: self._desk.plan(message, self._step_of(None)))
            case ResolveConflicts():
                self._beside(envelope, lambda: self._desk.resolve(message))
            case GetBackups():
                self._beside(envelope, self._desk.backups)
            case VerifyBackups():
                self._beside(envelope, lambda: self._desk.verify(message))
            case GetReport():
                self._beside(envelope, self._desk.report)
            case GetUpgradeStatus():
                self._beside(envelope, self._status)
            case _:
                assert_never(message)

    async def leave(self) -> None:
        self._leaving = True
        if self._work is not None:
            self._work.scope.cancel()
            await self._work.ended.wait()

    # Where work is done, and what becomes of its errors.

    def _beside(
        self, envelope: Envelope[UpgradeMessage], job: Callable[[], Awaitable[UpgradeAnswer]]
    ) -> None:
        async def answer() -> None:
            envelope.answer(await self._settled(job))

        self.tasks.start_soon(answer)

    def _alone(
        self,
        envelope: Envelope[UpgradeMessage],
        session_id: str,
        what: str,
        job: _Job,
        *,
        yields: bool = False,
    ) -> None:
        if self._work is not None:
            envelope.answer(_busy(self._work))
            return
        self._work = work = _Work(session_id, what, yields=yields)

        async def perform() -> None:
            answer: UpgradeAnswer | None = None
            try:
                with work.scope:
                    answer = await self._settled(lambda: job(work))
            finally:
                self._work = None
                work.ended.set()
            if answer is None:
                answer = LEAVING if self._leaving else Refused("it was cancelled", "ask again")
            envelope.answer(answer)

        self.tasks.start_soon(perform)

    async def _interrupt(
        self, envelope: Envelope[UpgradeMessage], message: "RollBack | AbortUpgrade | CancelWork"
    ) -> None:
        """End the work that is under way and wait until it has taken back what it had begun."""
        interrupted: tuple[str, ...] = ()
        work = self._work
        if work is not None and (
            isinstance(message, RollBack) or message.session_id in (None, work.session_id)
        ):
            if work.yields:
                interrupted = (work.session_id,)
                work.scope.cancel()
            elif not isinstance(message, CancelWork):
                envelope.answer(_busy(work))
                return
            await work.ended.wait()
        if isinstance(message, CancelWork):
            envelope.answer(Aborted(interrupted))
        elif isinstance(message, AbortUpgrade):
            what = "giving an upgrade up"
            self._alone(
                envelope, message.session_id or "abort", what, lambda _: self._abort(message, interrupted)
            )
        else:
            self._alone(
                envelope, "rollback", "a rollback", lambda work: self._go_back(message, work, interrupted)
            )

    def _step_of(self, work: _Work | None) -> Callable[[str], None]:
        def step(name: str) -> None:
            if work is not None and name != work.step:
                self._notify(Notify("info", f"{work.what}: {name}"))
            self._tell_step(work, name)

        return step

    def _tell_step(self, work: _Work | None, name: str) -> None:
        if work is not None:
            work.step = name
        for listener in self._listeners:
            listener(work.session_id if work is not None else "", name)

    def _run(
        self, work: _Work, session_id: str, options: UpgradeOptions, *, agent_led: bool, by: str
    ) -> UpgradeRun:
        return UpgradeRun(
            self._world,
            self._settings,
            session_id,
            options,
            agent_led=agent_led,
            by=by,
            step=self._step_of(work),
            decided=self._desk.decisions,
        )

    async def _settled(self, job: Callable[[], Awaitable[UpgradeAnswer]]) -> UpgradeAnswer:
        """The answer of a job, whatever it raises: an upgrade's fault is not to end the client's session."""
        try:
            return await job()
        except Undecided as undecided:
            return undecided.answer
        except RolledBackFor as failed:
            return UpgradeFault(str(failed), failed.remediation, failed.phase, "rolled_back", failed.details)
        except RollbackFailed as failed:
            return UpgradeFault(str(failed), failed.remediation, None, "rollback_failed", failed.details)
        except UpgradeFailed as failed:
            return Refused(str(failed), failed.remediation, failed.details)
        except AskTimedOut as error:
            return Refused(str(error), "look at the disk and the machine's load, and try again")
        except OSError as error:
            gone = "if the workspace was moved or removed, restart mcpkeep where it is now; else "
            return Refused(
                f"the system refused it: {error.strerror or error} ({error.filename!r})",
                f"{gone if isinstance(error, FileNotFoundError) else ''}mend that, and try again",
            )
        except Exception as error:
            place = self._on_bug(error)
            return Refused(
                f"mcpkeep failed: {type(error).__name__}: {error}",
                f"this is a bug in mcpkeep; the details are in {place}",
            )

    # Upgrades.

    async def _upgrade(self, asked: RunUpgrade, work: _Work) -> UpgradeAnswer:
        run = self._run(work, work.session_id, asked.options, agent_led=False, by=asked.by)

        async def decide(plan: Plan) -> None:
            if asked.decisions:
                await self._desk.decide(plan, asked.decisions, by="user")

        plan = await run.require_decided(asked.plan_id, decide=decide)
        if not plan.changes and (stands := await self._stands(plan)) is not None:
            return stands
        phase = 0
        try:
            for phase in range(PHASE_COUNT):
                await run.run(phase)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                try:
                    if not isinstance(error, RollbackFailed):
                        await run.undo(0)
                except UpgradeFailed as worse:
                    reason = f"{error}; and it cannot be taken back: {worse}"
                    return UpgradeFault(reason, worse.remediation, phase, "rollback_failed", worse.details)
            state: Literal["unchanged", "rolled_back", "rollback_failed"]
            if isinstance(error, RolledBackFor):
                state = "rolled_back"
            elif isinstance(error, RollbackFailed):
                state = "rollback_failed"
            elif isinstance(error, UpgradeFailed) and phase > 0:
                state = "unchanged"
            else:
                raise
            return UpgradeFault(str(error), error.remediation, phase, state, error.details)
        done = await run.done()
        await self._start_probation(done)
        return done

    async def _stands(self, plan: Plan) -> UpToDate | None:
        """What is installed, where that is the plan's version; another name of the same files is recorded."""
        target = await self._world.targets.inspect()
        if target.current_version not in (None, UNKNOWN_VERSION, plan.source_version):
            return None
        return UpToDate(plan.source_version, plan.source_commit, target.current_release, plan.plan_id)

    async def _phase(self, asked: RunPhase, work: _Work) -> UpgradeAnswer:
        options = read_options(asked.options)
        run = self._run(work, asked.session_id, options, agent_led=True, by="pos_workflow")
        try:
            evidence = await run.run(asked.phase)
        except RolledBackFor as failed:
            with anyio.CancelScope(shield=True):
                await self._mark(asked.session_id, f"phase {failed.phase} failed after the commit: {failed}")
            raise
        if asked.phase == PHASE_COUNT - 1:
            await self._start_probation(await run.done())
        return PhaseMeasured(evidence)

    async def _undo(self, asked: UndoPhases, work: _Work) -> UpgradeAnswer:
        await self._reopened(work, asked.session_id).undo(asked.to_phase)
        return Undone(asked.to_phase)

    def _reopened(self, work: _Work, session_id: str) -> UpgradeRun:
        """A run to undo: what it was asked for does not matter any more."""
        return self._run(work, session_id, UpgradeOptions("/"), agent_led=True, by="")

    async def _abort(self, asked: AbortUpgrade, interrupted: tuple[str, ...]) -> UpgradeAnswer:
        work = self._work
        assert work is not None  # _alone has just made it
        open_ = [state for state in await self._world.journals.open() if state.begun.kind == "upgrade"]
        if asked.session_id is not None:
            open_ = [state for state in open_ if state.begun.session_id == asked.session_id]
        for state in open_:
            await self._reopened(work, state.begun.session_id).undo(0)
        return Aborted(tuple(dict.fromkeys((*interrupted, *(state.begun.session_id for state in open_)))))

    # The way back.

    async def _go_back(self, asked: RollBack, work: _Work, interrupted: tuple[str, ...]) -> UpgradeAnswer:
        aborted = list(interrupted)
        committed: JournalState | None = None
        for state in await self._world.journals.open():
            if state.begun.kind == "upgrade" and not state.committed:
                await self._reopened(work, state.begun.session_id).undo(0)
                aborted.append(state.begun.session_id)
            elif state.begun.kind == "upgrade":
                committed = state
        # One that was interrupted in its commit has made it whole.
        just_made = committed is not None and committed.begun.session_id in interrupted
        if aborted and not just_made:
            return Aborted(tuple(dict.fromkeys(aborted)))
        try:
            outcome = await self._gone_back(asked, work, committed)
        except RollbackFailed as failed:
            if asked.by == _PROBATION:  # nobody else is told of it
                self._notify(Notify("error", f"{failed}; {failed.remediation}"))
            raise
        await self._went_back(outcome, asked.by)
        return outcome

    async def _gone_back(self, asked: RollBack, work: _Work, committed: JournalState | None) -> RolledBack:
        if committed is not None:
            run = self._reopened(work, committed.begun.session_id)
            return await run.take_back_commit(asked.by, to=asked.to)
        return await roll_back(self._world, to=asked.to, by=asked.by, step=self._step_of(work))

    async def _went_back(self, outcome: RolledBack, by: str) -> None:
        await self._set_probation(None)
        await self._world.live.end_frozen()
        self._notify(Notify("warning", f"rolled back to {outcome.to_release} ({by})"))
        for session_id in outcome.undone:
            await self._mark(session_id, f"rolled back to {outcome.to_release} ({by})")

    # Probation.

    async def _start_probation(self, done: UpgradeDone) -> None:
        until = self._world.now() + timedelta(seconds=self._settings.probation)
        probation = Probation(done.session_id, done.to_release, done.from_release, until)
        await self._set_probation(probation)
        self.tasks.start_soon(self._end_probation, probation)

    async def _set_probation(self, probation: Probation | None) -> None:
        self._probation = probation
        try:
            await self._world.records.save_probation(probation)
        except UpgradeFailed as failed:
            self._notify(Notify("warning", f"the probation will not outlast mcpkeep: {failed}"))

    async def _end_probation(self, probation: Probation) -> None:
        await anyio.sleep(max(0.0, (probation.until - self._world.now()).total_seconds()))
        if self._probation is not None and self._probation.session_id == probation.session_id:
            await self._set_probation(None)
            await self._world.live.end_frozen()
            self._notify(Notify("info", f"{probation.release} has served its probation"))

    def _crashed(self, crash: ServerCrashed) -> None:
        if self._probation is None or not self._probation.holds(self._world.now()):
            return
        self._probation, loops = note_crash(self._probation, crash.release, now=self._world.clock())
        if loops and self._work is None:
            self._notify(
                Notify("error", f"{crash.release} crashes again and again ({crash.how}): rolling back")
            )
            # After a change of content alone, the former version has the same release.
            former = self._probation.former
            to = former if former != self._probation.release else None
            message = RollBack(to=to, by=_PROBATION)
            self.tasks.start_soon(self._interrupt, Envelope[UpgradeMessage](message), message)

    async def _status(self) -> UpgradeAnswer:
        work = self._work
        under_way = (
            None if work is None else {"session_id": work.session_id, "what": work.what, "step": work.step}
        )
        return await self._desk.status(under_way, self._probation)


def _busy(work: _Work) -> Refused:
    return Refused(
        f"{work.what} is under way: {work.step}",
        "wait for it, or end it with `rollback`" if work.yields else "wait for it",
        {"session_id": work.session_id, "step": work.step},
    )
