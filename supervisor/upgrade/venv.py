"""Venvs: made in place by uv, or by pip where uv cannot, and shared where they do already.

A venv is never moved once it is made, and counts only with its record, which is written last.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.install_errors import Cause, Diagnosis, diagnose
from mcpkeep.protocol.upgrade.readiness import Patience
from mcpkeep.protocol.upgrade.release import INSTALL_CAP, VenvRecord, free_name
from mcpkeep.protocol.upgrade.requirements import (
    PythonFacts,
    Requirements,
    constraints,
    freeze,
    unmet,
    venv_key,
)
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders, write_durably
from mcpkeep.supervisor.file_system_sync import sync_roughly
from mcpkeep.supervisor.upgrade.command import Finished, Stopper, run_command
from mcpkeep.supervisor.upgrade.python import ask_python, bare_environment, venv_python
from mcpkeep.supervisor.upgrade.removal import remove_tree

__all__ = [
    "COMPLETE",
    "SCHEMA",
    "BuiltVenv",
    "Venvs",
    "find_uv",
    "folder_bytes",
    "read_venv_record",
]

COMPLETE = "complete.json"
SCHEMA = 1

_PATIENCE = Patience(silence=3600.0, cap=INSTALL_CAP)
"""Of an installation. Neither tool says anything while it downloads a wheel, and the largest has 0.9 GB: that
is 250 kB/s. A line that is dead they notice by themselves.
"""

_MAKE_LIMIT = 180.0
"""Seconds of silence while an empty venv is made; `ensurepip` on a slow disk takes half a minute."""

_OUTPUT_LINES = 40

_NOISE = (
    *("+ ", "- ", "~ "),  # each single package is a line, too
    *("Using CPython", "Using Python", "Creating virtual environment", "Activate with"),
    *("Looking in ", "Requirement already satisfied"),
)
"""What uv and pip say, and nobody waits to hear."""

_TRY_PIP = {Cause.UNKNOWN, Cause.NO_NETWORK}
"""What may be uv's alone: its own faults, and an index that only pip's configuration knows."""


class BuiltVenv(NamedTuple):
    """A venv that satisfies the requirements."""

    name: str
    facts: PythonFacts
    shared: bool
    tool: str = ""
    unconstrained: bool = False
    warnings: tuple[str, ...] = ()


class _Failed(Exception):
    def __init__(self, diagnosis: Diagnosis, output: Sequence[str]) -> None:
        super().__init__(diagnosis.text)
        self.diagnosis = diagnosis
        self.output = tuple(output)


def find_uv(environ: Mapping[str, str]) -> str | None:
    """The path of uv: of its package beside mcpkeep, else in the PATH."""
    try:
        import uv
    except ImportError:
        return shutil.which("uv", path=environ.get("PATH"))
    try:
        return os.fspath(uv.find_uv_bin())
    except FileNotFoundError:
        return shutil.which("uv", path=environ.get("PATH"))


def read_venv_record(venv: Path) -> VenvRecord | None:
    """Its record; None where it is half made, or not mcpkeep's."""
    try:
        return msgspec.json.decode((venv / COMPLETE).read_bytes(), type=VenvRecord)
    except (OSError, msgspec.DecodeError):
        return None


class Venvs:
    """The folder of all venvs. One builds or removes at a time, in all processes."""

    def __init__(
        self,
        folder: Path,
        *,
        environ: Mapping[str, str],
        uv: str | None,
        own_base: str,
        calls: FileCalls = OS_CALLS,
        patience: Patience = _PATIENCE,
    ) -> None:
        """`environ` is passed to uv and pip; `own_base` makes the venv where the former one is broken.

        `patience` is for their output, and its cap for all that they do for one venv.
        """
        self._folder = folder
        self._environ = {**bare_environment(environ), "NO_COLOR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self._uv = uv
        self._own_base = own_base
        self._calls = calls
        self._patience = patience

    def path(self, name: str) -> Path:
        return self._folder / name

    def names(self) -> tuple[str, ...]:
        """All that are there, half made ones too."""
        try:
            return tuple(sorted(entry.name for entry in os.scandir(self._folder) if entry.name[0] != "."))
        except FileNotFoundError:
            return ()

    def is_complete(self, name: str) -> bool:
        """Whether it was made to its end; a link leads to one that is the user's own."""
        path = self.path(name)
        return path.is_dir() and (path.is_symlink() or read_venv_record(path) is not None)

    def ask(self, name: str, *, stopper: Stopper | None = None) -> PythonFacts:
        """Ask its interpreter. Raises UpgradeFailed where it does not run."""
        return ask_python(venv_python(self.path(name)), environ=self._environ, stopper=stopper)

    def provide(
        self,
        requirements: Requirements,
        file: Path,
        *,
        former: str | None,
        former_sha256: str | None,
        snapshot: str | None = None,
        stopper: Stopper,
        progress: Callable[[str], None],
    ) -> BuiltVenv:
        """A venv for these requirements: the former one, another that is there, or a new one.

        Args:
            file: Where the requirements stand.
            former: The venv whose interpreter and versions a new one takes over.
            former_sha256: Of the requirements that it serves; it is shared where they are the same.
            snapshot: The versions to hold to, instead of the former one's.

        Raises:
            UpgradeFailed: it cannot be made; nothing of it is left.
            Stopped: likewise.
        """
        warnings: list[str] = []
        facts: PythonFacts | None = None
        if former is not None:
            try:
                facts = self.ask(former, stopper=stopper)
            except UpgradeFailed as error:
                warnings.append(f"{error}; the new venv is made with {self._own_base!r}")
        if facts is not None and former is not None and former_sha256 == requirements.sha256:
            if not (missing := unmet(requirements.wanted, facts)):
                return BuiltVenv(former, facts, shared=True)
            warnings.append(f"the old venv lacks what its requirements ask for: {', '.join(missing)}")
        held = snapshot
        if held is None and facts is not None:
            held = freeze(facts)
        elif held is None and former is not None and (record := read_venv_record(self.path(former))):
            held = record.snapshot
        if facts is None:
            facts = ask_python(Path(self._own_base), environ=self._environ, stopper=stopper)
        make_folders(self._folder, calls=self._calls)
        with self.lock() as fd:
            # One that is in use and lacks something is not mended in place.
            unfit: set[str] = set()
            while self.is_complete(name := free_name(venv_key(requirements, facts), unfit.__contains__)):
                if (there := self._shareable(name, requirements, stopper)) is not None:
                    return BuiltVenv(name, there, shared=True, warnings=tuple(warnings))
                unfit.add(name)
            built = self._build(
                name, requirements, file, facts.base, held or "", fd, stopper=stopper, progress=progress
            )
        return built._replace(warnings=tuple(warnings))

    def remove(self, name: str) -> None:
        """Remove it, its record first. Raises OSError."""
        path = self.path(name)
        if path.is_symlink():
            self._calls.unlink(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._calls.unlink(path / COMPLETE)
                self._calls.fsync_folder(path)
            remove_tree(path)
        self._calls.fsync_folder(self._folder)

    @contextlib.contextmanager
    def lock(self) -> Generator[int]:
        """Be the only one that builds or removes. What is started with its descriptor holds it, too.

        Raises:
            UpgradeFailed: another process is.
        """
        fd = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UpgradeFailed(
                    f"another process builds or removes a venv in {str(self._folder)!r}",
                    remediation="wait for its end, then retry",
                ) from error
            yield fd
        finally:
            os.close(fd)

    def _shareable(self, name: str, requirements: Requirements, stopper: Stopper) -> PythonFacts | None:
        try:
            facts = self.ask(name, stopper=stopper)
        except UpgradeFailed:
            return None
        return None if unmet(requirements.wanted, facts) else facts

    def _build(
        self,
        name: str,
        requirements: Requirements,
        file: Path,
        base: str,
        held: str,
        lock: int,
        *,
        stopper: Stopper,
        progress: Callable[[str], None],
    ) -> BuiltVenv:
        path = self.path(name)
        pins = self._folder / f".{name}.constraints.txt"
        remove_tree(path)

        end = time.monotonic() + self._patience.cap

        def run(words: Sequence[str], silence: float) -> None:
            tool = "uv" if words[0] == self._uv else "pip"

            def tell(line: str) -> None:
                if not line.startswith(_NOISE):
                    progress(f"{tool}: {line}")

            done = run_command(
                words,
                env=self._environ,
                limit=end - time.monotonic(),
                silence=silence,
                stopper=stopper,
                on_line=tell,
                pass_fds=(lock,),
            )
            if done.code:
                raise _Failed(self._diagnose(done, silence), done.lines[-_OUTPUT_LINES:])

        try:
            # What is hashed is pinned already, and a constraint without a hash would be refused.
            kept = "" if requirements.hashed else constraints(held, requirements.wanted)
            pins.write_text(kept, encoding="utf-8")
            tool, unconstrained = self._install(path, requirements, file, base, pins if kept else None, run)
            facts = self.ask(name, stopper=stopper)
            if missing := unmet(requirements.wanted, facts):
                raise UpgradeFailed(
                    f"{tool} reported success, and these are not met: {', '.join(missing)}",
                    remediation="find out what removes packages from a new venv",
                )
            sync_roughly(path)
            record = VenvRecord(
                SCHEMA, requirements.sha256, datetime.now(UTC), tool, freeze(facts), unconstrained
            )
            write_durably(path / COMPLETE, msgspec.json.encode(record), calls=self._calls)
            self._calls.fsync_folder(self._folder)
        except _Failed as error:
            remove_tree(path)
            raise UpgradeFailed(
                error.diagnosis.text,
                remediation=error.diagnosis.remedy,
                details={"cause": str(error.diagnosis.cause), "output": list(error.output)},
            ) from error
        except BaseException:
            remove_tree(path)
            raise
        finally:
            pins.unlink(missing_ok=True)
        return BuiltVenv(name, facts, shared=False, tool=tool, unconstrained=unconstrained)

    def _install(
        self,
        path: Path,
        requirements: Requirements,
        file: Path,
        base: str,
        pins: Path | None,
        run: Callable[[Sequence[str], float], None],
    ) -> tuple[str, bool]:
        python = str(venv_python(path))
        wanted = ("-r", str(file), *(("--require-hashes",) if requirements.hashed else ()))
        failed: _Failed | None = None
        if self._uv is not None:
            uv = self._uv
            try:
                run((uv, "venv", "--no-project", "--python", base, str(path)), _MAKE_LIMIT)
                return "uv", _held(
                    lambda more: run(
                        (uv, "pip", "install", "--python", python, *wanted, *more), self._patience.silence
                    ),
                    pins,
                )
            except OSError:
                pass  # uv cannot be executed
            except _Failed as error:
                if error.diagnosis.cause not in _TRY_PIP:
                    raise
                failed = error
            remove_tree(path)
        try:
            run((base, "-I", "-m", "venv", str(path)), _MAKE_LIMIT)
            pip = (python, "-I", "-m", "pip", "install", "--no-input", "--progress-bar", "off")
            return "pip", _held(
                lambda more: run((*pip, "--retries", "1", *wanted, *more), self._patience.silence), pins
            )
        except _Failed as error:
            # uv's words are the clearer ones, unless it had none.
            known = failed is not None and failed.diagnosis.cause is not Cause.UNKNOWN
            raise (failed if known and failed is not None else error) from error
        except OSError as error:
            raise UpgradeFailed(
                f"the interpreter {base!r} cannot be executed: {(error.strerror or str(error)).lower()}",
                remediation="install the Python that the old venv was made with",
            ) from error

    def _diagnose(self, done: Finished, silence: float) -> Diagnosis:
        if not done.timed_out:
            return diagnose(done.lines)
        said = (
            f"said nothing for {silence:g} s" if done.silent else f"took more than {self._patience.cap:g} s"
        )
        return Diagnosis(
            Cause.TOOK_TOO_LONG,
            f"the installation {said}, and was ended",
            "look at the network, the disk and the machine's load, then retry: "
            "packages that were downloaded whole are in the cache",
        )


def _held(install: Callable[[Sequence[str]], None], pins: Path | None) -> bool:
    """Install with the old versions held, and without where they cannot be; whether it was without."""
    if pins is not None:
        try:
            install(("-c", str(pins)))
            return False
        except _Failed as error:
            if not error.diagnosis.unresolvable:
                raise
    install(())
    return pins is not None


def folder_bytes(folder: Path) -> int:
    """What a folder takes on the disk, links not followed; 0 where there is none."""
    total, seen, queue = 0, set[tuple[int, int]](), [os.fspath(folder)]
    while queue:
        with contextlib.suppress(OSError), os.scandir(queue.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
                    else:
                        found = entry.stat(follow_symlinks=False)
                        if (key := (found.st_dev, found.st_ino)) not in seen:
                            seen.add(key)
                            total += found.st_blocks * 512
    return total
