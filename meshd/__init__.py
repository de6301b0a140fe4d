"""The node that ships: all cores composed, the daemon around them, and the command line."""
