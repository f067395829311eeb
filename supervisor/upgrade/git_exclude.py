"""Keeps the link at `.praxis-os/venv` out of the user's repository.

A line such as `.praxis-os/venv/` matches a folder and no link, so `git add --all` would commit it once the
venv was taken over.
"""

import os
import re

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import BASES, VENV
from mcpkeep.supervisor.upgrade.git import ask_git
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = ["exclude_venv"]

_EXCLUDE = "info/exclude"
_SPECIAL = re.compile(rb"([\\*?\[])")


def exclude_venv(layout: Layout) -> str | None:
    """Have git ignore the link, by a line in the repository's info/exclude; what was done, or could not be.

    None where nothing had to be: it is ignored, is excluded already, or is in no work tree.
    """
    base = layout.base
    try:
        told = ask_git(base, "rev-parse", "--is-inside-work-tree", "--show-prefix", "--git-path", _EXCLUDE)
        answers = told.stdout.removesuffix(b"\n").split(b"\n")
        if told.code != 0 or len(answers) != 3 or answers[0] != b"true":
            return None
        prefix = answers[1].removesuffix(b"/")
        path = os.path.normpath(os.path.join(base, os.fsdecode(answers[2])))
        links = {VENV: os.path.join(prefix, os.fsencode(VENV))}
        if prefix and base.name in BASES[1:]:
            # The upgrade renames it.
            inside = f"{BASES[0]}/{VENV}"
            links[f"../{inside}"] = os.path.join(os.path.dirname(prefix), inside.encode())
        lines = [
            b"/" + _SPECIAL.sub(rb"\\\1", link)
            for name, link in links.items()
            if ask_git(base, "check-ignore", "--quiet", "--", name).code == 1
        ]
    except UpgradeFailed:
        return None
    try:
        if not (added := _append(path, lines)):
            return None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return (
            f"git does not ignore the link that {str(layout.venv)!r} is now, and {path!r} cannot be written "
            f"({reason}); put {_shown(lines)} into a .gitignore before you add files"
        )
    return (
        f"{str(layout.venv)!r} is a link now, which a .gitignore line for a folder does not match; "
        f"git ignores it by {_shown(added)} in {path!r}"
    )


def _append(path: str, lines: list[bytes]) -> list[bytes]:
    """Append the lines that are not there; which. Raises OSError."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        text = b""
    added = [line for line in lines if line not in text.splitlines()]
    if added:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab") as file:
            start = b"\n" if text and not text.endswith(b"\n") else b""
            file.write(start + b"".join(line + b"\n" for line in added))
    return added


def _shown(lines: list[bytes]) -> str:
    return ", ".join(repr(os.fsdecode(line)) for line in lines)
