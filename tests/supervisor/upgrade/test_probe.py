"""The client's own conversation with servers that answer late, oddly, in pages, or not at all."""

import sys
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest

from mcpkeep.protocol.upgrade.failure import ServerEnded, UpgradeFailed
from mcpkeep.protocol.upgrade.handshake import ServerInfo
from mcpkeep.protocol.upgrade.readiness import Patience
from mcpkeep.protocol.upgrade.release import Launch
from mcpkeep.supervisor.sweep import carriers
from mcpkeep.supervisor.upgrade import probe as probe_module
from mcpkeep.supervisor.upgrade.probe import Probe, open_probe, tree_cpu

pytestmark = pytest.mark.anyio

SERVER = """
import json, os, signal, subprocess, sys, time
def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()
for line in sys.stdin:
    message = json.loads(line)
    method, id_, params = message["method"], message.get("id"), message.get("params", {})
    if id_ is None:
        sys.stderr.write("told " + json.dumps([method, params]) + "\\n")
        sys.stderr.flush()
    elif method == "initialize":
        send(id=id_, result={"protocolVersion": "2024-11-05", "serverInfo": {"name": "s", "version": "0"}})
    else:
        exec(os.environ["ANSWER"])
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def server(answer: str, tmp_path: Path, run_id: str | None = None) -> AsyncGenerator[Probe]:
    launch = Launch((sys.executable, "-c", SERVER), {"ANSWER": answer})
    mark = run_id or uuid.uuid4().hex
    with anyio.fail_after(30):
        async with open_probe(launch, str(tmp_path), mark, patience=Patience(silence=10.0)) as opened:
            assert await opened.handshake() == ServerInfo("s", "0", "2024-11-05")
            yield opened
        while carriers(mark):
            await anyio.lowlevel.checkpoint()


async def test_tools_are_read_page_by_page(tmp_path: Path) -> None:
    answer = (
        "page = int(params.get('cursor', '0'))\n"
        "tools = [{'name': f'tool {page}'}, 'odd', {}]\n"
        "send(id=id_, result={'tools': tools, **({'nextCursor': str(page + 1)} if page < 2 else {})})"
    )
    async with server(answer, tmp_path) as opened:
        assert set(await opened.tools()) == {"tool 0", "tool 1", "tool 2"}


async def test_a_list_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "PAGE_LIMIT", 5)
    async with server("send(id=id_, result={'tools': [], 'nextCursor': 'x'})", tmp_path) as opened:
        with pytest.raises(UpgradeFailed, match="does not end after 5 pages"):
            await opened.tools()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            "send(id=id_, error={'code': -32601, 'message': 'no'})",
            "answered tools/list with the error -32601: no",
        ),
        ("send(id=id_, error='odd')", 'answered tools/list with the error "odd"'),
        ("send(id=id_, result=[1])", "the server's answer to tools/list is no object"),
    ],
)
async def test_an_answer_that_is_none_is_refused_and_named(tmp_path: Path, answer: str, text: str) -> None:
    async with server(answer, tmp_path) as opened:
        with pytest.raises(UpgradeFailed, match=text):
            await opened.tools()


async def test_an_answer_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MESSAGE_LIMIT", 1000)
    async with server("send(id=id_, result={'x': 'x' * 2000})", tmp_path) as opened:
        with pytest.raises(UpgradeFailed, match=r"has 20\d\d bytes; the limit is 1000"):
            await opened.tools()


async def test_a_batch_is_taken_apart(tmp_path: Path) -> None:
    answer = (
        "print(json.dumps([{'jsonrpc': '2.0', 'method': 'notifications/x'}, "
        "{'jsonrpc': '2.0', 'id': id_, 'result': {'ok': 1}}]), flush=True)"
    )
    async with server(answer, tmp_path) as opened:
        assert await opened.call("t", {}, within=10) == {"ok": 1}


async def test_a_call_that_is_not_answered_in_time_is_cancelled_and_the_next_is_answered(
    tmp_path: Path,
) -> None:
    answer = "params['arguments'].get('heed') and send(id=id_, result={'id': id_})"
    async with server(answer, tmp_path) as opened:
        with pytest.raises(UpgradeFailed, match=r"did not answer tools/call of 't' within 0\.05 s"):
            await opened.call("t", {}, within=0.05)
        assert await opened.call("t", {"heed": True}, within=10) == {"id": 3}
        assert opened.stderr_lines(1) == ('told ["notifications/cancelled", {"requestId": 2}]',)


async def test_after_its_end_every_question_is_answered_with_it(tmp_path: Path) -> None:
    async with server("sys.exit(4)", tmp_path) as opened:
        for _ in range(2):
            with pytest.raises(ServerEnded) as caught:
                await opened.call("t", {}, within=10)
            assert caught.value.exit is not None
            assert caught.value.exit.code == 4


async def test_a_last_line_without_its_end_is_an_answer(tmp_path: Path) -> None:
    answer = (
        "sys.stdout.write(json.dumps({'jsonrpc': '2.0', 'id': id_, 'result': {'ok': 1}}))\n"
        "sys.stdout.flush()\nos._exit(0)"
    )
    async with server(answer, tmp_path) as opened:
        assert await opened.call("t", {}, within=10) == {"ok": 1}


async def test_lines_that_are_no_message_are_counted(tmp_path: Path) -> None:
    answer = "print('a banner\\n{}\\n7', flush=True); send(id='not ours', result={}); send(id=id_, result={})"
    async with server(answer, tmp_path) as opened:
        await opened.call("t", {}, within=10)
        assert opened.noise == 3


def lives(process: psutil.Process) -> bool:
    """Whether it runs; it may be dead and nobody there to reap it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_its_end_takes_its_whole_tree_along(tmp_path: Path) -> None:
    answer = (
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)'], "
        "start_new_session=True, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "send(id=id_, result={'pid': child.pid})"
    )
    async with server(answer, tmp_path) as opened:
        child = psutil.Process((await opened.call("t", {}, within=10))["pid"])  # type: ignore[arg-type]
        assert lives(child)
    with anyio.fail_after(60):
        while lives(child):
            await anyio.lowlevel.checkpoint()


async def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    launch = Launch((str(tmp_path / "no such python"),), {})
    with pytest.raises(ServerEnded, match="could not be started: no such file, before it could be asked"):
        async with open_probe(launch, str(tmp_path), "x"):
            raise AssertionError


async def test_processor_time_counts_ended_children_too(tmp_path: Path) -> None:
    answer = (
        "began = time.process_time()\n"
        "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 0.3: pass'])\n"
        "send(id=id_, result={})"
    )
    async with server(answer, tmp_path) as opened:
        before = tree_cpu(opened.pid)
        await opened.call("t", {}, within=20)
        assert tree_cpu(opened.pid) - before >= 0.25
        pid = opened.pid
    assert tree_cpu(pid) == 0.0
