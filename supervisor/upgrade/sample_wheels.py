"""The packages that the sample server imports, as real wheels, written without a build tool."""

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["Package", "write_wheels"]


class Package(NamedTuple):
    """One version of a package of one module."""

    name: str
    version: str
    module: str
    source: str
    requires: tuple[str, ...] = ()


_CALENDAR = '''"""Names the days."""

from datetime import datetime


def weekday(day: datetime) -> str:
    return day.strftime("%A")
'''

_TOKENS = '''"""Takes a text to words."""

import re


def words(text: str) -> list[str]:
    return [word{} for word in re.findall(r"\\w+", text.lower())]
'''

_EXPLAIN = '''"""Says in a sentence what a text is about."""

from sample_tokens import words


def explain(text: str) -> dict[str, object]:
    title, _, rest = text.lstrip("# ").partition("\\n")
    paragraphs = [part.strip() for part in rest.split("\\n\\n") if part.strip()[:1] not in ("", "#", "*")]
    return {"title": title, "purpose": paragraphs[0] if paragraphs else "", "words": len(words(text))}
'''

_WHEEL = """\
Wheel-Version: 1.0
Generator: mcpkeep
Root-Is-Purelib: true
Tag: py3-none-any
"""

PACKAGES = (
    Package("mcpkeep-sample-calendar", "1.0.0", "sample_calendar", _CALENDAR),
    Package("mcpkeep-sample-calendar", "2.0.0", "sample_calendar", _CALENDAR),
    Package("mcpkeep-sample-tokens", "1.0.0", "sample_tokens", _TOKENS.format("")),
    Package("mcpkeep-sample-tokens", "2.0.0", "sample_tokens", _TOKENS.format('.rstrip("s")')),
    Package("mcpkeep-sample-explain", "1.0.0", "sample_explain", _EXPLAIN, ("mcpkeep-sample-tokens>=2",)),
)


def write_wheels(folder: Path, packages: tuple[Package, ...] = PACKAGES) -> None:
    """Write them into `folder`, which `--find-links` may then name; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    # uv has no variable that says so.
    (folder / "uv.toml").write_text("[pip]\nno-index = true\n", encoding="utf-8")
    for package in packages:
        _write_wheel(folder, package)


def _write_wheel(folder: Path, package: Package) -> None:
    stem = f"{package.name.replace('-', '_')}-{package.version}"
    metadata = [f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in package.requires]
    files = {
        f"{package.module}.py": package.source,
        f"{stem}.dist-info/METADATA": "\n".join(metadata) + "\n",
        f"{stem}.dist-info/WHEEL": _WHEEL,
    }
    record = f"{stem}.dist-info/RECORD"
    files[record] = "".join(_record(name, text) for name, text in files.items()) + f"{record},,\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(
                zipfile.ZipInfo(name), text
            )  # of 1980, as ZipInfo has it: the same bytes each time


def _record(name: str, text: str) -> str:
    data = text.encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"
