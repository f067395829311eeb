"""The sample prAxIs OS has the layout and the habits that were measured of the real one."""

import json
import os
import signal
import stat
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from mcp import Client as SdkClient
from mcp import StdioServerParameters
from uv import find_uv_bin

from mcpkeep.supervisor.upgrade.git import run_git
from mcpkeep.supervisor.upgrade.sample import Bulk, build_index, make_source
from mcpkeep.supervisor.upgrade.sample_history import VERSIONS
from mcpkeep.supervisor.upgrade.sample_wheels import write_wheels
from tests.praxis import (
    VARIANTS,
    World,
    make_dirty,
    make_squashed,
    make_variant,
    make_without_git,
    server_command,
    server_environment,
    shallow_clone,
    world_in,
)
from tests.rpc import LIMIT, Client

OLD_TOOLS = ["get_server_info", "current_date", "search_standards", "pos_workflow", "pos_browser"]
NEW_TOOLS = [*OLD_TOOLS[:3], "explain_standard", *OLD_TOOLS[3:]]
QUERY = {"query": "how long may I hold a lock"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def serving(world: World) -> Generator[Client]:
    """The installed server, its session open."""
    with Client(server_command(world), world.workspace, env=server_environment(world)) as client:
        client.initialize()
        yield client


def method_of(client: Client) -> object:
    return client.call("search_standards", **QUERY)["result"]["structuredContent"]["retrieval_method"]


def state_of(world: World) -> Path:
    return world.base / ".mcp_server_state.json"


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_official_client_talks_to_each_version(
    tmp_path: Path, version: str, mode: Literal["legacy", "auto"]
) -> None:
    world = world_in(tmp_path, version)
    command = server_command(world)
    server = StdioServerParameters(
        command=command[0], args=command[1:], env=server_environment(world), cwd=world.workspace
    )
    async with SdkClient(server, mode=mode, read_timeout_seconds=LIMIT) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        found = (await client.call_tool("search_standards", dict(QUERY))).structured_content
        today = (await client.call_tool("current_date", {})).structured_content
        unknown = await client.call_tool("current_date", {"zone": "UTC"})
    assert names == (NEW_TOOLS if version == "v2.0.0" else OLD_TOOLS)
    assert found is not None and found["retrieval_method"] == "vector"
    assert "lock" in found["results"][0]["file"]
    assert today is not None and set(today) == {"iso_date", "iso_datetime", "day_of_week"}
    assert unknown.is_error


def test_the_new_versions_new_tool_uses_the_new_package(tmp_path: Path) -> None:
    with serving(world_in(tmp_path, "v2.0.0")) as client:
        said = client.call("explain_standard", standard="git-safety")["result"]["structuredContent"]
    assert (said["file"], said["title"]) == ("git-safety.md", "Git safety")


def test_the_history_has_what_upgrades_must_cope_with(tmp_path: Path) -> None:
    source = world_in(tmp_path).source
    names = ("diff", "--name-status", "-M", "-z")
    between = {
        new: run_git(source, *names, old, new).decode().split("\0")[:-1] for old, new in pairwise(VERSIONS)
    }
    assert between["v1.1.0"] == [
        *("M", "mcp_server/__main__.py", "M", "scripts/pre-commit.sh"),
        *("A", "universal/standards/testing/property-based.md"),
        *("M", "universal/standards/testing/test-pyramid.md"),
    ]
    two = between["v2.0.0"]
    assert [path for path in two if "locking" in path or "locks-and" in path] == [
        "universal/standards/concurrency/locking.md",
        "universal/standards/concurrency/locks-and-queues.md",
    ]
    assert two[two.index("universal/usage/update-guide.md") - 1] == "D"
    assert run_git(source, "status", "--porcelain") == b""


def test_the_source_is_the_same_each_time(tmp_path: Path) -> None:
    heads = {run_git(make_source(tmp_path / name), "rev-parse", "HEAD") for name in ("a", "b")}
    for name in ("c", "d"):
        write_wheels(tmp_path / name)
    wheels = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("c", "d")]
    assert (len(heads), wheels[0] == wheels[1]) == (1, True)


def test_an_installation_is_as_the_install_script_leaves_it(tmp_path: Path) -> None:
    base = world_in(tmp_path).base
    folders = [
        ".cache",
        "mcp_server",
        "scripts",
        "specs",
        "standards",
        "usage",
        "venv",
        "workflows",
        "workspace",
    ]
    assert sorted(path.name for path in base.iterdir()) == folders
    assert sorted(path.name for path in (base / "standards").iterdir()) == ["development", "universal"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (base / "scripts").iterdir()}
    assert modes == {"build_rag_index.py": 0o755, "pre-commit.sh": 0o755, "safe-upgrade.py": 0o755}
    documentation = base / "standards/universal/documentation"
    assert sorted(path.name for path in documentation.iterdir()) == [
        *("naming things.md", "pyramid.png", "windows.md", "écrire-clairement.md"),
    ]
    lines = (documentation / "windows.md").read_bytes()
    assert lines.count(b"\r\n") == lines.count(b"\n") > 20


def test_its_packages_are_those_of_its_day(tmp_path: Path) -> None:
    installed: dict[str, list[str]] = {}
    for version in ("v1.1.0", "v2.0.0"):
        venv = world_in(tmp_path / version, version).base / "venv"
        installed[version] = sorted(path.name for path in venv.glob("lib/*/site-packages/mcpkeep*"))
    stem = "mcpkeep_sample_"
    assert installed == {
        "v1.1.0": [f"{stem}calendar-1.0.0.dist-info", f"{stem}tokens-1.0.0.dist-info"],
        "v2.0.0": [
            f"{stem}calendar-2.0.0.dist-info",
            f"{stem}explain-1.0.0.dist-info",
            f"{stem}tokens-2.0.0.dist-info",
        ],
    }


def test_bulk_brings_the_source_to_a_size(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", bulk=Bulk(files=40, bytes=100_000, changed=0.25))
    files = list((source / "universal/standards/bulk").rglob("*.md"))
    assert (len(files), sum(path.stat().st_size for path in files)) == (40, 100_000)
    changed = run_git(source, "diff", "--name-only", "v1.1.0", "v2.0.0", "--", "universal/standards/bulk")
    assert len(changed.splitlines()) == 10


@pytest.mark.parametrize(
    ("version", "flags", "code"),
    [("v1.0.0", ["--transport", "stdio"], 2), ("v1.1.0", [], 2), ("v1.1.0", ["--nonsense"], 2)],
)
def test_it_refuses_flags_as_each_version_does(
    tmp_path: Path, version: str, flags: list[str], code: int
) -> None:
    world = world_in(tmp_path, version)
    command = [*server_command(world)[:3], *flags]
    done = subprocess.run(
        command, cwd=world.workspace, env={**os.environ, **server_environment(world)}, capture_output=True
    )
    assert (done.returncode, done.stdout) == (code, b"")


@pytest.mark.parametrize("missing", ["standards", "workflows", ".cache"])
def test_it_does_not_start_without_what_it_reads_and_the_place_for_its_index(
    tmp_path: Path, missing: str
) -> None:
    world = world_in(tmp_path, "v2.0.0")
    (world.base / missing).rename(tmp_path / "gone")
    with Client(server_command(world), world.workspace, env=server_environment(world)) as client:
        assert client.wait_until_ended() == 1
    assert client.log().splitlines()[-1].endswith(str(world.base / missing))


def test_an_older_installation_is_found_by_its_older_name(tmp_path: Path) -> None:
    world = world_in(tmp_path, "v1.0.0", base=".agent-os")
    with serving(world) as client:
        assert method_of(client) == "vector"
        workflows = client.call("pos_workflow", action="list_workflows")["result"]["structuredContent"]
    assert [flow["workflow_type"] for flow in workflows["workflows"]] == [
        "praxis_os_upgrade_v1",
        "spec_execution_v1",
    ]


# The index


def test_an_index_of_another_table_is_not_rebuilt_and_the_search_falls_back(tmp_path: Path) -> None:
    world = world_in(tmp_path, "v2.0.0")
    table = world.base / ".cache/vector_index/praxis_os_standards.lance"
    table.rename(table.with_name("agent_os_standards.lance"))
    with serving(world) as client:
        assert method_of(client) == "grep_fallback"
    assert not table.exists()


def test_a_missing_index_is_built_before_the_session_opens(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    index = world.base / ".cache/vector_index"
    (index / "metadata.json").unlink()
    index.rename(tmp_path / "old")
    with serving(world) as client:
        built = json.loads((index / "metadata.json").read_text())
        assert method_of(client) == "vector"
        assert "\rBatches: 100%" in client.log()
    assert (built["table"], len(built["files_mtimes"])) == ("agent_os_standards", 11)


def test_an_empty_index_folder_is_never_rebuilt(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    index = world.base / ".cache/vector_index"
    index.rename(tmp_path / "old")
    index.mkdir()
    with serving(world) as client:
        assert method_of(client) == "grep_fallback"
    assert list(index.iterdir()) == []


def test_a_running_server_fails_its_searches_once_its_index_files_are_gone(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    with serving(world) as client:
        (world.base / ".cache/vector_index").rename(tmp_path / "old")
        said = client.call("search_standards", **QUERY)["result"]["structuredContent"]
    assert (said["results"], said["total_tokens"], "error" in said) == ([], 0, True)


def test_an_index_that_is_built_again_leaves_a_running_server_its_rows(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    with serving(world) as client:
        build_index(world.base)
        assert method_of(client) == "vector"


# The state file, and how it ends


def test_the_state_file_names_the_server_and_goes_with_it(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    with serving(world) as client:
        state = json.loads(state_of(world).read_text())
        mode = stat.S_IMODE(state_of(world).stat().st_mode)
        assert (state["pid"], state["port"], mode) == (client.process.pid, 4242, 0o600)
    assert (client.process.returncode, state_of(world).exists()) == (0, False)


def test_on_eof_it_deletes_its_successors_state_file_too(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    with serving(world) as second:
        with serving(world):
            assert json.loads(state_of(world).read_text())["port"] == 4243
        assert not state_of(world).exists()
        assert method_of(second) == "vector"


def test_it_ignores_sigint_and_leaves_its_state_file_on_sigterm(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    with serving(world) as client:
        client.process.send_signal(signal.SIGINT)
        assert method_of(client) == "vector"
        client.process.send_signal(signal.SIGTERM)
        code = client.wait_until_ended()
    assert (code, state_of(world).exists()) == (-signal.SIGTERM, True)


# New versions that are broken


def broken(tmp_path: Path, variant: str) -> Client:
    """The server of v2.0.0 broken in that way, started where v2.0.0 is installed."""
    world = world_in(tmp_path, "v2.0.0")
    make_variant(world.source, variant)
    env = {**server_environment(world), "PYTHONPATH": str(world.source)}
    return Client(server_command(world), world.workspace, env=env)


@pytest.mark.parametrize(
    ("variant", "told"),
    [("syntax_error", "SyntaxError"), ("missing_module", "No module named 'sample_nowhere'")],
)
def test_broken_code_ends_before_the_first_byte_and_says_why(tmp_path: Path, variant: str, told: str) -> None:
    with broken(tmp_path, variant) as client:
        code = client.wait_until_ended()
    assert (code, client.said, client.garbage) == (1, [], [])
    assert told in client.log().splitlines()[-1]


def test_hang_says_nothing_and_outlives_eof(tmp_path: Path) -> None:
    with broken(tmp_path, "hang") as client:
        client.wait_for_log("explaining.md")
        client.close_stdin()
        client.process.send_signal(signal.SIGINT)
        assert client.process.poll() is None and client.said == []
        client.process.kill()


@pytest.mark.parametrize(
    ("variant", "tool", "arguments", "code"),
    [("crash_on_first_call", "search_standards", QUERY, 17), ("crash_on_date", "current_date", {}, 18)],
)
def test_a_crash_in_a_tool_comes_after_a_good_handshake(
    tmp_path: Path, variant: str, tool: str, arguments: dict[str, object], code: int
) -> None:
    with broken(tmp_path, variant) as client:
        client.initialize()
        client.begin(tool, **arguments)
        assert client.wait_until_ended() == code


def test_noisy_stdout_mixes_words_with_messages(tmp_path: Path) -> None:
    with broken(tmp_path, "noisy_stdout") as client:
        client.initialize()
    assert client.garbage == [b'loading, and it says {"jsonrpc": 2}']


def test_fewer_tools_lack_the_browser(tmp_path: Path) -> None:
    with broken(tmp_path, "fewer_tools") as client:
        client.initialize()
        listed = client.answer(client.request("tools/list"))["result"]["tools"]
    assert [tool["name"] for tool in listed] == NEW_TOOLS[:-1]


def test_wrong_index_falls_back(tmp_path: Path) -> None:
    with broken(tmp_path, "wrong_index") as client:
        client.initialize()
        assert method_of(client) == "grep_fallback"


def test_missing_package_cannot_be_installed(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    make_variant(world.source, "missing_package")
    command = [find_uv_bin(), "pip", "install", "--dry-run", "--python", str(world.base / "venv")]
    requirements = world.source / "mcp_server/requirements.txt"
    done = subprocess.run(
        [*command, "--requirements", str(requirements)],
        env={**os.environ, **world.environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "mcpkeep-sample-nowhere" in done.stderr


def test_every_variant_is_tagged_and_clean(tmp_path: Path) -> None:
    for variant in VARIANTS:
        source = world_in(tmp_path / variant).source
        commit = make_variant(source, variant)
        tagged = run_git(source, "rev-list", "-1", "v2.0.1").decode().strip()
        assert (tagged, run_git(source, "status", "--porcelain")) == (commit, b"")


def test_sources_that_must_be_refused_are_what_they_are_called(tmp_path: Path) -> None:
    sources = [world_in(tmp_path / name).source for name in ("changed", "untracked", "archive")]
    make_dirty(sources[0])
    make_dirty(sources[1], tracked=False)
    make_without_git(sources[2])
    status = [run_git(source, "status", "--porcelain").strip() for source in sources[:2]]
    assert status == [b"M README.md", b"?? notes.md"]
    shallow = shallow_clone(world_in(tmp_path / "full").source, tmp_path / "shallow")
    squashed = make_squashed(tmp_path / "squashed")
    counts = [run_git(source, "rev-list", "--count", "HEAD").strip() for source in (shallow, squashed)]
    assert counts == [b"1", b"1"]
    assert not (sources[2] / ".git").exists()


def test_the_sources_own_script_compares_and_writes_nothing(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in world.base.rglob("*")}
    script = world.source / "scripts/safe-upgrade.py"
    done = subprocess.run(
        [script, "--source", world.source, "--target", world.base, "--dry-run"],
        capture_output=True,
        text=True,
    )
    said = dict(line.strip().split(": ") for line in done.stdout.splitlines()[1:])
    assert (done.returncode, list(said)[:3], said["Errors"]) == (
        0,
        ["New files", "Auto-update", "Unchanged"],
        "5",
    )
    assert {path: path.stat().st_mtime_ns for path in world.base.rglob("*")} == before
