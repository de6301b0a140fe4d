"""Errors of the simulator, by what whoever runs it can do about them."""

from __future__ import annotations

from wire.errors import MeshError


class SimulationError(MeshError):
    """Base of what the simulator raises. A run adds how to repeat it (`World.repeat_with`)."""


class BadScenario(SimulationError):
    """A scenario asks for something that cannot be: mend the scenario, nothing was run."""


class UnknownEffect(SimulationError):
    """A node wants something that this host does not know: teach the host, do not ignore it."""


class NodeRaised(SimulationError):
    """A node's `handle` raised: a defect of the node, the cause is chained."""


class InvariantBroken(SimulationError):
    """The nodes did something that must never happen: a defect of the protocol or its code.

    The text begins with the invariant's name, as docs/simulation.md has it.
    """

    @property
    def invariant(self) -> str:
        """The name of what broke: `S1` ... `L6`."""
        return str(self).partition(":")[0]


class ExpectationFailed(SimulationError):
    """What a plan expects did not happen: mend the plan, or look why its fault had no effect."""


class EventBudgetSpent(SimulationError):
    """More happened than the run allows: most likely messages that answer each other for ever."""


class NotReached(SimulationError):
    """What a run waits for did not happen in time, although nothing stood in its way any more."""
