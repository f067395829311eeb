"""The JSON path of smoke tests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.jsonpath import JsonPathError, NoSuchValue, find_value, parse_path

ROOT = {"a": {"b": [{"c": 1}, {"c": None}]}, "a key": {"it's": True, 'a "q"': "x", "ü.[]": 2}, "s": "text"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", ROOT),
        ("$.a.b[0].c", 1),
        ("$.a.b[1].c", None),
        ("$.a.b[-1]", {"c": None}),
        ("$['a']['b'][0]['c']", 1),
        ('$["a key"]["it\'s"]', True),
        (r"$['a key']['it\'s']", True),
        ("$['a key']['a \"q\"']", "x"),
        (r'$["a key"]["a \"q\""]', "x"),
        ("$['a key']['ü.[]']", 2),
        (r'$["a key"]["\u00fc.[]"]', 2),
    ],
)
def test_the_value_at_the_path_is_found(path: str, value: object) -> None:
    assert find_value(ROOT, path) == value


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("$.x", "$ has no member 'x'; it has a, a key, s"),
        ("$.a.b[2]", "$.a.b has no item 2; it has 2"),
        ("$.a.b[-3]", "$.a.b has no item -3; it has 2"),
        ("$.a.b[0].c.d", "$.a.b[0].c is a number, so it has no member 'd'"),
        ("$.a.b.c", "$.a.b is an array, so it has no member 'c'"),
        ("$.a[0]", "$.a is an object, so it has no item 0"),
        ("$.s[0]", "$.s is a string, so it has no item 0"),
        ("$['a key']['it\\'s'].x", "$['a key'][\"it's\"] is a boolean, so it has no member 'x'"),
        ("$.a.b[1].c.x", "$.a.b[1].c is null, so it has no member 'x'"),
    ],
)
def test_a_path_that_leads_nowhere_says_how_far_it_led(path: str, text: str) -> None:
    with pytest.raises(NoSuchValue) as caught:
        find_value(ROOT, path)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "path", ["", "a", "$a", "$.", "$..a", "$.*", "$[*]", "$[0", "$['a]", "$[a]", "$.a b", "$[1:2]", "$ "]
)
def test_what_is_no_such_path_is_refused_and_shown(path: str) -> None:
    with pytest.raises(JsonPathError, match="path"):
        find_value(ROOT, path)


def test_a_bad_escape_is_refused() -> None:
    with pytest.raises(JsonPathError, match="is no JSON string"):
        parse_path(r"$['\x']")


@given(st.text())
def test_any_text_is_a_path_or_our_error(text: str) -> None:
    for path in (text, f"${text}", f"$['{text}']"):
        try:
            parse_path(path)
        except JsonPathError:
            continue


@given(
    st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
)
def test_every_value_is_found_by_the_path_that_names_it(root: object) -> None:
    import json

    def walk(value: object, path: str) -> None:
        assert find_value(root, path) == value
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}[{json.dumps(key)}]")
        elif isinstance(value, list):
            for at, inner in enumerate(value):
                walk(inner, f"{path}[{at}]")

    walk(root, "$")
