"""Runs what installed packages call for, by the release's own interpreter, once per venv."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.evidence import PostInstallStep
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.post_install import PostInstall, downloaded, post_install_for
from mcpkeep.protocol.upgrade.requirements import PythonFacts
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, write_durably
from mcpkeep.supervisor.upgrade.command import Stopper, run_command
from mcpkeep.supervisor.upgrade.python import bare_environment, venv_python
from mcpkeep.supervisor.upgrade.refusal import os_reason, refusing

__all__ = ["run_post_install"]

_DONE = "post-install.json"
_OUTPUT_LINES = 20


def run_post_install(
    venv: Path,
    facts: PythonFacts,
    table: Mapping[str, PostInstall],
    *,
    environ: Mapping[str, str],
    stopper: Stopper,
    progress: Callable[[str], None],
    calls: FileCalls = OS_CALLS,
) -> tuple[PostInstallStep, ...]:
    """Run the steps; a failed optional one is in the answer.

    Raises:
        UpgradeFailed: a required one failed.
        Stopped: by the stopper.
    """
    python = str(venv_python(venv))
    done = _read_done(venv)
    steps: list[PostInstallStep] = []
    for step in post_install_for((each.name for each in facts.installed), table):
        if step.command in done:
            steps.append(PostInstallStep(step.command, "skipped", output="done before, for this venv"))
            continue
        progress(step.command)
        steps.append(ran := _run(step, python, environ, stopper, progress))
        if ran.status == "success":
            done = (*done, step.command)
            with refusing():
                write_durably(venv / _DONE, msgspec.json.encode(done), calls=calls)
        elif step.required:
            raise UpgradeFailed(
                f"the post-install step {step.command!r} failed",
                remediation=f"run it by hand: {python} -m {step.command}",
                details={"output": ran.output.splitlines()},
            )
    return tuple(steps)


def _run(
    step: PostInstall,
    python: str,
    environ: Mapping[str, str],
    stopper: Stopper,
    progress: Callable[[str], None],
) -> PostInstallStep:
    try:
        done = run_command(
            (python, "-m", *step.words),
            env={**bare_environment(environ), "PYTHONSAFEPATH": "1"},
            limit=step.timeout,
            stopper=stopper,
            on_line=lambda line: progress(f"{step.command}: {line}"),
        )
    except OSError as error:
        return PostInstallStep(step.command, "failed", output=f"it cannot be executed: {os_reason(error)}")
    lines = [*done.lines[-_OUTPUT_LINES:]]
    if done.timed_out:
        lines.append(f"it took longer than {step.timeout:g} s")
    status = "failed" if done.code else "success"
    return PostInstallStep(step.command, status, downloaded(done.lines), "\n".join(lines))


def _read_done(venv: Path) -> tuple[str, ...]:
    try:
        return msgspec.json.decode((venv / _DONE).read_bytes(), type=tuple[str, ...])
    except (OSError, msgspec.DecodeError):
        return ()
