"""The upgrading actions of the tool `mcpkeep`, before a fake upgrade actor and a fake user."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest
import trio.testing

from mcpkeep.actors.keep_upgrade import ATTACH_LIMIT, KeepUpgrades
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.plan import Case, Choice, Plan, PlannedFile
from mcpkeep.protocol.upgrade.request import (
    Aborted,
    BackupList,
    ConflictsUndecided,
    GetBackups,
    MakePlan,
    MergedText,
    PlanMade,
    Refused,
    ResolveConflicts,
    Resolved,
    RollBack,
    RunUpgrade,
    UpgradeAnswer,
    UpgradeFault,
    UpgradeMessage,
    UpToDate,
)
from mcpkeep.protocol.upgrade.tool import UpgradeArguments

pytestmark = pytest.mark.anyio

PLAN = Plan(
    "p1", "digest", "/src", "abc", "v2", "def", datetime(2026, 1, 31, tzinfo=UTC),
    (PlannedFile("a.md", Case.CONFLICT),),
)  # fmt: skip
UPGRADE = UpgradeArguments(action="upgrade", source_path="/src")
DONE = UpToDate("v2", "abc", "r", "p1")


@pytest.fixture(
    params=["asyncio", ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})],
    ids=["asyncio", "trio"],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


class Holder:
    """Whoever holds the workspace: answers as told, upgrades only when they are let go."""

    def __init__(self, *, undecided: tuple[str, ...] = ()) -> None:
        self.asked: list[UpgradeMessage] = []
        self.undecided = undecided
        self.go_on = anyio.Event()
        self.changed = anyio.Event()
        self.answer: UpgradeAnswer = DONE

    async def __call__(self, question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        self.asked.append(question)
        self.changed.set()
        self.changed = anyio.Event()
        on_step("s", "at it")
        match question:
            case MakePlan():
                return PlanMade(PLAN, {"a.md": "-1\n+2\n"}, {}, self.undecided)
            case RunUpgrade():
                await self.go_on.wait()
                return self.answer
            case ResolveConflicts():
                return Resolved("p1", ("a.md",), ())
            case RollBack():
                return Aborted(("s",))
            case _:
                return BackupList((), None, ())

    async def until_asked(self, kind: type[UpgradeMessage]) -> None:
        while not any(isinstance(question, kind) for question in self.asked):
            await self.changed.wait()


class User:
    """Decides when let go; None is no answer."""

    def __init__(self, decisions: Mapping[str, Choice] | None) -> None:
        self.decisions = decisions
        self.asked: list[Mapping[str, str]] = []
        self.reached, self.go_on = anyio.Event(), anyio.Event()

    async def decide(self, conflicts: Mapping[str, str]) -> Mapping[str, Choice] | None:
        self.asked.append(conflicts)
        self.reached.set()
        await self.go_on.wait()
        return self.decisions


async def no_status() -> Mapping[str, object]:
    return {}


def deaf(_done: float, _total: float | None, _text: str) -> None: ...


@asynccontextmanager
async def tool(holder: Holder, user: User | None = None) -> AsyncGenerator[KeepUpgrades]:
    keep = KeepUpgrades(holder, status=no_status, user=user or User(None))
    async with anyio.create_task_group() as tasks:
        await tasks.start(keep.run)
        yield keep
        tasks.cancel_scope.cancel()


async def call(keep: KeepUpgrades, asked: UpgradeArguments) -> dict[str, Any]:
    result = await keep.call(asked, deaf)
    answer: dict[str, Any] = msgspec.json.decode(result.structured)
    assert result.is_error == (answer["status"] == "error")
    return answer


async def test_an_upgrade_is_planned_and_run_as_that_plan() -> None:
    holder, told = Holder(), list[str]()
    holder.go_on.set()
    async with tool(holder) as keep:
        result = await keep.call(UPGRADE, lambda _done, _total, text: told.append(text))
    plan, run = holder.asked
    assert isinstance(plan, MakePlan) and isinstance(run, RunUpgrade)
    assert (run.plan_id, run.options.source_path, told) == ("p1", "/src", ["at it", "at it"])
    answer = msgspec.json.decode(result.structured)
    assert (answer["status"], answer["action"], answer["version"]) == ("success", "upgrade", "v2")


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})], ids=["trio"]
)
async def test_a_long_upgrade_is_in_progress_and_the_same_call_attaches_to_it() -> None:
    holder = Holder()
    async with tool(holder) as keep:
        began = anyio.current_time()
        first = await call(keep, UPGRADE)
        assert (first["in_progress"], first["step"]) == (True, "at it")
        assert anyio.current_time() - began == ATTACH_LIMIT
        other = await call(keep, UpgradeArguments(action="upgrade", source_path="/other"))
        assert "another upgrade is under way: at it" in other["error"]
        holder.go_on.set()
        last = await call(keep, UPGRADE)
        assert ("in_progress" in last, last["version"]) == (False, "v2")
        assert len([asked for asked in holder.asked if isinstance(asked, RunUpgrade)]) == 1
        await call(keep, UPGRADE)  # that one is told; the same call begins anew
        assert len([asked for asked in holder.asked if isinstance(asked, RunUpgrade)]) == 2


async def test_an_end_that_nobody_heard_of_is_not_the_answer_to_another_call() -> None:
    holder = Holder()
    async with tool(holder) as keep, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as left:
            tasks.start_soon(_then, holder, left.cancel)
            await call(keep, UPGRADE)
        assert left.cancelled_caught  # the client gave the call up, and the upgrade went on
        holder.go_on.set()
        await anyio.wait_all_tasks_blocked()
        await call(keep, UpgradeArguments(action="upgrade", source_path="/other"))
    assert [asked.options.source_path for asked in holder.asked if isinstance(asked, RunUpgrade)] == [
        "/src",
        "/other",
    ]


async def _then(holder: Holder, cancel: Callable[[], None]) -> None:
    await holder.until_asked(RunUpgrade)
    cancel()


async def test_the_user_is_asked_what_nobody_decided_and_the_answer_is_on_record() -> None:
    holder, user = Holder(undecided=("a.md",)), User({"a.md": Choice.TAKE})
    holder.go_on.set()
    user.go_on.set()
    async with tool(holder, user) as keep:
        await call(keep, UPGRADE)
    assert user.asked == [{"a.md": "-1\n+2\n"}]
    assert holder.asked[1] == ResolveConflicts("p1", {"a.md": Choice.TAKE}, by="user")


async def test_without_an_answer_of_the_user_the_conflicts_are_listed_with_the_plan() -> None:
    holder, user = Holder(undecided=("a.md",)), User(None)
    holder.answer = ConflictsUndecided("p1", {"a.md": "-1\n+2\n"})
    holder.go_on.set()
    user.go_on.set()
    async with tool(holder, user) as keep:
        answer = await call(keep, UPGRADE)
    assert (answer["error_type"], answer["plan_id"], answer["conflicts"]) == (
        "ConflictsUndecided",
        "p1",
        {"a.md": "-1\n+2\n"},
    )


async def test_with_a_default_nobody_is_asked() -> None:
    holder, user = Holder(undecided=("a.md",)), User(None)
    holder.go_on.set()
    async with tool(holder, user) as keep:
        await call(keep, UpgradeArguments(action="upgrade", source_path="/src", on_conflict="keep"))
    assert (user.asked, [type(asked) for asked in holder.asked]) == ([], [RunUpgrade])


async def test_a_rollback_while_the_user_is_asked_gives_the_upgrade_up_and_rolls_nothing_back() -> None:
    holder, user = Holder(undecided=("a.md",)), User(None)
    answers: list[dict[str, Any]] = []
    rolled: dict[str, Any] = {}
    async with tool(holder, user) as keep, anyio.create_task_group() as tasks:

        async def upgrade() -> None:
            answers.append(await call(keep, UPGRADE))

        tasks.start_soon(upgrade)
        await user.reached.wait()
        rolled = await call(keep, UpgradeArguments(action="rollback"))
    assert (rolled["status"], rolled["sessions"], answers[0]["sessions"]) == ("success", [], [])
    assert [type(asked) for asked in holder.asked] == [MakePlan]


async def test_a_rollback_of_an_upgrade_at_work_is_the_holders_to_do() -> None:
    holder = Holder()
    rolled: dict[str, Any] = {}
    async with tool(holder) as keep, anyio.create_task_group() as tasks:
        tasks.start_soon(call, keep, UPGRADE)
        await holder.until_asked(RunUpgrade)
        rolled = await call(keep, UpgradeArguments(action="rollback", to="r1"))
        holder.go_on.set()
    assert rolled["sessions"] == ["s"]
    assert holder.asked[-1] == RollBack(to="r1", by="the tool mcpkeep")


async def test_decisions_travel_as_they_are_meant() -> None:
    holder = Holder()
    decisions: dict[str, str | dict[str, str]] = {"*.md": "take", "b.md": {"merge": "both\n"}}
    async with tool(holder) as keep:
        await call(keep, UpgradeArguments(action="resolve", plan_id="p1", decisions=decisions))
    assert holder.asked == [
        ResolveConflicts("p1", {"*.md": Choice.TAKE, "b.md": MergedText("both\n")}, by="the agent")
    ]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (UpgradeArguments(action="plan"), "plan needs source_path"),
        (UpgradeArguments(action="upgrade"), "upgrade needs source_path"),
        (UpgradeArguments(action="resolve", plan_id="p"), "resolve needs plan_id and decisions"),
        (UpgradeArguments(action="resolve", plan_id="p", decisions={"a": "perhaps"}), "cannot be used"),
    ],
)
async def test_what_lacks_is_named_with_the_remedy(asked: UpgradeArguments, told: str) -> None:
    holder = Holder()
    async with tool(holder) as keep:
        answer = await call(keep, asked)
    assert (told in answer["error"], bool(answer["remediation"]), holder.asked) == (True, True, [])


@pytest.mark.parametrize(
    ("answer", "members"),
    [
        (Refused("no git", "install it", {"a": 1}), {"error": "no git", "remediation": "install it"}),
        (
            UpgradeFault("it crashed", "mend it", 4, "rolled_back"),
            {"error": "it crashed", "phase": 4, "state": "rolled_back"},
        ),
    ],
)
async def test_a_failure_says_what_stands(answer: UpgradeAnswer, members: dict[str, object]) -> None:
    holder = Holder()
    holder.answer = answer
    holder.go_on.set()
    async with tool(holder) as keep:
        told = await call(keep, UPGRADE)
    assert told["status"] == "error"
    assert {name: told[name] for name in members} == members


async def test_a_holder_that_fails_is_an_error_of_that_call() -> None:
    async def failing(question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        if isinstance(question, GetBackups):
            return BackupList((), None, ())
        raise UpgradeFailed("it is leaving", remediation="ask again")

    keep = KeepUpgrades(failing, status=no_status, user=User(None))
    async with anyio.create_task_group() as tasks:
        await tasks.start(keep.run)
        for action in ("plan", "upgrade", "rollback"):
            answer = await call(keep, UpgradeArguments(action=action, source_path="/src"))
            assert (answer["error"], answer["remediation"]) == ("it is leaving", "ask again")
        assert (await call(keep, UpgradeArguments(action="backups")))["backups"] == []
        tasks.cancel_scope.cancel()
