"""The upgrades of a running mcpkeep: its control socket, and the actor, made when it is first needed."""

import importlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import SocketStream, TaskGroup

from mcpkeep.actors.upgrade_world import LiveServer
from mcpkeep.protocol.child import Notify
from mcpkeep.protocol.config import Upgrade
from mcpkeep.protocol.control import ControlError
from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.probation import CRASHES
from mcpkeep.protocol.upgrade.request import (
    LOOKS,
    CancelWork,
    GetUpgradeStatus,
    Refused,
    RollBack,
    RolledBack,
    ServerCrashed,
    UpgradeAnswer,
    UpgradeFault,
    UpgradeMessage,
)
from mcpkeep.protocol.upgrade.telling import tell_answer, tell_question
from mcpkeep.supervisor.control import Holder, ask_holder, serve_control, socket_path
from mcpkeep.supervisor.moves import Moves
from mcpkeep.supervisor.upgrade.following import FollowingServer
from mcpkeep.supervisor.upgrade.layout import Layout

if TYPE_CHECKING:
    from mcpkeep.actors.upgrade import UpgradeActor
    from mcpkeep.supervisor.upgrade.startup import Started

__all__ = ["Upgrades"]

_log = logging.getLogger("mcpkeep")

_NEWS = "news"
"""What happened while no client was there, for the next one."""


class Upgrades:
    """Answers questions while `run` runs; through the workspace's holder, where that is another process."""

    def __init__(
        self,
        layout: Layout,
        settings: Upgrade,
        *,
        live: LiveServer,
        following: FollowingServer,
        moves: Moves,
        run_id: str,
        child_env: Mapping[str, str],
        started: "Started | None",
        notify: Callable[[Notify], None],
        tell_next: Callable[[Notify], None],
        mark_rolled_back: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """Take the parts: `following` is the same server as `live`, and `moves` is told of each move of it.

        `started` is what the start found, where it looked; `tell_next` tells a client yet to come, too.
        """
        self._layout = layout
        self._settings = settings
        self._live = live
        self._following = following
        self._moves = moves
        self._run_id = run_id
        self._child_env = child_env
        self._started = started
        self._notify = notify
        self._tell_next = tell_next
        self._mark = mark_rolled_back
        self._holder = Holder(layout.own, who="mcpkeep run")
        self._holds = False
        self._needed = anyio.Event()
        self._ready = anyio.Event()
        self._actor: UpgradeActor | None = None
        self._crashes: list[ServerCrashed] = []
        """Those from before there was an actor to tell."""
        self._attended = True
        self._leaving = False
        self._finishing: anyio.CancelScope | None = None
        self._tasks: TaskGroup | None = None

    async def run(self) -> None:
        """Serve the control socket once this process is the holder, and the actor when it is needed."""
        self._tell_news()
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._hold)
                self._tasks.start_soon(self._mark_gone_back)
                await self._needed.wait()
                await anyio.to_thread.run_sync(_import_world)
                async with self._parts() as self._actor:
                    for crash in self._crashes:
                        self._actor.tell(crash)
                    self._ready.set()
                    await anyio.sleep_forever()
        finally:
            self._holder.release()

    async def ask(self, question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        """Ask whoever holds the workspace, for as long as it takes. Raises UpgradeFailed."""
        if not self._holds:
            with suppress(FileNotFoundError, ConnectionRefusedError, TimeoutError):
                try:
                    return await ask_holder(socket_path(self._layout.own), question, on_step=on_step)
                except ControlError as error:
                    raise UpgradeFailed(
                        f"the mcpkeep that holds the workspace failed: {error}",
                        remediation="look at its report, and try again",
                    ) from error
        return await self._answer(question, on_step)

    async def status(self) -> Mapping[str, object]:
        """What the tool's `status` tells of them."""
        try:
            answer = await self.ask(GetUpgradeStatus(), lambda _session, _step: None)
        except UpgradeFailed as failed:
            return {"error": str(failed)}
        members = cast("dict[str, object]", msgspec.to_builtins(answer))
        members.pop("type", None)
        return members

    def lock_owner(self) -> Mapping[str, object] | None:
        """Who holds the upgrade lock."""
        from mcpkeep.supervisor.upgrade.lock import HeldLock

        return HeldLock(self._layout).owner()

    def roll_back_soon(self, by: str) -> None:
        """Go back to the former release, and tell the log and the client how it went."""
        if self._tasks is not None:
            self._tasks.start_soon(self._roll_back, by)

    async def _roll_back(self, by: str) -> None:
        forwarded = not self._holds
        try:
            answer = await self.ask(RollBack(to=None, by=by), lambda _session, _step: None)
        except UpgradeFailed as failed:
            answer = Refused(str(failed), failed.remediation)
        if isinstance(answer, Refused | UpgradeFault):
            self._notify(Notify("error", f"{by}: {answer.reason}; {answer.remedy}"))
        elif forwarded or not isinstance(answer, RolledBack):  # its own actor tells of a rollback
            self._notify(Notify("warning", f"{by}: {tell_answer(answer)}"))

    def crashed(self, release: str | None, how: str) -> None:
        """The server ended unasked."""
        crash = ServerCrashed(release, how)
        if self._actor is not None:
            self._actor.tell(crash)
        elif len(self._crashes) < CRASHES:
            self._crashes.append(crash)

    async def finish(self, *, stop: bool) -> None:
        """After the client has left, or with `stop` at a signal: end what is under way; leave word of it."""
        self._leaving = True
        self._following.leave()
        if stop:
            self._moves.hurry()
        if self._actor is None:
            return
        self._attended = False
        if not stop and self._settings.on_disconnect == "finish":
            with anyio.CancelScope() as self._finishing:
                await self._actor.idle()
            self._finishing = None
        self._actor.stop()
        await self._actor.stopped()

    def hurry(self) -> bool:
        """End what `finish` waits for; False where it waits for nothing."""
        if self._finishing is None:
            return False
        self._moves.hurry()
        self._finishing.cancel()
        return True

    async def _hold(self) -> None:
        try:
            if not self._holder.try_to_hold():
                assert self._tasks is not None
                self._tasks.start_soon(self._follow)
                await self._holder.hold()
        except OSError as error:
            _log.warning("the workspace's pid file cannot be written: %s", error)
            return
        self._holds = True
        if (self._layout.own / "probation.json").exists():
            self._needed.set()
        self._catch_up_soon()
        try:
            await serve_control(socket_path(self._layout.own), self._answer, self._attend)
        except (OSError, McpkeepError) as error:
            _log.warning("no control socket: %s; commands in a terminal cannot reach this mcpkeep", error)

    async def _follow(self) -> None:
        await self._following.follow(holds=lambda: self._holds)

    async def _attend(self, stream: SocketStream) -> None:
        self._catch_up_soon()  # its start may have recovered what was interrupted, or made edits a release
        await self._moves.attend(stream)

    def _catch_up_soon(self) -> None:
        """What works on an upgrade moves the server itself."""
        if self._tasks is not None and (self._actor is None or self._actor.is_idle):
            self._tasks.start_soon(self._following.catch_up)

    async def _answer(self, question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        if self._leaving:
            raise UpgradeFailed(
                "the mcpkeep of this workspace is leaving", remediation="ask again in a moment"
            )
        self._needed.set()
        await self._ready.wait()
        assert self._actor is not None
        # Not before: to import what another thread is importing is to wait for it.
        from mcpkeep.supervisor.upgrade.world import ask_upgrade

        try:
            answer = await ask_upgrade(self._actor, question, on_step)
        except UpgradeFailed as failed:
            self._leave_news(question, f"was ended: {failed}")
            raise
        self._leave_news(question, tell_answer(answer))
        return answer

    def _leave_news(self, question: UpgradeMessage, outcome: str) -> None:
        """For the next client, where this one has left."""
        if self._attended or isinstance(question, (*LOOKS, CancelWork)):
            return
        with suppress(OSError):
            text = f"after the client had left: {tell_question(question)} {outcome}"
            (self._layout.own / _NEWS).write_text(text, encoding="utf-8")

    async def _mark_gone_back(self) -> None:
        if self._started is None or not self._started.gone_back:
            return
        from mcpkeep.supervisor.session_marks import GONE_BACK

        for session_id in self._started.gone_back:
            await self._mark(session_id, GONE_BACK)

    def _tell_news(self) -> None:
        path = self._layout.own / _NEWS
        with suppress(OSError, UnicodeDecodeError):
            text = path.read_text(encoding="utf-8")
            path.unlink()
            self._tell_next(Notify("warning", text))
        if self._started is not None:
            for said in self._started.said:
                self._tell_next(Notify("warning", said))

    def _parts(self) -> "AbstractAsyncContextManager[UpgradeActor]":
        from mcpkeep.supervisor.upgrade.world import make_parts, running_upgrades

        started = self._started
        return running_upgrades(
            make_parts(self._layout) if started is None else started.parts,
            self._settings,
            live=self._live,
            run_id=self._run_id,
            child_env=self._child_env,
            recovered=() if started is None else started.said,
            notify=self._notify,
            heard=_log_candidate,
            mark_rolled_back=self._mark,
        )


def _log_candidate(line: str) -> None:
    logging.getLogger("mcpkeep.candidate").info("%s", line)


def _import_world() -> None:
    """All of it takes as long to import as a start of mcpkeep, so not in the loop's thread."""
    importlib.import_module("mcpkeep.supervisor.upgrade.world")
