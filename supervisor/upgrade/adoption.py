"""Takes the live venv over: it moves into mcpkeep's own folder, and a link is left in its place.

The link is made where the venv is to go, and the two change places at one instant. Where names cannot be
exchanged there is a moment with no `.praxis-os/venv`. The link is made in mcpkeep's own folder then: where it
is found later, `repair_venv` puts it in its place, or away if nothing was moved.
"""

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import OWN
from mcpkeep.protocol.upgrade.release import VenvRecord
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders, write_durably
from mcpkeep.supervisor.exchange import NO_EXCHANGE
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.venv import COMPLETE

__all__ = ["LiveVenv", "find_live_venv", "repair_venv", "take_venv_over"]


class LiveVenv(NamedTuple):
    """What stands at `.praxis-os/venv`."""

    path: Path
    owned: str | None
    """The venv's name under venvs/, where it links there."""
    link: bool
    """Whether it is a link to a venv elsewhere, which stays there."""


def find_live_venv(layout: Layout) -> LiveVenv | None:
    """Look at it; None where there is none.

    Raises:
        UpgradeFailed: it cannot be taken over, being a mount point, on another device, or no folder.
    """
    path = layout.venv
    if path.is_symlink():
        if not path.is_dir():
            return None
        real = Path(os.path.realpath(path))
        text = os.readlink(path)
        owned = text.removeprefix(f"{OWN}/venvs/")
        if owned != text and "/" not in owned:
            return LiveVenv(real, owned, link=False)
        return LiveVenv(real, None, link=True)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not path.is_dir():
        raise UpgradeFailed(f"{str(path)!r} is no folder", remediation="put the server's venv there")
    if os.path.ismount(path) or found.st_dev != os.stat(layout.base).st_dev:
        raise UpgradeFailed(
            f"{str(path)!r} is a mount point or on another device, and cannot be replaced by a link",
            remediation="unmount it and put a venv there, or a link to one",
        )
    return LiveVenv(path, None, link=False)


def take_venv_over(
    layout: Layout, live: LiveVenv, name: str, record: VenvRecord, *, calls: FileCalls = OS_CALLS
) -> None:
    """Have `venvs/<name>` be the live venv and `.praxis-os/venv` a link to it, durably; killed anywhere,
    `repair_venv` and a second call bring it to its end. A link to elsewhere is kept as `venvs/<name>`.
    """
    make_folders(layout.venvs, calls=calls)
    target = layout.venvs / name
    pending = _pending(layout)
    _drop(pending, calls)
    if not live.link:
        write_durably(live.path / COMPLETE, msgspec.json.encode(record), calls=calls)
        if _exchange(layout, name, calls):
            return
    if live.link:
        _drop(target, calls)
        calls.symlink(str(live.path), target)
        calls.fsync_folder(layout.venvs)
    calls.symlink(_text(name), pending)
    calls.fsync_folder(layout.own)
    if not live.link:
        calls.rename(live.path, target)
    try:
        calls.rename(pending, layout.venv)
    except OSError:
        if not live.link:
            calls.rename(target, live.path)
        raise
    _settle(layout, calls)


def repair_venv(layout: Layout, *, calls: FileCalls = OS_CALLS) -> bool:
    """Bring a take-over that was cut short to its end, or to its beginning; whether there was one."""
    left = _own_links(layout)
    for link in left:
        calls.unlink(link)
    for temp in layout.venv.glob(f".{COMPLETE}.*.tmp"):
        calls.unlink(temp)
    pending = _pending(layout)
    if not pending.is_symlink():
        return bool(left)
    if os.path.lexists(layout.venv) and not layout.venv.is_symlink():
        _drop(pending, calls)
    elif (layout.base / os.readlink(pending)).is_dir():
        calls.rename(pending, layout.venv)
        _settle(layout, calls)
    else:
        _drop(pending, calls)
    return True


def _exchange(layout: Layout, name: str, calls: FileCalls) -> bool:
    """Have the venv and the link to it change places; False where that cannot be done here."""
    target = layout.venvs / name
    calls.symlink(_text(name), target)
    calls.fsync_folder(layout.venvs)
    try:
        calls.exchange(target, layout.venv)
    except OSError as e:
        calls.unlink(target)
        if e.errno not in NO_EXCHANGE:
            raise
        return False
    calls.fsync_folder(layout.base)
    calls.fsync_folder(layout.venvs)
    return True


def _own_links(layout: Layout) -> list[Path]:
    """Links among the venvs that were to change places with the live one."""
    try:
        names = os.listdir(layout.venvs)
    except FileNotFoundError:
        return []
    found = (layout.venvs / name for name in names)
    return [path for path in found if path.is_symlink() and os.readlink(path) == _text(path.name)]


def _settle(layout: Layout, calls: FileCalls) -> None:
    calls.fsync_folder(layout.base)
    calls.fsync_folder(layout.venvs)
    calls.fsync_folder(layout.own)


def _pending(layout: Layout) -> Path:
    return layout.own / "venv.pending"


def _text(name: str) -> str:
    return f"{OWN}/venvs/{name}"


def _drop(path: Path, calls: FileCalls) -> None:
    if os.path.lexists(path):
        calls.unlink(path)
