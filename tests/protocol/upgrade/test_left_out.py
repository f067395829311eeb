"""What of an installation is no content."""

import pytest

from mcpkeep.protocol.upgrade.left_out import is_left_out


@pytest.mark.parametrize(
    "path",
    [
        *(
            ".mcpkeep",
            ".mcpkeep/current",
            ".backups/x",
            ".cache/vector_index",
            "venv",
            ".venv",
            ".venv-old/bin",
        ),
        *(
            "state/workflows",
            ".upgrade-lock",
            ".upgrade_lock",
            ".mcp_server_state.json",
            "scripts/__pycache__",
        ),
        *("a/b.pyc", "a/.DS_Store", "standards/.rebuild_index", "a/.pytest_cache/x", "b.md.mcpkeep-12.tmp"),
    ],
)
def test_made_things_and_mcpkeeps_own_are_left_out(path: str) -> None:
    assert is_left_out(path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "config.json",
            "standards/state/a.md",
            "workspace/venv/x",
            "standards/.cache/a",
            "VERSION.txt",
            "venv.md",
        ),
        *(".gitignore", "specs/.backups", "a.mcpkeep-x.tmp", "pycache", "a.pycx", "state.md"),
    ],
)
def test_all_else_is_content(path: str) -> None:
    assert not is_left_out(path)
