"""Defects planted in the node that ships, and the hunt for each in the simulator."""
