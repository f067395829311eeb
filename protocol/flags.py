"""The words of a `run` command line, taken apart by the table of settings.

A loop instead of argparse: the options come from a table anyway, and its import would delay the child.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mcpkeep.protocol.config import TABLE, nearest
from mcpkeep.protocol.errors import ConfigError
from mcpkeep.protocol.setting import PATHS

__all__ = ["RunFlags", "parse_run_flags"]

_PLACES = ("--workspace", "--config")


class RunFlags(NamedTuple):
    """What the command line said. `settings` is by setting name, as `resolve` takes it."""

    workspace: str | None
    config: str | None
    settings: dict[str, str | list[str]]
    command: tuple[str, ...]


def parse_run_flags(arguments: Sequence[str]) -> RunFlags:
    """Take apart `[options] [-- COMMAND...]`; a flag that is repeated wins, `--watch` gathers.

    Raises:
        ConfigError: an unknown flag, a flag without its value, or a command without `--` before it.
    """
    by_flag = {setting.flag: setting for setting in TABLE if setting.flag}
    places: dict[str, str] = {}
    settings: dict[str, str | list[str]] = {}
    words = list(arguments)
    command: tuple[str, ...] = ()
    if "--" in words:
        cut = words.index("--")
        command = tuple(words[cut + 1 :])
        del words[cut:]
    queue = iter(words)
    for word in queue:
        if not word.startswith("-"):
            rest = " ".join([word, *queue])
            raise ConfigError(
                f"{word!r} is not an option; put `--` before the command: mcpkeep run -- {rest}"
            )
        flag, equals, value = word.partition("=")
        setting = by_flag.get(flag)
        if setting is None and flag not in _PLACES:
            guess = nearest(flag, [*by_flag, *_PLACES, "--help"])
            hint = f"did you mean {guess}?" if guess else "`mcpkeep run --help` lists them"
            raise ConfigError(f"unknown option {flag!r}; {hint}")
        if setting is not None and setting.sets:
            if equals:
                raise ConfigError(f"{flag} takes no value, but got {value!r}")
            settings[setting.name] = setting.sets
            continue
        if not equals:
            value = next(queue, "")
        if not value or (value.startswith("--") and not equals):
            raise ConfigError(f"{flag} needs a value")
        if setting is None:
            places[flag] = value
        elif setting.kind is PATHS:
            gathered = settings.setdefault(setting.name, [])
            assert isinstance(gathered, list)
            gathered.append(value)
        else:
            settings[setting.name] = value
    return RunFlags(places.get("--workspace"), places.get("--config"), settings, command)
