import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mcpkeep.protocol.config import Child, Limits, Log, Settings, Watch
from mcpkeep.protocol.errors import ConfigError
from mcpkeep.supervisor.options import RunOptions, gather_options
from tests.benchmarks.line import environment


def mcpkeep(*words: str, cwd: Path, **environ: str) -> tuple[int, str, str]:
    """Run the real command: its exit code, stdout and stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "mcpkeep.supervisor", *words],
        cwd=cwd,
        env=os.environ | {"HOME": str(cwd / "home")} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_nothing_to_run_is_a_usage_error_that_tells_the_three_ways(tmp_path: Path) -> None:
    code, out, err = mcpkeep("run", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("mcpkeep run: there is no server to run.")
    for way in ("mcpkeep run -- npx", f"[child] command in {tmp_path}/mcpkeep.toml", "prAxIs OS"):
        assert way in err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            "run npx x",
            "mcpkeep run: 'npx' is not an option; put `--` before the command: mcpkeep run -- npx x",
        ),
        ("run --hold x -- a", "mcpkeep run: --hold must be a number of seconds from 0 to a year, not 'x'"),
        ("rnu", "mcpkeep: unknown command 'rnu'; did you mean `mcpkeep run`?"),
        ("--verbose", "mcpkeep: unknown command '--verbose'; `mcpkeep --help` lists the commands"),
        ("run --config none.toml", "mcpkeep run: {cwd}/none.toml: cannot be read: no such file or directory"),
    ],
)
def test_a_usage_error_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path, words: str, error: str) -> None:
    assert mcpkeep(*words.split(), cwd=tmp_path) == (2, "", error.format(cwd=tmp_path) + "\n")


def test_a_wrong_file_is_named_with_line_and_key(tmp_path: Path) -> None:
    (tmp_path / "mcpkeep.toml").write_text("[limits]\nmemroy = 1\n")
    assert mcpkeep("run", "--", "x", cwd=tmp_path) == (
        2,
        "",
        f"mcpkeep run: {tmp_path}/mcpkeep.toml:2: unknown key 'memroy' in [limits]; did you mean 'memory'?\n",
    )


def test_an_entry_that_lacks_run_gets_nothing_on_stdout(tmp_path: Path) -> None:
    code, out, err = mcpkeep(cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "mcpkeep run -- " in err


def test_help_and_version_go_to_stdout(tmp_path: Path) -> None:
    code, out, err = mcpkeep("--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "  run " in out and " start an MCP server" in out
    code, out, err = mcpkeep("run", "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "--memory SIZE" in out
    assert max(map(len, out.splitlines())) <= 100
    code, out, err = mcpkeep("--version", cwd=tmp_path)
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    assert (code, out, err) == (0, f"mcpkeep {project['version']}\n", "")


def test_a_usage_error_with_stderr_closed_writes_nothing_anywhere(tmp_path: Path) -> None:
    script = f"exec {sys.executable} -m mcpkeep.supervisor run 2>&-"
    ended = subprocess.run(["sh", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, b"")


def test_the_command_line_is_read_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    """The child starts sooner for it. Without `site`, whose .pth files import what they like."""
    script = (
        "import os, sys\n"
        "from mcpkeep.supervisor.app import main\n"
        "from mcpkeep.supervisor.options import gather_options\n"
        "gather_options(['--', 'x'], environ=os.environ, cwd=os.getcwd())\n"
        "print(*sys.modules)\n"
    )
    links = str(Path(__file__).parents[2] / ".links")
    ended = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": links},
        capture_output=True,
        text=True,
        timeout=60,
    )
    heavy = {
        "anyio",
        "argparse",
        "asyncio",
        "difflib",
        "hashlib",
        "json",
        "logging",
        "msgspec",
        "pathlib",
        "tomllib",
    }
    assert heavy & set(ended.stdout.split()) == set(), ended.stderr
    assert "mcpkeep.supervisor.options" in ended.stdout


def test_what_serves_first_needs_neither_anyio_nor_an_actor() -> None:
    script = "import sys; import mcpkeep.supervisor.serve; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=60
    )
    imported = set(ended.stdout.split())
    assert {"anyio", "psutil", "mcpkeep.actors.actor"} & imported == set(), ended.stderr
    assert "mcpkeep.actors.wires" in imported


def options_of(*words: str, cwd: Path, **environ: str) -> RunOptions:
    return gather_options(words, environ={"HOME": str(cwd / "home")} | environ, cwd=str(cwd))


def test_the_options_of_a_run_are_gathered_from_flags_environment_and_file(tmp_path: Path) -> None:
    (tmp_path / "w/.praxis-os").mkdir(parents=True)
    file = tmp_path / "w/mcpkeep.toml"
    file.write_text("[child]\ncommand = 'a b'\nenv = {A = '1'}\n[watch]\npaths = ['src', '/abs']\n")
    state = tmp_path / "w/.praxis-os/.mcpkeep"
    options = options_of(
        "--workspace", "w", "--hold", "5", cwd=tmp_path, MCPKEEP_LOG_LEVEL="debug", MCPKEEP_LOG_QQQQQQ=""
    )
    assert options == RunOptions(
        command=("a", "b"),
        cwd=str(tmp_path / "w"),
        env={"A": "1"},
        workspace=str(tmp_path / "w"),
        state_dir=str(state),
        log_file=str(state / "logs/mcpkeep.log"),
        watch=(str(tmp_path / "w/src"), "/abs"),
        settings=Settings(
            child=Child(command=("a", "b"), env={"A": "1"}),
            limits=Limits(hold=5.0),
            watch=Watch(paths=("src", "/abs")),
            log=Log(level="debug"),
        ),
        origins={
            "child.command": str(file),
            "child.env": str(file),
            "watch.paths": str(file),
            "limits.hold": "--hold",
            "log.level": "MCPKEEP_LOG_LEVEL",
        },
        warnings=("the variable MCPKEEP_LOG_QQQQQQ is not a setting and is ignored",),
    )


def test_the_command_after_the_dashes_wins_over_the_file_over_what_is_recognised(tmp_path: Path) -> None:
    root = tmp_path / ".praxis-os"
    (root / "venv/bin").mkdir(parents=True)
    (root / "venv/bin/python").touch(mode=0o755)
    (root / "mcp_server").mkdir()
    (root / "mcp_server/__main__.py").write_text("parser.add_argument('--transport')")
    recognised = options_of(cwd=tmp_path, MCPKEEP_CHILD_ENV="PYTHONPATH=/mine")
    assert recognised.command == (str(root / "venv/bin/python"), "-m", "mcp_server", "--transport", "dual")
    assert recognised.env == {"PYTHONPATH": "/mine"}
    assert recognised.origins["child.command"] == "prAxIs OS in the workspace"
    (root / "mcpkeep.toml").write_text("[child]\ncommand = ['in', 'file']\n")
    filed = options_of(cwd=tmp_path)
    assert (filed.command, filed.env) == (("in", "file"), {})
    given = options_of("--", "given", cwd=tmp_path)
    assert (given.command, given.origins["child.command"]) == (("given",), "the command line")


def test_a_config_that_is_named_is_read_instead_of_the_workspaces(tmp_path: Path) -> None:
    (tmp_path / "mcpkeep.toml").write_text("broken")
    (tmp_path / "other.toml").write_text("[limits]\nhold = 7\n")
    assert options_of("--config", "other.toml", "--", "x", cwd=tmp_path).settings.limits.hold == 7
    assert options_of("--", "x", cwd=tmp_path, MCPKEEP_CONFIG="other.toml").settings.limits.hold == 7


def test_the_home_folder_is_a_working_folder_without_a_workspace(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".praxis-os").mkdir(parents=True)
    (home / "mcpkeep.toml").write_text("broken")
    options = gather_options(["--", "x"], environ={"HOME": str(home)}, cwd=str(home))
    assert (options.workspace, options.cwd) == (None, str(home))
    assert list((home / ".praxis-os").iterdir()) == []
    with pytest.raises(ConfigError, match="no server to run"):
        gather_options([], environ={"HOME": str(home)}, cwd=str(home))


def test_a_state_folder_that_cannot_be_had_is_a_warning_and_no_log_file(tmp_path: Path) -> None:
    (tmp_path / ".praxis-os").mkdir()
    (tmp_path / ".praxis-os/.mcpkeep").touch()
    options = options_of("--", "x", cwd=tmp_path)
    assert (options.state_dir, options.log_file, len(options.warnings)) == (None, None, 1)
    assert options_of("--log-file", "l/o.log", "--", "x", cwd=tmp_path).log_file == str(tmp_path / "l/o.log")
    assert options_of("--log-file", "off", "--", "x", cwd=tmp_path).log_file is None
