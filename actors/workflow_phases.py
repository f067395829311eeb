"""The actions on phases: begin, show, complete, repeat, return to them."""

import msgspec

from mcpkeep.actors.phase_runs import InProgress, Outcome, PhaseFailed
from mcpkeep.actors.workflow_desk import Desk, Members, Shelf, find_phase, resolve, total_of
from mcpkeep.protocol.workflow.answer import artifacts_of, attempt_of, error_members, key_of, summary_of
from mcpkeep.protocol.workflow.content import PhaseContent, name_phase, overview, phase_content
from mcpkeep.protocol.workflow.definition import Phase, WorkflowDefinition, phase_tasks
from mcpkeep.protocol.workflow.refusal import (
    ClaimRefused,
    EvidenceRefused,
    InvalidArgument,
    NotFound,
    StateConflict,
)
from mcpkeep.protocol.workflow.request import (
    CompletePhase,
    GetPhase,
    GetTask,
    Resume,
    RetryPhase,
    Rollback,
    Start,
)
from mcpkeep.protocol.workflow.session import Session, SessionError, Status, paused_seconds
from mcpkeep.protocol.workflow.task import Task, TaskContent, read_task
from mcpkeep.protocol.workflow.transition import Action, require, require_current, require_reachable
from mcpkeep.protocol.workflow.verdict import BROKEN, Verdict, judge

__all__ = ["complete_phase", "get_phase", "get_task", "resume", "retry_phase", "rollback", "start"]


async def start(desk: Desk, asked: Start) -> Members:
    options = asked.options or {}

    def look(shelf: Shelf) -> tuple[WorkflowDefinition, PhaseContent]:
        if not shelf.is_inside(asked.target_file):
            raise InvalidArgument(
                f"target_file {asked.target_file[:200]!r} leads out of the workspace, by a link",
                "name a file within the workspace",
            )
        workflow = shelf.resolve(asked.workflow_type, options)
        first = workflow.phases[0]
        if first.gate is not None and first.gate.broken is not None:
            raise InvalidArgument(f"the workflow's definition is broken: {first.gate.broken}", BROKEN)
        return workflow, phase_content(first)

    workflow, content = await desk.catalog.ask(look)
    begun = await desk.sessions.start(
        workflow_type=workflow.workflow_type,
        target_file=asked.target_file,
        first_phase=workflow.first_phase,
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

    def look(shelf: Shelf) -> tuple[PhaseContent, int]:
        workflow = resolve(shelf, session)
        return phase_content(find_phase(workflow, current)), total_of(workflow, session)

    content, total = await desk.catalog.ask(look)
    earlier = {phase: artifact for phase, artifact in session.artifacts.items() if phase < current}
    return {
        "current_phase": current,
        "total_phases": total,
        "phase_content": content,
        "artifacts_from_previous_phases": artifacts_of(earlier),
        **({"workflow_complete": True} if session.status is Status.COMPLETED else {}),
    }


async def get_task(desk: Desk, asked: GetTask) -> Members:
    session = await desk.sessions.get(asked.session_id)

    def look(shelf: Shelf) -> TaskContent:
        workflow = resolve(shelf, session)
        return read_task(_find_task(find_phase(workflow, asked.phase), asked.task_number))

    content = await desk.catalog.ask(look)
    return {"phase": asked.phase, "task_number": asked.task_number, "task_content": content}


async def complete_phase(desk: Desk, asked: CompletePhase) -> Members:
    session = await desk.sessions.get(asked.session_id)
    runner = desk.runs.runner(session.workflow_type)
    if runner is None or not desk.runs.has(session.session_id):
        require(session, Action.COMPLETE)
    if runner is None:
        return await _pass_or_refuse(desk, session, asked.phase, asked.evidence)
    if not desk.runs.has(session.session_id):
        require_current(session, asked.phase, Action.COMPLETE)

    async def conclude(outcome: Outcome) -> Members:
        now = await desk.sessions.get(asked.session_id)
        if isinstance(outcome, PhaseFailed):
            return await _fail(desk, now, asked.phase, outcome)
        return await _pass_or_refuse(desk, now, asked.phase, outcome, claimed=asked.evidence)

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


class _Examined(msgspec.Struct, frozen=True):
    """What the workflow, as its files are now, says to some evidence."""

    verdict: Verdict
    following: Phase | None
    following_content: PhaseContent | None
    last_phase: int
    guarded: bool


def _examine(shelf: Shelf, session: Session, number: int, evidence: Members) -> _Examined:
    workflow = resolve(shelf, session)
    phase = find_phase(workflow, number)
    require_current(session, number, Action.COMPLETE)
    verdict = judge(phase.gate, evidence)
    following = workflow.next_phase(number) if verdict.passed else None
    content = phase_content(following) if following is not None else None
    guarded = phase.gate is not None and phase.gate.enabled
    return _Examined(verdict, following, content, workflow.phases[-1].number, guarded)


async def _pass_or_refuse(
    desk: Desk, session: Session, phase: int, evidence: Members, *, claimed: Members | None = None
) -> Members:
    """Judge the evidence and make the verdict part of the session.

    `claimed` is what an agent said of a phase whose evidence was measured. Raises EvidenceRefused.
    """
    found = await desk.catalog.ask(lambda shelf: _examine(shelf, session, phase, evidence))
    verdict, following = found.verdict, found.following
    if contradicted := _contradictions(claimed or {}, evidence):
        refused = msgspec.structs.replace(
            verdict,
            passed=False,
            validation_errors=(*verdict.validation_errors, *contradicted),
            remediation=verdict.remediation or "leave out what mcpkeep measures itself",
        )
        kind = ClaimRefused if verdict.passed else EvidenceRefused
        raise await _refuse(desk, session, phase, evidence, refused, kind)
    if not verdict.passed:
        raise await _refuse(desk, session, phase, evidence, verdict, EvidenceRefused)
    await desk.sessions.pass_gate(
        session.session_id,
        phase,
        evidence=evidence,
        next_phase=following.number if following is not None else None,
        last_phase=found.last_phase,
        seen=session,
    )
    return {
        "checkpoint_passed": True,
        "phase_completed": phase,
        "evidence_accepted": verdict.evidence_accepted,
        "next_phase": name_phase(following) if following is not None else None,
        "next_phase_content": found.following_content,
        "workflow_complete": following is None,
        **({"override_reason": verdict.override_reason} if verdict.override_reason is not None else {}),
        **({} if found.guarded else {"warning": verdict.warnings[0]}),
        **({"warnings": verdict.warnings} if verdict.warnings and found.guarded else {}),
    }


async def _refuse(
    desk: Desk,
    session: Session,
    phase: int,
    evidence: Members,
    verdict: Verdict,
    kind: type[EvidenceRefused],
) -> EvidenceRefused:
    """Put the refusal on record, and give it."""
    missing = f"missing: {', '.join(verdict.missing_evidence)}" if verdict.missing_evidence else ""
    said = "; ".join(filter(None, (missing, *verdict.validation_errors)))
    text = f"the gate of phase {phase} refused the evidence: {said}"
    verdicts = {
        "missing_evidence": verdict.missing_evidence,
        "validation_errors": verdict.validation_errors,
    }
    error = SessionError(
        phase=phase,
        timestamp=desk.sessions.now(),
        error_type=EvidenceRefused.error_type,
        message=text,
        details=verdicts,
        remediation=verdict.remediation,
    )
    await desk.sessions.refuse_gate(session.session_id, phase, evidence=evidence, error=error, seen=session)
    warnings = {"warnings": verdict.warnings} if verdict.warnings else {}
    return kind(text, verdict.remediation, checkpoint_passed=False, phase=phase, **verdicts, **warnings)


def _find_task(phase: Phase, number: int) -> Task:
    tasks = {task.number: task for task in phase_tasks(phase)}
    if number not in tasks:
        known = ", ".join(map(str, sorted(tasks)[:50]))
        raise NotFound(
            f"phase {phase.number} has no task {number}",
            f"its tasks are {known}" if known else "it has no tasks; its content says what to do",
        )
    return tasks[number]


async def _fail(desk: Desk, session: Session, phase: int, failed: PhaseFailed) -> Members:
    """The session fails with its phase; the answer is a refusal that was decided."""
    error = SessionError(
        phase=phase,
        timestamp=desk.sessions.now(),
        error_type=EvidenceRefused.error_type,
        message=str(failed),
        details=failed.details,
        remediation=failed.remediation,
    )
    if session.status is not Status.ROLLED_BACK:  # the way back has ended it, with its own reason
        session = (await desk.sessions.fail(session.session_id, error=error, seen=session)).after
    return {
        "status": "error",
        "error": f"phase {phase} failed: {failed}",
        "error_type": EvidenceRefused.error_type,
        "remediation": failed.remediation,
        "checkpoint_passed": False,
        "phase": phase,
        "missing_evidence": (),
        "validation_errors": (str(failed),),
        "session_status": session.status,
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
