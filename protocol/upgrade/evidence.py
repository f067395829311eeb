"""What each phase measured, in the shapes of the seeds; stored as the phase's artifact."""

from collections.abc import Mapping

import msgspec

__all__ = [
    "PHASE_COUNT",
    "Phase0Evidence",
    "Phase1Evidence",
    "Phase2Evidence",
    "Phase3Evidence",
    "Phase4Evidence",
    "Phase5Evidence",
    "PhaseEvidence",
    "PostInstallStep",
]

PHASE_COUNT = 6


class Phase0Evidence(msgspec.Struct, frozen=True):
    """Pre-flight checks."""

    source_path: str
    source_version: str
    source_commit: str
    source_git_clean: bool
    target_exists: bool
    target_structure_valid: bool
    disk_space_available: str
    disk_space_required: str
    no_concurrent_workflows: bool


class Phase1Evidence(msgspec.Struct, frozen=True):
    """Backup and preparation."""

    backup_path: str
    backup_timestamp: str
    files_backed_up: int
    backup_size_bytes: int
    backup_manifest: str
    integrity_verified: bool
    lock_acquired: bool


class Phase2Evidence(msgspec.Struct, frozen=True):
    """Content upgrade."""

    safe_upgrade_executed: bool
    dry_run_preview: Mapping[str, int]
    actual_upgrade: Mapping[str, int]
    version_updated: str
    update_log_appended: bool


class PostInstallStep(msgspec.Struct, frozen=True):
    """One step that a package calls for after its installation."""

    command: str
    status: str
    """`success`, `failed` or `skipped`."""
    size_downloaded: str = ""
    output: str = ""
    """The last lines."""


class Phase3Evidence(msgspec.Struct, frozen=True):
    """Server upgrade."""

    mcp_server_copied: bool
    files_copied: int
    checksums_verified: bool
    dependencies_installed: bool
    post_install_steps: tuple[PostInstallStep, ...]
    server_restarted: bool
    server_restart_time: str
    server_health_check: str


class Phase4Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """Validation of the live server."""

    server_version: str
    tools_registered: int
    expected_tools: int
    browser_tools_enabled: bool
    browser_smoke_test: str
    rag_search_test: str
    workflow_engine_test: str
    file_watchers_active: bool
    rag_index_current: bool
    validation_report: str
    unit_tests_passed: bool | None = None


class Phase5Evidence(msgspec.Struct, frozen=True):
    """Cleanup and documentation."""

    lock_released: bool
    old_backups_archived: int
    upgrade_summary: str
    installation_summary_updated: bool
    update_log_appended: bool
    git_changes_committed: bool


PhaseEvidence = (
    Phase0Evidence | Phase1Evidence | Phase2Evidence | Phase3Evidence | Phase4Evidence | Phase5Evidence
)
