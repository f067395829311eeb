#!/usr/bin/env python3
"""Compares an installation with a source's manifest; upstream's script, as far as its dry run goes."""

import argparse
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

STATES = ("New files", "Auto-update", "Unchanged", "Local-only changes", "Conflicts", "Errors")


def digest(path: Path) -> str | None:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else None


def state(source: str | None, local: str | None, listed: str) -> str:
    if source is None:
        return "Errors"
    if local is None:
        return "New files"
    if local == listed:
        return "Unchanged" if source == listed else "Auto-update"
    return "Local-only changes" if source == listed else "Conflicts"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, default=Path(".praxis-os"))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--yes", action="store_true")
    options = parser.parse_args()
    try:
        manifest = json.loads(
            (options.source / "universal/.universal-manifest.json").read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as error:
        print(f"ERROR: manifest: {error}")
        return 1
    if not options.dry_run:
        print("ERROR: this sample only does --dry-run")
        return 1
    counts = Counter(
        state(digest(options.source / "universal" / path), digest(options.target / path), entry["checksum"])
        for path, entry in manifest["files"].items()
    )
    print("Analysis Summary")
    for name in STATES:
        print(f"  {name}: {counts[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
