"""The states of a task: every pair of state and event, what is allowed and what is a bug."""

from __future__ import annotations

import pytest

from scheduler.errors import IllegalTransition
from scheduler.states import TRANSITIONS, TaskEvent, TaskState, next_state

S, E = TaskState, TaskEvent
UNDECIDED = (S.PENDING, S.ASSIGNED, S.EXECUTING, S.VERIFYING, S.DISPUTED)

# Written out again here on purpose: a change of the table has to be made twice.
ALLOWED = {
    (S.PENDING, E.LEASED): S.ASSIGNED,
    (S.PENDING, E.RESULT_OFFERED): S.VERIFYING,
    (S.ASSIGNED, E.LEASED): S.ASSIGNED,
    (S.ASSIGNED, E.STARTED): S.EXECUTING,
    (S.ASSIGNED, E.LEASE_OVER): S.PENDING,
    (S.ASSIGNED, E.RESULT_OFFERED): S.VERIFYING,
    (S.EXECUTING, E.LEASED): S.EXECUTING,
    (S.EXECUTING, E.STARTED): S.EXECUTING,
    (S.EXECUTING, E.LEASE_OVER): S.PENDING,
    (S.EXECUTING, E.RESULT_OFFERED): S.VERIFYING,
    (S.VERIFYING, E.LEASED): S.VERIFYING,
    (S.VERIFYING, E.LEASE_OVER): S.VERIFYING,
    (S.VERIFYING, E.STARTED): S.VERIFYING,
    (S.VERIFYING, E.RESULT_OFFERED): S.VERIFYING,
    (S.VERIFYING, E.RESULT_REFUSED): S.PENDING,
    (S.VERIFYING, E.RESULTS_DIFFER): S.DISPUTED,
    (S.DISPUTED, E.LEASED): S.DISPUTED,
    (S.DISPUTED, E.STARTED): S.DISPUTED,
    (S.DISPUTED, E.LEASE_OVER): S.DISPUTED,
    (S.DISPUTED, E.RESULT_OFFERED): S.DISPUTED,
    (S.DISPUTED, E.RESULT_REFUSED): S.PENDING,
    (S.DISPUTED, E.RESULTS_AGREE): S.VERIFYING,
    (S.COMPLETE, E.RECEIPT_GIVEN): S.SETTLED,
    **{(state, E.RESULT_DECIDED): S.COMPLETE for state in UNDECIDED},
    **{(state, E.CANCEL_DECIDED): S.CANCELLED for state in UNDECIDED},
    **{(state, E.FAILURE_DECIDED): S.FAILED for state in UNDECIDED},
}


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("event", TaskEvent)
def test_every_pair_goes_where_it_should_or_is_refused(state: TaskState, event: TaskEvent) -> None:
    if (state, event) in ALLOWED:
        assert next_state(state, event) is ALLOWED[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"{event.name} in state {state}"):
            next_state(state, event)


def test_a_decided_task_stays_decided() -> None:
    left = {before for (before, _), after in TRANSITIONS.items() if not after.is_decided}
    assert not any(state.is_decided for state in left)
