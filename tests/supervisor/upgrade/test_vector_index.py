"""What a running server still reads of its index is in the one that takes its place."""

from pathlib import Path

from mcpkeep.supervisor.upgrade.vector_index import carry_old_files


def make(index: Path, *files: str) -> Path:
    for file in files:
        path = index / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{index.name} {file}")
    return index


def texts(index: Path) -> dict[str, str]:
    return {str(path.relative_to(index)): path.read_text() for path in index.rglob("*") if path.is_file()}


def test_a_table_that_both_have_keeps_its_new_manifests_and_gets_the_old_rows(tmp_path: Path) -> None:
    old = make(
        tmp_path / "old", "t.lance/data/1", "t.lance/data/2", "t.lance/_deletions/d", "t.lance/_versions/9"
    )
    new = make(tmp_path / "new", "t.lance/data/2", "t.lance/_versions/1", "metadata.json")
    carry_old_files(old, new)
    assert texts(new) == {
        "t.lance/data/1": "old t.lance/data/1",
        "t.lance/data/2": "new t.lance/data/2",
        "t.lance/_deletions/d": "old t.lance/_deletions/d",
        "t.lance/_versions/1": "new t.lance/_versions/1",
        "metadata.json": "new metadata.json",
    }


def test_a_table_of_another_name_is_carried_whole(tmp_path: Path) -> None:
    old = make(tmp_path / "old", "old.lance/data/1", "old.lance/_versions/9", "metadata.json")
    new = make(tmp_path / "new", "new.lance/data/2", "metadata.json")
    carry_old_files(old, new)
    assert texts(new) == {
        "old.lance/data/1": "old old.lance/data/1",
        "old.lance/_versions/9": "old old.lance/_versions/9",
        "new.lance/data/2": "new new.lance/data/2",
        "metadata.json": "new metadata.json",
    }
    assert (new / "old.lance/data/1").samefile(old / "old.lance/data/1")


def test_where_there_was_no_index_nothing_is_carried(tmp_path: Path) -> None:
    new = make(tmp_path / "new", "metadata.json")
    carry_old_files(tmp_path / "nowhere", new)
    assert list(texts(new)) == ["metadata.json"]
