"""One session's upgrade: its phases in order, journalled, taken back where they fail, undone on demand."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar, cast

import anyio
import msgspec

from mcpkeep.actors.upgrade_commit import show_time, switch, validate
from mcpkeep.actors.upgrade_conclude import conclude, prune
from mcpkeep.actors.upgrade_phases import Context, check, check_again, merge, prepare, settle
from mcpkeep.actors.upgrade_rollback import roll_back
from mcpkeep.actors.upgrade_world import Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.evidence import PHASE_COUNT, PhaseEvidence
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Begun, Ended, JournalState, Outcome, PhaseDone, PhaseUndone
from mcpkeep.protocol.upgrade.late_edit import tell_edits
from mcpkeep.protocol.upgrade.options import UpgradeOptions, UpgradeSettings
from mcpkeep.protocol.upgrade.phase import announce_phase
from mcpkeep.protocol.upgrade.plan import Decision, Plan
from mcpkeep.protocol.upgrade.products import Closed, Merged, Prepared, Switched, Validated, former_version
from mcpkeep.protocol.upgrade.request import RolledBack, UpgradeDone

__all__ = ["RolledBackFor", "UpgradeRun"]

Product = TypeVar("Product", bound=msgspec.Struct)


class RolledBackFor(UpgradeFailed):
    """A failure after the commit; the former version serves again."""

    def __init__(self, cause: UpgradeFailed, phase: int, outcome: RolledBack) -> None:
        super().__init__(str(cause), remediation=cause.remediation, details=cause.details)
        self.phase = phase
        self.outcome = outcome


class UpgradeRun:
    """The upgrade of one session. Its methods are not to be called side by side."""

    def __init__(
        self,
        world: UpgradeWorld,
        settings: UpgradeSettings,
        session_id: str,
        options: UpgradeOptions,
        *,
        agent_led: bool,
        by: str,
        step: Progress,
        decided: Callable[[Plan], Awaitable[Mapping[str, Decision]]],
    ) -> None:
        """`decided` gives the decisions on record for a plan."""
        self._world = world
        self._agent_led = agent_led
        self._by = by
        self.context = Context(world, settings, session_id, options, step, decided)
        self._seconds: dict[int, float] = {}
        self._evidence: dict[str, Mapping[str, object]] = {}
        self._phases: dict[int, Callable[[JournalState], Awaitable[tuple[PhaseEvidence, msgspec.Struct]]]] = {
            1: lambda _: prepare(self.context),
            2: lambda state: merge(self.context, _product(state, 1, Prepared)),
            3: lambda state: switch(self.context, _product(state, 1, Prepared), _product(state, 2, Merged)),
            4: lambda state: validate(
                self.context,
                _product(state, 1, Prepared),
                _product(state, 2, Merged),
                _product(state, 3, Switched),
            ),
            5: self._conclude,
        }

    @property
    def session_id(self) -> str:
        return self.context.session_id

    async def require_decided(
        self, plan_id: str | None, *, decide: Callable[[Plan], Awaitable[None]]
    ) -> Plan:
        """The plan, before anything changes. `decide` puts on record what was decided of it.

        Raises Undecided where a conflict is open, UpgradeFailed where the plan is not `plan_id` any more or a
        check of phase 0 fails.
        """
        self.context.step("making sure that the plan still holds")
        _, source = await check_again(self.context)
        options = self.context.options
        plan = await self._world.contents.plan(source, content=options.content, code=options.code)
        if plan_id is not None and plan.plan_id != plan_id:
            raise UpgradeFailed(
                f"the plan {plan_id!r} is stale: what it was made of has changed",
                remediation="look at the new plan, and decide again",
                details={"plan_id": plan.plan_id},
            )
        await decide(plan)
        await settle(self.context, plan)
        return plan

    async def run(self, phase: int) -> Mapping[str, object]:
        """Run a phase, and those before it that were undone since; what it measured.

        One that was completed before a crash answers what it measured then.

        Raises:
            Undecided: phase 2 waits for decisions; what it had begun is taken back.
            RolledBackFor: it failed after the commit, and the former version serves again.
            RollbackFailed: it failed after the commit, and so did the way back.
            UpgradeFailed: it failed; what it had begun is taken back.
        """
        began = self._world.clock()
        if phase == 0:
            self.context.step(announce_phase(0))
            evidence, _ = await check(self.context)
            self._seconds[0] = self._world.clock() - began
            self._evidence["0"] = _members(evidence)
            return self._evidence["0"]
        state = await self._begin()
        for number in range(1, phase + 1):
            if number not in state.phases:
                await self._run_one(number, state)
                state = await self._state()
        self._evidence[str(phase)] = state.phases[phase].evidence
        return state.phases[phase].evidence

    async def done(self) -> UpgradeDone:
        """What the completed upgrade came to."""
        state = await self._state()
        prepared, merged = _product(state, 1, Prepared), _product(state, 2, Merged)
        return UpgradeDone(
            session_id=self.session_id,
            from_version=former_version(prepared, merged),
            to_version=prepared.source.version,
            from_release=prepared.former.release_id,
            to_release=merged.release.release_id,
            summary=str(state.phases[PHASE_COUNT - 1].evidence["upgrade_summary"]),
            evidence=self._evidence,
            seconds={str(number): seconds for number, seconds in sorted(self._seconds.items())},
            late=tell_edits(_product(state, PHASE_COUNT - 1, Closed).late),
        )

    async def undo(self, to_phase: int) -> None:
        """Undo what the phases from `to_phase` on did; at 0 the session lets go of lock and staging.

        Raises:
            RollbackFailed: what was committed could not be taken back.
            UpgradeFailed: what was begun could not be; the next start of mcpkeep goes on with it.
        """
        state = await self._world.journals.read(self.session_id)
        if state is None or state.ended is not None:
            return
        if state.committed and to_phase <= 3:
            await self.take_back_commit("the session was rolled back")
            return
        if state.groups and to_phase <= 3:
            await self._world.changes.undo(self.session_id)  # what could not be taken back before
        if to_phase > 0:
            await self._world.journals.append(self.session_id, PhaseUndone(to_phase))
        if to_phase <= 1:
            await self._drop_staging()
        if to_phase == 0:
            await self.end("aborted", "rolled back to phase 0")

    async def end(self, outcome: Outcome, reason: str = "") -> None:
        """Close the session: its staging goes, the lock is released, and the history says how it ended."""
        world = self._world
        try:
            # First of all: it may make the room that the rest needs.
            await world.contents.remove_staging(self.session_id)
            await world.changes.discard(self.session_id)
            if outcome == "aborted":
                with suppress(UpgradeFailed):
                    await world.contents.forget_conflicts(self.session_id)
            if outcome != "completed":
                with suppress(UpgradeFailed):
                    await world.records.log_line(self._line(outcome, reason))
            await world.journals.append(self.session_id, Ended(outcome, world.now(), reason))
        finally:
            with anyio.CancelScope(shield=True):
                await world.lock.release()

    def _line(self, outcome: Outcome, reason: str) -> Mapping[str, object]:
        return {
            "at": show_time(self._world.now()),
            "session_id": self.session_id,
            "kind": "upgrade",
            "outcome": outcome,
            "reason": reason,
        }

    async def _begin(self) -> JournalState:
        """Take the lock, and begin the journal unless that was done; one that is completed needs no lock."""
        world = self._world
        state = await world.journals.read(self.session_id)
        if state is not None and state.ended is not None:
            if state.ended.outcome == "completed":
                return state  # A crash came before the session was told.
            raise UpgradeFailed(
                f"this session's upgrade has ended: {state.ended.outcome}",
                remediation="start a new session",
            )
        await world.lock.acquire(self.session_id)
        if state is not None:
            return state
        options = cast("Mapping[str, object]", msgspec.to_builtins(self.context.options))
        begun = Begun(self.session_id, "upgrade", self._agent_led, self._by, world.now(), options)
        try:
            await world.journals.begin(begun)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await world.lock.release()
            raise
        return await self._state()

    async def _state(self) -> JournalState:
        state = await self._world.journals.read(self.session_id)
        if state is None:
            raise UpgradeFailed(
                "the journal of this session is gone", remediation="start a new session; nothing was lost"
            )
        return state

    async def _run_one(self, number: int, state: JournalState) -> None:
        began = self._world.clock()
        self.context.step(announce_phase(number))
        try:
            evidence, product = await self._phases[number](state)
            self._seconds[number] = self._world.clock() - began
            done = PhaseDone(
                phase=number,
                at=self._world.now(),
                seconds=self._seconds[number],
                products=_members(product),
                evidence=_members(evidence),
            )
            with anyio.CancelScope(shield=True):  # what was done is known to have been done
                await self._world.journals.append(self.session_id, done)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._take_back(number, error)
            raise
        if number == PHASE_COUNT - 1:
            await self.end("completed")

    async def _take_back(self, number: int, error: BaseException) -> None:
        """After a failed phase: raises RolledBackFor in the error's place where the commit had been made."""
        state = await self._world.journals.read(self.session_id)
        if state is None:
            return
        interrupted = isinstance(error, anyio.get_cancelled_exc_class())
        if interrupted and self._agent_led and number > 3:
            return  # It goes on there.
        if number in (3, 4) and state.committed:
            outcome = await self.take_back_commit(str(error) or type(error).__name__)
            cause = (
                error
                if isinstance(error, UpgradeFailed)
                else UpgradeFailed(f"interrupted: {type(error).__name__}", remediation="try again")
            )
            raise RolledBackFor(cause, number, outcome) from error
        if number == 1:
            await self._drop_staging()

    async def take_back_commit(self, reason: str, *, to: str | None = None) -> RolledBack:
        """Go back behind this session's commit, or further, and end the session. Raises RollbackFailed."""
        outcome = await roll_back(
            self._world, to=to, by=reason, step=self.context.step, of_session=self.session_id
        )
        await self.end("rolled_back", reason)
        return outcome

    async def _drop_staging(self) -> None:
        world = self._world
        await world.contents.remove_staging(self.session_id)
        await prune(world)

    async def _conclude(self, state: JournalState) -> tuple[PhaseEvidence, msgspec.Struct]:
        return await conclude(
            self.context,
            _product(state, 1, Prepared),
            _product(state, 2, Merged),
            _product(state, 3, Switched),
            _product(state, 4, Validated),
            seconds={number: done.seconds for number, done in state.phases.items()} | self._seconds,
            started_at=state.begun.at,
            by=state.begun.by,
            strict=self._agent_led,
        )


def _product(state: JournalState, phase: int, kind: type[Product]) -> Product:
    return msgspec.convert(state.phases[phase].products, kind)


def _members(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", msgspec.to_builtins(value))
