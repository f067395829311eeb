"""Tiny wheels, made here, and an environment in which uv and pip know nothing else: no index, no network."""

import hashlib
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["make_wheel", "offline_environment", "sha256_of"]


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Iterable[str] = (),
    python: str | None = None,
    tag: str = "py3-none-any",
    files: dict[str, str] | None = None,
) -> Path:
    """A wheel of one package, with `files` by their path in site-packages beside its `__init__.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Python: {python}"] if python else []
    metadata += [f"Requires-Dist: {each}" for each in requires]
    content = {
        f"{name}/__init__.py": f"version = {version!r}\n",
        **(files or {}),
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in (*content, f"{info}/RECORD"))
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in (*content.items(), (f"{info}/RECORD", record)):
            archive.writestr(path, text)
    return wheel


def sha256_of(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def offline_environment(wheels: Path, home: Path) -> dict[str, str]:
    """What uv and pip need to install from `wheels` alone, with caches below `home`.

    Of uv there is no variable that says so much, and its offline mode alone still reads its cache.
    """
    home.mkdir(parents=True, exist_ok=True)
    wheels.mkdir(parents=True, exist_ok=True)
    settings = home / "uv.toml"
    settings.write_text(f'offline = true\n[pip]\nno-index = true\nfind-links = ["{wheels}"]\n')
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "UV_CACHE_DIR": str(home / "uv-cache"),
        "UV_CONFIG_FILE": str(settings),
        "UV_OFFLINE": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CACHE_DIR": str(home / "pip-cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
