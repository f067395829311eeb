"""Gates: reading them from YAML nobody has to trust, and judging evidence by them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.workflow.expression import parse_expression
from mcpkeep.protocol.workflow.gate import CrossRule, EvidenceField, Gate, GateError, parse_gate
from mcpkeep.protocol.workflow.plain_yaml import PlainYamlError, read_yaml
from mcpkeep.protocol.workflow.verdict import Verdict, judge

WHOLE = b"""
checkpoint:
  enabled: true
  strict: true
  allow_override: false
  note: members that are not known are let be
evidence_schema:
  code_structure:
    type: object
    required: true
    description: "what the module has"
  test_candidates:
    type: list
    validator: at_least
    validator_params: {low: 2}
  reviewed: {type: boolean, required: no}
validators:
  at_least: "lambda x, low: len(x) >= low"
cross_field_validation:
  - rule: "lambda e: len(e['test_candidates']) <= len(e['code_structure'])"
    error_message: more candidates than functions
"""


def test_a_gate_file_is_read_whole() -> None:
    assert parse_gate(WHOLE) == Gate(
        strict=True,
        fields=(
            EvidenceField(name="code_structure", type="object", description="what the module has"),
            EvidenceField(
                name="test_candidates", type="list", validator="at_least", validator_params={"low": 2}
            ),
            EvidenceField(name="reviewed", type="boolean", required=False),
        ),
        validators={"at_least": parse_expression("lambda x, low: len(x) >= low")},
        rules=(
            CrossRule(
                rule=parse_expression("lambda e: len(e['test_candidates']) <= len(e['code_structure'])"),
                error_message="more candidates than functions",
            ),
        ),
    )


def schema(field: str, rest: str = "") -> bytes:
    return f"checkpoint: {{strict: true}}\nevidence_schema:\n  f: {field}\n{rest}".encode()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "must be a mapping"),
    "a list": (b"- a", "must be a mapping"),
    "asks nothing": (b"comment: hello", "neither"),
    "not YAML": (b"checkpoint: {strict: true", "is not YAML"),
    "not UTF-8": (b"checkpoint: \xff\xfe", "is not UTF-8"),
    "binary": (b"checkpoint: \x00\x01", "is not YAML"),
    "strict is a text": (b"checkpoint: {strict: maybe}", "'strict' must be true or false"),
    "schema is a list": (b"evidence_schema: [a]", "'evidence_schema' must be a mapping"),
    "field is a text": (schema("boolean"), "field 'f' must be a mapping"),
    "unknown type": (schema("{type: blob}"), "type must be one of boolean, integer"),
    "no type": (schema("{required: true}"), "type must be one of"),
    "required is a number": (schema("{type: list, required: 3}"), "'required' must be true or false"),
    "validator is not there": (schema("{type: list, validator: v}"), "no validator 'v'"),
    "validator lacks a parameter": (
        schema("{type: list, validator: v}", 'validators: {v: "lambda x, a, b: x"}'),
        "validator_params lacks 'a'",
    ),
    "validator runs code": (schema("{type: list}", "validators: {v: \"lambda x: open('f')\"}"), "'open'"),
    "validator is no text": (schema("{type: list}", "validators: {v: [1]}"), "must be a lambda in quotes"),
    "rules are a mapping": (schema("{type: list}", "cross_field_validation: {a: b}"), "must be a list"),
    "rule takes two": (
        schema("{type: list}", "cross_field_validation:\n  - rule: 'lambda a, b: a'"),
        "takes one parameter",
    ),
    "same field twice": (b"evidence_schema:\n  a: {type: list}\n  a: {type: string}", "stands twice"),
    "too many fields": (
        b"evidence_schema:\n" + b"".join(b"  f%d: {type: list}\n" % n for n in range(201)),
        "more than 200",
    ),
    "object of a class": (b"checkpoint: !!python/object/apply:os.system ['true']", "tag 'tag:yaml.org"),
    "billion laughs": (
        b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 120)),
        "alias",
    ),
    "merged mapping": (b"a: &a {strict: true}\ncheckpoint:\n  <<: *a", "alias"),
    "deep nesting": (b"[" * 60_000, "levels"),
    "deep mappings": (b"{a: " * 15_000, "levels"),
    "deep blocks": (b"".join(b" " * n + b"- \n" for n in range(300)), "levels"),
    "key that is a list": (b"? [a]\n: b", "a key must be text"),
    "wide": (b"[" + b"1," * 30_000 + b"]", "values"),
    "large": (b"a: " + b"x" * 70_000, "bytes"),
    "huge integer": (b"a: " + b"9" * 50_000, "a number has at most"),
    "huge float": (b"a: 1e99999", "too large"),
    "two documents": (b"checkpoint: {}\n---\ncheckpoint: {}", "only one document"),
}


@pytest.mark.parametrize(("data", "said"), BROKEN.values(), ids=BROKEN)
def test_a_gate_that_cannot_be_read_is_an_error_and_never_lets_anything_through(
    data: bytes, said: str
) -> None:
    with pytest.raises(GateError, match=re.escape(said)):
        parse_gate(data)


@given(st.binary(max_size=200) | st.text("-:{}[]&*!|>'\"#? \nab1.", max_size=200).map(str.encode))
def test_any_bytes_are_plain_values_or_our_error(data: bytes) -> None:
    try:
        read_yaml(data)
    except PlainYamlError as error:
        assert str(error)


def test_scalars_are_read_as_people_write_them_and_keys_stay_as_written() -> None:
    source = b"{a: yes, b: 'yes', c: 1.5, d: -3, e: ~, f: 1:30, no: 2024-01-01, 1: 1e3, g: 0x10, h: ''}"
    assert read_yaml(source) == {
        "a": True,
        "b": "yes",
        "c": 1.5,
        "d": -3,
        "e": None,
        "f": "1:30",
        "no": "2024-01-01",
        "1": 1000.0,
        "g": "0x10",
        "h": "",
    }


# Judging.

GATE = parse_gate(WHOLE)
GOOD = {"code_structure": {"f": 1, "g": 2}, "test_candidates": ["f", "g"]}


def test_evidence_that_meets_every_rule_passes() -> None:
    assert judge(GATE, GOOD) == Verdict(passed=True, evidence_accepted=("code_structure", "test_candidates"))


def test_missing_fields_are_named_with_what_to_submit() -> None:
    assert judge(GATE, {"code_structure": {}, "test_candidates": None}) == Verdict(
        passed=False,
        missing_evidence=("test_candidates",),
        remediation="submit, and call complete_phase again:\n- test_candidates (list)",
        evidence_accepted=("code_structure",),
    )


def test_an_unknown_field_is_a_warning_and_no_failure() -> None:
    assert judge(GATE, {**GOOD, "extra": 1}).warnings == (
        "field 'extra' is not in the gate's schema, and is not judged",
    )
    many = judge(GATE, {**GOOD, **{f"x{n}": n for n in range(1_000)}})
    assert many.passed
    assert many.warnings[20:] == ("and 980 more fields that are not in the gate's schema",)


def test_a_refused_validator_names_the_field_and_skips_the_cross_rules() -> None:
    verdict = judge(GATE, {"code_structure": {}, "test_candidates": ["f"]})
    assert verdict.validation_errors == ("validator 'at_least' refuses field 'test_candidates'",)
    assert not verdict.passed


def test_a_cross_rule_fails_with_its_message() -> None:
    verdict = judge(GATE, {"code_structure": {"f": 1}, "test_candidates": ["f", "g"]})
    assert verdict == Verdict(
        passed=False,
        validation_errors=("cross-field rule failed: more candidates than functions",),
        remediation="- correct: cross-field rule failed: more candidates than functions",
        evidence_accepted=("code_structure", "test_candidates"),
    )


VALUES: dict[str, object] = {
    "true": True,
    "one": 1,
    "one point zero": 1.0,
    "one and a half": 1.5,
    "infinite": float("inf"),
    "not a number": float("nan"),
    "huge": 10**400,
    "text": "1",
    "object": {},
    "list": [],
}
TAKEN = {
    "boolean": {"true"},
    "integer": {"one", "one point zero", "huge"},
    "number": {"one", "one point zero", "one and a half", "huge"},
    "string": {"text"},
    "object": {"object"},
    "list": {"list"},
}


@pytest.mark.parametrize("kind", TAKEN)
def test_each_type_takes_its_own_values_and_no_others(kind: str) -> None:
    gate = parse_gate(schema(f"{{type: {kind}}}"))
    assert {name for name, value in VALUES.items() if judge(gate, {"f": value}).passed} == TAKEN[kind]


def test_a_wrong_type_says_what_came_instead() -> None:
    verdict = judge(parse_gate(schema("{type: integer}")), {"f": True})
    assert verdict.validation_errors == ("field 'f' must be integer, not boolean",)


@pytest.mark.parametrize(
    ("validator", "params", "value", "passed"),
    [
        ("lambda x: x > 2", "{}", 3, True),
        ("lambda x, params: x > params['low']", "{low: 2}", 3, True),
        ("lambda x, low: x > low", "{low: 5}", 3, False),
        ("lambda x, low, high: low < x < high", "{low: 1, high: 5}", 3, True),
        ("lambda x: x['a']", "{}", 3, False),
        ("lambda x: [1][x]", "{}", 0.0, True),
    ],
)
def test_a_validator_gets_its_value_and_its_params(
    validator: str, params: str, value: object, passed: bool
) -> None:
    field = f"{{type: integer, validator: v, validator_params: {params}}}"
    assert (
        judge(parse_gate(schema(field, f'validators: {{v: "{validator}"}}')), {"f": value}).passed is passed
    )


def test_a_rule_that_cannot_be_judged_fails_the_gate_and_says_why() -> None:
    gate = parse_gate(
        schema("{type: list}", "cross_field_validation: [{rule: \"lambda e: e['g'] > 1\", error_message: m}]")
    )
    assert judge(gate, {"f": []}).validation_errors == (
        "cross-field rule could not be judged: m (KeyError: 'g')",
    )


def test_a_phase_without_a_gate_accepts_anything_and_warns() -> None:
    assert judge(None, {"a": 1}) == Verdict(
        passed=True,
        warnings=("this phase has no gate: whatever evidence is submitted is accepted",),
        evidence_accepted=("a",),
    )


def test_a_gate_that_its_definition_switches_off_accepts_and_warns() -> None:
    verdict = judge(parse_gate(b"checkpoint: {enabled: false}\nevidence_schema: {f: {type: list}}"), {})
    assert (verdict.passed, verdict.warnings) == (
        True,
        ("the gate of this phase is switched off by its definition",),
    )


def lenient(*, strict: bool, allow: bool) -> Gate:
    flags = f"checkpoint: {{strict: {str(strict).lower()}, allow_override: {str(allow).lower()}}}"
    return parse_gate(f"{flags}\nevidence_schema: {{f: {{type: list}}, g: {{type: string}}}}".encode())


def test_an_allowed_override_with_a_reason_lets_failures_through_as_warnings() -> None:
    evidence = {"g": 1, "override": {"reason": " the tool is down "}}
    assert judge(lenient(strict=False, allow=True), evidence) == Verdict(
        passed=True,
        warnings=("overridden: field 'f' is missing", "overridden: field 'g' must be string, not integer"),
        override_reason="the tool is down",
    )


@pytest.mark.parametrize(
    ("strict", "allow", "override"),
    [
        (False, True, None),
        (False, True, {}),
        (False, True, {"reason": " "}),
        (False, True, {"reason": 1}),
        (False, True, "because"),
        (False, False, {"reason": "r"}),
        (True, True, {"reason": "r"}),
        (True, False, {"reason": "r"}),
    ],
)
def test_without_permission_and_a_reason_nothing_is_overridden(
    strict: bool, allow: bool, override: object
) -> None:
    verdict = judge(lenient(strict=strict, allow=allow), {"override": override})
    assert (verdict.passed, verdict.missing_evidence) == (False, ("f", "g"))


def test_a_passing_gate_is_no_override_even_where_one_is_offered() -> None:
    verdict = judge(lenient(strict=False, allow=True), {"f": [], "g": "", "override": {"reason": "r"}})
    assert verdict == Verdict(passed=True, evidence_accepted=("f", "g"))


def test_a_hostile_rule_cannot_outlast_the_gate_s_effort() -> None:
    rule = "  - {rule: \"lambda e: all(e['f'] == e['f'] for i in e['f'])\", error_message: m}\n"
    gate = parse_gate(schema("{type: list}", "cross_field_validation:\n" + rule * 100))
    verdict = judge(gate, {"f": [[1]] * 9_000})
    assert len(verdict.validation_errors) == 100
    assert "too long" in verdict.validation_errors[-1]
