"""Markdown as an outline: headings, paragraphs, lists and fenced code, with the lines they stand on.

markdown-it-py reads the blocks; what is inside a line is left as text. Its size and depth are capped, so that
no text can make it hang or exhaust the stack.
"""

import importlib
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol, cast

import msgspec

from mcpkeep.protocol.errors import McpkeepError

__all__ = [
    "Block",
    "Fence",
    "Heading",
    "Item",
    "Items",
    "MarkdownError",
    "Outline",
    "Paragraph",
    "Section",
    "decode_markdown",
    "field",
    "fields",
    "listed",
    "parse_markdown",
    "plain",
]

MAX_BYTES = 256 * 1024
"""Size of one text; the largest phase file seen in use has 15 KB, the largest tasks.md 40 KB."""
MAX_LINES = 6_000
"""What a slow core reads in half a second at worst; the largest text seen in use has 1,300."""
MAX_DEPTH = 32
"""Levels of lists in lists and quotes in quotes, two for each."""

_FIELD = re.compile(r"\s*\*\*([^*\n]{1,60}?):?\*\*[ \t]*:?[ \t]*(.*)")
_CHECKBOX = re.compile(r"\[[ xX]\]\s*")
_MARKER = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])(?:\s+|$)")
_EDGE = "*_# \t:"
_VERDICT = re.compile(r"\s*✅\s*/\s*❌\s*\Z")
_SIGNS = "✅❌⬜☐☑✔ \t"


class MarkdownError(McpkeepError):
    """A text is too large or nested too deep to be read."""


class Heading(msgspec.Struct, frozen=True, tag="heading"):
    """One heading; lines count from 0."""

    level: int
    text: str
    line: int


class Paragraph(msgspec.Struct, frozen=True, tag="paragraph"):
    """One paragraph, its lines as written."""

    text: str
    line: int


class Fence(msgspec.Struct, frozen=True, tag="fence"):
    """One block of fenced code; `info` is its language, lower-case, or empty."""

    info: str
    text: str
    line: int


class Item(msgspec.Struct, frozen=True):
    """One entry of a list."""

    text: str
    """Its first paragraph on one line, without a check box."""
    markdown: str
    """All of it, as a text of its own."""
    line: int
    number: int | None = None
    """As written, in a numbered list."""


class Items(msgspec.Struct, frozen=True, tag="items"):
    """One list, with its outermost entries only."""

    ordered: bool
    items: tuple[Item, ...]
    line: int


Block = Heading | Paragraph | Fence | Items


class Section(msgspec.Struct, frozen=True):
    """A heading with all that stands below it, up to the next heading of its level or above."""

    level: int
    title: str
    markdown: str
    """The source, heading included."""
    blocks: tuple[Block, ...]
    """Without the heading itself; with the blocks of the sections within."""
    line: int


class Outline(msgspec.Struct, frozen=True):
    """A whole text. Blocks inside quotes are not told apart."""

    source: str
    blocks: tuple[Block, ...]

    @property
    def title(self) -> str:
        """The first heading of level 1, or else the first heading, or empty."""
        headings = [block for block in self.blocks if isinstance(block, Heading)]
        top = [heading for heading in headings if heading.level == 1]
        return plain((top or headings)[0].text) if headings else ""

    def sections(self) -> tuple[Section, ...]:
        """Every heading's section, in order, inner ones after the outer."""
        lines = self.source.split("\n")
        ends = _section_ends(self.blocks)
        return tuple(
            Section(
                level=block.level,
                title=plain(block.text),
                markdown="\n".join(lines[block.line : self._line(ends[index], len(lines))]).strip() + "\n",
                blocks=self.blocks[index + 1 : ends[index]],
                line=block.line,
            )
            for index, block in enumerate(self.blocks)
            if isinstance(block, Heading)
        )

    def _line(self, index: int, last: int) -> int:
        return self.blocks[index].line if index < len(self.blocks) else last


def plain(text: str) -> str:
    """A heading or label without the marks around it: emphasis, a colon, a sign in front."""
    stripped = " ".join(text.split()).strip(_EDGE)
    start = next((index for index, char in enumerate(stripped) if char.isalnum() or char in "`[("), 0)
    return stripped[start:]


def fields(text: str) -> Iterator[tuple[str, str]]:
    """The `**Name:** value` lines of a paragraph, names in lower case; a mere label gives an empty value."""
    for line in text.split("\n"):
        if match := _FIELD.match(line):
            yield plain(match[1]).lower(), match[2].strip()


def field(blocks: tuple[Block, ...], *names: str) -> str:
    """The value of the first such field, in the order of the names; empty where there is none."""
    found: dict[str, str] = {}
    for block in blocks:
        if isinstance(block, Paragraph):
            for name, value in fields(block.text):
                found.setdefault(name, value)
    return next((found[name] for name in names if found.get(name)), "")


def listed(blocks: tuple[Block, ...], *names: str) -> tuple[Item, ...]:
    """The entries of every list that stands under such a heading or such a `**label:**`."""
    found: list[Item] = []
    heading = label = ""
    for block in blocks:
        match block:
            case Heading():
                heading, label = plain(block.text).lower(), ""
            case Paragraph():
                label = next((name for name, _ in reversed(list(fields(block.text)))), label)
            case Items():
                if heading in names or label in names:
                    found.extend(block.items)
            case Fence():
                pass
    return tuple(found)


def decode_markdown(data: bytes) -> str:
    """UTF-8 to text with plain line ends; raises MarkdownError for what is too large or not UTF-8."""
    if len(data) > MAX_BYTES:
        raise MarkdownError(f"has {len(data)} bytes, more than the {MAX_BYTES} that are read; split it up")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MarkdownError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_markdown(text: str) -> Outline:
    """Read a text as `decode_markdown` gives it; raises MarkdownError where it is too large or too deep."""
    if len(text) > MAX_BYTES or text.count("\n") >= MAX_LINES:
        raise MarkdownError(f"has more than {MAX_BYTES} characters or {MAX_LINES} lines; split it up")
    tokens = _parser()(text)
    if any(token.level >= MAX_DEPTH for token in tokens):
        raise MarkdownError(f"nests lists or quotes deeper than {MAX_DEPTH} levels; write it flatter")
    return Outline(source=text, blocks=tuple(_blocks(tokens, text.split("\n"))))


class _Token(Protocol):
    """What is read of markdown-it's tokens."""

    type: str
    tag: str
    level: int
    map: list[int] | None
    content: str
    info: str


@lru_cache(maxsize=1)
def _parser() -> "Callable[[str], list[_Token]]":
    """Blocks only: no inline rules, no HTML, no references, and with them none of their quadratic cases."""
    made = importlib.import_module("markdown_it").MarkdownIt("zero", {"maxNesting": MAX_DEPTH + 4})
    made.enable(["heading", "lheading", "list", "fence", "blockquote", "hr", "code"])
    made.core.ruler.enableOnly(["normalize", "block"])
    return cast("Callable[[str], list[_Token]]", made.parse)


def _blocks(tokens: "list[_Token]", lines: list[str]) -> Iterator[Block]:
    """Only what stands at the outermost level; a list's entries carry the rest as text."""
    index = 0
    while index < len(tokens):
        token = tokens[index]
        line = token.map[0] if token.map else 0
        match token.type:
            case "heading_open":
                yield Heading(level=int(token.tag[1:]), text=tokens[index + 1].content, line=line)
            case "paragraph_open":
                yield Paragraph(text=tokens[index + 1].content, line=line)
            case "fence":
                info = token.info.split()
                yield Fence(info=info[0].lower() if info else "", text=token.content, line=line)
            case "bullet_list_open" | "ordered_list_open":
                ordered = token.type == "ordered_list_open"
                end = _closing(tokens, index)
                yield Items(ordered=ordered, items=tuple(_items(tokens[index + 1 : end], lines)), line=line)
                index = end
            case "blockquote_open":
                index = _closing(tokens, index)
            case _:
                pass
        index += 1


def _closing(tokens: "list[_Token]", index: int) -> int:
    level, wanted = tokens[index].level, tokens[index].type.replace("_open", "_close")
    return next(
        other
        for other in range(index + 1, len(tokens))
        if tokens[other].level == level and tokens[other].type == wanted
    )


def _items(tokens: "list[_Token]", lines: list[str]) -> Iterator[Item]:
    """The entries of one list, from the tokens between its opening and its closing."""
    if not tokens:
        return
    outer = tokens[0].level
    for index, token in enumerate(tokens):
        if token.type != "list_item_open" or token.level != outer or token.map is None:
            continue
        first, last = token.map
        following = tokens[index + 1 : index + 3]
        text = following[1].content if following and following[0].type == "paragraph_open" else ""
        head, rest = lines[first], textwrap.dedent("\n".join(lines[first + 1 : last]))
        yield Item(
            text=_VERDICT.sub("", _CHECKBOX.sub("", " ".join(text.split()), count=1)).strip(_SIGNS),
            markdown=f"{_CHECKBOX.sub('', _MARKER.sub('', head, count=1), count=1)}\n{rest}".strip() + "\n",
            line=first,
            number=int(token.info) if token.info.isdecimal() else None,
        )


def _section_ends(blocks: tuple[Block, ...]) -> dict[int, int]:
    """For each heading's index, the index of the heading that ends its section; linear in the blocks."""
    ends: dict[int, int] = {}
    following: list[tuple[int, int]] = []
    for index in range(len(blocks) - 1, -1, -1):
        block = blocks[index]
        if isinstance(block, Heading):
            while following and following[-1][0] > block.level:
                following.pop()
            ends[index] = following[-1][1] if following else len(blocks)
            following.append((block.level, index))
    return ends
