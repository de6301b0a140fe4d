"""Errors of the scheduler, by what the caller can do about them."""

from wire.errors import MeshError


class SchedulerError(MeshError):
    """Base of the errors of a task's life."""


class ReceiptIncomplete(SchedulerError):
    """The parts at hand do not make a receipt that verifies: wait for what the message names."""


class IllegalTransition(SchedulerError):
    """A task was moved from a state in a way there is none: a bug on our side."""


class TaskLeased(SchedulerError):
    """A task was to be leased while it is under a lease: a bug on our side."""
