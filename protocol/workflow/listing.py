"""What `list_workflows` tells of each workflow, and the choice by category."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from mcpkeep.protocol.workflow.definition import BrokenWorkflow, WorkflowDefinition

__all__ = ["Listing", "WorkflowSummary", "by_category", "summarize"]


class WorkflowSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """One workflow as it is listed; encodes without what the definition does not have."""

    workflow_type: str
    name: str
    description: str
    version: str
    category: str
    phases: int | Literal["dynamic"]
    """How many."""
    estimated_duration: str
    target_languages: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    error: str | None = None
    """Set where a phase is broken, or the whole workflow: then the rest, but for its name, says nothing."""


class Listing(msgspec.Struct, frozen=True):
    """The workflows that were asked for, and a word where there are none."""

    workflows: tuple[WorkflowSummary, ...]
    warning: str | None = None


def summarize(workflow: WorkflowDefinition | BrokenWorkflow) -> WorkflowSummary:
    """The listed form of a workflow, whole or broken."""
    match workflow:
        case WorkflowDefinition():
            return WorkflowSummary(
                workflow_type=workflow.workflow_type,
                name=workflow.name,
                description=workflow.description,
                version=workflow.version,
                category=workflow.category,
                phases=workflow.total_phases,
                estimated_duration=workflow.estimated_duration,
                target_languages=workflow.target_languages,
                artifacts=workflow.artifacts,
                tags=workflow.tags,
                aliases=workflow.aliases,
                error=workflow.broken,
            )
        case BrokenWorkflow():
            return WorkflowSummary(
                workflow_type=workflow.workflow_type,
                name=workflow.workflow_type,
                description="this workflow's definition is broken and cannot be started",
                version="unknown",
                category="unknown",
                phases=0,
                estimated_duration="unknown",
                error=workflow.error,
            )


def by_category(summaries: Iterable[WorkflowSummary], category: str | None) -> Listing:
    """Those of one category, or all; an unknown one gives none, and a warning that names the known ones."""
    known = tuple(summaries)
    if category is None:
        return Listing(workflows=known)
    chosen = tuple(summary for summary in known if summary.category == category)
    if chosen:
        return Listing(workflows=chosen)
    categories = ", ".join(sorted({summary.category for summary in known if summary.phases}))
    return Listing(workflows=(), warning=f"no workflow has category {category!r}; there are: {categories}")
