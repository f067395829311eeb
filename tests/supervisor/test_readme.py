"""The README says what is so: its table of settings, and the tests and benchmarks it names."""

import re
from pathlib import Path

from mcpkeep.protocol.config import settings_as_markdown

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_of_settings_is_the_one_in_the_code() -> None:
    begin, end = "compares -->\n", "<!-- end of settings -->"
    assert (
        README[README.index(begin) + len(begin) : README.index(end)].strip() == settings_as_markdown().strip()
    )


def test_every_test_file_named_in_the_readme_exists() -> None:
    named = re.findall(r"tests/\w+/\w+\.py", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_keyword_named_for_pytest_selects_a_test() -> None:
    names = "\n".join(path.read_text() for path in ROOT.glob("tests/*/**/test_*.py"))
    keywords = re.findall(r"pytest [^`|]*-k (\w+)", README)
    assert keywords
    assert [word for word in keywords if not re.search(rf"def test_\w*{word}", names)] == []
