"""The installer actor: makes, adopts and prunes releases, one at a time; tells at once what it is at."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import anyio

from mcpkeep.actors.actor import Actor, Envelope
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.release import (
    AdoptRelease,
    CancelInstall,
    CheckRelease,
    GetInstallStatus,
    GetSnapshot,
    InstallCancelled,
    InstallerMessage,
    InstallRefused,
    InstallStatus,
    MakeRelease,
    PostInstallDone,
    Pruned,
    PruneReleases,
    RebuildRelease,
    ReleaseChecked,
    ReleaseMade,
    RunPostInstall,
    Snapshot,
)

__all__ = ["InstallerActor", "Releases"]

_Answer = ReleaseMade | ReleaseChecked | PostInstallDone | Pruned | Snapshot | InstallRefused

_WAITING = 16
"""Questions that may wait for the one under way; what comes then is refused."""


class Releases(Protocol):
    """The releases of one installation.

    Each raises UpgradeFailed where it is refused or fails; one that is cancelled has taken back what it had
    begun when the cancellation is seen. `progress` takes each step as it begins, in the event loop.
    """

    async def adopt(self, *, progress: Callable[[str], None]) -> ReleaseMade: ...

    async def make(self, order: MakeRelease, *, progress: Callable[[str], None]) -> ReleaseMade: ...

    async def rebuild(self, order: RebuildRelease, *, progress: Callable[[str], None]) -> ReleaseMade: ...

    async def check(self, release_id: str) -> ReleaseChecked: ...

    async def run_post_install(
        self, release_id: str, *, progress: Callable[[str], None]
    ) -> PostInstallDone: ...

    async def prune(self, keep: Sequence[str], *, progress: Callable[[str], None]) -> Pruned: ...

    async def snapshot(self, release_id: str | None) -> Snapshot: ...


def _ignore(_step: str) -> None:
    return


class InstallerActor(Actor[InstallerMessage]):
    """Works on one question at a time, in the order of arrival; status and cancellation do not wait.

    A question whose asker has given up before its turn is not worked on.
    """

    def __init__(
        self, releases: Releases, *, progress: Callable[[str], None] = _ignore, name: str = "installer"
    ) -> None:
        """`progress` takes each step as it begins; it must not block or raise."""
        super().__init__(name)
        self._releases = releases
        self._progress = progress
        self._waiting: deque[Envelope[InstallerMessage]] = deque()
        self._work: str | None = None
        self._step = ""
        self._scope: anyio.CancelScope | None = None
        self._done = anyio.Event()

    async def receive(self, envelope: Envelope[InstallerMessage]) -> None:
        match envelope.message:
            case GetInstallStatus():
                envelope.answer(InstallStatus(self._work, self._step, len(self._waiting)))
            case CancelInstall():
                self.tasks.start_soon(self._cancel, envelope)
            case _ if self._work is None:
                self._begin(envelope)
            case _ if len(self._waiting) < _WAITING:
                self._waiting.append(envelope)
            case _:
                envelope.answer(
                    InstallRefused(f"{len(self._waiting)} others wait for the installer", "ask again later")
                )

    def _begin(self, envelope: Envelope[InstallerMessage]) -> None:
        self._work = str(type(envelope.message).__struct_config__.tag)
        self._done = anyio.Event()
        self.tasks.start_soon(self._serve, envelope)

    async def _serve(self, envelope: Envelope[InstallerMessage]) -> None:
        answer: _Answer = InstallRefused("it was cancelled; nothing of it is left", "ask again")
        try:
            with anyio.CancelScope() as self._scope:
                answer = await self._perform(envelope.message)
        finally:
            self._scope = None
            self._work, self._step = None, ""
            self._done.set()
        envelope.answer(answer)
        while self._waiting and self._work is None:
            following = self._waiting.popleft()
            if following.reply is None or following.reply.open:
                self._begin(following)

    async def _perform(self, message: InstallerMessage) -> _Answer:
        try:
            match message:
                case AdoptRelease():
                    return await self._releases.adopt(progress=self._told)
                case MakeRelease():
                    return await self._releases.make(message, progress=self._told)
                case RebuildRelease():
                    return await self._releases.rebuild(message, progress=self._told)
                case CheckRelease(release_id=release_id):
                    return await self._releases.check(release_id)
                case RunPostInstall(release_id=release_id):
                    return await self._releases.run_post_install(release_id, progress=self._told)
                case PruneReleases(keep=keep):
                    return await self._releases.prune(keep, progress=self._told)
                case GetSnapshot(release_id=release_id):
                    return await self._releases.snapshot(release_id)
                case GetInstallStatus() | CancelInstall():
                    raise AssertionError("answered on arrival")
        except UpgradeFailed as error:
            output = error.details.get("output", ())
            lines = cast("Sequence[object]", output) if isinstance(output, list | tuple) else ()
            return InstallRefused(str(error), error.remediation, tuple(str(line) for line in lines))

    async def _cancel(self, envelope: Envelope[InstallerMessage]) -> None:
        work, scope, done = self._work, self._scope, self._done
        if work is not None:
            if scope is not None:
                scope.cancel()
            await done.wait()
        envelope.answer(InstallCancelled(work))

    def _told(self, step: str) -> None:
        self._step = step
        self._progress(step)
