"""Whether live code changed: told by content, at the cost of stamps."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcpkeep.supervisor.upgrade.code_files import code_digests
from mcpkeep.supervisor.upgrade.live_code import code_changed


def installation(folder: Path) -> Path:
    """One whose files were last changed long ago, with a release of them."""
    server = folder / "mcp_server"
    (server / "core").mkdir(parents=True)
    for name in ("__main__.py", "core/engine.py"):
        (server / name).write_text(name)
    record = folder / ".mcpkeep" / "releases" / "adopted" / "release.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"server_files": code_digests(server)}))
    (folder / ".mcpkeep" / "current").symlink_to("releases/adopted")
    return folder


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if seconds had passed since the files were written: change times cannot be set."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10_000_000_000)


def test_unchanged_code_is_unchanged_and_then_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = installation(tmp_path)
    later(monkeypatch)
    assert not code_changed(str(base))
    (base / ".mcpkeep" / "releases" / "adopted" / "release.json").unlink()
    assert not code_changed(str(base))


def test_stamps_too_young_to_be_trusted_are_not_kept(tmp_path: Path) -> None:
    base = installation(tmp_path)
    assert not code_changed(str(base))
    assert not (base / ".mcpkeep" / "cache").exists()


@pytest.mark.parametrize("how", ["edited", "added", "removed", "same size and time"])
def test_a_change_is_seen_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    base = installation(tmp_path)
    later(monkeypatch)
    assert not code_changed(str(base))
    engine = base / "mcp_server" / "core" / "engine.py"
    if how == "edited":
        engine.write_text("edited")
    elif how == "added":
        (base / "mcp_server" / "new.py").touch()
    elif how == "removed":
        engine.unlink()
    else:
        was = engine.stat()
        engine.write_text("x" * was.st_size)
        os.utime(engine, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert code_changed(str(base))
    assert code_changed(str(base))


def test_a_touched_file_and_traces_of_running_are_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = installation(tmp_path)
    later(monkeypatch)
    assert not code_changed(str(base))
    os.utime(base / "mcp_server" / "__main__.py")
    (base / "mcp_server" / "__pycache__").mkdir()
    (base / "mcp_server" / "__pycache__" / "x.pyc").touch()
    (base / "mcp_server" / ".agent-os").mkdir()
    (base / "mcp_server" / ".agent-os" / "trace").touch()
    assert not code_changed(str(base))


def test_another_current_release_is_compared_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = installation(tmp_path)
    later(monkeypatch)
    assert not code_changed(str(base))
    other = base / ".mcpkeep" / "releases" / "other"
    other.mkdir()
    (other / "release.json").write_text('{"server_files": {}}')
    (base / ".mcpkeep" / "current").unlink()
    (base / ".mcpkeep" / "current").symlink_to("releases/other")
    assert code_changed(str(base))


def test_without_a_release_or_a_live_server_nothing_has_changed(tmp_path: Path) -> None:
    assert not code_changed(str(tmp_path))
    base = installation(tmp_path / "i")
    (base / "mcp_server" / "__main__.py").unlink()
    assert not code_changed(str(base))


def test_an_unreadable_record_is_a_change(tmp_path: Path) -> None:
    base = installation(tmp_path)
    (base / ".mcpkeep" / "releases" / "adopted" / "release.json").write_text("{")
    assert code_changed(str(base))


def test_it_is_light_to_import() -> None:
    loaded = (
        "import sys; before = set(sys.modules); import mcpkeep.supervisor.upgrade.live_code;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run((sys.executable, "-c", loaded), check=True, capture_output=True, text=True)
    mine = [name for name in done.stdout.split() if not name.startswith("mcpkeep")]
    assert not {"json", "hashlib", "pathlib", "msgspec"} & set(mine), mine
