"""Searches the standards: in the index where it can be used, else by reading the files."""

import importlib
import json
import sys
import time
from pathlib import Path

from mcp_server.settings import TABLE, Settings


class Index:
    """The index on disk. Its rows are read at each search, by the names that were valid at the start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._table = settings.index / f"{TABLE}.lance"
        self._parts: list[Path] = []

    def open(self) -> str:
        """Build what is missing or asked for; what came of it, in words."""
        asked = self._settings.standards / ".rebuild_index"
        if asked.exists() or not self._settings.index.exists():
            # From the installation, as it is now: another version's script may lie there.
            sys.path.insert(0, str(self._settings.base))
            builder = importlib.import_module("scripts.build_rag_index").IndexBuilder
            builder(self._settings.index, self._settings.standards).build()
            asked.unlink(missing_ok=True)
        versions = sorted((self._table / "_versions").glob("*.manifest"), key=lambda path: int(path.stem))
        if not versions:
            return f"no table {TABLE!r} in the index, searching the files instead"
        named = json.loads(versions[-1].read_text(encoding="utf-8"))["data"]
        self._parts = [self._table / "data" / name for name in named]
        return f"table {TABLE!r} with {len(self._parts)} parts"

    def search(self, query: str, n_results: int) -> dict[str, object]:
        """The sections that have most of the query's words."""
        tokens = importlib.import_module("sample_tokens")
        begun = time.perf_counter()
        wanted = set(tokens.words(query))
        method = "vector" if self._parts else "grep_fallback"
        rows = self._rows() if self._parts else self._lines()
        found: list[dict[str, object]] = []
        for row in rows:
            words = set(tokens.words(row["content"]))
            if hits := len(wanted & words):
                score = round(hits / len(wanted), 3)
                found.append({**row, "relevance_score": score, "tokens": len(words)})
        found.sort(key=lambda row: (-row["relevance_score"], row["file"], row["section"]))
        best = found[:n_results]
        return {
            "results": best,
            "total_tokens": sum(row["tokens"] for row in best),
            "retrieval_method": method,
            "query_time_ms": round((time.perf_counter() - begun) * 1e3, 2),
        }

    def _rows(self) -> list[dict[str, str]]:
        return [json.loads(line) for part in self._parts for line in part.read_text("utf-8").splitlines()]

    def _lines(self) -> list[dict[str, str]]:
        standards = self._settings.standards
        return [
            {"content": line, "file": str(path.relative_to(standards)), "section": ""}
            for path in sorted(standards.rglob("*.md"))
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        ]
