"""Why a server ended, out of its last words."""

import pytest

from mcpkeep.protocol.switch import Exit
from mcpkeep.protocol.upgrade.diagnosis import CHOOSE_ANOTHER, Diagnosis, explain_end, shown_tail

TRACE = (
    "Traceback (most recent call last):",
    '  File "<frozen runpy>", line 198, in _run_module_as_main',
    '  File "/r/mcp_server/__main__.py", line 3, in <module>',
)


OTHER_ARGUMENTS = (
    "the old version stays; change what stands after `-m mcp_server` in the command that mcpkeep is given to "
    "what the new version takes, or choose another commit"
)


@pytest.mark.parametrize(
    ("end", "diagnosis"),
    [
        (
            Exit(
                code=1,
                stderr_tail=('  File "/r/mcp_server/x.py", line 7', "    def (", "SyntaxError: invalid"),
            ),
            Diagnosis(
                "exited with code 1: SyntaxError: invalid (/r/mcp_server/x.py, line 7)", CHOOSE_ANOTHER
            ),
        ),
        (
            Exit(code=1, stderr_tail=("IndentationError: unexpected indent",)),
            Diagnosis("exited with code 1: IndentationError: unexpected indent", CHOOSE_ANOTHER),
        ),
        (
            Exit(code=1, stderr_tail=("/r/venv/bin/python: No module named mcp_server",)),
            Diagnosis(
                "exited with code 1: /r/venv/bin/python: No module named mcp_server (a part of the new "
                "version itself is missing)",
                CHOOSE_ANOTHER,
            ),
        ),
        (
            Exit(code=1, stderr_tail=(*TRACE, "ModuleNotFoundError: No module named 'scripts.build'", "")),
            Diagnosis(
                "exited with code 1: ModuleNotFoundError: No module named 'scripts.build' (a part of the new "
                "version itself is missing)",
                CHOOSE_ANOTHER,
            ),
        ),
        (
            Exit(code=1, stderr_tail=(*TRACE, "ModuleNotFoundError: No module named 'yaml.loader'")),
            Diagnosis(
                "exited with code 1: ModuleNotFoundError: No module named 'yaml.loader' (a package that its "
                "requirements do not bring)",
                "the old version stays; report upstream that its requirements lack 'yaml', or choose another "
                "commit",
            ),
        ),
        (
            Exit(
                code=2,
                stderr_tail=("usage: x", "x: error: the following arguments are required: --transport"),
            ),
            Diagnosis(
                "exited with code 2: x: error: the following arguments are required: --transport (this "
                "version takes other arguments)",
                OTHER_ARGUMENTS,
            ),
        ),
        (
            Exit(code=2, stderr_tail=("x: error: argument --transport: invalid choice: 'sse'",)),
            Diagnosis(
                "exited with code 2: x: error: argument --transport: invalid choice: 'sse' (this version "
                "takes other arguments)",
                OTHER_ARGUMENTS,
            ),
        ),
        (
            Exit(code=2, stderr_tail=("x: error: unrecognized arguments: --log-level",)),
            Diagnosis(
                "exited with code 2: x: error: unrecognized arguments: --log-level (this version takes other "
                "arguments)",
                OTHER_ARGUMENTS,
            ),
        ),
        (
            Exit(code=1, stderr_tail=(*TRACE, "ValueError: bad", "INFO bye")),
            Diagnosis("exited with code 1: ValueError: bad", CHOOSE_ANOTHER),
        ),
        (
            Exit(code=0, stderr_tail=("INFO nothing to do", " ")),
            Diagnosis("exited with code 0: INFO nothing to do", CHOOSE_ANOTHER),
        ),
        (Exit(code=3), Diagnosis("exited with code 3 and said nothing on stderr", CHOOSE_ANOTHER)),
        (
            Exit(signal="SIGKILL"),
            Diagnosis("was killed by SIGKILL", "it may have been out of memory; free some, and try again"),
        ),
        (
            Exit(spawn_error="no such file"),
            Diagnosis(
                "could not be started: no such file",
                "the release's venv is damaged; upgrade again, so that it is rebuilt",
            ),
        ),
    ],
)
def test_the_cause_and_the_remedy_are_named(end: Exit, diagnosis: Diagnosis) -> None:
    assert explain_end(end) == diagnosis


def test_the_last_twenty_lines_are_shown() -> None:
    lines = [str(number) for number in range(30)]
    assert shown_tail(lines) == tuple(lines[10:])
