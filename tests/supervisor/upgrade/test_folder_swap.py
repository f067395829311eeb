"""Folders that change places on a real file system: killed at any call, failing at any call, either way."""

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.step import SwapFolder
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.folder_swap import swap, swap_back
from tests.faults import Faults, Killed, Kills
from tests.powerloss import Recorder, crashes

STEP = SwapFolder("live/index", "staged/index", "kept/index")
Act = Callable[[SwapFolder, Path, FileCalls], object]


def build(base: Path) -> None:
    for place, text in (("live", "old"), ("staged", "new")):
        (base / place / "index").mkdir(parents=True)
        (base / place / "index" / "data").write_text(text)


def built_after(base: Path) -> None:
    build(base)
    swap(STEP, base, OS_CALLS)


def look(base: Path) -> dict[str, str]:
    return {str(path.relative_to(base)): path.read_text() for path in base.rglob("*") if path.is_file()}


BEFORE = {"live/index/data": "old", "staged/index/data": "new"}
AFTER = {"live/index/data": "new", "kept/index/data": "old"}
WAYS = [(build, swap, AFTER), (built_after, swap_back, BEFORE)]
either_way = pytest.mark.parametrize("exchanges", [True, False])
each_way = pytest.mark.parametrize(("ready", "act", "wanted"), WAYS)


@either_way
@each_way
def test_killed_at_any_call_it_is_carried_on_or_taken_back(
    tmp_path: Path, ready: Callable[[Path], None], act: Act, wanted: dict[str, str], exchanges: bool
) -> None:
    for n in itertools.count():
        died = False
        for end, result in ((swap, AFTER), (swap_back, BEFORE)):
            base = tmp_path / f"{n}-{end.__name__}"
            ready(base)
            try:
                act(STEP, base, Kills(n, exchanges=exchanges))
            except Killed:
                died = True
            else:
                assert look(base) == wanted
            if exchanges:
                assert (base / "live" / "index").is_dir()
            end(STEP, base, Kills(10**9, exchanges=exchanges))
            assert look(base) == result
        if not died:
            break
    assert n >= 3  # pyright: ignore[reportPossiblyUnboundVariable]


@either_way
@each_way
def test_a_call_that_fails_leaves_what_can_be_taken_back(
    tmp_path: Path, ready: Callable[[Path], None], act: Act, wanted: dict[str, str], exchanges: bool
) -> None:
    for n in itertools.count():
        base = tmp_path / str(n)
        ready(base)
        calls = Faults(n, errno.EIO, exchanges=exchanges)
        try:
            act(STEP, base, calls)
        except OSError as e:
            assert e.errno == errno.EIO
            swap_back(STEP, base, OS_CALLS)
            assert look(base) == BEFORE
        else:
            assert look(base) == wanted
            break
    assert n > 5  # pyright: ignore[reportPossiblyUnboundVariable]


@either_way
@each_way
def test_a_power_loss_at_any_call_leaves_what_is_carried_on_or_taken_back(
    tmp_path: Path, ready: Callable[[Path], None], act: Act, wanted: dict[str, str], exchanges: bool
) -> None:
    root = tmp_path / "recorded"
    ready(root)
    recorder = Recorder(root, without=frozenset() if exchanges else frozenset({"exchange"}))
    recorder.adopt()
    start = len(recorder.log)
    act(STEP, root, recorder)
    recorder.mark("done")
    for n, crash in enumerate(crashes(recorder, start)):
        for end, result in ((swap, AFTER), (swap_back, BEFORE)):
            base = tmp_path / str(n)
            base.mkdir()
            crash.put(base)
            if crash.marks:
                assert look(base) == wanted
            end(STEP, base, OS_CALLS)
            assert look(base) == result
            shutil.rmtree(base)


def test_a_reader_finds_the_one_or_the_other_at_every_instant(tmp_path: Path) -> None:
    """Looked at before and after every call: with the two renames it would be missing once."""
    build(tmp_path)
    seen: list[str] = []

    class Looking(Kills):
        def _count(self) -> None:
            super()._count()
            seen.append((tmp_path / "live" / "index" / "data").read_text())

    swap(STEP, tmp_path, Looking(10**9))
    swap_back(STEP, tmp_path, Looking(10**9))
    assert set(seen) == {"old", "new"}


def test_a_folder_without_a_successor_goes_and_comes_back(tmp_path: Path) -> None:
    build(tmp_path)
    step = SwapFolder("live/index", None, "kept/index")
    for _ in range(2):
        swap(step, tmp_path, OS_CALLS)
    assert look(tmp_path) == {"kept/index/data": "old", "staged/index/data": "new"}
    for _ in range(2):
        swap_back(step, tmp_path, OS_CALLS)
    assert look(tmp_path) == BEFORE
    assert not os.path.lexists(tmp_path / "kept" / "index")
