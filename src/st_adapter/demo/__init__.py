"""The demo: make clips, train three methods on them, and compare the results."""
