"""The `st-adapter` command: its subcommands, their options, and what they print."""

DONE, SOME_FAILED, INVALID, STOPPED = 0, 1, 2, 130
"""Exit codes. 130 is what shells report for a process that Ctrl-C has stopped."""
