"""Decisions on conflicts: how wishes by file or glob meet a plan, and what each file comes to then."""

import difflib
import enum
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.markers import has_conflict_markers
from mcpkeep.protocol.upgrade.plan import Case, Choice, Decision, Plan, PlannedFile

__all__ = ["Outcome", "decide_conflicts", "outcome_of", "text_of"]

_KINDS = 'a decision is "keep", "take" or {"merge": "the whole text"}'
_NAMED = 3
"""So many nearest names are told."""


class Outcome(enum.Enum):
    """What is done with one file in staging."""

    LEAVE = "leave"
    UPSTREAM = "upstream"
    """Upstream's bytes are written."""
    MERGED = "merged"
    """What the plan merged is written."""
    TEXT = "text"
    """The decision's text is written."""
    REMOVE = "remove"


def outcome_of(file: PlannedFile, decision: Decision | None) -> Outcome:
    """What the plan, and for a conflict its decision, come to. Raises UpgradeFailed where there is none."""
    match file.case:
        case Case.ADD | Case.UPDATE:
            return Outcome.UPSTREAM
        case Case.MERGE:
            return Outcome.MERGED
        case Case.REMOVE:
            return Outcome.REMOVE
        case Case.UNCHANGED | Case.CONVERGED | Case.KEEP | Case.STAYS_DELETED:
            return Outcome.LEAVE
        case Case.CONFLICT:
            if decision is None:
                raise UpgradeFailed(
                    f"the conflict over {file.path!r} has no decision",
                    remediation="decide it by `resolve`: keep, take, or merge with the text",
                    details={"path": file.path},
                )
            return {Choice.KEEP: Outcome.LEAVE, Choice.TAKE: Outcome.UPSTREAM, Choice.MERGE: Outcome.TEXT}[
                decision.choice
            ]


def decide_conflicts(
    plan: Plan,
    wishes: Mapping[str, object],
    *,
    by: str,
    default: Decision | None = None,
) -> Mapping[str, Decision]:
    """Match wishes, by path or glob, to the plan's conflicts; those that none matches get `default`, if any.

    A path beats every glob, and of globs the last wins; `*` matches `/` too. `by` is who wishes.

    Raises:
        UpgradeFailed: a wish is no decision, matches no conflict, or is a text for several files, or one
            with conflict markers.
    """
    paths = [file.path for file in plan.conflicts]
    decided: dict[str, Decision] = {} if default is None else dict.fromkeys(paths, default)
    # Exact paths last, so that they win; a path may look like a glob.
    for name, wish in sorted(wishes.items(), key=lambda item: item[0] in paths):
        decision = _decision(name, wish, by)
        matched = [name] if name in paths else [path for path in paths if fnmatchcase(path, name)]
        if not matched:
            raise _unmatched(name, paths)
        if decision.choice is Choice.MERGE and len(matched) > 1:
            raise UpgradeFailed(
                f"the text for {name!r} would go into {len(matched)} files",
                remediation="decide each of them by its path",
                details={"paths": matched},
            )
        decided |= dict.fromkeys(matched, decision)
    return decided


def text_of(path: str, decision: Decision) -> bytes:
    """The bytes of a MERGE decision. Raises UpgradeFailed where there is none, or it has conflict markers."""
    if decision.text is None:
        raise UpgradeFailed(f"the merge of {path!r} has no text", remediation='answer {"merge": TEXT} for it')
    try:
        text = decision.text.encode()
    except UnicodeEncodeError as error:
        raise UpgradeFailed(
            f"the text for {path!r} has half a character at {error.start}",
            remediation="send the text again, as valid unicode",
        ) from error
    if has_conflict_markers(text):
        raise UpgradeFailed(
            f"the text for {path!r} has conflict markers in it",
            remediation="settle what stands between <<<<<<< and >>>>>>>, and send the text without them",
        )
    return text


class _Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    merge: str


def _decision(name: str, wish: object, by: str) -> Decision:
    try:
        read = msgspec.convert(wish, Literal["keep", "take"] | _Text)
    except msgspec.ValidationError as error:
        raise UpgradeFailed(f"{wish!r:.80} for {name!r} is no decision", remediation=_KINDS) from error
    if not isinstance(read, _Text):
        return Decision(Choice(read), by)
    decision = Decision(Choice.MERGE, by, read.merge)
    text_of(name, decision)
    return decision


def _unmatched(name: str, paths: Sequence[str]) -> UpgradeFailed:
    near = difflib.get_close_matches(name, paths, _NAMED, 0.0)
    if not near:
        return UpgradeFailed(
            f"{name!r} needs no decision: there are no conflicts", remediation="leave it out"
        )
    return UpgradeFailed(
        f"{name!r} matches none of the {len(paths)} conflicts",
        remediation=f"the nearest: {', '.join(map(repr, near))}",
        details={"nearest": near},
    )
