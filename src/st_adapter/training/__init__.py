"""The training of a classifier: loop, step, batches, and the run folder that it leaves."""
