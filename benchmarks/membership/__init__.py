"""How membership compares: meshd, plain SWIM with Lifeguard, and real Serf.

`python -m benchmarks.membership` prints the simulated rows, `python -m benchmarks.membership.serf`
those of real processes; docs/benchmarks.md says what each means.
"""
