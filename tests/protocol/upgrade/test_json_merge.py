"""JSON is merged by key: what one side changed is taken, what both changed is a conflict, the rest stays."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.json_merge import DEPTH, NotJson, merge_json

# Few of each, so that sides often agree.
SCALARS = st.sampled_from([None, True, 0, 1, 1.0, 1e-7, 10**40, "", "ü\u2028\n", '"\\'])
KEYS = st.sampled_from(["a", "b", "ü", 'q"\\', ""])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)
LAYOUTS = st.sampled_from(
    [{"indent": 2}, {"indent": 4}, {"indent": "\t"}, {}, {"separators": (",", ":")}, {"ensure_ascii": False}]
)


class Absent:
    """Stands for no value."""


ABSENT = Absent()
Value = object


def _same(one: Value, other: Value) -> bool:
    """Equal, where 1, 1.0 and true are three."""
    return one is other or (
        not isinstance(one, Absent)
        and not isinstance(other, Absent)
        and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


class _Overlap(Exception):
    pass


def _model(base: Value, ours: Value, theirs: Value) -> Value:
    """What a merge comes to, said as simply as possible."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and isinstance(base, dict | Absent):
        old = {} if isinstance(base, Absent) else base
        merged = {
            key: _model(old.get(key, ABSENT), ours.get(key, ABSENT), theirs.get(key, ABSENT))
            for key in {**ours, **theirs, **old}
        }
        return {key: value for key, value in merged.items() if not isinstance(value, Absent)}
    if _same(ours, base) or _same(ours, theirs):
        return theirs
    if _same(theirs, base):
        return ours
    raise _Overlap


@given(OBJECTS, OBJECTS, OBJECTS, LAYOUTS, LAYOUTS)
def test_a_merge_has_every_change_of_one_side_and_none_that_both_made_differently(
    base: dict[str, Value],
    ours: dict[str, Value],
    theirs: dict[str, Value],
    mine: dict[str, object],
    yours: dict[str, object],
) -> None:
    texts = [json.dumps(base), json.dumps(ours, **mine), json.dumps(theirs, **yours)]  # type: ignore[arg-type]
    merged = merge_json(*texts)
    try:
        expected = _model(base, ours, theirs)
    except _Overlap:
        assert merged is None or merged in texts[1:]
        return
    assert merged is not None
    assert _same(json.loads(merged), expected)


@given(OBJECTS, OBJECTS, OBJECTS)
def test_sides_that_conflict_one_way_conflict_the_other(
    base: dict[str, Value], ours: dict[str, Value], theirs: dict[str, Value]
) -> None:
    texts = [json.dumps(side) for side in (base, ours, theirs)]
    one, other = merge_json(*texts), merge_json(texts[0], texts[2], texts[1])
    assert (one is None) == (other is None)
    assert one is None or other is None or _same(json.loads(one), json.loads(other))


@given(OBJECTS, OBJECTS, LAYOUTS)
def test_where_one_side_did_nothing_the_other_side_stands_as_it_is(
    base: dict[str, Value], changed: dict[str, Value], layout: dict[str, object]
) -> None:
    old, new = json.dumps(base, indent=2), json.dumps(changed, **layout) + "\n"  # type: ignore[arg-type]
    assert merge_json(old, old, new) == new
    assert merge_json(old, new, old) == new
    assert merge_json(old, new, new) == new


def _indented(value: object, indent: int | str = 2) -> str:
    return json.dumps(value, indent=indent) + "\n"


CASES = {
    "a new key comes after the key it follows there": (
        _indented({"a": 1, "c": 3}),
        _indented({"c": 3, "mine": 0, "a": 1}, 4),
        _indented({"a": 1, "new": {"deep": [1, {"er": 2}]}, "c": 3}),
        _indented({"c": 3, "mine": 0, "a": 1, "new": {"deep": [1, {"er": 2}]}}, 4),
    ),
    "a new key without a predecessor comes first": (
        _indented({"a": 1, "z": 0}),
        _indented({"a": 2, "z": 0}, "\t"),
        _indented({"n": {"x": 1}, "a": 1, "z": 0}),
        _indented({"n": {"x": 1}, "a": 2, "z": 0}, "\t"),
    ),
    "one line stays one line": (
        '{"a": 1, "b": 2}',
        '{"a":9,"b":2}',
        _indented({"a": 1, "b": 2, "c": {"d": [1, 2]}}),
        '{"a":9,"b":2,"c": {"d": [1, 2]}}',
    ),
    "the key that goes takes its comma with it": (
        _indented({"a": 1, "b": 2, "c": 3}),
        _indented({"a": 1, "b": 2, "c": 4}),
        _indented({"a": 1, "c": 3}),
        _indented({"a": 1, "c": 4}),
    ),
    "the last key may go": (
        _indented({"a": 1, "b": 2}),
        _indented({"a": 3, "b": 2}),
        _indented({"a": 1}),
        _indented({"a": 3}),
    ),
    "all keys may go": (
        '{"o": {"a": 1}, "b": 2}',
        '{ "o" : { "a" : 1 }, "b" : 3 }',
        '{"o": {}, "b": 2}',
        '{ "o" : {}, "b" : 3 }',
    ),
    "what was empty fills up": (
        _indented({"o": {}, "b": 2}),
        _indented({"o": {}, "b": 3}, 4),
        _indented({"o": {"x": {"y": 1}}, "b": 2}),
        _indented({"o": {"x": {"y": 1}}, "b": 3}, 4),
    ),
    "what was empty on one line fills up on it": (
        '{"o":{},"b":2}',
        '{"o":{},"b":3}',
        _indented({"o": {"x": {"y": 1}, "z": 2}, "b": 2}),
        '{"o":{"x": {"y": 1}, "z": 2},"b":3}',
    ),
    "both add to an object that is new": (
        "{}",
        '{"o": {"x": 1}}',
        '{"o": {"y": 2}}',
        '{"o": {"y": 2, "x": 1}}',
    ),
    "numbers keep every digit": (
        '{"a": 1, "b": 0}',
        '{"a": 1, "b": 123456789012345678901234567890.10E-400}',
        '{"a": 1e999, "b": 0}',
        '{"a": 1e999, "b": 123456789012345678901234567890.10E-400}',
    ),
    "escapes stay as they were written": (
        '{"\\u0061": "x", "b": 1}',
        '{"\\u0061": "x", "b": "\\u00e4\\/\\ud800"}',
        '{"a": "y", "b": 1}',
        '{"\\u0061": "y", "b": "\\u00e4\\/\\ud800"}',
    ),
    "a byte order mark stays the user's": (
        '{"a": 1, "b": 1}',
        '\ufeff{"a": 1, "b": 2}\n\n',
        '{"a": 3, "b": 1}\n',
        '\ufeff{"a": 3, "b": 2}\n\n',
    ),
    "what Python writes for no number is no change": (
        '{"a": NaN, "b": -Infinity, "c": 1}',
        '{"a": NaN, "b": Infinity, "c": 1}',
        '{"a": NaN, "b": -Infinity, "c": 2}',
        '{"a": NaN, "b": Infinity, "c": 2}',
    ),
    "another layout is no change": (
        '{"a": {"b": [1, 2]}, "c": 1}',
        '{"c": 1, "a": {"b": [1,\n2]}}',
        '{"a": {"b": [1, 2]}, "c": 2}',
        '{"c": 2, "a": {"b": [1,\n2]}}',
    ),
    "both deleted, both added the same": (
        '{"a": 1, "b": 2, "c": 0}',
        '{"b": 2, "n": [1], "c": 1}',
        '{"b": 3, "n": [ 1 ], "c": 0}',
        '{"b": 3, "n": [1], "c": 1}',
    ),
    "one value, of which nobody changed the meaning": ("[1, 2]", "[1,2]", "[1,  2]", "[1,2]"),
}


@pytest.mark.parametrize(("base", "ours", "theirs", "merged"), CASES.values(), ids=CASES.keys())
def test_the_users_layout_stays(base: str, ours: str, theirs: str, merged: str) -> None:
    assert merge_json(base, ours, theirs) == merged


DEEP = "[" * (DEPTH + 1) + "]" * (DEPTH + 1)

CONFLICTS = {
    "both changed a value": ('{"a": 1}', '{"a": 2}', '{"a": 3}'),
    "both changed an array": ('{"a": [1]}', '{"a": [1, 2]}', '{"a": [0, 1]}'),
    "changed here, removed there": ('{"a": 1}', '{"a": 2}', "{}"),
    "removed here, changed there": ('{"a": 1}', "{}", '{"a": 2}'),
    "both added one key": ("{}", '{"a": 1}', '{"a": 2}'),
    "1 is not 1.0": ('{"a": 0}', '{"a": 1}', '{"a": 1.0}'),
    "1 is not true": ('{"a": 0}', '{"a": 1}', '{"a": true}'),
    "an object became two things": ('{"a": {"b": 1}}', '{"a": {"b": 2}}', '{"a": []}'),
    "a key twice in ours": ('{"a": 1, "b": 1}', '{"a": 1, "a": 2, "b": 1}', '{"a": 1, "b": 2}'),
    "a key twice in theirs": ('{"a": 1, "b": 1}', '{"a": 2, "b": 1}', '{"a": 1, "b": 2, "\\u0062": 2}'),
    "too deep": (f'{{"a": {DEEP}, "b": 1}}', f'{{"a": {DEEP}, "b": 2}}', f'{{"a": {DEEP}, "b": 1, "c": 0}}'),
    "two documents": ("[1]", "[1, 2]", "[0, 1]"),
}


@pytest.mark.parametrize(("base", "ours", "theirs"), CONFLICTS.values(), ids=CONFLICTS.keys())
def test_what_overlaps_or_is_in_doubt_is_a_conflict(base: str, ours: str, theirs: str) -> None:
    assert merge_json(base, ours, theirs) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{", "[", '{"a"}', '{"a":}', '{"a":1,}', "{a:1}", "[1,]", "[1 2]", '{"a":1 "b":2}', "tru"),
        *(
            "01",
            "+1",
            "1.",
            ".5",
            '"\t"',
            '"\\x"',
            '{"a":1} x',
            "// no\n{}",
            "{'a': 1}",
            "\u00a0{}",
            "1e",
            "-",
        ),
    ],
)
def test_what_is_no_json_is_said_to_be_none(text: str) -> None:
    with pytest.raises(NotJson):
        merge_json('{"a": 1}', text, '{"a": 2}')


@given(st.text(alphabet='{}[]",:\\u0123 \n-.eE+tfn'), st.text(alphabet='{}[]":,01 \n'))
def test_garbage_is_merged_or_refused_and_nothing_else(ours: str, theirs: str) -> None:
    try:
        merge_json('{"a": 1}', ours, theirs)
    except NotJson:
        return
