"""Puts the parts of upgrades together for one installation, with a server that runs or without."""

import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import NamedTuple, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from mcpkeep.actors.actor import ActorError
from mcpkeep.actors.backup import BackupActor
from mcpkeep.actors.installer import InstallerActor
from mcpkeep.actors.upgrade import UpgradeActor
from mcpkeep.actors.upgrade_world import LiveServer, UpgradeWorld
from mcpkeep.protocol.child import Notify
from mcpkeep.protocol.config import Upgrade
from mcpkeep.protocol.question import Question
from mcpkeep.protocol.upgrade.failure import Interrupted, UpgradeFailed
from mcpkeep.protocol.upgrade.options import UpgradeSettings
from mcpkeep.protocol.upgrade.post_install import POST_INSTALL, PostInstall
from mcpkeep.protocol.upgrade.proof import SmokeTest
from mcpkeep.protocol.upgrade.request import LOOKS, UpgradeAnswer, UpgradeMessage
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport
from mcpkeep.supervisor.process import mark_environment
from mcpkeep.supervisor.upgrade.adoption import repair_venv
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.cache import Cache, user_cache_folder
from mcpkeep.supervisor.upgrade.candidate import StagedCandidates
from mcpkeep.supervisor.upgrade.change_store import ThreadedChanges
from mcpkeep.supervisor.upgrade.changes import ChangeFiles
from mcpkeep.supervisor.upgrade.contents import InstalledContents
from mcpkeep.supervisor.upgrade.installer import Installer
from mcpkeep.supervisor.upgrade.journal import JournalFiles, ThreadedJournals
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.lock import HeldLock
from mcpkeep.supervisor.upgrade.measures import LiveValidation
from mcpkeep.supervisor.upgrade.planner import Planner
from mcpkeep.supervisor.upgrade.records import RecordFiles, ThreadedRecords
from mcpkeep.supervisor.upgrade.recovery import Recovered, recover
from mcpkeep.supervisor.upgrade.source import GitSources
from mcpkeep.supervisor.upgrade.target import InstalledTarget
from mcpkeep.supervisor.upgrade.threaded_installer import ThreadedInstaller
from mcpkeep.supervisor.upgrade.venv import find_uv

__all__ = [
    "UpgradeParts",
    "ask_upgrade",
    "make_parts",
    "read_settings",
    "recover_installation",
    "running_upgrades",
]

ANSWER_LIMIT = 24 * 3600.0
"""Seconds; nothing takes that long, and a lost answer must not be waited for without end."""

_INSTALLER_GENERATION = 0
"""In the mark of what the installer starts: it belongs to no child."""


class UpgradeParts(NamedTuple):
    """What files there are behind the upgrade actor; recovery needs them before there is one."""

    layout: Layout
    journals: JournalFiles
    lock: HeldLock
    changes: ChangeFiles


def make_parts(layout: Layout) -> UpgradeParts:
    """The parts of an installation."""
    journals = JournalFiles(layout)
    return UpgradeParts(layout, journals, HeldLock(layout), ChangeFiles(layout, journals))


def recover_installation(parts: UpgradeParts) -> Recovered:
    """Bring the installation to one whole version, before any server of it is started."""

    def mend() -> None:
        repair_venv(parts.changes.layout)
        BackupFiles(parts.changes.layout).recover()

    def records() -> RecordFiles:
        return RecordFiles(parts.changes.layout, now=_now)  # taking an upgrade back may rename the folder

    def log_line(line: Mapping[str, object]) -> None:
        # Where it had been told already, as of one that was being closed, once is enough.
        with suppress(OSError, UpgradeFailed):
            if not any(told.get("session_id") == line["session_id"] for told in records().history()):
                records().log_line(line)

    def record(report: RollbackReport, reason: str) -> None:
        records().record_rollback(report, reason=reason)

    return recover(parts.changes, parts.journals, parts.lock, first=mend, log_line=log_line, record=record)


def read_settings(upgrade: Upgrade) -> UpgradeSettings:
    """The settings as the upgrade actor takes them."""
    return UpgradeSettings(
        keep=upgrade.keep,
        require_signed=upgrade.require_signed,
        required_tools=upgrade.required_tools,
        smoke=tuple(_smoke_test(table) for table in upgrade.smoke),
        freeze=upgrade.freeze,
        probation=upgrade.probation,
        git_commit=upgrade.git_commit,
        on_disconnect=upgrade.on_disconnect,
    )


def _smoke_test(table: Mapping[str, object]) -> SmokeTest:
    expect = cast("Mapping[str, object]", table.get("expect", {}))
    tool = str(table["tool"])
    return SmokeTest(
        name=str(table.get("name") or tool),
        tool=tool,
        arguments=cast("Mapping[str, object]", table.get("arguments", {})),
        path=str(expect.get("path", "")),
        value=expect.get("value"),
    )


async def ask_upgrade(
    actor: UpgradeActor, question: UpgradeMessage, on_step: Callable[[str, str], None]
) -> UpgradeAnswer:
    """Ask the actor for as long as it takes; whoever asks can interrupt. Raises UpgradeFailed."""
    looks = isinstance(question, LOOKS)

    def heard(session_id: str, step: str) -> None:
        # Of what is under way beside it, whoever only looks wants to hear nothing.
        if looks == (not session_id):
            on_step(session_id, step)

    try:
        with actor.listen(heard):
            return await actor.ask(cast("Question[UpgradeAnswer]", question), within=ANSWER_LIMIT)
    except ActorError as error:
        raise Interrupted(
            f"mcpkeep is leaving: {error}", remediation="ask again when it runs; nothing is lost"
        ) from error


@asynccontextmanager
async def running_upgrades(
    parts: UpgradeParts,
    upgrade: Upgrade,
    *,
    live: LiveServer,
    run_id: str,
    child_env: Mapping[str, str],
    recovered: tuple[str, ...],
    arguments: Sequence[str] = (),
    notify: Callable[[Notify], None],
    heard: Callable[[str], None],
    mark_rolled_back: Callable[[str, str], Awaitable[None]],
) -> AsyncGenerator[UpgradeActor]:
    """The upgrade actor with all that stands behind it, while the context lasts.

    `arguments` and `child_env` are the user's own for a server, as for the live one; `heard` takes each line
    that a candidate writes to stderr.
    """
    layout = parts.layout
    environ = dict(os.environ)
    cache = Cache(user_cache_folder(environ, environ.get("HOME", "/")))
    planner = Planner(lambda: parts.changes.layout, cache=cache.without(layout.workspace))
    records = RecordFiles(layout, now=_now)
    store = Installer(
        layout,
        environ=mark_environment(environ, run_id=run_id, generation=_INSTALLER_GENERATION),
        post_install={**POST_INSTALL, **{n: PostInstall(words) for n, words in upgrade.post_install.items()}},
        uv=find_uv(environ),
    )
    settings = read_settings(upgrade)
    actor: UpgradeActor | None = None

    def step(name: str) -> None:
        if actor is not None:
            actor.step(name)

    def scratch(session_id: str) -> str:
        return str(layout.staging(session_id) / "code")

    backups = BackupActor(BackupFiles(layout), now=_now)
    installer = InstallerActor(ThreadedInstaller(store), progress=step)
    world = UpgradeWorld(
        sources=GitSources(layout.workspace, cache=cache),
        targets=InstalledTarget(lambda: parts.changes.layout),
        contents=InstalledContents(layout, planner, cache=cache),
        lock=parts.lock,
        journals=ThreadedJournals(parts.journals),
        changes=ThreadedChanges(parts.changes),
        live=live,
        candidates=StagedCandidates(
            layout, run_id=run_id, environ={**environ, **child_env}, arguments=arguments, heard=heard
        ),
        validation=LiveValidation(layout, run_id=run_id, unit_tests=upgrade.unit_tests, environ=environ),
        records=ThreadedRecords(records),
        backups=backups,
        installer=installer,
        now=_now,
        clock=time.monotonic,
        new_id=lambda: str(uuid.uuid4()),
        scratch=scratch,
    )
    actor = UpgradeActor(
        world,
        settings,
        notify=notify,
        mark_rolled_back=mark_rolled_back,
        on_bug=_log_bug,
        recovered=recovered,
        probation=await anyio.to_thread.run_sync(records.probation),
    )
    async with anyio.create_task_group() as tasks:
        try:
            # Whatever cancels this: what is under way is taken back with their help. Nor may it cancel a
            # start: that would wait for the end of one that nobody has told to stop.
            with anyio.CancelScope(shield=True):
                await tasks.start(_shielded(backups.run))
                await tasks.start(_shielded(installer.run))
            await tasks.start(actor.run)
            yield actor
        finally:
            with anyio.CancelScope(shield=True):
                actor.stop()
                await actor.stopped()
                backups.stop()
                installer.stop()
            tasks.cancel_scope.cancel()


def _shielded(run: Callable[..., Awaitable[None]]) -> Callable[..., Coroutine[None, None, None]]:
    """The same, ended by nothing but its own end."""

    async def shielded(*, task_status: TaskStatus[None]) -> None:
        with anyio.CancelScope(shield=True):
            await run(task_status=task_status)

    return shielded


def _log_bug(error: Exception) -> str:
    logging.getLogger("mcpkeep").error("an upgrade failed by a bug", exc_info=error)
    return "the log"


def _now() -> datetime:
    return datetime.now(UTC)
