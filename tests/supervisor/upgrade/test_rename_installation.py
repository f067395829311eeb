"""An older installation gets the newer name, and its own again, wherever that is cut short."""

import errno
import os
from itertools import count
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.step import RenameInstallation
from mcpkeep.supervisor.durable import OsCalls
from mcpkeep.supervisor.upgrade.steps import perform, undo
from tests.faults import Faults

RENAME = RenameInstallation(".agent-os", ".praxis-os")


class Calls(Faults):
    """Fails at a call, and may lack the exchange; notes whether the older name was ever absent."""

    def __init__(self, older: Path, *, fail_at: int = -1, exchange: bool = True) -> None:
        super().__init__(fail_at, errno.EIO)
        self.older = older
        self.can_exchange = exchange
        self.was_absent = False

    def exchange(self, one: Path, other: Path) -> None:
        if not self.can_exchange:
            raise OSError(errno.ENOSYS, "not here")
        super().exchange(one, other)

    def fsync_folder(self, path: Path) -> None:
        self.was_absent |= not self.older.is_dir()
        super().fsync_folder(path)


def test_the_name_that_the_old_server_knows_is_never_absent(tmp_path: Path) -> None:
    older = tmp_path / ".agent-os"
    older.mkdir()
    calls = Calls(older)
    perform(RENAME, older, calls=calls)
    assert (os.readlink(older), older.is_dir()) == (".praxis-os", True)
    undo(RENAME, older, calls=calls)
    assert (os.listdir(tmp_path), older.is_symlink(), calls.was_absent) == ([".agent-os"], False, False)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("back", [False, True])
def test_cut_at_any_call_it_is_finished_or_taken_back(tmp_path: Path, back: bool, exchange: bool) -> None:
    for n in count():
        older, newer = tmp_path / str(n) / ".agent-os", tmp_path / str(n) / ".praxis-os"
        older.mkdir(parents=True)
        if back:
            perform(RENAME, older, calls=OsCalls())
        calls = Calls(older, fail_at=n, exchange=exchange)
        try:
            (undo if back else perform)(RENAME, older, calls=calls)
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
