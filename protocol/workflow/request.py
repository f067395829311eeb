"""The fourteen actions of `pos_workflow` as types: what each takes, and how a call's arguments become one.

An action is a Request whose tag is its name. Another one is another type here, a function that answers it,
and a row in the table that joins the two: schema, description and checks follow from the type.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias, TypeGuard, cast, get_args, get_origin

import msgspec
from msgspec import Meta, Raw

from mcpkeep.protocol.config import nearest
from mcpkeep.protocol.workflow.refusal import InvalidArgument

__all__ = [
    "MAX_DEPTH",
    "MAX_ENCODED",
    "REQUESTS",
    "CompletePhase",
    "DeleteSession",
    "GetErrors",
    "GetPhase",
    "GetSession",
    "GetState",
    "GetTask",
    "Kinds",
    "ListSessions",
    "ListWorkflows",
    "OfSession",
    "Pause",
    "Request",
    "Resume",
    "RetryPhase",
    "Rollback",
    "Start",
    "action_of",
    "check_depth",
    "check_target_file",
    "parse_request",
]

MAX_ENCODED = 10 * 1024 * 1024
"""Bytes of `evidence` or `options`, as they came."""
MAX_DEPTH = 64
"""Objects and lists within each other in one argument."""
MAX_PATH = 4096
"""Bytes of `target_file`: PATH_MAX of Linux."""

Container: TypeAlias = "dict[str, object] | list[object]"
SessionId = Annotated[str, Meta(max_length=100, description="From start or list_sessions.")]
Phase = Annotated[int, Meta(ge=0, le=1_000_000, description="A phase's number.")]
Text = Annotated[str, Meta(max_length=10_000)]
Named = Annotated[str, Meta(max_length=200)]


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="action"):
    """One action. The tag is its name."""

    ABOUT: ClassVar[str]
    """What it does, in half a sentence."""
    EXAMPLE: ClassVar[str]
    """Its arguments in a call, as JSON."""


class OfSession(Request, frozen=True):
    """An action on one session."""

    session_id: SessionId


_SESSION = '"session_id": "<id>"'


class ListWorkflows(Request, frozen=True, tag="list_workflows"):
    ABOUT = "the workflows there are, all or of one category"
    EXAMPLE = '"category": "code_generation"'

    category: Annotated[Named, Meta(description="Of the workflows to list.")] | None = None


class Start(Request, frozen=True, tag="start"):
    ABOUT = "begin a session; answers its session_id and the first phase"
    EXAMPLE = '"workflow_type": "test_generation_v3", "target_file": "src/app.py"'

    workflow_type: Annotated[Named, Meta(description="From list_workflows.")]
    target_file: Annotated[str, Meta(description="The file to work on, relative to the workspace.")]
    options: (
        Annotated[dict[str, object], Meta(description="What the workflow takes, such as spec_path.")] | None
    ) = None


class GetPhase(OfSession, frozen=True, tag="get_phase"):
    ABOUT = "the current phase: what to do, its tasks, the evidence its gate wants, earlier artifacts"
    EXAMPLE = _SESSION


class GetTask(OfSession, frozen=True, tag="get_task"):
    ABOUT = "one task with its steps, commands and artifacts"
    EXAMPLE = f'{_SESSION}, "phase": 1, "task_number": 2'

    phase: Phase
    task_number: Annotated[int, Meta(ge=0, le=1_000_000, description="A task's number within its phase.")]


class CompletePhase(OfSession, frozen=True, tag="complete_phase"):
    ABOUT = "submit evidence; the gate lets the session on to the next phase, or says what is missing"
    EXAMPLE = f'{_SESSION}, "phase": 1, "evidence": {{"tests_passed": true}}'

    phase: Phase
    evidence: Annotated[
        dict[str, object], Meta(description="By field, as the phase's gate asks; at most 10 MB.")
    ]


class GetState(OfSession, frozen=True, tag="get_state"):
    ABOUT = "where the session stands, with the artifacts of all completed phases"
    EXAMPLE = _SESSION


class ListSessions(Request, frozen=True, tag="list_sessions"):
    ABOUT = "all sessions, the newest first, or those in one status"
    EXAMPLE = '"status": "paused"'

    status: (
        Annotated[
            Literal["active", "paused", "completed", "failed", "rolled_back"],
            Meta(description="Of the sessions to list."),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many sessions to list; 100.")] | None = None
    offset: Annotated[int, Meta(ge=0, le=10_000_000, description="How many to skip; 0.")] | None = None


class GetSession(OfSession, frozen=True, tag="get_session"):
    ABOUT = "as get_state, with the history of its phases and all errors"
    EXAMPLE = _SESSION


class DeleteSession(OfSession, frozen=True, tag="delete_session"):
    ABOUT = "delete a session for good; files in the workspace stay"
    EXAMPLE = f'{_SESSION}, "reason": "started twice"'

    reason: Annotated[Text, Meta(description="Why it is deleted.")] | None = None


class Pause(OfSession, frozen=True, tag="pause"):
    ABOUT = "set an active session aside"
    EXAMPLE = f'{_SESSION}, "checkpoint_note": "waiting for review"'

    checkpoint_note: Annotated[Text, Meta(description="What to know when it goes on.")] | None = None


class Resume(OfSession, frozen=True, tag="resume"):
    ABOUT = "go on with a paused session"
    EXAMPLE = _SESSION


class RetryPhase(OfSession, frozen=True, tag="retry_phase"):
    ABOUT = "begin the current or failed phase anew, told what went wrong before"
    EXAMPLE = f'{_SESSION}, "phase": 1, "reset_evidence": true'

    phase: Phase
    reset_evidence: Annotated[bool, Meta(description="Forget what was submitted for it.")] | None = None


class Rollback(OfSession, frozen=True, tag="rollback"):
    ABOUT = "return to an earlier phase; artifacts of later ones are cleared"
    EXAMPLE = f'{_SESSION}, "to_phase": 1'

    to_phase: Annotated[Phase, Meta(description="The phase to return to.")]


class GetErrors(OfSession, frozen=True, tag="get_errors"):
    ABOUT = "what went wrong so far: refused evidence, failed phases"
    EXAMPLE = _SESSION


def _is_action(value: object) -> TypeGuard[type[Request]]:
    return isinstance(value, type) and issubclass(value, Request) and "EXAMPLE" in vars(value)


REQUESTS: tuple[type[Request], ...] = tuple(filter(_is_action, list(globals().values())))
"""All actions, in the order in which they stand above."""


def action_of(kind: type[Request]) -> str:
    """The name of the action that a type stands for."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, str), f"{kind.__name__} has no tag"
    return tag


class Kinds:
    """The types by action, and all arguments that any of them takes."""

    def __init__(self, kinds: Iterable[type[Request]]) -> None:
        self.by_action: Mapping[str, type[Request]] = {action_of(kind): kind for kind in kinds}
        # Asked once: msgspec reads the annotations anew each time.
        self.fields = {kind: msgspec.structs.fields(kind) for kind in self.by_action.values()}
        self.arguments: Mapping[str, msgspec.structs.FieldInfo] = {
            field.name: field for own in self.fields.values() for field in own
        }


def parse_request(arguments: bytes, kinds: Kinds) -> Request:
    """The typed request of a call, from its arguments as they came.

    An argument that another action takes is let be, one that is null counts as absent, and 1.0 is 1.

    Raises:
        InvalidArgument: an action, an argument or a value that is not so; the text names it. `more` has the
            valid actions where the action is not one.
    """
    try:
        given = msgspec.json.decode(arguments or b"{}", type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(
            f"the arguments are not an object of plain JSON: {_reason(error)}", "send one JSON object"
        ) from None
    given = {name: value for name, value in given.items() if bytes(value) != b"null"}
    kind = _kind(given.pop("action", None), kinds)
    _check_names([name for name in given if name not in kinds.arguments], sorted(kinds.arguments))
    values: dict[str, object] = {}
    missing: list[str] = []
    for field in kinds.fields[kind]:
        if field.name in given:
            values[field.name] = _value(field, bytes(given[field.name]))
        elif field.required:
            missing.append(field.name)
    if missing:
        example = f'{{"action": "{action_of(kind)}", {kind.EXAMPLE}}}'
        raise InvalidArgument(f"{action_of(kind)} needs {' and '.join(missing)}", f"call it as in {example}")
    request = kind(**values)
    if isinstance(request, Start):
        check_target_file(request.target_file)
    return request


def check_target_file(path: str) -> None:
    """Refuse what cannot be a file within the workspace, by its text alone.

    Raises:
        InvalidArgument: it is empty, absolute, has a `..` component, a NUL, a drive letter, or is too long.
    """
    parts = path.replace("\\", "/").split("/")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        size = -1
    if not path.strip():
        fault = "is empty"
    elif "\0" in path:
        fault = "has a NUL character in it"
    elif size < 0:
        fault = "is not valid unicode"
    elif size > MAX_PATH:
        fault = f"is longer than {MAX_PATH} bytes"
    elif not parts[0]:
        fault = "is absolute (directory traversal)"
    elif len(parts[0]) >= 2 and parts[0][1] == ":" and parts[0][0].isalpha():
        fault = "has a drive letter"
    elif ".." in parts:
        fault = "has a '..' component (directory traversal)"
    else:
        return
    raise InvalidArgument(f"target_file {path[:200]!r} {fault}", "name a file relative to the workspace")


def check_depth(value: object, most: int = MAX_DEPTH) -> bool:
    """Whether objects and lists in `value` are within each other at most `most` deep."""
    level = list(_containers([value]))
    for _ in range(most):
        if not level:
            return True
        level = [inner for each in level for inner in _containers(_members(each))]
    return not level


def _containers(values: Iterable[object]) -> Iterable[Container]:
    return (cast("Container", value) for value in values if isinstance(value, dict | list))


def _members(container: Container) -> Iterable[object]:
    return container.values() if isinstance(container, dict) else container


def _kind(raw: Raw | None, kinds: Kinds) -> type[Request]:
    valid = sorted(kinds.by_action)
    if raw is None:
        fault = "the argument 'action' is missing"
        guess: str | None = None
    else:
        try:
            action: object = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            action = None
        if not isinstance(action, str):
            fault, guess = "the argument 'action' must be a string", None
        elif (kind := kinds.by_action.get(action)) is not None:
            return kind
        else:
            fault = f"unknown action: {action[:100]!r}"
            guess = nearest(action[:100], valid)
    hint = f"did you mean {guess!r}?" if guess else f"use one of: {', '.join(valid)}"
    raise InvalidArgument(fault, hint, valid_actions=valid)


def _check_names(unknown: Sequence[str], known: Sequence[str]) -> None:
    if not unknown:
        return
    shown = ", ".join(repr(name[:100]) for name in unknown[:5])
    near = nearest(unknown[0][:100], known)
    raise InvalidArgument(
        f"unknown argument{'s' if len(unknown) > 1 else ''} {shown}",
        f"did you mean {near!r}?" if near else f"known are: {', '.join(('action', *known))}",
    )


def _value(field: msgspec.structs.FieldInfo, raw: bytes) -> object:
    name = field.name
    if len(raw) > MAX_ENCODED:
        raise InvalidArgument(
            f"{name} is too large: {len(raw)} bytes, and at most {MAX_ENCODED} are taken",
            "put large results into files, and name the files",
        )
    try:
        value: object = msgspec.json.decode(raw)
        if not check_depth(value):
            raise InvalidArgument(f"{name} is nested more than {MAX_DEPTH} deep", "send a flatter value")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return msgspec.convert(value, field.type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{name} cannot be taken: {_reason(error)}", _remedy(field)) from None


def _remedy(field: msgspec.structs.FieldInfo) -> str:
    """The words to choose from, where it is one of some words."""
    for part in get_args(field.type):
        if get_origin(word := get_args(part)[0] if get_args(part) else part) is Literal:
            return f"use one of: {', '.join(sorted(get_args(word)))}"
    return "correct the argument"


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    text = str(error)
    return text[:1].lower() + text[1:300]
