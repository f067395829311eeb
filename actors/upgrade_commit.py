"""Phases 3 and 4 of an upgrade: prove the new server, commit, switch; then validate the live one."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import anyio
import msgspec

from mcpkeep.actors.both import both
from mcpkeep.actors.smoke import make_smoke_tests
from mcpkeep.actors.upgrade_phases import Context, move_to
from mcpkeep.actors.upgrade_world import Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.change import ChangeOrder
from mcpkeep.protocol.upgrade.evidence import Phase3Evidence, Phase4Evidence
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.late_edit import LateEdit
from mcpkeep.protocol.upgrade.places import BASES, OWN
from mcpkeep.protocol.upgrade.products import Merged, Prepared, Switched, Validated
from mcpkeep.protocol.upgrade.proof import Proof, ToolDiff, compare_tools
from mcpkeep.protocol.upgrade.smoke import (
    BROWSER_TEST,
    SEARCH_TEST,
    WORKFLOW_TEST,
    choose_smoke,
)
from mcpkeep.protocol.upgrade.validation import LiveFacts, Verdict, judge_live, judge_proof, outcome_of

_INDEXED = ("updated", "built")
"""What `Proof.index` says where the candidate added to the index, or made one."""

__all__ = ["commit", "show_time", "switch", "validate"]


async def switch(context: Context, prepared: Prepared, merged: Merged) -> tuple[Phase3Evidence, Switched]:
    """Phase 3: boot the new release in staging and prove it; then the commit and the switch."""
    world = context.world
    _require_fresh(await world.contents.stale(merged.plan))
    old_tools = await world.live.tools()
    context.step("proving the new server in staging")
    proof = await world.candidates.prove(
        merged.release,
        context.session_id,
        carry_index=True,
        smoke=context.settings.smoke,
        progress=context.step,
    )
    verdict = judge_proof(proof, old_tools=old_tools, required=context.settings.required_tools)
    if not verdict.healthy:
        raise _failed(
            "the new server did not pass its proof",
            verdict,
            stderr_tail=proof.stderr_tail,
            proof=msgspec.to_builtins(proof),
        )
    await _require_as_proven(context, merged, proof)
    order = await _order(context, prepared, merged, proof)
    late = await commit(world, order, freeze=context.settings.freeze, step=context.step)
    at = world.now()
    tools: Mapping[str, str] = {}
    with anyio.CancelScope(shield=True):  # a commit that was made is not left without its record
        tools = await world.live.tools()
    lost = sorted(proof.tools.keys() - tools.keys())
    if lost:
        raise UpgradeFailed(
            f"the server that took over lacks tools it had in its proof: {', '.join(lost)}",
            remediation="compare config.json with the one in staging; the former version serves again",
        )
    evidence = Phase3Evidence(
        mcp_server_copied=context.options.code,
        files_copied=len(merged.release.server_files) if context.options.code else 0,
        checksums_verified=True,
        dependencies_installed=True,
        post_install_steps=prepared.post_install,
        server_restarted=True,
        server_restart_time=show_time(at),
        server_health_check="passed",
    )
    # With no server up, nobody knows what the former one offered.
    diff = compare_tools(old_tools, proof.tools) if old_tools else ToolDiff()
    return evidence, Switched(proof=proof, tool_diff=diff, order=order, at=at, late=late)


async def commit(
    world: UpgradeWorld,
    order: ChangeOrder,
    *,
    freeze: bool,
    step: Progress,
    sure: Callable[[], Awaitable[None]] | None = None,
    whole: Callable[[], Awaitable[ChangeOrder]] | None = None,
) -> tuple[LateEdit, ...]:
    """Change the live tree and move the requests over, or leave both as they were.

    Before the server is started, `sure` is awaited, which raises UpgradeFailed where it is not to be. While
    it starts, `whole` answers the order with all of its files, where `order` has only those that come first.
    Answers what became of the files that the user saved meanwhile. Raises CodeEdited, UpgradeFailed.
    """
    late: tuple[LateEdit, ...] = ()
    try:
        await world.changes.prepare_first(order)
        step("bringing the index and the scripts in")
        await world.changes.swap_first(order)
        if sure is not None:
            await sure()
        step("starting the server beside the old one")
        _, order = await both(
            lambda: world.live.start(order.to_release, progress=step),
            lambda: _prepare_rest(world, order, whole),
        )
        with anyio.CancelScope(shield=True):
            # Not before the server is up: one that reads its content while it starts would miss files.
            step("bringing the content in")
            late = await world.changes.swap_rest(order)
            step("moving requests over")
            await world.live.promote(freeze=freeze)
    except BaseException:
        with anyio.CancelScope(shield=True):
            # In this order: under `hold`, dropping it starts the former server again.
            try:
                await world.changes.undo(order.session_id)
            finally:
                await world.live.drop()
            with suppress(UpgradeFailed):
                await world.changes.discard(order.session_id)
        raise
    with suppress(UpgradeFailed), anyio.CancelScope(shield=True):  # what stays there is only dead weight
        await world.changes.settle(order.session_id)
    return late


async def _prepare_rest(
    world: UpgradeWorld, order: ChangeOrder, whole: Callable[[], Awaitable[ChangeOrder]] | None
) -> ChangeOrder:
    if whole is not None:
        order = await whole()
    await world.changes.prepare_rest(order)
    return order


async def _require_as_proven(context: Context, merged: Merged, proof: Proof) -> None:
    """Proving may have taken minutes: neither side is to have changed meanwhile."""
    contents, plan = context.world.contents, merged.plan
    changed = await contents.stale(plan)
    if proof.index in _INDEXED:
        changed += await contents.unindexed(plan, context.session_id)
    _require_fresh(changed)
    altered = await contents.verify_staged(plan, context.session_id, merged.applied)
    if altered:
        raise UpgradeFailed(
            f"what was staged is not what was planned: {', '.join(altered[:10])}",
            remediation="look whether the new server changes its content when it starts, and tell upstream",
            details={"changed": altered},
        )


def _require_fresh(changed: Sequence[str]) -> None:
    if changed:
        phase = 1 if "source" in changed else 2
        raise UpgradeFailed(
            f"the plan is stale, since these changed meanwhile: {', '.join(changed[:10])}",
            remediation=f"go back to phase {phase}, or start the upgrade again, so that it is made anew",
            details={"changed": changed},
        )


async def _order(context: Context, prepared: Prepared, merged: Merged, proof: Proof) -> ChangeOrder:
    written = (*merged.applied.written, *merged.staged_records)
    removed = merged.applied.removed
    return ChangeOrder(
        session_id=context.session_id,
        kind="upgrade",
        from_release=prepared.former.release_id,
        to_release=merged.release.release_id,
        staged_root=f"{OWN}/staging/{context.session_id}/{BASES[0]}",
        written=written,
        removed=removed,
        expected=await context.world.contents.expected(merged.plan, (*written, *removed)),
        # A copy that nothing was added to is not worth losing what the live server indexed meanwhile.
        swap_index=proof.index in _INDEXED,
        backup_id=prepared.backup_id,
    )


async def validate(
    context: Context, prepared: Prepared, merged: Merged, switched: Switched
) -> tuple[Phase4Evidence, Validated]:
    """Phase 4: measure the live server instead of trusting the switch."""
    world, release = context.world, merged.release.release_id
    live = world.live
    if not live.is_up(release):
        context.step("starting the server")
        await move_to(live, release, progress=context.step)
    context.step("validating the live server")
    tools = await live.tools()
    found = await world.validation.measure(release, live.pid)
    # A version may have dropped its browser: then nothing is enabled any more.
    browser = found.browser_wanted and "pos_browser" in tools
    runs = choose_smoke(tools, declared=context.settings.smoke, browser=browser)
    smoke = await make_smoke_tests(live, runs)
    standing = await world.changes.look_after(context.session_id)
    facts = LiveFacts(
        release_folder=found.release_folder,
        code_path=found.code_path,
        tools=tools,
        smoke=smoke,
        damaged=standing.damaged,
        edits=standing.edits,
        watchers=found.watchers,
        index_current=found.index_current,
        stderr=live.stderr_since_switch(),
        unit_tests=found.unit_tests,
    )
    verdict = judge_live(facts, expected_tools=switched.proof.tools, required=context.settings.required_tools)
    report = {
        "release": release,
        "verdict": "passed" if verdict.healthy else "failed",
        "failures": msgspec.to_builtins(verdict.failures),
        "facts": verdict.facts,
        "measured": msgspec.to_builtins(facts),
    }
    path = await world.records.write_validation(f"{world.now():%Y-%m-%d}", report)
    if not verdict.healthy:
        raise _failed(
            "the live server failed its validation", verdict, stderr_tail=facts.stderr, validation_report=path
        )
    searches = outcome_of(smoke, SEARCH_TEST) != "skipped"
    evidence = Phase4Evidence(
        server_version=prepared.source.version,
        tools_registered=len(tools),
        expected_tools=len(switched.proof.tools),
        browser_tools_enabled=browser and outcome_of(smoke, BROWSER_TEST) != "skipped",
        browser_smoke_test=outcome_of(smoke, BROWSER_TEST),
        rag_search_test=outcome_of(smoke, SEARCH_TEST),
        workflow_engine_test=outcome_of(smoke, WORKFLOW_TEST),
        # What this system cannot tell fails nothing; that it was not measured stands in the report's facts.
        file_watchers_active=searches and found.watchers is not False,
        rag_index_current=searches and found.index_current is not False,
        validation_report=path,
        unit_tests_passed=found.unit_tests,
    )
    return evidence, Validated(smoke=smoke, facts=verdict.facts, path=path)


def _failed(what: str, verdict: Verdict, **details: object) -> UpgradeFailed:
    return UpgradeFailed(
        f"{what}: {'; '.join(problem.text for problem in verdict.failures)}",
        remediation="; ".join(dict.fromkeys(problem.remedy for problem in verdict.failures)),
        details={"failures": msgspec.to_builtins(verdict.failures), **details},
    )


def show_time(moment: datetime) -> str:
    """ISO 8601 in UTC, with Z."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
