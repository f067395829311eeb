"""A change of the live tree: made, taken back, made again; what the user does in between."""

from pathlib import Path

from tests.small_installation import (
    NEW,
    SESSION,
    build,
    live,
    order,
    upgrade,
    version,
    whole,
)


def test_a_change_brings_in_the_new_version_whole(tmp_path: Path) -> None:
    world = build(tmp_path)
    assert upgrade(world) == ()
    assert live(world) == {**version("new"), ".upgrade-lock": live(world)[".upgrade-lock"]}
    [record] = world.changes.records()
    assert (record.from_release, record.to_release, record.swapped_index) == ("old", "new", True)


def test_undo_brings_back_the_old_version_and_staging_so_that_it_can_be_done_again(tmp_path: Path) -> None:
    world = build(tmp_path)
    for _ in range(3):
        world.commit(order(world)) if world.journals.read(SESSION) else upgrade(world)
        assert world.changes.undo(SESSION) == ()
        assert world.changes.undo(SESSION) == ()
        world.lock.let_go()
        assert whole(world) == "old"
        assert world.changes.records() == ()
        for path, data in NEW.items():
            assert (world.layout.staged(SESSION) / path).read_bytes() == data
