"""A rollback's steps and their times, and the report of one that failed."""

from datetime import UTC, datetime

from mcpkeep.protocol.upgrade.rollback_report import RollbackReport, StepTimes


def test_each_step_is_passed_on_and_lasts_until_the_next() -> None:
    now, heard = [10.0], list[str]()
    times = StepTimes(heard.append, lambda: now[0])
    assert times.seconds() == {}
    for step, seconds in (("plan", 1.0), ("switch", 2.0), ("plan", 4.0)):
        times(step)
        now[0] += seconds
    assert heard == ["plan", "switch", "plan"]
    assert (times.seconds(), times.total) == ({"plan": 5.0, "switch": 2.0}, 7.0)


def test_the_report_of_one_that_failed_says_what_stands_and_why() -> None:
    at = datetime(2026, 1, 31, 10, 15, tzinfo=UTC)
    report = RollbackReport(
        session_id="rollback-1",
        by="SIGUSR1",
        from_release="new",
        to_release="new",
        started_at=at,
        ended_at=at,
        failure="no backup of it is left; look after the disk",
    )
    lines = report.to_markdown().splitlines()
    assert lines[0] == "# Rollback that failed"
    assert "| stands | `new` |" in lines
    assert "no backup of it is left; look after the disk" in lines
