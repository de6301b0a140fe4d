"""A task's life: contract, selection, lease, result, outcome, receipt."""
