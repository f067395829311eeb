"""An installation with a real venv, and what the installer's tests need around it."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mcpkeep.protocol.upgrade.release import MakeRelease
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.installer import Installer
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.venv import find_uv
from tests.wheels import make_wheel, offline_environment

__all__ = ["MAIN", "World", "install", "make_venv", "make_world", "nothing", "order", "write_code"]

MAIN = 'import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument("--transport")\n'


def nothing(_step: str) -> None:
    return


@dataclass(frozen=True)
class World:
    """Wheels, caches, and an environment in which there is nothing else."""

    wheels: Path
    environ: dict[str, str]
    uv: str

    def installer(
        self, layout: Layout, *, calls: FileCalls = OS_CALLS, uv: bool = True, base_python: str | None = None
    ) -> Installer:
        return Installer(
            layout,
            environ=self.environ,
            uv=self.uv if uv else None,
            calls=calls,
            base_python=base_python,
        )

    def installation(
        self, workspace: Path, *, requirements: str = "alpha\n", installed: tuple[str, ...] = ()
    ) -> Layout:
        """A `.praxis-os` with a server, a script and a venv."""
        base = workspace / ".praxis-os"
        write_code(base, requirements)
        make_venv(self, base / "venv", *installed)
        return Layout(workspace, base)


def write_code(folder: Path, requirements: str, *, version: str = "1") -> None:
    """mcp_server/ and scripts/ in `folder`."""
    for name, text in {
        "mcp_server/__init__.py": f"version = {version!r}\n",
        "mcp_server/__main__.py": MAIN,
        "mcp_server/core/__init__.py": "",
        "mcp_server/core/engine.py": f"engine = {version!r}\n",
        "mcp_server/requirements.txt": requirements,
        "scripts/build_rag_index.py": "#!/usr/bin/env python3\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "scripts/build_rag_index.py").chmod(0o755)


def order(code: Path, release_id: str = "2026-01-31-a1b2c3d", previous: str = "adopted") -> MakeRelease:
    return MakeRelease(
        session_id="s", release_id=release_id, version="2", commit="a" * 40, code=str(code), previous=previous
    )


def make_venv(world: World, folder: Path, *packages: str) -> None:
    command = (world.uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    subprocess.run(command, check=True, env=world.environ)
    if packages:
        install(world, folder, *packages)


def install(world: World, folder: Path, *packages: str) -> None:
    python = str(folder / "bin" / "python")
    command = (world.uv, "pip", "install", "--quiet", "--python", python, *packages)
    subprocess.run(command, check=True, env=world.environ)


def make_world(folder: Path) -> World:
    """alpha 1.0 and 2.0 need beta; beta 1.0 and 2.0; and wheels with a fault each."""
    wheels = folder / "wheels"
    environ = offline_environment(wheels, folder / "home")
    for version in ("1.0", "2.0"):
        make_wheel(wheels, "alpha", version, requires=["beta>=1"])
        make_wheel(wheels, "beta", version)
    make_wheel(wheels, "winonly", "1.0", tag="cp311-cp311-win32")
    make_wheel(wheels, "futurist", "1.0", python=">=3.99")
    make_wheel(wheels, "needsgone", "1.0", requires=["gonepkg"])
    make_wheel(wheels, "clash", "1.0", requires=["beta<2"])
    make_wheel(wheels, "newer", "1.0", requires=["beta>=2"])
    steps = "import sys\nprint('100% of 1.5 MiB')\nsys.exit(int(sys.argv[1]))\n"
    make_wheel(wheels, "stepper", "1.0", files={"stepper/__main__.py": steps})
    uv = find_uv(environ)
    assert uv is not None
    return World(wheels, environ, uv)
