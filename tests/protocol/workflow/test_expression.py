"""Gate expressions: what they may say, and that nothing written in one can do harm."""

import ast
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.workflow.expression import (
    Effort,
    Expression,
    ExpressionError,
    evaluate,
    parse_expression,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def run(source: str, *values: object) -> object:
    expression = parse_expression(source)
    return evaluate(expression, dict(zip(expression.parameters, values, strict=True)))


@pytest.mark.parametrize(
    ("source", "value", "result"),
    [
        ("lambda x: len(x) > 0", "a", True),
        ("lambda x: 0 < x <= 5 and x != 3", 4, True),
        ("lambda x: x in ['a', 'b'] or x is None", "c", False),
        ("lambda x: 'yes' if x else 'no'", [], "no"),
        ("lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)", 1.5, True),
        ("lambda e: e.get('a', 0) + e['b'] == 3", {"b": 3}, True),
        (
            "lambda e: all(isinstance(i, str) and i.startswith('t') for i in e['l'])",
            {"l": ["t1", "t2"]},
            True,
        ),
        ("lambda e: [k for k, v in e.items() if v > 1]", {"a": 1, "b": 2}, ["b"]),
        ("lambda e: set(e['a']) <= set(e['b'])", {"a": [1], "b": [1, 2]}, True),
        ("lambda e: sorted(e, reverse=True)[0] == max(e) == 3", [1, 3, 2], True),
        ("lambda e: max(e, default=-1)", [], -1),
        ("lambda x: round(x, 1) * 2 ** 3 // 1", 1.25, 9.0),
        ("lambda x: sum(x) / len(x)", [1, 2], 1.5),
        ("lambda x: x[1:3] + [int('7')]", [1, 2, 3, 4], [2, 3, 7]),
        ("lambda x: str(x) + '%'", 7, "7%"),
    ],
)
def test_an_honest_rule_gives_what_python_gives(source: str, value: object, result: object) -> None:
    assert run(source, value) == result
    assert eval(source)(value) == result  # the reference, on sources written here


def test_a_parsed_expression_is_a_value_that_names_its_parameters() -> None:
    assert parse_expression("lambda x, low: x >= low") == Expression(
        source="lambda x, low: x >= low", parameters=("x", "low")
    )


REFUSED_IN_FORM = {
    "import": "lambda x: __import__('os').system('true')",
    "open": "lambda x: open('/etc/passwd').read()",
    "eval": "lambda x: eval('1')",
    "getattr": "lambda x: getattr(x, 'real')",
    "class": "lambda x: x.__class__",
    "subclasses": "lambda x: ().__class__.__bases__[0].__subclasses__()",
    "globals through a function": "lambda x: len.__globals__",
    "builtin as a value": "lambda x: [len][0](x)",
    "format": "lambda x: '{0.__class__}'.format(x)",
    "format_map": "lambda x: '{a}'.format_map(x)",
    "join": "lambda x: x.join(['a'])",
    "zfill": "lambda x: x.zfill(10 ** 9)",
    "attribute that is not called": "lambda x: x.get",
    "f-string": "lambda x: f'{x:>1000000000}'",
    "walrus": "lambda x: (y := 10 ** 9)",
    "lambda in a lambda": "lambda x: (lambda y: y)(x)",
    "calling the value": "lambda x: x()",
    "calling a method's result": "lambda x: x.get('f')()",
    "star arguments": "lambda x: max(*x)",
    "double star arguments": "lambda x: max(**x)",
    "key function": "lambda x: sorted(x, key=len)",
    "bytes": "lambda x: b'a' * 3",
    "dictionary": "lambda x: {**x}",
    "await": "lambda x: await x",
    "yield": "lambda x: (yield x)",
    "async comprehension": "lambda x: [i async for i in x]",
    "range": "lambda x: [i for i in range(10 ** 12)]",
    "type": "lambda x: type(x)",
    "isinstance of anything else": "lambda x: isinstance(x, x)",
    "shadowed function": "lambda len: len(1)",
    "dunder parameter": "lambda __builtins__: __builtins__",
    "unknown name": "lambda x: y",
    "huge literal": "lambda x: " + "9" * 400,
    "default value": "lambda x=1: x",
    "star parameter": "lambda *x: x",
    "no parameter": "lambda: 1",
    "no lambda": "1 + 1",
    "statement": "import os",
    "two statements": "lambda x: 1\nopen('f', 'w')",
    "too long": "lambda x: " + " + ".join(["x"] * 1000),
    "too many parts": "lambda x: " + " + ".join(["x"] * 150),
    "too deep": "lambda x: " + "-" * 1900 + "1",
    "brackets without end": "lambda x: " + "(" * 1900,
    "lists in lists": "lambda x: " + "[" * 90 + "]" * 90,
    "null byte": "lambda x: '\0'",
    "nothing": "",
}


@pytest.mark.parametrize("source", REFUSED_IN_FORM.values(), ids=REFUSED_IN_FORM.keys())
def test_what_gates_may_not_say_is_refused_before_any_evidence_is_seen(source: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(source)


REFUSED_ON_EVIDENCE: dict[str, tuple[str, object, str]] = {
    "repeated text": ("lambda x: 'a' * 10 ** 9", 0, "builds at most"),
    "repeated list": ("lambda x: [x] * 10 ** 9", 0, "builds at most"),
    "repeated from the left": ("lambda x: 10 ** 9 * x", "a", "builds at most"),
    "doubled text": ("lambda x: x + x", "a" * 6_000, "builds at most"),
    "exponent tower": ("lambda x: 9 ** 9 ** 9 ** 9", 0, "a power has at most"),
    "huge power of evidence": ("lambda x: x ** x", 10**6, "a power has at most"),
    "huge float power": ("lambda x: 10.0 ** x", 10**6, "OverflowError"),
    "huge shift": ("lambda x: 1 << x", 10**9, "shifts are"),
    "huge number in evidence": ("lambda x: x * x", 10**200, "512 bits"),
    "huge digits": ("lambda x: int(x)", "9" * 5_000, "at most 100 characters"),
    "percent formatting": ("lambda x: '%1000000000d' % x", 1, "a number is wanted"),
    "text of everything": ("lambda x: str(x)", ["a"] * 100, "a number is wanted"),
    "nested comprehensions": ("lambda x: [1 for a in x for b in x for c in x]", [1] * 1_000, "too many"),
    "slices of slices": ("lambda x: [x[1:] for a in x]", "a" * 10_000, "too long"),
    "comparing in a loop": ("lambda x: all(x == x for a in x)", [[1]] * 9_000, "too long"),
    "searching in a loop": ("lambda x: all('b' in x for a in x)", "a" * 9_999_999, "too long|too many"),
    "sorting all of it": ("lambda x: sorted(x)", list(range(10**6)), "too long"),
    "colliding numbers": ("lambda x: set(x)", [k * (2**61 - 1) for k in range(5_000)], "a set has at most"),
    "missing key": ("lambda x: x['a']", {}, "KeyError"),
    "wrong type": ("lambda x: x > 1", "a", "TypeError"),
    "division by zero": ("lambda x: 1 / x", 0, "ZeroDivisionError"),
    "method of another type": ("lambda x: x.get('a')", "text", "not allowed"),
    "evidence as an attribute": ("lambda x: x.startswith('a')", {"startswith": 1}, "not allowed"),
}


@pytest.mark.parametrize(("source", "value", "said"), REFUSED_ON_EVIDENCE.values(), ids=REFUSED_ON_EVIDENCE)
def test_what_would_run_away_or_fail_is_refused_on_the_evidence(
    source: str, value: object, said: str
) -> None:
    with pytest.raises(ExpressionError, match=said):
        run(source, value)


def nested(levels: int) -> object:
    value: object = None
    for _ in range(levels):
        value = [value]
    return value


def test_evidence_nested_beyond_the_stack_is_an_error_and_no_crash() -> None:
    with pytest.raises(ExpressionError, match="nested too deep"):
        run("lambda x: x[0] == x[1]", [nested(30_000), nested(30_000)])


def test_one_effort_bounds_all_the_expressions_that_share_it() -> None:
    expression = parse_expression("lambda x: x == x")
    effort = Effort(250)
    assert evaluate(expression, {"x": [1] * 50}, effort=effort) is True
    with pytest.raises(ExpressionError, match="too long"):
        evaluate(expression, {"x": [1] * 50}, effort=effort)


def test_ten_megabytes_of_evidence_can_be_measured_within_the_effort() -> None:
    evidence = {"log": "a" * 10_000_000, "rows": list(range(1_000_000))}
    assert run("lambda e: len(e['log']) > 5 and len(e['rows']) > 5 and e.get('log') != ''", evidence) is True


def test_evaluating_changes_nothing_in_the_evidence() -> None:
    evidence = {"a": [3, 1, 2]}
    run("lambda e: sorted(e['a']) + list(e['a'])", evidence)
    assert evidence == {"a": [3, 1, 2]}


@given(st.text(max_size=80) | st.text(max_size=60).map("lambda x: {}".format))
def test_any_text_is_an_expression_or_our_error(source: str) -> None:
    try:
        expression = parse_expression(source)
    except ExpressionError:
        return
    assert isinstance(ast.parse(source.strip(), mode="eval").body, ast.Lambda)
    with_values(expression, {name: {"a": len(name)} for name in expression.parameters})


ATOMS = ["x", "1", "-1", "2.5", "'a'", "None", "True", "[]", "[x, 1]", "x[0]", "x['a']", "x[1:]", "len(x)"]
GROWN = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.tuples(
            inner,
            st.sampled_from(
                [
                    "+",
                    "-",
                    "*",
                    "/",
                    "//",
                    "%",
                    "**",
                    "<<",
                    ">>",
                    "&",
                    "|",
                    "^",
                    "==",
                    "<",
                    "in",
                    "and",
                    "or",
                    "is",
                ]
            ),
            inner,
        ).map(" ".join)
        | inner.map("({})".format)
        | inner.map("not {}".format)
        | st.tuples(
            st.sampled_from(["set", "sorted", "max", "sum", "str", "int", "list", "abs", "any", "round"]),
            inner,
        ).map(lambda pair: f"{pair[0]}({pair[1]})")
        | inner.map("[{} for x in [x, 2]]".format)
    ),
    max_leaves=8,
)


@given(GROWN, JSON)
def test_any_admitted_expression_on_any_evidence_gives_a_value_or_our_error(body: str, value: object) -> None:
    try:
        expression = parse_expression(f"lambda x: {body}")
    except ExpressionError:
        return
    with_values(expression, {"x": value})


def with_values(expression: Expression, values: Mapping[str, object]) -> None:
    try:
        evaluate(expression, values)
    except ExpressionError as error:
        assert str(error)
