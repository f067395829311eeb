"""Steps: carried on or taken back from wherever a kill left them, over the whole product."""

import itertools
from collections.abc import Iterator

import pytest

from mcpkeep.protocol.upgrade.step import (
    Found,
    Link,
    Place,
    PutFile,
    Rename,
    TakeFile,
    Unlink,
    next_move,
    next_move_back,
)

OLD, NEW, EDITED = "old", "new", "edited"
World = dict[Place, str]

PUT_OVER = PutFile(1, "a", "s", "k")
PUT_NEW = PutFile(1, "a", "s", "k", creates=True)
TAKE = TakeFile(1, "a", "k")


def found(world: World) -> Found:
    return Found(*(world.get(place) for place in Place))


def moves(step: PutFile | TakeFile, world: World, *, back: bool, links: bool = True) -> Iterator[World]:
    """The world after each move; asserts what holds after every single one."""
    rule = next_move_back if back else next_move
    for _ in range(12):
        move = rule(step, found(world))
        if move is None:
            return
        world = dict(world)
        match move:
            case Rename(source, target):
                assert world[source] != world.get(target), "rename does nothing where both are one file"
                world[target] = world.pop(source)
            case Link(source, target):
                assert target not in world
                world[target] = world[source]
                if not links:
                    del world[source]
            case Unlink(place):
                del world[place]
        yield world
    raise AssertionError("it does not come to an end")


def last(step: PutFile | TakeFile, world: World, *, back: bool, links: bool = True) -> World:
    for after in moves(step, world, back=back, links=links):
        world = after
    return world


def before(step: PutFile | TakeFile, *, prepared: bool) -> World:
    world: World = {}
    if isinstance(step, PutFile):
        world[Place.STAGED] = NEW
    if not (isinstance(step, PutFile) and step.creates):
        world[Place.LIVE] = OLD
        if prepared:
            world[Place.KEPT] = OLD
    return world


def performed(step: PutFile | TakeFile) -> World:
    if isinstance(step, TakeFile):
        return {Place.KEPT: OLD}
    return {Place.LIVE: NEW} if step.creates else {Place.LIVE: NEW, Place.KEPT: OLD}


@pytest.mark.parametrize("step", [PUT_OVER, PUT_NEW, TAKE])
@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_a_step_cut_short_anywhere_any_number_of_times_comes_to_either_end(
    step: PutFile | TakeFile, prepared: bool, links: bool
) -> None:
    start = before(step, prepared=prepared and links)
    undone = before(step, prepared=False)
    seen = {tuple(sorted(start.items(), key=str)): start}
    fresh = [start]
    while fresh:
        world = fresh.pop()
        for back in (False, True):
            end = last(step, world, back=back, links=links)
            assert end == (undone if back else performed(step)), (world, back)
            for after in moves(step, world, back=back, links=links):
                # Wherever it is cut: no file's last name is gone.
                assert set(after.values()) == set(start.values())
                if links and isinstance(step, PutFile) and not step.creates:
                    assert Place.LIVE in after, "never absent"
                key = tuple(sorted(after.items(), key=str))
                if key not in seen:
                    seen[key] = after
                    fresh.append(after)
    assert len(seen) >= 3


def test_an_edit_between_plan_and_swap_is_what_is_kept() -> None:
    world = {Place.STAGED: NEW, Place.KEPT: OLD, Place.LIVE: EDITED}
    assert last(PUT_OVER, world, back=False) == {Place.LIVE: NEW, Place.KEPT: EDITED}
    assert last(TAKE, {Place.KEPT: OLD, Place.LIVE: EDITED}, back=False) == {Place.KEPT: EDITED}


def test_an_edit_after_the_swap_is_what_goes_back_to_staging() -> None:
    world = {Place.LIVE: EDITED, Place.KEPT: OLD}
    assert last(PUT_OVER, world, back=True) == {Place.LIVE: OLD, Place.STAGED: EDITED}
    assert last(PUT_NEW, {Place.LIVE: EDITED}, back=True) == {Place.STAGED: EDITED}


def test_an_edit_before_the_swap_that_never_came_stays() -> None:
    world = {Place.STAGED: NEW, Place.KEPT: OLD, Place.LIVE: EDITED}
    assert last(PUT_OVER, world, back=True) == {Place.STAGED: NEW, Place.LIVE: EDITED}


def test_what_the_user_made_where_a_file_was_taken_away_stays() -> None:
    world = {Place.KEPT: OLD, Place.LIVE: EDITED}
    assert last(TAKE, world, back=True) == world


def test_every_possible_state_is_answered_with_moves_that_end_and_leave_no_temporary_file() -> None:
    """Also those that only a disk that reorders leaves."""
    files = (None, OLD, NEW, EDITED)
    steps: tuple[PutFile | TakeFile, ...] = (PUT_OVER, PUT_NEW, TAKE)
    for step, states in itertools.product(steps, itertools.product(files, repeat=5)):
        world = {place: file for place, file in zip(Place, states, strict=True) if file is not None}
        if isinstance(step, TakeFile):
            world.pop(Place.STAGED, None)
        for back in (False, True):
            end = last(step, world, back=back)
            assert Place.TEMP not in end
            assert Place.BACK not in end
            assert last(step, end, back=back) == end
