"""The words that start a prAxIs OS server: what its version asks for, and what the user's command adds.

Light to import: it is needed before the first child is started.
"""

from collections.abc import Iterator, Sequence

__all__ = ["arguments_of", "left_out", "module_words"]

_MODULE = "mcp_server"
_START = ("-m", _MODULE)
_TRANSPORT = "--transport"
_USUAL = (_TRANSPORT, "dual")


def arguments_of(command: Sequence[str]) -> tuple[str, ...]:
    """The user's own words after `-m mcp_server` in a server's command; none where it is not started so."""
    for at in range(len(command) - 1):
        if tuple(command[at : at + 2]) == _START:
            words = tuple(command[at + 2 :])
            return () if words == _USUAL else words
    return ()


def module_words(source: str, arguments: Sequence[str] = (), *, module: str = _MODULE) -> tuple[str, ...]:
    """The words after the interpreter that start the version with this __main__.py of the module.

    Of `arguments` those that the version knows go along. No version number tells which these are: a flag that
    it knows is required now and then, and one that it does not know is refused.
    """
    known = _known_flags(source)
    kept = tuple(word for flag, words in _by_flag(arguments) if flag in known for word in words)
    named = any(flag == _TRANSPORT for flag, _ in _by_flag(kept))
    return ("-m", module, *(_USUAL if _TRANSPORT in known and not named else ()), *kept)


def left_out(words: Sequence[str], arguments: Sequence[str]) -> tuple[str, ...]:
    """The flags of `arguments` that are not in `words`; without their values, which may be secrets."""
    kept = {flag for flag, _ in _by_flag(words)}
    flags = dict.fromkeys(flag for flag, _ in _by_flag(arguments) if flag)
    return tuple(flag for flag in flags if flag not in kept)


def _known_flags(source: str) -> set[str]:
    """What is added to a parser by its literal name."""
    flags: set[str] = set()
    for rest in source.split("add_argument(")[1:]:
        rest = rest.lstrip()
        while rest[:2] in ('"-', "'-"):
            flag, _, rest = rest[1:].partition(rest[0])
            flags.add(flag)
            rest = rest.lstrip().removeprefix(",").lstrip()
    return flags


def _by_flag(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag, and the words that it consists of; the flag is empty for words before the first."""
    flag, gathered = "", list[str]()
    for word in words:
        # Not a negative number, which is some flag's value.
        if word.startswith("-") and not word[1:2].isdigit():
            yield flag, gathered
            flag, gathered = word.partition("=")[0], []
        gathered.append(word)
    yield flag, gathered
