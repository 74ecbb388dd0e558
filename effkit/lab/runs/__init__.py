"""Runs: long work driven in a worker thread, paused, branched, killed and taken up again, over a folder of its own."""
