"""What people see of upgrades: the plan, steps as they go, answers; or JSON for programs."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import click
import msgspec
from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Column, Table
from rich.text import Text

from mcpkeep.protocol.upgrade.phase import PHASE_NAMES, announce_phase, announced_phase
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
    UpToDate,
)
from mcpkeep.protocol.upgrade.size import show_size
from mcpkeep.protocol.upgrade.source_tree import MANIFEST_PATH
from mcpkeep.protocol.upgrade.telling import STATES

__all__ = ["Screen"]

_WIDTH = 110
"""Columns where the output is no terminal."""

_CASES: Mapping[Case, tuple[str, str]] = {
    Case.CONFLICT: ("in conflict", "bold red"),
    Case.ADD: ("new", "green"),
    Case.UPDATE: ("updated", "green"),
    Case.MERGE: ("merged with your edits", "cyan"),
    Case.REMOVE: ("removed", "yellow"),
    Case.KEEP: ("kept as you have them", "magenta"),
    Case.STAYS_DELETED: ("stay deleted", "magenta"),
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
        """Show each step as it begins, and on a terminal in which phase it is."""
        began = time.monotonic()

        def write(step: str) -> None:
            style = "bold" if announced_phase(step) is not None else "dim"
            passed = (f"{time.monotonic() - began:6.1f} s  ", "dim")
            self._err.print(Text.assemble(passed, (step, style)))

        if not self._err.is_terminal or self._as_json:
            yield lambda _session, step: write(step)
            return
        phases = len(PHASE_NAMES)
        columns = (
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        )
        with Progress(*columns, console=self._err, transient=True) as progress:
            task = progress.add_task("working", total=None)

            def show(_session: str, step: str) -> None:
                phase = announced_phase(step)
                if phase is not None:
                    progress.update(task, total=phases, completed=phase)
                progress.update(task, description=escape(step))
                write(step)

            yield show

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
                self._show_undecided(answer)
            case UpgradeDone():
                self._show_done(answer)
            case UpToDate():
                self._show_up_to_date(answer)
            case RolledBack():
                self._show_rolled_back(answer)
            case Aborted():
                self._say(f"given up: {', '.join(answer.sessions) or 'nothing was open'}")
            case BackupList():
                self._show_backups(answer)
            case BackupsVerified():
                self._show_verified(answer)
            case Report():
                self._show_report(answer)
            case _:
                self._out.print_json(msgspec.json.encode(answer).decode())

    def note(self, text: str) -> None:
        """Say something beside the answer."""
        self._err.print(Text(text))

    def sound(self, answer: UpgradeAnswer) -> bool:
        """Whether every backup that was verified is whole."""
        return (
            isinstance(answer, BackupsVerified)
            and not answer.unreadable
            and all(found.verified for found in answer.verifications)
        )

    def decide(self, file: PlannedFile, diff: str, live: Path) -> Choice | MergedText:
        """Ask for one conflict until it is decided; `live` is the user's file."""
        self._err.print(Text(f"\n{file.path}", style="bold red"))
        self._err.print(Text(f"  {file.reason}", style="dim"))
        while True:
            word = click.prompt(
                "keep yours, take the new one, edit yours, or show the diff (k, t, e, d)",
                value_proc=_word,
                default="keep",
                err=True,
            )
            if word in ("keep", "take"):
                return Choice(word)
            if word == "diff":
                self._err.print(_diff(diff or "there is no diff"))
                continue
            text = self._edit(live)
            if text is not None:
                return MergedText(text)

    def _edit(self, live: Path) -> str | None:
        """What the user makes of the own file in the editor; None where that came to nothing."""
        try:
            text = live.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            self.note("there is no text to edit")
            return None
        edited = click.edit(text, extension=live.suffix or ".txt")
        if edited is None:
            self.note("nothing was saved")
        return edited

    def _say(self, *parts: str | tuple[str, str]) -> None:
        self._out.print(Text.assemble(*parts))

    def _show_failure(self, answer: Refused | UpgradeFault) -> None:
        where = ""
        if isinstance(answer, UpgradeFault) and answer.phase is not None:
            where = f"{announce_phase(answer.phase)}: "
        self._err.print(Text(f"{where}{answer.reason}", style="bold red"))
        if isinstance(answer, UpgradeFault):
            self._err.print(Text(STATES[answer.state], style="bold"))
        self._err.print(Text(f"what to do: {answer.remedy}"))
        for name in ("stderr_tail", "output", "traceback"):
            lines = answer.details.get(name)
            if isinstance(lines, list | tuple):
                for line in cast("Sequence[object]", lines)[-20:]:
                    self._err.print(Text(f"  {line}", style="dim"))

    def _show_undecided(self, answer: ConflictsUndecided) -> None:
        count = _count(len(answer.conflicts), "file")
        self._err.print(Text(f"{count} changed by you and by the new version:", style="bold red"))
        for path in answer.conflicts:
            self._err.print(Text(f"  {path}"))
        self._err.print(Text("what to do: decide with --on-conflict keep, take, or ask at a terminal"))

    def _show_plan(self, made: PlanMade) -> None:
        plan = made.plan
        self._say(
            ("from ", "dim"),
            (_named(plan.installed_version, plan.installed_commit), "bold"),
            (" to ", "dim"),
            (_named(plan.source_version, plan.source_commit), "bold"),
            (f", plan {plan.plan_id}", "dim"),
        )
        counts = plan.counts()
        self._say(
            f"{counts.new_files} new, {counts.updated_files} updated or merged, "
            f"{counts.removed_files} removed, {_count(counts.conflicts, 'conflict')}, "
            f"{counts.local_only} yours, {counts.unchanged_files} unchanged"
        )
        if not plan.changes:
            self._say(("nothing to upgrade: what is installed is as the source would have it", "green"))
        for case, (words, style) in _CASES.items():
            self._show_case(words, style, [file for file in plan.files if file.case is case])
        if made.undecided:
            self._say(
                "\n`mcpkeep upgrade` asks for each conflict; --on-conflict keep or take decides all of them"
            )
        for warning in plan.warnings:
            if MANIFEST_PATH in warning:
                continue  # there is nothing to do about it; it stands in the report
            self._say((f"note: {warning}", "yellow"))
        if self.diffs:
            for diff in made.diffs.values():
                self._out.print(_diff(diff))

    def _show_case(self, words: str, style: str, files: Sequence[PlannedFile]) -> None:
        """A group of files; the reason that most have stands once."""
        if not files:
            return
        (common, _), *_ = Counter(file.reason for file in files).most_common(1)
        self._say("\n", (f"{words} ({len(files)})", style), (f"  {common}", "dim"))
        for file in files:
            own = "" if file.reason == common else f"  {file.reason}"
            self._say(f"  {file.path}", (own, "dim"))

    def _show_done(self, done: UpgradeDone) -> None:
        self._say(
            ("upgraded", "bold green"),
            f" from {done.from_version} to {done.to_version} in {sum(done.seconds.values()):.1f} s",
        )
        for number, seconds in done.seconds.items():
            self._say((f"  {seconds:7.2f} s  {PHASE_NAMES[int(number)].lower()}", "dim"))
        for line in done.late:
            self._say((line, "yellow"))
        self._say(f"release:      {done.to_release}")
        self._say(f"report:       {done.summary}")
        self._say(f"the way back: mcpkeep rollback, to release {done.from_release}")

    def _show_up_to_date(self, answer: UpToDate) -> None:
        self._say(
            ("nothing to upgrade", "bold green"),
            f": {_named(answer.version, answer.commit)} is what is installed"
            + (f", as release {answer.release}" if answer.release is not None else ""),
        )

    def _show_rolled_back(self, back: RolledBack) -> None:
        self._say(
            ("rolled back", "bold green"),
            f" to {back.to_release} in {back.seconds:.2f} s: {_count(back.restored, 'file')} restored, "
            f"{len(back.merged)} merged with your edits, {len(back.kept)} kept as you left them",
        )
        for path, place in back.kept_aside.items():
            self._say(f"  {path}: the version that gave way lies in {place}")
        for warning in back.warnings:
            self._say(f"  {warning}")
        self._say(f"report: {back.summary}")

    def _show_backups(self, listed: BackupList) -> None:
        if listed.backups:
            table = Table(box=None, padding=(0, 2, 0, 0))
            for title in ("backup", "made (UTC)", "files", "size", "of release", ""):
                table.add_column(title, overflow="fold", justify="right" if title == "size" else "left")
            for backup in listed.backups:
                table.add_row(
                    backup.backup_id,
                    f"{backup.timestamp:%Y-%m-%d %H:%M:%S}",
                    str(backup.file_count),
                    show_size(backup.total_size),
                    backup.release or "",
                    "" if backup.complete else "[red]incomplete[/]",
                )
            self._out.print(table)
        else:
            self._say("no backups yet; an upgrade makes one")
        for release in listed.releases:
            current = release == listed.current
            self._say(f"release {release}", ("  current" if current else "", "green"))
            for problem in listed.unavailable.get(release, ())[:3]:
                self._say(f"  cannot be started: {problem}")

    def _show_verified(self, answer: BackupsVerified) -> None:
        if not answer.verifications and not answer.unreadable:
            self._say("no backups yet; an upgrade makes one")
        for found in answer.verifications:
            word, style = ("whole", "green") if found.verified else ("DAMAGED", "bold red")
            self._say(
                f"{found.backup_id}  ", (word, style), f"  {_count(found.files_checked, 'file')} checked"
            )
            for what, paths in (("differs", found.mismatches), ("missing", found.missing)):
                for path in paths:
                    self._say(f"  {what}: {path}")
        for backup_id, reason in answer.unreadable.items():
            self._say(f"{backup_id}  ", ("unreadable", "bold red"), f"  {reason}")

    def _show_report(self, report: Report) -> None:
        if self._out.is_terminal:
            # Not by this console: where lines are not to be wrapped, it would cut them.
            Console().print(Markdown(report.text))
        else:
            self._out.print(report.text, markup=False, end="")
        told = f"\n{_count(report.upgrades, 'upgrade')} so far"
        if report.success_rate is not None:
            told += f"; {report.success_rate:.0%} succeeded"
        if report.taken_back:
            told += f"; {report.taken_back} taken back on request"
        if report.given_up:
            told += f"; {report.given_up} ended before anything live had changed"
        self._say(told)
        if report.path is not None:
            self._say(f"this report: {report.path}")


_WORDS = ("keep", "take", "edit", "diff")


def _word(typed: str) -> str:
    """One of them, of which the first letter is enough. Raises click.BadParameter."""
    found = [word for word in _WORDS if typed and word.startswith(typed.strip().lower())]
    if not found:
        raise click.BadParameter(f"{typed!r} is none of {', '.join(_WORDS)}; the first letter is enough")
    return found[0]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _named(version: str | None, commit: str | None) -> str:
    """A version with the beginning of its commit, where that says more."""
    if commit is None:
        return version or "an unknown version"
    if version is None or commit.startswith(version):
        return commit[:10]
    return f"{version} ({commit[:10]})"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDTH
    return console


def _diff(text: str) -> RenderableType:
    return Syntax(text, "diff", theme="ansi_dark", background_color="default", word_wrap=True)
