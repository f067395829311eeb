"""Names that a hostile source may bring, and where honest ones are installed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.names import (
    LONGEST_NAME,
    LONGEST_PATH,
    collisions,
    fold,
    hostile_name,
    installed_path,
    is_skipped,
    link_leads_out,
    part_of,
    source_path,
)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../up.md", "has '..' in it"),
        ("universal/standards/../../x", "has '..' in it"),
        ("universal/./x", "has '.' in it"),
        ("universal//x", "has '' in it"),
        ("universal/x/", "has '' in it"),
        ("", "has '' in it"),
        ("/etc/passwd", "is absolute"),
        ("universal/standards/.git/hooks/post-merge", "names a repository's own files"),
        ("universal/.GIT/config", "names a repository's own files"),
        ("universal/.git. /config", "names a repository's own files"),
        ("universal/.g\u200cit/config", "names a repository's own files"),
        ("universal/．git/config", "names a repository's own files"),
        ("universal/GIT~1/config", "names a repository's own files"),
        ("universal/a\nb.md", "has control characters"),
        ("universal/a\x00b.md", "has control characters"),
        ("universal/a\x7fb.md", "has control characters"),
        ("universal/a\u202egnp.md", "has control characters"),
        ("universal/\udcff.md", "is not UTF-8"),
        ("universal/" + "x" * (LONGEST_NAME + 1), "has a name longer than 255 bytes"),
        ("universal/" + "é" * 128, "has a name longer than 255 bytes"),
        ("a/" * 500 + "x", f"is longer than {LONGEST_PATH} bytes"),
    ],
)
def test_a_hostile_name_is_refused_with_the_reason(path: str, reason: str) -> None:
    assert hostile_name(path) == reason


@pytest.mark.parametrize(
    "path",
    [
        "universal/standards/a b.md",
        "universal/standards/größe 漢字 👩‍💻.md",
        "universal/standards/.gitignore",
        "universal/workflows/..hidden",
        "x" * LONGEST_NAME,
    ],
)
def test_an_unusual_name_is_no_hostile_one(path: str) -> None:
    assert hostile_name(path) is None


@given(st.text(max_size=40))
def test_a_name_that_is_not_refused_stays_below_its_folder(path: str) -> None:
    if hostile_name(path) is None:
        names = path.split("/")
        assert not path.startswith("/") and "\0" not in path
        assert all(name and name not in (".", "..") for name in names)


@pytest.mark.parametrize(
    ("source", "installed"),
    [
        ("universal/standards/a/b.md", "standards/universal/a/b.md"),
        ("universal/workflows/w/metadata.json", "workflows/w/metadata.json"),
        ("universal/usage/u.md", "usage/u.md"),
        ("mcp_server/__main__.py", "mcp_server/__main__.py"),
        ("scripts/build_rag_index.py", "scripts/build_rag_index.py"),
    ],
)
def test_a_path_is_where_upstreams_installer_puts_it(source: str, installed: str) -> None:
    assert installed_path(source) == installed
    assert source_path(installed) == source
    assert part_of(installed) == installed.removesuffix(source.partition("/")[2]).rstrip("/") or part_of(
        installed
    )


@pytest.mark.parametrize(
    "source",
    [
        "README.md",
        "universal/templates/t.md",
        "universal/standards",
        "universal/standardsX/a.md",
        "mcp_server/__pycache__/a.py",
        "mcp_server/a.pyc",
        "scripts/.DS_Store",
        "universal/workflows/.cursor/x",
        "mcp_server/.praxis-os/workflows/x",
        "mcp_server/.agent-os/workflows/x",
    ],
)
def test_what_upstreams_installer_leaves_out_is_not_installed(source: str) -> None:
    assert installed_path(source) is None


@pytest.mark.parametrize(
    "installed", ["standards/development/x.md", "specs/x.md", "config.json", "workflows"]
)
def test_what_is_the_users_belongs_to_no_part(installed: str) -> None:
    assert source_path(installed) is None
    assert part_of(installed) is None


def test_a_file_by_a_skipped_name_is_skipped_in_any_depth() -> None:
    assert is_skipped("a/.mypy_cache/b/c.json")
    assert not is_skipped("a/cursor/b.pyc.md")


@pytest.mark.parametrize(
    ("paths", "pairs"),
    [
        (["a/Read.md", "a/read.md"], [("a/Read.md", "a/read.md")]),
        (["A/x.md", "a/y.md"], [("A", "a")]),
        (["caf\u00e9.md", "cafe\u0301.md"], [("cafe\u0301.md", "caf\u00e9.md")]),
        (["stra\u00dfe.md", "STRASSE.md"], [("STRASSE.md", "stra\u00dfe.md")]),
        (["a", "a/b"], [("a", "a/b")]),
        (["A", "a/b"], [("A", "a")]),
        (["a/b", "a/b"], [("a/b", "a/b")]),
        (["a/b", "a/c", "b/b", "ab"], []),
        (["a/b/c/d", "a/b/e", "a/f"], []),
    ],
)
def test_names_that_some_file_system_takes_for_one_are_paired(
    paths: list[str], pairs: list[tuple[str, str]]
) -> None:
    assert list(collisions(paths)) == pairs
    assert list(collisions(reversed(paths))) == pairs


@given(st.lists(st.text(alphabet="aAbé/", min_size=1, max_size=6), unique=True))
def test_every_collision_of_whole_paths_is_found(paths: list[str]) -> None:
    found = list(collisions(paths))
    if len({fold(path) for path in paths}) < len(paths):
        assert found


ROOT = "universal/standards"


@pytest.mark.parametrize(
    ("links", "out"),
    [
        ({"universal/standards/x": "y.md"}, False),
        ({"universal/standards/x": "nowhere/yet.md"}, False),
        ({"universal/standards/a/x": "../b/y.md"}, False),
        ({"universal/standards/a/x": ".."}, False),
        ({"universal/standards/x": "/etc/passwd"}, True),
        ({"universal/standards/x": ""}, True),
        ({"universal/standards/x": "a\0b"}, True),
        ({"universal/standards/x": "../workflows/y.md"}, True),
        ({"universal/standards/a/x": "../../../.."}, True),
        ({"universal/standards/x": "../standards/y.md"}, True),
        ({"universal/standards/x": "x"}, True),
        ({"universal/standards/x": "y", "universal/standards/y": "x"}, True),
        # By its text it stays inside; through the other link it does not.
        ({"universal/standards/x": "a/b/d/../y", "universal/standards/a/b/d": "../.."}, True),
        ({"universal/standards/x": "d/y", "universal/standards/d": "/tmp"}, True),
        ({"universal/standards/x": "d/y", "universal/standards/d": "a/b"}, False),
    ],
)
def test_a_link_that_leads_out_of_its_part_is_told_from_one_that_does_not(
    links: dict[str, str], out: bool
) -> None:
    assert (
        link_leads_out(
            "universal/standards/a/x" if "universal/standards/a/x" in links else "universal/standards/x",
            links,
            ROOT,
        )
        is out
    )
