"""The task tree of `mcpkeep run`: everything is made here, started in order, and stopped in reverse."""

import gc
import logging
import os
import shlex
import signal
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from mcpkeep.actors.child import ChildActor
from mcpkeep.actors.keep_tool import KeepTool
from mcpkeep.actors.relay import RelayActor
from mcpkeep.actors.toolbox import Toolbox, ToolHandler
from mcpkeep.protocol.child import ChildSettings, Notify, ReplaceMode, RestartChild
from mcpkeep.protocol.restart import RestartPolicy, RestartType
from mcpkeep.protocol.switch import Exit, RelayReport, describe_exit
from mcpkeep.supervisor.app import VERSION
from mcpkeep.supervisor.front import Front
from mcpkeep.supervisor.launch import Launch, launch
from mcpkeep.supervisor.local import LocalHost
from mcpkeep.supervisor.log import log_at
from mcpkeep.supervisor.options import RunOptions
from mcpkeep.supervisor.run import ending_signals
from mcpkeep.supervisor.workflow import Workflows

if TYPE_CHECKING:
    from mcpkeep.actors.phase_runs import PhaseRunner
    from mcpkeep.supervisor.upgrade.wiring import UpgradeWiring

__all__ = ["serve_tree"]

FINISH_LIMIT = 1.0
"""Seconds that calls of our own tools may go on after the client has closed its side."""

FLUSH_LIMIT = 1.0
"""Seconds that the client may take at the end to read what was written for it."""

_log = logging.getLogger("mcpkeep")


async def serve_tree(options: RunOptions, run_id: str, front: Front) -> int:
    """Take over from the front, and serve until the client ends or a signal says so; the exit code."""
    return await _Tree(options, run_id, front).run()


class _Tree:
    def __init__(self, options: RunOptions, run_id: str, front: Front) -> None:
        self._options = options
        self._started = time.monotonic()
        self._done = anyio.Event()
        self._code = 0
        settings = options.settings
        self._restart_limit = settings.child.start_limit + settings.child.drain_grace + 10
        self._config_stamp = _stamp(options.config)
        self._front = front
        self._workflows = self._offered_workflows()
        self._wires = front.wires
        self._relay = RelayActor(front.wires, report=self._report, client_gone=self._done.set)
        self._host = LocalHost(
            self._launch,
            cwd=options.cwd,
            run_id=run_id,
            relay=self._wires,
            on_stderr_line=_log_stderr,
            first=front.first,
        )
        self._child = ChildActor(
            shlex.join(options.command),
            _child_settings(options),
            host=self._host,
            relay=self._wires,
            notify=self._notify,
            chance=_chance,
            release=options.release,
            crashed=self._crashed,
        )
        front.wires.attend(self._relay)
        self._upgrade = self._wire_upgrades(run_id)
        keep = KeepTool(
            child=self._child,
            relay_status=front.relay.status,
            stderr_lines=self._host.stderr_lines,
            about=self._about,
            restart_limit=self._restart_limit,
            workflows=self._workflows.facts if self._workflows is not None else None,
            upgrades=self._upgrade.tool if self._upgrade is not None else None,
        )
        answering: list[ToolHandler] = [keep.call]
        if self._workflows is not None:
            answering.append(self._workflows.call)
        self._tools = Toolbox(*zip(front.tools, answering, strict=True), on_bug=self._log_bug)

    async def run(self) -> int:
        client = self._front.client
        async with anyio.create_task_group() as actors:
            await actors.start(self._signals)
            await actors.start(self._child.run)
            if self._workflows is not None:
                await actors.start(self._workflows.run)
            if self._upgrade is not None:
                await actors.start(self._upgrade.tool.run)
            # Last, since calls of our tools may wait for it already.
            await actors.start(self._relay.run, self._tools)
            gc.freeze()
            gc.enable()
            for start in self._extras():
                actors.start_soon(start)
            if self._upgrade is not None:
                actors.start_soon(self._upgrade.upgrades.run)
            await self._done.wait()
            if self._upgrade is not None:
                await self._upgrade.upgrades.finish(stop=self._code != 0)
            with anyio.move_on_after(FINISH_LIMIT):
                await self._relay.finish_calls()
            self._child.stop()
            await self._child.stopped()
            if self._workflows is not None:
                await self._workflows.close()
            with anyio.move_on_after(FLUSH_LIMIT):
                await client.flush()
            actors.cancel_scope.cancel()
        client.close()
        return self._code

    def _extras(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        """What runs only where it is configured, and is imported only then."""
        table: tuple[tuple[object, Callable[[], Coroutine[None, None, None]]], ...] = (
            (self._options.settings.limits.memory, self._watch_memory),
            (self._options.watch, self._watch_files),
        )
        return [start for configured, start in table if configured]

    async def _watch_memory(self) -> None:
        from mcpkeep.actors.memory import watch_memory
        from mcpkeep.supervisor.memory import TreeMeter

        await watch_memory(
            child=self._child,
            meter=TreeMeter(),
            limit=self._options.settings.limits.memory,
            notify=self._notify,
            restart_limit=self._restart_limit,
        )

    async def _watch_files(self) -> None:
        from mcpkeep.actors.watcher import watch_files
        from mcpkeep.supervisor.changes import WatchedFiles

        options = self._options
        changes = WatchedFiles(
            options.watch,
            quiet=options.settings.watch.debounce,
            ignore=(options.log_file,) if options.log_file else (),
        )
        await watch_files(
            child=self._child, changes=changes, notify=self._notify, restart_limit=self._restart_limit
        )

    async def _signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with (
            _ignored_at_the_end(signal.SIGUSR1, signal.SIGUSR2),
            anyio.open_signal_receiver(*ending_signals(), signal.SIGUSR1, signal.SIGUSR2) as signals,
        ):
            task_status.started()
            for number in self._front.signals:
                self._heed(number)
            async for number in signals:
                self._heed(number)

    def _heed(self, number: int) -> None:
        if number == signal.SIGUSR2:
            _log.info("SIGUSR2: restarting the server")
            if _stamp(self._options.config) != self._config_stamp:
                _log.warning(
                    "%s has changed: what it says takes effect at the next start of mcpkeep itself",
                    self._options.config,
                )
            self._child.tell(RestartChild(reason="SIGUSR2"))
        elif number == signal.SIGUSR1:
            self._roll_back()
        elif self._done.is_set() and self._upgrade is not None and self._upgrade.upgrades.hurry():
            _log.info("%s: giving up what is under way, and leaving", signal.Signals(number).name)
        elif self._done.is_set():
            _log.warning("%s again: leaving at once", signal.Signals(number).name)
            self._front.client.close()  # puts the terminal's or pipe's mode back
            os._exit(128 + number)
        else:
            _log.info("%s: leaving", signal.Signals(number).name)
            self._code = 128 + number
            self._done.set()

    def _roll_back(self) -> None:
        if self._upgrade is None:
            self._notify(Notify("warning", "SIGUSR1: there is no prAxIs OS here to roll back"))
        else:
            _log.info("SIGUSR1: rolling back")
            self._upgrade.upgrades.roll_back_soon("SIGUSR1")

    def _crashed(self, release: str | None, exit_: Exit, _times: int) -> None:
        if self._upgrade is not None:
            self._upgrade.upgrades.crashed(release, describe_exit(exit_))

    def _wire_upgrades(self, run_id: str) -> "UpgradeWiring | None":
        if self._options.base is None:
            return None
        from mcpkeep.supervisor.upgrade.wiring import wire_upgrades

        return wire_upgrades(
            self._options,
            run_id=run_id,
            child=self._child,
            relay=self._relay,
            host=self._host,
            notify=self._notify,
            tell_next=self._tell_next,
            workflows=self._workflows,
        )

    def _offered_workflows(self) -> Workflows | None:
        workspace = self._front.workflows_of
        if workspace is None:
            return None
        state = self._options.state_dir
        return Workflows(workspace, state, who="mcpkeep run", on_bug=self._log_bug, runners=self._runners)

    def _runners(self) -> "Mapping[str, PhaseRunner]":
        if self._upgrade is None:
            return {}
        from mcpkeep.supervisor.upgrade.wiring import upgrade_runners

        return upgrade_runners(self._upgrade.upgrades)

    def _launch(self, release: str | None) -> Launch:
        return launch(self._options, release, alone=self._host.is_idle)

    def _report(self, report: RelayReport) -> None:
        self._child.tell(report)

    def _notify(self, notify: Notify) -> None:
        log_at(notify.level, notify.text)
        self._wires.notice(notify.level, notify.text)

    def _tell_next(self, notify: Notify) -> None:
        """The same, to the client that is yet to come where none is there."""
        log_at(notify.level, notify.text)
        self._wires.early_notice(notify.level, notify.text)

    def _about(self) -> Mapping[str, object]:
        options = self._options
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "uptime": time.monotonic() - self._started,
            "workspace": options.workspace,
            "log_file": options.log_file,
            "settings_from": dict(options.origins),
        }

    def _log_bug(self, tool: str, error: Exception) -> str:
        _log.error("a call of %r failed", tool, exc_info=error)
        return _shown_log(self._options)


def _shown_log(options: RunOptions) -> str:
    """Where the log is, in words for an agent: no path outside the workspace."""
    log_file, workspace = options.log_file, options.workspace
    if log_file is None:
        return "what mcpkeep wrote to stderr"
    if workspace is not None and log_file.startswith(workspace.rstrip(os.sep) + os.sep):
        return os.path.relpath(log_file, workspace)
    return "mcpkeep's log file, which the tool mcpkeep's status names"


@contextmanager
def _ignored_at_the_end(*numbers: signal.Signals) -> Generator[None]:
    """Nobody hears these any more while mcpkeep leaves, and their default would kill it."""
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def _child_settings(options: RunOptions) -> ChildSettings:
    child, restart = options.settings.child, options.settings.restart
    return ChildSettings(
        restart=RestartPolicy(
            type=RestartType(restart.type),
            intensity=restart.intensity,
            period=restart.period,
            backoff_base=restart.backoff_base,
            backoff_max=restart.backoff_max,
            healthy_after=restart.healthy_after,
        ),
        replace=ReplaceMode(child.replace),
        drain_grace=child.drain_grace,
        stop_eof=child.stop_eof,
        stop_term=child.stop_term,
        start_limit=child.start_limit,
    )


def _chance() -> float:
    return int.from_bytes(os.urandom(4)) / 2**32


def _log_stderr(generation: int, line: str) -> None:
    logging.getLogger("mcpkeep.server").info("[%d] %s", generation, line)


def _stamp(path: str | None) -> int | None:
    """When the file was changed last; None where there is none."""
    try:
        return None if path is None else os.stat(path).st_mtime_ns
    except OSError:
        return None
