"""How a release's server is started: from its folder, with its interpreter, and nothing else on the path."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.release import Launch, Release
from mcpkeep.supervisor.process import mark_environment
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.workspace import server_words

__all__ = ["FIND_SERVER", "ask_code_path", "check_code_path", "launch_release"]

ASK_LIMIT = 30.0
"""Seconds for an interpreter to start and look for a module; from a cold disk it takes some."""

FIND_SERVER = """
import os, sys
finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
specs = (finder.find_spec("mcp_server", None) for finder in finders)
found = next(filter(None, specs), None)
print(os.path.realpath(found.origin or next(iter(found.submodule_search_locations))) if found else "")
"""
"""Prints where the interpreter would load `mcp_server` from, links resolved; nothing where it finds none.

Without importlib.util, whose own import takes a third of the time.
"""
_NO_GENERATION = 0


def launch_release(
    layout: Layout, release: Release, workspace: Path, arguments: Sequence[str] = ()
) -> Launch:
    """How the release's server is started for `workspace`, which is to be its working folder.

    Of `arguments`, the user's own, it is given those that it knows.
    """
    folder = layout.releases / release.release_id
    words = server_words(str(folder), arguments) if arguments else None
    return Launch(
        command=(str(folder / "venv" / "bin" / "python"), *(words or release.command)),
        env={
            "PROJECT_ROOT": str(workspace),
            "PYTHONPATH": str(folder),
            # Without it `-m mcp_server` finds a project's own mcp_server/ in the working folder first.
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        },
    )


async def ask_code_path(launch: Launch, cwd: str, run_id: str, *, environ: Mapping[str, str]) -> str:
    """Where the interpreter would load `mcp_server` from, links resolved; empty where it finds none.

    Raises:
        UpgradeFailed: the interpreter does not start, or does not answer.
    """
    interpreter = launch.command[0]
    env = mark_environment({**environ, **launch.env}, run_id=run_id, generation=_NO_GENERATION)
    try:
        with anyio.fail_after(ASK_LIMIT):
            done = await anyio.run_process(
                [interpreter, "-c", FIND_SERVER], cwd=cwd, env=env, check=False, start_new_session=True
            )
    except TimeoutError as error:
        raise UpgradeFailed(
            f"the interpreter {interpreter!r} did not answer within {ASK_LIMIT:g} s",
            remediation="look at the machine's load and disk, and try again",
        ) from error
    except OSError as error:
        raise UpgradeFailed(
            f"the interpreter {interpreter!r} cannot be started: {error.strerror}",
            remediation="the release's venv is damaged; upgrade again, so that it is rebuilt",
        ) from error
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode != 0:
        raise UpgradeFailed(
            f"the interpreter {interpreter!r} fails: {said[-1] if said else f'code {done.returncode}'}",
            remediation="the release's venv is damaged; upgrade again, so that it is rebuilt",
            details={"stderr_tail": said[-20:]},
        )
    lines = done.stdout.decode(errors="replace").splitlines()
    return lines[-1] if lines else ""


def check_code_path(code_path: str, release_folder: Path) -> None:
    """Refuse code that is not the release's own.

    Raises:
        UpgradeFailed: it lies elsewhere, or there is none.
    """
    folder = release_folder.resolve()
    if not code_path:
        raise UpgradeFailed(
            f"the release {folder.name!r} holds no mcp_server that its interpreter could load",
            remediation="choose another commit of the source",
        )
    if not Path(code_path).is_relative_to(folder / "mcp_server"):
        raise UpgradeFailed(
            f"the new server would load its code from {code_path!r} instead of its release {str(folder)!r}",
            remediation="uninstall what brings another mcp_server into its venv, such as a .pth file",
        )
