"""Real servers in real staging workspaces: proven, or refused with the cause; and none is left behind."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from mcpkeep.protocol.upgrade.failure import ServerEnded, UpgradeFailed
from mcpkeep.protocol.upgrade.proof import Proof, SmokeTest
from mcpkeep.protocol.upgrade.readiness import Patience
from mcpkeep.supervisor.loop import new_loop
from mcpkeep.supervisor.sweep import carriers
from mcpkeep.supervisor.upgrade.candidate import StagedCandidates
from tests.supervisor.upgrade.small_server import SESSION, Installation, make_installation, mark

pytestmark = pytest.mark.anyio

Backend = tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]

FAST_LANE: Backend = ("asyncio", {"loop_factory": new_loop})
PLAIN: Backend = ("asyncio", {"loop_factory": asyncio.new_event_loop})
SHORT = Patience(silence=1.0, cap=20.0)
LONG = Patience(silence=15.0, cap=60.0)

on_both_loops = pytest.mark.parametrize("anyio_backend", [FAST_LANE, PLAIN], ids=["fast lane", "asyncio"])


@pytest.fixture
def anyio_backend() -> Backend:
    return FAST_LANE


@pytest.fixture
def made(tmp_path: Path) -> Installation:
    return make_installation(tmp_path)


@pytest.fixture
def run_id() -> Iterator[str]:
    yield from mark()


async def prove(
    made: Installation,
    run_id: str,
    *,
    carry: bool = True,
    patience: Patience = LONG,
    smoke: tuple[SmokeTest, ...] = (),
    told: list[str] | None = None,
) -> Proof:
    candidates = StagedCandidates(made.layout, run_id=run_id, patience=patience)
    with anyio.fail_after(60):
        return await candidates.prove(
            made.release,
            SESSION,
            carry_index=carry,
            smoke=smoke,
            progress=told.append if told is not None else lambda _: None,
        )


def statuses(proof: Proof) -> dict[str, str]:
    return {result.name: result.status for result in proof.smoke}


def metadata(base: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((base / ".cache/vector_index/metadata.json").read_text())
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@on_both_loops
async def test_a_good_release_is_proven_with_the_live_index_and_the_live_tree_is_untouched(
    made: Installation, run_id: str
) -> None:
    made.index(made.layout.base)
    before = tree(made.layout.base / "standards") | tree(made.layout.base / ".cache")
    proof = await prove(made, run_id)
    assert (proof.server_name, proof.server_version, proof.index) == ("small", "1", "carried")
    assert proof.code_path == str((made.folder / "mcp_server/__init__.py").resolve())
    assert set(proof.tools) == {"pos_workflow", "search_standards", "get_server_info"}
    assert statuses(proof) == {
        "workflow_engine_test": "passed",
        "rag_search_test": "passed",
        "browser_smoke_test": "skipped",
    }
    assert "starting" in proof.stderr_tail
    assert tree(made.layout.base / "standards") | tree(made.layout.base / ".cache") == before
    assert not made.state_file(made.layout.base).exists()
    assert tree(made.staged / ".cache") == tree(made.layout.base / ".cache")


async def test_an_index_of_another_table_is_thrown_away_and_built_in_staging(
    made: Installation, run_id: str
) -> None:
    made.index(made.layout.base, table="agent_os_standards.lance")
    filled = datetime.now()
    told: list[str] = []
    proof = await prove(made, run_id, told=told)
    assert proof.index == "built"
    assert statuses(proof)["rag_search_test"] == "passed"
    assert not (made.staged / ".cache/vector_index/agent_os_standards.lance").exists()
    assert (made.layout.base / ".cache/vector_index/agent_os_standards.lance").is_dir()
    # An edit made while it was built is newer than this, so that the server looks for it.
    assert datetime.fromisoformat(metadata(made.staged)["build_time"]) < filled
    assert "starting the new server; it builds its search index" in told


async def test_a_carried_index_is_brought_up_to_changed_standards(made: Installation, run_id: str) -> None:
    made.index(made.layout.base)
    (made.staged / "standards/universal/naming.md").write_text("# new\n")
    (made.staged / "standards/universal/added.md").write_text("# added\n")
    proof = await prove(made, run_id)
    assert proof.index == "updated"
    known = metadata(made.staged)["files_mtimes"]
    assert known == {
        str(path.relative_to(made.staged)): path.stat().st_mtime
        for path in (made.staged / "standards").rglob("*.md")
    }
    assert not (made.staged / "standards/.rebuild_index").exists()
    assert len(list((made.staged / ".cache/vector_index/standards.lance").iterdir())) == 2


@pytest.mark.parametrize("how", ["the server ignores the flag", "a standard was removed"])
async def test_a_carried_index_that_cannot_be_brought_up_is_built_anew(
    made: Installation, run_id: str, how: str
) -> None:
    made.index(made.layout.base)
    if how == "a standard was removed":
        (made.staged / "standards/universal/naming.md").unlink()
    else:
        made.vary("HEEDS_FLAG = False")
        (made.staged / "standards/universal/naming.md").write_text("# new\n")
    proof = await prove(made, run_id)
    assert proof.index == "built"
    assert not (made.staged / "standards/.rebuild_index").exists()
    assert len(list((made.staged / ".cache/vector_index/standards.lance").iterdir())) == 1


async def test_an_unfinished_live_index_is_not_carried(made: Installation, run_id: str) -> None:
    (made.layout.base / ".cache/vector_index").mkdir()
    assert (await prove(made, run_id)).index == "built"


async def test_an_index_that_is_not_to_be_carried_is_built(made: Installation, run_id: str) -> None:
    made.index(made.layout.base)
    assert (await prove(made, run_id, carry=False)).index == "built"


async def test_a_server_that_never_uses_its_index_fails_the_search_test(
    made: Installation, run_id: str
) -> None:
    made.vary("SEARCH = {'results': [], 'retrieval_method': 'grep_fallback'}")
    proof = await prove(made, run_id)
    result = next(result for result in proof.smoke if result.name == "rag_search_test")
    assert (result.status, result.detail) == (
        "failed",
        "$.retrieval_method is 'grep_fallback', expected 'vector'",
    )


async def test_a_server_without_search_is_proven_without_an_index(made: Installation, run_id: str) -> None:
    made.vary("TOOLS = ['pos_workflow']\nBUILDS = False")
    proof = await prove(made, run_id)
    assert (proof.index, statuses(proof)["rag_search_test"]) == ("none", "skipped")


@pytest.mark.parametrize("line", ["'\\r%d' % n", "'working\\n'"], ids=["a progress bar", "the same line"])
async def test_a_build_that_goes_on_writing_is_waited_for_longer_than_the_silence_limit(
    made: Installation, run_id: str, line: str
) -> None:
    # So seldom that its processor time alone would not do.
    made.vary(
        "import sys, time\n"
        "def while_building():\n"
        "    for n in range(6):\n"
        f"        sys.stderr.write({line})\n"
        "        sys.stderr.flush()\n"
        "        time.sleep(0.5)\n"
    )
    told: list[str] = []
    proof = await prove(made, run_id, patience=Patience(silence=1.5, cap=30.0), told=told)
    assert proof.index == "built"
    doing = "starting the new server; it builds its search index"
    assert {doing, f"{doing}: {'working' if 'w' in line else 3}"} <= set(told)


async def test_a_build_that_only_computes_is_waited_for(made: Installation, run_id: str) -> None:
    made.vary("import time\ndef while_building():\n    while time.process_time() < 1.5:\n        pass\n")
    proof = await prove(made, run_id, patience=Patience(silence=1.0, cap=30.0))
    assert proof.index == "built"


async def test_a_server_that_is_busy_for_ever_is_given_up_at_the_cap(made: Installation, run_id: str) -> None:
    made.vary("def at_start():\n    while True:\n        pass\n")
    with pytest.raises(ServerEnded, match=r"^the server was busy for 2 s and did not answer initialize"):
        await prove(made, run_id, patience=Patience(silence=1.0, cap=2.0))


async def test_a_server_that_hangs_at_start_is_given_up_after_the_silence(
    made: Installation, run_id: str
) -> None:
    # It ignores SIGTERM as well, and its child does.
    made.vary(
        "import os, signal, time\n"
        "def at_start():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "    time.sleep(300)\n"
    )
    candidates = StagedCandidates(made.layout, run_id=run_id, patience=SHORT, term_grace=0.1)
    with pytest.raises(ServerEnded) as caught:
        await candidates.prove(made.release, SESSION, carry_index=True, smoke=(), progress=lambda _: None)
    assert str(caught.value) == (
        "the server was silent for 1 s and did not answer initialize; its last words: starting"
    )
    assert caught.value.details == {"stderr_tail": ["starting"]}


async def test_a_server_that_closes_its_stdout_and_lives_on_is_given_up(
    made: Installation, run_id: str
) -> None:
    made.vary("import os, time\nos.close(1)\ntime.sleep(300)\n")
    with pytest.raises(ServerEnded, match=r"^the server closed its stdout, lives on, and did not"):
        await prove(made, run_id, patience=SHORT)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            "def broken(:\n",
            r"^the server exited with code 1: SyntaxError: .*variant\.py, line 1\), before it",
        ),
        (
            "import mcp_server.nowhere\n",
            r"ModuleNotFoundError: No module named 'mcp_server.nowhere' \(a part of the new version",
        ),
        ("import no_such_package\n", r"'no_such_package' \(a package that its requirements do not bring\)"),
        ("raise SystemExit(3)\n", r"^the server exited with code 3 and said nothing on stderr, before it"),
        ("import os\nos.kill(os.getpid(), 11)\n", r"^the server was killed by SIGSEGV"),
        ("PROTOCOL = '2031-01-01'", r"speaks protocol version '2031-01-01'"),
        ("PLACE = '/somewhere/.praxis-os'", r"attached itself to '/somewhere/\.praxis-os'"),
        (
            "PLACE = '/somewhere/.agent-os'; PLACE_KEY = 'agent_os_path'",
            r"attached itself to '/somewhere/\.agent-os'",
        ),
    ],
)
async def test_a_broken_release_is_refused_with_the_cause(
    made: Installation, run_id: str, fault: str, text: str
) -> None:
    made.vary(fault)
    with pytest.raises(UpgradeFailed, match=text) as caught:
        await prove(made, run_id)
    assert caught.value.remediation


async def test_a_release_without_its_package_is_refused(made: Installation, run_id: str) -> None:
    (made.folder / "mcp_server").rename(made.folder / "gone")
    with pytest.raises(UpgradeFailed, match="holds no mcp_server that its interpreter could load"):
        await prove(made, run_id)


async def test_a_release_whose_venv_brings_another_mcp_server_is_refused(
    made: Installation, run_id: str, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "mcp_server"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    python = made.layout.venvs / "v/bin/python"
    python.unlink()
    python.write_text(f"#!/bin/sh\nexport PYTHONPATH='{other.parent}'\nexec '{sys.executable}' \"$@\"\n")
    python.chmod(0o755)
    with pytest.raises(UpgradeFailed, match=r"would load its code from '.*/other/mcp_server/__init__\.py'"):
        await prove(made, run_id)


async def test_a_release_without_an_interpreter_is_refused(made: Installation, run_id: str) -> None:
    (made.layout.venvs / "v/bin/python").unlink()
    with pytest.raises(UpgradeFailed, match="cannot be started: No such file or directory"):
        await prove(made, run_id)


async def test_a_crash_in_the_first_call_is_refused_with_exit_and_last_words(
    made: Installation, run_id: str
) -> None:
    made.vary(
        "import os, sys\n"
        "def on_call(name):\n"
        "    if name == 'search_standards':\n"
        "        sys.stderr.write('RuntimeError: out of luck\\n')\n"
        "        sys.stderr.flush()\n"
        "        os._exit(17)\n"
    )
    with pytest.raises(ServerEnded) as caught:
        await prove(made, run_id)
    assert str(caught.value) == (
        "the server exited with code 17: RuntimeError: out of luck, before it answered tools/call of "
        "'search_standards'"
    )
    assert cast("list[str]", caught.value.details["stderr_tail"])[-1] == "RuntimeError: out of luck"


async def test_a_native_crash_with_the_carried_index_has_it_built_anew(
    made: Installation, run_id: str
) -> None:
    made.index(made.layout.base, marked="old")
    made.vary(
        "import os\nfrom pathlib import Path\n"
        "def on_call(name):\n"
        "    known = Path('.praxis-os/.cache/vector_index/metadata.json').read_text()\n"
        "    if name == 'search_standards' and 'marked' in known:\n"
        "        os.kill(os.getpid(), 11)\n"
    )
    assert (await prove(made, run_id)).index == "built"


async def test_noise_on_stdout_and_questions_to_the_client_do_no_harm(
    made: Installation, run_id: str
) -> None:
    made.vary(
        "import json, sys\n"
        "def special(message, send):\n"
        "    print('a banner'); print('{\"not\": \"rpc\"}'); print('[1, 2')\n"
        "    send({'method': 'notifications/message', 'params': {}})\n"
        "    for asked in ('ping', 'roots/list', 'sampling/createMessage'):\n"
        "        send({'id': asked, 'method': asked})\n"
        "        said = json.loads(sys.stdin.readline())\n"
        "        while 'method' in said:\n"
        "            said = json.loads(sys.stdin.readline())\n"
        "        sys.stderr.write(json.dumps(said, sort_keys=True) + '\\n')\n"
        "    return False\n"
    )
    proof = await prove(made, run_id)
    assert statuses(proof)["rag_search_test"] == "passed"
    assert '{"id": "ping", "jsonrpc": "2.0", "result": {}}' in proof.stderr_tail
    assert '{"id": "roots/list", "jsonrpc": "2.0", "result": {"roots": []}}' in proof.stderr_tail
    assert any('"code": -32601' in line and "sampling" in line for line in proof.stderr_tail)


async def test_declared_tests_and_the_browser_are_tried_where_they_are_wanted(
    made: Installation, run_id: str
) -> None:
    made.vary("TOOLS = ['pos_browser', 'where', 'search_standards']")
    (made.staged / "config.json").write_text('{"mcp": {"enabled_tool_groups": ["rag", "browser"]}}')
    declared = (
        SmokeTest("ours", "where", {}, "$.argv[1]", "stdio"),
        SmokeTest("other", "where", {}, "$.argv[1]", "http"),
        SmokeTest("absent", "no_such_tool", {}, "$.x", 1),
    )
    proof = await prove(made, run_id, smoke=declared)
    assert statuses(proof) == {
        "workflow_engine_test": "skipped",
        "rag_search_test": "passed",
        "browser_smoke_test": "passed",
        "ours": "passed",
        "other": "failed",
        "absent": "skipped",
    }


async def test_the_candidate_gets_its_release_its_workspace_and_nothing_that_leads_elsewhere(
    made: Installation, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "AGENT_OS_BASE_PATH", "VIRTUAL_ENV", "PYTHONINSPECT"):
        monkeypatch.setenv(name, "/elsewhere")
    staging = made.layout.staging(SESSION)
    (staging / "mcp_server").mkdir()
    (staging / "mcp_server/__init__.py").write_text("raise SystemExit('the wrong one')")
    made.vary("TOOLS = ['where']")
    wanted = {
        "$.cwd": str(staging),
        "$.file": str(made.folder / "mcp_server/__main__.py"),
        "$.env.PYTHONPATH": str(made.folder),
        "$.env.PROJECT_ROOT": str(staging),
        "$.misled": [],
    }
    declared = tuple(SmokeTest(path, "where", {}, path, value) for path, value in wanted.items())
    proof = await prove(made, run_id, smoke=declared)
    assert {path: statuses(proof)[path] for path in wanted} == dict.fromkeys(wanted, "passed")


@on_both_loops
async def test_a_cancelled_proof_leaves_no_process(made: Installation, run_id: str) -> None:
    made.vary(
        "import signal, time\n"
        "def at_start():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    time.sleep(300)\n"
    )
    candidates = StagedCandidates(made.layout, run_id=run_id, term_grace=300)
    with anyio.fail_after(60), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def prove_it() -> None:
                await candidates.prove(
                    made.release, SESSION, carry_index=True, smoke=(), progress=told.append
                )

            told: list[str] = []
            tasks.start_soon(prove_it)
            while not any("starting the new server" in line for line in told) or not carriers(run_id):
                await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught
