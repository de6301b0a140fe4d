"""The states of a task, and the only ways from one to another.

Pending <-> Assigned -> Executing -> Verifying -> Complete -> Settled
any state before Complete -> Cancelled | Failed        Verifying -> Disputed -> Verifying

A task that several devices run is as far as the one that is furthest.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from scheduler.errors import IllegalTransition


class TaskState(enum.StrEnum):
    """Where a task is in its life."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    EXECUTING = "executing"
    VERIFYING = "verifying"
    DISPUTED = "disputed"
    COMPLETE = "complete"
    SETTLED = "settled"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_decided(self) -> bool:
        """Whether the task's outcome stands for good."""
        return self in _DECIDED


class TaskEvent(enum.Enum):
    """What moves a task."""

    LEASED = enum.auto()
    STARTED = enum.auto()
    LEASE_OVER = enum.auto()
    RESULT_OFFERED = enum.auto()
    RESULT_REFUSED = enum.auto()
    RESULTS_DIFFER = enum.auto()
    RESULTS_AGREE = enum.auto()
    RESULT_DECIDED = enum.auto()
    CANCEL_DECIDED = enum.auto()
    FAILURE_DECIDED = enum.auto()
    RECEIPT_GIVEN = enum.auto()


_DECIDED = frozenset({TaskState.COMPLETE, TaskState.SETTLED, TaskState.CANCELLED, TaskState.FAILED})
_UNDECIDED = tuple(state for state in TaskState if state not in _DECIDED)
_WORKING = (TaskState.PENDING, TaskState.ASSIGNED, TaskState.EXECUTING)
_COMPARING = (TaskState.VERIFYING, TaskState.DISPUTED)
_OF_LEASES = (TaskEvent.LEASED, TaskEvent.STARTED, TaskEvent.LEASE_OVER)

TRANSITIONS: Mapping[tuple[TaskState, TaskEvent], TaskState] = MappingProxyType(
    {
        (TaskState.PENDING, TaskEvent.LEASED): TaskState.ASSIGNED,
        (TaskState.ASSIGNED, TaskEvent.LEASED): TaskState.ASSIGNED,
        (TaskState.EXECUTING, TaskEvent.LEASED): TaskState.EXECUTING,
        (TaskState.ASSIGNED, TaskEvent.STARTED): TaskState.EXECUTING,
        (TaskState.EXECUTING, TaskEvent.STARTED): TaskState.EXECUTING,
        (TaskState.ASSIGNED, TaskEvent.LEASE_OVER): TaskState.PENDING,
        (TaskState.EXECUTING, TaskEvent.LEASE_OVER): TaskState.PENDING,
        (TaskState.VERIFYING, TaskEvent.RESULT_REFUSED): TaskState.PENDING,
        (TaskState.DISPUTED, TaskEvent.RESULT_REFUSED): TaskState.PENDING,
        (TaskState.DISPUTED, TaskEvent.RESULT_OFFERED): TaskState.DISPUTED,
        (TaskState.VERIFYING, TaskEvent.RESULTS_DIFFER): TaskState.DISPUTED,
        (TaskState.DISPUTED, TaskEvent.RESULTS_AGREE): TaskState.VERIFYING,
        (TaskState.COMPLETE, TaskEvent.RECEIPT_GIVEN): TaskState.SETTLED,
    }
    # Work that comes after its lease ran out is not lost.
    | {(state, TaskEvent.RESULT_OFFERED): TaskState.VERIFYING for state in _WORKING}
    | {(TaskState.VERIFYING, TaskEvent.RESULT_OFFERED): TaskState.VERIFYING}
    # A result that was offered does not need its lease any more, and further devices may run it.
    | {(state, event): state for state in _COMPARING for event in _OF_LEASES}
    | {(state, TaskEvent.RESULT_DECIDED): TaskState.COMPLETE for state in _UNDECIDED}
    | {(state, TaskEvent.CANCEL_DECIDED): TaskState.CANCELLED for state in _UNDECIDED}
    | {(state, TaskEvent.FAILURE_DECIDED): TaskState.FAILED for state in _UNDECIDED}
)


def next_state(state: TaskState, event: TaskEvent) -> TaskState:
    """Return the state after `event`. Raises IllegalTransition: a bug of the caller."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.name} in state {state}") from None
