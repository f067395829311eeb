"""The history of the sample prAxIs OS: seven commits, three of them tagged, as trees of files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

__all__ = ["VERSIONS", "Commit", "File", "Tree", "history", "server_files"]

VERSIONS = ("v1.0.0", "v1.1.0", "v2.0.0")
"""The tags, oldest first. v1.1.0 asks for the same packages as v1.0.0, v2.0.0 for newer ones and one more."""


class File(NamedTuple):
    """The bytes of a file, and whether it may be executed."""

    data: bytes
    executable: bool = False


Tree = Mapping[str, File]


class Commit(NamedTuple):
    """One commit: the whole tree after it."""

    subject: str
    tree: Tree
    tag: str | None = None


def history() -> tuple[Commit, ...]:
    """All commits, oldest first."""
    tree: dict[str, File] = {**server_files("1.0.0"), **_first_content()}
    commits = [Commit("Begin with what every project needs", dict(tree))]

    tree |= _texts({path: _standard(*said) for path, said in _CONCURRENCY.items()})
    tree["universal/.universal-manifest.json"] = _manifest(tree)
    commits.append(Commit("Say how to share data between threads", dict(tree), "v1.0.0"))

    _edit(tree, PYRAMID, "Many small tests", "Many small tests, each under 10 ms")
    commits.append(Commit("Give small tests a limit", dict(tree)))

    _edit(tree, PYRAMID, "each under 10 ms", "each under 5 ms")
    tree |= server_files("1.1.0")
    tree |= _texts({_UNIVERSAL + "standards/testing/property-based.md": _standard(*_PROPERTIES)})
    tree["scripts/pre-commit.sh"] = tree["scripts/pre-commit.sh"]._replace(executable=True)
    commits.append(Commit("Make the transport a choice", dict(tree), "v1.1.0"))

    tree[LOCKS_AND_QUEUES] = tree.pop(LOCKING)
    commits.append(Commit("Call locks what they are", dict(tree)))

    tree |= server_files("2.0.0")
    tree |= _texts({EXPLAINING: _standard(*_EXPLAINING)})
    tree |= _workflow("standards_review_v1", "Review of the standards", ("Collect", "Read", "Report"))
    _edit(tree, GIT_SAFETY, "Look at the diff", "Look at the whole diff")
    _edit(tree, _FLOW + "metadata.json", '"version": "1.0.0"', '"version": "2.0.0"')
    _edit(tree, _FLOW + "phases/1/gate-definition.yaml", "strict: false", "strict: true")
    commits.append(Commit("Explain the standards", dict(tree)))

    _edit(tree, LOCKS_AND_QUEUES, "Hold a lock", "Hold one lock at a time, and hold it")
    for path in [path for path in tree if path == MANUAL_SETUP or path.startswith(_UNIVERSAL + "usage/")]:
        del tree[path]
    commits.append(Commit("Take out what the installer does by itself", dict(tree), "v2.0.0"))
    return tuple(commits)


def server_files(version: str) -> dict[str, File]:
    """mcp_server/ and scripts/ of a version, or what it changes in them, by path in the repository."""
    root = resources.files("mcpkeep.supervisor.upgrade").joinpath("sample_data", version)
    found: dict[str, File] = {}
    for part in root.iterdir():
        for file in part.iterdir():
            if file.is_file():
                found[f"{part.name}/{file.name}"] = _code(file)
    return found


def _code(file: Traversable) -> File:
    data = file.read_bytes()
    # Not the mode on disk: a wheel need not have kept it.
    return File(data, executable=data.startswith(b"#!/usr/bin/env python"))


def _edit(tree: dict[str, File], path: str, old: str, new: str) -> None:
    file = tree[path]
    assert old.encode() in file.data, (path, old)
    tree[path] = file._replace(data=file.data.replace(old.encode(), new.encode()))


def _texts(texts: Mapping[str, str]) -> dict[str, File]:
    return {path: File(text.encode()) for path, text in texts.items()}


def _standard(title: str, purpose: str, do: Sequence[str], avoid: Sequence[str]) -> str:
    """Sections far enough apart for edits in two of them to merge."""
    rules = "\n".join(f"- {rule}" for rule in do)
    traps = "\n".join(f"- {trap}" for trap in avoid)
    return f"""\
# {title}

**Keywords:** {title.lower()}, how to, review

## Purpose

{purpose}

Read this before you write code that touches it, and again when you review such code.

## Do

{rules}

## Avoid

{traps}

## Review

- [ ] Each rule above was looked at, not only remembered.
- [ ] An exception is written down where it is made, with its reason.

## Questions

Ask the index first: the words of the rule are the words to search for.
"""


def _workflow(name: str, title: str, phases: Sequence[str]) -> dict[str, File]:
    listed = [
        {
            "phase_number": number,
            "phase_name": phase,
            "purpose": f"{phase}, and say what came of it",
            "estimated_effort": "10 minutes",
            "key_deliverables": [f"{phase.lower()} is written down"],
            "validation_criteria": ["all tasks completed"],
            "tasks": [{"task_number": 1, "name": phase.lower(), "file": "task-1.md"}],
        }
        for number, phase in enumerate(phases)
    ]
    metadata = {
        "workflow_type": name,
        "name": title,
        "version": "1.0.0",
        "total_phases": len(phases),
        "estimated_duration": f"{10 * len(phases)} minutes",
        "primary_outputs": ["a report"],
        "phases": listed,
    }
    files = {
        "metadata.json": json.dumps(metadata, indent=2) + "\n",
        "README.md": f"# {title}\n\nIn {len(phases)} phases.\n",
    }
    for number, phase in enumerate(phases):
        files[f"phases/{number}/phase.md"] = f"# Phase {number}: {phase}\n\nOne task, then the gate.\n"
        files[f"phases/{number}/task-1.md"] = (
            f"# Task 1: {phase}\n\n1. Look.\n2. {phase}.\n3. Say what came of it.\n"
        )
        files[f"phases/{number}/gate-definition.yaml"] = _GATE
    return _texts({f"{_UNIVERSAL}workflows/{name}/{path}": text for path, text in files.items()})


def _manifest(tree: Tree) -> File:
    """As upstream's: of its day, without the yaml files, and with files that are gone."""
    prefix = len(_UNIVERSAL)
    files = {
        path[prefix:]: {
            "checksum": f"sha256:{hashlib.sha256(file.data).hexdigest()}",
            "size": len(file.data),
            "last_updated": "2025-10-13",
        }
        for path, file in sorted(tree.items())
        if path.startswith(_UNIVERSAL) and path.endswith((".md", ".json"))
    }
    gone = {"checksum": f"sha256:{'0' * 64}", "size": 1200, "last_updated": "2025-10-07"}
    files |= {"standards/testing/mocks.md": gone, "workflows/old_flow_v1/metadata.json": gone}
    head = {"version": "1.0.0", "generated": "2025-10-13T00:00:00Z", "generator_version": "1.0.0"}
    return File(json.dumps({**head, "files": files}, indent=2).encode() + b"\n")


_UNIVERSAL = "universal/"
_FLOW = "universal/workflows/spec_execution_v1/"
PYRAMID = "universal/standards/testing/test-pyramid.md"
GIT_SAFETY = "universal/standards/ai-safety/git-safety.md"
LOCKING = "universal/standards/concurrency/locking.md"
LOCKS_AND_QUEUES = "universal/standards/concurrency/locks-and-queues.md"
MANUAL_SETUP = "universal/standards/installation/manual-setup.md"
EXPLAINING = "universal/standards/ai-assistant/explaining.md"

_GATE = """\
checkpoint:
  strict: false
  allow_override: true
evidence_schema:
  all_tasks_completed:
    type: boolean
    required: true
    description: Every task of the phase is done
  evidence_documented:
    type: boolean
    required: true
    description: What came of it is written down
"""

_STANDARDS = {
    "ai-safety/git-safety.md": (
        "Git safety",
        "History is what a mistake is mended with, so it is not rewritten where others have seen it.",
        ("Look at the diff before you commit.", "Push to a branch of your own."),
        ("Forced pushes to shared branches.", "Commits that mix a move with a change."),
    ),
    "ai-safety/credentials.md": (
        "Credentials",
        "A secret that was written down once is no secret any more.",
        ("Read secrets from the environment.", "Rotate what was seen by mistake."),
        ("Secrets in code, logs or test data.",),
    ),
    "architecture/one-way-imports.md": (
        "One-way imports",
        "What is true depends on nothing; what acts depends on what is true.",
        ("Draw the layers once and check them by a tool.",),
        ("Imports inside functions to get around a circle.",),
    ),
    "documentation/naming things.md": (
        "Naming things",
        "A name is read a hundred times for each time it is written.",
        ("Say what it is, not how it is made.",),
        ("Words that fit everything.",),
    ),
    "documentation/écrire-clairement.md": (
        "Écrire clairement",
        "Ce qui se conçoit bien s'énonce clairement, et se relit sans peine.",
        ("Des phrases courtes.",),
        ("Les mots dont on peut se passer.",),
    ),
    "installation/manual-setup.md": (
        "Manual setup",
        "For machines on which the installer cannot run.",
        ("Copy the folders by hand, and make the venv.",),
        ("Copying over an installation that is in use.",),
    ),
    "testing/test-pyramid.md": (
        "The test pyramid",
        "Most tests are small, so that all of them can be run at each change.",
        ("Many small tests.", "Some that talk to real processes.", "A few that see the whole."),
        ("Tests that sleep.", "Tests that need each other."),
    ),
}
_CONCURRENCY = {
    "universal/standards/concurrency/locking.md": (
        "Locks",
        "Two that change the same thing at once must agree who goes first.",
        ("Hold a lock for as short a time as you can.", "Take several in one order everywhere."),
        ("Waiting for the network under a lock.",),
    ),
    "universal/standards/concurrency/race-conditions.md": (
        "Race conditions",
        "A test that passed does not prove that there is no race.",
        ("Share nothing, or share what never changes.",),
        ("Checking first and acting later.",),
    ),
}
_PROPERTIES = (
    "Property-based tests",
    "Say what holds for all inputs, and let the machine look for one where it does not.",
    ("Begin with round trips.",),
    ("Properties that repeat the code.",),
)
_EXPLAINING = (
    "Explaining",
    "Whoever asks why a rule is there gets its reason, in a sentence.",
    ("Give the reason before the rule.",),
    ("Rules whose reason nobody knows.",),
)


def _first_content() -> dict[str, File]:
    files = _texts({f"universal/standards/{path}": _standard(*said) for path, said in _STANDARDS.items()})
    windows = _standard("Windows", "Lines end differently there.", ("Keep the endings you find.",), ())
    files["universal/standards/documentation/windows.md"] = File(windows.replace("\n", "\r\n").encode())
    files["universal/standards/documentation/pyramid.png"] = File(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256))
    )
    files |= _workflow("spec_execution_v1", "Execution of a spec", ("Read the spec", "Do it", "Check it"))
    # The one upstream ships: six phases with gates that let anything pass.
    phases = ("Pre-flight", "Backup", "Content", "Server", "Validation", "Cleanup")
    files |= _workflow("praxis_os_upgrade_v1", "Upgrade of prAxIs OS", phases)
    return files | _texts(
        {
            "README.md": "# A small prAxIs OS\n\nStandards, workflows, and a server to find them with.\n",
            ".gitignore": "__pycache__/\n.cache/\nvenv/\n",
            "universal/usage/update-guide.md": "# Updating\n\nAsk the agent to run the upgrade workflow.\n",
            "universal/templates/gate.yaml": _GATE,
        }
    )
