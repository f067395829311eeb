"""What an interpreter says of itself and of what is installed for it: asked of it, not of an index."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.requirements import PythonFacts
from mcpkeep.supervisor.upgrade.command import Stopper, run_command

__all__ = ["ask_python", "bare_environment", "own_base", "runs_from", "venv_python"]

_LIMIT = 60.0
"""Seconds to list what is installed: a venv of 2 GB on a cold disk takes some."""

_MARK = "@mcpkeep@"

_SCRIPT = (
    """
import json, os, platform, sys, sysconfig
from importlib import metadata
name, version = sys.implementation.name, sys.implementation.version
full = f"{version.major}.{version.minor}.{version.micro}"
if version.releaselevel != "final":
    full += version.releaselevel[0] + str(version.serial)
markers = {
    "implementation_name": name, "implementation_version": full, "os_name": os.name,
    "platform_machine": platform.machine(), "platform_release": platform.release(),
    "platform_system": platform.system(), "platform_version": platform.version(),
    "platform_python_implementation": platform.python_implementation(), "sys_platform": sys.platform,
    "python_full_version": platform.python_version(),
    "python_version": ".".join(platform.python_version_tuple()[:2]),
}
installed = {}
for found in metadata.distributions():
    known = found.metadata["Name"]
    if not known or known in installed:
        continue
    url = None
    try:
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        if "vcs_info" in origin:
            url = "%s+%s@%s" % (origin["vcs_info"]["vcs"], origin["url"], origin["vcs_info"]["commit_id"])
        else:
            url = origin.get("url")
    except (ValueError, KeyError):
        pass
    installed[known] = {
        "name": known, "version": found.version or "0", "requires": found.requires or [], "url": url
    }
facts = {
    "abi": sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag,
    "platform": sysconfig.get_platform(),
    "base": getattr(sys, "_base_executable", None) or sys.executable,
    "markers": markers, "installed": list(installed.values()),
}
"""
    f'print("\\n{_MARK}" + json.dumps(facts))'
)


def venv_python(venv: Path) -> Path:
    """The interpreter of a venv."""
    return venv / "bin" / "python"


def bare_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what would turn an interpreter or an installer to another venv."""
    led_astray = {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_TARGET"}
    return {name: value for name, value in environ.items() if name not in led_astray}


def ask_python(python: Path, *, environ: Mapping[str, str], stopper: Stopper | None = None) -> PythonFacts:
    """Ask it; one process, some 100 ms.

    Raises:
        UpgradeFailed: it does not run.
        Stopped: by the stopper.
    """
    remedy = "rebuild that venv, or install the Python that it was made with"
    try:
        done = run_command(
            (str(python), "-I", "-c", _SCRIPT), env=bare_environment(environ), limit=_LIMIT, stopper=stopper
        )
    except OSError as error:
        raise UpgradeFailed(
            f"the interpreter {str(python)!r} does not run: {(error.strerror or str(error)).lower()}",
            remediation=remedy,
        ) from error
    said = done.text.rpartition(_MARK)[2].partition("\n")[0] if _MARK in done.text else ""
    try:
        return msgspec.convert(json.loads(said), PythonFacts)
    except (ValueError, msgspec.ValidationError) as error:
        last = "it took too long" if done.timed_out else (done.lines or (f"code {done.code}",))[-1]
        raise UpgradeFailed(
            f"the interpreter {str(python)!r} does not run: {last}",
            remediation=remedy,
            details={"output": list(done.lines[-20:])},
        ) from error


def own_base() -> str:
    """The interpreter that mcpkeep's own environment was made with."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def runs_from(*folders: Path) -> bool:
    """Whether mcpkeep itself runs from one of these venvs, or from one below."""
    own = Path(os.path.realpath(sys.prefix))
    return any(own.is_relative_to(os.path.realpath(folder)) for folder in folders)
