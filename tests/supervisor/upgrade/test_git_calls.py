"""Git as it is run: its failures, its limits, many objects by one process; and the cache of what it said."""

import os
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.cache import Cache, user_cache_folder
from mcpkeep.supervisor.upgrade.git import Blobs, ask_git, ask_many, list_bounded, run_git
from tests.repositories import git, make_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_source(tmp_path / "source", {"empty": "", "big": b"\0big\n" * 500_000, "text": "text\n"})
    return tmp_path / "source"


def sleeper(folder: Path) -> tuple[str, ...]:
    """An alias that never ends, with a child of its own."""
    git(folder, "config", "alias.wait", "!sleep 1000 & wait")
    return ("wait",)


def test_objects_are_read_one_after_the_other_whole(source: Path) -> None:
    oids = {name: git(source, "rev-parse", f"HEAD:{name}") for name in ("empty", "big", "text")}
    with Blobs(source) as blobs:
        assert blobs.read(oids["text"]) == b"text\n"
        assert blobs.read(oids["empty"]) == b""
        assert blobs.read(oids["big"]) == b"\0big\n" * 500_000
        assert blobs.size(oids["big"]) == 2_500_000
        assert blobs.read(oids["text"]) == b"text\n"
        with pytest.raises(UpgradeFailed, match="missing"):
            blobs.read("1" * 40)
        assert blobs.read(oids["text"]) == b"text\n"


def test_a_reader_that_is_left_in_the_middle_leaves_no_process(source: Path) -> None:
    with pytest.raises(KeyError), Blobs(source) as blobs:
        next(blobs.open(git(source, "rev-parse", "HEAD:big")).chunks)
        raise KeyError
    assert not has_children()


def test_a_folder_that_is_no_repository_has_no_objects(tmp_path: Path) -> None:
    with pytest.raises(UpgradeFailed, match="git has ended"), Blobs(tmp_path) as blobs:
        blobs.read("1" * 40)
    with pytest.raises(UpgradeFailed, match="git cannot be run"), Blobs(tmp_path / "nowhere") as blobs:
        blobs.read("1" * 40)


def test_a_failure_is_told_with_what_git_said_unless_it_is_accepted(source: Path) -> None:
    with pytest.raises(UpgradeFailed, match="git rev-parse failed in") as caught:
        run_git(source, "rev-parse", "--verify", "nothing")
    assert caught.value.details["command"] == ["git", "rev-parse", "--verify", "nothing"]
    assert run_git(source, "rev-parse", "--verify", "-q", "nothing", accept=(0, 1)) == b""
    assert run_git(source, "hash-object", "--stdin", feed=b"text\n").decode().strip() == git(
        source, "rev-parse", "HEAD:text"
    )


def test_several_calls_are_answered_in_their_order(source: Path) -> None:
    answers = ask_many(
        source, ("rev-parse", "HEAD"), ("rev-parse", "--verify", "nothing"), ("cat-file", "-p", "HEAD:text")
    )
    assert [answer.code for answer in answers] == [0, 128, 0]
    assert answers[2].stdout == b"text\n"


def test_a_call_that_takes_too_long_is_ended_with_all_it_started(source: Path) -> None:
    for call in (
        lambda: run_git(source, *sleeper(source), limit=0.1),
        lambda: ask_many(source, ("version",), sleeper(source), ("version",), limit=0.1),
    ):
        with pytest.raises(UpgradeFailed, match=r"took longer than 0\.1 s"):
            call()
    with pytest.raises(UpgradeFailed, match="failed"):
        list_bounded(source, *sleeper(source), most=10, limit=0.1)
    assert not has_children()


def test_a_listing_beyond_its_bound_is_refused(source: Path) -> None:
    assert list_bounded(source, "cat-file", "-p", "HEAD:text", most=5) == b"text\n"
    with pytest.raises(UpgradeFailed, match="more than 4 bytes"):
        list_bounded(source, "cat-file", "-p", "HEAD:text", most=4)
    with pytest.raises(UpgradeFailed, match="more than 4 bytes"):
        list_bounded(source, "cat-file", "-p", "HEAD:big", most=4)
    assert not has_children()


def test_the_network_is_not_used_to_fetch_what_is_missing(tmp_path: Path, source: Path) -> None:
    git(source, "config", "uploadpack.allowFilter", "true")
    oid = git(source, "rev-parse", "HEAD:text")
    git(tmp_path, "clone", "-q", "--filter=blob:none", "--no-checkout", source.as_uri(), "partial")
    assert ask_git(tmp_path / "partial", "cat-file", "-p", oid).code != 0


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def test_a_value_is_kept_and_a_damaged_one_is_not_believed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "a" / "cache")
    assert cache.read("key", list[int]) is None
    cache.write("key", [1, 2])
    assert cache.read("key", list[int]) == [1, 2]
    assert cache.read("key", list[str]) is None
    (file,) = (tmp_path / "a" / "cache").iterdir()
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert cache.read("key", list[int]) is None
        file.write_bytes(whole[:place])
        assert cache.read("key", list[int]) is None


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file", tmp_path / "file" / "below"):
        cache = Cache(folder)
        cache.write("key", 1)
        assert cache.read("key", int) is None


def test_of_many_values_the_oldest_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(70):
        cache.write(f"key-{number}", number)
        os.utime(tmp_path / f"key-{number}", ns=(number, number))
    cache.write("last", 70)
    assert len(list(tmp_path.iterdir())) == 64
    assert (cache.read("key-6", int), cache.read("key-7", int), cache.read("last", int)) == (None, 7, 70)


def test_a_cache_keeps_out_of_the_folders_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    cache = Cache(tmp_path / "link" / "cache")
    assert cache.without(tmp_path / "other") is cache
    cache.without(tmp_path / "real").write("key", 1)
    assert not (tmp_path / "real").exists()


def test_the_users_cache_folder_is_where_the_platform_has_it() -> None:
    assert user_cache_folder({}, "/home/ada", "linux") == Path("/home/ada/.cache/mcpkeep")
    assert user_cache_folder({"XDG_CACHE_HOME": "/c"}, "/home/ada", "linux") == Path("/c/mcpkeep")
    assert user_cache_folder({"XDG_CACHE_HOME": "c"}, "/home/ada", "linux") == Path(
        "/home/ada/.cache/mcpkeep"
    )
    assert user_cache_folder({}, "/Users/ada", "darwin") == Path("/Users/ada/Library/Caches/mcpkeep")
