"""The tool `mcpkeep` in a workspace with prAxIs OS: beside the plain actions those of upgrades."""

from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from mcpkeep.protocol.keep import KEEP_TOOL, KeepAction, KeepOptions
from mcpkeep.protocol.schema import flat_schema

__all__ = ["KEEP_TOOL_WITH_UPGRADES", "UpgradeAction", "UpgradeArguments"]

UpgradeAction = Literal["plan", "upgrade", "resolve", "rollback", "backups", "verify", "report"]

_Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class UpgradeArguments(KeepOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arguments of one call."""

    action: Annotated[Literal[KeepAction, UpgradeAction], Meta(description="What to do.")]
    source_path: Annotated[
        _Text | None, Meta(description="plan, upgrade: absolute path of the praxis-os repository.")
    ] = None
    content_only: Annotated[bool, Meta(description="plan, upgrade: leave server code and packages.")] = False
    server_only: Annotated[bool, Meta(description="plan, upgrade: leave standards and workflows.")] = False
    on_conflict: Annotated[
        Literal["keep", "take"] | None,
        Meta(description="upgrade: what becomes of conflicts that nobody decided."),
    ] = None
    plan_id: Annotated[
        _Text | None, Meta(description="resolve; upgrade: only if the plan is still this one.")
    ] = None
    decisions: Annotated[
        dict[str, str | dict[str, str]] | None,
        Meta(description='resolve: by path or glob "keep", "take" or {"merge": "the whole file"}.'),
    ] = None
    to: Annotated[_Text | None, Meta(description="rollback: a release or backup id.")] = None
    backup_id: Annotated[_Text | None, Meta(description="verify: one backup; else all.")] = None


KEEP_TOOL_WITH_UPGRADES = replace(
    KEEP_TOOL,
    description=(
        f"{KEEP_TOOL.description}\n"
        "Upgrades of prAxIs OS, while the session goes on:\n"
        '- plan: what would change, with diffs. {"action": "plan", "source_path": "/src/praxis-os"}\n'
        "- upgrade: six guarded phases; make the same call again while it answers in_progress.\n"
        '- resolve: decide conflicts. {"action": "resolve", "plan_id": "ID", "decisions": {"*.md": "keep"}}\n'
        "- rollback: the former version back, or an upgrade under way given up.\n"
        "- backups, verify, report: look at them."
    ),
    input_schema=flat_schema(UpgradeArguments),
    annotations={**KEEP_TOOL.annotations, "destructiveHint": True, "idempotentHint": False},
)
