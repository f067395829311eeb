"""The control socket's frames: whole, in every piece, and what is none."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.control import (
    Answered,
    Ask,
    ControlError,
    Frames,
    FromServer,
    NotAnswered,
    Stepped,
    encode_frame,
)
from mcpkeep.protocol.upgrade.options import UpgradeOptions
from mcpkeep.protocol.upgrade.plan import Choice
from mcpkeep.protocol.upgrade.request import (
    Aborted,
    AbortUpgrade,
    GetReport,
    MakePlan,
    MergedText,
    Report,
    ResolveConflicts,
    RollBack,
    RunUpgrade,
)

ANSWERS: tuple[FromServer, ...] = (
    Stepped("a-session", "phase 3 of 5: server upgrade"),
    Answered(Report("# Grüße\n", None, 3, 0.5)),
    Answered(Aborted(("one", "two"))),
    NotAnswered("it is leaving"),
)
QUESTIONS = (
    MakePlan(UpgradeOptions("/src/praxis-os", content_only=True)),
    RunUpgrade(UpgradeOptions("/src"), by="me", plan_id="p", decisions={"a.md": Choice.KEEP}),
    ResolveConflicts("p", {"*.md": Choice.TAKE, "b.md": MergedText("both\n")}, by="me"),
    RollBack(to="2026-01-31-a1b2c3d", by="me"),
    AbortUpgrade(by="me"),
    GetReport(),
)


def answers_from(*pieces: bytes) -> list[FromServer]:
    frames = Frames(msgspec.msgpack.Decoder(FromServer))
    return [frame for piece in pieces for frame in frames.feed(piece)]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: type(question).__name__)
def test_a_question_arrives_as_it_was_asked(question: MakePlan) -> None:
    frames = Frames(msgspec.msgpack.Decoder(Ask))
    assert list(frames.feed(encode_frame(Ask(question)))) == [Ask(question)]


@given(st.lists(st.integers(min_value=1, max_value=200), max_size=40))
def test_frames_are_the_same_however_they_come_in_pieces(sizes: list[int]) -> None:
    data = b"".join(map(encode_frame, ANSWERS))
    pieces: list[bytes] = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    assert answers_from(*pieces, data) == list(ANSWERS)


def test_byte_by_byte_no_frame_comes_before_its_last_byte() -> None:
    data = encode_frame(ANSWERS[0])
    frames = Frames(msgspec.msgpack.Decoder(FromServer))
    came = [len(list(frames.feed(data[n : n + 1]))) for n in range(len(data))]
    assert came == [0] * (len(data) - 1) + [1]


@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_frames_or_an_error_of_ours(data: bytes) -> None:
    with suppress(ControlError):
        answers_from(data)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x01\x02", b"\x81\xa4type\xa6rubble", b"\x91" * 5000])
def test_a_frame_of_something_else_is_refused(body: bytes) -> None:
    with pytest.raises(ControlError, match="cannot be read"):
        answers_from(len(body).to_bytes(4, "big") + body)


def test_a_frame_that_is_too_large_is_refused_by_its_length_alone() -> None:
    frames = Frames(msgspec.msgpack.Decoder(FromServer), most=10)
    with pytest.raises(ControlError, match="a frame of 11 bytes is more than 10"):
        list(frames.feed((11).to_bytes(4, "big")))


def test_a_message_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(ControlError, match="is more than the 10 of a frame"):
        encode_frame(NotAnswered("ten bytes and more"), most=10)
