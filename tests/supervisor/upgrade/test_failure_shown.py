"""What `mcpkeep upgrade` shows of a new server that fails: its own last lines of stderr, too."""

from pathlib import Path

import pytest

from tests.praxis import make_variant, world_in
from tests.upgrades import run_mcpkeep


@pytest.mark.parametrize(
    ("variant", "reason", "last"),
    [
        ("missing_module", "sample_nowhere", "ModuleNotFoundError: No module named 'sample_nowhere'"),
        (
            "wrong_index",
            "did not pass its proof",
            "no table 'no_such_table' in the index, searching the files instead",
        ),
    ],
    ids=["does not start", "fails its proof"],
)
def test_the_last_lines_of_a_candidate_that_fails_are_on_the_screen(
    tmp_path: Path, variant: str, reason: str, last: str
) -> None:
    world = world_in(tmp_path)
    make_variant(world.source, variant)
    done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
    assert done.returncode == 1
    said, _, shown = done.stderr.partition("\nwhat to do: ")
    assert reason in said
    assert any(line.startswith("  ") and line.endswith(last) for line in shown.splitlines()), done.stderr
