"""The relay serves before the task tree is imported; what needs the tree waits for it, and is not lost."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.rpc import Client, Fifo, text_of
from tests.servers import fast_command

# The tree's import waits until a FIFO is opened for writing.
PROGRAM = """if True:
    import importlib.abc, sys
    class Gate(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "mcpkeep.supervisor.tree":
                open({gate!r}).close()
    from mcpkeep.supervisor.app import main
    sys.meta_path.insert(0, Gate())
    sys.exit(main(sys.argv[1:]))
"""


class Start:
    """An mcpkeep that stays in its front until it is let go."""

    def __init__(self, folder: Path, *server: str) -> None:
        self.gate = Fifo(folder, "imports")
        program = PROGRAM.format(gate=str(self.gate))
        self.client = Client(
            [sys.executable, "-c", program, "run", "--", *(server or fast_command())], folder
        )


def server_pid(client: Client) -> int:
    pid: int = client.call("whoami")["result"]["structuredContent"]["pid"]
    return pid


def test_the_server_answers_before_the_tree_is_there_and_our_tools_as_soon_as_it_is(
    tmp_path: Path,
) -> None:
    start = Start(tmp_path)
    with start.client as client:
        assert client.initialize()["result"]["serverInfo"] == {"name": "fast", "version": "1.0"}
        assert text_of(client.call("echo", text="early")) == "early"
        status = client.begin("mcpkeep", action="status")
        forgotten = client.begin("mcpkeep", action="logs")
        client.post({"method": "notifications/cancelled", "params": {"requestId": forgotten}})
        assert text_of(client.call("echo", text="after it")) == "after it"
        assert client.answers(status) == []
        start.gate.let_go()
        server = client.answer(status)["result"]["structuredContent"]["server"]
        assert (server["state"], server["restarts"]) == ("up", 0)
        assert text_of(client.call("echo", text="late")) == "late"
        assert client.answers(forgotten) == []


def test_a_server_that_dies_before_the_tree_is_there_is_followed_by_another_that_takes_the_calls(
    tmp_path: Path,
) -> None:
    start = Start(tmp_path)
    with start.client as client:
        client.initialize()
        server = psutil.Process(server_pid(client))
        server.kill()
        while server.status() != psutil.STATUS_ZOMBIE:  # a dying process may still read a pipe
            pass
        again = client.begin("echo", text="again")
        start.gate.let_go()
        assert text_of(client.answer(again)) == "again"
        assert client.keep("status")["server"]["restarts"] == 1


def test_a_signal_that_restarts_is_heeded_once_the_tree_is_there(tmp_path: Path) -> None:
    start = Start(tmp_path)
    with start.client as client:
        client.initialize()
        former = server_pid(client)
        client.process.send_signal(signal.SIGUSR2)
        assert server_pid(client) == former
        start.gate.let_go()
        client.wait_for_log("SIGUSR2: restarting the server")
        assert client.keep("restart")["restarted"]
        assert server_pid(client) != former


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ends_it_is_heeded_with_the_tree(tmp_path: Path, number: signal.Signals) -> None:
    start = Start(tmp_path)
    with start.client as client:
        client.initialize()
        client.process.send_signal(number)
        assert text_of(client.call("echo", text="still here")) == "still here"
        start.gate.let_go()
        assert client.wait_until_ended() == 128 + number


def test_two_signals_that_end_it_wait_for_nothing_and_leave_no_server(tmp_path: Path) -> None:
    alive = Fifo(tmp_path, "alive")
    reader = os.open(alive.path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    start = Start(tmp_path, *fast_command("--liveness", str(alive), "--ignore-eof", "--ignore-term"))
    with start.client as client:
        client.initialize()
        client.process.send_signal(signal.SIGTERM)
        client.call("echo", text="the first is noted")
        client.process.send_signal(signal.SIGINT)
        assert client.wait_until_ended() == 128 + signal.SIGINT
        assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_client_that_ends_before_the_tree_is_there_ends_it_cleanly(tmp_path: Path) -> None:
    start = Start(tmp_path)
    with start.client as client:
        client.initialize()
        last = client.begin("echo", text="last words")
        client.close_stdin()
        assert text_of(client.answer(last)) == "last words"
        start.gate.let_go()
        assert client.wait_until_ended() == 0
