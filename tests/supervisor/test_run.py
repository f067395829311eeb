"""`mcpkeep run` as a process: how it starts, what a client sees of a server that cannot run, how it ends."""

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import psutil
import pytest

from tests.benchmarks.line import environment
from tests.rpc import LIMIT, Client, Fifo, Message, is_error, mcpkeep, text_of
from tests.servers import fast_command

SERVER_STDERR = "import sys; sys.stderr.write('one\\ntwo\\n'); sys.exit(3)"


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def data_of(answer: Message) -> dict[str, object]:
    data: dict[str, object] = answer["error"]["data"]
    return data


# Servers that cannot run


def test_a_command_that_is_not_there_is_told_in_the_answer_to_initialize(tmp_path: Path) -> None:
    with Client(mcpkeep(["no-such-command", "--flag"]), tmp_path) as client:
        answer = client.initialize()
        assert is_error(answer, "child_unavailable")
        assert data_of(answer)["exit_code"] is None and data_of(answer)["signal"] is None
        assert "no-such-command --flag" in answer["error"]["message"]
        assert f"no such command in the PATH {os.environ['PATH']!r}" in answer["error"]["message"]
        client.close_stdin()
        assert client.wait_until_ended() == 0


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        ("#!/bin/sh\n", 0o644, "is not executable; try chmod +x"),
        ("#!/no/such/interpreter\n", 0o755, "the interpreter '/no/such/interpreter' named in the first line"),
    ],
)
def test_a_command_that_cannot_be_executed_is_told_with_the_remedy(
    tmp_path: Path, text: str, mode: int, reason: str
) -> None:
    command = script(tmp_path / "server", text, mode)
    with Client(mcpkeep([command]), tmp_path) as client:
        answer = client.initialize()
        assert is_error(answer, "child_unavailable")
        assert reason in answer["error"]["message"] and command in answer["error"]["message"]


def test_a_server_that_exits_at_once_is_told_with_its_code_and_last_lines(tmp_path: Path) -> None:
    options = ["--hold", "1", "--restart", "temporary"]
    with Client(mcpkeep([sys.executable, "-c", SERVER_STDERR], *options), tmp_path) as client:
        answer = client.initialize()
        assert is_error(answer, "child_unavailable")
        assert sys.executable in answer["error"]["message"]
        assert {**data_of(answer), "retryable": None} == {
            "reason": "child_unavailable",
            "retryable": None,
            "exit_code": 3,
            "signal": None,
            "stderr_tail": ["one", "two"],
        }


def test_a_server_that_dies_of_a_signal_at_start_is_told_with_its_name(tmp_path: Path) -> None:
    program = "import os, sys; sys.stderr.write('last words'); sys.stderr.flush(); os.kill(os.getpid(), 11)"
    with Client(mcpkeep([sys.executable, "-c", program], "--restart", "temporary"), tmp_path) as client:
        answer = client.initialize()
        assert is_error(answer, "child_unavailable")
        assert data_of(answer)["signal"] == "SIGSEGV" and data_of(answer)["exit_code"] is None
        assert data_of(answer)["stderr_tail"] == ["last words"]


def test_a_crash_loop_is_told_with_the_last_lines_and_ends_when_the_server_is_mended(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"flags": []}')
    (tmp_path / "mcpkeep.toml").write_text("[restart]\nintensity = 2\nbackoff_base = 0.01\n")
    with Client(mcpkeep(fast_command("--settings", str(settings))), tmp_path) as client:
        client.initialize()
        settings.write_text('{"flags": ["--die-at-start", "7"]}')
        client.kill_server()
        answer = client.call("echo", text="lost")
        assert is_error(answer, "child_unavailable")
        assert data_of(answer)["exit_code"] == 7
        assert data_of(answer)["stderr_tail"] == ["fast.py: dying at start with code 7"]
        assert "action `restart`" in answer["error"]["message"]

        status = client.keep("status")
        assert (status["server"]["state"], status["server"]["ready"]) == ("failed", False)
        assert client.keep("logs", lines=1)["lines"] == ["fast.py: dying at start with code 7"]
        failed = client.call("mcpkeep", action="restart")["result"]
        assert failed["isError"] and failed["structuredContent"]["error_type"] == "RestartFailed"

        settings.write_text('{"flags": []}')
        assert client.keep("restart")["restarted"] is True
        assert text_of(client.call("echo", text="back")) == "back"
        assert client.keep("status")["server"]["restart_failed"] is None


# The surroundings


def test_two_of_them_serve_in_one_workspace_at_once(tmp_path: Path) -> None:
    with Client(mcpkeep(fast_command()), tmp_path) as one, Client(mcpkeep(fast_command()), tmp_path) as two:
        for client in (one, two):
            client.initialize()
        assert text_of(one.call("echo", text="1")) == "1"
        assert text_of(two.call("echo", text="2")) == "2"
        assert one.pid() != two.pid()


def test_a_probe_that_starts_it_and_ends_at_once_disturbs_nobody(tmp_path: Path) -> None:
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        with Client(mcpkeep(fast_command()), tmp_path) as probe:
            probe.answer(probe.request("server/discover"))
            probe.close_stdin()
            assert probe.wait_until_ended() == 0
        assert text_of(client.call("echo", text="still")) == "still"


def test_discovery_first_falls_back_to_initialize_with_a_legacy_server(tmp_path: Path) -> None:
    with Client(mcpkeep(fast_command("--legacy-only")), tmp_path) as client:
        assert client.answer(client.request("server/discover"))["error"]["code"] == -32601
        assert client.initialize()["result"]["serverInfo"] == {"name": "fast", "version": "1.0"}
        assert text_of(client.call("echo", text="hi")) == "hi"


def test_an_unwritable_log_folder_does_not_stop_the_relay(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    command = mcpkeep(fast_command(), "--log-file", "logs/mcpkeep.log")
    with Client(command, tmp_path) as client:
        client.initialize()
        client.kill_server()
        assert text_of(client.call("echo", text="hi")) == "hi"
        client.wait_for_log("cannot be written")


def test_a_disk_that_is_full_for_every_file_does_not_stop_the_relay(tmp_path: Path) -> None:
    def no_files_may_grow() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    with Client(mcpkeep(fast_command(), "--log-file", "log"), tmp_path, preexec=no_files_may_grow) as client:
        client.initialize()
        client.kill_server()
        assert text_of(client.call("echo", text="hi")) == "hi"
        client.wait_for_log("cannot be written")
    assert (tmp_path / "log").stat().st_size == 0


def test_exit_codes_are_known_though_the_parent_ignored_the_end_of_children(tmp_path: Path) -> None:
    def careless() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2])

    with Client(mcpkeep(fast_command(), "--restart", "temporary"), tmp_path, preexec=careless) as client:
        client.initialize()
        answer = client.call("crash", how="exit", code=42)
        assert data_of(answer)["exit_code"] == 42
        client.process.terminate()
        assert client.wait_until_ended() == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_the_server_that_comes_while_mcpkeep_starts_does_not_end_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    server = ["sh", "-c", f'kill -{number.value} $PPID; exec "$@"', "sh", *fast_command()]
    with Client(mcpkeep(server), tmp_path) as client:
        client.initialize()
        assert text_of(client.call("echo", text="hi")) == "hi"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_end_that_comes_while_mcpkeep_starts_ends_it_and_its_child(
    tmp_path: Path, number: signal.Signals
) -> None:
    server = ["sh", "-c", f"trap '' TERM; echo $$ > pid; kill -{number.value} $PPID; exec sleep 1000"]
    with Client(mcpkeep(server), tmp_path) as client:
        assert client.wait_until_ended() == 128 + number
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_missing_standard_descriptors_are_replaced_before_anything_else_takes_their_place(
    tmp_path: Path,
) -> None:
    def no_stdio() -> None:
        for fd in (0, 2):
            os.close(fd)

    ended = subprocess.run(
        mcpkeep(fast_command("--flood-stdout", "1000")),
        cwd=tmp_path,
        env={**environment(), "HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        preexec_fn=no_stdio,
        timeout=LIMIT,
    )
    assert (ended.returncode, ended.stdout) == (0, b"")


# Standard streams of any kind


@pytest.mark.parametrize("stdio", ["pipe", "socket", "pty"])
def test_a_session_goes_on_over_a_crash_whatever_the_standard_streams_are(
    tmp_path: Path, stdio: Literal["pipe", "socket", "pty"]
) -> None:
    with Client(mcpkeep(fast_command()), tmp_path, stdio=stdio) as client:
        client.initialize()
        client.kill_server()
        assert text_of(client.call("echo", text="é" * 500)) == "é" * 500
        assert client.garbage == []
        if stdio == "pty":
            client.process.terminate()
            assert client.wait_until_ended() == 128 + signal.SIGTERM


def test_requests_out_of_a_file_are_answered_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(
        '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
        '"capabilities":{},"clientInfo":{"name":"file","version":"1"}}}\n'
        '{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
        '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"a"}}}\n'
        '{"jsonrpc":"2.0","id":3,"method":"ping"}'  # without its end
    )
    with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "wb") as stdout:
        ended = subprocess.run(
            mcpkeep(fast_command()),
            cwd=tmp_path,
            env={**environment(), "HOME": str(tmp_path / "home")},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
        )
    out = (tmp_path / "out").read_text()
    assert ended.returncode == 0
    for id_ in (1, 2, 3):
        assert out.count(f'"id":{id_},"result"') == 1, out


def test_the_mode_of_a_shared_pipe_is_put_back(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            mcpkeep(fast_command()),
            cwd=tmp_path,
            env={**environment(), "HOME": str(tmp_path / "home")},
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
        )
        ours.settimeout(LIMIT)
        ours.sendall(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        assert ours.recv(1000) == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
        assert not os.get_blocking(theirs.fileno())
        process.terminate()
        assert process.wait(LIMIT) == 128 + signal.SIGTERM
        assert os.get_blocking(theirs.fileno())


# Ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_the_shells_code(tmp_path: Path, number: signal.Signals) -> None:
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        client.process.send_signal(number)
        assert client.wait_until_ended() == 128 + number


def test_a_hangup_that_nohup_ignores_is_ignored(tmp_path: Path) -> None:
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with Client(mcpkeep(fast_command()), tmp_path, preexec=nohup) as client:
        client.initialize()
        client.process.send_signal(signal.SIGHUP)
        assert text_of(client.call("echo", text="on")) == "on"
        client.close_stdin()
        assert client.wait_until_ended() == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "mcpkeep.toml").write_text("[child]\nstop_eof = 300\nstop_term = 300\n")
    server = fast_command("--ignore-eof", "--ignore-term")
    with Client(mcpkeep(server), tmp_path) as client:
        client.initialize()
        client.process.terminate()
        client.wait_for_log("SIGTERM: leaving")
        client.process.terminate()
        assert client.wait_until_ended() == 128 + signal.SIGTERM


def test_a_client_that_ends_in_the_middle_of_a_line_ends_it_cleanly(tmp_path: Path) -> None:
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        client.send(b'{"jsonrpc":"2.0","id":9,"method":"to')
        client.close_stdin()
        assert client.wait_until_ended() == 0
        client.wait_for(lambda: client.ended)
        assert [(said["id"], said["error"]["code"]) for said in client.said if "error" in said] == [
            (9, -32600)
        ]


def test_a_client_that_is_gone_ends_it_cleanly_though_much_is_to_be_said(tmp_path: Path) -> None:
    gate = Fifo(tmp_path)
    with Client(mcpkeep(fast_command()), tmp_path) as client:
        client.initialize()
        client.begin("wait", fifo=str(gate))
        opened = gate.wait_until_reached()
        client.stop_reading()
        for _ in range(8):
            client.begin("blob", size=1_000_000)
        client.hang_up()
        os.close(opened)
        assert client.wait_until_ended() == 0


def test_an_error_in_the_tree_is_logged_and_ends_it_with_code_1_and_its_server(tmp_path: Path) -> None:
    program = """if True:
        import sys
        from mcpkeep.actors import wires
        def broken(self, *arguments, **named): raise RuntimeError("a bug of ours")
        wires.RelayWires.order = broken
        from mcpkeep.supervisor.app import main
        sys.exit(main(sys.argv[1:]))
    """
    alive = Fifo(tmp_path, "alive")
    reader = os.open(alive.path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    server = fast_command("--liveness", str(alive), "--ignore-eof", "--ignore-term")
    with Client([sys.executable, "-c", program, "run", "--", *server], tmp_path) as client:
        assert client.wait_until_ended() == 1
        client.wait_for_log("critical mcpkeep")
        client.wait_for_log("RuntimeError: a bug of ours")
        assert os.read(reader, 1) == b""
    os.close(reader)
