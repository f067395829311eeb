"""Tools run to their end, whatever they do."""

import os
import select
import sys
import threading

import pytest

from mcpkeep.supervisor.upgrade.command import Stopped, Stopper, run_command


def run(script: str, *, limit: float = 30.0, stopper: Stopper | None = None) -> tuple[int, str, bool]:
    done = run_command((sys.executable, "-c", script), env={}, limit=limit, stopper=stopper)
    return done.code, done.text, done.timed_out


def test_both_outputs_are_kept_with_the_exit_code() -> None:
    script = "import sys; print('out', flush=True); print('err\\r100%', file=sys.stderr); sys.exit(3)"
    assert run(script) == (3, "out\nerr\n100%\n", False)


def test_each_line_is_told_as_it_comes() -> None:
    said: list[str] = []
    command = (sys.executable, "-c", "print('one\\n\\n two ')")
    done = run_command(command, env={}, limit=30, on_line=said.append)
    assert said == ["one", "two"]
    assert done.lines == ("one", " two")


def test_output_without_end_is_bounded_to_its_newest_part() -> None:
    done = run_command((sys.executable, "-c", "print('x' * 9_000_000); print('last')"), env={}, limit=30)
    assert len(done.text) <= 4096 * 1000
    assert done.lines[-1] == "last"


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], close_fds=False)
"""


@pytest.mark.parametrize(
    ("ending", "limit", "expected"),
    [("child.wait()", 0.5, (-9, True)), ("sys.exit(4)", 30.0, (4, False))],
    ids=["takes too long", "leaves a child behind"],
)
def test_nothing_that_it_started_is_left(ending: str, limit: float, expected: tuple[int, bool]) -> None:
    alive, held = os.pipe()
    command = (sys.executable, "-c", PARENT + ending)
    done = run_command(command, env={}, limit=limit, pass_fds=(held,))
    os.close(held)
    # The kernel closes the other end when the last process that holds it is gone.
    assert select.select([alive], [], [], 60)[0] == [alive]
    assert os.read(alive, 1) == b""
    os.close(alive)
    assert (done.code, done.timed_out) == expected


def test_one_that_says_nothing_is_ended_before_its_limit() -> None:
    command = ("/bin/sh", "-c", "echo one; sleep 1000")
    done = run_command(command, env=dict(os.environ), limit=60, silence=0.2)
    assert done == (-9, "one\n", True, True)


def test_one_that_goes_on_writing_is_not_silent() -> None:
    done = run_command(("yes",), env=dict(os.environ), limit=3, silence=1.5)
    assert (done.code, done.timed_out, done.silent) == (-9, True, False)


def test_one_that_is_stopped_raises_and_so_does_one_that_begins_later() -> None:
    stopper = Stopper()
    thread = threading.Timer(0, stopper.stop)
    thread.start()
    with pytest.raises(Stopped):
        run("import time; time.sleep(1000)", stopper=stopper)
    thread.join()
    with pytest.raises(Stopped):
        run("import time; time.sleep(1000)", stopper=stopper)
    with pytest.raises(Stopped):
        stopper.check()


def test_one_that_cannot_be_executed_raises() -> None:
    with pytest.raises(FileNotFoundError):
        run_command(("/no/such/tool",), env={}, limit=1)
