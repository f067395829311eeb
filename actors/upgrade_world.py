"""What the upgrade actor needs of the world. The supervisor supplies these; tests supply fakes.

Each raises UpgradeFailed where it is refused or fails, with what it had begun taken back; blocking work runs
in threads, and cancellation is heeded between files. Paths are absolute unless said otherwise.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import msgspec

from mcpkeep.actors.actor import Actor
from mcpkeep.protocol.upgrade.backup import BackupMessage
from mcpkeep.protocol.upgrade.change import ChangeOrder, ChangeRecord, RollbackPlan
from mcpkeep.protocol.upgrade.facts import SourceFacts, TargetFacts
from mcpkeep.protocol.upgrade.journal import Begun, JournalRecord, JournalState
from mcpkeep.protocol.upgrade.late_edit import LateEdit, Standing
from mcpkeep.protocol.upgrade.plan import Applied, Decision, Plan
from mcpkeep.protocol.upgrade.probation import Probation
from mcpkeep.protocol.upgrade.proof import Proof, SmokeTest
from mcpkeep.protocol.upgrade.release import InstallerMessage, Release
from mcpkeep.protocol.upgrade.request import UpgradeAnswer, UpgradeMessage
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport

__all__ = [
    "Answering",
    "Candidates",
    "Changes",
    "Contents",
    "Journals",
    "LiveMeasures",
    "LiveServer",
    "Progress",
    "Records",
    "Sources",
    "Targets",
    "UpgradeLock",
    "UpgradeWorld",
    "Validation",
]

Progress = Callable[[str], None]
"""Takes the name of each step as it begins; never blocks or raises."""


Answering = Callable[[UpgradeMessage, Callable[[str, str], None]], Awaitable[UpgradeAnswer]]
"""Asks the upgrade actor, wherever it is; session and step are told on the way. Raises UpgradeFailed."""


class Sources(Protocol):
    """Source repositories; read through their objects, never changed, never their working trees."""

    async def inspect(self, path: str, *, require_signed: bool) -> SourceFacts:
        """Find out all that phase 0 wants to know; what is wrong is in `problems`, all of it at once."""
        ...

    async def export_code(self, path: str, commit: str, folder: str) -> int:
        """Write mcp_server/ and scripts/ of the commit into `folder`, durably; how many files."""
        ...


class Targets(Protocol):
    """The installation in the workspace."""

    async def inspect(self) -> TargetFacts: ...


class Contents(Protocol):
    """The three-way plan, its diffs, and its application in staging."""

    async def plan(self, source: SourceFacts, *, content: bool, code: bool) -> Plan:
        """Plan the parts that are asked for. Changes nothing, not even a timestamp."""
        ...

    async def diffs(self, plan: Plan, paths: Sequence[str]) -> Mapping[str, str]:
        """Unified diffs from what stands there to what would, by path; a word in place of a binary one."""
        ...

    async def compare(self, plan: Plan, release_id: str) -> tuple[str, ...]:
        """What upstream's own script would do otherwise, in lines for the report; its dry run is made by the
        release's interpreter on copies.
        """
        ...

    async def stale(self, plan: Plan) -> tuple[str, ...]:
        """What has changed since the plan was made: paths, or `source`."""
        ...

    async def verify_staged(self, plan: Plan, session_id: str, applied: Applied) -> tuple[str, ...]:
        """The paths whose staged file is not what the plan and its decisions come to."""
        ...

    async def unindexed(self, plan: Plan, session_id: str) -> tuple[str, ...]:
        """Live standards outside the plan that are not as staging was filled with them: an index that was
        made there does not know them.
        """
        ...

    async def expected(self, plan: Plan, paths: Sequence[str]) -> Mapping[str, str | None]:
        """SHA-256 of each live file as the plan saw it, None for absent; of paths outside the plan, as it is.

        Raises UpgradeFailed where a file of the plan is another by now.
        """
        ...

    async def exchange_baseline(
        self, session_id: str, undone: Sequence[str], *, lacking: Sequence[str] = ()
    ) -> None:
        """Bring back the baseline that stood before the first of the changes `undone`, keeping the present
        one for the way back behind `session_id`; it stays that of the paths `lacking`, to which nothing
        was brought back.
        """
        ...

    async def fill_staging(self, session_id: str) -> None:
        """Make staging/<session>/: a workspace whose `.praxis-os` is a copy of the live content, code,
        scripts and settings with their mtimes, without caches, venv, backups and mcpkeep's own folder.
        """
        ...

    async def apply(self, plan: Plan, session_id: str, decisions: Mapping[str, Decision]) -> Applied:
        """Carry the plan out in staging, and put the side not taken into conflicts/<session>/.

        Raises UpgradeFailed where a conflict has no decision.
        """
        ...

    async def take_code(self, session_id: str, folder: str) -> None:
        """Copy the staged mcp_server/ and scripts/ into `folder`, durably: what the release is made of."""
        ...

    async def renew_baseline(self, plan: Plan, session_id: str, *, lacking: Sequence[str]) -> None:
        """Make baseline/ what upstream's version of each planned file is now; atomically, as a whole.

        Of the paths `lacking`, which do not have that version in them, it is the version they had before.
        """
        ...

    async def remove_staging(self, session_id: str) -> None: ...

    async def forget_conflicts(self, session_id: str) -> None:
        """Remove the sides that the session's decisions laid aside: its upgrade did not happen."""
        ...


class UpgradeLock(Protocol):
    """`.upgrade-lock`: one upgrade or rollback at a time."""

    async def acquire(self, session_id: str) -> None:
        """Take it; taken over from a dead owner, retaken by the same session. Raises UpgradeFailed, which
        names the session, process and time of the owner.
        """
        ...

    async def release(self) -> None: ...

    def owner(self) -> Mapping[str, object] | None:
        """Who holds it, alive or dead: session_id, started_at, pid, alive; None where nobody does."""
        ...


class Journals(Protocol):
    """journal/<session>.jsonl; each append is durable when it returns."""

    async def begin(self, begun: Begun) -> None: ...

    async def append(self, session_id: str, record: JournalRecord) -> None: ...

    async def read(self, session_id: str) -> JournalState | None: ...

    async def open(self) -> tuple[JournalState, ...]:
        """Those that have not ended, oldest first."""
        ...


class Changes(Protocol):
    """The live tree's change to another release and back, in journalled groups of steps."""

    async def prepare_first(self, order: ChangeOrder) -> None:
        """Give the old files a second name in changes/<session>/, and copy there, durably, what of the new
        bytes swap_first() brings in. Nothing live is touched.

        Raises UpgradeFailed where a live file is not what the plan saw.
        """
        ...

    async def prepare_rest(self, order: ChangeOrder) -> None:
        """The same for what swap_rest() brings in; may be called beside the start of a server.

        Raises UpgradeFailed as prepare_first().
        """
        ...

    async def swap_first(self, order: ChangeOrder) -> None:
        """Save the server's state file; bring the index and scripts/ in. Taken back where it fails."""
        ...

    async def swap_rest(self, order: ChangeOrder) -> tuple[LateEdit, ...]:
        """Bring everything else in, and point `current` and `venv` at the release. Taken back where it fails.

        Answers what became of the files that the user saved since prepare(): merged with the new version
        where that can be, or back in place with the new version in conflicts/<session>/late/. Raises
        CodeEdited where that was the server's code.
        """
        ...

    async def settle(self, session_id: str) -> None:
        """The former server has ended or is frozen: remove what its index was lent. May be called again."""
        ...

    async def keep_spares(self, session_id: str) -> None:
        """Copy what the session's change took out, so that going back over it waits for no copying.

        May be called again. Raises UpgradeFailed where the disk fails; the way back is as sure without.
        """
        ...

    async def undo(self, session_id: str) -> tuple[str, ...]:
        """Take back every group of the session that was begun or done. May be called again.

        Answers the paths that the user changed meanwhile: the user's stand there, the others lie in
        conflicts/<session>/late/.
        """
        ...

    async def discard(self, session_id: str) -> None:
        """Remove what was prepared for a change that was not made, or was taken back; nothing else."""
        ...

    async def records(self) -> tuple[ChangeRecord, ...]:
        """The changes that have been made and not pruned, oldest first."""
        ...

    async def plan_first(self, session_id: str, to: str | None) -> RollbackPlan:
        """Stage the way back to a release or backup by its id, or the former release, as far as
        swap_first() brings it in: a reverse three-way merge per file that changed since.

        Raises UpgradeFailed where there is none, naming what there is.
        """
        ...

    async def plan_rest(self, first: RollbackPlan, to: str | None) -> RollbackPlan:
        """Stage the rest of it, beside the start of a server; the whole plan. Raises UpgradeFailed."""
        ...

    async def plan_restored(
        self, session_id: str, release_id: str, carried_over: Sequence[str]
    ) -> ChangeOrder:
        """After folders were restored from a backup: the switch to its release, which also removes what of
        the files that were carried over an upgrade had brought and nobody edited. Raises UpgradeFailed.
        """
        ...

    async def damaged(self) -> tuple[str, ...]:
        """Files of the current release whose installed bytes are neither the release's nor the user's edit:
        unreadable, empty where they were not, or missing with their whole folder.
        """
        ...

    async def look_after(self, session_id: str) -> Standing:
        """Compare what the session's change installed with what stands there: damage, and the user's edits
        since it was prepared. The side that does not stand is put aside.
        """
        ...

    async def forget(self) -> None:
        """Forget every change: what stands there now came about in another way. May be called again."""
        ...

    async def prune(self, keep: Sequence[str]) -> None:
        """Forget the changes that lead to or from none of these releases."""
        ...


class LiveServer(Protocol):
    """The server that serves the workspace's clients, or nobody where no mcpkeep runs."""

    @property
    def serving(self) -> bool:
        """Whether there is one that clients are attached to."""
        ...

    @property
    def release(self) -> str | None:
        """The release of the one that serves; None where it is of none."""
        ...

    @property
    def pid(self) -> int | None:
        """Of the server that can be called; None where there is none."""
        ...

    def is_up(self, release_id: str) -> bool:
        """Whether a server of that release can be called."""
        ...

    async def tools(self) -> Mapping[str, str]:
        """Its tools: name to SHA-256 of their description and schemas. Empty where none serves."""
        ...

    async def call(
        self, tool: str, arguments: Mapping[str, object], *, within: float
    ) -> Mapping[str, object]:
        """Call one of its tools, and answer the result object. Seconds. Raises UpgradeFailed."""
        ...

    async def start(self, release_id: str, *, progress: Progress) -> None:
        """Start a server of that release on the live workspace, beside the serving one, up to its handshake.

        Under `hold`, the serving one is ended first and calls wait. A frozen one of that release is woken
        only by promote().
        """
        ...

    async def promote(self, *, freeze: bool) -> None:
        """Move requests to the started one; what is in flight at the old one gets 5 seconds. Then the old
        one is frozen, or ended by SIGTERM without closing its stdin (on EOF it would delete a state file
        that is its successor's by then).
        """
        ...

    async def drop(self) -> None:
        """End the started one; the old one goes on. May be called where none was started."""
        ...

    def frozen(self) -> str | None:
        """The release of the frozen server; None where there is none."""
        ...

    async def end_frozen(self) -> None: ...

    def stderr_since_switch(self) -> tuple[str, ...]:
        """The last lines of its stderr, oldest first."""
        ...


class LiveMeasures(msgspec.Struct, frozen=True):
    """What was measured of the live server from outside; None where this system cannot tell."""

    release_folder: str
    code_path: str
    browser_wanted: bool
    watchers: bool | None
    index_current: bool | None
    unit_tests: bool | None


class Validation(Protocol):
    """Looks at the live server from outside, without writing anything into the workspace."""

    async def measure(self, release_id: str, pid: int | None) -> LiveMeasures:
        """Measure the server of that release, which runs as `pid`."""
        ...


class Candidates(Protocol):
    """Servers that are tried in a staging workspace, away from all clients."""

    async def prove(
        self,
        release: Release,
        session_id: str,
        *,
        carry_index: bool,
        smoke: Sequence[SmokeTest],
        progress: Progress,
    ) -> Proof:
        """Boot the release in staging/<session>/, handshake, list tools, make the smoke tests, end it.

        The live index is carried where the candidate can use it, else built. Raises UpgradeFailed with
        the exit and the last lines of stderr where it does not start, is silent, or crashes.
        """
        ...


class Records(Protocol):
    """The files that people read afterwards."""

    async def stage(self, session_id: str, source: SourceFacts) -> tuple[str, ...]:
        """Write VERSION.txt and UPDATE_LOG.txt as they will be into the staged installation.

        Answers which of them become live with the commit: VERSION.txt, so that a rollback takes it back.
        """
        ...

    async def write_validation(self, at: str, report: Mapping[str, object]) -> str:
        """Write .cache/upgrade-validation-<at>.json; its path relative to the workspace."""
        ...

    async def write_summary(self, at: str, markdown: str) -> str:
        """Write .cache/upgrade-summary-<at>.md; its path relative to the workspace."""
        ...

    async def write_records(self, *, log_entry: str, summary: str) -> None:
        """Append to UPDATE_LOG.txt, and bring INSTALLATION_SUMMARY.md up to date; durably."""
        ...

    async def record_rollback(self, report: RollbackReport) -> str:
        """Leave all records of a rollback, of one that failed its report; whose path it answers."""
        ...

    async def save_decisions(self, plan_id: str, decisions: Mapping[str, Decision]) -> None:
        """Put the decisions for a plan on record, durably."""
        ...

    async def decisions(self, plan_id: str) -> Mapping[str, Decision]:
        """Those on record; empty where there are none."""
        ...

    async def save_probation(self, probation: Probation | None) -> None:
        """Remember the probation across restarts, or that there is none."""
        ...

    async def latest(self) -> tuple[str, str] | None:
        """The newest summary: its path relative to the workspace, and its text."""
        ...

    async def log_line(self, line: Mapping[str, object]) -> None:
        """Append to upgrades.jsonl."""
        ...

    async def history(self) -> tuple[Mapping[str, object], ...]:
        """The lines of upgrades.jsonl, oldest first."""
        ...

    async def commit(self, paths: Sequence[str], message: str) -> bool:
        """Make a git commit of exactly these paths of the workspace; False where nothing of them is tracked
        or changed.
        """
        ...


class UpgradeWorld(NamedTuple):
    """Everything that an upgrade acts through."""

    sources: Sources
    targets: Targets
    contents: Contents
    lock: UpgradeLock
    journals: Journals
    changes: Changes
    live: LiveServer
    candidates: Candidates
    validation: Validation
    records: Records
    backups: Actor[BackupMessage]
    installer: Actor[InstallerMessage]
    now: Callable[[], datetime]
    """The time of day, in UTC."""
    clock: Callable[[], float]
    """Seconds that never go back."""
    new_id: Callable[[], str]
    scratch: Callable[[str], str]
    """The folder of a session for what is neither staged content nor release; absolute, goes with staging."""
