"""What packages call for after their installation, such as the download of a browser."""

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from packaging.utils import canonicalize_name

__all__ = ["POST_INSTALL", "PostInstall", "downloaded", "post_install_for"]


class PostInstall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One package's step, run by the release's own interpreter."""

    words: tuple[str, ...]
    """After `python -m`, such as `playwright install chromium`."""
    required: bool = False
    """Whether its failure fails the upgrade."""
    timeout: float = 600.0
    """Seconds; a browser is some 150 MB."""

    @property
    def command(self) -> str:
        """As people write it."""
        return " ".join(self.words)


POST_INSTALL: Mapping[str, PostInstall] = {
    "playwright": PostInstall(("playwright", "install", "chromium")),
}
"""By package; a configuration may add to it and override it."""


def post_install_for(
    installed: Iterable[str], table: Mapping[str, PostInstall] = POST_INSTALL
) -> tuple[PostInstall, ...]:
    """The steps that the installed packages call for, in the table's order."""
    present = {canonicalize_name(name) for name in installed}
    return tuple(step for name, step in table.items() if canonicalize_name(name) in present)


def downloaded(output: Sequence[str]) -> str:
    """The sizes that a progress bar such as playwright's named, as in `153.1 MiB + 2.3 MiB`; else empty."""
    sizes = [found[1] for line in output if (found := re.search(r"100% of ([\d.]+ [KMG]i?B)", line))]
    return " + ".join(sizes)
