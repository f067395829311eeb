"""Plans of real trees against real repositories: what would be done, and that nothing is touched."""

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.manifest import InstalledFile, encode_manifest
from mcpkeep.protocol.upgrade.places import CODE_PARTS, CONTENT_PARTS, PARTS
from mcpkeep.protocol.upgrade.plan import Case, Counts, Plan, PlannedFile
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_tree import blob_id, read_local
from mcpkeep.supervisor.upgrade.planner import Planner, make_plan, what_changed
from tests.repositories import Entry, Tree, git, install, link, make_source, program

U = "universal/standards/"
I = "standards/universal/"  # noqa: E741
LINES = "".join(f"line {number}\n" for number in range(30))
ALL = tuple(part.installed for part in PARTS)
MADE = datetime(2026, 1, 31, tzinfo=UTC)


class World:
    """A workspace with an installation of one version of a source."""

    def __init__(self, tmp: Path, *versions: Tree, installed: int = 0) -> None:
        self.source = tmp / "source"
        self.workspace = tmp / "workspace"
        self.base = self.workspace / ".praxis-os"
        self.cache = Cache(tmp / "cache")
        self.commits = make_source(self.source, *versions)
        install(versions[installed], self.base)
        self.layout = Layout(self.workspace, self.base)

    def __truediv__(self, path: str) -> Path:
        return self.base / path

    def plan(self, *, parts: tuple[str, ...] = ALL, version: str = "2") -> Plan:
        head = git(self.source, "rev-parse", "HEAD")
        facts = SourceFacts(str(self.source), commit=head, version=version, clean=True)
        return make_plan(facts, parts, self.layout, cache=self.cache, plan_id="p", made_at=MADE)

    def cases(self) -> dict[str, Case]:
        """Without the two files that every version has."""
        return {
            file.path.removeprefix(I): file.case
            for file in self.plan().files
            if file.path not in ("mcp_server/__init__.py", "workflows/README.md")
        }


def only(plan: Plan, path: str) -> PlannedFile:
    return next(file for file in plan.files if file.path == I + path)


def oid(text: str | bytes) -> str:
    return blob_id(text if isinstance(text, bytes) else text.encode(), "sha1")


def snapshot(folder: Path, *, access: bool) -> Mapping[str, tuple[object, ...]]:
    """All that a stat tells; the access time of links cannot be kept by anyone who reads them."""
    found: dict[str, tuple[object, ...]] = {}
    for here, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            path = os.path.join(here, name)
            stat = os.lstat(path)
            times: tuple[int, ...] = (stat.st_mtime_ns, stat.st_ctime_ns)
            if access and not os.path.islink(path):
                times += (stat.st_atime_ns,)
            found[path] = (stat.st_ino, stat.st_mode, stat.st_size, stat.st_nlink, *times)
    return found


@pytest.fixture
def nine(tmp_path: Path) -> World:
    names = (
        "same",
        "changed",
        "kept",
        "merged",
        "conflict",
        "converged",
        "deleted",
        "removed",
        "removed-edited",
    )
    old: dict[str, bytes | str | Entry] = {U + name: LINES + name + "\n" for name in names}
    new = dict(old)
    for name in ("changed", "merged", "conflict", "converged"):
        new[U + name] = LINES.replace("line 3\n", "line three\n") + name + "\n"
    del new[U + "removed"], new[U + "removed-edited"]
    new[U + "added"] = new[U + "added-over"] = "new\n"
    world = World(tmp_path, old, new)
    for name in ("kept", "merged", "removed-edited"):
        (world / (I + name)).write_text(LINES + name + "\nmine\n")
    (world / (I + "conflict")).write_text(LINES.replace("line 3\n", "line drei\n"))
    (world / (I + "converged")).write_text(str(new[U + "converged"]))
    (world / (I + "deleted")).unlink()
    (world / (I + "added-over")).write_text("mine\n")
    for path in ("standards/development/x.md", "specs/x.md", "workflows/ours_v1/x.md", I + "ours.md"):
        (world / path).parent.mkdir(parents=True, exist_ok=True)
        (world / path).write_text("mine\n")
    (world / "config.json").write_text("{}")
    return world


def test_the_nine_cases_are_planned_and_what_is_the_users_is_not(nine: World) -> None:
    plan = nine.plan()
    assert nine.cases() == {
        "same": Case.UNCHANGED,
        "changed": Case.UPDATE,
        "kept": Case.KEEP,
        "merged": Case.MERGE,
        "conflict": Case.CONFLICT,
        "converged": Case.CONVERGED,
        "added": Case.ADD,
        "added-over": Case.CONFLICT,
        "deleted": Case.STAYS_DELETED,
        "removed": Case.REMOVE,
        "removed-edited": Case.KEEP,
    }
    assert plan.counts() == Counts(
        new_files=1, updated_files=2, unchanged_files=4, conflicts=2, local_only=3, removed_files=1
    )
    merged = LINES.replace("line 3\n", "line three\n") + "merged\nmine\n"
    version = only(plan, "merged").merged
    assert version is not None and (version.oid, version.size) == (oid(merged), len(merged))
    assert (plan.installed_commit, plan.source_commit, plan.warnings) == (*nine.commits, ())
    assert [file.path for file in plan.files] == sorted(file.path for file in plan.files)


def test_a_second_plan_is_the_same_and_comes_from_the_cache(nine: World) -> None:
    first = nine.plan()
    assert nine.plan() == first
    for file in (nine.source.parent / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert nine.plan() == first


def test_a_plan_leaves_no_trace_in_workspace_and_source(nine: World) -> None:
    # Times of access that are long past, so that a file system with relatime would renew them.
    for here, folders, files in os.walk(nine.workspace):
        for name in (*folders, *files):
            os.utime(os.path.join(here, name), ns=(1_000_000_000, 1_500_000_000_000_000_000))
    workspace, source = snapshot(nine.workspace, access=True), snapshot(nine.source, access=False)
    plan = nine.plan()
    nine.plan()
    assert what_changed(plan, nine.layout) == ()
    assert snapshot(nine.workspace, access=True) == workspace
    assert snapshot(nine.source, access=False) == source


def test_a_cache_inside_the_workspace_is_not_written(nine: World) -> None:
    nine.cache = Cache(nine.workspace / "cache")
    nine.plan()
    assert not (nine.workspace / "cache").exists()


def test_a_plan_is_stale_where_its_inputs_changed_and_nowhere_else(nine: World) -> None:
    plan = nine.plan()
    (nine / (I + "changed")).write_text("edited meanwhile\n")
    (nine / (I + "added")).write_text("mine now\n")
    (nine / (I + "same")).unlink()
    (nine / (I + "kept")).chmod(0o755)
    (nine / "specs/y.md").write_text("nobody's business\n")
    assert what_changed(plan, nine.layout) == tuple(I + name for name in ("added", "changed", "kept", "same"))
    assert nine.plan().digest != plan.digest
    git(nine.source, "reset", "-q", "--hard", nine.commits[0])
    assert what_changed(plan, nine.layout)[0] == "source"
    shutil.rmtree(nine.source)
    assert what_changed(plan, nine.layout)[0] == "source"


def test_parts_are_planned_only_where_asked_for(nine: World) -> None:
    content = nine.plan(parts=tuple(part.installed for part in CONTENT_PARTS))
    code = nine.plan(parts=tuple(part.installed for part in CODE_PARTS))
    assert not any(file.path.startswith("mcp_server") for file in content.files)
    assert [file.path for file in code.files] == ["mcp_server/__init__.py"]


@pytest.mark.anyio
async def test_the_planner_plans_and_tells_a_stale_plan(nine: World) -> None:
    planner = Planner(lambda: nine.layout, cache=nine.cache, new_id=lambda: "p", clock=lambda: MADE)
    source = SourceFacts(str(nine.source), commit=nine.commits[1], version="2", clean=True)
    plan = await planner.plan(source, content=True, code=True)
    assert plan == nine.plan()
    assert {f.path for f in (await planner.plan(source, content=False, code=True)).files} == {
        "mcp_server/__init__.py"
    }
    assert await planner.stale(plan) == ()
    (nine / (I + "same")).unlink()
    assert await planner.stale(plan) == (I + "same",)


def test_a_checkout_with_crlf_counts_as_unedited(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        {U + "a": "x\ny\n", U + "b": "x\n", U + "c": LINES},
        {U + "a": "x\nz\n", U + "b": "x\n", U + "c": LINES.replace("line 3\n", "three\n")},
    )
    for name in "ab":
        (world / (I + name)).write_bytes((world / (I + name)).read_bytes().replace(b"\n", b"\r\n"))
    edited = LINES.replace("\n", "\r\n").encode() + b"mine\r\n"
    (world / (I + "c")).write_bytes(edited)
    plan = world.plan()
    assert world.cases() == {"a": Case.UPDATE, "b": Case.UNCHANGED, "c": Case.MERGE}
    a = only(plan, "a")
    assert a.local is not None and a.local.oid == oid("x\r\ny\r\n")
    assert a.base is not None and (a.base.oid, a.base.size) == (oid("x\ny\n"), 4)
    merged = only(plan, "c").merged
    assert merged is not None and merged.oid == oid(edited.replace(b"line 3\r\n", b"three\r\n"))


def test_a_checkout_with_lf_of_a_file_that_upstream_keeps_with_crlf_counts_as_unedited(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, {U + "a": "x\r\ny\r\n"}, {U + "a": "x\r\nz\r\n"})
    (world / (I + "a")).write_bytes(b"x\ny\n")
    assert world.cases() == {"a": Case.UPDATE}


def test_a_renamed_file_moves_and_takes_edits_along(tmp_path: Path) -> None:
    old = {U + name: LINES + name + "\n" for name in ("plain", "edited", "twice", "deleted", "clash")}
    middle = {
        U + "sub/" + name: LINES + name + "\n" for name in ("plain", "edited", "twice", "deleted", "clash")
    }
    new: dict[str, str] = middle | {U + "sub/edited": LINES.replace("line 3\n", "three\n") + "edited\n"}
    new[U + "deep/twice"] = new.pop(U + "sub/twice")
    new[U + "sub/clash"] = LINES.replace("line 3\n", "three\n") + "clash\n"
    world = World(tmp_path, old, middle, new)
    (world / (I + "edited")).write_text(LINES + "edited\nmine\n")
    (world / (I + "twice")).write_text(LINES + "twice\nmine\n")
    (world / (I + "clash")).write_text(LINES.replace("line 3\n", "drei\n"))
    (world / (I + "deleted")).unlink()
    plan = world.plan()
    assert {
        (file.path, file.renamed_from): file.case for file in plan.files if "README" not in file.path
    } == {
        ("mcp_server/__init__.py", None): Case.UNCHANGED,
        (I + "sub/plain", I + "plain"): Case.UPDATE,
        (I + "sub/edited", I + "edited"): Case.MERGE,
        (I + "deep/twice", I + "twice"): Case.MERGE,
        (I + "sub/clash", I + "clash"): Case.CONFLICT,
        (I + "sub/deleted", None): Case.STAYS_DELETED,
    }
    merged = only(plan, "deep/twice").merged
    assert merged == only(plan, "deep/twice").local
    assert what_changed(plan, world.layout) == ()
    (world / (I + "sub")).mkdir()
    (world / (I + "sub/plain")).write_text("mine\n")
    assert what_changed(plan, world.layout) == (I + "sub/plain",)


def test_a_path_that_upstream_moved_to_another_part_is_followed(tmp_path: Path) -> None:
    world = World(tmp_path, {"universal/usage/guide.md": LINES}, {U + "guide.md": LINES})
    assert only(world.plan(), "guide.md").renamed_from == "usage/guide.md"


def test_a_part_that_was_never_installed_is_added_and_not_taken_for_deleted(tmp_path: Path) -> None:
    tree = {U + "a": "x\n", "scripts/build.py": "pass\n"}
    world = World(tmp_path, tree, {**tree, U + "a": "y\n"})
    shutil.rmtree(world / "scripts")
    plan = world.plan()
    assert {file.path: file.case for file in plan.files}["scripts/build.py"] is Case.ADD


@pytest.mark.parametrize("behind", ["universal/standards/", "scripts/"])
def test_after_one_half_was_upgraded_alone_the_other_gets_what_is_new(tmp_path: Path, behind: str) -> None:
    old = {U + "a": "x\n", U + "b": "b\n", "scripts/a": "x\n", "scripts/b": "b\n"}
    ahead = "scripts/" if behind == U else U
    grown = {f"{ahead}{n}": "new\n" for n in range(5)}
    world = World(tmp_path, old, {**old, **grown, f"{behind}new": "new\n", f"{behind}a": "changed\n"})
    install({**old, **grown}, world.base)
    plan = world.plan()
    where = next(part.installed for part in PARTS if behind.startswith(part.source))
    cases = {file.path: file.case for file in plan.files}
    assert (cases[f"{where}/new"], cases[f"{where}/a"]) == (Case.ADD, Case.UPDATE)
    assert plan.installed_commit == world.commits[0 if behind == U else 1]


def test_executable_bits_links_binaries_and_unusual_names_are_planned_as_they_are(tmp_path: Path) -> None:
    old: Tree = {
        U + "run.sh": "x\n",
        U + "mine.sh": "x\n",
        U + "to": link("run.sh"),
        U + "my to": link("run.sh"),
        U + "größe 漢字.md": "x\n",
        U + "bin": b"\0\1",
        U + "bin2": b"\0\1",
    }
    new: Tree = {
        **old,
        U + "run.sh": program("x\n"),
        U + "mine.sh": "y\n",
        U + "to": link("mine.sh"),
        U + "my to": link("mine.sh"),
        U + "größe 漢字.md": "y\n",
        U + "bin": b"\0\2",
        U + "bin2": b"\0\2",
    }
    world = World(tmp_path, old, new)
    (world / (I + "mine.sh")).chmod(0o755)
    (world / (I + "bin2")).write_bytes(b"\0\3")
    (world / (I + "my to")).unlink()
    (world / (I + "my to")).symlink_to("/etc/passwd")
    assert world.cases() == {
        "run.sh": Case.UPDATE,
        "mine.sh": Case.MERGE,
        "to": Case.UPDATE,
        "my to": Case.CONFLICT,
        "größe 漢字.md": Case.UPDATE,
        "bin": Case.UPDATE,
        "bin2": Case.CONFLICT,
    }
    plan = world.plan()
    run, mine, to = only(plan, "run.sh"), only(plan, "mine.sh"), only(plan, "to")
    assert run.upstream is not None and run.upstream.mode == "100755"
    assert mine.merged is not None and (mine.merged.oid, mine.merged.mode) == (oid("y\n"), "100755")
    assert to.local is not None and (to.local.oid, to.local.mode) == (oid("run.sh"), "120000")


def test_a_crlf_file_whose_bit_was_set_here_merges_in_its_own_line_endings(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "run.sh": "x\n"}, {U + "run.sh": "y\n"})
    (world / (I + "run.sh")).write_bytes(b"x\r\n")
    (world / (I + "run.sh")).chmod(0o755)
    merged = only(world.plan(), "run.sh").merged
    assert merged is not None and (merged.oid, merged.mode, merged.size) == (oid("y\r\n"), "100755", 3)


def test_json_is_merged_by_key(tmp_path: Path) -> None:
    path = "universal/workflows/w/metadata.json"
    old, new = '{"a": 1, "b": 1}\n', '{"a": 2, "b": 1}\n'
    world = World(tmp_path, {path: old, U + "x": "x\n"}, {path: new, U + "x": "x\n"})
    (world / "workflows/w/metadata.json").write_text('{"a": 1, "b": 3}\n')
    assert world.cases()["workflows/w/metadata.json"] is Case.MERGE


def test_of_a_shallow_source_a_file_without_a_base_is_a_conflict_and_counted(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n", U + "b": "1\n"}, {U + "a": "2\n", U + "b": "1\n"})
    full = world.source
    world.source = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", full.as_uri(), str(world.source))
    plan = world.plan()
    assert world.cases() == {"a": Case.CONFLICT, "b": Case.UNCHANGED}
    assert "history is shallow" in plan.warnings[0] and "--unshallow" in plan.warnings[0]
    assert plan.warnings[1].startswith("1 files differ from upstream's")
    git(world.source, "fetch", "-q", "--unshallow")
    assert world.cases() == {"a": Case.UPDATE, "b": Case.UNCHANGED}
    assert world.plan().warnings == ()


def test_of_a_rewritten_source_every_differing_file_is_a_conflict(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n"}, {U + "a": "2\n"})
    (world / "mcp_server/__init__.py").write_text("# another\n")
    (world / "workflows/README.md").write_text("# another\n")
    git(world.source, "checkout", "-q", "--orphan", "new")
    git(world.source, "commit", "-q", "-m", "rewritten")
    git(world.source, "branch", "-q", "-D", "main")
    plan = world.plan()
    assert plan.installed_commit is None
    assert {file.case for file in plan.files} == {Case.CONFLICT}
    assert "rewritten" in plan.warnings[0] and plan.warnings[1].startswith("3 files differ")


def test_of_a_rewritten_source_the_baseline_tells_what_was_installed(tmp_path: Path) -> None:
    old = {U + "plain": LINES, U + "edited": LINES, U + "deleted": "x\n", U + "gone": "x\n"}
    new = {
        U + "plain": LINES + "new\n",
        U + "edited": "new\n" + LINES,
        U + "deleted": "x\n",
        U + "over": "new\n",
    }
    world = World(tmp_path, new, installed=0)
    shutil.rmtree(world.base)
    install(old, world.base)
    shutil.copytree(world / "standards", world.layout.baseline / "standards")
    (world / (I + "edited")).write_text(LINES + "mine\n")
    (world / (I + "deleted")).unlink()
    (world / (I + "over")).write_text("mine\n")
    assert world.cases() == {
        "plain": Case.UPDATE,
        "edited": Case.MERGE,
        "deleted": Case.STAYS_DELETED,
        "gone": Case.REMOVE,
        "over": Case.CONFLICT,
    }


def test_of_a_rewritten_source_an_installed_manifest_tells_what_was_installed(tmp_path: Path) -> None:
    import hashlib

    def listed(text: str) -> InstalledFile:
        return InstalledFile(hashlib.sha256(text.encode()).hexdigest(), len(text), MADE)

    world = World(tmp_path, {U + "plain": "2\n", U + "kept": "2\n", U + "deleted": "2\n", U + "both": "2\n"})
    shutil.rmtree(world.base)
    install({U + "plain": "1\n", U + "kept": "mine\n", U + "both": "mine\n", U + "gone": "1\n"}, world.base)
    files = {"plain": "1\n", "kept": "2\n", "deleted": "1\n", "both": "1\n", "gone": "1\n"}
    (world / ".universal-manifest.json").write_bytes(
        encode_manifest({f"standards/{n}": listed(t) for n, t in files.items()}, version="1", generated=MADE)
    )
    assert world.cases() == {
        "plain": Case.UPDATE,
        "kept": Case.KEEP,
        "deleted": Case.STAYS_DELETED,
        "both": Case.CONFLICT,
        "gone": Case.REMOVE,
    }


def test_a_file_that_only_a_branch_of_the_source_has_is_the_users(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n"}, {U + "a": "2\n"})
    git(world.source, "checkout", "-q", "-b", "idea")
    (world.source / U / "idea.md").write_text("mine\n")
    git(world.source, "add", "-A")
    git(world.source, "commit", "-q", "-m", "idea")
    git(world.source, "checkout", "-q", "main")
    (world / (I + "idea.md")).write_text("mine\n")
    assert world.cases() == {"a": Case.UPDATE}


def test_a_step_back_to_an_older_commit_is_planned_like_any_other(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n"}, {U + "a": "2\n", U + "b": "2\n"}, installed=1)
    git(world.source, "checkout", "-q", world.commits[0])
    assert world.cases() == {"a": Case.UPDATE, "b": Case.REMOVE}
    assert world.plan().installed_commit == world.commits[1]


def test_what_was_merged_from_a_side_branch_is_known(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": LINES}, {U + "a": LINES + "two\n"})
    git(world.source, "checkout", "-q", "-b", "side", world.commits[0])
    (world.source / U / "a").write_text("one\n" + LINES)
    git(world.source, "commit", "-q", "-a", "-m", "side")
    git(world.source, "checkout", "-q", "main")
    git(world.source, "merge", "-q", "side")
    git(world.source, "branch", "-D", "side")
    for text in ("one\n" + LINES, LINES + "two\n"):
        (world / (I + "a")).write_text(text)
        assert world.cases() == {"a": Case.UPDATE}
    (world / (I + "a")).write_text("one\n" + LINES + "two\n")
    assert world.cases() in ({"a": Case.UNCHANGED}, {"a": Case.CONVERGED})


@pytest.mark.parametrize(
    ("upstream", "local", "words"),
    [
        ("a/b.md", "a", "a file of yours stands at 'standards/universal/a', where upstream has a folder"),
        ("a", "a/b.md", "a folder of yours stands where upstream has a file"),
        ("Read.md", "read.md", "its name differs from your 'standards/universal/read.md' in nothing"),
    ],
)
def test_what_is_in_an_additions_way_makes_it_a_conflict(
    tmp_path: Path, upstream: str, local: str, words: str
) -> None:
    world = World(tmp_path, {U + "x": "1\n"}, {U + "x": "1\n", U + upstream: "new\n"})
    (world / (I + local)).parent.mkdir(exist_ok=True)
    (world / (I + local)).write_text("mine\n")
    file = only(world.plan(), upstream)
    assert file.case is Case.CONFLICT and file.reason.startswith(words)


def test_a_link_of_the_users_is_not_followed(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "x": "1\n"}, {U + "x": "1\n", U + "a/b.md": "new\n"})
    (tmp_path / "elsewhere").mkdir()
    (world / (I + "a")).symlink_to(tmp_path / "elsewhere")
    assert only(world.plan(), "a/b.md").case is Case.CONFLICT


def test_a_file_that_upstream_made_a_folder_is_planned_where_it_goes(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n"}, {U + "a/b": LINES})
    assert world.cases() == {"a": Case.REMOVE, "a/b": Case.ADD}


def test_what_cannot_be_planned_is_named_all_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n"})
    os.mkfifo(world / (I + "pipe"))
    shutil.rmtree(world / "workflows")
    (world / "workflows").symlink_to(tmp_path)
    with pytest.raises(UpgradeFailed) as caught:
        world.plan()
    assert caught.value.details["problems"] == [
        "'standards/universal/pipe' is a pipe; move it away",
        "'workflows' is no folder; put a real one in its place",
    ]


def test_a_part_whose_folder_is_reached_through_a_link_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n"})
    (world / "standards").rename(tmp_path / "shared")
    (world / "standards").symlink_to(tmp_path / "shared")
    with pytest.raises(UpgradeFailed, match="'standards' is no folder"):
        world.plan()


def test_a_source_with_problems_is_not_planned(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n"}, {U + "a": link("/etc/passwd")})
    with pytest.raises(UpgradeFailed, match="lead out"):
        world.plan()


def test_a_commit_that_is_not_there_any_more_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": "1\n"})
    facts = SourceFacts(str(world.source), commit="1" * 40, version="2")
    with pytest.raises(UpgradeFailed, match=r"has no commit|cannot be read"):
        make_plan(facts, ["workflows"], world.layout, cache=world.cache, plan_id="p", made_at=MADE)


def test_a_cancelled_plan_ends_between_files(nine: World) -> None:
    class Cancelled(Exception):
        pass

    def check() -> None:
        raise Cancelled

    facts = SourceFacts(str(nine.source), commit=nine.commits[1], version="2")
    with pytest.raises(Cancelled):
        make_plan(facts, ["workflows"], nine.layout, cache=nine.cache, plan_id="p", made_at=MADE, check=check)


def test_a_file_that_changes_between_its_reading_and_its_merge_is_not_planned(nine: World) -> None:
    facts = SourceFacts(str(nine.source), commit=nine.commits[1], version="2")
    calls: list[int] = []
    last = 0

    def check() -> None:
        calls.append(1)
        if len(calls) == last:
            (nine / (I + "merged")).write_text("edited meanwhile\n")

    def plan() -> None:
        make_plan(facts, ALL, nine.layout, cache=Cache(None), plan_id="p", made_at=MADE, check=check)

    plan()
    # It is called before each file is read, then before each merge, of which this is the last.
    last = len(calls)
    calls.clear()
    with pytest.raises(UpgradeFailed, match="'standards/universal/merged' was changed while it was planned"):
        plan()


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_file_of_any_size_has_the_id_that_git_gives_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpkeep.supervisor.upgrade.live_tree._WHOLE", 1000)
    (tmp_path / "small").write_bytes(b"x" * 1000)
    (tmp_path / "large").write_bytes(b"\r\n" * 2_000_000)
    local = read_local(tmp_path, name, algorithm="sha1")
    assert local is not None
    assert local.version.oid == git(tmp_path, "hash-object", "--no-filters", name)
    assert (local.version.size, local.version.mode) == ((tmp_path / name).stat().st_size, "100644")


def test_a_repository_of_sha256_is_planned_alike(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    git(tmp_path / "source", "init", "-q", "-b", "main", "--object-format=sha256")
    install({}, tmp_path / "workspace" / ".praxis-os")
    for text in ("first\n", "1\n", "2\n"):
        for path in ("mcp_server/__init__.py", "universal/workflows/README.md", U + "a"):
            (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source/mcp_server/__init__.py").write_text("# server\n")
        (tmp_path / "source/universal/workflows/README.md").write_text("# flows\n")
        (tmp_path / "source" / U / "a").write_text(text)
        git(tmp_path / "source", "add", "-A")
        git(tmp_path / "source", "commit", "-q", "-m", text)
    base = tmp_path / "workspace" / ".praxis-os"
    (base / I).mkdir(parents=True)
    (base / I / "a").write_text("1\n")
    facts = SourceFacts(str(tmp_path / "source"), commit=git(tmp_path / "source", "rev-parse", "HEAD"))
    plan = make_plan(facts, ALL, Layout(base.parent, base), cache=Cache(None), plan_id="p", made_at=MADE)
    assert only(plan, "a").case is Case.UPDATE


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named(nine: World) -> None:
    (nine / (I + "same")).chmod(0)
    (nine / "workflows").chmod(0)
    try:
        with pytest.raises(UpgradeFailed) as caught:
            nine.plan()
    finally:
        (nine / (I + "same")).chmod(0o644)
        (nine / "workflows").chmod(0o755)
    assert caught.value.details["problems"] == [
        "'workflows' cannot be read: permission denied",
        "'standards/universal/same' cannot be read: permission denied",
    ]


def test_a_file_that_the_disk_does_not_give_is_named(nine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def failing(path: str, *words: int) -> int:
        if path.endswith(("/same", "/ours_v1")):
            raise OSError(5, "Input/output error")
        return real(path, *words)

    monkeypatch.setattr("mcpkeep.supervisor.upgrade.live_tree.os.open", failing)
    with pytest.raises(UpgradeFailed) as caught:
        nine.plan()
    assert caught.value.details["problems"] == [
        "'workflows/ours_v1' cannot be read: input/output error",
        "'standards/universal/same' cannot be read: input/output error",
    ]
    monkeypatch.undo()
    plan = nine.plan()
    monkeypatch.setattr("mcpkeep.supervisor.upgrade.live_tree.os.open", failing)
    assert what_changed(plan, nine.layout) == (I + "same",)


def test_a_file_of_another_owner_is_read_all_the_same(nine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux lets only a file's owner read it without a new time of access."""
    real = os.open

    def owned_by_another(path: str, flags: int) -> int:
        if flags & getattr(os, "O_NOATIME", 0):
            raise PermissionError
        return real(path, flags)

    plan = nine.plan()
    monkeypatch.setattr("mcpkeep.supervisor.upgrade.live_tree.os.open", owned_by_another)
    assert nine.plan() == plan


def test_a_version_that_only_a_merge_commit_made_is_known(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "a": LINES}, {U + "a": LINES + "two\n"})
    git(world.source, "checkout", "-q", "-b", "side", world.commits[0])
    (world.source / "README.md").write_text("side\n")
    git(world.source, "add", "-A")
    git(world.source, "commit", "-q", "-m", "side")
    git(world.source, "checkout", "-q", "main")
    git(world.source, "merge", "-q", "--no-commit", "side")
    (world.source / U / "a").write_text(LINES + "by the merge\n")
    git(world.source, "commit", "-q", "-a", "-m", "merge")
    (world.source / U / "a").write_text(LINES + "after it\n")
    git(world.source, "commit", "-q", "-a", "-m", "after")
    (world / (I + "a")).write_text(LINES + "by the merge\n")
    assert world.cases() == {"a": Case.UPDATE}


def test_commits_that_change_nothing_installed_do_not_cut_the_history(tmp_path: Path) -> None:
    first, second = {U + "a": LINES, U + "b": "1\n"}, {U + "a": LINES, U + "b": "2\n"}
    third = {U + "a": "new\n" + LINES, U + "b": "3\n"}
    world = World(
        tmp_path,
        first,
        {**first, "README.md": "1\n"},
        second,
        {**second, "README.md": "2\n"},
        third,
        installed=2,
    )
    (world / (I + "a")).write_text(LINES + "mine\n")
    assert world.cases() == {"a": Case.MERGE, "b": Case.UPDATE}
    assert world.plan().installed_commit == world.commits[2]


def test_a_plan_that_goes_back_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "x": "one\n"}, {U + "x": "two\n"}, installed=1)
    assert world.plan().warnings == ()
    git(world.source, "tag", "v1.0.0", world.commits[0])
    git(world.source, "tag", "v2.0.0", world.commits[1])
    git(world.source, "checkout", "-q", world.commits[0])
    assert world.plan().warnings == ("this goes back: 2 is older than v2.0.0, which is installed",)


def test_a_plan_that_goes_forward_or_nowhere_says_nothing_of_it(tmp_path: Path) -> None:
    world = World(tmp_path, {U + "x": "one\n"}, {U + "x": "two\n"})
    assert (world.plan().changes, world.plan().warnings) == (True, ())


@pytest.mark.parametrize(("installed", "told"), [("v3.0.0", True), ("v1.0.0", False)])
def test_where_neither_commit_leads_to_the_other_their_versions_tell(
    tmp_path: Path, installed: str, told: bool
) -> None:
    world = World(tmp_path, {U + "x": "one\n"}, {U + "x": "two\n"}, installed=1)
    git(world.source, "tag", installed, world.commits[1])
    git(world.source, "checkout", "-q", "-b", "other", world.commits[0])
    (world.source / U / "x").write_text("three\n")
    git(world.source, "commit", "-qam", "three")
    assert bool([text for text in world.plan(version="v2.0.0").warnings if "this goes back" in text]) is told
