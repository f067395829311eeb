import logging
import os
import re
import resource
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from mcpkeep.supervisor.log import Logging, start_logging

log = logging.getLogger("mcpkeep.test")


@contextmanager
def logging_to(
    *,
    level: str = "info",
    format: Literal["text", "json"] = "text",
    file: Path | None = None,
    max_bytes: int = 1 << 20,
    keep: int = 2,
    stderr: int | None = None,
) -> Generator[Logging, None, None]:
    path = str(file) if file else None
    root, mcpkeep = logging.getLogger(), logging.getLogger("mcpkeep")
    others, root.handlers[:] = list(root.handlers), []  # pytest's own raise for what cannot be formatted
    running = start_logging(
        level=level, format=format, file=path, max_bytes=max_bytes, keep=keep, stderr=stderr
    )
    try:
        yield running
    finally:
        running.close(10)
        assert root.handlers == []
        root.handlers[:] = others
        mcpkeep.setLevel(logging.NOTSET)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def read_all(fd: int) -> str:
    with open(fd, "rb") as file:
        return file.read().decode()


def test_a_record_goes_to_stderr_and_file_as_one_line_each(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with logging_to(file=tmp_path / "logs/m.log", stderr=writing):
        log.debug("too little")
        log.info("héllo %s", "world\nand \x1b[31m\r\udcff")
    os.close(writing)
    text = read_all(reading)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    mcpkeep\.test\["
        + str(os.getpid())
        + r"\] héllo world\n    and \\x1b\[31m\\x0d\\udcff\n",
        text,
    )
    assert (tmp_path / "logs/m.log").read_text() == text
    assert (tmp_path / "logs/m.log").stat().st_mode & 0o777 == 0o600


def test_json_lines_hold_the_whole_record(tmp_path: Path) -> None:
    with logging_to(level="debug", format="json", file=tmp_path / "m.log"):
        log.debug("a\nb \udcff")
        try:
            raise KeyError("x")
        except KeyError:
            log.exception("it broke")
        log.info("%d", "not a number")
        log.info("x" * 100_000)
    lines = (tmp_path / "m.log").read_bytes().splitlines()
    first, second, third, fourth = (msgspec.json.decode(line, type=dict[str, str | int]) for line in lines)
    assert {key: value for key, value in first.items() if key != "time"} == {
        "level": "debug",
        "pid": os.getpid(),
        "logger": "mcpkeep.test",
        "message": "a\nb \\udcff",
    }
    assert str(second["message"]).startswith("it broke\nTraceback")
    assert re.fullmatch(r"a record of .*test_log\.py:\d+ failed with TypeError", str(third["message"]))
    assert str(fourth["message"]).endswith("x... (100000 characters)")


def test_warnings_of_other_libraries_are_logged_and_their_chatter_is_not(tmp_path: Path) -> None:
    with logging_to(level="debug", file=tmp_path / "m.log"):
        logging.getLogger("asyncio").debug("chatter")
        logging.getLogger("asyncio").warning("it matters")
    assert "it matters" in (tmp_path / "m.log").read_text()
    assert "chatter" not in (tmp_path / "m.log").read_text()


def test_a_stderr_that_nobody_reads_blocks_nothing_and_what_it_lost_is_counted(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with logging_to(file=tmp_path / "m.log", max_bytes=1 << 30, stderr=writing) as running:
        for number in range(3000):
            log.info("%d %s", number, "x" * 1000)
            while number % 500 == 499 and f"] {number} x" not in text_of(tmp_path / "m.log"):
                os.sched_yield()
        lost = running.dropped
        assert lost > 1000  # 3 MB went in; the pipe holds 64 KiB, the queue 1 MiB
        seen = b""
        while seen.count(b" x") < 3000 - lost:
            seen += os.read(reading, 1 << 16)
    os.close(writing)
    os.close(reading)
    notes = re.findall(rb"(\d+) log records before this one were lost\n", seen)
    assert sum(map(int, notes)) == lost
    assert (tmp_path / "m.log").read_bytes().count(b" x") == 3000


def test_closing_does_not_wait_for_a_stderr_that_nobody_reads(tmp_path: Path) -> None:
    """The whole process ends, although a thread of it is still in the write."""
    script = (
        "import logging, sys\n"
        "from mcpkeep.supervisor.log import start_logging\n"
        "running = start_logging()\n"
        "for _ in range(500): logging.getLogger('mcpkeep').warning('x' * 1000)\n"
        "running.close()\n"
        "print('ended')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    assert child.stdout.read() == b"ended\n"
    assert child.wait(30) == 0
    child.stdout.close()
    child.stderr.close()


def test_a_non_blocking_stderr_gets_every_record_whole() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    seen = b""
    with logging_to(stderr=writing) as running:
        for _ in range(100):
            log.info("x" * 10_000)
        while seen.count(b"\n") < 100:
            seen += os.read(reading, 1 << 16)
        assert running.dropped == 0
    os.close(writing)
    os.close(reading)
    assert {len(line.partition(b"] ")[2]) for line in seen.splitlines()} == {10_000}


@pytest.mark.parametrize("closed", ["reader", "descriptor"])
def test_a_closed_stderr_stops_nothing(tmp_path: Path, closed: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    if closed == "descriptor":
        os.close(writing)
    with logging_to(file=tmp_path / "m.log", stderr=writing):
        log.info("one")
        log.info("two")
    if closed == "reader":
        os.close(writing)
    assert (tmp_path / "m.log").read_text().count("\n") == 2


def test_a_process_started_without_stderr_never_writes_to_what_took_its_number(tmp_path: Path) -> None:
    script = (
        "import logging, os\n"
        "from mcpkeep.supervisor.log import start_logging\n"
        f"fd = os.open({str(tmp_path / 'other')!r}, os.O_WRONLY | os.O_CREAT)\n"
        "running = start_logging()\n"
        "logging.getLogger('mcpkeep').warning('x')\n"
        "running.close()\n"
        "raise SystemExit(fd)\n"
    )
    ended = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script], timeout=60)
    assert ended.returncode == 2
    assert (tmp_path / "other").read_text() == ""


def test_a_log_folder_that_cannot_be_made_is_told_once_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    reading, writing = os.pipe()
    with logging_to(file=tmp_path / "taken/m.log", stderr=writing) as running:
        log.info("one")
        log.info("two")
    assert running.dropped == 2
    os.close(writing)
    text = read_all(reading)
    assert text.count("cannot be written: ") == 1
    assert text.count("\n") == 3


def test_a_log_folder_that_vanishes_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "logs/m.log"
    with logging_to(file=file):
        log.info("before")
        while not text_of(file):
            os.sched_yield()
        file.unlink()
        file.parent.rmdir()
        log.info("after")
    assert file.read_text().endswith("] after\n")


def test_a_log_folder_that_vanishes_with_what_is_above_it_is_not_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "workspace/logs/m.log"
    with logging_to(file=file) as running:
        log.info("before")
        while not text_of(file):
            os.sched_yield()
        (tmp_path / "workspace").rename(tmp_path / "away")
        log.info("after")
    assert running.dropped == 1
    assert [path.name for path in tmp_path.iterdir()] == ["away"]


def test_a_full_disk_loses_records_and_the_next_ones_are_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the kernel cuts the write in the same way."""
    file = tmp_path / "m.log"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with logging_to(file=file, max_bytes=1 << 30) as running:
        log.info("first")
        while not text_of(file):
            os.sched_yield()
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, old[1]))
        try:
            log.info("cut")
            log.info("lost")
            while running.dropped < 2:
                os.sched_yield()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        log.info("last")
    lines = [line.partition("] ")[2] for line in file.read_text().splitlines()]
    assert lines == ["first", "", "2 log records before this one were lost", "last"]


@pytest.mark.parametrize("keep", [0, 2])
def test_a_full_file_is_rotated_and_only_so_many_are_kept(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "m.log"
    with logging_to(file=file, max_bytes=4096, keep=keep):
        for number in range(100):
            log.info("%03d %s", number, "x" * 200)
    names = ["m.log", "m.log.1", "m.log.2"][: keep + 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    newest_last = [line for name in reversed(names) for line in (tmp_path / name).read_text().splitlines()]
    numbers = [int(line.partition("] ")[2][:3]) for line in newest_last]
    assert numbers == list(range(100))[-len(numbers) :]
    assert all((tmp_path / name).stat().st_size <= 4096 for name in names)


def test_several_processes_share_one_file_and_no_line_is_torn_or_lost(tmp_path: Path) -> None:
    file = tmp_path / "m.log"
    script = (
        "import logging\n"
        "from mcpkeep.supervisor.log import start_logging\n"
        f"running = start_logging(file={str(file)!r}, max_bytes=20_000, keep=100, stderr=None)\n"
        "for number in range(300): logging.getLogger('mcpkeep').info('%d %s', number, 'x' * 300)\n"
        "running.close(30)\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    words = [re.fullmatch(r"\S+ info    mcpkeep\[(\d+)\] (\d+) x{300}", line) for line in lines]
    seen = sorted((int(word[1]), int(word[2])) for word in words if word)
    assert seen == sorted((child.pid, number) for child in children for number in range(300))
    assert len(list(tmp_path.iterdir())) > 10
