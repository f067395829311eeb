"""The baseline is upstream's version of every planned file, replaced as a whole."""

from pathlib import Path

import msgspec
import pytest

from mcpkeep.protocol.upgrade.plan import Case
from mcpkeep.supervisor.durable import FileCalls
from mcpkeep.supervisor.upgrade.baseline import exchange_baseline, renew_baseline, settle_baseline
from tests.faults import Killed, Kills
from tests.supervisor.upgrade.content_world import (
    SESSION,
    ContentWorld,
    File,
    Spec,
    executable,
    link,
    plain,
    tree_of,
)

OLD, MINE, NEW = plain("old\n"), plain("mine\n"), plain("new\r\n")

SPECS = (
    Spec("standards/universal/a ü.md", Case.UPDATE, OLD, OLD, NEW),
    Spec("standards/universal/gone.md", Case.REMOVE, OLD, OLD, None),
    Spec("workflows/conflict.md", Case.CONFLICT, OLD, MINE, NEW),
    Spec("workflows/kept.md", Case.KEEP, OLD, MINE, OLD),
    Spec("workflows/deleted.md", Case.STAYS_DELETED, OLD, None, NEW),
    Spec("workflows/run.sh", Case.ADD, None, None, executable("x\n")),
    Spec("scripts/link.py", Case.UNCHANGED, link("a.py"), link("a.py"), link("a.py")),
    Spec("mcp_server/a.py", Case.UPDATE, OLD, OLD, NEW),
)
CONTENT = tuple(spec.path for spec in SPECS if spec.path.startswith(("standards", "workflows")))
CODE = tuple(spec.path for spec in SPECS if spec.path not in CONTENT)
UPSTREAM = {spec.path: spec.upstream for spec in SPECS if spec.upstream is not None}


@pytest.fixture
def world(tmp_path: Path) -> ContentWorld:
    return ContentWorld(tmp_path, SPECS)


def _files(root: Path) -> dict[str, tuple[object, ...]]:
    return {path: state[:3] for path, state in tree_of(root).items() if state[0] != "folder"}


def _expected(files: dict[str, File]) -> dict[str, tuple[object, ...]]:
    return {
        path: ("link", file.data.decode())
        if file.mode == "120000"
        else ("file", 0o755 if file.mode == "100755" else 0o644, file.data)
        for path, file in files.items()
    }


def test_it_is_what_upstream_has_of_each_planned_file_whatever_was_decided(world: ContentWorld) -> None:
    before = world.live()
    renew_baseline(world.layout, world.plan(), SESSION)
    assert _files(world.layout.baseline) == _expected(UPSTREAM)
    assert world.live() == before


def test_an_old_one_is_replaced_as_a_whole_and_nothing_is_left_beside(world: ContentWorld) -> None:
    old = world.layout.baseline / "workflows/no longer.md"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    renew_baseline(world.layout, world.plan(), SESSION)
    assert _files(world.layout.baseline) == _expected(UPSTREAM)
    assert [path.name for path in world.layout.own.iterdir()] == ["baseline"]


@pytest.mark.parametrize("half", [CONTENT, CODE])
def test_the_half_that_was_not_planned_keeps_its_baseline(world: ContentWorld, half: tuple[str, ...]) -> None:
    earlier = {"mcp_server/state/b.py": OLD, "scripts/c.sh": executable("c\n"), "usage/d.md": OLD}
    for path, file in earlier.items():
        place = world.layout.baseline / path
        place.parent.mkdir(parents=True)
        place.write_bytes(file.data)
        place.chmod(0o755 if file.mode == "100755" else 0o644)
    renew_baseline(world.layout, world.plan(*half), SESSION)
    kept = {path: file for path, file in earlier.items() if path.startswith("usage") == (half is CODE)}
    planned = {path: file for path, file in UPSTREAM.items() if path in half}
    assert _files(world.layout.baseline) == _expected({**planned, **kept})


def test_a_renewal_that_was_cut_between_its_renames_is_taken_back(world: ContentWorld) -> None:
    renew_baseline(world.layout, world.plan(*CONTENT), SESSION)
    before = _files(world.layout.baseline)
    world.layout.baseline.rename(world.layout.own / f"baseline.{SESSION}.old")
    (world.layout.own / "baseline.new").mkdir()
    settle_baseline(world.layout)
    assert _files(world.layout.baseline) == before
    assert [path.name for path in world.layout.own.iterdir()] == ["baseline"]


def test_of_a_file_that_lacks_the_new_version_it_stays_the_former_one(world: ContentWorld) -> None:
    lacking = ("standards/universal/a ü.md", "standards/universal/gone.md", "workflows/run.sh", "VERSION.txt")
    renew_baseline(world.layout, world.plan(), SESSION, lacking=lacking)
    former = dict.fromkeys(lacking[:2], OLD)
    current = {path: file for path, file in UPSTREAM.items() if path not in lacking}
    assert _files(world.layout.baseline) == _expected({**current, **former})


def test_a_former_version_that_only_the_former_baseline_has_is_kept_of_a_file_that_lacks_the_new(
    world: ContentWorld,
) -> None:
    path = "workflows/conflict.md"
    only = plain("only here\n")
    kept = world.layout.baseline / path
    kept.parent.mkdir(parents=True)
    kept.write_bytes(only.data)
    other = ContentWorld(world.source.parent / "other", [Spec(path, Case.CONFLICT, only, MINE, NEW)])
    plan = msgspec.structs.replace(other.plan(), source_path=str(world.source))
    renew_baseline(world.layout, plan, SESSION, lacking=(path,))
    assert _files(world.layout.baseline) == _expected({path: only})


def test_what_a_way_back_did_not_reach_keeps_its_baseline(world: ContentWorld) -> None:
    _put(world, "first")
    (world.layout.baseline / "dropped").touch()
    world.layout.change(SESSION).mkdir(parents=True)
    renew_baseline(world.layout, world.plan(), SESSION)
    path = CODE[-1]
    exchange_baseline(world.layout, "back", [SESSION], lacking=(path, "dropped"))
    assert _files(world.layout.baseline) == {"which": ("file", 0o644, b"first"), **_expected({path: NEW})}


def _put(world: ContentWorld, text: str) -> None:
    world.layout.baseline.mkdir(parents=True)
    (world.layout.baseline / "which").write_text(text)


def _which(folder: Path) -> str:
    return (folder / "which").read_text()


def test_the_way_back_brings_the_former_baseline_back_and_the_way_forth_the_newer(
    world: ContentWorld,
) -> None:
    _put(world, "first")
    world.layout.change(SESSION).mkdir(parents=True)
    renew_baseline(world.layout, world.plan(), SESSION)
    newer = _files(world.layout.baseline)
    world.layout.change("back").mkdir()
    exchange_baseline(world.layout, "back", [SESSION])
    assert _which(world.layout.baseline) == "first"
    world.layout.change("forth").mkdir()
    exchange_baseline(world.layout, "forth", ["back"])
    assert _files(world.layout.baseline) == newer


def test_that_there_was_no_baseline_is_brought_back_too(world: ContentWorld) -> None:
    world.layout.change(SESSION).mkdir(parents=True)
    renew_baseline(world.layout, world.plan(), SESSION)
    exchange_baseline(world.layout, "back", [SESSION])
    assert list(world.layout.baseline.iterdir()) == []


def test_where_no_change_renewed_it_the_baseline_stays(world: ContentWorld) -> None:
    _put(world, "first")
    exchange_baseline(world.layout, "back", ["content", "code"])
    assert _which(world.layout.baseline) == "first"


def test_wherever_a_renewal_or_exchange_is_killed_doing_it_again_keeps_the_right_one(tmp_path: Path) -> None:
    def begin(root: Path) -> ContentWorld:
        world = ContentWorld(root, SPECS[:1])
        _put(world, "first")
        for session in ("one", "two", "back"):
            world.layout.change(session).mkdir(parents=True)
        return world

    def work(world: ContentWorld, calls: FileCalls) -> None:
        renew_baseline(world.layout, world.plan(), "one", calls=calls)

    def back(world: ContentWorld, calls: FileCalls) -> None:
        exchange_baseline(world.layout, "back", ["one", "two"], calls=calls)

    counting = [Kills(10**9), Kills(10**9)]
    world = begin(tmp_path / "count")
    work(world, counting[0])
    back(world, counting[1])
    for n in range(counting[0].made + counting[1].made):
        world = begin(tmp_path / str(n))
        (world.layout.change("two") / "baseline").mkdir()
        (world.layout.change("two") / "baseline/which").write_text("second")
        if n < counting[0].made:
            with pytest.raises(Killed):
                work(world, Kills(n))
        work(world, Kills(10**9))
        assert _which(world.layout.change("one") / "baseline") == "first"
        newer = _files(world.layout.baseline)
        if n >= counting[0].made:
            with pytest.raises(Killed):
                back(world, Kills(n - counting[0].made))
        back(world, Kills(10**9))
        assert _which(world.layout.baseline) == "first"
        assert _files(world.layout.change("back") / "baseline") == newer
