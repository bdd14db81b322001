"""The training loop and what it needs: optimizer, schedule, averaged weights, checkpoints, report."""
