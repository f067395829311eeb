import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.config import (
    TABLE,
    Child,
    ConfigFile,
    Limits,
    Log,
    Relay,
    Resolved,
    Restart,
    Settings,
    Watch,
    default_of,
    line_of,
    resolve,
    settings_as_markdown,
)
from mcpkeep.protocol.errors import ConfigError
from mcpkeep.protocol.flags import RunFlags, parse_run_flags
from mcpkeep.protocol.setting import describe_value, show_value

A_TIME = "a number of seconds from 0 to a year"


def from_file(text: str) -> Resolved:
    return resolve(ConfigFile("m.toml", text), environ={}, flags={})


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        from_file(text)
    return str(caught.value)


def test_the_table_has_one_row_for_each_field_of_the_settings() -> None:
    fields = [
        f"{section}.{key}" for section in Settings._fields for key in getattr(Settings(), section)._fields
    ]
    assert [setting.name for setting in TABLE] == fields
    assert len({setting.flag for setting in TABLE if setting.flag}) == sum(bool(s.flag) for s in TABLE)


def test_every_default_is_a_value_that_its_own_row_accepts() -> None:
    for setting in TABLE:
        value: Any = default_of(setting)
        as_toml: Any = [*value] if isinstance(value, tuple) else value
        assert setting.kind.check(as_toml) == value, setting.name


def test_nothing_set_gives_the_defaults_and_no_origins() -> None:
    assert resolve(None, environ={}, flags={}) == Resolved(Settings(), {})
    assert from_file("") == Resolved(Settings(), {})


def test_a_file_with_every_section_is_read_whole() -> None:
    resolved = from_file(
        """
        [child]
        command = "npx -y 'a server'"
        env = { TOKEN = "x=1" }
        replace = "hold"
        [restart]
        type = "transient"
        intensity = 3
        [limits]
        memory = "1.5 GiB"
        max_message = 4096
        hold = 2
        [health]
        busy = true
        [relay]
        overlay = false
        [watch]
        paths = ["src", "a b"]
        [log]
        level = "debug"
        file = "own.log"
        """
    )
    assert resolved.settings == Settings(
        child=Child(command=("npx", "-y", "a server"), env={"TOKEN": "x=1"}, replace="hold"),
        restart=Restart(type="transient", intensity=3),
        limits=Limits(memory=3 << 29, max_message=4096, hold=2.0),
        health=Settings().health._replace(busy=True),
        relay=Relay(overlay=False),
        watch=Watch(paths=("src", "a b")),
        log=Log(level="debug", file="own.log"),
    )
    assert set(resolved.origins.values()) == {"m.toml"}
    assert len(resolved.origins) == 13


@pytest.mark.parametrize(
    ("file", "environ", "flags", "hold", "origin"),
    [
        (None, {}, {}, 30.0, None),
        ("[limits]\nhold = 1", {}, {}, 1.0, "m.toml"),
        ("[limits]\nhold = 1", {"MCPKEEP_LIMITS_HOLD": "2"}, {}, 2.0, "MCPKEEP_LIMITS_HOLD"),
        ("[limits]\nhold = 1", {"MCPKEEP_LIMITS_HOLD": "2"}, {"limits.hold": "3"}, 3.0, "--hold"),
        ("[limits]\nhold = 1", {"MCPKEEP_LIMITS_HOLD": ""}, {}, 1.0, "m.toml"),
    ],
)
def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    file: str | None,
    environ: dict[str, str],
    flags: dict[str, str | list[str]],
    hold: float,
    origin: str | None,
) -> None:
    resolved = resolve(ConfigFile("m.toml", file) if file else None, environ=environ, flags=flags)
    assert resolved.settings == Settings(limits=Limits(hold=hold))
    assert resolved.origins.get("limits.hold") == origin


FILE_ONLY = ("upgrade.smoke", "upgrade.post_install")


@pytest.mark.parametrize("name", FILE_ONLY)
def test_tables_of_tables_are_refused_from_the_environment_with_the_place_for_them(name: str) -> None:
    variable = f"MCPKEEP_{name.replace('.', '_')}".upper()
    with pytest.raises(ConfigError, match=rf"{variable} must be .* in the file"):
        resolve(None, environ={variable: "x"}, flags={})


def test_every_setting_can_be_set_by_its_variable() -> None:
    texts = {
        "COMMAND": "npx 'a b'",
        "TABLE": "A=1 'B=2 3'",
        "SECONDS": "31",
        "N": "7",
        "SIZE": "12 MiB",
        "BOOL": "off",
        "PATH": "/a:/b",
        "WHEN": "auto",
    }
    table = [setting for setting in TABLE if setting.name not in FILE_ONLY]
    environ = {s.variable: texts.get(s.kind.metavar, s.kind.metavar.split("|")[-1]) for s in table}
    resolved = resolve(None, environ=environ, flags={})
    assert resolved.origins == {setting.name: setting.variable for setting in table}
    assert resolved.settings.child.command == ("npx", "a b")
    assert resolved.settings.child.env == {"A": "1", "B": "2 3"}
    assert resolved.settings.child.replace == "hold"
    assert resolved.settings.restart == Restart("temporary", 7, 31.0, 31.0, 31.0, 31.0)
    assert resolved.settings.limits == Limits(12 << 20, 12 << 20, 12 << 20, 31.0)
    assert resolved.settings.watch.paths == ("/a", "/b")
    assert resolved.settings.log.file == "/a:/b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# memroy\n[limits]\nmemroy = 1", "3: unknown key 'memroy' in [limits]; did you mean 'memory'?"),
        ("[limits]\ntimeout = 1", "2: unknown key 'timeout' in [limits]; it belongs under [health]"),
        ("[relay]\nzzz = 1", "2: unknown key 'zzz' in [relay]; known are overlay"),
        ("\n[chid]\ncommand = []", "2: unknown section 'chid'; did you mean [child]?"),
        ("command = 'x'", "1: 'command' stands outside any section; put it under [child]"),
        ("child = 3", "1: [child] is a table of settings, not the integer 3"),
        ("[[child]]", "1: [child] is a table of settings, not the array [{}]"),
        ("[limits]\n\nhold = 'long'", f"3: [limits] hold must be {A_TIME}, not the string 'long'"),
        ("limits.hold = true", f"1: [limits] hold must be {A_TIME}, not the boolean true"),
        (
            "[child]\ncommand = [\n  'npx',\n  3,\n]",
            "2: [child] command must be an array of strings, or one string such as "
            "\"npx -y some-server\", not the array ['npx', 3]",
        ),
        ("[child]\nenv = {A = 1}", "2: [child] env must be a table of strings, not the table {'A': 1}"),
        (
            "[log]\nlevel = 'loud'",
            "2: [log] level must be one of 'debug', 'info', 'warning', 'error', not the string 'loud'",
        ),
        (
            "[restart]\nintensity = 1.0",
            "2: [restart] intensity must be a whole number from 0 to 1000, not the float 1.0",
        ),
        ("[watch]\npaths = 'src'", "2: [watch] paths must be an array of paths, not the string 'src'"),
        (
            "[workflow]\nenabled = 'maybe'",
            "2: [workflow] enabled must be true, false or \"auto\", not the string 'maybe'",
        ),
        (
            "[log]\nfile = 1979-05-27",
            "2: [log] file must be true, false or a path, not the date or time 1979-05-27",
        ),
    ],
)
def test_a_wrong_entry_is_refused_with_its_file_line_and_key(text: str, message: str) -> None:
    assert error_of(text) == f"m.toml:{message}"


def test_settings_that_contradict_each_other_are_refused() -> None:
    assert error_of("[restart]\nbackoff_max = 0.05") == (
        "restart.backoff_max is 0.05 and below restart.backoff_base, 0.1; raise the first or lower the second"
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[limits]\nhold = ", "m.toml:2: not valid TOML: "),
        ("[limits]\nhold = 1\nhold = 2", "m.toml:3: not valid TOML: "),
        ("[limits", "m.toml:1: not valid TOML: "),
        ("\nx = '''\n", "m.toml:2: not valid TOML: "),
        ("x = " + "[" * 100_000, "m.toml: nested too deep"),
        ("x = " + "9" * 5000, "m.toml: not valid TOML: "),
    ],
)
def test_text_that_is_not_toml_is_refused_with_its_line(text: str, start: str) -> None:
    assert error_of(text).startswith(start)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e9", "1" + "0" * 400, "'3'", "[]"])
def test_a_time_that_no_clock_could_wait_for_is_refused(value: str) -> None:
    assert "[limits] hold must be a number of seconds" in error_of(f"[limits]\nhold = {value}")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("600000000", 600_000_000),
        ("600 MB", 600_000_000),
        ("600mb", 600_000_000),
        ("1.5 GiB", 3 << 29),
        ("64KiB", 1 << 16),
        ("12 B", 12),
        ("0", 0),
    ],
)
def test_a_size_is_a_number_of_bytes_or_has_a_unit(text: str, size: int) -> None:
    assert resolve(None, environ={}, flags={"limits.memory": text}).settings.limits.memory == size


@pytest.mark.parametrize(
    "text", ["600 M", "MB", "1.2.3 MB", "-1", "1e3", "99999999999 TB", "٣x", "6 0 MB", "."]
)
def test_a_size_that_could_be_misread_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--memory must be a number of bytes"):
        resolve(None, environ={}, flags={"limits.memory": text})


@pytest.mark.parametrize("text", ['"\\u0000"', '[""]', '["a", "\\u0000"]', "[['a']]", '"unclosed \'quote"'])
def test_a_command_that_cannot_be_executed_is_refused_before_it_is(text: str) -> None:
    assert error_of(f"[child]\ncommand = {text}").startswith("m.toml:2: [child] command must be")


def test_a_variable_that_is_no_setting_is_told_and_ignored() -> None:
    environ = {"MCPKEEP_LIMITS_MEMROY": "1", "MCPKEEP_RUN": "x", "MCPKEEP_WORKSPACE": "/", "OTHER": "y"}
    assert resolve(None, environ=environ, flags={}) == Resolved(
        Settings(),
        {},
        (
            "the variable MCPKEEP_LIMITS_MEMROY is not a setting and is ignored; "
            "did you mean MCPKEEP_LIMITS_MEMORY?",
        ),
    )


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("[a]\nb = 1\n[c]\nb = 2", ("c", "b"), 4),
        ("a = { b = 1 }", ("a", "b"), 1),
        ("x = '''\n[a]\nb = 1\n'''\n[a]\nb = 2", ("a", "b"), 6),
        ('[a]\n"b" = 1', ("a", "b"), 2),
        ("[a]\r\n# \u2028\r\nb = 1\r\n", ("a", "b"), 3),
        ("[a]\nc = [\n'b',\n]\nb = [\n1,\n2]", ("a", "b"), 5),
        ("[a]\nc = 1", ("a", "b"), None),
    ],
)
def test_the_line_of_a_key_is_where_it_begins(text: str, path: tuple[str, ...], line: int | None) -> None:
    assert line_of(text, path) == line


@given(st.text(alphabet="[]=\"'#.,{}\n\r abchildmory0123\x00\u2028", max_size=60))
def test_any_text_gives_settings_or_our_error(text: str) -> None:
    try:
        from_file(text)
    except ConfigError as error:
        assert str(error).startswith("m.toml")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_no_kind_of_setting_lets_a_foreign_error_out(value: object) -> None:
    for setting in TABLE:
        try:
            setting.kind.check(value)
        except ValueError:
            continue


def test_a_value_beyond_measure_can_still_be_described() -> None:
    assert describe_value(10**5000) == "the integer beyond all measure"
    assert describe_value("x" * 100) == f"the string '{'x' * 56}..."


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("limits.memory", "1.5 GiB", '"1536 MiB"'),
        ("limits.memory", "600 MB", "600000000"),
        ("limits.hold", "0.25", "0.25"),
        ("restart.intensity", "12", "12"),
        ("child.env", "A=b", '{A = "b"}'),
        ("watch.paths", "a:b", '["a", "b"]'),
        ("relay.overlay", "off", "false"),
        ("log.file", "x.log", '"x.log"'),
        ("workflow.enabled", "auto", '"auto"'),
        ("workflow.enabled", "yes", "true"),
    ],
)
def test_a_value_is_shown_as_it_would_stand_in_the_file(name: str, text: str, shown: str) -> None:
    setting = next(setting for setting in TABLE if setting.name == name)
    assert show_value(setting.kind, setting.kind.check(setting.kind.from_text(text))) == shown


def test_the_readme_table_names_every_setting_with_its_default_and_flag() -> None:
    lines = settings_as_markdown().splitlines()
    assert len(lines) == len(TABLE) + 2
    assert lines[16] == (
        '| `[limits] max_message` | `"10 MiB"` | `--max-message` | the largest message of the server |'
    )


def test_a_run_line_is_taken_apart() -> None:
    words = (
        "--workspace /w --hold=3 --watch a --watch b --no-overlay --memory 600MB --config c -- npx --hold 5"
    )
    assert parse_run_flags(words.split()) == RunFlags(
        workspace="/w",
        config="c",
        settings={
            "limits.hold": "3",
            "watch.paths": ["a", "b"],
            "relay.overlay": "false",
            "limits.memory": "600MB",
        },
        command=("npx", "--hold", "5"),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("npx -y x", "'npx' is not an option; put `--` before the command: mcpkeep run -- npx -y x"),
        ("--hodl 3", "unknown option '--hodl'; did you mean --hold?"),
        ("--q", "unknown option '--q'; `mcpkeep run --help` lists them"),
        ("--hold", "--hold needs a value"),
        ("--hold --memory 3", "--hold needs a value"),
        ("--workspace=", "--workspace needs a value"),
        ("--no-overlay=false", "--no-overlay takes no value, but got 'false'"),
    ],
)
def test_a_wrong_run_line_is_refused_with_the_remedy(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
        parse_run_flags(words.split())
