"""The tool `pos_workflow` as clients see it, made from the types of its actions."""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Union, cast, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mcpkeep.protocol.relay.tools import OwnTool
from mcpkeep.protocol.schema import flat_schema
from mcpkeep.protocol.workflow.request import REQUESTS, Kinds, Request, action_of

__all__ = ["HIDDEN", "NAME", "WORKFLOW_TOOL", "describe_tool"]

NAME = "pos_workflow"

HIDDEN = frozenset(
    {
        "start_workflow",
        "get_current_phase",
        "get_task",
        "complete_phase",
        "get_workflow_state",
        "create_workflow",
        "validate_workflow",
    }
)
"""The separate workflow tools of older prAxIs OS servers, which this tool stands for."""

_HEAD = """\
Work through a task in guarded phases. A workflow has phases with tasks; a phase ends when its gate accepts
the evidence you submit. Sessions are kept on disk by mcpkeep and outlive every restart of the server.
Usual order: list_workflows, start, then for each phase get_task, the work itself, complete_phase. After a
break: list_sessions, get_phase. A refusal has `error`, `error_type` and `remediation`: follow that.
"""


def describe_tool(kinds: Iterable[type[Request]]) -> OwnTool:
    """The tool with these actions."""
    kinds = tuple(kinds)
    lines = (f"- {action_of(kind)}: {kind.ABOUT}. {_example(kind)}" for kind in kinds)
    return OwnTool(
        name=NAME,
        title="Workflows",
        description=_HEAD + "\n".join(lines),
        input_schema=flat_schema(_arguments(Kinds(kinds))),
        output_schema={
            "type": "object",
            "properties": {
                "status": {"type": "string", "enum": ["success", "error"]},
                "action": {"type": ["string", "null"]},
            },
            "required": ["status", "action"],
        },
        annotations={
            "readOnlyHint": False,
            "destructiveHint": True,
            "idempotentHint": False,
            "openWorldHint": False,
        },
        hides=HIDDEN,
    )


def _example(kind: type[Request]) -> str:
    return f'{{"action": "{action_of(kind)}", {kind.EXAMPLE}}}'


def _arguments(kinds: Kinds) -> type[msgspec.Struct]:
    """One flat type with the arguments of all actions, each optional but `action`."""
    fields: list[tuple[str, object, object]] = [
        (name, Union[_present(field.type), UnsetType], UNSET)  # noqa: UP007
        for name, field in kinds.arguments.items()
    ]
    actions = {"enum": sorted(kinds.by_action)}
    action = ("action", Annotated[str, Meta(description="What to do.", extra_json_schema=actions)])
    return msgspec.defstruct(
        "WorkflowArguments",
        cast("list[tuple[str, type, object]]", [action, *fields]),
        frozen=True,
        forbid_unknown_fields=True,
    )


def _present(annotation: object) -> object:
    """The type without `None`, and an object's without that of its members, which msgspec cannot describe."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    base, *meta = get_args(annotation) or (annotation,)
    plain: type = dict
    return Annotated[(plain, *meta)] if get_origin(base) is dict else annotation


WORKFLOW_TOOL = describe_tool(REQUESTS)
