"""The configuration: its settings, and how flags, environment, file and defaults become one value.

`TABLE` is the one list of settings; the keys of the file, the names in the environment, the flags, the help
and the README all come from it. The sections are named tuples because the configuration is read before the
child is spawned, and importing msgspec first would keep the child waiting for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from mcpkeep.protocol.errors import ConfigError
from mcpkeep.protocol.setting import (
    AMOUNT,
    AUTO,
    COMMAND,
    ENVIRONMENT,
    FILE,
    NAMES,
    NUMBER,
    PATHS,
    POSITIVE_SECONDS,
    SECONDS,
    SIZE,
    SMOKE,
    SWITCH,
    TABLES,
    Kind,
    choice,
    describe_value,
    show_value,
)

__all__ = [
    "TABLE",
    "Child",
    "ConfigFile",
    "Health",
    "Limits",
    "Log",
    "Relay",
    "Resolved",
    "Restart",
    "Setting",
    "Settings",
    "Upgrade",
    "Watch",
    "Workflow",
    "default_of",
    "line_of",
    "nearest",
    "resolve",
    "settings_as_markdown",
]

_MIB = 2**20


class Child(NamedTuple):
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    replace: Literal["overlap", "hold"] = "overlap"
    start_limit: float = 600.0
    """A first start of a prAxIs server builds its index before it answers: six minutes on a slow machine."""
    stop_eof: float = 3.0
    """What a prAxIs server needs, at most, to end after its stdin does."""
    stop_term: float = 2.0
    """What the official SDKs grant."""
    drain_grace: float = 10.0


class Restart(NamedTuple):
    type: Literal["permanent", "transient", "temporary"] = "permanent"
    intensity: int = 5
    period: float = 60.0
    backoff_base: float = 0.1
    backoff_max: float = 30.0
    healthy_after: float = 10.0


class Limits(NamedTuple):
    memory: int = 0
    max_message: int = 10 * _MIB
    """Above it the TypeScript client closes the connection."""
    max_request: int = 64 * _MIB
    hold: float = 30.0


class Health(NamedTuple):
    after_idle: float = 30.0
    timeout: float = 10.0
    busy: bool = False


class Relay(NamedTuple):
    overlay: bool = True


class Workflow(NamedTuple):
    enabled: bool | Literal["auto"] = "auto"


class Watch(NamedTuple):
    paths: tuple[str, ...] = ()
    debounce: float = 0.3


class Upgrade(NamedTuple):
    keep: int = 3
    require_signed: bool = False
    required_tools: tuple[str, ...] = ()
    smoke: tuple[Mapping[str, object], ...] = ()
    freeze: bool = True
    probation: float = 600.0
    git_commit: bool = False
    on_disconnect: Literal["finish", "stop"] = "finish"
    unit_tests: tuple[str, ...] = ()
    post_install: Mapping[str, tuple[str, ...]] = {}


class Log(NamedTuple):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    file: bool | str = True
    max_bytes: int = 5 * _MIB
    keep: int = 3


class Settings(NamedTuple):
    """All settings, each with a value; immutable. Times are in seconds, sizes in bytes."""

    child: Child = Child()
    restart: Restart = Restart()
    limits: Limits = Limits()
    health: Health = Health()
    relay: Relay = Relay()
    workflow: Workflow = Workflow()
    watch: Watch = Watch()
    upgrade: Upgrade = Upgrade()
    log: Log = Log()


class Setting(NamedTuple):
    """One row of the table."""

    section: str
    key: str
    kind: Kind
    about: str
    flag: str = ""
    sets: str = ""
    """The value that the flag stands for, where it takes none."""

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        return f"MCPKEEP_{self.section}_{self.key}".upper()


_LEVELS = choice("debug", "info", "warning", "error")
_FORMATS = choice("text", "json")

TABLE: tuple[Setting, ...] = (
    Setting("child", "command", COMMAND, "the MCP server to run, where none follows `--`"),
    Setting("child", "env", ENVIRONMENT, "variables added to its environment"),
    Setting(
        "child",
        "replace",
        choice("overlap", "hold"),
        "how a planned restart goes: `overlap` starts the new server beside the old one, "
        "`hold` ends the old one first while calls wait",
        "--replace",
    ),
    Setting("child", "start_limit", POSITIVE_SECONDS, "how long a server may take until it can serve"),
    Setting("child", "stop_eof", SECONDS, "how long it may take to end after its stdin is closed"),
    Setting("child", "stop_term", SECONDS, "how long it may take to end after SIGTERM, before SIGKILL"),
    Setting("child", "drain_grace", SECONDS, "how long calls in flight may finish at a planned restart"),
    Setting(
        "restart",
        "type",
        choice("permanent", "transient", "temporary"),
        "restart a server that ended: always, only after a failure, or never",
        "--restart",
    ),
    Setting("restart", "intensity", NUMBER, "more restarts than this within the period, and it is left down; "
        "0 sets no bound"),
    Setting("restart", "period", POSITIVE_SECONDS, "the period for the intensity"),
    Setting("restart", "backoff_base", SECONDS, "wait before the second restart in a row; doubles each time"),
    Setting("restart", "backoff_max", SECONDS, "the longest such wait"),
    Setting("restart", "healthy_after", SECONDS, "uptime after which the waits begin anew"),
    Setting(
        "limits", "memory", SIZE, "replace the server when its process tree holds more; 0 is off", "--memory"
    ),
    Setting("limits", "max_message", AMOUNT, "the largest message of the server", "--max-message"),
    Setting("limits", "max_request", AMOUNT, "the largest message of the client"),
    Setting("limits", "hold", SECONDS, "how long a request waits for a server that is down", "--hold"),
    Setting("health", "after_idle", SECONDS, "quiet time after which a server is checked once; 0 is off"),
    Setting("health", "timeout", POSITIVE_SECONDS, "how long the check waits for an answer"),
    Setting("health", "busy", SWITCH, "check also while calls are in flight"),
    Setting(
        "relay",
        "overlay",
        SWITCH,
        "mcpkeep's own tools hide those of the server that have the same name",
        "--no-overlay",
        "false",
    ),
    Setting(
        "workflow",
        "enabled",
        AUTO,
        "offer the tool pos_workflow: `auto` does where the workspace has .praxis-os, .agent-os or "
        "universal/workflows",
    ),
    Setting("watch", "paths", PATHS, "restart the server when one of these changes", "--watch"),
    Setting("watch", "debounce", SECONDS, "how long changes are gathered before the restart"),
    Setting("upgrade", "keep", NUMBER, "backups that stay after an upgrade, the newest"),
    Setting("upgrade", "require_signed", SWITCH, "demand a signed commit or tag of the source"),
    Setting("upgrade", "required_tools", NAMES, "an upgrade fails if one of these tools is gone"),
    Setting("upgrade", "smoke", SMOKE, "own checks of the new server, each one [[upgrade.smoke]]"),
    Setting(
        "upgrade", "freeze", SWITCH, "keep the former server stopped in memory during probation: the fastest "
        "way back"
    ),
    Setting("upgrade", "probation", SECONDS, "how long a crash loop of the new version rolls back by itself"),
    Setting("upgrade", "git_commit", SWITCH, "commit the changed paths to the workspace's git"),
    Setting(
        "upgrade",
        "on_disconnect",
        choice("finish", "stop"),
        "what becomes of an upgrade under way when the client leaves",
    ),
    Setting("upgrade", "unit_tests", COMMAND, "a command that must succeed in the upgraded workspace"),
    Setting(
        "upgrade", "post_install", TABLES, "further steps after installing a package: its name, and the "
        "words for its Python"
    ),
    Setting("log", "level", _LEVELS, "the least that is logged", "--log-level"),
    Setting("log", "format", _FORMATS, "lines for people, or one JSON object each", "--log-format"),
    Setting("log", "file", FILE, "log to a file beside stderr: true, false or its path", "--log-file"),
    Setting("log", "max_bytes", AMOUNT, "the size at which the log file is rotated"),
    Setting("log", "keep", NUMBER, "how many rotated log files are kept"),
)  # fmt: skip

_SECTIONS = Settings._fields
_BY_NAME = {setting.name: setting for setting in TABLE}


class ConfigFile(NamedTuple):
    """A configuration file that has been read: its name for messages, and its text."""

    name: str
    text: str


class Resolved(NamedTuple):
    """The settings, and by setting name where each came from: a file's name, a variable or a flag.

    A setting without an origin has its default.
    """

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def default_of(setting: Setting) -> object:
    """The value it has where nobody sets it."""
    return getattr(getattr(Settings(), setting.section), setting.key)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant, if any is near."""
    import difflib

    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


def resolve(
    file: ConfigFile | None, *, environ: Mapping[str, str], flags: Mapping[str, str | list[str]]
) -> Resolved:
    """Merge: a flag wins over the environment, that over the file, that over the default.

    `flags` is by setting name, such as `limits.hold`. An empty variable counts as not set.

    Raises:
        ConfigError: a key that does not exist or a value of the wrong kind; the text says where.
    """
    values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    origins: dict[str, str] = {}
    for setting, value in _from_file(file) if file is not None else ():
        values[setting.section][setting.key] = value
        origins[setting.name] = file.name if file is not None else ""
    for setting in TABLE:
        raw = flags.get(setting.name)
        origin = setting.flag
        if raw is None:
            raw = environ.get(setting.variable) or None
            origin = setting.variable
        if raw is not None:
            values[setting.section][setting.key] = _from_text(setting, raw, origin)
            origins[setting.name] = origin
    settings = Settings(
        child=Child(**values["child"]),
        restart=Restart(**values["restart"]),
        limits=Limits(**values["limits"]),
        health=Health(**values["health"]),
        relay=Relay(**values["relay"]),
        workflow=Workflow(**values["workflow"]),
        watch=Watch(**values["watch"]),
        upgrade=Upgrade(**values["upgrade"]),
        log=Log(**values["log"]),
    )
    restart = settings.restart
    if restart.backoff_max < restart.backoff_base:
        raise ConfigError(
            f"restart.backoff_max is {restart.backoff_max:g} and below restart.backoff_base, "
            f"{restart.backoff_base:g}; raise the first or lower the second"
        )
    return Resolved(settings, origins, tuple(_stray_variables(environ)))


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line, from 1, on which a key begins in TOML text that can be read; None where it is not found.

    Asks the parser rather than knowing TOML: the key begins on the first line that is needed for it.
    """
    lines = [line + "\n" for line in text.split("\n")]
    for start, line in enumerate(lines):
        if path[-1] not in line:
            continue
        for end in range(start + 1, len(lines) + 1):
            held = _holds("".join(lines[:end]), path)
            if held:
                return start + 1
            if held is False:
                break
    return None


def settings_as_markdown() -> str:
    """The table of settings for the README."""
    rows = ["| setting | default | flag | what it says |", "| --- | --- | --- | --- |"]
    for setting in TABLE:
        flag = f"`{setting.flag}`" if setting.flag else ""
        default = show_value(setting.kind, default_of(setting))
        rows.append(f"| `[{setting.section}] {setting.key}` | `{default}` | {flag} | {setting.about} |")
    return "\n".join(rows) + "\n"


def _loads(text: str) -> dict[str, Any]:
    import tomllib  # here, since most start without a file

    return tomllib.loads(text)


def _holds(text: str, path: tuple[str, ...]) -> bool | None:
    """Whether the text has the key; None if it ends in the middle of something."""
    try:
        value: Any = _loads(text)
    except (ValueError, RecursionError):
        return None
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = cast("Any", value[key])
    return True


def _place(file: ConfigFile, *path: str) -> str:
    line = line_of(file.text, path)
    return f"{file.name}:{line}" if line is not None else file.name


def _from_file(file: ConfigFile) -> list[tuple[Setting, object]]:
    found: list[tuple[Setting, object]] = []
    for section, content in _parsed(file).items():
        if section not in _SECTIONS:
            raise ConfigError(f"{_place(file, section)}: {_unknown_section(section, content)}")
        if not isinstance(content, dict):
            raise ConfigError(
                f"{_place(file, section)}: [{section}] is a table of settings, not {describe_value(content)}"
            )
        for key, value in cast("dict[str, object]", content).items():
            setting = _BY_NAME.get(f"{section}.{key}")
            if setting is None:
                raise ConfigError(f"{_place(file, section, key)}: {_unknown_key(section, key)}")
            try:
                found.append((setting, setting.kind.check(value)))
            except ValueError:
                raise ConfigError(
                    f"{_place(file, section, key)}: [{section}] {key} must be {setting.kind.expected}, "
                    f"not {describe_value(value)}"
                ) from None
    return found


def _parsed(file: ConfigFile) -> dict[str, Any]:
    try:
        return _loads(file.text)
    except RecursionError:
        raise ConfigError(f"{file.name}: nested too deep; mcpkeep's settings are two levels") from None
    except ValueError as error:
        # Until Python 3.14 the place is in the text only: "(at line 3, column 5)" or "(at end of document)".
        what, _, place = str(error).partition(" (at ")
        line = place.removeprefix("line ").partition(",")[0]
        if place and not line.isdecimal():
            line = str(file.text.rstrip().count("\n") + 1)
        where = f"{file.name}:{line}" if line else file.name
        raise ConfigError(f"{where}: not valid TOML: {what[:1].lower()}{what[1:]}") from None


def _unknown_section(section: str, content: object) -> str:
    if not isinstance(content, dict):
        homes = [setting.section for setting in TABLE if setting.key == section]
        if homes:
            return f"{section!r} stands outside any section; put it under [{homes[0]}]"
    guess = nearest(section, _SECTIONS)
    hint = (
        f"did you mean [{guess}]?" if guess else f"known are {', '.join(f'[{name}]' for name in _SECTIONS)}"
    )
    return f"unknown section {section!r}; {hint}"


def _unknown_key(section: str, key: str) -> str:
    known = [setting.key for setting in TABLE if setting.section == section]
    if homes := [setting.section for setting in TABLE if setting.key == key]:
        hint = f"it belongs under [{homes[0]}]"
    elif guess := nearest(key, known):
        hint = f"did you mean {guess!r}?"
    else:
        hint = f"known are {', '.join(known)}"
    return f"unknown key {key!r} in [{section}]; {hint}"


def _from_text(setting: Setting, raw: str | list[str], origin: str) -> object:
    try:
        return setting.kind.check(setting.kind.from_text(raw) if isinstance(raw, str) else raw)
    except ValueError:
        raise ConfigError(f"{origin} must be {setting.kind.expected}, not {raw!r}") from None


def _stray_variables(environ: Mapping[str, str]) -> list[str]:
    warnings: list[str] = []
    for section in _SECTIONS:
        prefix = f"MCPKEEP_{section}_".upper()
        keys = [setting.key.upper() for setting in TABLE if setting.section == section]
        for variable in sorted(environ):
            key = variable.removeprefix(prefix)
            if key == variable or key in keys:
                continue
            guess = nearest(key, keys)
            hint = f"; did you mean {prefix}{guess}?" if guess else ""
            warnings.append(f"the variable {variable} is not a setting and is ignored{hint}")
    return warnings
