"""Requirements files, what satisfies them, and what they are held to."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.requirements import (
    Installed,
    PythonFacts,
    Requirements,
    constraints,
    freeze,
    read_requirements,
    unmet,
    venv_key,
)

MARKERS = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.7",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_release": "6.1",
    "platform_system": "Linux",
    "platform_version": "1",
    "platform_python_implementation": "CPython",
    "python_full_version": "3.11.7",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def read(files: Mapping[str, str] | str) -> Requirements:
    texts = {"mcp_server/requirements.txt": files} if isinstance(files, str) else files
    return read_requirements("mcp_server/requirements.txt", texts.get)


def python(*installed: Installed) -> PythonFacts:
    return PythonFacts("cpython-311-x86_64-linux-gnu", "linux-x86_64", "/usr/bin/python3", MARKERS, installed)


def test_comments_continuations_and_layout_do_not_count() -> None:
    text = (
        "\ufeff# head\r\nmcp >= 1.0  # why\r\n\r\nuvicorn[standard] \\\r\n  ==0.3 ; python_version > '3'\r\n"
    )
    found = read(text)
    assert found.lines == ("mcp >= 1.0", "uvicorn[standard] ==0.3 ; python_version > '3'")
    assert found.wanted == found.lines
    assert not found.hashed
    assert found.names == {"mcp", "uvicorn"}
    assert found.sha256 == read("mcp  >= 1.0\nuvicorn[standard]   ==0.3 ; python_version > '3' # x\n").sha256
    assert found.sha256 != read("mcp >= 1.1\n").sha256


def test_a_comment_ends_a_continued_line() -> None:
    assert read("mcp \\\n# over\nrich\n").wanted == ("mcp", "rich")


def test_a_continued_last_line_counts() -> None:
    assert read("mcp \\").wanted == ("mcp",)


def test_hashes_are_seen_and_are_no_part_of_what_is_wanted() -> None:
    found = read("mcp==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n")
    assert found == Requirements(("mcp==1.0 --hash=sha256:aa --hash=sha256:bb",), ("mcp==1.0",), True)


def test_options_for_the_installer_count_and_ask_for_nothing() -> None:
    found = read("--index-url https://index.example/simple\n--pre\nmcp\n")
    assert found.wanted == ("mcp",)
    assert found.lines == ("--index-url https://index.example/simple", "--pre", "mcp")


def test_includes_are_followed_within_the_release() -> None:
    found = read(
        {
            "mcp_server/requirements.txt": "-r extra/more.txt\n--constraint=pins.txt\nmcp\n",
            "mcp_server/extra/more.txt": "-r ../third.txt\nrich\n",
            "mcp_server/third.txt": "attrs\n",
            "mcp_server/pins.txt": "--pre\nrich==13\n",
        }
    )
    assert found.wanted == ("attrs", "rich", "mcp")
    assert found.lines == ("attrs", "rich", "--pre", "constraint: rich==13", "mcp")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-r ../../../etc/more.txt\n", "outside the release"),
        ("-r /etc/more.txt\n", "outside the release"),
        ("--requirement=https://example.org/more.txt\n", "outside the release"),
        ("-r gone.txt\n", "it is not there"),
        ("-r requirements.txt\n", "in a circle"),
        ("-e .\n", "editable"),
        ("--editable ../lib\n", "editable"),
        ("./vendor/lib\n", "path on this machine"),
        ("lib-1.0-py3-none-any.whl\n", "path on this machine"),
        ("git+https://example.org/lib.git\n", "does not say what package"),
        ("mcp=>1\n", "is no requirement"),
    ],
)
def test_what_a_venv_could_not_stand_on_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(UpgradeFailed, match=reason) as refused:
        read(text)
    assert str(refused.value).startswith(("mcp_server/requirements.txt ", "mcp_server/gone.txt "))
    assert refused.value.remediation


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(UpgradeFailed, match="it is not there"):
        read({})


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("lib @ https://h.example/x.zip", "lib @ https://h.example/x.zip"),
        ("git+https://h.example/l.git@v1#egg=lib", "lib @ git+https://h.example/l.git@v1#egg=lib"),
        ("https://h.example/lib-1.0-py3-none-any.whl", "lib @ https://h.example/lib-1.0-py3-none-any.whl"),
        ("lib @ https://${TOKEN}@h.example/x.zip", "lib @ https://${TOKEN}@h.example/x.zip"),
    ],
)
def test_addresses_are_wanted_by_the_name_they_carry(line: str, wanted: str) -> None:
    assert read(line).wanted == (wanted,)


@given(st.text(max_size=60))
def test_any_text_gives_requirements_or_a_refusal(text: str) -> None:
    try:
        found = read(text)
    except UpgradeFailed:
        return
    assert all(found.names) and isinstance(venv_key(found, python()), str)


def test_the_key_of_a_venv_tells_requirements_python_and_platform_apart() -> None:
    one, other = read("mcp\n"), read("rich\n")
    here = python()
    elsewhere = PythonFacts(here.abi, "macosx-14-arm64", here.base, MARKERS)
    newer = PythonFacts("cpython-312-x86_64-linux-gnu", here.platform, here.base, MARKERS)
    keys = [venv_key(one, here), venv_key(other, here), venv_key(one, elsewhere), venv_key(one, newer)]
    assert len(set(keys)) == 4
    assert venv_key(one, here) == venv_key(read("# same\nmcp"), python(Installed("mcp", "1")))


@pytest.mark.parametrize(
    ("wanted", "installed", "missing"),
    [
        (("mcp>=1",), [Installed("MCP", "1.2")], ()),
        (("mcp>=2",), [Installed("mcp", "1.2")], ("mcp>=2",)),
        (("mcp",), [], ("mcp",)),
        (("My_Pkg",), [Installed("my-pkg", "1")], ()),
        (("mcp>=1",), [Installed("mcp", "1.2rc1")], ()),
        (("mcp; sys_platform == 'win32'",), [], ()),
        (("mcp",), [Installed("mcp", "1", ("anyio>=4",))], ("anyio>=4",)),
        (("mcp",), [Installed("mcp", "1", ("anyio; extra == 'x'",))], ()),
        (("mcp[x]",), [Installed("mcp", "1", ("anyio; extra == 'x'",))], ("anyio; extra == 'x'",)),
        (("mcp[x]",), [Installed("mcp", "1", ("anyio; extra == 'x'",)), Installed("anyio", "4")], ()),
        (("a",), [Installed("a", "1", ("b",)), Installed("b", "1", ("a",))], ()),
        (("a",), [Installed("a", "1", ("=> broken metadata",))], ()),
        (("a",), [Installed("a", "no version")], ()),
        (("a>1",), [Installed("a", "no version")], ("a>1",)),
        (("a @ https://h.example/a.zip",), [Installed("a", "1")], ()),
    ],
)
def test_a_set_is_enough_where_all_is_met_to_the_last_dependency(
    wanted: tuple[str, ...], installed: list[Installed], missing: tuple[str, ...]
) -> None:
    assert unmet(wanted, python(*installed)) == missing


def test_a_snapshot_is_a_requirements_file() -> None:
    facts = python(
        Installed("b", "2", url="git+https://h.example/b@c0ffee"),
        Installed("A", "1"),
        Installed("c", "3+cpu"),
    )
    assert freeze(facts) == "A==1\nb @ git+https://h.example/b@c0ffee\nc==3+cpu\n"
    assert read(freeze(facts)).names == {"a", "b", "c"}


def test_old_versions_are_held_but_where_a_requirement_rules_them_out() -> None:
    snapshot = "a==1\nB.b==1\nc @ https://h.example/c.zip\nd==4\n"
    assert constraints(snapshot, ("a>=2", "b-b", "d<5")) == "B.b==1\nd==4\n"


def test_an_old_version_is_held_without_its_local_label() -> None:
    snapshot = "torch==2.1.0+cpu\nb == 1.0+x ; os_name == 'posix'\nc==1!2.0rc1\nd===by+hand\n"
    wanted = ("torch==2.1.0+cpu", "d")
    assert constraints(snapshot, wanted) == (
        "torch==2.1.0\nb == 1.0 ; os_name == 'posix'\nc==1!2.0rc1\nd===by+hand\n"
    )
    assert constraints(snapshot, ("torch>2.1", "b!=1.0", "c")) == "c==1!2.0rc1\nd===by+hand\n"
