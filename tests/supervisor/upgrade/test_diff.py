"""Diffs show what would change, by the files' names; words stand for what cannot be shown."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.plan import Case
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.diff import LONGEST_DIFF, plan_diffs
from tests.supervisor.upgrade.content_world import ContentWorld, Spec, executable, link, plain

OLD, MINE, NEW = plain("1\n2\n3\n4\n"), plain("one\n2\n3\n4\n"), plain("1\n2\n3\n4 ü\n")
HUGE = plain("x" * 1024 * 1024 + "\n")
LONG = plain("".join(f"{n}\n" for n in range(LONGEST_DIFF + 9)))
MARKED = plain("diff --git a/0 b/0\n--- a/0\n+++ b/0\n@@ -1 +1 @@\n")

SPECS = (
    Spec("same.md", Case.UNCHANGED, OLD, OLD, OLD),
    Spec("update.md", Case.UPDATE, OLD, OLD, NEW),
    Spec("crlf.md", Case.UPDATE, OLD, plain(b"1\r\n2\r\n3\r\n4\r\n"), NEW),
    Spec("ünï cöde.md", Case.ADD, None, None, plain("a\n\nb")),
    Spec("remove.md", Case.REMOVE, plain("a\n"), plain("a\n"), None),
    Spec("conflict.md", Case.CONFLICT, plain("a\n"), plain("b\n"), plain("c\n")),
    Spec("merge.md", Case.MERGE, OLD, MINE, NEW, merged=plain("one\n2\n3\n4 ü\n")),
    Spec("new/name.md", Case.UPDATE, OLD, OLD, NEW, renamed_from="old/name.md"),
    Spec("moved.md", Case.UPDATE, OLD, OLD, OLD, renamed_from="old/moved.md"),
    Spec("mode.sh", Case.UPDATE, plain("a\n"), plain("a\n"), executable("a\n")),
    Spec("both.sh", Case.UPDATE, plain("a\n"), plain("a\n"), executable("b\n")),
    Spec("binary", Case.UPDATE, plain(b"\0\1"), plain(b"\0\1"), plain(b"\0\1\2")),
    Spec("binary-mode", Case.UPDATE, plain("\0"), plain("\0"), executable("\0")),
    Spec("binary-new", Case.ADD, None, None, plain(b"\0" * 9)),
    Spec("huge.md", Case.REMOVE, HUGE, HUGE, None),
    Spec("long.md", Case.ADD, None, None, LONG),
    Spec("link", Case.UPDATE, link("a"), link("a"), link("b")),
    Spec("was-link", Case.UPDATE, link("a"), link("a"), plain("text\n")),
    Spec("looks-like-one.md", Case.UPDATE, MARKED, MARKED, plain(MARKED.data + b"diff --git a/1 b/1\n")),
)

EXPECTED = {
    "same.md": "",
    "update.md": "--- a/update.md\n+++ b/update.md\n@@ -1,4 +1,4 @@\n 1\n 2\n 3\n-4\n+4 ü\n",
    "crlf.md": "--- a/crlf.md\n+++ b/crlf.md\n@@ -1,4 +1,4 @@\n 1\r\n 2\r\n 3\r\n-4\r\n+4 ü\r\n",
    "ünï cöde.md": "new file mode 100644\n--- /dev/null\n+++ b/ünï cöde.md\n@@ -0,0 +1,3 @@\n+a\n+\n+b\n"
    "\\ No newline at end of file\n",
    "remove.md": "deleted file mode 100644\n--- a/remove.md\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
    "conflict.md": "--- a/conflict.md\n+++ b/conflict.md\n@@ -1 +1 @@\n-b\n+c\n",
    "merge.md": "--- a/merge.md\n+++ b/merge.md\n@@ -1,4 +1,4 @@\n one\n 2\n 3\n-4\n+4 ü\n",
    "new/name.md": "--- a/old/name.md\n+++ b/new/name.md\n@@ -1,4 +1,4 @@\n 1\n 2\n 3\n-4\n+4 ü\n",
    "moved.md": "renamed: old/moved.md -> moved.md\n",
    "mode.sh": "old mode 100644\nnew mode 100755\n--- a/mode.sh\n+++ b/mode.sh\n",
    "both.sh": "old mode 100644\nnew mode 100755\n--- a/both.sh\n+++ b/both.sh\n@@ -1 +1 @@\n-a\n+b\n",
    "binary": "binary: 2 bytes -> 3 bytes\n",
    "binary-mode": "binary: mode 100644 -> 100755\n",
    "binary-new": "binary: absent -> 9 bytes\n",
    "huge.md": f"large: {1024 * 1024 + 1} bytes -> absent\n",
    "link": "--- a/link\n+++ b/link\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n"
    "\\ No newline at end of file\n",
    "was-link": "link to 'a' -> file of 5 bytes\n",
    "looks-like-one.md": "--- a/looks-like-one.md\n+++ b/looks-like-one.md\n"
    "@@ -2,3 +2,4 @@ diff --git a/0 b/0\n"
    " --- a/0\n +++ b/0\n @@ -1 +1 @@\n+diff --git a/1 b/1\n",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ContentWorld:
    return ContentWorld(tmp_path_factory.mktemp("diff"), SPECS)


def test_each_kind_of_change_is_shown_or_said(world: ContentWorld) -> None:
    before = world.live()
    diffs = dict(plan_diffs(world.layout, world.plan(), [spec.path for spec in SPECS]))
    long = diffs.pop("long.md")
    assert diffs == EXPECTED
    lines = long.splitlines()
    assert (len(lines), lines[-1]) == (3 + LONGEST_DIFF + 1, "... 10 more lines")
    assert world.live() == before
    assert not world.layout.own.exists()


def test_a_file_whose_mode_is_told_by_the_name_alone_is_told_alike(world: ContentWorld) -> None:
    assert plan_diffs(world.layout, world.plan(), ["mode.sh"]) == {"mode.sh": EXPECTED["mode.sh"]}
    assert plan_diffs(world.layout, world.plan(), []) == {}


def test_settings_of_the_users_git_do_not_change_how_it_looks(
    world: ContentWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "attributes").write_text("* diff=shout\n")
    (tmp_path / ".gitconfig").write_text(
        "[core]\nautocrlf = true\nquotePath = true\n"
        f"attributesFile = {tmp_path / 'attributes'}\n"
        "[diff]\nnoprefix = true\nmnemonicPrefix = true\nexternal = false\ncontext = 0\nrenames = copies\n"
        f'[diff "shout"]\ntextconv = touch {tmp_path / "ran"} && cat\n[color]\nui = always\n'
    )
    names = ["update.md", "crlf.md", "mode.sh"]
    assert plan_diffs(world.layout, world.plan(), names) == {name: EXPECTED[name] for name in names}
    assert not (tmp_path / "ran").exists()
    assert os.environ["HOME"] == str(tmp_path)


def test_what_was_compared_once_is_not_compared_again(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, SPECS)
    plan, cache = world.plan(), Cache(tmp_path.parent / f"{tmp_path.name}-cache")
    names = [spec.path for spec in SPECS if spec.path != "crlf.md"]
    first = plan_diffs(world.layout, plan, names, cache=cache)
    shutil.rmtree(plan.source_path)
    assert plan_diffs(world.layout, plan, names, cache=cache) == first
    with pytest.raises(UpgradeFailed):
        plan_diffs(world.layout, plan, [*names, "crlf.md"], cache=cache)
    changed = [
        msgspec.structs.replace(file, local=file.upstream) if file.path == "update.md" else file
        for file in plan.files
    ]
    with pytest.raises(UpgradeFailed):
        plan_diffs(world.layout, msgspec.structs.replace(plan, files=changed), ["update.md"], cache=cache)


def test_a_path_that_the_plan_does_not_have_is_refused(world: ContentWorld) -> None:
    with pytest.raises(UpgradeFailed, match=r"the plan has no 'nowhere.md'"):
        plan_diffs(world.layout, world.plan(), ["update.md", "nowhere.md"])
