"""Train a classifier: the loop, its steps and batches, and the run folder that it writes."""
