"""Where the project is, and what its config.json says."""

import json
import os
import sys
from pathlib import Path

NAMES = (".praxis-os",)
TABLE = "praxis_os_standards"


class Settings:
    """Paths are absolute; a missing config.json means the defaults."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.project = base.parent
        rag: dict[str, str] = {}
        mcp: dict[str, list[str]] = {}
        config = base / "config.json"
        if config.exists():
            try:
                read = json.loads(config.read_text(encoding="utf-8"))
                rag, mcp = read.get("rag", {}), read.get("mcp", {})
            except (ValueError, AttributeError) as error:
                sys.exit(f"ERROR config.json: {error}")
        self.standards = self._path(rag.get("standards_path"), "standards")
        self.workflows = self._path(rag.get("workflows_path"), "workflows")
        self.index = self._path(rag.get("index_path"), ".cache/vector_index")
        self.groups = mcp.get("enabled_tool_groups", ["rag", "workflow", "browser"])

    def faults(self) -> list[str]:
        """Why it does not start: what must be there already. The index's own folder it makes itself."""
        folders = {"standards": self.standards, "workflows": self.workflows}
        missing = [
            f"{name}_path does not exist: {path}" for name, path in folders.items() if not path.is_dir()
        ]
        if not self.index.parent.exists():
            missing.append(f"the index's parent folder is missing: {self.index.parent}")
        return missing

    def _path(self, configured: str | None, default: str) -> Path:
        return self.project / configured if configured else self.base / default


def find_base() -> Path:
    """The installation: by variable, in the working folder, in the home folder, or where this code lies."""
    named = os.environ.get("AGENT_OS_BASE_PATH")
    places = [*([named] if named else []), os.getcwd(), os.path.expanduser("~")]
    for place in (*map(Path, places), Path(__file__).resolve().parents[2]):
        for name in NAMES:
            if (place / name).is_dir():
                return place / name
    sys.exit(f"ERROR no {' or '.join(NAMES)} found")
