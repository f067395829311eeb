"""Which version of a file was last installed: the base of its three-way comparison."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from mcpkeep.protocol.upgrade.history import History, State
from mcpkeep.protocol.upgrade.names import part_of
from mcpkeep.protocol.upgrade.plan import Version

__all__ = ["Evidence", "Local", "Origin", "find_origin"]


class Local(NamedTuple):
    """A file as it was found."""

    version: Version
    forms: tuple[str, ...]
    """The object ids it stands for: of its bytes as they are, then with other line endings."""
    sizes: tuple[int, ...]
    """Of each form, in bytes."""


class Origin(NamedTuple):
    """Where a file comes from."""

    base: State | None
    """None where it is not known, or the file was never installed."""
    installed: bool
    """Whether it was installed, even if nobody knows which version."""
    found_in: Literal["history", "baseline", "manifest", "agreed", "nowhere"]


class Evidence(NamedTuple):
    """All that tells what was installed."""

    history: History
    agreed: Mapping[str, State]
    """The files of the commit that most files agree on; empty where there is none."""
    baseline: Callable[[str], Local | None]
    """What was last installed at a path; reads it."""
    baseline_parts: frozenset[str]
    """The installed parts that the baseline is complete for: a file that it lacks there was not installed."""
    manifest: Mapping[str, str]
    """SHA-256 by path, of an installed manifest."""
    checksum: Callable[[str], str | None]
    """The SHA-256 of the file that stands at a path; reads it."""
    upstream_checksum: Callable[[str], str | None]
    """The same of upstream's version."""


def find_origin(
    path: str, local: Local | None, upstream: Version | None, evidence: Evidence, *, names: tuple[str, ...]
) -> Origin:
    """Look in the source's history, the baseline, an installed manifest, the agreed commit, in this order.

    Args:
        path: where the file stands, or would.
        names: the path, and the earlier names of it that stand nowhere else.
    """
    if local is not None:
        for form in local.forms:
            modes = evidence.history.modes(path, form)
            if modes:
                return _of_history(path, local, form, upstream, evidence)
    for name in names:
        kept = evidence.baseline(name)
        if kept is not None:
            mode = kept.version.mode
            # Both may differ from the source's bytes in their line endings, each in its own way.
            shared = next((form for form in kept.forms if local and form in local.forms), None)
            known = next((form for form in kept.forms if evidence.history.modes(path, form)), None)
            return Origin(State(known or shared or kept.version.oid, mode), True, "baseline")
    claimed = evidence.manifest.get(path)
    if claimed is not None:
        if local is not None and evidence.checksum(path) == claimed:
            return Origin(State(local.version.oid, local.version.mode), True, "manifest")
        if upstream is not None and evidence.upstream_checksum(path) == claimed:
            return Origin(State(upstream.oid, upstream.mode), True, "manifest")
    if part_of(path) not in evidence.baseline_parts:
        for name in names:
            if name in evidence.agreed:
                return Origin(evidence.agreed[name], True, "agreed")
    return Origin(None, claimed is not None, "nowhere" if claimed is None else "manifest")


def _of_history(path: str, local: Local, form: str, upstream: Version | None, evidence: Evidence) -> Origin:
    modes = evidence.history.modes(path, form)
    if upstream is not None and form == upstream.oid:
        # It is what upstream has, by whomever; what was installed before tells only how that came.
        before = evidence.agreed.get(path)
        if before is not None and before.oid != form:
            return Origin(before, True, "agreed")
    mode = local.version.mode if local.version.mode in modes else min(modes)
    return Origin(State(form, mode), True, "history")
