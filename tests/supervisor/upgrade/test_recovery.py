"""What the next start does for each kind of session, and what it leaves alone."""

import os
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Intent, PhaseDone
from mcpkeep.supervisor.upgrade.pending import anything_pending
from mcpkeep.supervisor.upgrade.recovery import Recovered
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.small_installation import NEW, SESSION, World, build, live, order, version, whole


def led(world: World, *phases: int) -> None:
    world.lock.take(SESSION)
    world.begin(agent_led=True)
    world.append(SESSION, *(PhaseDone(n, world.now(), 1.0) for n in phases))


def without_lock(world: World) -> dict[str, bytes | str]:
    return {path: data for path, data in live(world).items() if path != ".upgrade-lock"}


@pytest.mark.parametrize("whole_commit", [True, False])
def test_an_agents_upgrade_goes_on_at_the_interrupted_phase_with_lock_and_staging(
    tmp_path: Path, whole_commit: bool
) -> None:
    world = build(tmp_path)
    led(world, 0, 1, 2)
    world.changes.prepare(order(world))
    world.changes.swap_first(order(world))
    if whole_commit:
        world.changes.swap_rest(order(world))
    world = world.again()
    done = world.recover()
    assert (done.said, done.resumed) == ((f"upgrade {SESSION!r} goes on at phase 3",), (SESSION,))
    assert world.lock.held_for == SESSION
    assert without_lock(world) == version("old")
    assert (world.layout.staged(SESSION) / "mcp_server/main.py").read_bytes() == NEW["mcp_server/main.py"]
    world.commit(order(world))
    assert without_lock(world) == version("new")


def test_an_agents_upgrade_that_completed_its_commit_keeps_it(tmp_path: Path) -> None:
    world = build(tmp_path)
    led(world, 0, 1, 2)
    world.commit(order(world))
    world.append(SESSION, PhaseDone(3, world.now(), 1.0))
    world = world.again()
    assert world.recover().said == (f"upgrade {SESSION!r} goes on at phase 4",)
    lent = ".cache/vector_index/t.lance/data/1"  # to the former server, which ended with mcpkeep
    assert without_lock(world) == {path: data for path, data in version("new").items() if path != lent}


def test_an_agents_upgrade_before_its_lock_goes_on_without(tmp_path: Path) -> None:
    world = build(tmp_path)
    led(world, 0)
    world = world.again()
    assert world.recover().resumed == (SESSION,)
    assert world.lock.held_for is None
    assert not world.layout.lock.exists()
    assert os.listdir(world.layout.stagings) == []


def test_an_upgrade_that_had_done_all_phases_is_completed(tmp_path: Path) -> None:
    world = build(tmp_path)
    led(world, *range(5))
    world.commit(order(world))
    world.append(SESSION, PhaseDone(5, world.now(), 1.0))
    world = world.again()
    assert world.recover().ended == {SESSION: "completed"}
    assert whole(world) == "new"


def test_a_committed_upgrade_that_nobody_leads_is_rolled_back_with_the_edits_kept(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.lock.take(SESSION)
    world.begin()
    world.commit(order(world))
    path = world.base / "standards/universal/a.md"
    path.write_bytes(path.read_bytes() + b"mine\n")
    world = world.again()
    done = world.recover()
    assert done.ended == {f"{SESSION}-back": "completed", SESSION: "rolled_back"}
    assert path.read_bytes().endswith(b"\nthree\nfour\nfive\nsix\nseven\nmine\n")
    assert not anything_pending(str(tmp_path))


def test_a_rollback_that_cannot_be_finished_is_told_and_the_new_version_stands(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(order(world))
    world.append(SESSION, *(PhaseDone(n, world.now(), 1.0) for n in range(6)))
    world.begin("s-2", kind="rollback")
    plan = plan_rollback(world.changes, "s-2", None)
    world.changes.prepare(plan.order)
    world.changes.swap_first(plan.order)
    (world.layout.releases / "old" / "release.json").unlink()
    world = world.again()
    done = world.recover()
    assert done.ended == {"s-2": "failed", SESSION: "completed"}
    assert "cannot be finished: release 'old' cannot be read" in done.said[0]
    assert whole(world) == "new"


def test_nothing_is_touched_while_a_living_process_holds_the_lock(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.lock.take(SESSION)
    world.begin()
    world.append(SESSION, Intent("first", ()))
    other = World(world.layout)
    done = other.recover()
    assert done.said[0].startswith("nothing was recovered: another upgrade or rollback holds the lock")
    assert len(other.journals.open()) == 1
    world.lock.let_go()


def test_a_damaged_journal_is_told_and_its_work_left_alone_under_the_lock(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.changes.prepare(order(world))
    world.changes.swap_first(order(world))
    path = world.layout.journals / f"{SESSION}.jsonl"
    path.write_bytes(b"no json\n" + path.read_bytes())
    before = live(world)
    world = world.again()
    done = world.recover()
    assert done.failed
    assert "is damaged at line 1" in done.said[0]
    assert world.lock.held_for is not None
    assert without_lock(world) == before
    assert world.layout.staging(SESSION).exists()
    with pytest.raises(UpgradeFailed, match="holds the lock"):
        World(world.layout).lock.take("other")


def test_what_no_session_needs_is_tidied_away(tmp_path: Path) -> None:
    world = build(tmp_path)
    (world.layout.releases / "half").mkdir()
    (world.layout.change("lost")).mkdir(parents=True)
    world.layout.journals.mkdir()
    (world.layout.journals / "torn.jsonl").write_bytes(b'{"type":"beg')
    (world.layout.journals / ".torn.jsonl.0.tmp").write_bytes(b"")
    assert world.recover() == Recovered()
    assert os.listdir(world.layout.journals) == os.listdir(world.layout.changes) == []
    assert sorted(os.listdir(world.layout.releases)) == ["new", "old"]
    assert not anything_pending(str(tmp_path))
