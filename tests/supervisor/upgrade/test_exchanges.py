"""A folder takes another's place without ever being absent, and gives it back, wherever that is cut short."""

import errno
import os
from itertools import count
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.step import RenameInstallation, SwapFolder
from mcpkeep.supervisor.durable import OsCalls
from mcpkeep.supervisor.file_exchange import exchange_paths
from mcpkeep.supervisor.upgrade.steps import perform, undo
from tests.faults import Faults

STEP = SwapFolder("live/index", "staging/index", "kept/index")
OLD = {"live/index/rows": "old", "staging/index/rows": "new"}
NEW = {"live/index/rows": "new", "kept/index/rows": "old"}


RENAME = RenameInstallation(".agent-os", ".praxis-os")


class Calls(Faults):
    """Fails at a call, and may lack the exchange; notes whether the live folder was ever absent."""

    def __init__(self, base: Path, *, fail_at: int = -1, exchange: bool = True) -> None:
        super().__init__(fail_at, errno.EIO)
        self.live = base / "live/index"
        self.can_exchange = exchange
        self.was_absent = False

    def exchange(self, one: Path, other: Path) -> None:
        if not self.can_exchange:
            raise OSError(errno.ENOSYS, "not here")
        super().exchange(one, other)

    def fsync_folder(self, path: Path) -> None:
        self.was_absent |= not self.live.exists()
        super().fsync_folder(path)


def make(base: Path) -> Path:
    for name, text in OLD.items():
        (base / name).parent.mkdir(parents=True)
        (base / name).write_text(text)
    return base


def files(base: Path) -> dict[str, str]:
    """All but the marks."""
    return {
        str(path.relative_to(base)): path.read_text()
        for path in base.rglob("*")
        if path.is_file() and not path.name.startswith(".mcpkeep-")
    }


def test_two_folders_change_places_at_once(tmp_path: Path) -> None:
    make(tmp_path)
    exchange_paths(tmp_path / "live/index", tmp_path / "staging/index")
    assert files(tmp_path) == {"live/index/rows": "new", "staging/index/rows": "old"}
    with pytest.raises(OSError) as raised:
        exchange_paths(tmp_path / "live/index", tmp_path / "nowhere")
    assert raised.value.errno == errno.ENOENT


def test_the_live_folder_is_never_absent_and_no_mark_stays_in_it(tmp_path: Path) -> None:
    calls = Calls(make(tmp_path))
    perform(STEP, tmp_path, calls=calls)
    assert files(tmp_path) == NEW
    assert os.listdir(tmp_path / "live/index") == ["rows"]
    undo(STEP, tmp_path, calls=calls)
    assert (files(tmp_path), calls.was_absent) == (OLD, False)
    assert os.listdir(tmp_path / "live/index") == ["rows"]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("direction", [perform, undo])
def test_cut_at_any_call_it_is_finished_or_taken_back(
    tmp_path: Path, direction: object, exchange: bool
) -> None:
    for n in count():
        base = make(tmp_path / str(n))
        if direction is undo:
            perform(STEP, base, calls=OsCalls())
        calls = Calls(base, fail_at=n, exchange=exchange)
        try:
            (undo if direction is undo else perform)(STEP, base, calls=calls)
        except OSError:
            pass
        else:
            break
        again = Calls(base, exchange=exchange)
        ways = [(perform, NEW), (undo, OLD)] if n % 2 else [(undo, OLD), (perform, NEW)]
        for way, result in (*ways, *ways):
            way(STEP, base, calls=again)
            assert files(base) == result, n
    assert n > 4


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("direction", [perform, undo])
def test_an_installation_gets_its_name_or_its_former_one_wherever_that_is_cut_short(
    tmp_path: Path, direction: object, exchange: bool
) -> None:
    for n in count():
        older, newer = tmp_path / str(n) / ".agent-os", tmp_path / str(n) / ".praxis-os"
        older.mkdir(parents=True)
        if direction is undo:
            perform(RENAME, older, calls=OsCalls())
        calls = Calls(tmp_path, fail_at=n, exchange=exchange)
        try:
            (undo if direction is undo else perform)(RENAME, older, calls=calls)
        except OSError:
            pass
        else:
            break
        for _ in range(2):
            perform(RENAME, newer, calls=OsCalls())
            assert (os.readlink(older), newer.is_symlink(), newer.is_dir()) == (".praxis-os", False, True)
            undo(RENAME, newer, calls=OsCalls())
            assert (older.is_symlink(), older.is_dir(), os.path.lexists(newer)) == (False, True, False)
    assert n > 1
