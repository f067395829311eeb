"""The verdict of a gate on what was submitted as evidence."""

import math
from collections.abc import Mapping
from typing import cast

import msgspec

from mcpkeep.protocol.workflow.expression import Effort, ExpressionError, evaluate
from mcpkeep.protocol.workflow.gate import EvidenceField, FieldType, Gate, bind_validator

__all__ = ["BROKEN", "Verdict", "judge"]

MAX_SHOWN = 20
"""How many unknown fields are named in warnings before they are only counted."""

BROKEN = "mend that file; no restart is needed"
"""What to do about a gate that cannot be read."""


class Verdict(msgspec.Struct, frozen=True):
    """What a gate says to some evidence; what it lists as missing or as an error made it fail."""

    passed: bool
    missing_evidence: tuple[str, ...] = ()
    """Names of required fields that were not submitted, in the gate's order."""
    validation_errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remediation: str = ""
    """What to submit, one line per field; empty where the gate passed."""
    evidence_accepted: tuple[str, ...] = ()
    """Names of the fields that met their rules, in the gate's order; all of them where there is no gate."""
    override_reason: str | None = None
    """Set where the evidence failed and an allowed override let it through."""


def judge(gate: Gate | None, evidence: Mapping[str, object]) -> Verdict:
    """Say whether this evidence, the decoded JSON of a call, passes. None is a phase without a gate.

    In order: required fields, unknown fields (warnings), types, validators, and, where all fields stand,
    cross-field rules. An `integer` takes 1 and 1.0 but neither true nor 1.5, a `number` no true either; null
    is as good as absent. Evaluation errors count as failures. Never raises for any evidence.
    """
    if gate is None:
        return _unguarded(evidence, "this phase has no gate: whatever evidence is submitted is accepted")
    if gate.broken is not None:
        reason = f"the gate of this phase cannot be read: {gate.broken}"
        return Verdict(passed=False, validation_errors=(reason,), remediation=BROKEN)
    if not gate.enabled:
        return _unguarded(evidence, "the gate of this phase is switched off by its definition")
    submitted = {name: value for name, value in evidence.items() if name != "override"}
    effort = Effort()
    missing: list[EvidenceField] = []
    failed: list[tuple[EvidenceField, str]] = []
    accepted: list[str] = []
    for field in gate.fields:
        value = evidence.get(field.name)
        if value is None:
            if field.required:
                missing.append(field)
        elif (error := _field_error(gate, field, value, effort)) is not None:
            failed.append((field, error))
        else:
            accepted.append(field.name)
    rule_errors = [] if missing or failed else _rule_errors(gate, submitted, effort)
    verdict = Verdict(
        passed=not (missing or failed or rule_errors),
        missing_evidence=tuple(field.name for field in missing),
        validation_errors=(*(error for _, error in failed), *rule_errors),
        warnings=_unknown(gate, submitted),
        remediation=_remediation([*missing, *(field for field, _ in failed)], rule_errors),
        evidence_accepted=tuple(accepted),
    )
    return verdict if verdict.passed else _overridden(gate, verdict, evidence.get("override"))


def _unguarded(evidence: Mapping[str, object], warning: str) -> Verdict:
    return Verdict(passed=True, warnings=(warning,), evidence_accepted=tuple(evidence))


def _field_error(gate: Gate, field: EvidenceField, value: object, effort: Effort) -> str | None:
    if not _has_type(field.type, value):
        return f"field {field.name!r} must be {field.type}, not {_type_name(value)}"
    if field.validator is None:
        return None
    if field.type == "integer" and isinstance(value, float):
        value = int(value)
    expression = gate.validators[field.validator]
    try:
        passed = evaluate(
            expression, bind_validator(expression, value, field.validator_params), effort=effort
        )
    except ExpressionError as error:
        return f"validator {field.validator!r} could not judge field {field.name!r}: {error}"
    return None if passed else f"validator {field.validator!r} refuses field {field.name!r}"


def _has_type(kind: FieldType, value: object) -> bool:
    match kind:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return _is_integer(value) or (isinstance(value, float) and value.is_integer())
        case "number":
            return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))
        case "string":
            return isinstance(value, str)
        case "object":
            return isinstance(value, dict)
        case "list":
            return isinstance(value, list | tuple)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _type_name(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case dict():
            return "object"
        case _:
            return "list"


def _rule_errors(gate: Gate, submitted: dict[str, object], effort: Effort) -> list[str]:
    errors: list[str] = []
    for rule in gate.rules:
        try:
            if not evaluate(rule.rule, {rule.rule.parameters[0]: submitted}, effort=effort):
                errors.append(f"cross-field rule failed: {rule.error_message}")
        except ExpressionError as error:
            errors.append(f"cross-field rule could not be judged: {rule.error_message} ({error})")
    return errors


def _unknown(gate: Gate, submitted: Mapping[str, object]) -> tuple[str, ...]:
    known = {field.name for field in gate.fields}
    unknown = [name for name in submitted if name not in known]
    shown = tuple(f"field {name!r:.100} is not in the gate's schema, and is not judged" for name in unknown)
    if len(unknown) <= MAX_SHOWN:
        return shown
    return (
        *shown[:MAX_SHOWN],
        f"and {len(unknown) - MAX_SHOWN} more fields that are not in the gate's schema",
    )


def _remediation(fields: list[EvidenceField], rule_errors: list[str]) -> str:
    lines = [
        f"- {field.name} ({field.type}){': ' + field.description if field.description else ''}"
        for field in fields
    ]
    if not lines and not rule_errors:
        return ""
    wanted = ["submit, and call complete_phase again:", *lines] if lines else []
    return "\n".join([*wanted, *(f"- correct: {error}" for error in rule_errors)])


def _overridden(gate: Gate, verdict: Verdict, override: object) -> Verdict:
    """Let failures through as warnings, where the gate is not strict, allows it, and a reason is given."""
    allowed = gate.allow_override and not gate.strict
    if override is None:
        if not allowed:
            return verdict
        hint = 'or add override: {"reason": "..."} to the evidence, which goes on record'
        return msgspec.structs.replace(verdict, remediation=f"{verdict.remediation}\n{hint}")
    if not allowed:
        why = "it is strict" if gate.strict else "its definition does not allow it"
        warning = f"this gate cannot be overridden: {why}"
        return msgspec.structs.replace(verdict, warnings=(*verdict.warnings, warning))
    members = cast("dict[str, object]", override) if isinstance(override, dict) else {}
    reason = members.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        error = "override must be an object with a 'reason' that says something"
        return msgspec.structs.replace(verdict, validation_errors=(*verdict.validation_errors, error))
    failures = (
        *(f"field {name!r} is missing" for name in verdict.missing_evidence),
        *verdict.validation_errors,
    )
    return Verdict(
        passed=True,
        warnings=(*verdict.warnings, *(f"overridden: {failure}" for failure in failures)),
        evidence_accepted=verdict.evidence_accepted,
        override_reason=reason.strip(),
    )
