"""What a version of the server is started with, of the user's words and by its own parser."""

import pytest

from mcpkeep.protocol.arguments import arguments_of, left_out, module_words

START = ("-m", "mcp_server")
KNOWS_NONE = "parser.parse_args()"
KNOWS_TRANSPORT = 'parser.add_argument(\n    "--transport", required=True)'
KNOWS_MORE = (
    KNOWS_TRANSPORT
    + """
parser.add_argument('-l', "--log-level", default="INFO")
parser.add_argument("--offset", type=int)
parser.add_argument("folder", nargs="*")
add = parser.add_argument(name)
"""
)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("python", *START, "--transport", "stdio", "-v"), ("--transport", "stdio", "-v")),
        (("uv", "run", "python", "-u", *START, "--log-level=DEBUG"), ("--log-level=DEBUG",)),
        (("python", *START), ()),
        (("python", *START, "--transport", "dual"), ()),
        (("./start-server", "mcp_server", "--transport", "stdio"), ()),
        (("python", "-m"), ()),
        ((), ()),
    ],
)
def test_the_user_s_own_words_follow_the_module(command: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert arguments_of(command) == words


@pytest.mark.parametrize(
    ("source", "arguments", "words", "without"),
    [
        (KNOWS_NONE, (), (), ()),
        (KNOWS_NONE, ("--transport", "stdio", "--key=s3"), (), ("--transport", "--key")),
        (KNOWS_TRANSPORT, (), ("--transport", "dual"), ()),
        (KNOWS_TRANSPORT, ("--transport", "stdio"), ("--transport", "stdio"), ()),
        (KNOWS_TRANSPORT, ("--transport=stdio",), ("--transport=stdio",), ()),
        (KNOWS_TRANSPORT, ("-l", "DEBUG", "--x"), ("--transport", "dual"), ("-l", "--x")),
        (KNOWS_MORE, ("-l", "DEBUG"), ("--transport", "dual", "-l", "DEBUG"), ()),
        (
            KNOWS_MORE,
            ("a", "--log-level", "DEBUG", "--new", "1", "--transport", "http", "--offset", "-1"),
            ("--log-level", "DEBUG", "--transport", "http", "--offset", "-1"),
            ("--new",),
        ),
    ],
)
def test_a_version_gets_the_user_s_words_that_it_knows(
    source: str, arguments: tuple[str, ...], words: tuple[str, ...], without: tuple[str, ...]
) -> None:
    assert module_words(source, arguments) == (*START, *words)
    assert left_out(words, arguments) == without
