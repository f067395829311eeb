"""A plan is carried out in staging; the live tree, and the user's endings, modes and links stay."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.plan import Applied, Case, Choice, Decision
from mcpkeep.supervisor.upgrade.apply import apply_plan, verify_staged
from mcpkeep.supervisor.upgrade.staging import fill_staging
from tests.supervisor.upgrade.content_world import (
    SESSION,
    ContentWorld,
    File,
    Spec,
    executable,
    link,
    plain,
)

U = "standards/universal"
PICTURE = b"\x89PNG\r\n\x1a\n\0\0one"
KEEP, TAKE = Decision(Choice.KEEP, "user"), Decision(Choice.TAKE, "user")
TEXT = Decision(Choice.MERGE, "user", "both\n")


def _lines(*changed: str) -> str:
    return "".join(f"{changed[n] if n < len(changed) and changed[n] else n}\n" for n in range(9))


BASE, MINE, NEW = plain(_lines()), plain(_lines("mine")), plain(_lines(*[""] * 7, "new"))
BOTH = plain(_lines("mine", *[""] * 6, "new"))

SPECS = (
    Spec(f"{U}/same.md", Case.UNCHANGED, BASE, BASE, BASE),
    Spec(f"{U}/converged.md", Case.CONVERGED, BASE, NEW, NEW),
    Spec(f"{U}/update.md", Case.UPDATE, BASE, BASE, NEW),
    Spec(f"{U}/crlf.md", Case.UPDATE, BASE, plain(BASE.data.replace(b"\n", b"\r\n")), NEW),
    Spec(f"{U}/ünï cöde & space.md", Case.UPDATE, BASE, BASE, NEW),
    Spec(f"{U}/private.md", Case.UPDATE, BASE, BASE, NEW, bits=0o600),
    Spec(f"{U}/readonly.md", Case.UPDATE, BASE, BASE, NEW, bits=0o444),
    Spec(f"{U}/picture.png", Case.UPDATE, plain(PICTURE), plain(PICTURE), plain(PICTURE + b"\r\n\n")),
    Spec(f"{U}/empty.md", Case.UPDATE, BASE, BASE, plain("")),
    Spec(f"{U}/keep.md", Case.KEEP, BASE, MINE, BASE),
    Spec(f"{U}/kept though removed.md", Case.KEEP, BASE, MINE),
    Spec(f"{U}/merge.md", Case.MERGE, BASE, MINE, NEW, merged=BOTH),
    Spec(
        f"{U}/merge-crlf.md",
        Case.MERGE,
        BASE,
        plain(MINE.data.replace(b"\n", b"\r\n")),
        NEW,
        merged=plain(BOTH.data.replace(b"\n", b"\r\n")),
    ),
    Spec(f"{U}/deleted.md", Case.STAYS_DELETED, BASE, None, NEW),
    Spec(f"{U}/gone/removed.md", Case.REMOVE, BASE, BASE, None),
    Spec("workflows/new flow/phases/0/phase.md", Case.ADD, None, None, NEW),
    Spec("workflows/new flow/run.sh", Case.ADD, None, None, executable("#!/bin/sh\n")),
    Spec("workflows/new flow/latest", Case.ADD, None, None, link("phases/0")),
    Spec("scripts/tool.py", Case.UPDATE, plain("1\n"), plain("1\n"), executable("1\n")),
    Spec("scripts/linked.py", Case.UPDATE, link("tool.py"), link("tool.py"), link("./tool.py")),
    Spec("scripts/was a link.py", Case.UPDATE, link("tool.py"), link("tool.py"), plain("2\n")),
    Spec("scripts/is a link.py", Case.UPDATE, plain("2\n"), plain("2\n"), link("tool.py")),
    Spec(
        "scripts/mode.py", Case.MERGE, plain("3\n"), executable("3\n"), plain("4\n"), merged=executable("4\n")
    ),
    Spec("workflows/moved/new.md", Case.UPDATE, BASE, BASE, NEW, renamed_from="workflows/old/a.md"),
    Spec("workflows/moved/mine.md", Case.MERGE, BASE, MINE, NEW, BOTH, renamed_from="workflows/old/b.md"),
    Spec("workflows/moved/only.md", Case.MERGE, BASE, MINE, BASE, MINE, renamed_from="workflows/old/c.md"),
    Spec("workflows/file/now a folder.md", Case.ADD, None, None, NEW),
    Spec("workflows/file", Case.REMOVE, BASE, BASE, None),
    Spec("workflows/folder", Case.ADD, None, None, NEW),
    Spec("workflows/folder/now a file.md", Case.REMOVE, BASE, BASE, None),
)

STAGED: Mapping[str, tuple[File, int]] = {
    f"{U}/same.md": (BASE, 0o644),
    f"{U}/converged.md": (NEW, 0o644),
    f"{U}/update.md": (NEW, 0o644),
    f"{U}/crlf.md": (plain(NEW.data.replace(b"\n", b"\r\n")), 0o644),
    f"{U}/ünï cöde & space.md": (NEW, 0o644),
    f"{U}/private.md": (NEW, 0o600),
    f"{U}/readonly.md": (NEW, 0o444),
    f"{U}/picture.png": (plain(PICTURE + b"\r\n\n"), 0o644),
    f"{U}/empty.md": (plain(""), 0o644),
    f"{U}/keep.md": (MINE, 0o644),
    f"{U}/kept though removed.md": (MINE, 0o644),
    f"{U}/merge.md": (BOTH, 0o644),
    f"{U}/merge-crlf.md": (plain(BOTH.data.replace(b"\n", b"\r\n")), 0o644),
    "workflows/new flow/phases/0/phase.md": (NEW, 0o644),
    "workflows/new flow/run.sh": (executable("#!/bin/sh\n"), 0o755),
    "workflows/new flow/latest": (link("phases/0"), 0),
    "scripts/tool.py": (executable("1\n"), 0o755),
    "scripts/linked.py": (link("./tool.py"), 0),
    "scripts/was a link.py": (plain("2\n"), 0o644),
    "scripts/is a link.py": (link("tool.py"), 0),
    "scripts/mode.py": (executable("4\n"), 0o755),
    "workflows/moved/new.md": (NEW, 0o644),
    "workflows/moved/mine.md": (BOTH, 0o644),
    "workflows/moved/only.md": (MINE, 0o644),
    "workflows/file/now a folder.md": (NEW, 0o644),
    "workflows/folder": (NEW, 0o644),
}


def _files(tree: Mapping[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Files and links, without times."""
    return {path: state[:3] for path, state in tree.items() if state[0] != "folder"}


def _expected(files: Mapping[str, tuple[File, int]]) -> dict[str, tuple[object, ...]]:
    return {
        path: ("link", os.fsdecode(file.data)) if file.mode == "120000" else ("file", bits, file.data)
        for path, (file, bits) in files.items()
    }


def _apply(world: ContentWorld, *paths: str, **decisions: Decision) -> Applied:
    named = {spec.path: decisions[spec.path] for spec in world.specs if spec.path in decisions}
    return apply_plan(world.layout, world.plan(*paths), SESSION, named)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ContentWorld]:
    world = ContentWorld(tmp_path, SPECS)
    before = world.live()
    fill_staging(world.layout, SESSION)
    yield world
    assert world.live() == before


def test_each_case_comes_to_what_the_plan_says_and_the_live_tree_stays(world: ContentWorld) -> None:
    applied = _apply(world)
    assert _files(world.staged()) == _expected(STAGED)
    assert verify_staged(world.layout, world.plan(), SESSION, applied) == ()
    left = {Case.UNCHANGED, Case.CONVERGED, Case.KEEP, Case.STAYS_DELETED, Case.REMOVE}
    assert applied == Applied(
        written=tuple(sorted(spec.path for spec in SPECS if spec.case not in left)),
        removed=tuple(
            sorted(
                [
                    *(spec.path for spec in SPECS if spec.case is Case.REMOVE),
                    *(spec.renamed_from for spec in SPECS if spec.renamed_from),
                ]
            )
        ),
        new_files=5,
        updated_files=sum(spec.case in (Case.UPDATE, Case.MERGE) for spec in SPECS),
        conflicts_resolved=0,
        decisions={},
        kept_aside={},
    )
    assert not world.layout.conflicts(SESSION).exists()


def test_folders_that_nothing_is_left_in_go(world: ContentWorld) -> None:
    _apply(world)
    assert {f"{U}/gone", "workflows/old"}.isdisjoint(world.staged())


def test_what_is_not_written_keeps_its_time_to_the_nanosecond(world: ContentWorld) -> None:
    applied = _apply(world)
    live, staged = world.live(), world.staged()
    untouched = {path for path, state in staged.items() if state[0] != "folder"} - set(applied.written)
    assert untouched
    assert {path: staged[path] for path in untouched} == {path: live[path] for path in untouched}


def test_to_apply_twice_is_to_apply_once(world: ContentWorld) -> None:
    first = _apply(world)
    staged = _files(world.staged())
    assert _apply(world) == first
    assert _files(world.staged()) == staged


def test_what_staging_holds_is_compared_with_the_plan_by_id(world: ContentWorld) -> None:
    applied = _apply(world)
    staged = world.layout.staged(SESSION)
    (staged / U / "update.md").write_text("torn")
    (staged / U / "merge.md").unlink()
    (staged / "scripts/tool.py").chmod(0o644)
    (staged / U / "gone").mkdir()
    (staged / U / "gone/removed.md").write_text("back")
    assert verify_staged(world.layout, world.plan(), SESSION, applied) == (
        "scripts/tool.py",
        f"{U}/gone/removed.md",
        f"{U}/merge.md",
        f"{U}/update.md",
    )


CONFLICTS = (
    Spec("a.md", Case.CONFLICT, plain("0\n"), plain("mine\r\n"), plain("theirs\n")),
    Spec("b/b ü.md", Case.CONFLICT, None, executable("mine\n"), plain("theirs\n")),
    Spec("c", Case.CONFLICT, plain("0\n"), link("a.md"), plain("theirs\n")),
    Spec(
        "new/d.md", Case.CONFLICT, plain("0\n"), plain("mine\n"), plain("theirs\n"), renamed_from="old/d.md"
    ),
)


@pytest.fixture
def conflicts(tmp_path: Path) -> Iterator[ContentWorld]:
    world = ContentWorld(tmp_path, CONFLICTS)
    before = world.live()
    fill_staging(world.layout, SESSION)
    yield world
    assert world.live() == before


def _decided(*decisions: Decision) -> dict[str, Decision]:
    return {spec.path: decision for spec, decision in zip(CONFLICTS, decisions, strict=True)}


MINE_STAGED = {
    "a.md": (plain("mine\r\n"), 0o644),
    "b/b ü.md": (executable("mine\n"), 0o755),
    "c": (link("a.md"), 0),
    "old/d.md": (plain("mine\n"), 0o644),
}
THEIRS_STAGED = {
    "a.md": (plain("theirs\r\n"), 0o644),
    "b/b ü.md": (plain("theirs\n"), 0o644),
    "c": (plain("theirs\n"), 0o644),
    "new/d.md": (plain("theirs\n"), 0o644),
}
TEXT_STAGED = {
    "a.md": (plain("both\r\n"), 0o644),
    "b/b ü.md": (executable("both\n"), 0o755),
    "c": (plain("both\n"), 0o644),
    "new/d.md": (plain("both\n"), 0o644),
}
RESULTS = {"keep": (KEEP, MINE_STAGED), "take": (TAKE, THEIRS_STAGED), "merge": (TEXT, TEXT_STAGED)}


@pytest.mark.parametrize("name", RESULTS)
def test_both_sides_of_a_conflict_are_kept_aside_whole(conflicts: ContentWorld, name: str) -> None:
    decision, staged = RESULTS[name]
    decided = _decided(*[decision] * 4)
    applied = apply_plan(conflicts.layout, conflicts.plan(), SESSION, decided)
    assert _files(conflicts.staged()) == _expected(staged)
    assert verify_staged(conflicts.layout, conflicts.plan(), SESSION, applied) == ()
    side = "theirs" if name == "keep" else "yours"
    assert applied == Applied(
        written=() if name == "keep" else ("a.md", "b/b ü.md", "c", "new/d.md"),
        removed=() if name == "keep" else ("old/d.md",),
        new_files=0,
        updated_files=0,
        conflicts_resolved=4,
        decisions=decided,
        kept_aside={spec.path: f".mcpkeep/conflicts/{SESSION}/{side}/{spec.path}" for spec in CONFLICTS},
    )
    for spec in CONFLICTS:
        for where, file in (("yours", spec.local), ("theirs", spec.upstream)):
            aside = conflicts.layout.conflicts(SESSION) / where / spec.path
            assert file is not None
            assert (
                os.fsencode(os.readlink(aside)) if aside.is_symlink() else aside.read_bytes()
            ) == file.data


@pytest.mark.parametrize("first", RESULTS)
@pytest.mark.parametrize("then", RESULTS)
def test_other_decisions_replace_those_of_an_earlier_try(
    conflicts: ContentWorld, first: str, then: str
) -> None:
    for name in (first, then):
        apply_plan(conflicts.layout, conflicts.plan(), SESSION, _decided(*[RESULTS[name][0]] * 4))
    assert _files(conflicts.staged()) == _expected(RESULTS[then][1])


def test_a_conflict_without_a_decision_is_refused_before_anything_is_written(conflicts: ContentWorld) -> None:
    before = conflicts.staged()
    with pytest.raises(UpgradeFailed, match=r"the conflict over 'b/b ü.md' has no decision"):
        apply_plan(conflicts.layout, conflicts.plan(), SESSION, {"a.md": TAKE})
    assert conflicts.staged() == before


def test_a_text_with_conflict_markers_is_refused_before_anything_is_written(conflicts: ContentWorld) -> None:
    before = conflicts.staged()
    marked = Decision(Choice.MERGE, "user", "<<<<<<< a\n1\n=======\n2\n>>>>>>> b\n")
    with pytest.raises(UpgradeFailed, match=r"the text for 'new/d.md' has conflict markers in it"):
        apply_plan(conflicts.layout, conflicts.plan(), SESSION, _decided(TAKE, TAKE, TAKE, marked))
    assert conflicts.staged() == before


def test_a_plan_is_not_applied_without_staging(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, SPECS[:2])
    with pytest.raises(UpgradeFailed, match="there is no staging workspace for '0123abcd-session'"):
        _apply(world)


@pytest.mark.parametrize("case", [Case.UPDATE, Case.MERGE, Case.REMOVE, Case.CONFLICT])
def test_a_file_that_the_user_changed_since_the_plan_is_refused(tmp_path: Path, case: Case) -> None:
    upstream = None if case is Case.REMOVE else NEW
    local, merged = (MINE, BOTH) if case is Case.MERGE else (BASE, None)
    world = ContentWorld(tmp_path, [Spec("workflows/a.md", case, BASE, local, upstream, merged)])
    fill_staging(world.layout, SESSION)
    world.put("workflows/a.md", plain("edited since\n"))
    with pytest.raises(UpgradeFailed, match=r"'workflows/a.md' changed since the plan was made"):
        apply_plan(world.layout, world.plan(), SESSION, {"workflows/a.md": TAKE})


def test_a_file_that_the_user_made_since_the_plan_is_refused(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, [Spec("workflows/a.md", Case.ADD, None, None, NEW)])
    fill_staging(world.layout, SESSION)
    world.put("workflows/a.md", plain("made since\n"))
    with pytest.raises(UpgradeFailed, match=r"'workflows/a.md' changed since the plan was made"):
        _apply(world)


def test_a_base_that_the_source_does_not_have_is_taken_from_the_baseline(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, [Spec("workflows/a.md", Case.MERGE, None, MINE, NEW, BOTH)])
    unknown = Spec("workflows/a.md", Case.MERGE, BASE, MINE, NEW, BOTH)
    world.specs = [unknown]
    fill_staging(world.layout, SESSION)
    with pytest.raises(UpgradeFailed, match="was installed is gone from the source and the baseline"):
        _apply(world)
    kept = world.layout.baseline / "workflows/a.md"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(BASE.data)
    _apply(world)
    assert (world.layout.staged(SESSION) / "workflows/a.md").read_bytes() == BOTH.data


def test_a_merge_that_does_not_come_to_what_was_planned_is_refused(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, [Spec("a.md", Case.MERGE, BASE, MINE, NEW, plain("another"))])
    fill_staging(world.layout, SESSION)
    with pytest.raises(UpgradeFailed, match=r"'a.md' no longer merges as planned"):
        _apply(world)


def test_an_object_that_the_source_lost_is_named(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, [])
    world.specs = [Spec("a.md", Case.ADD, None, None, NEW)]
    fill_staging(world.layout, SESSION)
    with pytest.raises(UpgradeFailed, match=r"'a.md' as of cccccccccc is gone from the source"):
        _apply(world)


@pytest.mark.parametrize(
    "path", ["../out.md", "/out.md", "workflows/../../out.md", "", "a//b", "a/./b", "a\0b"]
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    world = ContentWorld(tmp_path, [])
    world.store(NEW)
    world.specs = [Spec(path, Case.ADD, None, None, NEW)]
    fill_staging(world.layout, SESSION)
    with pytest.raises(UpgradeFailed, match="is no path inside the installation"):
        _apply(world)


@pytest.mark.parametrize("case", [Case.ADD, Case.REMOVE])
def test_a_folder_that_is_a_link_is_never_written_through(tmp_path: Path, case: Case) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.md").write_bytes(BASE.data)
    world = ContentWorld(tmp_path, [])
    world.store(NEW)
    (world.layout.base / "workflows").symlink_to(outside)
    fill_staging(world.layout, SESSION)
    local, upstream = (BASE, None) if case is Case.REMOVE else (None, NEW)
    world.specs = [Spec("workflows/a.md", case, local, local, upstream)]
    with pytest.raises(UpgradeFailed, match=r"'workflows' is a link to '.*', and is not followed"):
        _apply(world)
    assert [path.name for path in outside.iterdir()] == ["a.md"]
    assert (outside / "a.md").read_bytes() == BASE.data


def test_a_users_file_where_a_folder_is_needed_is_said(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, [Spec("workflows/flow/a.md", Case.ADD, None, None, NEW)])
    world.put("workflows/flow", plain("mine"))
    fill_staging(world.layout, SESSION)
    with pytest.raises(UpgradeFailed, match=r"not a directory \(ENOTDIR\)") as failed:
        _apply(world)
    assert failed.value.remediation == "a file stands where a folder is needed: move it away"
