"""The actions on phases: begin, show, complete, repeat, return to them."""

import anyio.to_thread
import msgspec

from mcpkeep.actors.phase_runs import InProgress, Outcome, PhaseFailed
from mcpkeep.actors.workflow_desk import Desk, Members, find_phase
from mcpkeep.protocol.workflow.answer import artifacts_of, attempt_of, error_members, key_of, summary_of
from mcpkeep.protocol.workflow.content import name_phase, overview
from mcpkeep.protocol.workflow.definition import Phase, WorkflowDefinition
from mcpkeep.protocol.workflow.refusal import ClaimRefused, EvidenceRefused, InvalidArgument, StateConflict
from mcpkeep.protocol.workflow.request import (
    CompletePhase,
    GetPhase,
    GetTask,
    Resume,
    RetryPhase,
    Rollback,
    Start,
)
from mcpkeep.protocol.workflow.session import (
    Action,
    Session,
    SessionError,
    Status,
    paused_seconds,
    require,
    require_current,
    require_reachable,
)
from mcpkeep.protocol.workflow.verdict import Verdict, judge

__all__ = ["complete_phase", "get_phase", "get_task", "resume", "retry_phase", "rollback", "start"]


async def start(desk: Desk, asked: Start) -> Members:
    if not await desk.catalog.is_inside(asked.target_file):
        raise InvalidArgument(
            f"target_file {asked.target_file[:200]!r} leads out of the workspace, by a link",
            "name a file within the workspace",
        )
    options = asked.options or {}
    workflow = await desk.catalog.resolve(asked.workflow_type, options)
    phase = find_phase(workflow, workflow.first_phase)
    content = await desk.catalog.content(phase)
    begun = await desk.sessions.start(
        workflow_type=workflow.workflow_type,
        target_file=asked.target_file,
        first_phase=phase.number,
        last_phase=workflow.phases[-1].number,
        options=options,
    )
    session = begun.session
    return {
        "session_id": session.session_id,
        "workflow_type": session.workflow_type,
        "target_file": session.target_file,
        "current_phase": session.current_phase,
        "total_phases": session.total_phases,
        "phase_content": content,
        "workflow_overview": overview(workflow),
        **({"acknowledgment_required": True} if workflow.acknowledgment_required else {}),
        **({"existing_sessions": [summary_of(other) for other in begun.existing]} if begun.existing else {}),
        **({"warnings": workflow.warnings} if workflow.warnings else {}),
    }


async def get_phase(desk: Desk, asked: GetPhase) -> Members:
    session = await desk.sessions.get(asked.session_id)
    current = session.current_phase
    earlier = {phase: artifact for phase, artifact in session.artifacts.items() if phase < current}
    return {
        "current_phase": current,
        "total_phases": session.total_phases,
        "phase_content": await desk.content_of(session, current),
        "artifacts_from_previous_phases": artifacts_of(earlier),
        **({"workflow_complete": True} if session.status is Status.COMPLETED else {}),
    }


async def get_task(desk: Desk, asked: GetTask) -> Members:
    session = await desk.sessions.get(asked.session_id)
    phase = find_phase(await desk.definition_of(session), asked.phase)
    return {
        "phase": asked.phase,
        "task_number": asked.task_number,
        "task_content": await desk.catalog.task(phase, asked.task_number),
    }


async def complete_phase(desk: Desk, asked: CompletePhase) -> Members:
    session = await desk.sessions.get(asked.session_id)
    workflow = await desk.definition_of(session)
    phase = find_phase(workflow, asked.phase)

    async def conclude(outcome: Outcome) -> Members:
        now = await desk.sessions.get(asked.session_id)
        if isinstance(outcome, PhaseFailed):
            return await _fail(desk, now, phase, outcome)
        contradicted = _contradictions(asked.evidence, outcome)
        return await _pass_or_refuse(desk, now, workflow, phase, outcome, contradicted)

    if desk.runs.runner(session.workflow_type) is None:
        require(session, Action.COMPLETE)
        require_current(session, asked.phase, Action.COMPLETE)
        return await _pass_or_refuse(desk, session, workflow, phase, asked.evidence, ())
    if not desk.runs.has(session.session_id):
        require(session, Action.COMPLETE)
        require_current(session, asked.phase, Action.COMPLETE)
    answer = await desk.runs.attach(
        session,
        asked.phase,
        evidence=asked.evidence,
        conclude=conclude,
        listen=lambda steps, step: desk.progress(steps, None, step),
    )
    if isinstance(answer, InProgress):
        return {
            "phase": asked.phase,
            "in_progress": True,
            "step": answer.step,
            "retry_after_seconds": answer.retry_after_seconds,
        }
    return answer


async def retry_phase(desk: Desk, asked: RetryPhase) -> Members:
    session = await desk.sessions.get(asked.session_id)
    desk.runs.require_idle(session.session_id)
    require(session, Action.RETRY)
    require_current(session, asked.phase, Action.RETRY)
    content = await desk.content_of(session, asked.phase)
    reset = bool(asked.reset_evidence)
    changed = await desk.sessions.retry(session.session_id, asked.phase, reset_evidence=reset, seen=session)
    return {
        "phase": asked.phase,
        "retrying": True,
        "evidence_reset": reset,
        "attempt": attempt_of(changed.after),
        "phase_content": content,
        "previous_errors": error_members([e for e in session.errors if e.phase == asked.phase]),
    }


async def rollback(desk: Desk, asked: Rollback) -> Members:
    session = await desk.sessions.get(asked.session_id)
    to_phase = asked.to_phase
    require_reachable(session, to_phase)
    content = await desk.content_of(session, to_phase)
    runner = desk.runs.runner(session.workflow_type)
    if runner is not None:
        await desk.runs.abort(session.session_id)
        try:
            await runner.undo(session, to_phase)
        except PhaseFailed as failed:
            raise StateConflict(f"the rollback failed: {failed}", failed.remediation) from failed
        session = await desk.sessions.get(asked.session_id)
    changed = await desk.sessions.roll_back(session.session_id, to_phase, seen=session)
    cleared = sorted(session.artifacts.keys() - changed.after.artifacts.keys())
    return {
        "rolled_back": True,
        "from_phase": session.current_phase,
        "to_phase": to_phase,
        "artifacts_cleared": [key_of(phase) for phase in cleared],
        "phase_content": content,
    }


async def resume(desk: Desk, asked: Resume) -> Members:
    session = await desk.sessions.get(asked.session_id)
    require(session, Action.RESUME)
    content = await desk.content_of(session, session.current_phase)
    changed = await desk.sessions.resume(session.session_id, seen=session)
    return {
        "resumed": True,
        "current_phase": session.current_phase,
        "paused_duration_seconds": paused_seconds(session, changed.after.last_updated),
        "phase_content": content,
    }


async def _pass_or_refuse(
    desk: Desk,
    session: Session,
    workflow: WorkflowDefinition,
    phase: Phase,
    evidence: Members,
    contradicted: tuple[str, ...],
) -> Members:
    """Judge the evidence and make the verdict part of the session. Raises EvidenceRefused."""
    verdict = await anyio.to_thread.run_sync(judge, phase.gate, evidence)
    kind = ClaimRefused if verdict.passed else EvidenceRefused
    if contradicted:
        verdict = msgspec.structs.replace(
            verdict,
            passed=False,
            validation_errors=(*verdict.validation_errors, *contradicted),
            remediation=verdict.remediation or "leave out what mcpkeep measures itself",
        )
    if not verdict.passed:
        raise await _refuse(desk, session, phase, evidence, verdict, kind)
    following = workflow.next_phase(phase.number)
    content = await desk.catalog.content(following) if following is not None else None
    await desk.sessions.pass_gate(
        session.session_id,
        phase.number,
        evidence=evidence,
        next_phase=following.number if following is not None else None,
        last_phase=workflow.phases[-1].number,
        seen=session,
    )
    return {
        "checkpoint_passed": True,
        "phase_completed": phase.number,
        "evidence_accepted": verdict.evidence_accepted,
        "next_phase": name_phase(following) if following is not None else None,
        "next_phase_content": content,
        "workflow_complete": following is None,
        **({"override_reason": verdict.override_reason} if verdict.override_reason is not None else {}),
        **({"warnings": verdict.warnings} if verdict.warnings else {}),
    }


async def _refuse(
    desk: Desk,
    session: Session,
    phase: Phase,
    evidence: Members,
    verdict: Verdict,
    kind: type[EvidenceRefused],
) -> EvidenceRefused:
    """Put the refusal on record, and give it."""
    missing = f"missing: {', '.join(verdict.missing_evidence)}" if verdict.missing_evidence else ""
    said = "; ".join(filter(None, (missing, *verdict.validation_errors)))
    text = f"the gate of phase {phase.number} refused the evidence: {said}"
    verdicts = {
        "missing_evidence": verdict.missing_evidence,
        "validation_errors": verdict.validation_errors,
    }
    error = SessionError(
        phase=phase.number,
        timestamp=desk.sessions.now(),
        error_type=EvidenceRefused.error_type,
        message=text,
        details=verdicts,
        remediation=verdict.remediation,
    )
    await desk.sessions.refuse_gate(
        session.session_id, phase.number, evidence=evidence, error=error, seen=session
    )
    warnings = {"warnings": verdict.warnings} if verdict.warnings else {}
    return kind(
        text, verdict.remediation, checkpoint_passed=False, phase=phase.number, **verdicts, **warnings
    )


async def _fail(desk: Desk, session: Session, phase: Phase, failed: PhaseFailed) -> Members:
    """The session fails with its phase; the answer is a refusal that was decided."""
    error = SessionError(
        phase=phase.number,
        timestamp=desk.sessions.now(),
        error_type=EvidenceRefused.error_type,
        message=str(failed),
        details=failed.details,
        remediation=failed.remediation,
    )
    await desk.sessions.fail(session.session_id, error=error, seen=session)
    return {
        "status": "error",
        "error": f"phase {phase.number} failed: {failed}",
        "error_type": EvidenceRefused.error_type,
        "remediation": failed.remediation,
        "checkpoint_passed": False,
        "phase": phase.number,
        "missing_evidence": (),
        "validation_errors": (str(failed),),
        "session_status": Status.FAILED,
    }


def _contradictions(claimed: Members, measured: Members) -> tuple[str, ...]:
    """What an agent says against what was measured; the rest of what it says is let be."""
    return tuple(
        f"field {name!r}: the evidence says {_short(value)}, and mcpkeep measured {_short(measured[name])}"
        for name, value in claimed.items()
        if name in measured and value is not None and value != measured[name]
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
