"""The same node in virtual time, through partitions, crashes and lost disks."""
