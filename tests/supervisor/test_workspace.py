import os
from pathlib import Path

import pytest

from mcpkeep.protocol.errors import ConfigError, SpawnError
from mcpkeep.supervisor.launch import launch
from mcpkeep.supervisor.options import RunOptions, gather_options
from mcpkeep.supervisor.workspace import (
    KnownServer,
    StateFolder,
    find_workspace,
    make_state_folder,
    recognise_server,
)


def workspace_of(cwd: Path, home: Path, named: str | None = None, **environ: str) -> str | None:
    return find_workspace(named, environ=environ, cwd=str(cwd), home=str(home))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.mark.parametrize("marker", [".praxis-os", ".agent-os", "mcpkeep.toml"])
def test_the_nearest_folder_upwards_with_a_marker_is_the_workspace(home: Path, marker: str) -> None:
    deep = home / "project/src/deep"
    deep.mkdir(parents=True)
    assert workspace_of(deep, home) == str(deep)
    (home / "project" / marker).mkdir()
    assert workspace_of(deep, home) == str(home / "project")
    (home / "project/src" / marker).mkdir()
    assert workspace_of(deep, home) == str(home / "project/src")


def test_the_home_folder_and_what_is_above_it_are_never_the_workspace_by_accident(home: Path) -> None:
    (home / ".praxis-os").mkdir()
    (home.parent / "mcpkeep.toml").touch()
    (home / "project").mkdir()
    assert workspace_of(home / "project", home) == str(home / "project")
    assert workspace_of(home, home) is None
    assert workspace_of(Path("/"), home) is None


def test_a_home_reached_through_a_link_is_still_the_home_folder(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    assert workspace_of(tmp_path / "link", home) is None
    assert workspace_of(home, tmp_path / "link") is None


def test_the_home_folder_is_the_workspace_where_it_is_named(home: Path) -> None:
    assert workspace_of(Path("/"), home, named=str(home)) == str(home)
    assert workspace_of(home, home, named="/") == "/"


def test_the_flag_wins_over_the_variable_over_the_project_root_over_the_search(home: Path) -> None:
    for name in "abcd":
        (home / name).mkdir()
    (home / "d/mcpkeep.toml").touch()
    a, b, c, d = (str(home / name) for name in "abcd")
    assert workspace_of(home / "d", home, a, MCPKEEP_WORKSPACE=b, PROJECT_ROOT=c) == a
    assert workspace_of(home / "d", home, MCPKEEP_WORKSPACE=b, PROJECT_ROOT=c) == b
    assert workspace_of(home / "d", home, PROJECT_ROOT="../c") == c
    assert workspace_of(home / "d", home, PROJECT_ROOT="") == d


@pytest.mark.parametrize(
    ("value", "hint"),
    [("${workspaceFolder}", "the IDE left a placeholder in it"), ("/nowhere", "name a folder that exists")],
)
def test_a_named_workspace_that_is_no_folder_is_refused(home: Path, value: str, hint: str) -> None:
    for name, named, environ in (
        ("--workspace", value, dict[str, str]()),
        ("MCPKEEP_WORKSPACE", None, {"MCPKEEP_WORKSPACE": value}),
        ("PROJECT_ROOT", None, {"PROJECT_ROOT": value}),
    ):
        with pytest.raises(ConfigError) as caught:
            workspace_of(home, home, named, **environ)
        assert str(caught.value) == f"{name} is {value!r}, which is no folder; {hint}"


def state_of(workspace: Path | None, home: Path, platform: str = "linux", **environ: str) -> StateFolder:
    return make_state_folder(
        str(workspace) if workspace else None,
        environ=environ,
        cwd=str(home),
        home=str(home),
        platform=platform,
    )


def test_a_praxis_workspace_holds_its_state_and_git_ignores_it(home: Path) -> None:
    (home / "w/.praxis-os").mkdir(parents=True)
    for _ in range(2):
        assert state_of(home / "w", home) == StateFolder(str(home / "w/.praxis-os/.mcpkeep"))
    assert (home / "w/.praxis-os/.mcpkeep/.gitignore").read_text() == "*\n"


def test_another_workspace_gets_no_droppings(home: Path) -> None:
    workspaces = [home / "a/my project", home / "b/my project"]
    for workspace in workspaces:
        workspace.mkdir(parents=True)
    states = [state_of(workspace, home).path or "" for workspace in workspaces]
    assert [list(workspace.iterdir()) for workspace in workspaces] == [[], []]
    assert states[0] != states[1]
    for state in states:
        assert Path(state).parent == home / ".local/state/mcpkeep"
        assert Path(state).name.startswith("my-project-")
        assert Path(state).stat().st_mode & 0o777 == 0o700
    assert state_of(workspaces[0], home).path == states[0]


def test_the_home_folder_keeps_no_state_in_its_praxis_folder(home: Path) -> None:
    (home / ".praxis-os").mkdir()
    state = state_of(None, home)
    assert Path(state.path or "").parent == home / ".local/state/mcpkeep"
    assert list((home / ".praxis-os").iterdir()) == []


def test_the_users_state_folder_is_where_the_platform_has_it(home: Path, tmp_path: Path) -> None:
    (home / "w").mkdir()
    xdg = str(tmp_path / "xdg")
    parents = [
        Path(state_of(home / "w", home, platform, XDG_STATE_HOME=named).path or "").parent
        for platform, named in (("linux", xdg), ("linux", "relative"), ("darwin", xdg))
    ]
    assert parents == [
        tmp_path / "xdg/mcpkeep",
        home / ".local/state/mcpkeep",
        home / "Library/Application Support/mcpkeep",
    ]


def test_a_state_folder_that_cannot_be_made_is_a_warning(home: Path) -> None:
    (home / "w/.praxis-os").mkdir(parents=True)
    taken = home / "w/.praxis-os/.mcpkeep"
    taken.touch()
    assert state_of(home / "w", home) == StateFolder(
        None, f"{taken} cannot be made (file exists); going on without log file and saved state"
    )
    (home / ".local").touch()
    assert state_of(home, home).path is None


TAKES_TRANSPORT = 'parser.add_argument(\n        "--transport", required=True)'
TAKES_NONE = '# --transport came later; see add_argument("--transport")\n'.replace('add_argument("', 'add("')


def install(root: Path, source: str) -> None:
    (root / "mcp_server").mkdir(parents=True)
    (root / "mcp_server/__main__.py").write_text(source)
    (root / "venv/bin").mkdir(parents=True)
    (root / "venv/bin/python").touch(mode=0o755)


@pytest.mark.parametrize("base", [".praxis-os", ".agent-os"])
@pytest.mark.parametrize(("source", "flags"), [(TAKES_TRANSPORT, ("--transport", "dual")), (TAKES_NONE, ())])
def test_an_installed_praxis_server_is_run_with_the_flags_it_knows(
    tmp_path: Path, base: str, source: str, flags: tuple[str, ...]
) -> None:
    root = tmp_path / base
    install(root, source)
    assert recognise_server(str(tmp_path)) == KnownServer(
        (str(root / "venv/bin/python"), "-m", "mcp_server", *flags), {"PYTHONPATH": str(root)}
    )


def test_the_server_since_november_2025_is_run_where_no_former_one_is_installed(tmp_path: Path) -> None:
    root = tmp_path / ".praxis-os"
    install(root, TAKES_TRANSPORT)
    (root / "ouroboros").mkdir()
    (root / "ouroboros/__main__.py").write_text(TAKES_TRANSPORT)
    python = str(root / "venv/bin/python")
    former, newer = (
        KnownServer((python, "-m", module, "--transport", "dual"), {"PYTHONPATH": str(root)})
        for module in ("mcp_server", "ouroboros")
    )
    assert recognise_server(str(tmp_path)) == former
    make_release(root, "one")
    (root / ".mcpkeep/current").symlink_to("releases/one")
    (root / "mcp_server").rename(tmp_path / "gone")
    assert recognise_server(str(tmp_path)) == newer
    assert options(tmp_path).base is None  # mcpkeep makes no releases of it


def test_a_half_installed_praxis_server_is_not_recognised(tmp_path: Path) -> None:
    root = tmp_path / ".praxis-os"
    assert recognise_server(str(tmp_path)) is None
    install(root, TAKES_TRANSPORT)
    (root / "venv/bin/python").unlink()
    (root / "venv/bin/python").symlink_to("gone")
    assert recognise_server(str(tmp_path)) is None
    install(tmp_path / ".agent-os", TAKES_NONE)
    server = recognise_server(str(tmp_path))
    assert server is not None
    assert server.command[0] == str(tmp_path / ".agent-os/venv/bin/python")


def make_release(base: Path, name: str, source: str = TAKES_TRANSPORT) -> Path:
    folder = base / ".mcpkeep/releases" / name
    install(folder, source)
    (folder / "release.json").touch()
    return folder


@pytest.mark.parametrize("base", [".praxis-os", ".agent-os"])
def test_the_current_release_is_run_and_not_the_live_folder(tmp_path: Path, base: str) -> None:
    root = tmp_path / base
    install(root, TAKES_NONE)
    folder = make_release(root, "one")
    (root / ".mcpkeep/current").symlink_to("releases/one")
    assert recognise_server(str(tmp_path)) == KnownServer(
        (str(folder / "venv/bin/python"), "-m", "mcp_server", "--transport", "dual"),
        {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"},
        release="one",
    )


@pytest.mark.parametrize("missing", ["release.json", "mcp_server/__main__.py", "venv/bin/python", "."])
def test_a_current_release_that_is_not_whole_gives_way_to_the_live_folder_with_a_warning(
    tmp_path: Path, missing: str
) -> None:
    root = tmp_path / ".praxis-os"
    install(root, TAKES_TRANSPORT)
    folder = make_release(root, "one")
    (root / ".mcpkeep/current").symlink_to("releases/one")
    folder.rename(tmp_path / "moved") if missing == "." else (folder / missing).unlink()
    server = recognise_server(str(tmp_path))
    assert server is not None
    assert (server.command[0], server.release) == (str(root / "venv/bin/python"), None)
    current = root / ".mcpkeep/current"
    assert server.warning == (
        f"{current} names 'one', which is no whole release; the server runs from {root}"
    )


def options(workspace: Path, *words: str) -> RunOptions:
    home = str(workspace / "home")
    return gather_options(words, environ={"HOME": home, "PATH": "/bin"}, cwd=str(workspace))


def test_each_start_of_a_release_looks_it_up_anew(tmp_path: Path) -> None:
    root = tmp_path / ".praxis-os"
    install(root, TAKES_TRANSPORT)
    (tmp_path / "mcpkeep.toml").write_text('[child]\nenv = { COLOUR = "blue" }\n')
    chosen = options(tmp_path)
    assert (chosen.release, chosen.base) == (None, str(root))
    assert launch(chosen, None).command == chosen.command
    with pytest.raises(SpawnError, match="release 'one' is not whole, or not in "):
        launch(chosen, "one")
    folder = make_release(root, "one")
    started = launch(chosen, "one")
    assert started.command[0] == str(folder / "venv/bin/python")
    assert (started.env["PYTHONPATH"], started.env["COLOUR"]) == (str(folder), "blue")
    (root / ".mcpkeep/current").symlink_to("releases/one")
    again = options(tmp_path)
    assert again.release == "one" and launch(again, again.release) == started


def test_nothing_leads_a_release_to_other_code_or_another_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / ".praxis-os"
    install(root, TAKES_TRANSPORT)
    folder = make_release(root, "one")
    (root / ".mcpkeep/current").symlink_to("releases/one")
    (tmp_path / "mcpkeep.toml").write_text('[child]\nenv = { PYTHONPATH = "/elsewhere", A = "b" }\n')
    monkeypatch.setenv("AGENT_OS_BASE_PATH", "/another/.praxis-os")
    monkeypatch.setenv("VIRTUAL_ENV", "/another/venv")
    for release in (None, "one"):
        env = launch(options(tmp_path), release).env
        assert (env["PYTHONPATH"], env["A"]) == (str(folder), "b")
        assert not {"AGENT_OS_BASE_PATH", "VIRTUAL_ENV"} & env.keys()
    other = launch(options(tmp_path, "--", "other-server"), None).env
    assert (other["PYTHONPATH"], other["VIRTUAL_ENV"]) == ("/elsewhere", "/another/venv")


def test_a_release_of_another_kind_of_server_is_refused(tmp_path: Path) -> None:
    install(tmp_path / ".praxis-os", TAKES_TRANSPORT)
    with pytest.raises(SpawnError, match="not in this workspace, which has no prAxIs OS"):
        launch(options(tmp_path, "--", "other-server"), "one")


def test_an_index_without_metadata_is_removed_before_a_start_and_no_other(tmp_path: Path) -> None:
    root = tmp_path / ".praxis-os"
    install(root, TAKES_TRANSPORT)
    index = root / ".cache/vector_index"
    (index / "data").mkdir(parents=True)
    launch(options(tmp_path, "--", "other-server"), None)
    launch(options(tmp_path), None, alone=False)
    assert index.exists()
    launch(options(tmp_path), None)
    assert not index.exists()
    index.mkdir()
    (index / "metadata.json").touch()
    launch(options(tmp_path), None)
    assert [entry.name for entry in index.iterdir()] == ["metadata.json"]


@pytest.mark.parametrize("alone", [True, False])
def test_a_start_makes_the_folder_that_the_index_is_to_be_in(tmp_path: Path, alone: bool) -> None:
    root = tmp_path / ".praxis-os"
    install(root, TAKES_TRANSPORT)
    make_release(root, "one")
    launch(options(tmp_path, "--", "other-server"), None, alone=alone)
    assert not (root / ".cache").exists()
    launch(options(tmp_path), "one", alone=alone)
    assert (root / ".cache").is_dir()
    (root / "config.json").write_text('{"rag": {"index_path": ".praxis-os/.cache/deep/index"}}')
    launch(options(tmp_path), "one", alone=alone)
    assert os.listdir(root / ".cache") == ["deep"]
    (root / ".cache/deep").rmdir()
    (root / ".cache").rmdir()
    (root / ".cache").touch()  # What cannot be made is the server's to complain of.
    launch(options(tmp_path), None, alone=alone)


TAKES_LEVEL = f'{TAKES_TRANSPORT}\nparser.add_argument("--log-level")'


@pytest.mark.parametrize(
    ("command", "source", "words"),
    [
        (("-m", "mcp_server", "--transport", "stdio", "--log-level", "WARNING"), TAKES_LEVEL, None),
        (
            ("-m", "mcp_server", "--transport", "stdio", "--log-level", "WARNING"),
            TAKES_TRANSPORT,
            ("-m", "mcp_server", "--transport", "stdio"),
        ),
        (
            ("start.py", "mcp_server", "--log-level", "x"),
            TAKES_LEVEL,
            ("-m", "mcp_server", "--transport", "dual"),
        ),
    ],
)
def test_a_release_is_started_with_the_user_s_own_arguments_as_far_as_it_knows_them(
    tmp_path: Path, command: tuple[str, ...], source: str, words: tuple[str, ...] | None
) -> None:
    root = tmp_path / ".praxis-os"
    install(root, TAKES_LEVEL)
    chosen = options(tmp_path, "--", ".praxis-os/venv/bin/python", *command)
    assert launch(chosen, None).command == (".praxis-os/venv/bin/python", *command)
    folder = make_release(root, "one", source)
    assert launch(chosen, "one").command == (str(folder / "venv/bin/python"), *(words or command))
