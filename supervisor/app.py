"""The command `mcpkeep`: a table of subcommands, each imported only when it is asked for."""

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from mcpkeep.protocol.errors import ConfigError

__all__ = ["VERSION", "cli", "main"]

VERSION = "0.1.0"
"""As in pyproject.toml; asking the installed package would import e-mail, zip files and forty more."""

_USAGE = 2
"""The exit code of a usage error, as in argparse and the shell."""


class _Command(NamedTuple):
    name: str
    about: str
    enter: Callable[[Sequence[str]], int]


def cli() -> int:
    """The console entry: what `main` returns for the words after the program's name."""
    return main(sys.argv[1:])


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand; returns the exit code, 2 for a usage error that has been told on stderr."""
    if os.name == "nt":
        _say("mcpkeep needs POSIX signals and process groups; on Windows run it inside WSL\n")
        return _USAGE
    if not arguments:
        # On stderr, and a failure: an IDE whose entry lacks `run` must not take the help for an answer.
        _say(_help())
        return _USAGE
    word, rest = arguments[0], arguments[1:]
    if word in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    if word in ("-V", "--version"):
        sys.stdout.write(f"mcpkeep {VERSION}\n")
        return 0
    for command in _COMMANDS:
        if command.name == word:
            return command.enter(rest)
    _say(f"mcpkeep: {_unknown(word)}\n")
    return _USAGE


def _run(arguments: Sequence[str]) -> int:
    options_given = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "-h" in options_given or "--help" in options_given:
        sys.stdout.write(_run_help())
        return 0
    gc.disable()  # what is imported stays; the tree turns it on again
    from mcpkeep.supervisor.options import gather_options

    try:
        options = gather_options(arguments, environ=os.environ, cwd=_working_folder())
        if options.base is not None and options.workspace is not None:
            from mcpkeep.supervisor.upgrade.pending import make_ready

            started = make_ready(options.workspace, options.base, options.release)
            if started is not None:  # which may have changed what is started
                options = gather_options(arguments, environ=os.environ, cwd=_working_folder())
                options = options._replace(started=started)
    except ConfigError as error:
        _say(f"mcpkeep run: {str(error).rstrip()}\n")
        return _USAGE
    return _load("mcpkeep.supervisor.run:run")(options)


def _lazily(target: str, *first: str) -> Callable[[Sequence[str]], int]:
    return lambda arguments: _load(target)(*first, arguments)


def _load(target: str) -> Callable[..., int]:
    """Import `module:function`."""
    import importlib

    module, _, function = target.partition(":")
    loaded: Callable[..., int] = getattr(importlib.import_module(module), function)
    return loaded


_COMMANDS = (
    _Command("run", "start an MCP server and keep it up; this is what the IDE's entry calls", _run),
    _Command(
        "workflow",
        "the workflow sessions of a workspace, from a terminal: `mcpkeep workflow list_sessions`",
        _lazily("mcpkeep.supervisor.terminal:main"),
    ),
    *(
        _Command(name, about, _lazily("mcpkeep.supervisor.upgrade.terminal:main", name))
        for name, about in (
            ("plan", "what an upgrade of prAxIs OS would change: `mcpkeep plan --source PATH`"),
            ("upgrade", "upgrade prAxIs OS in the workspace, while its server goes on serving"),
            ("rollback", "go back to the version before, or to one named with --to"),
            ("backups", "list the backups and releases"),
            ("verify", "read backups back against their checksums"),
            ("report", "the newest report of an upgrade or rollback"),
        )
    ),
    _Command(
        "demo",
        "see it: calls in a stream while the server is killed; `mcpkeep demo upgrade`: while it is upgraded",
        _lazily("mcpkeep.supervisor.demo:main"),
    ),
)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        raise ConfigError("the working folder is gone; start mcpkeep in one that exists") from None


def _unknown(word: str) -> str:
    from mcpkeep.protocol.config import nearest

    guess = nearest(word, [command.name for command in _COMMANDS])
    hint = f"did you mean `mcpkeep {guess}`?" if guess else "`mcpkeep --help` lists the commands"
    return f"unknown command {word!r}; {hint}"


def _help() -> str:
    width = max(len(command.name) for command in _COMMANDS)
    rows = "\n".join(f"  {command.name:{width}}  {command.about}" for command in _COMMANDS)
    return f"""\
mcpkeep keeps an MCP server up. Your IDE starts mcpkeep, mcpkeep starts the server; when the
server crashes, is edited or replaced, the session in the IDE goes on.

  mcpkeep run -- npx -y @modelcontextprotocol/server-everything

commands
{rows}

`mcpkeep run --help` lists its options; `mcpkeep --version` tells the version.
"""


def _run_help() -> str:
    from mcpkeep.protocol.config import TABLE, default_of
    from mcpkeep.protocol.setting import show_value

    rows = [
        ("--workspace FOLDER", "the project; else found from here upwards. The server runs in it"),
        ("--config FILE", "instead of mcpkeep.toml or .praxis-os/mcpkeep.toml in the workspace"),
    ]
    for setting in TABLE:
        if setting.sets:
            rows.append((setting.flag, f"turns off that {setting.about}"))
        elif setting.flag:
            default = show_value(setting.kind, default_of(setting))
            shown = f"[{default}]" if default != "[]" else "[none; may be repeated]"
            rows.append((f"{setting.flag} {setting.kind.metavar}", f"{setting.about} {shown}"))
    options = "\n".join(_row(left, right) for left, right in rows)
    return f"""\
usage: mcpkeep run [options] -- COMMAND...

Starts COMMAND, an MCP server on stdio, and keeps it up. Without COMMAND it takes the one in
mcpkeep.toml, or the prAxIs OS server of the workspace. `kill -USR2` restarts the server.

options
{options}

A flag wins over its variable (MCPKEEP_LIMITS_HOLD for --hold), that over mcpkeep.toml, where each
setting stands under its section:

  [child]
  command = "npx -y @modelcontextprotocol/server-everything"
  [limits]
  hold = 30
"""


def _row(left: str, right: str) -> str:
    import textwrap

    indent = " " * 28
    text = textwrap.fill(right, 96, initial_indent=indent, subsequent_indent=indent)
    return f"  {left:26}{text[28:]}" if len(left) < 26 else f"  {left}\n{text}"


def _say(text: str) -> None:
    """Write to descriptor 2; where that was closed sys.stderr is None, and print would pick stdout."""
    with suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))
