"""The actions of the tool `mcpkeep` that upgrade: asked of whoever holds the workspace, attached to again."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Raw

from mcpkeep.actors.toolbox import Progress, refusal
from mcpkeep.actors.upgrade_world import Answering
from mcpkeep.protocol.relay.tools import ToolResult
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.options import UpgradeOptions
from mcpkeep.protocol.upgrade.plan import Choice
from mcpkeep.protocol.upgrade.request import (
    Aborted,
    ConflictsUndecided,
    GetBackups,
    GetReport,
    MakePlan,
    MergedText,
    PlanMade,
    Refused,
    ResolveConflicts,
    RollBack,
    RunUpgrade,
    UpgradeAnswer,
    UpgradeFault,
    UpgradeMessage,
    VerifyBackups,
)
from mcpkeep.protocol.upgrade.tool import UpgradeArguments

__all__ = ["Answering", "AskUser", "KeepUpgrades"]

ATTACH_LIMIT = 45.0
"""Seconds that one call waits: the TypeScript client gives a call up after 60."""
RETRY_AFTER = 5
"""Seconds after which to call again; the call then waits by itself."""


class AskUser(Protocol):
    """Asks the user behind the client."""

    async def decide(self, conflicts: Mapping[str, str]) -> Mapping[str, Choice] | None:
        """A choice for each path, whose diff is given; None where the client cannot or the user will not."""
        ...


class _Run:
    """A question that takes longer than a call."""

    def __init__(self, asked: UpgradeArguments) -> None:
        self.asked = asked
        self.steps = 0
        self.step = "starting"
        self.waiting: anyio.CancelScope | None = None
        """Around what is done before the upgrade actor is at work: then there is nothing to roll back."""
        self.ended = anyio.Event()
        self.answer: UpgradeAnswer | None = None
        self.failure: UpgradeFailed | None = None
        self.listeners: list[Progress] = []

    def tell(self, _session: str, step: str) -> None:
        self.step = step
        self.steps += 1
        for listener in self.listeners:
            listener(self.steps, None, step)


_Work: TypeAlias = Callable[[_Run], Awaitable[UpgradeAnswer]]


class KeepUpgrades:
    """Answers those actions while `run` runs."""

    def __init__(
        self, answering: Answering, *, status: Callable[[], Awaitable[Mapping[str, object]]], user: AskUser
    ) -> None:
        """`status` is what the action of that name tells of upgrades."""
        self._status = status
        self._answering = answering
        self._user = user
        self._runs: dict[str, _Run] = {}
        self._tasks: TaskGroup | None = None
        self._actions: dict[str, Callable[[UpgradeArguments, Progress], Awaitable[ToolResult]]] = {
            "plan": self._plan,
            "upgrade": self._upgrade,
            "resolve": self._resolve,
            "rollback": self._rollback,
            "backups": lambda asked, progress: self._simply(asked, GetBackups(), progress),
            "verify": lambda asked, progress: self._simply(asked, VerifyBackups(asked.backup_id), progress),
            "report": lambda asked, progress: self._simply(asked, GetReport(), progress),
        }

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be where long work lives, until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    async def status(self) -> Mapping[str, object]:
        """Release, lock, what is under way, probation."""
        return await self._status()

    async def call(self, asked: UpgradeArguments, progress: Progress) -> ToolResult:
        """Answer one call."""
        try:
            return await self._actions[asked.action](asked, progress)
        except UpgradeFailed as failed:
            return _refused(asked.action, Refused(str(failed), failed.remediation, failed.details))

    async def _simply(
        self, asked: UpgradeArguments, question: UpgradeMessage, progress: Progress
    ) -> ToolResult:
        return _told(asked.action, await self._answering(question, _teller(progress)))

    async def _plan(self, asked: UpgradeArguments, progress: Progress) -> ToolResult:
        return await self._simply(asked, MakePlan(_options(asked)), progress)

    async def _upgrade(self, asked: UpgradeArguments, progress: Progress) -> ToolResult:
        options = _options(asked)

        async def work(run: _Run) -> UpgradeAnswer:
            plan_id = asked.plan_id
            if options.on_conflict is None:
                planned: UpgradeAnswer = Aborted(())
                with anyio.CancelScope() as run.waiting:
                    planned = await self._planned(options, run)
                run.waiting = None
                if not isinstance(planned, PlanMade):
                    return planned
                plan_id = plan_id or planned.plan.plan_id
            question = RunUpgrade(options, by="the tool mcpkeep", plan_id=plan_id)
            return await self._answering(question, run.tell)

        return await self._attach(asked, work, progress)

    async def _planned(self, options: UpgradeOptions, run: _Run) -> UpgradeAnswer:
        """The plan, after the user was asked what no decision is on record for.

        Without an answer of the user the upgrade will list what is undecided.
        """
        planned = await self._answering(MakePlan(options), run.tell)
        if isinstance(planned, PlanMade) and planned.undecided:
            run.tell("", f"asking the user about {len(planned.undecided)} conflicts")
            conflicts = {path: planned.diffs.get(path, "") for path in planned.undecided}
            decisions = await self._user.decide(conflicts)
            if decisions:
                question = ResolveConflicts(planned.plan.plan_id, dict(decisions), by="user")
                await self._answering(question, run.tell)
        return planned

    async def _resolve(self, asked: UpgradeArguments, progress: Progress) -> ToolResult:
        if asked.plan_id is None or not asked.decisions:
            raise UpgradeFailed(
                "resolve needs plan_id and decisions",
                remediation="take both from the answer that listed the conflicts",
            )
        try:
            decisions = msgspec.convert(asked.decisions, dict[str, Choice | MergedText])
        except msgspec.ValidationError as error:
            raise UpgradeFailed(
                f"the decisions cannot be used: {error}",
                remediation='decide each by "keep", "take" or {"merge": "the whole file"}',
            ) from error
        question = ResolveConflicts(asked.plan_id, decisions, by="the agent")
        return await self._simply(asked, question, progress)

    async def _rollback(self, asked: UpgradeArguments, progress: Progress) -> ToolResult:
        upgrade = self._runs.get("upgrade")
        if upgrade is not None and upgrade.waiting is not None:
            upgrade.waiting.cancel()
            await upgrade.ended.wait()
            return _told(asked.action, Aborted(()))
        question = RollBack(to=asked.to, by="the tool mcpkeep")
        return await self._attach(asked, lambda run: self._answering(question, run.tell), progress)

    async def _attach(self, asked: UpgradeArguments, work: _Work, progress: Progress) -> ToolResult:
        """Wait for the run of this action, which is begun unless the same call began it."""
        action = asked.action
        run = self._runs.get(action)
        if run is not None and run.asked != asked:
            if not run.ended.is_set():
                raise UpgradeFailed(
                    f"another {action} is under way: {run.step}",
                    remediation="wait for it by the call that began it, or end it with `rollback`",
                )
            run = None
        if run is None:
            assert self._tasks is not None, "call() needs run()"
            run = self._runs[action] = _Run(asked)
            self._tasks.start_soon(_perform, run, work)
        run.listeners.append(progress)
        try:
            with anyio.move_on_after(ATTACH_LIMIT):
                await run.ended.wait()
        finally:
            run.listeners.remove(progress)
        if not run.ended.is_set():
            members = {"in_progress": True, "step": run.step, "retry_after_seconds": RETRY_AFTER}
            return _success(action, members)
        if self._runs.get(action) is run:
            del self._runs[action]
        if run.failure is not None:
            raise run.failure
        assert run.answer is not None  # it has ended, so it was answered or failed
        return _told(action, run.answer)


async def _perform(run: _Run, work: _Work) -> None:
    try:
        run.answer = await work(run)
    except UpgradeFailed as failed:
        run.failure = failed
    finally:
        run.ended.set()


def _options(asked: UpgradeArguments) -> UpgradeOptions:
    if asked.source_path is None:
        raise UpgradeFailed(
            f"{asked.action} needs source_path",
            remediation="give the absolute path of a local praxis-os repository",
        )
    return UpgradeOptions(
        source_path=asked.source_path,
        content_only=asked.content_only,
        server_only=asked.server_only,
        on_conflict=asked.on_conflict,
    )


def _teller(progress: Progress) -> Callable[[str, str], None]:
    count = 0

    def tell(_session: str, step: str) -> None:
        nonlocal count
        count += 1
        progress(count, None, step)

    return tell


def _told(action: str, answer: UpgradeAnswer) -> ToolResult:
    match answer:
        case Refused() | UpgradeFault():
            return _refused(action, answer)
        case ConflictsUndecided():
            return refusal(
                action,
                "ConflictsUndecided",
                f"{len(answer.conflicts)} files were changed by the user and by the new version",
                "decide them with action `resolve`, this plan_id and decisions, and call again",
                plan_id=answer.plan_id,
                conflicts=answer.conflicts,
            )
        case _:
            return _success(action, _members(answer))


def _success(action: str, members: Mapping[str, object]) -> ToolResult:
    return ToolResult(Raw(msgspec.json.encode({"status": "success", "action": action, **members})))


def _refused(action: str, refused: "Refused | UpgradeFault") -> ToolResult:
    state = {"phase": refused.phase, "state": refused.state} if isinstance(refused, UpgradeFault) else {}
    return refusal(action, "UpgradeError", refused.reason, refused.remedy, details=refused.details, **state)


def _members(answer: UpgradeAnswer) -> Mapping[str, object]:
    members: dict[str, object] = msgspec.to_builtins(answer)
    members.pop("type", None)
    return members
