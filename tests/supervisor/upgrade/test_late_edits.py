"""What the user saves while a change is being made: merged or kept apart, told, and never lost."""

import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mcpkeep.protocol.upgrade.change import ChangedFile, ChangeOrder
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import REST
from mcpkeep.protocol.upgrade.late_edit import CodeEdited, LateEdit, Standing
from mcpkeep.supervisor.upgrade.installed import look_after
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.faults import Faults, Kills
from tests.small_installation import (
    NEW,
    OLD,
    SESSION,
    World,
    build,
    in_memory,
    killed_at,
    live,
    order,
    sha,
    version,
)

A = "standards/universal/a.md"
B = "standards/universal/gone/b.md"
C = "workflows/made/c.md"
MAIN = "mcp_server/main.py"
SCRIPT = "scripts/build.py"
EDIT = OLD[A].replace(b"seven", b"seven, mine")
MERGED = NEW[A].replace(b"seven", b"seven, mine")
OVERLAP = OLD[A].replace(b"three", b"three, mine")
LATE = f".mcpkeep/conflicts/{SESSION}/late"
KEPT = f".mcpkeep/changes/{SESSION}/old"


def save(world: World, path: str, data: bytes, *, in_place: bool = False) -> None:
    if not in_place and os.path.lexists(world.base / path):
        (world.base / path).unlink()
    (world.base / path).parent.mkdir(parents=True, exist_ok=True)
    (world.base / path).write_bytes(data)


def backed_up(world: World) -> ChangeOrder:
    """The order of an upgrade that has a backup."""
    for path, data in OLD.items():
        copy = world.layout.backups / "b-1" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(data)
    return msgspec.structs.replace(order(world), backup_id="b-1")


def starting(world: World, change: ChangeOrder | None = None) -> ChangeOrder:
    """As far as it is while the new server starts."""
    change = change or order(world)
    world.lock.take(SESSION)
    world.begin()
    world.changes.prepare(change)
    world.changes.swap_first(change)
    return change


def tree(world: World) -> dict[str, bytes | str]:
    return {path: data for path, data in live(world).items() if path not in (".upgrade-lock", ".backups")}


@pytest.mark.parametrize("in_place", [True, False])
def test_an_edit_while_the_server_starts_is_merged_and_both_ways_keep_it(
    tmp_path: Path, in_place: bool
) -> None:
    world = build(tmp_path)
    change = starting(world, backed_up(world) if in_place else None)
    save(world, A, EDIT, in_place=in_place)
    assert world.changes.swap_rest(change) == (LateEdit(A, "merged", f"{KEPT}/{A}"),)
    assert (world.base / A).read_bytes() == MERGED
    assert (world.base / KEPT / A).read_bytes() == EDIT
    assert (world.layout.staged(SESSION) / A).read_bytes() == NEW[A], "what phase 2 staged stays"
    [record] = world.changes.made.records()
    assert record.files[A] == ChangedFile(sha(EDIT), sha(MERGED))
    assert look_after(world.changes, SESSION) == Standing((), (LateEdit(A, "merged", f"{KEPT}/{A}"),))
    world.begin("s-2", kind="rollback")
    world.commit(plan_rollback(world.changes, "s-2", None).order)
    assert (world.base / A).read_bytes() == EDIT
    world.begin("s-3", kind="rollback")
    world.commit(plan_rollback(world.changes, "s-3", None).order)
    assert (world.base / A).read_bytes() == MERGED


def test_a_change_with_a_merged_edit_is_taken_back_to_the_edit_and_can_be_made_again(tmp_path: Path) -> None:
    world = build(tmp_path)
    change = starting(world)
    save(world, A, EDIT)
    world.changes.swap_rest(change)
    assert world.changes.undo(SESSION) == ()
    assert (world.base / A).read_bytes() == EDIT
    save(world, A, OLD[A])
    assert world.commit(change) == ()
    assert (world.base / A).read_bytes() == NEW[A]


@pytest.mark.parametrize(
    ("path", "data", "aside"),
    [(A, OVERLAP, NEW[A]), (A, EDIT + b"\0", NEW[A]), (C, b"mine\n", NEW[C])],
    ids=["overlap", "binary", "both new"],
)
def test_what_cannot_be_merged_stays_and_the_new_version_lies_aside(
    tmp_path: Path, path: str, data: bytes, aside: bytes
) -> None:
    world = build(tmp_path)
    change = starting(world)
    save(world, path, data)
    told = (LateEdit(path, "apart", f"{LATE}/{path}"),)
    assert world.changes.swap_rest(change) == told
    assert (world.base / path).read_bytes() == data
    assert (world.base / LATE / path).read_bytes() == aside
    assert path not in world.changes.made.records()[0].files
    assert look_after(world.changes, SESSION) == Standing((), told)


def test_what_is_edited_or_deleted_while_the_new_version_drops_or_changes_it_stays_so(tmp_path: Path) -> None:
    world = build(tmp_path)
    change = starting(world)
    save(world, B, b"mine\n")
    (world.base / A).unlink()
    assert world.changes.swap_rest(change) == (LateEdit(A, "deleted"), LateEdit(B, "kept"))
    assert (world.base / B).read_bytes() == b"mine\n"
    assert not (world.base / A).exists()
    assert {A, B}.isdisjoint(world.changes.made.records()[0].files)
    assert world.changes.undo(SESSION) == ()
    wanted = {**version("old"), B: b"mine\n"}
    del wanted[A]
    assert tree(world) == wanted


@pytest.mark.parametrize(
    "when", ["while the server starts", "so that it is gone", "in the moment of the swap"]
)
def test_code_that_is_edited_stops_the_change_and_nothing_is_switched(tmp_path: Path, when: str) -> None:
    world = build(tmp_path)
    change = starting(world)

    class Striking(Kills):
        """Saves the file just before it is replaced."""

        def rename(self, source: Path, target: Path) -> None:
            if target == world.base / MAIN and source.name.startswith(".mcpkeep-"):
                (world.base / MAIN).write_bytes(b"mine\n")
            super().rename(source, target)

    wanted: dict[str, bytes | str] = {**version("old"), MAIN: b"mine\n"}
    if when == "while the server starts":
        save(world, MAIN, b"mine\n")
    elif when == "so that it is gone":
        (world.base / MAIN).unlink()
        (world.base / "mcp_server").rmdir()
        del wanted[MAIN]
    else:
        world = world.again(Striking(10**9))
    with pytest.raises(CodeEdited, match=f"changed while the server started: {MAIN}"):
        world.changes.swap_rest(change)
    begun = f'"{REST}"' in (world.layout.journals / f"{SESSION}.jsonl").read_text()
    assert begun is (when == "in the moment of the swap")
    world.changes.undo(SESSION)
    assert tree(world) == wanted
    assert world.changes.made.records() == ()


def test_a_script_that_is_edited_before_its_swap_stops_the_change(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.changes.prepare(order(world))
    save(world, SCRIPT, b"mine\n")
    with pytest.raises(CodeEdited, match=SCRIPT):
        world.changes.swap_first(order(world))
    assert tree(world) == {**version("old"), SCRIPT: b"mine\n"}


def test_a_rollback_merges_what_is_edited_during_it_code_too_and_goes_through(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(order(world))
    world.begin("s-2", kind="rollback")
    change = plan_rollback(world.changes, "s-2", None).order
    world.changes.prepare(change)
    world.changes.swap_first(change)
    save(world, A, MERGED, in_place=True)
    save(world, MAIN, b"mine\n")
    assert world.changes.swap_rest(change) == (
        LateEdit(MAIN, "apart", f".mcpkeep/conflicts/s-2/late/{MAIN}"),
        LateEdit(A, "merged", f".mcpkeep/changes/s-2/old/{A}"),
    )
    assert (world.base / A).read_bytes() == EDIT
    assert world.layout.current_release() == "old"


# After the commit


@pytest.mark.parametrize(
    ("path", "data", "found"),
    [
        (A, MERGED, Standing((), (LateEdit(A, "newest"),))),
        (A, EDIT, Standing((), (LateEdit(A, "apart", f"{LATE}/{A}"),))),
        (C, b"mine\n", Standing((), (LateEdit(C, "newest"),))),
        (B, b"mine\n", Standing((), (LateEdit(B, "kept"),))),
        (SCRIPT, NEW[SCRIPT] + b"mine\n", Standing((), (LateEdit(SCRIPT, "newest"),))),
        (SCRIPT, OLD[SCRIPT] + b"mine\n", Standing((), (LateEdit(SCRIPT, "apart", f"{LATE}/{SCRIPT}"),))),
        (A, OLD[A], Standing((A,))),
        (A, b"", Standing((A,))),
        (A, NEW[A][:9], Standing((A,))),
        (A, None, Standing((A,))),
    ],
    ids=[
        "an edit of the new text",
        "the former text",
        "of a new file",
        "of one that went",
        "of the new code",
        "the former code",
        "the former bytes",
        "empty",
        "cut short",
        "gone",
    ],
)
def test_what_stands_after_the_commit_is_told_as_edit_or_damage(
    tmp_path: Path, path: str, data: bytes | None, found: Standing
) -> None:
    world = build(tmp_path)
    change = starting(world)
    assert world.changes.swap_rest(change) == ()
    assert look_after(world.changes, SESSION) == Standing()
    if data is None:
        (world.base / path).unlink()
    else:
        save(world, path, data)
    for _ in range(2):
        assert look_after(world.changes, SESSION) == found
        for edit in found.edits:
            assert edit.aside is None or (world.base / edit.aside).read_bytes() == NEW[path]


# Faults


EDITED_OLD = {**version("old"), A: EDIT}
EDITED_NEW = {**version("new"), A: MERGED}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def each_time(memory: Path, every: int) -> Iterator[tuple[int, World, ChangeOrder]]:
    """An edit that is made while the server starts, again and again."""
    for n in itertools.count(0, every):
        folder = memory / str(n)
        folder.mkdir()
        world = build(folder)
        change = starting(world)
        save(world, A, EDIT)
        yield n, world, change
        shutil.rmtree(folder)


def without_index(world: World) -> dict[str, bytes | str]:
    return {path: data for path, data in tree(world).items() if not path.startswith(".cache")}


def require_edited(world: World, which: str) -> None:
    wanted = EDITED_OLD if which == "old" else EDITED_NEW
    found = without_index(world)
    found.pop("workflows", None)  # An empty folder stays where it was taken back by power of the recovery.
    assert found == {path: data for path, data in wanted.items() if not path.startswith(".cache")}


@pytest.mark.parametrize("taken_back", [False, True])
def test_killed_at_any_call_one_version_stands_with_the_edit(memory: Path, taken_back: bool) -> None:
    n = 0
    for n, world, change in each_time(memory, 1):

        def work(dying: World, change: ChangeOrder = change) -> None:
            dying.changes.swap_rest(change)
            if taken_back:
                dying.changes.undo(SESSION)

        world, died = killed_at(n, world, work)
        if not died:
            require_edited(world, "old" if taken_back else "new")
            break
        assert not world.recover().failed
        require_edited(world, "old")
        assert world.again().recover().said == ()
    assert n > 30


def test_each_failing_call_is_answered_and_the_edit_stands(memory: Path) -> None:
    n = 0
    for n, world, change in each_time(memory, 1):
        calls = Faults(n, errno.EIO)
        world = world.again(calls)
        try:
            world.changes.swap_rest(change)
        except UpgradeFailed:
            world = world.again()
            world.changes.undo(SESSION)
            require_edited(world, "old")
        else:
            require_edited(world, "new")
            if calls.failed == 0:
                break
    assert n > 30


def test_a_version_that_cannot_be_put_aside_is_answered(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.changes.swap_rest(starting(world))
    save(world, A, EDIT)
    n = 0
    for n in itertools.count():
        calls = Faults(n, errno.ENOSPC)
        try:
            found = look_after(world.changes, SESSION, calls=calls)
        except UpgradeFailed as failed:
            assert "cannot be put aside" in str(failed)
            continue
        assert found == Standing((), (LateEdit(A, "apart", f"{LATE}/{A}"),))
        assert (world.base / LATE / A).read_bytes() == NEW[A]
        break
    assert n > 3
