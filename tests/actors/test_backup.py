"""The backup actor over a store in memory: its answers, its refusals, one at a time, and cancelled."""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import anyio
import pytest

from mcpkeep.actors.actor import ActorStopped
from mcpkeep.actors.backup import BackupActor
from mcpkeep.protocol.question import Question
from mcpkeep.protocol.upgrade.backup import (
    BackupDone,
    BackupInfo,
    BackupManifest,
    BackupMessage,
    BackupRefused,
    CreateBackup,
    ListBackups,
    RemovedBackups,
    RemoveOldBackups,
    RestoreBackup,
    RestoreDone,
    Verification,
    VerifyBackup,
)
from mcpkeep.protocol.upgrade.failure import UpgradeFailed

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 31, 10, 15, tzinfo=UTC)
ID = "2026-01-31-101500"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def manifest(session_id: str, release: str | None, at: datetime) -> BackupManifest:
    return BackupManifest(1, f".praxis-os/.backups/{ID}", at, session_id, release, {}, 0, ())


@dataclass
class FakeStore:
    """Answers at once, or raises, or works until it is told to stop by `check` or `gate`."""

    error: Exception | None = None
    gate: threading.Event | None = None
    busy: threading.Event = field(default_factory=threading.Event)
    within: int = 0
    most: int = 0
    left: list[str] = field(default_factory=list[str])

    def _work(self, check: Callable[[], None]) -> None:
        self.within += 1
        self.most = max(self.most, self.within)
        self.busy.set()
        try:
            while self.gate is not None and not self.gate.wait(0.001):
                check()
            if self.error is not None:
                raise self.error
        finally:
            self.within -= 1
            self.left.append("left")

    def create(
        self,
        session_id: str,
        *,
        release: str | None,
        requirements: str,
        now: datetime,
        check: Callable[[], None],
    ) -> BackupDone:
        self._work(check)
        assert requirements == "x==1\n"
        return BackupDone(ID, manifest(session_id, release, now))

    def verify(self, backup_id: str, *, check: Callable[[], None]) -> Verification:
        self._work(check)
        return Verification(backup_id, 3, (), (), ())

    def backups(self) -> tuple[BackupInfo, ...]:
        return (BackupInfo(ID, NOW, "s", None, 3, 30, complete=True),)

    def restore(self, backup_id: str, session_id: str, *, check: Callable[[], None]) -> RestoreDone:
        self._work(check)
        return RestoreDone(backup_id, 3, (session_id,), {})

    def remove_old(self, keep: int, *, needed: Sequence[str]) -> RemovedBackups:
        return RemovedBackups((str(keep),), tuple(needed))


CREATE = CreateBackup("s", "r", "x==1\n")


async def ask(store: FakeStore, question: BackupMessage) -> object:
    actor = BackupActor(store, now=lambda: NOW)
    async with anyio.create_task_group() as tasks:
        await tasks.start(actor.run)
        answer = await actor.ask(cast("Question[object]", question), within=5)
        actor.stop()
        return answer
    raise AssertionError("the actor left before it answered")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (CREATE, BackupDone(ID, manifest("s", "r", NOW))),
        (VerifyBackup(ID), Verification(ID, 3, (), (), ())),
        (ListBackups(), (BackupInfo(ID, NOW, "s", None, 3, 30, complete=True),)),
        (RestoreBackup(ID, "s"), RestoreDone(ID, 3, ("s",), {})),
        (RemoveOldBackups(3, ("a",)), RemovedBackups(("3",), ("a",))),
    ],
)
async def test_each_question_is_answered_by_the_store(question: BackupMessage, answer: object) -> None:
    assert await ask(FakeStore(), question) == answer


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free disk space; removing old backups is a way, then try again; nothing has changed"),
        (errno.EACCES, "make it writable for the user who runs mcpkeep, then try again; nothing has changed"),
        (errno.EROFS, "mount the file system for writing, then try again; nothing has changed"),
        (errno.EIO, "look after the disk: it answers with errors, then try again; nothing has changed"),
        (errno.ENOTDIR, "look after the disk, then try again; nothing has changed"),
    ],
)
async def test_a_disk_that_fails_is_a_refusal_with_a_remedy(code: int, remedy: str) -> None:
    reason = f"the backups' folder cannot be written at 'x': {os.strerror(code)}"
    store = FakeStore(OSError(code, os.strerror(code), "x"))
    assert await ask(store, CREATE) == BackupRefused(reason, remedy)


async def test_a_refusal_of_the_store_is_passed_on() -> None:
    store = FakeStore(UpgradeFailed("'a' cannot be read", remediation="make it readable"))
    assert await ask(store, RestoreBackup(ID, "s")) == BackupRefused("'a' cannot be read", "make it readable")


async def test_questions_are_answered_one_at_a_time() -> None:
    store = FakeStore(gate=threading.Event())
    actor = BackupActor(store, now=lambda: NOW)
    answers: list[object] = []
    async with anyio.create_task_group() as asking, anyio.create_task_group() as tasks:
        await tasks.start(actor.run)

        async def ask_once() -> None:
            answers.append(await actor.ask(VerifyBackup(ID), within=5))
            if len(answers) == 3:
                actor.stop()

        for _ in range(3):
            asking.start_soon(ask_once)
        await anyio.to_thread.run_sync(store.busy.wait)
        assert store.gate is not None
        store.gate.set()
    assert (len(answers), store.most) == (3, 1)


async def test_a_cancelled_actor_has_the_store_stop_between_files_and_answers_its_askers() -> None:
    store = FakeStore(gate=threading.Event())
    actor = BackupActor(store, now=lambda: NOW)
    refused: list[str] = []
    async with anyio.create_task_group() as asking:

        async def ask_once() -> None:
            try:
                await actor.ask(CREATE, within=5)
            except ActorStopped as e:
                refused.append(e.actor)

        async with anyio.create_task_group() as tasks:
            await tasks.start(actor.run)
            asking.start_soon(ask_once)
            await anyio.to_thread.run_sync(store.busy.wait)
            tasks.cancel_scope.cancel()
    assert (refused, store.left) == (["backup"], ["left"])
