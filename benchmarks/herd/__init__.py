"""Whether a thousand devices that place tasks on what gossip told them run to the same few.

`python -m benchmarks.herd` prints the table; docs/benchmarks.md says what it means.
"""
