"""Where config.json may have the index, and what is said of content that is read elsewhere."""

import json

import pytest

from mcpkeep.protocol.upgrade.rag_paths import (
    ConfigRefused,
    Place,
    index_place,
    not_of_an_index,
    read_elsewhere,
)


def config(**rag: object) -> bytes:
    return json.dumps({"rag": rag, "mcp": {}}).encode()


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (".praxis-os/.cache/vector_index", Place(".cache/vector_index", True)),
        (".agent-os/.cache/vector_index", Place(".cache/vector_index", True)),
        ("./.praxis-os//.cache/deep/index/", Place(".cache/deep/index", True)),
        (".praxis-os/our index", Place("our index", True)),
        ("var/index", Place("var/index", False)),
        ("praxis-os", Place("praxis-os", False)),
    ],
)
def test_a_place_inside_the_project_is_followed(value: str, place: Place) -> None:
    assert index_place(config(index_path=value)) == place


@pytest.mark.parametrize(
    "settings", [b"{}", b'{"rag": null}', config(), config(index_path=None), config(index_path="")]
)
def test_where_nothing_is_said_it_is_in_the_usual_place(settings: bytes) -> None:
    assert index_place(settings) == Place(".cache/vector_index", True)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("/srv/index", "is no path inside the project"),
        ("../index", "is no path inside the project"),
        ("var/../../index", "is no path inside the project"),
        ("a\0b", "is no path inside the project"),
        (7, "is no path inside the project"),
        (".", "is the project itself"),
        (".praxis-os", "is where other things"),
        (".praxis-os/.cache", "is where other things"),
        (".praxis-os/.cache/state", "is where other things"),
        (".praxis-os/.cache/state/index", "is where other things"),
        (".praxis-os/standards", "is where other things"),
        (".praxis-os/standards/index", "is where other things"),
        (".praxis-os/.mcpkeep/index", "is where other things"),
        (".praxis-os/ours/index", "is where other things"),
    ],
)
def test_any_other_place_is_refused_with_what_to_do(value: object, why: str) -> None:
    with pytest.raises(ConfigRefused, match=why) as refused:
        index_place(config(index_path=value))
    assert repr(value) in str(refused.value)
    assert refused.value.remedy == (
        "name a folder of its own inside the project, such as '.praxis-os/.cache/vector_index'"
    )


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b'{"rag": 1}', b"\xff", b"[" * 100_000], ids=lambda data: str(data[:12])
)
def test_a_damaged_file_is_refused_with_what_to_do(damaged: bytes) -> None:
    with pytest.raises(ConfigRefused, match=r"^config.json is damaged, so it is not known where") as refused:
        index_place(damaged)
    assert refused.value.remedy.startswith("mend config.json, or take it away")


def test_a_folder_with_anything_that_no_index_has_is_none() -> None:
    index = ["metadata.json", "praxis_os_standards.lance", ".mcpkeep-new", ".metadata.json.7.tmp"]
    assert not_of_an_index(index) == []
    assert not_of_an_index([*index, ".env", "README.md"]) == [".env", "README.md"]


def test_content_that_is_read_elsewhere_is_told_and_content_in_its_place_is_not() -> None:
    usual = config(standards_path=".praxis-os/standards", workflows_path=".agent-os/workflows/")
    assert read_elsewhere(usual) == read_elsewhere(config()) == []
    [standards, workflows] = read_elsewhere(config(standards_path="docs", workflows_path="/srv/workflows"))
    assert standards == (
        "`rag.standards_path` in config.json is 'docs': the server reads its standards there, and an upgrade "
        "changes those in .praxis-os/standards, and tries the new version without yours; set it to "
        "'.praxis-os/standards', or bring over by hand what is new"
    )
    assert workflows.startswith("`rag.workflows_path` in config.json is '/srv/workflows': ")
