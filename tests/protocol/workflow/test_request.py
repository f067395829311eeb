"""A call's arguments become a typed request, or a refusal that names the argument."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.workflow.refusal import InvalidArgument
from mcpkeep.protocol.workflow.request import (
    MAX_DEPTH,
    MAX_ENCODED,
    REQUESTS,
    CompletePhase,
    GetTask,
    Kinds,
    ListSessions,
    Pause,
    Request,
    RetryPhase,
    Start,
    action_of,
    check_depth,
    check_target_file,
    parse_request,
)
from mcpkeep.protocol.workflow.tool import WORKFLOW_TOOL, describe_tool

KINDS = Kinds(REQUESTS)
ACTIONS = [
    *("complete_phase", "delete_session", "get_errors", "get_phase", "get_session", "get_state", "get_task"),
    *("list_sessions", "list_workflows", "pause", "resume", "retry_phase", "rollback", "start"),
]
ID = "3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f"


def parse(**arguments: object) -> Request:
    return parse_request(msgspec.json.encode(arguments), KINDS)


def refused(data: bytes) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        parse_request(data, KINDS)
    return caught.value


# What is taken


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (
            b'{"action": "get_task", "session_id": "s", "phase": 1, "task_number": 2}',
            GetTask(session_id="s", phase=1, task_number=2),
        ),
        (
            b'{"action": "get_task", "session_id": "s", "phase": 1.0, "task_number": 2e0}',
            GetTask(session_id="s", phase=1, task_number=2),
        ),
        (b'{"action": "list_sessions"}', ListSessions()),
        (b'{"action": "list_sessions", "status": null, "limit": 5.0}', ListSessions(limit=5)),
        (
            b'{"session_id": "s", "action": "pause", "phase": 1, "evidence": {}}',
            Pause(session_id="s"),
        ),
        (
            b'{"action": "retry_phase", "session_id": "s", "phase": 0, "reset_evidence": true}',
            RetryPhase(session_id="s", phase=0, reset_evidence=True),
        ),
        (
            b'{"action": "complete_phase", "session_id": "s", "phase": 1, "evidence": {"n": 1.0, "m": null}}',
            CompletePhase(session_id="s", phase=1, evidence={"n": 1.0, "m": None}),
        ),
    ],
)
def test_arguments_become_the_action_s_request(data: bytes, request_: Request) -> None:
    assert parse_request(data, KINDS) == request_


@pytest.mark.parametrize(
    "path",
    ["a.py", "src/my file & more $HOME.py", "日本/ü.md", "..a/b..", "a/...", ".", "ab:c", "~/x", "a\nb"],
)
def test_ordinary_names_are_taken_as_target_file(path: str) -> None:
    assert parse(action="start", workflow_type="w", target_file=path) == Start(
        workflow_type="w", target_file=path
    )


# What is refused


@pytest.mark.parametrize("data", [b"{}", b"", b'{"action": null}', b'{"session_id": "x"}'])
def test_without_an_action_all_are_named(data: bytes) -> None:
    error = refused(data)
    assert str(error) == "the argument 'action' is missing"
    assert error.more == {"valid_actions": ACTIONS}


@pytest.mark.parametrize(
    ("action", "said", "hint"),
    [
        (b'"invalid_action"', "unknown action: 'invalid_action'", "use one of: "),
        (b'"strat"', "unknown action: 'strat'", "did you mean 'start'?"),
        (b'"START"', "unknown action: 'START'", "use one of: "),
        (b"7", "the argument 'action' must be a string", "use one of: "),
        (b'["start"]', "the argument 'action' must be a string", "use one of: "),
    ],
)
def test_an_unknown_action_is_answered_with_the_valid_ones(action: bytes, said: str, hint: str) -> None:
    error = refused(b'{"action": ' + action + b"}")
    assert (str(error), error.more, error.error_type) == (said, {"valid_actions": ACTIONS}, "ValueError")
    assert error.remediation.startswith(hint)


@pytest.mark.parametrize("kind", REQUESTS, ids=action_of)
def test_all_missing_arguments_are_named_at_once_with_an_example(kind: type[Request]) -> None:
    needed = [field.name for field in msgspec.structs.fields(kind) if field.required]
    if not needed:
        assert parse(action=action_of(kind)) == kind()
        return
    error = refused(msgspec.json.encode({"action": action_of(kind)}))
    assert str(error) == f"{action_of(kind)} needs {' and '.join(needed)}"
    assert kind.EXAMPLE in error.remediation


@pytest.mark.parametrize(
    ("extra", "said", "hint"),
    [
        (b'"foo": 1', "unknown argument 'foo'", "known are: action, category"),
        (b'"sesion_id": "x"', "unknown argument 'sesion_id'", "did you mean 'session_id'?"),
        (b'"a1": 1, "b2": 2', "unknown arguments 'a1', 'b2'", "known are: action, category"),
    ],
)
def test_unknown_arguments_are_refused_by_name(extra: bytes, said: str, hint: str) -> None:
    error = refused(b'{"action": "list_sessions", ' + extra + b"}")
    assert str(error) == said and error.remediation.startswith(hint)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("phase", b"1.5", "phase cannot be taken: expected `int`, got `float`"),
        ("phase", b"true", "phase cannot be taken: expected `int`, got `bool`"),
        ("phase", b'"1"', "phase cannot be taken: expected `int`, got `str`"),
        ("phase", b"-1", "phase cannot be taken: expected `int` >= 0"),
        ("phase", b"1e400", "phase cannot be taken: number out of range"),
        ("phase", b"1e300", "phase cannot be taken: "),
        ("phase", b"9" * 5000, "phase cannot be taken: "),
        ("phase", b"{}", "phase cannot be taken: expected `int`, got `object`"),
        ("evidence", b"[]", "evidence cannot be taken: expected `object`, got `array`"),
        ("evidence", b'"{}"', "evidence cannot be taken: expected `object`, got `str`"),
        ("session_id", b"7", "session_id cannot be taken: expected `str`, got `int`"),
        (
            "session_id",
            b'"' + b"x" * 101 + b'"',
            "session_id cannot be taken: expected `str` of length <= 100",
        ),
    ],
)
def test_a_malformed_value_is_refused_by_its_argument_s_name(name: str, value: bytes, said: str) -> None:
    rest = {"session_id": b'"s"', "phase": b"1", "evidence": b"{}"}
    fields = b", ".join(b'"%s": %s' % (key.encode(), val) for key, val in {**rest, name: value}.items())
    error = refused(b'{"action": "complete_phase", ' + fields + b"}")
    assert str(error).startswith(said)


def test_a_word_that_is_none_of_those_allowed_brings_the_allowed_ones() -> None:
    error = refused(b'{"action": "list_sessions", "status": "lost"}')
    assert error.remediation == "use one of: active, completed, failed, paused, rolled_back"


# Hostile arguments


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"null",
        b'"start"',
        b'{"action": "start"',
        b"\xff\xfe",
        b'{"action": "pause", "session_id": "\\ud800"}',
        b'{"action": "pause", "session_id": "\xff"}',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=["list", "null", "text", "cut", "no-utf8", "surrogate", "no-utf8-in-text", "deep"],
)
def test_what_is_no_object_of_plain_json_is_refused(data: bytes) -> None:
    assert refused(data).error_type == "ValueError"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc/passwd", "is absolute (directory traversal)"),
        ("//host/share", "is absolute (directory traversal)"),
        ("\\\\host\\share", "is absolute (directory traversal)"),
        ("\\windows", "is absolute (directory traversal)"),
        ("../x", "has a '..' component (directory traversal)"),
        ("a/../../x", "has a '..' component (directory traversal)"),
        ("a/..", "has a '..' component (directory traversal)"),
        ("a\\..\\x", "has a '..' component (directory traversal)"),
        ("a\0b", "has a NUL character in it"),
        ("C:\\x", "has a drive letter"),
        ("c:x", "has a drive letter"),
        ("d:/x", "has a drive letter"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("x" * 5000, "is longer than 4096 bytes"),
        ("a\ud800", "is not valid unicode"),
    ],
)
def test_a_target_file_that_may_leave_the_workspace_is_refused(path: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_target_file(path)
    assert str(caught.value).endswith(said)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("name", ["evidence", "options"])
def test_more_than_ten_megabytes_are_refused_and_ten_are_taken(name: str) -> None:
    def arguments(size: int) -> bytes:
        value = b'{"d":"' + b"x" * (size - 8) + b'"}'
        assert len(value) == size
        if name == "evidence":
            return b'{"action": "complete_phase", "session_id": "s", "phase": 1, "evidence": ' + value + b"}"
        return b'{"action": "start", "workflow_type": "w", "target_file": "a", "options": ' + value + b"}"

    parse_request(arguments(MAX_ENCODED), KINDS)
    error = refused(arguments(MAX_ENCODED + 1))
    assert str(error).startswith(f"{name} is too large: {MAX_ENCODED + 1} bytes")


def test_nesting_over_sixty_four_is_refused_and_sixty_four_are_taken() -> None:
    def arguments(depth: int) -> bytes:
        value = b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1)
        return b'{"action": "complete_phase", "session_id": "s", "phase": 1, "evidence": ' + value + b"}"

    parse_request(arguments(MAX_DEPTH), KINDS)
    assert str(refused(arguments(MAX_DEPTH + 1))) == f"evidence is nested more than {MAX_DEPTH} deep"
    assert refused(arguments(50_000)).error_type == "ValueError"


def depth_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max((depth_of(each) for each in inner), default=0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(JSON, st.integers(1, 6))
def test_depth_is_that_of_the_deepest_value(value: object, most: int) -> None:
    assert check_depth(value, most) == (depth_of(value) <= most)


@given(
    st.dictionaries(st.sampled_from(["action", *KINDS.arguments, "other"]), JSON | st.sampled_from(ACTIONS))
)
def test_any_arguments_are_a_request_or_a_refusal(arguments: dict[str, object]) -> None:
    try:
        request = parse_request(msgspec.json.encode(arguments), KINDS)
    except InvalidArgument as error:
        assert str(error) and error.remediation
    else:
        assert action_of(type(request)) == arguments["action"]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    try:
        parse_request(data, KINDS)
    except InvalidArgument as error:
        assert str(error) and error.remediation


# The tool


def test_the_tool_names_all_fourteen_actions_with_an_example_each_within_its_budget() -> None:
    assert sorted(action_of(kind) for kind in REQUESTS) == ACTIONS
    lines = [line for line in WORKFLOW_TOOL.description.splitlines() if line.startswith("- ")]
    assert sorted(line[2 : line.index(":")] for line in lines) == ACTIONS
    for line in lines:
        example = line[line.index('{"action"') :].replace("<id>", ID)
        action = line[2 : line.index(":")]
        assert action_of(type(parse_request(example.encode(), KINDS))) == action
    assert len(WORKFLOW_TOOL.description) < 6000
    assert len(msgspec.json.encode(WORKFLOW_TOOL)) < 8000


def test_the_input_schema_is_flat_and_has_all_arguments_but_only_action_required() -> None:
    schema = WORKFLOW_TOOL.input_schema
    assert schema["required"] == ["action"] and schema["additionalProperties"] is False
    assert set(schema) == {"type", "properties", "required", "additionalProperties"}
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert sorted(properties["action"]["enum"]) == ACTIONS
    assert list(properties) == [
        *("action", "category", "workflow_type", "target_file", "options", "session_id", "phase"),
        *("task_number", "evidence", "status", "limit", "offset", "reason", "checkpoint_note"),
        *("reset_evidence", "to_phase"),
    ]
    assert {name: value.get("type") for name, value in properties.items() if "enum" not in value} == {
        **dict.fromkeys(
            ("category", "workflow_type", "target_file", "session_id", "reason", "checkpoint_note"), "string"
        ),
        **dict.fromkeys(("phase", "task_number", "to_phase", "limit", "offset"), "integer"),
        **dict.fromkeys(("options", "evidence"), "object"),
        "reset_evidence": "boolean",
    }
    assert not {"anyOf", "oneOf", "$ref"} & set(str(schema).replace("'", " ").split())


def test_the_output_schema_requires_no_more_than_status_and_action() -> None:
    assert WORKFLOW_TOOL.output_schema["required"] == ["status", "action"]
    assert "additionalProperties" not in WORKFLOW_TOOL.output_schema


def test_the_separate_tools_of_older_servers_are_hidden() -> None:
    assert WORKFLOW_TOOL.hides == {
        *("start_workflow", "get_current_phase", "get_task", "complete_phase", "get_workflow_state"),
        *("create_workflow", "validate_workflow"),
    }


def test_a_fifteenth_action_needs_one_type_for_schema_description_and_parsing() -> None:
    class Archive(Request, frozen=True, tag="archive"):
        ABOUT = "put a session away"
        EXAMPLE = '"shelf": 3'

        shelf: int

    tool = describe_tool((*REQUESTS, Archive))
    assert '- archive: put a session away. {"action": "archive", "shelf": 3}' in tool.description
    properties = tool.input_schema["properties"]
    assert isinstance(properties, dict) and properties["shelf"] == {"type": "integer"}
    kinds = Kinds((*REQUESTS, Archive))
    assert parse_request(b'{"action": "archive", "shelf": 3}', kinds) == Archive(shelf=3)
