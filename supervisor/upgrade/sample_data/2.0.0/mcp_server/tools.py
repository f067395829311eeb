"""The tools: what they take, and what they answer."""

import importlib
import json
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from mcp_server.index import Index
from mcp_server.settings import Settings

Json = dict[str, object]
TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "integer"}
OBJECT: Json = {"type": "object", "additionalProperties": True}


class Tools:
    """The tools of the groups that the configuration enables."""

    def __init__(self, settings: Settings, index: Index, transport: str) -> None:
        self._settings = settings
        self._index = index
        self._transport = transport
        self._began = time.time()
        self._pages = 0
        self._table: dict[str, tuple[Callable[..., Json], str, Json, tuple[str, ...]]] = {
            "get_server_info": (self.get_server_info, "About this server", {}, ()),
            "current_date": (self.current_date, "Today's date", {}, ()),
        }
        if "rag" in settings.groups:
            search = {
                "query": TEXT,
                "n_results": NUMBER,
                "filter_phase": NUMBER,
                "filter_tags": {"type": "array"},
            }
            self._table["search_standards"] = (
                self.search_standards,
                "Search the standards",
                search,
                ("query",),
            )
            about = "Say in a sentence what a standard is for"
            self._table["explain_standard"] = (
                self.explain_standard,
                about,
                {"standard": TEXT},
                ("standard",),
            )
        if "workflow" in settings.groups:
            flow = {
                "action": TEXT,
                "session_id": TEXT,
                "workflow_type": TEXT,
                "target_file": TEXT,
                "options": OBJECT,
            }
            self._table["pos_workflow"] = (self.pos_workflow, "Work through a workflow", flow, ("action",))
        if "browser" in settings.groups:
            page = {"action": TEXT, "session_id": TEXT, "url": TEXT}
            self._table["pos_browser"] = (self.pos_browser, "Drive a browser", page, ("action",))

    def names(self) -> list[str]:
        return list(self._table)

    def listing(self) -> list[Json]:
        """As tools/list tells them."""
        return [
            {
                "name": name,
                "description": about,
                "inputSchema": {"type": "object", "properties": takes, "required": list(needs)},
                "outputSchema": OBJECT,
            }
            for name, (_, about, takes, needs) in self._table.items()
        ]

    def call(self, name: str, arguments: Json) -> Json:
        """As tools/call answers it; a wrong call is an answer, too."""
        if name not in self._table:
            return _refusal(f"Unknown tool: {name}")
        function, _, takes, needs = self._table[name]
        wrong = [*(arguments.keys() - takes.keys()), *(set(needs) - arguments.keys())]
        if wrong:
            return _refusal(f"1 validation error for {name}Arguments: {sorted(wrong)[0]}")
        try:
            answer = function(**arguments)
        except Exception as error:
            return _refusal(f"Error executing tool {name}: {error}")
        text = json.dumps(answer, ensure_ascii=False, indent=2)
        return {"content": [{"type": "text", "text": text}], "structuredContent": answer, "isError": False}

    def get_server_info(self) -> Json:
        began = datetime.fromtimestamp(self._began).isoformat()
        server = {
            "version": "1.0.0",
            "transport_mode": self._transport,
            "uptime_seconds": round(time.time() - self._began, 3),
            "pid": os.getpid(),
            "started_at": began,
        }
        project = {
            "name": self._settings.project.name,
            "root": str(self._settings.project),
            "praxis_os_path": str(self._settings.base),
            "git": None,
        }
        flags = dict.fromkeys(("rag_enabled", "workflow_enabled", "browser_enabled", "dual_transport"), True)
        return {"server": server, "project": project, "capabilities": {"tools_available": 0, **flags}}

    def current_date(self) -> Json:
        today = datetime.now()
        weekday: str = importlib.import_module("sample_calendar").weekday(today)
        return {
            "iso_date": today.date().isoformat(),
            "iso_datetime": today.isoformat(),
            "day_of_week": weekday,
        }

    def search_standards(
        self, query: str, n_results: int = 5, filter_phase: int | None = None, filter_tags: object = None
    ) -> Json:
        try:
            return self._index.search(query, n_results)
        except OSError as error:
            return {"error": str(error), "results": [], "total_tokens": 0}

    def explain_standard(self, standard: str) -> Json:
        explain = importlib.import_module("sample_explain").explain
        for path in sorted(self._settings.standards.rglob("*.md")):
            if path.stem == standard:
                return {"file": path.name, **explain(path.read_text(encoding="utf-8"))}
        return {"error": f"no standard {standard!r}"}

    def pos_workflow(self, action: str, **arguments: object) -> Json:
        if action == "list_workflows":
            # From the working folder, not from the installation: as the real one does.
            found = sorted(Path(os.getcwd(), self._settings.base.name, "workflows").glob("*/metadata.json"))
            workflows = [json.loads(path.read_text(encoding="utf-8")) for path in found]
            return {"status": "success", "action": action, "workflows": workflows, "count": len(workflows)}
        if action == "list_sessions":
            return {"status": "success", "action": action, "sessions": [], "count": 0}
        error = f"Handler not implemented for action: {action}"
        return {"status": "error", "action": action, "error": error, "error_type": "NotImplementedError"}

    def pos_browser(self, action: str, session_id: str = "", url: str = "about:blank") -> Json:
        if action == "navigate":
            self._pages += 1
            return {"status": "success", "session_id": session_id or f"page-{self._pages}", "url": url}
        return {"status": "success", "session_id": session_id, "message": f"{action} done"}


def _refusal(text: str) -> Json:
    return {"content": [{"type": "text", "text": text}], "isError": True}
