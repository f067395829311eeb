"""`mcpkeep plan|upgrade|rollback|backups|verify|report`: upgrades from a terminal.

With an mcpkeep running in the workspace they go through it, so that its clients go on working; with none,
they work on the workspace directly.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import anyio
import click
import msgspec
from anyio.abc import TaskStatus

from mcpkeep.protocol.errors import ConfigError, McpkeepError
from mcpkeep.protocol.upgrade.options import UpgradeOptions
from mcpkeep.protocol.upgrade.request import (
    AbortUpgrade,
    ConflictsUndecided,
    GetBackups,
    GetReport,
    MakePlan,
    PlanMade,
    Refused,
    ResolveConflicts,
    RollBack,
    RunUpgrade,
    UpgradeAnswer,
    UpgradeFault,
    UpgradeMessage,
    VerifyBackups,
)
from mcpkeep.supervisor.upgrade.ask import ask_workspace
from mcpkeep.supervisor.upgrade.screen import Screen
from mcpkeep.supervisor.workspace import find_workspace

__all__ = ["main"]

DONE, FAILED, USAGE, UNDECIDED, ROLLBACK_FAILED = range(5)
"""The exit codes: done; failed, and the former version stands; a wrong call; conflicts need decisions; the
rollback failed."""

OnConflict = Literal["keep", "take", "ask"]


class _Ended(Exception):
    """A signal ended the command; what it had begun is taken back."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Terminal(NamedTuple):
    """What every command works with."""

    workspace: Path
    screen: Screen

    def ask(self, question: UpgradeMessage) -> UpgradeAnswer:
        """Ask the workspace's mcpkeep, or do it here, showing the steps."""
        with self.screen.steps() as on_step:
            return anyio.run(_unless_ended, partial(ask_workspace, self.workspace, question, on_step=on_step))

    def finish(self, answer: UpgradeAnswer) -> None:
        """Show the answer, and leave with its exit code."""
        self.screen.show(answer)
        raise SystemExit(_code_of(answer))


async def _unless_ended(ask: Callable[[], Awaitable[UpgradeAnswer]]) -> UpgradeAnswer:
    """Its answer; SIGTERM and SIGHUP cancel it. Raises _Ended."""
    ended: list[int] = []

    async def listen(*, task_status: TaskStatus[None]) -> None:
        numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                ended.append(number)
                tasks.cancel_scope.cancel()

    answer: UpgradeAnswer | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(listen)
        answer = await ask()
        tasks.cancel_scope.cancel()
    if answer is None:
        raise _Ended(ended[0])
    return answer


def main(command: str, words: Sequence[str]) -> int:
    """Do one command; the exit code."""
    try:
        _COMMANDS[command].main(list(words), prog_name=f"mcpkeep {command}", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return USAGE
    except click.Abort:
        return 130
    except (McpkeepError, OSError) as error:
        sys.stderr.write(f"mcpkeep {command}: {error}\n")
        return USAGE if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        return 130
    except _Ended as ended:
        sys.stderr.write(f"mcpkeep {command}: ended by {ended}\n")
        return 128 + ended.number
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else FAILED
    return DONE


def _code_of(answer: UpgradeAnswer) -> int:
    if isinstance(answer, ConflictsUndecided):
        return UNDECIDED
    if isinstance(answer, UpgradeFault):
        return ROLLBACK_FAILED if answer.state == "rollback_failed" else FAILED
    return FAILED if isinstance(answer, Refused) else DONE


def _terminal(workspace: str | None, as_json: bool) -> _Terminal:
    home = os.environ.get("HOME") or os.path.expanduser("~")
    found = find_workspace(workspace, environ=os.environ, cwd=os.getcwd(), home=home)
    if found is None:
        raise ConfigError("the home folder is no workspace; go to a project, or name one with --workspace")
    return _Terminal(Path(found), Screen(as_json=as_json))


_workspace = click.option("--workspace", metavar="FOLDER", help="The project; else found from here upwards.")
_json = click.option("--json", "as_json", is_flag=True, help="The answer as JSON, on stdout.")
_source = click.option("--source", metavar="PATH", help="The praxis-os repository to upgrade from.")
_content_only = click.option("--content-only", is_flag=True, help="Leave server code and packages alone.")
_server_only = click.option("--server-only", is_flag=True, help="Leave standards, usage, workflows alone.")


def _options(source: str | None, content_only: bool, server_only: bool) -> UpgradeOptions:
    if source is None:
        raise click.UsageError("name the repository with --source PATH")
    if content_only and server_only:
        raise click.UsageError("--content-only and --server-only leave nothing to upgrade")
    return UpgradeOptions(
        source_path=os.path.abspath(os.path.expanduser(source)),
        content_only=content_only,
        server_only=server_only,
    )


@click.command(help="Show what an upgrade would change; changes nothing.")
@_source
@_content_only
@_server_only
@click.option("--diff/--no-diff", default=False, help="With the diff of each file.")
@_workspace
@_json
def _plan(
    source: str | None,
    content_only: bool,
    server_only: bool,
    diff: bool,
    workspace: str | None,
    as_json: bool,
) -> None:
    terminal = _terminal(workspace, as_json)
    terminal.screen.diffs = diff
    terminal.finish(terminal.ask(MakePlan(_options(source, content_only, server_only))))


@click.command(help="Upgrade .praxis-os in six guarded phases, while the IDE goes on working.")
@_source
@_content_only
@_server_only
@click.option("--dry-run", is_flag=True, help="Only the plan, with diffs.")
@click.option(
    "--yes", is_flag=True, help="Ask nothing; conflicts are decided as --on-conflict says, or kept."
)
@click.option(
    "--on-conflict",
    type=click.Choice(["keep", "take", "ask"]),
    help="What becomes of files changed by both: yours, the new one, or ask for each. "
    "At a terminal the default is to ask; without one they are listed, with exit code 3.",
)
@click.option("--abort", is_flag=True, help="Give up an upgrade that is open; releases lock and staging.")
@_workspace
@_json
def _upgrade(
    source: str | None,
    content_only: bool,
    server_only: bool,
    dry_run: bool,
    yes: bool,
    on_conflict: OnConflict | None,
    abort: bool,
    workspace: str | None,
    as_json: bool,
) -> None:
    terminal = _terminal(workspace, as_json)
    screen = terminal.screen
    if abort:
        terminal.finish(terminal.ask(AbortUpgrade(by="mcpkeep upgrade --abort")))
    options = _options(source, content_only, server_only)
    planned = terminal.ask(MakePlan(options))
    if dry_run or not isinstance(planned, PlanMade):
        screen.diffs = True
        terminal.finish(planned)
        return
    attended = screen.interactive and not yes
    if attended or not as_json:
        screen.show(planned)
    how = on_conflict or ("keep" if yes else "ask")
    if how == "ask" and planned.plan.conflicts:
        if not attended:
            conflicts = {file.path: planned.diffs.get(file.path, "") for file in planned.plan.conflicts}
            terminal.finish(ConflictsUndecided(planned.plan.plan_id, conflicts))
        decisions = {file.path: screen.decide(file, planned.diffs) for file in planned.plan.conflicts}
        resolved = terminal.ask(ResolveConflicts(planned.plan.plan_id, decisions, by="user"))
        if isinstance(resolved, Refused):
            terminal.finish(resolved)
    if attended and not click.confirm("Upgrade now?", default=True):
        raise click.Abort
    options = msgspec.structs.replace(options, on_conflict=None if how == "ask" else how)
    terminal.finish(terminal.ask(RunUpgrade(options, by="mcpkeep upgrade", plan_id=planned.plan.plan_id)))


@click.command(help="Go back to the release before, or to one named by release or backup id.")
@click.option("--to", metavar="ID", help="A release or backup; `mcpkeep backups` lists them.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@_workspace
@_json
def _rollback(to: str | None, yes: bool, workspace: str | None, as_json: bool) -> None:
    terminal = _terminal(workspace, as_json)
    target = to or "the former release"
    if terminal.screen.interactive and not yes and not click.confirm(f"Go back to {target}?", default=True):
        raise click.Abort
    terminal.finish(terminal.ask(RollBack(to=to, by="mcpkeep rollback")))


@click.command(help="List the backups, and the releases one can go back to.")
@_workspace
@_json
def _backups(workspace: str | None, as_json: bool) -> None:
    terminal = _terminal(workspace, as_json)
    terminal.finish(terminal.ask(GetBackups()))


@click.command(help="Read a backup, or all of them, back against the checksums in its manifest.")
@click.argument("backup_id", required=False)
@_workspace
@_json
def _verify(backup_id: str | None, workspace: str | None, as_json: bool) -> None:
    terminal = _terminal(workspace, as_json)
    answer = terminal.ask(VerifyBackups(backup_id))
    terminal.screen.show(answer)
    sound = not isinstance(answer, Refused) and terminal.screen.sound(answer)
    raise SystemExit(DONE if sound else FAILED)


@click.command(help="Show the newest report, and how upgrades went so far.")
@_workspace
@_json
def _report(workspace: str | None, as_json: bool) -> None:
    terminal = _terminal(workspace, as_json)
    terminal.finish(terminal.ask(GetReport()))


_COMMANDS: Mapping[str, click.Command] = {
    "plan": _plan,
    "upgrade": _upgrade,
    "rollback": _rollback,
    "backups": _backups,
    "verify": _verify,
    "report": _report,
}
