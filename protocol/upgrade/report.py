"""The report of an upgrade: all that happened, as facts, and as markdown for whoever asks in a year."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.evidence import PostInstallStep
from mcpkeep.protocol.upgrade.late_edit import LateEdit
from mcpkeep.protocol.upgrade.markdown import bullets, code, plain, section, table, time, timed
from mcpkeep.protocol.upgrade.phase import PHASE_NAMES
from mcpkeep.protocol.upgrade.plan import Applied, Case, Choice, Counts, Decision, Plan
from mcpkeep.protocol.upgrade.probation import PROBATION
from mcpkeep.protocol.upgrade.products import Merged, Prepared, Switched, Validated, former_version
from mcpkeep.protocol.upgrade.proof import SmokeResult, ToolDiff
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport

__all__ = [
    "FileChanges",
    "History",
    "UpgradeReport",
    "VersionFacts",
    "history_line",
    "read_history",
    "report_upgrade",
]

_CHOSEN = {Choice.KEEP: "yours stays", Choice.TAKE: "the new version", Choice.MERGE: "both, merged by hand"}


class VersionFacts(msgspec.Struct, frozen=True):
    """One of the two versions."""

    version: str
    commit: str | None
    release: str | None


class FileChanges(msgspec.Struct, frozen=True):
    """Paths, relative to the installation's folder."""

    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Edited by the user, or removed upstream and edited."""
    stays_deleted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: Plan) -> "FileChanges":
        """What a plan does; its conflicts are in none of these, but in the decisions."""
        paths: dict[Case, list[str]] = {}
        for file in plan.files:
            paths.setdefault(file.case, []).append(file.path)
        return cls(
            added=tuple(paths.get(Case.ADD, ())),
            updated=tuple(paths.get(Case.UPDATE, ())),
            merged=tuple(paths.get(Case.MERGE, ())),
            kept=tuple(paths.get(Case.KEEP, ())),
            stays_deleted=tuple(paths.get(Case.STAYS_DELETED, ())),
            removed=tuple(paths.get(Case.REMOVE, ())),
        )


class UpgradeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One upgrade. Paths of files are relative to the installation's folder, others to the workspace."""

    session_id: str
    by: str
    """Who asked for it."""
    former: VersionFacts
    new: VersionFacts
    source_path: str
    started_at: datetime
    ended_at: datetime
    seconds: Mapping[int, float]
    """By phase."""
    counts: Counts
    files: FileChanges
    decisions: Mapping[str, Decision] = {}
    kept_aside: Mapping[str, str] = {}
    """By path: where the side that was not taken lies."""
    late: tuple[LateEdit, ...] = ()
    """Files that the user saved from the commit on."""
    tools: ToolDiff = ToolDiff()
    tool_count: int = 0
    smoke: tuple[SmokeResult, ...] = ()
    index: Literal["none", "carried", "updated", "built"] = "none"
    backup_id: str | None = None
    backup_path: str | None = None
    venv_shared: bool = True
    unconstrained: bool = False
    """Whether the former versions of packages could not be held."""
    packages: int = 0
    post_install: tuple[PostInstallStep, ...] = ()
    validation_report: str | None = None
    differs: tuple[str, ...] = ()
    """What upstream's own script would have done otherwise."""
    warnings: tuple[str, ...] = ()
    git_committed: bool = False

    def to_markdown(self) -> str:
        """The whole report, with long lists cut short and counted."""
        lines = [
            f"# Upgrade to {plain(self.new.version)}",
            "",
            f"Made from {time(self.started_at)} to {time(self.ended_at)}, asked for by {plain(self.by)}, "
            f"in session {code(self.session_id)}.",
            f"Source: {code(self.source_path)}",
            "",
            *table(("", "before", "now"), self._versions()),
            *self._way_back(),
            *self._files(),
            *self._decisions(),
            *self._server(),
            *section("Worth knowing", bullets(map(plain, self.warnings), most=100)),
            *section("What upstream's safe-upgrade script says otherwise", bullets(map(plain, self.differs))),
            *section("Time", self._times()),
        ]
        return "\n".join(lines) + "\n"

    def _versions(self) -> list[tuple[str, str, str]]:
        def shown(text: str | None) -> str:
            return "unknown" if text is None else code(text)

        return [
            ("version", shown(self.former.version), shown(self.new.version)),
            ("commit", shown(self.former.commit), shown(self.new.commit)),
            ("release", shown(self.former.release), shown(self.new.release)),
        ]

    def _way_back(self) -> list[str]:
        lines = [
            f"- to the version before: {code('mcpkeep rollback')}, or SIGUSR1 to mcpkeep, or ask the agent",
            "- edits that you make from now on survive it",
        ]
        if self.backup_id is not None:
            lines.append(
                f"- to the backup made for this: {code(f'mcpkeep rollback --to {self.backup_id}')}"
                + (f"; it lies in {code(self.backup_path)}" if self.backup_path is not None else "")
            )
        return section("How to go back", lines)

    def _files(self) -> list[str]:
        counts = self.counts
        rows = [
            ("new", counts.new_files),
            ("updated or merged", counts.updated_files),
            ("removed", counts.removed_files),
            ("unchanged", counts.unchanged_files),
            ("your own, kept as they are", counts.local_only),
            ("in conflict, decided", counts.conflicts),
        ]
        files = self.files
        lists = [
            ("Merged: your edits and the new version", files.merged),
            ("Kept: you edited them, the new version did not change them or drops them", files.kept),
            ("Stay deleted, as you left them", files.stays_deleted),
            ("Removed by the new version; they are in the backup", files.removed),
            ("New", files.added),
            ("Updated", files.updated),
        ]
        lines = table(("files", ""), ((what, str(count)) for what, count in rows))
        if self.late:
            lines += ["", f"Changed by you while the new version came in ({len(self.late)}):", ""]
            lines += bullets((f"{code(edit.path)}: {plain(edit.tell())}" for edit in self.late), most=200)
        for title, paths in lists:
            if paths:
                lines += ["", f"{title} ({len(paths)}):", "", *bullets(map(code, paths))]
        return section("Files", lines)

    def _decisions(self) -> list[str]:
        def told(path: str, decision: Decision) -> str:
            line = f"{code(path)}: {_CHOSEN[decision.choice]}, decided by {plain(decision.by)}"
            aside = self.kept_aside.get(path)
            return line if aside is None else f"{line}; the other side lies in {code(aside)}"

        asides = [
            f"{code(path)}: kept in {code(aside)}"
            for path, aside in sorted(self.kept_aside.items())
            if path not in self.decisions
        ]
        lines = [told(path, decision) for path, decision in sorted(self.decisions.items())]
        return section("Decisions", bullets([*lines, *asides], most=200))

    def _server(self) -> list[str]:
        lines = [f"- {self.tool_count} tools"]
        for what, names in (
            ("added", self.tools.added),
            ("removed", self.tools.removed),
            ("described otherwise", self.tools.changed),
        ):
            if names:
                lines.append(f"- tools {what}: {', '.join(map(code, names))}")
        index = {
            "none": "the server has none",
            "carried": "carried over from the version before",
            "updated": "carried over, and brought up to date with the new content",
            "built": "built anew, since the new version could not use the one before",
        }
        lines.append(f"- search index: {index[self.index]}")
        lines.append(f"- packages: {self._packages()}")
        for step in self.post_install:
            output = f": {plain(step.output[-300:])}" if step.status == "failed" and step.output else ""
            lines.append(f"- after the installation: {code(step.command)} {step.status}{output}")
        for result in self.smoke:
            detail = f": {plain(result.detail)}" if result.detail else ""
            lines.append(
                f"- test {plain(result.name)} of {code(result.tool)}: {result.status} "
                f"in {result.seconds:.2f} s{detail}"
            )
        if self.validation_report is not None:
            lines.append(f"- all that was measured: {code(self.validation_report)}")
        if self.git_committed:
            lines.append("- the changes are committed in git")
        return section("Server", lines)

    def _times(self) -> list[str]:
        if not self.seconds:
            return []
        named = [(f"{number} {PHASE_NAMES[number]}", self.seconds[number]) for number in sorted(self.seconds)]
        return table(("phase", "seconds"), timed(named))

    def _packages(self) -> str:
        if self.venv_shared:
            return "unchanged"
        if self.unconstrained:
            return f"{self.packages} installed, newer than before: the former versions could not be held"
        return f"{self.packages} installed, held to the former versions"


def report_upgrade(
    session_id: str,
    *,
    by: str,
    prepared: Prepared,
    merged: Merged,
    switched: Switched,
    validated: Validated,
    seconds: Mapping[int, float],
    started_at: datetime,
    ended_at: datetime,
    backup_path: str | None = None,
    late: Sequence[LateEdit] = (),
    warnings: Sequence[str] = (),
    git_committed: bool = False,
) -> UpgradeReport:
    """The report of what the phases came to."""
    former, release, source = prepared.former, merged.release, prepared.source
    applied: Applied = merged.applied
    return UpgradeReport(
        session_id=session_id,
        by=by,
        former=VersionFacts(
            former_version(prepared, merged), former.commit or merged.plan.installed_commit, former.release_id
        ),
        new=VersionFacts(source.version, source.commit, release.release_id),
        source_path=source.path,
        started_at=started_at,
        ended_at=ended_at,
        seconds=seconds,
        counts=merged.plan.counts(),
        files=FileChanges.of(merged.plan),
        decisions=applied.decisions,
        kept_aside=applied.kept_aside,
        late=tuple(late),
        tools=switched.tool_diff,
        tool_count=len(switched.proof.tools),
        smoke=validated.smoke,
        index=switched.proof.index,
        backup_id=prepared.backup_id,
        backup_path=backup_path,
        venv_shared=prepared.venv_shared,
        unconstrained=prepared.unconstrained,
        packages=prepared.packages,
        post_install=prepared.post_install,
        validation_report=validated.path,
        differs=merged.differs,
        warnings=(
            *prepared.warnings,
            *_started_without(switched.proof.left_out),
            *merged.plan.warnings,
            *validated.facts,
            *warnings,
        ),
        git_committed=git_committed,
    )


def history_line(report: UpgradeReport | RollbackReport) -> Mapping[str, object]:
    """The line of upgrades.jsonl for an upgrade that completed, or a rollback that succeeded."""
    line: dict[str, object] = {
        "at": time(report.ended_at),
        "session_id": report.session_id,
        "by": report.by,
        "outcome": "completed",
        "seconds": round((report.ended_at - report.started_at).total_seconds(), 3),
    }
    if isinstance(report, RollbackReport):
        return line | {"kind": "rollback", "from": report.from_release, "to": report.to_release}
    return line | {
        "kind": "upgrade",
        "from": report.former.release,
        "to": report.new.release,
        "from_version": report.former.version,
        "to_version": report.new.version,
        "commit": report.new.commit,
    }


class History(NamedTuple):
    """How upgrades went, by the lines of upgrades.jsonl."""

    upgrades: int
    """Those that were carried out, whatever became of them."""
    failed: int
    """Of these, the ones that were rolled back because they did not work."""
    taken_back: int
    """Of these, the ones that worked, and that somebody went back over."""
    given_up: int
    """Beside these: ended before anything live had changed."""

    @property
    def success_rate(self) -> float | None:
        """The share of upgrades that worked, from 0 to 1; None before the first."""
        return (self.upgrades - self.failed) / self.upgrades if self.upgrades else None


def read_history(lines: Iterable[Mapping[str, object]]) -> History:
    """A rollback's line is about the upgrade to the release that it left, and to the one that it came to."""
    upgrades: list[tuple[object, str]] = []
    given_up = 0
    for line in lines:
        outcome = line.get("outcome")
        if line.get("kind") == "rollback" and outcome == "completed":
            became = "failed" if line.get("by") == PROBATION else "taken back"
            for n, (to, state) in enumerate(upgrades):
                if to == line.get("from") and state == "stands":
                    upgrades[n] = (to, became)
                elif to == line.get("to") and state == "taken back":
                    upgrades[n] = (to, "stands")
        elif line.get("kind") == "upgrade":
            if outcome == "aborted":
                given_up += 1
            else:
                upgrades.append((line.get("to"), "stands" if outcome == "completed" else "failed"))
    states = [state for _, state in upgrades]
    return History(len(upgrades), states.count("failed"), states.count("taken back"), given_up)


def _started_without(flags: Sequence[str]) -> tuple[str, ...]:
    if not flags:
        return ()
    return (f"the new version does not know {', '.join(flags)} of your server's command: it runs without",)
