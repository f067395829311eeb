"""What people see of upgrades: the plan, steps as they go, answers; or JSON for programs."""

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import click
import msgspec
from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from mcpkeep.protocol.upgrade.plan import Case, Choice, PlannedFile
from mcpkeep.protocol.upgrade.request import (
    Aborted,
    BackupList,
    BackupsVerified,
    ConflictsUndecided,
    MergedText,
    PlanMade,
    Refused,
    Report,
    RolledBack,
    UpgradeAnswer,
    UpgradeDone,
    UpgradeFault,
)
from mcpkeep.protocol.upgrade.size import show_size

__all__ = ["Screen"]

_WIDTH = 110
"""Columns where the output is no terminal."""

_CASES: Mapping[Case, tuple[str, str]] = {
    Case.CONFLICT: ("conflict", "bold red"),
    Case.ADD: ("new", "green"),
    Case.UPDATE: ("update", "green"),
    Case.MERGE: ("merge", "cyan"),
    Case.REMOVE: ("remove", "yellow"),
    Case.KEEP: ("keep yours", "magenta"),
    Case.STAYS_DELETED: ("stays deleted", "magenta"),
}
"""In the order of the list; the unchanged are only counted."""


class Screen:
    """Shows on stdout what was asked for, and on stderr how it goes."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)
        self.diffs = False
        """Whether a plan is shown with its diffs."""

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to be asked."""
        return sys.stdin.isatty() and self._err.is_terminal and not self._as_json

    @contextmanager
    def steps(self) -> Generator[Callable[[str, str], None]]:
        """Show each step as it begins, and how long the one before took."""
        began = time.monotonic()
        if not self._err.is_terminal:

            def tell(_session: str, step: str) -> None:
                self._err.print(f"{time.monotonic() - began:6.1f} s  {step}", highlight=False, markup=False)

            yield tell
            return
        with self._err.status("working") as status:

            def spin(_session: str, step: str) -> None:
                status.update(f"{escape(step)}")
                self._err.print(
                    Text.assemble((f"{time.monotonic() - began:6.1f} s  ", "dim"), step), highlight=False
                )

            yield spin

    def show(self, answer: UpgradeAnswer) -> None:
        """Write an answer to stdout, a refusal or failure to stderr."""
        if self._as_json:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer)) + b"\n")
            sys.stdout.flush()
            return
        match answer:
            case Refused() | UpgradeFault():
                self._show_failure(answer)
            case PlanMade():
                self._show_plan(answer)
            case ConflictsUndecided():
                self._err.print(Text(f"{len(answer.conflicts)} files need a decision:", style="bold red"))
                for path in answer.conflicts:
                    self._err.print(f"  {path}", markup=False)
                self._err.print("decide with --on-conflict keep, take or ask", markup=False)
            case UpgradeDone():
                self._show_done(answer)
            case RolledBack():
                self._show_rolled_back(answer)
            case Aborted():
                what = ", ".join(answer.sessions) or "nothing was open"
                self._out.print(f"given up: {what}", markup=False)
            case BackupList():
                self._show_backups(answer)
            case BackupsVerified():
                self._show_verified(answer)
            case Report():
                self._show_report(answer)
            case _:
                self._out.print_json(msgspec.json.encode(answer).decode())

    def sound(self, answer: UpgradeAnswer) -> bool:
        """Whether every backup that was verified is whole."""
        return (
            isinstance(answer, BackupsVerified)
            and not answer.unreadable
            and all(found.verified for found in answer.verifications)
        )

    def decide(self, file: PlannedFile, diffs: Mapping[str, str]) -> Choice | MergedText:
        """Ask for one conflict until it is decided."""
        self._err.print(Text(f"\n{file.path}", style="bold red"), Text(file.reason))
        while True:
            word = click.prompt(
                "keep yours, take the new one, edit, or show the diff",
                type=click.Choice(["keep", "take", "edit", "diff"]),
                default="keep",
                err=True,
            )
            if word in ("keep", "take"):
                return Choice(word)
            if word == "diff":
                self._err.print(_diff(diffs.get(file.path, "there is no diff")))
                continue
            text = click.edit(diffs.get(file.path, ""))
            if text is not None:
                return MergedText(text)

    def _show_failure(self, answer: Refused | UpgradeFault) -> None:
        self._err.print(Text(answer.reason, style="bold red"))
        self._err.print(Text(answer.remedy))
        if isinstance(answer, UpgradeFault):
            where = f"phase {answer.phase}: " if answer.phase is not None else ""
            self._err.print(Text(f"{where}{_STATES[answer.state]}", style="bold"))
        for name in ("stderr_tail", "output"):
            lines = answer.details.get(name)
            if isinstance(lines, list | tuple):
                for line in lines[-20:]:
                    self._err.print(Text(f"  {line}", style="dim"))

    def _show_plan(self, made: PlanMade) -> None:
        plan = made.plan
        before = plan.installed_commit[:10] if plan.installed_commit else "an unknown version"
        self._out.print(
            f"[bold]{escape(before)}[/] to [bold]{escape(plan.source_version)}[/] ({plan.source_commit[:10]})"
            f"   plan {plan.plan_id}"
        )
        counts = plan.counts()
        self._out.print(
            f"{counts.new_files} new, {counts.updated_files} updated or merged, {counts.removed_files} removed, "
            f"{counts.conflicts} conflicts, {counts.local_only} yours, {counts.unchanged_files} unchanged"
        )
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for case, (word, style) in _CASES.items():
            for file in plan.files:
                if file.case is case:
                    table.add_row(Text(word, style=style), Text(file.path), Text(file.reason, style="dim"))
        self._out.print(table)
        for warning in plan.warnings:
            self._out.print(Text(f"note: {warning}", style="yellow"))
        if self.diffs:
            for diff in made.diffs.values():
                self._out.print(_diff(diff))

    def _show_done(self, done: UpgradeDone) -> None:
        self._out.print(
            f"[bold green]upgraded[/] from {escape(done.from_version)} to {escape(done.to_version)} "
            f"(release {escape(done.to_release)})"
        )
        table = Table("phase", "seconds", box=None, padding=(0, 2, 0, 0))
        for phase, seconds in done.seconds.items():
            table.add_row(phase, f"{seconds:.2f}")
        table.add_row("all", f"{sum(done.seconds.values()):.2f}")
        self._out.print(table)
        self._out.print(f"report: {done.summary}", markup=False)
        self._out.print(f"the way back: mcpkeep rollback, to {done.from_release}", markup=False)

    def _show_rolled_back(self, back: RolledBack) -> None:
        self._out.print(
            f"[bold green]rolled back[/] to {escape(back.to_release)} in {back.seconds:.2f} s: "
            f"{back.restored} files restored, {len(back.merged)} merged, {len(back.kept)} kept as you left them"
        )
        for path, place in back.kept_aside.items():
            self._out.print(f"  {path}: the restored version lies in {place}", markup=False)
        for warning in back.warnings:
            self._out.print(f"  {warning}", markup=False)

    def _show_backups(self, listed: BackupList) -> None:
        table = Table("backup", "made", "files", "size", "release", "", box=None, padding=(0, 2, 0, 0))
        for backup in listed.backups:
            table.add_row(
                backup.backup_id,
                f"{backup.timestamp:%Y-%m-%d %H:%M:%S}",
                str(backup.file_count),
                show_size(backup.total_size),
                backup.release or "",
                "" if backup.complete else "incomplete",
            )
        self._out.print(table if listed.backups else "no backups yet")
        for release in listed.releases:
            mark = "  (current)" if release == listed.current else ""
            self._out.print(f"release {release}{mark}", markup=False)
            for problem in listed.unavailable.get(release, ())[:3]:
                self._out.print(f"  cannot be started: {problem}", markup=False)

    def _show_verified(self, answer: BackupsVerified) -> None:
        for found in answer.verifications:
            word, style = ("whole", "green") if found.verified else ("DAMAGED", "bold red")
            self._out.print(
                Text.assemble(found.backup_id, "  ", (word, style), f"  {found.files_checked} files")
            )
            for path in (*found.mismatches, *found.missing):
                self._out.print(f"  {path}", markup=False)
        for backup_id, reason in answer.unreadable.items():
            self._out.print(Text.assemble(backup_id, "  ", ("unreadable", "bold red"), f"  {reason}"))

    def _show_report(self, report: Report) -> None:
        self._out.print(Markdown(report.text))
        rate = "" if report.success_rate is None else f", {report.success_rate:.0%} of them succeeded"
        self._out.print(f"\n{report.upgrades} upgrades so far{rate}", markup=False)
        if report.path is not None:
            self._out.print(report.path, markup=False)


_STATES = {
    "unchanged": "nothing live has changed",
    "rolled_back": "the former version serves again",
    "rollback_failed": "the rollback failed too; what stands is in `mcpkeep report`",
}


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDTH
    return console


def _diff(text: str) -> RenderableType:
    return Syntax(text, "diff", theme="ansi_dark", background_color="default", word_wrap=True)
