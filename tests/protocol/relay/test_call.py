"""What becomes of a call whose child is gone: the whole product of what can be known of it."""

import itertools

import pytest

from mcpkeep.protocol.relay.call import Call, Verdict, verdict_on
from mcpkeep.protocol.relay.mcp import LOSS, Loss

FLAGS = list(itertools.product((False, True), repeat=5))


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("written", [False, True])
def test_the_verdict_over_the_whole_product(loss: Loss, attempts: int, written: bool) -> None:
    """What was not read and what opens waits; reading waits once; a tool call if nothing speaks against."""
    for is_task, progressed, harmless, child_had_asked, may_be_killer in FLAGS:
        call = Call(
            1, "m", b"", loss, 0.0, end=100, attempts=attempts, is_task=is_task, progressed=progressed
        )
        verdict = verdict_on(
            call,
            accepted=100 if written else 99,
            harmless=harmless,
            child_had_asked=child_had_asked,
            may_be_killer=may_be_killer,
        )
        first = attempts == 1
        waits = {
            Loss.RESEND: True,
            Loss.RETRY: first and not may_be_killer,
            Loss.CALL: first
            and (is_task, progressed, harmless, child_had_asked, may_be_killer)
            == (False, False, True, False, False),
            Loss.ERROR: False,
        }[loss]
        assert verdict is (Verdict.HOLD if waits or not written else Verdict.FAIL)


def test_only_what_reads_or_is_remembered_is_sent_again() -> None:
    assert {method for method, loss in LOSS.items() if loss is Loss.RESEND} == {
        "initialize",
        "server/discover",
        "subscriptions/listen",
    }
    assert {method for method, loss in LOSS.items() if loss is Loss.CALL} == {"tools/call"}
    assert "tasks/result" not in LOSS and "tasks/cancel" not in LOSS
