"""`mcpkeep run`: the server is killed, restarted, wedged or edited while a client goes on calling."""

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rpc import LIMIT, Client, Fifo, Message, is_error, mcpkeep, text_of
from tests.servers import FAST, fast_command


@contextmanager
def streaming(client: Client) -> Generator[list[int]]:
    """Calls of echo, at most eight in flight, until the block ends; the ids of all. Waits for each answer."""
    ids: list[int] = []
    over = threading.Event()

    def stream() -> None:
        while not over.is_set():
            ids.append(client.begin("echo", text=f"call {len(ids)}"))
            if len(ids) >= 8:
                client.answer(ids[-8])

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        yield ids
    finally:
        over.set()
        thread.join(LIMIT)
        for id_ in ids:
            client.answer(id_)


def more_answers(client: Client, ids: list[int], count: int = 50) -> None:
    """Wait until so many calls more have been answered."""
    reached = len(ids) + count
    client.wait_for(lambda: len(ids) > reached and bool(client.answers(ids[reached])), "more answers")


def unlike_success(client: Client, ids: list[int]) -> list[Message]:
    """The answers that are not the echo; each call has exactly one answer."""
    assert [len(client.answers(id_)) for id_ in ids] == [1] * len(ids)
    return [
        answer
        for number, id_ in enumerate(ids)
        if "result" not in (answer := client.answers(id_)[0]) or text_of(answer) != f"call {number}"
    ]


def wait_for_generation(client: Client, generation: int) -> None:
    """Wait until this child serves."""
    client.wait_for_log(f"is ready (child {generation})")


def test_a_kill_under_a_stream_of_calls_loses_only_those_the_server_had(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with Client(mcpkeep(fast_command("--record", str(record))), tmp_path) as client:
        client.initialize()
        with streaming(client) as ids:
            for generation in (2, 3):
                more_answers(client, ids)
                pid = client.pid()
                os.kill(pid, signal.SIGKILL)
                wait_for_generation(client, generation)
                more_answers(client, ids)
        read = record.read_bytes()
        for answer in unlike_success(client, ids):
            assert is_error(answer, "child_exited")
            assert answer["error"]["data"]["signal"] == "SIGKILL"
        assert client.keep("status")["server"]["restarts"] == 2
        # None was given to two servers: each id was read once at most.
        assert [read.count(b'"id": %d,' % id_) for id_ in ids if read.count(b'"id": %d,' % id_) > 1] == []


@pytest.mark.parametrize("mode", ["overlap", "hold"])
def test_a_restart_by_signal_under_a_stream_of_calls_fails_none(tmp_path: Path, mode: str) -> None:
    with Client(mcpkeep(fast_command(), "--replace", mode), tmp_path) as client:
        client.initialize()
        with streaming(client) as ids:
            for generation in (2, 3):
                more_answers(client, ids)
                client.process.send_signal(signal.SIGUSR2)
                wait_for_generation(client, generation)
                more_answers(client, ids)
        assert unlike_success(client, ids) == []


def test_in_hold_mode_the_next_server_starts_after_the_former_has_ended(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with Client(mcpkeep(fast_command("--record", str(record)), "--replace", "hold"), tmp_path) as client:
        client.initialize()
        one = client.pid()
        client.keep("restart")
        two = client.pid()
    marks = [line for line in record.read_text().splitlines() if line.endswith((" start", " end"))]
    assert marks == [f"{one} start", f"{one} end", f"{two} start", f"{two} end"]


def test_a_wedged_server_is_replaced_and_its_call_answered(tmp_path: Path) -> None:
    gate = Fifo(tmp_path)
    (tmp_path / "mcpkeep.toml").write_text("[health]\nafter_idle = 0.2\ntimeout = 0.2\nbusy = true\n")
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        answer = client.call("block", fifo=str(gate))
        assert is_error(answer, "child_exited")
        assert text_of(client.call("echo", text="new")) == "new"
        client.wait_for_log("was found unusable")


def test_a_slow_call_is_not_taken_for_a_wedged_server(tmp_path: Path) -> None:
    gate = Fifo(tmp_path)
    (tmp_path / "mcpkeep.toml").write_text("[health]\nafter_idle = 0.05\ntimeout = 0.05\n")
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        pid = client.pid()
        slow = client.begin("block", fifo=str(gate))
        opened = gate.wait_until_reached()
        # Some time for the checks that must not come: restarting another mcpkeep takes more than enough.
        with Client(mcpkeep(fast_command()), tmp_path) as other:
            other.initialize()
            other.keep("restart")
        os.close(opened)
        assert text_of(client.answer(slow)) == "unblocked"
        assert client.pid() == pid


# Memory


GROWING = f"""
import sys
sys.path.insert(0, {str(FAST.parent)!r})
import fast_server
kept = []
def grow(self, id_, arguments, params):
    kept.append(bytearray(b"x") * arguments["size"])
    return {{"content": [{{"type": "text", "text": "grown"}}]}}
fast_server.Server.tool_grow = grow
fast_server.TOOLS.append(fast_server.tool("grow", "Hold memory", "size"))
fast_server.main()
"""


def test_a_server_that_grows_above_its_limit_is_replaced_and_no_call_fails(tmp_path: Path) -> None:
    server = [sys.executable, "-I", "-S", "-c", GROWING]
    with Client(mcpkeep(server, "--memory", "100MiB"), tmp_path) as client:
        client.initialize()
        assert text_of(client.call("grow", size=1_000_000)) == "grown"
        pid = client.pid()
        assert text_of(client.call("grow", size=150_000_000)) == "grown"
        wait_for_generation(client, 2)
        assert client.pid() != pid
        assert "above limits.memory = 100.0 MiB" in client.log()
        assert text_of(client.call("echo", text="small again")) == "small again"


# Edited files


class Edited:
    """A server in a file of its own that is edited while it is watched."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "server.py"
        self.write("first")

    def write(self, version: str) -> None:
        """Put the next version in place, as most editors do."""
        fresh = self.path.with_name("server.py~")
        fresh.write_text(
            f"import sys\nsys.path.insert(0, {str(FAST.parent)!r})\nimport fast_server\n"
            f"sys.argv[1:] = ['--version-suffix', {version!r}]\nfast_server.main()\n"
        )
        fresh.replace(self.path)

    def break_(self) -> None:
        self.path.write_text("def broken(:\n")

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-I", "-S", str(self.path)]


def test_an_edit_of_a_watched_file_restarts_the_server_and_no_call_fails(tmp_path: Path) -> None:
    server = Edited(tmp_path)
    with Client(mcpkeep(server.command, "--watch", "server.py"), tmp_path) as client:
        client.initialize()
        client.wait_for_log("watching")
        with streaming(client) as ids:
            more_answers(client, ids)
            server.write("second")
            wait_for_generation(client, 2)
            more_answers(client, ids)
        assert unlike_success(client, ids) == []
        assert f"{tmp_path}/server.py changed" in client.log()


def test_an_edit_that_breaks_the_server_keeps_the_old_one_until_it_is_mended(tmp_path: Path) -> None:
    server = Edited(tmp_path)
    with Client(mcpkeep(server.command, "--watch", "server.py"), tmp_path) as client:
        client.initialize()
        client.wait_for_log("watching")
        pid = client.pid()
        server.break_()
        client.wait_for(
            lambda: any("restart failed" in told["data"] for told in client.notified("message")),
            "the word that the restart failed",
        )
        status = client.keep("status")["server"]
        assert (status["pid"], status["ready"], status["state"]) == (pid, True, "up")
        assert "exited with code 1" in status["restart_failed"]
        assert "SyntaxError: invalid syntax" in client.keep("logs")["lines"]
        assert text_of(client.call("echo", text="old")) == "old"

        server.write("mended")
        wait_for_generation(client, 3)
        assert client.keep("status")["server"]["restart_failed"] is None


def test_an_edit_during_a_restart_leads_to_another_one_after_it(tmp_path: Path) -> None:
    gate, settings = Fifo(tmp_path), tmp_path / "settings.json"
    settings.write_text("{}")
    (tmp_path / "watched").mkdir()
    program = f"""if True:
        import os, sys
        if os.path.exists({str(tmp_path / "slow")!r}):
            open({str(gate)!r}).read()
        sys.path.insert(0, {str(FAST.parent)!r})
        from fast_server import main
        main()
    """
    with Client(mcpkeep([sys.executable, "-c", program], "--watch", "watched"), tmp_path) as client:
        client.initialize()
        client.wait_for_log("watching")
        (tmp_path / "slow").touch()
        client.process.send_signal(signal.SIGUSR2)
        opened = gate.wait_until_reached()  # the second server starts, with the files as they are
        (tmp_path / "slow").unlink()
        (tmp_path / "watched" / "module.py").write_text("changed = True")
        client.wait_for_log("changed; the server starts again after the restart under way")
        os.close(opened)
        wait_for_generation(client, 3)
        assert text_of(client.call("echo", text="third")) == "third"


def test_what_is_ignored_restarts_nothing_and_a_vanished_folder_is_watched_when_it_is_back(
    tmp_path: Path,
) -> None:
    watched = tmp_path / "watched"
    (watched / ".git").mkdir(parents=True)
    (watched / "__pycache__").mkdir()
    (watched / "node_modules" / "x").mkdir(parents=True)
    command = mcpkeep(fast_command(), "--watch", "watched", "--watch", "missing/yet.py")
    with Client(command, tmp_path) as client:
        client.initialize()
        client.wait_for_log(f"{tmp_path}/missing/yet.py, which is to be watched, does not exist (yet)")
        assert client.log().count("does not exist (yet)") == 1
        (watched / ".git" / "index").write_text("x")
        (watched / "__pycache__" / "a.pyc").write_text("x")
        (watched / "node_modules" / "x" / "index.js").write_text("x")
        (watched / "b.py~").write_text("x")
        (watched / "one.py").write_text("x")
        wait_for_generation(client, 2)
        watched.rename(tmp_path / "gone")
        wait_for_generation(client, 3)
        watched.mkdir()
        (watched / "two.py").write_text("x")
        wait_for_generation(client, 4)
        (watched / "two.py").write_text("y")
        wait_for_generation(client, 5)
        (tmp_path / "missing").mkdir()
        (tmp_path / "missing" / "yet.py").write_text("x")
        wait_for_generation(client, 6)
        (tmp_path / "missing" / "yet.py").write_text("y")
        wait_for_generation(client, 7)
        changed = [line for line in client.log().splitlines() if " changed)" in line]
        assert not any(word in line for line in changed for word in (".git", "pyc", "node_modules", "~"))
        assert len(changed) == 6
