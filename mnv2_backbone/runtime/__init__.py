"""What stands behind the command line: checkpoints, reproducible runs, bad images, checks before a run."""
