"""The installer actor: one piece of work at a time, status at once, cancellation clean."""

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from mcpkeep.actors.actor import ActorStopped
from mcpkeep.actors.installer import InstallerActor
from mcpkeep.actors.upgrade_install import INSTALL_LIMIT, ask_installer
from mcpkeep.protocol.upgrade.evidence import PostInstallStep
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.release import (
    INSTALL_CAP,
    CancelInstall,
    CheckRelease,
    GetInstallStatus,
    GetSnapshot,
    InstallCancelled,
    InstallRefused,
    InstallStatus,
    MakeRelease,
    PostInstallDone,
    Pruned,
    PruneReleases,
    RebuildRelease,
    ReleaseChecked,
    ReleaseMade,
    RunPostInstall,
    Snapshot,
)

pytestmark = pytest.mark.anyio


class FakeReleases:
    """Answers when it is let; notes what began and what was cancelled."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate: anyio.Event | None = None
        self.began = anyio.Event()
        self.failure: UpgradeFailed | None = None

    async def adopt(self, *, progress: Callable[[str], None]) -> ReleaseMade:
        raise AssertionError("no test asks for it")

    async def make(self, order: MakeRelease, *, progress: Callable[[str], None]) -> ReleaseMade:
        raise AssertionError("no test asks for it")

    async def rebuild(self, order: RebuildRelease, *, progress: Callable[[str], None]) -> ReleaseMade:
        await self._work(f"rebuild {order.release_id} from {order.backup_id}", progress)
        raise UpgradeFailed("no network", remediation="go online", details={"output": ["a", "b"]})

    async def check(self, release_id: str) -> ReleaseChecked:
        return ReleaseChecked(release_id, ("its venv is gone",))

    async def run_post_install(self, release_id: str, *, progress: Callable[[str], None]) -> PostInstallDone:
        await self._work(release_id, progress)
        return PostInstallDone((PostInstallStep(release_id, "success"),))

    async def prune(self, keep: Sequence[str], *, progress: Callable[[str], None]) -> Pruned:
        await self._work("prune", progress)
        return Pruned(tuple(keep), ())

    async def snapshot(self, release_id: str | None) -> Snapshot:
        self.log.append(f"snapshot {release_id}")
        return Snapshot("a==1\n", "3.11.7")

    async def _work(self, what: str, progress: Callable[[str], None]) -> None:
        self.log.append(what)
        progress(f"at {what}")
        self.began.set()
        if self.failure is not None:
            raise self.failure
        try:
            if self.gate is not None:
                await self.gate.wait()
        except anyio.get_cancelled_exc_class():
            self.log.append(f"{what} taken back")
            raise


async def with_actor(
    releases: FakeReleases, work: Callable[[InstallerActor], Awaitable[None]], steps: list[str] | None = None
) -> None:
    told = steps if steps is not None else list[str]()
    actor = InstallerActor(releases, progress=told.append)
    async with anyio.create_task_group() as tasks:
        await tasks.start(actor.run)
        with anyio.fail_after(5):
            await work(actor)
        actor.stop()


async def one_waits(actor: InstallerActor) -> None:
    """Return once a question waits behind another."""
    while (await actor.ask(GetInstallStatus(), within=5)).waiting < 1:
        await anyio.lowlevel.checkpoint()


async def test_status_and_cancellation_do_not_wait_and_the_rest_does() -> None:
    releases = FakeReleases()
    releases.gate = anyio.Event()
    answers: list[object] = []

    async def work(actor: InstallerActor) -> None:
        async def ask(question: RunPostInstall | GetSnapshot) -> None:
            answers.append(await actor.ask(question, within=5))

        assert await actor.ask(GetInstallStatus(), within=5) == InstallStatus(None)
        assert await actor.ask(CancelInstall(), within=5) == InstallCancelled(None)
        async with anyio.create_task_group() as asking:
            asking.start_soon(ask, RunPostInstall("one"))
            await releases.began.wait()
            asking.start_soon(ask, GetSnapshot())
            await one_waits(actor)
            assert await actor.ask(GetInstallStatus(), within=5) == InstallStatus(
                "install.post_install", "at one", waiting=1
            )
            assert releases.log == ["one"]
            cancelled = await actor.ask(CancelInstall(), within=5)
            assert cancelled == InstallCancelled("install.post_install")
            assert "one taken back" in releases.log

    steps: list[str] = []
    await with_actor(releases, work, steps)
    assert sorted(map(type, answers), key=str) == sorted((InstallRefused, Snapshot), key=str)
    assert releases.log == ["one", "one taken back", "snapshot None"]
    assert steps == ["at one"]


async def test_a_failure_is_answered_with_its_remedy_and_output() -> None:
    releases = FakeReleases()
    releases.failure = UpgradeFailed("no", remediation="do", details={"output": ["a", "b"]})

    async def work(actor: InstallerActor) -> None:
        assert await actor.ask(PruneReleases(("x",)), within=5) == InstallRefused("no", "do", ("a", "b"))
        releases.failure = None
        assert await actor.ask(PruneReleases(("x",)), within=5) == Pruned(("x",), ())

    await with_actor(releases, work)


async def test_whoever_gave_up_waiting_is_not_worked_for() -> None:
    releases = FakeReleases()
    releases.gate = anyio.Event()

    async def work(actor: InstallerActor) -> None:
        async with anyio.create_task_group() as asking:

            async def first() -> None:
                await actor.ask(RunPostInstall("one"), within=5)

            async def gives_up() -> None:
                await actor.ask(RunPostInstall("two"), within=5)

            asking.start_soon(first)
            await releases.began.wait()
            async with anyio.create_task_group() as giving_up:
                giving_up.start_soon(gives_up)
                await one_waits(actor)
                giving_up.cancel_scope.cancel()
            assert releases.gate is not None
            releases.gate.set()
        await actor.ask(PruneReleases(()), within=5)

    await with_actor(releases, work)
    assert releases.log == ["one", "prune"]


async def test_more_than_can_wait_is_refused() -> None:
    releases = FakeReleases()
    releases.gate = anyio.Event()
    answers: list[object] = []

    async def work(actor: InstallerActor) -> None:
        async def ask() -> None:
            answers.append(await actor.ask(PruneReleases(()), within=5))

        async with anyio.create_task_group() as asking:
            for _ in range(18):
                asking.start_soon(ask)
            while not answers:
                await anyio.lowlevel.checkpoint()
            assert releases.gate is not None
            releases.gate.set()

    await with_actor(releases, work)
    refused = [answer for answer in answers if isinstance(answer, InstallRefused)]
    assert refused == [InstallRefused("16 others wait for the installer", "ask again later")]
    assert len(answers) == 18


async def test_an_actor_that_is_stopped_takes_back_what_it_is_at() -> None:
    releases = FakeReleases()
    releases.gate = anyio.Event()

    async def work(actor: InstallerActor) -> None:
        async with anyio.create_task_group() as asking:

            async def ask() -> None:
                with pytest.raises(ActorStopped):
                    await actor.ask(PruneReleases(()), within=5)

            asking.start_soon(ask)
            await releases.began.wait()
            actor.stop()

    await with_actor(releases, work)
    assert releases.log == ["prune", "prune taken back"]


async def test_a_release_is_rebuilt_with_its_steps_told_and_checked_without_any() -> None:
    releases, steps = FakeReleases(), list[str]()

    async def work(actor: InstallerActor) -> None:
        rebuilt = await actor.ask(RebuildRelease("adopted", "2026-01-31-101500"), within=5)
        assert rebuilt == InstallRefused("no network", "go online", ("a", "b"))
        checked = await actor.ask(CheckRelease("adopted"), within=5)
        assert checked == ReleaseChecked("adopted", ("its venv is gone",))

    await with_actor(releases, work, steps)
    assert steps == ["at rebuild adopted from 2026-01-31-101500"]


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_work_that_never_ends_is_told_to_end_and_fails_the_upgrade_with_a_remedy() -> None:
    releases = FakeReleases()
    releases.gate = anyio.Event()
    actor = InstallerActor(releases)
    async with anyio.create_task_group() as tasks:
        await tasks.start(actor.run)
        began = anyio.current_time()
        with pytest.raises(UpgradeFailed, match="not done after 5 hours, and was told to end") as failed:
            await ask_installer(actor, RunPostInstall("one"))
        assert failed.value.remediation
        assert anyio.current_time() - began == INSTALL_LIMIT > INSTALL_CAP
        assert releases.log == ["one", "one taken back"]
        assert await actor.ask(GetInstallStatus(), within=5) == InstallStatus(None)
        actor.stop()
