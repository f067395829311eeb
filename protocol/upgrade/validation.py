"""The verdicts of phases 3 and 4: what fails an upgrade, and what is only a fact for its report.

Health depends on local causes only. A declared test that failed for want of a network says nothing about the
upgrade; a built-in one touches no network by itself, so its failure counts whatever the cause.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from mcpkeep.protocol.upgrade.facts import Problem
from mcpkeep.protocol.upgrade.late_edit import LateEdit, is_code_path, lacking
from mcpkeep.protocol.upgrade.proof import Proof, SmokeResult, compare_tools
from mcpkeep.protocol.upgrade.smoke import BROWSER_TEST, SEARCH_TEST, WORKFLOW_TEST

__all__ = ["LiveFacts", "Outcome", "Verdict", "judge_live", "judge_proof", "notable_lines", "outcome_of"]

Outcome = Literal["passed", "failed", "skipped"]

_BUILTIN_REMEDIES = {
    WORKFLOW_TEST: "report it upstream, or choose another commit",
    SEARCH_TEST: "look whether the embedding model can be loaded, then upgrade again: it builds the index",
    BROWSER_TEST: "run the post-install step from the report by hand, then upgrade again",
}
_OWN_REMEDY = "change [[upgrade.smoke]] in the configuration if the new answer is right"

_NOTABLE = re.compile(r"^Traceback \(most recent|\b(?:ERROR|CRITICAL|FATAL)\b|^\w*(?:Error|Exception)\b:?")
_NOTABLE_LIMIT = 50


class Verdict(msgspec.Struct, frozen=True):
    """What fails it, and what is worth telling."""

    failures: tuple[Problem, ...]
    facts: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing fails."""
        return not self.failures


class LiveFacts(msgspec.Struct, frozen=True):
    """What was measured of the live server after the switch; None where it could not be, or was not asked."""

    release_folder: str
    code_path: str
    tools: Mapping[str, str]
    smoke: tuple[SmokeResult, ...]
    damaged: tuple[str, ...] = ()
    """Installed files whose bytes are neither those of the plan nor a user's edit."""
    edits: tuple[LateEdit, ...] = ()
    """What the user saved meanwhile."""
    watchers: bool | None = None
    index_current: bool | None = None
    stderr: tuple[str, ...] = ()
    unit_tests: bool | None = None


def judge_proof(proof: Proof, *, old_tools: Mapping[str, str], required: Collection[str]) -> Verdict:
    """Phase 3: whether the candidate may become the server. `old_tools` is empty where they are not known."""
    diff = compare_tools(old_tools, proof.tools) if old_tools else None
    facts = [] if diff is None else _told(added=diff.added, removed=diff.removed, changed=diff.changed)
    failures = [*_lost_tools(proof.tools, required), *_failed_smoke(proof.smoke)]
    return Verdict(tuple(failures), (*facts, *_smoke_facts(proof.smoke)))


def judge_live(live: LiveFacts, *, expected_tools: Mapping[str, str], required: Collection[str]) -> Verdict:
    """Phase 4: whether the server that serves now does what the proof promised."""
    failures = [*_lost_tools(live.tools, required), *_failed_smoke(live.smoke)]
    facts: list[str] = []
    if not _lies_in(live.code_path, live.release_folder):
        failures.append(
            Problem(
                f"the live server loads its code from {live.code_path!r}, not from its release "
                f"{live.release_folder!r}",
                "remove what stands in its way, such as another mcp_server on its path",
            )
        )
    lost = sorted(expected_tools.keys() - live.tools.keys())
    if lost:
        failures.append(
            Problem(
                f"tools that the candidate had are gone from the live server: {', '.join(lost)}",
                "compare config.json with the decision recorded in the plan",
            )
        )
    if live.damaged:
        failures.append(
            Problem(
                f"{len(live.damaged)} installed files are not what was planned: {_few(live.damaged)}",
                "look for another program that writes there, such as a sync tool, or a disk that is full",
            )
        )
    code = [path for path in lacking(live.edits) if is_code_path(path)]
    if code:
        failures.append(
            Problem(
                f"code of the new version was saved over from its former text: {_few(code)}",
                "upgrade again: your edit is then merged, and tried",
            )
        )
    if outcome_of(live.smoke, SEARCH_TEST) != "skipped":
        for measured, what, remedy in (
            (live.watchers, "the server watches no content folder", "raise fs.inotify.max_user_watches"),
            (live.index_current, "the search index does not cover the installed content", "upgrade again"),
        ):
            if measured is False:
                failures.append(Problem(f"{what}, so that edits would not be found by search", remedy))
            elif measured is None:
                facts.append(f"could not be measured on this system: whether {what}")
    if live.unit_tests is False:
        failures.append(Problem("the unit tests failed", "see their output in the validation report"))
    notable = notable_lines(live.stderr)
    if notable:
        facts.append(f"the server wrote {len(notable)} lines about errors since the switch")
    return Verdict(tuple(failures), (*facts, *_smoke_facts(live.smoke)))


def outcome_of(smoke: Sequence[SmokeResult], name: str) -> Outcome:
    """How the test of that name ended; skipped where there was none."""
    for result in smoke:
        if result.name == name:
            return result.status
    return "skipped"


def notable_lines(stderr: Sequence[str]) -> tuple[str, ...]:
    """The last lines that look like errors: facts for the report, since a log's word is no proof."""
    return tuple([line for line in stderr if _NOTABLE.search(line)][-_NOTABLE_LIMIT:])


def _lost_tools(tools: Mapping[str, str], required: Collection[str]) -> list[Problem]:
    if not tools:
        return [Problem("the server offers no tool at all", "report it upstream, or choose another commit")]
    missing = sorted(set(required) - tools.keys())
    return [
        Problem(
            f"the tool {name!r} is gone, and required_tools names it",
            "take it out of required_tools, or stay on the old version",
        )
        for name in missing
    ]


def _failed_smoke(smoke: Sequence[SmokeResult]) -> list[Problem]:
    return [
        Problem(
            f"the test {result.name!r} of the tool {result.tool!r} failed: {result.detail}",
            _BUILTIN_REMEDIES.get(result.name, _OWN_REMEDY),
        )
        for result in smoke
        if result.status == "failed" and not _is_remote(result)
    ]


def _smoke_facts(smoke: Sequence[SmokeResult]) -> list[str]:
    facts: list[str] = []
    for result in smoke:
        if result.status == "skipped":
            facts.append(f"the test {result.name!r} was skipped: {result.detail}")
        elif result.status == "failed" and _is_remote(result):
            facts.append(f"the test {result.name!r} failed for want of a network: {result.detail}")
    return facts


def _is_remote(result: SmokeResult) -> bool:
    return result.remote and result.name not in _BUILTIN_REMEDIES


def _told(**names: Sequence[str]) -> list[str]:
    return [f"tools {kind}: {', '.join(found)}" for kind, found in names.items() if found]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _lies_in(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
