"""Gates: what a phase's evidence must be, read from `gate-definition.yaml`.

A gate that cannot be read is an error, never a gate that lets everything through.
"""

from collections.abc import Mapping
from typing import Literal, cast, get_args

import msgspec

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.workflow.expression import Expression, ExpressionError, parse_expression
from mcpkeep.protocol.workflow.plain_yaml import PlainYamlError, read_yaml

__all__ = [
    "CrossRule",
    "EvidenceField",
    "FieldType",
    "Gate",
    "GateError",
    "bind_validator",
    "parse_gate",
]

FieldType = Literal["boolean", "integer", "number", "string", "object", "list"]

MAX_FIELDS = 200
MAX_RULES = 100


class GateError(McpkeepError):
    """The gate's definition is wrong; the text says where and how to right it."""


class EvidenceField(msgspec.Struct, frozen=True):
    """One entry of `evidence_schema`."""

    name: str
    type: FieldType
    required: bool = True
    """Required unless the definition says `required: false`."""
    description: str = ""
    validator: str | None = None
    """The name of one of the gate's validators."""
    validator_params: dict[str, object] = {}


class CrossRule(msgspec.Struct, frozen=True):
    """One entry of `cross_field_validation`; its only argument is the evidence."""

    rule: Expression
    error_message: str


class Gate(msgspec.Struct, frozen=True):
    """A gate definition, understood whole or not at all."""

    strict: bool = False
    allow_override: bool = False
    enabled: bool = True
    """False where the definition says `checkpoint: {enabled: false}`: then it lets everything through."""
    fields: tuple[EvidenceField, ...] = ()
    validators: dict[str, Expression] = {}
    rules: tuple[CrossRule, ...] = ()
    broken: str | None = None
    """File and reason where the definition was not understood: then it lets nothing through."""


def parse_gate(data: bytes) -> Gate:
    """Read the bytes of a `gate-definition.yaml`; raises GateError. Members it does not know are let be."""
    try:
        whole = read_yaml(data)
    except PlainYamlError as error:
        raise GateError(str(error)) from None
    if not isinstance(whole, dict):
        raise GateError("must be a mapping with 'checkpoint' and 'evidence_schema'")
    root = cast("dict[str, object]", whole)
    if not root.keys() & {"checkpoint", "evidence_schema", "cross_field_validation"}:
        raise GateError("has neither 'checkpoint' nor 'evidence_schema'; a gate that asks nothing is no gate")
    checkpoint = _mapping(root, "checkpoint")
    validators = {
        name: _expression(source, f"validator {name!r}")
        for name, source in _mapping(root, "validators").items()
    }
    schema = _mapping(root, "evidence_schema")
    if len(schema) > MAX_FIELDS or len(validators) > MAX_FIELDS:
        raise GateError(f"has more than {MAX_FIELDS} fields or validators")
    return Gate(
        strict=_flag(checkpoint, "strict", default=False, where="checkpoint"),
        allow_override=_flag(checkpoint, "allow_override", default=False, where="checkpoint"),
        enabled=_flag(checkpoint, "enabled", default=True, where="checkpoint"),
        fields=tuple(_field(name, entry, validators) for name, entry in schema.items()),
        validators=validators,
        rules=_rules(root.get("cross_field_validation")),
    )


def _mapping(parent: Mapping[str, object], name: str) -> dict[str, object]:
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GateError(f"{name!r} must be a mapping, not {value!r:.100}")
    return cast("dict[str, object]", value)


def _flag(parent: Mapping[str, object], name: str, *, default: bool, where: str) -> bool:
    value = parent.get(name, default)
    if not isinstance(value, bool):
        raise GateError(f"{where}: {name!r} must be true or false, not {value!r:.100}")
    return value


def _expression(source: object, where: str) -> Expression:
    if not isinstance(source, str):
        raise GateError(f"{where} must be a lambda in quotes, not {source!r:.100}")
    try:
        return parse_expression(source)
    except ExpressionError as error:
        raise GateError(f"{where}: {error}") from None


def _field(name: str, entry: object, validators: Mapping[str, Expression]) -> EvidenceField:
    where = f"field {name!r}"
    if not isinstance(entry, dict):
        raise GateError(f"{where} must be a mapping with a 'type', not {entry!r:.100}")
    members = cast("dict[str, object]", entry)
    kind = members.get("type")
    if kind not in get_args(FieldType):
        raise GateError(f"{where}: type must be one of {', '.join(get_args(FieldType))}, not {kind!r:.100}")
    validator = members.get("validator")
    params = _mapping(members, "validator_params")
    if validator is not None:
        if not isinstance(validator, str) or validator not in validators:
            known = ", ".join(validators) or "none"
            raise GateError(f"{where}: there is no validator {validator!r:.100}; there are {known}")
        try:
            bind_validator(validators[validator], None, params)
        except KeyError as error:
            raise GateError(f"{where}: validator_params lacks {error.args[0]!r}") from None
    return EvidenceField(
        name=name,
        type=cast(FieldType, kind),
        required=_flag(members, "required", default=True, where=where),
        description=str(members.get("description") or ""),
        validator=validator,
        validator_params=params,
    )


def _rules(value: object) -> tuple[CrossRule, ...]:
    if value is None:
        return ()
    entries = cast("list[object]", value)
    if not isinstance(value, list) or len(entries) > MAX_RULES:
        raise GateError(f"'cross_field_validation' must be a list of at most {MAX_RULES} rules")
    found: list[CrossRule] = []
    for number, entry in enumerate(entries, 1):
        where = f"cross-field rule {number}"
        if not isinstance(entry, dict):
            raise GateError(f"{where} must be a mapping with 'rule' and 'error_message'")
        members = cast("dict[str, object]", entry)
        rule = _expression(members.get("rule"), where)
        if len(rule.parameters) != 1:
            raise GateError(f"{where}: takes one parameter, the evidence")
        found.append(CrossRule(rule=rule, error_message=str(members.get("error_message") or rule.source)))
    return tuple(found)


def bind_validator(expression: Expression, value: object, params: Mapping[str, object]) -> dict[str, object]:
    """A validator's arguments: first the value, then `validator_params` by name, or as a whole.

    Raises KeyError with the name that is missing; never for a gate that `parse_gate` gave.
    """
    first, *others = expression.parameters
    if len(others) == 1 and others[0] not in params:
        return {first: value, others[0]: dict(params)}
    return {first: value, **{name: params[name] for name in others}}
