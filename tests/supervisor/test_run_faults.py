"""`mcpkeep run` between servers and clients that behave badly: nothing is lost, left over or grows."""

import os
import select
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.benchmarks.line import environment
from tests.rpc import INITIALIZE, LIMIT, Client, Fifo, is_error, mcpkeep, text_of
from tests.servers import fast_command

MIB = 2**20
NOT_FOR_RUN = (
    *("watchfiles", "psutil", "yaml", "markdown_it", "rich", "mcp", "click", "cyclopts", "simpleeval"),
    *("http", "email", "urllib", "ctypes", "hashlib", "tempfile", "random", "importlib.metadata", "argparse"),
    *("logging.handlers", "multiprocessing", "pathlib", "shutil", "zipfile", "tomllib", "trio"),
)


class Tree:
    """The FIFO that every process of a server's tree holds open for writing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "alive"
        os.mkfifo(self.path)
        self.reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def wait_until_dead(self) -> None:
        """Wait until the kernel has closed the last of their ends."""
        assert select.select([self.reader], [], [], LIMIT)[0], "a process of the tree lives on"
        assert os.read(self.reader, 1) == b""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path)
    yield tree
    os.close(tree.reader)


ENDS: dict[str, Callable[[Client], None]] = {
    "eof": lambda client: client.close_stdin(),
    "SIGTERM": lambda client: client.process.terminate(),
    "SIGKILL": lambda client: client.process.kill(),
}
STUBBORN = {
    "ignores": ("--ignore-term", "--ignore-eof"),
    "forks": ("--fork", "--ignore-term", "--ignore-eof"),
    "detaches": ("--fork-session", "--ignore-term", "--ignore-eof"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("flags", STUBBORN.values(), ids=STUBBORN)
def test_no_process_of_the_tree_is_alive_after_any_end(
    tmp_path: Path, tree: Tree, end: str, flags: tuple[str, ...]
) -> None:
    (tmp_path / "mcpkeep.toml").write_text("[child]\nstop_eof = 0.1\nstop_term = 0.1\n")
    with Client(mcpkeep(fast_command("--liveness", str(tree.path), *flags)), tmp_path) as client:
        client.initialize()
        ENDS[end](client)
        expected = {"eof": 0, "SIGTERM": 128 + signal.SIGTERM, "SIGKILL": -signal.SIGKILL}
        assert client.wait_until_ended() == expected[end]
        tree.wait_until_dead()


def test_the_grandchildren_of_a_crashed_server_end_with_it(tmp_path: Path, tree: Tree) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"flags": ["--fork-session"]}')
    server = fast_command("--liveness", str(tree.path), "--settings", str(settings))
    with Client(mcpkeep(server), tmp_path) as client:
        client.initialize()
        settings.write_text('{"tools": ["echo"]}')
        grandchild = psutil.Process(client.call("whoami")["result"]["structuredContent"]["grandchildren"][0])
        client.kill_server()
        client.wait_for_log("is ready (child 2)")
        assert text_of(client.call("echo", text="next")) == "next"
        grandchild.wait(LIMIT)
    tree.wait_until_dead()


def test_a_server_that_ends_at_eof_is_not_signalled(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with Client(mcpkeep(fast_command("--record", str(record))), tmp_path) as client:
        client.initialize()
        client.close_stdin()
        assert client.wait_until_ended() == 0
    assert record.read_text().splitlines()[-1].endswith(" end")


# Servers that print, close and die


@pytest.mark.parametrize(
    "flags", [("--flood-stderr", str(8 * MIB)), ("--flood-stdout", str(2 * MIB)), ("--noise",)]
)
def test_what_a_server_prints_besides_never_reaches_the_client(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with Client(mcpkeep(fast_command(*flags), "--log-level", "error"), tmp_path) as client:
        client.initialize()
        assert text_of(client.call("echo", text="clear")) == "clear"
        assert client.garbage == []
        assert all(said.get("jsonrpc") == "2.0" for said in client.said)


@pytest.mark.parametrize("how", ["mid-line", "close-stdout", "exit", "after-answer"])
def test_a_call_that_ends_the_server_is_answered_once_and_the_next_one_served(
    tmp_path: Path, how: str
) -> None:
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        crash = client.begin("crash", how=how)
        answer = client.answer(crash)
        if how == "after-answer":
            assert text_of(answer) == "and gone"
        else:
            assert is_error(answer, "child_exited")
        client.wait_for_log("is ready (child 2)")
        assert text_of(client.call("echo", text="next")) == "next"
        assert len(client.answers(crash)) == 1 and client.garbage == []


def test_a_server_that_never_answers_initialize_leaves_our_own_tool_working(tmp_path: Path) -> None:
    with Client(mcpkeep(fast_command("--hang-initialize")), tmp_path) as client:
        client.request("initialize", INITIALIZE)
        status = client.keep("status")
        assert (status["server"]["state"], status["server"]["ready"]) == ("up", False)


def test_a_new_server_that_hangs_at_its_start_is_given_up_and_the_old_one_stays(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text("{}")
    (tmp_path / "mcpkeep.toml").write_text("[child]\nstart_limit = 0.5\n")
    with Client(mcpkeep(fast_command("--settings", str(settings))), tmp_path) as client:
        client.initialize()
        pid = client.pid()
        settings.write_text('{"flags": ["--hang-initialize"]}')
        refused = client.call("mcpkeep", action="restart")["result"]["structuredContent"]
        assert refused["error"] == "the new child was not ready within 0.5 s"
        assert "The former server still serves." in refused["remediation"]
        assert client.pid() == pid
        assert text_of(client.call("echo", text="old")) == "old"


# Sizes


def test_an_answer_above_the_limit_is_replaced_by_an_error_that_tells_its_size(tmp_path: Path) -> None:
    with Client(mcpkeep(fast_command(), "--max-message", "100000"), tmp_path) as client:
        client.initialize()
        assert len(text_of(client.call("blob", size=90_000))) == 90_000
        answer = client.call("blob", size=200_000)
        assert is_error(answer, "too_large")
        assert "of 2000" in answer["error"]["message"]
        assert text_of(client.call("echo", text="on")) == "on"


def test_a_request_above_the_limit_is_refused_with_its_id(tmp_path: Path) -> None:
    (tmp_path / "mcpkeep.toml").write_text("[limits]\nmax_request = 100000\n")
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        answer = client.call("echo", text="x" * 200_000)
        assert answer["error"]["code"] == -32600 and "limits.max_request" in answer["error"]["message"]
        assert text_of(client.call("echo", text="on")) == "on"


# Clients that stop reading or writing


def test_memory_stays_flat_while_a_client_does_not_read_and_all_is_delivered_in_order(tmp_path: Path) -> None:
    count, size = 400, 500_000
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        server = psutil.Process(client.pid())
        client.stop_reading()
        before = psutil.Process(client.process.pid).memory_info().rss
        flooding = client.begin("flood", stream="log", count=count, size=size)
        wait_until_stuck(server)
        grown = psutil.Process(client.process.pid).memory_info().rss - before
        assert grown < 24 * MIB
        client.start_reading()
        assert text_of(client.answer(flooding)) == "flooded"
        numbers = [int(told["data"].split()[0]) for told in client.notified("message") if "x" in told["data"]]
        assert numbers == list(range(count))


def test_a_server_that_does_not_read_slows_the_client_down_instead_of_filling_memory(tmp_path: Path) -> None:
    gate = Fifo(tmp_path)
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        blocked = client.begin("block", fifo=str(gate))
        opened = gate.wait_until_reached()
        os.set_blocking(client.to, False)
        call = client.begin  # from here on what cannot be written at once stays unwritten
        sent = 0
        frame = b'{"jsonrpc":"2.0","method":"notifications/x","params":{"data":"%s"}}\n' % (b"x" * 100_000)
        rest = b""
        while select.select([], [client.to], [], 1.0)[1] and sent < 100 * MIB:
            rest = rest or frame
            taken = os.write(client.to, rest)
            sent, rest = sent + taken, rest[taken:]
        assert sent < 16 * MIB
        os.set_blocking(client.to, True)
        os.close(opened)
        client.send(rest)
        assert text_of(client.answer(blocked)) == "unblocked"
        assert text_of(client.answer(call("echo", text="on"))) == "on"


def test_a_server_that_nobody_reads_does_not_keep_it_from_ending(tmp_path: Path, tree: Tree) -> None:
    with Client(mcpkeep(fast_command("--liveness", str(tree.path))), tmp_path) as client:
        client.initialize()
        server = psutil.Process(client.pid())
        client.stop_reading()
        client.begin("flood", stream="log", count=100, size=500_000)
        wait_until_stuck(server)
        client.close_stdin()
        assert client.wait_until_ended() == 0
        tree.wait_until_dead()


def wait_until_stuck(server: psutil.Process) -> None:
    """Wait until the server uses no more time for as long as a thousand looks at it take."""
    used, looks = -1.0, 0
    for _ in range(200_000):
        now = sum(server.cpu_times()[:2])
        used, looks = now, looks + 1 if now == used else 0
        if looks > 3000:
            return
    raise AssertionError("the server never waits for its reader")


# Imports


BARE_PYTHON = [sys.executable, "-I", "-S"]
"""Without what an editable install, or coverage, imports in every process."""
FIND_PACKAGES = "import sys; sys.path[:0] = sys.argv.pop(1).split(':')"
PACKAGES = ":".join(
    (environment()["PYTHONPATH"], sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
)


def imports_of_a_run(folder: Path) -> list[str]:
    """The modules, in the order in which their imports ended."""
    command = [*BARE_PYTHON, "-X", "importtime", "-c"]
    program = f"{FIND_PACKAGES}; from mcpkeep.supervisor.app import cli; cli()"
    with Client([*command, program, PACKAGES, "run", "--", *fast_command()], folder) as client:
        client.initialize()
        assert text_of(client.call("echo", text="served")) == "served"
        client.keep("status")
    return [
        line.rsplit("|", 1)[1].strip()
        for line in client.log().splitlines()
        if line.startswith("import time:")
    ]


def test_run_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    imported = set(imports_of_a_run(tmp_path))
    assert "mcpkeep.protocol.relay" in imported
    surplus = {name for name in imported if name in NOT_FOR_RUN or name.split(".")[0] in NOT_FOR_RUN}
    assert surplus == set()


def test_the_first_answer_does_not_wait_for_what_others_import_only_if_it_is_there(tmp_path: Path) -> None:
    order = imports_of_a_run(tmp_path)
    ended = {name: place for place, name in enumerate(order)}  # the last, since one in vain is listed too
    assert ended["asyncio"] < ended["mcpkeep.supervisor.serve"] < ended["ssl"]


def test_the_server_is_spawned_before_anything_slow_is_imported(tmp_path: Path) -> None:
    marker = "import os; os.write(2, b'spawned\\n')"
    program = f"""if True:
        {FIND_PACKAGES}
        import subprocess
        class Popen(subprocess.Popen):
            def __init__(self, *arguments, **named):
                print("spawned with", *sorted(sys.modules), file=sys.stderr)
                super().__init__(*arguments, **named)
        subprocess.Popen = Popen
        from mcpkeep.supervisor.app import cli
        cli()
    """
    ended = subprocess.run(
        [*BARE_PYTHON, "-c", program, PACKAGES, "run", "--", sys.executable, "-c", marker],
        cwd=tmp_path,
        env={**environment(), "HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    first = next(line for line in ended.stderr.splitlines() if line.startswith("spawned with"))
    slow = {
        "asyncio",
        "anyio",
        "msgspec",
        "logging",
        "uvloop",
        "ssl",
        "socket",
        "inspect",
        "hashlib",
        "pathlib",
    }
    assert slow.intersection(first.split()) == set()
