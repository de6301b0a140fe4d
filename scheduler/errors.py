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


class StaleEpoch(SchedulerError):
    """A higher epoch was promised: prepare a still higher one, or leave it to its proposer."""

    def __init__(self, promised: object) -> None:
        super().__init__(f"{promised} was promised")
        self.promised = promised


class TwoValues(SchedulerError):
    """A second value in one epoch: its proposer is convicted by its own signatures."""


class NotEstablished(SchedulerError):
    """Too few promises yet: wait for more before proposing."""


class MoveNotProven(SchedulerError):
    """Votes do not show who keeps a batch now: do not believe who says that it does."""
