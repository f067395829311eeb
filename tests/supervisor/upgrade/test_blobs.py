"""Contents are read from a repository's objects, and are what their ids say."""

from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.blob import blob_id
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.blobs import read_blobs
from mcpkeep.supervisor.upgrade.git import run_git

CONTENTS = (b"", b"a\n", b"\0binary\nblob 3\n", b"x" * 300_000)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    run_git(tmp_path, "init", "--quiet")
    for data in CONTENTS:
        run_git(tmp_path, "hash-object", "-w", "--stdin", feed=data)
    return tmp_path


def _oid(data: bytes) -> str:
    return blob_id(data, like="0" * 40)


def test_what_is_there_is_answered_whole_and_what_is_not_is_left_out(repository: Path) -> None:
    found = read_blobs(repository, [_oid(b"not there"), *map(_oid, CONTENTS), _oid(b"nor this")])
    assert found == {_oid(data): data for data in CONTENTS}
    assert read_blobs(repository, []) == {}


def test_an_object_that_is_no_file_is_refused(repository: Path) -> None:
    tree = run_git(repository, "write-tree").decode().strip()
    with pytest.raises(UpgradeFailed, match="is damaged, or is no file"):
        read_blobs(repository, [tree])


def test_other_bytes_than_the_id_is_of_are_refused(repository: Path) -> None:
    stored = repository / ".git/objects" / _oid(b"a\n")[:2] / _oid(b"a\n")[2:]
    stored.chmod(0o600)
    stored.write_bytes((repository / ".git/objects" / _oid(b"")[:2] / _oid(b"")[2:]).read_bytes())
    with pytest.raises(UpgradeFailed):
        read_blobs(repository, [_oid(b"a\n")])


def test_a_replacement_that_git_would_follow_is_refused(repository: Path) -> None:
    run_git(repository, "replace", _oid(b"a\n"), _oid(CONTENTS[3]))
    try:
        found = read_blobs(repository, [_oid(b"a\n")])
    except UpgradeFailed as refused:
        assert "is damaged" in str(refused)
    else:
        assert found == {_oid(b"a\n"): b"a\n"}
