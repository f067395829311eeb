"""The report of a rollback: what called for it, and what became of each file."""

from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from mcpkeep.protocol.upgrade.markdown import bullets, code, plain, section, table, time, timed

__all__ = ["RollbackReport", "StepTimes"]


class StepTimes:
    """How long each step took: called with the name of each as it begins, which it passes on."""

    def __init__(self, step: Callable[[str], None], clock: Callable[[], float]) -> None:
        """`clock` answers seconds that never go back."""
        self._step = step
        self._clock = clock
        self._began = clock()
        self._steps: list[tuple[str, float]] = []

    def __call__(self, name: str) -> None:
        self._steps.append((name, self._clock()))
        self._step(name)

    @property
    def total(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._began

    def seconds(self) -> dict[str, float]:
        """By step, in their order; one that came again has the sum."""
        ends = [*(at for _, at in self._steps[1:]), self._clock()]
        found: dict[str, float] = {}
        for (name, at), end in zip(self._steps, ends, strict=False):
            found[name] = found.get(name, 0.0) + end - at
        return found


class RollbackReport(msgspec.Struct, frozen=True, kw_only=True):
    """One rollback."""

    session_id: str
    by: str
    """What called for it: `mcpkeep rollback`, `SIGUSR1`, `probation`, or the failure it follows."""
    from_release: str | None
    to_release: str
    to_version: str | None = None
    started_at: datetime
    ended_at: datetime
    steps: Mapping[str, float] = {}
    """Seconds by step, in their order."""
    restored: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    kept_aside: Mapping[str, str] = {}
    """By path: where the version lies that gave way: the restored one, or what stood in a restored folder."""
    warnings: tuple[str, ...] = ()
    failure: str = ""
    """Why it did not succeed; empty where it did."""

    @property
    def identity(self) -> str:
        """A part of the report that no other rollback's has."""
        return f"session {code(self.session_id)}."

    def to_markdown(self) -> str:
        """The whole report."""
        lines = [
            f"# Rollback {'that failed' if self.failure else f'to {plain(self.to_release)}'}",
            "",
            f"Made from {time(self.started_at)} to {time(self.ended_at)}, {self.identity}",
            "",
            *table(
                ("", ""),
                (
                    ("called for by", plain(self.by)),
                    ("left", "unknown" if self.from_release is None else code(self.from_release)),
                    ("stands" if self.failure else "serves again", code(self.to_release)),
                ),
            ),
        ]
        lines += section("What went wrong", [plain(self.failure)] if self.failure else [])
        for title, paths in (
            ("Restored", self.restored),
            ("Merged: what the upgrade had changed is out, what you edited since is in", self.merged),
            ("Kept: yours, edited or made since", self.kept),
        ):
            lines += section(f"{title} ({len(paths)})", bullets(map(code, paths)))
        lines += section(
            "To settle by hand: the version that gave way lies aside",
            bullets(
                (f"{code(path)}: {code(aside)}" for path, aside in sorted(self.kept_aside.items())), most=200
            ),
        )
        lines += section("Worth knowing", bullets(map(plain, self.warnings), most=100))
        if self.steps:
            lines += section("Time", table(("step", "seconds"), timed(self.steps.items())))
        lines += section(
            "How to go forward again", [f"- {code('mcpkeep upgrade')}, once the cause is mended"]
        )
        return "\n".join(lines) + "\n"
