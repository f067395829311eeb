"""This window's server goes where the workspace goes: onto its current release, whoever upgraded it."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import anyio

from mcpkeep.actors.upgrade_world import Progress
from mcpkeep.protocol.child import Notify
from mcpkeep.protocol.control import ControlError
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.control import socket_path
from mcpkeep.supervisor.moves import follow_holder
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.workspace import release_server

__all__ = ["AGAIN", "RETRIES", "FollowingServer", "MovableServer"]

RETRIES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Seconds between the attempts to find a holder: a new one listens a moment after it has become it."""

AGAIN = 20.0
"""Seconds between those after them, for a holder that comes later. None is made while one is followed."""

_log = logging.getLogger("mcpkeep")


class MovableServer(Protocol):
    """As much of `RunningServer` as is needed here."""

    @property
    def release(self) -> str | None: ...

    async def start(self, release_id: str | None, *, progress: Progress) -> None: ...

    async def promote(self, *, freeze: bool) -> None: ...

    async def drop(self) -> None: ...


class FollowingServer:
    """The server of this window, moved by the planned replacement wherever it is not what it should be.

    One whose command was named is started by that command again; one that was moved to a release follows.
    """

    def __init__(
        self,
        layout: Layout,
        live: MovableServer,
        *,
        recognised: bool,
        notify: Callable[[Notify], None],
    ) -> None:
        """`recognised` says whether the workspace, and not the user, names the server's command."""
        self._layout = layout
        self._live = live
        self._recognised = recognised
        self._notify = notify
        self._leaving = False
        self._seen = layout.current_release()
        """What was current when the command that was named was last started."""
        self._told: str | None = None
        """Why nobody is followed, since it was last told."""
        self._one = anyio.Lock()

    async def follow(self, *, holds: Callable[[], bool]) -> None:
        """Follow whoever holds the workspace, one holder after the other, until this process does."""
        delays = iter(RETRIES)
        while not holds():
            why = "no mcpkeep listens for them"
            try:
                if await follow_holder(socket_path(self._layout.own), self._moved, is_own=holds):
                    delays = iter(RETRIES)
            except ControlError as error:
                why, delays = str(error), iter(())  # another may hold the workspace some time
            except OSError as error:
                _log.debug("no mcpkeep to follow: %s", error)
            delay = next(delays, AGAIN)
            if delay == AGAIN and self._told != why:
                self._told = why
                _log.warning(
                    "upgrades by other windows are not followed: %s; tried again every %g seconds", why, AGAIN
                )
            await anyio.sleep(delay)

    async def catch_up(self, *, moved: bool = False) -> None:
        """Replace the server where another release is current; with `moved` also where it is the same.

        Raises nothing: what fails is told to the log and the client.
        """
        async with self._one:
            current = self._layout.current_release()
            named = not self._recognised and self._live.release is None
            same = current == (self._seen if named else self._live.release)
            if self._leaving or current is None or (same and not moved):
                return
            if not named and release_server(str(self._layout.base), current) is None:
                return  # the live folder serves in its place, as after a start
            self._seen = current
            text = f"this workspace runs release {current!r} now, by another mcpkeep; the server is replaced"
            self._notify(Notify("warning", text))
            try:
                await self._live.start(None if named else current, progress=_log.debug)
                await self._live.promote(freeze=False)
            except UpgradeFailed as failed:
                with suppress(UpgradeFailed):
                    await self._live.drop()
                if not self._leaving:
                    remedy = "restart this window's MCP server in the IDE"
                    self._notify(Notify("error", f"the former server stays: {failed}; {remedy}"))

    def leave(self) -> None:
        """Replace nothing any more: the server is being ended."""
        self._leaving = True

    async def _moved(self, first: bool) -> None:
        if self._told is not None:
            self._told = None
            _log.info("upgrades by other windows are followed again")
        await self.catch_up(moved=not first)
