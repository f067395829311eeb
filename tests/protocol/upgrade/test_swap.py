"""The rules by which a folder takes another's place: from any state that a cut leaves, on or back."""

from typing import NamedTuple, assert_never

import pytest

from mcpkeep.protocol.upgrade.swap import (
    Folders,
    MarkFolder,
    RemoveFolder,
    RenameFolder,
    Spot,
    SwapFolders,
    SwapMove,
    UnmarkFolder,
    next_swap,
    next_swap_back,
)


class Disk(NamedTuple):
    """Which folder is at which spot, and whether the new one holds the mark."""

    path: str | None
    staged: str | None
    kept: str | None
    marked: bool = False

    def at(self, spot: Spot) -> str | None:
        return {Spot.PATH: self.path, Spot.STAGED: self.staged, Spot.KEPT: self.kept}[spot]

    def found(self) -> Folders:
        where = next((spot for spot in Spot if self.at(spot) == "new"), None)
        there = (self.path is not None, self.staged is not None, self.kept is not None)
        return Folders(*there, where if self.marked else None)

    def put(self, **spots: str | None) -> "Disk":
        return self._replace(**spots)  # type: ignore[arg-type]

    def after(self, move: SwapMove) -> "Disk":
        match move:
            case MarkFolder(spot) | UnmarkFolder(spot):
                assert self.at(spot) == "new"
                assert self.marked is isinstance(move, UnmarkFolder)
                return self._replace(marked=not self.marked)
            case SwapFolders(one, other):
                assert self.marked, "nothing would tell the one from the other"
                return self.put(**{one.value: self.at(other), other.value: self.at(one)})
            case RenameFolder(source, target):
                assert self.at(source) is not None
                assert self.at(target) is None
                return self.put(**{source.value: None, target.value: self.at(source)})
            case RemoveFolder(spot):
                assert self.at(spot) not in ("old", "new")
                return self.put(**{spot.value: None})
            case _:
                assert_never(move)


BEFORE = Disk("old", "new", None)
AFTER = Disk("new", None, "old")


def run(disk: Disk, *, back: bool, exchanges: bool) -> list[Disk]:
    """Every state on the way, the first one included."""
    seen = [disk]
    rule = next_swap_back if back else next_swap
    while (move := rule(seen[-1].found(), exchanges=exchanges)) is not None:
        seen.append(seen[-1].after(move))
        assert len(seen) < 12
    return seen


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("back", [True, False])
def test_from_every_state_of_the_way_it_goes_on_to_the_end_or_back_to_the_beginning(
    exchanges: bool, back: bool
) -> None:
    states = run(AFTER if back else BEFORE, back=back, exchanges=exchanges)
    assert states[-1] == (BEFORE if back else AFTER)
    for state in states:
        for able in (True, False):  # the file system may be another by then
            assert run(state, back=False, exchanges=able)[-1] == AFTER, state
            assert run(state, back=True, exchanges=able)[-1] == BEFORE, state


@pytest.mark.parametrize("back", [True, False])
def test_where_names_can_be_exchanged_the_path_is_never_missing(back: bool) -> None:
    states = run(AFTER if back else BEFORE, back=back, exchanges=True)
    for state in states:
        assert state.path is not None
        for other in (True, False):
            assert all(now.path is not None for now in run(state, back=other, exchanges=True)), state


@pytest.mark.parametrize("back", [True, False])
def test_a_mark_that_was_made_before_names_turn_out_not_to_be_exchangeable_goes_away(back: bool) -> None:
    start = (AFTER if back else BEFORE)._replace(marked=True)
    assert run(start, back=back, exchanges=False)[-1] == (BEFORE if back else AFTER)


@pytest.mark.parametrize("back", [True, False])
def test_what_a_server_makes_in_the_gap_gives_way(back: bool) -> None:
    gap = next(
        state for state in run(AFTER if back else BEFORE, back=back, exchanges=False) if state.path is None
    )
    made = gap._replace(path="made")
    assert run(made, back=False, exchanges=False)[-1] == AFTER
    assert run(made, back=True, exchanges=False)[-1] == BEFORE


def test_where_nothing_stood_the_new_one_comes_and_goes() -> None:
    before, after = Disk(None, "new", None), Disk("new", None, None)
    for exchanges in (True, False):
        assert run(before, back=False, exchanges=exchanges)[-1] == after
        assert run(after, back=True, exchanges=exchanges)[-1] == before
