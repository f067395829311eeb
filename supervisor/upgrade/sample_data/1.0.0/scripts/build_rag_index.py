#!/usr/bin/env python3
"""Builds the search index of the standards: one row for each section."""

import argparse
import hashlib
import json
import os
import sys
from datetime import datetime
from pathlib import Path

TABLE = "agent_os_standards"


class IndexBuilder:
    """Builds the index anew, beside the parts that are there: who reads them goes on."""

    def __init__(self, index_path: Path, standards_path: Path) -> None:
        self._index = Path(index_path)
        self._standards = Path(standards_path)

    def build(self) -> int:
        """Write a new version of the table; its number of rows. Progress goes to stderr."""
        files = sorted(self._standards.rglob("*.md"))
        rows: list[dict[str, str]] = []
        self._index.mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(files, 1):
            rows += _sections(path, path.relative_to(self._standards).as_posix())
            sys.stderr.write(f"\rBatches: {number * 100 // len(files):3d}%|{number}/{len(files)}")
        sys.stderr.write("\n")
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        table = self._index / f"{TABLE}.lance"
        for folder in ("data", "_deletions", "_versions"):
            (table / folder).mkdir(parents=True, exist_ok=True)
        name = f"{hashlib.sha256(data).hexdigest()[:16]}-{os.urandom(4).hex()}.lance"
        (table / "data" / name).write_bytes(data)
        version = 1 + max((int(path.stem) for path in table.glob("_versions/*.manifest")), default=0)
        manifest = json.dumps({"version": version, "rows": len(rows), "data": [name]})
        (table / "_versions" / f"{version}.manifest").write_text(manifest, encoding="utf-8")
        root = self._standards.parent
        metadata = {
            "build_time": datetime.now().isoformat(),
            "files_mtimes": {path.relative_to(root).as_posix(): path.stat().st_mtime for path in files},
            "table": TABLE,
            "chunks": len(rows),
        }
        (self._index / "metadata.json").write_text(json.dumps(metadata, indent=2), encoding="utf-8")
        return len(rows)


def _sections(path: Path, name: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n## "):
        section, _, content = text.strip().partition("\n")
        rows.append(
            {"content": f"{section}\n{content.strip()}", "file": name, "section": section.lstrip("# ")}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index-path", type=Path, default=Path(__file__).parents[1] / ".cache/vector_index")
    parser.add_argument("--standards-path", type=Path, default=Path(__file__).parents[1] / "standards")
    options = parser.parse_args()
    print(f"{IndexBuilder(options.index_path, options.standards_path).build()} rows")


if __name__ == "__main__":
    main()
