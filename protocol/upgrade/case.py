"""What is to be done with one file: the nine cases, decided from its three states. All of them stand here."""

from mcpkeep.protocol.upgrade.history import State
from mcpkeep.protocol.upgrade.plan import Case, Mode

__all__ = ["decide", "explain", "merge_modes", "merge_states", "needs_merge"]

_LINK: Mode = "120000"


def merge_states(local: State, base: State, upstream: State) -> State | None:
    """What both sides' changes come to where no text is to be merged; None where content is.

    Content and the executable bit are merged apart: they never overlap, since the bit has two values only.
    """
    if _same_content(local, base) or _same_content(local, upstream):
        content = upstream
    elif _same_content(upstream, base):
        content = local
    else:
        return None
    return content if content.mode == _LINK else State(content.oid, merge_modes(local, base, upstream))


def merge_modes(local: State, base: State, upstream: State) -> Mode:
    """Whether the merged file may be executed; where none of the three is a link, both sides may have changed
    it only alike.
    """
    changed: list[Mode] = [state.mode for state in (local, upstream) if state.mode not in (base.mode, _LINK)]
    return changed[0] if changed else base.mode


def needs_merge(local: State | None, base: State | None, upstream: State | None) -> bool:
    """Whether decide() wants to be told what a merge of the three texts comes to."""
    return (
        local is not None
        and base is not None
        and upstream is not None
        and _LINK not in (local.mode, base.mode, upstream.mode)
        and merge_states(local, base, upstream) is None
    )


def decide(
    local: State | None,
    base: State | None,
    upstream: State | None,
    *,
    installed: bool = False,
    moved: bool = False,
    merged: State | None = None,
) -> tuple[Case, State | None] | None:
    """The file's case, and what it comes to where that is a merge; None where there is nothing to plan.

    Args:
        local: what stands there, by the id of the version that it is but for its line endings.
        base: what was last installed; None where that is not known, or nothing was.
        upstream: what the source has; None where it has none.
        installed: there was a base, though it is not known which.
        moved: upstream renamed the file; `local` stands under its former name.
        merged: what the merge comes to where needs_merge(); None where the changes overlap.
    """
    if local is None:
        if upstream is None:
            return None
        return (Case.STAYS_DELETED if installed or base is not None else Case.ADD), None
    if upstream is None:
        return (Case.REMOVE if local == base else Case.KEEP), None
    if local == upstream:
        if moved:
            return Case.UPDATE, None
        return (Case.UNCHANGED if base in (local, None) else Case.CONVERGED), None
    if base is None:
        # Who set the bit is not known; content that is the same needs no decision for it.
        if _same_content(local, upstream):
            return (Case.MERGE, local) if moved else (Case.KEEP, None)
        return Case.CONFLICT, None
    if local == base:
        return Case.UPDATE, None
    if merged is None:
        merged = merge_states(local, base, upstream)
    if merged is None:
        return Case.CONFLICT, None
    if merged == local and not moved:
        return Case.KEEP, None
    return Case.MERGE, merged


def explain(
    case: Case,
    *,
    local: State | None,
    base: State | None,
    upstream: State | None,
    former: str | None,
    origin: str,
) -> str:
    """The plan's few words for people on why it is so; `origin` says why no base is known."""
    match case:
        case Case.UNCHANGED:
            words = "as upstream has it"
        case Case.CONVERGED:
            words = "changed here and upstream alike"
        case Case.UPDATE:
            words = "not edited" if former is not None else "not edited; changed upstream"
        case Case.KEEP if upstream is None:
            words = "edited by you; removed upstream"
        case Case.KEEP if base is None:
            words = "only its executable bit differs"
        case Case.KEEP if base == upstream:
            words = "edited by you; unchanged upstream"
        case Case.KEEP:
            words = "edited by you; has upstream's change already"
        case Case.MERGE:
            words = "edited by you; upstream changed other lines"
            if upstream is not None and base is not None and _same_content(upstream, base):
                words = "edited by you"
        case Case.CONFLICT if base is None:
            words = origin
        case Case.CONFLICT if (
            local is not None
            and upstream is not None
            and local.mode != upstream.mode
            and (_LINK in (local.mode, upstream.mode))
        ):
            words = "a link on one side, a file on the other"
        case Case.CONFLICT:
            words = "edited by you; upstream changed the same lines"
        case Case.ADD:
            words = "new upstream"
        case Case.STAYS_DELETED:
            words = "deleted by you"
        case Case.REMOVE:
            words = "not edited; removed upstream"
    return words if former is None else f"{words}; renamed upstream from {former}"


def _same_content(one: State, other: State) -> bool:
    return one.oid == other.oid and (one.mode == _LINK) == (other.mode == _LINK)
