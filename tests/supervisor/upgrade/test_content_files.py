"""Whatever file call fails, or is the last before a kill: the live tree stays, and a second try succeeds."""

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.plan import Applied, Case, Choice, Decision
from mcpkeep.supervisor.durable import FileCalls, OsCalls
from mcpkeep.supervisor.upgrade.apply import apply_plan
from mcpkeep.supervisor.upgrade.baseline import renew_baseline
from mcpkeep.supervisor.upgrade.content_files import ContentFiles
from mcpkeep.supervisor.upgrade.staging import fill_staging, remove_staging, take_code
from tests.faults import Faults, Killed, Kills
from tests.supervisor.upgrade.content_world import (
    SESSION,
    ContentWorld,
    Spec,
    executable,
    link,
    plain,
    tree_of,
)

OLD, NEW = plain("old\n"), plain("new\n")

SPECS = (
    Spec("mcp_server/a.py", Case.UPDATE, OLD, OLD, executable("new\n")),
    Spec("scripts/link.py", Case.UPDATE, link("a"), link("a"), link("b")),
    Spec("workflows/add/ü.md", Case.ADD, None, None, NEW),
    Spec("workflows/conflict.md", Case.CONFLICT, OLD, plain("mine\n"), NEW),
    Spec("workflows/gone/remove.md", Case.REMOVE, OLD, OLD, None),
)
DECISIONS = {"workflows/conflict.md": Decision(Choice.TAKE, "user")}
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)


def _everything(world: ContentWorld, calls: FileCalls) -> Applied:
    """All that is done between the plan and the end of an upgrade, but for the commit."""
    fill_staging(world.layout, SESSION, calls=calls)
    applied = apply_plan(world.layout, world.plan(), SESSION, DECISIONS, calls=calls)
    take_code(world.layout, SESSION, world.layout.own / "code", calls=calls)
    renew_baseline(world.layout, world.plan(), SESSION, calls=calls)
    return applied


def _removal(world: ContentWorld, calls: FileCalls) -> None:
    remove_staging(world.layout, SESSION, calls=calls)


def _own(world: ContentWorld) -> Mapping[str, tuple[object, ...]]:
    """mcpkeep's own folder; without times, which differ for what was written."""
    tree = tree_of(world.layout.own) if world.layout.own.exists() else {}
    return {path: state[:3] for path, state in tree.items()}


@pytest.fixture
def world(tmp_path: Path) -> ContentWorld:
    world = ContentWorld(tmp_path, SPECS)
    world.put("standards/development/mine.md", plain("mine\n"), bits=0o400)
    old = world.layout.own / "baseline/workflows/old.md"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    return world


class _Tries:
    """The same beginning for every try."""

    def __init__(self, world: ContentWorld, work: Callable[[ContentWorld, FileCalls], object]) -> None:
        self.world, self._work = world, work
        self._saved = world.layout.base.with_name("saved")
        shutil.copytree(world.layout.own, self._saved, symlinks=True)
        self.live = world.live()
        counting = Faults(fail_at=-1, code=0)
        work(world, counting)
        self.calls = counting.made
        self.done = _own(world)

    def begin(self) -> None:
        shutil.rmtree(self.world.layout.own, ignore_errors=True)
        shutil.copytree(self._saved, self.world.layout.own, symlinks=True)


WORKS = {"from staging to baseline": _everything, "removal": _removal}


def _tries(world: ContentWorld, name: str) -> _Tries:
    if WORKS[name] is _removal:
        fill_staging(world.layout, SESSION)
    return _Tries(world, WORKS[name])


@pytest.mark.parametrize("name", WORKS)
def test_a_kill_at_any_call_leaves_the_live_tree_and_is_made_good_by_doing_it_again(
    world: ContentWorld, name: str
) -> None:
    tries = _tries(world, name)
    for n in itertools.count():
        tries.begin()
        try:
            WORKS[name](world, Kills(n))
        except Killed:
            pass
        else:
            assert n > 10
            break
        assert world.live() == tries.live
        staging = world.layout.staging(SESSION)
        if staging.exists():
            # Where it stands it is whole: nothing that the plan leaves is missing.
            assert (world.layout.staged(SESSION) / "standards/development/mine.md").read_text() == "mine\n"
        WORKS[name](world, Faults(fail_at=-1, code=0))
        assert _own(world) == tries.done, n
    assert world.live() == tries.live


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("from_then_on", [False, True])
def test_a_call_that_fails_is_named_and_leaves_the_live_tree(
    world: ContentWorld, name: str, from_then_on: bool
) -> None:
    tries = _tries(world, name)
    # A disk that stays broken is tried at fewer places: it only adds that cleaning up fails too.
    for n in range(0, tries.calls, 3 if from_then_on else 1):
        tries.begin()
        code = CODES[n // 3 % 3 if from_then_on else n % 3]
        faults = Faults(fail_at=n, code=code, from_then_on=from_then_on)
        try:
            WORKS[name](world, faults)
        except UpgradeFailed as failed:
            assert errno.errorcode[code] in str(failed)
            assert os.strerror(code).lower() in str(failed)
            assert failed.remediation
            assert failed.details["errno"] == errno.errorcode[code]
            if not from_then_on and not world.layout.staged(SESSION).exists():
                staging = world.layout.staging(SESSION).parent
                assert name == "removal" or not staging.exists() or not list(staging.iterdir())
        else:
            # Only what the last step leaves behind may fail unsaid: the old baseline's remains.
            assert list(world.layout.own.glob("baseline.*.old"))
        assert faults.failed
        assert world.live() == tries.live
        if from_then_on:
            WORKS[name](world, Faults(fail_at=-1, code=0))
            assert _own(world) == tries.done, n


def test_a_failed_application_keeps_no_half_of_a_conflict(world: ContentWorld) -> None:
    fill_staging(world.layout, SESSION)
    counting = Faults(fail_at=-1, code=0)
    apply_plan(world.layout, world.plan(), SESSION, DECISIONS, calls=counting)
    faults = Faults(fail_at=counting.made - 1, code=errno.ENOSPC)
    with pytest.raises(UpgradeFailed, match=r"no space left on device \(ENOSPC\)"):
        apply_plan(world.layout, world.plan(), SESSION, DECISIONS, calls=faults)
    assert not world.layout.conflicts(SESSION).exists()


@pytest.mark.anyio
async def test_the_loop_sees_the_same_as_the_threads(world: ContentWorld) -> None:
    contents = ContentFiles(world.layout)
    plan = world.plan()
    await contents.fill_staging(SESSION)
    applied = await contents.apply(plan, SESSION, DECISIONS)
    assert await contents.verify_staged(plan, SESSION, applied) == ()
    code = world.layout.own / "code"
    await contents.take_code(SESSION, str(code))
    assert (code / "mcp_server/a.py").read_text() == "new\n"
    assert set(await contents.diffs(plan, ["mcp_server/a.py"])) == {"mcp_server/a.py"}
    await contents.renew_baseline(plan, SESSION, lacking=())
    assert (world.layout.baseline / "mcp_server/a.py").read_text() == "new\n"
    await contents.remove_staging(SESSION)
    assert not world.layout.staging(SESSION).exists()


@pytest.mark.anyio
async def test_a_filling_that_is_cancelled_ends_between_two_files_and_leaves_nothing(
    world: ContentWorld,
) -> None:
    copied = 0
    with anyio.CancelScope() as scope:

        class Cancelling(OsCalls):
            def copy(self, source: int, fd: int, size: int) -> int:
                nonlocal copied
                copied += 1
                if copied == 1:
                    anyio.from_thread.run_sync(scope.cancel)
                return super().copy(source, fd, size)

        await ContentFiles(world.layout, calls=Cancelling()).fill_staging(SESSION)
    assert scope.cancelled_caught
    assert copied == 1
    assert list(world.layout.staging(SESSION).parent.iterdir()) == []
