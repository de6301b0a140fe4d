"""`python -m simulations`: the same commands as `meshctl sim`, where nothing is installed."""

from __future__ import annotations

from meshd.cli.grammar import obey_pipes
from meshd.cli.streams import prepare_streams
from simulations.cli.sim import sim


def main() -> None:
    """Run the simulator with the arguments of this process, and end it."""
    obey_pipes()
    prepare_streams()
    sim.name = "python -m simulations"
    sim.main()


if __name__ == "__main__":
    main()
