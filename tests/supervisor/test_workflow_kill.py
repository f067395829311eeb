"""mcpkeep killed under sixty-four concurrent writers, again and again: every acknowledged change is there."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from mcpkeep.protocol.workflow.session import Session
from mcpkeep.protocol.workflow.snapshot import read_session
from mcpkeep.supervisor.session_store import SessionFiles
from tests.benchmarks.line import Line, call, decode_answer, mcpkeep_command
from tests.servers import fast_command
from tests.workflows import make_workflow, make_workspace

WRITERS = 64
DONE = {"done": True}
Arguments = dict[str, object]


def _last_steps(session_id: str) -> list[dict[str, object]]:
    """Every other session is deleted at its end."""
    return [{"action": "delete_session"}] if int(session_id[-1], 16) % 2 else []


class Writer:
    """Works through sessions, one call at a time, and knows what was acknowledged."""

    def __init__(self) -> None:
        self.session_id: str | None = None
        """The session that is worked on; None while one is being started."""
        self.steps: Iterator[Arguments] = iter(())
        self.acknowledged: dict[str, int] = {}
        """The last acknowledged revision of each session; 0 where its deletion was."""
        self.deleting = False

    def next_call(self) -> Arguments:
        arguments = next(self.steps, None)
        if arguments is None or self.session_id is None:
            self.session_id = None
            return {"action": "start", "workflow_type": "two", "target_file": "a.py"}
        self.deleting = arguments["action"] == "delete_session"
        return {"session_id": self.session_id, **arguments}

    def answered(self, answer: dict[str, Any]) -> None:
        assert answer["status"] == "success", answer
        if self.session_id is None:
            session_id: str = answer["session_id"]
            assert session_id not in self.acknowledged
            self.session_id = session_id
            self.acknowledged[session_id] = 1
            steps: list[dict[str, object]] = [
                {"action": "complete_phase", "phase": 1, "evidence": {**DONE, "log": "x" * 500}},
                {"action": "pause"},
                {"action": "resume"},
                {"action": "rollback", "to_phase": 1},
                *_last_steps(session_id),
            ]
            self.steps = iter(steps)
        elif self.deleting:
            self.acknowledged[self.session_id] = 0
        else:
            self.acknowledged[self.session_id] += 1

    def allowed(self, session_id: str) -> set[int]:
        """What may be found after a kill: what was acknowledged, or that and the call under way."""
        known = self.acknowledged[session_id]
        if session_id != self.session_id or known == 0:
            return {known}
        return {known, 0 if self.deleting else known + 1}


def read_sessions(workspace: Path) -> dict[str, Session]:
    folder = workspace / ".praxis-os" / "state" / "workflows"
    news = SessionFiles(folder, who="a test").refresh()
    assert (news.warnings, news.blocked) == ((), {})
    assert all(path.stat().st_size for path in folder.glob("*.json"))
    return {session_id: read_session(stored) for session_id, stored in news.changed.items()}


def work_until_killed(workspace: Path, writers: list[Writer], answers: int) -> None:
    """Let all writers call, and kill mcpkeep in the instant after so many answers."""
    line = Line(mcpkeep_command(fast_command()), cwd=workspace)
    try:
        line.initialize()
        for number, writer in enumerate(writers):
            os.write(line.to, call(number, "pos_workflow", writer.next_call()))
        for _ in range(answers):
            answer = decode_answer(line.next_line())
            assert isinstance(answer.id, int)
            writer = writers[answer.id]
            writer.answered(msgspec.json.decode(answer.result)["structuredContent"])
            os.write(line.to, call(answer.id, "pos_workflow", writer.next_call()))
        tree = psutil.Process(line.process.pid).children(recursive=True)
        line.process.kill()
        # What it wrote before it died counts as acknowledged: the client has it.
        left = line.rest + (line.process.stdout.read() if line.process.stdout is not None else b"")
        for text in left.split(b"\n")[:-1]:
            answer = decode_answer(text)
            assert isinstance(answer.id, int)
            writers[answer.id].answered(msgspec.json.decode(answer.result)["structuredContent"])
            writers[answer.id].next_call()  # never sent
            writers[answer.id].session_id = None
    finally:
        line.process.kill()
        line.close()
    assert psutil.wait_procs(tree, timeout=60)[1] == []


def test_mcpkeep_killed_at_any_instant_under_sixty_four_writers_loses_nothing_acknowledged(
    tmp_path: Path,
) -> None:
    """`MCPKEEP_KILLS=300` kills more often."""
    chance = random.Random(20260401)
    workspace = tmp_path
    known: dict[str, int] = {}
    for n in range(int(os.environ.get("MCPKEEP_KILLS", "3"))):
        if n % 20 == 0:  # What has piled up is checked again after each kill.
            workspace = make_workspace(tmp_path / f"after-{n}")
            make_workflow(workspace, "two")
            known = {}
        writers = [Writer() for _ in range(WRITERS)]
        work_until_killed(workspace, writers, chance.randrange(600))
        sessions = read_sessions(workspace)
        for session_id, revision in known.items():
            assert sessions.pop(session_id).revision == revision
        for writer in writers:
            for session_id in writer.acknowledged:
                found = sessions.pop(session_id, None)
                revision = found.revision if found is not None else 0
                assert revision in writer.allowed(session_id)
                if revision:
                    known[session_id] = revision
        # What is left are sessions whose start was under way: at most one of each writer.
        assert len(sessions) <= WRITERS
        assert all(session.revision == 1 for session in sessions.values())
        known.update(dict.fromkeys(sessions, 1))
