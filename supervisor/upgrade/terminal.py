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
from typing import Literal, NoReturn

import anyio
import click
import msgspec
from anyio.abc import TaskStatus

from mcpkeep.protocol.control import ControlError
from mcpkeep.protocol.errors import ConfigError, McpkeepError
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.options import UpgradeOptions
from mcpkeep.protocol.upgrade.request import (
    LOOKS,
    AbortUpgrade,
    Choices,
    ConflictsUndecided,
    GetBackups,
    GetReport,
    MakePlan,
    PlanMade,
    Refused,
    RollBack,
    RunUpgrade,
    UpgradeAnswer,
    UpgradeFault,
    UpgradeMessage,
    VerifyBackups,
)
from mcpkeep.supervisor.upgrade.ask import ask_workspace
from mcpkeep.supervisor.upgrade.layout import find_installation
from mcpkeep.supervisor.upgrade.screen import Screen
from mcpkeep.supervisor.workspace import find_workspace

__all__ = ["main"]

DONE, FAILED, USAGE, UNDECIDED, ROLLBACK_FAILED = range(5)
"""The exit codes: done; failed, and the former version stands; a wrong call; conflicts need decisions; the
rollback failed, or there is nothing to go back to."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as of a shell."""

OnConflict = Literal["keep", "take", "ask"]


class _Ended(Exception):
    """A signal ended the command; what it had begun is taken back."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Terminal:
    """What every command works with."""

    def __init__(self, workspace: Path, screen: Screen) -> None:
        self.workspace = workspace
        self.screen = screen
        self._holder: int | None = None

    def ask(self, question: UpgradeMessage) -> UpgradeAnswer:
        """Ask the workspace's mcpkeep, or do it here, showing the steps."""
        self._holder = None
        kept = self._kept()
        try:
            with self.screen.steps() as on_step:
                asking = partial(ask_workspace, self.workspace, question, on_step=on_step)
                return anyio.run(_unless_ended, partial(asking, on_holder=self._found))
        except UpgradeFailed as failed:
            return Refused(str(failed), failed.remediation, failed.details)
        except ControlError as error:
            return Refused(str(error), "look at `mcpkeep report`, and at mcpkeep's log")
        except (KeyboardInterrupt, _Ended):
            self._tell_interrupted(question, before=kept)
            raise

    def finish(self, answer: UpgradeAnswer) -> NoReturn:
        """Show the answer, and leave with its exit code."""
        self.screen.show(answer)
        raise SystemExit(_code_of(answer))

    def file(self, path: str) -> Path:
        """Where a file of the installation is."""
        layout = find_installation(self.workspace)
        return (layout.base if layout is not None else self.workspace) / path

    def _found(self, holder: int) -> None:
        self._holder = holder

    def _kept(self) -> set[tuple[str, str]]:
        """The releases and backups that are there."""
        layout = find_installation(self.workspace)
        if layout is None:
            return set()
        folders = (("release", layout.releases), ("backup", layout.backups))
        return {
            (kind, path.name)
            for kind, folder in folders
            if folder.is_dir()
            for path in folder.iterdir()
            if not path.name.startswith(".")
        }

    def _tell_interrupted(self, question: UpgradeMessage, *, before: set[tuple[str, str]]) -> None:
        if isinstance(question, LOOKS):
            return
        if self._holder is None:
            self.screen.note("interrupted: what was begun is taken back")
            for kind, name in sorted(self._kept() - before, reverse=True):
                self.screen.note(f"{kind} {name} stays: {_STAYS[kind]}")
        else:
            self.screen.note(
                f"interrupted: mcpkeep (pid {self._holder}) goes on with it; "
                "`mcpkeep upgrade --abort` ends it"
            )


_STAYS = {
    "release": "it is what was here, recorded so that one can go back to it; `.praxis-os/venv` links to it",
    "backup": "it is whole, and the next upgrades remove it in its turn",
}
"""Why an upgrade that was taken back leaves it."""


async def _unless_ended(ask: Callable[[], Awaitable[UpgradeAnswer]]) -> UpgradeAnswer:
    """Its answer; SIGTERM and SIGHUP cancel it. Raises _Ended, McpkeepError, OSError."""
    ended: list[int] = []

    async def listen(*, task_status: TaskStatus[None]) -> None:
        numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                ended.append(number)
                tasks.cancel_scope.cancel()

    answer: UpgradeAnswer | None = None
    failed: McpkeepError | OSError | None = None  # a task group would wrap it
    async with anyio.create_task_group() as tasks:
        await tasks.start(listen)
        try:
            answer = await ask()
        except (McpkeepError, OSError) as error:
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
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
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (McpkeepError, OSError) as error:
        sys.stderr.write(f"mcpkeep {command}: {error}\n")
        return USAGE if isinstance(error, ConfigError) else FAILED
    except _Ended as ended:
        sys.stderr.write(f"mcpkeep {command}: ended by {ended}\n")
        return 128 + ended.number
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else FAILED
    return DONE


_CODES = (
    "Exit codes: 0 done; 1 refused, or failed and the former version stands; 2 a wrong call; "
    "3 conflicts need decisions; 4 the rollback failed, or there is nothing to go back to; "
    "130 Ctrl-C, or no to a question."
)


def _code_of(answer: UpgradeAnswer) -> int:
    if isinstance(answer, ConflictsUndecided):
        return UNDECIDED
    if isinstance(answer, UpgradeFault):
        return ROLLBACK_FAILED if answer.state == "rollback_failed" else FAILED
    if isinstance(answer, Refused) and "known" in answer.details:  # where a rollback could lead
        return USAGE if answer.details["known"] else ROLLBACK_FAILED
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


def _command(about: str, *examples: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command with its help; each example is a line that can be typed."""
    shown = "\n".join(f"  mcpkeep {example}" for example in examples)
    return click.command(
        help=about, epilog=f"\b\n{shown}\n\n{_CODES}", context_settings={"max_content_width": 100}
    )


@_command(
    "Show what an upgrade would change; changes nothing.",
    "plan --source ~/src/praxis-os",
    "plan --source ~/src/praxis-os --diff",
)
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
    options = _options(source, content_only, server_only)
    terminal.finish(terminal.ask(MakePlan(msgspec.structs.replace(options, dry_run=True))))


@_command(
    "Upgrade .praxis-os in six guarded phases, while the IDE goes on working.",
    "upgrade --source ~/src/praxis-os",
    "upgrade --source ~/src/praxis-os --yes --on-conflict keep --json",
    "upgrade --abort",
)
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
        if source is not None or content_only or server_only or dry_run or on_conflict is not None:
            raise click.UsageError("--abort stands alone")
        terminal.finish(terminal.ask(AbortUpgrade(by="mcpkeep upgrade --abort")))
    options = _options(source, content_only, server_only)
    planned = terminal.ask(MakePlan(msgspec.structs.replace(options, dry_run=dry_run)))
    if dry_run or not isinstance(planned, PlanMade):
        screen.diffs = True
        terminal.finish(planned)
    plan = planned.plan
    if plan.changes and not as_json:
        screen.show(planned)
    how = on_conflict or ("keep" if yes else "ask")
    attended = screen.interactive and not yes
    decisions: Choices = {}
    if how == "ask" and planned.undecided:
        if not screen.interactive:
            terminal.finish(
                ConflictsUndecided(plan.plan_id, {path: planned.diffs[path] for path in planned.undecided})
            )
        decisions = {
            file.path: screen.decide(file, planned.diffs[file.path], terminal.file(file.path))
            for file in plan.conflicts
            if file.path in planned.undecided
        }
    if attended and plan.changes and not click.confirm("\nUpgrade now?", default=True, err=True):
        raise click.Abort
    options = msgspec.structs.replace(options, on_conflict=None if how == "ask" else how)
    asked = RunUpgrade(options, by="mcpkeep upgrade", plan_id=plan.plan_id, decisions=decisions)
    terminal.finish(terminal.ask(asked))


@_command(
    "Go back to the release before, or to one named by release or backup id. Your edits survive it.",
    "rollback",
    "rollback --to 2026-01-31-a1b2c3d",
)
@click.option("--to", metavar="ID", help="A release or backup; `mcpkeep backups` lists them.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@_workspace
@_json
def _rollback(to: str | None, yes: bool, workspace: str | None, as_json: bool) -> None:
    terminal = _terminal(workspace, as_json)
    target = to or "the former release"
    if (
        terminal.screen.interactive
        and not yes
        and not click.confirm(f"Go back to {target}?", default=True, err=True)
    ):
        raise click.Abort
    terminal.finish(terminal.ask(RollBack(to=to, by="mcpkeep rollback")))


@_command("List the backups, and the releases one can go back to.", "backups")
@_workspace
@_json
def _backups(workspace: str | None, as_json: bool) -> None:
    terminal = _terminal(workspace, as_json)
    terminal.finish(terminal.ask(GetBackups()))


@_command(
    "Read a backup, or all of them, back against the checksums in its manifest.",
    "verify",
    "verify 2026-01-31-120000",
)
@click.argument("backup_id", required=False)
@_workspace
@_json
def _verify(backup_id: str | None, workspace: str | None, as_json: bool) -> None:
    terminal = _terminal(workspace, as_json)
    answer = terminal.ask(VerifyBackups(backup_id))
    terminal.screen.show(answer)
    sound = not isinstance(answer, Refused) and terminal.screen.sound(answer)
    raise SystemExit(DONE if sound else FAILED)


@_command("Show the newest report, and how upgrades went so far.", "report")
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
