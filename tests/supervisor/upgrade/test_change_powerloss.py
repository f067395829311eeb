"""A power loss after any call of a change, losing what no fsync covered: one version stands whole."""

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Ended
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_files import digest
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.powerloss import Crash, Recorder, crashes
from tests.small_installation import OLD, SESSION, World, build, in_memory, order, whole

EVERY = 31
"""Of some thousands of different losses, so that it takes seconds; prime, to fall on all kinds of them."""
EDIT = b"the user's own words\n"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def change(world: World) -> None:
    world.begin()
    world.commit(order(world))
    world.changes.keep_spares(SESSION)
    world.append(SESSION, Ended("completed", world.now()))


def undone(world: World) -> None:
    world.begin()
    world.commit(order(world))
    world.changes.undo(SESSION)
    world.append(SESSION, Ended("aborted", world.now()))


def rollback(world: World) -> None:
    world.begin("s-2", kind="rollback")
    world.commit(plan_rollback(world.changes, "s-2", None, calls=world.calls).order)
    world.append("s-2", Ended("completed", world.now()))


def rollback_with_new_spares(world: World) -> None:
    world.changes.keep_spares(SESSION)
    rollback(world)


def upgraded(folder: Path) -> World:
    world = build(folder)
    change(world)
    return world.again()


def without_spares(folder: Path) -> World:
    world = upgraded(folder)
    shutil.rmtree(world.layout.change(SESSION) / "spare")
    return world


CASES = [
    (build, change, "new"),
    (build, undone, "old"),
    (upgraded, rollback, "old"),
    (without_spares, rollback, "old"),
    (without_spares, rollback_with_new_spares, "old"),
]


@contextmanager
def after(folder: Path, crash: Crash) -> Generator[World]:
    """The workspace as the next start finds it."""
    folder.mkdir()
    crash.put(folder)
    world = World(Layout(folder, folder / ".praxis-os"))
    yield world
    world.lock.let_go()
    shutil.rmtree(folder)


def replay(
    memory: Path, ready: Callable[[Path], World], work: Callable[[World], None], end: str, without: str = ""
) -> list[str]:
    """What is wrong after any of the crashes that are tried."""
    folder = memory / "recorded"
    folder.mkdir()
    world = ready(folder)
    recorder = Recorder(folder, without=frozenset({without}))
    recorder.adopt()
    start = len(recorder.log)
    work(world.again(recorder))
    recorder.mark("done")
    wrong: list[str] = []
    for n, crash in enumerate(crashes(recorder, start, every=EVERY)):
        with after(memory / str(n), crash) as again:
            try:
                done = again.recover()
                assert not done.failed, done.said
                which = whole(again)
                assert which == end or not crash.marks, "it had been acknowledged"
                assert not any(again.layout.own.glob("conflicts/*/late/*")), "nobody has edited anything"
                for record in again.changes.made.records():
                    new = again.layout.change(record.session_id) / "new"
                    installed = {path: file.new for path, file in record.files.items() if file.new}
                    assert {path: digest(new / path) for path in installed} == installed
            except (AssertionError, OSError, UpgradeFailed) as e:
                wrong.append(f"{n}: {e!r}")
    return wrong


@pytest.mark.parametrize("without", ["", "exchange"])
@pytest.mark.parametrize(("ready", "work", "end"), CASES)
def test_a_power_loss_leaves_what_the_next_start_makes_whole(
    memory: Path, ready: Callable[[Path], World], work: Callable[[World], None], end: str, without: str
) -> None:
    assert replay(memory, ready, work, end, without) == []


@pytest.mark.parametrize("work", [rollback, rollback_with_new_spares])
def test_a_power_loss_in_a_rollback_where_there_are_no_hard_links_leaves_the_same(
    memory: Path, work: Callable[[World], None]
) -> None:
    assert replay(memory, without_spares, work, "old", "link") == []


def recorded(folder: Path, world: World) -> tuple[World, Recorder]:
    recorder = Recorder(folder)
    recorder.adopt()
    return world.again(recorder), recorder


def test_a_power_loss_while_a_change_is_taken_back_loses_no_file_that_it_had_removed(memory: Path) -> None:
    world, recorder = recorded(memory, build(memory))
    world.begin()
    world.commit(order(world))
    start = len(recorder.log)
    world.changes.undo(SESSION)
    removed = OLD["standards/universal/gone/b.md"]
    assert [crash for crash in crashes(recorder, start) if removed not in crash.files.values()] == []


@pytest.mark.parametrize("spares", [True, False])
def test_a_power_loss_while_a_rollback_is_taken_back_loses_no_edit(memory: Path, spares: bool) -> None:
    folder = memory / "recorded"
    folder.mkdir()
    world, recorder = recorded(folder, without_spares(folder))
    if spares:
        world.changes.keep_spares(SESSION)
    world.begin("s-2", kind="rollback")
    world.commit(plan_rollback(world.changes, "s-2", None, calls=recorder).order)
    edit = recorder.open_append(world.base / "standards/universal/a.md")
    recorder.write(edit, EDIT)
    recorder.fsync(edit)
    recorder.close(edit)
    start = len(recorder.log)
    world.changes.undo("s-2")
    for n, crash in enumerate(crashes(recorder, start, every=7)):
        with after(memory / str(n), crash) as again:
            assert not again.recover().failed
            files = again.layout.workspace.rglob("*")
            kept = (path for path in files if path.is_file() and not path.is_symlink())
            assert any(EDIT in path.read_bytes() for path in kept), n


def test_a_power_loss_after_a_rollback_keeps_what_it_recorded_as_installed(memory: Path) -> None:
    path = "standards/universal/a.md"
    world, recorder = recorded(memory, build(memory))
    saved = world.base / "a.tmp"  # by an editor that does not sync
    fd = recorder.create(saved)
    recorder.write(fd, OLD[path])
    recorder.close(fd)
    recorder.rename(saved, world.base / path)
    change(world)
    world.begin("s-2", kind="rollback")
    world.commit(plan_rollback(world.changes, "s-2", None, calls=recorder).order)
    installed = world.layout.change("s-2").relative_to(memory) / "new" / path
    assert {crash.files.get(installed) for crash in crashes(recorder, len(recorder.log))} == {OLD[path]}


@pytest.mark.parametrize("without", ["fsync", "fsync_folder"])
def test_without_any_one_kind_of_fsync_the_replay_shows_it(memory: Path, without: str) -> None:
    assert replay(memory, build, change, "new", without) != []
