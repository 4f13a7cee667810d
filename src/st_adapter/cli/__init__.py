"""The command `st-adapter`: verbs, flags, tables on the terminal."""
