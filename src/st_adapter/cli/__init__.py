"""The command `st-adapter`: verbs, flags, tables on the terminal."""

DONE, SOME_FAILED, INVALID, STOPPED = 0, 1, 2, 130
"""Exit codes."""
