"""How an upgrade is to be done: what the asker says, and what the configuration says."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.proof import SmokeTest

__all__ = ["UpgradeOptions", "UpgradeSettings", "read_options"]


class UpgradeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one upgrade is asked for."""

    source_path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    dry_run: bool = False
    content_only: bool = False
    server_only: bool = False
    on_conflict: Literal["keep", "take"] | None = None
    """What becomes of conflicts that nobody decides; None waits for decisions."""

    @property
    def content(self) -> bool:
        return not self.server_only

    @property
    def code(self) -> bool:
        return not self.content_only


class UpgradeSettings(msgspec.Struct, frozen=True):
    """What the configuration says. Times are seconds."""

    keep: int = 3
    """Backups that stay."""
    require_signed: bool = False
    required_tools: tuple[str, ...] = ()
    smoke: tuple[SmokeTest, ...] = ()
    freeze: bool = True
    """Keep the former server stopped in memory during probation: the fastest way back."""
    probation: float = 600.0
    git_commit: bool = False
    on_disconnect: Literal["finish", "stop"] = "finish"
    """What becomes of an upgrade under way when the client leaves."""


def read_options(options: Mapping[str, object]) -> UpgradeOptions:
    """The options of a workflow session, or of a tool call. Raises UpgradeFailed."""
    known = {name: value for name, value in options.items() if name in UpgradeOptions.__struct_fields__}
    try:
        read = msgspec.convert(known, UpgradeOptions)
    except msgspec.ValidationError as error:
        raise UpgradeFailed(
            f"the options of the upgrade cannot be used: {error}",
            remediation="give `source_path`, the absolute path of a praxis-os repository",
        ) from error
    if read.content_only and read.server_only:
        raise UpgradeFailed(
            "content_only and server_only leave nothing to upgrade", remediation="give at most one of them"
        )
    return read
