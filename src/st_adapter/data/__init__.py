"""Read data sets and videos, and turn them into batches of clips."""
