"""End every process that carries a run's id in its environment, however far it detached itself.

Runs two ways: imported by mcpkeep, and alone as the watcher, `python -I -S sweep.py RUN_ID [PSUTIL_FOLDER]`,
which waits for EOF on stdin (mcpkeep holds the only write end) and then sweeps. Hence nothing but the
standard library.
"""

import os
import signal
import sys
import time

__all__ = ["GENERATION_VARIABLE", "RUN_VARIABLE", "carriers", "sweep"]

RUN_VARIABLE = "MCPKEEP_RUN"
GENERATION_VARIABLE = "MCPKEEP_GENERATION"

SWEEP_LIMIT = 30.0
"""Seconds. What SIGKILL has not ended by then is stuck in the kernel and ends when it leaves it."""

_LAST_PAUSE = 0.05


def carriers(run_id: str, generation: int | None = None) -> list[int]:
    """The pids of all living processes of this run, or of one generation of it; not this process itself."""
    wanted = {(RUN_VARIABLE, run_id)}
    if generation is not None:
        wanted.add((GENERATION_VARIABLE, str(generation)))
    if sys.platform == "linux":
        found = _carriers_by_proc({f"{name}={value}".encode() for name, value in wanted})
    else:
        found = _carriers_by_psutil(wanted)
    return [pid for pid in found if pid != os.getpid()]


def sweep(run_id: str, generation: int | None = None) -> frozenset[int]:
    """SIGKILL all carriers until none is left, and return their pids. Blocks for milliseconds as a rule."""
    ended: set[int] = set()
    deadline = time.monotonic() + SWEEP_LIMIT
    pause = 0.001
    empty_scans = 0
    while True:
        found = carriers(run_id, generation)
        # Within an exec the environment reads as empty for an instant, so one empty scan proves nothing.
        empty_scans = 0 if found else empty_scans + 1
        if empty_scans == 2 or time.monotonic() > deadline:
            return frozenset(ended)
        for pid in found:
            ended.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(pause)
        pause = min(pause * 2, _LAST_PAUSE)


def _carriers_by_proc(wanted: set[bytes]) -> list[int]:
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb", buffering=0) as file:
                environment = file.read()
        except OSError:
            continue
        # The cheap test first: nearly every process fails it.
        if all(entry in environment for entry in wanted) and wanted.issubset(environment.split(b"\0")):
            found.append(int(name))
    return found


def _carriers_by_psutil(wanted: set[tuple[str, str]]) -> list[int]:
    import psutil

    found: list[int] = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if wanted <= environment.items():
            found.append(process.pid)
    return found


def _watch(run_id: str, psutil_folder: str | None) -> None:
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    if psutil_folder is not None:
        sys.path.append(psutil_folder)
    sweep(run_id)


if __name__ == "__main__":
    _watch(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
