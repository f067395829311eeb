"""`mcpkeep workflow ACTION key=value...`: what the tool `pos_workflow` does, from a terminal.

Needs no running mcpkeep. Beside a running one it reads as ever; changes are refused while that one writes.
Phases that mcpkeep runs are run here, or by the one that runs in the workspace.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args, get_origin

import anyio
import msgspec
from msgspec import Raw

from mcpkeep.protocol.config import nearest
from mcpkeep.protocol.errors import ConfigError
from mcpkeep.protocol.relay.tools import ToolCall, ToolResult
from mcpkeep.protocol.workflow.request import REQUESTS, Kinds, Request, action_of
from mcpkeep.protocol.workflow.tool import NAME, WORKFLOW_TOOL
from mcpkeep.supervisor.workflow import Workflows
from mcpkeep.supervisor.workspace import find_workspace, make_state_folder

if TYPE_CHECKING:
    from mcpkeep.actors.phase_runs import PhaseRunner
    from mcpkeep.protocol.upgrade.request import UpgradeAnswer, UpgradeMessage

__all__ = ["main"]

_KINDS = Kinds(REQUESTS)
_USAGE = 2
"""The exit code where the call itself is wrong; 1 where it is refused."""


def main(argv: Sequence[str]) -> int:
    """Do one action; `argv` is what follows `workflow` on the command line.

    Returns:
        0; 1 where the action was refused; 2 for a wrong call.
    """
    words = list(argv)
    if not words or "-h" in words or "--help" in words:
        (sys.stdout if words else sys.stderr).write(_help())
        return 0 if words else _USAGE
    try:
        as_json = "--json" in words
        words = [word for word in words if word != "--json"]
        named = _option(words, "--workspace")
        action, arguments = _arguments(words)
        answer, refused = anyio.run(_answer, _workspace(named), {"action": action, **arguments})
    except ConfigError as error:
        sys.stderr.write(f"mcpkeep workflow: {error}\n")
        return _USAGE
    except KeyboardInterrupt:
        return 130
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(bytes(answer.structured)) + b"\n")
        sys.stdout.flush()
    else:
        from mcpkeep.supervisor.terminal_tables import show

        show(cast("dict[str, object]", msgspec.json.decode(bytes(answer.structured))))
    return refused


async def _answer(workspace: str, arguments: Mapping[str, object]) -> tuple[ToolResult, int]:
    from mcpkeep.actors.toolbox import Toolbox

    state = make_state_folder(workspace, environ=os.environ, cwd=workspace, home=_home())
    who = f"mcpkeep workflow {arguments['action']}"
    workflows = Workflows(
        workspace, state.path, who=who, on_bug=_log_bug, runners=lambda: _runners(workspace, workflows)
    )
    toolbox = Toolbox((WORKFLOW_TOOL, workflows.call), on_bug=_log_bug)
    call = ToolCall(id=1, name=NAME, arguments=Raw(msgspec.json.encode(arguments)))
    answer = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(workflows.run)
        answer = await toolbox.call(call, _tell)
        while msgspec.json.decode(bytes(answer.structured), type=_Told).in_progress:
            # A phase lives no longer than whoever runs it.
            answer = await toolbox.call(call, _tell)
        await workflows.close()
        tasks.cancel_scope.cancel()
    assert answer is not None  # the task group ended, so the call did
    error = msgspec.json.decode(bytes(answer.structured), type=_Told).error_type
    code = 0 if error is None else _USAGE if error == "ValueError" else 1
    return answer, code


class _Told(msgspec.Struct, frozen=True):
    error_type: str | None = None
    in_progress: bool = False


def _runners(workspace: str, workflows: Workflows) -> "Mapping[str, PhaseRunner]":
    """Who runs the phases of the upgrade workflow: the mcpkeep of the workspace, or this process."""
    from mcpkeep.actors.upgrade_runner import WORKFLOW_TYPE, UpgradeRunner
    from mcpkeep.supervisor.upgrade.ask import ask_workspace
    from mcpkeep.supervisor.upgrade.layout import find_installation
    from mcpkeep.supervisor.upgrade.lock import HeldLock

    async def ask(question: "UpgradeMessage", on_step: Callable[[str, str], None]) -> "UpgradeAnswer":
        mark = workflows.mark_rolled_back
        return await ask_workspace(Path(workspace), question, on_step=on_step, mark_rolled_back=mark)

    def lock_owner() -> Mapping[str, object] | None:
        layout = find_installation(Path(workspace))
        return None if layout is None else HeldLock(layout).owner()

    return {WORKFLOW_TYPE: UpgradeRunner(ask, lock_owner=lock_owner)}


def _tell(done: float, total: float | None, text: str) -> None:
    with suppress(OSError):  # nobody reads it any more: no reason to fail what is told of
        sys.stderr.write(f"{text}\n")


def _log_bug(what: str, error: Exception) -> str:
    logging.getLogger("mcpkeep").error("%s failed", what, exc_info=error)
    return "what was written to stderr"


def _workspace(named: str | None) -> str:
    found = find_workspace(named, environ=os.environ, cwd=os.getcwd(), home=_home())
    if found is None:
        raise ConfigError("the home folder is no workspace; go to a project, or name one with --workspace")
    return found


def _home() -> str:
    return os.environ.get("HOME") or os.path.expanduser("~")


def _option(words: list[str], flag: str) -> str | None:
    """Take `flag VALUE` or `flag=VALUE` out of the words."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != flag:
            continue
        taken = words[place : place + (1 if equals else 2)]
        del words[place : place + len(taken)]
        value = value if equals else "".join(taken[1:])
        if not value:
            raise ConfigError(f"{flag} needs a value")
        return value
    return None


def _arguments(words: Sequence[str]) -> tuple[str, dict[str, object]]:
    action, *rest = words
    kind = _KINDS.by_action.get(action)
    if kind is None:
        guess = nearest(action, sorted(_KINDS.by_action))
        hint = f"did you mean {guess!r}?" if guess else "`mcpkeep workflow --help` lists them"
        raise ConfigError(f"unknown action {action!r}; {hint}")
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    arguments: dict[str, object] = {}
    for word in rest:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not key=value; {action} takes {_takes(kind)}")
        if name not in known:
            raise ConfigError(f"{action} takes no {name!r}; it takes {_takes(kind)}")
        arguments[name] = _value(known[name], text)
    return action, arguments


def _value(field: msgspec.structs.FieldInfo, text: str) -> object:
    """Words stay as they are; for what is no word, JSON, or `@FILE` with JSON in it."""
    if _is_text(field.type):
        return text
    data = text.encode(errors="surrogateescape")
    if text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                data = file.read()
        except OSError as error:
            raise ConfigError(f"{field.name}: {text[1:]} cannot be read: {error.strerror}") from None
    try:
        return cast("object", msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{field.name}={text[:80]} is not JSON: {error}") from None


def _is_text(annotation: object) -> bool:
    if get_origin(annotation) is dict:
        return False
    return annotation is str or any(isinstance(part, str) or _is_text(part) for part in get_args(annotation))


def _takes(kind: type[Request]) -> str:
    fields = msgspec.structs.fields(kind)
    words = [f"{field.name}=" if field.required else f"[{field.name}=]" for field in fields]
    return " ".join(words) or "nothing"


def _help() -> str:
    width = max(map(len, _KINDS.by_action))
    rows = "\n".join(
        f"  {action:{width}}  {kind.ABOUT}\n  {'':{width}}    {_takes(kind)}"
        for action, kind in ((action_of(kind), kind) for kind in REQUESTS)
    )
    return f"""\
usage: mcpkeep workflow ACTION [key=value...] [--json] [--workspace FOLDER]

What agents do with the tool {NAME}, from a terminal. Evidence and options are JSON, or @FILE:

  mcpkeep workflow start workflow_type=test_generation_v3 target_file=src/app.py
  mcpkeep workflow complete_phase session_id=ID phase=1 evidence=@evidence.json

actions
{rows}

Exit codes: 0 done, 1 refused, 2 a wrong call.
"""
