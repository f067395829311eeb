"""Phases 3 to 5 of an upgrade: prove, commit and switch; validate the live server; close."""

import msgspec

from mcpkeep.actors.upgrade_phases import Context
from mcpkeep.protocol.upgrade.evidence import Phase3Evidence
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.products import Merged, Prepared, Switched
from mcpkeep.protocol.upgrade.proof import compare_tools
from mcpkeep.protocol.upgrade.validation import judge_tools

__all__ = ["commit", "conclude", "switch", "validate"]


async def switch(context: Context, prepared: Prepared, merged: Merged) -> tuple[Phase3Evidence, Switched]:
    """Phase 3: boot the new release in staging and prove it; then the commit and the switch."""
    world = context.world
    await _require_fresh(context, merged)
    old_tools = await world.live.tools()
    context.step("proving the new server in staging")
    proof = await world.candidates.prove(
        merged.to_release,
        context.session_id,
        smoke=context.settings.smoke,
        progress=context.step,
    )
    diff = compare_tools(old_tools, proof.tools)
    failed = judge_tools(proof.tools, diff, required=context.settings.required_tools)
    failed += [
        f"smoke test {smoke.name!r}: {smoke.detail}" for smoke in proof.smoke if smoke.status == "failed"
    ]
    if failed:
        raise UpgradeFailed(
            f"the new server did not pass its proof: {'; '.join(failed)}",
            remediation="nothing live has changed; choose another commit, or mend what the proof expects",
            details={"proof": msgspec.to_builtins(proof)},
        )
    await _require_fresh(context, merged)
    order = await _order(context, prepared, merged, proof)
    raced = await commit(context, order, freeze=context.settings.freeze)
    at = world.now()
    health = await _health(context, proof)
    evidence = Phase3Evidence(
        mcp_server_copied=context.options.code,
        files_copied=len(merged_server_files(prepared, context)),
        checksums_verified=True,
        dependencies_installed=True,
        post_install_steps=prepared.post_install,
        server_restarted=True,
        server_restart_time=at.isoformat().replace("+00:00", "Z"),
        server_health_check=health,
    )
    return evidence, Switched(proof=proof, tool_diff=diff, order=order, at=at, raced=raced)
