"""What a scenario is: a name, and the plan of each seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulations.errors import BadScenario
from simulations.plan import Plan


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one is called, what happens in it, and its plan for a seed."""

    name: str
    summary: str
    plan: Callable[[int], Plan]
    seed: int = 0  # if nobody asks for another
    sized: Callable[[int], Scenario] | None = None

    def with_nodes(self, node_count: int) -> Scenario:
        """Return the same in a mesh of another size. Raises BadScenario if there is none."""
        if self.sized is None:
            raise BadScenario(f"{self.name} is made for its own number of devices")
        return self.sized(node_count)
