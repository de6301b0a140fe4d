"""`meshctl sim`: a mesh in virtual time, while things go wrong. No daemon and no home is needed.

`meshctl` finds it by its entry point, since nothing in meshd knows of the simulator.
"""

from __future__ import annotations

import click

from meshd.cli.grammar import MeshGroup, examples
from simulations.cli.diff import diff
from simulations.cli.replay import replay
from simulations.cli.run import list_, run
from simulations.cli.shrink import shrink
from simulations.cli.swarm import swarm
from simulations.garbage import collect_seldom


@click.group(
    "sim",
    cls=MeshGroup,
    epilog=examples(
        "meshctl sim run split --seed 7",
        "meshctl sim swarm split --seeds 0..99",
        "meshctl sim replay meshd-sim-split-7/repro.json --until 12s",
    ),
)
def sim() -> None:
    """Run a mesh in virtual time while things go wrong.

    Exit codes: 0 all held, 1 something broke, 2 usage or bad scenario, 3 not deterministic.
    """
    collect_seldom()


for _command in (list_, run, swarm, replay, shrink, diff):
    sim.add_command(_command)
